package collector

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/protocols"
)

// lineDriver is a fakeDriver whose devices share a line: each scan takes its
// time, and others may have their turn in the middle of long ones.
type lineDriver struct {
	fakeDriver

	learnt bool
	advice []string
}

func (*lineDriver) UnitKey(d *protocols.Device) string { return fmt.Sprint(d.Modbus.Unit) }

func (l *lineDriver) Open(ds []*protocols.Device) (protocols.Bus, error) {
	b, err := l.fakeDriver.Open(ds)
	return &lineBus{Bus: b, driver: l}, err
}

type lineBus struct {
	protocols.Bus
	driver *lineDriver
}

func (b *lineBus) Advice(*protocols.Device) []string { return b.driver.advice }

func (b *lineBus) Plan(d *protocols.Device, tags []int) (protocols.Scan, error) {
	return &lineScan{fakeScan: fakeScan{driver: &b.driver.fakeDriver, dev: d, tags: tags}, line: b.driver}, nil
}

// lineScan makes one request of 10 ms for each tag.
type lineScan struct {
	fakeScan
	line   *lineDriver
	others func() bool
	give   func()
}

func (s *lineScan) OnPause(others func() bool, give func()) { s.others, s.give = others, give }

func (s *lineScan) Read(_ context.Context, out []protocols.Reading) protocols.ScanResult {
	if s.driver.read != nil {
		if res := s.driver.read(s.dev, s.tags, out); res.Requests > 0 {
			return res
		}
	}
	for i := range out {
		advance(10 * time.Millisecond)
		out[i].SetGood(protocols.Int(1))
		if i < len(out)-1 && s.others != nil && s.others() {
			s.give()
		}
	}
	return protocols.ScanResult{Time: time.Now(), Requests: len(out), Answers: len(out), Learnt: s.line.learnt}
}

func lineCollector(t *testing.T, l *lineDriver) (*Collector, *fakeBuffer) {
	t.Helper()
	c, buf := testCollector(t, &l.fakeDriver)
	c.opts.Drivers = map[string]protocols.Driver{"fake": l}
	return c, buf
}

func lineUnits(n int, timeout time.Duration) []*protocols.Device {
	units := make([]*protocols.Device, n)
	for i := range units {
		units[i] = testDevice(fmt.Sprintf("unit-%02d", i), "line", "a")
		units[i].Modbus.Unit, units[i].Timeout = uint8(i+1), timeout
	}
	return units
}

// Five dead units of 32 leave the others nearly all of their scans, although
// their time-outs are longer than all other scans together.
func TestFiveDeadOf32(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := func(d *protocols.Device) bool { return d.Modbus.Unit%7 == 1 }
		var probed atomic.Int64
		l := &lineDriver{}
		l.read = func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			if dead(d) {
				probed.Add(int64(d.Timeout))
				return noAnswer(d, out)
			}
			return protocols.ScanResult{}
		}
		c, _ := lineCollector(t, l)
		if err := c.Apply(lineUnits(32, 500*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		const settle, long = 20 * time.Second, 10 * time.Minute
		advance(settle)
		before := map[string]uint64{}
		for _, s := range c.Status() {
			before[s.Config.ID] = s.Scans
		}
		probed.Store(0)
		advance(long)
		n := 0
		for _, s := range c.Status() {
			scans := float64(s.Scans-before[s.Config.ID]) / long.Seconds()
			switch {
			case dead(s.Config):
				n++
				if s.Scans == before[s.Config.ID] {
					t.Errorf("%s is not probed", s.Config.ID)
				}
			case scans < 0.95:
				t.Errorf("%s kept %.1f %% of its scans", s.Config.ID, 100*scans)
			}
		}
		if share := time.Duration(probed.Load()).Seconds() / long.Seconds(); n != 5 || share > 0.05 || share < 0.03 {
			t.Errorf("the probes of %d units took %.1f %% of the time", n, 100*share)
		}
		c.Stop()
	})
}

