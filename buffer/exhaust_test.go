package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"
)

// sampleState makes a state.db with a real tree and returns its bytes and
// what it says.
func sampleState(tb testing.TB, gaps int) ([]byte, *stateImage) {
	tb.Helper()
	dir := tb.TempDir()
	c := &change{
		streams: map[uint64]string{7: "S7", 8: "S8"},
		cursors: map[string]cursor{"platform": {at: place{7, 900}, acked: 12345}, "second": {at: place{8, 3}}},
		gaps:    map[string][]*pendingGap{"platform": nil},
		sealed:  map[place]summary{{7, 1}: {5000, 1, 2, 3}, {8, 1}: {600, 4, 5, 6}},
		values:  map[string][]byte{"bdSeq/platform": {3}},
	}
	for i := range uint64(gaps) {
		c.gaps["platform"] = append(c.gaps["platform"], &pendingGap{ord: 7, Gap: Gap{
			Stream: "S7", From: 1000 + 20*i, To: 1009 + 20*i, Readings: 7 * i, Reason: ReasonFull, Oldest: 1, Newest: 2,
		}})
	}
	if err := installState(dir, "", c); err != nil {
		tb.Fatal(err)
	}
	im, err := loadState(dir)
	if err != nil || len(im.gaps["platform"]) != gaps {
		tb.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, stateName))
	if err != nil {
		tb.Fatal(err)
	}
	ck := &checker{file: bytes.NewReader(data)}
	m, err := ck.meta()
	if err != nil {
		tb.Fatal(err)
	}
	return data[:m.pages*pageSize], im // the rest is room to grow
}

// spread calls fn for 0 to n-1 on all cores.
func spread(n int, fn func(i int)) {
	var wg sync.WaitGroup
	for core := range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := core; i < n; i += runtime.GOMAXPROCS(0) {
				fn(i)
			}
		})
	}
	wg.Wait()
}

// partOf tells whether all that im says is in whole, too.
func partOf(im, whole *stateImage) bool {
	for name, gaps := range im.gaps {
		at := 0
		for _, g := range gaps {
			for at < len(whole.gaps[name]) && *whole.gaps[name][at] != *g {
				at++
			}
			if at == len(whole.gaps[name]) {
				return false
			}
		}
	}
	part := *whole
	part.gaps = im.gaps
	part.streams, part.cursors, part.segments, part.values = maps.Clone(whole.streams), maps.Clone(whole.cursors), maps.Clone(whole.segments), maps.Clone(whole.values)
	maps.DeleteFunc(part.streams, func(k uint64, _ string) bool { _, ok := im.streams[k]; return !ok })
	maps.DeleteFunc(part.cursors, func(k string, _ cursor) bool { _, ok := im.cursors[k]; return !ok })
	maps.DeleteFunc(part.segments, func(k place, _ summary) bool { _, ok := im.segments[k]; return !ok })
	maps.DeleteFunc(part.values, func(k string, _ []byte) bool { _, ok := im.values[k]; return !ok })
	return reflect.DeepEqual(&part, im)
}

