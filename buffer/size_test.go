package buffer

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// usage adds up the sizes of all files in dir, and the blocks they take.
func usage(dir string) (size, blocks int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil //nolint:nilerr // it went meanwhile
		}
		if info, err := e.Info(); err == nil {
			size += info.Size()
			blocks += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return size, blocks
}

// TestMaxSizeMeasured appends far more than the limit with two dead uplinks,
// schemas of 200 KB and damaged files, and looks at the directory all the
// time: it never takes more than the limit.
func TestMaxSizeMeasured(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := testOptions(t, dir)
	o.Uplinks, o.MaxSize, o.SegmentSize, o.CommitInterval = []string{"a", "b"}, 4<<20, 512<<10, 5*time.Millisecond
	if err := os.WriteFile(filepath.Join(dir, damagedPrefix+"1-x"), make([]byte, 1<<20), fileMode); err != nil {
		t.Fatal(err)
	}
	b := openBuffer(t, o)
	quit, done := make(chan struct{}), make(chan struct{})
	most, mostBlocks := int64(0), int64(0)
	go func() {
		defer close(done)
		for {
			size, blocks := usage(dir)
			most, mostBlocks = max(most, size), max(mostBlocks, blocks)
			select {
			case <-quit:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	n := uint64(0)
	for i := range uint64(24) {
		if err := b.PutSchema(100+i, randomPayload(i, 200<<10)); err != nil {
			t.Fatal(err)
		}
		for range 400 {
			n++
			if _, err := b.Append(Record{Time: time.Now().UnixMilli(), Schema: 100 + i, Readings: 3, Data: randomPayload(n, 1000)}); err != nil {
				t.Fatal(err)
			}
		}
		if i == 12 { // one of the files that wait becomes damaged
			files, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
			if err != nil || len(files) < 3 {
				t.Fatal(files, err)
			}
			injuries()[7].apply(t, files[1])
		}
		waitFor(t, "a commit", func() bool { return settledIn(b) == n })
	}
	close(quit)
	<-done
	t.Logf("limit %d, at most %d in files, %d in blocks", o.MaxSize, most, mostBlocks)
	if most > o.MaxSize || mostBlocks > o.MaxSize {
		t.Errorf("at most %d bytes in files, %d in blocks: the limit is %d", most, mostBlocks, o.MaxSize)
	}
	for _, name := range o.Uplinks {
		r := &receiver{}
		stop := forward(t, b, name, r)
		waitFor(t, "all delivered", func() bool { u := b.Stats().Uplinks[name]; return u.Lag == 0 && u.Gaps == 0 })
		stop()
		account(t, r.got(), o.Stream, 1, n)
		sum(t, r.got(), n)
	}
	closeBuffer(t, b)
}
