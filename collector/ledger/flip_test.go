package ledger_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"millrace/collector/ledger"
)

// TestFlippedBits flips each bit of each frame's header in the file of a month:
// what is lost is what that frame has, and no more; of the names frame, that is
// whose the rows are.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), start()
	l := open(c, dir)
	d := l.Device("d")
	const hours = 6
	for range hours {
		d.Scanned(c.wall, ledger.Scan{Read: 1})
		c.pass(time.Hour)
		l.Flush(false)
	}
	l.Flush(true)
	files, err := filepath.Glob(filepath.Join(dir, "*.ledger"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	const header, kind, names = 36, 4, 1
	readings := func() (n int64) {
		for _, r := range read(t, dir).rows {
			n += r.Read
		}
		return n
	}
	if n := readings(); n != hours {
		t.Fatalf("%d of %d hours", n, hours)
	}
	frames := 0
	for at := 0; at+header <= len(whole); {
		next := bytes.Index(whole[at+1:], []byte("MML1"))
		if whole[at+kind] != names {
			frames++
			for bit := range 8 * header {
				damaged := bytes.Clone(whole)
				damaged[at+bit/8] ^= 1 << (bit % 8)
				if err := os.WriteFile(files[0], damaged, 0o600); err != nil {
					t.Fatal(err)
				}
				if n := readings(); n < hours-1 || n > hours {
					t.Errorf("frame at %d, bit %d: %d of %d hours", at, bit, n, hours)
				}
			}
		}
		if next < 0 {
			break
		}
		at += 1 + next
	}
	if frames < hours {
		t.Errorf("%d frames", frames)
	}
}
