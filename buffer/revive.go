package buffer

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"millrace/buffer/internal/clock"
	"millrace/buffer/internal/shm"
)

// revival is what a run that was killed left in shared memory.
type revival struct {
	*shm.Snapshot
	known   map[string]bool // uplinks whose place was found there
	schemas map[uint64][]byte
}

// findShared looks for what the last run left in shared memory, and removes
// what is of no use. It returns nil if there is nothing.
// damaged says that what state.db held is lost.
func (b *Buffer) findShared(im *stateImage, segments []*segment, damaged bool) *revival {
	if b.o.SharedMemory == NoSharedMemory {
		return nil
	}
	path, err := SharedMemoryFile(b.o.SharedMemory, b.o.Dir)
	if err != nil {
		b.log.Debug("a killed agent will lose what it had not committed", "err", err)
		return nil
	}
	b.shared.path = path
	s, err := shm.Open(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case errors.Is(err, shm.ErrForeign):
		b.log.Warn("the buffer's shared memory is not ours; going on without: a killed agent will lose what it had not committed", "err", err)
		b.shared.path = ""
		return nil
	case err != nil:
		b.log.Warn("the last run's shared memory cannot be read; what only memory held is lost", "err", err)
	case isLast(s, im, segments, damaged):
		return newRevival(s)
	default:
		_ = s.Close() // it was only read
		b.log.Warn("there is shared memory of another buffer that was in this directory; it is dropped",
			"file", path, "stream", s.Stream, "batches", len(s.Records))
	}
	if err := shm.Remove(path); err != nil {
		b.log.Warn("the last run's shared memory cannot be removed", "err", err)
		b.shared.path = ""
	}
	return nil
}

// isLast tells whether what was found in shared memory is of the last stream
// in the directory, rather than of one that has been replaced: the file's name
// is the directory's place on the disk, which a new one may get. The stream has
// to be known there, unless a damaged state.db is why it is not.
func isLast(s *shm.Snapshot, im *stateImage, segments []*segment, damaged bool) bool {
	known := im.streams[s.Ordinal] == s.Stream ||
		slices.ContainsFunc(segments, func(o *segment) bool { return o.stream == s.Stream })
	if !known && !damaged {
		return false
	}
	if !streamForm.MatchString(s.Stream) || nextOrdinal(im, segments) > s.Ordinal+1 {
		return false
	}
	for ord, id := range im.streams {
		if (ord == s.Ordinal) != (id == s.Stream) {
			return false
		}
	}
	return !slices.ContainsFunc(segments, func(o *segment) bool {
		return (o.ord == s.Ordinal) != (o.stream == s.Stream)
	})
}

func newRevival(s *shm.Snapshot) *revival {
	r := &revival{Snapshot: s, known: make(map[string]bool), schemas: make(map[uint64][]byte)}
	for rest := s.Schemas; ; {
		id, blob, err := parseSchema(rest)
		if err != nil {
			return r
		}
		r.schemas[id] = blob
		rest = rest[schemaHeaderSize+len(blob):]
	}
}

// correct puts into im what shared memory knows better: it was written at
// every change, state.db at most once a second.
func (r *revival) correct(im *stateImage) {
	im.streams[r.Ordinal] = r.Stream
	gaps, err := parseSharedGaps(r.Notes)
	for _, cell := range r.Cells {
		part, rest, ok := takePart(cell)
		if !ok {
			continue
		}
		c, ok := parseCursor(rest)
		if !ok {
			continue
		}
		name := string(part)
		r.known[name] = true
		im.cursors[name] = c
		if err == nil && r.Notes != nil {
			im.gaps[name] = gaps[name]
		}
		im.gaps[name] = beyond(c.at, im.gaps[name])
	}
}

// beyond returns the gaps as far as they are beyond p: the run may have died
// between the writing of the one and the other.
func beyond(p place, gaps []*pendingGap) []*pendingGap {
	return slices.DeleteFunc(gaps, func(g *pendingGap) bool {
		if g.ord == p.ord && g.From <= p.seq && p.seq < g.To {
			g.From = p.seq + 1
		}
		return !p.before(g.end())
	})
}

