package collector

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"millrace/protocols"
)

// maxOutages is how many of a device's outages are remembered.
const maxOutages = 100

// history is what a device was missed of, and how that is caught up with.
type history struct {
	pipes   []pipeline // of the readings that are caught up with; nil: none are
	sending bool       // what is encoded is historical
	inBatch []bool     // by tag, in the batch that is made
	lost    uint64     // values that were taken from those that were read, and may be found

	mu      sync.Mutex // guards what follows
	outages []protocols.Outage
	count   uint64
	seconds map[string]float64 // by Outage.Filled
}

// Outages is what is known of the times of which a device's values did not
// arrive when they were made.
type Outages struct {
	Count   uint64
	Seconds map[string]float64 // how long they were, by protocols.Outage.Filled
	Last    []protocols.Outage // the newest at the end; at most 100
}

// reportedHistory takes in values that were missed at their time. They change
// neither the device's state nor what is shown as its newest values, and the
// rules for what goes out have a memory of their own, so that the live values
// are not measured against old ones.
func (d *device) reportedHistory(rep protocols.Report) {
	if rep.Outage != nil {
		d.history.pipes = nil
		d.noteOutage(*rep.Outage)
		return
	}
	h := &d.history
	if h.pipes == nil {
		h.pipes = clonePipes(d.pipes)
		h.inBatch = make([]bool, len(d.pipes))
	}
	d.counters.backfilled.Add(uint64(len(rep.Readings)))
	d.counters.lost.Add(rep.Lost)
	d.bookLost(rep.Lost)
	h.sending = true
	defer func() { h.sending = false }()
	ms := rep.Time.UnixMilli()
	d.newBatch()
	clear(h.inBatch)
	var n qualities
	for i := range rep.Readings {
		r := &rep.Readings[i]
		p := &h.pipes[r.Tag]
		p.transform(r)
		n.count(r)
		if p.onChange {
			if !p.changed(r) {
				continue
			}
			p.remember(r)
		}
		// A batch has one value of a tag: the next one begins another.
		if h.inBatch[r.Tag] {
			d.sendHistory(ms)
		}
		h.inBatch[r.Tag] = true
		d.add(r)
	}
	d.sendHistory(ms)
	d.counters.add(n)
}

func (d *device) sendHistory(ms int64) {
	d.sendChosen(ms)
	d.newBatch()
	clear(d.history.inBatch)
}

func clonePipes(pipes []pipeline) []pipeline {
	all := slices.Clone(pipes)
	for i := range all {
		if last := all[i].lastSent; last != nil {
			own := *last
			all[i].lastSent = &own
		}
	}
	return all
}

// noteOutage counts an outage that is over, and tells of it: once, here.
func (d *device) noteOutage(o protocols.Outage) {
	h := &d.history
	h.mu.Lock()
	if len(h.outages) == maxOutages {
		h.outages = append(h.outages[:0], h.outages[1:]...)
	}
	h.outages = append(h.outages, o)
	h.count++
	if h.seconds == nil {
		h.seconds = map[string]float64{}
	}
	h.seconds[o.Filled()] += max(o.To.Sub(o.From).Seconds(), 0)
	h.mu.Unlock()
	d.bookFilled(&o)
	text := outageText(d.cfg.ID, &o)
	if o.Filled() == protocols.FilledYes {
		d.log.Info("an outage is over", "outcome", text, "filled", o.Filled())
		return
	}
	d.log.Warn("an outage is over", "outcome", text, "filled", o.Filled(), "reason", o.Why)
}

func (h *history) status() Outages {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := Outages{Count: h.count, Seconds: map[string]float64{protocols.FilledYes: 0, protocols.FilledPart: 0, protocols.FilledNo: 0}, Last: slices.Clone(h.outages)}
	maps.Copy(o.Seconds, h.seconds)
	return o
}

// outageText is an outage in words.
func outageText(device string, o *protocols.Outage) string {
	var b strings.Builder
	long := shortTime(o.To.Sub(o.From))
	switch o.Cause {
	case protocols.OutageConnection:
		fmt.Fprintf(&b, "%s was away for %s", device, long)
	case protocols.OutageRestart:
		fmt.Fprintf(&b, "%s was not listened to for %s", device, long)
	case protocols.OutageOverflow:
		fmt.Fprintf(&b, "%s dropped values of %s from full queues", device, tags(o.Tags))
	case protocols.OutageMessages:
		fmt.Fprintf(&b, "messages of %s never came", device)
	}
	if o.Values > 0 || o.Read > 0 {
		fmt.Fprintf(&b, "; %s of %s were read from its history", plural(o.Values, "value"), tags(o.Read))
	}
	if o.NoHistory > 0 {
		fmt.Fprintf(&b, "; %s: their values of that time are lost", have(o.NoHistory, "has no history", "have no history"))
	}
	if o.Partly > 0 {
		fmt.Fprintf(&b, "; the history of %s has not all of that time: what is not in it is lost", tags(o.Partly))
	}
	switch {
	case o.Filled() == protocols.FilledYes && o.Read == 0:
		b.WriteString("; no value was missed")
	case o.NoHistory+o.Partly == 0 && o.Why != "":
		fmt.Fprintf(&b, "; values of that time are lost: %s", o.Why)
	}
	return b.String()
}

func have(n int, one, many string) string {
	if n == 1 {
		return tags(n) + " " + one
	}
	return tags(n) + " " + many
}

func tags(n int) string { return plural(uint64(n), "tag") }

// plural writes a number with its word: 1 value, 1,204 values.
func plural(n uint64, word string) string {
	digits := strconv.FormatUint(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	if n != 1 {
		word += "s"
	}
	return digits + " " + word
}

// shortTime writes a duration as people say it: 0.3 s, 42 s, 2 h 10 min.
func shortTime(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
