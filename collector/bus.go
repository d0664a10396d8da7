package collector

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"millrace/protocols"
)

const (
	// stopGrace is how long a scan in flight may go on when its bus stops.
	stopGrace = time.Second
	// Between attempts to connect. The first waits are short, because a PLC
	// that was restarted is back soon; the longest is short enough for a
	// technician who waits beside it.
	backoffFirst   = 250 * time.Millisecond
	backoffLongest = 5 * time.Second
	// backoffSubscribed is the longest for a session with subscriptions: their
	// values wait on the server for some seconds only.
	backoffSubscribed = time.Second
	// backoffRefused is for failures that only a person can mend.
	backoffRefused = 15 * time.Second
	// A connection on which nobody answered so many scans, for so long, is
	// made anew: the device may have lost it without our being told (a power
	// cut, a firewall that forgot it), and TCP alone takes minutes to notice.
	deafScans = 3
	deafTime  = 5 * time.Second
	// maxNested is how many scans may be interrupted by one another.
	maxNested = 4
)

// bus is the goroutine that owns one connection to the field and the devices
// on it.
type bus struct {
	key string
	log *slog.Logger
	now func() time.Time

	conn    protocols.Bus
	sub     protocols.Subscriber             // conn, where it can subscribe
	ident   protocols.Identifier             // conn, where its devices can be asked who they are
	unitKey func(d *protocols.Device) string // which devices are one unit
	devices []*device
	units   []*unit
	probes  probing
	sched   schedule
	turns   []turn // of the scans under way: each is interrupted by the next

	connected   bool
	proven      bool // it has answered on this connection
	connErr     error
	backoff     time.Duration
	nextConnect time.Time
	unanswered  int       // scans in a row, whosever, that nobody answered
	deafSince   time.Time // the first of them
	subs        []*subscription

	cancel  context.CancelFunc
	done    chan struct{}
	updates chan struct{} // holds one: there is something in pending
	pending atomic.Pointer[busDevices]
}

// turn is a scan under way.
type turn struct {
	start time.Time
	lent  time.Duration // that it gave to others, and they to others again
}

// subscription is a device that reports by itself.
type subscription struct {
	dev    *device
	active bool
	due    time.Time // its next snapshot, or the next attempt to subscribe
}

// busDevices are the devices of one bus, and how many the gateway has on all
// of them.
type busDevices struct {
	devices []*device
	total   int
}

func newBus(key string, driver protocols.Driver, devs []*device, o Options) (*bus, error) {
	conn, err := driver.Open(configsOf(devs))
	if err != nil {
		return nil, err
	}
	b := &bus{
		key: key, conn: conn, log: o.Log.With("bus", key), now: o.Now,
		done: make(chan struct{}), updates: make(chan struct{}, 1),
	}
	b.sub, _ = conn.(protocols.Subscriber)
	b.ident, _ = conn.(protocols.Identifier)
	b.unitKey = func(d *protocols.Device) string { return d.ID }
	if k, ok := driver.(protocols.UnitKeyer); ok {
		b.unitKey = k.UnitKey
	}
	return b, nil
}

func configsOf(devs []*device) []*protocols.Device {
	cfgs := make([]*protocols.Device, len(devs))
	for i, d := range devs {
		cfgs[i] = d.cfg
	}
	return cfgs
}

// start runs the bus for the given devices until stop.
func (b *bus) start(devs busDevices) {
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	b.setDevices(devs)
	go b.run(ctx)
}

// stop ends the bus and waits until its connection is closed.
func (b *bus) stop() {
	b.cancel()
	<-b.done
}

// update changes the devices of a running bus, after its present scan. Those
// that stay are not touched.
func (b *bus) update(devs busDevices) {
	b.pending.Store(&devs)
	select {
	case b.updates <- struct{}{}:
	default:
	}
}

// run is the life of the bus. Two contexts: ctx ends the waiting for the
// next turn; work, a little later, ends the scan in flight.
func (b *bus) run(ctx context.Context) {
	defer close(b.done)
	work, cancelWork := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelWork()
	defer context.AfterFunc(ctx, func() {
		t := time.AfterFunc(stopGrace, cancelWork)
		context.AfterFunc(work, func() { t.Stop() })
	})()
	defer b.disconnect()

	timer := time.NewTimer(0)
	defer timer.Stop()
	var reports <-chan protocols.Report
	if b.sub != nil {
		reports = b.sub.Reports()
	}
	for {
		timer.Reset(b.untilWake())
		select {
		case <-ctx.Done():
			return
		case <-b.updates:
			b.dropSubscriptions(work, *b.pending.Load())
			b.setDevices(*b.pending.Load())
		case rep := <-reports:
			b.guard(func() { b.report(rep) })
		case <-timer.C:
			b.guard(func() { b.turn(ctx, work) })
		}
	}
}

