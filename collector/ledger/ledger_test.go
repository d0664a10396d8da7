package ledger_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"millrace/collector/ledger"
)

// clock is a wall clock and a monotonic one that a test sets.
type clock struct {
	wall time.Time
	mono time.Duration
}

func (c *clock) pass(d time.Duration) { c.wall, c.mono = c.wall.Add(d), c.mono+d }

func start() *clock { return &clock{wall: time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)} }

func open(c *clock, dir string) *ledger.Ledger {
	return ledger.New(ledger.Options{
		Dir: dir, Keep: 400 * 24 * time.Hour,
		Now: func() time.Time { return c.wall }, Elapsed: func() time.Duration { return c.mono },
	})
}

// book is all that a ledger says.
type book struct {
	rows    map[string]ledger.Counts // "device hour"
	outages []ledger.Outage
	pauses  []ledger.Pause
}

func read(tb testing.TB, dir string) book {
	tb.Helper()
	b := book{rows: map[string]ledger.Counts{}}
	if _, err := ledger.Read(dir, time.Unix(0, 0), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), b.visitor()); err != nil {
		tb.Fatal(err)
	}
	return b
}

func (b *book) visitor() ledger.Visitor {
	return ledger.Visitor{
		Row: func(device string, hour int64, c *ledger.Counts) {
			k := fmt.Sprintf("%s %s", device, time.Unix(hour*3600, 0).UTC().Format("01-02 15"))
			sum := b.rows[k]
			sum.Add(c)
			b.rows[k] = sum
		},
		Outage: func(o ledger.Outage) { b.outages = append(b.outages, o) },
		Pause:  func(p ledger.Pause) { b.pauses = append(b.pauses, p) },
	}
}

func TestHours(t *testing.T) {
	t.Parallel()
	c, dir := start(), t.TempDir()
	l := open(c, dir)
	press := l.Device("press")
	l.SetDevices(c.wall, []string{"press"})
	press.State(c.wall, ledger.Online, time.Time{}, "")
	for range 90 {
		press.Due(c.wall, time.Second, 60, 10)
		press.Scanned(c.wall, ledger.Scan{Read: 600, Good: 590, Sent: 500, Took: 20 * time.Millisecond})
		press.Delivered(c.wall.UnixMilli(), 480, 20)
		c.pass(time.Minute)
		l.Flush(false)
	}
	press.Delivered(c.wall.Add(-time.Hour).UnixMilli(), 7, 0)
	press.Dropped(c.wall.Add(-time.Hour).UnixMilli(), ledger.BufferFull, 3)
	l.Flush(true)
	got := read(t, dir)
	first, second := got.rows["press 03-02 08"], got.rows["press 03-02 09"]
	want := ledger.Counts{Expected: 36000, Read: 36000, Good: 35400, Sent: 30000, Filtered: 1200, Delivered: 28807, Online: time.Hour}
	want.Dropped[ledger.BufferFull] = 3
	want.Answers = first.Answers
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
	if second.Expected != 18000 || second.Online != 30*time.Minute {
		t.Errorf("the second hour: %+v", second)
	}
	if q := first.Quantile(0.5); q < 16*time.Millisecond || q > 24*time.Millisecond {
		t.Errorf("answer time %s, want about 20 ms", q)
	}
}

func TestDueAcrossHours(t *testing.T) {
	t.Parallel()
	c, dir := start(), t.TempDir()
	l := open(c, dir)
	d := l.Device("d")
	d.Due(c.wall.Add(-2500*time.Millisecond), time.Second, 5, 2) // 57.5, 58.5, 59.5, 0.5, 1.5
	d.Due(c.wall.Add(-time.Second), time.Second, 1, 1)
	l.Flush(true)
	got := read(t, dir).rows
	if a, b := got["d 03-02 07"].Expected, got["d 03-02 08"].Expected; a != 7 || b != 4 {
		t.Errorf("%d and %d, want 7 and 4", a, b)
	}
}

