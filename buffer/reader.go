package buffer

import (
	"errors"
	"fmt"
	"time"

	"millrace/buffer/internal/pace"
)

const (
	// What a forwarder copies out at once: bounds on its memory.
	batchRecords = 128
	batchBytes   = 256 << 10
	batchStored  = 64 << 10
)

// step is what a forwarder has to do next.
type step int

const (
	stepWait    step = iota // nothing is there, or nothing may go yet
	stepGap                 // a gap notice is next
	stepRecords             // the lane's batch holds records
	stepOne                 // one record of the backlog's batch may go
	stepAgain               // something was found out; ask again
	stepGone                // the uplink was removed
	stepStale               // the uplink's place was moved: the session has to begin anew
)

// turn is a step, and what goes with it.
type turn struct {
	step  step
	gap   *pendingGap
	live  bool          // by the live lane
	paced bool          // the pacer counts it
	wait  time.Duration // ask again after that; pace.Wait: when woken
}

// batch is what a forwarder copied out of the buffer. It belongs to one
// forwarder and is used again and again.
type batch struct {
	ord    uint64
	recs   []Record
	at     int // the next one to be sent
	arena  []byte
	stored []byte // chunks as they are on the disk
	heads  []chunkHeader
	ends   []int

	stepped      []int64 // by record: how far the clock had been set when it arrived
	chunkStepped []int64 // the same by chunk

	// What corrects its times, as of so many changes of the clock.
	base    int64
	set     bool
	changes uint64

	decoder *chunkDecoder
}

// next fills a lane's batch, or says what else is next for u. The live lane
// goes first.
func (b *Buffer) next(u *uplink, backlog, live *batch) (turn, error) {
	b.mu.Lock()
	if u.stale {
		b.mu.Unlock()
		return turn{step: stepStale}, nil
	}
	if u.how == LiveFirst {
		b.steer(u)
	}
	if u.live {
		l := u.liveLane()
		t, err := b.fill(u, &l, live)
		if err != nil || t.step != stepWait {
			return t, err
		}
		b.mu.Lock() // whoever appends from here on wakes the forwarder
		if u.stale {
			b.mu.Unlock()
			return turn{step: stepStale}, nil
		}
	}
	if backlog.at < len(backlog.recs) && u.paced() && !u.removed {
		defer b.mu.Unlock()
		wait, paced := b.pause(u, backlog)
		if wait == 0 {
			return turn{step: stepOne, paced: paced}, nil
		}
		u.waiting, u.wantsAck = true, wait == pace.Wait
		return turn{step: stepWait, wait: wait}, nil
	}
	l := u.backlogLane()
	t, err := b.fill(u, &l, backlog)
	switch {
	case t.step == stepRecords && u.paced():
		t.step = stepAgain
	case t.step == stepWait && u.live:
		b.mu.Lock()
		defer b.mu.Unlock()
		if u.stale {
			return turn{step: stepStale}, nil
		}
		// What is not committed yet is not seen, and not passed.
		if passed := !l.after.before(l.upTo) || l.upTo.seq == 0; passed && u.backlog == 0 {
			u.join()
			return turn{step: stepAgain}, nil
		}
		u.wantsAck = true
		if !u.waiting {
			return turn{step: stepAgain}, nil // woken in between
		}
	}
	return t, err
}

