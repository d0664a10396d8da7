package collector

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/collector/ledger"
	"millrace/protocols"
)

// device is one device and all that is remembered of it. Its bus's goroutine
// owns it; what others may read (the page, the metrics) is in view.
type device struct {
	cfg      *protocols.Device
	appender Appender
	onState  func(DeviceState)
	log      *slog.Logger
	now      func() time.Time

	pipes    []pipeline // by tag
	selects  bool       // of some tags, only changes go out
	schema   *protocols.Schema
	schemaID uint64
	chosen   []protocols.Reading // of a batch of which not all goes out; used again for each
	good     int                 // of chosen, those that are good
	batch    protocols.Batch     // what is encoded; the same
	record   []byte              // the same

	state   stateMachine
	started bool
	before  []remembered // by tag, of a subscription: what a break has made bad
	down    bool         // its bad batch has gone out; nothing more until it answers
	unit    *unit        // which it is, or is a part of, on its bus
	scans   []*group     // of a device that is polled
	faulty  map[*group]error
	refused bool        // the buffer did not take the last batch
	retired atomic.Bool // a reload has replaced it or taken it away

	history history // values that were missed and read afterwards
	book    *ledger.Device
	late    lateness
	ident   identification

	counters counters
	view     view
}

// counters are what the metrics show of a device.
type counters struct {
	good, uncertain, bad atomic.Uint64 // readings
	scans, missed        atomic.Uint64
	lost                 atomic.Uint64 // values that never arrived
	backfilled           atomic.Uint64 // readings that were missed, and read from the device's own memory
	duration             histogram
	delay                histogram // from when a scan was due to its start
}

// view is what other goroutines may see of a device. Only the bus's
// goroutine changes it, so that one needs the lock for changes only.
type view struct {
	mu       sync.Mutex
	state    DeviceState
	lastScan time.Duration
	lastTime time.Time
	// monitoring is how many tags a subscription watches; nil: not told.
	monitoring *protocols.Monitoring
	identity   protocols.Identity  // what the device says of itself
	advice     []string            // what to change in the configuration
	values     []protocols.Reading // the newest of each tag, before changes are selected
	times      []int64             // when they arrived, in ms; 0: not yet
	watch      *watch              // of a subscription: what is due of it, and what is known
}

func newDevice(cfg *protocols.Device, o Options) (*device, error) {
	d := &device{
		cfg: cfg, appender: o.Appender, onState: o.State, log: o.Log.With("device", cfg.ID), now: o.Now,
		schema: &protocols.Schema{Device: cfg.ID},
		faulty: map[*group]error{}, book: o.Ledger.Device(cfg.ID),
	}
	d.view.values = make([]protocols.Reading, len(cfg.Tags))
	d.view.times = make([]int64, len(cfg.Tags))
	for i := range cfg.Tags {
		t := &cfg.Tags[i]
		p := newPipeline(t)
		// A subscription brings changes only: the rules of on_change (and the
		// snapshot) are the rules of all its tags.
		p.onChange = p.onChange || cfg.OPCUA.Subscribe
		d.selects = d.selects || p.onChange
		d.pipes = append(d.pipes, p)
		d.schema.Tags = append(d.schema.Tags, protocols.SchemaTag{Name: t.Name, Unit: t.Unit})
	}
	d.schemaID = d.schema.ID()
	if cfg.OPCUA.Subscribe {
		d.before = make([]remembered, len(cfg.Tags))
		d.view.watch = newWatch(cfg, d.book, o.Now())
	}
	d.state = newStateMachine(cfg, o.Now())
	d.view.state = d.state.cur
	if len(cfg.Tags) == 0 {
		return d, nil
	}
	if err := o.Appender.PutSchema(d.schemaID, protocols.AppendSchema(nil, d.schema)); err != nil {
		return nil, fmt.Errorf("storing the names of its tags: %w", err)
	}
	return d, nil
}

// start tells the state that the device has at the start.
func (d *device) start() {
	if d.started {
		return
	}
	d.started = true
	d.view.watch.begin(d.now()) // until now, the one it replaces was watched
	s := d.view.current()
	d.book.State(d.now(), bookState(s.State), d.state.lastAnswer, s.Reason)
	d.onState(s)
}