// guard keeps a panic, a driver's for instance, from ending the agent: the
// connection is closed and everything on this bus starts again.
func (b *bus) guard(f func()) {
	defer func() {
		if p := recover(); p != nil {
			b.turns = b.turns[:0]
			b.log.Error("internal error: please report it; the connection starts again", "panic", p, "stack", string(debug.Stack()))
			b.lost(&protocols.Error{Kind: protocols.KindNotConnected, Reason: protocols.Offline, Text: fmt.Sprintf("internal error on %s: %v", b.key, p)})
		}
	}()
	f()
}

// dropSubscriptions ends the subscriptions of the devices that go, which get
// what has come for them until then. Their neighbours' are not touched.
func (b *bus) dropSubscriptions(work context.Context, set busDevices) {
	goes := func(s *subscription) bool { return !slices.Contains(set.devices, s.dev) }
	if !slices.ContainsFunc(b.subs, goes) {
		return
	}
	for _, s := range b.subs {
		if goes(s) {
			b.guard(func() { b.sub.Unsubscribe(work, s.dev.cfg) })
		}
	}
	b.guard(b.takeWaiting)
	b.subs = slices.DeleteFunc(b.subs, goes)
}

// takeWaiting takes in the reports that wait.
func (b *bus) takeWaiting() {
	for range len(b.sub.Reports()) {
		b.report(<-b.sub.Reports())
	}
}

// setDevices brings the schedule in line with the devices.
func (b *bus) setDevices(set busDevices) {
	devs := set.devices
	stays := map[*device]bool{}
	for _, d := range devs {
		stays[d] = true
	}
	known := map[*device]bool{}
	for _, d := range b.devices {
		known[d] = stays[d]
	}
	for _, g := range slices.Clone(b.sched) {
		if !stays[g.dev] {
			b.sched.remove(g)
		}
	}
	b.devices = devs
	b.setUnits()
	now := b.now()
	for _, d := range devs {
		if known[d] {
			continue
		}
		if b.subscribes(d) {
			b.subs = append(b.subs, &subscription{dev: d})
			continue
		}
		for _, g := range d.groups(set.total) {
			g.due = firstDue(now, g.interval, g.phase)
			b.sched.add(g)
		}
	}
}

// setUnits finds out which devices are the same unit. What is known of those
// that stay is kept.
func (b *bus) setUnits() {
	before := map[string]*unit{}
	for _, u := range b.units {
		before[u.key] = u
	}
	b.units = b.units[:0:0]
	now := map[string]*unit{}
	for _, d := range b.devices {
		key := b.unitKey(d.cfg)
		u := now[key]
		if u == nil {
			if u = before[key]; u == nil {
				u = &unit{key: key}
			}
			u.wants = nil // it may be a scan of a device that has gone
			now[key] = u
			b.units = append(b.units, u)
		}
		d.unit = u
	}
}

func (b *bus) subscribes(d *device) bool { return b.sub != nil && d.cfg.OPCUA.Subscribe }

// untilWake is how long nothing is due.
func (b *bus) untilWake() time.Duration {
	now := b.now()
	return b.nextWake(now).Sub(now)
}

// nextWake is when something is due next.
func (b *bus) nextWake(now time.Time) time.Time {
	wake := now.Add(time.Minute)
	earlier := func(t time.Time) {
		if t.Before(wake) {
			wake = t
		}
	}
	if g := b.sched.first(); g != nil {
		earlier(g.due)
	}
	if t, ok := b.probes.wake(b.units); ok {
		earlier(t)
	}
	if len(b.subs) > 0 && !b.connected {
		earlier(b.nextConnect)
	}
	for _, s := range b.subs {
		if b.connected {
			earlier(s.due)
		}
	}
	for _, d := range b.devices {
		if d.state.silent && d.state.cur.State == Degraded {
			earlier(d.state.deadline())
		}
	}
	if t, ok := b.identifyWake(); ok {
		earlier(t)
	}
	return wake
}

// turn does what is due, but one scan only: a bus that is asked for more than
// it can do must still hear of updates, reports and its end.
func (b *bus) turn(ctx, work context.Context) {
	if len(b.subs) > 0 {
		b.keepSubscribed(work)
	}
	if ctx.Err() == nil {
		b.serve(work)
	}
	if d := b.identifyDue(b.now()); d != nil && ctx.Err() == nil {
		b.identify(work, d)
	}
	b.expire()
}

