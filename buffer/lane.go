package buffer

import (
	"math"
	"slices"
	"time"

	"millrace/buffer/internal/pace"
)

// CatchUp is the order in which an uplink gets what waited for it.
type CatchUp int

const (
	// InOrder is the oldest first, and new records after all older ones.
	InOrder CatchUp = iota
	// LiveFirst is: while records wait that are older than some seconds, new
	// ones go out at once, and the older ones beside them, paced so that they
	// delay the new ones by little. Both ways keep their order.
	LiveFirst
)

// Rate bounds how fast a backlog (records more than 10 s old) is forwarded.
// The zero value does not bound it.
type Rate struct {
	PerSecond float64 // records a second; 0: no bound
	Share     float64 // part of the link's time, up to 1; 0: no bound
}

// HistoricalAfter is the age from which on receivers are told that a record
// waited (the contract's "historical"). Where new records overtake older ones,
// the older ones are held back until they are that old, so that the order
// holds among both kinds.
const HistoricalAfter = 10 * time.Second

const (
	// behindAfter: an uplink whose next record is older than that is behind.
	behindAfter = 8 * time.Second
	// maxSpans bounds the stretches acknowledged beyond the cursor: a live
	// lane that jumps leaves one. Where it may not jump any more it ends: all
	// goes in order, until the backlog has passed a stretch.
	maxSpans = 256
)

// ackSpan is a stretch of a stream that the uplink acknowledged while it has
// older records to get.
type ackSpan struct {
	ord      uint64
	from, to uint64 // to is from-1 while there is none yet
	sent     uint64 // handed over up to here, in this session
}

// lane is one of the ways by which an uplink's records go out: the backlog's,
// which begins at the cursor, or the live one beyond it.
type lane struct {
	live  bool
	after place // handed over up to here
	upTo  place // where its part of the order ends
}

// backlogLane is the lane of all that the live one has not taken upon itself.
func (u *uplink) backlogLane() lane {
	l := lane{after: u.sent, upTo: place{math.MaxUint64, math.MaxUint64}}
	if u.live {
		s := u.liveSpan()
		l.upTo = place{s.ord, s.from - 1}
	}
	return l
}

func (u *uplink) liveLane() lane {
	s := u.liveSpan()
	return lane{live: true, after: place{s.ord, s.sent}, upTo: place{math.MaxUint64, math.MaxUint64}}
}

// liveSpan is what the live lane has sent; there is one only while u.live.
func (u *uplink) liveSpan() *ackSpan { return &u.done[len(u.done)-1] }

// spanOf returns the span that was handed over and holds seq, or nil.
func (u *uplink) spanOf(ord, seq uint64) *ackSpan {
	for i := range u.done {
		if s := &u.done[i]; s.ord == ord && s.from <= seq && seq <= s.sent {
			return s
		}
	}
	return nil
}

// spanBegins tells whether a span starts with seq.
func (u *uplink) spanBegins(ord, seq uint64) bool {
	return slices.ContainsFunc(u.done, func(s ackSpan) bool { return s.ord == ord && s.from == seq })
}

// beforeSpan returns the last seq from seq on that no span holds.
func (u *uplink) beforeSpan(ord, seq uint64) uint64 {
	for _, s := range u.done {
		if s.ord == ord && s.from > seq && s.sent >= s.from {
			return s.from - 1
		}
	}
	return math.MaxUint64
}

// needs tells whether the uplink has not acknowledged a record.
func (u *uplink) needs(ord, seq uint64) bool {
	if !u.cursor.before(place{ord, seq}) {
		return false
	}
	for i := len(u.done) - 1; i >= 0; i-- {
		if s := &u.done[i]; s.ord == ord && s.from <= seq && seq <= s.to {
			return false
		}
	}
	return true
}

// pass moves a lane on over records that are not handed over: they are
// acknowledged or announced already.
func (u *uplink) pass(l *lane, to place) {
	switch {
	case !l.live:
		if u.sent.before(to) {
			u.sent = to
		}
	case u.live && to.ord == u.liveSpan().ord:
		s := u.liveSpan()
		s.sent = max(s.sent, to.seq)
	}
}

// take notes that all up to at has arrived by its lane.
func (u *uplink) take(at place, live bool) {
	if live {
		for i := len(u.done) - 1; i >= 0; i-- {
			if s := &u.done[i]; s.ord == at.ord && s.from <= at.seq {
				s.to = max(s.to, at.seq)
				break
			}
		}
		return
	}
	u.cursor = at
	u.hop()
}

