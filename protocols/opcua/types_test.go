package opcua_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/protocols/opcua/opcuatest"
)

// typeServer is an opcuatest server that describes data types, the old way:
// by a type dictionary, and by EnumStrings.
type typeServer struct {
	*opcuatest.Server
	asked   atomic.Int64 // attributes DataType
	started atomic.Int64
	changed atomic.Bool // the enumeration has other names
	hidden  atomic.Bool // nobody knows the enumeration's variable yet
}

const plcDictionary = `<opc:TypeDictionary xmlns:opc="http://opcfoundation.org/BinarySchema/" xmlns:ua="http://opcfoundation.org/UA/" xmlns:tns="urn:plc" DefaultByteOrder="LittleEndian" TargetNamespace="urn:plc">
 <opc:StructuredType BaseType="ua:ExtensionObject" Name="Recipe"><opc:Field TypeName="opc:CharArray" Name="Name"/><opc:Field TypeName="opc:Int32" Name="NoOfSteps"/><opc:Field TypeName="opc:Double" Name="Steps" LengthField="NoOfSteps"/></opc:StructuredType>
</opc:TypeDictionary>`

// rawStructure is a structure as its bytes, for gopcua to encode.
type rawStructure struct{ data []byte }

func (r *rawStructure) Encode() ([]byte, error) { return r.data, nil }

func structureOf(encoding *ua.NodeID, data []byte) *ua.ExtensionObject {
	return &ua.ExtensionObject{EncodingMask: ua.ExtensionObjectBinary, TypeID: &ua.ExpandedNodeID{NodeID: encoding}, Value: &rawStructure{data}}
}

func recipe(name string, steps ...float64) []byte {
	b := ua.NewBuffer(nil)
	b.WriteString(name)
	b.WriteInt32(int32(len(steps)))
	for _, s := range steps {
		b.WriteFloat64(s)
	}
	return b.Bytes()
}

func plcNode(n uint32) *ua.NodeID { return ua.NewNumericNodeID(2, n) }

func refTo(kind uint32, forward bool, to *ua.NodeID, name string) *ua.ReferenceDescription {
	return &ua.ReferenceDescription{
		ReferenceTypeID: ua.NewNumericNodeID(0, kind), IsForward: forward, NodeID: &ua.ExpandedNodeID{NodeID: to},
		BrowseName: &ua.QualifiedName{Name: name}, DisplayName: ua.NewLocalizedText(name), TypeDefinition: &ua.ExpandedNodeID{NodeID: ua.NewTwoByteNodeID(0)},
	}
}

