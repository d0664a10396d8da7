package buffer

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestForwardFromTail(t *testing.T) {
	t.Parallel()
	o := testOptions(t, t.TempDir())
	o.CommitInterval = time.Second
	b := openBuffer(t, o)
	r := &receiver{}
	stop := forward(t, b, "a", r)
	last := appendN(t, b, 1000, 100)
	waitFor(t, "all acknowledged", func() bool { return b.Stats().Uplinks["a"].Acked == last })
	account(t, r.got(), o.Stream, 1, last)
	stop()
	s := b.Stats()
	if s.Segments != 0 || s.TailBatches != 0 || s.Batches != 0 {
		t.Errorf("something is left: %+v", s)
	}
	closeBuffer(t, b)
}

func TestBacklogSurvivesRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var streams []string
	for range 3 {
		o := testOptions(t, dir)
		streams = append(streams, o.Stream)
		b := openBuffer(t, o)
		appendN(t, b, 2000, 200)
		closeBuffer(t, b)
	}
	o := testOptions(t, dir)
	b := openBuffer(t, o)
	r := &receiver{}
	stop := forward(t, b, "a", r)
	waitFor(t, "all acknowledged", func() bool { return b.Stats().Batches == 0 })
	stop()
	for _, s := range streams {
		if gaps := account(t, r.got(), s, 1, 2000); gaps > 0 {
			t.Errorf("%d gaps", gaps)
		}
	}
	if n := len(r.got()); n != 6000 {
		t.Errorf("%d items, want 6000", n)
	}
	waitFor(t, "the files to be gone", func() bool { return b.Stats().Segments == 0 })
	closeBuffer(t, b)
}

// TestAckBeforeCommitWritesNothing: a healthy uplink means no flash writes.
func TestAckBeforeCommitWritesNothing(t *testing.T) {
	t.Parallel()
	o := testOptions(t, t.TempDir())
	o.CommitInterval = 200 * time.Millisecond
	b := openBuffer(t, o)
	r := &receiver{bare: true, window: 64}
	stop := forward(t, b, "a", r)
	for range 60 {
		appendN(t, b, 20, 500)
		<-time.After(10 * time.Millisecond) // three times the interval, all told
	}
	if s := b.Stats(); s.Commits != 0 || s.Written != 0 {
		t.Errorf("%d commits, %d bytes", s.Commits, s.Written)
	}
	stop()
	closeBuffer(t, b)
}

// durable is a receiver that knows what is on the disk when it gets a record.
type durable struct {
	*receiver
	t *testing.T
	b *Buffer
}

func (d *durable) Connect(ctx context.Context, acked func(uint64)) (<-chan struct{}, error) {
	return link{d.receiver}.Connect(ctx, acked)
}

func (d *durable) Send(ctx context.Context, token uint64, r Record) error {
	if settled := settledIn(d.b); r.Seq > settled {
		d.t.Errorf("%d was handed over while %d were on the disk", r.Seq, settled)
	}
	return d.receiver.Send(ctx, token, r)
}

// TestDurableBeforeVisible: with a commit interval of 0 an uplink sees
// nothing that is not on the disk.
func TestDurableBeforeVisible(t *testing.T) {
	t.Parallel()
	o := testOptions(t, t.TempDir())
	o.CommitInterval = 0
	b := openBuffer(t, o)
	d := &durable{receiver: &receiver{}, t: t, b: b}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Forward(ctx, "a", d, ForwardOptions{}) }()
	for range 30 {
		last := appendN(t, b, 7, 100)
		waitFor(t, "the records", func() bool { return uint64(d.total()) == last })
	}
	if b.Stats().Commits == 0 {
		t.Error("nothing was committed")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	closeBuffer(t, b)
}

