package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	gomodbus "github.com/goburrow/modbus"

	"millrace/protocols"
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

// tcpTransport is Modbus TCP over one connection. It differs from
// goburrow's own transport, which after one time-out takes each answer for
// the next request's, for ever (its issue 64), and never connects again (84).
type tcpTransport struct {
	dial dialFunc
	addr string
	conn net.Conn // nil: not connected

	watch
	pace
	packager gomodbus.TCPClientHandler // its connection is never made
	framer   framer

	pending []*call // under way, the oldest first
	held    heldAnswer
	ended   []*call   // that failed, and that receive has not returned yet
	quiet   time.Time // when the last answer came

	buf        [4 * maxFrame]byte
	head, tail int  // the bytes of buf that are not consumed
	headStale  bool // the frame at head began to arrive before the request was sent
	drain      bool // the last request timed out

	id        uint16
	lost      *[1 << 16 / 64]uint64 // ids of the requests that timed out, as a bit set
	lostCount int
	strangers int // answers to no request of ours, since the last one that was
	stranger  uint16
	tardy     int // 1 + the unit whose late answer came last, and none in time since; 0: none
}

func newTCPTransport(dial dialFunc, addr string) *tcpTransport {
	return &tcpTransport{dial: dial, addr: addr}
}

// heldAnswer is an answer while others are to come: if it was cut short, the
// first bytes of the next one made up for what is missing. It is believed
// when a frame begins behind it.
type heldAnswer struct {
	call  *call // nil: none is held
	size  int
	frame [maxFrame]byte
}

// maxWindow is how many calls may be under way on one connection, whatever
// is configured.
const maxWindow = 16

func (t *tcpTransport) window(most int) int {
	if t.pause > 0 {
		return 1
	}
	n := max(min(t.inflight, maxWindow, most), 1)
	if t.held.call != nil {
		n++ // the device is through with that one
	}
	return n
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
	t.reset(conn)
	t.head, t.tail, t.headStale, t.drain = 0, 0, false, false
	t.lost, t.lostCount, t.strangers, t.tardy = nil, 0, 0, 0
	t.pending, t.ended, t.held.call = t.pending[:0], t.ended[:0], nil
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

func (t *tcpTransport) begin(ctx context.Context, p pace) (exchanger, error) {
	if t.conn == nil {
		return nil, errNotConnected
	}
	t.pace = p
	if err := t.watch.begin(ctx); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *tcpTransport) end() {
	t.watch.end()
	t.loseAll() // of a scan that ended in the middle
	t.pending, t.ended, t.held.call = t.pending[:0], t.ended[:0], nil
}

func (t *tcpTransport) send(c *call) {
	if err := t.write(c); err != nil {
		c.fail(err)
		t.ended = append(t.ended, c)
		if t.conn == nil { // the others have lost it, too
			t.failAll(err)
		}
	}
}

func (t *tcpTransport) write(c *call) error {
	if t.conn == nil {
		return errNotConnected
	}
	if len(t.pending) == 0 {
		if err := t.clear(); err != nil {
			return err
		}
	}
	t.packager.SlaveId = c.unit
	adu, err := t.packager.Encode(t.framer.request(c))
	if err != nil {
		return err
	}
	// The packager counts transactions for itself.
	t.nextID()
	c.id = t.id
	binary.BigEndian.PutUint16(adu, c.id)
	if len(t.pending) == 0 {
		if err := t.setDeadline(t.timeout); err != nil {
			return err
		}
	}
	if _, err := t.conn.Write(adu); err != nil {
		// Part of the request may be on its way: the device could not make
		// sense of another one behind it.
		return t.broken(err)
	}
	t.pending = append(t.pending, c)
	return nil
}

// clear gets rid of what cannot be an answer to a request that is not sent
// yet, and lets the device have its pause.
func (t *tcpTransport) clear() error {
	if rest := time.Until(t.quiet.Add(t.pause)); t.pause > 0 && rest > 0 {
		if err := t.idle(rest); err != nil {
			return err
		}
	}
	if t.drain {
		if err := t.idle(drainTime); err != nil {
			return err
		}
		t.drain = false
	}
	return t.dropWaiting()
}

// idle implements exchanger. What arrives meanwhile is no answer, whatever
// its id.
func (t *tcpTransport) idle(d time.Duration) error {
	if t.conn == nil {
		return errNotConnected
	}
	if err := t.setDeadline(d); err != nil {
		return err
	}
	for {
		if err := t.dropWaiting(); err != nil {
			return err
		}
		err := t.fill()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && t.stopped.Load():
			return errStopped
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return t.broken(err)
		}
	}
}

func (t *tcpTransport) setDeadline(d time.Duration) error {
	err := t.deadline(time.Now().Add(d))
	if err != nil && !errors.Is(err, errStopped) {
		return t.broken(err)
	}
	return err
}

// receive implements exchanger.
func (t *tcpTransport) receive() *call {
	for len(t.ended) == 0 {
		held := t.held.call
		c, err := t.answer()
		switch {
		case err != nil:
			t.failAll(err)
			continue
		case c == nil && held != nil:
			continue // it was said already
		}
		return c
	}
	c := t.ended[0]
	t.ended = slices.Delete(t.ended, 0, 1)
	return c
}

// failAll ends the calls under way with err. They are not used one by one:
// a device that has answered none of them for so long is silent.
func (t *tcpTransport) failAll(err error) {
	if c := t.held.call; c != nil {
		c.fail(&wireError{
			kind: protocols.KindMalformed, err: errDamaged, what: "an answer came, but nothing that begins behind it: it may have been cut short",
			hint: "does the device bear so many requests at once (max_inflight)?",
		})
		if t.conn == nil {
			c.fail(err)
		}
		t.ended = append(t.ended, c)
		t.held.call = nil
	}
	for _, c := range t.pending {
		c.fail(err)
	}
	t.ended = append(t.ended, t.pending...)
	t.pending = t.pending[:0]
}

