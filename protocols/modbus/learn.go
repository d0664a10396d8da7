package modbus

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"millrace/protocols"
)

// forgetAfter is how long what was learnt of a unit is believed: devices are
// exchanged, and get new firmware. To learn it again costs a few requests.
const forgetAfter = 30 * 24 * time.Hour

// maxHoles bounds what is kept; a device has some dozen areas.
const maxHoles = 1000

// smallestLimit is the fewest addresses that a device's limit is believed to
// be: a shorter request that is refused has another reason.
const smallestLimit = 8

// unit is what is known of one unit behind an endpoint, over all scans of
// all its devices.
type unit struct {
	id     uint8
	key    string // in the memory
	memory protocols.Memory
	now    func() time.Time

	facts   facts
	version int    // counts up with what is learnt
	largest [4]int // the longest request that was answered, by table
	window  window
	spoke   bool // it has answered in this run
	silent  bool // it did not the last time
	// muteUntil is how long it is not asked again who it is.
	muteUntil time.Time
}

// facts are what a unit has shown that it can't do.
type facts struct {
	// Holes are the ranges that no request may touch but one for exactly the
	// tags in it.
	Holes []hole `json:"holes,omitempty"`
	// Limit is how many addresses one request may ask for, by table; 0: as
	// many as the configuration says. Refused is the fewest that were refused:
	// what lies between the two is tried until it is known.
	Limit   [4]int `json:"limit"`
	Refused [4]int `json:"refused"`
	// Window is how many requests may be under way; 0: not known.
	Window int `json:"window,omitempty"`
	// Since is when the first of it was learnt, in Unix seconds.
	Since int64 `json:"since"`
	// Config is what the configuration says of the limits of each of the
	// unit's devices: when that changes, what was learnt is forgotten.
	Config map[string]string `json:"config,omitempty"`
}

// hole is the addresses from First up to, and without, End. An empty one is
// a border that no request may cross.
type hole struct {
	Table table `json:"table"`
	First int   `json:"first"`
	End   int   `json:"end"`
	Tag   bool  `json:"tag,omitempty"`  // a tag is there: it is refused by itself
	Code  byte  `json:"code,omitempty"` // the exception
}

// crossed says that a request for the addresses from first up to end would
// read the hole.
func (h hole) crossed(t table, first, end int) bool {
	if h.Table != t {
		return false
	}
	if h.First == h.End {
		return first < h.First && h.First < end
	}
	return first < h.End && h.First < end
}

// forbids says that a request for the addresses from first up to end would
// be refused.
func (f *facts) forbids(t table, first, end int) bool {
	if f == nil {
		return false
	}
	return slices.ContainsFunc(f.Holes, func(h hole) bool { return h.crossed(t, first, end) })
}

// size is how many addresses one request may ask for.
func (f *facts) size(t table, configured int) int {
	if f == nil || f.Limit[t] == 0 {
		return configured
	}
	n := f.Limit[t]
	if f.Refused[t] > n+1 {
		n = (n + f.Refused[t]) / 2
	}
	return min(configured, n)
}

func newUnit(id uint8, key string, memory protocols.Memory, now func() time.Time) *unit {
	u := &unit{id: id, key: key, memory: memory, now: now}
	if memory != nil {
		u.load(memory.Get(key))
	}
	u.window = newWindow(u.facts.Window)
	return u
}

// load takes over what an earlier run has learnt.
func (u *unit) load(blob []byte) {
	var f facts
	if len(blob) == 0 || json.Unmarshal(blob, &f) != nil {
		return // of another version, say: it is learnt again
	}
	if age := u.now().Sub(time.Unix(f.Since, 0)); age > forgetAfter {
		return
	}
	f.Holes = slices.DeleteFunc(f.Holes[:min(len(f.Holes), maxHoles)], func(h hole) bool {
		return h.Table > discrete || h.First < 0 || h.End < h.First || h.End > addresses
	})
	for i, n := range f.Limit {
		if n < 0 || n > maxBits || f.Refused[i] <= n || f.Refused[i] > maxBits {
			f.Limit[i], f.Refused[i] = 0, 0
		}
	}
	if f.Window < 0 || f.Window > maxWindow {
		f.Window = 0
	}
	u.facts = f
}

// configured forgets what was learnt under another configuration, and what is
// too old: the engineer, or the device's maker, may have mended it.
func (u *unit) configured(device, config string, log *slog.Logger) {
	was, found := u.facts.Config[device]
	young := u.facts.Since == 0 || u.now().Sub(time.Unix(u.facts.Since, 0)) <= forgetAfter
	if found && was == config && young {
		return
	}
	if u.facts.Config == nil {
		u.facts.Config = map[string]string{}
	}
	u.facts.Config[device] = config
	if young && (!found || u.facts.Since == 0) {
		return
	}
	u.facts = facts{Config: u.facts.Config}
	u.largest = [4]int{}
	u.window = newWindow(0)
	u.version++
	if u.memory != nil {
		if err := u.memory.Put(u.key, nil); err != nil {
			log.Debug("what was learnt of a unit could not be removed", "unit", u.id, "error", err)
		}
	}
}

// save keeps what was learnt over a restart.
func (u *unit) save(log *slog.Logger) {
	if u.memory == nil {
		return
	}
	if u.facts.Since == 0 {
		u.facts.Since = u.now().Unix()
	}
	blob, err := json.Marshal(u.facts)
	if err == nil {
		err = u.memory.Put(u.key, blob)
	}
	if err != nil {
		log.Debug("what was learnt of a unit could not be saved", "unit", u.id, "error", err)
	}
}

// limits are lim within what was learnt.
func (u *unit) limits(lim limits) limits {
	lim.unit = &u.facts
	return lim
}

