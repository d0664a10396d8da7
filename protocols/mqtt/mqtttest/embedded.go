package mqtttest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	server "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Embedded is a broker inside this process. It lets everybody in.
type Embedded struct {
	server *server.Server
	addr   string
}

// letIn lets everybody in. (mochi has the like, in a package that needs a
// YAML library.)
type letIn struct{ server.HookBase }

// ID names the hook.
func (*letIn) ID() string { return "let-in" }

// Provides says which of the methods are here.
func (*letIn) Provides(event byte) bool {
	return event == server.OnConnectAuthenticate || event == server.OnACLCheck
}

// OnConnectAuthenticate lets every client connect.
func (*letIn) OnConnectAuthenticate(*server.Client, packets.Packet) bool { return true }

// OnACLCheck lets every client publish and subscribe.
func (*letIn) OnACLCheck(*server.Client, string, bool) bool { return true }

// StartEmbedded starts a broker on the TCP address addr (host:port, port 0
// for a free one). With webSocket it speaks MQTT over WebSocket instead.
func StartEmbedded(addr string, webSocket bool, log *slog.Logger) (*Embedded, error) {
	var listen net.ListenConfig
	l, err := listen.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	// The loopback is fast: what a slow subscriber has not taken is dropped
	// by mochi beyond this many messages.
	capabilities := server.NewDefaultServerCapabilities()
	capabilities.MaximumClientWritesPending = 64 << 10
	s := server.New(&server.Options{Logger: log, Capabilities: capabilities, InlineClient: true})
	if err := s.AddHook(new(letIn), nil); err != nil {
		l.Close()
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	e := &Embedded{server: s, addr: l.Addr().String()}
	var entry listeners.Listener = listeners.NewNet("tcp", l)
	if webSocket {
		l.Close() // mochi's WebSocket opens its own
		entry = listeners.NewWebsocket(listeners.Config{ID: "ws", Type: "ws", Address: e.addr})
	}
	if err := s.AddListener(newCounted(entry)); err != nil {
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	if err := s.Serve(); err != nil {
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	if webSocket {
		if err := e.awaitListener(); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return e, nil
}

// awaitListener waits for mochi's WebSocket, which begins to listen only
// after Serve has returned.
func (e *Embedded) awaitListener() error {
	late := time.After(waitTime)
	for !listens(e.addr) {
		select {
		case <-time.After(pollTime):
		case <-late:
			return fmt.Errorf("embedded broker: it does not listen on %s", e.addr)
		}
	}
	return nil
}

// Addr returns the broker's host:port.
func (e *Embedded) Addr() string { return e.addr }

// Subscribe has f called with each message whose topic the filter matches.
// f must not wait for anything.
func (e *Embedded) Subscribe(filter string, f func(topic string, body []byte)) error {
	return e.server.Subscribe(filter, 1, func(_ *server.Client, _ packets.Subscription, p packets.Packet) {
		f(p.TopicName, p.Payload)
	})
}

// Clients returns how many clients are connected.
func (e *Embedded) Clients() int {
	n := 0
	for _, c := range e.server.Clients.GetAll() {
		if !c.Closed() {
			n++
		}
	}
	return n
}

// Close stops the broker and ends all connections.
func (e *Embedded) Close() error { return e.server.Close() }
