package opcua_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/opcua"
	"millrace/protocols/opcua/opcuatest"
)

func subscribe(tb testing.TB, b protocols.Subscriber, d *protocols.Device) {
	tb.Helper()
	if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
		tb.Fatal(err)
	}
}

// awaitMonitoring passes over reports until one tells of so many monitored
// tags, and returns the newest readings on the way.
func awaitMonitoring(tb testing.TB, b protocols.Subscriber, monitored int, seen map[int32]protocols.Reading) protocols.Monitoring {
	tb.Helper()
	end := time.After(5 * time.Second)
	for {
		select {
		case r := <-b.Reports():
			if r.Err != nil {
				tb.Fatal(r.Err)
			}
			for _, x := range r.Readings {
				seen[x.Tag] = x
			}
			if r.Monitoring != nil && r.Monitoring.Monitored == monitored {
				return *r.Monitoring
			}
		case <-end:
			tb.Fatalf("never %d monitored", monitored)
		}
	}
}

// TestMissingNodesComeBack: nodes that are not there yet, or go while they are
// monitored, are counted and tried again.
func TestMissingNodesComeBack(t *testing.T) {
	t.Parallel()
	for name, failsAll := range map[string]bool{"by item": false, "whole calls": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one := func(time.Time) any { return int32(1) }
			srv := newServer(t, opcuatest.Options{OneBadItemFailsAll: failsAll, Nodes: []opcuatest.Node{
				{NodeID: "ns=2;s=a", Value: one}, {NodeID: "ns=2;s=b", Value: one, Absent: true}, {NodeID: "ns=2;s=c", Value: one},
			}})
			drv := driver(t)
			drv.RetryEvery(50 * time.Millisecond)
			d := device(srv.Endpoint(), "ns=2;s=a", "ns=2;s=b", "ns=2;s=c", "nsu=urn:nowhere;i=1")
			b := open(t, drv, d)
			connect(t, b)
			subscribe(t, b, d)
			seen := make(map[int32]protocols.Reading)
			m := awaitMonitoring(t, b, 2, seen)
			if m.Configured != 4 || !strings.HasPrefix(m.Why, "t1 (ns=2;s=b): BadNodeIdUnknown") || !strings.Contains(m.Why, "check its address") {
				t.Errorf("%+v", m)
			}
			if err := srv.Add("ns=2;s=b"); err != nil {
				t.Fatal(err)
			}
			if m = awaitMonitoring(t, b, 3, seen); !strings.HasPrefix(m.Why, `t3 (nsu=urn:nowhere;i=1): the server has no namespace "urn:nowhere"`) {
				t.Errorf("%+v", m)
			}
			if err := srv.Remove("ns=2;s=c"); err != nil {
				t.Fatal(err)
			}
			awaitMonitoring(t, b, 2, seen)
			if err := srv.Add("ns=2;s=c"); err != nil {
				t.Fatal(err)
			}
			awaitMonitoring(t, b, 3, seen)
			waitFor(t, "the items of the node that was away to be one", func() bool { return srv.Items() == 3 })
			for deadline := time.Now().Add(5 * time.Second); show(seen[0])+show(seen[1])+show(seen[2])+show(seen[3]) != "111no_such_node"; {
				for _, x := range next(t, b, time.Until(deadline)).Readings {
					seen[x.Tag] = x
				}
			}
		})
	}
}

// TestSubscriptionsAreBounded: more tags than one subscription takes.
func TestSubscriptionsAreBounded(t *testing.T) {
	t.Parallel()
	o := opcuatest.Options{MaxItemsPerSubscription: 30, Product: "SIMATIC S7-1200", MaxItemsPerCall: 1000}
	var addresses []string
	for i := range 100 {
		a := fmt.Sprintf("ns=2;i=%d", i)
		o.Nodes = append(o.Nodes, opcuatest.Node{NodeID: a, Value: func(time.Time) any { return uint16(i) }})
		addresses = append(addresses, a)
	}
	srv := newServer(t, o)
	d := device(srv.Endpoint(), addresses...)
	d.OPCUA.MaxPerCall = 7
	b := open(t, driver(t), d)
	connect(t, b)
	subscribe(t, b, d)
	seen := make(map[int32]protocols.Reading)
	for len(seen) < 100 {
		for _, x := range next(t, b, 5*time.Second).Readings {
			seen[x.Tag] = x
		}
	}
	if n := srv.Subscriptions(); n != 4 {
		t.Errorf("%d subscriptions for 100 tags, 30 in each", n)
	}
	_, res := read(t, b, d)
	if res.Requests != 15 {
		t.Errorf("%d reads for 100 nodes, 7 at once", res.Requests)
	}
	// All of them go on after a break.
	srv.DropConnections()
	awaitErr(t, b, 5*time.Second)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	connect(t, b)
	subscribe(t, b, d)
	if n := srv.Subscriptions(); n != 4 || srv.Sessions() != 1 {
		t.Errorf("%d subscriptions in %d sessions after a break", n, srv.Sessions())
	}
	if opcua.Misses(b) != 0 {
		t.Error("a subscription was made anew")
	}
}

