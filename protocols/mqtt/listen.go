package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// ListenOptions say what a Listener listens to.
type ListenOptions struct {
	Broker   string // URL: mqtt, mqtts, ws or wss; without user and password
	ClientID string // no other client may have it
	Username string // empty: none
	Password string // appears in no error
	TLS      TLS    // for mqtts and wss

	Topics []string // the filters to subscribe to, at QoS 1
	// Message is called with each message, in the order in which they came. It
	// must not wait: the connection's signs of life do as long.
	Message func(topic string, body []byte, retained bool)

	ConnectTimeout time.Duration // default DefaultConnectTimeout
	KeepAlive      time.Duration // whole seconds; default DefaultKeepAlive
	PingTimeout    time.Duration // default DefaultPingTimeout
}

// Listener is a subscriber at a broker: the other end of an uplink.
type Listener struct {
	o      ListenOptions
	broker *url.URL
	as     *Uplink // is never connected: it has the defaults, and the words for what fails

	mu     sync.Mutex
	client paho.Client // of the session; nil: there is none
}

// ErrSubscription is the cause of a LinkError where the broker lets us in and
// does not let us listen.
var ErrSubscription = errors.New("the broker does not allow the subscription")

// NewListener makes a Listener. It connects to nothing; the error says what is
// wrong with the options.
func NewListener(o ListenOptions) (*Listener, error) {
	u := &Uplink{o: Options{ClientID: o.ClientID, Username: o.Username, Password: o.Password, TLS: o.TLS, ConnectTimeout: o.ConnectTimeout, KeepAlive: o.KeepAlive, PingTimeout: o.PingTimeout}}
	u.o.setDefaults()
	broker, err := parseBroker(o.Broker)
	if err != nil {
		return nil, err
	}
	if isSecure(broker) {
		if _, err := o.TLS.Config(broker.Hostname()); err != nil {
			return nil, err
		}
	}
	for _, topic := range o.Topics {
		if err := checkFilter(topic); err != nil {
			return nil, err
		}
	}
	return &Listener{o: o, broker: broker, as: u}, nil
}

// Broker is the broker's URL, with its port.
func (l *Listener) Broker() string { return l.broker.String() }

// Listen connects and subscribes, calls up, and then waits until ctx ends, for
// which there is no error, or the session does, which is a LinkError. After
// it has returned, Message is not called any more.
func (l *Listener) Listen(ctx context.Context, up func()) error {
	conn, hangUp, err := l.dial(ctx)
	switch {
	case err == nil:
		defer hangUp()
	case ctx.Err() != nil:
		return nil
	default:
		return l.refused(err)
	}
	lost := make(chan error, 1)
	gate := &gate{take: l.o.Message}
	defer gate.close()
	client := paho.NewClient(l.clientOptions(conn, gate, lost))
	signedOn := client.Connect()
	if err := await(ctx, signedOn); err != nil {
		hangUp()
		<-signedOn.Done()
		if ctx.Err() != nil {
			return nil
		}
		return l.refused(err)
	}
	defer client.Disconnect(quiesce)
	err = l.subscribe(ctx, client)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	l.use(client)
	defer l.use(nil)
	up()
	select {
	case <-ctx.Done():
		return nil
	case err := <-lost:
		if strings.Contains(err.Error(), "pingresp not received") { // paho has no error of its own for it
			err = errSilent
		}
		return &LinkError{Err: err, Text: fmt.Sprintf("connection to %s lost: %s", l.broker, l.as.lostWhy(err))}
	}
}

// use makes client the one to publish with.
func (l *Listener) use(client paho.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.client = client
}

// gate lets messages through until it is closed. paho may still hand one over
// when its client has ended.
type gate struct {
	mu     sync.Mutex
	closed bool
	take   func(topic string, body []byte, retained bool)
}

func (g *gate) message(_ paho.Client, m paho.Message) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.take(m.Topic(), m.Payload(), m.Retained())
	}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// dial opens the connection, TLS included, and returns at once when ctx ends.
