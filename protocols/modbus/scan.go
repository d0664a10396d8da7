package modbus

import (
	"context"
	"errors"
	"time"

	gomodbus "github.com/goburrow/modbus"

	"millrace/protocols"
)

const (
	// maxSplits is how many refused requests a scan may split. What is left
	// is split in the scans after it.
	maxSplits = 16
	// maxPause is how many scans leave out a request that keeps failing
	// while others of its scan are answered.
	maxPause = 15
	// maxSilent is how many requests in a row that were answered before may
	// time out until the scan takes the device for dead.
	maxSilent = 2
)

// scan reads a fixed set of tags of one unit.
type scan struct {
	bus     *bus
	device  string
	unit    uint8
	timeout time.Duration
	client  gomodbus.Client

	requests []*request
	// first is where in requests the next scan begins: behind the one that
	// made the last scan give up, lest a unit that is silent about one range
	// only is taken for dead.
	first int
}

// Read implements protocols.Scan.
func (s *scan) Read(ctx context.Context, out []protocols.Reading) protocols.ScanResult {
	p := pass{scan: s, out: out}
	if len(s.requests) == 0 {
		return p.result
	}
	if err := s.bus.transport.begin(ctx, s.timeout); err != nil {
		e := s.failure(s.requests[s.first], err)
		p.giveUp(e, e.Reason)
	} else {
		defer s.bus.transport.end()
	}
	spare := s.anyDue()
	start := s.first
	for i := range s.requests {
		at := (start + i) % len(s.requests)
		if r := s.requests[at]; spare && r.wait > 0 && p.over == nil {
			r.wait--
			p.leaveOut(r, r.failed, r.failed.Reason)
		} else {
			p.read(r)
		}
		if p.dead {
			s.first, p.dead = (at+1)%len(s.requests), false
		}
	}
	if p.result.Err == nil {
		s.first = 0
	}
	if p.splits > 0 {
		s.adopt()
	}
	return p.result
}

// anyDue says that at least one request is not to be left out. If there is
// none, all are asked: a scan that sends nothing could not tell a device
// that is there from one that is not.
func (s *scan) anyDue() bool {
	for _, r := range s.requests {
		if r.wait == 0 {
			return true
		}
	}
	return false
}

// adopt puts what was split in the place of what it was split from.
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
	s.bus.log.Debug("the device refuses part of a request; it is asked in parts from now on",
		"device", s.device, "requests", len(all))
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

// pass is one run of a scan.
type pass struct {
	*scan

	out    []protocols.Reading
	result protocols.ScanResult
	over   *protocols.Error // why the rest is not asked any more
	why    protocols.Reason // for the tags of the rest
	dead   bool             // the first request got no answer
	silent int              // requests in a row that were answered in the last scan, but timed out in this one
	splits int
}

// read asks for r and decodes the answer.
func (p *pass) read(r *request) {
	if p.over != nil {
		p.leaveOut(r, p.over, p.why)
		return
	}
	p.result.Requests++
	data, err := p.send(r)
	if err == nil {
		p.answered()
		decode(r.fields, r.addr, data, p.out)
		r.failed, r.pause, r.wait = nil, 0, 0
		return
	}
	code := exceptionCode(err)
	if code != 0 && code != excGatewayPath && code != excGatewayTimed {
		p.answered()
	}
	if (code == excAddress || code == excValue) && p.split(r) {
		return
	}
	e := p.failure(r, err)
	p.fail(r, e)
	p.consider(r, e, code)
	r.failed = e
}

// send makes the request.
func (p *pass) send(r *request) ([]byte, error) {
	n := uint16(r.count)
	switch r.table {
	case input:
		return p.client.ReadInputRegisters(r.addr, n)
	case coil:
		return p.client.ReadCoils(r.addr, n)
	case discrete:
		return p.client.ReadDiscreteInputs(r.addr, n)
	case holding:
	}
	return p.client.ReadHoldingRegisters(r.addr, n)
}

func (p *pass) answered() {
	p.result.Answers++
	p.result.Time = p.bus.now()
	p.silent = 0
}

// split asks for r in two parts, now and in later scans: one bad address
// must not spoil the others. It is false if r cannot be split.
func (p *pass) split(r *request) bool {
	if p.splits >= maxSplits {
		return false
	}
	low, high, ok := r.split()
	if !ok {
		return false
	}
	p.splits++
	r.halves = []*request{low, high}
	p.read(low)
	p.read(high)
	return true
}

// consider decides what the failure of r means for the rest of this scan and
// for the next ones.
func (p *pass) consider(r *request, e *protocols.Error, code byte) {
	switch {
	case e.Kind == protocols.KindNotConnected:
		p.giveUp(e, protocols.Offline)
	case errors.Is(e, errStopped):
		p.giveUp(e, e.Reason)
	case e.Kind == protocols.KindTimeout, code == excGatewayPath, code == excGatewayTimed:
		if r.failed == nil {
			p.silent++
		}
		if p.result.Answers == 0 || p.silent >= maxSilent {
			p.dead = p.result.Answers == 0
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

// holdBack leaves r out of the next scans, the more of them the longer it
// keeps failing; none after its first failure.
func (r *request) holdBack() {
	r.wait = r.pause
	r.pause = min(2*r.pause+1, maxPause)
}

func (p *pass) giveUp(e *protocols.Error, why protocols.Reason) {
	p.over, p.why = e, why
	p.note(e)
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

// exceptionCode returns the code of the exception that err is, or 0.
func exceptionCode(err error) byte {
	if e, ok := errors.AsType[*gomodbus.ModbusError](err); ok {
		return e.ExceptionCode
	}
	return 0
}
