// Package ledger is the completeness ledger: how many readings of each device
// were due, read, good and delivered in each hour, how long the device was
// there, and when it was not. It is what the connectivity figures are made of.
//
// Counting costs the data path one short lock for each scan. What was counted
// is written to a journal each minute, and filed by hour into one file for
// each month: see frame.go for what is in them, journal.go for when, and
// read.go for how they are read, also while the agent runs or after it has
// ended.
package ledger

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// sane is the first time, in Unix ms, that is taken for a real one: 2020. A
// gateway without a clock of its own begins in 1970.
const sane = 1577836800_000

// FlushEvery is how often what was counted is written: so much, at most, is
// not counted when the agent is killed.
const FlushEvery = time.Minute

// FirstAfter is when that is done first, so that somebody who has just started
// the agent need not wait for a minute.
const FirstAfter = 10 * time.Second

// Options of a Ledger.
type Options struct {
	Dir  string        // is made if need be
	Keep time.Duration // how long the counts are kept
	// Now is the best wall time that is known; nil: time.Now.
	Now func() time.Time
	// Elapsed is the time since some moment before Open, which nobody sets; nil:
	// since Open.
	Elapsed func() time.Duration
	Log     *slog.Logger // nil: nothing is logged
}

// Ledger counts. All its methods may be called by several goroutines. A nil
// Ledger counts nothing.
type Ledger struct {
	o       Options
	log     *slog.Logger
	began   time.Time // when it was opened, by the wall clock of then
	elapsed func() time.Duration
	started time.Duration // elapsed at began
	dirty   atomic.Bool   // the plan has changed

	mu      sync.Mutex // guards what follows
	devices map[string]*Device
	present map[string]bool // of the configuration in force
	news    events          // outages that ended since the last flush

	files files // of the goroutine that flushes
}

// New makes a Ledger, which counts at once. It touches no disk: Flush does,
// and Run calls it.
func New(o Options) *Ledger {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Ledger{o: o, log: o.Log, began: o.Now(), elapsed: o.Elapsed, devices: map[string]*Device{}, present: map[string]bool{}}
	if l.elapsed == nil {
		start := time.Now()
		l.elapsed = func() time.Duration { return time.Since(start) }
	}
	l.started = l.elapsed()
	l.files.init(l)
	return l
}

// Device returns what counts for a device: the same for the same id.
func (l *Ledger) Device(id string) *Device {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.devices[id]
	if d == nil {
		d = &Device{l: l, id: id, rows: map[int64]*Counts{}, since: l.elapsed()}
		l.devices[id] = d
	}
	return d
}

// SetDevices says which devices there are from now on. Of the others nothing
// is due any more.
func (l *Ledger) SetDevices(now time.Time, ids []string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	present := map[string]bool{}
	for _, id := range ids {
		present[id] = true
	}
	l.present = present
	var gone []*Device
	for id, d := range l.devices {
		if !present[id] {
			gone = append(gone, d)
		}
	}
	l.mu.Unlock()
	for _, d := range gone {
		d.State(now, Unobserved, time.Time{}, "")
		d.Plan(nil)
	}
	l.planned()
}

func (l *Ledger) planned() { l.dirty.Store(true) }

// noteOutage keeps an outage that is over.
func (l *Ledger) noteOutage(o Outage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.news.Outages = append(l.news.Outages, o)
}

// Data is when good readings of a device came first and last in this run, in
// Unix ms; 0: none did.
func (d *Device) Data() (first, last int64) {
	if d == nil {
		return 0, 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.first, d.last
}

// Run writes what is counted at once, after FirstAfter, and from then on each
// minute, on the minute, until ctx ends, and then a last time. before is called before each time, for what is to be
// counted by then, and after when it is written.
func (l *Ledger) Run(ctx context.Context, before, after func()) {
	flush := func(last bool) {
		before()
		l.Flush(last)
		after()
	}
	flush(false)
	for first := true; ; first = false {
		now := l.o.Now()
		wait := now.Truncate(FlushEvery).Add(FlushEvery).Sub(now)
		if first {
			wait = min(wait, FirstAfter)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			before()
			l.Flush(true)
			return
		case <-timer.C:
			flush(false)
		}
	}
}
