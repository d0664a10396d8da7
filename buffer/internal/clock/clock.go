// Package clock knows when a machine's wall clock was set, and what the times
// that it gave before are worth. It is pure: it reads no clock itself.
//
// All times are in milliseconds. A boot is one life of the machine's kernel;
// mono is the time since the boot, which nobody sets; wall is Unix time; an
// offset is wall minus mono. Between two steps the offset stays the same: the
// kernel slews both clocks alike. Such a span is an epoch.
//
// stepped is by how much the wall clock had been set forward in all, from the
// boot's first known epoch to the one that is meant. A wall time minus the
// stepped of its epoch is what a clock that nobody sets would have said: on
// that scale (plain time) the times of a boot are in the order in which they
// were taken, and their differences are right.
package clock

import (
	"encoding/binary"
	"math"
	"slices"
)

const (
	// FirstSane is 2020-01-01: wall times before it are those of a clock that
	// was never set.
	FirstSane = 1577836800000

	// A change of the offset is a step from stepMin on, and beyond a
	// thousandth of the time since the last sample: for systems whose two
	// clocks are slewed apart. After a long time unseen that would hide steps
	// that matter, so that it ends at slewMost.
	stepMin   = 500
	slewShare = 1000
	slewMost  = 1500

	// lagMost: records say when they arrived and when they were appended, and
	// a bus that waits for its device may take so long in between.
	lagMost = 60_000

	// maxEpochs bounds what a clock that never rests leaves behind.
	maxEpochs = 256
)

// epoch is a span in which nobody set the clock.
type epoch struct {
	from, until int64 // mono of its first and its last sample
	first, last int64 // the offsets then
	stepped     int64
}

// wall is the wall clock at the epoch's end.
func (e *epoch) wall() int64 { return e.until + e.last }

// distance is how far offset is from those of the epoch.
func (e *epoch) distance(offset int64) int64 {
	low, high := min(e.first, e.last), max(e.first, e.last)
	return max(low-offset, offset-high, 0)
}

// misfit is how unlikely it is that a record was stamped by the clock of this
// epoch, which ended at end: it was stamped so long outside of it, so long
// before it was appended, or, what cannot be but for rounding, after that.
func (e *epoch) misfit(mono, offset, end int64) int64 {
	const never = 16
	low, high := min(e.first, e.last), max(e.first, e.last)
	lag := min(max(offset, low), high) - offset
	stamped := mono - lag
	return max(e.from-stamped, stamped-end, 0) + max(lag, -lag*never)
}

// History is what is known of one boot's wall clock. The zero value knows
// nothing.
type History struct {
	epochs []epoch // in their order; at most maxEpochs
}

func (h *History) latest() *epoch { return &h.epochs[len(h.epochs)-1] }

// IsStep tells whether Observe would take the sample for a step.
func (h *History) IsStep(mono, offset int64) bool {
	if len(h.epochs) == 0 {
		return false
	}
	e := h.latest()
	change := offset - e.last
	return max(change, -change) > stepMin+min(max(mono-e.until, 0)/slewShare, slewMost)
}

// Observe takes a sample of both clocks, the newest of the boot, and returns
// by how much the clock was set since the last one; 0 if it was not.
func (h *History) Observe(mono, offset int64) (step int64) {
	switch {
	case len(h.epochs) == 0:
		h.begin(epoch{from: mono, until: mono, first: offset, last: offset})
	case h.IsStep(mono, offset):
		e := h.latest()
		step = offset - e.last
		h.begin(epoch{from: mono, until: mono, first: offset, last: offset, stepped: e.stepped + step})
	default:
		e := h.latest()
		e.until, e.last = max(e.until, mono), offset
	}
	return step
}

// Follow takes all that a later history of the same boot has seen.
func (h *History) Follow(later *History) {
	for i := range later.epochs {
		e := &later.epochs[i]
		h.Observe(e.from, e.first)
		h.Observe(e.until, e.last)
	}
}