// Units that come back together are all back with the first probe of each.
func TestUnitsComeBackTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Bool
		l := &lineDriver{}
		l.read = func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			if !back.Load() && d.Modbus.Unit > 1 {
				return noAnswer(d, out)
			}
			return protocols.ScanResult{}
		}
		c, buf := lineCollector(t, l)
		if err := c.Apply(lineUnits(10, time.Second)); err != nil {
			t.Fatal(err)
		}
		advance(time.Minute)
		back.Store(true)
		advance(22 * time.Second) // one probe in 20 s, and the others behind it
		for _, s := range c.Status() {
			if s.State.State != Online {
				t.Errorf("%s is %s: %v", s.Config.ID, s.State.State, buf.statesOf(s.Config.ID))
			}
		}
		c.Stop()
	})
}

// Two devices are one unit: what one of them shows holds for the other.
func TestDevicesOfOneUnit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Bool
		var left, right atomic.Int64 // how often they were asked
		l := &lineDriver{}
		l.read = func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			switch d.ID {
			case "left":
				left.Add(1)
			case "right":
				right.Add(1)
			}
			if !back.Load() && d.Modbus.Unit == 1 {
				return noAnswer(d, out)
			}
			return protocols.ScanResult{}
		}
		c, _ := lineCollector(t, l)
		one, two, other := testDevice("left", "line", "a"), testDevice("right", "line", "a"), testDevice("other", "line", "a")
		one.Modbus.Unit, two.Modbus.Unit, other.Modbus.Unit = 1, 1, 2
		one.Interval = 50 * time.Second
		if err := c.Apply([]*protocols.Device{one, two, other}); err != nil {
			t.Fatal(err)
		}
		advance(60 * time.Second)
		if n := left.Load() + right.Load(); n > 5 {
			t.Errorf("the silent unit was asked %d times in a minute", n)
		}
		back.Store(true)
		advance(60 * time.Second)
		before := right.Load()
		advance(10 * time.Second)
		if n := right.Load() - before; n < 9 {
			t.Errorf("right is read %d times in 10 s", n)
		}
		c.Stop()
	})
}

// A device with many requests does not hold up its neighbours for all of
// them, and is not starved by them.
func TestLongScansAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lineDriver{}
		c, buf := lineCollector(t, l)
		units := lineUnits(4, time.Second)
		for i := range 300 { // three seconds of requests
			units[0].Tags = append(units[0].Tags, protocols.Tag{Name: fmt.Sprint(i)})
		}
		for _, u := range units[1:] {
			u.Interval = 100 * time.Millisecond
		}
		if err := c.Apply(units); err != nil {
			t.Fatal(err)
		}
		advance(30 * time.Second)
		for _, s := range c.Status()[1:] {
			if s.Scans < 285 || s.Missed > 15 {
				t.Errorf("%s had %d scans and missed %d", s.Config.ID, s.Scans, s.Missed)
			}
		}
		if s := c.Status()[0]; s.Scans < 6 || s.LastScan > 3100*time.Millisecond {
			t.Errorf("the long one had %d scans, the last of %v", s.Scans, s.LastScan)
		}
		if n := len(buf.of("unit-00")); n < 6 {
			t.Errorf("%d batches of the long one", n)
		}
		c.Stop()
	})
}

func TestCloseAfterScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lineDriver{}
		c, _ := lineCollector(t, l)
		d := testDevice("press", "line", "a")
		d.Modbus.CloseAfterScan = true
		if err := c.Apply([]*protocols.Device{d}); err != nil {
			t.Fatal(err)
		}
		advance(3500 * time.Millisecond)
		events := l.logged()
		if n := len(events); n < 6 || n%2 != 0 || events[n-1] != "close line" || events[n-2] != "connect line" {
			t.Errorf("%v", events)
		}
		if s := c.Status()[0]; s.Missed > 0 || s.State.State != Online {
			t.Errorf("%+v", s)
		}
		c.Stop()
	})
}

func TestAdviceIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lineDriver{learnt: true, advice: []string{"set max_registers: 60"}}
		c, _ := lineCollector(t, l)
		if err := c.Apply([]*protocols.Device{testDevice("press", "line", "a")}); err != nil {
			t.Fatal(err)
		}
		advance(time.Second)
		if s := c.Status()[0]; !slices.Equal(s.Advice, l.advice) {
			t.Errorf("the advice is %q", s.Advice)
		}
		c.Stop()
	})
}

