package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	gomodbus "github.com/goburrow/modbus"

	"millrace/protocols"
)

const (
	// tcpSilence is what stands for the silence between two frames where they
	// go over TCP: long enough to see that an answer comes twice.
	tcpSilence = 2 * time.Millisecond
	// settleTime is how long the line must be quiet, at the least, after an
	// answer did not come or was damaged. Most late answers come within it.
	settleTime = 20 * time.Millisecond
	// settleLimit is how long the line is waited for to be quiet, beside the
	// time-out.
	settleLimit = time.Second
	// maxCrossed is how often a call is made in other parts because another
	// master was heard to ask for as much, right before it was sent.
	maxCrossed = 2
	// slack is what an answer that has begun may come later than the line's
	// speed says: adapters on USB hand on what they have every 1 to 16 ms.
	slack = 100 * time.Millisecond
)

// port is a serial port, or the connection to one.
type port interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
}

// rtuTransport speaks RTU on a serial line or, to a serial device server,
// over TCP. goburrow's own transport is not used: it sleeps for many times
// what a frame takes, cuts exceptions that come in two pieces, takes what is
// left in the port for the next answer, and spins when an adapter is pulled
// out.
type rtuTransport struct {
	open    func(ctx context.Context) (port, error)
	port    port          // nil: not connected
	char    time.Duration // on the line; 0: not known
	silence time.Duration // between two frames, at the least
	name    string        // of the line's settings, for messages; empty: not known

	watch
	pace
	packager gomodbus.RTUClientHandler // its connection is never made
	framer   framer

	current *call // under way
	part    call  // of it, on the line
	parts   []part
	values  [maxRTU]byte // of the answers to its parts
	answer  [maxRTU]byte // values of the last answer, where others came right behind it
	late    lateList

	buf       [rtuBuffer]byte
	tail      int       // bytes of buf that have arrived
	active    time.Time // when the line was in use last, or will be by what we wrote
	unsettled bool      // something did not come as it should: wait for quiet
	asked     bool      // another master has asked a unit, and the answer was not heard yet
	strict    bool      // pieces of something were heard just before: no noise is passed over
	knock     bool      // what comes is not believed
}

func newRTUTransport(open func(ctx context.Context) (port, error)) *rtuTransport {
	return &rtuTransport{open: open, silence: tcpSilence, late: lateList{now: time.Now}}
}

// newSerialTransport is an rtuTransport on the serial port at path.
func newSerialTransport(path string, l line) *rtuTransport {
	t := newRTUTransport(func(context.Context) (port, error) { return openPort(path, l) })
	t.char, t.silence, t.name = l.char(), l.silence(), l.String()
	return t
}

// newRTUTCPTransport is an rtuTransport over TCP.
func newRTUTCPTransport(dial dialFunc, addr string) *rtuTransport {
	return newRTUTransport(func(ctx context.Context) (port, error) { return dial(ctx, "tcp", addr) })
}

func (*rtuTransport) window(int) int { return 1 }

func (t *rtuTransport) connect(ctx context.Context, timeout time.Duration) error {
	if t.port != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := t.open(ctx)
	if err != nil {
		return err
	}
	t.port = p
	t.reset(p)
	// What is to come late comes on the new connection as well.
	t.tail, t.unsettled = 0, true
	return nil
}

func (t *rtuTransport) close() error {
	if t.port == nil {
		return nil
	}
	err := t.port.Close()
	t.port = nil
	return err
}

func (t *rtuTransport) begin(ctx context.Context, p pace) (exchanger, error) {
	if t.port == nil {
		return nil, errNotConnected
	}
	t.pace = p
	if err := t.watch.begin(ctx); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *rtuTransport) end() { t.watch.end() }

func (t *rtuTransport) send(c *call) { t.current = c }

// receive implements exchanger.
func (t *rtuTransport) receive() *call {
	c := t.current
	t.current = nil
	if err := t.run(c); err != nil {
		c.fail(err)
	}
	return c
}

// idle implements exchanger.
func (t *rtuTransport) idle(d time.Duration) error {
	if t.port == nil {
		return errNotConnected
	}
	for until := time.Now().Add(d); ; {
		heard, err := t.listen(until)
		if err != nil || !heard {
			return err
		}
		t.sort()
	}
}

