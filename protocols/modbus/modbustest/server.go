package modbustest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Unit is one simulated device behind a Server.
type Unit struct {
	Holding  Registers
	Input    Registers
	Coils    Bits
	Discrete Bits

	mu       sync.RWMutex // guards all of the banks
	limit    atomic.Int32
	requests atomic.Uint64
	plan     atomic.Pointer[Plan]
}

func newUnit() *Unit {
	u := &Unit{}
	u.Holding.mu, u.Input.mu, u.Coils.mu, u.Discrete.mu = &u.mu, &u.mu, &u.mu, &u.mu
	return u
}

// SetFaults makes the answers of u faulty from now on, as p says; nil: they
// are right again.
func (u *Unit) SetFaults(p Plan) {
	if p == nil {
		u.plan.Store(nil)
		return
	}
	u.plan.Store(&p)
}

// Limit makes requests for more than n registers fail with exception 3, as
// with devices that cannot give 125 at once; 0: no such limit.
func (u *Unit) Limit(n int) {
	u.limit.Store(int32(min(max(n, 0), maxRegisters)))
}

// Requests is how many requests u got.
func (u *Unit) Requests() uint64 { return u.requests.Load() }

// Server is a Modbus TCP server on one address with up to 256 units behind
// it. Requests to a unit that was not made stay without an answer, as with a
// gateway in front of a serial line.
type Server struct {
	units    [256]atomic.Pointer[Unit]
	unitsMu  sync.Mutex // held while a unit is made
	accepted atomic.Uint64

	mu       sync.Mutex // guards what follows
	listener net.Listener
	ctx      context.Context //nolint:containedctx // ends with the listener: Listen and Close are its two sides
	cancel   context.CancelFunc
	conns    map[net.Conn]struct{}
	running  sync.WaitGroup
}

// NewServer returns a Server without units, which does not listen yet.
func NewServer() *Server {
	return &Server{conns: make(map[net.Conn]struct{})}
}

// Unit returns the unit with the given id, and makes it if there is none.
func (s *Server) Unit(id uint8) *Unit {
	s.unitsMu.Lock()
	defer s.unitsMu.Unlock()
	u := s.units[id].Load()
	if u == nil {
		u = newUnit()
		s.units[id].Store(u)
	}
	return u
}

// Listen begins to serve at addr, such as "127.0.0.1:1502"; "" is a free
// port of 127.0.0.1. After Close it may be called again.
func (s *Server) Listen(addr string) error {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		return errors.New("modbustest: the server listens already")
	}
	var lc net.ListenConfig
	ctx, cancel := context.WithCancel(context.Background())
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		cancel()
		return fmt.Errorf("modbustest: %w", err)
	}
	s.listener, s.ctx, s.cancel = l, ctx, cancel
	s.running.Go(func() { s.accept(ctx, l) })
	return nil
}

// Addr is the host and port at which s listens; "" if it does not.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Accepted is how many connections s has accepted.
func (s *Server) Accepted() uint64 { return s.accepted.Load() }

// Close stops listening, closes all connections and waits for their ends.
// The units keep their values. Closing twice is no error.
func (s *Server) Close() error {
	s.mu.Lock()
	l := s.listener
	s.listener = nil
	if l != nil {
		s.cancel()
	}
	for c := range s.conns {
		_ = c.Close() // whoever reads from it finds out
	}
	s.mu.Unlock()
	if l == nil {
		return nil
	}
	err := l.Close()
	s.running.Wait()
	return err
}

// CloseConns closes the connections there are, and goes on listening.
func (s *Server) CloseConns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close() // whoever reads from it finds out
	}
}

func (s *Server) accept(ctx context.Context, l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.accepted.Add(1)
		s.mu.Lock()
		if ctx.Err() != nil {
			s.mu.Unlock()
			_ = c.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.running.Go(func() {
			s.serve(ctx, c)
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			_ = c.Close() // it may be closed already
		})
	}
}

