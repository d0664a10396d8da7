package buffer

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// logBook is a log that a test can look into.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBook) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

func (l *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// sum checks that the readings of records and gaps together are those of n
// records of three.
func sum(tb tester, items []item, n uint64) {
	tb.Helper()
	total, seen := uint64(0), map[uint64]bool{}
	for _, it := range items {
		if it.gap != "" || !seen[it.from] {
			total += it.readings
		}
		seen[it.from] = true
	}
	if total != 3*n {
		tb.Fatalf("%d readings arrived or were announced, want %d", total, 3*n)
	}
}

// TestStateBreaks hurts state.db under a running buffer: it is made anew, and
// the next run goes on exactly where this one was.
func TestStateBreaks(t *testing.T) {
	t.Parallel()
	for _, in := range append(injuries(), injury{name: "replaced", do: nil}) {
		t.Run(in.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "buffer")
			o := testOptions(t, dir)
			book := &logBook{}
			o.Log = book.logger()
			b := openBuffer(t, o)
			if err := b.StatePut("bdSeq/a", []byte{9}); err != nil {
				t.Fatal(err)
			}
			r := &receiver{hold: true, window: 50}
			stop := forward(t, b, "a", r)
			n := appendN(t, b, 300, 100)
			waitFor(t, "a commit", func() bool { return settledIn(b) == n })
			r.ack(30)
			in.apply(t, filepath.Join(dir, stateName))
			if in.name == "replaced" {
				if err := os.WriteFile(filepath.Join(dir, stateName), []byte("something else"), fileMode); err != nil {
					t.Fatal(err)
				}
			}
			// What is harmless (a bit in a page that is not used) may stay.
			waitFor(t, "state.db to be written", func() bool {
				b.kickWriter()
				n = appendN(t, b, 1, 10)
				r.ack(1)
				im, err := loadState(dir)
				return err == nil && im.cursors["a"].at.seq >= 31 && string(im.values["bdSeq/a"]) == "\x09"
			})
			stop()
			closeBuffer(t, b)
			if b.Stats().DiskError != "" {
				t.Error(b.Stats().DiskError)
			}
			acked := b.uplinks["a"].cursor.seq
			first := o.Stream
			o.Stream = newStream()
			b = openBuffer(t, o)
			if v := b.StateGet("bdSeq/a"); len(v) != 1 || v[0] != 9 {
				t.Errorf("the value is %v", v)
			}
			again := &receiver{}
			stop = forward(t, b, "a", again)
			waitFor(t, "all delivered", func() bool { return b.Stats().Batches == 0 })
			stop()
			closeBuffer(t, b)
			if gaps := account(t, again.got(), first, acked+1, n); gaps > 0 {
				t.Errorf("%d gaps", gaps)
			}
			if got := again.got(); len(got) > 0 && got[0].from != acked+1 {
				t.Errorf("%d comes first, although %d was acknowledged", got[0].from, acked)
			}
		})
	}
}

