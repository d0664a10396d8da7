package opcua

import (
	"slices"
	"sync"
	"time"

	"millrace/protocols"
)

const (
	// maxSpans is how many spans may wait to be read for one device; beyond
	// that one span covers what lies between two of them, too, and values go out
	// again. It is some 10 MB.
	maxSpans = 100_000
	// maxAlike is how many values of one tag with one source time are told
	// apart. A server that never changes its source times has no use for a history.
	maxAlike = 64
)

// edge is one end of a span of source times: the time, and what was told of
// the values that have this very time. Two changes within the server's clock
// tick are two values with one time.
type edge struct {
	time   int64  // ns since 1970; 0: there is none
	count  int    // of the values told with this time
	first  uint64 // the print of the first of them; 0: not known
	prints []uint64
}

// add notes that a value was told.
func (e *edge) add(at int64, mark uint64) {
	if e.time != at {
		e.time, e.count, e.first, e.prints = at, 1, mark, e.prints[:0]
		return
	}
	e.count++
	if e.count == 1 {
		e.first = mark
	} else if len(e.prints) < maxAlike {
		e.prints = append(e.prints, mark)
	}
}

func (e *edge) clone() edge {
	c := *e
	c.prints = slices.Clone(e.prints)
	return c
}

// has says whether a value with this mark was told, and takes it out.
func (e *edge) has(mark uint64) bool {
	switch {
	case e.count == 0 || mark == 0:
		return false
	case e.first == mark:
		e.first = 0
	default:
		i := slices.Index(e.prints, mark)
		if i < 0 {
			return false
		}
		e.prints = slices.Delete(e.prints, i, i+1)
	}
	return true
}

// printOf is a number that two readings of a tag with different values hardly
// ever share.
func printOf(r *protocols.Reading) uint64 {
	h := uint64(r.Quality) + 1
	if r.Quality == protocols.Bad {
		return max(1, printText(h, string(r.Reason)))
	}
	return max(1, printValue(h, &r.Value))
}

func printValue(h uint64, v *protocols.Value) uint64 {
	const prime = 0x9E37_79B9_7F4A_7C15
	h = (h ^ v.AsUint()) * prime
	h ^= h >> 29
	h = printText(h, v.AsString())
	elems := v.Elems()
	for i := range elems {
		h = printValue(h, &elems[i])
	}
	return h
}

// printText is FNV-1a.
func printText(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100_0000_01B3
	}
	return h
}

// span is a stretch of one tag's source times of which values are missing:
// from the last value that was told to the first one after.
type span struct {
	tag      int32
	from, to edge
	closed   bool // no more values will have the time of to
}

// gap is what was missed of a device at one time.
type gap struct {
	cause    protocols.OutageCause
	from, to time.Time // by our clock
	spans    []span    // not appended to once marks point into it
	begun    bool      // the historian has looked at it
	at       int64     // what is older was told
	result   protocols.Outage
	read     map[int32]struct{} // tags with values
	known    map[int32]struct{} // tags whose history has the value before the gap
	untimed  int                // tags whose values have no times
}

// away says that it is one of having no subscription, and is still to be read.
func (g *gap) away() bool {
	return !g.begun && (g.cause == protocols.OutageConnection || g.cause == protocols.OutageRestart)
}

// mark is how far a tag was told.
type mark struct {
	last edge
	span *span // the newest that began with a break; its end may be open
	// untimed says that a value came without any time: where one is missing
	// cannot be told then.
	untimed bool
}

// past is what was told of one device, and what is missing. It outlives
// sessions. Its lock is held for moments only.
type past struct {
	dev *protocols.Device

	mu    sync.Mutex // guards what follows, and what of gaps and spans changes
	marks []mark     // by tag
	gaps  []*gap     // the oldest first
	spans int        // in gaps
	heard time.Time
	// listening says that a subscription stands, or was never ended.
	listening bool
	resuming  bool // a gap was begun, and no subscription has stood since
	restarted bool // what is known is another run's
	changed   bool // since it was saved
}

func newPast(dev *protocols.Device) *past {
	p := &past{dev: dev}
	if dev.OPCUA.History > 0 {
		p.marks = make([]mark, len(dev.Tags))
	}
	return p
}

// told notes what is handed over, in the order in which it came. spilled are
// the readings before which the server's queue had overflowed.
func (p *past) told(list []protocols.Reading, spilled []int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = now
	if p.marks == nil {
		return
	}
	if len(spilled) > 0 {
		p.overflow(list, spilled, now)
	}
	for i := range list {
		r := &list[i]
		if r.Source == 0 {
			if r.Quality != protocols.Bad {
				p.marks[r.Tag].untimed = true
			}
			continue
		}
		value := printOf(r)
		m := &p.marks[r.Tag]
		if s := m.span; s != nil && !s.closed {
			if s.to.time == 0 || s.to.time == r.Source {
				s.to.add(r.Source, value)
			} else {
				s.closed = true
			}
		}
		m.last.add(r.Source, value)
	}
	p.changed = p.changed || len(list) > 0
}