// revive writes the records that only memory held when the last run died to
// segments of its stream, as far as an uplink needs them, and announces what
// was not found.
func (b *Buffer) revive(r *revival) {
	last := b.lastOnDisk(r.Ordinal)
	h := b.learnClock(r)
	for _, u := range b.uplinks {
		u.touchGaps() // state.db has older ones
	}
	refs := b.needed(r, last)
	p := &packer{b: b, r: r, clock: h, refs: refs, prev: max(last, r.Written)}
	err := p.save()
	lost := b.missUnsaved(r, h, p.refs) + b.missUnfound(r, last, p.saved)
	switch saved := len(refs) - len(p.refs); {
	case err != nil:
		b.log.Warn("the last run was killed, and the disk does not take what its memory held; it is announced as missing",
			"stream", r.Stream, "batches", len(p.refs), "saved", saved, "err", err)
	case lost > 0:
		b.log.Warn("the last run was killed; not all that its memory held could be found; the rest is announced as missing",
			"stream", r.Stream, "missing", lost, "saved", saved)
	default:
		b.log.Info("the last run was killed; nothing is lost: what only its memory held was saved",
			"stream", r.Stream, "batches", saved)
	}
}

// learnClock returns what is known of the clock of the run's boot. That is
// this one: shared memory does not outlive it.
func (b *Buffer) learnClock(r *revival) *clock.History {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.clocks.streams[r.Ordinal] == "" {
		b.clocks.adopt(r.Ordinal, b.clocks.boot, nil)
	}
	for i := range r.Records {
		b.clocks.learn(r.Ordinal, r.Records[i].Time, r.Records[i].Mono)
	}
	return b.clocks.of(r.Ordinal)
}

func (b *Buffer) lastOnDisk(ord uint64) (last uint64) {
	for _, s := range b.segments {
		if s.ord == ord {
			last = max(last, s.last)
		}
	}
	return last
}

// waits returns what the uplink still needs of the stream's end, of which the
// disk has nothing.
func (r *revival) waits(u *uplink, last uint64) [][2]uint64 {
	from := last + 1
	if !r.known[u.name] {
		from = max(from, r.Low) // what went before is not known to be missing
	}
	if from >= r.High {
		return nil
	}
	return u.uncovered(r.Ordinal, from, r.High-1)
}

// needed returns the records that some uplink waits for.
func (b *Buffer) needed(r *revival, last uint64) []shm.Ref {
	var refs []shm.Ref
	waits := make([][][2]uint64, 0, len(b.uplinks))
	for _, u := range b.uplinks {
		waits = append(waits, r.waits(u, last))
	}
	for i := range r.Records {
		ref := &r.Records[i]
		if r.schemas[ref.Schema] == nil {
			continue // nobody could read it
		}
		for _, parts := range waits {
			if slices.ContainsFunc(parts, func(p [2]uint64) bool { return p[0] <= ref.Seq && ref.Seq <= p[1] }) {
				refs = append(refs, *ref)
				break
			}
		}
	}
	return refs
}

// missUnsaved announces the records that were found and not written.
func (b *Buffer) missUnsaved(r *revival, h *clock.History, refs []shm.Ref) (records int) {
	for i := range refs {
		ref, missed := &refs[i], false
		at := ref.Time - steppedAt(h, ref)
		for _, u := range b.uplinks {
			if len(u.uncovered(r.Ordinal, ref.Seq, ref.Seq)) == 0 {
				continue
			}
			missed = true
			u.miss(r.Ordinal, Gap{
				Stream: r.Stream, From: ref.Seq, To: ref.Seq, Readings: uint64(ref.Readings),
				Reason: ReasonDisk, Oldest: at, Newest: at,
			})
		}
		if missed {
			records++
			b.counts.drop(ReasonDisk, 1, uint64(ref.Readings))
		}
	}
	return records
}

// missUnfound announces what is neither on the disk nor announced yet.
func (b *Buffer) missUnfound(r *revival, last uint64, saved [][2]uint64) (records int) {
	for _, u := range b.uplinks {
		n := 0
		for _, part := range without(r.waits(u, last), saved) {
			u.miss(r.Ordinal, Gap{Stream: r.Stream, From: part[0], To: part[1], Reason: ReasonCrash})
			n += int(part[1] - part[0] + 1)
		}
		records = max(records, n)
	}
	b.counts.drop(ReasonCrash, uint64(records), 0)
	return records
}

// steppedAt returns by how much the clock had been set when a record arrived.
func steppedAt(h *clock.History, ref *shm.Ref) int64 { return h.Stepped(ref.Mono, ref.Time-ref.Mono) }

