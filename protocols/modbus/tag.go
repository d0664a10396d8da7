package modbus

import (
	"fmt"

	"millrace/protocols"
)

// The limits of one request, from the Modbus Application Protocol
// Specification V1.1b3, 6.1 to 6.4.
const (
	maxRegisters = 125
	maxBits      = 2000
)

// limits are how much one request may read, and read for nothing.
type limits struct {
	registers, bits     int    // in one request
	registerGap, bitGap int    // between two tags of one request
	unit                *facts // what has been learnt of the unit; nil: nothing
}

// limitsOf returns the limits of d. A device that can take only small
// answers gets small ones for bits as well.
func limitsOf(d *protocols.Device) limits {
	n := d.Modbus.MaxRegisters
	if n <= 0 || n > maxRegisters {
		n = maxRegisters
	}
	gap := max(d.Modbus.MaxGap, 0)
	return limits{registers: n, bits: min(n*16, maxBits), registerGap: gap, bitGap: 16 * gap}
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
	f := newField(a, dt, t.Order)
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
	text := dt.scalar == typeString || dt.scalar == typeBytes
	number := !text && dt.scalar != typeBool
	refuse := func(column, why string) *protocols.FieldError {
		return &protocols.FieldError{Field: column, Text: fmt.Sprintf("%s is %s: leave %s empty", dt, why, column)}
	}
	what := "a single bit"
	if text {
		what = "no number"
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
	case t.Enum != nil && text:
		return refuse("enum", what)
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
