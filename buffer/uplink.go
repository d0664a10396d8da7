package buffer

import (
	"millrace/buffer/internal/meter"
	"millrace/buffer/internal/shm"
)

// uplink is one destination's place in the order. The buffer's lock covers it.
type uplink struct {
	name   string
	cursor place         // acknowledged up to here
	saved  place         // the cursor in state.db
	acked  uint64        // records acknowledged, all told
	acks   *meter.Meter  // of acked, in this session
	gaps   []*pendingGap // to be announced, in order
	sent   place         // handed over up to here, in this session

	flights  []flight // handed over and not acknowledged: flights[flightAt:]
	flightAt int
	token    uint64 // the last one given out

	notify    chan struct{} // wakes the forwarder; holds one
	waiting   bool          // the forwarder wants to be woken
	claimed   bool          // a Forward runs
	connected bool
	removed   bool
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
	gap      bool
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
	return &uplink{name: name, cursor: c.at, saved: c.at, acked: c.acked, sent: c.at, gaps: gaps, acks: newAckMeter(), notify: make(chan struct{}, 1)}
}

// place returns what is kept of the uplink's place in the order.
func (u *uplink) place() cursor { return cursor{at: u.cursor, acked: u.acked} }

// touchGaps notes that the gaps to be announced changed.
func (u *uplink) touchGaps() { u.gapsDirty, u.gapsStale = true, true }

// wake tells a waiting forwarder that there may be something for it.
func (u *uplink) wake() {
	if !u.waiting {
		return
	}
	u.waiting = false
	select {
	case u.notify <- struct{}{}:
	default:
	}
}

// rewind begins a session: all that is not acknowledged is sent again.
func (u *uplink) rewind() {
	u.sent = u.cursor
	u.flights, u.flightAt = u.flights[:0], 0
	for _, g := range u.gaps {
		g.flying = false
	}
}

// flying returns what is on its way, oldest first.
func (u *uplink) flying() []flight { return u.flights[u.flightAt:] }

// launch notes that an item is being handed over and returns its token.
func (u *uplink) launch(f flight) uint64 {
	if u.flightAt > 0 && len(u.flights) == cap(u.flights) {
		n := copy(u.flights, u.flights[u.flightAt:])
		u.flights, u.flightAt = u.flights[:n], 0
	}
	u.token++
	f.token = u.token
	u.flights = append(u.flights, f)
	u.sent = f.at
	return f.token
}

// recall undoes the last launch: the item was not handed over.
func (u *uplink) recall(token uint64) {
	if n := len(u.flights); n > u.flightAt && u.flights[n-1].token == token {
		u.flights = u.flights[:n-1]
	}
}

// land takes the acknowledgement of token and of all before it.
func (u *uplink) land(token uint64) (moved bool) {
	for u.flightAt < len(u.flights) && u.flights[u.flightAt].token <= token {
		f := &u.flights[u.flightAt]
		u.flightAt++
		if f.gap {
			u.announced(f.at)
		} else {
			u.acked++
			u.trim(f.at, uint64(f.readings))
		}
		u.cursor = f.at
		moved = true
	}
	if u.flightAt == len(u.flights) {
		u.flights, u.flightAt = u.flights[:0], 0
	}
	u.cursorDirty = u.cursorDirty || moved
	return moved
}

// announced drops the gaps that end at or before at.
func (u *uplink) announced(at place) {
	n := 0
	for n < len(u.gaps) && u.gaps[n].flying && !at.before(u.gaps[n].end()) {
		n++
	}
	if n > 0 {
		u.gaps = append(u.gaps[:0], u.gaps[n:]...)
		u.touchGaps()
	}
}

// trim takes a record out of the gap that announces it: it was dropped while
// it was on its way, and arrived.
func (u *uplink) trim(at place, readings uint64) {
	for i := 0; i < len(u.gaps); i++ {
		g := u.gaps[i]
		if at.before(g.start()) {
			return
		}
		if g.end().before(at) {
			continue
		}
		u.touchGaps()
		if at.seq == g.To {
			u.gaps = append(u.gaps[:i], u.gaps[i+1:]...)
			return
		}
		g.From = at.seq + 1
		g.Readings -= min(g.Readings, readings)
		return
	}
}

// nextGap returns the first gap that was not handed over in this session.
func (u *uplink) nextGap() *pendingGap {
	for _, g := range u.gaps {
		if u.sent.before(g.end()) {
			return g
		}
	}
	return nil
}

// view returns g as it is to be announced now: without what is on its way.
func (u *uplink) view(g *pendingGap) Gap {
	v := g.Gap
	if u.sent.before(g.start()) {
		return v
	}
	for _, f := range u.flying() {
		if !f.gap && !f.at.before(g.start()) && !g.end().before(f.at) {
			v.Readings -= min(v.Readings, uint64(f.readings))
		}
	}
	v.From = u.sent.seq + 1
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
		if p := u.gaps[i-1]; p.ord == ord && p.To+1 == g.From && p.Reason == g.Reason && !p.flying {
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
	for _, g := range u.gaps {
		if g.ord != ord || g.To < from || g.From > to {
			continue
		}
		if g.From > from {
			parts = append(parts, [2]uint64{from, g.From - 1})
		}
		from = g.To + 1
	}
	if from <= to {
		parts = append(parts, [2]uint64{from, to})
	}
	return parts
}
