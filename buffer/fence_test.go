package buffer

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestFailedCommit fails commits to a segment, one that is whole and one that
// is damaged where the commit itself does not look: bbolt must not go through
// it, where it would kill the process. What was committed is read afterwards
// as if nothing had been.
func TestFailedCommit(t *testing.T) {
	onSmallDisk(t, "2m", func(t *testing.T, dir string) {
		t.Helper()
		for _, c := range []struct {
			name string
			hurt func(page []byte)
		}{
			{"whole", func([]byte) {}},
			{"a page of zeroes", func(p []byte) { clear(p) }},
			{"a page of another kind", func(p []byte) { p[8] = pageFreelist }},
		} {
			failedCommit(t, filepath.Join(dir, c.name), c.hurt)
		}
	})
}

func failedCommit(t *testing.T, dir string, hurt func(page []byte)) {
	t.Helper()
	if err := os.Mkdir(dir, dirMode); err != nil {
		t.Fatal(err)
	}
	enc, err := newChunkEncoder("S1")
	if err != nil {
		t.Fatal(err)
	}
	l := &load{}
	next := uint64(1)
	pack := func(records int) {
		l.reset()
		enc.reset(next, next-1, 0)
		for range records {
			enc.add(&Record{Time: 3, Schema: 1, Readings: 2, Data: randomPayload(next, 1000)})
			next++
		}
		l.add(enc)
	}
	pack(10)
	s := newSegment(dir, 1, "S1", 1)
	db, _, err := createSegment(s, l, 256<<10)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		pack(10)
		if _, err := update(db, l.put); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := openRawSegment(s)
	if err != nil || len(raw.chunks) != 5 {
		t.Fatal(err)
	}
	at := raw.chunks[1].at / pageSize * pageSize
	leaf := make([]byte, pageSize) // where the second commit's chunk begins
	if _, err := raw.file.ReadAt(leaf, at); err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(leaf)
	hurt(leaf)
	f, err := os.OpenFile(s.path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(leaf, at); err != nil {
		t.Fatal(err)
	}
	b := fill(t, filepath.Dir(dir), 2*pageSize)
	for range 3 { // bbolt's locks are free again
		pack(60)
		if _, err := update(db, l.put); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	b.remove(t)
	if _, err := f.WriteAt(whole, at); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), raw.file.Close(), closeBolt(db)); err != nil {
		t.Fatal(err)
	}
	chunks, err := chunksOf(s)
	if err != nil || len(chunks) != 5 {
		t.Errorf("%s: %d chunks, want 5: %v", filepath.Base(dir), len(chunks), err)
	}
}
