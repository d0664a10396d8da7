package modbus

import (
	"context"
	"errors"
	"slices"
	"time"

	gomodbus "github.com/goburrow/modbus"

	"millrace/protocols"
)

const (
	// maxSplits is how many refused requests a scan may split. What is left
	// is split in the scans after it.
	maxSplits = 32
	// maxPause is how many scans leave out a request that keeps failing
	// while others of its scan are answered.
	maxPause = 15
	// maxSilent is how many requests in a row that were answered before may
	// time out until the scan takes the device for dead.
	maxSilent = 2
	// A device that is busy (exceptions 5 and 6) is asked again so often, the
	// first time after busyWait, each time twice as late, and in all not
	// longer than its time-out.
	maxBusy  = 5
	busyWait = 20 * time.Millisecond
)

// scan reads a fixed set of tags of one unit.
type scan struct {
	bus     *bus
	device  string
	unit    *unit
	lim     limits // what the configuration says
	config  string // the same, for what was learnt
	pace    pace
	retries int
	auto    bool // how many requests may be under way is found out

	fields   []field // of all tags
	requests []*request
	version  int // of what was known of the unit when requests was made
	// first is where in requests the next scan begins: behind the one that
	// made the last scan give up, lest a unit that is silent about one range
	// only is taken for dead.
	first   int
	healthy bool // the last scan was answered

	others func() bool // another scan should have its turn
	give   func()      // gives it

	queue []*request // used again by each pass
	calls []*call    // that are not under way
}

// OnPause implements protocols.Interruptible.
func (s *scan) OnPause(others func() bool, give func()) { s.others, s.give = others, give }

// Read implements protocols.Scan.
func (s *scan) Read(ctx context.Context, out []protocols.Reading) protocols.ScanResult {
	p := pass{scan: s, ctx: ctx, out: out, most: maxWindow, start: time.Now(), knew: s.unit.version}
	if s.auto {
		p.most = s.unit.window.n
	}
	p.wanted = p.most
	if len(s.fields) == 0 {
		return p.result
	}
	s.unit.configured(s.device, s.config, s.bus.log)
	s.replan()
	p.line()
	p.begin(s.requests[s.first])
	p.run()
	if p.x != nil {
		p.x.end()
	}
	if p.result.Err == nil {
		s.first = 0
	}
	s.healthy = p.result.Answers > 0
	s.bus.note(s.unit, s.healthy, p.result.Err)
	p.learn()
	return p.result
}

// replan makes the requests anew if more has been learnt of the unit.
func (s *scan) replan() {
	if s.requests != nil && s.version == s.unit.version {
		return
	}
	s.requests = merge(s.fields, s.unit.limits(s.lim))
	s.version = s.unit.version
	s.first %= len(s.requests)
}

// pass is one run of a scan.
type pass struct {
	*scan

	ctx     context.Context //nolint:containedctx // of Read, which p does not outlive
	out     []protocols.Reading
	result  protocols.ScanResult
	start   time.Time
	knew    int              // the version of what was known of the unit before
	x       exchanger        // nil: there is no connection
	most    int              // calls under way at once
	flying  int              // calls under way
	over    *protocols.Error // why the rest is not asked any more
	why     protocols.Reason // for the tags of the rest
	silent  int              // requests in a row that were answered in the last scan, but timed out in this one
	splits  int
	busy    time.Duration // waited for a busy device
	failed  bool          // something went wrong that more requests under way may be the cause of
	tooMany bool          // a request that was not answered among others was answered alone
	before  *request      // the one that was sent before, while it is under way

	broken  bool // the connection broke and is to be made anew
	fresh   bool // it was, and nothing was answered on it yet
	closed  int  // requests in a row at which the device closed the connection
	crowded bool // it closed it while several requests were under way
	wanted  int  // calls under way at once, at the begin
}

// begin makes the transport ours; if that fails, r is not asked and the scan
// is over.
func (p *pass) begin(r *request) {
	x, err := p.bus.transport.begin(p.ctx, p.pace)
	if errors.Is(err, errNotConnected) && p.result.Answers > 0 {
		// A scan that had its turn in the middle of this one has lost it.
		if !p.reconnect() {
			return
		}
		x, err = p.bus.transport.begin(p.ctx, p.pace)
	}
	if err != nil {
		e := p.failure(r, err)
		p.giveUp(e, e.Reason)
		return
	}
	p.x = x
}

// line puts the requests that are due into the queue.
func (p *pass) line() {
	p.queue = p.queue[:0]
	spare := p.anyDue()
	for i := range p.requests {
		r := p.requests[(p.first+i)%len(p.requests)]
		r.begin()
		if spare && r.wait > 0 {
			r.wait--
			p.leaveOut(r, r.failed, r.failed.Reason)
			continue
		}
		p.queue = append(p.queue, r)
	}
}

// anyDue says that at least one request is not to be left out. If there is
// none, all are asked: a scan that sends nothing could not tell a device
// that is there from one that is not.
func (s *scan) anyDue() bool {
	return slices.ContainsFunc(s.requests, func(r *request) bool { return r.wait == 0 })
}

