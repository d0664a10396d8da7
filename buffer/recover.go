package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	damagedPrefix = "damaged-"
	adoptEvery    = 10 * time.Second
)

// asideFile is a damaged file that was kept.
type asideFile struct {
	path string
	size int64
}

// recover prepares the directory and takes over what earlier runs left. It
// fails only where going on would harm: another process is at work.
func (b *Buffer) recover() error {
	im, err := b.takeOver()
	if err == nil {
		b.startClock()
		b.begin(im)
		b.share()
		return nil
	}
	if errors.Is(err, ErrInUse) || errors.Is(err, ErrStreamUsed) {
		return err
	}
	b.diskErr = memoryOnly(err)
	b.log.Warn("the buffer's directory cannot be used; going on in memory. What earlier runs left there is not sent before it can be used; it is tried again every 10 s", "dir", b.o.Dir, "err", err)
	for _, name := range b.o.Uplinks {
		b.uplinks[name] = newUplink(name, cursor{at: place{b.ord, 0}}, nil)
	}
	b.startClock()
	return nil
}

// memoryOnly is why there is no disk.
func memoryOnly(err error) error { return fmt.Errorf("the buffer works from memory alone: %w", err) }

// takeOver opens the directory and takes over all that earlier runs left
// there, and in memory. It returns what state.db said; begin has to follow.
// With an error, it is as if it had not been called.
func (b *Buffer) takeOver() (*stateImage, error) {
	if err := makeDir(b.o.Dir); err != nil {
		return nil, err
	}
	lock, err := lockDir(b.o.Dir)
	if err != nil {
		return nil, err
	}
	suspect := readMarker(b.o.Dir)
	d := &disk{dir: b.o.Dir, lock: lock, files: newOpenFiles(b.o.Dir, b.clock)}
	im, rebuilt, err := b.openState(d, suspect)
	var segments []*segment
	if err == nil {
		segments, err = b.list(d, im)
	}
	if err != nil {
		_ = d.close() // the first error says more
		return nil, err
	}
	b.w.values = im.values
	for _, s := range segments {
		if im.streams[s.ord] == "" {
			im.streams[s.ord] = s.stream // the row was lost; a notice has to name it
		}
	}
	old := b.findShared(im, segments, rebuilt && b.keptState())
	if old != nil {
		defer old.Close() //nolint:errcheck // only read
		old.correct(im)
	}
	b.mu.Lock()
	b.disk = d
	b.segments = segments
	b.ord = nextOrdinal(im, segments)
	b.takeUplinks(im, rebuilt)
	b.clocks.take(im)
	b.mu.Unlock()
	if err := b.streamIsNew(im, segments); err != nil {
		b.disk = nil
		return nil, errors.Join(err, d.close())
	}
	b.w.begun = true // the last stream is the last one until all of it is safe
	b.examine(im, suspect)
	if old != nil {
		b.revive(old)
	}
	b.w.begun = false
	b.findPrevious(im, old)
	return im, nil
}

// keptState tells whether a damaged state.db was set aside.
func (b *Buffer) keptState() bool {
	return slices.ContainsFunc(b.counts.setAside, func(a asideFile) bool { return strings.HasSuffix(a.path, "-"+stateName) })
}

// openState reads state.db and opens it. A damaged one is set aside, and what
// is intact in it is carried over: with what the segments say, that is all,
// but for the cursors that are lost. Those stand at the oldest record then:
// repeats are allowed, loss is not.
func (b *Buffer) openState(d *disk, suspect string) (im *stateImage, rebuilt bool, err error) {
	im, err = loadState(d.dir)
	missing, damaged := errors.Is(err, os.ErrNotExist), isDamage(err)
	switch {
	case errors.Is(err, ErrVersion):
		err = b.replaceState(im, err)
	case missing:
		err = installState(d.dir, "", im.all())
	case damaged:
		b.log.Warn("the buffer's state.db is damaged; it is set aside, and what is intact in it goes into a new one", "err", err)
		_, err = b.renewState(im.all())
	case err == nil && suspect == stateName:
		b.log.Warn("the agent died when it opened the buffer's state.db, which looks right; its content goes into a new one", "dir", d.dir)
		_, err = b.renewState(im.all())
	}
	if err == nil {
		clearMarker(d.dir)
		d.state, err = openStateFile(d.dir, marking(d.dir))
	}
	return im, missing || damaged, err
}

