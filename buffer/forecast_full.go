package buffer

// losses counts the batches that were given up at the limits.
type losses struct{ size, age, disk uint64 }

func (c *counts) losses() losses {
	return losses{c.batches[ReasonFull], c.batches[ReasonOld], c.batches[ReasonDisk]}
}

// markFull tells a buffer that fills from one that gives up its oldest
// batches already: that makes room each time, but only for a while. What was
// given up before there was room again counts no more.
func (b *Buffer) markFull(f *Forecast, s *Stats) {
	calm, lost := &b.flow.calm, b.counts.losses()
	switch f.Trend {
	case TrendEmpty, TrendDraining:
		*calm = lost
		return
	case TrendUnknown:
		if f.Known {
			return // an uplink is just back
		}
	case TrendFilling, TrendStanding, TrendFull:
	}
	if !b.sizeMet() {
		calm.size = lost.size
	}
	if !b.ageMet(s) {
		calm.age = lost.age
	}
	if !b.memoryMet(s) {
		calm.disk = lost.disk
	}
	switch {
	case lost.disk > calm.disk:
		f.FullLimit = LimitMemory
	case lost.size > calm.size:
		f.FullLimit = LimitSize
	case lost.age > calm.age:
		f.FullLimit = LimitAge
	default:
		return
	}
	f.Trend, f.Left, f.Full = TrendFull, 0, b.Now()
}

// sizeMet tells, under the lock, whether there is no more room than giving up
// files makes: some of a file, and that of a commit.
func (b *Buffer) sizeMet() bool {
	largest := b.o.SegmentSize
	for _, s := range b.segments {
		largest = max(largest, s.size)
	}
	used, _ := b.recordFiles()
	return b.sizeLimit()-used <= 2*largest
}

// sizeLimit is what Options.MaxSize leaves for the files of records; the lock
// is held.
func (b *Buffer) sizeLimit() int64 { return b.o.MaxSize - b.counts.stateSize - 2*b.allocStep() }

// ageMet tells whether the oldest batch is about as old as it may get: files
// that are given up for their age span a part of it (spansLong), and are
// looked for so often.
func (b *Buffer) ageMet(s *Stats) bool {
	if b.o.MaxAge == 0 || s.Oldest.IsZero() {
		return false
	}
	return b.o.MaxAge-b.Now().Sub(s.Oldest) <= b.o.MaxAge/8+lookEvery
}

// memoryMet tells, under the lock, whether the disk takes nothing and the
// memory has room for a few batches at most.
func (b *Buffer) memoryMet(s *Stats) bool {
	return !b.diskWorks() && b.o.TailBytes-s.TailBytes <= b.o.TailBytes/8
}