// TestPause stops and kills an agent: what was due meanwhile is due, and how
// it ended is told.
func TestPause(t *testing.T) {
	t.Parallel()
	for _, stopped := range []bool{true, false} {
		c, dir := start(), t.TempDir()
		l := open(c, dir)
		d := l.Device("d")
		l.SetDevices(c.wall, []string{"d"})
		d.Plan([]ledger.Group{{Tags: 10, Interval: time.Second}, {Tags: 1, Interval: time.Minute, Phase: 8 * time.Millisecond}})
		d.State(c.wall, ledger.Degraded, time.Time{}, "")
		l.Flush(false)
		c.pass(time.Minute)
		d.State(c.wall, ledger.Offline, c.wall.Add(-20*time.Second), "no answer")
		l.Flush(stopped)
		down := c.wall
		c.pass(2*time.Hour + time.Minute)
		if !stopped {
			free(t, dir)
		}
		l = open(c, dir)
		l.Flush(true)
		got := read(t, dir)
		first := got.rows["d 03-02 08"]
		want := ledger.Counts{Expected: 59*60*10 + 59, Degraded: 40 * time.Second, Offline: 20 * time.Second, Outages: 1}
		if diff := cmp.Diff(want, first); diff != "" {
			t.Error(diff)
		}
		if n := got.rows["d 03-02 09"].Expected; n != 36060 {
			t.Errorf("%d were due in an hour without an agent", n)
		}
		ended := ledger.EndedKilled
		if stopped {
			ended = ledger.EndedStopped
		}
		if diff := cmp.Diff([]ledger.Pause{{From: down.UnixMilli(), To: c.wall.UnixMilli(), Ended: ended}}, got.pauses); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]ledger.Outage{{Device: "d", From: down.Add(-20 * time.Second).UnixMilli(), To: down.UnixMilli(), Reason: "no answer", Cut: true}}, got.outages); diff != "" {
			t.Error(diff)
		}
	}
}

// free lets go of the lock of a ledger that was not closed, as its death does.
func free(t *testing.T, dir string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
}

func TestOutage(t *testing.T) {
	t.Parallel()
	c, dir := start(), t.TempDir()
	l := open(c, dir)
	d := l.Device("d")
	d.State(c.wall, ledger.Online, time.Time{}, "")
	c.pass(50 * time.Minute)
	silent := c.wall
	c.pass(time.Second)
	d.State(c.wall, ledger.Degraded, time.Time{}, "no answer within 1 s")
	c.pass(5 * time.Second)
	d.State(c.wall, ledger.Offline, silent, "no answer within 1 s")
	c.pass(20 * time.Minute)
	d.State(c.wall, ledger.Online, time.Time{}, "")
	c.pass(49*time.Minute + 54*time.Second)
	l.Flush(true)
	got := read(t, dir)
	a, b := got.rows["d 03-02 08"], got.rows["d 03-02 09"]
	if a.Online != 50*time.Minute || a.Offline != 10*time.Minute || a.Degraded != 0 {
		t.Errorf("%s online, %s degraded, %s offline", a.Online, a.Degraded, a.Offline)
	}
	if b.Offline != 10*time.Minute+6*time.Second || b.Online != 49*time.Minute+54*time.Second {
		t.Errorf("%s online, %s offline", b.Online, b.Offline)
	}
	if len(got.outages) != 1 || got.outages[0].To-got.outages[0].From != (20*time.Minute+6*time.Second).Milliseconds() {
		t.Errorf("%+v", got.outages)
	}
}

// TestClockUnset: a gateway that begins in 1970 dates what it counted when it
// is told the time.
func TestClockUnset(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := &clock{wall: time.Unix(30, 0)}
	l := open(c, dir)
	d := l.Device("d")
	d.State(c.wall, ledger.Online, time.Time{}, "")
	for range 90 {
		d.Due(c.wall, time.Second, 1, 1)
		c.pass(time.Minute)
		l.Flush(false)
	}
	if _, err := os.Stat(filepath.Join(dir, "journal")); err == nil {
		t.Error("it is written in 1970")
	}
	c.wall = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	l.Flush(true)
	var all ledger.Counts
	rows := read(t, dir).rows
	for k, r := range rows {
		all.Add(&r)
		if k != "d 03-02 10" && k != "d 03-02 11" && k != "d 03-02 12" {
			t.Errorf("something in %s", k)
		}
	}
	if all.Expected != 90 || all.Online != 90*time.Minute {
		t.Errorf("%d, %s", all.Expected, all.Online)
	}
}

