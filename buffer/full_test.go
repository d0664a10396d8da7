package buffer

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// TestFullDisk fills a disk of 1 MiB.
func TestFullDisk(t *testing.T) { onSmallDisk(t, "1m", testFullDisk) }

// testFullDisk fills the disk while the uplink is away, goes on far beyond
// what memory holds, and lets the uplink come back.
func testFullDisk(t *testing.T, dir string) {
	t.Helper()
	o := testOptions(t, filepath.Join(dir, "buffer"))
	o.SegmentSize, o.TailBytes = 128<<10, 256<<10
	b := openBuffer(t, o)
	n := uint64(0)
	fill := func() {
		for range 50 {
			n++
			data := payload(n, 1000)
			for i := 8; i < len(data); i++ {
				data[i] = byte(rand.Uint32())
			}
			if _, err := b.Append(Record{Time: 3, Schema: 1, Readings: 2, Data: data}); err != nil {
				t.Fatal(err)
			}
		}
	}
	waitFor(t, "the disk to be full", func() bool { fill(); return b.Stats().DiskError != "" })
	t.Log(n, b.Stats().DiskError)
	for range 20 {
		fill()
	}
	s := b.Stats()
	if s.TailBytes > o.TailBytes {
		t.Errorf("%d bytes in memory, the bound is %d", s.TailBytes, o.TailBytes)
	}
	if s.Dropped[ReasonDisk] == 0 {
		t.Error("nothing was given up")
	}

	r := &receiver{window: 16}
	stop := forward(t, b, "a", r)
	waitFor(t, "all delivered", func() bool { return b.Stats().Batches == 0 && b.Stats().Uplinks["a"].Gaps == 0 })
	stop()
	if gaps := account(t, r.got(), o.Stream, 1, n); gaps == 0 {
		t.Error("no gap was announced")
	}
	// There is room again: that is noticed without anything to write, and the
	// next outage is kept on the disk.
	waitFor(t, "the disk to work again", func() bool { return b.Stats().DiskError == "" })
	written := b.Stats().Commits
	fill()
	waitFor(t, "a commit", func() bool { return b.Stats().Commits > written })
	closeBuffer(t, b)

	first := o.Stream
	o.Stream = newStream()
	b = openBuffer(t, o)
	stop = forward(t, b, "a", r)
	waitFor(t, "all delivered", func() bool { return b.Stats().Batches == 0 })
	stop()
	closeBuffer(t, b)
	account(t, r.got(), first, 1, n)
	stopWhileFull(t, o, r)
}

// stopWhileFull: what a stop cannot bring to a full disk is announced by the
// next run.
func stopWhileFull(t *testing.T, o Options, r *receiver) {
	t.Helper()
	o.Stream = newStream()
	b := openBuffer(t, o)
	n := uint64(0)
	waitFor(t, "the disk to be full again", func() bool {
		for range 50 {
			n++
			data := payload(n, 1000)
			for i := 8; i < len(data); i++ {
				data[i] = byte(rand.Uint32())
			}
			if _, err := b.Append(Record{Time: 3, Schema: 1, Readings: 2, Data: data}); err != nil {
				t.Fatal(err)
			}
		}
		return b.Stats().DiskError != ""
	})
	if err := b.Close(); err == nil {
		t.Fatal("nothing was lost: this proves nothing")
	}
	stream := o.Stream
	o.Stream = newStream()
	b = openBuffer(t, o)
	stop := forward(t, b, "a", r)
	waitFor(t, "all delivered", func() bool { return b.Stats().Batches == 0 && b.Stats().Uplinks["a"].Gaps == 0 })
	stop()
	closeBuffer(t, b)
	if gaps := account(t, r.got(), stream, 1, n); gaps == 0 {
		t.Error("the loss was not announced")
	}
}
