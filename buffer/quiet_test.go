package buffer

import "testing"

// TestQuietAfterOutage: once what an outage left behind is acknowledged, and
// that is saved, acknowledgements write nothing any more, though the file is
// kept for the next outage.
func TestQuietAfterOutage(t *testing.T) {
	t.Parallel()
	o := testOptions(t, t.TempDir())
	o.SegmentSize = 1 << 20
	b := openBuffer(t, o)
	last := appendN(t, b, 50, 100)
	waitFor(t, "the disk", func() bool { return settledIn(b) == last })
	b.mu.Lock()
	b.o.CommitInterval = forever // acknowledged before it is over
	b.mu.Unlock()
	r := &receiver{}
	stop := forward(t, b, "a", r)
	saved := func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		u := b.uplinks["a"]
		return u.acked == last && u.cursor == u.saved
	}
	waitFor(t, "the saved cursor", saved)
	before := b.Stats()
	for range 20 {
		last = appendN(t, b, 10, 100)
		waitFor(t, "the acknowledgements", func() bool { return b.Stats().Uplinks["a"].Acked == last })
	}
	b.mu.Lock()
	u := b.uplinks["a"]
	if !u.cursorDirty || b.matters(u) || b.arming {
		t.Errorf("the cursor %v will be saved (%v is)", u.cursor, u.saved)
	}
	b.mu.Unlock()
	if after := b.Stats(); after.Written != before.Written || after.Segments != 1 {
		t.Errorf("%d bytes written, %d segments", after.Written-before.Written, after.Segments)
	}
	stop()
	closeBuffer(t, b)
	account(t, r.got(), o.Stream, 1, last)
}
