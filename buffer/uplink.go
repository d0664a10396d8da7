package buffer

import (
	"slices"
	"time"

	"millrace/buffer/internal/meter"
	"millrace/buffer/internal/pace"
	"millrace/buffer/internal/shm"
)

// uplink is one destination's place in the order. The buffer's lock covers it.
type uplink struct {
	name   string
	cursor place         // acknowledged up to here
	saved  place         // the cursor in state.db
	done   []ackSpan     // acknowledged beyond the cursor, in order
	acked  uint64        // records acknowledged, all told
	acks   *meter.Meter  // of acked, in this session
	gaps   []*pendingGap // to be announced, in order
	sent   place         // handed over up to here by the backlog's lane, in this session

	how        CatchUp
	live       bool          // the last span of done is the live lane's: new records go out at once
	liveOpened time.Duration // when that span began, by the buffer's clock
	bounded    bool          // the backlog's rate is
	pacer      *pace.Pacer   // of the backlog; nil: as fast as the publisher takes it

	flights  []flight // handed over and not acknowledged: flights[flightAt:]
	flightAt int
	backlog  int    // of them, those of the backlog's lane
	token    uint64 // the last one given out
	onAcked  func(token uint64, was string)

	notify    chan struct{} // wakes the forwarder; holds one
	waiting   bool          // the forwarder wants to be woken
	wantsAck  bool          // by an acknowledgement, too
	claimed   bool          // a Forward runs
	connected bool
	removed   bool
	stale     bool   // its place was moved under the session: nothing may be handed over any more
	ending    bool   // the forwarder waits for the last acknowledgements
	dropped   uint64 // readings

	cursorDirty bool
	gapsDirty   bool

	cell      *shm.Cell // its place in shared memory; nil: it has none there
	gapsStale bool      // shared memory has other gaps
}

// flight is one item on its way.
type flight struct {
	token    uint64
	at       place // where its acknowledgement moves the cursor
	time     int64 // plain time: see clocks
	readings int
	gap      *pendingGap   // nil: it is a record
	live     bool          // by the live lane
	paced    bool          // the pacer counts it
	sent     time.Duration // when, by the buffer's clock
}

// pendingGap is a gap that one uplink has still to be told of. Its times are
// plain: see clocks.
type pendingGap struct {
	Gap
	ord    uint64
	flying bool // handed over in this session
}

func (g *pendingGap) start() place { return place{g.ord, g.From} }
func (g *pendingGap) end() place   { return place{g.ord, g.To} }

func newUplink(name string, c cursor, gaps []*pendingGap) *uplink {
	u := &uplink{
		name: name, cursor: c.at, saved: c.at, done: c.done, acked: c.acked, gaps: gaps, acks: newAckMeter(),
		notify: make(chan struct{}, 1),
	}
	u.rewind()
	return u
}

// place returns what is kept of the uplink's place in the order. Its spans
// are the uplink's own.
func (u *uplink) place() cursor { return cursor{at: u.cursor, acked: u.acked, done: u.done} }

// touchGaps notes that the gaps to be announced changed.
func (u *uplink) touchGaps() { u.gapsDirty, u.gapsStale = true, true }

// wake tells a waiting forwarder that there may be something for it.
func (u *uplink) wake() {
	if !u.waiting {
		return
	}
	u.waiting, u.wantsAck = false, false
	select {
	case u.notify <- struct{}{}:
	default:
	}
}

// rewind begins a session: all that is not acknowledged is sent again. A live
// lane goes on where it was.
func (u *uplink) rewind() {
	u.sent = u.cursor
	for i := range u.done {
		u.done[i].sent = u.done[i].to
	}
	var lane ackSpan // its span stays, even if it is empty
	if u.live {
		lane = *u.liveSpan()
	}
	u.done = slices.DeleteFunc(u.done, func(s ackSpan) bool { return s.to < s.from && s != lane })
	u.flights, u.flightAt, u.backlog = u.flights[:0], 0, 0
	if u.pacer != nil {
		u.pacer.Begin(u.live)
	}
	for _, g := range u.gaps {
		g.flying = false
	}
}

// flying returns what is on its way, oldest first.
func (u *uplink) flying() []flight { return u.flights[u.flightAt:] }

// firstOfBacklog returns the oldest item on its way that is not a live one;
// nil if there is none.
func (u *uplink) firstOfBacklog() *flight {
	for i := range u.flying() {
		if f := &u.flying()[i]; !f.live {
			return f
		}
	}
	return nil
}

// launch notes that an item is being handed over and returns its token.
func (u *uplink) launch(f flight) uint64 {
	if u.flightAt > 0 && len(u.flights) == cap(u.flights) {
		n := copy(u.flights, u.flights[u.flightAt:])
		u.flights, u.flightAt = u.flights[:n], 0
	}
	u.token++
	f.token = u.token
	u.flights = append(u.flights, f)
	if f.live {
		u.liveSpan().sent = f.at.seq
	} else {
		u.backlog++
		u.sent = f.at
	}
	if f.paced {
		u.pacer.Sent(f.sent)
	}
	return f.token
}

