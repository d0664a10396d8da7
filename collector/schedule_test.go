package collector

import (
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"
)

// setClock returns t as time.Now would give it had the wall clock been set
// by: its monotonic part stays. Nothing but a real step makes such a time, so
// it is made by hand, of the fields that time.Time has had since Go 1.9.
func setClock(t time.Time, by time.Duration) time.Time {
	t = t.Add(by)
	fields := (*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&t))
	fields.ext -= int64(by)
	return t
}

func TestSetClock(t *testing.T) {
	t.Parallel()
	now := time.Now()
	if later := setClock(now, time.Hour); later.Sub(now) != 0 || later.UnixMilli()-now.UnixMilli() != time.Hour.Milliseconds() {
		t.Fatal("times have other fields now: this file's tests prove nothing")
	}
}

// TestScansWhenTheClockIsSet: whatever is done to the wall clock, scans go on
// without a hole or a burst of more than one interval, none is taken for
// missed, and they are on the multiples of the new clock from the second one
// on.
func TestScansWhenTheClockIsSet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		interval := rapid.SampledFrom([]time.Duration{20 * time.Millisecond, time.Second, 7 * time.Second, time.Minute, time.Hour}).Draw(t, "interval")
		phase := min(rapid.SampledFrom([]time.Duration{0, 8 * time.Millisecond, 80 * time.Millisecond}).Draw(t, "phase"), interval/2)
		start := time.Now()
		passed, by := time.Duration(0), time.Duration(0)
		now := func() time.Time { return setClock(start.Add(passed), by) }
		g := &group{interval: interval, phase: phase}
		g.due = firstDue(now(), interval, phase)
		last, sinceStep, short := time.Duration(-1), 2, 0
		steps := 0
		for range 200 {
			if rapid.IntRange(0, 9).Draw(t, "set") == 0 {
				// Somewhere between this scan and the next one.
				passed += time.Duration(rapid.Float64Range(0, 0.99).Draw(t, "when") * float64(g.due.Sub(now())))
				by = rapid.SampledFrom([]time.Duration{
					0, time.Hour, -time.Hour, 17 * time.Millisecond, -3 * time.Minute,
					time.Duration(10*365*24) * time.Hour, -time.Duration(start.UnixNano()),
				}).Draw(t, "by")
				sinceStep = 0
				steps++
			}
			passed += max(g.due.Sub(now()), 0)
			at := now()
			if last >= 0 && passed-last > interval {
				t.Fatalf("a hole of %v", passed-last)
			}
			if last >= 0 && passed-last < interval {
				short++
			}
			if into := time.Duration((at.UnixNano() - int64(phase)) % int64(interval)); sinceStep >= 1 && last >= 0 && into != 0 {
				t.Fatalf("%v after its turn on the clock", into)
			}
			if skipped := g.reschedule(at); skipped != 0 {
				t.Fatalf("%d scans are taken for missed", skipped)
			}
			last = passed
			sinceStep++
		}
		if short > steps+1 {
			t.Fatalf("%d scans came early, for %d steps", short, steps)
		}
	})
}

// TestStatesWhenTheClockIsSet: how long a device was silent does not depend
// on the wall clock.
func TestStatesWhenTheClockIsSet(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{time.Hour, -time.Hour, 50 * 365 * 24 * time.Hour} {
		start := time.Now()
		m := newStateMachine(testDevice("a", "bus", "x"), start)
		m.answered(start, nil)
		m.unanswered(setClock(start.Add(time.Second), by), errNoAnswerYet)
		if m.cur.State != Degraded || m.expire(setClock(start.Add(4*time.Second), by)) {
			t.Errorf("%v: %s after 4 s", by, m.cur.State)
		}
		if !m.expire(setClock(start.Add(6*time.Second), by)) || m.cur.State != Offline {
			t.Errorf("%v: %s after 6 s", by, m.cur.State)
		}
	}
}
