package opcuatest

import (
	"cmp"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uacp"
	"github.com/gopcua/opcua/uasc"
)

// Namespace is the URI of namespace 2, where a Server's own nodes are, unless
// Options say another.
const Namespace = "urn:millrace:opcuatest"

// Options say what a Server is like.
type Options struct {
	// Addr is where it listens, such as 127.0.0.1:4840. Empty: a free port on
	// 127.0.0.1.
	Addr string
	// Name is what it calls itself. Empty: "opcuatest".
	Name string
	// Namespace is the URI of namespace 2. Empty: the constant Namespace.
	Namespace string
	// Nodes are its variables.
	Nodes []Node
	// Identity, if not nil, makes it offer Basic256Sha256 (Sign and
	// SignAndEncrypt) beside None, with this certificate.
	Identity *Identity
	// OnlySecure leaves the policy None to discovery. It wants an Identity.
	OnlySecure bool
	// Users are the user names and passwords that it accepts. With any,
	// anonymous sessions are refused. Passwords are encrypted if there is an
	// Identity, and go in clear otherwise.
	Users map[string]string
	// MaxNodesPerRead and MaxItemsPerCall are its limits; 0: none. HideLimits
	// keeps it from telling them.
	MaxNodesPerRead, MaxItemsPerCall int
	HideLimits                       bool
	// Tamper, if not nil, changes answers before they are sent, as a broken
	// server or somebody on the line might.
	Tamper func(ua.Response)
	// MaxSessions, MaxSubscriptions (in a session), MaxItemsPerSubscription and
	// MaxQueue (of an item) are bounds; 0: none. MaxItemsPerSubscription is told.
	MaxSessions, MaxSubscriptions, MaxItemsPerSubscription, MaxQueue int
	// SessionTimeout is the longest that it grants; 0: what is asked for.
	SessionTimeout time.Duration
	// SlowestSampling is the shortest sampling interval; 0: a few ms.
	SlowestSampling time.Duration
	// Product and Maker are what its BuildInfo says.
	Product, Maker string
	// Forgetful ends sessions and subscriptions with their connection.
	Forgetful bool
	// NoRepublish and NoTransfer leave these services out.
	NoRepublish, NoTransfer bool
	// Filters has it take deadbands.
	Filters bool
	// OneBadItemFailsAll has a CreateMonitoredItems fail as a whole for one
	// unknown node.
	OneBadItemFailsAll bool
	// Attribute, if not nil, says what an attribute of a node is, as a value's Go
	// type, or what it fails with, as a ua.StatusCode; nil: what it would be
	// otherwise.
	Attribute func(node *ua.NodeID, a ua.AttributeID) any
	// References, if not nil, says what a node refers to; nil: what it would
	// otherwise.
	References func(node *ua.NodeID) []*ua.ReferenceDescription
	// History, if not nil, answers HistoryRead for raw values. An error that is a
	// ua.StatusCode fails the whole call.
	History func(req *ua.HistoryReadRequest, d *ua.ReadRawModifiedDetails) ([]*ua.HistoryReadResult, error)
	// Tree, if not nil, has more nodes; Browse says how much is shown at once.
	Tree   Tree
	Browse BrowseLimits
	// Now is the clock that values are made and dated by. Nil: time.Now.
	Now func() time.Time
	// Log takes what connections end with. Nil: nothing is logged.
	Log *slog.Logger
}

// Server is an OPC UA server with a few variables. Its methods may be called
// by several goroutines.
type Server struct {
	o      Options
	ln     net.Listener
	space  *space
	life   context.Context //nolint:containedctx // of the sessions, which outlive the requests that make them
	points points
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// subs guards what lasts: sessions and subscriptions. It may be held when
	// mu is taken, not the other way round.
	subs     sync.Mutex
	sessions map[uint32]*session      // by the number in their authentication token
	orphans  map[uint32]*subscription // whose session has ended

	mu     sync.Mutex
	conns  map[*net.TCPConn]struct{}
	lastID uint32 // of channels, sessions and subscriptions
	muted  bool
}