func newTypeServer(tb testing.TB, more ...opcuatest.Node) *typeServer {
	tb.Helper()
	s := new(typeServer)
	o := opcuatest.Options{Nodes: append([]opcuatest.Node{
		{NodeID: "ns=2;s=Recipe"}, {NodeID: "ns=2;s=Late"}, {NodeID: "ns=2;s=Mode"}, {NodeID: "ns=2;s=Number"}, {NodeID: "ns=2;s=Speed"},
	}, more...)}
	o.Attribute = func(n *ua.NodeID, a ua.AttributeID) any {
		switch {
		case a == ua.AttributeIDDataType:
			s.asked.Add(1)
			switch n.StringID() {
			case "Recipe":
				return plcNode(3001)
			case "Late":
				return ua.NewNumericNodeID(0, id.Structure)
			case "Mode", "Number":
				if s.hidden.Load() {
					return ua.StatusBadNodeIDUnknown
				}
				return plcNode(3002)
			}
		case n.Namespace() == 0 && n.IntID() == id.Server_ServerStatus_StartTime && a == ua.AttributeIDValue:
			return time.Unix(1_795_000_000+s.started.Load(), 0)
		case n.Namespace() == 2 && a == ua.AttributeIDBrowseName && n.IntID() != 0:
			return &ua.QualifiedName{NamespaceIndex: 2, Name: map[uint32]string{3001: "Recipe", 3002: "Mode", 3003: "Late"}[n.IntID()]}
		case n.Namespace() == 2 && a == ua.AttributeIDValue:
			switch n.IntID() {
			case 6001, 6003:
				return "Recipe"
			case 6002:
				return []byte(plcDictionary)
			case 6004:
				if s.changed.Load() {
					return []*ua.LocalizedText{ua.NewLocalizedText("aus"), ua.NewLocalizedText("ein")}
				}
				return []*ua.LocalizedText{ua.NewLocalizedText("Off"), ua.NewLocalizedText("手动")}
			}
		}
		return nil
	}
	o.References = func(n *ua.NodeID) []*ua.ReferenceDescription {
		if n.Namespace() == 0 {
			return nil
		}
		switch n.IntID() {
		case 3001, 3003:
			return []*ua.ReferenceDescription{refTo(id.HasSubtype, false, ua.NewNumericNodeID(0, id.Structure), "Structure"), refTo(id.HasEncoding, true, plcNode(n.IntID()+2000), "Default Binary")}
		case 3002:
			return []*ua.ReferenceDescription{refTo(id.HasSubtype, false, ua.NewNumericNodeID(0, id.Enumeration), "Enumeration"), refTo(id.HasProperty, true, plcNode(6004), "EnumStrings")}
		case 5001, 5003:
			return []*ua.ReferenceDescription{refTo(id.HasEncoding, false, plcNode(n.IntID()-2000), "Recipe"), refTo(id.HasDescription, true, plcNode(n.IntID()+1000), "Recipe")}
		case 6001, 6003:
			return []*ua.ReferenceDescription{refTo(id.HasComponent, false, plcNode(6002), "Dictionary")}
		}
		return nil
	}
	s.Server = newServer(tb, o)
	for node, v := range map[string]any{
		"Recipe": structureOf(plcNode(5001), recipe("钢", 1.5, 2)), "Late": structureOf(plcNode(5003), recipe("late")), "Mode": int32(1), "Number": int32(7), "Speed": float64(3),
	} {
		if err := s.Set("ns=2;s="+node, v); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

// TestOldTypes reads a server that describes its types in a dictionary alone.
func TestOldTypes(t *testing.T) {
	t.Parallel()
	srv := newTypeServer(t)
	d := device(srv.Endpoint(), "ns=2;s=Recipe", "ns=2;s=Mode", "ns=2;s=Number", "ns=2;s=Mode", "ns=2;s=Mode", "ns=2;s=Speed")
	d.Tags[3].Enum = map[int64]string{1: "manual"}
	d.Tags[4].HasScale, d.Tags[4].Scale = true, 2
	d.Tags[1].Type, d.Tags[4].Type, d.Tags[5].Type = "Enumeration", "Int32", "int32"
	want := []string{"{Name:钢 Steps:[1.5 2]}", "手动", "out_of_range", "1", "1", "3"}
	b := open(t, driver(t), d)
	connect(t, b)
	out, res := read(t, b, d)
	for i, w := range want {
		if got := show(out[i]); got != w {
			t.Errorf("poll %d: %s, want %s", i, got, w)
		}
	}
	if !res.Learnt || res.Err == nil || !strings.Contains(res.Err.Error(), "the enumeration Mode has no name for 7") {
		t.Errorf("%+v", res)
	}
	advice := b.(protocols.Adviser).Advice(d)
	for _, w := range []string{"t4: the map says Int32, the server has the enumeration Mode", "t5: the map says int32, the server has Double", "t2 (ns=2;s=Number): the enumeration Mode has no name for 7"} {
		if !slices.ContainsFunc(advice, func(s string) bool { return strings.Contains(s, w) }) {
			t.Errorf("no advice %q in %q", w, advice)
		}
	}
	if len(advice) != 3 {
		t.Errorf("%q", advice)
	}
	if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
		t.Fatal(err)
	}
	r := next(t, b, 5*time.Second)
	for i, x := range r.Readings {
		if got := show(x); got != want[i] {
			t.Errorf("subscribe %d: %s, want %s", i, got, want[i])
		}
	}
	// A body that is not what the dictionary says.
	if err := srv.Set("ns=2;s=Recipe", structureOf(plcNode(5001), append(recipe("x"), 0))); err != nil {
		t.Fatal(err)
	}
	if r := next(t, b, 5*time.Second); len(r.Readings) != 1 || r.Readings[0].Reason != protocols.Malformed {
		t.Errorf("%+v", r)
	}
}

// TestTypesAreKept connects again: the types are asked for anew only when the
// server has started anew.
func TestTypesAreKept(t *testing.T) {
	t.Parallel()
	srv := newTypeServer(t)
	d := device(srv.Endpoint(), "ns=2;s=Mode", "ns=2;s=Recipe")
	b := open(t, driver(t), d)
	for i, c := range []struct {
		started int64
		want    string
		asked   int64
	}{{0, "手动", 2}, {0, "手动", 2}, {1, "ein", 4}} {
		srv.started.Store(c.started)
		connect(t, b)
		for range 2 {
			if out, _ := read(t, b, d); show(out[0]) != c.want || show(out[1]) != "{Name:钢 Steps:[1.5 2]}" {
				t.Fatalf("%d: %s %s", i, show(out[0]), show(out[1]))
			}
		}
		if n := srv.asked.Load(); n != c.asked {
			t.Errorf("%d: asked %d times", i, n)
		}
		srv.changed.Store(true)
	}
}

// TestLateType has a structure arrive whose type was not known before: bad
// first, with words that are told, and good as soon as it has been looked up,
// though it does not change.
func TestLateType(t *testing.T) {
	t.Parallel()
	srv := newTypeServer(t)
	for _, subscribe := range []bool{false, true} {
		t.Run(fmt.Sprint(subscribe), func(t *testing.T) {
			t.Parallel()
			d := device(srv.Endpoint(), "ns=2;s=Late")
			b := open(t, driver(t), d)
			connect(t, b)
			if subscribe {
				if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
					t.Fatal(err)
				}
			}
			learnt := !subscribe
			for range 100 {
				var r protocols.Reading
				if subscribe {
					rep := anyReport(t, b)
					if learnt = learnt || rep.Learnt; len(rep.Readings) == 0 {
						continue
					}
					r = rep.Readings[0]
				} else {
					out, res := read(t, b, d)
					r = out[0]
					if r.Quality == protocols.Bad && !strings.Contains(res.Err.Error(), "of the encoding ns=2;i=5003, of which the server has said nothing yet") {
						t.Fatal(res.Err)
					}
				}
				if got := show(r); got != "unsupported_type" {
					if !strings.HasPrefix(got, "{Name:late") {
						t.Fatal(got)
					}
					for !learnt {
						learnt = anyReport(t, b).Learnt
					}
					if all := b.(protocols.Adviser).Advice(d); len(all) != 1 || !strings.Contains(all[0], "said nothing yet") {
						t.Error(all)
					}
					return
				}
			}
			t.Fatal("it stayed unknown")
		})
	}
}

