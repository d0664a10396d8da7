package modbus

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A table is one of the four address spaces of a Modbus device.
type table uint8

const (
	holding  table = iota // read by function 3
	input                 // read by function 4
	coil                  // read by function 1
	discrete              // read by function 2
)

// addresses is how many addresses each table has.
const addresses = 1 << 16

func (t table) String() string {
	return [...]string{"holding", "input", "coil", "discrete"}[t&3]
}

// bits says that t holds single bits, not registers.
func (t table) bits() bool { return t == coil || t == discrete }

// function is the function code that reads t.
func (t table) function() byte { return [...]byte{3, 4, 1, 2}[t&3] }

// tableOf is the table that a function reads.
func tableOf(function byte) table {
	return [...]table{holding, coil, discrete, holding, input}[function%5]
}

// modicon is the first digit of t's Modicon numbers.
func (t table) modicon() byte { return [...]byte{'4', '3', '0', '1'}[t&3] }

// notation is how a user wrote an address, so that messages use the same.
type notation uint8

const (
	named    notation = iota // holding:100
	modicon5                 // 40101
	modicon6                 // 400101
)

// address is where a tag begins.
type address struct {
	table  table
	number uint16 // zero-based
	bit    int8   // of the register, 0 to 15, or the first of a range; -1: none given
	last   int8   // of a range of bits, 0 to 63; -1: not a range
	form   notation
}

// tableNames are the words for the tables, the usual ones first.
var tableNames = [...]struct { //nolint:gochecknoglobals // a constant table
	name  string
	table table
}{
	{"holding", holding},
	{"input", input},
	{"coil", coil},
	{"discrete", discrete},
	{"hr", holding},
	{"ir", input},
	{"co", coil},
	{"di", discrete},
}

// parseAddress understands all notations of a tag map's address column. The
// error is in words for the user.
func parseAddress(s string) (address, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return address{}, errors.New("is empty: expected an address such as holding:100 or 40101")
	}
	if name, rest, found := strings.Cut(s, ":"); found {
		return parseNamed(name, rest)
	}
	if s[0] < '0' || s[0] > '9' {
		return address{}, fmt.Errorf("%q is not an address: expected one such as holding:100, input:7, coil:3, discrete:12 or 40101", s)
	}
	return parseModicon(s)
}

func parseNamed(name, rest string) (address, error) {
	t, err := parseTable(name)
	if err != nil {
		return address{}, err
	}
	number, bit, last, err := cutBits(t, rest)
	if err != nil {
		return address{}, err
	}
	n, err := parseDigits(number)
	if err != nil {
		return address{}, fmt.Errorf("%q is not a number: expected one such as %s:100, without spaces", number, t)
	}
	if n >= addresses {
		return address{}, fmt.Errorf("%s:%s is out of range: addresses go from 0 to %d", t, number, addresses-1)
	}
	return address{table: t, number: uint16(n), bit: bit, last: last}, nil
}

func parseTable(name string) (table, error) {
	lower := strings.ToLower(strings.TrimSpace(name))
	for _, e := range tableNames {
		if e.name == lower {
			return e.table, nil
		}
	}
	best, distance := "", 3
	for _, e := range tableNames[:4] {
		if d := editDistance(lower, e.name); d < distance {
			best, distance = e.name, d
		}
		if len(lower) > 3 && strings.HasPrefix(lower, e.name[:4]) { // coils, inputs, holding_register …
			best, distance = e.name, 0
		}
	}
	if best != "" {
		return 0, fmt.Errorf("%q is not a table: did you mean %s?", name, best)
	}
	return 0, fmt.Errorf("%q is not a table: expected holding, input, coil or discrete (hr, ir, co, di)", name)
}

// parseModicon understands 40001 and 400001: a digit for the table and a
// number that counts from one.
func parseModicon(s string) (address, error) {
	digits, bitText, hasBit := strings.Cut(s, ".")
	if _, err := parseDigits(digits); err != nil {
		return address{}, fmt.Errorf("%q is not an address: expected one such as holding:100 or 40101", s)
	}
	var a address
	switch len(digits) {
	case 5:
		a.form = modicon5
	case 6:
		a.form = modicon6
	default:
		return address{}, fmt.Errorf("%q does not say which table: write holding:%s (zero-based), or a Modicon number of 5 or 6 digits such as 40001 (one-based)", s, digits)
	}
	known := false
	for t := holding; t <= discrete; t++ {
		if t.modicon() == digits[0] {
			a.table, known = t, true
		}
	}
	n, err := parseDigits(digits[1:])
	switch {
	case !known:
		return address{}, fmt.Errorf("%q is no Modicon number: they begin with 0 (coil), 1 (discrete), 3 (input) or 4 (holding)", s)
	case err != nil || n == 0:
		return address{}, fmt.Errorf("%q: Modicon numbers count from one, so the first is %s1", s, digits[:len(digits)-1])
	case n > addresses:
		return address{}, fmt.Errorf("%q is out of range: the last one is %c%d", s, digits[0], addresses)
	}
	a.number = uint16(n - 1)
	a.bit, a.last = -1, -1
	if hasBit {
		a.bit, a.last, err = parseBits(a.table, bitText)
	}
	return a, err
}

// cutBits splits "100.3" and "100.4-7".
func cutBits(t table, s string) (number string, bit, last int8, err error) {
	number, text, found := strings.Cut(s, ".")
	if !found {
		return number, -1, -1, nil
	}
	bit, last, err = parseBits(t, text)
	return number, bit, last, err
}

// parseBits understands a bit and, up to those of four registers, a range of
// them. last is -1 where it is a single bit.
func parseBits(t table, s string) (bit, last int8, err error) {
	if t.bits() {
		return 0, 0, fmt.Errorf("a %s is a single bit already: leave out .%s", t, s)
	}
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		n, err := parseDigits(s)
		if err != nil || n > 15 {
			return 0, 0, fmt.Errorf("bit %q is not a number from 0 to 15 (0 is the lowest bit)", s)
		}
		return int8(n), -1, nil
	}
	from, err1 := parseDigits(low)
	to, err2 := parseDigits(high)
	switch {
	case err1 != nil || err2 != nil || from > 63 || to > 63:
		return 0, 0, fmt.Errorf("%q is not a range of bits: expected the lowest and the highest one, from 0 to 63, such as 4-7", s)
	case from > to:
		return 0, 0, fmt.Errorf("the range of bits %s begins with its highest one: write %d-%d", s, to, from)
	}
	return int8(from), int8(to), nil
}

// parseDigits is strconv.ParseUint without its signs and underscores.
func parseDigits(s string) (uint64, error) {
	return strconv.ParseUint(s, 10, 32)
}

// span writes n addresses from a on, the way the user writes addresses.
func span(t table, first uint16, n int, form notation) string {
	last := int(first) + n - 1
	switch form {
	case modicon5:
		if last < 9999 {
			return joinSpan(fmt.Sprintf("%c%04d", t.modicon(), int(first)+1), fmt.Sprintf("%c%04d", t.modicon(), last+1), n)
		}
	case modicon6:
		return joinSpan(fmt.Sprintf("%c%05d", t.modicon(), int(first)+1), fmt.Sprintf("%c%05d", t.modicon(), last+1), n)
	case named:
	}
	return t.String() + " " + joinSpan(strconv.Itoa(int(first)), strconv.Itoa(last), n)
}

func joinSpan(first, last string, n int) string {
	if n == 1 {
		return first
	}
	return first + ".." + last
}
