package opcuatest

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Relay is a TCP relay whose connections can be cut, stalled and delayed.
type Relay struct {
	ln     net.Listener
	target string
	cancel context.CancelFunc
	wg     sync.WaitGroup

	stalled  atomic.Bool
	delay    atomic.Int64
	accepted atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// NewRelay starts a relay from a free port of 127.0.0.1 to target. It runs
// until Close.
func NewRelay(target string) (*Relay, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		return nil, err
	}
	r := &Relay{ln: ln, target: target, cancel: cancel, conns: make(map[net.Conn]struct{})}
	r.wg.Go(func() { r.accept(ctx) })
	return r, nil
}

// Addr returns the relay's host and port.
func (r *Relay) Addr() string { return r.ln.Addr().String() }

// Stall stops (or lets go again) everything that arrives at the relay, with
// the connections standing.
func (r *Relay) Stall(on bool) { r.stalled.Store(on) }

// Delay holds back everything for d, in both directions.
func (r *Relay) Delay(d time.Duration) { r.delay.Store(int64(d)) }

// Cut breaks all connections.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		_ = c.Close()
	}
}

// Accepted returns how many connections there have been.
func (r *Relay) Accepted() int { return int(r.accepted.Load()) }

// Close ends the relay and its connections.
func (r *Relay) Close() error {
	r.cancel()
	err := r.ln.Close()
	r.Cut()
	r.wg.Wait()
	return err
}

func (r *Relay) accept(ctx context.Context) {
	for {
		in, err := r.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		r.accepted.Add(1)
		r.wg.Go(func() { r.relay(ctx, in) })
	}
}

func (r *Relay) relay(ctx context.Context, in net.Conn) {
	defer in.Close()
	var d net.Dialer
	out, err := d.DialContext(ctx, "tcp", r.target)
	if err != nil {
		return
	}
	defer out.Close()
	r.mu.Lock()
	r.conns[in], r.conns[out] = struct{}{}, struct{}{}
	r.mu.Unlock()
	if ctx.Err() == nil {
		var both sync.WaitGroup
		both.Go(func() { r.pump(ctx, out, in) })
		both.Go(func() { r.pump(ctx, in, out) })
		both.Wait()
	}
	r.mu.Lock()
	delete(r.conns, in)
	delete(r.conns, out)
	r.mu.Unlock()
}

// pump copies one direction until either end is gone, then closes both.
func (r *Relay) pump(ctx context.Context, to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if d := time.Duration(r.delay.Load()); d > 0 && !wait(ctx, d) {
			return
		}
		for r.stalled.Load() {
			if !wait(ctx, 5*time.Millisecond) {
				return
			}
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
