package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	bolt "go.etcd.io/bbolt"

	"millrace/buffer/internal/clock"
)

const scanWindow = 1 << 20

// rescue replaces a damaged segment by one with all chunks that can still be
// found in the file, wherever they are. The damaged file is kept beside. What
// is missing shows as holes when it is read. If nothing can be saved, every
// uplink is told of the whole range.
func (b *Buffer) rescue(s *segment, cause error) {
	b.rescuing.Lock()
	defer b.rescuing.Unlock()
	b.mu.Lock()
	at := slices.Index(b.segments, s)
	expected := b.expectedLast(at)
	b.mu.Unlock()
	if at < 0 {
		return // somebody else did it
	}
	b.mu.Lock()
	boot, h := b.clocks.origin(s.ord)
	b.mu.Unlock()
	saved, err := salvageSegment(s, b.o.SegmentSize, boot, h)
	if err == nil && saved.last >= saved.first {
		saved.last = max(saved.last, expected)
		err = b.replace(s, saved)
	}
	if err == nil && saved.last >= saved.first {
		b.log.Warn("a damaged buffer file was set aside, and what is readable in it saved",
			"file", s.name(), "cause", cause, "readings", saved.readings)
		return
	}
	b.abandonSegment(s, max(expected, s.first), cause)
}

// expectedLast returns the seq up to which the segment is answerable.
func (b *Buffer) expectedLast(i int) uint64 {
	if i < 0 {
		return 0
	}
	s := b.segments[i]
	if s.last < s.first && i+1 < len(b.segments) && b.segments[i+1].ord == s.ord {
		return b.segments[i+1].first - 1
	}
	return s.last
}

// replace puts the salvaged file in the place of the damaged one.
func (b *Buffer) replace(s, saved *segment) error {
	b.disk.files.forget(s)
	if err := b.setAside(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(saved.path, s.path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		return err
	}
	saved.path = s.path
	saved.size = fileSize(s.path)
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.segments, s); i >= 0 {
		b.segments[i] = saved
		b.seal(saved)
	}
	return nil
}

// abandonSegment gives up a segment of which nothing can be read.
func (b *Buffer) abandonSegment(s *segment, last uint64, cause error) {
	b.mu.Lock()
	b.missAll(s, last)
	b.mu.Unlock()
	if err := b.saveState(); err != nil {
		b.diskSays(err)
	}
	b.disk.files.forget(s)
	if err := b.setAside(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.log.Warn("a damaged buffer file cannot be set aside", "file", s.path, "err", err)
	}
	b.remove([]*segment{s})
	b.log.Warn("nothing could be saved from a damaged buffer file; its records are announced as missing",
		"file", s.name(), "cause", cause, "from", s.first, "to", last)
}

// missAll tells every uplink, under the lock, that it will not get the
// records of s up to last. It returns whether anybody still waited for one.
func (b *Buffer) missAll(s *segment, last uint64) bool {
	return b.missSpan(s.ord, s.stream, span{s.first, last, s.oldest, s.newest, s.readings})
}

// found is where a chunk stands in a damaged file.
type found struct {
	head chunkHeader
	at   int64
	size int
}

// salvageSegment writes all that is readable in s's file into a new segment
// beside it. The segment it returns is empty if there is nothing.
func salvageSegment(s *segment, segmentSize int64, boot string, h *clock.History) (*segment, error) {
	saved := newSegment(filepath.Dir(s.path), s.ord, s.stream, s.first)
	saved.boot, saved.clock = boot, h.Append(nil)
	f, err := os.Open(s.path)
	if err != nil {
		return saved, err
	}
	defer f.Close() //nolint:errcheck // only read
	sc := &scanner{file: f, tag: streamTag(s.stream), schemas: make(map[uint64][]byte)}
	sc.scan()
	chunks := sc.consecutive()
	if len(chunks) == 0 {
		return saved, nil
	}
	l := &load{schemas: sc.schemas}
	var db *bolt.DB
	for i := range chunks {
		c := &chunks[i]
		l.heads = append(l.heads, c.head)
		start := len(l.data)
		l.data = append(l.data, make([]byte, c.size)...)
		if _, err := f.ReadAt(l.data[start:], c.at); err != nil {
			return saved, errors.Join(err, closeBolt(db))
		}
		l.ends = append(l.ends, len(l.data))
		saved.cover(&c.head, stepped(h, &c.head))
		if len(l.data) < maxLoad && i < len(chunks)-1 {
			continue
		}
		if db, err = writeSalvage(db, saved, l, segmentSize); err != nil {
			_ = os.Remove(saved.path + savedSuffix)
			return newSegment(filepath.Dir(s.path), s.ord, s.stream, s.first), fmt.Errorf("salvage %s: %w", s.name(), err)
		}
		l.reset()
	}
	saved.path += savedSuffix
	return saved, closeBolt(db)
}

