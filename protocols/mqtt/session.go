package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
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
	kindOther // nothing hangs on it
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
	once    bool          // at QoS 0: the next barrier acknowledges it
	skip    bool          // it is not sent at all, and has its place in the order alone
	id      batchID       // of kindBatch
	written time.Time     // when it was handed to paho
	sent    paho.Token
}

func (m *message) qos() byte {
	if m.once {
		return 0
	}
	return 1
}

// session is one connection to the broker, from its start to its end. Each
// has a paho client of its own: paho's reconnecting completes tokens without
// an acknowledgement (libraries.md, C1), and a late callback of an old client
// cannot reach a new session.
type session struct {
	u                  *Uplink
	broker             *url.URL
	client             paho.Client
	conn               *bufferedConn
	acked              func(token uint64)
	window             *window
	queue              *queue        // to the writer
	group              []*message    // that is waited for
	flight             chan *message // from the writer, in order of publishing
	changed            chan struct{} // holds a token when retained topics changed
	started            time.Time
	alone              bool          // each batch is sent alone, see poison
	figures            atomic.Int64  // messages of the connectivity figures that are not acknowledged
	waited             *message      // what was waited for when it ended; written before lost is closed
	greeted, tookBatch bool          // the broker has acknowledged something, and a batch
	roundTrip          time.Duration // how long the first acknowledgement took; written before calm is closed
	calm               chan struct{} // closed with the first acknowledgement
	due                atomic.Int64  // messages that were handed over, or are about to be, and not acknowledged
	pongs              atomic.Uint64 // how many pings the broker has answered
	ponged             chan struct{} // holds a token when it has answered another one

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
func (u *Uplink) open(ctx context.Context, broker *url.URL, acked func(uint64)) (*session, error) {
	var secure *tls.Config
	if isSecure(broker) {
		var err error
		if secure, err = u.o.TLS.Config(broker.Hostname()); err != nil {
			return nil, err
		}
	}
	inflight, alone := u.poison.window(u.o.MaxInflight)
	s := &session{
		u: u, broker: broker, acked: acked, window: newWindow(inflight, u.o.MaxInflightBytes), alone: alone,
		queue:   newQueue(),
		flight:  make(chan *message, u.o.MaxInflight+spareFlight),
		changed: make(chan struct{}, 1), ponged: make(chan struct{}, 1), calm: make(chan struct{}),
		done: make(chan struct{}), lost: make(chan struct{}),
	}
	attempt, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := u.dialUntil(attempt, secure, s)
	if err != nil {
		return nil, err
	}
	s.conn = conn
	settled := context.AfterFunc(attempt, conn.Abort) // the connection no longer ends with the attempt
	o := u.clientOptions(s)
	o.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) { return conn, nil })
	s.client = paho.NewClient(o)
	signedOn := s.client.Connect()
	select {
	case <-signedOn.Done():
	case <-ctx.Done():
		<-signedOn.Done()
		return nil, ctx.Err()
	}
	if err := signedOn.Error(); err != nil {
		conn.Abort()
		return nil, err
	}
	s.started = time.Now()
	if !settled() {
		s.client.Disconnect(quiesce)
		return nil, ctx.Err()
	}
	return s, nil
}

// dialUntil dials, and returns at once when ctx ends: paho's WebSocket takes
// no context, and ends with its own time-out.
func (u *Uplink) dialUntil(ctx context.Context, secure *tls.Config, s *session) (*bufferedConn, error) {
	if !isWebSocket(s.broker) {
		return u.dial(ctx, secure, s)
	}
	type result struct {
		conn *bufferedConn
		err  error
	}
	dialled := make(chan result, 1)
	u.running.Go(func() {
		conn, err := u.dial(ctx, secure, s)
		dialled <- result{conn, err}
	})
	select {
	case r := <-dialled:
		return r.conn, r.err
	case <-ctx.Done():
		u.running.Go(func() {
			if r := <-dialled; r.conn != nil {
				r.conn.Abort()
			}
		})
		return nil, ctx.Err()
	}
}