// answer waits for the answer to any of the calls under way, and drops all
// others. It is nil when there is one that has to be confirmed first: another
// call may be sent meanwhile.
func (t *tcpTransport) answer() (*call, error) {
	for {
		c, err := t.confirm()
		if c != nil || err != nil {
			return c, err
		}
		var frame []byte
		if t.held.call == nil {
			frame, err = t.frame()
		}
		switch {
		case err != nil:
			return nil, err
		case frame == nil:
			if err := t.fill(); err != nil {
				return nil, t.unanswered(err)
			}
			continue
		}
		at := t.find(binary.BigEndian.Uint16(frame))
		if t.headStale || at < 0 {
			t.headStale = false
			t.drop(frame)
			continue
		}
		return t.accept(at, frame)
	}
}

// accept takes the answer to a call under way.
func (t *tcpTransport) accept(at int, frame []byte) (*call, error) {
	c := t.pending[at]
	// While others are to come, a few bytes are the begin of the next answer
	// as long as nothing else is known: confirm waits for the rest.
	if len(t.pending) == 1 || t.tail-t.head >= headerBytes-1 {
		if err := t.checkBehind(c.id); err != nil {
			return nil, err
		}
	}
	if (len(t.pending) > 1 || t.lostCount > 0) && t.another(frame) {
		return nil, t.outOfStep("an answer with another one in it")
	}
	t.pending = slices.Delete(t.pending, at, at+1)
	t.strangers = 0
	if t.tardy == 1+int(c.unit) {
		t.tardy = 0
	}
	if t.pause > 0 {
		t.quiet = time.Now()
	}
	if len(t.pending) == 0 {
		c.take(frame[headerBytes-1], frame[headerBytes:])
		return c, nil
	}
	// The device has gone on to the next one just now.
	if err := t.setDeadline(t.timeout); err != nil {
		t.loseAll()
		t.failAll(err)
		c.take(frame[headerBytes-1], frame[headerBytes:])
		return c, nil
	}
	t.held.call, t.held.size = c, copy(t.held.frame[:], frame)
	return t.confirm()
}

// another says that another answer made up for bytes that are missing in
// frame: that it begins in it, with an id that is awaited, or was; or that
// frame ends with a whole one whose id or protocol is wrong, and all else as
// in an answer of the same unit.
func (t *tcpTransport) another(frame []byte) bool {
	unit := frame[headerBytes-1]
	for at := headerBytes + 1; at+headerBytes <= len(frame); at++ {
		f := frame[at:]
		if f[headerBytes-1] != unit || f[4] != 0 {
			continue
		}
		if binary.BigEndian.Uint16(f[2:]) == 0 {
			if id := binary.BigEndian.Uint16(f); t.find(id) >= 0 || t.isLost(id) {
				return true
			}
		}
		if int(f[5]) != len(f)-(headerBytes-1) || len(f) < headerBytes+3 {
			continue
		}
		function, data := f[headerBytes], f[headerBytes+1:]
		if function >= 1 && function <= 4 && int(data[0]) == len(data)-1 {
			return true
		}
	}
	return false
}

// confirm returns the answer that is held, if a frame begins behind it; nil:
// that is not known yet.
func (t *tcpTransport) confirm() (*call, error) {
	c := t.held.call
	if c == nil || t.tail-t.head < headerBytes-1 {
		return nil, nil
	}
	if err := t.checkBehind(c.id); err != nil {
		return nil, err
	}
	t.held.call = nil
	frame := t.held.frame[:t.held.size]
	c.take(frame[headerBytes-1], frame[headerBytes:])
	return c, nil
}

// find returns which of the calls under way has the given id; -1: none.
func (t *tcpTransport) find(id uint16) int {
	return slices.IndexFunc(t.pending, func(c *call) bool { return c.id == id })
}

// unanswered says what err, which came instead of the answer, means.
func (t *tcpTransport) unanswered(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return t.broken(err)
	}
	t.loseAll()
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
	switch {
	case len(t.pending) == 0:
	case t.tardy == 1+int(t.pending[0].unit):
		e.what, e.hint = e.what+tardyText, tardyHint
	case t.strangers > 0:
		e.what += fmt.Sprintf(" (but %d with a wrong transaction id, such as %d instead of %d)", t.strangers, t.stranger, t.pending[0].id)
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
func (t *tcpTransport) checkBehind(own uint16) error {
	if t.head == t.tail {
		return nil
	}
	if err := t.checkHeader(); err != nil {
		return err
	}
	if waiting := t.buf[t.head:t.tail]; len(waiting) >= 6 {
		if id := binary.BigEndian.Uint16(waiting); id == own || t.find(id) >= 0 || t.isLost(id) {
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
		t.tardy = 1 + int(frame[headerBytes-1])
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

// loseAll notes that the calls under way got no answer (yet).
func (t *tcpTransport) loseAll() {
	for _, c := range t.pending {
		t.lose(c.id)
		t.drain = true
	}
}

// lose notes that the request with this id got no answer (yet).
func (t *tcpTransport) lose(id uint16) {
	if t.lost == nil {
		t.lost = new([1 << 16 / 64]uint64)
	}
	t.lost[id/64] |= 1 << (id % 64)
	t.lostCount++
}

// nextID goes on to an id that no answer on its way can have.
func (t *tcpTransport) nextID() {
	t.id += idStep
	for t.isLost(t.id) || t.find(t.id) >= 0 {
		t.id += idStep
	}
}
