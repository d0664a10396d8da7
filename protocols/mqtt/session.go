package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	qos = 1
	// publishTimeout bounds paho's Publish, which should never wait: see
	// bufferedConn.
	publishTimeout = 3 * time.Second
	// pahoPingTimeout is so long that bufferedConn is first to notice that
	// the broker does not answer.
	pahoPingTimeout = time.Hour
	// farewellTime is how long a clean end may take, of the 5 s that the
	// agent has to stop.
	farewellTime = time.Second
	// quiesce is how many milliseconds paho may take to say DISCONNECT.
	quiesce = 250
	// spareFlight is how many retained messages may be in flight beside the
	// window.
	spareFlight = 16
	// causeTime is how long to wait for paho to say why a message failed.
	causeTime = 200 * time.Millisecond
)

// messageKind says what an acknowledgement means.
type messageKind uint8

const (
	kindBatch messageKind = iota
	kindGap
	kindRetained
	kindStatus
)

// message is one that is on its way. It must not be used again before it is
// acknowledged: paho reads its body until then.
type message struct {
	kind    messageKind
	topic   string
	body    []byte
	token   uint64        // of kindBatch and kindGap: the caller's
	version uint64        // of kindRetained
	gone    chan struct{} // of kindStatus, may be nil: closed when acknowledged
	sent    paho.Token
}

// session is one connection to the broker, from its start to its end. Each
// has a paho client of its own: paho's reconnecting completes tokens without
// an acknowledgement (libraries.md, C1), and a late callback of an old client
// cannot reach a new session.
type session struct {
	u       *Uplink
	client  paho.Client
	conn    *bufferedConn
	acked   func(token uint64)
	window  *window
	queue   chan *message // to the writer; has room for all that the window admits
	flight  chan *message // from the writer, in order of publishing
	changed chan struct{} // holds a token when retained topics changed
	started time.Time

	publishing sync.Mutex // held while paho's Publish runs

	failOnce sync.Once
	cause    error         // why it ended; written before done is closed
	done     chan struct{} // closed: it has to end
	lost     chan struct{} // closed: it has ended
}

// nullStore keeps no messages: the buffer does, and paho's own store holds
// every message a second time.
type nullStore struct{}

func (nullStore) Open()                             {}
func (nullStore) Put(string, packets.ControlPacket) {}
func (nullStore) Get(string) packets.ControlPacket  { return nil }
func (nullStore) All() []string                     { return nil }
func (nullStore) Del(string)                        {}
func (nullStore) Close()                            {}
func (nullStore) Reset()                            {}

// open connects and signs on. The session then has to be run.
func (u *Uplink) open(ctx context.Context, acked func(uint64)) (*session, error) {
	var secure *tls.Config
	if isSecure(u.broker) {
		var err error
		if secure, err = u.o.TLS.Config(u.broker.Hostname()); err != nil {
			return nil, err
		}
	}
	s := &session{
		u: u, acked: acked, window: newWindow(u.o.MaxInflight, u.o.MaxInflightBytes),
		queue:   make(chan *message, u.o.MaxInflight+1), // and the farewell
		flight:  make(chan *message, u.o.MaxInflight+spareFlight),
		changed: make(chan struct{}, 1),
		done:    make(chan struct{}), lost: make(chan struct{}),
	}
	attempt, cancel := context.WithCancel(ctx)
	defer cancel()
	var settled func() bool // the connection no longer ends with the attempt
	o := u.clientOptions(s)
	o.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
		conn, err := u.dial(attempt, secure, s.broken)
		if err != nil {
			return nil, err
		}
		s.conn, settled = conn, context.AfterFunc(attempt, conn.Abort)
		return conn, nil
	})
	s.client = paho.NewClient(o)
	signedOn := s.client.Connect()
	select {
	case <-signedOn.Done():
	case <-ctx.Done():
		if !isWebSocket(u.broker) { // see dial
			<-signedOn.Done()
		}
		return nil, ctx.Err()
	}
	if err := signedOn.Error(); err != nil {
		return nil, err
	}
	s.started = time.Now()
	if !settled() {
		s.client.Disconnect(quiesce)
		return nil, ctx.Err()
	}
	return s, nil
}

func (u *Uplink) clientOptions(s *session) *paho.ClientOptions {
	will := u.format.status(statusBroken)
	o := paho.NewClientOptions()
	o.AddBroker(u.broker.String())
	o.SetClientID(u.o.ClientID)
	o.SetUsername(u.o.Username)
	o.SetPassword(u.o.Password)
	o.SetProtocolVersion(4) // otherwise a refusal is answered by trying MQTT 3.1
	o.SetBinaryWill(will.topic, will.body, qos, true)
	// Only with these two does a token of a lost connection give an error.
	o.SetAutoReconnect(false)
	o.SetCleanSession(true)
	o.SetConnectRetry(false)
	o.SetStore(nullStore{})
	o.SetOrderMatters(false)
	o.SetConnectTimeout(u.o.ConnectTimeout)
	o.SetKeepAlive(u.o.KeepAlive)
	o.SetPingTimeout(pahoPingTimeout)
	o.SetWriteTimeout(publishTimeout)
	o.SetConnectionLostHandler(func(_ paho.Client, err error) { s.fail(err) })
	return o
}

