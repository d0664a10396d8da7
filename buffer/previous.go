package buffer

import "errors"

// How a run ended, as the next one finds it.
const (
	// EndedStopped: it was stopped, and all that it had taken is known.
	EndedStopped = "stopped"
	// EndedKilled: it died, and what it had taken was found in its memory, or
	// is announced as missing.
	EndedKilled = "killed"
	// EndedPowerCut: its memory is gone; what it had taken last is not known.
	EndedPowerCut = "power_cut"
)

// Previous says how the run before this one ended. The zero value: there was
// none.
type Previous struct {
	Stream string
	Last   uint64 // the last seq that is known
	Ended  string // one of the Ended constants
}

// endedKey is where a run that was stopped says so, among the small values in
// state.db: its ordinal and its last seq.
const endedKey = "buffer: ended"

// findPrevious learns, before this run begins, how the last one ended.
func (b *Buffer) findPrevious(im *stateImage, old *revival) {
	ord := uint64(0)
	for o := range im.streams {
		ord = max(ord, o)
	}
	if ord == 0 {
		return
	}
	p := Previous{Stream: im.streams[ord]}
	switch row := im.values[endedKey]; {
	case old != nil:
		p.Ended, p.Last = EndedKilled, old.High-1
	case len(row) == 16 && parsePlace(row).ord == ord:
		p.Ended, p.Last = EndedStopped, parsePlace(row).seq
	default:
		p.Ended, p.Last = EndedPowerCut, b.lastOnDisk(ord)
		for _, c := range im.cursors {
			if c.at.ord == ord {
				p.Last = max(p.Last, c.at.seq)
			}
		}
		b.log.Warn("the last run ended without a goodbye, by a power cut perhaps: what it read last may be missing, of one commit interval at most",
			"stream", p.Stream, "after", p.Last, "commit_interval", b.o.CommitInterval)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.previous = p
}

// sayGoodbye notes in state.db that this run was stopped.
func (b *Buffer) sayGoodbye() error {
	b.mu.Lock()
	end := placeKey(place{b.ord, b.tail.next() - 1})
	b.mu.Unlock()
	if err := b.disk.state.putValue(endedKey, end); err != nil && !errors.Is(err, errBroken) {
		return err
	}
	return nil
}
