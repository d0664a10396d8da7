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
	switch name {
	case "Boolean":
		return protocols.ValueType{Kind: protocols.KindBool}
	case "SByte":
		return protocols.ValueType{Kind: protocols.KindInt, Bits: 8}
	case "Int16":
		return protocols.ValueType{Kind: protocols.KindInt, Bits: 16}
	case "Int32":
		return protocols.ValueType{Kind: protocols.KindInt, Bits: 32}
	case "Int64":
		return protocols.ValueType{Kind: protocols.KindInt, Bits: 64}
	case "Byte":
		return protocols.ValueType{Kind: protocols.KindUint, Bits: 8}
	case "UInt16":
		return protocols.ValueType{Kind: protocols.KindUint, Bits: 16}
	case "UInt32":
		return protocols.ValueType{Kind: protocols.KindUint, Bits: 32}
	case "UInt64":
		return protocols.ValueType{Kind: protocols.KindUint, Bits: 64}
	case "Float":
		return protocols.ValueType{Kind: protocols.KindFloat32}
	case "Double":
		return protocols.ValueType{Kind: protocols.KindFloat64}
	case "String", "LocalizedText", "QualifiedName", "Guid":
		return protocols.ValueType{Kind: protocols.KindString}
	case "ByteString":
		return protocols.ValueType{Kind: protocols.KindBytes}
	case "DateTime":
		return protocols.ValueType{Kind: protocols.KindTime}
	}
	return protocols.ValueType{}
}
