package buffer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

const (
	y2026 = 1_795_000_000_000 // Unix ms at mono 0, by a clock that is right
	hour  = int64(time.Hour / time.Millisecond)
	year  = 365 * 24 * hour
)

// machine has a wall clock that somebody sets. Its life is by the test's
// hand: no time passes by itself.
type machine struct {
	mu   sync.Mutex
	boot string
	mono int64 // ms
	wall int64 // ms beyond mono
}

func (m *machine) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.UnixMilli(m.mono + m.wall)
}

func (m *machine) since() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Duration(m.mono) * time.Millisecond
}

func (m *machine) pass(ms int64) { m.change(func() { m.mono += ms }) }
func (m *machine) set(wall int64) {
	m.change(func() { m.wall = wall })
}

func (m *machine) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// dated is what an uplink got: records with their times, and gaps.
type dated struct {
	mu      sync.Mutex
	records []Record
	gaps    []Gap
	acked   func(uint64)
	closed  bool // nobody is there
}

func (d *dated) Connect(_ context.Context, acked func(uint64)) (<-chan struct{}, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errRefused
	}
	d.acked = acked
	return make(chan struct{}), nil
}

func (d *dated) Send(_ context.Context, token uint64, r Record) error {
	d.mu.Lock()
	r.Data = nil
	d.records = append(d.records, r)
	d.mu.Unlock()
	d.acked(token)
	return nil
}

func (d *dated) SendGap(_ context.Context, token uint64, g Gap) error {
	d.mu.Lock()
	d.gaps = append(d.gaps, g)
	d.mu.Unlock()
	d.acked(token)
	return nil
}

func (d *dated) Disconnect() {}

// plant is a buffer on a machine, and what was appended to it.
type plant struct {
	t     *testing.T
	m     *machine
	o     Options
	b     *Buffer
	truth []int64 // when each record arrived, by mono, over all streams of one boot
}

func newPlant(t *testing.T, wall int64) *plant {
	t.Helper()
	m := &machine{boot: "boot-1", mono: 30_000, wall: wall}
	p := &plant{t: t, m: m, o: testOptions(t, filepath.Join(t.TempDir(), "buffer"))}
	p.o.CommitInterval = time.Millisecond
	p.o.Now, p.o.Mono = m.now, m.since
	p.open()
	return p
}

func (p *plant) open() {
	p.t.Helper()
	p.o.Stream, p.o.Boot = newStream(), p.m.boot
	p.b = openBuffer(p.t, p.o)
}

// restart ends the buffer, cleanly, and begins a new run.
func (p *plant) restart() {
	p.t.Helper()
	closeBuffer(p.t, p.b)
	p.open()
}

// crash has everything on the disk and begins a new run with what a kill
// leaves: the directory as it is.
func (p *plant) crash() {
	p.t.Helper()
	p.settle()
	dir := filepath.Join(p.t.TempDir(), "buffer")
	if err := os.CopyFS(dir, os.DirFS(p.o.Dir)); err != nil {
		p.t.Fatal(err)
	}
	closeBuffer(p.t, p.b)
	p.o.Dir = dir
	p.open()
}

func (p *plant) settle() {
	p.t.Helper()
	waitFor(p.t, "all to be on the disk", func() bool {
		p.b.mu.Lock()
		defer p.b.mu.Unlock()
		return p.b.settled+1 >= p.b.tail.next()
	})
	if err := p.b.saveState(); err != nil {
		p.t.Fatal(err)
	}
}

// append appends n records, one each second, and 3 ms after they arrived.
func (p *plant) append(n int) {
	p.t.Helper()
	for range n {
		p.m.pass(997)
		at := p.m.now().UnixMilli()
		p.truth = append(p.truth, p.m.since().Milliseconds())
		p.m.pass(3)
		if _, err := p.b.Append(Record{Time: at, Schema: 1, Readings: 2, Data: payload(1, 100)}); err != nil {
			p.t.Fatal(err)
		}
	}
}

// deliver lets an uplink have all that waits.
func (p *plant) deliver() *dated {
	p.t.Helper()
	d := &dated{}
	ctx, cancel := context.WithCancel(p.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.b.Forward(ctx, "a", d, ForwardOptions{MinBackoff: time.Millisecond}); err != nil && !errors.Is(err, ErrUnknownUplink) {
			p.t.Error(err)
		}
	})
	waitFor(p.t, "all delivered", func() bool {
		s := p.b.Stats().Uplinks["a"]
		return s.Lag == 0 && s.Gaps == 0
	})
	cancel()
	wg.Wait()
	return d
}

// want checks that the records are those that were appended, by a clock that
// says offset at mono 0.
func (p *plant) want(d *dated, offset int64, unset bool) {
	p.t.Helper()
	if len(d.records) != len(p.truth) {
		p.t.Fatalf("%d records of %d", len(d.records), len(p.truth))
	}
	for i, r := range d.records {
		if want := p.truth[i] + offset; abs(r.Time-want) > 5 || r.ClockUnset != unset {
			p.t.Fatalf("record %d: %s unset %v, want %s unset %v", i, time.UnixMilli(r.Time).UTC(), r.ClockUnset,
				time.UnixMilli(want).UTC(), unset)
		}
		if i > 0 && r.Stream == d.records[i-1].Stream && (r.Seq != d.records[i-1].Seq+1 || r.Time < d.records[i-1].Time) {
			p.t.Fatalf("record %d is out of order: %+v after %+v", i, r, d.records[i-1])
		}
	}
}

