package collector

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/protocols"
)

// running applies the devices and stops the collector at the end of the test.
func running(t *testing.T, f *fakeDriver, devices ...*protocols.Device) (*Collector, *fakeBuffer) {
	t.Helper()
	c, buf := testCollector(t, f)
	if err := c.Apply(devices); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c, buf
}

func TestScansKeepToTheClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{read: func(_ *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			advance(37 * time.Millisecond) // the answer's time must not add up to drift
			return allGood(protocols.Int(1), out)
		}}
		advance(400 * time.Millisecond)
		c, buf := running(t, f, testDevice("press-1", "a", "x", "y"))
		advance(time.Minute)
		bs := buf.of("press-1")
		if len(bs) != 61 {
			t.Fatalf("%d batches in a minute, want 61: one at once, then one each second", len(bs))
		}
		if at := bs[0].at.Sub(bs[0].at.Truncate(time.Second)); at != 437*time.Millisecond {
			t.Errorf("the first came %v after the second, want at once", at)
		}
		for _, b := range bs[1:] {
			if b.time%1000 != 37 {
				t.Errorf("a scan at %d ms, want 37 ms (the answer's time) after a full second", b.time)
			}
		}
		if m := c.Status()[0].Missed; m != 0 {
			t.Errorf("%d scans missed", m)
		}
	})
}

func TestOverrunSkipsAndCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{read: func(_ *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			advance(2500 * time.Millisecond)
			return allGood(protocols.Int(1), out)
		}}
		c, buf := running(t, f, testDevice("press-1", "a", "x"))
		advance(time.Minute + time.Millisecond)
		s := c.Status()[0]
		if got := s.Scans + s.Missed; s.Scans != 20 || got != 60 {
			t.Errorf("%d scans and %d missed in a minute, want 20 and 40", s.Scans, s.Missed)
		}
		if n := len(buf.of("press-1")); n != 20 {
			t.Errorf("%d batches", n)
		}
	})
}

func TestDeviceThatFallsSilent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var dead atomic.Bool
		f := &fakeDriver{read: func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			if dead.Load() {
				return noAnswer(d, out)
			}
			return allGood(protocols.Int(7), out)
		}}
		d := testDevice("press-1", "a", "x", "slow")
		d.Tags[1].Interval = 10 * time.Second
		d.Timeout = 300 * time.Millisecond
		c, buf := running(t, f, d)
		advance(20500 * time.Millisecond)
		before := len(buf.of("press-1"))
		dead.Store(true)
		advance(4500 * time.Millisecond)
		if got := buf.statesOf("press-1"); !slices.Equal(got, []State{Degraded, Online, Degraded}) {
			t.Errorf("states %v", got)
		}
		advance(35500 * time.Millisecond)
		bad := buf.of("press-1")[before:]
		if len(bad) != 1 || len(bad[0].readings) != 2 {
			t.Fatalf("%d batches while silent, want one with all tags: %+v", len(bad), bad)
		}
		for _, r := range bad[0].readings {
			if r.Quality != protocols.Bad || r.Reason != protocols.Timeout {
				t.Errorf("%+v", r)
			}
		}
		dead.Store(false)
		advance(20 * time.Second)
		if got := buf.statesOf("press-1"); !slices.Equal(got, []State{Degraded, Online, Degraded, Offline, Online}) {
			t.Errorf("states %v", got)
		}
		if n := len(buf.of("press-1")) - before - 1; n != 22 {
			t.Errorf("%d batches after it came back, want 20 and 2", n)
		}
		if c.Status()[0].State.Reason != "" {
			t.Error("an online device has a reason")
		}
	})
}

func TestNeverAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{connect: func(string) error {
			return &protocols.Error{Kind: protocols.KindNotConnected, Reason: protocols.Offline, Text: "connection refused: is it switched on?"}
		}}
		off := testDevice("spare", "b", "x")
		off.Enabled = false
		_, buf := running(t, f, testDevice("press-1", "a", "x"), off)
		advance(time.Minute)
		if got := buf.statesOf("press-1"); !slices.Equal(got, []State{Degraded, Degraded, Offline}) {
			t.Errorf("states %v", got)
		}
		if got := buf.statesOf("spare"); !slices.Equal(got, []State{Disabled}) {
			t.Errorf("states of a disabled device %v", got)
		}
		if n := len(buf.of("press-1")); n != 1 {
			t.Errorf("%d batches, want one with everything bad", n)
		}
	})
}

func TestDeadUnitLeavesTheBusToOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{read: func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			if d.ID == "dead" || d.ID == "dead-2" {
				return noAnswer(d, out)
			}
			advance(10 * time.Millisecond)
			return allGood(protocols.Int(1), out)
		}}
		c, _ := running(t, f, testDevice("dead", "bus", "x"), testDevice("a", "bus", "x"), testDevice("dead-2", "bus", "x"), testDevice("b", "bus", "x"))
		advance(10 * time.Minute)
		for _, s := range c.Status() {
			switch share := float64(s.Scans) / float64(s.Scans+s.Missed); {
			case s.Config.ID[0] == 'd' && s.Scans < 10:
				t.Errorf("%s was probed %d times only", s.Config.ID, s.Scans)
			case s.Config.ID[0] != 'd' && share < 0.93:
				t.Errorf("%s made %.0f %% of its scans", s.Config.ID, 100*share)
			}
		}
	})
}

func TestBrokenConnectionIsTriedAgainAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := 0
		f := &fakeDriver{read: func(_ *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			n++
			if n%2 == 0 { // it closes the connection after each answer
				for i := range out {
					out[i].SetBad(protocols.Offline)
				}
				return protocols.ScanResult{Requests: 1, Err: &protocols.Error{Kind: protocols.KindNotConnected, Text: "closed"}}
			}
			return allGood(protocols.Int(1), out)
		}}
		_, buf := running(t, f, testDevice("press-1", "a", "x"))
		advance(10*time.Second + time.Millisecond)
		for _, b := range buf.of("press-1") {
			if b.readings[0].Quality != protocols.Good {
				t.Error("a reading was lost to an idle connection")
			}
		}
		if n := len(buf.of("press-1")); n < 10 {
			t.Errorf("%d batches in 10 s", n)
		}
	})
}

func TestOnChangeDeadbandAndSnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := 0.0
		f := &fakeDriver{read: func(_ *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			v += 0.3
			return allGood(protocols.Float64(v), out)
		}}
		d := testDevice("press-1", "a", "each", "band")
		d.Tags[1].Deadband = protocols.Deadband{Size: 0.5}
		d.Snapshot = 5 * time.Second
		_, buf := running(t, f, d)
		advance(5*time.Second - time.Millisecond)
		var band int
		bs := buf.of("press-1")
		for _, b := range bs {
			band += len(b.readings) - 1
		}
		if len(bs) != 5 || band != 3 { // sent at 0.3; 0.9; 1.5
			t.Errorf("%d batches, the banded tag in %d of them, want 5 and 3", len(bs), band)
		}
		advance(time.Second)
		if last := buf.of("press-1")[5]; len(last.readings) != 2 {
			t.Error("no snapshot after 5 s")
		}
	})
}

func TestReloadTouchesOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{read: func(_ *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			return allGood(protocols.Int(1), out)
		}}
		c, buf := running(t, f, testDevice("a", "bus-1", "x"), testDevice("b", "bus-1", "x"), testDevice("moved", "old", "x"), testDevice("gone", "bus-3", "x"))
		advance(9500 * time.Millisecond)
		same, changed := testDevice("a", "bus-1", "x"), testDevice("b", "bus-1", "x", "y")
		same.Tags[0].Source.Line = 12 // moved in the file: no change
		if err := c.Apply([]*protocols.Device{same, changed, testDevice("moved", "new", "x")}); err != nil {
			t.Fatal(err)
		}
		advance(9 * time.Second)
		want := []string{"connect bus-1", "connect old", "connect bus-3", "close old", "close bus-3", "connect new"}
		got := f.logged()
		slices.Sort(want)
		if sorted := slices.Sorted(slices.Values(got)); !slices.Equal(sorted, want) {
			t.Errorf("events %v", got)
		}
		if slices.Index(got, "close old") > slices.Index(got, "connect new") {
			t.Error("the new connection was made before the old one was closed")
		}
		if got := buf.statesOf("a"); len(got) != 2 {
			t.Errorf("the unchanged device went through %v", got)
		}
		if bs := buf.of("b"); len(bs[len(bs)-1].readings) != 2 {
			t.Error("the changed device does not have its new tag")
		}
		if len(buf.of("a")) != 19 {
			t.Errorf("%d batches of the unchanged device in 18.5 s, want 19", len(buf.of("a")))
		}
		if err := c.Apply([]*protocols.Device{{ID: "z", Driver: "profinet", Enabled: true}}); err == nil {
			t.Error("an unknown driver was accepted")
		}
		if n := len(c.Status()); n != 3 {
			t.Errorf("%d devices after a failed reload, want the 3 from before", n)
		}
	})
}

