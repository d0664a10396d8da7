package collector

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/protocols"
)

// askedDriver is a fakeDriver whose devices say who they are.
type askedDriver struct {
	fakeDriver

	answer func(d *protocols.Device) (protocols.Identity, error)
	asked  atomic.Int32
}

func (a *askedDriver) Open(ds []*protocols.Device) (protocols.Bus, error) {
	b, err := a.fakeDriver.Open(ds)
	if s, ok := b.(*fakeBus); ok {
		return &askedSession{fakeBus: s, driver: a}, err
	}
	return &askedBus{Bus: b, driver: a}, err
}

func (a *askedDriver) identify(ctx context.Context, d *protocols.Device) (protocols.Identity, error) {
	a.log("identify " + d.ID)
	a.asked.Add(1)
	if _, bounded := ctx.Deadline(); !bounded {
		panic("no deadline")
	}
	return a.answer(d)
}

type askedBus struct {
	protocols.Bus
	driver *askedDriver
}

func (b *askedBus) Identify(ctx context.Context, d *protocols.Device) (protocols.Identity, error) {
	return b.driver.identify(ctx, d)
}

type askedSession struct {
	*fakeBus
	driver *askedDriver
}

func (b *askedSession) Identify(ctx context.Context, d *protocols.Device) (protocols.Identity, error) {
	return b.driver.identify(ctx, d)
}

func askedCollector(t *testing.T, a *askedDriver) *Collector {
	t.Helper()
	c, _ := testCollector(t, &a.fakeDriver)
	c.opts.Drivers = map[string]protocols.Driver{"fake": a}
	if a.read == nil {
		a.read = func(_ *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			return allGood(protocols.Int(1), out)
		}
	}
	return c
}

func apply(t *testing.T, c *Collector, devices ...*protocols.Device) {
	t.Helper()
	if err := c.Apply(devices); err != nil {
		t.Fatal(err)
	}
}

func testIdentity(d *protocols.Device) (protocols.Identity, error) {
	return protocols.Identity{Maker: "Acme", Model: "X1", Serial: d.ID}, nil
}

// A device is asked once who it is, some time after its first answer, and
// only if it may be.
func TestIdentify(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &askedDriver{answer: testIdentity}
		c := askedCollector(t, a)
		poll, quiet, sub := testDevice("poll", "one", "a"), testDevice("quiet", "one", "a"), testDevice("sub", "two", "a")
		poll.Identify, sub.Identify, sub.OPCUA.Subscribe = true, true, true
		apply(t, c, poll, quiet, sub)
		advance(identifyDelay - 100*time.Millisecond)
		if n := a.asked.Load(); n != 0 {
			t.Errorf("asked %d times at once", n)
		}
		advance(10 * time.Minute)
		for _, s := range c.Status() {
			want, _ := testIdentity(s.Config)
			if s.Config == quiet {
				want = protocols.Identity{}
			}
			if s.Identity != want || s.State.State != Online {
				t.Errorf("%s: %+v, %s", s.Config.ID, s.Identity, s.State.State)
			}
		}
		if n := a.asked.Load(); n != 2 {
			t.Errorf("asked %d times, not 2: %q", n, a.logged())
		}
		c.Stop()
	})
}

// A device that comes back after a while may be another one.
func TestIdentifyAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		a := &askedDriver{answer: testIdentity}
		a.read = func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			if away.Load() {
				return noAnswer(d, out)
			}
			return allGood(protocols.Int(1), out)
		}
		c := askedCollector(t, a)
		d := testDevice("d", "one", "a")
		d.Identify = true
		apply(t, c, d)
		advance(time.Minute)
		for _, want := range []int32{1, 2, 2} { // the last time it has just been asked
			if n := a.asked.Load(); n != want {
				t.Errorf("asked %d times, not %d", n, want)
			}
			away.Store(true)
			advance(map[int32]time.Duration{1: identifyAgain, 2: time.Minute}[want])
			away.Store(false)
			advance(time.Minute)
		}
		c.Stop()
	})
}

// The question waits for a gap between the scans, but not for ever.
func TestIdentifyInAGap(t *testing.T) {
	t.Parallel()
	for name, load := range map[string]struct {
		takes time.Duration // of a scan each second
		min   time.Duration
	}{
		"there are gaps":             {takes: 10 * time.Millisecond},
		"there are none":             {takes: 950 * time.Millisecond, min: identifyPatience},
		"each second scan is missed": {takes: 1100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var at time.Duration
				a := &askedDriver{answer: func(d *protocols.Device) (protocols.Identity, error) {
					at = time.Since(start)
					return testIdentity(d)
				}}
				a.read = func(_ *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
					advance(load.takes)
					return allGood(protocols.Int(1), out)
				}
				c := askedCollector(t, a)
				d := testDevice("d", "one", "a")
				d.Identify = true
				apply(t, c, d)
				advance(2 * time.Minute)
				synctest.Wait() // so that it is through with at
				if n := a.asked.Load(); n != 1 || at < load.min || at > load.min+5*time.Second {
					t.Errorf("asked %d times, after %s", n, at)
				}
				c.Stop()
			})
		})
	}
}

// A device that ends the connection because of the question has a new one
// before its next scan, and is not asked for ever.
func TestIdentifyBreaksConnection(t *testing.T) {
	t.Parallel()
	for _, closes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			a := &askedDriver{answer: func(*protocols.Device) (protocols.Identity, error) {
				return protocols.Identity{}, &protocols.Error{Kind: protocols.KindNotConnected, Reason: protocols.Offline, Text: "it closed the connection"}
			}}
			var bad atomic.Int32
			a.read = func(_ *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
				if events := a.logged(); events[len(events)-1] != "connect one" {
					bad.Add(1)
				}
				return allGood(protocols.Int(1), out)
			}
			c := askedCollector(t, a)
			d := testDevice("d", "one", "a")
			d.Identify, d.Modbus.CloseAfterScan = true, closes
			apply(t, c, d)
			advance(10 * time.Minute)
			if n := a.asked.Load(); n != identifyTries || bad.Load() > 0 {
				t.Errorf("asked %d times, %d scans without a connection", n, bad.Load())
			}
			if s := c.Status()[0]; s.State.State != Online || s.Missed > 0 || s.Bad > 0 {
				t.Errorf("%+v", s)
			}
			if events := a.logged(); !closes && slices.Compact(events)[len(events)-1] != "connect one" {
				t.Errorf("%q", events)
			}
			c.Stop()
		})
	}
}

// A driver that panics at the question loses the connection, no more.
func TestIdentifyPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &askedDriver{answer: func(*protocols.Device) (protocols.Identity, error) { panic("odd bytes") }}
		c := askedCollector(t, a)
		d := testDevice("d", "one", "a")
		d.Identify = true
		apply(t, c, d)
		advance(time.Minute)
		if s := c.Status()[0]; a.asked.Load() != 1 || s.State.State != Online {
			t.Errorf("asked %d times; %s", a.asked.Load(), s.State.State)
		}
		c.Stop()
	})
}
