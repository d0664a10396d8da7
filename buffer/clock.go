package buffer

import (
	"maps"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"millrace/buffer/internal/clock"
)

const (
	watchEvery   = time.Minute      // the writer looks at the clocks at least so often
	retellEvery  = time.Minute      // a clock that is set again and again is logged so often
	sampleApart  = time.Millisecond // and appending does at most so often
	readTogether = 200 * time.Microsecond
	readTries    = 8

	bootFile = "/proc/sys/kernel/random/boot_id"
)

// clocks is what the buffer knows of the machine's wall clock, in this boot
// and in earlier ones of which records are left: see internal/clock. The
// buffer's lock covers it.
//
// Records keep the time that they came with until they are handed out. What
// is summed up of them (the times of segments, of gaps and of what is on its
// way) is on the scale of a clock that nobody set in its boot: plain time.
// So nothing that is stored has to change when the clock is set.
type clocks struct {
	boot    string                    // this boot's id
	mine    *clock.History            // this boot's
	streams map[uint64]string         // the boot of each stream, by its ordinal
	boots   map[string]*clock.History // by boot id

	at       time.Duration // since the boot: when the newest sample was taken
	now      int64         // the newest sample, plain
	dirty    bool          // a step was seen that state.db does not have
	saved    int64         // the sample that state.db has
	news     bool          // the writer has not heard of a step
	steps    int           // seen and not logged
	by       time.Duration // all of them together
	told     bool          // whether loggedAt is a time
	loggedAt time.Duration
	sampled  time.Duration // when the writer looked last

	// Read without the lock:
	shift   atomic.Int64  // from the wall clock to the best time that is known
	changes atomic.Uint64 // steps seen, plus one
}

// newClocks takes boot for the id of this boot; "": the machine says.
func newClocks(boot, stream string) clocks {
	if boot == "" {
		text, err := os.ReadFile(bootFile)
		boot = strings.TrimSpace(string(text))
		if err != nil || boot == "" {
			boot = "run " + stream // a boot of its own: nothing is known of earlier runs
		}
	}
	return clocks{boot: boot, mine: &clock.History{}, streams: make(map[uint64]string), boots: make(map[string]*clock.History)}
}

// of returns what is known of the clock of a stream's boot; never nil.
func (c *clocks) of(ord uint64) *clock.History {
	if h := c.boots[c.streams[ord]]; h != nil {
		return h
	}
	return &clock.History{}
}

// wall makes a plain time of a stream the best wall time that is known now.
// 0, which stands for unknown, stays 0.
func (c *clocks) wall(ord uint64, plain int64) int64 {
	if plain == 0 {
		return 0
	}
	base, _ := c.of(ord).Base()
	return plain + base
}

// adopt takes over what a stream's row or its segment says of its boot.
func (c *clocks) adopt(ord uint64, boot string, h *clock.History) *clock.History {
	if boot == "" {
		return c.of(ord)
	}
	c.streams[ord] = boot
	if have := c.boots[boot]; have == nil || h != nil && h.Until() >= have.Until() {
		if h == nil {
			h = &clock.History{}
		}
		c.boots[boot] = h
	}
	return c.boots[boot]
}

// learn takes what a stored record says of the clock of its boot: when it
// arrived, and the monotonic time at which it was appended.
func (c *clocks) learn(ord uint64, arrived, mono int64) { c.of(ord).Learn(mono, arrived-mono) }

// stepped returns by how much the clock had been set when a chunk's records
// arrived: all of them, as a chunk ends at a step.
func stepped(h *clock.History, head *chunkHeader) int64 {
	return h.Stepped(head.oldest-head.clock, head.clock)
}

// stepped returns by how much the clock had been set when the record arrived.
func (e *tailEntry) stepped(h *clock.History) int64 { return h.Stepped(e.mono, e.clock()) }

// clock is the wall clock minus the monotonic one, as far as the record
// tells.
func (e *tailEntry) clock() int64 { return e.time - e.mono }

// startClock begins with what was known before this run: a clock that was set
// meanwhile shows as a step.
func (b *Buffer) startClock() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clocks.mine = b.clocks.adopt(b.ord, b.clocks.boot, nil)
	b.observe()
	b.clocks.rebase()
	b.clocks.dirty = true // when this boot was seen first counts, too
}

// sinceBoot is the machine's monotonic clock, under the lock.
func (b *Buffer) sinceBoot() time.Duration {
	if b.o.Mono != nil {
		return b.o.Mono()
	}
	return b.booted + b.clock()
}

// observe samples both clocks, under the lock, and returns the monotonic one
// in ms.
func (b *Buffer) observe() (mono int64) {
	c := &b.clocks
	since := b.sinceBoot()
	if c.at > 0 && since >= c.at && since < c.at+sampleApart {
		return since.Milliseconds()
	}
	wall := b.o.Now()
	if c.at == 0 || c.mine.IsStep(since.Milliseconds(), offset(since, wall)) {
		since, wall = b.readTogether()
	}
	mono = since.Milliseconds()
	step := c.mine.Observe(mono, offset(since, wall))
	c.at, c.now = since, mono+offset(since, wall)-c.mine.Newest()
	if step != 0 {
		b.noteStep(step)
	}
	return mono
}

// offset is how far the wall clock is from the time since the boot, in ms.
func offset(since time.Duration, wall time.Time) int64 {
	return (wall.UnixNano() - int64(since)) / int64(time.Millisecond)
}

