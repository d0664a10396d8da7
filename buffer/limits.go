package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"millrace/buffer/internal/clock"
)

const (
	// keepActive: a drained segment that can still grow is kept so long, and
	// while it is small, because the next outage may need one at once.
	keepActive     = time.Minute
	keepActiveSize = 1 << 20

	// maxMeasures: after so many attempts a gap's readings may be too many.
	maxMeasures = 5
)

// reclaim unlinks the segments that every uplink has passed.
func (b *Buffer) reclaim() error {
	if s := b.w.current; s != nil && b.passed(s) {
		small := b.o.CommitInterval == 0 || s.size < keepActiveSize
		if !small || b.clock()-b.w.wrote >= keepActive || b.closedNow() {
			b.sealActive()
		}
	}
	b.mu.Lock()
	var passed []*segment
	for _, s := range b.segments {
		past := !s.active && b.allPast(s)
		if past {
			passed = append(passed, s)
		} else if !b.overtaken() {
			break // what comes later is needed, too
		}
	}
	b.mu.Unlock()
	if len(passed) == 0 {
		return nil
	}
	// The cursors are saved first: a crash in between must not find a hole
	// that nobody has acknowledged. On a full disk that may be impossible,
	// and unlinking is what makes room.
	err := b.saveState()
	if err != nil && !isFull(err) {
		return err
	}
	b.remove(passed)
	return b.saveState()
}

func (b *Buffer) closedNow() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

func (b *Buffer) passed(s *segment) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.allPast(s)
}

// allPast tells, under the lock, whether no uplink needs anything of s.
func (b *Buffer) allPast(s *segment) bool {
	for _, u := range b.uplinks {
		if u.cursor.before(s.end()) && (len(u.done) == 0 || len(u.uncovered(s.ord, s.first, s.last)) > 0) {
			return false
		}
	}
	return true
}

// overtaken tells, under the lock, whether some uplink has acknowledged
// records that are newer than ones it needs.
func (b *Buffer) overtaken() bool {
	for _, u := range b.uplinks {
		if len(u.done) > 0 {
			return true
		}
	}
	return false
}

// remove unlinks segments and forgets them.
func (b *Buffer) remove(segments []*segment) {
	b.mu.Lock()
	b.segments = slices.DeleteFunc(b.segments, func(s *segment) bool { return slices.Contains(segments, s) })
	for _, s := range segments {
		delete(b.w.sealed, s.start())
		b.w.gone = append(b.w.gone, s.start())
	}
	b.mu.Unlock()
	for _, s := range segments {
		b.disk.files.forget(s)
		err := b.unlink(s)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			b.log.Warn("a drained buffer file cannot be removed", "file", s.path, "err", err)
		}
	}
}

// unlink removes a segment's file; a damaged one is kept beside, as far as the
// size limit allows.
func (b *Buffer) unlink(s *segment) error {
	if s.raw {
		_, err := b.setAside(s.path)
		return err
	}
	return os.Remove(s.path)
}

// makeDiskRoom gives up what is oldest until need more bytes fit.
func (b *Buffer) makeDiskRoom(need int64) error {
	for b.diskSize()+need > b.o.MaxSize {
		if b.dropSetAside() {
			continue
		}
		s := b.oldestSegment()
		if s == nil {
			return nil // a limit that small is exceeded rather than nothing kept
		}
		if err := b.evict(s, ReasonFull); err != nil {
			return fmt.Errorf("make room: %w", err)
		}
	}
	return nil
}

// diskSize is the size of all files.
func (b *Buffer) diskSize() int64 {
	size := fileSize(filepath.Join(b.disk.dir, stateName))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts.stateSize = size
	for _, s := range b.segments {
		size += s.size
	}
	for _, a := range b.counts.setAside {
		size += a.size
	}
	return size
}

func (b *Buffer) oldestSegment() *segment {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.segments) == 0 {
		return nil
	}
	return b.segments[0]
}

