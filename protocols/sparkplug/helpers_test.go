package sparkplug

import (
	"encoding/json"
	"time"

	"millrace/protocols"
)

// appendTestJSON appends v as JSON, as protocols/mqtt does.
func appendTestJSON(dst []byte, v protocols.Value) []byte {
	text, err := json.Marshal(plain(v))
	if err != nil {
		panic(err)
	}
	return append(dst, text...)
}

func plain(v protocols.Value) any {
	switch v.Kind() {
	case protocols.KindBool:
		return v.AsBool()
	case protocols.KindInt:
		return v.AsInt()
	case protocols.KindUint:
		return v.AsUint()
	case protocols.KindFloat32:
		return v.AsFloat32()
	case protocols.KindFloat64:
		return v.AsFloat64()
	case protocols.KindString:
		return v.AsString()
	case protocols.KindBytes:
		return []byte(v.AsString())
	case protocols.KindTime:
		return v.AsTime()
	case protocols.KindArray:
		all := []any{}
		for _, e := range v.Elems() {
			all = append(all, plain(e))
		}
		return all
	case protocols.KindObject:
		all := map[string]any{}
		for i := range v.Len() {
			name, f := v.Field(i)
			all[name] = plain(f)
		}
		return all
	case protocols.KindNone:
	}
	return nil
}

func bools(bits string) protocols.Value {
	var all []protocols.Value
	for _, b := range bits {
		all = append(all, protocols.Bool(b == '1'))
	}
	return protocols.Array(all)
}

func moment(ms int64) time.Time { return time.UnixMilli(ms) }

func protocolsString(s string) protocols.Value { return protocols.String(s) }
