package buffer

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// flood appends batches of n random bytes for a while, at a rate.
func flood(t *testing.T, b *Buffer, perSecond, n int, long time.Duration) {
	t.Helper()
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	r := rand.NewChaCha8([32]byte{3})
	data := make([]byte, n)
	for end := time.Now().Add(long); time.Now().Before(end); {
		now := <-tick.C
		_, _ = r.Read(data) // it never fails
		if _, err := b.Append(Record{Time: now.UnixMilli(), Schema: 1, Readings: 20, Data: data}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestForecastOfSmallBuffer: a buffer that holds an outage of a few seconds,
// of which a file is a large part, says that batches are lost as long as they
// are: from the first on, and at all times in between.
func TestForecastOfSmallBuffer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(t, t.TempDir())
		o.CommitInterval, o.MaxSize, o.SegmentSize, o.Now = time.Second, 1<<20, 0, time.Now
		b := openBuffer(t, o)
		defer closeBuffer(t, b)
		known := false
		for second := range 150 {
			flood(t, b, 80, 800, time.Second)
			s := b.Stats()
			f := s.Forecast
			known = known || f.Known
			if s.DroppedBatches[ReasonFull] == 0 {
				if f.Trend == TrendFull || known {
					t.Fatalf("after %d s nothing is lost yet: %+v", second, f)
				}
				continue
			}
			if f.Trend != TrendFull || f.FullLimit != LimitSize || f.Full.IsZero() || f.Left != 0 {
				t.Fatalf("after %d s, %d batches lost, %d waiting: %+v", second, s.DroppedBatches[ReasonFull], s.Batches, f)
			}
		}
		if !known {
			t.Error("nothing is known after 150 s")
		}
		if f := b.Stats().Forecast; f.Holds > 30*time.Second || f.HoldsLimit != LimitSize {
			t.Errorf("it holds some seconds: %+v", f)
		}

		stop := forward(t, b, "a", &receiver{bare: true})
		defer stop()
		flood(t, b, 80, 800, 20*time.Second)
		if s := b.Stats(); s.Forecast.Trend != TrendEmpty {
			t.Errorf("the uplink is back, %d waiting: %+v", s.Batches, s.Forecast)
		}
	})
}

// TestForecastAfterRoomIsMade: what was lost before the disk took batches
// again is no reason to say that they are being lost.
func TestForecastAfterRoomIsMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "buffer")
		if err := os.WriteFile(dir, nil, 0o600); err != nil { // a file is in the way
			t.Fatal(err)
		}
		o := testOptions(t, dir)
		o.CommitInterval, o.TailBytes, o.Now = time.Second, 256<<10, time.Now
		b := openBuffer(t, o)
		defer closeBuffer(t, b)
		flood(t, b, 10, 800, 40*time.Second)
		if f := b.Stats().Forecast; f.Known || f.Trend != TrendFull || f.FullLimit != LimitMemory {
			t.Errorf("in the first minute, the memory is full: %+v", f)
		}
		flood(t, b, 10, 800, 2*time.Minute)
		if f := b.Stats().Forecast; !f.Known || f.Trend != TrendFull || f.FullLimit != LimitMemory {
			t.Errorf("the memory is full: %+v", f)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		flood(t, b, 10, 800, 15*time.Second)
		before := b.Stats()
		flood(t, b, 10, 800, time.Minute)
		s := b.Stats()
		if s.DroppedBatches[ReasonDisk] != before.DroppedBatches[ReasonDisk] || s.DiskError != "" {
			t.Fatalf("the disk does not take what comes: %+v", s)
		}
		for _, f := range []Forecast{before.Forecast, s.Forecast} {
			if f.Trend != TrendFilling || f.FullLimit != LimitSize && f.FullLimit != LimitSpace || f.Left < time.Minute {
				t.Errorf("nothing is lost any more: %+v", f)
			}
		}
	})
}
