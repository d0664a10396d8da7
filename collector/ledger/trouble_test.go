package ledger

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// trouble is a ledger whose disk a test can break.
type trouble struct {
	t    *testing.T
	dir  string
	wall time.Time
	mono time.Duration
	l    *Ledger
}

func newTrouble(t *testing.T) *trouble {
	t.Helper()
	x := &trouble{t: t, dir: t.TempDir(), wall: time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)}
	x.open()
	return x
}

func (x *trouble) open() {
	x.l = New(Options{Dir: x.dir, Keep: 400 * 24 * time.Hour, Now: func() time.Time { return x.wall }, Elapsed: func() time.Duration { return x.mono }})
}

func (x *trouble) pass(d time.Duration) { x.wall, x.mono = x.wall.Add(d), x.mono+d }

// count counts a reading of a device, a minute passes, and it is written.
func (x *trouble) count(device string) {
	x.l.Device(device).Due(x.wall, time.Second, 1, 1)
	x.pass(time.Minute)
	x.l.Flush(false)
}

// block keeps a new journal from being made.
func (x *trouble) block() {
	x.t.Helper()
	if err := os.Mkdir(filepath.Join(x.dir, journalName+".new"), 0o700); err != nil {
		x.t.Fatal(err)
	}
}

func (x *trouble) unblock() {
	x.t.Helper()
	if err := os.Remove(filepath.Join(x.dir, journalName+".new")); err != nil {
		x.t.Fatal(err)
	}
}

// there is how many readings the files hold, of whatever device.
func (x *trouble) there() (n int64) {
	x.t.Helper()
	if _, err := Read(x.dir, time.Unix(0, 0), x.wall.AddDate(1, 0, 0), Visitor{Row: func(_ string, _ int64, c *Counts) { n += c.Expected }}); err != nil {
		x.t.Fatal(err)
	}
	return n
}

// TestNoJournalAtStart: the disk is full when the agent starts. It goes on, and
// writes what has waited when there is room.
func TestNoJournalAtStart(t *testing.T) {
	t.Parallel()
	x := newTrouble(t)
	x.block()
	for range 3 {
		x.count("d")
	}
	x.unblock()
	x.count("d")
	if n := x.there(); n != 4 {
		t.Errorf("%d of 4 are there", n)
	}
}

// TestNoNewJournal: the disk is full when an hour has been filed, before the
// next journal is begun. What is counted after it outlives a kill.
func TestNoNewJournal(t *testing.T) {
	t.Parallel()
	x := newTrouble(t)
	x.count("d")
	x.block()
	x.pass(time.Hour)
	x.count("d") // filed, but for the journal
	x.count("d")
	x.unblock()
	x.count("d")
	if n := x.there(); n != 4 {
		t.Errorf("a reader finds %d of 4", n)
	}
	// The agent is killed.
	if err := os.Remove(filepath.Join(x.dir, lockName)); err != nil {
		t.Fatal(err)
	}
	x.open()
	x.l.Flush(false)
	if n := x.there(); n != 4 {
		t.Errorf("the next agent finds %d of 4", n)
	}
	x.pass(2 * time.Hour)
	x.l.Flush(true)
	if n := x.there(); n != 4 {
		t.Errorf("%d of 4 are there when all is filed", n)
	}
}

