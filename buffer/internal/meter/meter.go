// Package meter tells how fast a total grows. It is pure; the clock is its
// caller's.
package meter

import "time"

// Meter keeps samples of a total that only grows. It has no lock. Once it is
// full it allocates nothing.
type Meter struct {
	step    time.Duration
	samples []sample // a ring once it is full
	next    int      // where the next one goes
	due     time.Duration
}

type sample struct {
	at    time.Duration
	total uint64
}

// New returns a meter that keeps n samples, at least step apart: it looks
// back (n-1)×step.
func New(step time.Duration, n int) *Meter {
	return &Meter{step: step, samples: make([]sample, 0, max(n, 2))}
}

// Due tells whether Add would take a sample now.
func (m *Meter) Due(now time.Duration) bool { return now >= m.due }

// Add notes the total, if that is due.
func (m *Meter) Add(now time.Duration, total uint64) {
	if !m.Due(now) {
		return
	}
	s := sample{now, total}
	if len(m.samples) < cap(m.samples) {
		m.samples = append(m.samples, s)
	} else {
		m.samples[m.next] = s
		m.next = (m.next + 1) % len(m.samples)
	}
	m.due = now + m.step
}

// Reset forgets all samples and begins with this one.
func (m *Meter) Reset(now time.Duration, total uint64) {
	m.samples, m.next, m.due = m.samples[:0], 0, now
	m.Add(now, total)
}

// Grown returns by how much the total has grown in the last window, and how
// long that took: less than window while there is no sample as old as that,
// and more where nothing was sampled for a while.
func (m *Meter) Grown(now time.Duration, total uint64, window time.Duration) (grown uint64, took time.Duration) {
	n := len(m.samples)
	if n == 0 {
		return 0, 0
	}
	base := m.at(0)
	for i := n - 1; i > 0; i-- {
		if s := m.at(i); now-s.at >= window {
			base = s
			break
		}
	}
	if total < base.total { // it began anew
		return 0, 0
	}
	return total - base.total, now - base.at
}

// at returns the i-th oldest sample.
func (m *Meter) at(i int) sample { return m.samples[(m.next+i)%len(m.samples)] }
