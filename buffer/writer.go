package buffer

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	// chunkSize bounds a chunk before compression (a single record may be
	// larger). Consecutive batches are alike, so that a chunk compresses the
	// better the more of them it holds; but one damaged page costs a chunk.
	chunkSize = 128 << 10
	// maxLoad bounds one transaction, in bytes before compression.
	maxLoad = 4 << 20

	saveEvery  = time.Second      // cursors are saved at most so often
	retryFirst = time.Second      // after the disk took nothing
	retryMax   = 10 * time.Second // and then ever more rarely
	lookEvery  = time.Minute      // age limits
	forever    = time.Duration(math.MaxInt64)
)

// writerState belongs to the writer goroutine; to Open before it runs and to
// Close after it ended. The fields that others read are named.
type writerState struct {
	enc     *chunkEncoder
	scratch []byte // what is only weighed
	load    load
	current *segment
	db      *bolt.DB
	known   map[uint64]bool // schemas that current holds
	info    os.FileInfo     // which file current is
	lost    map[place]bool  // segments that somebody removed while the agent ran
	begun   bool            // this run's stream is in state.db; the buffer's lock covers it

	lastWritten uint64        // the last seq of this stream that is on the disk
	wrote       time.Duration // when current last grew

	retryAt  time.Duration
	retryIn  time.Duration
	savedAt  time.Duration
	lookedAt time.Duration

	saving sync.Mutex        // one saveState at a time
	sealed map[place]summary // to be saved; the buffer's lock covers it
	gone   []place           // summaries to be forgotten; the same
	values map[string][]byte // small values of others; the same
}

func (w *writerState) init() {
	w.load.schemas = make(map[uint64][]byte)
	w.sealed = make(map[place]summary)
	w.values = make(map[string][]byte)
	w.lost = make(map[place]bool)
}

// run is the writer goroutine: the only one that writes records.
func (b *Buffer) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-b.kick:
		case <-timer.C:
		}
		if wait := b.turn(); wait == forever {
			timer.Stop()
		} else {
			timer.Reset(wait)
		}
	}
}

// turn does what is due and returns how long nothing else is.
func (b *Buffer) turn() time.Duration {
	watch := b.watchClock()
	if b.memoryOnly() {
		return min(watch, b.adoptLater())
	}
	b.rescueSuspect()
	b.weigh()
	wait := b.untilCommit()
	if wait <= 0 {
		b.diskSays(b.commit())
		wait = b.untilCommit()
	}
	if err := b.reclaim(); err != nil {
		b.diskSays(err)
	}
	wait = min(wait, b.untilTried())
	wait = min(wait, b.untilSave())
	wait = min(wait, b.keepAge(), watch)
	if open := b.disk.files.closeIdle(idleAfter); open > 0 {
		wait = min(wait, idleAfter)
	}
	return max(wait, 0)
}

// rescueSuspect rescues the file that was being written, on behalf of the
// reader that found it damaged.
func (b *Buffer) rescueSuspect() {
	b.mu.Lock()
	b.arming = false // from here on, cursors that move are worth another turn
	s := b.suspect
	b.suspect = nil
	b.mu.Unlock()
	if s == nil {
		return
	}
	if b.w.current == s {
		b.sealActive()
	}
	if err := b.rescue(s, errStructure); err != nil {
		b.log.Warn("a damaged buffer file cannot be read; trying again", "err", err)
	}
}

func (b *Buffer) memoryOnly() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.disk == nil
}

// untilCommit returns when the oldest record that only memory holds has to be
// on the disk. In healthy operation it is acknowledged by then, and nothing
// is ever written.
func (b *Buffer) untilCommit() time.Duration {
	now := b.clock()
	b.mu.Lock()
	defer b.mu.Unlock()
	next := max(b.settled+1, b.tail.first)
	if !b.tail.has(next) {
		b.parked = true
		return forever
	}
	wait := time.Duration(0)
	if b.o.CommitInterval > 0 && b.pending <= b.o.TailBytes/2 {
		// A little early, so that the commit itself is over in time.
		limit := b.o.CommitInterval - min(b.o.CommitInterval/4, 100*time.Millisecond)
		wait = b.tail.entry(next).at + limit - now
	}
	if b.diskErr != nil {
		wait = max(wait, b.w.retryAt-now)
	}
	return wait
}

