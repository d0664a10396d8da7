package modbustest

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"millrace/protocols"
)

// Layout says how a tag's value lies in registers.
type Layout struct {
	Type  string // as in a tag map, such as "float32", "string(8)" or "uint16[4]"
	Order protocols.Order
	// Bits is the range of bits of the tag's address, such as "4-7"; empty:
	// it names none.
	Bits string
	// TimeZone is the device's, such as "+08:00"; only date-times that do not
	// say theirs need it.
	TimeZone string
}

// Encode returns the registers' bytes that a tag of the given type and order
// is read from: see [Layout.Encode].
func Encode(typ string, order protocols.Order, v protocols.Value) ([]byte, error) {
	return Layout{Type: typ, Order: order}.Encode(v)
}

// Encode returns the bytes of the registers that a tag is read from as v.
// Type "bool" gives a register of 1 or 0, and "bool[n]" as many bits, the
// lowest of the first register first; around a range of bits is zero. Values
// of another kind than the type's are an error, and so are those that do not
// fit it.
func (l Layout) Encode(v protocols.Value) ([]byte, error) {
	base, length, isArray := strings.Cut(strings.TrimSuffix(l.Type, "]"), "[")
	switch {
	case l.Bits != "":
		return l.encodeRange(v)
	case !isArray:
		return l.encodeOne(base, v)
	}
	n, err := strconv.Atoi(length)
	if err != nil || n != len(v.Elems()) {
		return nil, fmt.Errorf("%s cannot hold %d elements", l.Type, len(v.Elems()))
	}
	if base == "bool" {
		return encodeBits(l.Order, v.Elems()), nil
	}
	var raw []byte
	for _, e := range v.Elems() {
		one, err := l.encodeOne(base, e)
		if err != nil {
			return nil, err
		}
		raw = append(raw, one...)
	}
	return raw, nil
}

func encodeBits(order protocols.Order, elems []protocols.Value) []byte {
	raw := make([]byte, (len(elems)+15)/16*2)
	for i, e := range elems {
		if e.AsBool() {
			raw[i/16*2+1-i%16/8] |= 1 << (i % 8)
		}
	}
	return swapBytes(raw, order)
}

// encodeRange encodes a number to some bits of a larger one.
func (l Layout) encodeRange(v protocols.Value) ([]byte, error) {
	var first, last int
	if n, err := fmt.Sscanf(l.Bits, "%d-%d", &first, &last); n != 2 || err != nil || first > last {
		return nil, fmt.Errorf("%q is not a range of bits", l.Bits)
	}
	whole, isUint := strings.CutPrefix(l.Type, "uint")
	size, err := strconv.Atoi(strings.TrimPrefix(whole, "int"))
	if err != nil || last >= size {
		return nil, fmt.Errorf("%s has no bits %s", l.Type, l.Bits)
	}
	width := last - first + 1
	u, fits := uint64(v.AsInt()), v.Kind() == protocols.KindInt && v.AsInt()>>(width-1) == v.AsInt()>>63
	if isUint {
		u, fits = v.AsUint(), v.Kind() == protocols.KindUint && v.AsUint()>>(width-1)>>1 == 0
	}
	if !fits {
		return nil, fmt.Errorf("a value does not fit the bits %s", l.Bits)
	}
	u = u << (64 - width) >> (64 - width) << first
	return inOrder(bigEndian(u, size/8), l.Order), nil
}

func (l Layout) encodeOne(typ string, v protocols.Value) ([]byte, error) {
	name, size, sized := strings.Cut(strings.TrimSuffix(typ, ")"), "(")
	if sized {
		n, err := strconv.Atoi(size)
		if err != nil || n < len(v.AsString()) {
			return nil, fmt.Errorf("%s cannot hold %d bytes", typ, len(v.AsString()))
		}
		raw := make([]byte, (n+1)/2*2)
		copy(raw, v.AsString())
		return swapBytes(raw, l.Order), nil
	}
	if raw, err := encodeNumber(name, v); raw != nil || err != nil {
		return inOrder(raw, l.Order), err
	}
	if v.Kind() != protocols.KindTime {
		return nil, noFit(name)
	}
	if raw, err := encodeUnix(name, v.AsTime()); raw != nil || err != nil {
		return inOrder(raw, l.Order), err
	}
	zone, err := time.Parse("Z07:00", l.TimeZone)
	if err != nil {
		return nil, fmt.Errorf("%s needs a time zone such as +08:00, not %q", name, l.TimeZone)
	}
	_, ahead := zone.Zone() // its location may be this machine's, with summer time
	raw, err := encodeClock(name, v.AsTime().In(time.FixedZone("", ahead)))
	if name == "iec870" {
		return inOrder(raw, l.Order), err
	}
	return swapBytes(raw, l.Order), err
}

func noFit(typ string) error { return fmt.Errorf("a value does not fit %s", typ) }

// inOrder returns the bytes of a number of one, two or four registers in the
// given order, as its letters say it.
func inOrder(raw []byte, order protocols.Order) []byte {
	var letters string
	switch len(raw) {
	case 2:
		letters = [...]string{"AB", "AB", "BA", "BA"}[order&3]
	case 4:
		letters = [...]string{"ABCD", "CDAB", "BADC", "DCBA"}[order&3]
	case 8:
		letters = [...]string{"ABCDEFGH", "GHEFCDAB", "BADCFEHG", "HGFEDCBA", "EFGHABCD", "CDABGHEF", "FEHGBADC", "DCBAHGFE"}[order&7]
	}
	ordered := make([]byte, len(letters))
	for i := range ordered {
		ordered[i] = raw[letters[i]-'A']
	}
	return ordered
}

