package opcua_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/protocols/opcua"
	"millrace/protocols/opcua/opcuatest"
)

// plant is a Tree: lines with cells with variables, each with a unit and a
// range. The node of the i-th variable of a cell is ns=2;i=1000000*line+1000*cell+i.
type plant struct {
	lines, cells, vars int
	props              bool
}

func (p plant) Children(n *ua.NodeID) ([]opcuatest.Child, bool) {
	kids := func(count, step int, base uint32, name string, class ua.NodeClass) []opcuatest.Child {
		var all []opcuatest.Child
		for i := 1; i <= count; i++ {
			all = append(all, opcuatest.Child{
				Kind: id.HasComponent, Node: ua.NewNumericNodeID(2, base+uint32(i*step)), Namespace: 2,
				Name: fmt.Sprintf("%s%d", name, i), Class: class, TypeOf: id.BaseDataVariableType,
			})
		}
		return all
	}
	v := n.IntID()
	switch {
	case n.Namespace() == 0 && v == id.ObjectsFolder:
		return kids(p.lines, 1_000_000, 0, "Line", ua.NodeClassObject), true
	case n.Namespace() == 3: // a property
		return nil, true
	case n.Namespace() != 2:
		return nil, false
	case v%1_000_000 == 0:
		// Each line leads to all the others as well, and back to the top.
		loop := kids(p.lines, 1_000_000, 0, "Line", ua.NodeClassObject)
		loop = append(loop, opcuatest.Child{Kind: id.Organizes, Node: ua.NewNumericNodeID(0, id.ObjectsFolder), Name: "Objects", Class: ua.NodeClassObject})
		return append(kids(p.cells, 1000, v, "Cell", ua.NodeClassObject), loop...), true
	case v%1000 == 0:
		return kids(p.vars, 1, v, "Temperature", ua.NodeClassVariable), true
	}
	if !p.props {
		return nil, true
	}
	prop := func(name string, n uint32) opcuatest.Child {
		return opcuatest.Child{Kind: id.HasProperty, Node: ua.NewNumericNodeID(3, 4*v+n), Name: name, Class: ua.NodeClassVariable, TypeOf: id.PropertyType}
	}
	return []opcuatest.Child{prop("EURange", 0), prop("EngineeringUnits", 1)}, true
}

func (p plant) Attribute(n *ua.NodeID, attr ua.AttributeID) any {
	if n.Namespace() == 3 && attr == ua.AttributeIDValue {
		if n.IntID()%4 == 0 {
			return ua.NewExtensionObject(&ua.Range{Low: -40, High: 250})
		}
		return ua.NewExtensionObject(&ua.EUInformation{DisplayName: ua.NewLocalizedText("°C"), Description: ua.NewLocalizedText("degree Celsius")})
	}
	if n.Namespace() != 2 {
		return nil
	}
	switch attr {
	case ua.AttributeIDDataType:
		return ua.NewNumericNodeID(0, id.Double)
	case ua.AttributeIDValueRank:
		return int32(-1)
	case ua.AttributeIDAccessLevel, ua.AttributeIDUserAccessLevel:
		return byte(1)
	case ua.AttributeIDDescription:
		return ua.NewLocalizedText("a temperature")
	case ua.AttributeIDValue:
		return float64(n.IntID())
	}
	return ua.StatusBadAttributeIDInvalid
}

// TestBrowseLarge walks 10,000 variables with 20,000 properties, and
// BenchmarkBrowse ten times as many.
func TestBrowseLarge(t *testing.T) {
	t.Parallel()
	browseLarge(t, 10)
}

func BenchmarkBrowse(b *testing.B) {
	for b.Loop() {
		browseLarge(b, 100)
	}
}

