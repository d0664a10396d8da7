package buffer

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// TestOutlook holds what is said of the future against what is known.
func TestOutlook(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_795_000_000_000)
	// 10 batches and 1,000 bytes a second into 100 MB: 100,000 s.
	const whole = 100_000 * time.Second
	plant := outlook{now: now, known: true, rate: 1000, batches: 10, limit: LimitSize, capacity: 100_000_000}
	up, down := progress{lag: 3, acks: 10, known: true}, progress{lag: 36_000, known: true}
	for _, c := range []struct {
		name string
		set  func(o *outlook)
		want Forecast
	}{
		{"not known", func(o *outlook) { o.known = false }, Forecast{Trend: TrendUnknown}},
		{
			"all keep up", func(o *outlook) { o.uplinks = []progress{up, up} },
			Forecast{Holds: whole, HoldsLimit: LimitSize, Trend: TrendEmpty},
		},
		{
			"one is away", func(o *outlook) { o.uplinks, o.used = []progress{up, down}, 25_000_000 },
			Forecast{Holds: whole, HoldsLimit: LimitSize, Trend: TrendFilling, Left: whole * 3 / 4, FullLimit: LimitSize},
		},
		{
			"one is too slow: half of it stays", func(o *outlook) {
				o.uplinks, o.used = []progress{{lag: 36_000, acks: 5, known: true}}, 50_000_000
			},
			Forecast{Holds: whole, HoldsLimit: LimitSize, Trend: TrendFilling, Left: whole, FullLimit: LimitSize},
		},
		{
			"one is back", func(o *outlook) { o.uplinks = []progress{up, {lag: 36_000, acks: 70, known: true}} },
			Forecast{Holds: whole, HoldsLimit: LimitSize, Trend: TrendDraining, Drained: 10 * time.Minute},
		},
		{
			"the slower one counts", func(o *outlook) {
				o.uplinks = []progress{{lag: 600, acks: 20, known: true}, {lag: 36_000, acks: 70, known: true}}
			},
			Forecast{Holds: whole, HoldsLimit: LimitSize, Trend: TrendDraining, Drained: 10 * time.Minute},
		},
		{
			"one is back and one is away", func(o *outlook) { o.uplinks = []progress{{lag: 36_000, acks: 70, known: true}, down} },
			Forecast{Holds: whole, HoldsLimit: LimitSize, Trend: TrendFilling, Left: whole, FullLimit: LimitSize},
		},
		{
			"just back", func(o *outlook) { o.uplinks = []progress{{lag: 36_000}} },
			Forecast{Holds: whole, HoldsLimit: LimitSize, Trend: TrendUnknown},
		},
		{
			"neither more nor less", func(o *outlook) { o.uplinks = []progress{{lag: 36_000, acks: 10.1, known: true}} },
			Forecast{Holds: whole, HoldsLimit: LimitSize, Trend: TrendStanding},
		},
		{
			"age comes first", func(o *outlook) {
				o.uplinks, o.maxAge, o.oldest = []progress{down}, 10*time.Hour, now.Add(-7*time.Hour)
			},
			Forecast{Holds: 10 * time.Hour, HoldsLimit: LimitAge, Trend: TrendFilling, Left: 3 * time.Hour, FullLimit: LimitAge},
		},
		{
			"beyond its age already", func(o *outlook) {
				o.uplinks, o.maxAge, o.oldest = []progress{down}, 10*time.Hour, now.Add(-11*time.Hour)
			},
			Forecast{Holds: 10 * time.Hour, HoldsLimit: LimitAge, Trend: TrendFilling, FullLimit: LimitAge},
		},
		{
			"the clock was wrong", func(o *outlook) {
				o.uplinks, o.maxAge, o.oldest = []progress{down}, 10*time.Hour, now.Add(time.Hour)
			},
			Forecast{Holds: 10 * time.Hour, HoldsLimit: LimitAge, Trend: TrendFilling, Left: 10 * time.Hour, FullLimit: LimitAge},
		},
		{
			"nothing arrives, no limit by age", func(o *outlook) { o.rate, o.batches, o.uplinks = 0, 0, []progress{down} },
			Forecast{Holds: MaxHolds, Trend: TrendFilling},
		},
		{
			"nothing arrives and the backlog drains", func(o *outlook) {
				o.rate, o.batches, o.uplinks = 0, 0, []progress{{lag: 36_000, acks: 60, known: true}}
			},
			Forecast{Holds: MaxHolds, Trend: TrendDraining, Drained: 10 * time.Minute},
		},
		{
			"no room at all", func(o *outlook) { o.uplinks, o.used, o.limit = []progress{down}, 100_000_001, LimitSpace },
			Forecast{Holds: whole, HoldsLimit: LimitSpace, Trend: TrendFilling, FullLimit: LimitSpace},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := plant
			c.set(&o)
			got, want := o.forecast(), c.want
			if want.Known = c.want.Trend != TrendUnknown || c.want.Holds > 0; want.Known {
				want.Rate = o.rate
			}
			if want.FullLimit != LimitNone {
				want.Full = now.Add(want.Left)
			}
			if want.Drained > 0 {
				want.Empty = now.Add(want.Drained)
			}
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestLasting(t *testing.T) {
	t.Parallel()
	for in, want := range map[float64]time.Duration{
		0: 0, 1.5: 1500 * time.Millisecond, math.Inf(1): MaxHolds, math.NaN(): MaxHolds, 1e300: MaxHolds,
	} {
		if got := lasting(in); got != want {
			t.Errorf("%g s: %v, want %v", in, got, want)
		}
	}
}

// plantData is data that changes slowly, as that of a plant does.
func plantData(n int) []byte {
	b := make([]byte, 200)
	for i := range b {
		b[i] = byte(i)
	}
	r := rand.New(rand.NewPCG(uint64(n), 7))
	for range 30 {
		b[r.IntN(len(b))] = byte(r.Uint32())
	}
	return b
}

// feed appends batches for a while, at a rate.
func feed(t *testing.T, b *Buffer, perSecond int, long time.Duration) {
	t.Helper()
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for end := time.Now().Add(long); time.Now().Before(end); {
		now := <-tick.C
		if _, err := b.Append(Record{Time: now.UnixMilli(), Schema: 1, Readings: 20, Data: plantData(int(now.UnixMilli()))}); err != nil {
			t.Fatal(err)
		}
	}
}

func near(t *testing.T, what string, got, want time.Duration, part float64) {
	t.Helper()
	if math.Abs(float64(got-want)) > part*float64(want) {
		t.Errorf("%s: %v, want %v within %.0f %%", what, got, want, 100*part)
	}
}

// TestForecast: on the clock of a synctest bubble a plant runs, the link
// fails, the buffer fills to its limit, and the link comes back. What the
// forecast said is held against what happened.
func TestForecast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(t, t.TempDir())
		o.CommitInterval, o.MaxSize, o.SegmentSize, o.Now = 5*time.Second, 2<<20, 0, time.Now
		b := openBuffer(t, o)
		defer closeBuffer(t, b)
		r := &receiver{bare: true}
		stop := forward(t, b, "a", r)
		defer stop()

		feed(t, b, 10, 30*time.Second)
		if f := b.Stats().Forecast; f.Known || f.Trend != TrendUnknown {
			t.Errorf("after 30 s all is known already: %+v", f)
		}
		feed(t, b, 10, 60*time.Second)
		healthy := b.Stats().Forecast
		if !healthy.Known || healthy.Trend != TrendEmpty || healthy.HoldsLimit != LimitSize || healthy.Left != 0 || !healthy.Full.IsZero() {
			t.Errorf("healthy: %+v", healthy)
		}
		if n := b.Stats().Commits; n > 5 {
			t.Fatalf("%d commits with a healthy uplink: it is not what this tests", n)
		}

		r.set(func(r *receiver) { r.refuse = true })
		r.cut()
		failed := time.Now()
		feed(t, b, 10, 5*time.Minute)
		s := b.Stats()
		filling := s.Forecast
		if filling.Trend != TrendFilling || filling.FullLimit != LimitSize || !filling.Full.Equal(time.Now().Add(filling.Left)) {
			t.Errorf("the uplink is away: %+v", filling)
		}
		promised := time.Now().Add(filling.Left)
		for b.Stats().Dropped[ReasonFull] == 0 {
			feed(t, b, 10, 10*time.Second)
			if time.Since(failed) > 48*time.Hour {
				t.Fatal("it never was full")
			}
		}
		held := time.Since(failed)
		near(t, "full, as said after 5 minutes", promised.Sub(failed), held, 0.15)
		near(t, "held, as said after 5 minutes", filling.Holds, held, 0.15)
		near(t, "held, as said before anything was ever written", healthy.Holds, held, 0.35)
		t.Logf("held %v; said %v before and %v after 5 minutes; overhead %.2f, ratio %.2f", held, healthy.Holds, filling.Holds, b.flow.overhead, b.flow.ratio)
		if f := b.Stats().Forecast; f.Trend != TrendFull || f.Left != 0 || f.Full.IsZero() {
			t.Errorf("batches are given up: %+v", f)
		}

		// The link is back, and takes 40 batches a second.
		r.set(func(r *receiver) { r.refuse, r.hold = false, true })
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for tick := time.NewTicker(25 * time.Millisecond); ; r.ack(1) {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		}()
		defer cancel()
		feed(t, b, 10, 90*time.Second)
		s = b.Stats()
		if s.Forecast.Trend != TrendDraining || s.Forecast.Drained != s.Uplinks["a"].Drained || !s.Forecast.Empty.Equal(time.Now().Add(s.Forecast.Drained)) {
			t.Errorf("the uplink is back: %+v, %+v", s.Forecast, s.Uplinks["a"])
		}
		back := time.Now()
		for b.Stats().Uplinks["a"].Lag > behindBatches+10*uint64(behindTime/time.Second) {
			feed(t, b, 10, 10*time.Second)
		}
		near(t, "empty", s.Forecast.Drained, time.Since(back), 0.1)
		if f := b.Stats().Forecast; f.Trend != TrendEmpty {
			t.Errorf("all is delivered: %+v", f)
		}
	})
}