// TestUnsubscribe ends one device's subscriptions, and touches no other.
func TestUnsubscribe(t *testing.T) {
	t.Parallel()
	srv := newServer(t, opcuatest.Options{Nodes: oneNode()})
	set(t, srv, int32(1))
	one, two := device(srv.Endpoint(), "ns=2;s=v"), device(srv.Endpoint(), "ns=2;s=v")
	b := open(t, driver(t), one)
	connect(t, b)
	subscribe(t, b, one)
	subscribe(t, b, two)
	subscribe(t, b, one) // again: nothing is to be done
	if n := srv.Subscriptions(); n != 2 {
		t.Fatalf("%d subscriptions", n)
	}
	next(t, b, 5*time.Second)
	next(t, b, 5*time.Second)
	b.Unsubscribe(context.Background(), one)
	if n := srv.Subscriptions(); n != 1 {
		t.Fatalf("%d subscriptions", n)
	}
	set(t, srv, int32(2))
	if r := next(t, b, 5*time.Second); r.Device != two || r.Readings[0].Value.AsInt() != 2 {
		t.Fatalf("%+v", r)
	}
	// The last one, and then a new one on the same connection.
	b.Unsubscribe(context.Background(), two)
	subscribe(t, b, one)
	if r := next(t, b, 5*time.Second); r.Device != one || r.Readings[0].Value.AsInt() != 2 {
		t.Fatalf("%+v", r)
	}
	// While there is no connection.
	subscribe(t, b, two)
	next(t, b, 5*time.Second)
	srv.DropConnections()
	awaitErr(t, b, 5*time.Second)
	_ = b.Close()
	b.Unsubscribe(context.Background(), two)
	connect(t, b)
	subscribe(t, b, one)
	set(t, srv, int32(3))
	if r := next(t, b, 5*time.Second); r.Device != one || r.Readings[0].Value.AsInt() != 3 {
		t.Fatalf("%+v", r)
	}
	if n := srv.Subscriptions(); n != 1 || srv.Sessions() != 1 {
		t.Errorf("%d subscriptions in %d sessions", n, srv.Sessions())
	}
}

