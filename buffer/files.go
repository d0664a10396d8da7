package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
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
	last marker
	open map[*segment]struct{}
}

// openState is a segment's open file; openFiles.mu covers it.
type openState struct {
	db     *bolt.DB
	refs   int
	used   time.Duration
	gone   bool // close it when nobody uses it any more
	broken bool // never touch db again
}

func newOpenFiles(dir string, last marker, now func() time.Duration) *openFiles {
	return &openFiles{dir: dir, last: last, now: now, open: make(map[*segment]struct{})}
}

// adopt takes over the file of a segment that was just created.
func (o *openFiles) adopt(s *segment, db *bolt.DB) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.open = openState{db: db, refs: 1, used: o.now()}
	o.open[s] = struct{}{}
}

// acquire opens the segment if need be, for reading; release must follow.
func (o *openFiles) acquire(s *segment) (*bolt.DB, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.open.gone || s.open.broken {
		return nil, fmt.Errorf("%s: %w", s.name(), os.ErrNotExist)
	}
	if s.open.db == nil {
		if err := o.last.set(o.dir, s.name()); err != nil && !isReadOnly(err) {
			return nil, err
		}
		db, err := openBolt(s.path, true, 0)
		clearMarker(o.dir)
		if err != nil {
			return nil, err
		}
		if o.last.name == s.name() {
			o.last = marker{} // it does not kill after all
		}
		s.open.db = db
		o.open[s] = struct{}{}
	}
	s.open.refs++
	return s.open.db, nil
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
	if s.open.db == nil || s.open.broken {
		return
	}
	_ = closeBolt(s.open.db) // it was only read, or every commit in it is durable
	s.open.db = nil
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

// marker says which file is being opened, and how often that killed the
// process before. Once may be chance (a power cut, a kill); after the second
// time the file is set aside.
type marker struct {
	name  string
	tries int
}

const maxTries = 2

// readMarker returns what the last process left; the zero marker if it died
// otherwise or not at all.
func readMarker(dir string) marker {
	text, err := os.ReadFile(filepath.Join(dir, markerName))
	if err != nil {
		return marker{}
	}
	m := marker{tries: maxTries}
	if _, err := fmt.Sscanf(string(text), "%d %s", &m.tries, &m.name); err != nil {
		return marker{}
	}
	return m
}

// kills tells whether opening the file is known to kill the process.
func (m marker) kills(name string) bool { return m.name == name && m.tries >= maxTries }

// set notes that name is being opened. It is not synced: it is to outlive
// the process, not the machine.
func (m marker) set(dir, name string) error {
	tries := 1
	if m.name == name {
		tries += m.tries
	}
	return os.WriteFile(filepath.Join(dir, markerName), fmt.Appendf(nil, "%d %s", tries, name), fileMode)
}

func clearMarker(dir string) {
	_ = os.Remove(filepath.Join(dir, markerName)) // left over, it costs one salvage
}

// isReadOnly tells whether err is no reason not to read: the disk is full or
// cannot be written.
func isReadOnly(err error) bool {
	return isFull(err) || errors.Is(err, os.ErrPermission) || isReadOnlySystem(err)
}
