package opcua

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/protocols/opcua/opcuatest"
)

// changing is a Tree with one variable /Objects/Line/v, whose node has the
// number that it holds; 0: it is not there.
type changing struct{ node *atomic.Uint32 }

func (c changing) Children(n *ua.NodeID) ([]opcuatest.Child, bool) {
	line := ua.NewStringNodeID(2, "Line")
	switch {
	case n.Namespace() == 0 && n.IntID() == id.ObjectsFolder:
		return []opcuatest.Child{
			{Kind: id.Organizes, Node: line, Namespace: 2, Name: "Line", Class: ua.NodeClassObject},
			{Kind: id.HasComponent, Node: line, Namespace: 2, Name: "Line", Class: ua.NodeClassObject}, // the same by another way
			{Kind: id.Organizes, Node: ua.NewStringNodeID(2, "A"), Namespace: 2, Name: "Twin", Class: ua.NodeClassObject},
			{Kind: id.Organizes, Node: ua.NewStringNodeID(2, "B"), Namespace: 2, Name: "Twin", Class: ua.NodeClassObject},
			{Kind: id.Organizes, Node: ua.NewStringNodeID(2, "Vault"), Namespace: 2, Name: "Vault", Class: ua.NodeClassObject},
		}, true
	case n.StringID() == "Line" && c.node.Load() > 0:
		return []opcuatest.Child{{Kind: id.HasComponent, Node: ua.NewNumericNodeID(2, c.node.Load()), Namespace: 2, Name: "v", Class: ua.NodeClassVariable}}, true
	}
	return nil, n.Namespace() == 2
}

func (c changing) Attribute(n *ua.NodeID, attr ua.AttributeID) any {
	if n.Namespace() == 2 && attr == ua.AttributeIDValue && n.IntID() == c.node.Load() {
		return int32(n.IntID())
	}
	return nil
}

// TestPathsInTime polls a path whose node comes, goes and is another.
func TestPathsInTime(t *testing.T) {
	t.Parallel()
	for name, noPaths := range map[string]bool{"translated": false, "browsed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := changing{new(atomic.Uint32)}
			srv, err := opcuatest.NewServer(opcuatest.Options{Tree: tree, Browse: opcuatest.BrowseLimits{NoPaths: noPaths, Denied: []string{"ns=2;s=Vault"}}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = srv.Close() })
			paths := []string{"/Objects/2:Line/2:v", "/Objects/Line/v", "/Objects/Twin/v", "/Objects/2:Twin/2:v", "/Objects/Vault/v", "/Objects/line/v"}
			dev := &protocols.Device{ID: "plc", Driver: "opcua", Endpoint: srv.Endpoint(), Timeout: 5 * time.Second, OPCUA: protocols.OPCUAOptions{SecurityPolicy: "None"}}
			var tags []int
			for i, p := range paths {
				dev.Tags = append(dev.Tags, protocols.Tag{Name: p, Address: p})
				tags = append(tags, i)
			}
			opened, err := New(Options{PKIDir: t.TempDir()}).Open([]*protocols.Device{dev})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = opened.Close() })
			if err := opened.Connect(context.Background()); err != nil {
				t.Fatal(err)
			}
			planned, err := opened.Plan(dev, tags)
			if err != nil {
				t.Fatal(err)
			}
			b, s := opened.(*bus), planned.(*scan)
			out := make([]protocols.Reading, len(paths))
			// later lets the time pass after which paths are tried again.
			later := func() {
				s.retry = s.retry.Add(-2 * pathRetry)
				b.session.paths.mu.Lock()
				defer b.session.paths.mu.Unlock()
				for _, e := range b.session.paths.known {
					e.tried = e.tried.Add(-2 * pathRetry)
				}
			}
			read := func(want ...protocols.Reason) {
				t.Helper()
				s.Read(context.Background(), out)
				for i, w := range want {
					if out[i].Reason != w {
						t.Errorf("%s: %s, want %s", paths[i], out[i].Reason, w)
					}
				}
			}
			read(protocols.NoSuchNode, protocols.NoSuchNode, ambiguousPath, ambiguousPath, protocols.NotReadable, protocols.NoSuchNode)
			for i, want := range []string{
				`/Objects/2:Line has no "2:v"; millrace scan shows`, `/Objects/Line has no "v"; millrace scan shows`,
				`/Objects has 2 nodes named "Twin"; give the tag's NodeId instead`, `/Objects has 2 nodes named "Twin"`,
				"does not let us look into /Objects/Vault", `/Objects has no "line"; did you mean "Line"?`,
			} {
				if text := b.whyNoNode(b.session, &s.addrs[i]).Text; !strings.Contains(text, want) {
					t.Errorf("%s: %s", paths[i], text)
				}
			}
			tree.node.Store(7)
			read(protocols.NoSuchNode, protocols.NoSuchNode) // it is not asked at each scan
			later()
			read("", "", ambiguousPath)
			if out[0].Value.AsInt() != 7 || out[1].Value.AsInt() != 7 {
				t.Errorf("%v, %v", out[0], out[1])
			}
			tree.node.Store(8)
			read(protocols.NoSuchNode, protocols.NoSuchNode)
			later()
			read("", "")
			if out[0].Value.AsInt() != 8 || out[1].Value.AsInt() != 8 {
				t.Errorf("%v, %v", out[0], out[1])
			}
		})
	}
}
