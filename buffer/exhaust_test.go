package buffer

import (
	"bytes"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"sync"
	"testing"
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
// byte has a bit flipped, each page is zeroed, or filled with another one, and
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
	spread(len(whole), func(i int) {
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