func browseLarge(tb testing.TB, lines int) {
	tb.Helper()
	srv := newServer(tb, opcuatest.Options{Tree: plant{lines: lines, cells: 10, vars: 100, props: true}})
	var found, told int
	var most uint64
	o := opcua.BrowseOptions{Progress: func(opcua.BrowseSummary) {
		told++
		if told%50 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
		}
	}}
	began := time.Now()
	sum, err := driver(tb).Browse(context.Background(), device(srv.Endpoint()), o, func(v *opcua.Variable) error {
		found++
		if v.Unit != "°C" || v.Max == nil || *v.Max != 250 || v.Type != "Double" || len(v.Path) != 4 {
			tb.Errorf("%+v", v)
		}
		return nil
	})
	tb.Logf("%d variables, %d nodes, %d requests in %s; the heap, server included, had %d MB at the most", found, sum.Nodes, sum.Calls, time.Since(began), most>>20)
	if want := lines * 1000; err != nil || found != want || sum.Nodes != want+lines*11+1 {
		tb.Errorf("%d found, %v: %+v", found, err, sum)
	}
	if b, ok := tb.(*testing.B); ok {
		b.ReportMetric(float64(most>>20), "heap-MB")
	}
}

// TestBrowseLimits walks servers that bear little, and lose continuation points.
func TestBrowseLimits(t *testing.T) {
	t.Parallel()
	tree := plant{lines: 3, cells: 4, vars: 50}
	for name, c := range map[string]struct {
		o       opcuatest.Options
		refused int
		found   int
	}{
		"nodes per Browse":             {opcuatest.Options{Browse: opcuatest.BrowseLimits{Nodes: 2}}, 0, 600},
		"not told":                     {opcuatest.Options{Browse: opcuatest.BrowseLimits{Nodes: 2}, HideLimits: true, MaxNodesPerRead: 7}, 0, 600},
		"references":                   {opcuatest.Options{Browse: opcuatest.BrowseLimits{References: 3}}, 0, 600},
		"one continuation point":       {opcuatest.Options{Browse: opcuatest.BrowseLimits{References: 7, Points: 1}}, 0, 600},
		"continuation points are lost": {opcuatest.Options{Browse: opcuatest.BrowseLimits{References: 30, Forget: 2}}, 0, 600},
		"always lost":                  {opcuatest.Options{Browse: opcuatest.BrowseLimits{References: 30, Forget: 1000}}, 12, 360},
		"denied":                       {opcuatest.Options{Browse: opcuatest.BrowseLimits{Denied: []string{"ns=2;i=1001000", "ns=2;i=2001000"}}}, 2, 500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.o.Tree = tree
			srv := newServer(t, c.o)
			found, sum := walk(t, srv.Endpoint(), opcua.BrowseOptions{})
			if len(found) != c.found || sum.Refused != c.refused {
				t.Errorf("%d found: %+v", len(found), sum)
			}
			if c.refused > 0 && (len(sum.RefusedAt) == 0 || !strings.HasPrefix(sum.RefusedAt[0], "/Objects/Line")) {
				t.Errorf("%q", sum.RefusedAt)
			}
			if n := srv.OpenPoints(); n != 0 {
				t.Errorf("%d continuation points were left", n)
			}
		})
	}
}

