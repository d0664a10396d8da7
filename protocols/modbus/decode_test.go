package modbus

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
)

// testLimits are those of a device in the vectors' time zone.
func testLimits() limits {
	return limitsOf(&protocols.Device{Modbus: protocols.ModbusOptions{TimeZone: modbustest.TimeZone}})
}

// decodeOne decodes a tag at holding:100 from registers.
func decodeOne(tb testing.TB, address, typ string, o protocols.Order, registers []uint16) protocols.Reading {
	tb.Helper()
	f, ferr := parseTag(&protocols.Tag{Address: address, Type: typ, Order: o}, testLimits())
	if ferr != nil {
		tb.Fatal(ferr)
	}
	var data []byte
	for _, r := range registers {
		data = binary.BigEndian.AppendUint16(data, r)
	}
	out := make([]protocols.Reading, 1)
	decode([]field{f}, 100, data, out)
	return out[0]
}

func TestVectors(t *testing.T) {
	t.Parallel()
	for _, v := range modbustest.Vectors() {
		t.Run(fmt.Sprintf("%s %s %s %04x", v.Type, v.Bits, v.Order, v.Registers), func(t *testing.T) {
			t.Parallel()
			got := decodeOne(t, v.Address(100), v.Type, v.Order, v.Registers)
			if v.Value.Kind() == protocols.KindNone {
				if got.Quality != protocols.Bad || got.Reason != protocols.Malformed {
					t.Errorf("decoded to %+v, want malformed", got)
				}
				return
			}
			if got.Quality != protocols.Good || !got.Value.Equal(v.Value) {
				t.Errorf("decoded to %+v, want %+v", got, v.Value)
			}
		})
	}
}

func TestBits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		address, typ string
		order        protocols.Order
		registers    []uint16
		want         string
	}{
		{"holding:100.0", "", protocols.ABCD, []uint16{0x0001}, "true"},
		{"holding:100.15", "", protocols.ABCD, []uint16{0x8000}, "true"},
		{"holding:100.8", "", protocols.DCBA, []uint16{0x0001}, "true"},
		{"holding:100.0", "", protocols.CDAB, []uint16{0x0100}, "false"},
		{"40101.3", "bool", protocols.ABCD, []uint16{0x0008}, "true"},
		{"holding:100.14", "bool[4]", protocols.ABCD, []uint16{0x4000, 0x0002}, "[true false false true]"},
	} {
		r := decodeOne(t, c.address, c.typ, c.order, c.registers)
		got := text(r)
		if r.Value.Kind() == protocols.KindArray {
			var all []string
			for _, e := range r.Value.Elems() {
				all = append(all, fmt.Sprint(e.AsBool()))
			}
			got = "[" + strings.Join(all, " ") + "]"
		}
		if got != c.want {
			t.Errorf("%s %s %s of %04x is %s, want %s", c.address, c.typ, c.order, c.registers, got, c.want)
		}
	}
}

// Every half is a multiple of 2^-24 below its exponent's next power of two.
func TestHalves(t *testing.T) {
	t.Parallel()
	for i := range 1 << 16 {
		h := uint16(i)
		got := decodeOne(t, "holding:100", "float16", protocols.ABCD, []uint16{h}).Value
		exponent, mantissa := int(h>>10&0x1f), float64(h&0x3ff)
		want := math.Ldexp(mantissa, -24)
		switch {
		case exponent == 31 && mantissa == 0:
			want = math.Inf(1)
		case exponent == 31:
			want = math.NaN()
		case exponent > 0:
			want = math.Ldexp(1024+mantissa, exponent-25)
		}
		if h&0x8000 != 0 {
			want = -want
		}
		if f := got.AsFloat32(); float64(f) != want && !(math.IsNaN(float64(f)) && math.IsNaN(want)) ||
			!math.IsNaN(want) && math.Signbit(float64(f)) != math.Signbit(want) {
			t.Fatalf("%04x is %v, want %v", h, f, want)
		}
		raw, err := modbustest.Encode("float16", protocols.ABCD, got)
		if err != nil || binary.BigEndian.Uint16(raw) != h {
			t.Fatalf("%04x was encoded to %x, %v", h, raw, err)
		}
	}
}