// hop moves the cursor over the spans that it has reached. The live lane's
// stays: it ends when the backlog's lane has nothing more to do.
func (u *uplink) hop() {
	n := 0
	for n < len(u.done) && (!u.live || n < len(u.done)-1) {
		s := &u.done[n]
		if s.sent > s.to || s.ord > u.cursor.ord || s.ord == u.cursor.ord && s.from > u.cursor.seq+1 {
			break
		}
		if end := (place{s.ord, s.to}); u.cursor.before(end) {
			u.cursor = end
		}
		n++
	}
	if n > 0 {
		u.done = slices.Delete(u.done, 0, n)
	}
}

// join ends the live lane: nothing older waits any more, and nothing of the
// backlog is on its way.
func (u *uplink) join() {
	s := u.liveSpan()
	u.cursor, u.sent = place{s.ord, max(s.to, s.from-1)}, place{s.ord, s.sent}
	u.done = u.done[:0]
	u.live = false
	u.cursorDirty = true
	for i := range u.flying() {
		u.flying()[i].live = false
	}
	u.backlog = len(u.flying())
	u.pacer.Begin(false)
}

// openLive has new records overtake all that waits now.
func (u *uplink) openLive(ord, next uint64, now time.Duration) {
	if u.live {
		if s := u.liveSpan(); s.sent < s.from {
			s.from, s.to, s.sent = next, next-1, next-1
			u.liveOpened = now
			return
		}
	}
	u.done = append(u.done, ackSpan{ord: ord, from: next, to: next - 1, sent: next - 1})
	u.live, u.liveOpened, u.cursorDirty = true, now, true
	u.pacer.Adapt()
}

// steer opens a live lane, under the lock, where u is behind, and lets it
// jump where it is behind itself.
func (b *Buffer) steer(u *uplink) {
	after := u.sent
	if u.live {
		s := u.liveSpan()
		after = place{s.ord, s.sent}
	}
	next := b.tail.next()
	switch {
	case !b.behind(u, after) || !after.before(place{b.ord, next - 1}):
	case len(u.done) < maxSpans:
		u.openLive(b.ord, next, b.clock())
	default:
		u.live = false
	}
}

// timely returns how long a record of the live lane may still wait for room:
// when it is older it is one of the backlog. It is negative if it is now.
func (b *Buffer) timely(r *Record) time.Duration {
	age := time.Duration(b.Now().UnixMilli()-r.Time) * time.Millisecond
	b.mu.Lock()
	if r.Stream == b.o.Stream && b.tail.has(r.Seq) {
		age = b.clock() - b.tail.entry(r.Seq).at // as behind sees it, or the lane would not jump
	}
	b.mu.Unlock()
	if age > b.behindAge {
		return -1
	}
	return min(b.historical-age, b.historical) - (b.historical-b.behindAge)/4
}

// behind tells, under the lock, whether the record that u gets after p is an
// old one.
func (b *Buffer) behind(u *uplink, p place) bool {
	next := uint64(1)
	if p.ord == b.ord {
		next = p.seq + 1
	} else if s := b.segmentAfter(p); s != nil && s.ord < b.ord {
		return true // of an earlier run
	}
	if s := u.spanOf(b.ord, next); s != nil {
		next = s.sent + 1
	}
	switch {
	case next >= b.tail.next():
		return false
	case b.tail.has(next):
		return b.clock()-b.tail.entry(next).at > b.behindAge
	}
	return true // memory has it no more
}

// paced tells whether the backlog goes out one by one, as pause allows.
func (u *uplink) paced() bool { return u.pacer != nil && (u.live || u.bounded) }

// pause returns, under the lock, how long the next record of the backlog's
// batch has to wait, and whether the pacer is to count it.
func (b *Buffer) pause(u *uplink, bt *batch) (wait time.Duration, paced bool) {
	base, _ := b.clocks.of(bt.ord).Base()
	age := b.Now().UnixMilli() - (bt.recs[bt.at].Time - bt.stepped[bt.at] + base)
	if young := age <= b.historical.Milliseconds(); young && !u.live {
		return 0, false // it is no backlog
	} else if young {
		// It may be overtaken when it is old enough. All of the backlog was
		// there when the live lane began: soon after that time it is,
		// whatever the wall clock says.
		if wait := u.liveOpened + b.historical + b.historical/100 - b.clock(); wait > 0 {
			return wait, true
		}
	}
	return u.pacer.Ready(b.clock()), true
}

// catchUp sets how a backlog goes out.
func (u *uplink) catchUp(o *ForwardOptions) {
	u.how, u.pacer = o.CatchUp, nil
	u.live = u.live && u.how == LiveFirst
	u.bounded = o.Rate != Rate{}
	if u.how == LiveFirst || u.bounded {
		u.pacer = pace.New(pace.Options{PerSecond: o.Rate.PerSecond, Share: o.Rate.Share, Window: o.Window})
	}
}
