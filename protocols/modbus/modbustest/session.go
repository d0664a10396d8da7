package modbustest

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// maxQueue is how many requests of a connection wait before no more are read.
const maxQueue = 1024

// session is one connection of a client.
type session struct {
	server *Server
	conn   net.Conn
	in     [1024]byte
	queue  chan *exchange // made with the first request that takes its time
	more   sync.WaitGroup // goroutines beside the one that reads

	waiting atomic.Int64 // requests that have been read and not answered
	open    atomic.Int64 // those of them whose answers are not on their way, which the limits count

	mu      sync.Mutex // guards what follows: of sending
	out     [2 * maxFrame]byte
	keeper  keeper
	last    time.Time // when the last answer was sent, if there are limits
	answers int       // that were sent
}

// exchange is a request that is not answered at once.
type exchange struct {
	unit    *Unit
	frame   []byte // in the form of TCP
	request Request
	fault   Fault
	came    time.Time
	ready   chan struct{} // closed when the unit has done its work; nil: it has
}

// serve answers requests until the connection or ctx ends.
func (s *Server) serve(ctx context.Context, c net.Conn, rtu bool) {
	ctx, cancel := context.WithCancel(ctx)
	se := &session{server: s, conn: c, keeper: keeper{rtu: rtu}}
	if rtu {
		se.readRTU(ctx)
	} else {
		se.readTCP(ctx)
	}
	cancel()
	_ = c.Close() // whoever writes to it finds out
	se.more.Wait()
}

// read reads what comes, or fails when nothing comes for too long.
func (se *session) read(to []byte) (int, error) {
	if l := se.server.limits.Load(); l != nil && l.IdleClose > 0 {
		_ = se.conn.SetReadDeadline(time.Now().Add(l.IdleClose)) // the read says it too
	}
	return se.conn.Read(to)
}

func (se *session) readTCP(ctx context.Context) {
	n := 0
	for {
		m, err := se.read(se.in[n:])
		n += m
		if err != nil {
			return
		}
		used := 0
		for {
			size, ok := frameSize(se.in[used:n])
			if !ok {
				return
			}
			if size == 0 {
				break
			}
			if err := se.handle(ctx, se.in[used:used+size]); err != nil {
				return
			}
			used += size
		}
		n = copy(se.in[:], se.in[used:n])
	}
}

func (se *session) readRTU(ctx context.Context) {
	var split splitter
	last := time.Now()
	for {
		n, err := se.read(se.in[:])
		if err != nil {
			return
		}
		now := time.Now()
		split.silent(now.Sub(last), apart)
		last = now
		split.add(se.in[:n], func(frame []byte) {
			if err == nil && frame[0] != broadcast {
				err = se.handle(ctx, fromRTU(frame))
			}
		})
		if err != nil {
			return
		}
	}
}

// frameSize returns the size of the frame that in begins with, 0 if it is
// not complete. It is false if that is no frame.
func frameSize(in []byte) (int, bool) {
	if len(in) < mbap {
		return 0, true
	}
	size := mbap + int(binary.BigEndian.Uint16(in[4:]))
	if binary.BigEndian.Uint16(in[2:]) != 0 || size < 8 || size > maxFrame {
		return 0, false
	}
	if len(in) < size {
		return 0, true
	}
	return size, true
}

// handle answers one request, or sees to it that it will be answered.
func (se *session) handle(ctx context.Context, frame []byte) error {
	u := se.server.units[frame[6]].Load()
	if u == nil {
		return nil
	}
	if se.beyondLimits() {
		se.server.ignored.Add(1)
		if se.server.limits.Load().Strict {
			return errEnough
		}
		return nil
	}
	n := u.requests.Add(1)
	request := parseRequest(frame)
	plan, pace := u.plan.Load(), u.pace.Load()
	if plan == nil && pace == nil && se.waiting.Load() == 0 {
		return se.answer(u, frame, request)
	}
	x := &exchange{unit: u, frame: append([]byte{}, frame...), request: request, came: time.Now()}
	if plan != nil {
		x.fault = (*plan)(n, request)
	}
	se.waiting.Add(1)
	se.open.Add(1)
	if pace == nil {
		return se.enqueue(ctx, x)
	}
	if pace.Shuffled {
		se.more.Go(func() {
			defer se.waiting.Add(-1)
			if pace.work(ctx) == nil {
				se.finish(ctx, x)
			}
		})
		return nil
	}
	x.ready = make(chan struct{})
	se.more.Go(func() {
		if pace.work(ctx) == nil {
			close(x.ready)
		}
	})
	return se.enqueue(ctx, x)
}

// beyondLimits says that a request that comes now is to be ignored.
func (se *session) beyondLimits() bool {
	l := se.server.limits.Load()
	if l == nil {
		return false
	}
	if l.MaxInflight > 0 && se.open.Load() >= int64(l.MaxInflight) {
		return true
	}
	se.mu.Lock()
	defer se.mu.Unlock()
	return l.MinGap > 0 && !se.last.IsZero() && time.Since(se.last) < l.MinGap
}