// swapBytes swaps the bytes of each register where the order says so.
func swapBytes(raw []byte, order protocols.Order) []byte {
	if order.BytesSwapped() {
		for i := 0; i+1 < len(raw); i += 2 {
			raw[i], raw[i+1] = raw[i+1], raw[i]
		}
	}
	return raw
}

// encodeNumber returns v in order ABCD; nothing if typ is no type of number.
func encodeNumber(typ string, v protocols.Value) ([]byte, error) {
	switch typ {
	case "bool":
		if v.AsBool() {
			return []byte{0, 1}, nil
		}
		return []byte{0, 0}, nil
	case "int16", "int32", "int64":
		size, _ := strconv.Atoi(typ[3:])
		limit := int64(1)<<(size-1) - 1
		if n := v.AsInt(); v.Kind() == protocols.KindInt && n <= limit && n >= -limit-1 {
			return bigEndian(uint64(n), size/8), nil
		}
	case "uint16", "uint32", "uint64":
		size, _ := strconv.Atoi(typ[4:])
		if n := v.AsUint(); v.Kind() == protocols.KindUint && n>>(size-1)>>1 == 0 {
			return bigEndian(n, size/8), nil
		}
	case "float16":
		if half, ok := toHalf(v.AsFloat32()); ok && v.Kind() == protocols.KindFloat32 {
			return bigEndian(uint64(half), 2), nil
		}
	case "float32":
		if v.Kind() == protocols.KindFloat32 {
			return bigEndian(uint64(math.Float32bits(v.AsFloat32())), 4), nil
		}
	case "float64":
		if v.Kind() == protocols.KindFloat64 {
			return bigEndian(math.Float64bits(v.AsFloat64()), 8), nil
		}
	case "bcd16", "bcd32", "bcd64":
		size, _ := strconv.Atoi(typ[3:])
		digits, err := strconv.ParseUint(strconv.FormatUint(v.AsUint(), 10), 16, size)
		if v.Kind() == protocols.KindUint && err == nil {
			return bigEndian(digits, size/8), nil
		}
	default:
		return nil, nil
	}
	return nil, noFit(typ)
}

// toHalf returns f in IEEE 754 binary16. It is false where that has not all
// of f's bits.
func toHalf(f float32) (uint16, bool) {
	u := math.Float32bits(f)
	sign, exponent, mantissa := uint16(u>>31)<<15, int(u>>23&0xff)-127, u&0x7fffff
	switch {
	case f == 0:
		return sign, true
	case exponent == 128: // infinite, or not a number
		return sign | 0x7c00 | uint16(mantissa>>13), mantissa&0x1fff == 0
	case exponent > 15 || exponent < -24:
		return 0, false
	case exponent >= -14:
		return sign | uint16(exponent+15)<<10 | uint16(mantissa>>13), mantissa&0x1fff == 0
	}
	steps := math.Abs(float64(f)) * (1 << 24) // subnormal: a multiple of 2^-24
	return sign | uint16(steps), steps == math.Trunc(steps)
}

// encodeUnix returns the time since 1970 in order ABCD; nothing if typ does
// not count from there.
func encodeUnix(typ string, t time.Time) ([]byte, error) {
	n, size, unit := t.Unix(), 8, time.Second
	switch typ {
	case "unix32":
		size = 4
	case "unix64":
	case "unix64ms":
		n, unit = t.UnixMilli(), time.Millisecond
	default:
		return nil, nil
	}
	if t.Nanosecond()%int(unit) != 0 || n < 0 || size == 4 && n > math.MaxUint32 {
		return nil, noFit(typ)
	}
	return bigEndian(uint64(n), size), nil
}

// encodeClock returns what a device's clock that shows t has in its
// registers.
func encodeClock(typ string, t time.Time) ([]byte, error) {
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	milli := t.Nanosecond() / 1e6
	parts := []int{year, int(month), day, hour, minute, second}
	fits := t.Nanosecond() == 0
	short := fits && year >= 2000 && year <= 2099
	var raw []byte
	switch typ {
	case "iec870":
		fits = t.Nanosecond()%1e6 == 0 && year >= 2000 && year <= 2127
		raw = words(year-2000, int(month)<<8|day, hour<<8|minute, 1000*second+milli)
	case "ymdhms":
		raw = words(parts...)
	case "ymdhmsms":
		fits = t.Nanosecond()%1e6 == 0
		raw = words(append(parts, milli)...)
	case "ymdhms8":
		fits = short
		raw = words((year-2000)<<8|int(month), day<<8|hour, minute<<8|second)
	case "bcdtime":
		fits = short
		raw = []byte(t.Format("060102150405"))
		for i := range len(raw) / 2 {
			raw[i] = raw[2*i]<<4 | raw[2*i+1]&0xf
		}
		raw = raw[:6]
	case "mdyhms":
		fits = fits && year >= 1970 && year <= 2099
		raw = words(int(month)<<8|day, (year-1900)<<8|hour, minute<<8|second)
	default:
		return nil, fmt.Errorf("unknown type %q", typ)
	}
	if !fits {
		return nil, noFit(typ)
	}
	return raw, nil
}

func words(values ...int) []byte {
	var raw []byte
	for _, v := range values {
		raw = binary.BigEndian.AppendUint16(raw, uint16(v))
	}
	return raw
}

func bigEndian(u uint64, size int) []byte {
	return binary.BigEndian.AppendUint64(nil, u)[8-size:]
}