func abs(n int64) int64 { return max(n, -n) }

// TestClockSteps: whatever the clock did while batches waited, they go out
// with times by the clock that is right in the end; from memory, from the
// disk, over a restart, over a kill, and when state.db is lost.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		walls []int64 // what the clock is set to, one after the other
		want  int64
		unset bool
	}{
		"no step":           {[]int64{y2026}, y2026, false},
		"1970, then right":  {[]int64{0, y2026}, y2026, false},
		"an hour forward":   {[]int64{y2026, y2026 + hour}, y2026 + hour, false},
		"an hour back":      {[]int64{y2026, y2026 - hour}, y2026 - hour, false},
		"forward and back":  {[]int64{y2026, y2026 + hour, y2026}, y2026, false},
		"1970 and back":     {[]int64{y2026, 0, y2026}, y2026, false},
		"fallen to 1970":    {[]int64{y2026, 0}, y2026, false},
		"never set":         {[]int64{0}, 0, true},
		"set wrong at once": {[]int64{0, y2026 - year, y2026}, y2026, false},
	} {
		for where, between := range map[string]func(p *plant){
			"memory":  func(p *plant) {},
			"disk":    func(p *plant) { p.settle() },
			"restart": func(p *plant) { p.restart() },
			"kill":    func(p *plant) { p.crash() },
		} {
			t.Run(name+"/"+where, func(t *testing.T) {
				t.Parallel()
				p := newPlant(t, c.walls[0])
				if where == "memory" {
					closeBuffer(t, p.b)
					p.o.CommitInterval = time.Hour
					p.open()
				}
				p.append(70)
				for _, wall := range c.walls[1:] {
					between(p)
					p.m.pass(200)
					p.m.set(wall)
					p.append(70)
				}
				between(p)
				p.want(p.deliver(), c.want, c.unset)
				if now := p.b.Now(); abs(now.UnixMilli()-p.m.since().Milliseconds()-c.want) > 5 {
					t.Errorf("now is %s", now.UTC())
				}
				closeBuffer(t, p.b)
			})
		}
	}
}

// TestClockSetWhileStopped: nobody saw the step.
func TestClockSetWhileStopped(t *testing.T) {
	t.Parallel()
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed ", killed), func(t *testing.T) {
			t.Parallel()
			p := newPlant(t, 0)
			p.append(50)
			if killed {
				p.settle()
				p.m.set(y2026)
				p.m.set(0)
			}
			closeBuffer(t, p.b)
			p.m.pass(20 * hour)
			p.m.set(y2026)
			p.open()
			p.want(p.deliver(), y2026, false)
			closeBuffer(t, p.b)
		})
	}
}

// TestClockWithoutState: state.db is lost, and what is known of the clock is
// found in the segments.
func TestClockWithoutState(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 0)
	p.append(50)
	p.settle()
	p.m.set(y2026 + hour)
	p.append(50)
	p.settle()
	p.m.pass(300)
	p.m.set(y2026)
	p.append(50)
	closeBuffer(t, p.b)
	if err := os.Remove(filepath.Join(p.o.Dir, stateName)); err != nil {
		t.Fatal(err)
	}
	p.open()
	p.want(p.deliver(), y2026, false)
	closeBuffer(t, p.b)
}

// reboot is the machine's next boot, with its clock at wall.
func (p *plant) reboot(wall int64) {
	p.t.Helper()
	closeBuffer(p.t, p.b)
	p.m.change(func() { p.m.boot, p.m.mono, p.m.wall = p.m.boot+"+1", 25_000, wall })
	p.open()
}

// TestClockOfEarlierBoot: what was corrected in its boot stays corrected;
// what never was goes out as it is, marked, and a step of this boot is not
// for it.
func TestClockOfEarlierBoot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mended, unset bool
		want          int64
	}{"mended": {true, false, y2026}, "never set": {false, true, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t, 0)
			p.append(60)
			if c.mended {
				p.m.set(y2026)
				p.append(60)
			}
			p.reboot(0)
			before := p.truth
			p.truth = nil
			p.append(60)
			p.m.set(y2026 + 50*hour)
			p.append(60)
			d := p.deliver()
			after := p.truth
			all := d.records
			p.truth, d.records = before, all[:len(before)]
			p.want(d, c.want, c.unset)
			p.truth, d.records = after, all[len(before):]
			p.want(d, y2026+50*hour, false)
			closeBuffer(t, p.b)
			p.open()
			if left := len(p.b.clocks.boots); left != 1 {
				t.Errorf("%d boots are remembered, and nothing is left of them", left)
			}
			closeBuffer(t, p.b)
		})
	}
}

