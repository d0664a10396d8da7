package buffer

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Options of a buffer. Dir, Stream and Uplinks are the caller's; the rest
// has defaults.
type Options struct {
	// Dir is the directory of the buffer's files; it is made if need be.
	Dir string
	// MaxSize bounds all files in Dir together, in bytes; 0: 1 GiB. Below
	// 1 MiB it is taken as 1 MiB.
	MaxSize int64
	// MaxAge: older records are given up; 0: no limit.
	MaxAge time.Duration
	// CommitInterval is how long a record may stay in memory alone. With 0,
	// forwarders see a record only when it is on the disk; while the disk
	// takes nothing they see it at once, because a record that was sent is
	// safer than one that waits in memory.
	CommitInterval time.Duration
	// SegmentSize is when a file is complete; 0: 16 MiB. It is at most an
	// eighth of MaxSize.
	SegmentSize int64
	// TailBytes bounds the records in memory; 0: 8 MiB.
	TailBytes int64
	// SharedMemory is a directory on a tmpfs. The records in memory are kept
	// in a file there, so that they survive the death of the process: the next
	// start writes them to Dir. "": /dev/shm; NoSharedMemory: they are not
	// kept. Where it is not to be had, they are not kept either.
	SharedMemory string
	// Uplinks are the names of the destinations.
	Uplinks []string
	// Stream is the id of this run: letters, digits and '_', and never used
	// before.
	Stream string
	// Now is the wall clock; nil: time.Now.
	Now func() time.Time
	// Mono is the time since the machine's boot, which nobody sets; nil: the
	// system's. Boot is the boot's id; "": the system's. They are for tests.
	Mono func() time.Duration
	Boot string
	// ClockSet, if not nil, is called after somebody set the wall clock, by a
	// goroutine of the buffer. It must not wait.
	ClockSet func()
	// Dropped, if not nil, is told of each record that an uplink will not get, with
	// the reason of its gap notice, as far as the record can still be read, and its
	// schema, as far as that is known. It must not wait, nor call the buffer; r.Data
	// is valid during the call. One that was on its way arrives all the same: see
	// ForwardOptions.OnAcked.
	Dropped func(uplink, reason string, r Record, schema []byte)
	// Log gets what a person should know; nil: nothing is logged.
	Log *slog.Logger
}

// NoSharedMemory as Options.SharedMemory: a killed agent loses what it had not
// committed.
const NoSharedMemory = "-"

const (
	defaultSharedMemory = "/dev/shm"

	defaultMaxSize     = 1 << 30
	defaultSegmentSize = 16 << 20
	defaultTailBytes   = 8 << 20
	minMaxSize         = 1 << 20
	minSegmentSize     = 64 << 10
	minTailBytes       = 64 << 10
)

