package buffer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"

	"millrace/buffer/internal/clock"
)

// Export hands every record that the buffer holds when it is called to put:
// those in the files, also damaged ones if they are wanted, and those that
// only memory has; each once, the oldest stream first, in order. What is
// acknowledged or given up meanwhile may be missing. While put runs, no lock
// is held and no transaction is open.
func (b *Buffer) Export(ctx context.Context, o ExportOptions, put Put) (ExportResult, error) {
	e, err := newExporter(ctx, o, put)
	if err != nil {
		return ExportResult{}, err
	}
	defer e.close()
	e.lookup = func(id uint64) []byte {
		blob, _ := b.Schema(id) // nil: it is lost
		return blob
	}
	e.clock = func(ord uint64, _ *content) *clock.History {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.clocks.of(ord).Clone()
	}
	b.mu.Lock()
	end, closed := b.tail.next()-1, b.closed
	if u := b.uplinks[o.Uplink]; o.Uplink != "" {
		if u == nil {
			err = unknownUplink(o.Uplink, b.uplinks)
		}
		e.parts = func(ord, from, to uint64) [][2]uint64 {
			b.mu.Lock()
			defer b.mu.Unlock()
			return u.uncovered(ord, from, to)
		}
		e.wanted = e.parts
	} else {
		e.wanted = union(b.wants())
	}
	b.mu.Unlock()
	if closed {
		err = ErrClosed
	}
	if err != nil {
		return e.result, err
	}
	earlier := b.groups(func(s *segment) bool { return s.ord != b.ord }, o.Salvage)
	e.total = totalSize(earlier) + totalSize(b.groups(b.ofThisRun, o.Salvage))
	if err := e.run(earlier, ^uint64(0)); err != nil {
		return e.result, err
	}
	err = b.exportRun(e, end)
	return e.end(), err
}

// wants returns, under the lock, what each uplink waits for; it is asked
// without.
func (b *Buffer) wants() (all []wants) {
	for _, u := range b.uplinks {
		all = append(all, func(ord, from, to uint64) [][2]uint64 {
			b.mu.Lock()
			defer b.mu.Unlock()
			return u.uncovered(ord, from, to)
		})
	}
	return all
}

func (b *Buffer) ofThisRun(s *segment) bool { return s.ord == b.ord }

// groups returns the files of the segments that match, in groups.
func (b *Buffer) groups(match func(s *segment) bool, salvage bool) []fileGroup {
	b.mu.Lock()
	defer b.mu.Unlock()
	var segments, aside []*segment
	sealed := make(map[*segment]bool)
	for _, s := range b.segments {
		if match(s) {
			segments = append(segments, s)
			sealed[s] = !s.active
		}
	}
	for _, a := range b.counts.setAside {
		if s, _, ok := segmentOf(a.path); ok && salvage && match(s) {
			s.size = a.size
			aside = append(aside, s)
		}
	}
	return groupFiles(segments, aside, func(s *segment) openSource {
		if sealed[s] {
			return openRaw(s.path)
		}
		return b.openLive(s)
	}, func(s *segment) uint64 {
		if s.active {
			return 0 // it grows
		}
		return s.last
	})
}

// exportRun exports the records of this run up to end: what memory does not
// have any more from the files, the rest from memory. Memory forgets on, but
// only what is in the files by then, or was acknowledged.
func (b *Buffer) exportRun(e *exporter, end uint64) error {
	var bt batch
	for next := uint64(1); next <= end; {
		if err := e.ctx.Err(); err != nil {
			return err
		}
		b.mu.Lock()
		first, here := b.tail.first, b.tail.has(next)
		if here {
			b.copyTail(&bt, next, end)
		}
		b.mu.Unlock()
		if here {
			if err := b.exportBatch(e, &bt); err != nil {
				return err
			}
			next = bt.recs[len(bt.recs)-1].Seq + 1
			continue
		}
		upTo := min(end, first-1)
		if first <= next {
			upTo = end // memory holds nothing at all
		}
		groups := b.groups(func(s *segment) bool { return b.ofThisRun(s) && s.last >= next && s.first <= upTo }, e.o.Salvage)
		e.stream, e.last = b.o.Stream, next-1
		if err := e.run(groups, upTo); err != nil {
			return err
		}
		next = upTo + 1
		e.stream, e.last = b.o.Stream, upTo
	}
	return nil
}

func (b *Buffer) exportBatch(e *exporter, bt *batch) error {
	first, last := bt.recs[0].Seq, bt.recs[len(bt.recs)-1].Seq
	wanted := [][2]uint64{{first, last}}
	if e.parts != nil {
		wanted = e.parts(bt.ord, first, last)
	}
	for i := range bt.recs {
		r := &bt.recs[i]
		bt.at = i
		b.date(bt, r)
		if !within(wanted, r.Seq) {
			continue
		}
		if err := e.emit(r); err != nil {
			return err
		}
	}
	return nil
}

// liveFile reads chunks of the segment that is being written, each in a
// transaction of its own.
type liveFile struct {
	b *Buffer
	s *segment
}

func (l liveFile) close() {}

func (l liveFile) view(fn func(tx *bolt.Tx, chunks *chunkTree) error) error {
	files := l.b.disk.files
	src, err := files.acquire(l.s)
	if err != nil {
		return err
	}
	defer files.release(l.s)
	err = view(src.db, func(tx *bolt.Tx) error {
		chunks, err := chunkBucket(tx, l.s)
		if err != nil {
			return err
		}
		return fn(tx, chunks)
	})
	if errors.Is(err, errBroken) {
		files.abandon(l.s)
	}
	return err
}

func (l liveFile) read(ref *chunkRef, dst []byte) ([]byte, error) {
	err := l.view(func(_ *bolt.Tx, chunks *chunkTree) error {
		v := chunks.cursor().seek(ref.head.first)
		if h, err := parseChunkHeader(v); err != nil || h.first != ref.head.first {
			return fmt.Errorf("%s: %w", l.s.name(), os.ErrNotExist)
		}
		dst = append(dst, v...)
		return nil
	})
	return dst, err
}

// openLive opens a segment that may be being written.
func (b *Buffer) openLive(s *segment) openSource {
	return func(ctx context.Context, stream string, _ bool) (chunkSource, *content, error) {
		l := liveFile{b, s}
		c := &content{schemas: make(map[uint64][]byte)}
		tag := streamTag(stream)
		err := l.view(func(tx *bolt.Tx, chunks *chunkTree) error {
			err := chunks.forEach(func(v []byte) error {
				h, _, err := parseChunk(v, tag)
				if err != nil {
					c.damaged++
					return nil //nolint:nilerr // it is counted
				}
				c.refs = append(c.refs, chunkRef{head: h, size: len(v), from: l})
				return ctx.Err()
			})
			schemas := tx.Bucket([]byte(bucketSchemas))
			if err != nil || schemas == nil {
				return err
			}
			return schemas.ForEach(func(k, v []byte) error {
				c.takeSchema(slices.Clone(k), bytes.Clone(v))
				return nil
			})
		})
		return l, c, err
	}
}
