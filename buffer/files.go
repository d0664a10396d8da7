package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	maxIdleFiles = 4
	idleAfter    = 10 * time.Second
	markerName   = "opening"
)

// openFiles holds the segments that are open. A segment is open while
// somebody uses it, and a little longer.
type openFiles struct {
	mu   sync.Mutex
	dir  string
	now  func() time.Duration
	open map[*segment]struct{}
}

// openState is a segment's open file; openFiles.mu covers it.
type openState struct {
	segmentFile
	refs   int
	used   time.Duration
	gone   bool // close it when nobody uses it any more
	broken bool // never touch db again
}

func newOpenFiles(dir string, now func() time.Duration) *openFiles {
	return &openFiles{dir: dir, now: now, open: make(map[*segment]struct{})}
}

// adopt takes over the file of a segment that was just created.
func (o *openFiles) adopt(s *segment, src segmentFile) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.open = openState{segmentFile: src, refs: 1, used: o.now()}
	o.open[s] = struct{}{}
}

// acquire opens the segment if need be, for reading; release must follow.
func (o *openFiles) acquire(s *segment) (segmentFile, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.open.gone || s.open.broken {
		return segmentFile{}, fmt.Errorf("%s: %w", s.name(), os.ErrNotExist)
	}
	if !s.open.isOpen() {
		src, err := o.openSource(s)
		if err != nil {
			return segmentFile{}, err
		}
		s.open.segmentFile = src
		o.open[s] = struct{}{}
	}
	s.open.refs++
	return s.open.segmentFile, nil
}

func (o *openFiles) openSource(s *segment) (segmentFile, error) {
	src := segmentFile{s: s}
	var err error
	if s.raw {
		src.raw, err = openRawSegment(s)
	} else {
		src.db, err = openMarked(s.path, true, 0, marking(o.dir))
	}
	return src, err
}

func (o *openFiles) release(s *segment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.open.refs--
	s.open.used = o.now()
	if s.open.refs == 0 && (s.open.gone || len(o.open) > maxIdleFiles) {
		o.closeLocked(s)
	}
}

// abandon leaves a file alone that bbolt broke on.
func (o *openFiles) abandon(s *segment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.open.broken = true
	delete(o.open, s)
}

// forget closes the file as soon as nobody uses it.
func (o *openFiles) forget(s *segment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.open.gone = true
	if s.open.refs == 0 {
		o.closeLocked(s)
	}
}

func (o *openFiles) closeLocked(s *segment) {
	delete(o.open, s)
	if !s.open.isOpen() || s.open.broken {
		return
	}
	_ = s.open.close() // it was only read, or every commit in it is durable
	s.open.segmentFile = segmentFile{}
}

// reopen ends the writing to a file: the next reader opens it for reading.
func (o *openFiles) reopen(s *segment) {
	o.release(s)
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.open.refs == 0 {
		o.closeLocked(s)
	}
}

// closeIdle closes what nobody has used for a while and returns how many
// files are open still.
func (o *openFiles) closeIdle(after time.Duration) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	for s := range o.open {
		if s.open.refs == 0 && o.now()-s.open.used >= after {
			o.closeLocked(s)
		}
	}
	return len(o.open)
}

// readMarker returns the name of the file that bbolt was opening when the last
// process died; "" if it died otherwise or not at all. A kill or a power cut
// may have hit that moment by chance: so what is done about it costs no record
// and repeats none.
func readMarker(dir string) string {
	name, err := os.ReadFile(filepath.Join(dir, markerName))
	if err != nil {
		return ""
	}
	return string(name)
}

// marking returns a mark for openMarked. It is not synced: it is to outlive
// the process, not the machine.
func marking(dir string) func(name string) (done func(), err error) {
	return func(name string) (func(), error) {
		err := os.WriteFile(filepath.Join(dir, markerName), []byte(name), fileMode)
		if err != nil && !isReadOnly(err) {
			return nil, err
		}
		return func() { clearMarker(dir) }, nil
	}
}

func clearMarker(dir string) {
	_ = os.Remove(filepath.Join(dir, markerName)) // left over, it costs one salvage
}

// isReadOnly tells whether err is no reason not to read: the disk is full or
// cannot be written.
func isReadOnly(err error) bool {
	return isFull(err) || errors.Is(err, os.ErrPermission) || isReadOnlySystem(err)
}
