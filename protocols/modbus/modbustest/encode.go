package modbustest

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"millrace/protocols"
)

// Encode returns the registers' bytes that a tag of the given type and order
// is read from. The type is written as in a tag map, such as "float32",
// "string(8)" or "uint16[4]"; "bool" gives a register of 1 or 0, and
// "bool[n]" as many bits, the lowest of the first register first. Numbers of
// another kind than the type's are an error, and so are those that do not
// fit it.
func Encode(typ string, order protocols.Order, v protocols.Value) ([]byte, error) {
	base, length, isArray := strings.Cut(strings.TrimSuffix(typ, "]"), "[")
	if !isArray {
		return encodeOne(base, order, v)
	}
	n, err := strconv.Atoi(length)
	if err != nil || n != len(v.Elems()) {
		return nil, fmt.Errorf("%s cannot hold %d elements", typ, len(v.Elems()))
	}
	if base == "bool" {
		return encodeBits(order, v.Elems()), nil
	}
	var raw []byte
	for _, e := range v.Elems() {
		one, err := encodeOne(base, order, e)
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

func encodeOne(typ string, order protocols.Order, v protocols.Value) ([]byte, error) {
	name, size, sized := strings.Cut(strings.TrimSuffix(typ, ")"), "(")
	if sized {
		n, err := strconv.Atoi(size)
		if err != nil || n < len(v.AsString()) {
			return nil, fmt.Errorf("%s cannot hold %d bytes", typ, len(v.AsString()))
		}
		raw := make([]byte, (n+1)/2*2)
		copy(raw, v.AsString())
		return swapBytes(raw, order), nil
	}
	raw, err := encodeNumber(name, v)
	if err != nil {
		return nil, err
	}
	if order == protocols.CDAB || order == protocols.DCBA {
		for i, j := 0, len(raw)-2; i < j; i, j = i+2, j-2 {
			raw[i], raw[i+1], raw[j], raw[j+1] = raw[j], raw[j+1], raw[i], raw[i+1]
		}
	}
	return swapBytes(raw, order), nil
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

// encodeNumber returns v in order ABCD.
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
	case "float32":
		if v.Kind() == protocols.KindFloat32 {
			return bigEndian(uint64(math.Float32bits(v.AsFloat32())), 4), nil
		}
	case "float64":
		if v.Kind() == protocols.KindFloat64 {
			return bigEndian(math.Float64bits(v.AsFloat64()), 8), nil
		}
	case "bcd16", "bcd32":
		size, _ := strconv.Atoi(typ[3:])
		digits, err := strconv.ParseUint(strconv.FormatUint(v.AsUint(), 10), 16, size)
		if v.Kind() == protocols.KindUint && err == nil {
			return bigEndian(digits, size/8), nil
		}
	default:
		return nil, fmt.Errorf("unknown type %q", typ)
	}
	return nil, fmt.Errorf("a value does not fit %s", typ)
}

func bigEndian(u uint64, size int) []byte {
	return binary.BigEndian.AppendUint64(nil, u)[8-size:]
}