// TestWriteFails: a device is counted for the first time while the journal
// takes nothing. Its id must be written with its first counts that are.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	x := newTrouble(t)
	x.count("first")
	whole := x.l.files.journal
	readOnly, err := os.Open(filepath.Join(x.dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	x.l.files.journal = readOnly
	x.count("second")
	if x.l.files.failing == "" {
		t.Fatal("it was written all the same")
	}
	_ = readOnly.Close()
	x.l.files.journal = whole
	x.count("second")
	if n := x.there(); n != 3 {
		t.Errorf("%d of 3 are there", n)
	}
	x.pass(time.Hour)
	x.l.Flush(true)
	if n := x.there(); n != 3 {
		t.Errorf("%d of 3 are there when all is filed", n)
	}
}

// TestStopAtFullHour stops the agent in the first minute of an hour, when the
// hour before is filed, too: it was stopped, and not killed.
func TestStopAtFullHour(t *testing.T) {
	t.Parallel()
	x := newTrouble(t)
	x.count("d")
	x.pass(time.Hour)
	x.l.Flush(true)
	x.pass(time.Hour)
	x.open()
	x.l.Flush(true)
	var pauses []Pause
	if _, err := Read(x.dir, time.Unix(0, 0), x.wall, Visitor{Row: func(string, int64, *Counts) {}, Pause: func(p Pause) { pauses = append(pauses, p) }}); err != nil {
		t.Fatal(err)
	}
	if len(pauses) != 1 || pauses[0].Ended != EndedStopped {
		t.Errorf("%+v", pauses)
	}
}

// TestCutShortInTheHour has the agent die between the two steps of filing, with
// an outage that is filed and counts of the hour that is going on, which are
// not: each is there once.
func TestCutShortInTheHour(t *testing.T) {
	t.Parallel()
	x := newTrouble(t)
	d := x.l.Device("d")
	d.State(x.wall, Online, time.Time{}, "")
	x.l.Flush(false)
	x.pass(57 * time.Minute)
	d.State(x.wall, Offline, x.wall, "no answer")
	x.pass(time.Minute)
	d.State(x.wall, Online, time.Time{}, "")
	x.count("d")
	x.pass(90 * time.Second)
	d.Due(x.wall, time.Second, 1, 1) // of the new hour
	x.pass(time.Second)
	f := &x.l.files
	now := x.wall
	f.collect(now)
	if err := f.write(now, false); err != nil {
		t.Fatal(err)
	}
	hours := map[key]*Counts{}
	for k, c := range f.unfiled {
		if k.hour < hourOf(now) {
			hours[k] = c
		}
	}
	f.before = hourOf(now)
	if err := f.append(now, hours); err != nil {
		t.Fatal(err)
	}
	look := func(who string) {
		t.Helper()
		outages := 0
		if _, err := Read(x.dir, time.Unix(0, 0), x.wall.AddDate(1, 0, 0), Visitor{Row: func(string, int64, *Counts) {}, Outage: func(Outage) { outages++ }}); err != nil {
			t.Fatal(err)
		}
		if n := x.there(); n != 2 || outages != 1 {
			t.Errorf("%s finds %d readings of 2, and %d outages", who, n, outages)
		}
	}
	look("a reader")
	if err := os.Remove(filepath.Join(x.dir, lockName)); err != nil {
		t.Fatal(err)
	}
	x.open()
	x.l.Flush(false)
	look("the next agent")
	x.pass(time.Hour)
	x.l.Flush(true)
	look("who comes when all is filed")
}

// TestManyOutages: all outages are counted, and some of each hour kept.
func TestManyOutages(t *testing.T) {
	t.Parallel()
	x := newTrouble(t)
	d := x.l.Device("d")
	for range 30 {
		d.State(x.wall, Online, time.Time{}, "")
		x.pass(30 * time.Second)
		d.State(x.wall, Offline, x.wall, "no answer")
		x.pass(30 * time.Second)
	}
	d.State(x.wall, Online, time.Time{}, "")
	x.l.Flush(true)
	counted, kept := int64(0), 0
	if _, err := Read(x.dir, time.Unix(0, 0), x.wall, Visitor{Row: func(_ string, _ int64, c *Counts) { counted += c.Outages }, Outage: func(Outage) { kept++ }}); err != nil {
		t.Fatal(err)
	}
	if counted != 30 || kept != outagesPerHour {
		t.Errorf("%d counted, %d kept", counted, kept)
	}
}

// TestLongPause: of a pause that is longer than what is kept, the newest part
// counts.
func TestLongPause(t *testing.T) {
	t.Parallel()
	x := newTrouble(t)
	x.l.Device("d").Plan([]Group{{Tags: 1, Interval: time.Hour}})
	x.l.SetDevices(x.wall, []string{"d"})
	x.l.Flush(true)
	x.pass(1000 * 24 * time.Hour)
	x.open()
	x.l.Flush(true)
	if n := x.there(); n != 400*24 {
		t.Errorf("%d are due in 400 days of 24 turns", n)
	}
}

// TestTurns: a turn belongs to the time that begins with it.
func TestTurns(t *testing.T) {
	t.Parallel()
	hour := time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		g        Group
		from, to time.Duration
		want     int64
	}{
		{Group{Interval: time.Second}, 0, time.Second, 1},
		{Group{Interval: time.Second}, time.Nanosecond, time.Second, 0},
		{Group{Interval: time.Second}, time.Nanosecond, time.Second + time.Nanosecond, 1},
		{Group{Interval: time.Second, Phase: 8 * time.Millisecond}, 0, 8 * time.Millisecond, 0},
		{Group{Interval: time.Second, Phase: 8 * time.Millisecond}, 8 * time.Millisecond, 1008 * time.Millisecond, 1},
		{Group{Interval: 7 * time.Second}, 0, 7 * time.Hour, 3600},
		{Group{}, 0, time.Hour, 0},
	} {
		n := int64(0)
		eachHour(hour.Add(c.from), hour.Add(c.to), c.g, func(_, turns int64) { n += turns })
		if n != c.want {
			t.Errorf("%+v from %s to %s: %d turns, want %d", c.g, c.from, c.to, n, c.want)
		}
	}
}

// TestQuantile: what is promised is a fifth.
func TestQuantile(t *testing.T) {
	t.Parallel()
	var c Counts
	for ms := 1; ms <= 1000; ms++ {
		c.Answers[bucketOf(time.Duration(ms)*time.Millisecond)]++
	}
	for q, want := range map[float64]time.Duration{0.05: 50 * time.Millisecond, 0.5: 500 * time.Millisecond, 0.7: 700 * time.Millisecond, 0.95: 950 * time.Millisecond} {
		if got := c.Quantile(q); got < want*8/10 || got > want*12/10 {
			t.Errorf("%g: %s, want %s", q, got, want)
		}
	}
}
