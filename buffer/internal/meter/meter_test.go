package meter_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/buffer/internal/meter"
)

func TestGrown(t *testing.T) {
	t.Parallel()
	m := meter.New(10*time.Second, 7) // looks back a minute
	if n, took := m.Grown(time.Minute, 5, time.Minute); n != 0 || took != 0 {
		t.Errorf("an empty meter says %d in %v", n, took)
	}
	total := uint64(0)
	for s := range 600 {
		m.Add(time.Duration(s)*time.Second, total)
		total += 3
	}
	for _, c := range []struct {
		window, took time.Duration
	}{
		{10 * time.Second, 10 * time.Second},
		{15 * time.Second, 20 * time.Second},
		{time.Minute, time.Minute},
		{time.Hour, 70 * time.Second}, // as far as it looks back
	} {
		n, took := m.Grown(600*time.Second, total, c.window)
		if took != c.took || n != 3*uint64(took/time.Second) {
			t.Errorf("window %v: %d in %v, want it over %v", c.window, n, took, c.took)
		}
	}
	m.Reset(600*time.Second, total)
	if n, took := m.Grown(605*time.Second, total+7, time.Minute); n != 7 || took != 5*time.Second {
		t.Errorf("after a reset: %d in %v", n, took)
	}
	if n, took := m.Grown(605*time.Second, total-1, time.Minute); n != 0 || took != 0 {
		t.Errorf("a total that fell: %d in %v", n, took)
	}
}

// TestSilence: where nobody sampled for an hour, the growth is spread over
// that hour and not taken for the last minute's.
func TestSilence(t *testing.T) {
	t.Parallel()
	m := meter.New(10*time.Second, 7)
	m.Add(0, 0)
	m.Add(10*time.Second, 100)
	if n, took := m.Grown(time.Hour, 160, time.Minute); n != 60 || took != time.Hour-10*time.Second {
		t.Errorf("%d in %v", n, took)
	}
}

func TestSteadyRate(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := meter.New(time.Duration(rapid.IntRange(1, 20_000).Draw(t, "step"))*time.Millisecond, rapid.IntRange(1, 50).Draw(t, "samples"))
		now, total := time.Duration(0), uint64(0)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			gap := rapid.IntRange(0, 30_000).Draw(t, "gap")
			now += time.Duration(gap) * time.Millisecond
			total += 2 * uint64(gap)
			m.Add(now, total)
		}
		window := time.Duration(rapid.IntRange(0, 100_000).Draw(t, "window")) * time.Millisecond
		if n, took := m.Grown(now, total, window); n != 2*uint64(took.Milliseconds()) {
			t.Fatalf("%d in %v, want 2 a millisecond", n, took)
		}
	})
}

func BenchmarkDue(b *testing.B) {
	m := meter.New(10*time.Second, 360)
	now := time.Duration(0)
	for b.Loop() {
		now += time.Millisecond
		if m.Due(now) {
			m.Add(now, uint64(now))
		}
	}
}