// without returns the parts of ranges that are in none of taken. Both are in
// order.
func without(ranges, taken [][2]uint64) (parts [][2]uint64) {
	for _, p := range ranges {
		from := p[0]
		for _, t := range taken {
			if t[1] < from || t[0] > p[1] {
				continue
			}
			if t[0] > from {
				parts = append(parts, [2]uint64{from, t[0] - 1})
			}
			from = t[1] + 1
		}
		if from <= p[1] {
			parts = append(parts, [2]uint64{from, p[1]})
		}
	}
	return parts
}

// packer writes records that were found in shared memory to segments.
type packer struct {
	b     *Buffer
	r     *revival
	clock *clock.History // of the run's boot
	enc   *chunkEncoder
	refs  []shm.Ref // not written yet
	prev  uint64    // the last one that was
	saved [][2]uint64
	buf   []byte
}

func (p *packer) save() (err error) {
	if len(p.refs) == 0 {
		return nil
	}
	if p.enc, err = newChunkEncoder(p.r.Stream); err != nil {
		return err
	}
	for len(p.refs) > 0 {
		n, prev, err := p.gather()
		if err != nil {
			return err
		}
		if err := p.write(); err != nil {
			return err
		}
		p.refs, p.prev = p.refs[n:], prev
	}
	return nil
}

// gather packs what one segment takes, and returns how many records that is
// and the last one's seq.
func (p *packer) gather() (records int, last uint64, err error) {
	w := &p.b.w
	w.load.reset()
	limit := int(min(maxLoad, p.b.o.SegmentSize/2))
	last = p.prev
	for raw := 0; raw < limit && records < len(p.refs); {
		n, size, err := p.chunk(p.refs[records:], last)
		if err != nil {
			return 0, 0, err
		}
		w.load.add(p.enc)
		records, raw = records+n, raw+size
		last = p.enc.head.last()
	}
	w.load.packSchemas(p.enc)
	return records, last, nil
}

// chunk puts the first consecutive records of refs into the encoder.
func (p *packer) chunk(refs []shm.Ref, prev uint64) (records, size int, err error) {
	load := &p.b.w.load
	for i := range refs {
		ref := &refs[i]
		if i > 0 && ref.Seq != refs[i-1].Seq+1 || i == maxChunkCount || steppedAt(p.clock, ref) != steppedAt(p.clock, &refs[0]) {
			break // a chunk has one correction for all
		}
		var rec shm.Record
		if rec, p.buf, err = p.r.Record(ref, p.buf); err != nil {
			return 0, 0, fmt.Errorf("read shared memory: %w", err)
		}
		if i > 0 && size+len(rec.Data) > chunkSize {
			break
		}
		if i == 0 {
			p.enc.reset(rec.Seq, prev, rec.Time-rec.Mono)
		}
		load.schemas[rec.Schema] = p.r.schemas[rec.Schema]
		p.enc.add(&Record{Time: rec.Time, Schema: rec.Schema, Readings: rec.Readings, Data: rec.Data})
		size += len(rec.Data) + 8
		records++
	}
	return records, size, nil
}

// write makes a segment of the load.
func (p *packer) write() error {
	b, load := p.b, &p.b.w.load
	if err := b.makeDiskRoom(int64(len(load.data)) + 2*b.allocStep()); err != nil {
		return err
	}
	s := newSegment(b.disk.dir, p.r.Ordinal, p.r.Stream, load.heads[0].first)
	s.boot, s.clock = b.clocks.streams[p.r.Ordinal], p.clock.Append(nil)
	db, written, err := createSegment(s, load, b.o.SegmentSize)
	if err != nil {
		return err
	}
	used := inUse(db)
	if err := closeBolt(db); err != nil {
		return fmt.Errorf("close %s: %w", s.name(), err)
	}
	_ = os.Truncate(s.path, used) // it was room to grow; if it fails, it is room wasted
	for i := range load.heads {
		s.cover(&load.heads[i], stepped(p.clock, &load.heads[i]))
		p.saved = append(p.saved, [2]uint64{load.heads[i].first, load.heads[i].last()})
	}
	s.size = fileSize(s.path)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.segments = append(b.segments, s)
	b.seal(s)
	b.counts.commits++
	b.counts.written += uint64(written)
	return nil
}
