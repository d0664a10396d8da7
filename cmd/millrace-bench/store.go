package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	bolt "go.etcd.io/bbolt"

	"millrace/buffer"
)

// store is a buffer or the yardstick for it, as the bench uses them.
type store interface {
	schema(p *plc) error
	put(p *plc, record []byte) error
	written() tally
	crowded() bool // appending has to wait
	close() error
}

// tally is what a store has passed to write calls, by its own account.
type tally struct {
	Commits, Bytes, Packed uint64
}

// bufferStore is the buffer, with an uplink that is away or takes all at once.
type bufferStore struct {
	buf    *buffer.Buffer
	cancel context.CancelFunc
	ended  chan error
}

const benchUplink = "bench"

func openBufferStore(ctx context.Context, dir string, online bool) (*bufferStore, error) {
	buf, err := buffer.Open(buffer.Options{
		Dir: dir, CommitInterval: time.Second, MaxSize: 64 << 30, Uplinks: []string{benchUplink},
		Stream: fmt.Sprintf("B%d", time.Now().UnixNano()),
	})
	if err != nil {
		return nil, err
	}
	s := &bufferStore{buf: buf, cancel: func() {}, ended: make(chan error, 1)}
	if !online {
		s.ended <- nil
		return s, nil
	}
	ctx, s.cancel = context.WithCancel(ctx)
	go func() { s.ended <- buf.Forward(ctx, benchUplink, &taker{}, buffer.ForwardOptions{}) }()
	return s, nil
}

func (s *bufferStore) schema(p *plc) error { return s.buf.PutSchema(p.id, p.schema) }

func (s *bufferStore) put(p *plc, record []byte) error {
	_, err := s.buf.Append(buffer.Record{Time: time.Now().UnixMilli(), Schema: p.id, Readings: len(p.batch.Readings), Data: record})
	return err
}

func (s *bufferStore) written() tally {
	st := s.buf.Stats()
	return tally{Commits: st.Commits, Bytes: st.Written, Packed: st.Packed}
}

// crowded: the tail of 8 MiB would have to give something up soon.
func (s *bufferStore) crowded() bool { return s.buf.Stats().TailBytes > 7<<20 }

func (s *bufferStore) close() error {
	s.cancel()
	err := errors.Join(<-s.ended, s.buf.Close())
	if dropped := s.buf.Stats().Dropped; len(dropped) > 0 {
		err = errors.Join(err, fmt.Errorf("readings were lost: %v", dropped))
	}
	return err
}

// taker is a Publisher that has acknowledged what it gets.
type taker struct{ acked func(token uint64) }

func (t *taker) Connect(_ context.Context, acked func(uint64)) (<-chan struct{}, error) {
	t.acked = acked
	return make(chan struct{}), nil
}

func (t *taker) Send(_ context.Context, token uint64, _ buffer.Record) error {
	t.acked(token)
	return nil
}

func (t *taker) SendGap(_ context.Context, token uint64, _ buffer.Gap) error {
	t.acked(token)
	return nil
}

func (t *taker) Disconnect() {}

// boltStore is the yardstick: the same records, as they are, in one bucket
// and one transaction a second.
type boltStore struct {
	db    *bolt.DB
	tx    *bolt.Tx
	next  time.Time
	key   uint64
	total tally
}