// groups makes the scans of a device that is polled: one for each interval.
// devices is how many the gateway has.
func (d *device) groups(devices int) []*group {
	clear(d.faulty) // of a bus that has ended
	byInterval := make(map[time.Duration]*group)
	var gs []*group
	for i := range d.cfg.Tags {
		interval := d.cfg.Tags[i].Interval
		if interval <= 0 {
			interval = d.cfg.Interval
		}
		g, ok := byInterval[interval]
		if !ok {
			g = &group{dev: d, interval: interval, phase: phaseOf(d.cfg.ID, interval, devices)}
			byInterval[interval] = g
			gs = append(gs, g)
		}
		g.tags = append(g.tags, i)
	}
	d.scans = gs
	for _, g := range gs {
		g.out = make([]protocols.Reading, len(g.tags))
		g.plain = !slices.ContainsFunc(g.tags, func(tag int) bool { return !d.pipes[tag].plain() })
	}
	return gs
}

// scanned takes in what a scan brought.
func (d *device) scanned(g *group, res protocols.ScanResult, took time.Duration) {
	d.counters.scans.Add(1)
	d.counters.duration.observe(took)
	if res.Answers == 0 {
		d.unansweredScan(g, res.Err)
		return
	}
	d.down, g.silent, g.deaf = false, false, false
	for _, other := range d.scans {
		// While this one is answered, another one's silence is its own.
		other.deaf = other.silent
	}
	now := res.Time
	// All tags go out again at times, so that a platform that missed one
	// change does not show an old value for ever.
	full := now.Sub(g.snapshot) >= d.cfg.Snapshot || now.Before(g.snapshot)
	if full {
		g.snapshot = now
	}
	rs, n := d.takeScan(g, now, took, full)
	n.sent = d.send(rs, n.sent, now.UnixMilli())
	d.book.Scanned(now, ledger.Scan{Read: int(n.good + n.uncertain + n.bad - n.none), Good: int(n.good), Sent: n.sent, Took: took})
	if d.note(g, res.Err) {
		d.tellState()
	}
}

// advised takes in what to change in the device's configuration, and logs
// what is new.
func (d *device) advised(advice []string) {
	d.view.mu.Lock()
	before := d.view.advice
	d.view.advice = advice
	d.view.mu.Unlock()
	for _, text := range advice {
		if !slices.Contains(before, text) {
			d.log.Info("a suggestion for the configuration", "because", text)
		}
	}
}

// takeScan puts what a scan brought through the pipelines, and returns what
// is to go out: all of it, where it is, unless some tags bring changes only.
func (d *device) takeScan(g *group, now time.Time, took time.Duration, full bool) ([]protocols.Reading, qualities) {
	d.view.mu.Lock()
	defer d.view.mu.Unlock()
	d.newBatch()
	ms := now.UnixMilli()
	d.view.lastTime, d.view.lastScan = now, took
	if g.plain && len(g.tags) == len(d.cfg.Tags) {
		return d.takeWhole(g, ms)
	}
	var n qualities
	for i, tag := range g.tags {
		r := &g.out[i]
		r.Tag = int32(tag)
		if d.take(r, ms, full, &n) && d.selects {
			d.add(r)
		}
	}
	d.counters.add(n)
	if d.selects {
		n.sent = d.good
		return d.chosen, n
	}
	n.sent = int(n.good)
	return g.out, n
}

// takeWhole takes in a scan of all of the device's tags to which nothing is to
// be done: the scan's readings and the newest ones change places, and nothing
// is copied. The caller holds the view's lock.
func (d *device) takeWhole(g *group, ms int64) ([]protocols.Reading, qualities) {
	var n [protocols.Bad + 1]uint64
	none := uint64(0)
	for i := range g.out {
		r := &g.out[i]
		r.Tag = int32(i)
		if r.Quality != protocols.Bad && !r.Value.Finite() {
			r.SetBad(protocols.NotANumber)
		}
		n[r.Quality]++
		if r.Quality == protocols.Bad && r.Reason.NoValue() {
			none++
		}
	}
	for i := range d.view.times {
		d.view.times[i] = ms
	}
	all := qualities{good: n[protocols.Good], uncertain: n[protocols.Uncertain], bad: n[protocols.Bad], none: none, sent: int(n[protocols.Good])}
	d.counters.add(all)
	d.view.values, g.out = g.out, d.view.values
	return d.view.values, all
}