// anyValue is a value that a tag of type dt may have.
func anyValue(t *rapid.T, dt dataType) protocols.Value {
	if dt.count > 0 {
		one := dt
		one.count = 0
		list := make([]protocols.Value, dt.count)
		for i := range list {
			list[i] = anyValue(t, one)
		}
		return protocols.Array(list)
	}
	bits := 16 * dt.registers()
	u := rapid.Uint64().Draw(t, "bits")
	switch s := dt.scalar; {
	case s.signed():
		return protocols.Int(int64(u) >> (64 - bits))
	case s.integer():
		return protocols.Uint(u >> (64 - bits))
	case s == typeFloat16:
		return protocols.Float32(fromHalf(uint16(u)))
	case s == typeFloat32:
		return protocols.Float32(math.Float32frombits(uint32(u)))
	case s == typeFloat64:
		return protocols.Float64(math.Float64frombits(u))
	case s == typeBCD16, s == typeBCD32, s == typeBCD64:
		return protocols.Uint(u % uint64(math.Pow10(bits/4)))
	case s == typeString:
		text := rapid.StringN(0, -1, dt.size).Draw(t, "text")
		text, _, _ = strings.Cut(text, "\x00")
		return protocols.String(strings.TrimRight(text, " "))
	case s == typeBytes:
		return protocols.Bytes(rapid.SliceOfN(rapid.Byte(), dt.size, dt.size).Draw(t, "bytes"))
	case s.time():
		return anyTime(t, s)
	}
	return protocols.Bool(u&1 != 0)
}

// anyTime is one from the years that type s has, and as fine as it is.
func anyTime(t *rapid.T, s scalar) protocols.Value {
	first, last := 2001, 2098 // a day and more from the ends, for any zone
	switch s {
	case typeUnix64, typeUnix64ms:
		first, last = 1971, lastYear
	case typeYMDHMS, typeYMDHMSms:
		first, last = firstYear+1, lastYear-1
	case typeIEC870:
		last = 2126
	case typeMDYHMS:
		first = 1971
	}
	from := time.Date(first, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	to := time.Date(last, 12, 31, 0, 0, 0, 0, time.UTC).UnixMilli()
	at := time.UnixMilli(rapid.Int64Range(from, to).Draw(t, "time"))
	if s != typeUnix64ms && s != typeIEC870 && s != typeYMDHMSms {
		at = at.Truncate(time.Second)
	}
	return protocols.Time(at)
}

// What the simulator encodes, the driver decodes, whatever it is.
func TestDecodedIsEncoded(t *testing.T) {
	t.Parallel()
	for i, e := range scalarTypes {
		dt := dataType{scalar: scalar(i)}
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				dt := dt
				dt.count = rapid.IntRange(0, 3).Draw(t, "count")
				if dt.scalar.text() {
					dt.size = rapid.IntRange(1, 20).Draw(t, "size")
				}
				address := "holding:100"
				if dt.scalar == typeBool {
					address = "holding:100.0"
				}
				l := modbustest.Layout{
					Type: dt.String(), TimeZone: modbustest.TimeZone,
					Order: protocols.Order(rapid.IntRange(0, 7).Draw(t, "order")),
				}
				check(t, address, l, anyValue(t, dt))
			})
		})
	}
}

// The same for ranges of bits.
func TestDecodedRangeIsEncoded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		dt := dataType{scalar: scalar(rapid.IntRange(int(typeInt16), int(typeUint64)).Draw(t, "type"))}
		last := rapid.IntRange(0, 16*dt.registers()-1).Draw(t, "last")
		first := rapid.IntRange(0, last).Draw(t, "first")
		l := modbustest.Layout{
			Type: dt.String(), Bits: fmt.Sprintf("%d-%d", first, last),
			Order: protocols.Order(rapid.IntRange(0, 7).Draw(t, "order")),
		}
		u, unused := rapid.Uint64().Draw(t, "bits"), 63-(last-first)
		v := protocols.Uint(u >> unused)
		if dt.scalar.signed() {
			v = protocols.Int(int64(u) >> unused)
		}
		check(t, "holding:100."+l.Bits, l, v)
	})
}