// answer answers at once, without a fault.
func (se *session) answer(u *Unit, frame []byte, r Request) error {
	se.mu.Lock()
	defer se.mu.Unlock()
	size := u.respond(time.Now(), frame, r, 0, se.out[:])
	pieces := [][]byte{se.out[:size]}
	if se.keeper.held != nil || se.keeper.rtu {
		pieces = se.keeper.frames(&Fault{}, se.out[:size], time.Time{})
	}
	if err := se.sendLocked(pieces...); err != nil {
		return err
	}
	return se.answered()
}

// sendLocked sends pieces. The caller holds the lock.
func (se *session) sendLocked(pieces ...[]byte) error {
	for _, p := range pieces {
		if _, err := se.conn.Write(p); err != nil {
			return err
		}
	}
	if se.server.limits.Load() != nil {
		se.last = time.Now()
	}
	return nil
}

// enqueue lets x be answered after those before it.
func (se *session) enqueue(ctx context.Context, x *exchange) error {
	if se.queue == nil {
		queue := make(chan *exchange, maxQueue)
		se.queue = queue
		se.more.Go(func() { se.work(ctx, queue) })
	}
	select {
	case se.queue <- x:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work answers the requests of the queue, one after another.
func (se *session) work(ctx context.Context, queue <-chan *exchange) {
	for {
		select {
		case x := <-queue:
			if x.ready != nil {
				select {
				case <-x.ready:
				case <-ctx.Done():
					return
				}
			}
			se.finish(ctx, x)
			se.waiting.Add(-1)
		case <-ctx.Done():
			return
		}
	}
}

// finish answers x with its fault. A connection that fails is closed, so
// that whoever reads from it finds out.
func (se *session) finish(ctx context.Context, x *exchange) {
	f := &x.fault
	switch {
	case f.ForeignWhen == MidWait && len(f.Foreign) > 0:
		if pause(ctx, f.Delay/2) != nil || se.sendForeign(f) != nil || pause(ctx, f.Delay-f.Delay/2) != nil {
			return
		}
	case pause(ctx, f.Delay) != nil:
		return
	}
	se.open.Add(-1) // before the client can have the answer and ask again
	switch {
	case f.Reset || f.HalfClose:
		se.end(f.HalfClose)
	case f.Late > 0:
		se.more.Go(func() {
			if pause(ctx, f.Late) == nil {
				se.spoil(ctx, x)
			}
		})
	default:
		se.spoil(ctx, x)
	}
}

// end ends the connection instead of answering.
func (se *session) end(half bool) {
	tcp, ok := se.conn.(*net.TCPConn)
	switch {
	case ok && half:
		_ = tcp.CloseWrite() // it may be closed already
		return
	case ok:
		_ = tcp.SetLinger(0) // so that Close resets
	}
	_ = se.conn.Close()
}

// spoil sends the answer to x with its fault.
func (se *session) spoil(ctx context.Context, x *exchange) {
	f := &x.fault
	if f.ForeignWhen == BeforeAnswer && se.sendForeign(f) != nil {
		return
	}
	if !f.Drop && !se.server.tooOld(x.came) && se.sendSpoilt(ctx, x) != nil {
		_ = se.conn.Close()
		return
	}
	if f.ForeignWhen == AfterAnswer {
		_ = se.sendForeign(f) // the end of it all in any case
	}
}

func (se *session) sendSpoilt(ctx context.Context, x *exchange) error {
	se.mu.Lock()
	defer se.mu.Unlock()
	size := x.unit.respond(time.Now(), x.frame, x.request, x.fault.Exception, se.out[:])
	if se.server.tooOld(se.keeper.since) {
		se.keeper.held = nil
	}
	oldest := se.keeper.oldest(x.came)
	pieces := se.keeper.frames(&x.fault, se.out[:size], x.came)
	if len(pieces) > 0 {
		defer func() { se.server.noteSent(oldest) }()
	}
	if len(pieces) == 0 {
		return nil
	}
	if err := se.sendPieces(ctx, x.fault.Slowly, pieces); err != nil {
		return err
	}
	return se.answered()
}

// sendPieces sends pieces, byte by byte if that is to be slow.
func (se *session) sendPieces(ctx context.Context, slowly time.Duration, pieces [][]byte) error {
	if slowly <= 0 {
		if len(pieces) > 1 {
			defer func(first time.Time) { se.server.noteGap(first, 0) }(time.Now())
		}
		return se.sendLocked(pieces...)
	}
	for _, piece := range pieces {
		for i := range piece {
			if err := se.sendLocked(piece[i : i+1]); err != nil {
				return err
			}
			if err := pause(ctx, slowly); err != nil {
				return err
			}
		}
	}
	return nil
}

// sendForeign sends what is heard of another master.
func (se *session) sendForeign(f *Fault) error {
	se.mu.Lock()
	defer se.mu.Unlock()
	if !se.keeper.rtu {
		return nil
	}
	for _, r := range f.Foreign {
		if err := se.sendLocked(se.server.foreign(r)...); err != nil {
			return err
		}
	}
	return nil
}

// pause waits for d.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
