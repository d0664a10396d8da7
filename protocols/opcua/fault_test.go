package opcua_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"
	"go.uber.org/goleak"

	"millrace/protocols"
	"millrace/protocols/opcua"
	"millrace/protocols/opcua/opcuatest"
)

func newRelay(tb testing.TB, target string) *opcuatest.Relay {
	tb.Helper()
	r, err := opcuatest.NewRelay(target)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = r.Close() })
	return r
}

func oneNode() []opcuatest.Node { return []opcuatest.Node{{NodeID: "ns=2;s=v"}} }

func set(tb testing.TB, s *opcuatest.Server, v any) {
	tb.Helper()
	if err := s.Set("ns=2;s=v", v); err != nil {
		tb.Fatal(err)
	}
}

// awaitErr passes over readings until a report tells of an end.
func awaitErr(tb testing.TB, b protocols.Subscriber, within time.Duration) protocols.Report {
	tb.Helper()
	for deadline := time.Now().Add(within); ; {
		if r := next(tb, b, time.Until(deadline)); r.Err != nil {
			return r
		}
	}
}

// waitFor returns when a condition holds, and fails if that takes seconds.
func waitFor(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(5 * time.Second); !holds(); <-ticker.C {
		if time.Now().After(deadline) {
			tb.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestSilence breaks the connection, or its subscriptions alone, without a
// word; that must be noticed, and all must be well after a new start.
func TestSilence(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mute   func(*opcuatest.Server, *opcuatest.Relay, bool)
		within time.Duration
	}{
		"network":      {func(_ *opcuatest.Server, r *opcuatest.Relay, on bool) { r.Stall(on) }, 6 * time.Second},
		"subscription": {func(s *opcuatest.Server, _ *opcuatest.Relay, on bool) { s.Mute(on) }, 8 * time.Second},
		"cut": {func(_ *opcuatest.Server, r *opcuatest.Relay, on bool) {
			if on {
				r.Cut()
			}
		}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newServer(t, opcuatest.Options{Nodes: oneNode()})
			set(t, srv, int32(1))
			relay := newRelay(t, srv.Addr())
			d := device("opc.tcp://"+relay.Addr(), "ns=2;s=v")
			d.Timeout = time.Second
			b := open(t, driver(t), d)
			connect(t, b)
			if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
				t.Fatal(err)
			}
			if r := next(t, b, 5*time.Second); r.Err != nil {
				t.Fatal(r.Err)
			}
			c.mute(srv, relay, true)
			r := awaitErr(t, b, c.within)
			if protocols.KindOf(r.Err) != protocols.KindNotConnected || r.Device != d {
				t.Fatalf("%+v", r)
			}
			began := time.Now()
			if err := b.Close(); err != nil || time.Since(began) > 1200*time.Millisecond {
				t.Fatalf("close took %s: %v", time.Since(began), err)
			}
			c.mute(srv, relay, false)
			set(t, srv, int32(2))
			connect(t, b)
			if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
				t.Fatal(err)
			}
			if r := next(t, b, 5*time.Second); r.Err != nil || r.Readings[0].Value.AsInt() != 2 {
				t.Fatalf("%+v", r)
			}
		})
	}
}

