package buffer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"millrace/buffer/internal/clock"
)

// Errors of OpenDir.
var (
	// ErrNoBuffer: there is no buffer where one was looked for.
	ErrNoBuffer = errors.New("no buffer is here")
	// ErrPlaceUnknown: state.db does not say what an uplink has acknowledged.
	ErrPlaceUnknown = errors.New("what waits for an uplink is not known")
	// ErrVersion: another version of the program wrote the file.
	ErrVersion = errors.New("written by another version of Millrace")
)

// Dir is a look at the files of a buffer that no agent uses, or at a single
// one of its segments. Nothing in the directory is changed, no lock is held
// and no file stays open, so that it works on a read-only file system, and an
// agent may start meanwhile. Its methods may be called by one goroutine.
type Dir struct {
	path     string
	single   bool       // path is one file
	segments []*segment // those that the agent would go on with, in order
	aside    []asideSegment
	left     []string // what a crash left half done: the next start clears it away
	state    *stateImage
	clocks   clocks
	stateErr error       // why it is not all that state.db should hold
	size     int64       // of all files
	memory   *leftMemory // nil: there is none
}

// asideSegment is a damaged file that was set aside.
type asideSegment struct {
	path string
	size int64
	seg  *segment // what its name says; nil: it is no segment
}

// OpenDir looks at path, a buffer's directory or one file of a segment. It
// fails with ErrInUse while an agent uses the directory, and with ErrNoBuffer
// if there is none.
func OpenDir(path string) (*Dir, error) { return openDirOf(path, "") }

// openDirOf is OpenDir for a buffer with Options.SharedMemory.
func openDirOf(path, sharedMemory string) (*Dir, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%s: %w: there is nothing of that name", path, ErrNoBuffer)
	case errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("%s: %w: a part of that path is a file", path, ErrNoBuffer)
	case err != nil:
		return nil, err
	case !info.IsDir():
		return openOne(path, info.Size())
	}
	if err := lockIsFree(path); err != nil {
		return nil, err
	}
	d := &Dir{path: path, clocks: bareClocks()}
	known, err := d.list()
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, fmt.Errorf("%s: %w: it holds none of a buffer's files", path, ErrNoBuffer)
	}
	d.readState()
	for _, s := range d.segments {
		d.summarize(s)
	}
	d.readMemory(sharedMemory)
	return d, nil
}

// openOne makes a Dir of a single segment.
func openOne(path string, size int64) (*Dir, error) {
	d := &Dir{path: path, single: true, size: size, clocks: bareClocks(), state: newStateImage(), stateErr: errors.New("a single file says nothing of uplinks")}
	s, aside, ok := segmentOf(path)
	if !ok {
		return nil, fmt.Errorf("%s: %w: this is a file, and none that holds batches", path, ErrNoBuffer)
	}
	if !aside {
		if err := lockIsFree(filepath.Dir(path)); err != nil {
			return nil, err // it may be the one that is being written
		}
	}
	s.size = size
	if aside {
		d.aside = []asideSegment{{path, size, s}}
	} else {
		d.segments = []*segment{s}
		d.summarize(s)
	}
	return d, nil
}

// bareClocks knows nothing, not even of this boot: a look is no run.
func bareClocks() clocks {
	return clocks{mine: &clock.History{}, streams: make(map[uint64]string), boots: make(map[string]*clock.History)}
}

// segmentOf reads a segment's name, also that of one that was set aside.
func segmentOf(path string) (s *segment, aside, ok bool) {
	name := filepath.Base(path)
	if rest, found := strings.CutPrefix(name, damagedPrefix); found {
		if _, after, cut := strings.Cut(rest, "-"); cut {
			name, aside = after, true
		}
	}
	s, ok = parseSegmentName(filepath.Join(filepath.Dir(path), name))
	if ok {
		s.path = path
	}
	return s, aside, ok
}

// list finds the files. known tells whether any is a buffer's.
func (d *Dir) list() (known bool, err error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		path := filepath.Join(d.path, e.Name())
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // it went meanwhile, or it is the agent's socket
		}
		s, aside, isSegment := segmentOf(path)
		switch {
		case strings.HasSuffix(e.Name(), tmpSuffix):
			d.left = append(d.left, e.Name())
		case isSegment && aside:
			d.aside = append(d.aside, asideSegment{path, info.Size(), s})
		case isSegment:
			s.size = info.Size()
			d.segments = append(d.segments, s)
		case strings.HasPrefix(e.Name(), damagedPrefix):
			d.aside = append(d.aside, asideSegment{path, info.Size(), nil})
		case e.Name() != stateName && e.Name() != lockName && e.Name() != markerName:
			continue // not ours
		}
		known = true
		d.size += info.Size()
	}
	d.sortSegments()
	return known, nil
}

// sortSegments brings the segments into order. Of two with the same name but
// for its suffix, it keeps one.
func (d *Dir) sortSegments() {
	slices.SortFunc(d.segments, func(x, y *segment) int {
		switch {
		case x.start().before(y.start()):
			return -1
		case y.start().before(x.start()):
			return 1
		}
		return strings.Compare(x.path, y.path) // "….raw" before "….seg"
	})
	d.segments = slices.CompactFunc(d.segments, func(x, y *segment) bool {
		if x.start() != y.start() || x.stream != y.stream {
			return false
		}
		d.left = append(d.left, filepath.Base(y.path))
		return true
	})
}