// TestClockOfGaps: a gap notice's times are corrected like the records'.
func TestClockOfGaps(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 0)
	p.append(60)
	p.restart()
	files, err := filepath.Glob(filepath.Join(p.o.Dir, "*"+segmentSuffix))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	closeBuffer(t, p.b)
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	p.open()
	p.m.pass(hour)
	p.m.set(y2026)
	p.append(1)
	d := p.deliver()
	if len(d.gaps) != 1 || abs(d.gaps[0].Oldest-p.truth[0]-y2026) > 5 || abs(d.gaps[0].Newest-p.truth[59]-y2026) > 5 {
		t.Errorf("%+v", d.gaps)
	}
	closeBuffer(t, p.b)
}

// TestClockOfStats: so is what people see.
func TestClockOfStats(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 0)
	p.append(60)
	p.restart()
	p.m.set(y2026)
	p.append(10)
	if got := p.b.Stats().Oldest.UnixMilli(); abs(got-p.truth[0]-y2026) > 5 {
		t.Errorf("the oldest is of %s", time.UnixMilli(got).UTC())
	}
	closeBuffer(t, p.b)
}

// TestAgeAndClock: the age limit takes what is old by the monotonic clock,
// or surely so by the wall clock, and nothing because a clock is wrong.
func TestAgeAndClock(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wall  int64
		then  func(p *plant)
		given bool // the first sixty records are given up
	}{
		"young":            {y2026, func(p *plant) { p.m.pass(hour) }, false},
		"old":              {y2026, func(p *plant) { p.m.pass(49 * hour) }, true},
		"old, never set":   {0, func(p *plant) { p.m.pass(49 * hour) }, true},
		"set from 1970":    {0, func(p *plant) { p.m.set(y2026) }, false},
		"a year forward":   {y2026, func(p *plant) { p.m.set(y2026 + year) }, false},
		"a year back, old": {y2026, func(p *plant) { p.m.pass(49 * hour); p.m.set(y2026 - year) }, true},
		"set while stopped": {y2026, func(p *plant) {
			closeBuffer(p.t, p.b)
			p.m.set(y2026 + year)
			p.open()
			p.m.pass(2 * hour)
		}, false},
		"reboot, at once":    {y2026, func(p *plant) { p.reboot(y2026 + 100*hour) }, false},
		"reboot, later":      {y2026, func(p *plant) { p.reboot(y2026 + 100*hour); p.m.pass(2 * hour) }, true},
		"reboot, young":      {y2026, func(p *plant) { p.reboot(y2026 + hour); p.m.pass(2 * hour) }, false},
		"reboot into 1970":   {y2026, func(p *plant) { p.reboot(0); p.m.pass(2 * hour) }, false},
		"reboot, 1970, days": {y2026, func(p *plant) { p.reboot(0); p.m.pass(50 * hour) }, true},
		"of a 1970 boot":     {0, func(p *plant) { p.reboot(y2026); p.m.pass(2 * hour) }, false},
		"1970 boot, days":    {0, func(p *plant) { p.reboot(y2026); p.m.pass(50 * hour) }, true},
		"from the future":    {y2026 + year, func(p *plant) { p.reboot(y2026); p.m.pass(2 * hour) }, false},
		"reboot, set wrong": {y2026, func(p *plant) {
			p.reboot(y2026 + hour)
			p.m.pass(2 * hour)
			p.m.set(y2026 + year)
			p.append(1)
			p.m.pass(hour / 2)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t, c.wall)
			p.append(60)
			p.settle()
			closeBuffer(t, p.b)
			p.o.MaxAge = 48 * time.Hour
			p.open()
			c.then(p)
			// The writer looks once a minute; the next run looks at once.
			closeBuffer(t, p.b)
			p.open()
			waitFor(t, "a look", func() bool {
				p.b.mu.Lock()
				defer p.b.mu.Unlock()
				return p.b.clocks.sampled > 0
			})
			closeBuffer(t, p.b)
			p.o.MaxAge = 0
			p.open()
			d := p.deliver()
			if given := len(d.gaps) == 1 && d.gaps[0].Reason == ReasonOld && d.gaps[0].To == 60; given != c.given || len(d.gaps) > 1 {
				t.Errorf("%d records, gaps %+v, want given up %v", len(d.records), d.gaps, c.given)
			}
			closeBuffer(t, p.b)
		})
	}
}

// TestClockIsTold: whoever shows times is told that they changed.
func TestClockIsTold(t *testing.T) {
	t.Parallel()
	m := &machine{boot: "boot-1", mono: 30_000}
	o := testOptions(t, t.TempDir())
	told := make(chan struct{}, 1)
	o.Now, o.Mono, o.Boot = m.now, m.since, m.boot
	o.ClockSet = func() { told <- struct{}{} }
	b := openBuffer(t, o)
	appendN(t, b, 1, 10)
	m.pass(10)
	m.set(y2026)
	appendN(t, b, 1, 10)
	select {
	case <-told:
	case <-t.Context().Done():
	case <-time.After(10 * time.Second):
		t.Error("nobody was told")
	}
	closeBuffer(t, b)
}