// NewServer starts a server. It runs until Close.
func NewServer(o Options) (*Server, error) {
	o.Addr = cmp.Or(o.Addr, "127.0.0.1:0")
	o.Name = cmp.Or(o.Name, "opcuatest")
	o.Namespace = cmp.Or(o.Namespace, Namespace)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnlySecure && o.Identity == nil {
		return nil, errors.New("opcuatest: OnlySecure wants an Identity")
	}
	sp, err := newSpace(&o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", o.Addr)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("opcuatest: %w", err)
	}
	s := &Server{
		o: o, ln: ln, space: sp, life: ctx, cancel: cancel, orphans: make(map[uint32]*subscription),
		conns: make(map[*net.TCPConn]struct{}), sessions: make(map[uint32]*session),
		lastID: rand.Uint32N(1 << 30), // ids that differ after a restart, as the standard wants
	}
	s.wg.Go(func() { s.accept(ctx) })
	return s, nil
}

// Endpoint returns the URL to connect to.
func (s *Server) Endpoint() string { return "opc.tcp://" + s.Addr() }

// Addr returns host and port.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Set gives a variable a value, of a Go type that gopcua knows, or a
// *ua.DataValue with status and times. Subscriptions get every value that is
// set, as far as their queues reach.
func (s *Server) Set(nodeID string, value any) error {
	n, err := s.space.set(nodeID, value, s.o.Now())
	if err != nil {
		return err
	}
	now := s.o.Now()
	s.subs.Lock()
	defer s.subs.Unlock()
	for _, sub := range s.orphans {
		sub.changed(n, now)
	}
	for _, sess := range s.sessions {
		for _, sub := range sess.subs {
			sub.changed(n, now)
		}
	}
	return nil
}

// Mute makes the server forget its subscriptions without a word: everything
// but publishing goes on.
func (s *Server) Mute(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.muted = on
}

// Sessions returns how many sessions there are.
func (s *Server) Sessions() int {
	s.subs.Lock()
	defer s.subs.Unlock()
	return len(s.sessions)
}

// DropConnections cuts all connections. Their sessions go on without, up to
// their time-out.
func (s *Server) DropConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}

// Close ends the server and all of its connections at once.
func (s *Server) Close() error {
	s.cancel()
	err := s.ln.Close()
	s.DropConnections()
	s.wg.Wait()
	s.Forget(true)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) accept(ctx context.Context) {
	for {
		nc, err := s.ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		tcp, ok := nc.(*net.TCPConn)
		if !ok {
			_ = nc.Close()
			continue
		}
		s.mu.Lock()
		s.conns[tcp] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() {
			err := s.serve(ctx, tcp)
			_ = tcp.Close()
			s.mu.Lock()
			delete(s.conns, tcp)
			s.mu.Unlock()
			s.o.Log.Debug("connection ended", slog.Any("err", err))
		})
		if ctx.Err() != nil {
			_ = tcp.Close()
		}
	}
}

func (s *Server) nextID() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	return s.lastID
}

// client is one connection of a client.
type client struct {
	srv *Server
	sc  *uasc.SecureChannel
	cfg *uasc.Config
}

// serve shakes hands and answers requests until the connection ends.
func (s *Server) serve(ctx context.Context, tcp *net.TCPConn) error {
	const chunk, chunks, message = 0xFFFF, 4096, 64 << 20
	ack := &uacp.Acknowledge{ReceiveBufSize: chunk, SendBufSize: chunk, MaxChunkCount: chunks, MaxMessageSize: message}
	conn, err := uacp.NewConn(tcp, ack)
	if err != nil {
		return err
	}
	hello, err := conn.Receive()
	if err != nil {
		return err
	}
	if string(hello[:4]) != "HELF" {
		return fmt.Errorf("no Hello but %q", hello[:4])
	}
	if err := conn.Send("ACKF", ack); err != nil {
		return err
	}
	c := &client{srv: s, cfg: &uasc.Config{SecurityPolicyURI: ua.SecurityPolicyURINone, SecurityMode: ua.MessageSecurityModeNone}}
	if id := s.o.Identity; id != nil {
		c.cfg.Certificate, c.cfg.LocalKey = id.cert, id.key
	}
	c.sc, err = uasc.NewServerSecureChannel("", conn, c.cfg, make(chan error, 1), s.nextID(), 1, s.nextID())
	if err != nil {
		return err
	}
	defer c.leave()
	for {
		msg := c.sc.Receive(ctx)
		if msg.Err != nil {
			return msg.Err
		}
		if req := msg.Request(); req != nil {
			if err := c.answer(ctx, msg.RequestID, req); err != nil {
				return err
			}
		}
	}
}

// key is the server's private key; nil without an Identity.
func (s *Server) key() *rsa.PrivateKey {
	if s.o.Identity == nil {
		return nil
	}
	return s.o.Identity.key
}