func openBoltStore(dir string) (*boltStore, error) {
	db, err := bolt.Open(filepath.Join(dir, "bare.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, PageSize: 4096, InitialMmapSize: 1 << 30})
	if err != nil {
		return nil, err
	}
	s := &boltStore{db: db}
	err = s.begin()
	return s, err
}

func (s *boltStore) begin() (err error) {
	s.next = time.Now().Add(900 * time.Millisecond) // the scans come at whole seconds
	if s.tx, err = s.db.Begin(true); err == nil {
		_, err = s.tx.CreateBucketIfNotExists([]byte("records"))
	}
	return err
}

func (s *boltStore) schema(*plc) error { return nil }

func (s *boltStore) put(_ *plc, record []byte) error {
	if time.Now().After(s.next) {
		if err := errors.Join(s.commit(), s.begin()); err != nil {
			return err
		}
	}
	s.key++
	s.total.Packed += uint64(len(record))
	bucket := s.tx.Bucket([]byte("records"))
	bucket.FillPercent = 0.95
	return bucket.Put(binary.BigEndian.AppendUint64(nil, s.key), append([]byte(nil), record...))
}

func (s *boltStore) commit() error {
	err := s.tx.Commit()
	st := s.tx.Stats()
	s.total.Bytes += uint64(st.GetPageAlloc()) + 4096 // and the meta page
	s.total.Commits++
	return err
}

func (s *boltStore) written() tally { return s.total }
func (s *boltStore) crowded() bool  { return false }
func (s *boltStore) close() error   { return errors.Join(s.commit(), s.db.Close()) }

// Kinds of stores.
const (
	storeOffline = "offline"
	storeOnline  = "online"
	storeBolt    = "bbolt"
)

// withStore opens a store in a directory of its own for as long as f runs.
func withStore(ctx context.Context, kind string, f func(s store) error) (err error) {
	dir, err := os.MkdirTemp("", "store-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var s store
	if kind == storeBolt {
		s, err = openBoltStore(dir)
	} else {
		s, err = openBufferStore(ctx, dir, kind == storeOnline)
	}
	if err != nil {
		return err
	}
	return f(s)
}

// flood is how fast records become durable.
type flood struct {
	Name             string  `json:"name"`
	Batch            int     `json:"readings_per_batch"`
	Readings         float64 `json:"readings_per_s"`
	CPUPerMillion    float64 `json:"cpu_s_per_million_readings"`
	AllocsPerBatch   float64 `json:"allocations_per_batch"`
	WrittenPerRead   float64 `json:"bytes_written_per_reading"`
	ReadingsBareBolt float64 `json:"bare_bbolt_readings_per_s"`
}

// runFlood appends for some seconds as fast as it goes, until all is durable.
func runFlood(ctx context.Context, args []string) error {
	kind, args := args[0], args[1:]
	var tags, seconds int
	if err := numbers(args, &tags, &seconds); err != nil {
		return err
	}
	return withStore(ctx, kind, func(s store) error {
		src := newFlooder(s, tags)
		for _, p := range src.devices {
			if err := s.schema(p); err != nil {
				return err
			}
		}
		if err := src.run(ctx, time.Second); err != nil { // warm up
			return err
		}
		first, before, cpu := src.n, s.written(), ownCPU()
		var m0, m1 runtime.MemStats
		runtime.ReadMemStats(&m0)
		start := time.Now()
		if err := src.run(ctx, time.Duration(seconds)*time.Second); err != nil {
			return err
		}
		runtime.ReadMemStats(&m1)
		if err := s.close(); err != nil {
			return err
		}
		batches := float64(src.n - first)
		readings := batches * float64(tags)
		return tell(&flood{
			Batch: tags, Readings: readings / time.Since(start).Seconds(), CPUPerMillion: (ownCPU() - cpu).Seconds() / readings * 1e6,
			AllocsPerBatch: float64(m1.Mallocs-m0.Mallocs) / batches, WrittenPerRead: float64(s.written().Bytes-before.Bytes) / readings,
		})
	})
}

// flooder appends records that were made before.
type flooder struct {
	store   store
	devices []*plc
	records [][]byte
	n       int // batches appended
}

func newFlooder(s store, tags int) *flooder {
	f := &flooder{store: s, devices: plcs(20, tags, slowUint16), records: make([][]byte, 1000)}
	for i := range f.records {
		f.records[i] = bytes.Clone(f.devices[i%len(f.devices)].scan())
	}
	return f
}

// run appends as fast as the store takes it.
func (f *flooder) run(ctx context.Context, d time.Duration) error {
	for start := time.Now(); time.Since(start) < d; {
		for size := 0; size < 256<<10; f.n++ {
			r := f.records[f.n%len(f.records)]
			if err := f.store.put(f.devices[f.n%len(f.devices)], r); err != nil {
				return err
			}
			size += len(r) + 80
		}
		for f.store.crowded() {
			if err := pause(ctx, 200*time.Microsecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// pace is what a store writes at a steady load.
type pace struct {
	Name           string  `json:"name"`
	Store          string  `json:"store"`
	Readings       float64 `json:"readings_per_s"`
	Seconds        float64 `json:"seconds"`
	Commits        uint64  `json:"commits"`
	PerSecond      float64 `json:"bytes_written_per_s"`
	PerCommit      float64 `json:"bytes_written_per_commit"`
	PackedCommit   float64 `json:"compressed_bytes_per_commit"`
	BesideCommit   float64 `json:"bytes_beside_them_per_commit"`
	PerReading     float64 `json:"bytes_written_per_reading"`
	WriteCalls     float64 `json:"bytes_in_write_calls_per_s"` // as the kernel counts
	PerDay         float64 `json:"bytes_written_per_day"`
	CPUMilliPerSec float64 `json:"cpu_ms_per_s"`
}

// runPace appends scans at their pace, and measures from one commit to
// another.
func runPace(ctx context.Context, args []string) error {
	kind, values, args := args[0], args[1], args[2:]
	var devices, tags, ms, seconds int
	if err := numbers(args, &devices, &tags, &ms, &seconds); err != nil {
		return err
	}
	return withStore(ctx, kind, func(s store) error {
		src := &pacer{store: s, devices: plcs(devices, tags, values), interval: time.Duration(ms) * time.Millisecond}
		for _, p := range src.devices {
			if err := s.schema(p); err != nil {
				return err
			}
		}
		if err := src.run(ctx, settleTime); err != nil {
			return err
		}
		src.marks = src.marks[len(src.marks)-1:]
		before, calls, cpu, start := s.written(), ownWrites(), ownCPU(), time.Now()
		if err := src.run(ctx, time.Duration(seconds)*time.Second); err != nil {
			return err
		}
		took := time.Since(start).Seconds()
		p := &pace{
			Store: kind, Readings: float64(devices*tags) * 1000 / float64(ms), Seconds: took,
			PerSecond:  float64(s.written().Bytes-before.Bytes) / took,
			WriteCalls: float64(ownWrites()-calls) / took, CPUMilliPerSec: (ownCPU() - cpu).Seconds() * 1000 / took,
		}
		p.PerDay = p.PerSecond * 86400
		p.perCommit(src.marks)
		if err := s.close(); err != nil {
			return err
		}
		return tell(p)
	})
}

// pacer appends the scans of devices at their interval.
type pacer struct {
	store    store
	devices  []*plc
	interval time.Duration
	readings uint64
	marks    []mark // after each commit
}

func (f *pacer) run(ctx context.Context, d time.Duration) error {
	tick := time.NewTicker(f.interval)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); {
		if t := f.store.written(); len(f.marks) == 0 || t.Commits != f.marks[len(f.marks)-1].Commits {
			f.marks = append(f.marks, mark{t, f.readings})
		}
		for _, p := range f.devices {
			if err := f.store.put(p, p.scan()); err != nil {
				return err
			}
			f.readings += uint64(len(p.batch.Readings))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// settleTime is for the first commits: they make the file.
const settleTime = 3 * time.Second

// mark is how far things were after a commit.
type mark struct {
	tally
	readings uint64
}

// perCommit measures from the first mark to the last one.
func (p *pace) perCommit(marks []mark) {
	first, last := marks[0], marks[len(marks)-1]
	p.Commits = last.Commits - first.Commits
	if p.Commits == 0 {
		return
	}
	n, total := float64(p.Commits), float64(last.Bytes-first.Bytes)
	p.PerCommit, p.PackedCommit = total/n, float64(last.Packed-first.Packed)/n
	p.BesideCommit = p.PerCommit - p.PackedCommit
	p.PerReading = total / float64(last.readings-first.readings)
}