// TestCommitInterval: what waits for an uplink that is away is on the disk
// when it is as old as the interval.
func TestCommitInterval(t *testing.T) {
	t.Parallel()
	for _, interval := range []time.Duration{50 * time.Millisecond, time.Second, 10 * time.Second} {
		t.Run(interval.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := testOptions(t, tempDir(t))
				o.CommitInterval = interval
				b := openBuffer(t, o)
				stop := field(t, b, interval/25)
				for range 400 {
					<-time.After(interval / 40)
					b.mu.Lock()
					if next := b.settled + 1; b.tail.has(next) && b.clock()-b.tail.entry(next).at > interval {
						t.Errorf("a record is %v old and in memory alone", b.clock()-b.tail.entry(next).at)
					}
					b.mu.Unlock()
				}
				if commits := b.Stats().Commits; commits < 8 || commits > 25 {
					t.Errorf("%d commits in 10 intervals", commits)
				}
				stop()
				closeBuffer(t, b)
			})
		})
	}
}

// TestOneUplinkDown: the other one gets everything at once, and what waits
// for the first is on the disk.
func TestOneUplinkDown(t *testing.T) {
	t.Parallel()
	o := testOptions(t, t.TempDir())
	o.Uplinks = []string{"a", "b"}
	o.TailBytes = 1 << 20
	b := openBuffer(t, o)
	up, down := &receiver{window: 32}, &receiver{refuse: true}
	stopUp, stopDown := forward(t, b, "a", up), forward(t, b, "b", down)
	last := uint64(0)
	for range 20 {
		last = appendN(t, b, 200, 1000)
		waitFor(t, "the healthy one", func() bool { return b.Stats().Uplinks["a"].Acked == last })
		waitFor(t, "the disk", func() bool { return b.Stats().Uplinks["b"].Lag == last && settledIn(b) == last })
	}
	s := b.Stats()
	if s.Segments < 2 || s.TailBytes > o.TailBytes || s.Uplinks["b"].Oldest.IsZero() || s.DiskBytes == 0 {
		t.Errorf("%+v", s)
	}
	full := b.Stats()
	down.set(func(r *receiver) { r.refuse, r.hold = false, true })
	part := last * 3 / 4
	waitFor(t, "a part acknowledged", func() bool {
		acked := b.Stats().Uplinks["b"].Acked
		if acked < part {
			down.ack(int(part - acked))
		}
		return acked >= part
	})
	waitFor(t, "room, before the backlog is gone", func() bool { return b.Stats().Segments <= full.Segments/2 && b.Stats().DiskBytes < full.DiskBytes*3/4 })
	down.set(func(r *receiver) { r.hold = false })
	waitFor(t, "the other one", func() bool { down.ack(1 << 20); return b.Stats().Uplinks["b"].Acked == last })
	waitFor(t, "the files to be gone", func() bool { return b.Stats().Segments <= 1 })
	stopUp()
	stopDown()
	for _, r := range []*receiver{up, down} {
		if gaps := account(t, r.got(), o.Stream, 1, last); gaps > 0 {
			t.Errorf("%d gaps", gaps)
		}
	}
	closeBuffer(t, b)
}

func settledIn(b *Buffer) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.settled
}

// TestMaxSize measures the directory while far more is appended than fits.
func TestMaxSize(t *testing.T) {
	t.Parallel()
	o := testOptions(t, t.TempDir())
	o.MaxSize = 2 << 20
	b := openBuffer(t, o)
	n, largest := uint64(0), int64(0)
	for range 60 {
		for range 100 {
			n++
			data := make([]byte, 1000)
			for i := range data {
				data[i] = byte(rand.Uint32())
			}
			if _, err := b.Append(Record{Time: int64(n), Schema: 1, Readings: 2, Data: data}); err != nil {
				t.Fatal(err)
			}
		}
		waitFor(t, "the disk", func() bool { return settledIn(b) == n })
		largest = max(largest, dirSize(t, o.Dir))
	}
	if largest > o.MaxSize || largest < o.MaxSize/2 {
		t.Errorf("the files took %d bytes, the limit is %d", largest, o.MaxSize)
	}
	s := b.Stats()
	if s.DiskBytes > o.MaxSize || s.Dropped[ReasonFull] == 0 {
		t.Errorf("%+v", s)
	}
	r := &receiver{}
	stop := forward(t, b, "a", r)
	waitFor(t, "all delivered", func() bool { return b.Stats().Batches == 0 && b.Stats().Uplinks["a"].Gaps == 0 })
	stop()
	if gaps := account(t, r.got(), o.Stream, 1, n); gaps != 1 {
		t.Errorf("%d gaps, want 1 for all that was given up", gaps)
	}
	if g := r.got()[0]; g.gap != ReasonFull || g.from != 1 || g.readings != 2*g.to || g.readings != s.Dropped[ReasonFull] {
		t.Errorf("the gap: %+v", g)
	}
	closeBuffer(t, b)
}