// untilSave saves the cursors if that is due, and returns when it will be.
func (b *Buffer) untilSave() time.Duration {
	b.mu.Lock()
	dirty := len(b.w.sealed) > 0 || b.clocks.dirty
	for _, u := range b.uplinks {
		dirty = dirty || u.gapsDirty || u.cursorDirty && b.matters(u)
	}
	b.mu.Unlock()
	if !dirty {
		return forever
	}
	if wait := b.w.savedAt + saveEvery - b.clock(); wait > 0 {
		return wait
	}
	b.w.savedAt = b.clock()
	if err := b.saveState(); err != nil {
		b.diskSays(err)
		return retryFirst
	}
	return forever
}

// matters tells, under the lock, whether u's cursor is worth saving: once the
// saved one is beyond all that is in files, a lost one costs nothing.
func (b *Buffer) matters(u *uplink) bool {
	n := len(b.segments)
	return n > 0 && u.saved.before(b.segments[n-1].end())
}

// untilTried tries a disk that took nothing while there is nothing to commit
// (the uplinks are healthy again): otherwise nobody would notice that it has
// room. It returns when the next try is due.
func (b *Buffer) untilTried() time.Duration {
	b.mu.Lock()
	failing := b.diskErr != nil && !b.tail.has(max(b.settled+1, b.tail.first))
	wait := b.w.retryAt - b.clock()
	b.mu.Unlock()
	if !failing {
		return forever
	}
	if wait > 0 {
		return wait
	}
	err := b.attend()
	if err == nil {
		err = tryDisk(b.disk.dir)
	}
	b.diskSays(err)
	if err == nil {
		return forever
	}
	return b.w.retryIn
}

