package buffer

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestLookUnknown: of a file that cannot be read, or that state.db knows and
// that is gone, it is not known what waits in it; but an uplink that is past
// it does not care.
func TestLookUnknown(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	written(t, dir)
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	name := filepath.Base(files[0])
	look := func() *Look {
		d := openDir(t, dir)
		d.state.cursors["b"] = cursor{at: place{9, 0}} // it has all
		l := d.Look()
		return &l
	}
	if l := look(); l.Uplinks[0].Unknown || l.Uplinks[1].Unknown || len(l.Unread)+len(l.Gone) > 0 {
		t.Errorf("all is there: %+v", l)
	}

	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	l := look()
	if !l.Uplinks[0].Unknown || l.Uplinks[1].Unknown || !slices.Equal(l.Gone, []string{name}) {
		t.Errorf("%s is gone: %+v", name, l)
	}

	// No summary, and its first pages are zeroes: a run that was killed left it.
	if err := os.WriteFile(files[0], make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, dir)
	d.state.cursors["b"] = cursor{at: place{9, 0}}
	delete(d.state.segments, d.segments[0].start())
	d.segments[0] = newSegment(dir, d.segments[0].ord, d.segments[0].stream, d.segments[0].first)
	d.summarize(d.segments[0])
	got := d.Look()
	if !got.Uplinks[0].Unknown || got.Uplinks[1].Unknown || !slices.Equal(got.Unread, []string{name}) || len(got.Gone) > 0 {
		t.Errorf("%s cannot be read: %+v", name, got)
	}
}
