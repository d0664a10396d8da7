package sparkplug

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

const (
	// maxNesting is how deep templates and properties may be within one another.
	maxNesting = 32
	// maxParts bounds what one payload may consist of, so that a few bytes do
	// not become much memory. A birth of 100,000 metrics has about 400,000.
	maxParts = 2 << 20
)

// Decode reads a payload. It keeps nothing of data. Fields that it does not
// know are passed over, and of values that stand in several fields the last
// one counts, as protobuf asks for. Whatever data holds, it does not panic,
// and its result is not much larger than data.
func Decode(data []byte) (*Payload, error) {
	d := decoder{parts: min(maxParts, len(data))}
	p := &Payload{}
	err := d.each(data, 0, func(f *field) error {
		switch {
		case f.is(1, wireVarint):
			p.Timestamp, p.HasTimestamp = f.num, true
		case f.is(2, wireBytes):
			m, err := d.metric(f.data, 1)
			if err != nil {
				return err
			}
			p.Metrics = append(p.Metrics, m)
		case f.is(3, wireVarint):
			p.Seq, p.HasSeq = f.num, true
		case f.is(4, wireBytes):
			p.UUID = text(f.data)
		case f.is(5, wireBytes):
			p.Body = append([]byte(nil), f.data...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

type decoder struct{ parts int }

// each calls take for all fields of a message.
func (d *decoder) each(data []byte, depth int, take func(f *field) error) error {
	if depth > maxNesting {
		return fmt.Errorf("%w: nested more than %d times", ErrPayload, maxNesting)
	}
	for len(data) > 0 {
		d.parts--
		if d.parts < 0 {
			return fmt.Errorf("%w: more than %d parts", ErrPayload, maxParts)
		}
		f, rest, err := next(data)
		if err != nil {
			return err
		}
		if err := take(&f); err != nil {
			return err
		}
		data = rest
	}
	return nil
}

// text returns bytes as a text, with U+FFFD for what is not UTF-8.
func text(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return string([]rune(string(b)))
}

func (d *decoder) metric(data []byte, depth int) (Metric, error) {
	var m Metric
	err := d.each(data, depth, func(f *field) (err error) {
		switch {
		case f.is(1, wireBytes):
			m.Name = text(f.data)
		case f.is(2, wireVarint):
			m.Alias, m.HasAlias = f.num, true
		case f.is(3, wireVarint):
			m.Timestamp, m.HasTimestamp = f.num, true
		case f.is(4, wireVarint):
			m.Type = DataType(f.num)
		case f.is(5, wireVarint):
			m.Historical = f.num != 0
		case f.is(6, wireVarint):
			m.Transient = f.num != 0
		case f.is(7, wireVarint):
			m.Null = f.num != 0
		case f.is(9, wireBytes):
			m.Properties, err = d.properties(f.data, depth+1)
		case f.is(16, wireBytes):
			m.Value = Value{Field: FieldBytes, Text: string(f.data)}
		case f.is(17, wireBytes):
			m.Value = Value{Field: FieldDataSet}
			m.Value.DataSet, err = d.dataSet(f.data, depth+1)
		case f.is(18, wireBytes):
			m.Value = Value{Field: FieldTemplate}
			m.Value.Template, err = d.template(f.data, depth+1)
		case f.is(19, wireBytes):
			m.Value = Value{Field: FieldOther}
		default:
			m.Value.take(f, 10)
		}
		return err
	})
	return m, err
}

// take takes the field f if it is one of the six that scalar values stand in:
// int, long, float, double, boolean and string, numbered from first on.
func (v *Value) take(f *field, first uint64) {
	switch {
	case f.is(first, wireVarint):
		*v = Value{Field: FieldInt, Num: uint64(uint32(f.num))}
	case f.is(first+1, wireVarint):
		*v = Value{Field: FieldLong, Num: f.num}
	case f.is(first+2, wire32):
		*v = Value{Field: FieldFloat, Num: f.num}
	case f.is(first+3, wire64):
		*v = Value{Field: FieldDouble, Num: f.num}
	case f.is(first+4, wireVarint):
		*v = Value{Field: FieldBoolean}
		if f.num != 0 {
			v.Num = 1
		}
	case f.is(first+5, wireBytes):
		*v = Value{Field: FieldString, Text: text(f.data)}
	}
}

func (d *decoder) properties(data []byte, depth int) ([]Property, error) {
	var keys []string
	var values []Property
	err := d.each(data, depth, func(f *field) error {
		switch {
		case f.is(1, wireBytes):
			keys = append(keys, text(f.data))
		case f.is(2, wireBytes):
			p, err := d.property(f.data, depth+1)
			if err != nil {
				return err
			}
			values = append(values, p)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(keys) != len(values) {
		return nil, fmt.Errorf("%w: %d keys of properties and %d values", ErrPayload, len(keys), len(values))
	}
	for i := range values {
		values[i].Key = keys[i]
	}
	return values, nil
}

func (d *decoder) property(data []byte, depth int) (Property, error) {
	var p Property
	err := d.each(data, depth, func(f *field) error {
		switch {
		case f.is(1, wireVarint):
			p.Type = DataType(f.num)
		case f.is(2, wireVarint):
			p.Null = f.num != 0
		case f.is(9, wireBytes):
			set, err := d.properties(f.data, depth+1)
			p.Sets = [][]Property{set}
			return err
		case f.is(10, wireBytes):
			p.Sets = nil
			return d.each(f.data, depth+1, func(f *field) error {
				if !f.is(1, wireBytes) {
					return nil
				}
				set, err := d.properties(f.data, depth+2)
				p.Sets = append(p.Sets, set)
				return err
			})
		default:
			p.Value.take(f, 3)
		}
		return nil
	})
	return p, err
}

func (d *decoder) dataSet(data []byte, depth int) (*DataSet, error) {
	s := &DataSet{}
	err := d.each(data, depth, func(f *field) error {
		switch {
		case f.is(2, wireBytes):
			s.Columns = append(s.Columns, text(f.data))
		case f.is(3, wireVarint):
			s.Types = append(s.Types, DataType(f.num))
		case f.is(3, wireBytes): // packed
			for packed := f.data; len(packed) > 0; {
				n, size := binary.Uvarint(packed)
				if size <= 0 {
					return ErrPayload
				}
				s.Types, packed = append(s.Types, DataType(n)), packed[size:]
			}
		case f.is(4, wireBytes):
			row, err := d.row(f.data, depth+1)
			s.Rows = append(s.Rows, row)
			return err
		}
		return nil
	})
	return s, err
}

func (d *decoder) row(data []byte, depth int) ([]Value, error) {
	var row []Value
	err := d.each(data, depth, func(f *field) error {
		if !f.is(1, wireBytes) {
			return nil
		}
		var v Value
		err := d.each(f.data, depth+1, func(f *field) error {
			v.take(f, 1)
			return nil
		})
		row = append(row, v)
		return err
	})
	return row, err
}

func (d *decoder) template(data []byte, depth int) (*Template, error) {
	t := &Template{}
	err := d.each(data, depth, func(f *field) error {
		switch {
		case f.is(1, wireBytes):
			t.Version = text(f.data)
		case f.is(2, wireBytes):
			m, err := d.metric(f.data, depth+1)
			t.Metrics = append(t.Metrics, m)
			return err
		case f.is(3, wireBytes):
			var p Parameter
			err := d.each(f.data, depth+1, func(f *field) error {
				switch {
				case f.is(1, wireBytes):
					p.Name = text(f.data)
				case f.is(2, wireVarint):
					p.Type = DataType(f.num)
				default:
					p.Value.take(f, 3)
				}
				return nil
			})
			t.Parameters = append(t.Parameters, p)
			return err
		case f.is(4, wireBytes):
			t.Ref = text(f.data)
		case f.is(5, wireVarint):
			t.Definition = f.num != 0
		}
		return nil
	})
	return t, err
}

// float64 returns the number of a float or a double.
func (v Value) float64() float64 {
	if v.Field == FieldFloat {
		return float64(math.Float32frombits(uint32(v.Num)))
	}
	return math.Float64frombits(v.Num)
}
