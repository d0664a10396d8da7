package collector

import (
	"fmt"
	"slices"
	"time"

	"millrace/collector/ledger"
	"millrace/protocols"
)

// bookState is a device's state as the completeness ledger knows it.
func bookState(s State) ledger.State {
	switch s {
	case Online:
		return ledger.Online
	case Degraded:
		return ledger.Degraded
	case Offline:
		return ledger.Offline
	case Disabled:
		return ledger.Disabled
	}
	return ledger.Unobserved
}

// due counts turns of a scan that have come: the first at from.
func (g *group) count(from time.Time, turns int) {
	g.dev.book.Due(from, g.interval, turns, len(g.tags))
}

// bookLost takes values that were lost on their way to us from those that
// were read: while a subscription stands, every turn counts as read.
func (d *device) bookLost(lost uint64) {
	if lost > 0 {
		d.history.lost += lost
		d.book.Scanned(d.now(), ledger.Scan{Read: -int(lost), Good: -int(lost)})
	}
}

// bookFilled counts the readings of an outage that were read from the device's
// own memory afterwards: of the tags of which nothing is missing.
func (d *device) bookFilled(o *protocols.Outage) {
	lost := d.history.lost
	d.history.lost = 0
	switch o.Cause {
	case protocols.OutageConnection, protocols.OutageRestart:
		whole := o.Tags - o.NoHistory - o.Partly
		if whole <= 0 || o.Tags == 0 || d.view.watch == nil || o.Filled() != protocols.FilledYes && o.Read == 0 {
			return
		}
		for _, g := range d.view.watch.groups {
			g.Tags = g.Tags * whole / o.Tags
			d.book.Filled(o.From, o.To, g)
		}
	case protocols.OutageOverflow, protocols.OutageMessages:
		if o.Filled() == protocols.FilledYes && lost > 0 {
			d.book.Scanned(d.now(), ledger.Scan{Read: int(lost), Good: int(lost)})
		}
	}
}

// groupsOf returns the tags of a device by their interval.
func groupsOf(cfg *protocols.Device, phase func(interval time.Duration) time.Duration) (groups []ledger.Group, of []int) {
	of = make([]int, len(cfg.Tags))
	for i := range cfg.Tags {
		interval := cfg.Tags[i].Interval
		if interval <= 0 {
			interval = cfg.Interval
		}
		n := slices.IndexFunc(groups, func(g ledger.Group) bool { return g.Interval == interval })
		if n < 0 {
			n = len(groups)
			groups = append(groups, ledger.Group{Interval: interval, Phase: phase(interval)})
		}
		groups[n].Tags++
		of[i] = n
	}
	return groups, of
}

// planOf is what of a device is due while the agent does not run.
func planOf(cfg *protocols.Device, devices int) []ledger.Group {
	if !cfg.Enabled {
		return nil
	}
	groups, _ := groupsOf(cfg, func(interval time.Duration) time.Duration {
		if cfg.OPCUA.Subscribe {
			return 0
		}
		return phaseOf(cfg.ID, interval, devices)
	})
	return groups
}

// watch counts what is due of a subscription, whose device reports by itself:
// each tag once in each of its intervals. It is read while the device watches
// it for us, and good while its newest value is. The view's lock covers it.
type watch struct {
	book   *ledger.Device
	groups []ledger.Group
	of     []int // the group of each tag
	class  []tagClass
	known  []struct{ read, good int } // by group
	until  time.Time                  // up to when it is counted
}

// tagClass says what the newest reading of a tag is worth.
type tagClass uint8

const (
	noValue tagClass = iota
	badValue
	goodValue
)

func newWatch(cfg *protocols.Device, book *ledger.Device, now time.Time) *watch {
	if book == nil || !cfg.Enabled {
		return nil
	}
	w := &watch{book: book, class: make([]tagClass, len(cfg.Tags)), until: now}
	w.groups, w.of = groupsOf(cfg, func(time.Duration) time.Duration { return 0 })
	w.known = make([]struct{ read, good int }, len(w.groups))
	return w
}

// set takes in the newest reading of a tag.
func (w *watch) set(r *protocols.Reading, now func() time.Time) {
	if w == nil {
		return
	}
	class := noValue
	switch {
	case r.Quality == protocols.Good:
		class = goodValue
	case r.Quality == protocols.Uncertain || !r.Reason.NoValue():
		class = badValue
	}
	before := w.class[r.Tag]
	if class == before {
		return
	}
	w.account(now())
	w.class[r.Tag] = class
	k := &w.known[w.of[r.Tag]]
	k.read += truth(class != noValue) - truth(before != noValue)
	k.good += truth(class == goodValue) - truth(before == goodValue)
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// begin has it count from now on.
func (w *watch) begin(now time.Time) {
	if w != nil {
		w.until = now
	}
}

// account counts up to now.
func (w *watch) account(now time.Time) {
	from := now.Add(-max(now.Sub(w.until), 0)) // the clock may have been set
	for i, g := range w.groups {
		w.book.Watched(from, now, g, w.known[i].read, w.known[i].good)
	}
	w.until = now
}

// Count brings the completeness ledger up to the present, for the devices that
// report by themselves. It is called before the ledger is written.
func (c *Collector) Count() {
	for _, d := range c.snapshot() {
		d.countUp()
	}
}

func (d *device) countUp() {
	d.view.mu.Lock()
	defer d.view.mu.Unlock()
	if d.view.watch != nil && !d.retired.Load() {
		d.view.watch.account(d.now())
	}
}

// bookDevices tells the ledger which devices there are, and what of them is
// due.
func (c *Collector) bookDevices(devs []*device) {
	ids := make([]string, len(devs))
	total := 0
	for i, d := range devs {
		ids[i] = d.cfg.ID
		if d.cfg.Enabled {
			total++
		}
	}
	c.opts.Ledger.SetDevices(c.opts.Now(), ids)
	for _, d := range devs {
		d.book.Plan(planOf(d.cfg, total))
	}
}

// A device is degraded while more than lateShare of its turns, in the last
// lateTime or the last lateTurns turns, came to nothing because the bus was
// busy.
const (
	lateTime  = 30 * time.Second
	lateTurns = 10
	lateShare = 0.2
)

// lateness finds out whether the scans of a device keep to their interval.
type lateness struct {
	turns, missed int
	since         time.Time
	err           error // of the last time; nil: they do
}

// count takes in a turn that was taken after some were missed.
func (l *lateness) count(now time.Time, missed int) {
	if l.since.IsZero() {
		l.since = now
	}
	l.turns += 1 + missed
	l.missed += missed
	if l.turns < lateTurns || now.Sub(l.since) < lateTime {
		return
	}
	l.err = nil
	if float64(l.missed) > lateShare*float64(l.turns) {
		l.err = &protocols.Error{Kind: protocols.KindTimeout, Reason: protocols.Timeout, Text: fmt.Sprintf(
			"%d of %d scans could not be made in time: the bus cannot keep up with the interval; see millrace check for what it takes, and make the interval longer or close gaps between addresses",
			l.missed, l.turns)}
	}
	l.turns, l.missed, l.since = 0, 0, now
}