// session is one connection of a client.
type session struct {
	server *Server
	conn   net.Conn
	in     [1024]byte
	out    [2 * maxFrame]byte
	held   []byte // an answer that was kept back
	behind bool   // it goes behind the next answer
}

// serve answers requests until the connection or ctx ends.
func (s *Server) serve(ctx context.Context, c net.Conn) {
	se := &session{server: s, conn: c}
	n := 0
	for {
		m, err := c.Read(se.in[n:])
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

// frameSize returns the size of the frame that in begins with, 0 if it is
// not complete. It is false if that is no frame.
func frameSize(in []byte) (int, bool) {
	if len(in) < 6 {
		return 0, true
	}
	size := 6 + int(binary.BigEndian.Uint16(in[4:]))
	if binary.BigEndian.Uint16(in[2:]) != 0 || size < 8 || size > maxFrame {
		return 0, false
	}
	if len(in) < size {
		return 0, true
	}
	return size, true
}

// handle answers one request.
func (se *session) handle(ctx context.Context, frame []byte) error {
	u := se.server.units[frame[6]].Load()
	if u == nil {
		return nil
	}
	n := u.requests.Add(1)
	request := parseRequest(frame)
	plan := u.plan.Load()
	if plan == nil && se.held == nil {
		size := u.respond(time.Now(), frame, request, 0, se.out[:])
		_, err := se.conn.Write(se.out[:size])
		return err
	}
	var f Fault
	if plan != nil {
		f = (*plan)(n, request)
	}
	if err := pause(ctx, f.Delay); err != nil {
		return err
	}
	size := u.respond(time.Now(), frame, request, f.Exception, se.out[:])
	return se.spoil(ctx, f, size)
}

// spoil sends the answer of the given size, which is in out, with a fault.
func (se *session) spoil(ctx context.Context, f Fault, size int) error {
	switch {
	case f.Drop:
		return nil
	case f.Reset:
		if tcp, ok := se.conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // so that Close resets
		}
		return io.EOF
	case f.HalfClose:
		if tcp, ok := se.conn.(*net.TCPConn); ok {
			return tcp.CloseWrite()
		}
		return io.EOF
	}
	answer := distort(f, se.out[:size])
	if f.Hold || f.HoldBehind {
		se.held = append(se.held, answer...)
		se.behind = f.HoldBehind
		return nil
	}
	if se.held != nil {
		if se.behind {
			answer = append(append([]byte{}, answer...), se.held...)
		} else {
			answer = append(se.held, answer...)
		}
		se.held = nil
	}
	if f.Slowly > 0 {
		return se.sendSlowly(ctx, answer, f.Slowly)
	}
	_, err := se.conn.Write(answer)
	return err
}

func (se *session) sendSlowly(ctx context.Context, answer []byte, d time.Duration) error {
	for i := range answer {
		if _, err := se.conn.Write(answer[i : i+1]); err != nil {
			return err
		}
		if err := pause(ctx, d); err != nil {
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

// distort changes an answer in place, and returns what is to be sent of it.
func distort(f Fault, answer []byte) []byte {
	if f.WrongID {
		binary.BigEndian.PutUint16(answer, binary.BigEndian.Uint16(answer)+1)
	}
	if f.WrongProtocol {
		answer[2] = 0x55
	}
	if f.WrongUnit {
		answer[6]++
	}
	if f.WrongFunction {
		if answer[7] == 4 {
			answer[7] = 3
		} else {
			answer[7] = 4
		}
	}
	if f.WrongCount {
		answer[8] += 2
	}
	if n := min(f.Fewer, len(answer)-9); n > 0 {
		answer = answer[:len(answer)-n]
		binary.BigEndian.PutUint16(answer[4:], uint16(len(answer)-6))
		answer[8] -= uint8(n)
	}
	return answer[:len(answer)-min(f.Cut, len(answer))]
}
