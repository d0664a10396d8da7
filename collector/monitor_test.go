package collector

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/protocols"
)

func subscriber(id string, tags ...string) *protocols.Device {
	d := testDevice(id, "server", tags...)
	d.OPCUA.Subscribe = true
	return d
}

func values(tag int32, v int64) []protocols.Reading {
	return []protocols.Reading{{Tag: tag, Value: protocols.Int(v)}}
}

var errGone = &protocols.Error{Kind: protocols.KindNotConnected, Reason: protocols.Offline, Text: "the connection broke"}

// TestNeighboursKeepTheirSession adds, changes and removes subscribing devices
// beside one that stays.
func TestNeighboursKeepTheirSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{}
		stays, gone := subscriber("stays", "x"), subscriber("changes", "x")
		c, buf := running(t, f, stays, gone)
		advance(time.Second)
		apply := func(ds ...*protocols.Device) {
			t.Helper()
			if err := c.Apply(ds); err != nil {
				t.Fatal(err)
			}
			advance(time.Second)
		}
		apply(stays, gone, subscriber("new", "x"))
		changed := subscriber("changes", "x", "y")
		// What has come before the end is the device's own.
		before := len(buf.of("changes"))
		f.leaves = &protocols.Report{Device: gone, Time: time.Now(), Readings: values(0, 66)}
		apply(stays, changed, subscriber("new", "x"))
		if all := buf.of("changes")[before:]; len(all) == 0 || all[0].readings[0].Value.AsInt() != 66 {
			t.Errorf("the last report of a device that goes did not go out: %v", all)
		}
		apply(stays, changed)
		want := []string{"connect server", "subscribe stays", "subscribe changes", "subscribe new", "unsubscribe changes", "subscribe changes", "unsubscribe new"}
		if got := f.logged(); !slices.Equal(got, want) {
			t.Errorf("events %v", got)
		}
		// What comes late of a device that has gone is nobody's.
		before = len(buf.of("changes"))
		f.buses[0].reports <- protocols.Report{Device: gone, Time: time.Now(), Readings: values(0, 77)}
		synctest.Wait()
		if len(buf.of("changes")) != before {
			t.Error("a late report went out")
		}
		longer := subscriber("slow", "x")
		longer.Timeout = time.Minute
		apply(stays, changed, longer)
		if len(f.buses) != 2 {
			t.Error("a longer time-out wants a new session")
		}
	})
}

// TestResumed: the connection breaks, what had been received goes out first,
// and the subscription goes on with what was known before.
func TestResumed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{}
		d := subscriber("robot", "a", "b", "c")
		_, buf := running(t, f, d)
		advance(time.Second)
		bus := f.buses[0]
		bus.reports <- protocols.Report{Device: d, Time: time.Now(), Readings: []protocols.Reading{{Tag: 2, Quality: protocols.Bad, Reason: protocols.NoSuchNode}}}
		synctest.Wait()
		had := len(buf.of("robot"))
		// The break is told before everything that was received has been taken.
		f.resumes.Store(true)
		bus.reports <- protocols.Report{Device: d, Err: errGone}
		bus.reports <- protocols.Report{Device: d, Time: time.Now(), Readings: values(0, 7)}
		advance(2 * time.Second)
		bus.reports <- protocols.Report{Device: d, Time: time.Now(), Resumed: []int32{0, 1, 2}}
		bus.reports <- protocols.Report{Device: d, Time: time.Now(), Readings: values(0, 8)}
		synctest.Wait()
		bs := buf.of("robot")[had:]
		if len(bs) != 4 {
			t.Fatalf("batches %+v", bs)
		}
		if v := bs[0].readings; len(v) != 1 || v[0].Value.AsInt() != 7 {
			t.Errorf("what had been received: %+v", v)
		}
		if v := bs[1].readings; len(v) != 3 || v[0].Reason != protocols.Offline {
			t.Errorf("the break: %+v", v)
		}
		if v := bs[2].readings; len(v) != 3 || v[0].Value.AsInt() != 7 || v[1].Quality != protocols.Good || v[2].Reason != protocols.NoSuchNode {
			t.Errorf("what holds again: %+v", v)
		}
		if v := bs[3].readings; len(v) != 1 || v[0].Value.AsInt() != 8 {
			t.Errorf("what is new: %+v", v)
		}
	})
}

