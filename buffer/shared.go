package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"

	"millrace/buffer/internal/shm"
)

// shared is what of the buffer's state outlives the process: the region that
// the tail's slabs come from. The buffer's lock covers it.
//
// Its order of writing is what makes it good at any instruction: an uplink's
// place and gaps are in it before the tail forgets the records that they
// speak of. So every record from the region's low on is there, and every one
// before it is acknowledged, announced, or on the disk.
type shared struct {
	region  *shm.Region // nil: there is none
	path    string
	uplinks []*uplink // those that have a cell
	buf     []byte
}

// SharedMemoryFile returns the file in which a buffer in dir keeps its memory
// while it is open, and which is there still after it was killed. base is
// Options.SharedMemory.
func SharedMemoryFile(base, dir string) (string, error) {
	if base == "" {
		base = defaultSharedMemory
	}
	path, err := shm.Path(base, dir)
	if err != nil {
		return "", fmt.Errorf("no shared memory: %w", err)
	}
	return path, nil
}

// share makes a region for this run, in the place of the last one's, of which
// nothing is needed any more. Without one, records live on the heap.
func (b *Buffer) share() {
	if b.shared.path == "" {
		return
	}
	r, err := shm.Create(b.shared.path, shm.Options{Stream: b.o.Stream, Ordinal: b.ord, Memory: b.o.TailBytes})
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.fillRegion(r)
		err = r.Publish()
	}
	if err == nil {
		b.tail.shared = r
		return
	}
	b.log.Debug("no shared memory: a killed agent will lose what it had not committed", "err", err)
	if r != nil {
		b.forgetRegion()
		_ = r.Discard() // nobody has seen it
	}
	if b.diskErr == nil { // else the old one knows what state.db does not
		_ = shm.Remove(b.shared.path) // the next start sees that it is an old one
	}
}

// fillRegion puts into a new region what is known, under the lock.
func (b *Buffer) fillRegion(r *shm.Region) {
	b.shared.region = r
	r.SetRange(b.tail.first, b.tail.next())
	r.SetWritten(min(b.settled, b.w.lastWritten))
	for id, blob := range b.schemas.own {
		b.shareSchema(id, blob)
	}
	for _, u := range b.uplinks {
		u.gapsStale = true
		b.sharePlace(u)
	}
	b.shareGaps()
}

// forgetRegion goes on without the region, under the lock.
func (b *Buffer) forgetRegion() {
	for _, u := range b.shared.uplinks {
		u.cell = nil
	}
	b.shared.region, b.shared.uplinks = nil, nil
}

// endSharing gives the memory back, at the very end: nobody may read a record
// any more. With remove, what was in it is safe elsewhere.
func (b *Buffer) endSharing(remove bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.shared.region
	if r == nil {
		return nil
	}
	b.tail.unshare()
	b.forgetRegion()
	if remove {
		return r.Remove()
	}
	return r.Close()
}

// moveShared gives the region the name that belongs to the directory, which
// was made again. If that fails the next start does not find it.
func (b *Buffer) moveShared() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shared.region == nil {
		return
	}
	path, err := SharedMemoryFile(b.o.SharedMemory, b.o.Dir)
	if err == nil {
		err = b.shared.region.Rename(path)
	}
	if err != nil {
		b.log.Warn("the buffer's shared memory lost its directory; a killed agent will lose what it had not committed", "err", err)
		return
	}
	b.shared.path = path
}

// shareSchema adds a schema, under the lock. A record whose schema found no
// room there is announced after a crash.
func (b *Buffer) shareSchema(id uint64, blob []byte) {
	if r := b.shared.region; r != nil {
		r.AddSchema(frameSchema(id, blob))
	}
}

func (b *Buffer) shareWritten(seq uint64) {
	if r := b.shared.region; r != nil {
		r.SetWritten(seq)
	}
}

// sharePlace writes an uplink's place, under the lock. One that finds no cell
// (there are many) goes on from what state.db says.
func (b *Buffer) sharePlace(u *uplink) {
	s := &b.shared
	if s.region == nil {
		return
	}
	if u.cell == nil {
		if u.cell = s.region.NewCell(); u.cell == nil {
			return
		}
		s.uplinks = append(s.uplinks, u)
	}
	s.buf = appendName(s.buf[:0], u.name)
	c := u.place()
	s.buf = c.appendTo(s.buf)
	u.cell.Write(s.buf)
}

func (b *Buffer) unsharePlace(u *uplink) {
	if u.cell == nil {
		return
	}
	u.cell.Free()
	u.cell = nil
	kept := b.shared.uplinks[:0]
	for _, o := range b.shared.uplinks {
		if o != u {
			kept = append(kept, o)
		}
	}
	b.shared.uplinks = kept
}

// shareGaps writes the gaps of all uplinks, under the lock, if any changed.
func (b *Buffer) shareGaps() {
	s, stale := &b.shared, false
	for _, u := range s.uplinks {
		stale = stale || u.gapsStale
	}
	if !stale {
		return
	}
	s.buf = s.buf[:0]
	for _, u := range s.uplinks {
		u.gapsStale = false
		s.buf = appendName(s.buf, u.name)
		s.buf = binary.LittleEndian.AppendUint32(s.buf, uint32(len(u.gaps)))
		for _, g := range u.gaps {
			s.buf = binary.LittleEndian.AppendUint64(s.buf, g.ord)
			at := len(s.buf)
			s.buf = g.appendTo(append(s.buf, 0, 0, 0, 0))
			binary.LittleEndian.PutUint32(s.buf[at:], uint32(len(s.buf)-at-4))
		}
	}
	s.region.Notes().Write(s.buf)
}

func appendName(b []byte, name string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(name)))
	return append(b, name...)
}

// takePart splits what stands behind its length off b.
func takePart(b []byte) (part, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.LittleEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}

var errSharedGaps = errors.New("gaps in shared memory make no sense")

// parseSharedGaps is the reverse of what shareGaps writes.
func parseSharedGaps(b []byte) (map[string][]*pendingGap, error) {
	all := make(map[string][]*pendingGap)
	for len(b) > 0 {
		name, rest, ok := takePart(b)
		if !ok || len(rest) < 4 {
			return nil, errSharedGaps
		}
		count := binary.LittleEndian.Uint32(rest)
		b = rest[4:]
		gaps := all[string(name)]
		for range count {
			if len(b) < 8 {
				return nil, errSharedGaps
			}
			ord := binary.LittleEndian.Uint64(b)
			part, rest, ok := takePart(b[8:])
			if !ok {
				return nil, errSharedGaps
			}
			g, ok := parseGap(part)
			if !ok {
				return nil, errSharedGaps
			}
			g.ord = ord
			gaps, b = append(gaps, g), rest
		}
		all[string(name)] = gaps
	}
	return all, nil
}