// expire makes devices offline that were silent long enough.
func (b *bus) expire() {
	now := b.now()
	for _, d := range b.devices {
		if d.state.expire(now) {
			d.tellState()
		}
	}
}

// serve makes the scan that is due, if there is one: a probe of a silent unit
// that has waited for it, or the next on the schedule.
func (b *bus) serve(work context.Context) {
	now := b.now()
	if u := b.probes.turn(now, b.units); u != nil {
		g := u.wants
		u.wants = nil
		if u.silent && !g.busy {
			b.scan(work, g)
			return
		}
	}
	g := b.dueGroup(now)
	if g == nil {
		return
	}
	due := g.due
	skipped := g.reschedule(now)
	g.count(due, 1+skipped)
	g.dev.counters.missed.Add(uint64(skipped))
	b.sched.changed(g)
	if b.mustWait(g, now) {
		g.dev.unit.wants = g
		g.dev.counters.missed.Add(1)
		return
	}
	g.dev.counters.delay.observe(max(now.Sub(due), 0))
	silent := g.dev.unit.silent
	b.scan(work, g)
	// What became due while it was read is left out, and counted.
	over := b.passOver(g, b.now())
	if silent || g.dev.unit.silent || !b.connected {
		g.dev.late = lateness{} // it waits for its probe, which is not the bus's fault
	} else {
		g.dev.late.count(now, skipped+over)
	}
}

// dueGroup returns the group that is due, or nil. Those that are being read
// have missed their turn.
func (b *bus) dueGroup(now time.Time) *group {
	for {
		g := b.sched.first()
		if g == nil || g.due.After(now) {
			return nil
		}
		if !g.busy {
			return g
		}
		b.passOver(g, now)
	}
}

// passOver leaves out the turns of g that came while it was read, and counts
// them.
func (b *bus) passOver(g *group, now time.Time) (turns int) {
	from := g.due
	turns = g.overrun(now)
	g.count(from, turns)
	g.dev.counters.missed.Add(uint64(turns))
	b.sched.changed(g)
	return turns
}

// mustWait says that the unit of g is silent and has to wait for its probe.
// In a session one device's silence holds up no other, and where all are
// silent there is nobody to protect.
func (b *bus) mustWait(g *group, now time.Time) bool {
	if !g.dev.unit.silent || b.sub != nil || allSilent(b.units) {
		return false
	}
	if !b.connected && now.Before(b.nextConnect) {
		return false // it costs nothing, and hears why there is no connection
	}
	if now.Before(b.probes.next) {
		return true
	}
	first := b.probes.turn(now, b.units)
	return first != nil && first != g.dev.unit
}

// othersDue says that another scan than those that are under way should have
// its turn. The one that is interrupted keeps its share of the time: it lends
// to each of the others what it has used itself.
func (b *bus) othersDue() bool {
	if len(b.sched) < 2 || len(b.turns) > maxNested || len(b.updates) > 0 {
		return false // let what is under way come to its end
	}
	now := b.now()
	t := &b.turns[len(b.turns)-1]
	own := now.Sub(t.start) - t.lent
	if t.lent > own*time.Duration(max(len(b.units)-1, 1)) {
		return false
	}
	return b.dueGroup(now) != nil || b.probes.turn(now, b.units) != nil
}

// giveTurn serves another scan in the middle of the present one.
func (b *bus) giveTurn(work context.Context) {
	start, at := b.now(), len(b.turns)-1
	b.serve(work)
	b.expire()
	b.turns[at].lent += b.now().Sub(start)
}

// scan takes one turn of a group: it connects if it must and may, reads, and
// hands the result to the device. A turn that cannot be taken is counted.
func (b *bus) scan(work context.Context, g *group) {
	d := g.dev
	g.busy = true
	defer func() { g.busy = false }()
	if !b.connect(work, b.now()) {
		if work.Err() == nil {
			d.counters.missed.Add(1)
			d.unanswered(b.connErr)
		}
		return
	}
	res, took := b.read(work, g)
	gone := false // the connection is: nothing is known of the unit
	if protocols.KindOf(res.Err) == protocols.KindNotConnected {
		wasProven := b.proven
		b.broke(d.unit, res)
		// A device that closes idle connections has not failed: it gets a new
		// connection at once. One that never answered on this one waits.
		if wasProven && res.Answers == 0 && work.Err() == nil {
			if gone = !b.connect(work, b.now()); !gone {
				res, took = b.read(work, g)
			}
			if !gone && protocols.KindOf(res.Err) == protocols.KindNotConnected {
				b.broke(d.unit, res)
			}
		}
	}
	if work.Err() != nil {
		return // cut off by the stop: nothing is known about the device
	}
	d.scanned(g, res, took)
	if !gone {
		b.noteUnit(d, res, took)
	}
	if res.Learnt {
		b.tellAdvice(d)
	}
	b.hear(res)
	if res.Answers > 0 {
		b.answers(d)
	}
	if d.cfg.Modbus.CloseAfterScan && b.connected && len(b.turns) == 0 {
		b.identifyWithScan(work, d)
		b.disconnect() // the next scan connects
	}
}