// read notes that r, which was not split, was answered. A hole that it
// covers is none any more.
func (u *unit) read(r *request) {
	u.largest[r.table] = max(u.largest[r.table], r.count)
	if n := u.facts.Limit[r.table]; n > 0 && r.count > n {
		u.facts.Limit[r.table] = r.count
		u.version++
	}
	if len(u.facts.Holes) == 0 {
		return
	}
	n := len(u.facts.Holes)
	u.facts.Holes = slices.DeleteFunc(u.facts.Holes, func(h hole) bool {
		return h.crossed(r.table, int(r.addr), int(r.addr)+r.count)
	})
	if len(u.facts.Holes) < n {
		u.version++
	}
}

// learn finds out why r was refused, from what became of its parts. It says
// whether there is something new.
func (u *unit) learn(r *request) bool {
	switch {
	case r.answered:
		u.read(r)
		return false
	case r.halves == nil:
		if r.refused == excAddress || r.refused == excValue {
			return u.addHole(hole{Table: r.table, First: int(r.addr), End: int(r.addr) + r.count, Tag: true, Code: r.refused})
		}
		return false
	}
	low, high := r.halves[0], r.halves[1]
	before := u.largest[r.table]
	learnt := u.learn(low)
	learnt = u.learn(high) || learnt
	if !low.answered || !high.answered {
		return learnt // the reason is in one of the two
	}
	first, end := int(low.addr)+low.count, int(high.addr)
	if u.isLimit(r, max(end-first, 0), before) {
		u.facts.Limit[r.table] = max(low.count, high.count, before)
		if n := u.facts.Refused[r.table]; n == 0 || r.count < n {
			u.facts.Refused[r.table] = r.count
		}
		u.version++
		return true
	}
	if end < first {
		return learnt // the two overlap: no border keeps them apart
	}
	return u.addHole(hole{Table: r.table, First: first, End: end, Code: r.refused}) || learnt
}

// isLimit says that r, whose two parts were answered, was too long rather
// than broken by the gap between them.
func (u *unit) isLimit(r *request, gap, largest int) bool {
	switch {
	case r.count <= largest, r.count <= smallestLimit:
		return false
	case r.refused == excValue:
		// Exception 3 is for a quantity that the device does not take
		// (Specification, 7); short requests are refused so by devices that
		// mean an address.
		return gap == 0 || r.count > 2*smallestLimit
	}
	return gap == 0
}

func (u *unit) addHole(h hole) bool {
	if slices.ContainsFunc(u.facts.Holes, func(o hole) bool { return o.Table == h.Table && o.First == h.First && o.End == h.End }) {
		return false
	}
	if len(u.facts.Holes) >= maxHoles {
		return false
	}
	u.facts.Holes = append(u.facts.Holes, h)
	u.version++
	return true
}

// advice says what to change in the configuration of d, which is of this
// unit, so that what was learnt would not have to be learnt again.
func (u *unit) advice(d *protocols.Device, fields []field) []string {
	var all []string
	configured := limitsOf(d)
	for t := holding; t <= discrete; t++ {
		n := u.facts.Limit[t]
		switch {
		case n == 0 || n >= configured.size(t) || u.seeks(t, d, fields):
		case t.bits():
			all = append(all, fmt.Sprintf("unit %d refused longer requests, but gave %d %s bits at once: set max_registers: %d (16 bits count as one)", u.id, n, t, max(n/16, 1)))
		default:
			all = append(all, fmt.Sprintf("unit %d refused longer requests, but gave %d %s registers at once: set max_registers: %d", u.id, n, t, n))
		}
	}
	for _, h := range u.facts.Holes {
		if text := u.holeAdvice(h, configured, d, fields); text != "" {
			all = append(all, text)
		}
	}
	return all
}

// seeks says that a scan of d is about to ask for more of a table than the
// unit is known to give: its limit is not known exactly yet.
func (u *unit) seeks(t table, d *protocols.Device, fields []field) bool {
	if u.facts.Refused[t] <= u.facts.Limit[t]+1 {
		return false
	}
	scans := make(map[time.Duration][]field)
	for i := range fields {
		interval := cmp.Or(d.Tags[fields[i].out].Interval, d.Interval)
		scans[interval] = append(scans[interval], fields[i])
	}
	for _, s := range scans {
		if slices.ContainsFunc(merge(s, u.limits(limitsOf(d))), func(r *request) bool { return r.table == t && r.count > u.facts.Limit[t] }) {
			return true
		}
	}
	return false
}

func (u *unit) holeAdvice(h hole, configured limits, d *protocols.Device, fields []field) string {
	n := h.End - h.First
	switch {
	case h.Tag:
		for i := range fields {
			if f := &fields[i]; f.table == h.Table && int(f.addr) >= h.First && f.end() <= h.End {
				return fmt.Sprintf("unit %d refuses %s (exception %d), which the tag %s reads: check its address and table, or remove it",
					u.id, span(h.Table, uint16(h.First), n, f.form), h.Code, d.Tags[f.out].Name)
			}
		}
	case n == 0:
		return fmt.Sprintf("unit %d does not answer one request for addresses on both sides of %s:%d: they are asked in two", u.id, h.Table, h.First)
	case n <= configured.gap(h.Table):
		unitOf := "max_gap"
		most := n - 1
		if h.Table.bits() {
			most = (n - 1) / 16
		}
		return fmt.Sprintf("unit %d refuses %s (exception %d), which no tag needs: it is not read any more; %s: %d would leave it out from the start",
			u.id, span(h.Table, uint16(h.First), n, named), h.Code, unitOf, most)
	}
	return ""
}
