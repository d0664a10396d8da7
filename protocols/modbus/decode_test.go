package modbus

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
)

// decodeOne decodes a tag at holding:100 from registers.
func decodeOne(tb testing.TB, address, typ string, o protocols.Order, registers []uint16) protocols.Reading {
	tb.Helper()
	f, ferr := parseTag(&protocols.Tag{Address: address, Type: typ, Order: o}, limits{registers: 125, bits: 2000})
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
		t.Run(fmt.Sprintf("%s %s %04x", v.Type, v.Order, v.Registers), func(t *testing.T) {
			t.Parallel()
			got := decodeOne(t, "holding:100", v.Type, v.Order, v.Registers)
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

func FuzzDecode(f *testing.F) {
	f.Add("string(8)[2]", uint8(3), []byte("ABCDEFGH12345678"))
	f.Add("bcd32", uint8(1), []byte{1, 2, 3, 4})
	f.Add("bool[17]", uint8(0), []byte{1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, typ string, order uint8, data []byte) {
		dt, err := parseType(typ)
		if err != nil {
			return
		}
		a := address{bit: -1}
		if dt.scalar == typeBool {
			a.bit = int8(order % 16)
		}
		fd := newField(a, dt, protocols.Order(order%4))
		if 2*fd.span > len(data) {
			return
		}
		out := make([]protocols.Reading, 1)
		decode([]field{fd}, 0, data[:2*fd.span], out)
		if out[0].Quality == protocols.Bad || fd.scalar == typeBool {
			return
		}
		if fd.scalar == typeString {
			return // padding is lost
		}
		// What was decoded encodes to what it was decoded from.
		raw, err := modbustest.Encode(dt.String(), fd.order, out[0].Value)
		if err != nil {
			t.Fatalf("%s: %v", dt, err)
		}
		if again := make([]protocols.Reading, 1); fd.span > 0 {
			decode([]field{fd}, 0, raw, again)
			if !again[0].Value.Equal(out[0].Value) {
				t.Fatalf("%s: %x decoded, encoded and decoded differs", dt, data)
			}
		}
	})
}