func dirSize(t *testing.T, dir string) (size int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	return size
}

// TestMaxAge: what is too old is given up by whole segments, but not because
// a clock was never set.
func TestMaxAge(t *testing.T) {
	t.Parallel()
	base := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		first time.Time // of the first hundred records; the second are of base
		gap   string
	}{
		"old":          {base.Add(-100 * time.Hour), ReasonOld},
		"young":        {base.Add(-time.Hour), ""},
		"no clock yet": {time.Unix(100, 0), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := testOptions(t, t.TempDir())
			o.MaxAge = 48 * time.Hour
			o.Now = func() time.Time { return base }
			b := openBuffer(t, o)
			add := func(at time.Time) {
				for range 100 {
					if _, err := b.Append(Record{Time: at.UnixMilli(), Schema: 1, Readings: 2, Data: payload(1, 10)}); err != nil {
						t.Fatal(err)
					}
				}
			}
			add(c.first)
			closeBuffer(t, b)
			o.Stream = newStream()
			b = openBuffer(t, o)
			add(base)
			waitFor(t, "a commit", func() bool { return settledIn(b) == 100 })
			r := &receiver{}
			stop := forward(t, b, "a", r)
			waitFor(t, "all delivered", func() bool { return b.Stats().Batches == 0 && b.Stats().Uplinks["a"].Gaps == 0 })
			stop()
			if got := r.got()[0]; got.gap != c.gap || c.gap != "" && (got.to != 100 || got.readings != 200) {
				t.Errorf("first item: %+v", got)
			}
			closeBuffer(t, b)
		})
	}
}

func TestSetUplinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := testOptions(t, dir)
	b := openBuffer(t, o)
	r := &receiver{hold: true}
	stop := forward(t, b, "a", r)
	appendN(t, b, 100, 100)
	waitFor(t, "the disk", func() bool { return settledIn(b) == 100 })
	if err := b.SetUplinks([]string{"b"}); err != nil {
		t.Fatal(err)
	}
	stop() // its Forward ended with ErrUnknownUplink
	waitFor(t, "the files to be gone", func() bool { return b.Stats().TailBatches == 0 })
	last := appendN(t, b, 50, 100)
	closeBuffer(t, b)

	o.Stream, o.Uplinks = newStream(), []string{"b", "c"}
	b = openBuffer(t, o)
	rb, rc := &receiver{}, &receiver{}
	stopB, stopC := forward(t, b, "b", rb), forward(t, b, "c", rc)
	appendN(t, b, 10, 10)
	waitFor(t, "all delivered", func() bool { return b.Stats().Batches == 0 })
	stopB()
	stopC()
	if got := rb.got(); len(got) != 60 || got[0].from != 101 || got[49].from != last {
		t.Errorf("b got %d items", len(got))
	}
	if got := rc.got(); len(got) != 10 {
		t.Errorf("c is new and got %d items", len(got))
	}
	if err := b.Forward(t.Context(), "a", link{r}, ForwardOptions{}); !errors.Is(err, ErrUnknownUplink) {
		t.Errorf("forwarding to a removed uplink: %v", err)
	}
	closeBuffer(t, b)
}

