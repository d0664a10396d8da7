package mqtt_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"millrace/protocols"
	"millrace/protocols/mqtt"
	"millrace/protocols/mqtt/mqtttest"
)

const password = "s3cr3t-never-shown"

// attempt connects once and returns the error's text.
func attempt(t *testing.T, broker string, change func(*mqtt.Options)) string {
	t.Helper()
	o := options("gw-1", broker, schemas{})
	o.Username, o.Password, o.ConnectTimeout = "gw1", password, 300*time.Millisecond
	if change != nil {
		change(&o)
	}
	u := newUplink(t, o)
	_, err := u.Connect(t.Context(), func(uint64) {})
	if err == nil {
		return ""
	}
	var link *mqtt.LinkError
	if !errors.As(err, &link) || u.Stats().LastError != err.Error() || u.Stats().Connected {
		t.Errorf("error %v, stats %+v", err, u.Stats())
	}
	if strings.Contains(err.Error(), password) {
		t.Errorf("the password is in %q", err)
	}
	return err.Error()
}

// refuse answers every CONNECT with a return code.
func refuse(t *testing.T, code byte) string {
	t.Helper()
	return "mqtt://" + mqtttest.NewFake(t, func(conn io.ReadWriter) {
		if _, err := packets.ReadPacket(conn); err != nil {
			return
		}
		ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
		ack.ReturnCode = code
		_ = ack.Write(conn)
	}).Addr
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	silent := mqtttest.NewFake(t, func(conn io.ReadWriter) { _, _ = io.Copy(io.Discard, conn) })
	rude := mqtttest.NewFake(t, func(io.ReadWriter) {})
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	secured := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{Users: map[string]string{"gw1": "right"}})
	for _, c := range []struct {
		name, broker string
		change       func(*mqtt.Options)
		want         string
	}{
		{"nothing there", "mqtt://" + mqtttest.FreeAddr(t), nil, "connection refused"},
		{"unknown name", "mqtt://broker.invalid", nil, "broker.invalid"},
		{"no answer", "mqtt://" + silent.Addr, nil, "no answer within 300ms"},
		{"hangs up", "mqtt://" + rude.Addr, nil, "check that this port speaks mqtt"},
		{"no TLS there", "mqtts://" + secured.Addr, nil, "check that this port speaks mqtts"},
		{"a web server", "ws://" + web.Listener.Addr().String() + "/x", nil, "no WebSocket at /x"},
		{"wrong password", secured.URL("mqtt"), nil, "the broker does not let user gw1 in; check username and password"},
		{"no user", secured.URL("mqtt"), func(o *mqtt.Options) { o.Username, o.Password = "", "" }, "set username and password"},
		{"bad user or password", refuse(t, packets.ErrRefusedBadUsernameOrPassword), nil, "refused user name or password"},
		{"client id", refuse(t, packets.ErrRefusedIDRejected), nil, `refused the client id "gw-1"`},
		{"unavailable", refuse(t, packets.ErrRefusedServerUnavailable), nil, "not available just now"},
		{"version", refuse(t, packets.ErrRefusedBadProtocolVersion), nil, "does not speak MQTT 3.1.1"},
		{"right password", secured.URL("mqtt"), func(o *mqtt.Options) { o.Password = "right" }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := attempt(t, c.broker, c.change)
			if c.want == "" && got == "" {
				return
			}
			if c.want == "" || !strings.Contains(got, c.want) || !strings.HasPrefix(got, "uplink platform: no connection to "+c.broker) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	pki := mqtttest.NewPKI(t)
	plain := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{PKI: pki})
	strict := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{PKI: pki, ClientCerts: true})
	strange := mqtttest.NewPKI(t)
	with := func(p *mqtttest.PKI) *mqtttest.PKI { c := *p; return &c }
	old, elsewhere := with(pki), with(pki)
	old.ServerCert, old.ServerKey = pki.Issue("old", time.Now().Add(-time.Hour), "localhost")
	elsewhere.ServerCert, elsewhere.ServerKey = pki.Issue("elsewhere", time.Now().Add(time.Hour), "elsewhere.example")
	expired := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{PKI: old})
	misnamed := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{PKI: elsewhere})
	for _, c := range []struct {
		name   string
		broker *mqtttest.Broker
		tls    mqtt.TLS
		want   string
	}{
		{"trusted", plain, mqtt.TLS{CA: pki.CA}, ""},
		{"the system's authorities", plain, mqtt.TLS{}, "set tls.ca"},
		{"another authority", plain, mqtt.TLS{CA: strange.CA}, "issued by nobody we trust"},
		{"expired", expired, mqtt.TLS{CA: pki.CA}, "not valid today"},
		{"another name", misnamed, mqtt.TLS{CA: pki.CA}, "for another name"},
		{"client certificate", strict, mqtt.TLS{CA: pki.CA, Cert: pki.ClientCert, Key: pki.ClientKey}, ""},
		{"no client certificate", strict, mqtt.TLS{CA: pki.CA}, "client certificate"},
		{"strange client certificate", strict, mqtt.TLS{CA: pki.CA, Cert: strange.ClientCert, Key: strange.ClientKey}, "did not accept our certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := attempt(t, c.broker.URL("mqtts"), func(o *mqtt.Options) { o.TLS, o.ConnectTimeout = c.tls, 5*time.Second })
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestRenewedCertificate(t *testing.T) {
	t.Parallel()
	pki := mqtttest.NewPKI(t)
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{PKI: pki, ClientCerts: true})
	o := options("gw-1", broker.URL("mqtts"), schemas{})
	o.TLS = mqtt.TLS{CA: pki.CA}
	o.TLS.Cert, o.TLS.Key = pki.Issue("gw", time.Now().Add(-time.Hour))
	u := newUplink(t, o)
	if _, err := u.Connect(t.Context(), func(uint64) {}); err == nil {
		t.Fatal("an expired certificate was accepted")
	}
	copyFile(t, pki.ClientCert, o.TLS.Cert)
	copyFile(t, pki.ClientKey, o.TLS.Key)
	if _, err := u.Connect(t.Context(), func(uint64) {}); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	t.Parallel()
	silent := mqtttest.NewFake(t, func(conn io.ReadWriter) { _, _ = io.Copy(io.Discard, conn) })
	for _, url := range []string{"mqtt://" + silent.Addr, "mqtts://" + silent.Addr, "ws://" + silent.Addr} {
		o := options("gw-1", url, schemas{})
		o.ConnectTimeout = time.Second
		u := newUplink(t, o)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		start := time.Now()
		_, err := u.Connect(ctx, func(uint64) {})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 700*time.Millisecond {
			t.Errorf("%s: %v after %v", url, err, time.Since(start))
		}
	}
}

func TestNewErrors(t *testing.T) {
	t.Parallel()
	pki := mqtttest.NewPKI(t)
	for _, c := range []struct {
		name   string
		change func(*mqtt.Options)
		want   string
	}{
		{"scheme", func(o *mqtt.Options) { o.Broker = "tcp://h:1" }, `scheme "tcp"; use mqtt://`},
		{"no scheme", func(o *mqtt.Options) { o.Broker = "127.0.0.1" }, "use mqtt://"},
		{"host", func(o *mqtt.Options) { o.Broker = "mqtt://:1883" }, "names no host"},
		{"not a URL", func(o *mqtt.Options) { o.Broker = "mqtt://u:" + password + "@h:x y" }, "not a URL"},
		{"user in the URL", func(o *mqtt.Options) { o.Broker = "mqtt://u:" + password + "@h" }, "put it into username and password"},
		{"path", func(o *mqtt.Options) { o.Broker = "mqtt://h/x" }, "only ws://"},
		{"tls without TLS", func(o *mqtt.Options) { o.TLS.CA = "ca.pem" }, "write mqtts://"},
		{"no CA file", func(o *mqtt.Options) { o.Broker, o.TLS.CA = "mqtts://h", "absent.pem" }, "tls.ca: open absent.pem"},
		{"CA is a key", func(o *mqtt.Options) { o.Broker, o.TLS.CA = "mqtts://h", pki.ClientKey }, "holds no certificate"},
		{"key missing", func(o *mqtt.Options) { o.Broker, o.TLS.Cert = "mqtts://h", pki.ClientCert }, "without tls.key"},
		{"cert missing", func(o *mqtt.Options) { o.Broker, o.TLS.Key = "mqtts://h", pki.ClientKey }, "without tls.cert"},
		{"another key", func(o *mqtt.Options) { o.Broker, o.TLS.Cert, o.TLS.Key = "mqtts://h", pki.ClientCert, pki.ServerKey }, "does not match"},
		{"topic", func(o *mqtt.Options) { o.Topic = "a/#" }, `topic "a/#"`},
		{"group", func(o *mqtt.Options) { o.Group = "a/b" }, `group "a/b"`},
		{"gateway", func(o *mqtt.Options) { o.Gateway = "" }, "gateway id"},
		{"schema", func(o *mqtt.Options) { o.Schema = nil }, "Schema"},
	} {
		o := options("gw-1", "mqtt://h", schemas{})
		c.change(&o)
		_, err := mqtt.New(o)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "uplink platform: ") || strings.Contains(err.Error(), password) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	for _, url := range []string{"mqtt://h", "mqtt://[::1]:1883", "mqtts://h", "ws://h", "wss://h:8443/mqtt"} {
		if _, err := mqtt.New(options("gw-1", url, schemas{})); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	u, err := mqtt.New(options("gw-1", "mqtt://h", schemas{}))
	if err != nil || u.Stats().Broker != "mqtt://"+net.JoinHostPort("h", "1883") {
		t.Errorf("%v %v", u.Stats().Broker, err)
	}
	if err := u.Send(t.Context(), 1, record(&protocols.Schema{Device: "d", Tags: make([]protocols.SchemaTag, 3)}, "S", 1)); err == nil {
		t.Error("Send without a session")
	}
	u.Disconnect()
	u.Disconnect()
}