// check encodes v and decodes it again.
func check(t *rapid.T, address string, l modbustest.Layout, v protocols.Value) {
	raw, err := l.Encode(v)
	if err != nil {
		t.Fatalf("%+v: %v", l, err)
	}
	f, ferr := parseTag(&protocols.Tag{Address: address, Type: l.Type, Order: l.Order}, testLimits())
	if ferr != nil {
		t.Fatal(ferr)
	}
	if len(raw) != 2*f.span {
		t.Fatalf("%+v was encoded to %x", l, raw)
	}
	out := make([]protocols.Reading, 1)
	decode([]field{f}, 100, raw, out)
	if out[0].Quality != protocols.Good || !out[0].Value.Equal(v) {
		t.Fatalf("%+v of %+v was encoded to %x and decoded to %+v", l, v, raw, out[0])
	}
}

// A reading of a scalar that is no text must not allocate: there may be
// thousands in a second. (Allocations cannot be counted in a parallel test.)
func TestDecodeDoesNotAllocate(t *testing.T) {
	for _, v := range modbustest.Vectors() {
		if v.Value.Kind() == protocols.KindArray || v.Value.Kind() == protocols.KindString || v.Value.Kind() == protocols.KindBytes {
			continue
		}
		f, ferr := parseTag(&protocols.Tag{Address: v.Address(0), Type: v.Type, Order: v.Order}, testLimits())
		if ferr != nil {
			t.Fatal(ferr)
		}
		if f.count > 0 || f.size > 0 {
			continue
		}
		data, out := make([]byte, 2*f.span), make([]protocols.Reading, 1)
		for i, r := range v.Registers {
			binary.BigEndian.PutUint16(data[2*i:], r)
		}
		fields := []field{f}
		if n := testing.AllocsPerRun(10, func() { decode(fields, 0, data, out) }); n > 0 {
			t.Errorf("%s: %v allocations", v.Type, n)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("string(8)[2]", "", uint8(3), []byte("ABCDEFGH12345678"))
	f.Add("bcd32", "", uint8(1), []byte{1, 2, 3, 4})
	f.Add("bool[17]", "3", uint8(0), []byte{1, 2, 3, 4})
	f.Add("int32", "4-19", uint8(5), []byte{1, 2, 3, 4})
	for _, v := range modbustest.Vectors() {
		var data []byte
		for _, r := range v.Registers {
			data = binary.BigEndian.AppendUint16(data, r)
		}
		f.Add(v.Type, v.Bits, uint8(v.Order), data)
	}
	f.Fuzz(func(t *testing.T, typ, bits string, order uint8, data []byte) {
		address := "holding:0"
		if bits != "" {
			address += "." + bits
		}
		fd, ferr := parseTag(&protocols.Tag{Address: address, Type: typ, Order: protocols.Order(order % 8)}, testLimits())
		if ferr != nil || 2*fd.span > len(data) {
			return
		}
		data = data[:2*fd.span]
		out := make([]protocols.Reading, 1)
		decode([]field{fd}, 0, data, out)
		if out[0].Quality == protocols.Bad || fd.scalar == typeBool {
			return
		}
		// What was decoded encodes to what it was decoded from.
		l := modbustest.Layout{Type: "uint16", Order: fd.order, TimeZone: modbustest.TimeZone}
		if typ != "" {
			dt, err := parseType(typ)
			if err != nil {
				t.Fatal(err)
			}
			l.Type = dt.String()
		}
		if fd.scalar == typeRange {
			l.Bits = fmt.Sprintf("%d-%d", fd.bit, fd.bit+fd.width-1)
		}
		raw, err := l.Encode(out[0].Value)
		if err != nil {
			t.Fatalf("%+v of %x: %v", l, data, err)
		}
		if canonical(&fd) && !bytes.Equal(raw, data) {
			t.Fatalf("%+v: %x was decoded, and encoded to %x", l, data, raw)
		}
		again := make([]protocols.Reading, 1)
		decode([]field{fd}, 0, raw, again)
		if !again[0].Value.Equal(out[0].Value) {
			t.Fatalf("%+v: %x decoded, encoded and decoded differs", l, data)
		}
	})
}

// canonical says that all bits of f's registers are in its value.
func canonical(f *field) bool {
	switch f.scalar {
	case typeString, typeRange, typeIEC870, typeMDYHMS:
		return false // padding; the bits beside it; the day of the week; two kinds of years
	case typeBytes:
		return f.size%2 == 0
	}
	return true
}
