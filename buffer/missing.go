package buffer

import (
	"maps"
	"slices"
)

// wants returns which records of a range somebody waits for.
type wants func(ord, from, to uint64) [][2]uint64

// union is what any of all waits for. Without any, nobody is known: then each
// record may be wanted.
func union(all []wants) wants {
	if len(all) == 0 {
		return func(_, from, to uint64) [][2]uint64 { return [][2]uint64{{from, to}} }
	}
	return func(ord, from, to uint64) [][2]uint64 {
		var parts [][2]uint64
		for _, w := range all {
			parts = append(parts, w(ord, from, to)...)
		}
		return merge(parts)
	}
}

// missing returns what is missing before a good chunk that follows last, in a
// file (or a group of them) that begins with first: prev says up to where
// records were written. What was in files that are gone is no business of
// this one's.
func (h *chunkHeader) missing(last, first uint64) (from, to uint64, some bool) {
	from, to = last+1, min(h.prev, h.first-1)
	if last == 0 {
		from = first
	}
	return from, to, from <= to
}

// goneSegments returns the segments that state.db knows of and that are gone,
// in order.
func (im *stateImage) goneSegments(segments []*segment) (gone []place) {
	for _, p := range slices.SortedFunc(maps.Keys(im.segments), comparePlaces) {
		if !slices.ContainsFunc(segments, func(s *segment) bool { return s.start() == p }) {
			gone = append(gone, p)
		}
	}
	return gone
}

// miss notes records that should be in the files and did not come, as far as
// somebody waits for them.
func (e *exporter) miss(ord uint64, stream string, from, to uint64) {
	if from > to {
		return
	}
	for _, p := range e.wanted(ord, from, to) {
		e.result.Missing = append(e.result.Missing, Lost{stream, p[0], p[1]})
	}
	if len(e.result.Missing) > 1000 { // they overlap: two ways find them
		e.result.Missing = mergeLost(e.result.Missing)
	}
}

// missBefore notes what is missing before a chunk that was exported next.
func (e *exporter) missBefore(g *fileGroup, h *chunkHeader) {
	if from, to, some := h.missing(e.last, g.first); some {
		e.miss(g.ord, g.stream, from, min(to, g.until))
	}
}

// missAfter notes what is missing at the end of a group; gone: some of its
// files went while they were to be read, for a good reason.
func (e *exporter) missAfter(g *fileGroup, gone bool) {
	end := min(g.last, g.until)
	if gone {
		e.last = max(e.last, end)
		return
	}
	e.miss(g.ord, g.stream, max(e.last+1, g.first), end)
}
