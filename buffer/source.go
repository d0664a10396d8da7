package buffer

import (
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"

	"millrace/buffer/internal/clock"
)

// segmentFile is an open segment: a bbolt file or, where that is damaged, the
// chunks that a look through the raw file found. The damaged file is read
// where it is: that takes no room beside it, and works on a full disk and on
// one that is read-only.
type segmentFile struct {
	s   *segment
	db  *bolt.DB
	raw *rawSegment
}

// each calls fn with the chunk in which seq is, or one beside it, and with
// those after it, until fn returns false. A chunk is good during the call.
func (src segmentFile) each(seq uint64, fn func(v []byte) bool) error {
	if src.raw != nil {
		return src.raw.each(seq, fn)
	}
	return view(src.db, func(tx *bolt.Tx) error {
		chunks, err := chunkBucket(tx, src.s)
		if err != nil {
			return err
		}
		c := chunks.cursor()
		for v := c.seek(seq); v != nil && fn(v); v = c.next() {
		}
		return nil
	})
}

// schema returns a copy of the schema as the segment holds it, or nil.
func (src segmentFile) schema(id uint64) ([]byte, error) {
	if src.raw != nil {
		return src.raw.schema(id)
	}
	return readSchema(src.db, id)
}

func (src segmentFile) close() error {
	if src.raw != nil {
		return src.raw.file.Close()
	}
	return closeBolt(src.db)
}

func (src segmentFile) isOpen() bool { return src.db != nil || src.raw != nil }

// history returns what is known of the clock of the boot that wrote the
// segment.
func (src segmentFile) history(c *clocks) (h *clock.History, err error) {
	if src.raw != nil {
		return c.of(src.s.ord), nil
	}
	err = view(src.db, func(tx *bolt.Tx) error {
		if _, err := chunkBucket(tx, src.s); err != nil {
			return err
		}
		meta := tx.Bucket([]byte(bucketMeta))
		known, _ := clock.Parse(meta.Get([]byte(keyClock)))
		h = c.adopt(src.s.ord, string(meta.Get([]byte(keyBoot))), known)
		return nil
	})
	return h, err
}

// rawSegment is a damaged segment, and what a look through it found.
type rawSegment struct {
	file    *os.File
	chunks  []found           // in order, none of them twice
	schemas map[uint64][]byte // packed
}

// openRawSegment looks through a damaged segment.
func openRawSegment(s *segment) (*rawSegment, error) {
	f, _, err := openRegular(s.path)
	if err != nil {
		return nil, err
	}
	sc := &scanner{file: f, tag: streamTag(s.stream), schemas: make(map[uint64][]byte)}
	sc.scan()
	return &rawSegment{file: f, chunks: slices.Clone(sc.consecutive()), schemas: sc.schemas}, nil
}

func (r *rawSegment) each(seq uint64, fn func(v []byte) bool) error {
	at, _ := slices.BinarySearchFunc(r.chunks, seq, func(c found, seq uint64) int {
		if c.head.last() < seq {
			return -1
		}
		return 1
	})
	for i := at; i < len(r.chunks); i++ {
		v := make([]byte, r.chunks[i].size)
		if _, err := r.file.ReadAt(v, r.chunks[i].at); err != nil {
			continue // it could be read a while ago: the reader finds the hole
		}
		if !fn(v) {
			return nil
		}
	}
	return nil
}

func (r *rawSegment) schema(id uint64) ([]byte, error) {
	packed, ok := r.schemas[id]
	if !ok {
		return nil, nil
	}
	return unpackSchema(packed)
}

// holes returns what is missing of the records from first to last, with the
// plain times of the neighbours. total is how many readings they all held; 0: that
// is not known. How many of the missing readings are in which hole follows
// the number of records in them, as does their number where total is 0.
func (r *rawSegment) holes(first, last, total uint64, h *clock.History) []span {
	var list []span
	next, missing, have, readings := first, uint64(0), uint64(0), uint64(0)
	oldest := int64(0)
	add := func(to uint64, newest int64) {
		if to < next || to > last {
			return
		}
		list = append(list, span{first: next, last: to, oldest: oldest, newest: newest})
		missing += to - next + 1
	}
	for i := range r.chunks {
		c := &r.chunks[i].head
		if c.last() < first || c.first > last {
			continue
		}
		step := stepped(h, c)
		add(min(c.prev, c.first-1), c.oldest-step)
		next, oldest = c.last()+1, c.newest-step
		have, readings = have+uint64(c.count), readings+c.readings
	}
	add(last, oldest)
	lost := float64(total) - float64(readings)
	if total == 0 && have > 0 {
		lost = float64(readings) / float64(have) * float64(missing)
	}
	given, share := uint64(0), 0.0
	for i := range list {
		hole := &list[i]
		if hole.oldest == 0 {
			hole.oldest = hole.newest
		}
		share += max(lost, 0) * float64(hole.last-hole.first+1) / float64(missing)
		hole.readings = uint64(share+0.5) - given
		given += hole.readings
	}
	return list
}
