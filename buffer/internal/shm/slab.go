package shm

// SlabSize is the memory of the usual slab.
const SlabSize = slotSize

// Slab is a piece of the region that records are put into, one after the
// other: a slot, or several in a row for a record that is larger.
type Slab struct {
	r     *Region
	first int // slot
	slots int
	mem   []byte
	used  int
}

// NewSlab returns a slab that a record with size bytes of data fits into, or
// nil: there is no memory, or not in one piece.
func (r *Region) NewSlab(size int) *Slab {
	n := max(1, (FrameSize(size)+slotSize-1)/slotSize)
	first := r.findSlots(n)
	if first < 0 {
		return nil
	}
	off := r.at.slot(first)
	if allocate(r.file, off, n*slotSize) != nil {
		_ = punch(r.file, off, n*slotSize) // a part of it may have pages; if they stay, the next one gets them
		return nil
	}
	for i := range n {
		r.taken[first+i] = true
	}
	return &Slab{r: r, first: first, slots: n, mem: r.mem[off : off+n*slotSize : off+n*slotSize]}
}

// findSlots returns the first of n free slots in a row, or -1.
func (r *Region) findSlots(n int) int {
	run := 0
	for i, taken := range r.taken {
		if taken {
			run = 0
			continue
		}
		run++
		if run == n {
			return i - n + 1
		}
	}
	return -1
}

// Put appends a record and returns its data as it stands in the slab; nil,
// false: it does not fit.
func (s *Slab) Put(rec *Record) (data []byte, ok bool) {
	n := FrameSize(len(rec.Data))
	if n > len(s.mem)-s.used {
		return nil, false
	}
	start := s.used
	putFrame(s.mem[start:], s.r.tag, rec)
	s.used += n
	s.r.publish(s.r.at.slotWord(s.first), slotEntry(s.slots, s.used))
	from := start + frameHeader
	to := from + len(rec.Data)
	return s.mem[from:to:to], true
}

// Reset empties the slab. Its records are below the region's low by then.
func (s *Slab) Reset() {
	s.used = 0
	s.r.publish(s.r.at.slotWord(s.first), 0)
}

// Usual tells whether the slab is of the usual size.
func (s *Slab) Usual() bool { return s.slots == 1 }

// Free gives the slab's memory back to the system.
func (s *Slab) Free() {
	s.Reset()
	_ = punch(s.r.file, s.r.at.slot(s.first), s.slots*slotSize) // if the pages stay, the next slab there gets them
	for i := range s.slots {
		s.r.taken[s.first+i] = false
	}
	s.mem = nil
}

// slotEntry is what the directory says of a slab, at its first slot.
func slotEntry(slots, used int) uint64 { return uint64(slots)<<32 | uint64(used) }

func splitEntry(e uint64) (slots, used int) { return int(e >> 32 & 0xFFFFF), int(e & 0x7FFFFFFF) }