// TestDeadbands: the server has them where it can, of a range or absolute.
func TestDeadbands(t *testing.T) {
	t.Parallel()
	for name, filters := range map[string]bool{"by the server": true, "not by the server": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newServer(t, opcuatest.Options{Filters: filters, Nodes: []opcuatest.Node{
				{NodeID: "ns=2;s=abs"}, {NodeID: "ns=2;s=pct", Low: 900, High: 1000}, {NodeID: "ns=2;s=nopct"}, {NodeID: "ns=2;s=text"},
			}})
			nodes := []string{"ns=2;s=abs", "ns=2;s=pct", "ns=2;s=nopct", "ns=2;s=text"}
			put := func(vs ...any) {
				t.Helper()
				for i, v := range vs {
					if err := srv.Set(nodes[i], v); err != nil {
						t.Fatal(err)
					}
				}
			}
			put(10.0, 950.0, 950.0, "a")
			d := device(srv.Endpoint(), nodes...)
			d.Tags[0].Deadband, d.Tags[0].HasScale, d.Tags[0].Scale = protocols.Deadband{Size: 10}, true, -10 // 1 at the server
			for i := 1; i < 4; i++ {
				d.Tags[i].Deadband = protocols.Deadband{Size: 2, Percent: true}
			}
			d.Tags[1].HasScale, d.Tags[1].Scale = true, 10
			d.Tags[3].Deadband = protocols.Deadband{Size: 1}
			b := open(t, driver(t), d)
			connect(t, b)
			subscribe(t, b, d)
			if r := next(t, b, 5*time.Second); len(r.Readings) != 4 {
				t.Fatalf("first values %+v", r)
			}
			if bands := b.(protocols.Ranger).Bands(d); len(bands) != 1 || bands[1] != 20 {
				t.Errorf("bands %v, want 2%% of 100, times 10", bands)
			}
			put(10.5, 951.0, 951.0, "b") // too little for those with a filter
			put(12.0, 952.5, 952.5, "c")
			var got []string
			want := []string{"10.5", "951", "951", "b", "12", "952.5", "952.5", "c"}
			if filters {
				want = []string{"951", "b", "12", "952.5", "952.5", "c"}
			}
			for len(got) < len(want) {
				for _, x := range next(t, b, 5*time.Second).Readings {
					got = append(got, show(x))
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

// TestAdvice: a server that grants much less than was asked for.
func TestAdvice(t *testing.T) {
	t.Parallel()
	srv := newServer(t, opcuatest.Options{Nodes: oneNode(), SlowestSampling: time.Second, MaxQueue: 2})
	set(t, srv, int32(1))
	d := device(srv.Endpoint(), "ns=2;s=v")
	b := open(t, driver(t), d)
	connect(t, b)
	subscribe(t, b, d)
	advice := strings.Join(b.(protocols.Adviser).Advice(d), "\n")
	if !strings.Contains(advice, "samples 1 tags every 1s only, not every 20ms") || !strings.Contains(advice, "keeps only 2 values of a tag, not 500") {
		t.Errorf("%s", advice)
	}
}

// TestBounds: what a server with no room left is said to need.
func TestBounds(t *testing.T) {
	t.Parallel()
	srv := newServer(t, opcuatest.Options{Nodes: oneNode(), MaxSessions: 1, MaxSubscriptions: 1})
	set(t, srv, int32(1))
	d := device(srv.Endpoint(), "ns=2;s=v", "ns=2;s=v")
	d.Tags[1].Interval = 50 * time.Millisecond
	b := open(t, driver(t), d)
	connect(t, b)
	err := b.Subscribe(context.Background(), d, allTags(d))
	if protocols.KindOf(err) != protocols.KindRefused || !strings.Contains(err.Error(), "give more tags the same interval") {
		t.Errorf("%v", err)
	}
	err = open(t, driver(t), d).Connect(context.Background())
	if protocols.KindOf(err) != protocols.KindNotConnected || !strings.Contains(err.Error(), "raise its limit of sessions") {
		t.Errorf("%v", err)
	}
}

// TestGapIsFilled: messages that a connection loses on its way are asked for
// again; where the server does not send them again, what counts is read.
func TestGapIsFilled(t *testing.T) {
	t.Parallel()
	// One value more than it reads at once, which it does not say.
	nodes, addresses := oneNode(), []string{"ns=2;s=v"}
	for i := range 9 {
		addresses = append(addresses, fmt.Sprintf("ns=2;s=v%d", i))
		nodes = append(nodes, opcuatest.Node{NodeID: addresses[i+1]})
	}
	srv := newServer(t, opcuatest.Options{Nodes: nodes, NoRepublish: true, MaxNodesPerRead: 9, HideLimits: true})
	set(t, srv, int32(1))
	relay := newRelay(t, srv.Addr())
	d := device("opc.tcp://"+relay.Addr(), addresses...)
	d.Timeout = 500 * time.Millisecond
	b := open(t, driver(t), d)
	connect(t, b)
	subscribe(t, b, d)
	next(t, b, 5*time.Second)
	// The server sends into a network that takes nothing further.
	relay.Stall(true)
	set(t, srv, int32(2))
	r := awaitErr(t, b, 6*time.Second)
	if protocols.KindOf(r.Err) != protocols.KindNotConnected {
		t.Fatal(r.Err)
	}
	_ = b.Close()
	relay.Cut()
	relay.Stall(false)
	connect(t, b)
	subscribe(t, b, d)
	for {
		r := next(t, b, 5*time.Second)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		if r.Readings[0].Value.AsInt() == 2 {
			break
		}
	}
	if s := stats(b); s.Missing == 0 || opcua.Misses(b) == 0 {
		t.Errorf("%+v, %d misses", s, opcua.Misses(b))
	}
}

// TestRestartIsNoGoingOn: a server that was restarted may give the old numbers
// to others, so nothing of it is gone on with.
func TestRestartIsNoGoingOn(t *testing.T) {
	t.Parallel()
	srv := newServer(t, opcuatest.Options{Nodes: oneNode()})
	set(t, srv, int32(1))
	addr := srv.Addr()
	d := device(srv.Endpoint(), "ns=2;s=v")
	b := open(t, driver(t), d)
	connect(t, b)
	subscribe(t, b, d)
	next(t, b, 5*time.Second)
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	awaitErr(t, b, 5*time.Second)
	_ = b.Close()
	again := newServer(t, opcuatest.Options{Nodes: oneNode(), Addr: addr})
	set(t, again, int32(2))
	connect(t, b)
	subscribe(t, b, d)
	if r := next(t, b, 5*time.Second); r.Err != nil || r.Readings[0].Value.AsInt() != 2 {
		t.Fatalf("%+v", r)
	}
	if opcua.Misses(b) != 1 || again.Sessions() != 1 || again.Subscriptions() != 1 {
		t.Errorf("%d misses, %d sessions, %d subscriptions", opcua.Misses(b), again.Sessions(), again.Subscriptions())
	}
}