// fail ends the session; the first cause counts.
func (s *session) fail(cause error) {
	s.failOnce.Do(func() {
		s.cause = cause
		close(s.done)
	})
}

// broken ends the session because its connection did, and returns when
// nothing is being published any more.
func (s *session) broken(cause error) {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	s.fail(cause)
}

// run is the session's life after it signed on.
func (s *session) run() {
	var writer sync.WaitGroup
	s.wake()
	writer.Go(s.write)
	s.acknowledge()
	writer.Wait() // before paho ends, which Publish would not notice
	if !errors.Is(s.cause, errStopped) {
		s.conn.Abort() // without a DISCONNECT, so that the broker publishes the will
	}
	s.u.noteEnd(s)
	close(s.lost)
	s.client.Disconnect(quiesce)
	s.conn.Abort()
}

// submit hands m, which has a place in the window, to the writer.
func (s *session) submit(m *message) error {
	s.window.grow(len(m.body))
	select {
	case s.queue <- m:
		return nil
	case <-s.done:
		return errSessionOver
	}
}

// wake tells the writer that retained topics changed.
func (s *session) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// write publishes: first that the gateway is online, then the retained
// topics and what Send hands over.
func (s *session) write() {
	online := s.u.format.status(statusOnline)
	ok := s.publish(&message{kind: kindStatus, topic: online.topic, body: online.body})
	var version uint64
	for ok {
		select {
		case <-s.done:
			return
		case <-s.changed:
			var messages []*message
			messages, version = s.u.retained.since(version)
			for _, m := range messages {
				if ok = s.publish(m); !ok {
					return
				}
			}
		case m := <-s.queue:
			ok = s.publish(m)
		}
	}
}

func (s *session) publish(m *message) (ok bool) {
	retain := m.kind == kindRetained || m.kind == kindStatus
	if m.sent = s.handOver(m, retain); m.sent == nil {
		return false
	}
	if m.kind == kindBatch {
		s.u.counts.sent.Add(1)
	}
	select {
	case s.flight <- m:
		return true
	case <-s.done:
		return false
	}
}

// handOver gives m to paho, unless the session has to end.
func (s *session) handOver(m *message, retain bool) paho.Token {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	select {
	case <-s.done:
		return nil
	default:
		return s.client.Publish(m.topic, qos, retain, m.body)
	}
}

// acknowledge waits for the acknowledgements in the order of publishing,
// until the session has to end.
func (s *session) acknowledge() {
	timer := time.NewTimer(s.u.o.AckTimeout)
	defer timer.Stop()
	for {
		select {
		case m := <-s.flight:
			if !s.await(m.sent, timer) {
				return
			}
			s.complete(m)
		case <-s.done:
			return
		}
	}
}

// await waits for one acknowledgement. Its time begins when it is the oldest
// that is due: on a slow line every one before it was a sign of life.
func (s *session) await(sent paho.Token, timer *time.Timer) (ok bool) {
	select {
	case <-sent.Done():
	default:
		timer.Reset(s.u.o.AckTimeout)
		select {
		case <-sent.Done():
		case <-timer.C:
			s.fail(errNoAck)
			return false
		case <-s.done:
			return false
		}
	}
	err := sent.Error()
	if err == nil {
		return true
	}
	// paho fails its tokens first and then says why.
	timer.Reset(causeTime)
	select {
	case <-s.done:
	case <-timer.C:
		s.fail(err)
	}
	return false
}

// complete does what the acknowledgement of m allows.
func (s *session) complete(m *message) {
	switch m.kind {
	case kindBatch, kindGap:
		if m.kind == kindBatch {
			s.u.counts.acked.Add(1)
		} else {
			s.u.counts.gaps.Add(1)
		}
		s.acked(m.token)
		s.window.leave(len(m.body))
		m.sent = nil
		s.u.messages.Put(m)
	case kindRetained:
		if len(m.body) == 0 {
			s.u.retained.cleared(m.topic, m.version)
		}
	case kindStatus:
		if m.gone != nil {
			close(m.gone)
		}
	}
}

// farewell says that the gateway stops, behind everything that was handed
// over, and waits until the broker has it, or for farewellTime.
func (s *session) farewell() {
	timer := time.NewTimer(farewellTime)
	defer timer.Stop()
	status := s.u.format.status(statusStopped)
	m := &message{kind: kindStatus, topic: status.topic, body: status.body, gone: make(chan struct{})}
	select {
	case s.queue <- m:
	case <-s.done:
		return
	}
	select {
	case <-m.gone:
	case <-s.done:
	case <-timer.C:
		s.fail(errNoFarewell)
	}
}
