package buffer

import (
	"testing"
	"time"
)

// TestCommitCostAfterOutage: after an outage of 100 MB that was drained, a
// commit writes what it wrote before, and the directory is as small again.
func TestCommitCostAfterOutage(t *testing.T) {
	t.Parallel()
	o := testOptions(t, tempDir(t))
	o.CommitInterval, o.SegmentSize, o.TailBytes = 20*time.Millisecond, 4<<20, 8<<20 // what is appended at once is one commit
	b := openBuffer(t, o)
	n := uint64(0)
	round := func(commits int) (perCommit float64) {
		before := b.Stats()
		for range commits {
			n = appendRandom(t, b, n, 20)
			waitFor(t, "a commit", func() bool { return settledIn(b) == n })
		}
		after := b.Stats()
		return float64(after.Written-before.Written) / float64(after.Commits-before.Commits)
	}
	drain := func() {
		stop := forward(t, b, "a", &receiver{bare: true})
		waitFor(t, "all delivered", func() bool { return b.Stats().Batches == 0 })
		stop()
	}
	first := round(120)
	drain()
	b.kickWriter()
	small := b.Stats().DiskBytes
	for range 50 {
		n = appendRandom(t, b, n, 2000)
		waitFor(t, "the disk to keep up", func() bool { return settledIn(b) == n })
	}
	if size := b.Stats().DiskBytes; size < 95<<20 {
		t.Fatalf("the outage took only %d bytes", size)
	}
	drain()
	waitFor(t, "the files to go", func() bool { b.kickWriter(); return b.Stats().DiskBytes <= small+1<<20 })
	again := round(120)
	if again > 1.1*first {
		t.Errorf("%.0f bytes a commit after the outage, %.0f before", again, first)
	}
	t.Logf("%.0f bytes a commit before, %.0f after; %d bytes in the directory before, %d after", first, again, small, b.Stats().DiskBytes)
	drain()
	closeBuffer(t, b)
}
