package buffer

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// slow is data like a batch of slowly changing 16-bit values: two bytes per
// reading, few of which differ from batch to batch.
func slow(n int) func() []byte {
	values := make([]byte, 2*n)
	for i := range n {
		binary.BigEndian.PutUint16(values[2*i:], uint16(rand.IntN(4000)))
	}
	return func() []byte {
		for range n / 20 {
			i := rand.IntN(n)
			binary.BigEndian.PutUint16(values[2*i:], binary.BigEndian.Uint16(values[2*i:])+uint16(rand.IntN(3))-1)
		}
		return values
	}
}

func benchOptions(b *testing.B) Options {
	b.Helper()
	return Options{Dir: b.TempDir(), CommitInterval: time.Second, Uplinks: []string{"a"}, Stream: newStream()}
}

// BenchmarkOnline is the steady state: append, hand over, acknowledge.
func BenchmarkOnline(b *testing.B) {
	buf := openBuffer(b, benchOptions(b))
	r := &direct{done: make(chan struct{}), want: uint64(b.N)}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- buf.Forward(ctx, "a", r, ForwardOptions{}) }()
	data := payload(1, 1500)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if _, err := buf.Append(Record{Schema: 1, Readings: 500, Data: data}); err != nil {
			b.Fatal(err)
		}
		for i%256 == 0 && buf.lagging() {
			<-time.After(20 * time.Microsecond)
		}
	}
	<-r.done
	b.StopTimer()
	s := buf.Stats()
	b.ReportMetric(float64(s.Written)/float64(b.N), "disk-B/op")
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	closeBuffer(b, buf)
}

func (b *Buffer) lagging() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tail.n > 2000
}

// direct is a Publisher that acknowledges at once, from the sender.
type direct struct {
	acked func(uint64)
	n     uint64
	want  uint64
	done  chan struct{}
	lost  chan struct{}
}

func (d *direct) Connect(_ context.Context, acked func(uint64)) (<-chan struct{}, error) {
	d.acked, d.lost = acked, make(chan struct{})
	return d.lost, nil
}

func (d *direct) Send(_ context.Context, token uint64, _ Record) error {
	d.acked(token)
	d.n++
	if d.n == d.want {
		close(d.done)
	}
	return nil
}

func (d *direct) SendGap(_ context.Context, token uint64, _ Gap) error {
	d.acked(token)
	return nil
}

func (d *direct) Disconnect() {}

// BenchmarkOffline appends until all is durable, with no uplink there.
func BenchmarkOffline(b *testing.B) {
	for _, c := range []struct {
		name     string
		readings int
	}{{"20readings", 20}, {"1000readings", 1000}} {
		b.Run(c.name, func(b *testing.B) {
			o := benchOptions(b)
			buf := openBuffer(b, o)
			next := slow(c.readings)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if _, err := buf.Append(Record{Schema: 1, Readings: c.readings, Data: next()}); err != nil {
					b.Fatal(err)
				}
				for buf.crowded() {
					<-time.After(50 * time.Microsecond)
				}
			}
			closeBuffer(b, buf)
			b.StopTimer()
			readings := float64(b.N) * float64(c.readings)
			b.ReportMetric(readings/b.Elapsed().Seconds()/1e6, "Mreadings/s")
			b.ReportMetric(float64(buf.counts.written)/readings, "disk-B/reading")
		})
	}
}

// crowded: the tail would have to give something up.
func (b *Buffer) crowded() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pending > b.o.TailBytes*7/8
}

// BenchmarkDrain sends a backlog from the disk.
func BenchmarkDrain(b *testing.B) {
	o := benchOptions(b)
	buf := openBuffer(b, o)
	next := slow(1000)
	for range b.N {
		if _, err := buf.Append(Record{Schema: 1, Readings: 1000, Data: next()}); err != nil {
			b.Fatal(err)
		}
		for buf.crowded() {
			<-time.After(50 * time.Microsecond)
		}
	}
	closeBuffer(b, buf)
	o.Stream = newStream()
	buf = openBuffer(b, o)
	r := &direct{done: make(chan struct{}), want: uint64(b.N)}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	b.ReportAllocs()
	b.ResetTimer()
	go func() { ended <- buf.Forward(ctx, "a", r, ForwardOptions{}) }()
	<-r.done
	b.StopTimer()
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	closeBuffer(b, buf)
}

// BenchmarkBareBolt is the yardstick: one transaction with the values of a
// commit of 100 batches of 1,000 readings, compressed already.
func BenchmarkBareBolt(b *testing.B) {
	db, err := bolt.Open(filepath.Join(b.TempDir(), "db"), fileMode, boltOptions(false, 64<<20))
	if err != nil {
		b.Fatal(err)
	}
	value := make([]byte, 1900)
	key := uint64(0)
	var written int64
	for b.Loop() {
		n, err := update(db, func(tx *bolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("x"))
			for range 50 {
				key++
				if err == nil {
					err = bucket.Put(seqKey(key), value)
				}
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		written += n
	}
	b.ReportMetric(float64(written)/float64(b.N), "disk-B/op")
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkChunkEncode(b *testing.B) {
	e, err := newChunkEncoder("S")
	if err != nil {
		b.Fatal(err)
	}
	next := slow(1000)
	var dst []byte
	b.ReportAllocs()
	size := 0
	for b.Loop() {
		e.reset(1, 0, 0)
		for range 2 {
			e.add(&Record{Schema: 1, Readings: 1000, Data: next()})
		}
		dst = e.appendTo(dst[:0])
		size = len(dst)
	}
	b.ReportMetric(float64(size)/2000, "B/reading")
	b.SetBytes(4000)
}

// BenchmarkOpen starts with a backlog of many files.
func BenchmarkOpen(b *testing.B) {
	o := benchOptions(b)
	o.SegmentSize = 64 << 10
	buf := openBuffer(b, o)
	for range 20_000 {
		data := make([]byte, 1000)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		if _, err := buf.Append(Record{Schema: 1, Data: data}); err != nil {
			b.Fatal(err)
		}
		for buf.crowded() {
			<-time.After(50 * time.Microsecond)
		}
	}
	closeBuffer(b, buf)
	files, err := os.ReadDir(o.Dir)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		o.Stream = newStream()
		closeBuffer(b, openBuffer(b, o))
	}
	b.ReportMetric(float64(len(files)), "files")
}

// BenchmarkOfflineCommits is one commit a second in time lapse: each writes
// 100 batches of 1,000 readings.
func BenchmarkOfflineCommits(b *testing.B) {
	floats := make([]byte, 4000)
	for name, next := range map[string]func() []byte{
		"slow16": slow(1000),
		"float32": func() []byte {
			for i := range 1000 {
				binary.BigEndian.PutUint32(floats[4*i:], math.Float32bits(rand.Float32()))
			}
			return floats
		},
	} {
		b.Run(name, func(b *testing.B) {
			o := benchOptions(b)
			o.CommitInterval = time.Millisecond
			buf := openBuffer(b, o)
			for b.Loop() {
				last := uint64(0)
				for range 100 {
					seq, err := buf.Append(Record{Schema: 1, Readings: 1000, Data: next()})
					if err != nil {
						b.Fatal(err)
					}
					last = seq
				}
				for settledIn(buf) < last {
					<-time.After(50 * time.Microsecond)
				}
			}
			s := buf.Stats()
			b.ReportMetric(float64(s.Written)/float64(b.N)/1e5, "disk-B/reading")
			b.ReportMetric(float64(s.Commits)/float64(b.N), "commits/op")
			closeBuffer(b, buf)
		})
	}
}