// A line that is asked for more than it can do is shared fairly: nobody waits
// for several times as long as one round of all takes.
func TestOverloadIsShared(t *testing.T) {
	for _, k := range []struct {
		units, requests int
		interval        time.Duration
	}{
		{32, 3, 500 * time.Millisecond},
		{4, 40, time.Second},
		{6, 100, time.Second},
		{2, 200, 100 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, buf := lineCollector(t, &lineDriver{})
			units := lineUnits(k.units, time.Second)
			for _, u := range units {
				u.Interval = k.interval
				for i := range k.requests - 1 {
					u.Tags = append(u.Tags, protocols.Tag{Name: fmt.Sprint(i)})
				}
			}
			if err := c.Apply(units); err != nil {
				t.Fatal(err)
			}
			advance(10 * time.Minute)
			round := time.Duration(k.units*k.requests) * 10 * time.Millisecond
			var longest time.Duration
			for _, u := range units {
				last := time.Time{}
				for _, b := range buf.of(u.ID) {
					if !last.IsZero() {
						longest = max(longest, b.at.Sub(last))
					}
					last = b.at
				}
				if last.IsZero() {
					t.Errorf("%s is never read", u.ID)
				}
				longest = max(longest, time.Since(last))
			}
			if longest > 4*round {
				t.Errorf("%d units of %d requests: %v between two batches, a round takes %v", k.units, k.requests, longest, round)
			}
			// Who is added is read soon.
			if err := c.Apply(append(units, testDevice("new", "line", "a"))); err != nil {
				t.Fatal(err)
			}
			advance(5 * round)
			if len(buf.of("new")) == 0 {
				t.Errorf("a device that was added is not read within %v", 5*round)
			}
			advance(10 * round)
			c.Stop()
		})
	}
}

// After an internal error in the middle of a scan that gave its turn, others
// have theirs again.
func TestPanicOfAnInterruptingScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Int64
		l := &lineDriver{}
		l.read = func(d *protocols.Device, _ []int, _ []protocols.Reading) protocols.ScanResult {
			if d.ID == "unit-01" && broken.Add(1)%3 == 0 && broken.Load() < 40 {
				panic("broken")
			}
			return protocols.ScanResult{}
		}
		c, _ := lineCollector(t, l)
		units := lineUnits(3, time.Second)
		for i := range 150 {
			units[0].Tags = append(units[0].Tags, protocols.Tag{Name: fmt.Sprint(i)})
		}
		units[1].Interval, units[2].Interval = 100*time.Millisecond, 100*time.Millisecond
		if err := c.Apply(units); err != nil {
			t.Fatal(err)
		}
		advance(20 * time.Second)
		before := c.Status()[2].Scans
		advance(10 * time.Second)
		if n := c.Status()[2].Scans - before; n < 95 {
			t.Errorf("%d scans of a neighbour in 10 s", n)
		}
		c.Stop()
	})
}

// hangsUp is what a gateway does about a unit that it does not know: it closes
// the connection.
func hangsUp(d *protocols.Device, out []protocols.Reading) protocols.ScanResult {
	advance(time.Millisecond)
	for i := range out {
		out[i].SetBad(protocols.Offline)
	}
	return protocols.ScanResult{Requests: 1, Err: &protocols.Error{Kind: protocols.KindNotConnected, Reason: protocols.Offline, Text: d.ID + ": the device closed the connection"}}
}

