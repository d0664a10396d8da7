package buffer

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// attend looks whether the directory and the files in it are still those that
// were opened, and mends what is not: a record must not be taken as durable
// that is in a file which somebody removed. It is called before every commit;
// an error says why the directory cannot be used now.
func (b *Buffer) attend() error {
	if err := b.disk.stillOurs(); err != nil {
		if err := b.regain(err); err != nil {
			return err
		}
	}
	if err := b.findLost(); err != nil {
		return err
	}
	if err := b.disk.state.same(); err != nil {
		b.w.saving.Lock()
		defer b.w.saving.Unlock()
		return b.healState(err)
	}
	return nil
}

// stillOurs fails with errGone if the lock that this process holds is not the
// one in the directory: the directory was removed, replaced, or another disk
// was mounted over it.
func (d *disk) stillOurs() error {
	info, err := d.lock.Stat()
	if err != nil {
		return err
	}
	return sameFile(filepath.Join(d.dir, lockName), info)
}

// regain makes the directory again and takes it.
func (b *Buffer) regain(cause error) error {
	d := b.disk
	if err := os.MkdirAll(d.dir, dirMode); err != nil {
		return fmt.Errorf("the buffer's directory is gone (%w) and cannot be made again: %w", cause, err)
	}
	lock, err := lockDir(d.dir)
	if err != nil {
		return fmt.Errorf("the buffer's directory is gone (%w) and cannot be taken again: %w", cause, err)
	}
	if err := b.welcome(); err != nil {
		_ = lock.Close() // nothing was written under it
		return err
	}
	_ = d.lock.Close() // it locks nothing any more
	d.lock = lock
	b.moveShared()
	b.log.Warn("the buffer's directory was removed or replaced while the agent ran; it is in use again. What only the old one held is announced as missing",
		"dir", d.dir, "cause", cause)
	return nil
}

// errForeign: the directory holds what another buffer left.
var errForeign = errors.New("the buffer's directory holds the files of another buffer now (was a disk mounted there?); restart the agent to take them over")

// welcome refuses a directory with the files of another buffer, and sets
// those of this run aside that had been announced as missing.
func (b *Buffer) welcome() error {
	entries, err := os.ReadDir(b.disk.dir)
	if err != nil {
		return err
	}
	var strays []string
	b.mu.Lock()
	known := make(map[place]bool, len(b.segments))
	for _, s := range b.segments {
		known[s.start()] = true
	}
	b.mu.Unlock()
	for _, e := range entries {
		path := filepath.Join(b.disk.dir, e.Name())
		s, ok := parseSegmentName(path)
		switch {
		case !ok || known[s.start()]:
		case b.w.lost[s.start()], s.ord == b.ord && s.stream == b.o.Stream:
			strays = append(strays, path)
		default:
			return errForeign
		}
	}
	im, err := loadState(b.disk.dir)
	if err == nil && im.streams[b.ord] != b.o.Stream {
		return errForeign
	}
	for _, path := range strays {
		if _, err := b.setAside(path); err != nil {
			return err
		}
	}
	return nil
}

// findLost finds the segments that somebody removed. What is still in memory
// of them is written again; the rest is announced.
func (b *Buffer) findLost() error {
	b.rescuing.Lock() // a file that is being rescued changes its name
	defer b.rescuing.Unlock()
	names, err := namesIn(b.disk.dir)
	if err != nil {
		return fmt.Errorf("look into the buffer's directory: %w", err)
	}
	if s := b.w.current; s != nil && errors.Is(sameFile(s.path, b.w.info), errGone) {
		delete(names, s.name())
	}
	b.mu.Lock()
	var lost []*segment
	for _, s := range b.segments {
		if !names[s.name()] {
			lost = append(lost, s)
		}
	}
	b.mu.Unlock()
	if len(lost) > 0 {
		b.lose(lost)
	}
	return nil
}