func (o *Options) fill() error {
	if !streamForm.MatchString(o.Stream) {
		return fmt.Errorf("stream id %q: want 1 to 64 letters, digits or '_'", o.Stream)
	}
	if o.MaxSize == 0 {
		o.MaxSize = defaultMaxSize
	}
	o.MaxSize = max(o.MaxSize, minMaxSize)
	if o.SegmentSize == 0 {
		o.SegmentSize = defaultSegmentSize
	}
	// Whole segments are given up: one must be a small part of all.
	o.SegmentSize = max(min(o.SegmentSize, o.MaxSize/8), minSegmentSize)
	if o.TailBytes == 0 {
		o.TailBytes = defaultTailBytes
	}
	o.TailBytes = max(o.TailBytes, minTailBytes)
	if o.SharedMemory == "" {
		o.SharedMemory = defaultSharedMemory
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Buffer keeps records until every uplink has acknowledged them. Its methods
// may be called by several goroutines at once.
type Buffer struct {
	o       Options
	log     *slog.Logger
	started time.Time
	booted  time.Duration // the time since the machine's boot when the buffer was opened

	done   chan struct{} // closed by Close: the forwarders end
	kick   chan struct{} // wakes the writer; holds one
	stop   chan struct{} // ends the writer
	writer sync.WaitGroup
	active sync.WaitGroup // forwarders

	patience   time.Duration // with the last acknowledgements; tests shorten it
	historical time.Duration // HistoricalAfter; the same
	behindAge  time.Duration // behindAfter; the same

	rescuing sync.Mutex // one salvage at a time
	adopting sync.Mutex // uplinks stay the same while a late disk is taken over

	mu       sync.Mutex
	closed   bool
	disk     *disk // nil: memory only
	ord      uint64
	tail     *tail
	settled  uint64 // up to here nothing of this stream needs to be written
	pending  int64  // bytes in the tail beyond settled
	segments []*segment
	uplinks  map[string]*uplink
	removed  []string // uplinks that state.db has to forget
	schemas  schemaCache
	clocks   clocks
	parked   bool // the writer waits for the next record
	urged    bool // the writer was told that the tail fills
	arming   bool // the writer was told that cursors moved
	diskErr  error
	suspect  *segment // a reader found the writer's file damaged
	shared   shared
	previous Previous
	counts   counts
	flow     flow

	w writerState
}

// Open opens the buffer in o.Dir and starts a new stream. It fails only if
// the options make no sense or another process holds the directory
// (ErrInUse): whatever else is wrong with the disk, the buffer works from
// memory and Stats says why.
func Open(o Options) (*Buffer, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	b := newBuffer(o)
	b.started, b.booted = time.Now(), sinceBoot()
	var err error
	if b.w.enc, err = newChunkEncoder(o.Stream); err != nil {
		return nil, err
	}
	if err := b.recover(); err != nil {
		return nil, err
	}
	b.writer.Go(b.run)
	return b, nil
}

func newBuffer(o Options) *Buffer {
	b := &Buffer{
		o: o, log: o.Log,
		done: make(chan struct{}), kick: make(chan struct{}, 1), stop: make(chan struct{}),
		patience: ackPatience, historical: HistoricalAfter, behindAge: behindAfter,
		tail: newTail(), uplinks: make(map[string]*uplink), ord: 1,
		schemas: newSchemaCache(), clocks: newClocks(o.Boot, o.Stream),
		counts: counts{dropped: make(map[string]uint64), batches: make(map[string]uint64)}, flow: newFlow(),
	}
	b.w.init()
	return b
}

// clock is the monotonic time since the buffer was opened.
func (b *Buffer) clock() time.Duration { return time.Since(b.started) }

// Append takes a record and returns the seq it got. It copies r.Data and
// waits for neither disk nor uplinks. Where memory is full and the disk does
// not take the oldest records, they are given up with a gap notice.
func (b *Buffer) Append(r Record) (seq uint64, err error) {
	if len(r.Data) > maxRecordSize || int64(len(r.Data)) > b.o.TailBytes/2 {
		return 0, fmt.Errorf("a record of %d bytes: %w (at most %d)", len(r.Data), ErrTooLarge, min(maxRecordSize, b.o.TailBytes/2))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, ErrClosed
	}
	if !b.schemas.has(r.Schema) {
		return 0, fmt.Errorf("%w %d: it was not put before the record", ErrUnknownSchema, r.Schema)
	}
	b.makeRoom(int64(len(r.Data)))
	seq = b.tail.next()
	at := b.clock()
	b.tail.push(&r, at, b.observe())
	b.pending += entryCost(len(r.Data))
	b.counts.appended++
	b.note(&r, at)
	if len(b.uplinks) == 0 {
		b.release()
		return seq, nil
	}
	if b.o.CommitInterval > 0 || !b.diskWorks() {
		b.wakeUplinks()
	}
	if b.parked {
		b.parked = false
		b.kickWriter()
	}
	if !b.urged && b.pending > b.o.TailBytes/2 {
		b.urged = true
		b.kickWriter()
	}
	return seq, nil
}

// diskWorks tells whether records are on the disk soon.
func (b *Buffer) diskWorks() bool { return b.disk != nil && b.diskErr == nil }

func (b *Buffer) wakeUplinks() {
	for _, u := range b.uplinks {
		u.wake()
	}
}

func (b *Buffer) kickWriter() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// makeRoom frees memory for size more bytes: first what is on the disk too,
// then, if the disk does not keep up, the oldest records with a gap notice.
func (b *Buffer) makeRoom(size int64) {
	for b.tail.n > 0 && b.tail.bytes+entryCost(int(size)) > b.o.TailBytes {
		if b.tail.first > b.settled {
			b.giveUp(b.tail.first)
		}
		b.pop()
	}
}

// giveUp announces to all uplinks that a record in the tail will not come.
func (b *Buffer) giveUp(seq uint64) {
	r, e := b.tail.record(seq), b.tail.entry(seq)
	at := e.time - e.stepped(b.clocks.mine)
	missed := false
	for _, u := range b.uplinks {
		if len(u.uncovered(b.ord, seq, seq)) == 0 {
			continue
		}
		missed = true
		u.miss(b.ord, Gap{
			Stream: b.o.Stream, From: seq, To: seq, Readings: uint64(r.Readings),
			Reason: ReasonDisk, Oldest: at, Newest: at,
		})
		u.wake()
		if b.o.Dropped != nil {
			told := r
			told.Time = b.clocks.wall(b.ord, at)
			schema, _ := b.schemas.get(r.Schema)
			b.o.Dropped(u.name, ReasonDisk, told, schema)
		}
	}
	if missed {
		b.counts.drop(ReasonDisk, 1, uint64(r.Readings))
	}
}

// pop removes the oldest record from the tail.
func (b *Buffer) pop() {
	b.settle(b.tail.first)
	b.shareGaps() // before the record is gone
	b.tail.pop()
}

// settle notes that nothing up to seq needs to be written any more.
func (b *Buffer) settle(seq uint64) {
	for s := max(b.settled+1, b.tail.first); s <= seq && b.tail.has(s); s++ {
		b.pending -= entryCost(len(b.tail.entry(s).data))
	}
	b.settled = max(b.settled, seq)
	if b.pending <= b.o.TailBytes/2 {
		b.urged = false
	}
}

// wanted tells whether some uplink has not acknowledged a record of this
// stream.
func (b *Buffer) wanted(seq uint64) bool {
	for _, u := range b.uplinks {
		if u.needs(b.ord, seq) {
			return true
		}
	}
	return false
}

// release forgets what all uplinks have acknowledged, and does not write what
// they acknowledged beyond that.
func (b *Buffer) release() {
	for b.tail.n > 0 && !b.wanted(b.tail.first) {
		b.pop()
	}
	for next := max(b.settled+1, b.tail.first); b.tail.has(next) && !b.wanted(next); next++ {
		b.settle(next)
	}
}

// visible returns the last seq of this stream that uplinks may see.
func (b *Buffer) visible() uint64 {
	if b.o.CommitInterval == 0 && b.diskWorks() {
		return b.settled
	}
	return b.tail.next() - 1
}

// SetUplinks says which uplinks there are. New ones start at the present;
// removed ones hold nothing back any more, and their Forward ends with
// ErrUnknownUplink. The change is durable when SetUplinks returns nil.
func (b *Buffer) SetUplinks(names []string) error {
	b.adopting.Lock()
	defer b.adopting.Unlock()
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	keep := make(map[string]bool, len(names))
	for _, name := range names {
		keep[name] = true
		if b.uplinks[name] == nil {
			u := newUplink(name, cursor{at: place{b.ord, b.tail.next() - 1}}, nil)
			u.cursorDirty = true
			u.touchGaps()
			b.sharePlace(u)
			b.uplinks[name] = u
		}
	}
	for name, u := range b.uplinks {
		if keep[name] {
			continue
		}
		u.removed = true
		u.wake()
		b.unsharePlace(u)
		delete(b.uplinks, name)
		b.removed = append(b.removed, name)
	}
	b.release()
	memory := b.disk == nil
	b.mu.Unlock()
	if memory {
		return nil
	}
	b.kickWriter() // segments may be free now
	return b.saveState()
}

// Close ends the buffer. The order is a promise: forwarders are told to end
// and get 1 s for the acknowledgements of what is in flight; then all that
// some uplink has not acknowledged is committed, the cursors are saved, and
// the files are closed. The caller stops appending before; a later Append
// fails with ErrClosed. An error says how many batches could not be kept.
func (b *Buffer) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	close(b.done)
	b.active.Wait()
	close(b.stop)
	b.writer.Wait()

	err := b.flush()
	if b.disk == nil {
		return errors.Join(err, b.endSharing(true))
	}
	b.sealActive()
	saved := errors.Join(b.reclaim(), b.saveState())
	if saved == nil {
		saved = b.sayGoodbye()
	}
	b.disk.files.closeIdle(0)
	// What state.db did not take is known to the shared memory alone.
	return errors.Join(err, saved, b.endSharing(saved == nil), b.disk.close())
}

// flush commits all that is pending, for Close.
func (b *Buffer) flush() error {
	var err error
	if b.disk != nil {
		err = b.commit()
	} else {
		err = b.diskErr
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release()
	n := uint64(b.tail.n)
	if b.settled >= b.tail.first {
		n -= min(n, b.settled-b.tail.first+1)
	}
	if n == 0 {
		return nil
	}
	// The next run has to announce them: state.db has room for that, as its
	// file was made larger than it needs to be.
	for b.tail.n > 0 {
		if b.tail.first > b.settled {
			b.giveUp(b.tail.first)
		}
		b.pop()
	}
	return fmt.Errorf("%d batches are lost, the disk does not take them: %w", n, err)
}

// StateGet returns the small value that StatePut stored under key, in this or
// an earlier run; nil if there is none.
func (b *Buffer) StateGet(key string) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]byte(nil), b.w.values[key]...)
}

// StatePut stores a small value under key. It is durable when StatePut
// returns nil; after an error it is known to this run alone.
func (b *Buffer) StatePut(key string, value []byte) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	b.w.values[key] = append([]byte(nil), value...)
	d, err := b.disk, b.diskErr
	b.mu.Unlock()
	if d == nil {
		return fmt.Errorf("store %q: %w", key, err)
	}
	err = d.state.putValue(key, value)
	if err != nil && !isReadOnly(err) {
		b.w.saving.Lock()
		err = b.healState(err)
		b.w.saving.Unlock()
	}
	if err != nil {
		return fmt.Errorf("store %q: %w", key, err)
	}
	return nil
}

// disk is the directory and what is open in it for the whole run.
type disk struct {
	dir   string
	lock  *os.File
	state *stateFile
	files *openFiles
}

func (d *disk) close() error {
	var err error
	if d.state != nil {
		err = d.state.close()
	}
	return errors.Join(err, d.lock.Close())
}