// run works off the queue.
func (p *pass) run() {
	for {
		p.mend()
		p.fill()
		switch {
		case p.flying > 0:
			c := p.x.receive()
			if c == nil {
				continue
			}
			p.flying--
			p.ended(c)
			p.calls = append(p.calls, c)
		case len(p.queue) > 0:
			p.wait() // for a busy device
		default:
			return
		}
		p.letOthers()
	}
}

// fill puts as many calls under way as there may be.
func (p *pass) fill() {
	if p.broken && p.over == nil {
		return
	}
	for p.x == nil || p.flying < p.x.window(p.most) {
		if p.flying > 0 && p.others != nil && p.others() {
			return // they have their turn when these are through
		}
		r := p.next()
		if r == nil {
			return
		}
		p.send(r)
	}
}

// next takes the next request from the queue; nil: there is none that may be
// sent now.
func (p *pass) next() *request {
	if p.over != nil {
		for _, r := range p.queue {
			p.leaveOut(r, p.over, p.why)
		}
		p.queue = p.queue[:0]
		return nil
	}
	for i, r := range p.queue {
		if r.notBefore.IsZero() || !r.notBefore.After(time.Now()) {
			p.queue = slices.Delete(p.queue, i, i+1)
			return r
		}
	}
	return nil
}

func (p *pass) send(r *request) {
	var c *call
	if n := len(p.calls); n > 0 {
		c, p.calls = p.calls[n-1], p.calls[:n-1]
	} else {
		c = new(call)
	}
	*c = call{unit: p.unit.id, function: r.table.function(), addr: r.addr, count: uint16(r.count), request: r, lim: p.unit.limits(p.lim)}
	p.result.Requests++
	p.flying++
	if p.flying > 1 {
		r.together = true
		if p.before != nil {
			p.before.together = true
		}
	}
	p.before = r
	p.x.send(c)
}

// wait lets a busy device be until it is asked again.
func (p *pass) wait() {
	at := p.queue[0].notBefore
	for _, r := range p.queue {
		if r.notBefore.Before(at) {
			at = r.notBefore
		}
	}
	d := time.Until(at)
	if d <= 0 {
		return
	}
	if p.others != nil && p.others() {
		return // letOthers is next
	}
	if err := p.x.idle(min(d, busyWait)); err != nil { // then it looks for others again
		e := p.failure(p.queue[0], err)
		p.giveUp(e, e.Reason)
	}
}

// letOthers lets another scan of the bus have its turn, if one is due: the
// devices on it share it fairly, whatever the number of their requests.
func (p *pass) letOthers() {
	if p.flying > 0 || len(p.queue) == 0 || p.over != nil || p.broken || p.others == nil || !p.others() {
		return
	}
	p.x.end()
	p.x = nil
	p.give()
	p.begin(p.queue[0])
}

// ended takes in what came of a call.
func (p *pass) ended(c *call) {
	r := c.request
	if c.err == nil {
		p.answered()
		decode(r.fields, r.addr, c.data, p.out)
		r.answered, r.failed, r.pause, r.wait = true, nil, 0, 0
		if r.alone { // so it was the others that it did not bear
			p.tooMany = true
		}
		return
	}
	code := exceptionCode(c.err)
	if code != 0 && code != excGatewayPath && code != excGatewayTimed {
		p.answered()
	}
	if code == 0 {
		p.failed = true
	}
	if p.again(r, c.err, code) {
		return
	}
	if (code == excAddress || code == excValue) && p.split(r, code) {
		return
	}
	err := c.err
	if r.damage != nil && isTimeoutError(err) {
		err = r.damage // says more than that the second answer did not come
	}
	e := p.failure(r, err)
	if notConnected(err) && p.broken && p.over == nil {
		e = p.closedAt(r, e)
	}
	r.refused = code
	p.fail(r, e)
	p.consider(r, e, code)
	r.failed = e
}

func (p *pass) answered() {
	p.bus.heard = true
	p.result.Answers++
	p.result.Time = p.bus.now()
	p.silent, p.closed, p.fresh = 0, 0, false
}

// again says that r is asked once more in this scan, and puts it into the
// queue.
func (p *pass) again(r *request, err error, code byte) bool {
	switch {
	case p.over != nil:
		return false
	case code == excAcknowledge, code == excBusy:
		wait := busyWait << r.busy
		if r.busy >= maxBusy || p.busy+wait > p.pace.timeout {
			return false
		}
		r.busy++
		p.busy += wait
		r.notBefore = time.Now().Add(wait)
		p.queue = append(p.queue, r)
		return true
	case notConnected(err):
		if !p.torn(r) {
			return false
		}
	case errors.Is(err, errDamaged) && r.damage == nil:
		r.damage = err
	case isTimeoutError(err) && r.tries < p.retries && (p.healthy || p.result.Answers > 0):
		r.tries++
	case isTimeoutError(err) && p.auto && r.together && !r.alone && (p.healthy || p.result.Answers > 0):
		// The device may not bear so many at once: this costs no reading.
		r.alone, p.most = true, 1
	default:
		return false
	}
	p.queue = slices.Insert(p.queue, 0, r)
	return true
}