// TestReloadOfALink: a connection that was made for another configuration is
// closed before the new one is made, and its devices go on, those as well
// that have not changed.
func TestReloadOfALink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{read: func(_ *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			return allGood(protocols.Int(1), out)
		}}
		first, second := testDevice("a", "bus-1", "x"), testDevice("b", "bus-1", "x")
		c, buf := running(t, f, first, second)
		advance(9500 * time.Millisecond)
		changed := testDevice("a", "bus-1", "x")
		changed.Modbus.Fallback = "other"
		if err := c.Apply([]*protocols.Device{changed, second}); err != nil {
			t.Fatal(err)
		}
		advance(9 * time.Second)
		if got := f.logged(); !slices.Equal(got, []string{"connect bus-1", "close bus-1", "connect bus-1"}) {
			t.Errorf("events %v", got)
		}
		for _, id := range []string{"a", "b"} {
			if n := len(buf.of(id)); n < 18 {
				t.Errorf("%d batches of %s in 18.5 s", n, id)
			}
		}
		if got := buf.statesOf("b"); len(got) != 2 {
			t.Errorf("the unchanged device went through %v", got)
		}
	})
}

func TestSubscription(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{}
		d := testDevice("robot", "a", "x", "y")
		d.OPCUA.Subscribe = true
		d.Snapshot = time.Minute
		c, buf := running(t, f, d)
		advance(time.Second)
		bus := f.buses[0]
		change := func(tag int32, v int64) {
			bus.reports <- protocols.Report{Device: d, Time: time.Now(), Readings: []protocols.Reading{{Tag: tag, Value: protocols.Int(v)}}}
			synctest.Wait()
		}
		change(1, 5)
		change(1, 5) // the same again: not sent
		change(0, 9)
		bus.reports <- protocols.Report{Device: d, Time: time.Now(), Lost: 3}
		synctest.Wait()
		if n := c.Status()[0].Lost; n != 3 {
			t.Errorf("%d values lost, want 3", n)
		}
		bs := buf.of("robot")
		if len(bs) != 3 || len(bs[0].readings) != 2 || bs[2].readings[0].Value.AsInt() != 9 {
			t.Fatalf("batches %+v", bs)
		}
		advance(time.Minute)
		if bs = buf.of("robot"); len(bs) != 4 || len(bs[3].readings) != 2 {
			t.Fatalf("no snapshot: %d batches", len(bs))
		}
		bus.reports <- protocols.Report{Device: d, Err: &protocols.Error{Kind: protocols.KindNotConnected, Reason: protocols.Offline, Text: "gone"}}
		advance(10 * time.Second)
		bs = buf.of("robot")[4:]
		if len(bs) != 2 || bs[0].readings[0].Reason != protocols.Offline || bs[1].readings[0].Quality != protocols.Good {
			t.Fatalf("after the break %+v, want one batch of bad ones and one of new ones", bs)
		}
		if got := buf.statesOf("robot"); !slices.Equal(got, []State{Degraded, Online, Degraded, Online}) {
			t.Errorf("states %v", got)
		}
	})
}