func TestTimeoutKeepsConnection(t *testing.T) {
	t.Parallel()
	srv := newServer(t, opcuatest.Options{Nodes: oneNode()})
	set(t, srv, int32(1))
	relay := newRelay(t, srv.Addr())
	d := device("opc.tcp://"+relay.Addr(), "ns=2;s=v")
	d.Timeout = 400 * time.Millisecond
	b := open(t, driver(t), d)
	connect(t, b)
	relay.Stall(true)
	out, res := read(t, b, d)
	if out[0].Reason != protocols.Timeout || res.Answers != 0 || res.Requests != 1 || protocols.KindOf(res.Err) != protocols.KindTimeout {
		t.Fatalf("%+v %+v", out, res)
	}
	// The late answer must not be taken for the next one's.
	set(t, srv, int32(2))
	relay.Stall(false)
	if out, res := read(t, b, d); res.Err != nil || out[0].Value.AsInt() != 2 {
		t.Fatalf("%+v %+v", out, res)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	relay.Stall(true)
	s, err := b.Plan(d, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.Read(ctx, out)
	if took := time.Since(began); took > 300*time.Millisecond {
		t.Errorf("a read that was called off took %s", took)
	}
	relay.Stall(true)
	began = time.Now()
	if err := b.Connect(context.Background()); protocols.KindOf(err) != protocols.KindTimeout {
		t.Errorf("connecting through a stall: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("connecting through a stall took %s", took)
	}
}

func TestReconnectsLeakNothing(t *testing.T) {
	srv := newServer(t, opcuatest.Options{Nodes: oneNode()})
	set(t, srv, int32(1))
	d := device(srv.Endpoint(), "ns=2;s=v")
	b := open(t, driver(t), d)
	connect(t, b)
	defer func() { _ = b.Close() }()
	ignore := goleak.IgnoreCurrent()
	for i := range 50 {
		connect(t, b)
		if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
			t.Fatal(err)
		}
		set(t, srv, int32(i+2)) // a subscription that goes on says only what is new
		if r := next(t, b, 5*time.Second); r.Err != nil {
			t.Fatal(r.Err)
		}
		if i%2 == 0 {
			srv.DropConnections()
			awaitErr(t, b, 5*time.Second)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the server to have no session left", func() bool { return srv.Sessions() == 0 })
	if err := goleak.Find(ignore); err != nil {
		t.Fatal(err)
	}
}

// TestLostMessage has a server's message get lost within a connection that
// stands: it is asked for again, and comes in its place. All are acknowledged.
func TestLostMessage(t *testing.T) {
	t.Parallel()
	var unacknowledged atomic.Int64
	srv := newServer(t, opcuatest.Options{Nodes: oneNode(), Tamper: func(res ua.Response) {
		r, ok := res.(*ua.PublishResponse)
		if !ok || r.NotificationMessage == nil {
			return
		}
		unacknowledged.Store(int64(len(r.AvailableSequenceNumbers)))
		// Every third is sent as a keep-alive, which has the number that follows.
		if n := r.NotificationMessage.SequenceNumber; n%3 == 0 && len(r.NotificationMessage.NotificationData) > 0 {
			r.NotificationMessage = &ua.NotificationMessage{SequenceNumber: n + 1, PublishTime: time.Now(), NotificationData: []*ua.ExtensionObject{}}
		}
	}})
	set(t, srv, int32(0))
	d := device(srv.Endpoint(), "ns=2;s=v")
	b := open(t, driver(t), d)
	connect(t, b)
	subscribe(t, b, d)
	for want := range int64(20) {
		if r := next(t, b, 30*time.Second); r.Err != nil || r.Readings[0].Value.AsInt() != want {
			t.Fatalf("%+v where %d follows", r, want)
		}
		set(t, srv, int32(want+1))
	}
	if n := unacknowledged.Load(); n > 5 || stats(b).Missing > 0 {
		t.Errorf("%d messages are not acknowledged; %+v", n, stats(b))
	}
}

// TestSeveralValues sets a tag several times within one publishing interval,
// and more often than its queue holds.
func TestSeveralValues(t *testing.T) {
	t.Parallel()
	srv := newServer(t, opcuatest.Options{Nodes: []opcuatest.Node{{NodeID: "ns=2;s=v"}, {NodeID: "ns=2;s=w"}}})
	set(t, srv, int32(0))
	d := device(srv.Endpoint(), "ns=2;s=w", "ns=2;s=v")
	d.Interval, d.OPCUA.Queue = 200*time.Millisecond, 10
	b := open(t, driver(t), d)
	connect(t, b)
	if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
		t.Fatal(err)
	}
	next(t, b, 5*time.Second)
	for i := range 5 {
		set(t, srv, int32(100+i))
	}
	if err := srv.Set("ns=2;s=w", "once"); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		r := next(t, b, 5*time.Second)
		v := r.Readings[len(r.Readings)-1]
		if v.Value.AsInt() != int64(100+i) || v.Tag != 1 || (i == 0) != (len(r.Readings) == 2) {
			t.Fatalf("report %d: %+v", i, r)
		}
	}
	for i := range 25 {
		set(t, srv, int32(i))
	}
	if r := next(t, b, 5*time.Second); r.Readings[0].Value.AsInt() != 15 || r.Readings[0].Quality != protocols.Good {
		t.Fatalf("after an overflow: %+v", r)
	}
	if n := b.(interface{ Stats() opcua.Stats }).Stats().Overflows; n != 1 {
		t.Errorf("%d overflows counted", n)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	for _, hide := range []bool{false, true} {
		t.Run(fmt.Sprintf("hidden=%t", hide), func(t *testing.T) {
			t.Parallel()
			o := opcuatest.Options{MaxNodesPerRead: 30, MaxItemsPerCall: 10, HideLimits: hide}
			var addresses []string
			for i := range 100 {
				a := fmt.Sprintf("ns=2;i=%d", i)
				o.Nodes = append(o.Nodes, opcuatest.Node{NodeID: a, Value: func(time.Time) any { return uint16(i) }})
				addresses = append(addresses, a)
			}
			srv := newServer(t, o)
			d := device(srv.Endpoint(), addresses...)
			b := open(t, driver(t), d)
			connect(t, b)
			out, res := read(t, b, d)
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			if !hide && res.Requests != 4 {
				t.Errorf("%d requests for 100 nodes, 30 at once", res.Requests)
			}
			if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
				t.Fatal(err)
			}
			r := next(t, b, 5*time.Second)
			if len(r.Readings) != 100 {
				t.Fatalf("%d readings in the first report", len(r.Readings))
			}
			for i := range 100 {
				if out[i].Value.AsUint() != uint64(i) || r.Readings[i].Value.AsUint() != uint64(i) || r.Readings[i].Tag != int32(i) {
					t.Fatalf("tag %d: %+v %+v", i, out[i], r.Readings[i])
				}
			}
		})
	}
}

func TestPasswordNeverInClear(t *testing.T) {
	t.Parallel()
	srv := newServer(t, opcuatest.Options{Nodes: oneNode(), Users: map[string]string{"u": "geheim"}})
	d := device(srv.Endpoint(), "ns=2;s=v")
	d.OPCUA.Username, d.OPCUA.Password = "u", "geheim"
	err := open(t, driver(t), d).Connect(context.Background())
	if protocols.KindOf(err) != protocols.KindUntrusted || !strings.Contains(err.Error(), "unencrypted") || strings.Contains(err.Error(), "geheim") {
		t.Fatalf("%v", err)
	}
	d.OPCUA.Username, d.OPCUA.Password = "", ""
	if err := open(t, driver(t), d).Connect(context.Background()); protocols.KindOf(err) != protocols.KindUntrusted || !strings.Contains(err.Error(), "anonymous") {
		t.Fatalf("%v", err)
	}
}

func TestSecureSimulator(t *testing.T) {
	t.Parallel()
	id, err := opcuatest.NewIdentity("press-simulator")
	if err != nil {
		t.Fatal(err)
	}
	srv := newServer(t, opcuatest.Options{Nodes: oneNode(), Identity: id, OnlySecure: true, Users: map[string]string{"u": "geheim"}})
	set(t, srv, 1.5)
	d := device(srv.Endpoint(), "ns=2;s=v")
	d.OPCUA.SecurityPolicy = ""
	d.OPCUA.Username, d.OPCUA.Password = "u", "geheim"
	d.OPCUA.Trust = filepath.Join(t.TempDir(), "trusted")
	if err := os.MkdirAll(d.OPCUA.Trust, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.OPCUA.Trust, "a.der"), id.Certificate(), 0o600); err != nil {
		t.Fatal(err)
	}
	b := open(t, driver(t), d)
	connect(t, b)
	if out, _ := read(t, b, d); show(out[0]) != "1.5" {
		t.Fatalf("%+v", out)
	}
	d.OPCUA.SecurityPolicy = "None"
	if err := open(t, driver(t), d).Connect(context.Background()); err == nil || !strings.Contains(err.Error(), "it offers: Basic256Sha256/Sign, Basic256Sha256/SignAndEncrypt") {
		t.Fatalf("%v", err)
	}
}

// TestForeignServer connects to servers of other kinds.
func TestForeignServer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ says, want string }{
		"web":      {"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer like an OPC UA server"},
		"huge":     {"ACKF\xff\xff\xff\x7f", "does not answer like an OPC UA server"},
		"cut ack":  {"ACKF\x1c\x00\x00\x00\x00", "does not answer like an OPC UA server"},
		"says no":  {"ERRF\x10\x00\x00\x00\x00\x00\x7d\x80\xff\xff\xff\xff", "BadTcpServerTooBusy"},
		"tiny ack": {"ACKF\x1c\x00\x00\x00" + strings.Repeat("\x00", 20), "only 0 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				if conn, err := ln.Accept(); err == nil {
					_, _ = conn.Read(make([]byte, 1000))
					_, _ = conn.Write([]byte(c.says))
					_ = conn.Close()
				}
			}()
			err = open(t, driver(t), device("opc.tcp://"+ln.Addr().String())).Connect(context.Background())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v", err)
			}
		})
	}
}
