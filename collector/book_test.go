package collector

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/collector/ledger"
	"millrace/protocols"
)

// bookClock is a ledger in virtual time, and what it holds of a device.
type bookClock struct {
	t    *testing.T
	wall time.Time
	l    *ledger.Ledger
}

func newBookClock(t *testing.T) *bookClock {
	t.Helper()
	c := &bookClock{t: t, wall: time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)}
	start := c.wall
	c.l = ledger.New(ledger.Options{
		Dir: t.TempDir(), Keep: 1000 * time.Hour, Now: func() time.Time { return c.wall }, Elapsed: func() time.Duration { return c.wall.Sub(start) },
	})
	t.Cleanup(func() { c.l.Flush(true) })
	return c
}

func (c *bookClock) now() time.Time { return c.wall }

func (c *bookClock) counts() (sum ledger.Counts) {
	c.t.Helper()
	c.l.Flush(false)
	from := c.wall.Truncate(24 * time.Hour)
	if _, err := c.l.Read(from, from.Add(48*time.Hour), ledger.Visitor{Row: func(_ string, _ int64, n *ledger.Counts) { sum.Add(n) }}); err != nil {
		c.t.Fatal(err)
	}
	return sum
}

// watched is a device with three tags: two of a second, one of ten.
func watchedDevice() *protocols.Device {
	return &protocols.Device{
		ID: "d", Enabled: true, Interval: time.Second, OPCUA: protocols.OPCUAOptions{Subscribe: true},
		Tags: []protocols.Tag{{Name: "a"}, {Name: "b"}, {Name: "slow", Interval: 10 * time.Second}},
	}
}

func good(tag int32) *protocols.Reading {
	return &protocols.Reading{Tag: tag, Value: protocols.Int(1)}
}

func bad(tag int32, why protocols.Reason) *protocols.Reading {
	r := &protocols.Reading{Tag: tag}
	r.SetBad(why)
	return r
}

// TestWatch: of a subscription, each tag is due once in each of its intervals;
// it is read while the device gives a value for it, and good while that is.
func TestWatch(t *testing.T) {
	t.Parallel()
	c := newBookClock(t)
	w := newWatch(watchedDevice(), c.l.Device("d"), c.wall)
	pass := func(d time.Duration) { c.wall = c.wall.Add(d) }
	pass(10 * time.Second) // nothing is known: 20 + 1 are due
	w.set(good(0), c.now)
	w.set(good(2), c.now)
	pass(20 * time.Second) // 40 + 2 are due, 20 + 2 read and good
	w.set(good(0), c.now)  // again
	w.set(bad(1, protocols.OutOfRange), c.now)
	pass(10 * time.Second) // 20 + 1 due, 20 + 1 read, 10 + 1 good
	w.set(bad(0, protocols.Timeout), c.now)
	w.set(bad(1, protocols.Offline), c.now)
	w.set(bad(2, "BadSensorFailure"), c.now)
	pass(10 * time.Second) // 20 + 1 due; the server has given a value of the slow one, which is no good
	w.account(c.wall)
	w.account(c.wall) // at once again: nothing
	if n := c.counts(); n.Expected != 105 || n.Read != 44 || n.Good != 33 {
		t.Errorf("%d due, %d read, %d good; want 105, 44 and 33", n.Expected, n.Read, n.Good)
	}
}