// TestResumedHalf: a second break comes before all tags hold again.
func TestResumedHalf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{}
		d := subscriber("robot", "a", "b")
		c, _ := running(t, f, d)
		advance(time.Second)
		bus := f.buses[0]
		f.resumes.Store(true)
		for range 2 {
			bus.reports <- protocols.Report{Device: d, Err: errGone}
			advance(2 * time.Second)
			bus.reports <- protocols.Report{Device: d, Time: time.Now(), Resumed: []int32{0}}
			synctest.Wait()
		}
		bus.reports <- protocols.Report{Device: d, Time: time.Now(), Resumed: []int32{1}}
		synctest.Wait()
		for _, v := range c.Values("robot") {
			if v.Reading.Quality != protocols.Good {
				t.Errorf("%s: %+v", v.Tag.Name, v.Reading)
			}
		}
	})
}

// TestMonitoring: fewer tags are watched than are configured.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{}
		d := subscriber("robot", "a", "b", "c")
		c, buf := running(t, f, d)
		advance(time.Second)
		tell := func(m protocols.Monitoring) DeviceStatus {
			f.buses[0].reports <- protocols.Report{Device: d, Time: time.Now(), Monitoring: &m}
			synctest.Wait()
			return c.Status()[0]
		}
		s := tell(protocols.Monitoring{Configured: 3, Monitored: 1, Why: "b (ns=2;s=b): BadNodeIdUnknown; check its address"})
		if s.Monitoring == nil || s.Monitoring.Monitored != 1 || s.State.State != Degraded ||
			!strings.Contains(s.State.Reason, "2 of 3 tags are not monitored; the first is b (ns=2;s=b): BadNodeIdUnknown; check its address") {
			t.Errorf("%+v", s)
		}
		if s = tell(protocols.Monitoring{Configured: 3, Monitored: 3}); s.State.State != Online {
			t.Errorf("%+v", s)
		}
		if got := buf.statesOf("robot"); !slices.Equal(got, []State{Degraded, Online, Degraded, Online}) {
			t.Errorf("states %v", got)
		}
	})
}

// TestBandsOfRanges: a deadband in percent is one of the range, where there is
// one.
func TestBandsOfRanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{bands: map[int]float64{0: 2}}
		d := subscriber("robot", "ranged", "not")
		d.Tags[0].Deadband = protocols.Deadband{Size: 2, Percent: true}
		d.Tags[1].Deadband = protocols.Deadband{Size: 2, Percent: true}
		_, buf := running(t, f, d)
		advance(time.Second)
		had := len(buf.of("robot"))
		for _, v := range []int64{1000, 1003, 1004} {
			for tag := range int32(2) {
				f.buses[0].reports <- protocols.Report{Device: d, Time: time.Now(), Readings: values(tag, v)}
			}
		}
		synctest.Wait()
		var got []int64
		for _, b := range buf.of("robot")[had:] {
			got = append(got, int64(b.readings[0].Tag)*10000+b.readings[0].Value.AsInt())
		}
		if !slices.Equal(got, []int64{1000, 11000, 1003}) {
			t.Errorf("%v", got)
		}
	})
}

// TestSubscriberIsBackSoon: a server that refuses connections is asked at
// least every second.
func TestSubscriberIsBackSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var tries []time.Time
		f := &fakeDriver{connect: func(string) error {
			mu.Lock()
			defer mu.Unlock()
			tries = append(tries, time.Now())
			return errGone
		}}
		running(t, f, subscriber("robot", "a"))
		advance(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		for i := 1; i < len(tries); i++ {
			if gap := tries[i].Sub(tries[i-1]); gap > time.Second || gap < 100*time.Millisecond {
				t.Fatalf("%s between two tries", gap)
			}
		}
		if len(tries) < 60 || len(tries) > 80 {
			t.Errorf("%d tries in a minute", len(tries))
		}
	})
}