// TestClockFalls: a clock that was right falls to 1970 for a while, which the
// collector counts by, although the agent knows better.
func TestClockFalls(t *testing.T) {
	t.Parallel()
	for name, began := range map[string]time.Time{"right from the start": {}, "set before": time.Unix(30, 0)} {
		dir, c := t.TempDir(), start()
		noon := c.wall
		if !began.IsZero() {
			c.wall = began
		}
		l := open(c, dir)
		d := l.Device("d")
		c.wall = noon
		l.Flush(false)
		wrong := time.Unix(100, 0)
		for i := range 90 {
			d.Due(wrong, time.Second, 1, 1)
			d.Scanned(wrong, ledger.Scan{Read: 1, Good: 1, Sent: 1})
			if i == 10 {
				d.State(wrong, ledger.Offline, wrong, "gone")
			}
			if i == 20 {
				d.State(wrong, ledger.Online, wrong, "")
			}
			c.pass(time.Minute)
			wrong = wrong.Add(time.Minute)
			l.Flush(false)
		}
		l.Flush(true)
		var all ledger.Counts
		got := read(t, dir)
		for k, r := range got.rows {
			all.Add(&r)
			if k < "d "+noon.Format("01-02 15") || k > "d "+noon.Add(2*time.Hour).Format("01-02 15") {
				t.Errorf("%s: something in %s: %+v", name, k, r)
			}
		}
		if all.Expected != 90 || all.Read != 90 || all.Sent != 90 {
			t.Errorf("%s: %+v", name, all)
		}
		for _, o := range got.outages {
			if o.From < noon.UnixMilli() || o.To > noon.Add(90*time.Minute).UnixMilli() || o.To < o.From {
				t.Errorf("%s: %+v", name, o)
			}
		}
	}
}

// TestSteps sets the clock back and forth: nothing is lost, and nothing is
// counted twice.
func TestSteps(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		c, dir := start(), t.TempDir()
		l := open(c, dir)
		total := int64(0)
		for range rapid.IntRange(1, 40).Draw(rt, "minutes") {
			d := l.Device(rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "device"))
			n := rapid.IntRange(1, 5).Draw(rt, "n")
			d.Due(c.wall, time.Second, n, 1)
			total += int64(n)
			c.pass(time.Duration(rapid.IntRange(1, 90).Draw(rt, "passes")) * time.Minute)
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0:
				c.wall = c.wall.Add(time.Duration(rapid.IntRange(-3000, 3000).Draw(rt, "step")) * time.Minute)
			case 1:
				l.Flush(true)
				l = open(c, dir)
			default:
				l.Flush(false)
			}
		}
		l.Flush(true)
		sum := int64(0)
		for _, r := range read(t, dir).rows {
			sum += r.Expected
		}
		if sum != total {
			rt.Fatalf("%d of %d are there", sum, total)
		}
	})
}

// TestTorn cuts the files off at any byte, as a crash between any two writes
// does, and damages them: what was written before is there, nothing comes
// twice, and the next agent goes on.
func TestTorn(t *testing.T) {
	t.Parallel()
	c, dir := start(), t.TempDir()
	l := open(c, dir)
	d := l.Device("d")
	for range 150 {
		d.Due(c.wall, time.Second, 1, 1)
		c.pass(time.Minute)
		l.Flush(false)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"journal", "2026-03.ledger"} {
		whole, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			other := t.TempDir()
			if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			free(t, other)
			hurt := slices.Clone(whole)
			if rnd.IntN(2) == 0 {
				hurt = hurt[:rnd.IntN(len(hurt))]
			} else {
				hurt[rnd.IntN(len(hurt))] ^= 1 << rnd.IntN(8)
			}
			if err := os.WriteFile(filepath.Join(other, name), hurt, 0o600); err != nil {
				t.Fatal(err)
			}
			before := sum(read(t, other))
			if before > 150 {
				t.Fatalf("%d of 150 are there", before)
			}
			later := *c
			next := open(&later, other)
			next.Device("d").Due(later.wall, time.Second, 1, 1)
			next.Flush(false)
			later.pass(time.Hour)
			next.Flush(true)
			if after := sum(read(t, other)); after != before+1 {
				t.Fatalf("%s: %d before, %d after", name, before, after)
			}
		}
	}
}

