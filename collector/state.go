package collector

import (
	"errors"
	"strings"
	"time"

	"millrace/protocols"
)

// State is a device's connection state, derived from real answers only.
type State string

// The states of a device.
const (
	Online   State = "online"   // its last scans were whole
	Degraded State = "degraded" // it answers, but some requests fail; or it has just fallen silent, or has not answered yet
	Offline  State = "offline"  // no answer for three scans and Device.OfflineAfter
	Disabled State = "disabled" // switched off in the configuration
)

// DeviceState is the state of one device, as it is published.
type DeviceState struct {
	Device string
	State  State
	Since  time.Time
	Reason string // in plain words: what happened and what to check; empty when online
}

// stateMachine derives one device's state. Times come from its caller; it
// does nothing but decide.
type stateMachine struct {
	cur DeviceState
	// code tells reasons apart without their numbers, so that a failure that
	// repeats with another number is not a change.
	code     string
	latest   string        // the newest reason, told or not
	told     time.Time     // when the state or its reason was told last
	patience time.Duration // from the last answer to offline
	// lastAnswer is when the device answered last, or when it was started.
	lastAnswer time.Time
	silent     bool // the last scan had no answer

	recoveries [maxRecoveries]time.Time // the last times it came online, the oldest first
	wholeSince time.Time                // its scans are whole since then; zero: they are not
}

// A device that comes and goes is held degraded: after maxRecoveries within
// flapTime it has to be whole for calmTime to be online again.
const (
	maxRecoveries = 4
	flapTime      = 10 * time.Minute
	calmTime      = 10 * time.Second
)

var errNoAnswerYet = errors.New("no answer yet since the start")

func newStateMachine(d *protocols.Device, now time.Time) stateMachine {
	m := stateMachine{lastAnswer: now, silent: true, patience: d.OfflineAfter}
	interval := d.Interval
	for i := range d.Tags {
		if iv := d.Tags[i].Interval; iv > 0 {
			interval = min(interval, iv)
		}
	}
	// The third scan that has no answer ends a time-out after it began.
	m.patience = max(m.patience, 3*interval+d.Timeout)
	m.cur = DeviceState{Device: d.ID, State: Degraded, Since: now, Reason: errNoAnswerYet.Error()}
	m.latest = m.cur.Reason
	if !d.Enabled {
		m.cur.State, m.cur.Reason = Disabled, "switched off in the configuration (enabled: false)"
	}
	return m
}

// answered notes a scan that had an answer; err is what is wrong all the
// same, over all of the device's groups. It says whether the state changed.
func (m *stateMachine) answered(now time.Time, err error) bool {
	m.lastAnswer, m.silent = now, false
	if err != nil {
		return m.failing(now, err)
	}
	if m.wholeSince.IsZero() {
		m.wholeSince = now
	}
	flapping := !m.recoveries[0].IsZero() && now.Sub(m.recoveries[0]) < flapTime
	if m.cur.State != Online && flapping && now.Sub(m.wholeSince) < calmTime {
		return false
	}
	if m.cur.State != Online {
		copy(m.recoveries[:], m.recoveries[1:])
		m.recoveries[maxRecoveries-1] = now
	}
	return m.set(now, Online, nil, "")
}

// failing notes that a device which answers does not answer everything.
func (m *stateMachine) failing(now time.Time, err error) bool {
	m.wholeSince = time.Time{}
	return m.set(now, Degraded, err, err.Error())
}

// heard notes that a device which was answering did so until now, although it
// had nothing to say.
func (m *stateMachine) heard(now time.Time) {
	if !m.silent {
		m.lastAnswer = now
	}
}

// unanswered notes a scan without an answer. Which of its requests was left
// without one differs from scan to scan, and is no change.
func (m *stateMachine) unanswered(now time.Time, err error) bool {
	m.silent, m.wholeSince = true, time.Time{}
	if !now.Before(m.deadline()) {
		return m.set(now, Offline, err, protocols.AlikeOf(err))
	}
	return m.set(now, Degraded, err, protocols.AlikeOf(err))
}

// expire makes a device that has been silent long enough offline, also when
// no scan was due since. The reason stays.
func (m *stateMachine) expire(now time.Time) bool {
	if !m.silent || m.cur.State != Degraded || now.Before(m.deadline()) {
		return false
	}
	m.cur.State, m.cur.Since, m.cur.Reason, m.told = Offline, now, m.latest, now
	return true
}

// deadline is when a silent device is offline.
func (m *stateMachine) deadline() time.Time { return m.lastAnswer.Add(m.patience) }

// retellAfter is how often the reason may change within one state: failures
// that take turns must not become a flood.
const retellAfter = 10 * time.Second

// set says whether s, because of err, is news; reasons that differ only in
// the numbers of code are the same.
func (m *stateMachine) set(now time.Time, s State, err error, code string) bool {
	m.latest, code = "", withoutNumbers(code)
	if err != nil {
		m.latest = err.Error()
	}
	if m.cur.State == s && (m.code == code || now.Sub(m.told) < retellAfter && m.code != "") {
		return false
	}
	if m.cur.State != s {
		m.cur.Since = now
	}
	m.cur.State, m.cur.Reason, m.code, m.told = s, m.latest, code, now
	return true
}

func withoutNumbers(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
}
