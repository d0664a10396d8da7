package sparkplug

import (
	"encoding/binary"
	"math"

	"millrace/protocols"
)

// DataType is the code of a metric's type (Sparkplug 3.0, 6.4.16).
type DataType uint32

// The data types.
const (
	Unknown         DataType = 0
	Int8            DataType = 1
	Int16           DataType = 2
	Int32           DataType = 3
	Int64           DataType = 4
	UInt8           DataType = 5
	UInt16          DataType = 6
	UInt32          DataType = 7
	UInt64          DataType = 8
	Float           DataType = 9
	Double          DataType = 10
	Boolean         DataType = 11
	String          DataType = 12
	DateTime        DataType = 13 // ms since 1970 UTC
	Text            DataType = 14
	UUID            DataType = 15
	DataSetType     DataType = 16
	Bytes           DataType = 17
	File            DataType = 18
	TemplateType    DataType = 19
	PropertySetType DataType = 20
	PropertySetList DataType = 21
	Int8Array       DataType = 22
	Int16Array      DataType = 23
	Int32Array      DataType = 24
	Int64Array      DataType = 25
	UInt8Array      DataType = 26
	UInt16Array     DataType = 27
	UInt32Array     DataType = 28
	UInt64Array     DataType = 29
	FloatArray      DataType = 30
	DoubleArray     DataType = 31
	BooleanArray    DataType = 32
	StringArray     DataType = 33
	DateTimeArray   DataType = 34
)

func (t DataType) String() string {
	names := [...]string{
		"Unknown", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float", "Double", "Boolean", "String",
		"DateTime", "Text", "UUID", "DataSet", "Bytes", "File", "Template", "PropertySet", "PropertySetList",
		"Int8Array", "Int16Array", "Int32Array", "Int64Array", "UInt8Array", "UInt16Array", "UInt32Array", "UInt64Array",
		"FloatArray", "DoubleArray", "BooleanArray", "StringArray", "DateTimeArray",
	}
	if int64(t) < int64(len(names)) {
		return names[t]
	}
	return "Unknown"
}

// signed and unsigned say that t is an integer, array that it is an array.
func (t DataType) signed() bool   { return t >= Int8 && t <= Int64 }
func (t DataType) unsigned() bool { return t >= UInt8 && t <= UInt64 }
func (t DataType) number() bool   { return t >= Int8 && t <= Double }
func (t DataType) array() bool    { return t >= Int8Array && t <= DateTimeArray }

// bits is how many an integer of type t has.
func (t DataType) bits() int {
	switch t {
	case Int8, UInt8:
		return 8
	case Int16, UInt16:
		return 16
	case Int32, UInt32:
		return 32
	}
	return 64
}

// element returns the type of the elements of t.
func (t DataType) element() DataType {
	if t == DateTimeArray {
		return DateTime
	}
	return t - Int8Array + Int8
}

// arrayOf returns the array type whose elements are t; Unknown: there is none.
func arrayOf(t DataType) DataType {
	switch {
	case t >= Int8 && t <= String:
		return t - Int8 + Int8Array
	case t == DateTime:
		return DateTimeArray
	}
	return Unknown
}

// TypeOf returns the data type for values of which v is known beforehand.
func TypeOf(v protocols.ValueType) DataType {
	t := Unknown
	switch v.Kind {
	case protocols.KindBool:
		t = Boolean
	case protocols.KindInt, protocols.KindUint:
		t = integerOf(v)
	case protocols.KindFloat32:
		t = Float
	case protocols.KindFloat64:
		t = Double
	case protocols.KindString:
		t = String
	case protocols.KindBytes:
		t = Bytes
	case protocols.KindTime:
		t = DateTime
	case protocols.KindNone, protocols.KindArray, protocols.KindObject:
	}
	if v.Array {
		return arrayOf(t)
	}
	return t
}

