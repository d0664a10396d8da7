package modbustest

import (
	"testing"
	"time"

	"millrace/protocols"
)

func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	at := func(year int, nanosecond time.Duration) protocols.Value {
		return protocols.Time(time.Date(year, 6, 1, 0, 0, 0, int(nanosecond), time.UTC))
	}
	for _, c := range []struct {
		typ, bits string
		v         protocols.Value
	}{
		{"uint16", "", protocols.Uint(65536)},
		{"uint16", "", protocols.Int(1)},
		{"int16", "", protocols.Int(-32769)},
		{"int16", "", protocols.Int(32768)},
		{"bcd16", "", protocols.Uint(10000)},
		{"bcd32", "", protocols.Uint(100000000)},
		{"bcd64", "", protocols.Uint(10000000000000000)},
		{"float16", "", protocols.Float32(65520)},
		{"float16", "", protocols.Float32(1.0001)},
		{"float16", "", protocols.Float32(0x1p-25)},
		{"float16", "", protocols.Float32(0x3p-25)},
		{"float16", "", protocols.Float64(1)},
		{"float32", "", protocols.Float64(1)},
		{"string(2)", "", protocols.String("abc")},
		{"uint16[2]", "", protocols.Array([]protocols.Value{protocols.Uint(1)})},
		{"number", "", protocols.Uint(1)},
		{"uint16", "4-7", protocols.Uint(16)},
		{"uint16", "4-7", protocols.Int(1)},
		{"int16", "4-7", protocols.Int(8)},
		{"int16", "4-7", protocols.Int(-9)},
		{"uint16", "4-16", protocols.Uint(1)},
		{"uint16", "7-4", protocols.Uint(1)},
		{"uint16", "4", protocols.Uint(1)},
		{"float32", "4-7", protocols.Float32(1)},
		{"unix32", "", at(1969, 0)},
		{"unix32", "", at(2107, 0)},
		{"unix32", "", at(2026, time.Millisecond)},
		{"unix64", "", at(2026, time.Millisecond)},
		{"unix64ms", "", at(2026, time.Microsecond)},
		{"unix64", "", protocols.Int(1)},
		{"iec870", "", at(1999, 0)},
		{"iec870", "", at(2128, 0)},
		{"iec870", "", at(2026, time.Microsecond)},
		{"ymdhms", "", at(2026, time.Millisecond)},
		{"ymdhms8", "", at(2100, 0)},
		{"bcdtime", "", at(1999, 0)},
		{"mdyhms", "", at(2100, 0)},
		{"moment", "", at(2026, 0)},
	} {
		l := Layout{Type: c.typ, Bits: c.bits, TimeZone: TimeZone}
		if raw, err := l.Encode(c.v); err == nil {
			t.Errorf("%+v of %+v is %x", l, c.v, raw)
		}
	}
	if raw, err := (Layout{Type: "ymdhms"}).Encode(at(2026, 0)); err == nil {
		t.Errorf("without a time zone it is %x", raw)
	}
}

// The conformance tests put all vectors into a server of 1,000 registers, of
// which the ones from 900 on have another use.
func TestVectorsFitServer(t *testing.T) {
	t.Parallel()
	n := 0
	for _, v := range Vectors() {
		if v.Value.Kind() != protocols.KindNone && !v.DecodeOnly {
			n += len(v.Registers)
		}
	}
	if n > 900 {
		t.Errorf("the vectors fill %d registers", n)
	}
}