// run makes the call, in parts where its answer could be taken for one that
// may still come late.
func (t *rtuTransport) run(c *call) error {
	if t.port == nil {
		return errNotConnected
	}
	if c.function == encapsulated {
		return t.ask(c)
	}
	for again := false; ; again = true {
		t.late.prune(c.unit)
		t.parts = t.late.parts(c, t.parts[:0])
		u := t.late.of(c.unit)
		switch doubtful := u != nil && u.doubts > maxDoubts; {
		case len(t.parts) == 0 && !again && t.late.over(c.unit):
			if err := t.wake(c); err != nil {
				return err
			}
			continue
		case len(t.parts) == 0, doubtful:
			return errNotAsked
		}
		err := t.runParts(c)
		for tries := 0; errors.Is(err, errNotAsked) && tries < maxCrossed; tries++ {
			if t.parts = t.late.parts(c, t.parts[:0]); len(t.parts) > 0 {
				err = t.runParts(c)
			}
		}
		if exceptionCode(err) == 0 || t.parts[0].count <= int(c.count) {
			return err
		}
		// More was asked for than c wants, and that was refused. After a long
		// silence nothing late is to come now that the unit has spoken.
		if again {
			return errNotAsked
		}
	}
}

// ask makes a call whose answer has no size that would tell it from another
// of its function: it is not made while one may come late.
func (t *rtuTransport) ask(c *call) error {
	t.late.prune(c.unit)
	if t.late.expects(c.unit, c.function, c.dataBytes()) {
		return errNotAsked
	}
	return t.exchange(c)
}

// wake asks a unit that was silent for so long that no request is left whose
// answer could not be a late one. The answer is not believed, but with it
// nothing late is to come any more. It is nil if the unit has spoken.
func (t *rtuTransport) wake(c *call) error {
	t.part = *c
	t.knock = true
	err := t.exchange(&t.part)
	t.knock = false
	if exceptionCode(err) != 0 || errors.Is(err, errHeardOut) {
		return nil
	}
	return err
}

var errNotAsked = &wireError{
	kind: protocols.KindTimeout, what: "not asked, because the answer could not be told from one that is late",
	hint: "it is asked again when that can't come any more",
}

func (t *rtuTransport) runParts(c *call) error {
	n := 0
	for _, p := range t.parts {
		t.part = call{unit: c.unit, function: c.function, addr: p.addr, count: uint16(p.count)}
		if err := t.exchange(&t.part); err != nil {
			return err
		}
		n += copy(t.values[n:], t.part.data)
	}
	// Of a part that begins before it, what was asked for.
	from := 2 * int(c.addr-t.parts[0].addr)
	c.data, c.err = t.values[from:from+c.dataBytes()], nil
	return nil
}

// exchange sends one request and waits for its answer.
func (t *rtuTransport) exchange(c *call) error {
	if err := t.prepare(); err != nil {
		return err
	}
	if !t.knock && t.late.expects(c.unit, c.function, c.dataBytes()) {
		return errNotAsked // another master has asked for as much, just now
	}
	t.packager.SlaveId = c.unit
	adu, err := t.packager.Encode(t.framer.request(c))
	if err != nil {
		return err
	}
	if err := t.setDeadline(time.Now().Add(t.timeout)); err != nil {
		return err
	}
	if _, err := t.port.Write(adu); err != nil {
		return t.broken(err)
	}
	t.active = time.Now().Add(time.Duration(len(adu)) * t.char)
	err = t.await(c, adu)
	if err != nil {
		t.unsettled = true
	}
	return err
}

