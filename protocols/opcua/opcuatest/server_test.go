package opcuatest_test

import (
	"context"
	"testing"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
	"go.uber.org/goleak"

	"millrace/protocols/opcua/opcuatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestServer tries the simulator with a client that is not ours.
func TestServer(t *testing.T) {
	t.Parallel()
	srv, err := opcuatest.NewServer(opcuatest.Options{Nodes: []opcuatest.Node{
		{Name: "Recipe", NodeID: "ns=2;s=recipe"},
		{Name: "Clock", NodeID: "ns=2;i=5", Value: func(now time.Time) any { return now.UnixMilli() }},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Set("ns=2;s=recipe", "A-17"); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"nonsense=", "ns=2;s=other", "ns=2;i=5"} {
		if err := srv.Set(bad, "x"); err == nil {
			t.Errorf("%s was set", bad)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := opcua.NewClient(srv.Endpoint(), opcua.AutoReconnect(false), opcua.AuthAnonymous(), opcua.AuthPolicyID("anonymous"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	v, err := c.Node(ua.NewStringNodeID(2, "recipe")).Value(ctx)
	if err != nil || v.Value() != "A-17" {
		t.Errorf("%v %v", v, err)
	}
	found, err := c.Node(ua.NewNumericNodeID(0, id.ObjectsFolder)).ReferencedNodes(ctx, 0, ua.BrowseDirectionForward, 0, true)
	if err != nil || len(found) != 2 || found[1].ID.String() != "ns=2;i=5" {
		t.Errorf("%v %v", found, err)
	}
	notes := make(chan *opcua.PublishNotificationData, 10)
	sub, err := c.Subscribe(ctx, &opcua.SubscriptionParameters{Interval: 20 * time.Millisecond}, notes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Monitor(ctx, ua.TimestampsToReturnBoth, opcua.NewMonitoredItemCreateRequestWithDefaults(ua.NewNumericNodeID(2, 5), ua.AttributeIDValue, 9)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		select {
		case n := <-notes:
			change, ok := n.Value.(*ua.DataChangeNotification)
			if n.Error != nil || !ok || change.MonitoredItems[0].ClientHandle != 9 {
				t.Fatalf("%+v", n)
			}
		case <-ctx.Done():
			t.Fatal("no notification")
		}
	}
	began := time.Now()
	if err := srv.Close(); err != nil || time.Since(began) > time.Second {
		t.Errorf("closing with a client took %s: %v", time.Since(began), err)
	}
	_ = c.Close(ctx)
	if err := srv.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestServerRefuses(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]opcuatest.Options{
		"an address in use nowhere": {Addr: "192.0.2.1:1"},
		"a NodeId":                  {Nodes: []opcuatest.Node{{NodeID: "ns=x;i=1"}}},
		"a node twice":              {Nodes: []opcuatest.Node{{NodeID: "ns=2;i=1"}, {NodeID: "ns=2;i=1"}}},
		"no certificate":            {OnlySecure: true},
	} {
		if s, err := opcuatest.NewServer(o); err == nil {
			t.Errorf("%s: no error", name)
			_ = s.Close()
		}
	}
}
