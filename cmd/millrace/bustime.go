package main

import (
	"cmp"
	"slices"
	"time"

	"millrace/protocols"
)

const (
	// turnaround is what a device takes to answer, as a rule, where it has no
	// key of its own: most answer between two cycles of their program.
	turnaround = 5 * time.Millisecond
	// networkBitsPerSecond is the slowest network a PLC has in practice.
	networkBitsPerSecond = 10_000_000
	// probeShare is how much of a bus's time its dead units get together, at
	// the most (see the collector's).
	probeShare = 0.05
	// fullLoad is how much of a bus's time the scans may ask for when an
	// interval is chosen: the rest is for probes.
	fullLoad = 1 - probeShare
)

// pace is what the time of a request depends on, beside its size.
type pace struct {
	turnaround time.Duration
	pause      time.Duration // that the device wants between an answer and the next request
	silence    time.Duration // that the line has there in any case
	window     int           // requests under way at once; below 2: one
}

// paceOf returns how fast d, which is on the line l, can be asked.
func paceOf(d *protocols.Device, l protocols.Line) pace {
	if d.Driver != "modbus" {
		return pace{turnaround: turnaround}
	}
	// How much auto will find out is not known: one is sure.
	return pace{turnaround: d.Modbus.Turnaround, pause: d.Modbus.Pause, silence: l.Silence, window: d.Modbus.MaxInflight}
}

// scan returns how long the requests of one scan keep the bus busy. Those
// under way at once are taken to be worked on side by side.
func (p pace) scan(requests []protocols.Request) time.Duration {
	var wire time.Duration
	for _, r := range requests {
		if r.Line > 0 {
			wire += r.Line
			continue
		}
		wire += time.Duration(r.ReqBytes+r.AnsBytes) * 8 * time.Second / networkBitsPerSecond
	}
	window := max(p.window, 1)
	waits := (len(requests) + window - 1) / window
	return wire + time.Duration(waits)*(p.turnaround+max(p.pause-p.silence, 0))
}

// busScan is what the tags of one device that share an interval cost.
type busScan struct {
	unit     string // devices that are one unit have the same
	interval time.Duration
	timeout  time.Duration
	requests int
	took     time.Duration
}

// load is which part of the bus's time the scan asks for.
func (s *busScan) load() float64 { return s.took.Seconds() / s.interval.Seconds() }

// busTime is what is asked of a bus.
type busTime struct {
	units    int
	requests float64       // a second
	load     float64       // 1 is all of the bus's time
	cycle    time.Duration // one scan of each, one after the other
}

// unitTime is what one unit of a bus costs.
type unitTime struct {
	load    float64
	cycle   time.Duration
	timeout time.Duration // the longest of its devices
}

// timeOf adds up a bus whose units are all healthy.
func timeOf(scans []busScan) busTime {
	b := busTime{units: len(unitsOf(scans))}
	for i := range scans {
		s := &scans[i]
		b.requests += float64(s.requests) / s.interval.Seconds()
		b.load += s.load()
		b.cycle += s.took
	}
	return b
}

func unitsOf(scans []busScan) []unitTime {
	at := map[string]int{}
	var units []unitTime
	for i := range scans {
		s := &scans[i]
		n, ok := at[s.unit]
		if !ok {
			n = len(units)
			at[s.unit] = n
			units = append(units, unitTime{})
		}
		units[n].load += s.load()
		units[n].cycle += s.took
		units[n].timeout = max(units[n].timeout, s.timeout)
	}
	return units
}

// deadTime is what becomes of a bus while some of its units are dead.
type deadTime struct {
	units int
	load  float64
	cycle time.Duration // of the others, with the probes of the dead ones
	// notice is what it costs once, until all of them count as dead.
	notice time.Duration
}

// withDead says what remains of a bus with n dead units, which are fewer
// than it has. Which ones is not known: the prediction holds for those that
// leave the most to do.
func withDead(scans []busScan, n int) deadTime {
	units := unitsOf(scans)
	slices.SortStableFunc(units, func(a, b unitTime) int { return cmp.Compare(a.cycle, b.cycle) })
	d := deadTime{units: n, load: probeShare}
	for _, u := range units[min(n, len(units)):] {
		d.load += u.load
		d.cycle += u.cycle
	}
	d.cycle = time.Duration(float64(d.cycle) / (1 - probeShare))
	slices.SortStableFunc(units, func(a, b unitTime) int { return cmp.Compare(b.timeout, a.timeout) })
	for _, u := range units[:min(n, len(units))] {
		d.notice += u.timeout
	}
	return d
}

// deadCounts are how many dead units of a bus are worth a prediction: one,
// and a quarter of them.
func deadCounts(units int) []int {
	quarter := (units + 3) / 4
	switch {
	case units < 2: // there is nobody to be held up
		return nil
	case quarter < 2:
		return []int{1}
	}
	return []int{1, quarter}
}

// roundIntervals are what people write.
func roundIntervals() []time.Duration {
	const ms = time.Millisecond
	return []time.Duration{
		10 * ms, 20 * ms, 50 * ms, 100 * ms, 200 * ms, 300 * ms, 500 * ms,
		time.Second, 1500 * ms, 2 * time.Second, 3 * time.Second, 4 * time.Second, 5 * time.Second,
		6 * time.Second, 8 * time.Second, 10 * time.Second, 15 * time.Second, 20 * time.Second, 30 * time.Second,
		time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute, time.Hour,
	}
}

// shortest returns the shortest interval that can be met: if no scan has a
// shorter one, there is time for all of them. 0: not even an hour is enough.
func shortest(scans []busScan) time.Duration {
	for _, least := range roundIntervals() {
		load := 0.0
		for i := range scans {
			s := scans[i]
			s.interval = max(s.interval, least)
			load += s.load()
		}
		if load <= fullLoad {
			return least
		}
	}
	return 0
}
