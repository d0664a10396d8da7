package opcua_test

import (
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/opcua/opcuatest"
	"millrace/protocols/protocoltest"
)

// TestConformance runs what every driver has to pass.
func TestConformance(t *testing.T) {
	t.Parallel()
	var srv *opcuatest.Server
	start := func(t *testing.T, addr string) {
		t.Helper()
		var err error
		if srv, err = opcuatest.NewServer(opcuatest.Options{Addr: addr, Nodes: []opcuatest.Node{
			{NodeID: "ns=2;s=v"},
			{NodeID: "ns=2;s=text", Value: func(time.Time) any { return "Öl" }},
			{NodeID: "ns=2;s=list", Value: func(time.Time) any { return []uint16{1, 2} }},
		}}); err != nil {
			t.Fatal(err)
		}
		set(t, srv, int32(7))
	}
	start(t, "")
	addr := srv.Addr()
	t.Cleanup(func() { _ = srv.Close() })
	relay := newRelay(t, addr)
	d := device("opc.tcp://"+relay.Addr(), "ns=2;s=v", "ns=2;s=text", "ns=2;s=list")
	protocoltest.Run(t, protocoltest.Target{
		Driver: driver(t), Device: d,
		Values: []protocols.Value{
			protocols.Int(7), protocols.String("Öl"),
			protocols.Array([]protocols.Value{protocols.Uint(1), protocols.Uint(2)}),
		},
		BadTag: protocols.Tag{Name: "bad", Address: "ns=2;s=nowhere"},
		Set: func(t *testing.T, _ int, v protocols.Value) {
			t.Helper()
			set(t, srv, int32(v.AsInt()))
		},
		Other: protocols.Int(8),
		Stop: func(t *testing.T) {
			t.Helper()
			if err := srv.Close(); err != nil {
				t.Error(err)
			}
		},
		Start: func(t *testing.T) { t.Helper(); start(t, addr) },
		Mute:  func(t *testing.T, on bool) { t.Helper(); relay.Stall(on) },
	})
}
