package sparkplug

import (
	"bytes"
	"encoding/binary"
	"math"
	"time"

	"millrace/protocols"
)

// As returns what v means as a value of type t. It is false where v stands in
// a field that t does not use, or does not fit t. It reads both forms that are
// in use of negative integers, and of a UInt32.
func (v Value) As(t DataType) (protocols.Value, bool) {
	switch {
	case t.signed():
		return v.signed(t)
	case t.unsigned():
		if v.Field != FieldInt && v.Field != FieldLong || v.Num>>t.bits() != 0 {
			return protocols.Value{}, false
		}
		return protocols.Uint(v.Num), true
	case t.array():
		if v.Field != FieldBytes {
			return protocols.Value{}, false
		}
		return arrayValue(t, []byte(v.Text))
	}
	switch t {
	case Float:
		return protocols.Float32(float32(v.float64())), v.Field == FieldFloat
	case Double:
		return protocols.Float64(v.float64()), v.Field == FieldDouble
	case Boolean:
		return protocols.Bool(v.Num != 0), v.Field == FieldBoolean
	case String, Text, UUID:
		return protocols.String(v.Text), v.Field == FieldString
	case DateTime:
		return timeValue(v.Num), v.Field == FieldLong
	case Bytes, File:
		return protocols.Bytes([]byte(v.Text)), v.Field == FieldBytes
	case TemplateType:
		if v.Field != FieldTemplate || v.Template == nil {
			return protocols.Value{}, false
		}
		return v.Template.value()
	}
	return protocols.Value{}, false
}

func (v Value) signed(t DataType) (protocols.Value, bool) {
	if v.Field != FieldInt && v.Field != FieldLong {
		return protocols.Value{}, false
	}
	n := int64(v.Num)
	if v.Field == FieldInt && t != Int64 { // an Int64 has no place there: nothing is extended
		n = int64(int32(v.Num))
	}
	// The narrow form: 255 for the Int8 -1.
	if bits := t.bits(); n > 0 && bits < 32 && n>>bits == 0 {
		n = n << (64 - bits) >> (64 - bits)
	}
	least := int64(-1) << (t.bits() - 1)
	return protocols.Int(n), n >= least && n <= ^least
}

// timeValue is a time in ms since 1970; beyond what a Value holds, the last
// one that it does.
func timeValue(ms uint64) protocols.Value {
	const limit = math.MaxInt64 / int64(time.Millisecond)
	return protocols.Time(time.UnixMilli(min(max(int64(ms), -limit), limit)))
}

func arrayValue(t DataType, data []byte) (protocols.Value, bool) {
	var elems []protocols.Value
	switch t {
	case StringArray:
		for len(data) > 0 {
			s, rest, found := bytes.Cut(data, []byte{0})
			if !found {
				return protocols.Value{}, false
			}
			elems, data = append(elems, protocols.String(text(s))), rest
		}
		return protocols.Array(elems), true
	case BooleanArray:
		if len(data) < 4 {
			return protocols.Value{}, false
		}
		n := uint64(binary.LittleEndian.Uint32(data))
		data = data[4:]
		if n > 8*uint64(len(data)) {
			return protocols.Value{}, false
		}
		for i := range n {
			elems = append(elems, protocols.Bool(data[i/8]&(0x80>>(i%8)) != 0))
		}
		return protocols.Array(elems), true
	}
	e := t.element()
	size := e.bits() / 8
	if e == Float {
		size = 4
	}
	if len(data)%size != 0 {
		return protocols.Value{}, false
	}
	for ; len(data) > 0; data = data[size:] {
		elems = append(elems, element(e, data[:size]))
	}
	return protocols.Array(elems), true
}

func element(t DataType, b []byte) protocols.Value {
	var full [8]byte
	copy(full[:], b)
	n := binary.LittleEndian.Uint64(full[:])
	switch {
	case t == Float:
		return protocols.Float32(math.Float32frombits(uint32(n)))
	case t == Double:
		return protocols.Float64(math.Float64frombits(n))
	case t == DateTime:
		return timeValue(n)
	case t.signed():
		shift := 64 - t.bits()
		return protocols.Int(int64(n<<shift) >> shift)
	}
	return protocols.Uint(n)
}

// value is an instance as an object. Members without a data type, as they
// have none in data, are taken as what they look like.
func (t *Template) value() (protocols.Value, bool) {
	fields := make([]protocols.Value, 0, 2*len(t.Metrics))
	for i := range t.Metrics {
		m := &t.Metrics[i]
		var v protocols.Value
		if !m.Null {
			var ok bool
			if v, ok = m.Value.As(m.Type); !ok {
				if v, ok = m.Value.guess(); !ok {
					return v, false
				}
			}
		}
		fields = append(fields, protocols.String(m.Name), v)
	}
	return protocols.ObjectOf(fields), true
}

// guess is what v looks like without its data type.
func (v Value) guess() (protocols.Value, bool) {
	t := map[Field]DataType{
		FieldInt: UInt32, FieldLong: UInt64, FieldFloat: Float, FieldDouble: Double, FieldBoolean: Boolean,
		FieldString: String, FieldBytes: Bytes, FieldTemplate: TemplateType,
		FieldNone: Unknown, FieldDataSet: Unknown, FieldOther: Unknown,
	}[v.Field]
	return v.As(t)
}
