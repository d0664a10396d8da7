package buffer

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// counts are what Stats adds up; the buffer's lock covers them.
type counts struct {
	appended  uint64
	commits   uint64
	written   uint64
	packed    uint64
	dropped   map[string]uint64 // readings
	batches   map[string]uint64 // of them
	stateSize int64
	setAside  []asideFile
}

// drop counts what was given up.
func (c *counts) drop(reason string, batches, readings uint64) {
	if batches > 0 {
		c.dropped[reason] += readings
		c.batches[reason] += batches
	}
}

// Stats is a look at the buffer.
type Stats struct {
	Stream         string            // id of this run
	Appended       uint64            // batches appended in this run
	Batches        uint64            // batches that some uplink has not acknowledged
	DiskBytes      int64             // size of all files
	MaxBytes       int64             // what DiskBytes is bounded by
	TailBatches    int               // batches in memory
	TailBytes      int64             // memory they take
	MaxTailBytes   int64             // what TailBytes is bounded by
	MemoryOnly     uint64            // of Batches, those that are not on the disk: what a power cut would take now
	Oldest         time.Time         // when the oldest batch that waits arrived; zero: none waits
	DiskError      string            // why the disk takes nothing; "": it does
	Trouble        Trouble           // what kind of fault that is
	Dropped        map[string]uint64 // readings given up in this run, by reason
	DroppedBatches map[string]uint64 // the batches that held them
	Commits        uint64            // transactions written in this run
	Written        uint64            // bytes bbolt wrote for them
	Packed         uint64            // of them, compressed records
	Segments       int               // files that hold records
	SetAside       int               // damaged files that are kept
	SetAsideBytes  int64             // their size
	Previous       Previous          // how the run before this one ended
	Uplinks        map[string]UplinkStats
	Forecast       Forecast // where this is going
}

// UplinkStats is a look at one uplink's place in the buffer.
type UplinkStats struct {
	Connected bool      // a session is up
	Lag       uint64    // batches that it has not acknowledged
	InFlight  int       // of them, on their way
	Oldest    time.Time // when the oldest of them arrived; zero: there is none
	Acked     uint64    // batches acknowledged, over all runs
	Gaps      int       // gap notices it has still to get
	Dropped   uint64    // readings it will not get, noticed in this run
	// Drained is how long it takes, at the present speed, until it has all
	// that waits for it; 0: it has no backlog, does not catch up, or it is
	// not known yet.
	Drained time.Duration
}

// Stats returns the buffer's figures. It is cheap, and never waits for the
// disk.
func (b *Buffer) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Stats{
		Stream: b.o.Stream, Appended: b.counts.appended, MaxBytes: b.o.MaxSize,
		TailBatches: b.tail.n, TailBytes: b.tail.bytes, MaxTailBytes: b.o.TailBytes, MemoryOnly: b.memoryOnlyBatches(), Dropped: maps.Clone(b.counts.dropped),
		Commits: b.counts.commits, Written: b.counts.written, Packed: b.counts.packed,
		DroppedBatches: maps.Clone(b.counts.batches), Segments: len(b.segments), SetAside: len(b.counts.setAside),
		Previous: b.previous, Uplinks: make(map[string]UplinkStats, len(b.uplinks)),
	}
	s.DiskBytes = b.counts.stateSize
	for _, seg := range b.segments {
		s.DiskBytes += seg.size
	}
	for _, a := range b.counts.setAside {
		s.SetAsideBytes += a.size
	}
	s.DiskBytes += s.SetAsideBytes
	if b.diskErr != nil {
		s.DiskError, s.Trouble = b.diskErr.Error(), troubleOf(b.diskErr)
	}
	for name, u := range b.uplinks {
		us := b.uplinkStats(u)
		s.Uplinks[name] = us
		s.Batches = max(s.Batches, us.Lag)
		if !us.Oldest.IsZero() && (s.Oldest.IsZero() || us.Oldest.Before(s.Oldest)) {
			s.Oldest = us.Oldest
		}
	}
	s.Forecast = b.forecast(&s)
	return s
}

// memoryOnlyBatches counts what some uplink waits for and the disk does not
// have; the lock is held.
func (b *Buffer) memoryOnlyBatches() (n uint64) {
	from, to := max(b.settled+1, b.tail.first), b.tail.next()-1
	if from > to {
		return 0
	}
	var parts [][2]uint64
	for _, u := range b.uplinks {
		parts = append(parts, u.uncovered(b.ord, from, to)...)
	}
	slices.SortFunc(parts, func(x, y [2]uint64) int { return cmp.Compare(x[0], y[0]) })
	for _, p := range parts {
		if p[1] >= from {
			n += p[1] - max(p[0], from) + 1
			from = p[1] + 1
		}
	}
	return n
}

func (b *Buffer) uplinkStats(u *uplink) UplinkStats {
	s := UplinkStats{
		Connected: u.connected, InFlight: len(u.flying()), Acked: u.acked, Gaps: len(u.gaps), Dropped: u.dropped,
	}
	oldest := int64(0)
	for _, seg := range b.segments {
		if seg.ord == b.ord || !u.cursor.before(seg.end()) {
			continue
		}
		oldest = older(oldest, b.clocks.wall(seg.ord, seg.oldest))
		if seg.ord == u.cursor.ord && u.cursor.seq >= seg.first {
			s.Lag += seg.last - u.cursor.seq
		} else {
			s.Lag += seg.count()
		}
	}
	seq := uint64(0) // of this stream, acknowledged
	if u.cursor.ord == b.ord {
		seq = u.cursor.seq
	}
	s.Lag += b.tail.next() - 1 - seq
	for _, g := range u.gaps {
		s.Lag -= min(s.Lag, b.counted(g.ord, g.From, g.To))
	}
	for _, d := range u.done {
		s.Lag -= min(s.Lag, b.counted(d.ord, d.from, d.to))
	}
	switch first := u.firstOfBacklog(); {
	case first != nil && first.time != 0:
		oldest = b.clocks.wall(first.at.ord, first.time)
	case oldest != 0 || s.Lag == 0:
	case b.tail.has(seq + 1):
		oldest = b.arrived(seq + 1)
	default:
		if seg := b.segmentAfter(u.cursor); seg != nil {
			oldest = b.clocks.wall(seg.ord, seg.oldest)
		} else if b.tail.n > 0 {
			oldest = b.arrived(b.tail.first)
		}
	}
	if oldest != 0 && s.Lag > 0 {
		s.Oldest = time.UnixMilli(oldest)
	}
	return s
}

// counted returns how many of the records from..to, all beyond a cursor, the
// counting of what waits for that uplink takes for ones that wait.
func (b *Buffer) counted(ord, from, to uint64) (n uint64) {
	if ord == b.ord {
		return to - min(from-1, to)
	}
	for _, s := range b.segments {
		if from, to := max(from, s.first), min(to, s.last); s.ord == ord && from <= to {
			n += to - from + 1
		}
	}
	return n
}