// dropSetAside removes the oldest damaged file that was kept: what was not
// sent yet is worth more.
func (b *Buffer) dropSetAside() bool {
	b.mu.Lock()
	if len(b.counts.setAside) == 0 {
		b.mu.Unlock()
		return false
	}
	path := b.counts.setAside[0].path
	b.counts.setAside = b.counts.setAside[1:]
	b.mu.Unlock()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.log.Warn("a damaged buffer file cannot be removed", "file", path, "err", err)
	}
	return true
}

// evict gives up a whole segment: it tells every uplink exactly what it will
// not get, makes that durable, and unlinks the file.
func (b *Buffer) evict(s *segment, reason string) error {
	if s == b.w.current {
		b.sealActive()
	}
	_, err := b.disk.files.acquire(s)
	if isDamage(err) {
		return b.rescue(s, err) // it says what is missing; the caller comes again
	}
	if err == nil {
		defer b.disk.files.release(s)
	}
	m := b.measureSegment(s)
	b.mu.Lock()
	for try := 0; try < maxMeasures && !b.fits(m, s); try++ {
		b.mu.Unlock()
		m = b.measureSegment(s)
		b.mu.Lock()
	}
	most, batches := uint64(0), uint64(0)
	missed := map[string][][2]uint64{}
	for _, u := range b.uplinks {
		lost, n := uint64(0), uint64(0)
		missed[u.name] = u.uncovered(s.ord, s.first, s.last)
		for _, part := range missed[u.name] {
			g := m.gap(part[0], part[1])
			g.Stream, g.Reason = s.stream, reason
			u.miss(s.ord, g)
			lost, n = lost+g.Readings, n+g.To-g.From+1
		}
		most, batches = max(most, lost), max(batches, n)
		u.wake()
	}
	b.counts.drop(reason, batches, most)
	b.mu.Unlock()
	if b.o.Dropped != nil {
		b.tellDropped(s, reason, missed) // now: when the state cannot be saved, this is not done again
	}
	if err := b.saveState(); err != nil {
		return err
	}
	b.remove([]*segment{s})
	b.log.Warn("the buffer gave up its oldest file", "file", s.name(), "reason", reason, "readings", most)
	return nil
}

// tellDropped tells of each record of s that uplinks will not get.
func (b *Buffer) tellDropped(s *segment, reason string, missed map[string][][2]uint64) {
	src, err := b.disk.files.acquire(s)
	if err != nil {
		return
	}
	defer b.disk.files.release(s)
	dec, err := newChunkDecoder()
	if err != nil {
		return
	}
	defer dec.close()
	b.mu.Lock()
	_, history := b.clocks.origin(s.ord)
	b.mu.Unlock()
	base, _ := history.Base()
	schemas := map[uint64][]byte{}
	var recs []Record
	var arena []byte
	err = src.each(s.first, func(v []byte) bool {
		h, body, err := parseChunk(v, streamTag(s.stream))
		if err != nil {
			return true // it is damaged: nobody knows whose readings it held
		}
		set := stepped(history, &h)
		if recs, arena, err = dec.decode(&h, body, recs[:0], arena[:0]); err != nil {
			return true
		}
		for i := range recs {
			schema, known := schemas[recs[i].Schema]
			if !known {
				schema, _ = src.schema(recs[i].Schema) // nil: it cannot be read
				schemas[recs[i].Schema] = schema
			}
			recs[i].Stream, recs[i].Time = s.stream, recs[i].Time-set+base
			for uplink, parts := range missed {
				if anyHolds(parts, recs[i].Seq) {
					b.o.Dropped(uplink, reason, recs[i], schema)
				}
			}
		}
		return true
	})
	if err != nil {
		b.log.Debug("what was given up could not be read to its end", "file", s.name(), "err", err)
	}
}

