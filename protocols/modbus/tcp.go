package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"millrace/protocols"
)

// transport carries requests to the units behind one endpoint, one at a
// time. It outlives its connections.
type transport interface {
	// connect makes the connection, if there is none.
	connect(ctx context.Context, timeout time.Duration) error
	// begin prepares for the requests of one scan: each may take as long as
	// timeout, and none goes on after ctx has ended. end must follow, unless
	// there is an error.
	begin(ctx context.Context, timeout time.Duration) error
	end()
	// Send is what goburrow's client calls. The answer is valid until the
	// next call. Its errors are wireErrors.
	Send(adu []byte) ([]byte, error)
	close() error
}

// wireError is a request without a usable answer.
type wireError struct {
	kind protocols.ErrorKind
	what string // what happened, in plain words
	hint string // the next thing to check
	err  error
}

func (e *wireError) Error() string { return e.what }

func (e *wireError) Unwrap() error { return e.err }

var (
	errNotConnected = &wireError{
		kind: protocols.KindNotConnected, what: "there is no connection",
		hint: "it is made again by itself",
	}
	errStopped = &wireError{
		kind: protocols.KindTimeout, what: "the scan was ended before the answer",
		hint: "nothing to check, unless the agent was not stopping",
	}
)

const (
	// maxFrame is the longest frame of Modbus TCP, header included
	// (Messaging on TCP/IP Implementation Guide V1.0b, 4.1).
	maxFrame = 260
	// maxLost is how many requests of one connection may stay without an
	// answer before it is given up. Their transaction ids are not used again,
	// so that no answer, however late, is taken for another request's.
	maxLost = 1 << 15
	// drainTime is how long the transport looks for late answers before the
	// first request after a time-out. It only takes in what is there already.
	drainTime = time.Millisecond
	// idStep is what lies between two transaction ids. It is odd, so all ids
	// are used in turn; and large, so that an id that a device gets wrong by
	// one is not the next request's.
	idStep = 0x9e37
)

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// tcpTransport is Modbus TCP over one connection. It differs from
// goburrow's own transport, which after one time-out takes each answer for
// the next request's, for ever (its issue 64), and never connects again (84).
type tcpTransport struct {
	dial dialFunc
	addr string
	conn net.Conn // nil: not connected

	timeout   time.Duration // of one request
	release   func() bool   // ends the watch over the scan's context
	interrupt func()        // calls stop for the connection
	// stopped says that the scan's context has ended; interrupted then gets
	// one element when stop is through.
	stopped     atomic.Bool
	interrupted chan struct{}

	buf        [4 * maxFrame]byte
	head, tail int  // the bytes of buf that are not consumed
	headStale  bool // the frame at head began to arrive before the request was sent
	drain      bool // the last request timed out

	id        uint16
	lost      *[1 << 16 / 64]uint64 // ids of the requests that timed out, as a bit set
	lostCount int
	strangers int // answers to no request of ours, since the last one that was
	stranger  uint16
}

func newTCPTransport(dial dialFunc, addr string) *tcpTransport {
	return &tcpTransport{dial: dial, addr: addr, interrupted: make(chan struct{}, 1)}
}

func (t *tcpTransport) connect(ctx context.Context, timeout time.Duration) error {
	if t.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := t.dial(ctx, "tcp", t.addr)
	if err != nil {
		return err
	}
	t.conn = conn
	t.interrupt = func() { t.stop(conn) }
	t.head, t.tail, t.headStale, t.drain = 0, 0, false, false
	t.lost, t.lostCount, t.strangers = nil, 0, 0
	return nil
}

func (t *tcpTransport) close() error {
	if t.conn == nil {
		return nil
	}
	err := t.conn.Close()
	t.conn = nil
	return err
}

func (t *tcpTransport) begin(ctx context.Context, timeout time.Duration) error {
	if t.conn == nil {
		return errNotConnected
	}
	if ctx.Err() != nil { // AfterFunc would take a moment
		return errStopped
	}
	t.timeout = timeout
	t.release = context.AfterFunc(ctx, t.interrupt)
	return nil
}

// stop ends the request that waits for its answer. It runs beside it.
func (t *tcpTransport) stop(conn net.Conn) {
	t.stopped.Store(true)
	_ = conn.SetDeadline(time.Unix(1, 0)) // fails only if conn is closed
	t.interrupted <- struct{}{}
}

func (t *tcpTransport) end() {
	if !t.release() {
		<-t.interrupted // lest it hits the next scan
	}
	t.stopped.Store(false)
}

