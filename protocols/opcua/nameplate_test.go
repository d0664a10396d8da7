package opcua_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/protocols/opcua/opcuatest"
)

// deviceTree is a DeviceSet with some devices, each with a nameplate.
type deviceTree struct {
	devices int
	value   func(name string) any // of a property; nil: its name
	browsed func(node *ua.NodeID)
}

var deviceSetNode = ua.NewNumericNodeID(2, 5001)

func (t deviceTree) Children(node *ua.NodeID) (all []opcuatest.Child, ok bool) {
	t.browsed(node)
	if node.String() == deviceSetNode.String() {
		for i := range t.devices {
			all = append(all, opcuatest.Child{Kind: id.HasComponent, Node: ua.NewStringNodeID(1, fmt.Sprintf("D%d", i)), Namespace: 1, Name: fmt.Sprintf("D%d", i), Class: ua.NodeClassObject, TypeOf: id.BaseObjectType})
		}
		return all, true
	}
	if node.Namespace() != 1 || !strings.HasPrefix(node.StringID(), "D") || strings.Contains(node.StringID(), ".") {
		return nil, false
	}
	for _, name := range []string{"Manufacturer", "Model", "SerialNumber", "ProductCode", "DeviceRevision", "SoftwareRevision", "Other"} {
		all = append(all, opcuatest.Child{Kind: id.HasProperty, Node: ua.NewStringNodeID(1, node.StringID()+"."+name), Namespace: 2, Name: name, Class: ua.NodeClassVariable, TypeOf: id.PropertyType})
	}
	return all, true
}

func (t deviceTree) Attribute(node *ua.NodeID, attr ua.AttributeID) any {
	device, name, ok := strings.Cut(node.StringID(), ".")
	if !ok || !strings.HasPrefix(device, "D") || attr != ua.AttributeIDValue {
		return nil
	}
	if t.value != nil {
		return t.value(name)
	}
	return name + " of " + device
}

// Servers as they should not be: they cost little, and nothing of it is an
// error but a connection that has ended or has nothing to say.
func TestOddNameplates(t *testing.T) {
	t.Parallel()
	whole := protocols.Identity{
		Maker: "Manufacturer of D0", Model: "Model of D0", Serial: "SerialNumber of D0", Product: "ProductCode of D0", Version: "SoftwareRevision of D0",
	}
	only := func(maker string) protocols.Identity { return protocols.Identity{Maker: maker} }
	said := func(v any) func(string) any {
		return func(name string) any {
			if name == "Manufacturer" {
				return v
			}
			return ""
		}
	}
	for name, c := range map[string]struct {
		o       opcuatest.Options
		devices int
		value   func(name string) any
		want    protocols.Identity
	}{
		"one device":            {devices: 1, want: whole},
		"none":                  {},
		"ten thousand":          {devices: 10_000},
		"ten thousand in pages": {o: opcuatest.Options{Browse: opcuatest.BrowseLimits{References: 10}}, devices: 10_000},
		"one read at a time":    {o: opcuatest.Options{MaxNodesPerRead: 5, Browse: opcuatest.BrowseLimits{Nodes: 1, References: 1}}, devices: 1, want: whole},
		"hidden limits":         {o: opcuatest.Options{MaxNodesPerRead: 5, HideLimits: true}, devices: 1, want: whole},
		"browsing is denied":    {o: opcuatest.Options{Browse: opcuatest.BrowseLimits{Denied: []string{deviceSetNode.String()}}}, devices: 1},
		"the device is denied":  {o: opcuatest.Options{Browse: opcuatest.BrowseLimits{Denied: []string{"ns=1;s=D0"}}}, devices: 1},
		"reading is denied":     {devices: 1, value: func(string) any { return ua.StatusBadUserAccessDenied }},
		"an array":              {devices: 1, value: said([]string{"a", "b"})},
		"localized":             {devices: 1, value: said(ua.NewLocalizedText("机床")), want: only("机床")},
		"a number":              {devices: 1, value: said(uint32(4711)), want: only("4711")},
		"not known":             {devices: 1, value: said(int32(-1))},
		"a placeholder":         {devices: 1, value: said(" N/A ")},
		"odd characters":        {devices: 1, value: said("Ac\x00me"), want: only("Ac")},
		"long":                  {devices: 1, value: said(strings.Repeat("x", 100_000)), want: only(strings.Repeat("x", 197) + "…")},
		"the server's maker":    {o: opcuatest.Options{Maker: "Acme", Product: "Acme Server"}, want: protocols.Identity{Software: "Acme Server"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			browsed := 0
			c.o.Namespace = "http://opcfoundation.org/UA/DI/"
			c.o.Tree = deviceTree{devices: c.devices, value: c.value, browsed: func(*ua.NodeID) { browsed++ }}
			srv := newServer(t, c.o)
			d := device(srv.Endpoint())
			b := open(t, driver(t), d)
			if err := b.Connect(context.Background()); err != nil {
				t.Fatal(err)
			}
			who, err := b.(protocols.Identifier).Identify(t.Context(), d)
			if c.want.Software == "" {
				who.Software = ""
			}
			if err != nil || who != c.want {
				t.Errorf("%+v, %v", who, err)
			}
			if browsed > 10 || srv.OpenPoints() > 0 {
				t.Errorf("%d nodes browsed, %d continuation points left", browsed, srv.OpenPoints())
			}
		})
	}
}

// A server that falls silent, and one that is gone.
func TestNameplateOfASilentServer(t *testing.T) {
	t.Parallel()
	srv := newServer(t, opcuatest.Options{})
	relay := newRelay(t, srv.Addr())
	d := device("opc.tcp://" + relay.Addr())
	d.Timeout = 300 * time.Millisecond
	b := open(t, driver(t), d)
	asked := b.(protocols.Identifier)
	if _, err := asked.Identify(t.Context(), d); protocols.KindOf(err) != protocols.KindNotConnected {
		t.Errorf("before there is a connection: %v", err)
	}
	if err := b.Connect(context.Background()); err != nil {
		t.Fatal(err)
	}
	relay.Stall(true)
	if who, err := asked.Identify(t.Context(), d); protocols.KindOf(err) != protocols.KindTimeout || who != (protocols.Identity{}) {
		t.Errorf("silent: %+v, %v", who, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if who, err := asked.Identify(ctx, d); protocols.KindOf(err) != protocols.KindTimeout || who != (protocols.Identity{}) {
		t.Errorf("given up: %+v, %v", who, err)
	}
	relay.Stall(false)
	if _, err := asked.Identify(t.Context(), d); err != nil {
		t.Errorf("it speaks again: %v", err)
	}
	srv.DropConnections()
	if _, err := asked.Identify(t.Context(), d); protocols.KindOf(err) != protocols.KindNotConnected {
		t.Errorf("gone: %v", err)
	}
}
