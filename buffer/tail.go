package buffer

import (
	"time"

	"millrace/buffer/internal/shm"
)

const (
	slabSize  = shm.SlabSize
	slabSpare = 32 // free slabs kept for reuse; more go back to the system
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

	shared *shm.Region // where slabs come from, as far as it has memory; nil: from the heap
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
	shared *shm.Slab // nil: the slab is on the heap
	buf    []byte    // then
	used   int       // entries that still point into it
}

// entryCost is the memory that a record of size bytes takes in the tail.
func entryCost(size int) int64 { return int64(shm.FrameSize(size)) + 80 }

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
	data := t.store(&shm.Record{Seq: seq, Time: r.Time, Mono: mono, Schema: r.Schema, Readings: r.Readings, Data: r.Data})
	t.n++
	*t.entry(seq) = tailEntry{time: r.Time, schema: r.Schema, readings: r.Readings, at: at, mono: mono, data: data}
	t.bytes += entryCost(len(data))
	if t.shared != nil {
		t.shared.SetHigh(seq + 1)
	}
}

func (t *tail) grow() {
	ring := make([]tailEntry, 2*len(t.ring))
	for i := range t.n {
		ring[i] = t.ring[(t.head+i)&(len(t.ring)-1)]
	}
	t.ring, t.head = ring, 0
}

// store copies the record's data into the newest slab.
func (t *tail) store(r *shm.Record) []byte {
	if n := len(t.slabs); n > 0 {
		if data, ok := t.slabs[n-1].put(r); ok {
			return data
		}
	}
	s := t.newSlab(len(r.Data))
	t.slabs = append(t.slabs, s)
	data, _ := s.put(r) // it was made for it
	return data
}

func (s *slab) put(r *shm.Record) (data []byte, ok bool) {
	if s.shared != nil {
		data, ok = s.shared.Put(r)
	} else if start := len(s.buf); cap(s.buf)-start >= len(r.Data) {
		s.buf = append(s.buf, r.Data...)
		data, ok = s.buf[start:len(s.buf):len(s.buf)], true
	}
	if ok {
		s.used++
	}
	return data, ok
}

// newSlab returns a slab for a record of size bytes.
func (t *tail) newSlab(size int) *slab {
	usual := size <= slabSize
	if t.shared != nil {
		usual = shm.FrameSize(size) <= slabSize
	}
	if n := len(t.free); n > 0 && usual {
		s := t.free[n-1]
		t.free = t.free[:n-1]
		return s
	}
	if t.shared != nil {
		if s := t.shared.NewSlab(size); s != nil {
			return &slab{shared: s}
		}
	}
	return &slab{buf: make([]byte, 0, max(size, slabSize))}
}

// usual tells whether the slab is of the size that can be used again. While
// there is shared memory, others from the heap are not: what is in them does
// not survive a crash.
func (t *tail) usual(s *slab) bool {
	if s.shared != nil {
		return s.shared.Usual()
	}
	return t.shared == nil && cap(s.buf) == slabSize
}

func (s *slab) reset() {
	if s.shared != nil {
		s.shared.Reset()
	}
	s.buf = s.buf[:0]
}

// pop forgets the oldest record.
func (t *tail) pop() {
	e := &t.ring[t.head]
	t.bytes -= entryCost(len(e.data))
	*e = tailEntry{}
	t.head = (t.head + 1) & (len(t.ring) - 1)
	t.n--
	t.first++
	if t.shared != nil {
		t.shared.SetLow(t.first)
	}

	s := t.slabs[0]
	s.used--
	if s.used > 0 {
		return
	}
	if len(t.slabs) == 1 && t.usual(s) {
		s.reset() // still the newest: go on in it
		return
	}
	copy(t.slabs, t.slabs[1:])
	t.slabs[len(t.slabs)-1] = nil
	t.slabs = t.slabs[:len(t.slabs)-1]
	switch {
	case t.usual(s) && len(t.free) < slabSpare:
		s.reset()
		t.free = append(t.free, s)
	case s.shared != nil:
		s.shared.Free()
	}
}

// unshare forgets what stands in shared memory: it is going to be unmapped.
func (t *tail) unshare() {
	t.shared, t.slabs, t.free = nil, nil, nil
	for i := range t.ring {
		t.ring[i].data = nil
	}
}

// has tells whether the record is in the tail.
func (t *tail) has(seq uint64) bool { return seq >= t.first && seq < t.next() }

// record returns the record; its Data is good only while the lock is held.
func (t *tail) record(seq uint64) Record {
	e := t.entry(seq)
	return Record{Seq: seq, Time: e.time, Schema: e.schema, Readings: e.readings, Data: e.data}
}