// replaceState puts a new state.db into the place of one that another version
// wrote, with those of its rows whose checksums are right for this version.
func (b *Buffer) replaceState(im *stateImage, cause error) error {
	aside, err := b.renewState(im.all())
	if err == nil {
		b.log.Warn("the buffer's state.db is of another version: it is kept, and what this version can read in it goes into a new one; "+
			"an uplink whose place is not in that gets all that is still in the buffer, so that some batches come twice",
			"file", filepath.Join(b.o.Dir, stateName), "cause", cause, "kept", aside, "uplinks_in_place", len(im.cursors))
	}
	return err
}

// renewState puts a new state.db that says c into the place of the old one,
// which is kept beside, and returns under which name.
func (b *Buffer) renewState(c *change) (aside string, err error) {
	aside = asideName(filepath.Join(b.o.Dir, stateName))
	if err := installState(b.o.Dir, aside, c); err != nil {
		return "", err
	}
	if _, err := os.Lstat(aside); err == nil {
		b.keep(aside)
	}
	return aside, nil
}

// setAside renames a damaged file so that it is in nobody's way, and returns
// its new name; "" with an error if it still has the old one.
func (b *Buffer) setAside(path string) (aside string, err error) {
	aside = asideName(path)
	if err := os.Rename(path, aside); err != nil {
		return "", fmt.Errorf("set a damaged file aside: %w", err)
	}
	b.keep(aside)
	return aside, syncDir(filepath.Dir(path))
}

// asideName returns a name under which path can be kept beside.
func asideName(path string) string {
	for n := 1; ; n++ {
		aside := filepath.Join(filepath.Dir(path), fmt.Sprintf("%s%d-%s", damagedPrefix, n, filepath.Base(path)))
		if _, err := os.Lstat(aside); err != nil {
			return aside
		}
	}
}

// keep counts a file that was set aside.
func (b *Buffer) keep(aside string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts.setAside = append(b.counts.setAside, asideFile{aside, fileSize(aside)})
}

// list finds the segments and the files set aside, and clears away what a
// crash left half done.
func (b *Buffer) list(d *disk, im *stateImage) ([]*segment, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, err
	}
	var segments []*segment
	b.counts.setAside = nil
	for _, e := range entries {
		path := filepath.Join(d.dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), damagedPrefix):
			b.counts.setAside = append(b.counts.setAside, asideFile{path, fileSize(path)})
		case strings.HasSuffix(e.Name(), tmpSuffix):
			_ = os.Remove(path) // never was part of the buffer
		}
		if s, ok := parseSegmentName(path); ok {
			segments = append(segments, s)
		}
	}
	slices.SortFunc(segments, func(x, y *segment) int {
		if x.start().before(y.start()) {
			return -1
		}
		return 1
	})
	for _, s := range segments {
		s.size = fileSize(s.path)
		if sum, ok := im.segments[s.start()]; ok && sum.last >= s.first {
			s.last, s.oldest, s.newest, s.readings, s.sealed = sum.last, sum.oldest, sum.newest, sum.readings, true
		}
	}
	return segments, nil
}

func nextOrdinal(im *stateImage, segments []*segment) uint64 {
	highest := uint64(0)
	for ord := range im.streams {
		highest = max(highest, ord)
	}
	for _, s := range segments {
		highest = max(highest, s.ord)
	}
	for _, c := range im.cursors {
		highest = max(highest, c.at.ord)
	}
	return highest + 1
}

func (b *Buffer) streamIsNew(im *stateImage, segments []*segment) error {
	used := slices.ContainsFunc(segments, func(s *segment) bool { return s.stream == b.o.Stream })
	for _, id := range im.streams {
		used = used || id == b.o.Stream
	}
	if used {
		return fmt.Errorf("stream id %q was used before: %w", b.o.Stream, ErrStreamUsed)
	}
	return nil
}

// takeUplinks puts every uplink at its place: where state.db says; at the
// oldest record, if state.db was lost; at the present, if it is new.
func (b *Buffer) takeUplinks(im *stateImage, rebuilt bool) {
	clear(b.uplinks)
	for _, name := range b.o.Uplinks {
		c, known := im.cursors[name]
		if !known && !rebuilt {
			c = cursor{at: place{b.ord, 0}}
		}
		// A gap row of long ago may be back in a damaged file.
		gaps := slices.DeleteFunc(im.gaps[name], func(g *pendingGap) bool { return !c.at.before(g.end()) })
		u := newUplink(name, c, gaps)
		u.cursorDirty, u.gapsDirty, u.gapsStale = true, !known, true
		b.uplinks[name] = u
	}
	for name := range im.cursors {
		if b.uplinks[name] == nil {
			b.removed = append(b.removed, name)
		}
	}
}

