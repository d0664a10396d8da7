package collector

import "time"

// probeShare: the probes of all silent units of a shared bus together get
// 1/probeShare of its time.
const probeShare = 20

// unit is a piece of hardware on a bus: usually one device, sometimes several
// that are parts of one PLC. What one of them shows is true for all.
type unit struct {
	key       string
	silent    bool      // the last scan of any of its devices had no answer
	probed    bool      // it is silent, and was so the time before
	lastProbe time.Time // when it was asked last while it was silent
	wants     *group    // a scan of it was due, and had to wait for its probe; nil: none
}

// probing decides which silent unit may be asked, and when: they share a
// small part of the bus's time, in turn. A probe that is answered opens the
// way for the next one at once, because units fall silent and come back
// together where it was their cable.
type probing struct {
	next time.Time // no probe before
}

// failed notes that a probe (or the scan that found a unit silent) took so
// long without an answer.
func (p *probing) failed(now time.Time, took time.Duration) {
	p.next = now.Add(took * (probeShare - 1)) // after it: a twentieth with it
}

// answered notes that a silent unit has answered.
func (p *probing) answered() { p.next = time.Time{} }

// turn returns the unit whose probe is due now; nil: none. One that has just
// fallen silent comes first: it may have lost one answer only.
func (p *probing) turn(now time.Time, units []*unit) *unit {
	if now.Before(p.next) {
		return nil
	}
	var oldest *unit
	for _, u := range units {
		if u.wants != nil && (oldest == nil || u.before(oldest)) {
			oldest = u
		}
	}
	return oldest
}

// before says that u is probed before o.
func (u *unit) before(o *unit) bool {
	if u.probed != o.probed {
		return !u.probed
	}
	return u.lastProbe.Before(o.lastProbe)
}

// wake returns when the next probe is due; false: none is waited for.
func (p *probing) wake(units []*unit) (time.Time, bool) {
	for _, u := range units {
		if u.wants != nil {
			return p.next, true
		}
	}
	return time.Time{}, false
}

// allSilent says that nobody on the bus answers.
func allSilent(units []*unit) bool {
	for _, u := range units {
		if !u.silent {
			return false
		}
	}
	return true
}
