package mqtt_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"millrace/protocols/mqtt"
	"millrace/protocols/mqtt/mqtttest"
)

// heard is what a Listener passed on.
type heard struct {
	mu  sync.Mutex
	all []string
}

func (h *heard) message(topic string, body []byte, retained bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	text := topic + " " + string(body)
	if retained {
		text += " retained"
	}
	h.all = append(h.all, text)
}

func (h *heard) has(text string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.all, text)
}

// TestListener listens with a password and with certificates, and after a
// restart of the broker in a session of its own.
func TestListener(t *testing.T) {
	t.Parallel()
	pki := mqtttest.NewPKI(t)
	cert, key := pki.Issue("listener", time.Now().Add(time.Hour), "localhost")
	for _, tc := range []struct {
		scheme string
		broker mqtttest.MosquittoOptions
		o      mqtt.ListenOptions
	}{
		{"mqtt", mqtttest.MosquittoOptions{Users: map[string]string{"u": "secret"}}, mqtt.ListenOptions{Username: "u", Password: "secret"}},
		{"mqtts", mqtttest.MosquittoOptions{PKI: pki, ClientCerts: true}, mqtt.ListenOptions{TLS: mqtt.TLS{CA: pki.CA, Cert: cert, Key: key, ServerName: "localhost"}}},
	} {
		t.Run(tc.scheme, func(t *testing.T) {
			t.Parallel()
			broker := mqtttest.StartMosquitto(t, tc.broker)
			var h heard
			tc.o.Broker, tc.o.ClientID, tc.o.Topics, tc.o.Message = broker.URL(tc.scheme), "listener", []string{"a/#", "b/+"}, h.message
			l, err := mqtt.NewListener(tc.o)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for range 2 {
				ended := make(chan error, 1)
				up := make(chan struct{})
				go func() { ended <- l.Listen(ctx, func() { close(up) }) }()
				select {
				case <-up:
				case err := <-ended:
					t.Fatalf("it ended: %v", err)
				}
				mqtttest.WaitFor(t, "the message that was published", func() bool {
					return l.Publish("a/x", []byte("1")) == nil && h.has("a/x 1")
				})
				broker.Stop()
				err := <-ended
				var link *mqtt.LinkError
				if !errors.As(err, &link) || !strings.Contains(err.Error(), "lost: the broker closed it") {
					t.Errorf("the end: %v", err)
				}
				if l.Publish("a/x", nil) == nil {
					t.Error("without a session, a message is taken")
				}
				broker.Start()
			}
			cancel()
			if err := l.Listen(ctx, func() {}); err != nil {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

// TestListenerWebSocket listens over a WebSocket.
func TestListenerWebSocket(t *testing.T) {
	t.Parallel()
	broker, err := mqtttest.StartEmbedded("127.0.0.1:0", true, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Close() })
	var h heard
	l, err := mqtt.NewListener(mqtt.ListenOptions{Broker: "ws://" + broker.Addr(), ClientID: "listener", Topics: []string{"#"}, Message: h.message})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Listen(ctx, func() {}) }()
	mqtttest.WaitFor(t, "the message that was published", func() bool {
		return l.Publish("a/x", []byte("1")) == nil && h.has("a/x 1")
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestListenerRefused holds the words for what may go wrong. No password is in
// any of them.
func TestListenerRefused(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{Users: map[string]string{"u": "secret"}})
	silent := mqtttest.NewProxy(t, broker.Addr)
	silent.Set(mqtttest.SwallowBoth)
	for _, tc := range []struct {
		name string
		o    mqtt.ListenOptions
		want string
	}{
		{"nobody there", mqtt.ListenOptions{Broker: "mqtt://" + mqtttest.FreeAddr(t)}, "nothing listens there"},
		{"password", mqtt.ListenOptions{Broker: broker.URL("mqtt"), Username: "u", Password: "wrong-one"}, "check username and password"},
		{"no user", mqtt.ListenOptions{Broker: broker.URL("mqtt")}, "set username and password"},
		{"silent", mqtt.ListenOptions{Broker: "mqtt://" + silent.Addr, ConnectTimeout: 200 * time.Millisecond}, "no answer within 200ms"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.o.ClientID, tc.o.Topics = "listener", []string{"#"}
			l, err := mqtt.NewListener(tc.o)
			if err != nil {
				t.Fatal(err)
			}
			err = l.Listen(t.Context(), func() { t.Error("it is up") })
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "wrong-one") {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
	for topic, want := range map[string]string{"a/#/b": "not its last level", "a/b+": "not a whole level", "": "is no topic"} {
		if _, err := mqtt.NewListener(mqtt.ListenOptions{Broker: broker.URL("mqtt"), Topics: []string{topic}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", topic, err, want)
		}
	}
	if _, err := mqtt.NewListener(mqtt.ListenOptions{Broker: "mqtt://u:secret@h"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a password in the URL: %v", err)
	}
}

// TestListenerHangs: a broker that hangs is noticed, and keeps nobody from
// leaving.
func TestListenerHangs(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	for _, leave := range []bool{false, true} {
		l, err := mqtt.NewListener(mqtt.ListenOptions{Broker: broker.URL("mqtt"), ClientID: "listener", Topics: []string{"#"}, KeepAlive: time.Second, PingTimeout: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = l.Listen(ctx, func() {
			broker.Pause()
			if leave {
				cancel()
			}
		})
		cancel()
		broker.Resume()
		if leave && err != nil || !leave && (err == nil || !strings.Contains(err.Error(), "no longer answers")) {
			t.Errorf("leave %v: %v", leave, err)
		}
	}
}

// TestListenerNotAllowed: a broker may let us in, and not listen.
func TestListenerNotAllowed(t *testing.T) {
	t.Parallel()
	fake := mqtttest.NewFake(t, func(conn io.ReadWriter) {
		for {
			packet, err := packets.ReadPacket(conn)
			if err != nil {
				return
			}
			switch p := packet.(type) {
			case *packets.ConnectPacket:
				_ = packets.NewControlPacket(packets.Connack).Write(conn)
			case *packets.SubscribePacket:
				ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
				ack.MessageID = p.MessageID
				for range p.Topics {
					ack.ReturnCodes = append(ack.ReturnCodes, 0x80)
				}
				_ = ack.Write(conn)
			}
		}
	})
	l, err := mqtt.NewListener(mqtt.ListenOptions{Broker: "mqtt://" + fake.Addr, ClientID: "listener", Topics: []string{"plant/#"}})
	if err != nil {
		t.Fatal(err)
	}
	err = l.Listen(t.Context(), func() { t.Error("it is up") })
	if !errors.Is(err, mqtt.ErrSubscription) || !strings.Contains(err.Error(), "subscribe to plant/#: allow it at the broker") {
		t.Error(err)
	}
}

// TestListenerEnds: a broker that hangs keeps nobody from leaving.
func TestListenerEnds(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	proxy := mqtttest.NewProxy(t, broker.Addr)
	proxy.Set(mqtttest.SwallowBoth)
	l, err := mqtt.NewListener(mqtt.ListenOptions{Broker: "mqtt://" + proxy.Addr, ClientID: "listener", Topics: []string{"#"}, ConnectTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Listen(ctx, func() {}) }()
	mqtttest.WaitFor(t, "the connection", func() bool { return proxy.Accepted() > 0 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
