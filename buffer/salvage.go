package buffer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const scanWindow = 1 << 20

// rescue goes on with a damaged segment without bbolt: all chunks that can
// still be found in the file, wherever they are, go out. Every uplink is told
// what is missing. The file is kept beside when it has been drained. An error
// says why the file cannot be read now, although it may be later.
func (b *Buffer) rescue(s *segment, cause error) error {
	b.rescuing.Lock()
	defer b.rescuing.Unlock()
	b.mu.Lock()
	at := slices.Index(b.segments, s)
	expected := b.expectedLast(at)
	b.mu.Unlock()
	if at < 0 {
		return nil // somebody else did it
	}
	raw, err := openRawSegment(s)
	if err != nil && !isDamage(err) && !isMissing(err) {
		return fmt.Errorf("read %s: %w", s.path, err)
	}
	if err != nil || len(raw.chunks) == 0 || s.raw {
		if raw != nil {
			_ = raw.file.Close() // only read
		}
		b.abandonSegment(s, max(expected, s.first), cause)
		return nil
	}
	b.goOnRaw(s, raw, expected, cause)
	return nil
}

// goOnRaw puts the chunks that were found into the place of the segment.
func (b *Buffer) goOnRaw(s *segment, raw *rawSegment, expected uint64, cause error) {
	next := newSegment(filepath.Dir(s.path), s.ord, s.stream, s.first)
	next.raw, next.size = true, s.size
	b.mu.Lock()
	boot, h := b.clocks.origin(s.ord)
	b.mu.Unlock()
	next.boot, next.clock = boot, h.Append(nil)
	for i := range raw.chunks {
		head := &raw.chunks[i].head
		next.cover(head, stepped(h, head))
	}
	next.last = max(next.last, expected)
	known := uint64(0)
	if s.last >= s.first {
		known = s.readings
	}
	holes := raw.holes(s.first, next.last, known, h)
	next.path = strings.TrimSuffix(s.path, segmentSuffix) + rawSuffix
	if err := os.Rename(s.path, next.path); err != nil {
		next.path = s.path // a disk that is read-only: the next start finds out again
	} else if err := syncDir(filepath.Dir(s.path)); err != nil {
		b.diskSays(err)
	}
	b.disk.files.forget(s)
	b.disk.files.adopt(next, segmentFile{s: next, raw: raw})
	b.disk.files.release(next)
	missing, readable := uint64(0), next.readings
	b.mu.Lock()
	if i := slices.Index(b.segments, s); i >= 0 {
		b.segments[i] = next
		b.seal(next)
	}
	for _, h := range holes {
		missing += h.last - h.first + 1
		b.missSpan(next.ord, next.stream, h)
		next.readings += h.readings
	}
	b.mu.Unlock()
	attrs := []any{"file", next.path, "cause", cause, "readable_readings", readable, "missing_batches", missing}
	if errors.Is(cause, ErrVersion) {
		b.log.Warn("a buffer file is of another version; what this version can read in it goes out, the rest is announced as missing, "+
			"and it is kept as damaged-*; go back to that version to have all of its readings (millrace buffer export FILE)", attrs...)
		return
	}
	b.log.Warn("a buffer file is damaged; what is readable in it goes out, the rest is announced as missing", attrs...)
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

// abandonSegment gives up a segment of which nothing can be read.
func (b *Buffer) abandonSegment(s *segment, last uint64, cause error) {
	b.mu.Lock()
	b.missAll(s, last)
	b.mu.Unlock()
	if err := b.saveState(); err != nil {
		b.diskSays(err)
	}
	b.disk.files.forget(s)
	aside, err := b.setAside(s.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.log.Warn("a damaged buffer file cannot be set aside", "file", s.path, "err", err)
	}
	b.remove([]*segment{s})
	if errors.Is(cause, ErrVersion) {
		b.log.Warn("a buffer file is of another version: its records are announced as missing, and it is kept; "+
			"go back to that version to have its readings (millrace buffer export FILE)",
			"file", s.path, "cause", cause, "kept", cmp.Or(aside, s.path), "from", s.first, "to", last)
		return
	}
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