// Learn takes what a record tells of the clock at the time mono: its wall
// time when it arrived minus mono when it was appended. It finds steps that
// nobody wrote down, beyond the newest sample; small ones it does not.
func (h *History) Learn(mono, offset int64) {
	if len(h.epochs) > 0 && (mono <= h.latest().until || h.latest().distance(offset) <= lagMost) {
		return
	}
	h.Observe(mono, offset)
}

func (h *History) begin(e epoch) {
	h.epochs = append(h.epochs, e)
	if len(h.epochs) > maxEpochs {
		// What was stepped stays known; times of the first two are taken for
		// those of the second.
		h.epochs = slices.Delete(h.epochs, 0, 1)
	}
}

// Stepped returns by how much the clock had been set when a record was
// stamped: offset is its wall time minus mono, at which it was appended. A
// record may be stamped before a step and appended after it: so its epoch is
// the one that its time fits best.
func (h *History) Stepped(mono, offset int64) int64 {
	if len(h.epochs) <= 1 {
		return h.Newest()
	}
	best, least := h.latest(), int64(math.MaxInt64)
	end := int64(math.MaxInt64 / 2) // the newest one has not ended
	for i := len(h.epochs) - 1; i >= 0 && least > stepMin/2; i-- {
		e := &h.epochs[i]
		if m := e.misfit(mono, offset, end); m < least {
			best, least = e, m
		}
		end = e.from
	}
	return best.stepped
}

// Newest returns by how much the clock had been set in the newest epoch.
func (h *History) Newest() int64 {
	if len(h.epochs) == 0 {
		return 0
	}
	return h.latest().stepped
}

// Base returns what has to be added to plain times to get the best wall times
// that are known: those of the newest epoch in which the clock was set. A
// clock that fell to 1970 corrects nothing. set is false if there is none:
// then the times are by the newest epoch, and not to be trusted.
func (h *History) Base() (stepped int64, set bool) {
	for i := len(h.epochs) - 1; i >= 0; i-- {
		if e := &h.epochs[i]; e.wall() >= FirstSane {
			return e.stepped, true
		}
	}
	return h.Newest(), false
}

// Known returns the mono of the first sample, and of the first one after the
// newest step.
func (h *History) Known() (first, step int64) {
	if len(h.epochs) == 0 {
		return 0, 0
	}
	return h.epochs[0].from, h.latest().from
}

// Until returns the mono of the newest sample.
func (h *History) Until() int64 {
	if len(h.epochs) == 0 {
		return 0
	}
	return h.latest().until
}

// Clone returns a copy that shares nothing with h.
func (h *History) Clone() *History { return &History{epochs: slices.Clone(h.epochs)} }

const (
	formatVersion = 1
	epochSize     = 5 * 8
)

// Append appends the history in its stored form to dst.
func (h *History) Append(dst []byte) []byte {
	dst = append(dst, formatVersion)
	for i := range h.epochs {
		e := &h.epochs[i]
		for _, v := range []int64{e.from, e.until, e.first, e.last, e.stepped} {
			dst = binary.BigEndian.AppendUint64(dst, uint64(v))
		}
	}
	return dst
}

// Parse reads what Append wrote. It is false if that makes no sense.
func Parse(b []byte) (*History, bool) {
	if len(b) == 0 || b[0] != formatVersion || (len(b)-1)%epochSize != 0 || len(b) > 1+maxEpochs*epochSize {
		return nil, false
	}
	h := &History{}
	for b = b[1:]; len(b) > 0; b = b[epochSize:] {
		v := func(i int) int64 { return int64(binary.BigEndian.Uint64(b[8*i:])) }
		e := epoch{from: v(0), until: v(1), first: v(2), last: v(3), stepped: v(4)}
		if e.from < 0 || e.until < e.from || len(h.epochs) > 0 && e.from < h.latest().until {
			return nil, false
		}
		h.epochs = append(h.epochs, e)
	}
	return h, true
}
