package tail

import "slices"

// maxSpans bounds what is kept of a stream: holes that may still be filled,
// and what was seen. With live_first there are two spans that grow.
const maxSpans = 512

// span is the numbers from to to, both included.
type span struct{ from, to uint64 }

// seqs follows the numbers of one stream.
type seqs struct {
	seen, holes []span // sorted, apart from one another
	top         uint64 // the highest number seen
	started     bool
	torn        bool   // we were away: the next number may be any
	forgotten   uint64 // numbers of holes that there was no more room for
}

// arrival is what the number of a message tells.
type arrival struct {
	repeat  bool
	late    bool // it was missing until now
	missing span // numbers that were expected before it; to 0: none
}

// take notes that n has arrived.
func (s *seqs) take(n uint64) (a arrival) {
	if contains(s.seen, n) {
		return arrival{repeat: true}
	}
	s.seen = insert(s.seen, span{n, n})
	for len(s.seen) > maxSpans { // what is lower than all others is old
		s.seen[1].from = s.seen[0].from
		s.seen = slices.Delete(s.seen, 0, 1)
	}
	var filled uint64
	s.holes, filled = remove(s.holes, span{n, n})
	a.late = filled > 0
	if s.started && !s.torn && n > s.top+1 {
		a.missing = span{s.top + 1, n - 1}
		s.hole(a.missing)
	}
	if !s.started || n > s.top {
		s.top, s.torn = n, false
	}
	s.started = true
	return a
}

func (s *seqs) hole(h span) {
	s.holes = insert(s.holes, h)
	for len(s.holes) > maxSpans {
		s.forgotten += s.holes[0].to - s.holes[0].from + 1
		s.holes = slices.Delete(s.holes, 0, 1)
	}
}

// announce notes that the numbers of g will never come.
func (s *seqs) announce(g span) {
	if g.from > g.to {
		return
	}
	s.holes, _ = remove(s.holes, g)
	switch {
	case !s.started || s.torn && g.to > s.top:
		s.top, s.started, s.torn = g.to, true, false
	case g.to > s.top:
		if g.from > s.top+1 {
			s.hole(span{s.top + 1, g.from - 1})
		}
		s.top = g.to
	}
}

// tear notes that messages may have passed us by.
func (s *seqs) tear() { s.torn = true }

// missing is how many numbers have not come, and no notice was given of.
func (s *seqs) missing() uint64 {
	n := s.forgotten
	for _, h := range s.holes {
		n += h.to - h.from + 1
	}
	return n
}

// find returns the index of the first span that ends at n or above.
func find(all []span, n uint64) int {
	i, _ := slices.BinarySearchFunc(all, n, func(s span, n uint64) int {
		switch {
		case s.to < n:
			return -1
		case s.to > n:
			return 1
		}
		return 0
	})
	return i
}

func contains(all []span, n uint64) bool {
	i := find(all, n)
	return i < len(all) && all[i].from <= n
}

// insert adds a span that overlaps none of all, joining neighbours.
func insert(all []span, s span) []span {
	i := find(all, s.from)
	if i > 0 && all[i-1].to+1 == s.from {
		i--
		all[i].to = s.to
	} else {
		all = slices.Insert(all, i, s)
	}
	if i+1 < len(all) && all[i].to+1 == all[i+1].from {
		all[i].to = all[i+1].to
		all = slices.Delete(all, i+1, i+2)
	}
	return all
}

// remove takes the numbers of s out of all, and says how many there were.
func remove(all []span, s span) (left []span, removed uint64) {
	i := find(all, s.from)
	if i >= len(all) || all[i].from > s.to {
		return all, 0
	}
	var kept []span
	j := i
	for ; j < len(all) && all[j].from <= s.to; j++ {
		h := all[j]
		removed += min(h.to, s.to) - max(h.from, s.from) + 1
		if h.from < s.from {
			kept = append(kept, span{h.from, s.from - 1})
		}
		if h.to > s.to {
			kept = append(kept, span{s.to + 1, h.to})
		}
	}
	return slices.Replace(all, i, j, kept...), removed
}
