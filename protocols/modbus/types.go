package modbus

import (
	"errors"
	"fmt"
	"strings"
)

// scalar is the type of a tag's value, or of each element of an array.
type scalar uint8

// Integers, texts, times and times without a zone stand together: their
// methods below count on it.
const (
	typeBool scalar = iota
	typeInt16
	typeUint16
	typeInt32
	typeUint32
	typeInt64
	typeUint64
	typeFloat16
	typeFloat32
	typeFloat64
	typeBCD16
	typeBCD32
	typeBCD64
	typeString
	typeBytes
	typeUnix32
	typeUnix64
	typeUnix64ms
	typeIEC870
	typeYMDHMS
	typeYMDHMSms
	typeYMDHMS8
	typeBCDTime
	typeMDYHMS

	// typeRange is what an integer type becomes at a range of bits. It has no
	// name of its own.
	typeRange
)

// scalarTypes are the names of the types and the registers they fill; 0: as
// many as it says.
var scalarTypes = [...]struct { //nolint:gochecknoglobals // a constant table
	name      string
	registers int
}{
	typeBool:     {"bool", 1},
	typeInt16:    {"int16", 1},
	typeUint16:   {"uint16", 1},
	typeInt32:    {"int32", 2},
	typeUint32:   {"uint32", 2},
	typeInt64:    {"int64", 4},
	typeUint64:   {"uint64", 4},
	typeFloat16:  {"float16", 1},
	typeFloat32:  {"float32", 2},
	typeFloat64:  {"float64", 4},
	typeBCD16:    {"bcd16", 1},
	typeBCD32:    {"bcd32", 2},
	typeBCD64:    {"bcd64", 4},
	typeString:   {"string", 0},
	typeBytes:    {"bytes", 0},
	typeUnix32:   {"unix32", 2},
	typeUnix64:   {"unix64", 4},
	typeUnix64ms: {"unix64ms", 4},
	typeIEC870:   {"iec870", 4},
	typeYMDHMS:   {"ymdhms", 6},
	typeYMDHMSms: {"ymdhmsms", 7},
	typeYMDHMS8:  {"ymdhms8", 3},
	typeBCDTime:  {"bcdtime", 3},
	typeMDYHMS:   {"mdyhms", 3},
}

// integer says that s is a whole number in binary.
func (s scalar) integer() bool { return s >= typeInt16 && s <= typeUint64 }

// signed says that s is an integer that may be negative.
func (s scalar) signed() bool { return s == typeInt16 || s == typeInt32 || s == typeInt64 }

// text says that s is no number, and as long as its tag says.
func (s scalar) text() bool { return s == typeString || s == typeBytes }

// time says that s is a date-time.
func (s scalar) time() bool { return s >= typeUnix32 && s <= typeMDYHMS }

// local says that s is a date-time that does not say its time zone.
func (s scalar) local() bool { return s >= typeIEC870 && s <= typeMDYHMS }

// otherNames are what people write who come from elsewhere.
var otherNames = map[string]string{ //nolint:gochecknoglobals // a constant table
	"float":   "float32 or float64",
	"real":    "float32",
	"single":  "float32",
	"double":  "float64",
	"lreal":   "float64",
	"int":     "int16 or int32",
	"uint":    "uint16 or uint32",
	"short":   "int16",
	"ushort":  "uint16",
	"word":    "uint16",
	"dint":    "int32",
	"udint":   "uint32",
	"dword":   "uint32",
	"long":    "int32 or int64",
	"ulong":   "uint32 or uint64",
	"lint":    "int64",
	"ulint":   "uint64",
	"lword":   "uint64",
	"qword":   "uint64",
	"bcd":     "bcd16, bcd32 or bcd64",
	"lbcd":    "bcd32",
	"half":    "float16",
	"boolean": "bool",
	"bit":     "bool",
	"str":     "string(N), N in bytes",
	"char":    "string(N), N in bytes",
	"ascii":   "string(N), N in bytes",
	"utf8":    "string(N), N in bytes",
	"byte":    aByte,
	"int8":    "int16 with a range of bits in its address, such as holding:100.8-15 for the high byte, or bytes(N)",
	"uint8":   aByte,

	"date":          aTime,
	"time":          aTime,
	"datetime":      aTime,
	"date_and_time": aTime,
	"timestamp":     aTime,
	"unix":          "unix32, unix64 or unix64ms",
	"epoch":         "unix32, unix64 or unix64ms",
	"ti081":         "iec870",
}