// fill fills the lane's batch, or says what else the lane has to do. It is
// called under the lock, and returns without it.
func (b *Buffer) fill(u *uplink, l *lane, bt *batch) (turn, error) {
	if u.removed {
		b.mu.Unlock()
		return turn{step: stepGone}, nil
	}
	g := u.nextGap(l)
	upTo := l.upTo
	if g != nil {
		upTo = place{g.ord, g.From - 1}
		if !l.after.before(upTo) {
			b.mu.Unlock()
			return turn{step: stepGap, gap: g, live: l.live}, nil
		}
	}
	s := b.segmentAfter(l.after)
	if s != nil && upTo.before(s.start()) {
		s = nil
	}
	ord, expected := b.ord, uint64(1)
	if s != nil {
		ord = s.ord
	}
	if l.after.ord == ord {
		expected = l.after.seq + 1
	}
	if span := u.spanOf(ord, expected); span != nil && !l.live && (place{ord, expected - 1}).before(upTo) {
		u.sent = place{ord, span.sent}
		b.mu.Unlock()
		return turn{step: stepAgain}, nil
	}
	until := u.beforeSpan(ord, expected)
	switch {
	case upTo.ord == ord:
		until = min(until, upTo.seq)
	case upTo.ord < ord:
		until = 0
	}
	switch {
	case ord == b.ord && b.tail.has(expected) && expected <= min(b.visible(), until):
		b.copyTail(bt, expected, min(b.visible(), until))
		b.mu.Unlock()
		return turn{step: stepRecords, live: l.live}, nil
	case s != nil && expected <= until:
		d := b.disk
		b.mu.Unlock()
		st, err := b.fromSegment(d, u, s, l, expected, min(s.last, until), bt)
		return turn{step: st, live: l.live}, err
	case g != nil:
		b.mu.Unlock()
		return turn{step: stepGap, gap: g, live: l.live}, nil
	case expected < b.tail.first && expected <= until && b.tail.has(b.visible()):
		// It should not be: all that left the tail is on the disk,
		// acknowledged, or announced. If it is, it is not kept silent.
		last := min(until, b.tail.first-1)
		missing := u.uncovered(b.ord, expected, last)
		for _, part := range missing {
			u.miss(b.ord, Gap{Stream: b.o.Stream, From: part[0], To: part[1], Reason: ReasonDamaged})
		}
		if len(missing) == 0 {
			u.pass(l, place{b.ord, last})
		}
		b.mu.Unlock()
		return turn{step: stepAgain}, nil
	}
	u.waiting = true
	b.mu.Unlock()
	return turn{step: stepWait, wait: pace.Wait}, nil
}

// segmentAfter returns the first segment that holds something beyond p.
func (b *Buffer) segmentAfter(p place) *segment {
	for _, s := range b.segments {
		if p.before(s.end()) {
			return s
		}
	}
	return nil
}

// copyTail copies records out of the tail.
func (b *Buffer) copyTail(bt *batch, from, to uint64) {
	bt.reset(b.ord)
	size := 0
	last := from - 1
	for seq := from; seq <= to && last-from+1 < batchRecords; seq++ {
		n := len(b.tail.entry(seq).data)
		if size > 0 && size+n > batchBytes {
			break
		}
		size += n
		last = seq
	}
	bt.room(size)
	h := b.clocks.mine
	for seq := from; seq <= last; seq++ {
		r := b.tail.record(seq)
		start := len(bt.arena)
		bt.arena = append(bt.arena, r.Data...)
		r.Data = bt.arena[start:len(bt.arena):len(bt.arena)]
		r.Stream = b.o.Stream
		bt.recs = append(bt.recs, r)
		bt.stepped = append(bt.stepped, b.tail.entry(seq).stepped(h))
	}
}

func (bt *batch) reset(ord uint64) {
	bt.ord, bt.at, bt.changes = ord, 0, 0
	bt.recs, bt.stepped, bt.arena = bt.recs[:0], bt.stepped[:0], bt.arena[:0]
}

// room makes the arena large enough for size bytes: Data points into it.
func (bt *batch) room(size int) {
	if cap(bt.arena) < size || cap(bt.arena) > 4*batchBytes && size < batchBytes {
		bt.arena = make([]byte, 0, max(size, 32<<10))
	}
}

// fromSegment fills the batch with the records of s from expected up to
// until.
func (b *Buffer) fromSegment(d *disk, u *uplink, s *segment, l *lane, expected, until uint64, bt *batch) (step, error) {
	bt.reset(s.ord)
	err := b.copyChunks(d, s, expected, until, bt)
	if err != nil {
		return stepAgain, b.unreadable(s, err)
	}
	if len(bt.heads) == 0 {
		b.hole(u, s, l, expected, until)
		return stepAgain, nil
	}
	if first := bt.heads[0]; expected <= first.prev && expected < first.first {
		if b.hole(u, s, l, expected, min(first.prev, first.first-1, until)) {
			return stepAgain, nil
		}
	}
	b.dateChunks(bt)
	if err := bt.unpack(s.stream, expected, until); err != nil {
		return stepAgain, err
	}
	if len(bt.recs) == 0 {
		b.hole(u, s, l, expected, min(until, bt.heads[0].last()))
		return stepAgain, nil
	}
	return stepRecords, nil
}