// overflow begins a span for each tag that has lost values on the server:
// since the last one before this message. (Servers differ in which of a
// message's values has the flag.)
func (p *past) overflow(list []protocols.Reading, spilled []int, now time.Time) {
	g := p.overflowGap(now)
	done := make(map[int32]bool, len(spilled))
	for _, i := range spilled {
		tag := list[i].Tag
		if done[tag] {
			continue
		}
		done[tag] = true
		last := &p.marks[tag].last
		var first edge
		for j := range list {
			r := &list[j]
			if r.Tag == tag && r.Source != 0 && (first.time == 0 || first.time == r.Source) {
				first.add(r.Source, printOf(r))
			}
		}
		if last.time == 0 || first.time == 0 {
			continue
		}
		if p.spans >= maxSpans {
			g.result.Why = "too much was missed to remember all of it"
			continue
		}
		g.spans = append(g.spans, span{tag: tag, from: last.clone(), to: first, closed: true})
		p.spans++
	}
}

func (p *past) overflowGap(now time.Time) *gap {
	if n := len(p.gaps); n > 0 && p.gaps[n-1].cause == protocols.OutageOverflow && !p.gaps[n-1].begun {
		p.gaps[n-1].to = now
		return p.gaps[n-1]
	}
	g := &gap{cause: protocols.OutageOverflow, from: p.heard, to: now}
	p.gaps = append(p.gaps, g)
	return g
}

// unsaved says that there is something to be kept for the next run.
func (p *past) unsaved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed && p.marks != nil
}

// alive notes that the subscriptions stand.
func (p *past) alive(now time.Time) {
	p.mu.Lock()
	p.heard = now
	p.mu.Unlock()
}

// ended notes that the subscriptions are gone, or are about to be.
func (p *past) ended() {
	p.mu.Lock()
	p.listening = false
	p.mu.Unlock()
}

// resume begins a gap where there was an outage before a subscription that
// is about to be made for the given tags.
func (p *past) resume(tags []int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.heard.IsZero() || p.listening {
		return // never heard before, or nothing was interrupted
	}
	cause := protocols.OutageConnection
	if p.restarted {
		cause, p.restarted = protocols.OutageRestart, false
	}
	again := p.resuming
	p.resuming = true
	g := p.open(cause, tags, now)
	if n := len(p.gaps); again && len(g.spans) == 0 && n > 1 && p.gaps[n-2].away() {
		// The same outage: the subscription could not be made.
		p.gaps[n-2].to, p.gaps = now, p.gaps[:n-1]
	}
}

// missing begins a gap for all of the tags, since nobody knows of which
// values are missing.
func (p *past) missing(tags []int32, now time.Time) {
	all := make([]int, len(tags))
	for i, t := range tags {
		all[i] = int(t)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open(protocols.OutageMessages, all, now)
}

func (p *past) open(cause protocols.OutageCause, tags []int, now time.Time) *gap {
	g := &gap{cause: cause, from: p.heard, to: now}
	if p.marks == nil {
		p.gaps = append(p.gaps, g)
		return g
	}
	g.spans = make([]span, 0, len(tags))
	for _, tag := range tags {
		m := &p.marks[tag]
		switch {
		case m.last.time == 0 && m.untimed:
			g.untimed++
			continue
		case m.last.time == 0:
			continue // never had a value
		case m.span != nil && m.span.to.time == 0:
			continue // still being waited for: that span covers this outage, too
		case m.span != nil && p.spans >= maxSpans:
			// It covers this outage and all that was told in between, too.
			m.span.to, m.span.closed = edge{}, false
			continue
		}
		if m.span != nil {
			m.span.closed = true
		}
		g.spans = append(g.spans, span{tag: int32(tag), from: m.last.clone()})
		m.span = &g.spans[len(g.spans)-1]
	}
	p.gaps = append(p.gaps, g)
	p.spans += len(g.spans)
	return g
}

// subscribed notes that a subscription stands.
func (p *past) subscribed(now time.Time) {
	p.mu.Lock()
	p.listening, p.resuming, p.heard = true, false, now
	p.mu.Unlock()
}

// first returns the gap to be read first; nil if there is none.
func (p *past) first() *gap {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.gaps) == 0 {
		return nil
	}
	return p.gaps[0]
}

// finish forgets the first gap, which was read up to the given time at the
// least.
func (p *past) finish(upTo int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.gaps[0]
	p.gaps = p.gaps[1:]
	p.spans -= len(g.spans)
	for i := range g.spans {
		s := &g.spans[i]
		m := &p.marks[s.tag]
		if m.span == s {
			m.span = nil
		}
		if s.to.time == 0 && upTo > m.last.time {
			// Nothing came since: what follows begins behind what was read.
			m.last = edge{time: upTo + 1}
		}
	}
	p.changed = true
}

// settled says whether the first value after the gap is known of all spans.
func (p *past) settled(g *gap) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range g.spans {
		if g.spans[i].to.time == 0 {
			return false
		}
	}
	return true
}
