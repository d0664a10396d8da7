package pace

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// link is a line that takes one message after the other, each for so long,
// and so long for the way there and back.
type link struct {
	each, way time.Duration
	free      time.Duration // when the line is
	flying    []flight
}

type flight struct{ sent, acked time.Duration }

func (l *link) send(now time.Duration) {
	l.free = max(l.free, now) + l.each
	l.flying = append(l.flying, flight{now, l.free + l.way})
}

// run sends as fast as p allows for the time, and returns how many went, how
// long the line was busy, and the longest queue in front of it.
func run(p *Pacer, l *link, during time.Duration) (n int, busy, queue time.Duration) {
	for now := time.Duration(0); now < during; {
		for len(l.flying) > 0 && l.flying[0].acked <= now {
			p.Acked(l.flying[0].sent, now)
			l.flying = l.flying[1:]
		}
		wait := p.Ready(now)
		if wait == 0 {
			if now > during/4 {
				queue = max(queue, l.free-now)
			}
			l.send(now)
			p.Sent(now)
			n++
			busy += l.each
			continue
		}
		next := now + wait
		if wait == Wait {
			next = during
		}
		if len(l.flying) > 0 {
			next = min(next, l.flying[0].acked)
		}
		now = next
	}
	return n, busy, queue
}

// TestAdaptive: on any link, the backlog uses most of it, and what waits in
// front of the line is little, or one message.
func TestAdaptive(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := &link{
			each: time.Duration(rapid.IntRange(100, 500_000).Draw(t, "each")) * time.Microsecond,
			way:  time.Duration(rapid.IntRange(0, 800).Draw(t, "way")) * time.Millisecond,
		}
		p := New(Options{Window: 64})
		p.Begin(true)
		during := max(2000*max(l.each, l.way/16), 10*forgetAfter)
		n, busy, queue := run(p, l, during)
		// The window bounds it, too: 48 messages in each way there and back.
		possible := min(during, time.Duration(int64(during)*48/int64(l.way/l.each+48)))
		if busy < possible*2/5 {
			t.Fatalf("busy for %v of %v with %d messages", busy, possible, n)
		}
		// After a batch that went alone, what fills the way goes at once.
		if queue > 2*l.way+2*maxDelay+2*l.each {
			t.Fatalf("a queue of %v (each %v, way %v, limit %v, growing %v)", queue, l.each, l.way, p.limit, p.growing)
		}
	})
}

// TestBounds: the number a second and the share of the link's time hold, and
// are used.
func TestBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		o := Options{Window: rapid.IntRange(1, 100).Draw(t, "window")}
		l := &link{each: time.Millisecond, way: time.Duration(rapid.IntRange(0, 50).Draw(t, "way")) * time.Millisecond}
		per := rapid.IntRange(0, 200).Draw(t, "per second")
		share := rapid.IntRange(0, 100).Draw(t, "share")
		o.PerSecond, o.Share = float64(per), float64(share)/100
		p := New(o)
		p.Begin(rapid.Bool().Draw(t, "adaptive"))
		const during = 100 * time.Second
		n, busy, _ := run(p, l, during)
		if per > 0 && float64(n) > float64(per)*during.Seconds()+max(float64(per)/10, 1)+1 {
			t.Fatalf("%d messages in %v at %d/s", n, during, per)
		}
		// The way there and back counts as time in which the link is taken.
		if share > 0 && busy > during*time.Duration(share)/100+during/50 {
			t.Fatalf("busy for %v of %v with a share of %d %%", busy, during, share)
		}
		if n == 0 {
			t.Fatal("nothing went")
		}
	})
}

// TestRecalled: what could not be handed over is not waited for.
func TestRecalled(t *testing.T) {
	t.Parallel()
	p := New(Options{Window: 1})
	p.Sent(0)
	if p.Ready(0) != Wait {
		t.Error("the window of 1 takes two")
	}
	p.Recalled()
	if p.Ready(0) != 0 {
		t.Error("it waits for what did not go")
	}
}
