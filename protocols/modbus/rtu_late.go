package modbus

import (
	"slices"
	"time"
)

const (
	// maxLate is how many unanswered calls of one unit are remembered. More in
	// a row have only units that are gone.
	maxLate = 32
	// manyLate is from how many on a unit that speaks again is heard out
	// before it is believed: it may be working off what it was asked.
	manyLate = 12
	// For so many time-outs, and so long at the least, a late answer is
	// waited for.
	lateTimeouts = 4
	lateLeast    = 500 * time.Millisecond
	// maxDoubts is how many exceptions in a row may be left aside because
	// they may belong to an earlier request, before the unit is left alone
	// until nothing can come late any more.
	maxDoubts = 2
)

// lateCall is a call without an answer, which may still come. Its answer
// would be known by its function and size alone.
type lateCall struct {
	function byte
	size     int // bytes of values
	until    time.Time
	passed   bool // the unit has spoken since
}

// lateUnit is what may still come from one unit.
type lateUnit struct {
	calls    []lateCall
	overflow bool // there were more of them than are remembered
	doubts   int  // exceptions in a row that may belong to any of them
}

// lateList is what may still come from each unit. RTU frames do not say
// which request they answer, so a unit is not asked again for an answer of
// the same function and size before the late one cannot come any more: enough
// time has passed, and the unit has said something since (a unit that works
// off its requests in turn has left that one behind).
type lateList struct {
	now   func() time.Time // with a monotonic part
	units map[uint8]*lateUnit
	tardy [256]bool // units of which late answers have come, and none in time since
}

// of returns what may come from unit; nil: nothing.
func (l *lateList) of(unit uint8) *lateUnit { return l.units[unit] }

// add notes that c got no answer.
func (l *lateList) add(c *call, timeout time.Duration) {
	if l.units == nil {
		l.units = map[uint8]*lateUnit{}
	}
	u := l.units[c.unit]
	if u == nil {
		u = &lateUnit{}
		l.units[c.unit] = u
	}
	size := c.dataBytes()
	u.calls = slices.DeleteFunc(u.calls, func(e lateCall) bool { return e.function == c.function && e.size == size })
	if len(u.calls) >= maxLate {
		u.calls = slices.Delete(u.calls, 0, 1)
		u.overflow = true
	}
	u.calls = append(u.calls, lateCall{
		function: c.function, size: size, until: l.now().Add(max(lateTimeouts*timeout, lateLeast)),
	})
}

// heard takes in a frame of a unit that was not awaited: it is false if
// nothing of the kind was to come. Size is -1 for an exception, which any
// call may have got. What was to come may come still: the frame may be the
// answer to another master.
func (l *lateList) heard(unit, function byte, size int) bool {
	u := l.of(unit)
	if u == nil {
		return false
	}
	u.spoke()
	came := slices.ContainsFunc(u.calls, func(e lateCall) bool {
		return e.function == function && (size < 0 || e.size == size)
	})
	l.tardy[unit] = l.tardy[unit] || came
	return came
}

// spoke notes that the unit has said something.
func (u *lateUnit) spoke() {
	for i := range u.calls {
		u.calls[i].passed = true
	}
}

// prune forgets what cannot come any more.
func (l *lateList) prune(unit uint8) {
	u := l.of(unit)
	if u == nil {
		return
	}
	now := l.now()
	u.calls = slices.DeleteFunc(u.calls, func(e lateCall) bool { return e.passed && now.After(e.until) })
	if len(u.calls) == 0 {
		delete(l.units, unit)
	}
}

// over says that the time in which something may come late from unit is over,
// whether or not it has spoken since.
func (l *lateList) over(unit uint8) bool {
	u, now := l.of(unit), l.now()
	return u == nil || !slices.ContainsFunc(u.calls, func(e lateCall) bool { return now.Before(e.until) })
}

// backlog says that unit may be about to answer much that it was asked
// before.
func (l *lateList) backlog(unit uint8) bool {
	u := l.of(unit)
	if u == nil {
		return false
	}
	now, live := l.now(), 0
	for _, e := range u.calls {
		if now.Before(e.until) {
			live++
		}
	}
	return u.overflow || live >= manyLate
}

// expects says that an answer of this kind may come late.
func (l *lateList) expects(unit, function byte, size int) bool {
	u := l.of(unit)
	return u != nil && slices.ContainsFunc(u.calls, func(e lateCall) bool { return e.function == function && e.size == size })
}

// ambiguous says that an exception to a call of this function may belong to
// an earlier one.
func (l *lateList) ambiguous(unit, function byte) bool {
	u, now := l.of(unit), l.now()
	return u != nil && slices.ContainsFunc(u.calls, func(e lateCall) bool {
		return e.function == function && now.Before(e.until)
	})
}

// part is a range of addresses.
type part struct {
	addr  uint16
	count int
}

// parts cuts the range of c into ranges whose answers cannot be taken for
// late ones: no part is of the function and size of one. No tag is cut: its
// registers belong to one moment. It is nil if that cannot be done. A single
// part may read beyond c.
func (l *lateList) parts(c *call, to []part) []part {
	free := func(n int) bool {
		size := dataBytes(c.function, n)
		// An answer of three bytes is as long as a request, and another
		// master's request for the addresses from 768 on looks just like it.
		return !l.expects(c.unit, c.function, size) && (c.function >= 3 || size != 3)
	}
	count := int(c.count)
	if free(count) {
		return append(to, part{c.addr, count})
	}
	cuts := c.cuts()
	for _, first := range slices.Backward(cuts) {
		if free(first) && free(count-first) {
			return append(to, part{c.addr, first}, part{c.addr + uint16(first), count - first})
		}
	}
	for i, first := range cuts {
		if !free(first) {
			continue
		}
		for _, second := range cuts[i+1:] {
			if free(second-first) && free(count-second) {
				return append(to, part{c.addr, first}, part{c.addr + uint16(first), second - first}, part{c.addr + uint16(second), count - second})
			}
		}
	}
	if p, ok := c.longer(free); ok {
		return append(to, p)
	}
	return nil
}

// cuts returns behind how many of its addresses c may be cut: where no tag
// lies across, and the values of a part end with a byte.
func (c *call) cuts() []int {
	step := 1
	if c.function < 3 {
		step = 8
	}
	var all []int
	for n := step; n < int(c.count); n += step {
		if c.request == nil || !c.request.across(int(c.addr)+n) {
			all = append(all, n)
		}
	}
	return all
}

// across says that a tag of r has addresses on both sides of at.
func (r *request) across(at int) bool {
	for i := range r.fields {
		if f := &r.fields[i]; int(f.addr) < at && at < f.end() {
			return true
		}
	}
	return false
}

// longer reads more than c asks for, as far as the device can.
func (c *call) longer(free func(int) bool) (part, bool) {
	step, limit := 1, c.lim.registers
	if c.function < 3 {
		step, limit = 8, c.lim.bits
	}
	t := tableOf(c.function)
	if c.request != nil {
		limit = c.lim.size(t)
	}
	for n := int(c.count) + step; n <= limit; n += step {
		if !free(n) {
			continue
		}
		if end := int(c.addr) + n; end <= addresses && !c.lim.unit.forbids(t, int(c.addr), end) {
			return part{c.addr, n}, true
		}
		first := int(c.addr) + int(c.count) - n
		if c.function >= 3 && first >= 0 && !c.lim.unit.forbids(t, first, first+n) {
			return part{uint16(first), n}, true
		}
	}
	return part{}, false
}
