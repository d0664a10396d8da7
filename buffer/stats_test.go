package buffer

import (
	"testing"
	"time"
)

// TestStatsMemoryOnly: what is on the disk, acknowledged by all or given up is not
// counted as what only memory has, though memory has it.
func TestStatsMemoryOnly(t *testing.T) {
	t.Parallel()
	o := testOptions(t, t.TempDir())
	o.Uplinks = []string{"a", "b"}
	o.CommitInterval = time.Hour
	b := openBuffer(t, o)
	defer closeBuffer(t, b)
	appendN(t, b, 50, 100)
	if err := b.commit(); err != nil { // the writer sleeps for an hour
		t.Fatal(err)
	}
	if s := b.Stats(); s.MemoryOnly != 0 || s.TailBatches != 50 || s.Batches != 50 || s.MaxTailBytes != o.TailBytes {
		t.Errorf("all 50 are on the disk: %+v", s)
	}
	appendN(t, b, 10, 100)
	if s := b.Stats(); s.MemoryOnly != 10 || s.Batches != 60 {
		t.Errorf("10 more were appended: %+v", s)
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	done := func(name string, from, to uint64) {
		u := b.uplinks[name]
		u.done = append(u.done, ackSpan{ord: b.ord, from: from, to: to, sent: to})
	}
	done("a", 53, 54)
	if n := b.memoryOnlyBatches(); n != 10 {
		t.Errorf("one of two uplinks has acknowledged 2 of 10: %d", n)
	}
	done("b", 54, 57)
	if n := b.memoryOnlyBatches(); n != 9 {
		t.Errorf("both have acknowledged 1 of 10: %d", n)
	}
	for _, u := range b.uplinks {
		u.miss(b.ord, Gap{Stream: o.Stream, From: 60, To: 60, Reason: ReasonDisk, Oldest: time.Now().UnixMilli()})
	}
	if n := b.memoryOnlyBatches(); n != 8 {
		t.Errorf("one is given up: %d", n)
	}
	for _, u := range b.uplinks { // as if nothing had been there
		u.done, u.gaps = nil, nil
	}
}
