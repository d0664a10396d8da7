package buffer

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// lateDisk is a buffer's directory that is not there at first.
type lateDisk struct{ dir, under string }

// newLateDisk makes a directory with what two runs left for two uplinks, and
// takes it away.
func newLateDisk(tb tester) (d lateDisk, streams []string) {
	tb.Helper()
	d.dir = filepath.Join(tempDir(tb), "buffer")
	d.under = d.dir + ".under"
	streams = written(tb, d.dir)
	if err := os.Rename(d.dir, d.under); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(d.dir, nil, fileMode); err != nil {
		tb.Fatal(err)
	}
	return d, streams
}

// mount has it there.
func (d lateDisk) mount(tb tester) {
	tb.Helper()
	if err := os.Remove(d.dir); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(d.under, d.dir); err != nil {
		tb.Fatal(err)
	}
}

// TestLateDisk: the directory cannot be used at the start, and later can. What
// earlier runs left there goes out, what this run had acknowledged meanwhile
// does not go out again but for what was on its way, and its gap notices are
// those of its own stream. The next run goes on exactly where this one was.
func TestLateDisk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		how    CatchUp
		tail   int64 // what memory holds
		killed bool
	}{
		{name: "in order"},
		{name: "live first", how: LiveFirst},
		{name: "memory was full", tail: 128 << 10},
		{name: "killed", killed: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, streams := newLateDisk(t)
			o := testOptions(t, d.dir)
			o.Uplinks = []string{"a", "b", "new"}
			if c.tail > 0 {
				o.TailBytes = c.tail
			}
			b := openBuffer(t, o)
			b.historical, b.behindAge = 20*time.Millisecond, 10*time.Millisecond
			got := map[string]*receiver{"a": {window: 20}, "b": {window: 20}, "new": {window: 20}}
			stopA := forwardAs(t, b, "a", got["a"], ForwardOptions{CatchUp: c.how})
			stopNew := forwardAs(t, b, "new", got["new"], ForwardOptions{CatchUp: c.how})
			n := appendPayloads(t, b, 100)
			waitFor(t, "what is acknowledged from memory", func() bool { return b.Stats().Uplinks["a"].Lag == 0 && b.Stats().Uplinks["new"].Lag == 0 })
			got["a"].set(func(r *receiver) { r.hold = true }) // some are on their way
			for range 3 {
				n += appendPayloads(t, b, 100)
			}
			waitFor(t, "records on their way", func() bool { return b.Stats().Uplinks["a"].InFlight > 0 && got["a"].waiting() > 0 })
			had := len(b.acked("a"))
			got["a"].ack(1)
			waitFor(t, "acknowledgements", func() bool { return len(b.acked("a")) > had })
			before, acked := len(got["a"].got()), b.acked("a")
			d.mount(t)
			b.kickWriter()
			waitFor(t, "the disk", func() bool { return b.Stats().DiskError == "" && settledIn(b) == n })
			got["a"].set(func(r *receiver) { r.hold = false; r.ackLocked(len(r.tokens)) })
			n += appendPayloads(t, b, 50)
			stopB := forwardAs(t, b, "b", got["b"], ForwardOptions{CatchUp: c.how})
			if c.killed {
				waitFor(t, "a commit", func() bool { return settledIn(b) == n })
				image := filepath.Join(t.TempDir(), "image")
				if err := os.Mkdir(image, dirMode); err != nil {
					t.Fatal(err)
				}
				b.mu.Lock() // as a kill would leave it
				copyDir(t, d.dir, image)
				b.mu.Unlock()
				for _, name := range []string{"a", "b"} {
					items := append(got[name].got(), deliverLate(t, image, name)...)
					for _, s := range streams {
						whole(t, items, s, damagedRecords)
					}
					whole(t, items, o.Stream, n)
				}
			}
			waitFor(t, "all delivered", func() bool {
				for _, u := range b.Stats().Uplinks {
					if u.Lag > 0 || u.Gaps > 0 || u.InFlight > 0 {
						return false
					}
				}
				return true
			})
			stopA()
			stopB()
			stopNew()
			closeBuffer(t, b)
			for name, r := range got {
				if name != "new" {
					for _, s := range streams {
						whole(t, r.got(), s, damagedRecords)
					}
				}
				if gaps := whole(t, r.got(), o.Stream, n); gaps > 0 && c.tail == 0 || gaps == 0 && c.tail > 0 && name == "b" {
					t.Errorf("%s: %d gaps", name, gaps)
				}
			}
			later := got["a"].got()[before:]
			if i := slices.IndexFunc(later, func(it item) bool { return it.stream == o.Stream && acked[it.from] && it.gap == "" }); i >= 0 {
				t.Errorf("%d comes again, although it was acknowledged", later[i].from)
			}
			if left := segmentsLeft(t, d.dir); len(left) > 0 {
				t.Errorf("files that nobody needs: %v", left)
			}
			if again := deliverLate(t, d.dir, "a"); len(again) > 0 {
				t.Errorf("the next run delivers %d items again", len(again))
			}
		})
	}
}

func segmentsLeft(tb tester, dir string) []string {
	tb.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		tb.Fatal(err)
	}
	return left
}

// deliverLate opens the directory and returns what one uplink gets.
func deliverLate(tb tester, dir, uplink string) []item {
	tb.Helper()
	o := testOptions(tb, dir)
	o.Uplinks = []string{"a", "b", "new"}
	b := openBuffer(tb, o)
	r := &receiver{}
	stop := forward(tb, b, uplink, r)
	waitFor(tb, "all delivered", func() bool {
		s := b.Stats().Uplinks[uplink]
		return s.Lag == 0 && s.Gaps == 0 && s.InFlight == 0
	})
	stop()
	closeBuffer(tb, b)
	return r.got()
}

// acked returns which records of this run an uplink has acknowledged.
func (b *Buffer) acked(uplink string) map[uint64]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[uint64]bool)
	for seq := uint64(1); seq < b.tail.next(); seq++ {
		if !b.uplinks[uplink].needs(b.ord, seq) {
			all[seq] = true
		}
	}
	return all
}

// whole checks that an uplink got all of a stream, in whatever order, and
// returns how many gap notices.
func whole(tb tester, items []item, stream string, n uint64) (gaps int) {
	tb.Helper()
	got := make(map[uint64]bool)
	for _, it := range items {
		if it.stream != stream {
			continue
		}
		if it.gap != "" {
			gaps++
		}
		for seq := it.from; seq <= it.to; seq++ {
			got[seq] = true
		}
	}
	for seq := uint64(1); seq <= n; seq++ {
		if !got[seq] {
			tb.Fatalf("stream %s: %d of %d is missing", stream, seq, n)
		}
	}
	return gaps
}

// waiting returns how many items it has not acknowledged in this session.
func (r *receiver) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.tokens)
}