// unreadable handles a segment that cannot be read: a damaged one is rescued.
// Any other error (no memory, no file handles) is returned, for a retry.
func (b *Buffer) unreadable(s *segment, err error) error {
	if !isDamage(err) && !isMissing(err) {
		return fmt.Errorf("read %s: %w", s.path, err)
	}
	b.mu.Lock()
	active := s.active
	if active {
		b.suspect = s
	}
	b.mu.Unlock()
	if active {
		b.kickWriter()
		return fmt.Errorf("read %s: %w", s.path, err)
	}
	return b.rescue(s, err)
}

// hole says that u will not get the records from to until of s, which are
// not in the file, and moves on. It returns whether there was anything that u
// still waited for.
func (b *Buffer) hole(u *uplink, s *segment, l *lane, from, until uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	parts := u.uncovered(s.ord, from, until)
	for _, part := range parts {
		n := part[1] - part[0] + 1
		g := Gap{Stream: s.stream, From: part[0], To: part[1], Reason: ReasonDamaged, Readings: s.typical(n)}
		u.miss(s.ord, g)
		if part[1] > s.holesTo { // another uplink did not find it before
			s.holesTo = part[1]
			b.counts.drop(ReasonDamaged, n, g.Readings)
		}
	}
	if len(parts) > 0 {
		return true
	}
	// Meanwhile a part may have been given up: that is announced first.
	for _, g := range u.gaps {
		if g.ord == s.ord && g.From <= until && from <= g.To {
			until = g.From - 1
			break
		}
	}
	if from <= until {
		u.pass(l, place{s.ord, until})
	}
	return false
}

// copyChunks copies the chunks that hold records from expected to until out
// of the file, as far as a batch goes, in one short transaction. A damaged
// chunk ends a batch, and is an error where it would begin one.
func (b *Buffer) copyChunks(d *disk, s *segment, expected, until uint64, bt *batch) error {
	bt.stored, bt.heads, bt.ends = bt.stored[:0], bt.heads[:0], bt.ends[:0]
	src, err := d.files.acquire(s)
	if err != nil {
		return err
	}
	defer d.files.release(s)
	tag := streamTag(s.stream)
	raw := 0
	var damage error
	err = src.each(expected, func(v []byte) bool {
		h, body, err := parseChunk(v, tag)
		if err != nil && !s.raw && len(bt.heads) == 0 {
			damage = err
			return false
		}
		if err != nil || h.last() < expected {
			return len(bt.heads) == 0
		}
		if h.first > until {
			return false
		}
		if len(bt.heads) > 0 && (h.first != bt.heads[len(bt.heads)-1].last()+1 ||
			len(bt.stored)+len(body) > batchStored || raw+int(h.rawLen) > batchBytes) {
			return false
		}
		raw += int(h.rawLen)
		bt.stored = append(bt.stored, body...)
		bt.heads = append(bt.heads, h)
		bt.ends = append(bt.ends, len(bt.stored))
		return true
	})
	if err == nil {
		err = damage
	}
	if errors.Is(err, errBroken) {
		d.files.abandon(s)
	}
	return err
}

// unpack decodes the copied chunks and keeps what is from expected to until.
func (bt *batch) unpack(stream string, expected, until uint64) error {
	if bt.decoder == nil {
		d, err := newChunkDecoder()
		if err != nil {
			return err
		}
		bt.decoder = d
	}
	size := 0
	for i := range bt.heads {
		size += int(bt.heads[i].rawLen)
	}
	bt.room(size)
	start := 0
	for i := range bt.heads {
		recs, arena, err := bt.decoder.decode(&bt.heads[i], bt.stored[start:bt.ends[i]], bt.recs, bt.arena)
		if err != nil {
			// The checksum fits and the content does not: our own fault. The
			// records before it are good; the hole shows by itself.
			break
		}
		bt.recs, bt.arena = recs, arena
		start = bt.ends[i]
		for len(bt.stepped) < len(recs) {
			bt.stepped = append(bt.stepped, bt.chunkStepped[i])
		}
	}
	n := 0
	for i, r := range bt.recs {
		if r.Seq >= expected && r.Seq <= until {
			r.Stream = stream
			bt.recs[n], bt.stepped[n] = r, bt.stepped[i]
			n++
		}
	}
	bt.recs, bt.stepped = bt.recs[:n], bt.stepped[:n]
	return nil
}