func writeSalvage(db *bolt.DB, saved *segment, l *load, segmentSize int64) (*bolt.DB, error) {
	path := saved.path + savedSuffix
	if db != nil {
		_, err := update(db, l.put)
		return db, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	db, _, err := fillSegment(path, saved, l, segmentSize)
	return db, err
}

// scanner looks through a raw file for what has a magic, a length and a
// checksum that fit.
type scanner struct {
	file    io.ReaderAt
	tag     uint32
	chunks  []found
	schemas map[uint64][]byte
}

func (sc *scanner) scan() {
	window := make([]byte, scanWindow+3) // a magic may stand across the border
	for at := int64(0); ; at += scanWindow {
		n := sc.read(window, at)
		if n < chunkHeaderSize/4 {
			return
		}
		for _, magic := range []string{chunkMagic, schemaMagic} {
			sc.look(window[:n], at, magic)
		}
		if n < len(window) {
			return
		}
	}
}

// read fills b from the file as far as it goes; pages that cannot be read
// count as zeroes.
func (sc *scanner) read(b []byte, at int64) int {
	n, err := sc.file.ReadAt(b, at)
	if err == nil || errors.Is(err, io.EOF) {
		return n
	}
	clear(b[n:])
	for n < len(b) {
		end := min(n+pageSize, len(b))
		k, err := sc.file.ReadAt(b[n:end], at+int64(n))
		if errors.Is(err, io.EOF) {
			return n + k
		}
		n = end
	}
	return n
}

func (sc *scanner) look(window []byte, base int64, magic string) {
	for from := 0; ; {
		i := bytes.Index(window[from:], []byte(magic))
		if i < 0 {
			return
		}
		at := base + int64(from+i)
		if magic == chunkMagic {
			sc.takeChunk(at)
		} else {
			sc.takeSchema(at)
		}
		from += i + len(magic)
	}
}

func (sc *scanner) takeChunk(at int64) {
	head := make([]byte, chunkHeaderSize)
	if sc.read(head, at) < len(head) {
		return
	}
	h, err := parseChunkHeader(head)
	if err != nil {
		return
	}
	whole := make([]byte, chunkHeaderSize+int(h.length))
	if sc.read(whole, at) < len(whole) {
		return
	}
	if _, _, err := parseChunk(whole, sc.tag); err == nil {
		sc.chunks = append(sc.chunks, found{head: h, at: at, size: len(whole)})
	}
}

func (sc *scanner) takeSchema(at int64) {
	head := make([]byte, schemaHeaderSize)
	if sc.read(head, at) < len(head) {
		return
	}
	size := schemaSize(head)
	if size > maxSchemaSize {
		return
	}
	whole := make([]byte, schemaHeaderSize+size)
	if sc.read(whole, at) < len(whole) {
		return
	}
	if id, blob, err := parseSchema(whole); err == nil {
		sc.schemas[id] = blob
	}
}

// consecutive returns the chunks in order, each once: bbolt's old pages hold
// copies. A longer one replaces a shorter one with the same start.
func (sc *scanner) consecutive() []found {
	slices.SortFunc(sc.chunks, func(x, y found) int {
		switch {
		case x.head.first != y.head.first:
			return compare(x.head.first, y.head.first)
		default:
			return compare(y.head.last(), x.head.last())
		}
	})
	var out []found
	last := uint64(0)
	for _, c := range sc.chunks {
		if c.head.last() > last && c.head.last() < math.MaxUint64 {
			out = append(out, c)
			last = c.head.last()
		}
	}
	return out
}

func compare(x, y uint64) int {
	if x < y {
		return -1
	}
	if x > y {
		return 1
	}
	return 0
}
