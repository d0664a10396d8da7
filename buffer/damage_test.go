package buffer

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// written makes a directory in which two uplinks wait for records of two
// runs, in several segments, and returns the runs' streams.
func written(tb tester, dir string) (streams []string) {
	tb.Helper()
	for range 2 {
		o := testOptions(tb, dir)
		o.Uplinks = []string{"a", "b"}
		streams = append(streams, o.Stream)
		b := openBuffer(tb, o)
		for i := range uint64(damagedRecords) {
			data := payload(i+1, 400)
			for j := 8; j < len(data); j++ {
				data[j] = byte(rand.Uint32())
			}
			if _, err := b.Append(Record{Time: int64(i), Schema: 1, Readings: 2, Data: data}); err != nil {
				tb.Fatal(err)
			}
		}
		closeBuffer(tb, b)
	}
	return streams
}

const damagedRecords = 600

// deliver opens dir, sends all to a receiver, and returns what it got.
func deliver(tb tester, dir, uplink string) []item {
	tb.Helper()
	o := testOptions(tb, dir)
	o.Uplinks = []string{"a", "b"}
	b := openBuffer(tb, o)
	r := &receiver{}
	stop := forward(tb, b, uplink, r)
	waitFor(tb, "all delivered", func() bool {
		s := b.Stats().Uplinks[uplink]
		return s.Lag == 0 && s.Gaps == 0 && s.InFlight == 0
	})
	stop()
	closeBuffer(tb, b)
	for _, it := range r.got() {
		if it.gap == "" {
			checkPayload(tb, it)
		}
	}
	return r.got()
}

func checkPayload(tb tester, it item) {
	tb.Helper()
	want := payload(it.from, 0)
	if !strings.HasPrefix(it.data, string(want)) || len(it.data) != 408 || it.readings != 2 {
		tb.Fatalf("record %s/%d is not what was appended", it.stream, it.from)
	}
}

func segmentsIn(tb tester, dir string) []string {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(files) < 4 {
		tb.Fatal("too few segments:", files, err)
	}
	return files
}

// injury is one way to hurt a file.
type injury struct {
	name string
	do   func(data []byte) []byte
}

func injuries() []injury {
	flip := func(n int) func([]byte) []byte {
		return func(d []byte) []byte {
			for range n {
				d[rand.IntN(len(d))] ^= 1 << rand.IntN(8)
			}
			return d
		}
	}
	pages := func(fill func(page []byte), n int) func([]byte) []byte {
		return func(d []byte) []byte {
			for range n {
				at := rand.IntN(len(d)/pageSize) * pageSize
				fill(d[at : at+pageSize])
			}
			return d
		}
	}
	garbage := func(page []byte) {
		for i := range page {
			page[i] = byte(rand.Uint32())
		}
	}
	return []injury{
		{"one bit", flip(1)},
		{"some bits", flip(30)},
		{"many bits", flip(5000)},
		{"a page zeroed", pages(func(p []byte) { clear(p) }, 1)},
		{"pages zeroed", pages(func(p []byte) { clear(p) }, 8)},
		{"a page of garbage", pages(garbage, 1)},
		{"pages of garbage", pages(garbage, 8)},
		{"both metas zeroed", func(d []byte) []byte { clear(d[:2*pageSize]); return d }},
		{"truncated", func(d []byte) []byte { return d[:rand.IntN(len(d))] }},
		{"truncated a little", func(d []byte) []byte { return d[:len(d)-1-rand.IntN(len(d)/3)] }},
		{"empty", func([]byte) []byte { return nil }},
		{"not bbolt at all", func(d []byte) []byte { garbage(d); return d }},
		{"gone", nil},
		{"pages exchanged", func(d []byte) []byte {
			x, y := rand.IntN(len(d)/pageSize)*pageSize, rand.IntN(len(d)/pageSize)*pageSize
			page := append([]byte(nil), d[x:x+pageSize]...)
			copy(d[x:], d[y:y+pageSize])
			copy(d[y:], page)
			return d
		}},
	}
}

func (in injury) apply(tb tester, path string) {
	tb.Helper()
	if in.do == nil {
		if err := os.Remove(path); err != nil {
			tb.Fatal(err)
		}
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, in.do(data), fileMode); err != nil {
		tb.Fatal(err)
	}
}

// TestDamagedSegment: whatever happens to a segment, the buffer starts, every
// uplink gets all records that are readable, and a gap for the others.
func TestDamagedSegment(t *testing.T) {
	t.Parallel()
	for _, in := range injuries() {
		t.Run(in.name, func(t *testing.T) {
			t.Parallel()
			for range rounds(1) {
				dir := tempDir(t)
				streams := written(t, dir)
				files := segmentsIn(t, dir)
				in.apply(t, files[rand.IntN(len(files))])
				for _, uplink := range []string{"a", "b"} {
					items := deliver(t, dir, uplink)
					for _, s := range streams {
						account(t, items, s, 1, damagedRecords)
					}
				}
			}
		})
	}
}

// TestDamagedState: without state.db, all is sent again.
func TestDamagedState(t *testing.T) {
	t.Parallel()
	for _, in := range injuries() {
		t.Run(in.name, func(t *testing.T) {
			t.Parallel()
			for range rounds(1) {
				dir := tempDir(t)
				streams := written(t, dir)
				in.apply(t, filepath.Join(dir, stateName))
				items := deliver(t, dir, "a")
				for _, s := range streams {
					account(t, items, s, 1, damagedRecords)
				}
			}
		})
	}
}