// recall undoes the last launch: the item was not handed over.
func (u *uplink) recall(token uint64) {
	n := len(u.flights)
	if n == u.flightAt || u.flights[n-1].token != token {
		return
	}
	f := &u.flights[n-1]
	switch {
	case !f.live:
		u.backlog--
	case f.gap == nil: // its session may go on
		u.liveSpan().sent = f.at.seq - 1
	}
	if f.paced {
		u.pacer.Recalled()
	}
	u.flights = u.flights[:n-1]
}

// land takes, at the time now, the acknowledgement of token and of all before
// it.
func (u *uplink) land(token uint64, now time.Duration) (moved bool) {
	for u.flightAt < len(u.flights) && u.flights[u.flightAt].token <= token {
		f := &u.flights[u.flightAt]
		u.flightAt++
		was := ""
		if f.gap != nil {
			u.announced(f.gap)
		} else {
			u.acked++
			was = u.trim(f.at, uint64(f.readings))
		}
		if !f.live {
			u.backlog--
		}
		if f.paced {
			u.pacer.Acked(f.sent, now)
		}
		u.take(f.at, f.live)
		if u.onAcked != nil {
			u.onAcked(f.token, was)
		}
		f.gap = nil
		moved = true
	}
	if u.flightAt == len(u.flights) {
		u.flights, u.flightAt = u.flights[:0], 0
	}
	u.cursorDirty = u.cursorDirty || moved
	return moved
}

// announced drops a gap that the far side knows of.
func (u *uplink) announced(g *pendingGap) {
	if i := slices.Index(u.gaps, g); i >= 0 {
		u.gaps = slices.Delete(u.gaps, i, i+1)
		u.touchGaps()
	}
}

// trim takes a record out of the gap that announces it, and returns the gap's
// reason: it was dropped while it was on its way, and arrived.
func (u *uplink) trim(at place, readings uint64) (reason string) {
	for i := 0; i < len(u.gaps); i++ {
		g := u.gaps[i]
		if at.before(g.start()) {
			return ""
		}
		if g.end().before(at) {
			continue
		}
		u.touchGaps()
		if at.seq == g.To {
			u.gaps = append(u.gaps[:i], u.gaps[i+1:]...)
			return g.Reason
		}
		g.From = at.seq + 1
		g.Readings -= min(g.Readings, readings)
		return g.Reason
	}
	return ""
}

// nextGap returns the first gap that l has to hand over in this session.
func (u *uplink) nextGap(l *lane) *pendingGap {
	for _, g := range u.gaps {
		if l.upTo.before(g.start()) {
			return nil
		}
		if l.after.before(g.end()) {
			return g
		}
	}
	return nil
}

// view returns g as l is to announce it now: without what is on its way.
func (u *uplink) view(g *pendingGap, l *lane) Gap {
	v := g.Gap
	if l.after.before(g.start()) {
		return v
	}
	for _, f := range u.flying() {
		if f.gap == nil && !f.at.before(g.start()) && !g.end().before(f.at) {
			v.Readings -= min(v.Readings, uint64(f.readings))
		}
	}
	v.From = l.after.seq + 1
	return v
}

// miss notes that the uplink will not get the records of g, as far as it has
// not acknowledged them; g.From is beyond its cursor. A gap that continues
// the one before it becomes part of it: an outage of days is one notice.
func (u *uplink) miss(ord uint64, g Gap) {
	u.touchGaps()
	u.dropped += g.Readings
	i := len(u.gaps)
	for i > 0 && (place{ord, g.From}).before(u.gaps[i-1].start()) {
		i--
	}
	if i > 0 {
		if p := u.gaps[i-1]; p.ord == ord && p.To+1 == g.From && p.Reason == g.Reason && !p.flying && !u.spanBegins(ord, g.From) {
			p.To = g.To
			p.Readings += g.Readings
			p.Oldest, p.Newest = older(p.Oldest, g.Oldest), max(p.Newest, g.Newest)
			return
		}
	}
	u.gaps = append(u.gaps, nil)
	copy(u.gaps[i+1:], u.gaps[i:])
	u.gaps[i] = &pendingGap{Gap: g, ord: ord}
}

// older returns the older of two times of which 0 is unknown.
func older(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// uncovered returns the parts of [from, to] of a stream that the uplink has
// neither acknowledged nor been promised a gap notice for.
func (u *uplink) uncovered(ord, from, to uint64) [][2]uint64 {
	if ord < u.cursor.ord {
		return nil
	}
	if ord == u.cursor.ord {
		from = max(from, u.cursor.seq+1)
	}
	var parts [][2]uint64
	cut := func(first, last uint64) {
		if last < from || first > to {
			return
		}
		if first > from {
			parts = append(parts, [2]uint64{from, first - 1})
		}
		from = last + 1
	}
	done := u.done
	for _, g := range u.gaps {
		if g.ord != ord {
			continue
		}
		for ; len(done) > 0 && (done[0].ord < ord || done[0].ord == ord && done[0].from < g.From); done = done[1:] {
			if done[0].ord == ord {
				cut(done[0].from, done[0].to)
			}
		}
		cut(g.From, g.To)
	}
	for _, s := range done {
		if s.ord == ord {
			cut(s.from, s.to)
		}
	}
	if from <= to {
		parts = append(parts, [2]uint64{from, to})
	}
	return parts
}
