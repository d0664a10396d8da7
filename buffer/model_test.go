package buffer

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is what the buffer must do, kept beside it: every record that was
// appended, and what each uplink got.
type model struct {
	t         *rapid.T
	dir       string
	interval  time.Duration
	maxSize   int64
	tailBytes int64
	liveFirst map[string]bool // uplinks whose new records overtake
	b         *Buffer
	stream    string
	order     []string
	records   map[string][]modelRecord // by stream; seq is the index plus one
	receivers map[string]*receiver
	stops     []func()
}

type modelRecord struct {
	data     string
	readings uint64
}

func (m *model) open() {
	o := Options{
		Dir: m.dir, CommitInterval: m.interval, MaxSize: m.maxSize, SegmentSize: 64 << 10,
		TailBytes: m.tailBytes, Uplinks: []string{"a", "b"}, Stream: newStream(),
	}
	m.b = openBuffer(m.t, o)
	m.b.patience = 5 * time.Millisecond
	m.b.historical, m.b.behindAge = 2*time.Millisecond, time.Millisecond
	m.stream = o.Stream
	m.order = append(m.order, o.Stream)
	for name, r := range m.receivers {
		how := InOrder
		if m.liveFirst[name] {
			how = LiveFirst
		}
		m.stops = append(m.stops, forwardAs(m.t, m.b, name, r, ForwardOptions{CatchUp: how, Window: r.window}))
	}
}

func (m *model) close() {
	for _, stop := range m.stops {
		stop()
	}
	m.stops = nil
	closeBuffer(m.t, m.b)
}

// crash ends the buffer as a kill would, and opens it again.
func (m *model) crash() {
	m.b.die(m.t)
	for _, stop := range m.stops {
		stop()
	}
	m.stops = nil
	m.open()
}

func (m *model) append(t *rapid.T) {
	n := rapid.IntRange(1, 40).Draw(t, "n")
	size := rapid.IntRange(0, 3000).Draw(t, "size")
	for range n {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(rand.Uint32()) // nothing compresses it
		}
		readings := rand.IntN(9)
		seq, err := m.b.Append(Record{Time: time.Now().UnixMilli(), Schema: 1, Readings: readings, Data: data})
		if err != nil {
			t.Fatal(err)
		}
		m.records[m.stream] = append(m.records[m.stream], modelRecord{string(data), uint64(readings)})
		if seq != uint64(len(m.records[m.stream])) {
			t.Fatalf("seq %d for record %d", seq, len(m.records[m.stream]))
		}
	}
}

func (m *model) any(t *rapid.T) *receiver {
	return m.receivers[rapid.SampledFrom([]string{"a", "b"}).Draw(t, "uplink")]
}

// verify compares what an uplink got with what was appended.
func (m *model) verify(t *rapid.T, name string, items []item) {
	at := map[string]uint64{} // the next seq that is due, by stream
	stream := 0
	for i, it := range items {
		for m.order[stream] != it.stream {
			if due := at[m.order[stream]]; due != uint64(len(m.records[m.order[stream]])) {
				// A session that was rewound over the border of two streams.
				if back := indexOf(m.order, it.stream); back < stream {
					stream = back
					continue
				}
				t.Fatalf("%s: item %d is of the stream %s while %s is at %d of %d", name, i, it.stream, m.order[stream],
					due, len(m.records[m.order[stream]]))
			}
			if back := indexOf(m.order, it.stream); back < stream {
				stream = back
				continue
			}
			stream++
		}
		if it.from > at[it.stream]+1 {
			t.Fatalf("%s: item %d jumps from %d to %d..%d %q", name, i, at[it.stream], it.from, it.to, it.gap)
		}
		m.verifyItem(t, name, &it)
		at[it.stream] = max(at[it.stream], it.to)
	}
	for s, recs := range m.records {
		if at[s] != uint64(len(recs)) {
			t.Fatalf("%s: %d of %d of %s arrived", name, at[s], len(recs), s)
		}
	}
}