// TestDirectoryLost removes or replaces the directory, or what is in it,
// while the buffer runs: what is in memory goes to the new one, the rest is
// announced, and all goes on.
func TestDirectoryLost(t *testing.T) {
	t.Parallel()
	must := func(tb tester, err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		do   func(tb tester, dir string)
		gone bool // records are lost
		back func(tb tester, dir string)
		says string
		log  string
	}{
		{name: "removed", do: func(tb tester, dir string) { must(tb, os.RemoveAll(dir)) }, gone: true, log: "was removed or replaced while the agent ran"},
		{
			name: "removed, and a file in its place", do: func(tb tester, dir string) {
				must(tb, os.RemoveAll(dir))
				must(tb, os.WriteFile(dir, nil, fileMode))
			}, gone: true, back: func(tb tester, dir string) { must(tb, os.Remove(dir)) },
			says: "cannot be made again", log: "was removed or replaced while the agent ran",
		},
		{
			name: "another disk mounted over it", do: func(tb tester, dir string) {
				must(tb, os.Rename(dir, dir+".under"))
				must(tb, os.Mkdir(dir, dirMode))
			}, gone: true, log: "was removed or replaced while the agent ran",
		},
		{
			name: "another buffer's disk mounted over it", do: func(tb tester, dir string) {
				must(tb, os.Rename(dir, dir+".under"))
				written(tb, dir)
			}, back: func(tb tester, dir string) {
				must(tb, os.RemoveAll(dir))
				must(tb, os.Rename(dir+".under", dir))
			}, says: "holds the files of another buffer now",
		},
		{name: "the lock removed", do: func(tb tester, dir string) { must(tb, os.Remove(filepath.Join(dir, lockName))) }, log: "was removed or replaced while the agent ran"},
		{
			name: "all segments removed", do: func(tb tester, dir string) {
				for _, f := range segmentsIn(tb, dir) {
					must(tb, os.Remove(f))
				}
			}, gone: true, log: "a buffer file was removed while the agent ran",
		},
		{
			name: "the newest segment removed", do: func(tb tester, dir string) {
				files := segmentsIn(tb, dir)
				must(tb, os.Remove(files[len(files)-1]))
			}, log: "",
		},
		{
			name: "an old segment removed", do: func(tb tester, dir string) { must(tb, os.Remove(segmentsIn(tb, dir)[1])) },
			gone: true, log: "a buffer file was removed while the agent ran",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "buffer")
			o := testOptions(t, dir)
			book := &logBook{}
			o.TailBytes, o.Log = 1<<20, book.logger()
			b := openBuffer(t, o)
			n := appendRandom(t, b, 0, 500)
			waitFor(t, "a commit", func() bool { return settledIn(b) == n })
			c.do(t, dir)
			if c.back != nil {
				n = appendRandom(t, b, n, 50)
				waitFor(t, "the words", func() bool { b.kickWriter(); return strings.Contains(b.Stats().DiskError, c.says) })
				c.back(t, dir)
			}
			n = appendRandom(t, b, n, 50)
			t.Cleanup(func() {
				if t.Failed() {
					t.Log(settledIn(b), n, b.Stats().DiskError, book.b.String())
				}
			})
			waitFor(t, "the disk to take all", func() bool { b.kickWriter(); return settledIn(b) == n && b.Stats().DiskError == "" })
			if c.log != "" && book.count(c.log) == 0 {
				t.Errorf("the log does not say %q:\n%s", c.log, book.b.String())
			}
			image := filepath.Join(t.TempDir(), "image") // as a kill would leave it
			must(t, os.Mkdir(image, dirMode))
			copyDir(t, dir, image)

			r := &receiver{}
			stop := forward(t, b, "a", r)
			waitFor(t, "all delivered", func() bool { return b.Stats().Batches == 0 && b.Stats().Uplinks["a"].Gaps == 0 })
			stop()
			closeBuffer(t, b)
			if gaps := account(t, r.got(), o.Stream, 1, n); (gaps > 0) != c.gone {
				t.Errorf("%d gaps", gaps)
			}
			sum(t, r.got(), n)
			o2 := testOptions(t, image)
			killed := openBuffer(t, o2)
			r = &receiver{}
			stop = forward(t, killed, "a", r)
			waitFor(t, "all delivered", func() bool { return killed.Stats().Batches == 0 && killed.Stats().Uplinks["a"].Gaps == 0 })
			stop()
			closeBuffer(t, killed)
			account(t, r.got(), o.Stream, 1, n)
			sum(t, r.got(), n)
		})
	}
}

// appendRandom appends k records of 1 kB that nothing compresses, numbered
// from n+1 on.
func appendRandom(tb tester, b *Buffer, n uint64, k int) uint64 {
	tb.Helper()
	for range k {
		n++
		if _, err := b.Append(Record{Time: time.Now().UnixMilli(), Schema: 1, Readings: 3, Data: randomPayload(n, 1000)}); err != nil {
			tb.Fatal(err)
		}
	}
	return n
}