func TestPanicStaysOnItsBus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := 0
		f := &fakeDriver{read: func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			if d.ID != "sick" {
				return allGood(protocols.Int(1), out)
			}
			n++
			if n < 5 {
				panic("index out of range")
			}
			return allGood(protocols.Int(1), out)
		}}
		_, buf := running(t, f, testDevice("sick", "a", "x"), testDevice("well", "b", "x"))
		advance(60 * time.Second)
		if n := len(buf.of("well")); n < 60 {
			t.Errorf("the other bus made %d scans in a minute", n)
		}
		if bs := buf.of("sick"); len(bs) == 0 || bs[len(bs)-1].readings[0].Quality != protocols.Good {
			t.Error("the bus did not recover")
		}
	})
}

func TestPartFailuresDegrade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{read: func(_ *protocols.Device, tags []int, out []protocols.Reading) protocols.ScanResult {
			res := allGood(protocols.Int(1), out)
			if tags[0] == 1 {
				out[0].SetBad(protocols.IllegalAddress)
				res.Err = &protocols.Error{Kind: protocols.KindRefused, Reason: protocols.IllegalAddress, Text: "exception 2"}
			}
			return res
		}}
		d := testDevice("press-1", "a", "good", "hole")
		d.Tags[1].Interval = 2 * time.Second
		_, buf := running(t, f, d)
		advance(time.Minute)
		got := buf.statesOf("press-1")
		if len(got) > 3 || got[len(got)-1] != Degraded {
			t.Errorf("states %v: must end in degraded, and not go back and forth", got)
		}
	})
}

func TestStateReasons(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	m := newStateMachine(testDevice("p", "a", "x"), now)
	if !m.unanswered(now, errors.New("closed after 7 ms")) || m.cur.Reason != "closed after 7 ms" {
		t.Error("the first reason is not told")
	}
	if m.unanswered(now.Add(2*time.Second), errors.New("closed after 8 ms")) {
		t.Error("the same failure with another number is a change")
	}
	if m.unanswered(now.Add(2*time.Second), errors.New("refused")) {
		t.Error("reasons that take turns are told each time")
	}
	if !m.expire(now.Add(5*time.Second)) || m.cur.State != Offline || m.cur.Reason != "refused" {
		t.Errorf("offline with %q, want the newest reason", m.cur.Reason)
	}
	if !m.unanswered(now.Add(16*time.Second), errors.New("no route")) || m.cur.Reason != "no route" || !m.cur.Since.Equal(now.Add(5*time.Second)) {
		t.Errorf("%+v: another reason after some time is a change, and no new state", m.cur)
	}
	silent := func(asked, what string) *protocols.Error {
		return &protocols.Error{Kind: protocols.KindTimeout, Text: asked + what, Alike: what}
	}
	if !m.unanswered(now.Add(30*time.Second), silent("holding", "no answer")) || m.unanswered(now.Add(60*time.Second), silent("input", "no answer")) {
		t.Error("a device that does not answer has another reason each time that it is asked for something else")
	}
	if !m.unanswered(now.Add(90*time.Second), silent("input", "only noise")) || m.cur.Reason != "inputonly noise" {
		t.Errorf("%q is another reason", "only noise")
	}
	if !m.answered(now.Add(91*time.Second), silent("holding", "refused")) || !m.answered(now.Add(102*time.Second), silent("input", "refused")) {
		t.Error("of a device that answers it is of interest what it refuses")
	}
	if !m.answered(now.Add(103*time.Second), nil) || m.cur.State != Online || m.cur.Reason != "" {
		t.Errorf("%+v", m.cur)
	}
}

func TestChangedLoginMakesANewSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{}
		robot := func(id, password string) *protocols.Device {
			d := testDevice(id, "server", "x")
			d.OPCUA.Subscribe, d.OPCUA.Password = true, password
			return d
		}
		c, buf := running(t, f, robot("a", "old"), robot("b", "old"))
		advance(time.Second)
		if err := c.Apply([]*protocols.Device{robot("a", "old"), robot("b", "new")}); err != nil {
			t.Fatal(err)
		}
		advance(time.Second)
		if n := len(f.buses); n != 2 {
			t.Errorf("the bus was opened %d times, want anew for the new password", n)
		}
		if got := f.logged(); !slices.Equal(got, []string{"connect server", "subscribe a", "subscribe b", "close server", "connect server", "subscribe a", "subscribe b"}) {
			t.Errorf("events %v", got)
		}
		if got := buf.statesOf("a"); !slices.Equal(got, []State{Degraded, Online}) {
			t.Errorf("the unchanged device went through %v", got)
		}
		if err := c.Apply([]*protocols.Device{robot("a", "old"), robot("b", "new")}); err != nil {
			t.Fatal(err)
		}
		if n := len(f.buses); n != 2 {
			t.Error("a reload without a change made a new session")
		}
	})
}

