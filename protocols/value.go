package protocols

import (
	"math"
	"time"
)

// Kind says which of its fields a Value uses.
type Kind uint8

// The kinds of value that a tag can have. Narrow types of the field (int16,
// uint8, bcd32 …) are widened to Int or Uint without loss; Float32 stays
// apart from Float64 so that it is printed with the digits it has.
const (
	KindNone Kind = iota // no value
	KindBool
	KindInt     // signed, 64 bits
	KindUint    // unsigned, 64 bits
	KindFloat32 // printed with the shortest digits that give the same float32
	KindFloat64
	KindString // UTF-8
	KindBytes
	KindTime   // nanoseconds since 1970 UTC
	KindArray  // its elements may be arrays and objects again
	KindObject // named values in an order: a structure
)

// MaxDepth is how many arrays and objects may be within one another, the
// outermost included, for a Value to be kept in a record.
const MaxDepth = 32

// Value is one value as a device gave it, or as the transformations of its
// tag left it. The zero Value has KindNone. A Value is passed by copy;
// scalars need no allocation.
type Value struct {
	num  uint64
	str  string
	list *[]Value
	kind Kind
}

// Bool returns a Value that holds v.
func Bool(v bool) Value {
	if v {
		return Value{kind: KindBool, num: 1}
	}
	return Value{kind: KindBool}
}

// Int returns a Value that holds v.
func Int(v int64) Value { return Value{kind: KindInt, num: uint64(v)} }

// Uint returns a Value that holds v.
func Uint(v uint64) Value { return Value{kind: KindUint, num: v} }

// Float32 returns a Value that holds v.
func Float32(v float32) Value { return Value{kind: KindFloat32, num: uint64(math.Float32bits(v))} }

// Float64 returns a Value that holds v.
func Float64(v float64) Value { return Value{kind: KindFloat64, num: math.Float64bits(v)} }

// String returns a Value that holds v, which should be valid UTF-8.
func String(v string) Value { return Value{kind: KindString, str: v} }

// Bytes returns a Value that holds a copy of v.
func Bytes(v []byte) Value { return Value{kind: KindBytes, str: string(v)} }

// Time returns a Value that holds t, to the nanosecond, between the years
// 1678 and 2262.
func Time(t time.Time) Value { return Value{kind: KindTime, num: uint64(t.UnixNano())} }

// Array returns a Value that holds elems, which it keeps.
func Array(elems []Value) Value { return Value{kind: KindArray, list: &elems} }

// Object returns a Value that holds the named values, in their order. Names
// should differ from each other.
func Object(names []string, values []Value) Value {
	fields := make([]Value, 0, 2*len(names))
	for i, name := range names {
		fields = append(fields, String(name), values[i])
	}
	return ObjectOf(fields)
}

// ObjectOf is Object for names (as a KindString) and values in turn. It keeps
// fields.
func ObjectOf(fields []Value) Value { return Value{kind: KindObject, list: &fields} }

// PutUint makes v hold n. It and its like write less than an assignment, for
// values that are decoded into the same place again and again.
func (v *Value) PutUint(n uint64) { v.put(KindUint, n) }

// PutInt makes v hold n.
func (v *Value) PutInt(n int64) { v.put(KindInt, uint64(n)) }

// PutFloat32 makes v hold f.
func (v *Value) PutFloat32(f float32) { v.put(KindFloat32, uint64(math.Float32bits(f))) }

// PutFloat64 makes v hold f.
func (v *Value) PutFloat64(f float64) { v.put(KindFloat64, math.Float64bits(f)) }

func (v *Value) put(kind Kind, num uint64) {
	if v.kind > KindFloat64 { // only those have more than a number
		*v = Value{}
	}
	v.kind, v.num = kind, num
}

// Kind says what v holds.
func (v Value) Kind() Kind { return v.kind }

// AsBool returns the value of a KindBool.
func (v Value) AsBool() bool { return v.num != 0 }

// AsInt returns the value of a KindInt.
func (v Value) AsInt() int64 { return int64(v.num) }

// AsUint returns the value of a KindUint.
func (v Value) AsUint() uint64 { return v.num }

// AsFloat32 returns the value of a KindFloat32.
func (v Value) AsFloat32() float32 { return math.Float32frombits(uint32(v.num)) }

// AsFloat64 returns the value of a KindFloat64.
func (v Value) AsFloat64() float64 { return math.Float64frombits(v.num) }

// AsString returns the value of a KindString, or the bytes of a KindBytes.
func (v Value) AsString() string { return v.str }

// AsTime returns the value of a KindTime, in UTC.
func (v Value) AsTime() time.Time { return time.Unix(0, int64(v.num)).UTC() }

// Elems returns the elements of a KindArray. The caller must not change them.
func (v Value) Elems() []Value {
	if v.kind != KindArray {
		return nil
	}
	return v.items()
}

// Len returns how many fields a KindObject has.
func (v Value) Len() int {
	if v.kind != KindObject {
		return 0
	}
	return len(v.items()) / 2
}

// Field returns the i-th field of a KindObject.
func (v Value) Field(i int) (string, Value) {
	items := v.items()
	return items[2*i].str, items[2*i+1]
}

// items are the elements of an array, or the names and values of an object.
func (v Value) items() []Value {
	if v.list == nil {
		return nil
	}
	return *v.list
}

// Number returns v as a float64 if it is a number (a bool is not). Integers
// beyond 2^53 lose digits.
func (v Value) Number() (float64, bool) {
	switch v.kind {
	case KindInt:
		return float64(int64(v.num)), true
	case KindUint:
		return float64(v.num), true
	case KindFloat32:
		return float64(v.AsFloat32()), true
	case KindFloat64:
		return v.AsFloat64(), true
	case KindNone, KindBool, KindString, KindBytes, KindTime, KindArray, KindObject:
	}
	return 0, false
}

// Finite says that v is not, and does not contain, a NaN or an infinity:
// those have no place in JSON and go out as bad with reason NotANumber.
func (v Value) Finite() bool {
	switch v.kind {
	case KindFloat32, KindFloat64:
		f, _ := v.Number()
		return !math.IsNaN(f) && !math.IsInf(f, 0)
	case KindArray, KindObject:
		for _, e := range v.items() {
			if !e.Finite() {
				return false
			}
		}
	case KindNone, KindBool, KindInt, KindUint, KindString, KindBytes, KindTime:
	}
	return true
}

// Equal says that v and o are the same value of the same kind, bit by bit
// (so a NaN equals itself, and 0.0 differs from -0.0).
func (v Value) Equal(o Value) bool {
	if v.kind != o.kind || v.num != o.num || v.str != o.str {
		return false
	}
	a, b := v.items(), o.items()
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}
