package sparkplug

import (
	"encoding/binary"
	"errors"
	"math"
)

// The wire types of protobuf.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

// ErrPayload is what bytes that are no Sparkplug payload give.
var ErrPayload = errors.New("not a Sparkplug payload")

// field is one field as it was found: its number, and what stands there.
type field struct {
	number uint64
	wire   byte
	num    uint64 // of all but wireBytes
	data   []byte // of wireBytes; part of what was read
}

// next returns the first field of data and what follows it. It takes the
// groups of old protobuf for damage: Sparkplug has none.
func next(data []byte) (f field, rest []byte, err error) {
	key, n := binary.Uvarint(data)
	if n <= 0 || key>>3 == 0 || key>>3 > math.MaxInt32>>2 {
		return f, nil, ErrPayload
	}
	f.number, f.wire, data = key>>3, byte(key&7), data[n:]
	switch f.wire {
	case wireVarint:
		if f.num, n = binary.Uvarint(data); n <= 0 {
			return f, nil, ErrPayload
		}
		return f, data[n:], nil
	case wire64:
		if len(data) < 8 {
			return f, nil, ErrPayload
		}
		f.num = binary.LittleEndian.Uint64(data)
		return f, data[8:], nil
	case wire32:
		if len(data) < 4 {
			return f, nil, ErrPayload
		}
		f.num = uint64(binary.LittleEndian.Uint32(data))
		return f, data[4:], nil
	case wireBytes:
		size, n := binary.Uvarint(data)
		if n <= 0 || size > uint64(len(data)-n) {
			return f, nil, ErrPayload
		}
		f.data = data[n : n+int(size)]
		return f, data[n+int(size):], nil
	}
	return f, nil, ErrPayload
}

// is says whether f is a field of this number and wire type; one with another
// wire type is unknown, and passed over.
func (f *field) is(number uint64, wire byte) bool { return f.number == number && f.wire == wire }

// The keys of fields: number<<3 | wire type. Those from 16 on have two bytes.

func appendVarint(dst []byte, key byte, v uint64) []byte {
	dst = append(dst, key)
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

func appendBool(dst []byte, key byte, v bool) []byte {
	if v {
		return append(dst, key, 1)
	}
	return append(dst, key, 0)
}

func appendText(dst []byte, key byte, s string) []byte {
	return append(appendVarint(dst, key, uint64(len(s))), s...)
}

// open begins a field of bytes whose size is not known yet; seal ends it.
func open(dst []byte, keys ...byte) (out []byte, at int) {
	dst = append(dst, keys...)
	return append(dst, 0), len(dst) + 1
}

// seal writes the size of what was appended since open, which returned at. A
// size of more than one byte moves it along.
func seal(dst []byte, at int) []byte {
	size := len(dst) - at
	if size < 0x80 {
		dst[at-1] = byte(size)
		return dst
	}
	var head [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(head[:], uint64(size))
	dst = append(dst, head[:n-1]...) // room
	copy(dst[at-1+n:], dst[at:at+size])
	copy(dst[at-1:], head[:n])
	return dst
}
