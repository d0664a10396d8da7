package collector

import (
	"fmt"
	"time"

	"millrace/protocols"
)

// remembered is what was known of a tag before a break.
type remembered struct {
	reading protocols.Reading
	time    int64
	held    bool // the tag is bad because of the break alone
}

// hold keeps the newest reading of a tag that a break makes bad. The caller
// holds the view's lock.
func (d *device) hold(tag int) bool {
	if d.before == nil || d.view.times[tag] == 0 {
		return false
	}
	if h := &d.before[tag]; !h.held {
		h.reading, h.time = d.view.values[tag], d.view.times[tag]
	}
	return true
}

// resume makes tags again what they were before a break: their subscription
// has outlived it, so what has changed since will be reported.
func (d *device) resume(tags []int32, ms int64) {
	d.takeBack(tags, ms)
	d.sendChosen(ms)
}

func (d *device) takeBack(tags []int32, ms int64) {
	d.view.mu.Lock()
	defer d.view.mu.Unlock()
	d.newBatch()
	for _, tag := range tags {
		if int(tag) >= len(d.before) || !d.before[tag].held {
			continue
		}
		h := &d.before[tag]
		h.held = false
		d.view.watch.set(&h.reading, d.now)
		d.view.values[tag], d.view.times[tag] = h.reading, h.time
		d.pipes[tag].remember(&h.reading)
		d.add(&h.reading)
	}
	d.view.lastTime = time.UnixMilli(ms)
}

// noteMonitoring takes in how many tags are watched, if that is told.
func (d *device) noteMonitoring(m *protocols.Monitoring) {
	if m == nil {
		return
	}
	d.view.mu.Lock()
	d.view.monitoring = m
	d.view.mu.Unlock()
}

// setBands takes in the deadbands that are of a range. They are of the change
// of a value then, not of the value itself.
func (d *device) setBands(bands map[int]float64) {
	for tag := range d.pipes {
		t := &d.cfg.Tags[tag]
		if !t.Deadband.Percent {
			continue
		}
		d.pipes[tag].band = t.Deadband
		if size, ok := bands[tag]; ok {
			d.pipes[tag].band = protocols.Deadband{Size: size}
		}
	}
}

// unmonitored says, for a subscription, which of the tags the server does
// not deliver; nil if it delivers all.
func (d *device) unmonitored() error {
	if m := d.view.monitoring; m != nil && m.Monitored < m.Configured {
		return &protocols.Error{Kind: protocols.KindRefused, Reason: protocols.NoSuchNode, Text: fmt.Sprintf(
			"%d of %d tags are not monitored; the first is %s", m.Configured-m.Monitored, m.Configured, m.Why)}
	}
	missing, first := 0, -1
	for i := range d.view.values {
		r := &d.view.values[i]
		if r.Quality != protocols.Bad {
			continue
		}
		switch r.Reason {
		case protocols.NoSuchNode, protocols.NotReadable, protocols.UnsupportedType:
			missing++
			if first < 0 {
				first = i
			}
		}
	}
	if missing == 0 {
		return nil
	}
	t := &d.cfg.Tags[first]
	return &protocols.Error{Kind: protocols.KindRefused, Reason: d.view.values[first].Reason, Text: fmt.Sprintf(
		"%d of %d tags have no value; the first is %s (%s): %s. Check its address and the user's rights",
		missing, len(d.cfg.Tags), t.Name, t.Address, d.view.values[first].Reason)}
}
