package opcua

import (
	"strings"

	"millrace/protocols"
)

// ValueType implements protocols.Typer. The server alone knows the type for
// sure; until it has answered, the type column counts, as `millrace scan`
// writes it.
func (*Driver) ValueType(_ *protocols.Device, t *protocols.Tag) protocols.ValueType {
	name, dimensions := t.Type, 0
	for strings.HasSuffix(name, "[]") {
		name, dimensions = strings.TrimSuffix(name, "[]"), dimensions+1
	}
	v := valueTypeOf(name)
	if dimensions > 1 || v.Kind == protocols.KindNone {
		return protocols.ValueType{}
	}
	v.Array = dimensions == 1
	return v
}

func valueTypeOf(name string) protocols.ValueType {
	for _, t := range valueTypes {
		if t.name == name {
			return protocols.ValueType{Kind: t.kind, Bits: t.bits}
		}
	}
	return protocols.ValueType{}
}

// valueTypes are the built-in types whose values have one form.
var valueTypes = [...]struct { //nolint:gochecknoglobals // a constant table
	name string
	kind protocols.Kind
	bits int
}{
	{"Boolean", protocols.KindBool, 0},
	{"SByte", protocols.KindInt, 8},
	{"Byte", protocols.KindUint, 8},
	{"Int16", protocols.KindInt, 16},
	{"UInt16", protocols.KindUint, 16},
	{"Int32", protocols.KindInt, 32},
	{"UInt32", protocols.KindUint, 32},
	{"Int64", protocols.KindInt, 64},
	{"UInt64", protocols.KindUint, 64},
	{"Float", protocols.KindFloat32, 0},
	{"Double", protocols.KindFloat64, 0},
	{"String", protocols.KindString, 0},
	{"LocalizedText", protocols.KindString, 0},
	{"QualifiedName", protocols.KindString, 0},
	{"Guid", protocols.KindString, 0},
	{"ByteString", protocols.KindBytes, 0},
	{"DateTime", protocols.KindTime, 0},
}