const (
	aByte = "uint16 with a range of bits in its address, such as holding:100.8-15 for the high byte, or bytes(N)"
	aTime = "unix32, unix64, unix64ms, iec870, ymdhms, ymdhmsms, ymdhms8, bcdtime or mdyhms, whichever the device has"
)

// dataType is a tag's type as its map says it.
type dataType struct {
	scalar scalar
	size   int // of a string or bytes, in bytes
	count  int // of an array's elements; 0: not an array
}

// registers is how many registers each element fills.
func (t dataType) registers() int {
	if n := scalarTypes[t.scalar].registers; n > 0 {
		return n
	}
	return (t.size + 1) / 2
}

func (t dataType) String() string {
	s := scalarTypes[t.scalar].name
	if t.size > 0 {
		s = fmt.Sprintf("%s(%d)", s, t.size)
	}
	if t.count > 0 {
		s = fmt.Sprintf("%s[%d]", s, t.count)
	}
	return s
}

// parseType understands the type column of a tag map. The error is in words
// for the user.
func parseType(s string) (dataType, error) {
	var t dataType
	rest := strings.ToLower(strings.TrimSpace(s))
	if base, tail, found := strings.Cut(rest, "["); found {
		n, err := parseCount(tail, "]")
		if err != nil {
			return t, fmt.Errorf("%q: expected an array's length such as %s[4]", s, base)
		}
		t.count, rest = n, base
	}
	name, tail, sized := strings.Cut(rest, "(")
	if sized {
		n, err := parseCount(tail, ")")
		if err != nil {
			return t, fmt.Errorf("%q: expected a length in bytes such as %s(16)", s, name)
		}
		t.size = n
	}
	for i, e := range scalarTypes {
		if e.name == name {
			t.scalar = scalar(i)
			return t, checkSize(t, sized)
		}
	}
	return t, unknownType(name)
}

func checkSize(t dataType, sized bool) error {
	name := scalarTypes[t.scalar].name
	switch wanted := t.scalar.text(); {
	case wanted && !sized:
		return fmt.Errorf("%s needs its length in bytes: %s(16)", name, name)
	case sized && !wanted:
		return fmt.Errorf("%s has no length: write %s, or %s[%d] for an array", name, name, name, t.size)
	}
	return nil
}

// parseCount reads a positive number up to the closing bracket, which ends
// the text.
func parseCount(s, closing string) (int, error) {
	digits, tail, found := strings.Cut(s, closing)
	n, err := parseDigits(digits)
	if err != nil || !found || tail != "" || n == 0 || n > addresses {
		return 0, errors.New("not a length")
	}
	return int(n), nil
}

func unknownType(name string) error {
	if other, found := otherNames[name]; found {
		return fmt.Errorf("unknown type %q: did you mean %s?", name, other)
	}
	best, distance := "", 3
	for _, e := range scalarTypes {
		if d := editDistance(name, e.name); d < distance {
			best, distance = e.name, d
		}
	}
	if best != "" {
		return fmt.Errorf("unknown type %q: did you mean %s?", name, best)
	}
	return fmt.Errorf("unknown type %q: expected bool, int16, uint16, int32, uint32, int64, uint64, float16, float32, float64, bcd16, bcd32, bcd64, string(N), bytes(N), a date-time (unix32, unix64, unix64ms, iec870, ymdhms, ymdhmsms, ymdhms8, bcdtime, mdyhms), or an array such as uint16[4]", name)
}

// editDistance is how many letters must be put in, left out, changed or
// swapped with their neighbours to make b of a.
func editDistance(a, b string) int {
	if len(a) > 32 {
		return len(a)
	}
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, before
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, row[j]+1, last[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
