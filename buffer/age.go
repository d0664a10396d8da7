package buffer

import (
	"time"

	"millrace/buffer/internal/clock"
)

// afterStep is how long no records of earlier boots are given up by the wall
// clock after it was set, or was first seen: it may have been set wrong, and
// there is time for it to be mended.
const afterStep = time.Hour

// keepAge gives up segments in which all is too old, and returns when to look
// again.
func (b *Buffer) keepAge() time.Duration {
	if b.o.MaxAge <= 0 {
		return forever
	}
	if wait := b.w.lookedAt + lookEvery - b.clock(); b.w.lookedAt > 0 && wait > 0 {
		return wait
	}
	b.w.lookedAt = b.clock()
	for {
		s := b.tooOld()
		if s == nil {
			return lookEvery
		}
		if err := b.evict(s, ReasonOld); err != nil {
			b.diskSays(err)
			return lookEvery
		}
	}
}

// tooOld returns the oldest segment, if it is surely older than the limit.
// Where its own age is not known, it is at least as old as the one behind it.
func (b *Buffer) tooOld() *segment {
	b.mu.Lock()
	defer b.mu.Unlock()
	mono := b.observe()
	for _, s := range b.segments {
		if s.last < s.first {
			continue
		}
		if age, known := b.age(s, mono); known {
			if age > b.o.MaxAge {
				return b.segments[0]
			}
			return nil
		}
	}
	return nil
}

// age returns how long the newest record of s has waited, at the least, as
// far as that is known for sure; mono is the monotonic time now.
func (b *Buffer) age(s *segment, mono int64) (age time.Duration, known bool) {
	c := &b.clocks
	h := c.of(s.ord)
	base, set := h.Base()
	sane := s.newest+base >= clock.FirstSane
	if c.streams[s.ord] == c.boot {
		// Plain times of one boot are as far apart as on the monotonic clock.
		// In a boot whose clock is right, a record of 1970 is not by that clock.
		return ms(c.now - s.newest), sane || !set
	}
	first, step := c.mine.Known()
	if since := ms(mono - first); since > b.o.MaxAge {
		return since, true // it is older than what we saw of this boot
	}
	if !sane {
		return 0, false
	}
	ownBase, ownSet := c.mine.Base()
	if !ownSet || ms(mono-step) < afterStep {
		return 0, true
	}
	return ms(c.now + ownBase - (s.newest + base)), true
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