// TestOverloadedBusStaysReachable: more is due on the bus than it can do, and
// a reload, the page and a stop get their turn all the same.
func TestOverloadedBusStaysReachable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{read: func(_ *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			advance(200 * time.Millisecond)
			return allGood(protocols.Int(1), out)
		}}
		var devs []*protocols.Device
		for _, id := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
			devs = append(devs, testDevice(id, "bus", "x"))
		}
		c, buf := running(t, f, devs...)
		advance(10 * time.Second)
		start := time.Now()
		if err := c.Apply(devs[:5]); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > time.Second || len(c.Status()) != 5 {
			t.Errorf("the reload took %v", took)
		}
		advance(5 * time.Second)
		n := len(buf.of("j"))
		advance(5 * time.Second)
		if len(buf.of("j")) != n || len(buf.of("a")) < 12 { // of some 15
			t.Error("the bus did not hear of the reload")
		}
		start = time.Now()
		c.Stop()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("the stop took %v", took)
		}
	})
}

// TestDeafConnection: a PLC was switched off and on without a word; on a new
// connection it answers.
func TestDeafConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		connections := 0
		f := &fakeDriver{
			connect: func(string) error { connections++; return nil },
			read: func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
				if connections == 1 {
					return noAnswer(d, out)
				}
				return allGood(protocols.Int(1), out)
			},
		}
		_, buf := running(t, f, testDevice("press-1", "a", "x"))
		advance(15 * time.Second)
		if got := buf.statesOf("press-1"); connections != 2 || got[len(got)-1] != Online {
			t.Errorf("%d connections, states %v", connections, got)
		}
	})
}

// TestGroupWithoutAnswer: one of a device's two groups is never answered.
// That is not the device's silence, again and again.
func TestGroupWithoutAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{read: func(d *protocols.Device, tags []int, out []protocols.Reading) protocols.ScanResult {
			if tags[0] == 1 {
				return noAnswer(d, out)
			}
			return allGood(protocols.Int(1), out)
		}}
		d := testDevice("press-1", "a", "good", "deaf")
		d.Timeout = 200 * time.Millisecond
		d.Tags[1].Interval = 5 * time.Second
		_, buf := running(t, f, d)
		advance(time.Minute)
		goodWasBad, deafWasBad := 0, 0
		for _, b := range buf.of("press-1") {
			for _, r := range b.readings {
				switch {
				case r.Quality == protocols.Good:
				case r.Tag == 0:
					goodWasBad++
				default:
					deafWasBad++
				}
			}
		}
		if goodWasBad > 1 || deafWasBad != 1 {
			t.Errorf("the good tag was bad %d times, the other %d times, want at most once each", goodWasBad, deafWasBad)
		}
		if got := buf.statesOf("press-1"); len(got) > 6 || got[len(got)-1] != Degraded {
			t.Errorf("states %v", got)
		}
	})
}

// TestFlappingIsHeld: a device that comes and goes with every scan does not
// flood the log and the broker.
func TestFlappingIsHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := 0
		f := &fakeDriver{read: func(_ *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			n++
			res := allGood(protocols.Int(1), out)
			if n%2 == 0 && n < 1200 {
				res.Err = &protocols.Error{Kind: protocols.KindRefused, Reason: protocols.DeviceBusy, Text: "busy"}
			}
			return res
		}}
		d := testDevice("press-1", "a", "x")
		d.Interval = 100 * time.Millisecond
		_, buf := running(t, f, d)
		advance(2 * time.Minute)
		if got := buf.statesOf("press-1"); len(got) > 12 {
			t.Errorf("%d states in two minutes", len(got))
		}
		advance(15 * time.Second)
		if got := buf.statesOf("press-1"); got[len(got)-1] != Online {
			t.Errorf("whole for 15 s and still %v", got[len(got)-1])
		}
	})
}