// unansweredScan takes in that a scan had no answer. At the first time that
// is the device's silence. A group that stays silent while others of its
// device are answered is one request that fails: its tags are bad already.
func (d *device) unansweredScan(g *group, err error) {
	g.silent = true
	if g.deaf && !d.down && protocols.KindOf(err) != protocols.KindNotConnected {
		d.faulty[g] = err
		if d.state.failing(d.now(), err) {
			d.tellState()
		}
		return
	}
	d.unanswered(err)
}

// reported takes in what a subscription brought.
func (d *device) reported(rep protocols.Report) {
	if rep.History {
		d.reportedHistory(rep)
		return
	}
	d.counters.lost.Add(rep.Lost)
	d.bookLost(rep.Lost)
	d.noteMonitoring(rep.Monitoring)
	ms := rep.Time.UnixMilli()
	if rep.Resumed != nil {
		d.resume(rep.Resumed, ms)
	}
	if len(rep.Readings) > 0 {
		d.takeReport(&rep, ms)
		d.sendChosen(ms)
	}
	if rep.Resumed == nil && len(rep.Readings) == 0 && d.down {
		return // it says nothing of a value yet
	}
	d.down = false
	if d.state.answered(d.now(), d.unmonitored()) {
		d.tellState()
	}
}

func (d *device) takeReport(rep *protocols.Report, ms int64) {
	d.view.mu.Lock()
	defer d.view.mu.Unlock()
	d.newBatch()
	var n qualities
	for i := range rep.Readings {
		if r := &rep.Readings[i]; d.take(r, ms, false, &n) {
			d.add(r)
		}
	}
	d.counters.add(n)
	d.view.lastTime = rep.Time
}

// resend sends the newest reading of each tag of a subscription again.
func (d *device) resend(now time.Time) {
	if d.down {
		return
	}
	d.newBatch()
	for i := range d.view.values {
		if d.view.times[i] != 0 {
			d.pipes[i].remember(&d.view.values[i])
			d.add(&d.view.values[i])
		}
	}
	d.sendChosen(now.UnixMilli())
}

// take puts one reading through its tag's pipeline, and says whether it is to
// go out. The caller holds the view's lock, and adds n to the counters when
// it has taken all.
func (d *device) take(r *protocols.Reading, ms int64, full bool, n *qualities) bool {
	p := &d.pipes[r.Tag]
	p.transform(r)
	n.count(r)
	if d.view.watch != nil {
		d.view.watch.set(r, d.now)
	}
	d.view.values[r.Tag] = *r
	d.view.times[r.Tag] = ms
	if d.before != nil {
		d.before[r.Tag].held = false
	}
	if p.onChange {
		if !full && !p.changed(r) {
			return false
		}
		p.remember(r)
	}
	return true
}

// qualities counts readings. An atomic counter for each of them would take
// more than all else that is done to it.
type qualities struct {
	good, uncertain, bad uint64
	none                 uint64 // of bad, those for which the device gave no value
	sent                 int    // of good, those that go out
}

func (n *qualities) count(r *protocols.Reading) {
	switch r.Quality {
	case protocols.Good:
		n.good++
	case protocols.Uncertain:
		n.uncertain++
	case protocols.Bad:
		n.bad++
		if r.Reason.NoValue() {
			n.none++
		}
	}
}

func (c *counters) add(n qualities) {
	c.good.Add(n.good)
	c.uncertain.Add(n.uncertain)
	c.bad.Add(n.bad)
}

// newBatch begins a batch. What an internal error left behind of the one
// before must not get into it: a tag would stand there twice.
func (d *device) newBatch() { d.chosen, d.good = d.chosen[:0], 0 }

func (d *device) add(r *protocols.Reading) {
	d.chosen = append(d.chosen, *r)
	if r.Quality == protocols.Good {
		d.good++
	}
}