// broke closes the connection that broke in a scan of u. Where it could be
// made and others answer, it was closed because of u, as some gateways do when
// a unit is dead: then it is u that has to wait, and not they.
func (b *bus) broke(u *unit, res protocols.ScanResult) {
	b.proven = b.proven || res.Answers > 0
	others := func(o *unit) bool { return o != u && !o.silent }
	if !b.proven && b.sub == nil && slices.ContainsFunc(b.units, others) {
		b.disconnect() // the next scan connects
		return
	}
	b.dropConnection(res.Err)
}

// noteUnit takes in what a scan of d showed of its unit.
func (b *bus) noteUnit(d *device, res protocols.ScanResult, took time.Duration) {
	u := d.unit
	if res.Answers > 0 {
		b.proven = b.connected
		b.backoff = 0
		if u.silent {
			b.probes.answered()
		}
		u.silent, u.probed, u.wants = false, false, nil
		return
	}
	u.probed = u.silent
	u.silent, u.lastProbe, u.wants = true, b.now(), nil
	if protocols.KindOf(res.Err) == protocols.KindNotConnected {
		took = max(took, d.cfg.Timeout) // a connection is worth that, although it breaks at once
	}
	if !allSilent(b.units) {
		b.probes.failed(b.now(), took)
	}
}

// tellAdvice makes known what the bus has learnt of a device.
func (b *bus) tellAdvice(d *device) {
	if a, ok := b.conn.(protocols.Adviser); ok {
		d.advised(a.Advice(d.cfg))
	}
}

// hear notices a connection that has gone deaf. One unit that answers is
// enough: a silent unit does not cost its neighbours their connection.
func (b *bus) hear(res protocols.ScanResult) {
	// A gateway that says that its unit is silent is not deaf itself.
	if res.Answers > 0 || !b.connected || protocols.KindOf(res.Err) != protocols.KindTimeout {
		b.unanswered = 0
		return
	}
	b.unanswered++
	if b.unanswered == 1 {
		b.deafSince = b.now()
	}
	if b.unanswered >= deafScans && b.now().Sub(b.deafSince) >= deafTime {
		b.unanswered = 0
		b.disconnect() // the next scan connects
	}
}

// read runs the group's scan. What it took is its own time alone.
func (b *bus) read(work context.Context, g *group) (protocols.ScanResult, time.Duration) {
	if g.scan == nil {
		s, err := b.conn.Plan(g.dev.cfg, g.tags)
		if err != nil {
			return protocols.ScanResult{Requests: 1, Err: err}, 0
		}
		g.scan = s
		if i, ok := s.(protocols.Interruptible); ok {
			i.OnPause(b.othersDue, func() { b.giveTurn(work) })
		}
		b.tellAdvice(g.dev)
	}
	b.turns = append(b.turns, turn{start: b.now()})
	res := g.scan.Read(work, g.out)
	t := b.turns[len(b.turns)-1]
	b.turns = b.turns[:len(b.turns)-1]
	return res, b.now().Sub(t.start) - t.lent
}

// connect makes sure that there is a connection, if it is time to try.
func (b *bus) connect(work context.Context, now time.Time) bool {
	if b.connected {
		return true
	}
	if now.Before(b.nextConnect) {
		return false
	}
	began := b.now()
	err := b.conn.Connect(work)
	if err != nil {
		b.lost(err)
		if now := b.now(); len(b.subs) > 0 && now.Sub(began) > backoffSubscribed && protocols.KindOf(err) == protocols.KindTimeout {
			// It has been waited for already.
			b.nextConnect = now.Add(backoffFirst)
		}
		return false
	}
	again := b.connErr != nil
	b.connected, b.proven, b.connErr = true, false, nil
	for _, d := range b.devices {
		if again {
			d.book.Connected(b.now())
		}
		b.tellAdvice(d)
	}
	return true
}

