package buffer

import "encoding/binary"

// alike finds, in a chunk, the record before each one that is most like it:
// the last one of the same schema and length.
type alike struct{ seen map[uint64]likeness }

// likeness is where the last record of a schema stands, and how long it is.
type likeness struct{ at, length int }

func (a *alike) reset() {
	if a.seen == nil {
		a.seen = make(map[uint64]likeness)
	}
	clear(a.seen)
}

// last returns where the record before the one at at is that is like it, and
// remembers this one.
func (a *alike) last(schema uint64, at, length int) (before int, ok bool) {
	l, ok := a.seen[schema]
	a.seen[schema] = likeness{at, length}
	return l.at, ok && l.length == length
}

// low7 is the lower seven bits of each byte: sums of bytes are made eight at
// a time, with their highest bits apart so that nothing is carried over.
const low7 = 0x7f7f7f7f7f7f7f7f

// subtract takes from each byte of a the one of b, which is as long.
func subtract(a, b []byte) {
	for ; len(a) >= 8; a, b = a[8:], b[8:] {
		x, y := binary.LittleEndian.Uint64(a), binary.LittleEndian.Uint64(b)
		binary.LittleEndian.PutUint64(a, ((x|^uint64(low7))-(y&low7))^((x^^y)&^low7))
	}
	for i := range a {
		a[i] -= b[i]
	}
}

// add is the reverse of subtract.
func add(a, b []byte) {
	for ; len(a) >= 8; a, b = a[8:], b[8:] {
		x, y := binary.LittleEndian.Uint64(a), binary.LittleEndian.Uint64(b)
		binary.LittleEndian.PutUint64(a, ((x&low7)+(y&low7))^((x^y)&^low7))
	}
	for i := range a {
		a[i] += b[i]
	}
}
