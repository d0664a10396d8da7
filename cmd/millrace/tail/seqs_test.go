package tail

import (
	"testing"

	"pgregory.net/rapid"
)

// TestSeqs compares what is kept in spans with a list of all numbers.
func TestSeqs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var s seqs
		seen, missing := map[uint64]bool{}, map[uint64]bool{}
		top := uint64(0) // 0: nothing yet
		torn := false
		expect := func(below uint64) {
			for n := top + 1; top > 0 && !torn && n < below; n++ {
				missing[n] = true
			}
		}
		number := rapid.Uint64Range(1, 60)
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				s.tear()
				torn = true
			case 1:
				g := span{number.Draw(t, "from"), number.Draw(t, "to")}
				s.announce(g)
				if g.from > g.to {
					break
				}
				expect(g.from)
				for n := g.from; n <= g.to; n++ {
					delete(missing, n)
				}
				if g.to > top {
					top, torn = g.to, false
				}
			default:
				n := number.Draw(t, "seq")
				a := s.take(n)
				if a.repeat != seen[n] {
					t.Fatalf("%d: repeat %v, want %v", n, a.repeat, seen[n])
				}
				if seen[n] {
					break
				}
				if a.late != missing[n] {
					t.Fatalf("%d: late %v, want %v", n, a.late, missing[n])
				}
				delete(missing, n)
				seen[n] = true
				expect(n)
				if n > top {
					top, torn = n, false
				}
			}
			if got := s.missing(); got != uint64(len(missing)) {
				t.Fatalf("%d are missing, want %d: %+v", got, len(missing), s)
			}
		}
	})
}

// TestSeqsBounded: a stream that is full of holes takes no more than its room,
// and the holes are counted all the same.
func TestSeqsBounded(t *testing.T) {
	t.Parallel()
	var s seqs
	for n := uint64(1); n <= 20_000; n += 2 {
		s.take(n)
	}
	if len(s.seen) > maxSpans || len(s.holes) > maxSpans || s.missing() != 9_999 {
		t.Errorf("%d and %d spans, %d missing", len(s.seen), len(s.holes), s.missing())
	}
	if !s.take(19_999).repeat || !s.take(19_998).late {
		t.Error("what is new is not known")
	}
}