// Send implements the Transporter of goburrow's client. It gives the request
// a transaction id of its own: the client's packagers, one for each unit,
// count each for itself.
func (t *tcpTransport) Send(adu []byte) ([]byte, error) {
	if t.conn == nil {
		return nil, errNotConnected
	}
	if t.drain {
		if err := t.takeIn(); err != nil {
			return nil, err
		}
	}
	if err := t.dropWaiting(); err != nil {
		return nil, err
	}
	t.nextID()
	binary.BigEndian.PutUint16(adu, t.id)
	if err := t.setDeadline(t.timeout); err != nil {
		return nil, err
	}
	if _, err := t.conn.Write(adu); err != nil {
		// Part of the request may be on its way: the device could not make
		// sense of another one behind it.
		return nil, t.broken(err)
	}
	answer, err := t.receive()
	if err != nil {
		return nil, err
	}
	return answer, checkAnswer(adu, answer)
}

// setDeadline must come before the look at stopped: stop does the same
// in the other order, so one of the two is seen.
func (t *tcpTransport) setDeadline(d time.Duration) error {
	if err := t.conn.SetDeadline(time.Now().Add(d)); err != nil {
		return t.broken(err)
	}
	if t.stopped.Load() {
		return errStopped
	}
	return nil
}

// receive waits for the answer to the request with the current id, and drops
// all others.
func (t *tcpTransport) receive() ([]byte, error) {
	for {
		frame, err := t.frame()
		switch {
		case err != nil:
			return nil, err
		case frame == nil:
			if err := t.fill(); err != nil {
				return nil, t.unanswered(err)
			}
		case t.headStale:
			t.headStale = false
			t.drop(frame)
		case binary.BigEndian.Uint16(frame) != t.id:
			t.drop(frame)
		default:
			t.strangers = 0
			return frame, t.checkBehind()
		}
	}
}

// unanswered says what err, which came instead of the answer, means.
func (t *tcpTransport) unanswered(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return t.broken(err)
	}
	t.drain = true
	t.lose()
	if t.stopped.Load() {
		return errStopped
	}
	if t.lostCount >= maxLost {
		_ = t.close()
		return &wireError{
			kind: protocols.KindNotConnected, err: err,
			what: fmt.Sprintf("%d requests of this connection got no answer; it is closed", maxLost),
			hint: "is the unit id right?",
		}
	}
	e := &wireError{kind: protocols.KindTimeout, err: err, what: "no answer within " + t.timeout.String()}
	if t.strangers > 0 {
		e.what += fmt.Sprintf(" (but %d with a wrong transaction id, such as %d instead of %d)", t.strangers, t.stranger, t.id)
		e.hint = "does another program use the same connection of a gateway?"
	}
	return e
}

// broken closes the connection and says why.
func (t *tcpTransport) broken(err error) error {
	if t.stopped.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		err = context.Canceled
	}
	_ = t.close() // it is broken already
	e := &wireError{kind: protocols.KindNotConnected, err: err, what: "the connection broke: " + plainCause(err)}
	if errors.Is(err, io.EOF) {
		e.what = "the device closed the connection"
		e.hint = "does it accept enough connections, and does it know the unit?"
	}
	return e
}

