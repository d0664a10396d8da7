package mqtttest

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Mode is what a Proxy does with the bytes that come in.
type Mode int32

// The modes of a Proxy.
const (
	Pass          Mode = iota // hands everything on
	SwallowDown               // throws away what the server says (acknowledgements)
	SwallowUp                 // throws away what the client says
	SwallowBoth               // half-open: nothing gets through, nothing is closed
	StallUp                   // reads nothing more from the client
	RefuseClients             // closes every new connection at once
	LateDown                  // hands on what the server says 100 ms late
)

// lateTime is how late the mode LateDown is.
const lateTime = 100 * time.Millisecond

// Proxy is a TCP relay that spoils connections on demand.
type Proxy struct {
	Addr string // host:port to connect to

	target string
	listen net.Listener
	mode   atomic.Int32
	done   chan struct{}
	wg     sync.WaitGroup

	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	accepted int
}

// NewProxy starts one in front of target (host:port). It is closed when the
// test ends.
func NewProxy(t TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("proxy: %v", err)
		return nil
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, listen: l, done: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Set sets what happens to all connections from now on, also to those that
// are open.
func (p *Proxy) Set(m Mode) { p.mode.Store(int32(m)) }

// Cut closes all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

// Accepted returns how many connections there have been.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

func (p *Proxy) close() {
	close(p.done)
	p.listen.Close()
	p.Cut()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listen.Accept()
		if err != nil {
			return
		}
		if Mode(p.mode.Load()) == RefuseClients {
			client.Close()
			continue
		}
		server, err := net.DialTimeout("tcp", p.target, time.Second)
		if err != nil {
			client.Close()
			continue
		}
		if !p.keep(client, server) {
			return
		}
		p.wg.Go(func() { p.relay(client, server, SwallowUp) })
		p.wg.Go(func() { p.relay(server, client, SwallowDown) })
	}
}

func (p *Proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted++
	for _, c := range conns {
		p.conns[c] = struct{}{}
	}
	select {
	case <-p.done: // Cut may have come before
		for _, c := range conns {
			c.Close()
		}
		return false
	default:
		return true
	}
}

// relay copies one direction; swallow is the mode that throws it away.
func (p *Proxy) relay(from, to net.Conn, swallow Mode) {
	defer func() {
		from.Close()
		to.Close()
		p.mu.Lock()
		delete(p.conns, from)
		p.mu.Unlock()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		mode := Mode(p.mode.Load())
		if swallow == SwallowUp && mode == StallUp {
			p.stall(from)
		}
		if mode == swallow || mode == SwallowBoth {
			continue
		}
		if swallow == SwallowDown && mode == LateDown {
			select {
			case <-p.done:
			case <-time.After(lateTime):
			}
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// stall waits until the mode has changed or the connection was cut.
func (p *Proxy) stall(c net.Conn) {
	ticker := time.NewTicker(pollTime)
	defer ticker.Stop()
	for Mode(p.mode.Load()) == StallUp {
		select {
		case <-p.done:
			return
		case <-ticker.C:
		}
		p.mu.Lock()
		_, open := p.conns[c]
		p.mu.Unlock()
		if !open {
			return
		}
	}
}

// Fake is a broker that answers as it is told to.
type Fake struct {
	Addr string // host:port

	listen net.Listener
	wg     sync.WaitGroup
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
}

// NewFake starts a broker whose connections serve handles, one goroutine
// each; a connection is closed when serve returns, and when the test ends.
func NewFake(t TB, serve func(conn io.ReadWriter)) *Fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("fake broker: %v", err)
		return nil
	}
	f := &Fake{Addr: l.Addr().String(), listen: l, conns: make(map[net.Conn]struct{})}
	f.wg.Go(func() { f.accept(serve) })
	t.Cleanup(f.close)
	return f
}

func (f *Fake) accept(serve func(io.ReadWriter)) {
	for {
		conn, err := f.listen.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns[conn] = struct{}{}
		f.mu.Unlock()
		f.wg.Go(func() {
			serve(conn)
			conn.Close()
			f.mu.Lock()
			delete(f.conns, conn)
			f.mu.Unlock()
		})
	}
}

func (f *Fake) close() {
	f.listen.Close()
	f.mu.Lock()
	for c := range f.conns {
		c.Close()
	}
	f.mu.Unlock()
	f.wg.Wait()
}