func (u *Uplink) clientOptions(s *session) *paho.ClientOptions {
	o := paho.NewClientOptions()
	if u.edge == nil {
		will := u.format.status(statusBroken)
		o.SetBinaryWill(will.topic, will.body, 1, true)
		o.SetOrderMatters(false)
	} else {
		will := u.edge.begin()
		o.SetBinaryWill(will.Topic, will.Body, 1, false)
		o.SetDefaultPublishHandler(u.edge.receive())
		o.SetOrderMatters(true)
	}
	o.AddBroker(s.broker.String())
	o.SetClientID(u.o.ClientID)
	o.SetUsername(u.o.Username)
	o.SetPassword(u.o.Password)
	o.SetProtocolVersion(4) // otherwise a refusal is answered by trying MQTT 3.1
	// Only with these two does a token of a lost connection give an error.
	o.SetAutoReconnect(false)
	o.SetCleanSession(true)
	o.SetConnectRetry(false)
	o.SetStore(nullStore{})
	o.SetConnectTimeout(u.o.ConnectTimeout)
	o.SetKeepAlive(u.o.KeepAlive)
	o.SetPingTimeout(pahoPingTimeout)
	o.SetWriteTimeout(publishTimeout)
	o.SetConnectionLostHandler(func(_ paho.Client, err error) { s.fail(err) })
	return o
}

// left says that the session was ended by us, in peace.
func (s *session) left() bool {
	return errors.Is(s.cause, errStopped) || errors.Is(s.cause, errHostOffline) || errors.Is(s.cause, errReturn)
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
	if !s.left() {
		s.conn.Abort() // without a DISCONNECT, so that the broker publishes the will
	}
	s.u.noteEnd(s)
	close(s.lost)
	s.client.Disconnect(quiesce)
	s.conn.Abort()
}

// giveUp ends a session that was never run. An edge node that leaves says so,
// although it was not born.
func (s *session) giveUp() {
	s.fail(errStopped)
	if s.u.edge != nil && s.client.IsConnected() {
		if m := s.u.edge.leave(); m != nil {
			s.client.Publish(m.topic, m.qos(), false, m.body).WaitTimeout(farewellTime)
		}
	}
	s.client.Disconnect(quiesce)
	s.conn.Abort()
}

// submit hands m, which has a place in the window, to the writer.
func (s *session) submit(m *message) error {
	s.window.grow(len(m.body))
	return s.push(m)
}