// isTimeoutError says that err is a request without an answer in time.
func isTimeoutError(err error) bool {
	e, ok := errors.AsType[*wireError](err)
	return ok && e.kind == protocols.KindTimeout && e != errStopped
}

// split asks for r in two parts: one bad address must not spoil the others.
// It is false if r cannot be split.
func (p *pass) split(r *request, code byte) bool {
	if p.splits >= maxSplits || p.over != nil {
		return false
	}
	low, high, ok := r.split()
	if !ok {
		return false
	}
	p.splits++
	r.refused = code
	r.halves = []*request{low, high}
	p.queue = slices.Insert(p.queue, 0, low, high)
	return true
}

// consider decides what the failure of r means for the rest of this scan and
// for the next ones.
func (p *pass) consider(r *request, e *protocols.Error, code byte) {
	switch {
	case e.Kind == protocols.KindNotConnected:
		if p.result.Answers == 0 && p.over == nil {
			p.first = p.behind(r) // it may be the one that is the reason
		}
		p.giveUp(e, protocols.Offline)
	case p.broken:
		r.holdBack()
	case errors.Is(e, errStopped):
		p.giveUp(e, e.Reason)
	case e.Kind == protocols.KindTimeout, code == excGatewayPath, code == excGatewayTimed:
		if r.failed == nil {
			p.silent++
		}
		if p.result.Answers == 0 || p.silent >= maxSilent {
			if p.result.Answers == 0 && p.over == nil {
				p.first = p.behind(r)
			}
			p.giveUp(e, e.Reason)
			return
		}
		r.holdBack()
	case code == excFunction, code == excAddress, code == excValue:
		if p.splits < maxSplits { // otherwise it may be split the next time
			r.holdBack()
		}
	}
}

// behind is where the request behind r is in the plan.
func (p *pass) behind(r *request) int {
	at := slices.Index(p.requests, r)
	return (at + 1) % len(p.requests) // 0 if r is a part of one
}

// holdBack leaves r out of the next scans, the more of them the longer it
// keeps failing; none after its first failure.
func (r *request) holdBack() {
	r.wait = r.pause
	r.pause = min(2*r.pause+1, maxPause)
}

func (p *pass) giveUp(e *protocols.Error, why protocols.Reason) {
	p.note(e)
	if e.Kind == protocols.KindNotConnected {
		p.result.Err = e // whatever failed before: the bus has to know
	}
	if p.over == nil {
		p.over, p.why = e, why
	}
}

// leaveOut counts r as a request that should have been sent.
func (p *pass) leaveOut(r *request, e *protocols.Error, why protocols.Reason) {
	p.result.Requests++
	r.setBad(p.out, why)
	p.note(e)
}

func (p *pass) fail(r *request, e *protocols.Error) {
	r.setBad(p.out, e.Reason)
	p.note(e)
}

func (p *pass) note(e *protocols.Error) {
	if p.result.Err == nil {
		p.result.Err = e
	}
}

// learn keeps what this pass has shown of the unit.
func (p *pass) learn() {
	learnt := false
	if w := &p.unit.window; p.auto {
		if p.tooMany {
			w.shrink()
		}
		if p.result.Answers > 0 {
			at := p.most
			if p.crowded {
				at = p.wanted
			}
			w.scanned(len(p.requests), !p.failed, at, time.Since(p.start))
		}
		if w.settled && w.n != p.unit.facts.Window {
			p.unit.facts.Window = w.n
			p.unit.save(p.bus.log)
		}
	}
	for _, r := range p.requests {
		switch {
		case r.answered:
			r.known, r.doubted = true, false
			p.unit.read(r)
		case r.halves == nil && r.refused == 0:
		case r.known && !r.doubted:
			// It was answered before: a device that refuses for a moment has
			// taught nothing. It is asked as a whole again.
			r.doubted, r.halves = true, nil
		default:
			learnt = p.unit.learn(r) || learnt
		}
	}
	if learnt || p.unit.version != p.knew { // or forgotten
		p.unit.save(p.bus.log)
		p.result.Learnt = true
		return
	}
	if p.splits > 0 {
		p.adopt()
	}
}

// adopt puts what was split in the place of what it was split from, where
// nothing could be learnt from it yet.
func (s *scan) adopt() {
	var all []*request
	for i, r := range s.requests {
		if i == s.first {
			s.first = len(all)
		}
		all = r.leaves(all)
	}
	s.requests = all
	s.first %= len(all)
}

// leaves appends what is asked instead of r.
func (r *request) leaves(to []*request) []*request {
	if r.halves == nil {
		return append(to, r)
	}
	for _, h := range r.halves {
		to = h.leaves(to)
	}
	return to
}

// exceptionCode returns the code of the exception that err is, or 0.
func exceptionCode(err error) byte {
	if e, ok := errors.AsType[*gomodbus.ModbusError](err); ok {
		return e.ExceptionCode
	}
	return 0
}
