package modbus

import "millrace/protocols"

// ValueType implements protocols.Typer.
func (*Driver) ValueType(_ *protocols.Device, t *protocols.Tag) protocols.ValueType {
	a, err := parseAddress(t.Address)
	if err != nil {
		return protocols.ValueType{}
	}
	dt, ferr := typeOf(t, a)
	if ferr != nil {
		return protocols.ValueType{}
	}
	v := kindOf(dt.scalar)
	v.Array = dt.count > 0
	if v.Kind == protocols.KindInt || v.Kind == protocols.KindUint {
		v.Bits = 16 * dt.registers()
	}
	return v
}

func kindOf(s scalar) protocols.ValueType {
	switch s {
	case typeBool:
		return protocols.ValueType{Kind: protocols.KindBool}
	case typeInt16, typeInt32, typeInt64:
		return protocols.ValueType{Kind: protocols.KindInt}
	case typeUint16, typeUint32, typeUint64, typeBCD16, typeBCD32, typeBCD64, typeRange:
		return protocols.ValueType{Kind: protocols.KindUint}
	case typeFloat16, typeFloat32:
		return protocols.ValueType{Kind: protocols.KindFloat32}
	case typeFloat64:
		return protocols.ValueType{Kind: protocols.KindFloat64}
	case typeString:
		return protocols.ValueType{Kind: protocols.KindString}
	case typeBytes:
		return protocols.ValueType{Kind: protocols.KindBytes}
	case typeUnix32, typeUnix64, typeUnix64ms, typeIEC870, typeYMDHMS, typeYMDHMSms, typeYMDHMS8, typeBCDTime, typeMDYHMS:
		return protocols.ValueType{Kind: protocols.KindTime}
	}
	return protocols.ValueType{}
}
