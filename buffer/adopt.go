package buffer

import (
	"maps"
	"slices"
	"time"
)

// adoptLater tries the directory again that could not be used at the start
// (its disk was not mounted yet, say), and takes it over with all that earlier
// runs left there. It returns when it wants to be called again. The writer
// calls it.
func (b *Buffer) adoptLater() time.Duration {
	b.adopting.Lock()
	defer b.adopting.Unlock()
	s := b.scout()
	im, err := s.takeOver()
	if err != nil {
		b.mu.Lock()
		b.diskErr = memoryOnly(err)
		b.mu.Unlock()
		return adoptEvery
	}
	b.join(s)
	b.diskSays(s.diskErr)
	b.begin(im)
	b.share()
	b.log.Info("the buffer's directory can be used now; what earlier runs left there goes out first", "dir", b.o.Dir)
	return 0
}

// scout returns a buffer that nobody uses, to take the directory over as a
// start does: it is not seen by anybody before all is found.
func (b *Buffer) scout() *Buffer {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.o
	o.Boot = b.clocks.boot
	o.Uplinks = slices.Collect(maps.Keys(b.uplinks))
	s := newBuffer(o)
	s.started, s.booted = b.started, b.booted
	return s
}

// join goes on with the disk that s took over. This run, which was the only
// one, comes after those on the disk. So its ordinal changes, and what its
// uplinks have acknowledged is beyond what waits for them there: they end
// their sessions, and begin with that.
func (b *Buffer) join(s *Buffer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disk, b.ord, b.segments, b.previous = s.disk, s.ord, s.segments, s.previous
	b.removed = append(b.removed, s.removed...)
	b.shared.path = s.shared.path
	maps.Copy(s.w.values, b.w.values)
	b.w.values, b.w.sealed, b.w.gone = s.w.values, s.w.sealed, s.w.gone
	b.counts.join(&s.counts)
	shift := b.clocks.join(&s.clocks, b.ord)
	for name, u := range b.uplinks {
		u.resume(s.uplinks[name], b.ord, shift)
	}
	b.release()
}

// join adds what o counted.
func (c *counts) join(o *counts) {
	for reason, n := range o.dropped {
		c.dropped[reason] += n
		c.batches[reason] += o.batches[reason]
	}
	c.commits += o.commits
	c.written += o.written
	c.stateSize, c.setAside = o.stateSize, o.setAside
}

// join takes over what the disk knows of clocks, of this boot's before the
// run, too. It returns by how much that moves the run's plain times.
func (c *clocks) join(o *clocks, ord uint64) (shift int64) {
	before := c.mine.Newest()
	if earlier := o.boots[c.boot]; earlier != nil {
		earlier.Follow(c.mine)
		c.mine = earlier
	}
	c.boots, c.streams = o.boots, o.streams
	c.boots[c.boot], c.streams[ord] = c.mine, c.boot
	shift = before - c.mine.Newest()
	c.now += shift
	c.dirty = true
	c.rebase()
	return shift
}

// resume puts the uplink at its place on the disk, as was knows it. What it
// has acknowledged of this run, which has a new ordinal, it has beyond that.
func (u *uplink) resume(was *uplink, ord uint64, shift int64) {
	at, done := was.cursor, was.done
	switch acked := u.cursor.seq; {
	case at.ord == ord: // the disk does not know it: it has been at the present
		at.seq = acked
	case acked > 0:
		done = append(done, ackSpan{ord: ord, from: 1, to: acked})
	}
	for _, s := range u.done {
		s.ord = ord
		done = append(done, s)
	}
	gaps := was.gaps
	for _, g := range u.gaps {
		moved := &pendingGap{Gap: g.Gap, ord: ord}
		if moved.Oldest != 0 {
			moved.Oldest, moved.Newest = moved.Oldest+shift, moved.Newest+shift
		}
		gaps = append(gaps, moved)
	}
	u.cursor, u.saved, u.done, u.gaps = at, was.saved, done, gaps
	u.acked += was.acked
	u.dropped += was.dropped
	u.cursorDirty, u.stale = true, true
	u.touchGaps()
	u.sent = at
	u.flights, u.flightAt, u.backlog = u.flights[:0], 0, 0 // the next session sends them again
	u.wake()
}