// readTogether reads both clocks again at the start, and where they seem to
// have moved apart: what they are apart then corrects times.
// The goroutine may have waited for the processor between the two; and the
// machine may have been suspended, which Go's monotonic clock does not count.
func (b *Buffer) readTogether() (since time.Duration, wall time.Time) {
	read := b.o.Mono
	if read == nil {
		read = sinceBoot
	}
	for range readTries {
		before := read()
		wall = b.o.Now()
		since = read()
		if since-before <= readTogether {
			break
		}
	}
	b.booted = since - b.clock()
	return since, wall
}

func (b *Buffer) noteStep(step int64) {
	c := &b.clocks
	c.rebase()
	c.dirty, c.news = true, true
	c.steps++
	c.by += time.Duration(step) * time.Millisecond
	b.kickWriter()
}

// rebase has what is handed out from now on dated by what is known now.
func (c *clocks) rebase() {
	base, _ := c.mine.Base()
	c.shift.Store(base - c.mine.Newest())
	c.changes.Add(1)
}

// watchClock samples the clocks where nothing is appended, tells of steps,
// and returns when it wants to be called again. The writer calls it.
func (b *Buffer) watchClock() time.Duration {
	now := b.clock()
	b.mu.Lock()
	c := &b.clocks
	if !c.news && c.sampled > 0 && now < c.sampled+watchEvery {
		wait := c.sampled + watchEvery - now
		b.mu.Unlock()
		return wait
	}
	b.observe()
	news, steps, by := c.news, c.steps, c.by
	c.sampled, c.news = now, false
	tell := steps > 0 && (!c.told || now >= c.loggedAt+retellEvery)
	if tell {
		c.steps, c.by, c.told, c.loggedAt = 0, 0, true, now
	}
	b.mu.Unlock()
	if tell {
		b.log.Warn("the machine's clock was set; batches go out with corrected times", "by", by, "times", steps)
	}
	if news && b.o.ClockSet != nil {
		b.o.ClockSet()
	}
	return watchEvery
}

// Now returns the best wall time that is known: the wall clock, but for one
// that was right in this boot and then fell to a time before 2020.
func (b *Buffer) Now() time.Time {
	now := b.o.Now()
	if shift := b.clocks.shift.Load(); shift != 0 {
		return now.Round(0).Add(ms(shift))
	}
	return now
}

// date gives the next record of the batch the best time that is known now,
// and returns its plain time.
func (b *Buffer) date(bt *batch, r *Record) (plain int64) {
	if changes := b.clocks.changes.Load(); bt.changes != changes {
		b.mu.Lock()
		bt.base, bt.set = b.clocks.of(bt.ord).Base()
		b.mu.Unlock()
		bt.changes = changes
	}
	plain = r.Time - bt.stepped[bt.at]
	r.Time = plain + bt.base
	r.ClockUnset = !bt.set && r.Time < clock.FirstSane
	return plain
}

// dateChunks notes by how much the clock had been set when the records of the
// copied chunks arrived.
func (b *Buffer) dateChunks(bt *batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.clocks.of(bt.ord)
	bt.chunkStepped = bt.chunkStepped[:0]
	for i := range bt.heads {
		bt.chunkStepped = append(bt.chunkStepped, stepped(h, &bt.heads[i]))
	}
}

// arrived returns the best time that is known of a record in the tail.
func (b *Buffer) arrived(seq uint64) int64 {
	e := b.tail.entry(seq)
	return b.clocks.wall(b.ord, e.time-e.stepped(b.clocks.mine))
}

// origin says which boot a stream is of, and what is known of its clock.
func (c *clocks) origin(ord uint64) (boot string, h *clock.History) {
	return c.streams[ord], c.of(ord).Clone()
}

// ownClock is what a new segment keeps of this boot's clock, in case state.db
// is lost.
func (b *Buffer) ownClock() (boot string, known []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clocks.boot, b.clocks.mine.Append(nil)
}

// take takes over what state.db says.
func (c *clocks) take(im *stateImage) {
	maps.Copy(c.boots, im.clocks)
	for o, boot := range im.boots {
		c.adopt(o, boot, nil)
	}
}

// toSave puts what has to be kept of this boot's clock into a change.
func (c *clocks) toSave(to *change) {
	h := c.mine
	if !c.dirty && h.Until()-c.saved < watchEvery.Milliseconds() {
		return
	}
	to.clocks = map[string]*clock.History{c.boot: h.Clone()}
	c.dirty, c.saved = false, h.Until()
}

// everything returns all that a new state.db has to say of the clocks.
func (c *clocks) everything() (boots map[uint64]string, known map[string]*clock.History) {
	known = make(map[string]*clock.History, len(c.boots))
	for boot, h := range c.boots {
		known[boot] = h.Clone()
	}
	return maps.Clone(c.streams), known
}

// prune forgets the boots that no stream is of any more.
func (c *clocks) prune(gone []uint64) (boots []string) {
	for _, ord := range gone {
		delete(c.streams, ord)
	}
	used := map[string]bool{c.boot: true}
	for _, boot := range c.streams {
		used[boot] = true
	}
	for boot := range c.boots {
		if !used[boot] {
			boots = append(boots, boot)
			delete(c.boots, boot)
		}
	}
	return boots
}

// sinceBoot returns the clock that runs from the machine's boot on, also
// while it is suspended, and that nobody sets.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // it cannot fail on Linux; without it, steps of the clock before a restart go unseen
	}
	return time.Duration(ts.Nano())
}