// TestRefusedSubscription: the server refuses one device's subscription; the
// others of the session go on.
func TestRefusedSubscription(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDriver{
			subscribe: func(d *protocols.Device) error {
				if d.ID == "sick" {
					return &protocols.Error{Kind: protocols.KindRefused, Reason: "BadTooManyMonitoredItems", Text: "too many"}
				}
				return nil
			},
			read: func(_ *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
				return allGood(protocols.Int(1), out)
			},
		}
		well, sick, poll := testDevice("well", "a", "x"), testDevice("sick", "a", "x"), testDevice("poll", "a", "x")
		well.OPCUA.Subscribe, sick.OPCUA.Subscribe = true, true
		_, buf := running(t, f, well, sick, poll)
		advance(time.Minute)
		if n := len(slices.DeleteFunc(f.logged(), func(e string) bool { return e != "connect a" })); n != 1 {
			t.Errorf("%d connections", n)
		}
		if got := buf.statesOf("well"); !slices.Equal(got, []State{Degraded, Online}) {
			t.Errorf("the well one went through %v", got)
		}
		if n := len(buf.of("poll")); n < 59 {
			t.Errorf("the polled one was read %d times in a minute", n)
		}
		if got := buf.statesOf("sick"); got[len(got)-1] != Offline {
			t.Errorf("the refused one is %v", got)
		}
	})
}

// TestSilentBusComesBackWhole: all units of a line were silent; when one
// answers again, the others are asked at once.
func TestSilentBusComesBackWhole(t *testing.T) {
	t.Parallel()
	for _, silent := range []time.Duration{10 * time.Second, 20 * time.Second} { // the first to fall silent waits for its probe until then, or not any more
		t.Run(silent.String(), func(t *testing.T) { silentBus(t, silent) })
	}
}

func silentBus(t *testing.T, silent time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var dead atomic.Bool
		f := &fakeDriver{read: func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			if dead.Load() {
				return noAnswer(d, out)
			}
			return allGood(protocols.Int(1), out)
		}}
		ids := []string{"a", "b", "c", "d", "e"}
		var devs []*protocols.Device
		for _, id := range ids {
			devs = append(devs, testDevice(id, "bus", "x"))
		}
		_, buf := running(t, f, devs...)
		advance(5 * time.Second)
		dead.Store(true)
		advance(silent)
		dead.Store(false)
		advance(8 * time.Second)
		for _, id := range ids {
			if got := buf.statesOf(id); got[len(got)-1] != Online {
				t.Errorf("%s is %v 8 s after the line came back", id, got[len(got)-1])
			}
		}
	})
}

func TestLargeBatchesAreSplit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		text := strings.Repeat("x", 200_000)
		f := &fakeDriver{read: func(_ *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			return allGood(protocols.String(text), out)
		}}
		_, buf := running(t, f, testDevice("a", "bus", "v", "w", "x", "y", "z"))
		advance(time.Millisecond)
		tag := int32(0)
		for _, b := range buf.of("a") {
			for _, r := range b.readings {
				if r.Tag != tag {
					t.Errorf("tag %d instead of %d", r.Tag, tag)
				}
				tag++
			}
		}
		if n := len(buf.of("a")); n != 5 || tag != 5 {
			t.Errorf("%d batches with %d readings", n, tag)
		}
	})
}

// TestBatchAfterAnInternalError: what a panic left half done does not get
// into the next batch.
func TestBatchAfterAnInternalError(t *testing.T) {
	t.Parallel()
	buf := newFakeBuffer(t)
	d, err := newDevice(testDevice("a", "bus", "x", "y"), Options{Appender: buf, State: buf.state, Log: testLog(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	g := d.groups(1)[0]
	res := func() protocols.ScanResult { return allGood(protocols.Int(1), g.out) }
	broken := *g
	broken.tags, broken.plain = []int{0, 99}, false
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a tag that does not exist is no internal error")
			}
		}()
		d.scanned(&broken, res(), time.Millisecond)
	}()
	d.scanned(g, res(), time.Millisecond)
	if bs := buf.of("a"); len(bs) != 1 || len(bs[0].readings) != 2 {
		t.Errorf("%+v", bs)
	}
}