// verifyLive is verify for an uplink whose new records overtake others:
// lane_test.go looks at the order.
func (m *model) verifyLive(t *rapid.T, name string, items []item) {
	seen := map[string]map[uint64]bool{}
	for i := range items {
		it := &items[i]
		m.verifyItem(t, name, it)
		if seen[it.stream] == nil {
			seen[it.stream] = map[uint64]bool{}
		}
		for seq := it.from; seq <= it.to; seq++ {
			seen[it.stream][seq] = true
		}
	}
	for s, recs := range m.records {
		if len(seen[s]) != len(recs) {
			t.Fatalf("%s: %d of %d of %s arrived", name, len(seen[s]), len(recs), s)
		}
	}
}

// verifyItem checks what an item says of itself.
func (m *model) verifyItem(t *rapid.T, name string, it *item) {
	recs := m.records[it.stream]
	if it.gap == "" {
		want := recs[it.from-1]
		if it.data != want.data || it.readings != want.readings {
			t.Fatalf("%s: record %d of %s is not what was appended", name, it.from, it.stream)
		}
		return
	}
	sum := uint64(0)
	for _, r := range recs[it.from-1 : it.to] {
		sum += r.readings
	}
	if it.readings != sum {
		t.Fatalf("%s: a gap %d..%d %q with %d readings, want %d", name, it.from, it.to, it.gap, it.readings, sum)
	}
	if it.gap == ReasonDamaged || it.gap == ReasonCrash {
		t.Fatalf("%s: a gap %d..%d for damage that was not done", name, it.from, it.to)
	}
}

func indexOf(list []string, s string) int {
	for i := range list {
		if list[i] == s {
			return i
		}
	}
	return -1
}

// TestModel does anything in any order: append, acknowledge, lose the
// connection, refuse it, close and open again, die, run full. In the end every
// uplink got every record or a gap notice with the right figures, in order,
// and no seq was used twice.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			t: t, dir: tempDir(t), records: make(map[string][]modelRecord),
			interval:  rapid.SampledFrom([]time.Duration{0, time.Millisecond, 20 * time.Millisecond, time.Hour}).Draw(t, "interval"),
			maxSize:   rapid.SampledFrom([]int64{0, 1 << 20}).Draw(t, "maxSize"),
			tailBytes: rapid.SampledFrom([]int64{64 << 10, 8 << 20}).Draw(t, "tailBytes"),
			receivers: map[string]*receiver{"a": {}, "b": {}},
			liveFirst: map[string]bool{"a": rapid.Bool().Draw(t, "live first")},
		}
		for _, r := range m.receivers {
			r.window = rapid.IntRange(1, 64).Draw(t, "window")
		}
		m.open()
		t.Repeat(map[string]func(*rapid.T){
			"append":  m.append,
			"append2": m.append,
			"hold":    func(t *rapid.T) { m.any(t).set(func(r *receiver) { r.hold = !r.hold }) },
			"refuse":  func(t *rapid.T) { m.any(t).set(func(r *receiver) { r.refuse = !r.refuse }) },
			"ack":     func(t *rapid.T) { m.any(t).ack(rapid.IntRange(1, 50).Draw(t, "acks")) },
			"cut":     func(t *rapid.T) { m.any(t).cut() },
			"pause":   func(*rapid.T) { <-time.After(2 * time.Millisecond) },
			"reopen":  func(*rapid.T) { m.close(); m.open() },
			"crash":   func(*rapid.T) { m.crash() },
		})
		for _, r := range m.receivers {
			r.set(func(r *receiver) { r.hold, r.refuse = false, false })
			r.ack(1 << 20)
		}
		waitFor(t, "all delivered", func() bool {
			s := m.b.Stats()
			return s.Uplinks["a"].Lag+s.Uplinks["b"].Lag == 0 && s.Uplinks["a"].Gaps+s.Uplinks["b"].Gaps == 0
		})
		m.close()
		for name, r := range m.receivers {
			if m.liveFirst[name] {
				m.verifyLive(t, name, r.got())
			} else {
				m.verify(t, name, r.got())
			}
		}
	})
}