func sum(b book) (n int64) {
	for _, r := range b.rows {
		n += r.Expected
	}
	return n
}

// TestFilingCutShort has the agent die between the two steps of filing.
func TestFilingCutShort(t *testing.T) {
	t.Parallel()
	c, dir := start(), t.TempDir()
	l := open(c, dir)
	d := l.Device("d")
	c.pass(58 * time.Minute)
	for range 2 {
		d.Due(c.wall, time.Second, 1, 1)
		c.pass(30 * time.Second)
		l.Flush(false)
	}
	old, err := os.ReadFile(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	d.Due(c.wall, time.Second, 1, 1)
	c.pass(2 * time.Minute)
	l.Flush(false) // files
	if err := os.WriteFile(filepath.Join(dir, "journal"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := sum(read(t, dir)); n != 3 {
		t.Errorf("a reader finds %d of 3", n)
	}
	free(t, dir)
	l = open(c, dir)
	l.Flush(true)
	if n := sum(read(t, dir)); n != 3 {
		t.Errorf("the next agent finds %d of 3", n)
	}
}

func TestKeep(t *testing.T) {
	t.Parallel()
	c, dir := start(), t.TempDir()
	l := ledger.New(ledger.Options{
		Dir: dir, Keep: 48 * time.Hour,
		Now: func() time.Time { return c.wall }, Elapsed: func() time.Duration { return c.mono },
	})
	d := l.Device("d")
	for range 100 {
		d.Due(c.wall, time.Second, 1, 1)
		c.pass(24 * time.Hour)
		l.Flush(false)
	}
	l.Flush(true)
	names, err := filepath.Glob(filepath.Join(dir, "*.ledger"))
	if err != nil || len(names) > 2 {
		t.Errorf("%v, %v", names, err)
	}
}

// TestClockInFuture: a clock that is far ahead for a while, and is then put
// right, costs no figures.
func TestClockInFuture(t *testing.T) {
	t.Parallel()
	c, dir := start(), t.TempDir()
	l := open(c, dir)
	d := l.Device("d")
	for range 13 {
		d.Due(c.wall, time.Second, 1, 1)
		c.pass(30 * 24 * time.Hour)
		l.Flush(false)
	}
	right := c.wall
	c.wall = c.wall.AddDate(70, 0, 0)
	d.Due(c.wall, time.Second, 1, 1)
	c.pass(time.Hour)
	l.Flush(false)
	c.wall = right.Add(time.Hour)
	l.Flush(true)
	if n := sum(read(t, dir)); n != 14 {
		t.Errorf("%d of 14 are there", n)
	}
}

func TestSecondAgent(t *testing.T) {
	t.Parallel()
	c, dir := start(), t.TempDir()
	one, two := open(c, dir), open(c, dir)
	one.Device("d").Due(c.wall, time.Second, 1, 1)
	two.Device("d").Due(c.wall, time.Second, 1, 1)
	one.Flush(false)
	two.Flush(false)
	if n := sum(read(t, dir)); n != 1 {
		t.Errorf("%d: both have written", n)
	}
	one.Flush(true)
	two.Flush(true)
	if n := sum(read(t, dir)); n != 2 {
		t.Errorf("%d: what waited was not written", n)
	}
}

func FuzzRead(f *testing.F) {
	c, dir := start(), f.TempDir()
	l := open(c, dir)
	for range 3 {
		l.Device("d").Due(c.wall, time.Second, 1, 1)
		l.Device("d").Scanned(c.wall, ledger.Scan{Read: 1, Took: time.Second})
		c.pass(time.Hour)
		l.Flush(false)
	}
	for _, name := range []string{"journal", "2026-03.ledger"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		for _, name := range []string{"journal", "2026-03.ledger"} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b := book{rows: map[string]ledger.Counts{}}
		if _, err := ledger.Read(dir, time.Unix(0, 0), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), b.visitor()); err != nil {
			t.Fatal(err)
		}
		c := start()
		l := open(c, dir)
		l.Device("d").Due(c.wall, time.Second, 1, 1)
		l.Flush(true)
	})
}
