package modbus

import (
	"fmt"
	"strings"

	"millrace/protocols"
)

// The limits of one request, from the Modbus Application Protocol
// Specification V1.1b3, 6.1 to 6.4.
const (
	maxRegisters = 125
	maxBits      = 2000
)

// limits are what a device says of all its tags: how much one request may
// read, and read for nothing, and its time zone.
type limits struct {
	registers, bits     int    // in one request
	registerGap, bitGap int    // between two tags of one request
	zone                int32  // seconds by which its clock is ahead of UTC
	unit                *facts // what has been learnt of the unit; nil: nothing
	hasZone             bool
}

// limitsOf returns the limits of d. A device that can take only small
// answers gets small ones for bits as well.
func limitsOf(d *protocols.Device) limits {
	n := d.Modbus.MaxRegisters
	if n <= 0 || n > maxRegisters {
		n = maxRegisters
	}
	gap := max(d.Modbus.MaxGap, 0)
	lim := limits{registers: n, bits: min(n*16, maxBits), registerGap: gap, bitGap: 16 * gap}
	lim.zone, lim.hasZone = parseZone(d.Modbus.TimeZone)
	return lim
}

// size is how many addresses of t one request may read.
func (l limits) size(t table) int {
	n := l.registers
	if t.bits() {
		n = l.bits
	}
	return l.unit.size(t, n)
}

// gap is how many addresses of t may be read for nothing between two tags.
func (l limits) gap(t table) int {
	if t.bits() {
		return l.bitGap
	}
	return l.registerGap
}

// parseTag makes the field of a tag: where it is, and how it is decoded.
// The error is a *protocols.FieldError for the tag's address or type.
func parseTag(t *protocols.Tag, lim limits) (field, *protocols.FieldError) {
	a, err := parseAddress(t.Address)
	if err != nil {
		return field{}, &protocols.FieldError{Field: "address", Text: err.Error()}
	}
	dt, ferr := typeOf(t, a)
	if ferr != nil {
		return field{}, ferr
	}
	if ferr := checkUse(t, dt); ferr != nil {
		return field{}, ferr
	}
	if dt.scalar.local() && !lim.hasZone {
		return field{}, &protocols.FieldError{Field: "type", Text: fmt.Sprintf(
			`%s says no time zone: give the device time_zone: "+08:00" (or "+00:00" if its clock runs on UTC)`, dt)}
	}
	f := newField(a, dt, t.Order)
	f.zone = lim.zone
	switch last := int(a.number) + f.span - 1; {
	case f.span > lim.size(a.table):
		return field{}, &protocols.FieldError{Field: "type", Text: tooLong(a.table, dt, f.span, lim)}
	case last >= addresses:
		return field{}, &protocols.FieldError{Field: "address", Text: fmt.Sprintf(
			"%s at %s ends at %d, beyond the last address %d", dt, t.Address, last, addresses-1)}
	}
	return f, nil
}

// checkUse refuses columns that make no sense for the type: such a tag could
// never be good.
func checkUse(t *protocols.Tag, dt dataType) *protocols.FieldError {
	var what string
	switch {
	case dt.scalar == typeBool:
		what = "a single bit"
	case dt.scalar.text():
		what = "no number"
	case dt.scalar.time():
		what = "a time"
	}
	number := what == ""
	refuse := func(column, why string) *protocols.FieldError {
		return &protocols.FieldError{Field: column, Text: fmt.Sprintf("%s is %s: leave %s empty", dt, why, column)}
	}
	switch {
	case t.HasScale && !number && t.Scale != 1:
		return refuse("scale", what)
	case t.HasScale && !number:
		return refuse("offset", what)
	case t.Deadband.Size > 0 && !number:
		return refuse("deadband", what)
	case t.Min != nil && !number:
		return refuse("min", what)
	case t.Max != nil && !number:
		return refuse("max", what)
	case t.Enum != nil && !number && dt.scalar != typeBool:
		return refuse("enum", what)
	case t.Enum != nil && dt.count > 0:
		return refuse("enum", "an array")
	}
	return nil
}