// sendChosen hands over what was chosen of a report, or to be sent again.
func (d *device) sendChosen(ms int64) {
	if n := d.send(d.chosen, d.good, ms); n > 0 {
		d.book.Scanned(time.UnixMilli(ms), ledger.Scan{Sent: n})
	}
}

// send hands a batch over, if there is anything in it. good is how many good
// readings it has; it returns how many of them were taken.
func (d *device) send(rs []protocols.Reading, good int, ms int64) (taken int) {
	if len(rs) == 0 {
		return 0
	}
	if !ascending(rs) {
		slices.SortStableFunc(rs, func(a, b protocols.Reading) int { return int(a.Tag - b.Tag) })
	}
	return good - d.append(rs, ms)
}

// ascending says that rs is in the order of its tags. (slices.IsSortedFunc
// copies each of them, twice.)
func ascending(rs []protocols.Reading) bool {
	for i := 1; i < len(rs); i++ {
		if rs[i].Tag < rs[i-1].Tag {
			return false
		}
	}
	return true
}

// maxRecord is how many bytes a batch may have. Larger ones are split: as
// JSON they would be several megabytes, which brokers do not take.
const maxRecord = 256 << 10

// append encodes the readings and hands them over, in as many batches as it
// takes. It returns how many good ones were not taken.
func (d *device) append(rs []protocols.Reading, ms int64) (lost int) {
	d.batch.Schema, d.batch.Readings, d.batch.Historical = d.schema, rs, d.history.sending
	d.record = protocols.EncodeBatch(d.record[:0], &d.batch)
	if len(d.record) > maxRecord && len(rs) > 1 {
		return d.append(rs[:len(rs)/2], ms) + d.append(rs[len(rs)/2:], ms)
	}
	err := d.appender.Append(ms, d.schemaID, len(rs), d.record)
	if err != nil && !d.refused {
		d.log.Error("batches of this device cannot be buffered, and are lost", "readings", len(rs), "error", err)
	}
	d.refused = err != nil
	if err == nil {
		return 0
	}
	for i := range rs {
		if rs[i].Quality == protocols.Good {
			lost++
		}
	}
	return lost
}

// unanswered takes in that the device did not answer: all its tags go out as
// bad, once.
func (d *device) unanswered(err error) {
	now := d.now()
	if !d.down {
		d.down = true
		d.takeBad(protocols.ReasonOf(err), now.UnixMilli())
		d.send(d.chosen, d.good, now.UnixMilli())
		clear(d.faulty)
	}
	if d.state.unanswered(now, err) {
		d.tellState()
	}
}

func (d *device) takeBad(why protocols.Reason, ms int64) {
	d.view.mu.Lock()
	defer d.view.mu.Unlock()
	d.newBatch()
	var n qualities
	for i := range d.cfg.Tags {
		r := protocols.Reading{Tag: int32(i)}
		r.SetBad(why)
		held := d.hold(i)
		d.take(&r, ms, true, &n)
		d.add(&r)
		if d.before != nil {
			d.before[i].held = held
		}
	}
	d.counters.add(n)
}

// note remembers how a group's last scan went, and feeds the state with what
// is wrong over all groups: a device is online only when all of them are
// whole.
func (d *device) note(g *group, err error) bool {
	if err == nil {
		delete(d.faulty, g)
	} else {
		d.faulty[g] = err
	}
	// Always the first of them, so that two failures do not take turns.
	err = nil
	for _, other := range d.scans {
		if d.faulty[other] != nil {
			err = d.faulty[other]
			break
		}
	}
	if err == nil {
		err = d.late.err
	}
	return d.state.answered(d.now(), err)
}

// tellState makes a change of state known, and logs it: once, here.
func (d *device) tellState() {
	if d.retired.Load() {
		return // its successor speaks now
	}
	s := d.state.cur
	d.view.mu.Lock()
	d.view.state = s
	d.view.mu.Unlock()
	d.ident.gone = d.ident.gone || s.State == Offline
	if s.State == Online {
		d.log.Info("device state", "state", s.State)
	} else {
		d.log.Warn("device state", "state", s.State, "reason", s.Reason)
	}
	d.book.State(d.now(), bookState(s.State), d.state.lastAnswer, s.Reason)
	d.onState(s)
}

func (v *view) current() DeviceState {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state
}
