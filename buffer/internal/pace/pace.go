// Package pace decides how fast a backlog goes out beside live data, without
// knowing the link: by how long acknowledgements take. It is pure; the clock
// is its caller's.
package pace

import (
	"math"
	"time"
)

// Options of a Pacer. The zero value bounds nothing but the window.
type Options struct {
	PerSecond float64 // batches a second; 0: no bound
	Share     float64 // part of the link's time, above 0 and up to 1; 0: no bound
	Window    int     // how many messages the publisher takes unacknowledged; 0: 64
}

const (
	// maxDelay is by how much the backlog may lengthen the way to the
	// broker: so long a live batch waits behind it. Where the way is long, a
	// quarter of it: what is sent in a bunch queues for itself.
	maxDelay = 100 * time.Millisecond
	// burst is how long the backlog keeps the link busy at a stretch, where
	// it has a share of it.
	burst = 100 * time.Millisecond
	// maxBusy bounds what one stretch counts for: a link that is slow to
	// acknowledge is not busy all the time.
	maxBusy = 10 * burst
	// forgetAfter: the shortest way is measured anew, as links change: by a
	// batch that goes alone. Any other would measure the queue, too, and the
	// queue would grow with each new measurement.
	forgetAfter = 30 * time.Second

	defaultWindow = 64
)

// Wait says that an acknowledgement has to come first.
const Wait = time.Duration(math.MaxInt64)

// Pacer counts the batches of a backlog that are on their way and says when
// the next may go. It has no lock.
type Pacer struct {
	o        Options
	max      int  // on their way, at most
	adaptive bool // live data goes beside it

	flying int
	limit  float64 // on their way, as the link allows

	shortest   time.Duration // way there and back, of late
	shortestAt time.Duration
	cutAt      time.Duration // when the limit was cut: ways begun before say nothing new
	growing    bool          // the limit was never cut: it may double
	kept       float64       // the limit after a batch that goes alone; 0: none has to
	alone      time.Duration // when that was sent; -1: not yet

	tokens  float64 // of PerSecond
	filled  time.Duration
	busy    time.Duration // since when the link is; valid while flying > 0
	resting time.Duration // until when the link is left to others
}

// New returns a pacer for one session after another.
func New(o Options) *Pacer {
	if o.Window <= 0 {
		o.Window = defaultWindow
	}
	p := &Pacer{o: o}
	p.Begin(false)
	return p
}

// Begin starts over, with nothing on its way. With adaptive set, live data
// goes beside the backlog.
func (p *Pacer) Begin(adaptive bool) {
	p.flying, p.shortest, p.adaptive = 0, 0, false
	p.tokens, p.resting = 0, 0
	p.max = p.o.Window
	if adaptive {
		p.Adapt()
	}
}

// Adapt goes on with live data beside the backlog.
func (p *Pacer) Adapt() {
	if p.adaptive {
		return
	}
	p.adaptive = true
	p.limit, p.growing, p.kept = 1, true, 0
	p.max = max(p.o.Window-max(p.o.Window/4, 1), 1) // the rest is for live data
}

// Ready returns 0 if a batch may go now; else how long to ask later, or Wait
// if an acknowledgement has to come first.
func (p *Pacer) Ready(now time.Duration) time.Duration {
	if p.flying >= p.max || p.adaptive && p.flying >= int(p.limit) {
		return Wait
	}
	if p.o.Share > 0 && p.o.Share < 1 {
		switch {
		case now < p.resting:
			return p.resting - now
		case p.flying > 0 && now-p.busy >= burst:
			return Wait // until the link is free, to rest
		}
	}
	if p.o.PerSecond > 0 {
		p.fill(now)
		if p.tokens < 1 {
			return max(time.Duration((1-p.tokens)/p.o.PerSecond*float64(time.Second)), time.Millisecond)
		}
	}
	return 0
}

// fill adds the tokens of the time that has passed: a tenth of a second's at
// most, or one.
func (p *Pacer) fill(now time.Duration) {
	p.tokens += p.o.PerSecond * (now - p.filled).Seconds()
	p.tokens = min(p.tokens, max(p.o.PerSecond/10, 1))
	p.filled = now
}

// Sent notes that a batch goes out.
func (p *Pacer) Sent(now time.Duration) {
	if p.flying == 0 {
		p.busy = now
		if p.kept > 0 && p.alone < 0 {
			p.alone = now
		}
	}
	p.flying++
	if p.o.PerSecond > 0 {
		p.fill(now)
		p.tokens--
	}
}

// Recalled notes that the last one did not go out.
func (p *Pacer) Recalled() { p.flying = max(p.flying-1, 0) }

// Acked notes that the batch that was sent then is acknowledged now.
func (p *Pacer) Acked(sent, now time.Duration) {
	p.flying = max(p.flying-1, 0)
	if p.flying == 0 && p.o.Share > 0 && p.o.Share < 1 {
		busy := min(now-p.busy, maxBusy)
		p.resting = now + time.Duration(float64(busy)*(1/p.o.Share-1))
	}
	if p.adaptive {
		p.adapt(sent, now)
	}
}

// adapt moves the limit by how much longer the way took than the shortest
// one: what is beyond that, batches spent waiting for each other.
func (p *Pacer) adapt(sent, now time.Duration) {
	way := max(now-sent, 1)
	switch {
	case p.kept > 0:
		if sent == p.alone {
			p.shortest, p.shortestAt = way, now
			p.limit, p.kept = p.kept, 0
		}
		return
	case p.shortest == 0 || way <= p.shortest:
		p.shortest, p.shortestAt = way, now
	case now-p.shortestAt > forgetAfter:
		p.kept, p.limit, p.alone = p.limit, 1, -1
		return
	}
	switch delay := way - p.shortest; {
	case delay > max(maxDelay, p.shortest/4):
		if sent >= p.cutAt {
			p.limit = max(p.limit*3/4, 1)
			p.cutAt, p.growing = now, false
		}
	case p.growing:
		p.limit++ // for each acknowledgement: it doubles with each way
	default:
		p.limit += 1 / p.limit
	}
	p.limit = min(p.limit, float64(p.max))
}
