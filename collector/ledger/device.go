package ledger

import (
	"sync"
	"time"
)

// State is what of a device's state matters here.
type State uint8

// The states of a device; the zero State: it is not looked at.
const (
	Unobserved State = iota
	Online
	Degraded
	Offline
	Disabled
)

// Group is the tags of a device that are due together, for what was due while
// the agent did not run.
type Group struct {
	Tags     int           `json:"tags"`
	Interval time.Duration `json:"interval"`
	Phase    time.Duration `json:"phase,omitempty"` // after the multiples of Interval
}

// Scan is what one scan, or one report of a subscription, brought.
type Scan struct {
	Read, Good, Sent int
	Took             time.Duration // 0: it was not asked for
}

// Device counts what happens to one device. Its methods may be called by
// several goroutines; they wait for nothing. A nil Device counts nothing.
type Device struct {
	l  *Ledger
	id string

	mu      sync.Mutex // guards what follows
	hour    int64      // of row
	row     *Counts    // of rows, the one that was used last
	rows    map[int64]*Counts
	plan    []Group
	state   State
	before  State         // the state before
	entered time.Duration // when state began, by the ledger's monotonic clock
	since   time.Duration // up to when the time in it is counted
	outage  *Outage       // that is going on
	outages map[int64]int // kept, by hour
	first   int64         // when a good reading came first and last in this run, Unix ms
	last    int64
}

// hourOf returns the hour since 1970 that t is in.
func hourOf(t time.Time) int64 {
	s := t.Unix()
	if s < 0 {
		s -= 3599
	}
	return s / 3600
}

func hourOfMillis(ms int64) int64 { return hourOf(time.UnixMilli(ms)) }

// startOf returns when an hour begins.
func startOf(h int64) time.Time { return time.Unix(h*3600, 0) }

// at returns the counts of the hour of t. The caller holds the lock.
func (d *Device) at(t time.Time) *Counts { return d.in(hourOf(t)) }

func (d *Device) in(h int64) *Counts {
	if d.row != nil && d.hour == h {
		return d.row
	}
	c := d.rows[h]
	if c == nil {
		c = &Counts{}
		d.rows[h] = c
	}
	d.hour, d.row = h, c
	return c
}

// Due counts turns of a scan: the first was due at from, the others follow it
// by the interval. tags are read in each.
func (d *Device) Due(from time.Time, interval time.Duration, turns, tags int) {
	if d == nil || turns <= 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for turns > 0 {
		h := hourOf(from)
		n := turns
		if left := startOf(h + 1).Sub(from); turns > 1 && interval > 0 {
			n = min(turns, int((left-1)/interval)+1)
		}
		d.in(h).Expected += int64(n) * int64(tags)
		turns -= n
		from = from.Add(time.Duration(n) * interval)
	}
}

// Scanned counts what a scan brought at a time.
func (d *Device) Scanned(at time.Time, s Scan) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.at(at)
	c.Read += int64(s.Read)
	c.Good += int64(s.Good)
	c.Sent += int64(s.Sent)
	if s.Took > 0 {
		c.Answers[bucketOf(s.Took)]++
	}
	if s.Good > 0 {
		d.noteData(at.UnixMilli())
	}
}

func (d *Device) noteData(ms int64) {
	if ms < sane {
		return
	}
	if d.first == 0 || ms < d.first {
		d.first = ms
	}
	d.last = max(d.last, ms)
}

// Watched counts the turns in [from, to) of tags that a subscription watches:
// those that were due, those that the device watched, and those of them whose
// value was good.
func (d *Device) Watched(from, to time.Time, g Group, read, good int) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	eachHour(from, to, g, func(h, turns int64) {
		c := d.in(h)
		c.Expected += turns * int64(g.Tags)
		c.Read += turns * int64(read)
		c.Good += turns * int64(good)
	})
}

// Filled counts readings of [from, to) that were missed at their time, and
// read from the device's own memory afterwards.
func (d *Device) Filled(from, to time.Time, g Group) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	eachHour(from, to, g, func(h, turns int64) {
		c := d.in(h)
		c.Read += turns * int64(g.Tags)
		c.Good += turns * int64(g.Tags)
	})
}

// Delivered counts good readings of a batch of the given time (Unix ms) that
// the broker has acknowledged, and those that the uplink was not to get.
func (d *Device) Delivered(ms int64, delivered, filtered int) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.in(hourOfMillis(ms))
	c.Delivered += int64(delivered)
	c.Filtered += int64(filtered)
}

