package buffer

import (
	"testing"
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
