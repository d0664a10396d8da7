package buffer

import (
	"cmp"
	"math"
	"path/filepath"
)

func comparePlaces(p, q place) int {
	return cmp.Or(cmp.Compare(p.ord, q.ord), cmp.Compare(p.seq, q.seq))
}

// findUnknown marks the uplinks of which it is not known what waits for them:
// they need, or may need, something of a file that cannot be read or is gone.
func (d *Dir) findUnknown(l *Look, uplinks map[string]*uplink) {
	mark := func(ord, first, last uint64) (waits bool) {
		for i := range l.Uplinks {
			u := &l.Uplinks[i]
			if len(uplinks[u.Name].uncovered(ord, first, last)) > 0 {
				u.Unknown, waits = true, true
			}
		}
		return waits
	}
	for i, s := range d.segments {
		if s.last >= s.first {
			continue
		}
		last := uint64(math.MaxUint64) // as far as the next one, and who knows how far if it is the last
		if i+1 < len(d.segments) && d.segments[i+1].ord == s.ord {
			last = d.segments[i+1].first - 1
		}
		mark(s.ord, s.first, last)
	}
	for _, p := range d.state.goneSegments(d.segments) {
		if last := d.state.segments[p].last; last >= p.seq && mark(p.ord, p.seq, last) {
			l.Gone = append(l.Gone, filepath.Base(newSegment(d.path, p.ord, d.state.streams[p.ord], p.seq).path))
		}
	}
}