// TestForecastInMemory: while the disk takes nothing, the memory is the limit.
func TestForecastInMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "buffer")
		if err := os.WriteFile(dir, nil, 0o600); err != nil { // a file is in the way
			t.Fatal(err)
		}
		o := testOptions(t, dir)
		o.CommitInterval, o.TailBytes, o.Now = time.Second, 1<<20, time.Now
		b := openBuffer(t, o)
		defer func() { _ = b.Close() }() // what is in memory is lost, as it says
		started := time.Now()
		feed(t, b, 10, 2*time.Minute)
		f := b.Stats().Forecast
		if !f.Known || f.Trend != TrendFilling || f.HoldsLimit != LimitMemory || f.FullLimit != LimitMemory {
			t.Errorf("%+v", f)
		}
		promised := f.Full
		for b.Stats().Dropped[ReasonDisk] == 0 {
			feed(t, b, 10, time.Second)
		}
		near(t, "full", promised.Sub(started), time.Since(started), 0.05)
	})
}

func TestForecastOfRareBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(t, t.TempDir())
		o.CommitInterval, o.Now = time.Second, time.Now
		b := openBuffer(t, o)
		defer closeBuffer(t, b)
		stop := forward(t, b, "a", &receiver{bare: true})
		defer stop()
		for range 12 {
			appendN(t, b, 1, 500)
			<-time.After(15 * time.Minute)
		}
		f := b.Stats().Forecast
		if !f.Known || f.Trend != TrendEmpty || f.Rate <= 0 || f.Rate > 5 {
			t.Errorf("one batch of 500 bytes in 15 minutes: %+v", f)
		}
	})
}

func TestFreeSpace(t *testing.T) {
	t.Parallel()
	if n := freeSpace(t.TempDir()); n <= 0 {
		t.Errorf("%d bytes are free", n)
	}
	if n := freeSpace("/nowhere/at/all"); n != -1 {
		t.Errorf("a directory that is not there has %d bytes", n)
	}
}
