package main

import (
	"runtime/debug"
	"testing"
)

// TestMemory: a backlog that drains may take more memory, and gives it back.
func TestMemory(t *testing.T) { //nolint:paralleltest // the collector's pace is the process's
	before := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	t.Setenv("GOGC", "")
	m := newMemory()
	for _, c := range []struct {
		waiting uint64
		want    int
	}{{0, thrifty}, {backlogBatches, brisk}, {1 << 40, brisk}, {backlogBatches - 1, thrifty}} {
		m.look(c.waiting)
		if got := debug.SetGCPercent(m.percent); got != c.want {
			t.Errorf("with %d batches waiting it is %d, want %d", c.waiting, got, c.want)
		}
	}
	t.Setenv("GOGC", "70")
	debug.SetGCPercent(70)
	m = newMemory()
	m.look(1 << 40)
	if got := debug.SetGCPercent(70); got != 70 {
		t.Errorf("GOGC=70 became %d", got)
	}
}