// TestStateExhaustively hurts a state.db with a real tree in every page: each
// third byte (all of them, with MILLRACE_ROUNDS) has a bit flipped, each page is zeroed, or filled with another one, and
// the file ends at each page. What is read is right, or is known to be
// damaged, and what is there all the same is right.
func TestStateExhaustively(t *testing.T) {
	t.Parallel()
	whole, im := sampleState(t, 90)
	pages := len(whole) / pageSize
	t.Log(pages, "pages")
	verdict := func(what string, at int, hurt io.ReaderAt, size int) {
		got, err := readImage(hurt, int64(size))
		switch {
		case err != nil && !isDamage(err):
			t.Errorf("%s %d: %v", what, at, err)
		case err == nil && !reflect.DeepEqual(got, im):
			t.Errorf("%s %d: it changed, and nobody noticed", what, at)
		case err != nil && !partOf(got, im):
			t.Errorf("%s %d: something wrong was read: %+v", what, at, got)
		}
	}
	step, start := 3, rand.IntN(3)
	if rounds(1) > 1 {
		step, start = 1, 0
	}
	spread((len(whole)-start)/step, func(i int) {
		i = start + i*step
		page := bytes.Clone(whole[i/pageSize*pageSize:][:pageSize])
		page[i%pageSize] ^= 1 << rand.IntN(8)
		verdict("a bit of byte", i, patched{whole, int64(i / pageSize * pageSize), page}, len(whole))
	})
	spread(pages*pages, func(i int) {
		from, to := i/pages*pageSize, i%pages*pageSize
		page := bytes.Clone(whole[from:][:pageSize])
		if from == to {
			clear(page)
		}
		verdict("a copied or zeroed page", i, patched{whole, int64(to), page}, len(whole))
	})
	spread(pages, func(i int) { verdict("cut at page", i, bytes.NewReader(whole[:i*pageSize]), i*pageSize) })
}

// patched is a file in which one page is another one.
type patched struct {
	whole []byte
	at    int64
	page  []byte
}

func (p patched) ReadAt(b []byte, at int64) (int, error) {
	n, err := bytes.NewReader(p.whole).ReadAt(b, at)
	if start := p.at - at; start >= 0 && start < int64(n) {
		copy(b[start:n], p.page)
	} else if start < 0 && -start < pageSize {
		copy(b[:n], p.page[-start:])
	}
	return n, err
}

// sampleSegment makes a segment with a real tree: many commits,
// branches. It returns its description and its bytes.
func sampleSegment(tb testing.TB) (*segment, []byte) {
	tb.Helper()
	dir := tb.TempDir()
	o := testOptions(tb, dir)
	o.SegmentSize, o.CommitInterval = 8<<20, time.Nanosecond
	b := openBuffer(tb, o)
	n := uint64(0)
	for range 120 {
		n = appendRandom(tb, b, n, 1)
		waitFor(tb, "a commit", func() bool { return settledIn(b) == n })
	}
	closeBuffer(tb, b)
	files, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(files) != 1 {
		tb.Fatal(files, err)
	}
	s, _ := parseSegmentName(files[0])
	data, err := os.ReadFile(files[0])
	if err != nil {
		tb.Fatal(err)
	}
	return s, data
}

// chunksOf reads a segment as the buffer does: by bbolt or, if it is damaged,
// by looking through it.
func chunksOf(s *segment) (map[uint64]string, error) {
	chunks := make(map[uint64]string)
	src := segmentFile{s: s}
	damaged := false
	take := func(v []byte) bool {
		h, body, err := parseChunk(v, streamTag(s.stream))
		if err != nil {
			damaged = true
			return true
		}
		chunks[h.first] = string(body)
		return true
	}
	var err error
	if src.db, err = openBolt(s.path, true, 0); err == nil {
		err = src.each(0, take)
		if cerr := src.close(); err == nil {
			err = cerr
		}
	}
	if err != nil && !isDamage(err) {
		return nil, err
	}
	if err == nil && !damaged {
		return chunks, nil
	}
	if src.raw, err = openRawSegment(s); err != nil {
		return nil, err
	}
	src.db = nil
	return chunks, errors.Join(src.each(0, take), src.close())
}