// prepare waits until the line is free: for the silence between two frames,
// the device's pause, and after trouble until nothing is to be heard.
func (t *rtuTransport) prepare() error {
	now := time.Now()
	free := t.active.Add(max(t.silence, t.pause))
	if t.unsettled {
		free = later(free, now.Add(max(settleTime, 2*t.silence)))
	}
	// Look in any case: what is there by now is not the answer.
	free = later(free, now.Add(t.silence/4))
	if t.asked {
		free = later(free, now.Add(min(t.timeout, settleLimit)))
	}
	for waited, pieces := t.asked, false; ; {
		heard, err := t.listen(free)
		switch {
		case err != nil:
			return err
		case heard && time.Since(now) > t.timeout+settleLimit:
			t.tail = 0
			return &wireError{
				kind: protocols.KindMalformed, err: errDamaged, what: "the line is never silent",
				hint: "is there another master on it, or noise (termination, shield, ground)?",
			}
		case heard:
			if t.tail == len(t.buf) {
				t.sort()
			}
			if t.tail == len(t.buf) {
				t.tail = 0
			}
			free = time.Now().Add(max(t.silence, settleTime/4))
			continue
		}
		t.sort()
		switch {
		case t.tail > 0 && !pieces:
			// The rest of it may come later: adapters hand on frames in pieces.
			pieces, free = true, time.Now().Add(settleTime)
			continue
		case t.asked && !waited:
			// Another master's request comes with its answer.
			waited, free = true, time.Now().Add(min(t.timeout, settleLimit))
			continue
		}
		t.unsettled, t.asked, t.strict = false, false, t.tail > 0
		t.tail = 0
		return nil
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sort looks through what was heard while no answer was awaited. It keeps
// what is no whole frame.
func (t *rtuTransport) sort() {
	l := listener{late: &t.late}
	in := t.buf[:t.tail]
	for {
		f := l.find(in, true)
		if f.kind == foundNothing {
			break
		}
		t.note(f)
		in = in[f.used:]
	}
	t.tail = copy(t.buf[:], in)
}

// note remembers what another master asks: a unit's answer to it could be
// taken for one to us. Only the answer to the last of its requests is to
// come.
func (t *rtuTransport) note(f found) {
	t.asked = false
	if f.kind != foundForeign || len(f.frame) != rtuRequest || f.frame[1] > 4 {
		return
	}
	count := binary.BigEndian.Uint16(f.frame[4:])
	t.asked = true
	t.late.add(&call{unit: f.frame[0], function: f.frame[1], count: count}, t.timeout)
}

// await waits for the answer to c, which was sent as adu.
func (t *rtuTransport) await(c *call, adu []byte) error {
	l := listener{call: c, echo: adu, late: &t.late}
	deadline := t.active.Add(t.timeout)
	begun := false
	var doubt error
	for {
		heard, err := t.listen(deadline)
		if err != nil {
			t.late.add(c, t.timeout)
			return err
		}
		if !heard && t.tail > 0 && !begun && t.char > 0 {
			// It has begun to answer: it gets the time that takes.
			begun = true
			deadline = time.Now().Add(time.Duration(rtuAnswer+c.longest())*t.char + slack)
			continue
		}
		for {
			f := l.find(t.buf[:t.tail], !heard)
			if f.kind == foundNothing {
				break
			}
			done, err := t.judge(c, &l, f)
			switch {
			case errors.Is(err, errDoubtful):
				doubt = c.err // wait for more
			case done || err != nil:
				return err
			}
		}
		if !heard {
			return t.unanswered(c, doubt)
		}
	}
}

// errDoubtful marks an exception that may belong to an earlier request.
var errDoubtful = errors.New("it may belong to an earlier request")

// judge takes the frame f, which is consumed. It is true if that was the
// answer; an error means that there will be none to be believed.
func (t *rtuTransport) judge(c *call, l *listener, f found) (done bool, err error) {
	rest := t.buf[f.used:t.tail]
	if f.kind != foundAnswer {
		defer func() { t.tail = copy(t.buf[:], rest) }()
	}
	switch f.kind {
	case foundNothing, foundLate:
		return false, nil
	case foundForeign:
		t.note(f)
		t.late.add(c, t.timeout)
		return false, t.foreign(c, f.frame)
	case foundDamaged:
		// It may have been another's, and ours is still to come.
		t.late.add(c, t.timeout)
		return false, t.damaged("what came has a wrong checksum")
	case foundAnswer:
	}
	l.echo = nil
	other := l.another(f.frame, rest)
	switch {
	case f.noise > maxNoise, f.noise > 0 && t.strict:
		t.late.add(c, t.timeout)
		return false, t.damaged(fmt.Sprintf("%d bytes that are no frame came before the answer", f.noise))
	case t.knock, t.late.backlog(c.unit):
		if f.frame[1]&0x80 != 0 && !t.knock { // whosever that was
			t.late.add(c, t.timeout)
		}
		return false, t.hearOut(c)
	case other != nil:
		t.late.add(c, t.timeout)
		return false, t.foreign(c, other)
	}
	exception := f.frame[1]&0x80 != 0
	c.take(f.frame[0], f.frame[1:len(f.frame)-2])
	if u := t.late.of(c.unit); u != nil {
		u.spoke()
		if exception && t.late.ambiguous(c.unit, c.function) {
			t.tail = copy(t.buf[:], rest)
			return false, errDoubtful
		}
		u.doubts = 0
	}
	t.late.tardy[c.unit] = false
	t.keep(c, rest)
	return true, c.err
}

// keep keeps what came right behind the answer to c, unless it is so little
// that the remainder of it would not pass for noise before a frame: it may be
// the beginning of what another master asks.
func (t *rtuTransport) keep(c *call, rest []byte) {
	t.tail = 0
	if len(rest) <= maxNoise {
		return
	}
	if c.err == nil {
		c.data = t.answer[:copy(t.answer[:], c.data)] // the rest takes its place
	}
	t.tail = copy(t.buf[:], rest)
}

// damaged drops what has arrived. The answer may come whole if it is asked
// for again.
func (t *rtuTransport) damaged(what string) error {
	t.tail = 0
	return &wireError{
		kind: protocols.KindMalformed, err: errDamaged, what: what,
		hint: "check " + t.settings() + "termination, shield and ground, and the length of the cable",
	}
}

// settings names what both sides must have in common.
func (t *rtuTransport) settings() string {
	if t.name == "" {
		return ""
	}
	return "the settings (" + t.name + " at both ends?), "
}

// foreign says that frame, which is not the answer, came instead.
func (t *rtuTransport) foreign(c *call, frame []byte) error {
	t.tail = 0
	e := &wireError{
		kind: protocols.KindMalformed, err: errDamaged,
		what: fmt.Sprintf("a frame of unit %d, function %d came that nobody here asked for", frame[0], frame[1]&0x7f),
		hint: "is there another master on the line, or a second unit with the same number?",
	}
	if frame[0] != c.unit && frame[1]&0x7f == c.function && len(frame) == rtuAnswer+c.dataBytes() {
		e.what = fmt.Sprintf("unit %d answered instead of unit %d", frame[0], c.unit)
		e.hint = fmt.Sprintf("if that is the device, set unit: %d; or is there another master on the line?", frame[0])
	}
	if frame[0] == c.unit && frame[1] != c.function && len(frame) == rtuAnswer+c.dataBytes() {
		e.what = fmt.Sprintf("an answer to function %d came instead of one to function %d", frame[1]&0x7f, c.function)
		e.hint = "the device breaks the protocol, or another master on the line asks it, too"
	}
	if frame[0] == c.unit && frame[1] == c.function && len(frame) != rtuRequest {
		e.what = fmt.Sprintf("an answer of %d bytes of values came instead of %d", len(frame)-rtuAnswer, c.dataBytes())
		e.hint = "the device breaks the protocol, or another master on the line asks it, too"
	}
	return e
}

// errHeardOut is of a unit that was silent for long, and has spoken.
var errHeardOut = &wireError{
	kind: protocols.KindMalformed, err: errDamaged,
	what: "the unit speaks again after many unanswered requests; what it said first is not believed",
	hint: "nothing to check: it is asked again",
}

// hearOut lets a unit that was silent for long say all it has to say. None
// of it is believed.
func (t *rtuTransport) hearOut(c *call) error {
	t.tail = 0
	until := time.Now().Add(t.timeout)
	for end := time.Now().Add(3 * t.timeout); time.Now().Before(end); {
		heard, err := t.listen(until)
		if err != nil {
			return err
		}
		if !heard {
			break
		}
		t.sort()
		until = time.Now().Add(t.timeout)
	}
	t.tail = 0
	if u := t.late.of(c.unit); u != nil {
		u.spoke()
		u.overflow = false
		t.late.prune(c.unit)
	}
	return errHeardOut
}

// unanswered says that nothing came in time that is the answer; doubt is an
// exception that may have been.
func (t *rtuTransport) unanswered(c *call, doubt error) error {
	t.late.add(c, t.timeout)
	if u := t.late.of(c.unit); doubt != nil && u != nil {
		u.spoke()
		u.doubts++
	}
	e := &wireError{kind: protocols.KindTimeout, err: os.ErrDeadlineExceeded, what: "no answer within " + t.timeout.String()}
	switch {
	case doubt != nil:
		e.what += ", only an exception that may belong to an earlier request"
	case t.tail > 0:
		e.what += fmt.Sprintf(", only %d bytes that are no answer", t.tail)
		e.hint = "check " + t.settings() + "termination, shield and ground"
		t.tail = 0
	case t.late.tardy[c.unit]:
		e.what, e.hint = e.what+tardyText, tardyHint
	}
	return e
}

// listen reads what arrives, waiting for at least a byte. It is false if
// there is none until then.
func (t *rtuTransport) listen(until time.Time) (bool, error) {
	if err := t.setDeadline(until); err != nil {
		return false, err
	}
	if t.tail == len(t.buf) {
		t.tail = copy(t.buf[:], t.buf[len(t.buf)/2:])
	}
	n, err := t.port.Read(t.buf[t.tail:])
	t.tail += n
	switch {
	case n > 0:
		t.active = later(t.active, time.Now())
		return true, nil // an error comes again at the next read
	case errors.Is(err, os.ErrDeadlineExceeded):
		if t.stopped.Load() {
			return false, errStopped
		}
		return false, nil
	case err == nil:
		err = io.EOF
	}
	return false, t.broken(err)
}

func (t *rtuTransport) setDeadline(at time.Time) error {
	err := t.deadline(at)
	if err != nil && !errors.Is(err, errStopped) {
		return t.broken(err)
	}
	return err
}

// broken closes the port and says why.
func (t *rtuTransport) broken(err error) error {
	_ = t.close() // it is broken already
	e := &wireError{kind: protocols.KindNotConnected, err: err, what: "the connection broke: " + plainCause(err)}
	switch {
	case t.name != "":
		e.what = "the serial port is gone"
		if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EIO) { // all that a port that was pulled out says
			e.what += ": " + plainCause(err)
		}
		e.hint = "is the adapter plugged in?"
	case errors.Is(err, io.EOF):
		e.what = "the device server closed the connection"
		e.hint = "does it accept enough connections?"
	}
	return e
}