func integerOf(v protocols.ValueType) DataType {
	t := Int64
	switch v.Bits {
	case 8:
		t = Int8
	case 16:
		t = Int16
	case 32:
		t = Int32
	}
	if v.Kind == protocols.KindUint {
		t += UInt8 - Int8
	}
	return t
}

// maxExact is up to where a Double holds every integer.
const maxExact = 1 << 53

// integer returns v as the 64 bits of an integer of type t, if it is one and
// fits.
func integer(t DataType, v protocols.Value) (uint64, bool) {
	n, kind := v.AsUint(), v.Kind()
	if kind != protocols.KindUint && kind != protocols.KindInt {
		return 0, false
	}
	if kind == protocols.KindInt && v.AsInt() < 0 {
		return n, t.signed() && v.AsInt() >= -1<<(t.bits()-1)
	}
	bits := t.bits()
	if t.signed() {
		bits--
	}
	return n, n>>bits == 0 // of 64 bits: shifted away
}

// double returns v as a Double, if that holds it exactly.
func double(v protocols.Value) (float64, bool) {
	f, ok := v.Number()
	if !ok || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, false
	}
	if v.Kind() == protocols.KindInt {
		return f, v.AsInt() >= -maxExact && v.AsInt() <= maxExact
	}
	return f, v.Kind() != protocols.KindUint || v.AsUint() <= maxExact
}

// float returns v as a Float, if it is one.
func float(v protocols.Value) (float32, bool) {
	f := v.AsFloat32()
	return f, v.Kind() == protocols.KindFloat32 && !math.IsNaN(float64(f)) && !math.IsInf(float64(f), 0)
}

// The keys of the value fields of a Metric.
const (
	keyInt     = 0x50
	keyLong    = 0x58
	keyFloat   = 0x65
	keyDouble  = 0x69
	keyBoolean = 0x70
	keyString  = 0x7a
)

// Those of two bytes.
var (
	keyBytes    = []byte{0x82, 0x01} //nolint:gochecknoglobals // a constant
	keyTemplate = []byte{0x92, 0x01} //nolint:gochecknoglobals // a constant
)

// appendScalar appends v as the value field of a metric of type t. It is
// false, and nothing is appended, if v is not exactly one of t.
func appendScalar(dst []byte, t DataType, v protocols.Value) ([]byte, bool) {
	switch t {
	case Int8, Int16, Int32, UInt8, UInt16, UInt32:
		n, ok := integer(t, v)
		if !ok {
			return dst, false
		}
		return appendVarint(dst, keyInt, uint64(uint32(n))), true
	case Int64, UInt64:
		n, ok := integer(t, v)
		if !ok {
			return dst, false
		}
		return appendVarint(dst, keyLong, n), true
	case Float:
		f, ok := float(v)
		if !ok {
			return dst, false
		}
		return binary.LittleEndian.AppendUint32(append(dst, keyFloat), math.Float32bits(f)), true
	case Double:
		f, ok := double(v)
		if !ok {
			return dst, false
		}
		return binary.LittleEndian.AppendUint64(append(dst, keyDouble), math.Float64bits(f)), true
	case Boolean:
		if v.Kind() != protocols.KindBool {
			return dst, false
		}
		return appendBool(dst, keyBoolean, v.AsBool()), true
	case String, Text, UUID:
		if v.Kind() != protocols.KindString {
			return dst, false
		}
		return appendText(dst, keyString, v.AsString()), true
	case DateTime:
		if v.Kind() != protocols.KindTime {
			return dst, false
		}
		return appendVarint(dst, keyLong, uint64(v.AsTime().UnixMilli())), true
	case Bytes, File:
		if v.Kind() != protocols.KindBytes {
			return dst, false
		}
		dst, at := open(dst, keyBytes...)
		return seal(append(dst, v.AsString()...), at), true
	}
	if t.array() {
		return appendArray(dst, t, v)
	}
	return dst, false
}