// TestDamagedBoth: with state.db and a segment hurt, the end of a stream may
// be unknown. What arrives is right all the same, and the others are there.
func TestDamagedBoth(t *testing.T) {
	t.Parallel()
	for range rounds(4) {
		dir := tempDir(t)
		written(t, dir)
		ins := injuries()
		files := segmentsIn(t, dir)
		ins[rand.IntN(len(ins))].apply(t, files[rand.IntN(len(files))])
		ins[rand.IntN(len(ins))].apply(t, filepath.Join(dir, stateName))
		if items := deliver(t, dir, "a"); len(items) < damagedRecords/2 {
			t.Fatalf("%d items", len(items))
		}
	}
}

// TestSalvage: with the tree gone, the chunks are still found.
func TestSalvage(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	streams := written(t, dir)
	for _, f := range segmentsIn(t, dir) {
		injury{"", func(d []byte) []byte { clear(d[:2*pageSize]); return d }}.apply(t, f)
	}
	items := deliver(t, dir, "a")
	for _, s := range streams {
		if gaps := account(t, items, s, 1, damagedRecords); gaps > 0 {
			t.Errorf("%d gaps, although every chunk is whole", gaps)
		}
	}
	for _, want := range []string{"*" + rawSuffix, damagedPrefix + "*"} { // b still waits; then it does not
		if kept, err := filepath.Glob(filepath.Join(dir, want)); err != nil || len(kept) < 4 {
			t.Errorf("kept of the damaged files: %v %v", kept, err)
		}
		deliver(t, dir, "b")
	}
}

// TestMarker: a file whose opening killed the agent is not opened again.
func TestMarker(t *testing.T) {
	t.Parallel()
	for _, suspect := range []string{"segment", "state"} {
		t.Run(suspect, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			streams := written(t, dir)
			name := stateName
			if suspect == "segment" {
				name = filepath.Base(segmentsIn(t, dir)[1])
			}
			if _, err := marking(dir)(name); err != nil {
				t.Fatal(err)
			}
			items := deliver(t, dir, "a")
			for _, s := range streams {
				account(t, items, s, 1, damagedRecords)
			}
			want := damagedPrefix + "*" + name
			if suspect == "segment" {
				want = strings.TrimSuffix(name, segmentSuffix) + rawSuffix
			}
			if aside, _ := filepath.Glob(filepath.Join(dir, want)); len(aside) != 1 {
				t.Errorf("%s was not set aside", name)
			}
			for _, it := range items {
				if it.gap != "" {
					t.Errorf("a gap %d..%d %q, although the file is whole", it.from, it.to, it.gap)
				}
			}
		})
	}
}

// TestCrashImages copies the directory while it is written, file by file and
// without stopping anything: worse than a kill, as torn as a power cut. What
// was on the disk when the copy began arrives from it, or is announced.
func TestCrashImages(t *testing.T) {
	t.Parallel()
	for range rounds(4) {
		dir := tempDir(t)
		o := testOptions(t, dir)
		o.CommitInterval = time.Millisecond
		b := openBuffer(t, o)
		r := &receiver{window: 8}
		stop := forward(t, b, "a", r)
		quit := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := uint64(1); ; i++ {
				select {
				case <-quit:
					return
				default:
				}
				if _, err := b.Append(Record{Time: 5, Schema: 1, Readings: 2, Data: payload(i, 400)}); err != nil {
					t.Error(err)
					return
				}
				if i%50 == 0 {
					<-time.After(time.Millisecond)
				}
				if i%1000 == 0 {
					r.set(func(r *receiver) { r.hold = !r.hold })
					r.ack(1 << 20)
				}
			}
		}()
		for range 4 {
			<-time.After(time.Duration(rand.IntN(60)) * time.Millisecond)
			b.mu.Lock()
			settled := b.settled
			b.mu.Unlock()
			image := tempDir(t)
			copyDir(t, dir, image)
			b.mu.Lock()
			acked := b.uplinks["a"].cursor.seq
			b.mu.Unlock()
			covers(t, deliver(t, image, "a"), o.Stream, acked+1, settled)
		}
		close(quit)
		<-done
		stop()
		closeBuffer(t, b)
	}
}

// covers checks that each of from..to arrived or was announced, and that what
// arrived is in order.
func covers(tb tester, items []item, stream string, from, to uint64) {
	tb.Helper()
	next, last := from, uint64(0)
	for i, it := range items {
		if it.stream != stream {
			continue
		}
		if it.from <= last {
			tb.Fatalf("item %d: %d after %d", i, it.from, last)
		}
		if it.from > next && next <= to {
			tb.Fatalf("item %d: %d is missing before %d (of %d..%d)", i, next, it.from, from, to)
		}
		last = it.to
		next = max(next, it.to+1)
	}
	if next <= to {
		tb.Fatalf("all from %d on is missing (of %d..%d)", next, from, to)
	}
}

func copyDir(tb tester, from, to string) {
	tb.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		tb.Fatal(err)
	}
	var last string
	copyFile := func(name string) {
		data, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), data, fileMode)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	for _, e := range entries {
		// Cursors are saved before the files that they passed are unlinked.
		if e.Name() == stateName {
			last = e.Name()
			continue
		}
		copyFile(e.Name())
	}
	copyFile(last)
}

// rounds is how often a test repeats what chance decides: MILLRACE_ROUNDS
// times as often as usual.
func rounds(n int) int {
	factor := 1
	if _, err := fmt.Sscan(os.Getenv("MILLRACE_ROUNDS"), &factor); err != nil {
		return n
	}
	return n * factor
}
