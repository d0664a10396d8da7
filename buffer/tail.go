package buffer

import "time"

const (
	slabSize  = 128 << 10
	slabSpare = 16 // free slabs kept for reuse; more go to the garbage collector
)

// tail holds the newest records in memory: consecutive ones, in a ring, their
// bytes in slabs that are used again. It has no lock; the buffer's covers it.
type tail struct {
	ring  []tailEntry // a power of two of them
	head  int         // index of the oldest
	n     int
	first uint64 // seq of the oldest; the next one's while there is none
	bytes int64  // memory held

	slabs []*slab // in use, oldest first
	free  []*slab
}

type tailEntry struct {
	time     int64
	schema   uint64
	readings int
	at       time.Duration // since the buffer was opened, by the monotonic clock
	mono     int64         // ms since the machine's boot, when it was appended
	data     []byte
}

// slab is a piece of memory that entries were cut from, one after the other.
type slab struct {
	buf  []byte
	used int // entries that still point into it
}

// entryCost is the memory that a record of size bytes takes in the tail.
func entryCost(size int) int64 { return int64(size) + 80 }

func newTail() *tail {
	return &tail{ring: make([]tailEntry, 1024), first: 1}
}

// next returns the seq of the record that is pushed next.
func (t *tail) next() uint64 { return t.first + uint64(t.n) }

func (t *tail) entry(seq uint64) *tailEntry {
	return &t.ring[(t.head+int(seq-t.first))&(len(t.ring)-1)]
}

func (t *tail) push(r *Record, at time.Duration, mono int64) {
	if t.n == len(t.ring) {
		t.grow()
	}
	seq := t.next()
	t.n++
	*t.entry(seq) = tailEntry{time: r.Time, schema: r.Schema, readings: r.Readings, at: at, mono: mono, data: t.store(r.Data)}
	t.bytes += entryCost(len(r.Data))
}

func (t *tail) grow() {
	ring := make([]tailEntry, 2*len(t.ring))
	for i := range t.n {
		ring[i] = t.ring[(t.head+i)&(len(t.ring)-1)]
	}
	t.ring, t.head = ring, 0
}

// store copies data into the newest slab.
func (t *tail) store(data []byte) []byte {
	var s *slab
	if len(t.slabs) > 0 {
		s = t.slabs[len(t.slabs)-1]
	}
	if s == nil || cap(s.buf)-len(s.buf) < len(data) {
		s = t.newSlab(len(data))
		t.slabs = append(t.slabs, s)
	}
	start := len(s.buf)
	s.buf = append(s.buf, data...)
	s.used++
	return s.buf[start:len(s.buf):len(s.buf)]
}

func (t *tail) newSlab(size int) *slab {
	if size > slabSize {
		return &slab{buf: make([]byte, 0, size)}
	}
	if n := len(t.free); n > 0 {
		s := t.free[n-1]
		t.free = t.free[:n-1]
		return s
	}
	return &slab{buf: make([]byte, 0, slabSize)}
}

// pop forgets the oldest record.
func (t *tail) pop() {
	e := &t.ring[t.head]
	t.bytes -= entryCost(len(e.data))
	*e = tailEntry{}
	t.head = (t.head + 1) & (len(t.ring) - 1)
	t.n--
	t.first++

	s := t.slabs[0]
	s.used--
	if s.used > 0 {
		return
	}
	if len(t.slabs) == 1 && cap(s.buf) == slabSize {
		s.buf = s.buf[:0] // still the newest: go on in it
		return
	}
	copy(t.slabs, t.slabs[1:])
	t.slabs[len(t.slabs)-1] = nil
	t.slabs = t.slabs[:len(t.slabs)-1]
	if cap(s.buf) == slabSize && len(t.free) < slabSpare {
		s.buf = s.buf[:0]
		t.free = append(t.free, s)
	}
}

// has tells whether the record is in the tail.
func (t *tail) has(seq uint64) bool { return seq >= t.first && seq < t.next() }

// record returns the record; its Data is good only while the lock is held.
func (t *tail) record(seq uint64) Record {
	e := t.entry(seq)
	return Record{Seq: seq, Time: e.time, Schema: e.schema, Readings: e.readings, Data: e.data}
}