// anyReport waits for a report of any kind.
func anyReport(tb testing.TB, b protocols.Subscriber) protocols.Report {
	tb.Helper()
	select {
	case r := <-b.Reports():
		return r
	case <-time.After(30 * time.Second):
		tb.Fatal("no report")
	}
	return protocols.Report{}
}

// TestLateNode has a value come of a node that was not there when the types
// were asked for.
func TestLateNode(t *testing.T) {
	t.Parallel()
	srv := newTypeServer(t)
	srv.hidden.Store(true)
	d := device(srv.Endpoint(), "ns=2;s=Mode")
	b := open(t, driver(t), d)
	connect(t, b)
	s, err := b.Plan(d, allTags(d))
	if err != nil {
		t.Fatal(err)
	}
	out := make([]protocols.Reading, 1)
	s.Read(context.Background(), out)
	if show(out[0]) != "1" {
		t.Fatal(show(out[0]))
	}
	srv.hidden.Store(false)
	s.Read(context.Background(), out)
	if show(out[0]) != "手动" {
		t.Fatal(show(out[0]))
	}
}

// BenchmarkLearnTypes finds the types of 10,000 tags.
func BenchmarkLearnTypes(b *testing.B) {
	var nodes []opcuatest.Node
	var addresses []string
	for i := range 10_000 {
		a := fmt.Sprintf("ns=2;s=Line1.Station%d.Value", i)
		nodes, addresses = append(nodes, opcuatest.Node{NodeID: a, Value: func(time.Time) any { return float64(1) }}), append(addresses, a)
	}
	srv := newTypeServer(b, nodes...)
	d := device(srv.Endpoint(), addresses...)
	bus := open(b, driver(b), d)
	var first, later time.Duration
	for b.Loop() {
		srv.started.Add(1) // a new server each time
		connect(b, bus)
		at := time.Now()
		read(b, bus, d)
		first += time.Since(at)
		at = time.Now()
		read(b, bus, d)
		later += time.Since(at)
	}
	b.ReportMetric(float64((first-later).Milliseconds())/float64(b.N), "ms/learn")
	b.ReportMetric(float64(later.Milliseconds())/float64(b.N), "ms/read")
}

// BenchmarkStructures polls 1,000 structures, the simulator included.
func BenchmarkStructures(b *testing.B) {
	var addresses []string
	var nodes []opcuatest.Node
	for i := range 1000 {
		a := fmt.Sprintf("ns=2;s=Recipe%d", i)
		nodes = append(nodes, opcuatest.Node{NodeID: a, Value: func(time.Time) any { return structureOf(plcNode(5001), recipe("钢", 1.5, 2, 3, 4)) }})
		addresses = append(addresses, a)
	}
	srv := newTypeServer(b, nodes...)
	d := device(srv.Endpoint(), append(addresses, "ns=2;s=Recipe")...)
	bus := open(b, driver(b), d)
	connect(b, bus)
	s, err := bus.Plan(d, allTags(d))
	if err != nil {
		b.Fatal(err)
	}
	out := make([]protocols.Reading, len(d.Tags))
	s.Read(context.Background(), out)
	began, values := cpu(), 0
	for b.Loop() {
		s.Read(context.Background(), out)
		values += len(out)
	}
	if show(out[0]) != "{Name:钢 Steps:[1.5 2 3 4]}" {
		b.Fatal(show(out[0]))
	}
	report(b, values, cpu()-began)
}
