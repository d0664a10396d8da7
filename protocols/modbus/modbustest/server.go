package modbustest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
)

// Unit is one simulated device behind a Server.
type Unit struct {
	Holding  Registers
	Input    Registers
	Coils    Bits
	Discrete Bits

	mu       sync.RWMutex // guards all of the banks
	limit    atomic.Int32
	identity atomic.Pointer[Identity]
	requests atomic.Uint64
	plan     atomic.Pointer[Plan]
	pace     atomic.Pointer[pace]
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

// Server is a Modbus server with up to 256 units behind it, which it serves
// over TCP, as RTU over TCP and on serial lines. Requests to a unit that was
// not made stay without an answer, as with a gateway in front of a serial
// line.
type Server struct {
	units    [256]atomic.Pointer[Unit]
	unitsMu  sync.Mutex // held while a unit is made
	accepted atomic.Uint64
	refused  atomic.Uint64
	ignored  atomic.Uint64
	overdue  atomic.Uint64
	limits   atomic.Pointer[Limits]

	mu      sync.Mutex // guards what follows
	tcp     *listening
	rtu     *listening
	conns   map[net.Conn]struct{}
	lines   map[*Line]struct{}
	running sync.WaitGroup
}

// listening is a port that is served, until it is closed.
type listening struct {
	net.Listener

	rtu    bool
	ctx    context.Context //nolint:containedctx // ends with the listener: Listen and Close are its two sides
	cancel context.CancelFunc
}

// NewServer returns a Server without units, which does not listen yet.
func NewServer() *Server {
	return &Server{conns: make(map[net.Conn]struct{}), lines: make(map[*Line]struct{})}
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

// Listen begins to serve Modbus TCP at addr, such as "127.0.0.1:1502"; "" is
// a free port of 127.0.0.1. After Close it may be called again.
func (s *Server) Listen(addr string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listen(&s.tcp, addr, false)
}

// ListenRTU begins to serve RTU frames over TCP at addr, as Listen does. A
// Server may do both.
func (s *Server) ListenRTU(addr string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listen(&s.rtu, addr, true)
}

// listen sets to. The caller holds the lock.
func (s *Server) listen(to **listening, addr string, rtu bool) error {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	if *to != nil {
		return errors.New("modbustest: the server listens already")
	}
	var lc net.ListenConfig
	ctx, cancel := context.WithCancel(context.Background())
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		cancel()
		return fmt.Errorf("modbustest: %w", err)
	}
	serving := &listening{Listener: l, rtu: rtu, ctx: ctx, cancel: cancel}
	*to = serving
	s.running.Go(func() { s.accept(serving) })
	return nil
}

// Addr is the host and port at which s listens; "" if it does not.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tcp.addr()
}

// AddrRTU is the host and port at which s serves RTU frames; "" if it does
// not.
func (s *Server) AddrRTU() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rtu.addr()
}

func (l *listening) addr() string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// ServeLine answers, on the line, requests to the units of s, until Close. A
// line has one server; the last one counts.
func (s *Server) ServeLine(l *Line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines[l] = struct{}{}
	l.server.Store(s)
}

// Accepted is how many connections s has accepted.
func (s *Server) Accepted() uint64 { return s.accepted.Load() }

// Close stops listening, closes all connections and waits for their ends. It
// leaves its lines open, but silent. The units keep their values. Closing
// twice is no error.
func (s *Server) Close() error {
	s.mu.Lock()
	var errs []error
	for _, l := range []*listening{s.tcp, s.rtu} {
		if l != nil {
			l.cancel()
			errs = append(errs, l.Close())
		}
	}
	s.tcp, s.rtu = nil, nil
	for c := range s.conns {
		_ = c.Close() // whoever reads from it finds out
	}
	for l := range s.lines {
		l.server.CompareAndSwap(s, nil)
	}
	clear(s.lines)
	s.mu.Unlock()
	s.running.Wait()
	return errors.Join(errs...)
}

// CloseConns closes the connections there are, and goes on listening.
func (s *Server) CloseConns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close() // whoever reads from it finds out
	}
}

func (s *Server) accept(l *listening) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if !s.admit(l, c) {
			_ = c.Close()
			continue
		}
		s.running.Go(func() {
			s.serve(l.ctx, c, l.rtu)
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// admit counts a new connection. It is false if there may not be one.
func (s *Server) admit(l *listening, c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	if limits := s.limits.Load(); limits != nil && limits.MaxConns > 0 && len(s.conns) >= limits.MaxConns {
		s.refused.Add(1)
		return false
	}
	s.accepted.Add(1)
	s.conns[c] = struct{}{}
	return true
}