// fill reads what has arrived, waiting for at least a byte.
func (t *tcpTransport) fill() error {
	if t.head == t.tail {
		t.head, t.tail = 0, 0
	} else if len(t.buf)-t.tail < maxFrame {
		t.tail = copy(t.buf[:], t.buf[t.head:t.tail])
		t.head = 0
	}
	n, err := t.conn.Read(t.buf[t.tail:])
	t.tail += n
	if n > 0 {
		return nil // an error comes again at the next read
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// frame consumes the frame at the head of the buffer; nil if it is not
// complete.
func (t *tcpTransport) frame() ([]byte, error) {
	if err := t.checkHeader(); err != nil {
		return nil, err
	}
	waiting := t.buf[t.head:t.tail]
	if len(waiting) < headerBytes {
		return nil, nil
	}
	n := headerBytes - 1 + int(binary.BigEndian.Uint16(waiting[4:]))
	if len(waiting) < n {
		return nil, nil
	}
	t.head += n
	return waiting[:n:n], nil
}

// checkHeader looks at as much of the next frame's header as is there. If it
// is none, the connection is out of step for good and is closed.
func (t *tcpTransport) checkHeader() error {
	waiting := t.buf[t.head:t.tail]
	if len(waiting) < 6 {
		return nil
	}
	protocol, length := binary.BigEndian.Uint16(waiting[2:]), int(binary.BigEndian.Uint16(waiting[4:]))
	if protocol == 0 && length >= 2 && length <= maxFrame-(headerBytes-1) {
		return nil
	}
	return t.outOfStep(fmt.Sprintf("no Modbus TCP frame (protocol %d, length %d)", protocol, length))
}

// checkBehind looks at what came in one piece with the answer. It can only
// be a late answer, or the same once more. Anything else is what remains of
// a frame that had to make up for bytes missing in the answer, which is not
// to be trusted then.
func (t *tcpTransport) checkBehind() error {
	if t.head == t.tail {
		return nil
	}
	if err := t.checkHeader(); err != nil {
		return err
	}
	if waiting := t.buf[t.head:t.tail]; len(waiting) >= 6 {
		if id := binary.BigEndian.Uint16(waiting); id == t.id || t.isLost(id) {
			return nil
		}
	}
	return t.outOfStep("an answer with something else behind it")
}

// outOfStep closes the connection: where the next frame begins is not known.
func (t *tcpTransport) outOfStep(what string) error {
	_ = t.close()
	return &wireError{
		kind: protocols.KindNotConnected, err: errMalformed,
		what: "what came back is " + what + "; the connection is closed",
		hint: "is it a Modbus TCP port, not RTU over TCP or another protocol?",
	}
}

// errMalformed marks the wireErrors of answers that break the protocol.
var errMalformed = errors.New("malformed answer")

// takeIn reads what arrived since the time-out: it cannot be the answer to a
// request that is not sent yet, whatever its id.
func (t *tcpTransport) takeIn() error {
	for {
		if err := t.setDeadline(drainTime); err != nil {
			return err
		}
		err := t.fill()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.drain = false
			return nil
		}
		if err != nil {
			return t.broken(err)
		}
		if err := t.dropWaiting(); err != nil {
			return err
		}
	}
}

// dropWaiting drops the frames that are in the buffer before a request is
// sent, and marks the one that has come in part.
func (t *tcpTransport) dropWaiting() error {
	for {
		frame, err := t.frame()
		if err != nil {
			return err
		}
		if frame == nil {
			t.headStale = t.head < t.tail
			return nil
		}
		t.drop(frame)
	}
}

// drop notes that frame was answered after all, or that it answers nothing.
func (t *tcpTransport) drop(frame []byte) {
	id := binary.BigEndian.Uint16(frame)
	if t.isLost(id) {
		t.lost[id/64] &^= 1 << (id % 64)
		t.lostCount--
		return
	}
	t.strangers++
	t.stranger = id
}

// isLost says that the request with this id timed out, and its answer has
// not come since.
func (t *tcpTransport) isLost(id uint16) bool {
	return t.lost != nil && t.lost[id/64]>>(id%64)&1 != 0
}

// lose notes that the current request got no answer (yet).
func (t *tcpTransport) lose() {
	if t.lost == nil {
		t.lost = new([1 << 16 / 64]uint64)
	}
	t.lost[t.id/64] |= 1 << (t.id % 64)
	t.lostCount++
}

// nextID goes on to an id that no answer on its way can have.
func (t *tcpTransport) nextID() {
	t.id += idStep
	for t.isLost(t.id) {
		t.id += idStep
	}
}

// checkAnswer says whether answer, whose transaction id is right, can be the
// answer to request. goburrow's client takes answers that are too short, and
// takes any other function code for an exception.
func checkAnswer(request, answer []byte) error {
	const unit, function, count = 6, 7, 8
	malformed := func(format string, args ...any) error {
		return &wireError{
			kind: protocols.KindMalformed, err: errMalformed,
			what: fmt.Sprintf(format, args...),
			hint: "the device or a gateway on the way breaks the protocol: is there newer firmware?",
		}
	}
	switch {
	case answer[unit] != request[unit]:
		e := malformed("unit %d answered instead of unit %d", answer[unit], request[unit])
		e.(*wireError).hint = fmt.Sprintf("if that is the device, set unit: %d", answer[unit]) //nolint:errorlint,forcetypeassert // made above
		return e
	case answer[function] == request[function]|0x80:
		if len(answer) != count+1 {
			return malformed("an exception of %d bytes instead of %d", len(answer), count+1)
		}
		return nil
	case answer[function] != request[function]:
		return malformed("an answer to function %d came instead of one to function %d", answer[function], request[function])
	}
	want := int(binary.BigEndian.Uint16(request[10:]))
	if request[function] >= 3 {
		want *= 2
	} else {
		want = (want + 7) / 8
	}
	if got := len(answer) - count - 1; got != want || int(answer[count]) != want {
		return malformed("an answer of %d bytes of values came instead of %d", max(got, 0), want)
	}
	return nil
}
