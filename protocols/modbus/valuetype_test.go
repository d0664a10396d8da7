package modbus

import (
	"testing"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
)

// What is said of a tag's values before the first is what they are: over all
// test vectors.
func TestValueType(t *testing.T) {
	t.Parallel()
	d := New(Options{})
	for _, v := range modbustest.Vectors() {
		if v.Value.Kind() == protocols.KindNone {
			continue
		}
		tag := &protocols.Tag{Address: v.Address(100), Type: v.Type, Order: v.Order}
		got, want := d.ValueType(nil, tag), v.Value
		if got.Array != (want.Kind() == protocols.KindArray) {
			t.Errorf("%s at %s: array: %v", v.Type, tag.Address, got.Array)
			continue
		}
		if got.Array {
			want = want.Elems()[0]
		}
		if got.Kind != want.Kind() {
			t.Errorf("%s at %s: kind %d, values have %d", v.Type, tag.Address, got.Kind, want.Kind())
		}
		if !holds(got, want) {
			t.Errorf("%s at %s: %d bits, too few for %+v", v.Type, tag.Address, got.Bits, want)
		}
	}
	for _, c := range []struct {
		tag  protocols.Tag
		want protocols.ValueType
	}{
		{protocols.Tag{Address: "coil:1"}, protocols.ValueType{Kind: protocols.KindBool}},
		{protocols.Tag{Address: "hr:1"}, protocols.ValueType{Kind: protocols.KindUint, Bits: 16}},
		{protocols.Tag{Address: "hr:1.3"}, protocols.ValueType{Kind: protocols.KindBool}},
		{protocols.Tag{Address: "hr:1.4-7"}, protocols.ValueType{Kind: protocols.KindUint, Bits: 16}},
		{protocols.Tag{Address: "hr:1", Type: "int32[4]"}, protocols.ValueType{Kind: protocols.KindInt, Bits: 32, Array: true}},
		{protocols.Tag{Address: "hr:1", Type: "nonsense"}, protocols.ValueType{}},
		{protocols.Tag{Address: "nowhere"}, protocols.ValueType{}},
	} {
		if got := d.ValueType(nil, &c.tag); got != c.want {
			t.Errorf("%s %s: %+v, want %+v", c.tag.Address, c.tag.Type, got, c.want)
		}
	}
}

func holds(t protocols.ValueType, v protocols.Value) bool {
	switch v.Kind() {
	case protocols.KindInt:
		return v.AsInt()>>(t.Bits-1) == 0 || v.AsInt()>>(t.Bits-1) == -1
	case protocols.KindUint:
		return t.Bits == 64 || v.AsUint()>>t.Bits == 0
	}
	return true
}
