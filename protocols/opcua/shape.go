package opcua

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// shape is how values of a data type are laid out in OPC UA's binary encoding
// (Part 6, 5.2), made of what the server says about the type. It may contain
// itself. Nobody changes it once it is in a typeBook.
type shape struct {
	name    string
	kind    shapeKind
	builtin ua.TypeID    // of shapeBuiltin; of shapeEnum, the integer that it is
	names   *enumeration // of shapeEnum; nil: it has none
	fields  []field
	goType  reflect.Type // of shapeGo
	why     string       // of shapeUnknown, in words
}

type shapeKind uint8

const (
	shapeUnknown  shapeKind = iota // it cannot be decoded
	shapeBuiltin                   // a built-in type
	shapeEnum                      // an integer with names
	shapeStruct                    // one field after the other
	shapeOptional                  // the same, behind a mask that says which are there
	shapeUnion                     // one of the fields, behind its number
	shapeAny                       // any structure, in an ExtensionObject that names its type
	shapeSequence                  // one field after the other, by the rules of a type dictionary
	shapeGo                        // by gopcua's own type
)

// field is one field of a structure.
type field struct {
	name  protocols.Value // a KindString
	shape *shape
	rank  int    // 0: one value; 1: an array; more: a matrix
	mask  uint32 // of shapeOptional: its bit; 0: it is always there

	// What follows is of shapeSequence.
	hidden  bool // says something about other fields only
	bits    int  // it is that many bits, the lowest first
	length  int  // 1 more than the index of the field that says how many there are; 0: none does
	fixed   int  // there are always that many; 0: one
	sw      *switchRule
	inBytes bool // the length counts bytes
	chars   bool // it is a text of that length
}

// switchRule says when a field of a dictionary's type is there.
type switchRule struct {
	field    int // the index of the field that decides
	operand  string
	value    uint64
	anything bool // any value but 0
}

// applies tells, with the value of the field that decides.
func (r *switchRule) applies(n uint64) bool {
	if r.anything {
		return n != 0
	}
	switch r.operand {
	case "GreaterThan":
		return n > r.value
	case "LessThan":
		return n < r.value
	case "GreaterThanOrEqual":
		return n >= r.value
	case "LessThanOrEqual":
		return n <= r.value
	case "NotEqual":
		return n != r.value
	}
	return n == r.value
}

// enumeration is the names of an enumeration's numbers.
type enumeration struct {
	name  string
	names map[int64]protocols.Value // each a KindString
}

func newEnumeration(name string) *enumeration {
	return &enumeration{name: name, names: make(map[int64]protocols.Value)}
}

func (e *enumeration) add(n int64, name string) {
	if name != "" {
		e.names[n] = protocols.String(strings.ToValidUTF8(name, "\ufffd"))
	}
}

// value returns the name of a number. One that has none is bad, as one that is
// not in a tag's enum is.
func (e *enumeration) value(v protocols.Value) (protocols.Value, protocols.Reason) {
	n := v.AsInt()
	switch v.Kind() { //nolint:exhaustive // no other kind is a number that has a name
	case protocols.KindInt:
	case protocols.KindUint:
		if n < 0 {
			return protocols.Value{}, protocols.OutOfRange
		}
	default:
		return v, ""
	}
	if name, ok := e.names[n]; ok {
		return name, ""
	}
	return protocols.Value{}, protocols.OutOfRange
}

// unknownShape is a type that cannot be decoded.
func unknownShape(name, format string, args ...any) *shape {
	return &shape{name: name, why: fmt.Sprintf(format, args...)}
}

// empty says that its values take no bytes.
func (s *shape) empty() bool {
	return (s.kind == shapeStruct || s.kind == shapeSequence) && len(s.fields) == 0
}