// dropConnection closes a connection that broke, and allows a new one at
// once.
func (b *bus) dropConnection(err error) {
	b.disconnect()
	b.connErr = err
	if b.proven {
		b.nextConnect = time.Time{}
		return
	}
	b.lost(err)
}

// lost closes what there is and waits before the next attempt.
func (b *bus) lost(err error) {
	b.disconnect()
	b.connErr = err
	b.backoff = min(max(2*b.backoff, backoffFirst), backoffLongest)
	if len(b.subs) > 0 {
		b.backoff = min(b.backoff, backoffSubscribed)
	}
	wait := b.backoff
	if protocols.KindOf(err) == protocols.KindUntrusted {
		wait = backoffRefused
	}
	// Jitter of a fifth: gateways that lost one switch do not all come back in
	// the same instant.
	wait -= rand.N(wait / 5) //nolint:gosec // spreading load, not a secret
	b.nextConnect = b.now().Add(wait)
}

func (b *bus) disconnect() {
	b.closeConnection()
	for b.sub != nil && b.connected && b.drain() {
		b.closeConnection() // which may have more for us
	}
	b.connected = false
	for _, s := range b.subs {
		s.active, s.due = false, time.Time{}
	}
}

func (b *bus) closeConnection() {
	if err := b.conn.Close(); err != nil {
		b.log.Debug("closing the connection", "error", err)
	}
}

// drain takes in what a connection brought before it ended. It is false if
// there was nothing.
func (b *bus) drain() bool {
	for some := false; ; some = true {
		select {
		case rep := <-b.sub.Reports():
			if rep.Err == nil {
				b.deliver(rep)
			}
		default:
			return some
		}
	}
}

// keepSubscribed connects and subscribes the devices that report by
// themselves, and sends their snapshots when they are due.
func (b *bus) keepSubscribed(work context.Context) {
	now := b.now()
	if !b.connected && now.Before(b.nextConnect) {
		return
	}
	if !b.connect(work, now) {
		b.silence(b.connErr)
		return
	}
	for _, s := range b.subs {
		switch {
		case now.Before(s.due):
		case s.active:
			s.dev.resend(now)
			s.due = now.Add(s.dev.cfg.Snapshot)
		case !b.subscribe(work, s):
			return
		}
	}
}

// subscribe asks for one device's changes. A server that refuses them has
// refused one device: the others go on. It is false if the session is gone.
func (b *bus) subscribe(work context.Context, s *subscription) bool {
	tags := make([]int, len(s.dev.cfg.Tags))
	for i := range tags {
		tags[i] = i
	}
	err := b.sub.Subscribe(work, s.dev.cfg, tags)
	switch protocols.KindOf(err) {
	case protocols.KindRefused, protocols.KindMalformed, protocols.KindBadAddress:
		s.dev.unanswered(err)
		s.due = b.now().Add(backoffRefused)
		return true
	case protocols.KindNotConnected, protocols.KindTimeout, protocols.KindUntrusted:
	}
	if err != nil {
		b.lost(err)
		b.silence(err)
		return false
	}
	s.active, s.due = true, b.now().Add(s.dev.cfg.Snapshot)
	b.setBands(s.dev)
	b.tellAdvice(s.dev)
	return true
}

// setBands tells a device which of its deadbands are of a range.
func (b *bus) setBands(d *device) {
	if r, ok := b.sub.(protocols.Ranger); ok {
		d.setBands(r.Bands(d.cfg))
	}
}

// silence tells all subscribed devices that there is nothing from them.
func (b *bus) silence(err error) {
	for _, s := range b.subs {
		s.dev.unanswered(err)
	}
}

// report takes in what a subscription brought.
func (b *bus) report(rep protocols.Report) {
	if !b.connected && !rep.History {
		return // of a session that has ended
	}
	if rep.Err != nil {
		b.lost(rep.Err)
		for _, s := range b.subs {
			// Until now the subscription stood, even if nothing changed.
			s.dev.state.heard(b.now())
		}
		b.silence(rep.Err)
		return
	}
	b.deliver(rep)
}

// deliver hands a report to its device. One that has gone gets none.
func (b *bus) deliver(rep protocols.Report) {
	for _, s := range b.subs {
		if s.dev.cfg != rep.Device {
			continue
		}
		if !rep.History {
			b.proven, b.backoff = true, 0
		}
		if rep.Monitoring != nil {
			b.setBands(s.dev)
		}
		if rep.Learnt {
			b.tellAdvice(s.dev)
			return
		}
		s.dev.reported(rep)
		if !rep.History {
			b.answers(s.dev)
		}
		return
	}
}