func TestBrowseEnds(t *testing.T) {
	t.Parallel()
	srv := newServer(t, opcuatest.Options{Tree: plant{lines: 3, cells: 4, vars: 50}, Browse: opcuatest.BrowseLimits{References: 10}})
	found, sum := walk(t, srv.Endpoint(), opcua.BrowseOptions{MaxNodes: 100})
	if !sum.Stopped || sum.Nodes != 100 || len(found) == 0 || len(found) > 100 || srv.OpenPoints() != 0 {
		t.Errorf("%d found, %d points left: %+v", len(found), srv.OpenPoints(), sum)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := 0
	_, err := driver(t).Browse(ctx, device(srv.Endpoint()), opcua.BrowseOptions{}, func(*opcua.Variable) error {
		n++
		cancel()
		return nil
	})
	if err == nil || n == 0 || n == 600 {
		t.Errorf("%d found, %v", n, err)
	}
}

// abyss is a Tree without an end, with references to another server.
type abyss struct{}

func (abyss) Children(n *ua.NodeID) ([]opcuatest.Child, bool) {
	if n.Namespace() == 0 && n.IntID() != id.ObjectsFolder {
		return nil, false
	}
	next := ua.NewNumericNodeID(2, n.IntID()+1)
	return []opcuatest.Child{
		{Kind: id.Organizes, Node: next, Namespace: 2, Name: "down", Class: ua.NodeClassObject},
		{Kind: id.Organizes, Node: ua.NewNumericNodeID(2, 5), Namespace: 2, Name: "far", Class: ua.NodeClassVariable, Server: 1},
	}, true
}

func (abyss) Attribute(*ua.NodeID, ua.AttributeID) any { return nil }

func TestBrowseAbyss(t *testing.T) {
	t.Parallel()
	srv := newServer(t, opcuatest.Options{Tree: abyss{}})
	found, sum := walk(t, srv.Endpoint(), opcua.BrowseOptions{})
	if len(found) != 0 || sum.Deep != 1 || sum.Nodes != 100 {
		t.Errorf("%d found: %+v", len(found), sum)
	}
}

// TestPathsOfMany resolves as many paths as a large device has tags.
func TestPathsOfMany(t *testing.T) {
	t.Parallel()
	srv := newServer(t, opcuatest.Options{Tree: plant{lines: 10, cells: 10, vars: 100}, MaxNodesPerRead: 1000})
	var addresses []string
	for line := range 10 {
		for cell := range 10 {
			for v := range 100 {
				addresses = append(addresses, fmt.Sprintf("/Objects/Line%d/Cell%d/Temperature%d", line+1, cell+1, v+1))
			}
		}
	}
	d := device(srv.Endpoint(), addresses...)
	b := open(t, driver(t), d)
	connect(t, b)
	began := time.Now()
	out, res := read(t, b, d)
	t.Logf("%d paths resolved and read in %s", len(addresses), time.Since(began))
	for i := range out {
		if want := fmt.Sprint((i/1000+1)*1_000_000 + (i/100%10+1)*1000 + i%100 + 1); res.Err != nil || out[i].Quality == protocols.Bad || fmt.Sprintf("%.0f", out[i].Value.AsFloat64()) != want {
			t.Fatalf("%s: %s, want %s; %v", addresses[i], show(out[i]), want, res.Err)
		}
	}
}

// TestBrowseRepeats: a server that has the first page of a node's references
// begin anew for ever, or nothing but empty pages, is left at some time.
func TestBrowseRepeats(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]bool{"the same page": true, "empty pages": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var first atomic.Pointer[[]*ua.ReferenceDescription]
			srv := newServer(t, opcuatest.Options{Tree: plant{lines: 1, cells: 1, vars: 4}, Tamper: func(res ua.Response) {
				switch r := res.(type) {
				case *ua.BrowseResponse:
					for _, one := range r.Results {
						if len(one.References) == 4 { // the variables
							one.ContinuationPoint = []byte{1}
							first.Store(&one.References)
						}
					}
				case *ua.BrowseNextResponse:
					if len(r.Results) == 1 && again {
						r.Results[0] = &ua.BrowseResult{References: *first.Load(), ContinuationPoint: []byte{1}}
					} else if len(r.Results) == 1 {
						r.Results[0] = &ua.BrowseResult{ContinuationPoint: []byte{1}}
					}
				}
			}})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			found := 0
			sum, err := opcua.New(opcua.Options{}).Browse(ctx, device(srv.Endpoint()), opcua.BrowseOptions{}, func(*opcua.Variable) error {
				found++
				return nil
			})
			if err != nil || found != 4 || sum.Refused != 1 {
				t.Errorf("%v, %d found: %+v", err, found, sum)
			}
		})
	}
}