// examine learns what the segments hold that have no summary (the last one
// of a run that was killed), and rescues the one whose opening killed it.
func (b *Buffer) examine(im *stateImage, suspect string) {
	listed := slices.Clone(b.segments)
	for _, s := range listed {
		var err error
		switch {
		case suspect == s.name():
			err = fmt.Errorf("%w: the agent died when it opened it", errStructure)
		case s.sealed:
			continue
		default:
			err = b.look(s)
		}
		if err != nil {
			err = b.rescue(s, err)
		}
		if err != nil {
			b.leave(s, err)
		}
	}
	clearMarker(b.o.Dir)
	b.clampOverlaps()
	for p, sum := range im.segments {
		if !slices.ContainsFunc(listed, func(s *segment) bool { return s.start() == p }) {
			b.missSegment(p, sum, im.streams[p.ord])
		}
	}
}

// leave leaves a file alone that cannot be read for now: its rights are wrong,
// say. The next start tries again.
func (b *Buffer) leave(s *segment, err error) {
	b.mu.Lock()
	b.segments = slices.DeleteFunc(b.segments, func(o *segment) bool { return o == s })
	b.mu.Unlock()
	b.log.Warn("a buffer file cannot be read and is left for the next start", "file", s.path, "err", err)
}

// missSegment announces what was in a segment whose file is gone, as far as
// it was not acknowledged or given up: somebody removed it.
func (b *Buffer) missSegment(p place, sum summary, stream string) {
	b.w.gone = append(b.w.gone, p)
	s := &segment{
		ord: p.ord, stream: stream, first: p.seq, last: sum.last,
		oldest: sum.oldest, newest: sum.newest, readings: sum.readings,
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.missAll(s, s.last) {
		b.log.Warn("a buffer file is gone; its records are announced as missing",
			"stream", stream, "from", s.first, "to", s.last)
	}
}

func (b *Buffer) look(s *segment) error {
	src, err := b.disk.files.acquire(s)
	if err != nil {
		return err
	}
	defer b.disk.files.release(s)
	if err := inspect(src, s, &b.clocks); err != nil {
		if errors.Is(err, errBroken) {
			b.disk.files.abandon(s)
		}
		return err
	}
	if s.last < s.first {
		return fmt.Errorf("%w: %s holds no records", errFormat, s.name())
	}
	b.makeDurable(s)
	b.seal(s)
	return nil
}

// makeDurable syncs a segment that a run which was killed left: the kill may
// have come between a commit's writes and their sync. This run reads what was
// written, and counts on it; a power cut could still take it.
func (b *Buffer) makeDurable(s *segment) {
	if err := errors.Join(syncFile(s.path), syncDir(b.disk.dir)); err != nil && !isReadOnly(err) {
		b.log.Warn("what the last run wrote may not outlive a power cut", "file", s.path, "err", err)
	}
}

// clampOverlaps: a commit that failed may be in its file all the same, while
// its records went to the next one, too.
func (b *Buffer) clampOverlaps() {
	for i := range len(b.segments) - 1 {
		s, next := b.segments[i], b.segments[i+1]
		if s.ord == next.ord && s.last >= next.first {
			s.last = next.first - 1
		}
	}
}

// begin writes the new stream into state.db and forgets the streams of which
// nothing is left.
func (b *Buffer) begin(im *stateImage) {
	b.mu.Lock()
	c := b.collect()
	for ord := range im.streams {
		if !slices.ContainsFunc(b.segments, func(s *segment) bool { return s.ord == ord }) && !b.owesGap(ord) {
			c.pruned = append(c.pruned, ord)
		}
	}
	c.bootsGone = b.clocks.prune(c.pruned)
	b.clocks.toSave(c)
	b.mu.Unlock()
	_, err := b.disk.state.write(c)
	b.diskSize()
	if err != nil {
		b.mu.Lock()
		b.restore(c)
		b.mu.Unlock()
		b.diskSays(err)
	}
}

// owesGap tells whether some uplink has still to be told of a gap in a stream:
// the times in it hang on the stream's boot.
func (b *Buffer) owesGap(ord uint64) bool {
	for _, u := range b.uplinks {
		if slices.ContainsFunc(u.gaps, func(g *pendingGap) bool { return g.ord == ord }) {
			return true
		}
	}
	return false
}
