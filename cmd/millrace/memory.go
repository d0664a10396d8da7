package main

import (
	"os"
	"runtime/debug"
	"time"
)

const (
	// thrifty has the garbage collector run twice as often as Go would: while
	// nothing waits the hot paths allocate little, so it costs next to nothing
	// (0.37 s of CPU per million readings with and without), and takes 5 MiB
	// of 36 off the peak at 10,000 tags.
	thrifty = 50
	// brisk is Go's own: each message of a backlog is a copy that paho makes,
	// and collecting them twice as often takes 14 % of a drain's CPU (28 µs a
	// message of 500 readings, 24 with brisk), for 7 MiB.
	brisk = 100
	// backlogLooks is how often it is asked whether a backlog drains, and
	// backlogBatches how many batches one is.
	backlogLooks   = time.Second
	backlogBatches = 1000
)

// memory weighs memory against speed. GOGC in the environment goes before.
type memory struct {
	fixed   bool
	percent int
}

func newMemory() *memory {
	m := &memory{fixed: os.Getenv("GOGC") != ""}
	m.look(0)
	return m
}

// smallHeap is what a report's memory is kept to, as far as it goes: a year of
// 200 devices needs 45 MiB at a time, and the agent beside it is more important.
const smallHeap = 75 << 20

// keepSmall has the collector run as often as it takes for that. GOGC and
// GOMEMLIMIT in the environment go before.
func keepSmall() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(smallHeap)
	}
}

// look sets the collector's pace, by how many batches wait for uplinks that
// are up.
func (m *memory) look(waiting uint64) {
	want := thrifty
	if waiting >= backlogBatches {
		want = brisk
	}
	if m.fixed || m.percent == want {
		return
	}
	m.percent = want
	debug.SetGCPercent(want)
}