// TestWatchBegins: a device that takes another's place at a reload is watched
// from when it starts; until then the other one was.
func TestWatchBegins(t *testing.T) {
	t.Parallel()
	c := newBookClock(t)
	o := Options{Ledger: c.l, Appender: nullAppender{}, Log: slog.New(slog.DiscardHandler), Now: c.now, State: func(DeviceState) {}}
	fresh := func() *device {
		d, err := newDevice(watchedDevice(), o)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	before := fresh()
	before.start()
	c.wall = c.wall.Add(20 * time.Second)
	after := fresh()
	c.wall = c.wall.Add(10 * time.Second) // while buses are made
	before.countUp()
	before.retired.Store(true)
	after.start()
	after.start() // it was started
	c.wall = c.wall.Add(10 * time.Second)
	before.countUp()
	after.countUp()
	if n := c.counts(); n.Expected != 4*21 {
		t.Errorf("%d are due in 40 s, want %d", n.Expected, 4*21)
	}
}

// TestBookLost: values that were lost on the way are taken from those that were
// read, and given back when the device's memory had them.
func TestBookLost(t *testing.T) {
	t.Parallel()
	c := newBookClock(t)
	d, err := newDevice(watchedDevice(), Options{Ledger: c.l, Appender: nullAppender{}, Log: slog.New(slog.DiscardHandler), Now: c.now, State: func(DeviceState) {}})
	if err != nil {
		t.Fatal(err)
	}
	d.start()
	for tag := range int32(3) {
		d.view.watch.set(good(tag), c.now)
	}
	from := c.wall
	c.wall = c.wall.Add(100 * time.Second) // 210
	d.countUp()
	d.bookLost(7)
	if n := c.counts(); n.Read != 203 || n.Good != 203 || n.Expected != 210 {
		t.Errorf("lost: %d due, %d read, %d good", n.Expected, n.Read, n.Good)
	}
	d.bookFilled(&protocols.Outage{Cause: protocols.OutageOverflow, From: from, To: c.wall, Tags: 3, Read: 7})
	if n := c.counts(); n.Read != 210 || n.Good != 210 {
		t.Errorf("found: %d read, %d good", n.Read, n.Good)
	}
	d.bookFilled(&protocols.Outage{Cause: protocols.OutageOverflow, From: from, To: c.wall, Tags: 3, Read: 7})
	if n := c.counts(); n.Read != 210 {
		t.Errorf("found twice: %d read", n.Read)
	}
}

// TestBookFilled: of an outage, what the device's own memory had is read, in the
// hours in which it was due: of all tags, of those of which nothing is missing,
// or of none.
func TestBookFilled(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		o    protocols.Outage
		read int64 // of 100 s: 210 readings were due
	}{
		"all of it":            {protocols.Outage{Cause: protocols.OutageConnection, Tags: 3, Read: 3, Values: 9}, 210},
		"nothing had changed":  {protocols.Outage{Cause: protocols.OutageConnection, Tags: 3}, 210},
		"over a restart":       {protocols.Outage{Cause: protocols.OutageRestart, Tags: 3, Read: 3}, 210},
		"two of three tags":    {protocols.Outage{Cause: protocols.OutageConnection, Tags: 3, Read: 2, NoHistory: 1}, 100}, // of each group, rounded down
		"only a part of it":    {protocols.Outage{Cause: protocols.OutageConnection, Tags: 3, Read: 3, Partly: 3}, 0},
		"no history":           {protocols.Outage{Cause: protocols.OutageConnection, Tags: 3, NoHistory: 3}, 0},
		"it was not read":      {protocols.Outage{Cause: protocols.OutageConnection, Tags: 3, Why: "history: 0s"}, 0},
		"a full queue, unread": {protocols.Outage{Cause: protocols.OutageOverflow, Tags: 3, NoHistory: 3}, 0},
		"no tags":              {protocols.Outage{Cause: protocols.OutageConnection}, 0},
	} {
		b := newBookClock(t)
		d, err := newDevice(watchedDevice(), Options{Ledger: b.l, Appender: nullAppender{}, Log: slog.New(slog.DiscardHandler), Now: b.now, State: func(DeviceState) {}})
		if err != nil {
			t.Fatal(err)
		}
		d.start()
		c.o.From = b.wall
		b.wall = b.wall.Add(100 * time.Second)
		c.o.To = b.wall
		d.countUp()
		d.bookFilled(&c.o)
		if n := b.counts(); n.Read != c.read || n.Good != c.read || n.Expected != 210 {
			t.Errorf("%s: %d due, %d read, %d good, want %d", name, n.Expected, n.Read, n.Good, c.read)
		}
	}
}

// refusing is a buffer that takes nothing for a while.
type refusing struct {
	*fakeBuffer
	refuse atomic.Bool
}

func (r *refusing) Append(ms int64, schema uint64, readings int, record []byte) error {
	if r.refuse.Load() {
		return errors.New("no room")
	}
	return r.fakeBuffer.Append(ms, schema, readings, record)
}