func TestAppendRefuses(t *testing.T) {
	t.Parallel()
	o := testOptions(t, t.TempDir())
	b := openBuffer(t, o)
	if _, err := b.Append(Record{Schema: 2}); !errors.Is(err, ErrUnknownSchema) {
		t.Errorf("unknown schema: %v", err)
	}
	if _, err := b.Append(Record{Schema: 1, Data: make([]byte, 5<<20)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if seq, err := b.Append(Record{Schema: 1}); seq != 1 || err != nil {
		t.Errorf("a refused record took a seq: %d %v", seq, err)
	}
	closeBuffer(t, b)
	closeBuffer(t, b)
	if _, err := b.Append(Record{Schema: 1}); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if _, err := Open(o); !errors.Is(err, ErrStreamUsed) {
		t.Errorf("the same stream again: %v", err)
	}
	o.Stream = "no good/"
	if _, err := Open(o); err == nil {
		t.Error("a stream id with a slash was taken")
	}
}

// TestSchemasOutliveTheConfiguration: a record written by an earlier run is
// decoded with the schema in its own file, also when state.db is lost.
func TestSchemasOutliveTheConfiguration(t *testing.T) {
	t.Parallel()
	o := testOptions(t, t.TempDir())
	b := openBuffer(t, o)
	big := bytes.Repeat([]byte("tag;"), 50_000)
	if err := b.PutSchema(77, big); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Append(Record{Schema: 77, Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	closeBuffer(t, b)
	if err := os.Remove(filepath.Join(o.Dir, stateName)); err != nil {
		t.Fatal(err)
	}
	o.Stream = newStream()
	b = openBuffer(t, o)
	for range 2 {
		if blob, err := b.Schema(77); err != nil || !bytes.Equal(blob, big) {
			t.Errorf("%d bytes, %v", len(blob), err)
		}
	}
	if _, err := b.Schema(78); !errors.Is(err, ErrUnknownSchema) {
		t.Errorf("a schema that never was: %v", err)
	}
	closeBuffer(t, b)
}

func TestStateValues(t *testing.T) {
	t.Parallel()
	o := testOptions(t, t.TempDir())
	b := openBuffer(t, o)
	if err := b.StatePut("bdSeq/a", []byte{7}); err != nil {
		t.Fatal(err)
	}
	closeBuffer(t, b)
	o.Stream = newStream()
	b = openBuffer(t, o)
	if v := b.StateGet("bdSeq/a"); len(v) != 1 || v[0] != 7 {
		t.Errorf("%v", v)
	}
	if v := b.StateGet("other"); v != nil {
		t.Errorf("%v", v)
	}
	closeBuffer(t, b)
}

func TestInUse(t *testing.T) {
	t.Parallel()
	o := testOptions(t, t.TempDir())
	b := openBuffer(t, o)
	o.Stream = newStream()
	if _, err := Open(o); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "another millrace") {
		t.Errorf("opened twice: %v", err)
	}
	closeBuffer(t, b)
}

// TestMemoryOnly: where the directory cannot be used, the records go through
// memory, and the buffer takes the directory as soon as it can.
func TestMemoryOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := testOptions(t, filepath.Join(dir, "file", "buffer"))
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := openBuffer(t, o)
	if s := b.Stats(); s.DiskError == "" {
		t.Error("no disk error is shown")
	}
	r := &receiver{}
	stop := forward(t, b, "a", r)
	appendN(t, b, 100, 10)
	waitFor(t, "all delivered", func() bool { return b.Stats().Batches == 0 })
	if err := os.Remove(filepath.Join(dir, "file")); err != nil {
		t.Fatal(err)
	}
	r.set(func(r *receiver) { r.hold = true })
	last := appendN(t, b, 100, 10)
	b.kickWriter()
	waitFor(t, "the disk", func() bool { return b.Stats().DiskError == "" && settledIn(b) == last })
	stop()
	closeBuffer(t, b)

	o.Stream = newStream()
	b = openBuffer(t, o)
	again := &receiver{}
	stop = forward(t, b, "a", again)
	waitFor(t, "all delivered", func() bool { return b.Stats().Batches == 0 })
	stop()
	if n := again.total(); n != 100 {
		t.Errorf("%d records came from the disk, want 100", n)
	}
	closeBuffer(t, b)
}