func anyHolds(parts [][2]uint64, seq uint64) bool {
	return slices.ContainsFunc(parts, func(p [2]uint64) bool { return p[0] <= seq && seq <= p[1] })
}

// fits tells, under the lock, whether m can say exactly what every uplink
// will miss: cursors that moved while s was measured may stand inside a chunk.
func (b *Buffer) fits(m *measure, s *segment) bool {
	for _, u := range b.uplinks {
		for _, part := range u.uncovered(s.ord, s.first, s.last) {
			for _, sp := range m.spans {
				if sp.first < part[0] && part[0] <= sp.last || sp.first <= part[1] && part[1] < sp.last {
					return false
				}
			}
		}
	}
	return true
}

// measure is what the headers of a segment's chunks say; for the chunks that
// an uplink's cursor stands in, what their records say.
type measure struct {
	spans []span
	clock *clock.History
}

// span is one chunk, or one record.
type span struct {
	first, last    uint64
	oldest, newest int64 // plain time: see clocks
	readings       uint64
}

// measureSegment reads what s holds. Chunks in which some uplink's cursor
// stands are split into their records. What cannot be read counts for
// nothing: how many readings that was is not known.
func (b *Buffer) measureSegment(s *segment) *measure {
	m := &measure{}
	src, err := b.disk.files.acquire(s)
	if err != nil {
		return m
	}
	defer b.disk.files.release(s)
	b.mu.Lock()
	_, m.clock = b.clocks.origin(s.ord)
	var cursors []place
	for _, u := range b.uplinks {
		// Cursors move on meanwhile: split as far as what is on its way.
		cursors = append(cursors, u.cursor, u.sent)
		for i := range u.done {
			p := &u.done[i]
			cursors = append(cursors, place{p.ord, p.from}, place{p.ord, p.from}, place{p.ord, p.to}, place{p.ord, p.sent + 1})
		}
		for _, g := range u.gaps {
			if g.ord == s.ord {
				cursors = append(cursors, g.start(), g.start(), g.end(), g.end())
			}
		}
	}
	b.mu.Unlock()
	dec, err := newChunkDecoder()
	if err != nil {
		return m
	}
	defer dec.close()
	err = src.each(s.first, func(v []byte) bool {
		m.add(s, v, cursors, dec)
		return true
	})
	if errors.Is(err, errBroken) {
		b.disk.files.abandon(s)
	}
	return m
}

// add adds a chunk: whole, or record by record where a cursor may stand.
func (m *measure) add(s *segment, v []byte, cursors []place, dec *chunkDecoder) {
	h, err := parseChunkHeader(v)
	if err != nil {
		return
	}
	set := stepped(m.clock, &h)
	whole := span{h.first, h.last(), h.oldest - set, h.newest - set, h.readings}
	// They come in pairs: from what is acknowledged to what is handed over.
	inside := false
	for i := 0; i+1 < len(cursors); i += 2 {
		inside = inside || !place{s.ord, h.last()}.before(cursors[i]) && !cursors[i+1].before(place{s.ord, h.first})
	}
	if !inside {
		m.spans = append(m.spans, whole)
		return
	}
	h, body, err := parseChunk(v, streamTag(s.stream))
	if err != nil {
		m.spans = append(m.spans, whole)
		return
	}
	recs, _, err := dec.decode(&h, body, nil, nil)
	if err != nil {
		m.spans = append(m.spans, whole)
		return
	}
	for i := range recs {
		r := &recs[i]
		m.spans = append(m.spans, span{r.Seq, r.Seq, r.Time - set, r.Time - set, uint64(r.Readings)})
	}
}

// gap sums up what is between from and to.
func (m *measure) gap(from, to uint64) Gap {
	g := Gap{From: from, To: to}
	for _, s := range m.spans {
		if s.last < from || s.first > to {
			continue
		}
		g.Readings += s.readings
		g.Oldest, g.Newest = older(g.Oldest, s.oldest), max(g.Newest, s.newest)
	}
	return g
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