// Five units of 32, at whose requests the gateway closes the connection, leave
// the others nearly all of their scans; so do five silent ones where each scan
// has a connection of its own.
func TestDeadUnitsAndConnections(t *testing.T) {
	dead := func(d *protocols.Device) bool { return d.Modbus.Unit%7 == 1 }
	for name, read := range map[string]func(*protocols.Device, []protocols.Reading) protocols.ScanResult{
		"it closes the connection": hangsUp, "a connection for each scan": noAnswer,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &lineDriver{}
				l.read = func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
					if dead(d) {
						return read(d, out)
					}
					return protocols.ScanResult{}
				}
				c, buf := lineCollector(t, l)
				units := lineUnits(32, 500*time.Millisecond)
				for _, u := range units {
					u.Modbus.CloseAfterScan = name == "a connection for each scan"
				}
				if err := c.Apply(units); err != nil {
					t.Fatal(err)
				}
				wantOthersServed(t, c, dead)
				for _, u := range units {
					if got := buf.statesOf(u.ID); !dead(u) && !slices.Equal(got, []State{Degraded, Online}) {
						t.Errorf("%s, which answers, was %v", u.ID, got)
					}
				}
				connects := 0
				for _, e := range l.logged() {
					if e == "connect line" {
						connects++
					}
				}
				// Each probe spoils two connections, and there is one in 10 s.
				if !units[0].Modbus.CloseAfterScan && connects > 200 {
					t.Errorf("%d connections", connects)
				}
				c.Stop()
			})
		})
	}
}

// wantOthersServed wants nearly all scans of the units that are not dead to
// be made in ten minutes, and the dead ones to be probed.
func wantOthersServed(t *testing.T, c *Collector, dead func(*protocols.Device) bool) {
	t.Helper()
	const settle, long = 20 * time.Second, 10 * time.Minute
	advance(settle)
	before := map[string]uint64{}
	for _, s := range c.Status() {
		before[s.Config.ID] = s.Scans
	}
	advance(long)
	for _, s := range c.Status() {
		switch n := s.Scans - before[s.Config.ID]; {
		case dead(s.Config) && n == 0:
			t.Errorf("%s is not probed", s.Config.ID)
		case !dead(s.Config) && float64(n) < 0.95*long.Seconds():
			t.Errorf("%s had %d scans in %v", s.Config.ID, n, long)
		}
	}
}

// A unit that has just fallen silent is probed before those that have been for
// long: it may have lost one answer only.
func TestOneLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lose atomic.Bool
		l := &lineDriver{}
		l.read = func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			if d.Modbus.Unit > 4 || d.Modbus.Unit == 2 && lose.CompareAndSwap(true, false) {
				return noAnswer(d, out)
			}
			return protocols.ScanResult{}
		}
		c, _ := lineCollector(t, l)
		if err := c.Apply(lineUnits(10, 500*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		scans := func(i int) uint64 { return c.Status()[i].Scans }
		advance(5 * time.Minute)
		dead := scans(9)
		lose.Store(true)
		before := scans(1)
		advance(22 * time.Second) // one probe in 10 s
		if n := scans(1) - before; n < 5 {
			t.Errorf("the unit that lost an answer had %d scans in 22 s", n)
		}
		advance(2 * time.Minute)
		if scans(9) == dead {
			t.Error("a dead unit is not probed any more")
		}
		c.Stop()
	})
}

// A unit at which the connection broke is not silent: when there is one again,
// it is read like its neighbours.
func TestUnitAtWhichTheAdapterWent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gone atomic.Bool
		l := &lineDriver{}
		l.connect = func(string) error {
			if gone.Load() {
				return &protocols.Error{Kind: protocols.KindNotConnected, Reason: protocols.Offline, Text: "there is no serial port"}
			}
			return nil
		}
		l.read = func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			if gone.Load() {
				return hangsUp(d, out)
			}
			return protocols.ScanResult{}
		}
		c, _ := lineCollector(t, l)
		if err := c.Apply(lineUnits(3, time.Second)); err != nil {
			t.Fatal(err)
		}
		advance(10 * time.Second)
		gone.Store(true)
		advance(3 * time.Second)
		gone.Store(false)
		advance(2 * time.Second)
		before := map[string]uint64{}
		for _, s := range c.Status() {
			before[s.Config.ID] = s.Scans
		}
		advance(5 * time.Second)
		for _, s := range c.Status() {
			if n := s.Scans - before[s.Config.ID]; n < 4 {
				t.Errorf("%s had %d scans in 5 s", s.Config.ID, n)
			}
		}
		c.Stop()
	})
}
