package buffer

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// newerSegment makes a segment one of a newer program; with chunks, of which
// this one can read none.
func newerSegment(tb tester, path string, chunks bool) {
	tb.Helper()
	editBolt(tb, path, putVersion(segmentVersion+1))
	if !chunks {
		return
	}
	injury{"", func(d []byte) []byte {
		return bytes.ReplaceAll(d, append([]byte(chunkMagic), chunkVersion), append([]byte(chunkMagic), chunkVersion+1))
	}}.apply(tb, path)
}

// newerState makes state.db one of a newer program whose cursors this one
// cannot read.
func newerState(tb tester, dir string) {
	tb.Helper()
	editBolt(tb, filepath.Join(dir, stateName), func(tx *bolt.Tx) error {
		cursors := tx.Bucket([]byte(bucketCursors))
		for _, name := range []string{"a", "b"} {
			if err := cursors.Put([]byte(name), []byte("another form")); err != nil {
				return err
			}
		}
		return putVersion(stateVersion + 1)(tx)
	})
}

// TestOtherVersion: after a downgrade, files of the newer program are kept
// under the limit of size, and it is said whose they are and what to do.
func TestOtherVersion(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	streams := written(t, dir)
	deliver(t, dir, "a") // what a has, comes again without its cursor
	files := segmentsIn(t, dir)
	newerSegment(t, files[0], true)
	newerSegment(t, files[1], false)
	newerState(t, dir)

	var said logBook
	o := testOptions(t, dir)
	o.Uplinks, o.Log = []string{"a", "b"}, said.logger()
	b := openBuffer(t, o)
	r := &receiver{}
	stop := forward(t, b, "a", r)
	waitFor(t, "all delivered", func() bool { return b.Stats().Uplinks["a"].Lag == 0 && b.Stats().Uplinks["a"].Gaps == 0 })
	stop()
	if gaps := account(t, r.got(), streams[0], 1, damagedRecords); gaps != 1 {
		t.Errorf("%d gaps, want one for the file of which nothing can be read", gaps)
	}
	if gaps := account(t, r.got(), streams[1], 1, damagedRecords); gaps != 0 {
		t.Errorf("%d gaps in the stream whose files are all of this version", gaps)
	}
	wantKept(t, b, "damaged-1-"+stateName, "damaged-1-"+filepath.Base(files[0]))
	closeBuffer(t, b)

	for _, want := range []string{
		`"the buffer's state.db is of another version: it is kept, and what this version can read in it goes into a new one; ` +
			`an uplink whose place is not in that gets all that is still in the buffer, so that some batches come twice" ` +
			"file=" + filepath.Join(dir, stateName) +
			` cause="` + filepath.Join(dir, stateName) + `: written by another version of Millrace (format 3, this one reads 2)"` +
			" kept=" + filepath.Join(dir, "damaged-1-"+stateName) + " uplinks_in_place=0",
		`"a buffer file is of another version: its records are announced as missing, and it is kept; ` +
			`go back to that version to have its readings (millrace buffer export FILE)" file=` + files[0] +
			` cause="written by another version of Millrace (format 4, this one reads 3)"` +
			" kept=" + filepath.Join(dir, "damaged-1-"+filepath.Base(files[0])),
		`"a buffer file is of another version; what this version can read in it goes out, the rest is announced as missing, and it is kept as damaged-*; ` +
			`go back to that version to have all of its readings (millrace buffer export FILE)" file=` +
			strings.TrimSuffix(files[1], segmentSuffix) + rawSuffix +
			` cause="written by another version of Millrace (format 4, this one reads 3)"`,
	} {
		if said.count(want) != 1 {
			t.Errorf("the log does not say once\n%s\nin\n%s", want, said.b.String())
		}
	}
}

// wantKept wants those files beside the buffer's, counted and under their names.
func wantKept(t *testing.T, b *Buffer, names ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range names {
		path := filepath.Join(b.o.Dir, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if !slices.Contains(b.counts.setAside, asideFile{path, info.Size()}) {
			t.Errorf("%s does not count for the limit: %v", name, b.counts.setAside)
		}
	}
}