// appendArray appends v as the value field of a metric of the array type t.
func appendArray(dst []byte, t DataType, v protocols.Value) ([]byte, bool) {
	if v.Kind() != protocols.KindArray {
		return dst, false
	}
	begin := len(dst)
	dst, at := open(dst, keyBytes...)
	elems := v.Elems()
	if t == BooleanArray {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(elems)))
		dst = append(dst, make([]byte, (len(elems)+7)/8)...)
	}
	for i, e := range elems {
		ok := false
		if t == BooleanArray {
			ok = e.Kind() == protocols.KindBool
			if ok && e.AsBool() {
				dst[at+4+i/8] |= 0x80 >> (i % 8)
			}
		} else {
			dst, ok = appendElement(dst, t.element(), e)
		}
		if !ok {
			return dst[:begin], false
		}
	}
	return seal(dst, at), true
}

// appendElement appends one element of an array, of a fixed size and with the
// least significant byte first, or as a text that a zero byte ends.
func appendElement(dst []byte, t DataType, v protocols.Value) ([]byte, bool) {
	switch t {
	case Float:
		f, ok := float(v)
		return binary.LittleEndian.AppendUint32(dst, math.Float32bits(f)), ok
	case Double:
		f, ok := double(v)
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(f)), ok
	case DateTime:
		return binary.LittleEndian.AppendUint64(dst, uint64(v.AsTime().UnixMilli())), v.Kind() == protocols.KindTime
	case String:
		s := v.AsString()
		for i := range len(s) {
			if s[i] == 0 { // it would end there
				return dst, false
			}
		}
		return append(append(dst, s...), 0), v.Kind() == protocols.KindString
	}
	n, ok := integer(t, v)
	switch t.bits() {
	case 8:
		return append(dst, byte(n)), ok
	case 16:
		return binary.LittleEndian.AppendUint16(dst, uint16(n)), ok
	case 32:
		return binary.LittleEndian.AppendUint32(dst, uint32(n)), ok
	}
	return binary.LittleEndian.AppendUint64(dst, n), ok
}

// natural returns the type that v has by itself; Unknown: Sparkplug has none
// but a text (arrays of arrays, of structures, and of mixed types).
func natural(v protocols.Value) DataType {
	switch v.Kind() {
	case protocols.KindBool:
		return Boolean
	case protocols.KindInt:
		return Int64
	case protocols.KindUint:
		return UInt64
	case protocols.KindFloat32:
		return Float
	case protocols.KindFloat64:
		return Double
	case protocols.KindString:
		return String
	case protocols.KindBytes:
		return Bytes
	case protocols.KindTime:
		return DateTime
	case protocols.KindObject:
		return TemplateType
	case protocols.KindArray:
		t := Unknown
		for i, e := range v.Elems() {
			if n := natural(e); i > 0 {
				t = join(t, n, e)
			} else {
				t = n
			}
		}
		if len(v.Elems()) == 0 {
			return StringArray
		}
		return arrayOf(t)
	case protocols.KindNone:
	}
	return Unknown
}

// join returns the type that holds what t holds and v, whose natural type is
// n. Types only widen: integers to Int64 or UInt64, numbers to Double,
// anything else to a text (Unknown). So learning comes to an end.
func join(t, n DataType, v protocols.Value) DataType {
	switch {
	case t == n:
		return t
	case t.array() && n.array() && arrayOf(t.element()) == t:
		e := t.element()
		for _, x := range v.Elems() {
			if e = join(e, natural(x), x); e == Unknown {
				return Unknown
			}
		}
		return arrayOf(e)
	case !t.number() || !n.number():
		return Unknown
	case t.unsigned() && n.unsigned():
		return UInt64
	case (t.signed() || t.unsigned()) && (n.signed() || n.unsigned()):
		if n == UInt64 && v.AsUint() > math.MaxInt64 {
			return Unknown
		}
		return Int64
	}
	if _, exact := double(v); !exact {
		return Unknown
	}
	return Double
}
