package opcua_test

import (
	"testing"

	"millrace/protocols"
	"millrace/protocols/opcua"
)

func TestValueType(t *testing.T) {
	t.Parallel()
	var _ protocols.Typer = opcua.New(opcua.Options{})
	for typ, want := range map[string]protocols.ValueType{
		"":          {},
		"Int16":     {Kind: protocols.KindInt, Bits: 16},
		"Byte":      {Kind: protocols.KindUint, Bits: 8},
		"Double[]":  {Kind: protocols.KindFloat64, Array: true},
		"Float[][]": {}, // JSON alone has a form for it
		"AxisType":  {},
		"[]":        {},
	} {
		if got := opcua.New(opcua.Options{}).ValueType(nil, &protocols.Tag{Type: typ}); got != want {
			t.Errorf("%q: %+v, want %+v", typ, got, want)
		}
	}
}
