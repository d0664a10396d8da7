package mqtttest

import (
	"net"
	"sync"

	"github.com/mochi-mqtt/server/v2/listeners"
)

// counted is one of mochi's listeners, whose connections are all ended when
// it is closed, and none begun afterwards. It works round a fault of mochi
// 2.7.9: a connection counts itself in the wait group that Server.Close waits
// for only once it runs, so one that comes as the broker closes races with
// that wait, and may outlive the broker.
type counted struct {
	listeners.Listener

	running sync.WaitGroup
	mu      sync.Mutex
	closed  bool
	open    map[net.Conn]bool
}

func newCounted(l listeners.Listener) *counted {
	return &counted{Listener: l, open: map[net.Conn]bool{}}
}

// Serve accepts connections until the listener is closed.
func (l *counted) Serve(establish listeners.EstablishFn) {
	l.Listener.Serve(func(id string, c net.Conn) error {
		if !l.begin(c) {
			return c.Close()
		}
		defer l.end(c)
		return establish(id, c)
	})
}

// Close ends all connections, and returns when they have ended.
func (l *counted) Close(closeClients listeners.CloseFn) {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.Listener.Close(closeClients)
	l.mu.Lock()
	for c := range l.open { // those that are no clients yet
		c.Close()
	}
	l.mu.Unlock()
	l.running.Wait()
}

func (l *counted) begin(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.running.Add(1)
	l.open[c] = true
	return true
}

func (l *counted) end(c net.Conn) {
	l.mu.Lock()
	delete(l.open, c)
	l.mu.Unlock()
	l.running.Done()
}