func tooLong(t table, dt dataType, n int, lim limits) string {
	if t.bits() {
		return fmt.Sprintf("%s needs %d bits, but one request reads at most %d: split the tag", dt, n, lim.bits)
	}
	s := fmt.Sprintf("%s needs %d registers, but one request reads at most %d: split the tag", dt, n, lim.registers)
	if lim.registers < maxRegisters && n <= maxRegisters {
		s += fmt.Sprintf(", or raise max_registers (up to %d) if the device can", maxRegisters)
	}
	return s
}

// typeOf returns the type of a tag at a, the default where it has none.
func typeOf(t *protocols.Tag, a address) (dataType, *protocols.FieldError) {
	if a.last >= 0 {
		return rangeTypeOf(t, a)
	}
	isBit := a.table.bits() || a.bit >= 0
	if t.Type == "" {
		if isBit {
			return dataType{scalar: typeBool}, nil
		}
		return dataType{scalar: typeUint16}, nil
	}
	dt, err := parseType(t.Type)
	switch {
	case err != nil:
		return dt, &protocols.FieldError{Field: "type", Text: err.Error()}
	case a.table.bits() && dt.scalar != typeBool:
		return dt, &protocols.FieldError{Field: "type", Text: fmt.Sprintf(
			"a %s is a single bit: expected bool or bool[n], not %s (or did you mean holding:%d?)", a.table, dt, a.number)}
	case isBit && dt.scalar != typeBool:
		return dt, &protocols.FieldError{Field: "type", Text: fmt.Sprintf(
			"%s names a single bit: expected bool or bool[n], not %s; for a whole register leave out the .%d", t.Address, dt, a.bit)}
	case !isBit && dt.scalar == typeBool:
		return dt, &protocols.FieldError{Field: "address", Text: fmt.Sprintf(
			"a bool in a register needs its bit: write %s.0 for the lowest one", t.Address)}
	}
	return dt, nil
}

// rangeTypeOf returns the type of a tag at a range of bits: an integer that
// has all of them.
func rangeTypeOf(t *protocols.Tag, a address) (dataType, *protocols.FieldError) {
	dt := dataType{scalar: typeUint16}
	if t.Type != "" {
		var err error
		if dt, err = parseType(t.Type); err != nil {
			return dt, &protocols.FieldError{Field: "type", Text: err.Error()}
		}
	}
	at := strings.TrimSpace(t.Address)
	highest := 16*dt.registers() - 1
	text := ""
	switch {
	case dt.scalar == typeBool && a.bit > 15:
		text = fmt.Sprintf("%s is a range of bits, and one number: expected a type such as uint32, not %s", at, dt)
	case dt.scalar == typeBool:
		first, _, _ := strings.Cut(at, "-")
		text = fmt.Sprintf("%s is a range of bits, and one number: expected a type such as uint16, not %s (or did you mean bool[%d] at %s?)",
			at, dt, a.last-a.bit+1, first)
	case !dt.scalar.integer():
		text = fmt.Sprintf("%s is a range of bits: expected int16, uint16, int32, uint32, int64 or uint64, not %s", at, dt)
	case dt.count > 0:
		text = fmt.Sprintf("%s is a range of bits, and one number: an array of ranges cannot be read; write a tag for each", at)
	case int(a.last) > highest:
		text = fmt.Sprintf("%s has the bits 0 to %d, but %s goes up to bit %d: write %s", scalarTypes[dt.scalar].name, highest, at, a.last, wider(dt.scalar, a.last))
	default:
		return dt, nil
	}
	return dt, &protocols.FieldError{Field: "type", Text: text}
}

// wider returns the type of more bits than s that has the given one.
func wider(s scalar, bit int8) string {
	switch {
	case s.signed() && bit < 32:
		return "int32"
	case s.signed():
		return "int64"
	case bit < 32:
		return "uint32"
	}
	return "uint64"
}