// TestBookPolled: every turn of a device that is polled is due, whether it was
// made, left out as the last one took too long, or had no answer. A refusal is
// not read, a value out of its range is; what goes out is what was taken.
func TestBookPolled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := ledger.New(ledger.Options{Dir: t.TempDir(), Keep: 1000 * time.Hour, Now: func() time.Time { return time.Now().AddDate(30, 0, 0) }})
		defer l.Flush(true)
		var took, answered atomic.Int64
		var dead atomic.Bool
		took.Store(int64(100 * time.Millisecond))
		f := &fakeDriver{read: func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			if dead.Load() {
				return noAnswer(d, out)
			}
			advance(time.Duration(took.Load()))
			answered.Add(1)
			res := allGood(protocols.Int(1), out)
			out[1].SetBad(protocols.IllegalAddress)
			out[2].SetBad(protocols.OutOfRange)
			return res
		}}
		dev := testDevice("d", "a", "whole", "refused", "odd", "change")
		dev.Tags[3].OnChange = true
		buf := &refusing{fakeBuffer: newFakeBuffer(t)}
		c := New(Options{Drivers: map[string]protocols.Driver{"fake": f}, Appender: buf, State: buf.state, Log: testLog(), Ledger: l})
		advance(300 * time.Millisecond)
		if err := c.Apply([]*protocols.Device{dev}); err != nil {
			t.Fatal(err)
		}
		counts := func() (n ledger.Counts) {
			l.Flush(false)
			if _, err := l.Read(time.Unix(0, 0), time.Now().AddDate(40, 0, 0), ledger.Visitor{Row: func(_ string, _ int64, c *ledger.Counts) { n.Add(c) }}); err != nil {
				t.Fatal(err)
			}
			return n
		}
		advance(20 * time.Second) // 1 at once and 20
		if n := counts(); n.Expected != 84 || n.Read != 63 || n.Good != 42 || n.Sent != 22 || n.Online != 20*time.Second-100*time.Millisecond {
			t.Errorf("at first: %d due, %d read, %d good, %d sent, online for %s", n.Expected, n.Read, n.Good, n.Sent, n.Online)
		}
		took.Store(int64(2500 * time.Millisecond)) // 1 of 3 turns is made
		advance(40 * time.Second)
		if st := c.Status()[0].State; st.State != Degraded || !strings.Contains(st.Reason, "could not be made in time") {
			t.Errorf("with a scan that takes too long it is %s: %s", st.State, st.Reason)
		}
		dead.Store(true)
		advance(30 * time.Second)
		dead.Store(false)
		took.Store(int64(100 * time.Millisecond))
		advance(20 * time.Second)
		good := answered.Load() // all of "whole"
		n := counts()
		if turns := int64(111); n.Expected != 4*turns || n.Read != 3*good || n.Good != 2*good || good > 64 {
			t.Errorf("%d due of %d turns; %d read and %d good in %d answers", n.Expected, turns, n.Read, n.Good, good)
		}
		if n.Sent < good+1 || n.Sent > good+3 || n.Outages != 1 || n.Offline < 25*time.Second {
			t.Errorf("%d sent of %d, %d outages, offline for %s", n.Sent, good, n.Outages, n.Offline)
		}
		sent := n.Sent
		buf.refuse.Store(true)
		advance(10 * time.Second)
		if n := counts(); n.Sent != sent || n.Good != 2*answered.Load() {
			t.Errorf("%d sent while nothing was taken, %d good", n.Sent-sent, n.Good)
		}
		c.Stop()
	})
}

// TestBookBusy: turns that went by while the bus read another device are due.
func TestBookBusy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := ledger.New(ledger.Options{Dir: t.TempDir(), Keep: 1000 * time.Hour, Now: func() time.Time { return time.Now().AddDate(30, 0, 0) }})
		defer l.Flush(true)
		f := &fakeDriver{read: func(d *protocols.Device, _ []int, out []protocols.Reading) protocols.ScanResult {
			if d.ID == "slow" {
				advance(3300 * time.Millisecond)
			}
			return allGood(protocols.Int(1), out)
		}}
		slow, quick := testDevice("slow", "a", "x"), testDevice("quick", "a", "x")
		slow.Interval = 10 * time.Second
		buf := newFakeBuffer(t)
		c := New(Options{Drivers: map[string]protocols.Driver{"fake": f}, Appender: buf, State: buf.state, Log: testLog(), Ledger: l})
		if err := c.Apply([]*protocols.Device{slow, quick}); err != nil {
			t.Fatal(err)
		}
		advance(59500 * time.Millisecond)
		l.Flush(false)
		var n ledger.Counts
		if _, err := l.Read(time.Unix(0, 0), time.Now().AddDate(40, 0, 0), ledger.Visitor{Row: func(device string, _ int64, c *ledger.Counts) {
			if device == "quick" {
				n.Add(c)
			}
		}}); err != nil {
			t.Fatal(err)
		}
		if n.Expected != 60 || n.Read >= 55 || n.Read < 30 {
			t.Errorf("%d due and %d read in 60 turns", n.Expected, n.Read)
		}
		c.Stop()
	})
}
