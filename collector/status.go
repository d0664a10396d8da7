package collector

import (
	"sync/atomic"
	"time"

	"millrace/protocols"
)

// DeviceStatus is what can be seen of a device at one moment.
type DeviceStatus struct {
	Config *protocols.Device
	State  DeviceState

	LastTime     time.Time     // when it answered last
	LastScan     time.Duration // how long its last scan took
	BadTags      int           // whose newest reading is bad
	Good         uint64        // readings since the start
	Uncertain    uint64
	Bad          uint64
	Scans        uint64 // that were made
	Missed       uint64 // that were due and not made
	Lost         uint64 // values that the device's side dropped before they reached us, at the least
	Backfilled   uint64 // readings that were missed, and read from the device's own memory
	Outages      Outages
	ScanDuration HistogramCounts
	StartDelay   HistogramCounts // from when a scan was due to its start
	// Monitoring is how many of its tags the device itself watches; nil: it is
	// polled, or has not said yet.
	Monitoring *protocols.Monitoring
	Advice     []string // what to change in its configuration, in sentences
	// Identity is what the device says of itself; empty: it has not said anything
	// since the start.
	Identity protocols.Identity
}

// TagValue is the newest reading of one tag.
type TagValue struct {
	Tag     *protocols.Tag
	Reading protocols.Reading
	Time    int64 // when it arrived, ms since 1970 UTC; 0: there was none yet
}

// Status returns the status of all devices, in the configuration's order.
func (c *Collector) Status() []DeviceStatus {
	ds := c.snapshot()
	all := make([]DeviceStatus, len(ds))
	for i, d := range ds {
		all[i] = d.status()
	}
	return all
}

// Values returns the newest readings of a device's tags, in the
// configuration's order, or nil if there is no such device.
func (c *Collector) Values(id string) []TagValue {
	for _, d := range c.snapshot() {
		if d.cfg.ID == id {
			return d.newest()
		}
	}
	return nil
}

func (d *device) newest() []TagValue {
	vs := make([]TagValue, len(d.cfg.Tags))
	d.view.mu.Lock()
	defer d.view.mu.Unlock()
	for i := range vs {
		vs[i] = TagValue{Tag: &d.cfg.Tags[i], Reading: d.view.values[i], Time: d.view.times[i]}
	}
	return vs
}

func (d *device) status() DeviceStatus {
	s := DeviceStatus{
		Config: d.cfg,
		Good:   d.counters.good.Load(), Uncertain: d.counters.uncertain.Load(), Bad: d.counters.bad.Load(),
		Scans: d.counters.scans.Load(), Missed: d.counters.missed.Load(),
		Lost:         d.counters.lost.Load(),
		Backfilled:   d.counters.backfilled.Load(),
		Outages:      d.history.status(),
		ScanDuration: d.counters.duration.counts(),
		StartDelay:   d.counters.delay.counts(),
	}
	d.view.mu.Lock()
	defer d.view.mu.Unlock()
	s.State, s.LastTime, s.LastScan = d.view.state, d.view.lastTime, d.view.lastScan
	s.Advice, s.Monitoring, s.Identity = d.view.advice, d.view.monitoring, d.view.identity
	for i := range d.view.values {
		if d.view.values[i].Quality == protocols.Bad {
			s.BadTags++
		}
	}
	return s
}

// scanBounds are the upper bounds of the scan durations' histogram: from a
// local simulator's to a slow serial line's, which takes seconds.
func scanBounds() [14]time.Duration {
	const ms = time.Millisecond
	return [...]time.Duration{
		ms / 2, ms, 2 * ms, 5 * ms, 10 * ms, 20 * ms, 50 * ms, 100 * ms,
		200 * ms, 500 * ms, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second,
	}
}

// histogram counts durations in buckets; it may be read while it is written.
type histogram struct {
	buckets [15]atomic.Uint64 // one more than bounds: what is above them
	sum     atomic.Int64
}

// HistogramCounts is a histogram at one moment.
type HistogramCounts struct {
	Count   uint64
	Sum     time.Duration
	Bounds  []time.Duration
	Buckets []uint64 // how many were at most the bound of the same index
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for _, bound := range scanBounds() {
		if d <= bound {
			break
		}
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) counts() HistogramCounts {
	bounds := scanBounds()
	c := HistogramCounts{Sum: time.Duration(h.sum.Load()), Bounds: bounds[:]}
	for i := range h.buckets {
		c.Count += h.buckets[i].Load()
		if i < len(bounds) {
			c.Buckets = append(c.Buckets, c.Count)
		}
	}
	return c
}