// tryDisk writes as much as a small commit needs, and removes it.
func tryDisk(dir string) error {
	f, err := os.CreateTemp(dir, "try-*.tmp")
	if err != nil {
		return fmt.Errorf("try the disk: %w", err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // the next start removes what is left
	_, err = f.Write(make([]byte, 128<<10))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("try the disk: %w", err)
	}
	return nil
}

// diskSays notes how the last attempt to write went, and logs a change.
func (b *Buffer) diskSays(err error) {
	b.mu.Lock()
	before := b.diskErr
	b.diskErr = err
	if err != nil {
		if now := b.clock(); now >= b.w.retryAt { // or it was cursors that failed, which are tried more often
			b.w.retryIn = min(max(2*b.w.retryIn, retryFirst), retryMax)
			b.w.retryAt = now + b.w.retryIn
		}
		b.wakeUplinks() // with a commit interval of 0, they see memory now
	} else {
		b.w.retryIn, b.w.retryAt = 0, 0
		if before != nil {
			b.flow.room = -1 // somebody made room: look how much
		}
	}
	b.mu.Unlock()
	switch {
	case err != nil && before == nil:
		b.log.Warn("the disk does not take the buffer's records; going on in memory", "dir", b.o.Dir, "err", err)
	case err == nil && before != nil:
		b.log.Info("the disk takes the buffer's records again", "dir", b.o.Dir)
	}
}

// commit writes all that is pending, in as many transactions as it takes.
func (b *Buffer) commit() error {
	if err := b.attend(); err != nil {
		return err
	}
	for b.gather() {
		before := b.w.current
		if err := b.makeDiskRoom(b.w.load.room() + 2*b.allocStep()); err != nil {
			return err
		}
		if b.w.current != before {
			continue // it was given up: the next one needs all schemas
		}
		err := b.write()
		if errors.Is(err, errGone) {
			err = b.attend() // the records are still in memory
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *Buffer) allocStep() int64 { return max(b.o.SegmentSize/32, 16*pageSize) + 16*pageSize }

// gather packs pending records into chunks; false: there are none.
func (b *Buffer) gather() bool {
	w := &b.w
	w.load.reset()
	if w.current == nil {
		w.known = make(map[uint64]bool)
	}
	raw, next := 0, uint64(0)
	limit := int(min(maxLoad, b.o.SegmentSize/2))
	prev := w.lastWritten
	for raw < limit {
		n, last := b.fillChunk(next, prev)
		if n == 0 {
			break
		}
		w.load.add(w.enc)
		raw += n
		next, prev = last+1, last
	}
	w.load.packSchemas(w.enc)
	return len(w.load.heads) > 0
}

// fillChunk puts consecutive pending records from seq next on into the
// encoder, up to chunkSize; prev is the last one written before them. It
// returns how many bytes they are, and the last one's seq.
func (b *Buffer) fillChunk(next, prev uint64) (size int, last uint64) {
	w := &b.w
	b.mu.Lock()
	defer b.mu.Unlock()
	next = max(next, b.settled+1, b.tail.first)
	h, set := b.clocks.mine, int64(0)
	if b.tail.has(next) {
		e := b.tail.entry(next)
		w.enc.reset(next, prev, e.clock())
		set = e.stepped(h)
	}
	for n := 0; b.tail.has(next) && n < maxChunkCount; n++ {
		r := b.tail.record(next)
		cost := len(r.Data) + 8
		if size > 0 && (size+cost > chunkSize || b.tail.entry(next).stepped(h) != set) {
			break // it is full, or the clock was set: a chunk has one correction for all
		}
		if !w.known[r.Schema] && w.load.schemas[r.Schema] == nil {
			w.load.schemas[r.Schema] = b.schemas.own[r.Schema]
		}
		w.enc.add(&r)
		size += cost
		last = next
		next++
	}
	return size, last
}

// write commits the load to the current segment, or to a new one.
func (b *Buffer) write() error {
	w := &b.w
	var written int64
	var err error
	s, created := w.current, w.current == nil
	if created {
		s = newSegment(b.disk.dir, b.ord, b.o.Stream, w.load.heads[0].first)
		s.active = true
		s.boot, s.clock = b.ownClock()
		w.db, written, err = createSegment(s, &w.load, b.o.SegmentSize)
		if err == nil {
			b.disk.files.adopt(s, segmentFile{s: s, db: w.db})
		}
	} else {
		written, err = update(w.db, w.load.put)
	}
	if err != nil {
		b.failedWrite(err)
		return fmt.Errorf("commit to %s: %w", s.path, err)
	}
	w.current, w.wrote = s, b.clock()
	size, err := b.landed(created)
	if err != nil {
		return fmt.Errorf("commit to %s: %w", s.path, err)
	}
	w.lastWritten = w.load.heads[len(w.load.heads)-1].last()
	for id := range w.load.schemas {
		w.known[id] = true
	}
	used := inUse(w.db)
	b.wrote(s, created, size, written)
	b.learnCommit(created, used)
	if used >= b.o.SegmentSize || b.spansLong(s) {
		b.sealActive()
	}
	return nil
}

// landed verifies that what was just committed is in the file that the next
// start will find, and returns its size.
func (b *Buffer) landed(created bool) (size int64, err error) {
	s := b.w.current
	info, err := os.Stat(s.path)
	if created && err == nil {
		b.w.info = info
	}
	if err == nil && !os.SameFile(info, b.w.info) || errors.Is(err, os.ErrNotExist) {
		err = errGone
	}
	if err == nil {
		err = b.disk.stillOurs()
	}
	if err == nil {
		return info.Size(), nil
	}
	if created { // nobody knows it yet
		b.disk.files.reopen(s)
		b.w.current, b.w.db = nil, nil
	}
	return 0, err
}

// wrote notes a commit that succeeded.
func (b *Buffer) wrote(s *segment, created bool, size, written int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if created {
		b.segments = append(b.segments, s)
	}
	for i := range b.w.load.heads {
		head := &b.w.load.heads[i]
		s.cover(head, stepped(b.clocks.mine, head))
	}
	s.size = size
	b.shareWritten(s.last)
	b.settle(s.last)
	b.counts.commits++
	b.counts.written += uint64(written)
	b.counts.packed += uint64(len(b.w.load.data))
	// What is on the disk stays in memory only as far as it is likely to be
	// sent from there.
	for b.tail.n > 0 && b.tail.first <= b.settled && b.tail.bytes > b.o.TailBytes/4 {
		b.pop()
	}
	if b.o.CommitInterval == 0 {
		b.wakeUplinks()
	}
}

// failedWrite leaves the current segment as it was: whether bbolt's failed
// commit is in the file or not, its range ends where the last good one did.
// The records go to a new segment next time.
func (b *Buffer) failedWrite(err error) {
	if b.w.current != nil && errors.Is(err, errBroken) {
		b.disk.files.abandon(b.w.current)
		b.w.db = nil
	}
	b.sealActive()
}

// sealActive ends the current segment.
func (b *Buffer) sealActive() {
	s := b.w.current
	if s == nil {
		return
	}
	if b.w.db != nil {
		if used := inUse(b.w.db); used > 0 {
			_ = os.Truncate(s.path, used) // it was room to grow; if it fails, it is room wasted
		}
	}
	size := fileSize(s.path)
	b.w.current, b.w.db = nil, nil
	b.mu.Lock()
	s.active, s.size = false, size
	b.seal(s)
	b.mu.Unlock()
	b.disk.files.reopen(s)
}

// seal has the summary of a complete segment saved.
func (b *Buffer) seal(s *segment) {
	b.w.gone = slices.DeleteFunc(b.w.gone, func(p place) bool { return p == s.start() }) // it is there again
	b.w.sealed[s.start()] = summary{last: s.last, oldest: s.oldest, newest: s.newest, readings: s.readings}
}

// spansLong tells whether a segment covers so much time that the age limit,
// which takes whole segments, would become blunt.
func (b *Buffer) spansLong(s *segment) bool {
	return b.o.MaxAge > 0 && s.newest-s.oldest > b.o.MaxAge.Milliseconds()/16
}

// saveState writes into state.db what changed since the last time.
func (b *Buffer) saveState() error {
	b.w.saving.Lock()
	defer b.w.saving.Unlock()
	b.mu.Lock()
	c := b.collect()
	if c.empty() && !b.clocks.dirty {
		b.mu.Unlock()
		return nil
	}
	b.clocks.toSave(c)
	b.mu.Unlock()
	written, err := b.disk.state.write(c)
	if err != nil && !isReadOnly(err) {
		b.mu.Lock()
		b.restore(c)
		b.mu.Unlock()
		return b.healState(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.restore(c)
		return fmt.Errorf("save cursors: %w", err)
	}
	for name, at := range c.cursors {
		if u := b.uplinks[name]; u != nil {
			u.saved = at.at
		}
	}
	b.counts.commits++
	b.counts.written += uint64(written)
	return nil
}

// collect takes what has to be saved, under the lock.
func (b *Buffer) collect() *change {
	b.shareGaps() // it must never know less than state.db
	c := &change{
		cursors: make(map[string]cursor), gaps: make(map[string][]*pendingGap),
		sealed: b.w.sealed, deleted: b.w.gone, removed: b.removed,
	}
	b.w.sealed, b.w.gone, b.removed = make(map[place]summary), nil, nil
	if !b.w.begun {
		c.stream = &streamRow{b.ord, b.o.Stream}
		c.boots = map[uint64]string{b.ord: b.clocks.boot}
		b.w.begun = true
	}
	for name, u := range b.uplinks {
		if u.cursorDirty {
			at := u.place()
			at.done = slices.Clone(at.done)
			c.cursors[name] = at
		}
		if u.gapsDirty {
			gaps := make([]*pendingGap, len(u.gaps))
			for i, g := range u.gaps {
				gaps[i] = &pendingGap{Gap: g.Gap, ord: g.ord}
			}
			c.gaps[name] = gaps
		}
		u.cursorDirty, u.gapsDirty = false, false
	}
	// An uplink that was removed and came back is not to be forgotten.
	kept := c.removed[:0]
	for _, name := range c.removed {
		if b.uplinks[name] == nil {
			kept = append(kept, name)
		}
	}
	c.removed = kept
	return c
}

func (c *change) empty() bool {
	return c.stream == nil && len(c.cursors)+len(c.gaps)+len(c.sealed)+len(c.deleted)+len(c.removed)+len(c.pruned) == 0
}

// restore undoes collect, under the lock, after a failed write.
func (b *Buffer) restore(c *change) {
	b.w.begun = b.w.begun && c.stream == nil
	maps.Copy(b.w.sealed, c.sealed)
	b.clocks.dirty = b.clocks.dirty || c.clocks != nil
	b.w.gone = append(b.w.gone, c.deleted...)
	b.removed = append(b.removed, c.removed...)
	for name := range c.cursors {
		if u := b.uplinks[name]; u != nil {
			u.cursorDirty = true
		}
	}
	for name := range c.gaps {
		if u := b.uplinks[name]; u != nil {
			u.gapsDirty = true
		}
	}
}