// readState reads state.db, as far as that is possible.
func (d *Dir) readState() {
	d.state, d.stateErr = loadState(d.path)
	d.clocks.take(d.state)
	if errors.Is(d.stateErr, os.ErrNotExist) {
		d.stateErr = noStateError{}
	}
}

// noStateError says that there is no state.db.
type noStateError struct{}

// Error is for the error interface.
func (noStateError) Error() string {
	return "there is no " + stateName + ": what each uplink has acknowledged is not known"
}

// Unwrap is for errors.Is.
func (noStateError) Unwrap() error { return os.ErrNotExist }

// summarize learns what a segment holds: from state.db, or else from the
// headers of its chunks. What cannot be read stays unknown.
func (d *Dir) summarize(s *segment) {
	if sum, ok := d.state.segments[s.start()]; ok && sum.last >= s.first {
		s.last, s.oldest, s.newest, s.readings, s.sealed = sum.last, sum.oldest, sum.newest, sum.readings, true
		return
	}
	f, size, err := openRegular(s.path)
	if err != nil {
		return
	}
	defer f.Close() //nolint:errcheck // only read
	var c content
	_ = walkBolt(f, size, func(trail []string, key, value []byte, _ int64) error {
		switch trail[0] {
		case bucketMeta:
			c.takeMeta(key, value)
		case bucketChunks:
			if h, err := parseChunkHeader(value); err == nil {
				c.refs = append(c.refs, chunkRef{head: h})
			}
		}
		return nil
	}) // verify and export say what is wrong with it
	h := d.clocks.adopt(s.ord, c.boot, c.clock)
	for i := range c.refs {
		head := &c.refs[i].head
		d.clocks.learn(s.ord, head.oldest, head.oldest-head.clock)
		s.cover(head, stepped(h, head))
	}
}

// Value returns the small value that Buffer.StatePut stored under key; nil if
// there is none, or state.db cannot be read.
func (d *Dir) Value(key string) []byte { return d.state.values[key] }

// uplinks returns the uplinks at their places.
func (d *Dir) uplinks() map[string]*uplink {
	all := make(map[string]*uplink)
	for name, c := range d.state.cursors {
		all[name] = newUplink(name, c, slices.Clone(d.state.gaps[name]))
	}
	return all
}

// until makes a visitor end when ctx does.
func (v visitor) until(ctx context.Context) visitor {
	return func(path []string, key, value []byte, at int64) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return v(path, key, value, at)
	}
}

// chunkRef says where a chunk is.
type chunkRef struct {
	head chunkHeader
	at   int64
	size int
	from chunkSource
}

// chunkSource is a file that chunks are read from.
type chunkSource interface {
	// read appends the chunk, header and all, to dst.
	read(ref *chunkRef, dst []byte) ([]byte, error)
	close()
}

// rawFile reads chunks at their places in a file that nobody writes to.
type rawFile struct{ f *os.File }

func (r rawFile) read(ref *chunkRef, dst []byte) ([]byte, error) {
	start := len(dst)
	dst = slices.Grow(dst, ref.size)[:start+ref.size]
	if _, err := r.f.ReadAt(dst[start:], ref.at); err != nil && !errors.Is(err, io.EOF) {
		return dst[:start], fmt.Errorf("%w: %w", errChunkDamaged, err)
	}
	return dst, nil
}

func (r rawFile) close() { _ = r.f.Close() } // it was only read

// content is what was found in the file of a segment.
type content struct {
	refs    []chunkRef
	schemas map[uint64][]byte // packed
	boot    string            // of which the records are
	clock   *clock.History    // what the file knows of that boot's clock
	damaged int               // chunks and schemas in the tree that are not what they should be
}

// takeMeta takes what a segment's meta bucket says of the clock.
func (c *content) takeMeta(key, value []byte) {
	switch string(key) {
	case keyBoot:
		c.boot = string(value)
	case keyClock:
		c.clock, _ = clock.Parse(value) // nil: it makes no sense
	}
}

// indexTree finds the chunks by the file's tree.
func indexTree(ctx context.Context, f *os.File, size int64, stream string, from chunkSource) (*content, error) {
	tag := streamTag(stream)
	c := &content{schemas: make(map[uint64][]byte)}
	visit := visitor(func(path []string, key, value []byte, at int64) error {
		switch path[0] {
		case bucketMeta:
			if string(key) == keyVersion {
				return checkVersion(value, segmentVersion)
			}
			c.takeMeta(key, value)
		case bucketSchemas:
			c.takeSchema(key, value)
		case bucketChunks:
			h, _, err := parseChunk(value, tag)
			if err != nil {
				c.damaged++
				return nil //nolint:nilerr // it is counted
			}
			c.refs = append(c.refs, chunkRef{head: h, at: at, size: chunkHeaderSize + int(h.length), from: from})
		}
		return nil
	})
	return c, walkBolt(f, size, visit.until(ctx))
}

func (c *content) takeSchema(key, value []byte) {
	id, blob, err := parseSchema(value)
	if err != nil || len(key) != 8 || binary.BigEndian.Uint64(key) != id {
		c.damaged++
		return
	}
	c.schemas[id] = slices.Clone(blob)
}

// indexScan finds the chunks wherever they are in the file.
func indexScan(f *os.File, stream string, from chunkSource) *content {
	sc := &scanner{file: f, tag: streamTag(stream), schemas: make(map[uint64][]byte)}
	sc.scan()
	c := &content{schemas: sc.schemas}
	for _, x := range sc.chunks {
		c.refs = append(c.refs, chunkRef{head: x.head, at: x.at, size: x.size, from: from})
	}
	return c
}