// Dropped counts good readings of a batch of the given time that will never
// come.
func (d *Device) Dropped(ms int64, why Reason, readings int) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.in(hourOfMillis(ms)).Dropped[why] += int64(readings)
}

// Connected counts that the connection was made again.
func (d *Device) Connected(at time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at(at).Connects++
}

// Plan says what of the device is due while nobody reads it, from now on; nil:
// nothing.
func (d *Device) Plan(groups []Group) {
	if d == nil {
		return
	}
	d.mu.Lock()
	d.plan = groups
	d.mu.Unlock()
	d.l.planned()
}

// State notes a change of the device's state at the wall time now. silent is
// since when it has not answered, for a device that has become Offline: its
// outage began then.
func (d *Device) State(now time.Time, s State, silent time.Time, reason string) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.account(now)
	if s == Offline && d.state != Offline {
		d.beginOutage(now, silent, reason)
	}
	if s == Offline && d.outage != nil && d.outage.Reason == "" {
		d.outage.Reason = reason
	}
	if s != Offline && d.outage != nil {
		d.endOutage(now)
	}
	if s != d.state {
		d.before, d.state, d.entered = d.state, s, d.since
	}
}

// account adds the time since it was called last to the state of the device.
// The caller holds the lock.
func (d *Device) account(now time.Time) {
	elapsed := d.l.elapsed()
	spent := elapsed - d.since
	d.since = elapsed
	if d.state != Unobserved && spent > 0 {
		d.spend(now.Add(-spent), now, d.state, false)
	}
}

// spend adds the time from..to to a state, or takes it away.
func (d *Device) spend(from, to time.Time, s State, away bool) {
	for from.Before(to) {
		h := hourOf(from)
		end := startOf(h + 1)
		if to.Before(end) {
			end = to
		}
		c, n := d.in(h), end.Sub(from)
		if away {
			n = -n
		}
		switch s {
		case Online:
			c.Online += n
		case Degraded:
			c.Degraded += n
		case Offline:
			c.Offline += n
		case Disabled:
			c.Disabled += n
		case Unobserved:
		}
		from = end
	}
}

// beginOutage makes the time since the device fell silent one of its outage.
func (d *Device) beginOutage(now, silent time.Time, reason string) {
	// By the monotonic clock, where they have one: the other may have been set.
	silent = now.Add(-max(now.Sub(silent), 0))
	// It was counted as degraded, and before that as online.
	changed := now.Add(d.entered - d.since)
	if changed.Before(silent) {
		changed = silent
	}
	d.move(changed, now, d.state)
	d.move(silent, changed, d.before)
	d.at(silent).Outages++
	d.outage = &Outage{Device: d.id, From: silent.UnixMilli(), Reason: reason}
}

// move makes time that was counted as one of another state one of silence.
func (d *Device) move(from, to time.Time, s State) {
	if s == Degraded || s == Online {
		d.spend(from, to, s, true)
		d.spend(from, to, Offline, false)
	}
}

func (d *Device) endOutage(now time.Time) {
	o := *d.outage
	d.outage = nil
	o.To = max(now.UnixMilli(), o.From)
	h := hourOfMillis(o.From)
	if d.outages[h] >= outagesPerHour {
		return // it is counted, but not kept
	}
	if d.outages == nil || len(d.outages) > 48 {
		d.outages = map[int64]int{}
	}
	d.outages[h]++
	d.l.noteOutage(o)
}

// take returns the rows since the last call, and the device's time up to now
// with them. The caller owns them.
func (d *Device) take(now time.Time) map[int64]*Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.account(now)
	rows := d.rows
	d.rows, d.row = map[int64]*Counts{}, nil
	return rows
}

// eachHour calls f with how many turns of g lie in each hour of [from, to).
func eachHour(from, to time.Time, g Group, f func(h, turns int64)) {
	if g.Interval <= 0 {
		return
	}
	for from.Before(to) {
		h := hourOf(from)
		end := startOf(h + 1)
		if to.Before(end) {
			end = to
		}
		if n := g.turns(end) - g.turns(from); n > 0 {
			f(h, n)
		}
		from = end
	}
}

// turns returns how many turns g has had since 1970, before t.
func (g *Group) turns(t time.Time) int64 {
	n := t.Add(-g.Phase).UnixNano() - 1
	i := int64(g.Interval)
	if n < 0 {
		return 0
	}
	return n/i + 1
}