// TestSegmentExhaustively hurts a segment with a real tree in every page: a
// bit is flipped, the page is zeroed, or is another one, and the file ends
// there. Of the chunks no other are missing than those in that page, and no
// other bytes are read than were written.
func TestSegmentExhaustively(t *testing.T) {
	t.Parallel()
	s, whole := sampleSegment(t)
	all, err := chunksOf(s)
	if err != nil || len(all) != 120 {
		t.Fatal(len(all), err)
	}
	raw, err := openRawSegment(s)
	if err != nil {
		t.Fatal(err)
	}
	places := make(map[uint64]found)
	for _, c := range raw.chunks {
		places[c.head.first] = c
	}
	if err := raw.file.Close(); err != nil {
		t.Fatal(err)
	}
	pages := len(whole) / pageSize
	t.Log(pages, "pages")
	dir := t.TempDir()
	spread(4*pages, func(i int) {
		page := i / 4
		data := bytes.Clone(whole)
		hurt := data[page*pageSize:][:pageSize]
		from, to := page*pageSize, (page+1)*pageSize
		switch i % 4 {
		case 0:
			hurt[rand.IntN(pageSize)] ^= 1 << rand.IntN(8)
		case 1:
			clear(hurt)
		case 2:
			copy(hurt, whole[rand.IntN(pages)*pageSize:])
		case 3:
			data, to = data[:from], len(whole)
		}
		h := newSegment(dir, s.ord, s.stream, s.first)
		h.path = filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(h.path, data, fileMode); err != nil {
			t.Error(err)
			return
		}
		defer os.Remove(h.path)
		got, err := chunksOf(h)
		if err != nil {
			t.Errorf("page %d, way %d: %v", page, i%4, err)
			return
		}
		for first, body := range all {
			e := places[first]
			switch there, ok := got[first]; {
			case ok && there != body:
				t.Errorf("page %d, way %d: chunk %d has other bytes", page, i%4, first)
			case !ok && (e.at >= int64(to) || e.at+int64(e.size) <= int64(from)):
				t.Errorf("page %d, way %d: chunk %d at %d is missing", page, i%4, first, e.at)
			}
		}
		if len(got) > len(all) {
			t.Errorf("page %d, way %d: more was read than was written", page, i%4)
		}
	})
}

// TestDamagedReadings: what the gap notices of a damaged file say, and what
// arrives from it, are together what was in it.
func TestDamagedReadings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := testOptions(t, dir)
	o.Uplinks = []string{"a", "b"}
	o.SegmentSize, o.CommitInterval = 8<<20, time.Nanosecond
	b := openBuffer(t, o)
	n := uint64(0)
	for range 60 {
		n = appendRandom(t, b, n, 5)
		waitFor(t, "a commit", func() bool { return settledIn(b) == n })
	}
	closeBuffer(t, b)
	files, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	s, _ := parseSegmentName(files[0])
	raw, err := openRawSegment(s)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	lost, gone := uint64(0), []int{3, 4, 20, len(raw.chunks) - 1}
	for _, i := range gone {
		lost += uint64(raw.chunks[i].head.count)
		data[raw.chunks[i].at+chunkHeaderSize+9] ^= 4
	}
	if err := errors.Join(raw.file.Close(), os.WriteFile(s.path, data, fileMode)); err != nil {
		t.Fatal(err)
	}
	first, book := o.Stream, &logBook{}
	o.Stream, o.Log = newStream(), book.logger()
	b = openBuffer(t, o)
	for _, name := range o.Uplinks {
		r := &receiver{}
		stop := forward(t, b, name, r)
		waitFor(t, "all delivered", func() bool { u := b.Stats().Uplinks[name]; return u.Lag == 0 && u.Gaps == 0 })
		stop()
		if gaps := account(t, r.got(), first, 1, n); gaps != 3 {
			t.Errorf("%d gaps, want 3", gaps)
		}
		sum(t, r.got(), n)
	}
	if st := b.Stats(); st.Dropped[ReasonDamaged] != 3*lost || st.DroppedBatches[ReasonDamaged] != lost {
		t.Errorf("dropped: %v readings in %v batches, want three in each of %d", st.Dropped, st.DroppedBatches, lost)
	}
	if n := book.count("is damaged"); n != 1 {
		t.Errorf("%d lines in the log:\n%s", n, book.b.String())
	}
	closeBuffer(t, b)
}