// push hands m to the writer. It does not wait.
func (s *session) push(m *message) error {
	select {
	case <-s.done:
		return errSessionOver
	default:
		s.due.Add(1)
		s.queue.push(m)
		return nil
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
// topics and what Send hands over. An edge node of Sparkplug hands over
// everything, its births first.
func (s *session) write() {
	ok := true
	if s.u.edge == nil {
		online := s.u.format.status(statusOnline)
		s.due.Add(1)
		ok = s.publish(&message{kind: kindStatus, topic: online.topic, body: online.body})
	}
	var version uint64
	for ok {
		select {
		case <-s.done:
			return
		case <-s.changed:
			var messages []*message
			messages, version = s.u.retained.since(version, s.leavesOut)
			s.due.Add(int64(len(messages)))
			for _, m := range messages {
				if ok = s.publish(m); !ok {
					return
				}
			}
		case <-s.queue.ready:
			if m := s.queue.pop(); m != nil {
				ok = s.publish(m)
			}
		}
	}
}

func (s *session) publish(m *message) (ok bool) {
	if !m.skip {
		m.written = time.Now()
		if m.sent = s.handOver(m); m.sent == nil {
			return false
		}
		if m.kind == kindBatch {
			s.u.counts.sent.Add(1)
		}
	}
	select {
	case s.flight <- m:
		return true
	case <-s.done:
		return false
	}
}

// handOver gives m to paho, unless the session has to end.
func (s *session) handOver(m *message) paho.Token {
	retain := (m.kind == kindRetained || m.kind == kindStatus) && s.u.edge == nil
	s.publishing.Lock()
	defer s.publishing.Unlock()
	select {
	case <-s.done:
		return nil
	default:
		return s.client.Publish(m.topic, m.qos(), retain, m.body)
	}
}

// acknowledge waits for the acknowledgements in the order of publishing,
// until the session has to end. What was acknowledged by then counts.
func (s *session) acknowledge() {
	timer := time.NewTimer(s.u.o.AckTimeout)
	defer timer.Stop()
	for {
		select {
		case m := <-s.flight:
			if !s.land(m, timer) {
				return
			}
		case <-s.done:
			select {
			case m := <-s.flight:
				if !s.land(m, timer) {
					return
				}
			default:
				return
			}
		}
	}
}

// land waits for the acknowledgement of m, and of what one barrier
// acknowledges together with it.
func (s *session) land(m *message, timer *time.Timer) (ok bool) {
	for m != nil {
		s.group = append(s.group[:0], m)
		if m = nil; s.group[0].once {
			s.group, m = s.gather(s.group)
		}
		if !s.await(s.group, timer) {
			s.noteWaited(s.group)
			return false
		}
		for _, done := range s.group {
			s.complete(done)
		}
	}
	return true
}

// noteWaited notes what was waited for when the session ended.
func (s *session) noteWaited(group []*message) {
	for _, m := range group {
		if !m.skip {
			s.waited = m
			return
		}
	}
}

// gather adds to group what else was published at QoS 0 by now. It returns the
// message that is to follow, if there is one.
func (s *session) gather(group []*message) (_ []*message, follows *message) {
	for {
		select {
		case m := <-s.flight:
			if !m.once || s.alone && m.kind != group[0].kind {
				return group, m // births are to be known to have come before a batch that may not
			}
			group = append(group, m)
		default:
			return group, nil
		}
	}
}

// await waits until all of group is acknowledged, which is one message, or
// several at QoS 0. Its time begins when it is the oldest that is due: on a
// slow line every one before it was a sign of life.
func (s *session) await(group []*message, timer *time.Timer) (ok bool) {
	last := group[len(group)-1]
	for i := len(group) - 1; i >= 0 && last.skip; i-- {
		last = group[i]
	}
	if last.skip {
		return true
	}
	select {
	case <-last.sent.Done():
	default:
		timer.Reset(s.u.o.AckTimeout)
		select {
		case <-last.sent.Done():
		case <-timer.C:
			s.fail(errNoAck)
			return false
		case <-s.done:
			// paho may still have its acknowledgement in hand.
			timer.Reset(causeTime)
			select {
			case <-last.sent.Done():
			case <-timer.C:
				return false
			}
		}
	}
	if err := last.sent.Error(); err != nil {
		// paho fails its tokens first and then says why.
		timer.Reset(causeTime)
		select {
		case <-s.done:
		case <-timer.C:
			s.fail(err)
		}
		return false
	}
	return !last.once || s.confirm(timer)
}

// confirm waits until the broker has got all that was written so far.
func (s *session) confirm(timer *time.Timer) (ok bool) {
	n := s.conn.barrier()
	timer.Reset(s.u.o.AckTimeout)
	for s.pongs.Load() < n {
		select {
		case <-s.ponged:
		case <-timer.C:
			s.fail(errNoAck)
			return false
		case <-s.done:
			return s.pongs.Load() >= n
		}
	}
	return true
}

// pong notes that the broker has answered a ping.
func (s *session) pong() {
	s.pongs.Add(1)
	select {
	case s.ponged <- struct{}{}:
	default:
	}
}

// complete does what the acknowledgement of m allows.
func (s *session) complete(m *message) {
	if !s.greeted && !m.skip {
		s.greeted, s.roundTrip = true, time.Since(m.written)
		close(s.calm)
	}
	s.due.Add(-1)
	switch m.kind {
	case kindBatch, kindGap:
		switch {
		case m.kind == kindGap:
			s.u.counts.gaps.Add(1)
			s.u.poison.passed()
		case m.skip:
			s.u.poison.passed()
		default:
			s.tookBatch = true
			s.u.counts.acked.Add(1)
			if s.u.poison.took(m) && s.alone {
				s.alone = false
				s.window.widen(s.u.o.MaxInflight)
			}
		}
		s.acked(m.token)
		s.window.leave(len(m.body))
		m.sent, m.once, m.skip, m.id = nil, false, false, batchID{}
		s.u.messages.Put(m)
	case kindRetained:
		s.u.noteRetained(s, m)
		if len(m.body) == 0 {
			s.u.retained.cleared(m.topic, m.version)
		}
	case kindStatus:
		if m.gone != nil {
			close(m.gone)
		}
	case kindOther:
	}
}

// farewell says that the gateway stops, behind everything that was handed
// over, and waits until the broker has it, or for farewellTime.
func (s *session) farewell() {
	timer := time.NewTimer(farewellTime)
	defer timer.Stop()
	var m *message
	if s.u.edge != nil {
		if m = s.u.edge.leave(); m == nil {
			return
		}
	} else {
		status := s.u.format.status(statusStopped)
		m = &message{kind: kindStatus, topic: status.topic, body: status.body}
	}
	m.gone = make(chan struct{})
	if s.push(m) != nil {
		return
	}
	select {
	case <-m.gone:
	case <-s.done:
	case <-timer.C:
		s.fail(errNoFarewell)
	}
}
