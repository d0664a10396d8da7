package buffer

import (
	"math/rand/v2"
	"sync"
	"testing"
)

// told keeps what Options.Dropped and ForwardOptions.OnAcked told.
type told struct {
	mu      sync.Mutex
	dropped map[uint64]int // by seq
	schema  string
	revived int
}

func (d *told) drop(_, _ string, r Record, schema []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropped[r.Seq]++
	d.schema = string(schema)
}

func (d *told) acked(_ uint64, was string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if was == ReasonFull {
		d.revived++
	}
}

func appendNoise(t *testing.T, b *Buffer, n int) {
	t.Helper()
	last := uint64(0)
	for range n {
		data := make([]byte, 1000)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		seq, err := b.Append(Record{Time: 1_795_000_000_000, Schema: 1, Readings: 2, Data: data})
		if err != nil {
			t.Fatal(err)
		}
		if last = seq; seq%100 == 0 {
			waitFor(t, "the disk", func() bool { return settledIn(b) == last })
		}
	}
}

// TestToldOnce: each record is told as dropped or acknowledged, and not both:
// what was on its way when its file was given up has arrived after all. The
// schema comes with it, also of records of an earlier run.
func TestToldOnce(t *testing.T) {
	t.Parallel()
	o := testOptions(t, t.TempDir())
	o.MaxSize = 2 << 20
	b := openBuffer(t, o)
	appendNoise(t, b, 500)
	closeBuffer(t, b)
	d := &told{dropped: map[uint64]int{}}
	before := o.Stream
	o.Stream, o.Dropped = newStream(), d.drop
	b, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{hold: true, window: 64}
	stop := forwardAs(t, b, "a", r, ForwardOptions{OnAcked: d.acked})
	waitFor(t, "a full window", func() bool { return r.total() == 64 })
	if err := b.PutSchema(1, []byte("schema one")); err != nil {
		t.Fatal(err)
	}
	appendNoise(t, b, 4000)
	r.set(func(r *receiver) { r.hold = false })
	r.ack(64)
	waitFor(t, "all delivered", func() bool { return b.Stats().Batches == 0 && b.Stats().Uplinks["a"].Gaps == 0 })
	stop()
	records, missing := 0, 0
	for _, it := range r.got() {
		if it.gap == "" {
			records++
		} else {
			missing += int(it.to - it.from + 1)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	total := 0
	for _, n := range d.dropped {
		total += n
	}
	if d.revived == 0 || total-d.revived != missing || records+missing != 4500 {
		t.Errorf("%d told as dropped, of which %d have arrived; the receiver has %d records and notices of %d, of streams %s and %s", total, d.revived, records, missing, before, o.Stream)
	}
	if d.schema != "schema one" {
		t.Errorf("the schema is %q", d.schema)
	}
	closeBuffer(t, b)
}