// Only a WebSocket's attempt then goes on by itself, until its time is up.
func (l *Listener) dial(ctx context.Context) (conn net.Conn, hangUp func(), err error) {
	var secure *tls.Config
	if isSecure(l.broker) {
		if secure, err = l.o.TLS.Config(l.broker.Hostname()); err != nil {
			return nil, nil, err
		}
	}
	if !isWebSocket(l.broker) {
		return dialNetwork(ctx, l.broker, secure, l.as.o.ConnectTimeout)
	}
	type result struct {
		conn   net.Conn
		hangUp func()
		err    error
	}
	dialled := make(chan result)
	go func() {
		conn, hangUp, err := dialNetwork(ctx, l.broker, secure, l.as.o.ConnectTimeout)
		select {
		case dialled <- result{conn, hangUp, err}:
		case <-ctx.Done():
			if err == nil {
				hangUp()
			}
		}
	}()
	select {
	case r := <-dialled:
		return r.conn, r.hangUp, r.err
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// Publish sends a message at QoS 0, if there is a session, and does not wait.
func (l *Listener) Publish(topic string, body []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client == nil {
		return errNotConnected
	}
	l.client.Publish(topic, 0, false, body)
	return nil
}

func (l *Listener) refused(err error) error {
	return &LinkError{Err: err, Text: fmt.Sprintf("no connection to %s: %s", l.broker, l.as.explain(l.broker, err))}
}

func (l *Listener) clientOptions(conn net.Conn, g *gate, lost chan<- error) *paho.ClientOptions {
	o := paho.NewClientOptions()
	o.AddBroker(l.broker.String())
	o.SetClientID(l.o.ClientID)
	o.SetUsername(l.o.Username)
	o.SetPassword(l.o.Password)
	o.SetProtocolVersion(4)
	o.SetAutoReconnect(false)
	o.SetConnectRetry(false)
	o.SetCleanSession(true)
	o.SetStore(nullStore{})
	o.SetOrderMatters(true)
	o.SetConnectTimeout(l.as.o.ConnectTimeout)
	o.SetKeepAlive(l.as.o.KeepAlive)
	o.SetPingTimeout(l.as.o.PingTimeout)
	o.SetWriteTimeout(publishTimeout)
	o.SetDefaultPublishHandler(g.message)
	o.SetConnectionLostHandler(func(_ paho.Client, err error) {
		select {
		case lost <- err:
		default:
		}
	})
	o.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) { return conn, nil })
	return o
}

// subscribe asks for all topics, and sees whether the broker grants them.
func (l *Listener) subscribe(ctx context.Context, client paho.Client) error {
	filters := map[string]byte{}
	for _, topic := range l.o.Topics {
		filters[topic] = 1
	}
	token := client.SubscribeMultiple(filters, nil)
	err := await(ctx, token)
	if t, ok := token.(*paho.SubscribeToken); ok && ctx.Err() == nil {
		granted := t.Result()
		for _, topic := range l.o.Topics {
			if granted[topic] > 2 {
				return &LinkError{Err: ErrSubscription, Text: fmt.Sprintf("%s lets us in, but not subscribe to %s: allow it at the broker, or ask for a topic that is allowed", l.broker, topic)}
			}
		}
	}
	if err != nil {
		return l.refused(err)
	}
	return nil
}

// checkFilter says what is wrong with a filter of topics (MQTT 3.1.1, 4.7).
func checkFilter(topic string) error {
	levels := strings.Split(topic, "/")
	for i, level := range levels {
		switch {
		case strings.Contains(level, "#") && (level != "#" || i < len(levels)-1):
			return fmt.Errorf("the topic %q has a # that is not its last level", topic)
		case strings.Contains(level, "+") && level != "+":
			return fmt.Errorf("the topic %q has a + that is not a whole level", topic)
		}
	}
	if topic == "" || strings.Contains(topic, "\x00") || !utf8.ValidString(topic) || len(topic) > math.MaxUint16 {
		return fmt.Errorf("%q is no topic", topic)
	}
	return nil
}

// await waits for a token, or for the end of ctx.
func await(ctx context.Context, token paho.Token) error {
	select {
	case <-token.Done():
		return token.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
}