func namesIn(dir string) (map[string]bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	list, err := f.Readdirnames(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	names := make(map[string]bool, len(list))
	for _, name := range list {
		names[name] = true
	}
	return names, nil
}

// lose forgets segments whose files are gone.
func (b *Buffer) lose(lost []*segment) {
	if slices.Contains(lost, b.w.current) {
		b.w.current.active = false
		b.disk.files.reopen(b.w.current)
		b.w.current, b.w.db = nil, nil
	}
	b.mu.Lock()
	b.unsettle(lost)
	type loss struct {
		s    *segment
		last uint64
	}
	var losses []loss
	for _, s := range lost {
		last := s.last
		if s.ord == b.ord {
			last = min(last, max(b.settled, b.tail.first-1))
		}
		if last >= s.first {
			part := span{s.first, last, s.oldest, s.newest, s.readings}
			if last < s.last {
				part.readings -= min(part.readings, b.tail.readings(last+1, s.last))
			}
			b.missSpan(s.ord, s.stream, part)
			losses = append(losses, loss{s, last})
		}
		b.w.lost[s.start()] = true
	}
	b.mu.Unlock()
	b.remove(lost)
	if err := b.saveState(); err != nil {
		b.diskSays(err) // the notices are in memory, and saved with the next cursors
	}
	for _, l := range losses {
		b.log.Warn("a buffer file was removed while the agent ran; its records are announced as missing",
			"file", l.s.path, "stream", l.s.stream, "from", l.s.first, "to", l.last)
	}
}

// unsettle has the records written again that are in memory and were, of all
// files, in the newest ones, which are lost.
func (b *Buffer) unsettle(lost []*segment) {
	settled := b.settled
	for _, s := range slices.Backward(b.segments) {
		if s.ord != b.ord || !slices.Contains(lost, s) {
			break
		}
		settled = min(settled, s.first-1)
	}
	settled = max(settled, b.tail.first-1)
	for seq := settled + 1; seq <= b.settled && b.tail.has(seq); seq++ {
		b.pending += entryCost(len(b.tail.entry(seq).data))
	}
	b.settled = min(b.settled, settled)
	b.w.lastWritten = min(b.w.lastWritten, b.settled)
	b.shareWritten(b.w.lastWritten)
}

// readings adds up the readings of from to to, as far as they are there.
func (t *tail) readings(from, to uint64) (n uint64) {
	for seq := max(from, t.first); seq <= to && t.has(seq); seq++ {
		n += uint64(t.entry(seq).readings)
	}
	return n
}

// missSpan tells every uplink, under the lock, that it will not get what of
// sp it still waits for. How many readings a part of it held is not known: it
// is taken in proportion. It returns whether anybody waited for one.
func (b *Buffer) missSpan(ord uint64, stream string, sp span) bool {
	lost, batches := uint64(0), uint64(0)
	for _, u := range b.uplinks {
		ulost, ubatches := uint64(0), uint64(0)
		for _, part := range u.uncovered(ord, sp.first, sp.last) {
			n := part[1] - part[0] + 1
			g := Gap{Stream: stream, From: part[0], To: part[1], Reason: ReasonDamaged, Readings: sp.readings}
			if all := sp.last - sp.first + 1; n != all {
				g.Readings = uint64(float64(sp.readings)*float64(n)/float64(all) + 0.5)
			}
			if sp.oldest <= sp.newest {
				g.Oldest, g.Newest = sp.oldest, sp.newest
			}
			u.miss(ord, g)
			ulost, ubatches = ulost+g.Readings, ubatches+n
		}
		lost, batches = max(lost, ulost), max(batches, ubatches)
		u.wake()
	}
	b.counts.drop(ReasonDamaged, batches, lost)
	return batches > 0
}

// healState makes state.db anew from what is in memory: that is all it said,
// and more. It is called with w.saving held.
func (b *Buffer) healState(cause error) error {
	if err := b.disk.stillOurs(); err != nil {
		return err
	}
	b.mu.Lock()
	c := b.everything()
	b.mu.Unlock()
	_, err := b.renewState(c)
	var next *stateFile
	if err == nil {
		next, err = openStateFile(b.disk.dir, marking(b.disk.dir))
	}
	if err != nil {
		b.mu.Lock()
		b.restore(c)
		b.mu.Unlock()
		return fmt.Errorf("make state.db anew (%w): %w", cause, err)
	}
	b.disk.state.swap(next)
	b.log.Warn("the buffer's state.db is damaged or gone; memory has all that it said, and a new one was made", "dir", b.disk.dir, "cause", cause)
	return nil
}

// everything collects, under the lock, all that state.db has to say.
func (b *Buffer) everything() *change {
	for _, u := range b.uplinks {
		u.cursorDirty, u.gapsDirty = true, true
	}
	streams := map[uint64]string{b.ord: b.o.Stream}
	for _, s := range b.segments {
		streams[s.ord] = s.stream
		if !s.active {
			b.seal(s)
		}
	}
	c := b.collect()
	c.streams, c.values = streams, maps.Clone(b.w.values)
	c.boots, c.clocks = b.clocks.everything()
	return c
}
