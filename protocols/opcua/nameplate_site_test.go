package opcua_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/protocols/opcua/opcuatest"
)

// site is an address space with machines, made of the links between nodes. The
// nodes Machines, DeviceSet, DeviceFeatures and Objects are the standard's;
// others have the NodeId ns=3;s=NAME, and what follows the last dot of NAME as
// their browse name: of OPC UA for Devices, if it is one of its names and is
// not written with own: before it. @NAME is a node on another server.
type site struct {
	below, above map[string][]string
	values       map[string]any // of properties; others have a text of their own
	flat         bool           // nodes do not say what is above them
}

const (
	siteDI        = 1
	siteMachinery = 2
	siteOwn       = 3
)

// newSite reads links, such as "Machines>Mill"; "+Mill" gives Mill an
// Identification with a nameplate, "*Mill" a nameplate of its own.
func newSite(links ...string) *site {
	s := &site{below: make(map[string][]string), above: make(map[string][]string), values: make(map[string]any)}
	for _, l := range links {
		switch l[0] {
		case '+':
			s.link(l[1:], l[1:]+".Identification")
			s.plate(l[1:] + ".Identification")
		case '*':
			s.plate(l[1:])
		default:
			up, down, _ := strings.Cut(l, ">")
			s.link(up, down)
		}
	}
	return s
}

func (s *site) link(up, down string) {
	s.below[up] = append(s.below[up], down)
	s.above[down] = append(s.above[down], up)
}

func (s *site) plate(of string) {
	for _, name := range []string{"Manufacturer", "Model", "SerialNumber"} {
		s.link(of, of+"."+name)
	}
}

func (s *site) with(name string, value any) *site {
	s.values[name] = value
	return s
}

func siteNode(name string) *ua.NodeID {
	switch name {
	case "Objects":
		return ua.NewNumericNodeID(0, id.ObjectsFolder)
	case "Machines":
		return ua.NewNumericNodeID(siteMachinery, 1001)
	case "DeviceSet":
		return ua.NewNumericNodeID(siteDI, 5001)
	case "DeviceFeatures":
		return ua.NewNumericNodeID(siteDI, 15034)
	}
	return ua.NewStringNodeID(siteOwn, strings.TrimPrefix(name, "@"))
}

func siteName(n *ua.NodeID) string {
	for _, name := range []string{"Objects", "Machines", "DeviceSet", "DeviceFeatures"} {
		if siteNode(name).String() == n.String() {
			return name
		}
	}
	return n.StringID()
}

func (s *site) child(name string) opcuatest.Child {
	short := name[strings.LastIndexByte(name, '.')+1:]
	c := opcuatest.Child{Kind: id.HasComponent, Node: siteNode(name), Namespace: siteOwn, Name: strings.TrimPrefix(short, "own:"), Class: ua.NodeClassObject}
	switch short {
	case "Identification":
		c.Namespace = siteDI
	case "Manufacturer", "Model", "SerialNumber", "ProductCode", "SoftwareRevision", "HardwareRevision":
		c.Namespace, c.Class = siteDI, ua.NodeClassVariable
	default:
		if len(s.below[name]) == 0 {
			if _, known := s.values[name]; known || strings.HasPrefix(short, "tag") {
				c.Class = ua.NodeClassVariable
			}
		}
	}
	if strings.HasPrefix(name, "@") {
		c.Server = 1
	}
	return c
}

func (s *site) children(names []string) []opcuatest.Child {
	var all []opcuatest.Child
	for _, name := range names {
		all = append(all, s.child(name))
	}
	return all
}

func (s *site) Children(n *ua.NodeID) ([]opcuatest.Child, bool) {
	return s.children(s.below[siteName(n)]), true
}

func (s *site) Parents(n *ua.NodeID) []opcuatest.Child {
	if s.flat {
		return nil
	}
	return s.children(s.above[siteName(n)])
}

func (s *site) Attribute(n *ua.NodeID, attr ua.AttributeID) any {
	name := siteName(n)
	if n.Namespace() != siteOwn || attr != ua.AttributeIDValue {
		return nil
	}
	if v, ok := s.values[name]; ok {
		return v
	}
	of, property, _ := strings.Cut(strings.Replace(name, ".Identification", "", 1), ".")
	return property + " of " + of
}

// start starts a server for the site, and counts what it is asked.
func (s *site) start(t *testing.T, o opcuatest.Options) (*opcuatest.Server, *atomic.Int32) {
	t.Helper()
	asked := new(atomic.Int32)
	tamper := o.Tamper
	o.Tree = s
	o.Nodes = append(o.Nodes, opcuatest.Node{NodeID: "ns=2;s=alive"})
	o.Attribute = func(n *ua.NodeID, a ua.AttributeID) any {
		if n.Namespace() == 0 && n.IntID() == id.Server_NamespaceArray && a == ua.AttributeIDValue {
			return []string{"http://opcfoundation.org/UA/", "http://opcfoundation.org/UA/DI/", "http://opcfoundation.org/UA/Machinery/", "urn:site"}
		}
		return nil
	}
	o.Tamper = func(r ua.Response) {
		switch r.(type) {
		case *ua.BrowseResponse, *ua.BrowseNextResponse, *ua.ReadResponse, *ua.TranslateBrowsePathsToNodeIDsResponse:
			asked.Add(1)
		}
		if tamper != nil {
			tamper(r)
		}
	}
	return newServer(t, o), asked
}

// siteCase is a question, and the serial number that is the answer.
type siteCase struct {
	site   *site
	tags   []string // of the device, as they are below the machines
	o      opcuatest.Options
	others int    // devices of the configuration at the same server
	most   int    // requests; 0: 12
	want   string // with a maker; empty: there is no identity
	partly bool   // empty want: but it has a maker
}

// twoMachines have a tag each, and there is one of neither.
func twoMachines(more ...string) *site {
	return newSite(append([]string{
		"Objects>Machines", "Objects>DeviceSet", "Machines>Mill", "Machines>Saw", "+Mill", "+Saw",
		"Mill>Mill.Cell", "Mill.Cell>Mill.tag", "Mill.Cell>Mill.tag2", "Saw>Saw.tag", "Objects>Hall", "Hall>Hall.tag",
	}, more...)...)
}

func oneMachine(more ...string) *site {
	return newSite(append([]string{"Objects>Machines", "Objects>DeviceSet", "Machines>Mill", "+Mill", "Mill>Mill.tag", "Objects>Hall", "Hall>Hall.tag"}, more...)...)
}

// many adds n machines or devices, each with a tag.
func (s *site) many(folder string, n int) *site {
	for i := range n {
		name := fmt.Sprintf("M%d", i)
		s.link(folder, name)
		s.plate(name)
		s.link(name, name+".tag")
	}
	return s
}

// tags of the machine's first n nodes, the last one of another machine.
func manyTags(s *site, n int) (*site, []string) {
	var tags []string
	for i := range n - 1 {
		name := fmt.Sprintf("Mill.tag%d", i+10)
		s.link("Mill", name)
		tags = append(tags, name)
	}
	return s, append(tags, "Saw.tag")
}

// fails has a service fail as a whole.
func fails[R ua.Response](status ua.StatusCode) func(ua.Response) {
	return func(r ua.Response) {
		if _, it := r.(R); it {
			r.Header().ServiceResult = status
		}
	}
}

func siteCases() map[string]siteCase {
	big, bigTags := manyTags(twoMachines(), 300)
	huge, hugeTags := manyTags(twoMachines(), 3000)
	cells := twoMachines()
	var cellTags []string
	for i := range 15 {
		cell := fmt.Sprintf("Mill.Cell%d", i)
		cells.link("Mill", cell)
		cells.link(cell, cell+".tag")
		cellTags = append(cellTags, cell+".tag")
	}
	var parents []string
	for i := range 40 {
		parents = append(parents, fmt.Sprintf("Hall>View%d", i), fmt.Sprintf("View%d>Mill.tag", i))
	}
	return map[string]siteCase{
		// One machine.
		"one machine":                             {site: oneMachine(), tags: []string{"Hall.tag"}, want: "SerialNumber of Mill"},
		"one machine, listed twice":               {site: oneMachine("Machines>Mill"), tags: []string{"Hall.tag"}, want: "SerialNumber of Mill"},
		"one machine, and one on another server":  {site: oneMachine("Machines>@Far"), tags: []string{"Hall.tag"}},
		"one machine, and a device":               {site: oneMachine("DeviceSet>PLC", "*PLC"), tags: []string{"Hall.tag"}, want: "SerialNumber of Mill"},
		"one machine that says nothing":           {site: newSite("Machines>Mill", "Mill>Mill.tag", "DeviceSet>PLC", "*PLC"), tags: []string{"Mill.tag"}},
		"one machine, two devices, tags outside":  {site: oneMachine(), tags: []string{"Hall.tag"}, others: 1},
		"one machine, two devices, tags below it": {site: oneMachine(), tags: []string{"Mill.tag"}, others: 1, want: "SerialNumber of Mill"},
		"one device, and the standard's folder":   {site: newSite("DeviceSet>PLC", "DeviceSet>DeviceFeatures", "*PLC"), tags: []string{"x.tag"}, want: "SerialNumber of PLC"},
		"no machine":                              {site: newSite("Objects>Machines", "Objects>DeviceSet"), tags: []string{"x.tag"}},

		// Of several, the one that all tags are below of.
		"tags of the first":                 {site: twoMachines(), tags: []string{"Mill.tag", "Mill.tag2"}, want: "SerialNumber of Mill"},
		"tags of the second":                {site: twoMachines(), tags: []string{"Saw.tag"}, want: "SerialNumber of Saw"},
		"tags of both":                      {site: twoMachines(), tags: []string{"Mill.tag", "Saw.tag"}},
		"tags of none":                      {site: twoMachines(), tags: []string{"Hall.tag"}},
		"a tag of one, and of none":         {site: twoMachines(), tags: []string{"Mill.tag", "Hall.tag"}},
		"a tag that is not there":           {site: twoMachines(), tags: []string{"Mill.tag", "nowhere.tag"}},
		"a tag of one, and the server's":    {site: twoMachines(), tags: []string{"Mill.tag", "i=2258"}, want: "SerialNumber of Mill"},
		"a tag of one, and of no namespace": {site: twoMachines(), tags: []string{"Mill.tag", "nsu=urn:nowhere;i=1"}},
		"a path":                            {site: twoMachines(), tags: []string{"Mill.tag", "/Objects/Machines/Mill/Cell/tag2"}, most: 20, want: "SerialNumber of Mill"},
		"a path to nowhere":                 {site: twoMachines(), tags: []string{"Mill.tag", "/Objects/Machines/Mill/Cell/nothing"}, most: 20},
		"the server's tags alone":           {site: twoMachines(), tags: []string{"i=2258"}},
		"no tags":                           {site: twoMachines()},
		"a tag that both have":              {site: twoMachines("Mill>both.tag", "Saw>both.tag"), tags: []string{"both.tag"}},
		"a tag that is in a folder too":     {site: twoMachines("Hall>Mill.tag"), tags: []string{"Mill.tag"}, want: "SerialNumber of Mill"},
		"machines that refer to another":    {site: twoMachines("Mill>Saw", "Saw>Mill"), tags: []string{"Mill.tag"}, want: "SerialNumber of Mill"},
		"a machine in a machine":            {site: twoMachines("Mill>Saw"), tags: []string{"Saw.tag"}, want: "SerialNumber of Saw"},
		"both, one in the other":            {site: twoMachines("Mill>Saw"), tags: []string{"Saw.tag", "Mill.tag"}},
		"a loop above a tag":                {site: twoMachines("Mill.tag>Mill.Cell"), tags: []string{"Mill.tag"}, want: "SerialNumber of Mill"},
		"many views of a tag":               {site: twoMachines(parents...), tags: []string{"Mill.tag"}},
		"300 tags, one of another":          {site: big, tags: bigTags},
		"299 tags":                          {site: big, tags: bigTags[:299], want: "SerialNumber of Mill"},
		"more tags than can be followed":    {site: huge, tags: hugeTags[:2999]},
		"devices, tags of one":              {site: newSite("Objects>DeviceSet").many("DeviceSet", 3), tags: []string{"M1.tag"}, want: "SerialNumber of M1"},
		"10,000 devices, tags of one":       {site: newSite("Objects>DeviceSet").many("DeviceSet", 10_000), tags: []string{"M7777.tag"}, want: "SerialNumber of M7777"},
		"10,000 devices, tags of none":      {site: newSite("Objects>DeviceSet").many("DeviceSet", 10_000), tags: []string{"Hall.tag"}},
		"nodes do not say what is above":    {site: func() *site { s := twoMachines(); s.flat = true; return s }(), tags: []string{"Mill.tag"}},

		// Servers that do not show all: what is not known is not guessed.
		"no BrowseNext, one of two shown": {
			site: twoMachines(), tags: []string{"Hall.tag"},
			o: opcuatest.Options{Browse: opcuatest.BrowseLimits{References: 1}, Tamper: fails[*ua.BrowseNextResponse](ua.StatusBadServiceUnsupported)},
		},
		"continuation points are lost, one of two shown": {
			site: twoMachines(), tags: []string{"Hall.tag"},
			o: opcuatest.Options{Browse: opcuatest.BrowseLimits{References: 1, Forget: 1000}}, most: 5,
		},
		"no BrowseNext, many devices": {
			site: newSite("Objects>DeviceSet").many("DeviceSet", 500), tags: []string{"M7.tag"}, want: "SerialNumber of M7",
			o: opcuatest.Options{Browse: opcuatest.BrowseLimits{References: 100}, Tamper: fails[*ua.BrowseNextResponse](ua.StatusBadServiceUnsupported)},
		},
		"Machines is denied": {
			site: oneMachine("DeviceSet>PLC", "*PLC"), tags: []string{"Hall.tag"},
			o: opcuatest.Options{Browse: opcuatest.BrowseLimits{Denied: []string{siteNode("Machines").String()}}},
		},
		"what is above one tag is denied": {
			site: twoMachines(), tags: []string{"Mill.tag", "Saw.tag"},
			o: opcuatest.Options{Browse: opcuatest.BrowseLimits{Denied: []string{siteNode("Saw.tag").String()}}},
		},
		"what is above a folder of a tag is denied": {
			site: twoMachines("Saw>Box", "Box>Mill.tag"), tags: []string{"Mill.tag"},
			o: opcuatest.Options{Browse: opcuatest.BrowseLimits{Denied: []string{siteNode("Box").String()}}},
		},
		"what is above is mixed with what is below": {
			site: twoMachines(), tags: []string{"Hall.tag"},
			o: opcuatest.Options{References: func(n *ua.NodeID) []*ua.ReferenceDescription {
				if n.String() != siteNode("Hall").String() {
					return nil
				}
				return []*ua.ReferenceDescription{{
					ReferenceTypeID: ua.NewNumericNodeID(0, id.Organizes), IsForward: true, NodeID: ua.NewExpandedNodeID(siteNode("Mill"), "", 0),
					BrowseName: &ua.QualifiedName{NamespaceIndex: siteOwn, Name: "Mill"}, DisplayName: ua.NewLocalizedText("Mill"), NodeClass: ua.NodeClassObject, TypeDefinition: ua.NewNumericExpandedNodeID(0, 0),
				}}
			}},
		},
		"the namespace of Machines without the folder": {
			site: newSite("DeviceSet>PLC", "*PLC"), tags: []string{"x.tag"}, want: "SerialNumber of PLC",
			o: opcuatest.Options{Tamper: func(r ua.Response) {
				if b, ok := r.(*ua.BrowseResponse); ok && len(b.Results[0].References) == 0 {
					b.Results[0].StatusCode = ua.StatusBadNodeIDUnknown
				}
			}},
		},
		"one node per request, and too many above": {site: cells, tags: cellTags, most: 20, o: opcuatest.Options{Browse: opcuatest.BrowseLimits{Nodes: 1}}},
		"the same with more per request":           {site: cells, tags: cellTags, want: "SerialNumber of Mill"},
		"one node per request": {
			site: twoMachines(), tags: []string{"Mill.tag", "Mill.tag2"}, want: "SerialNumber of Mill",
			o: opcuatest.Options{MaxNodesPerRead: 5, Browse: opcuatest.BrowseLimits{Nodes: 1}},
		},
		"Browse is unsupported": {
			site: oneMachine(), tags: []string{"Hall.tag"},
			o: opcuatest.Options{Tamper: fails[*ua.BrowseResponse](ua.StatusBadServiceUnsupported)},
		},
		"Browse is denied": {
			site: oneMachine(), tags: []string{"Hall.tag"},
			o: opcuatest.Options{Tamper: fails[*ua.BrowseResponse](ua.StatusBadUserAccessDenied)},
		},
		"too few results": {
			site: oneMachine(), tags: []string{"Hall.tag"},
			o: opcuatest.Options{Tamper: func(r ua.Response) {
				if b, ok := r.(*ua.BrowseResponse); ok {
					b.Results = nil
				}
			}},
		},
		"references without names and nodes": {
			site: oneMachine(), tags: []string{"Hall.tag"},
			o: opcuatest.Options{Tamper: func(r ua.Response) {
				if b, ok := r.(*ua.BrowseResponse); ok {
					for _, one := range b.Results {
						for _, ref := range one.References {
							ref.NodeID, ref.BrowseName = ua.NewTwoByteExpandedNodeID(0), &ua.QualifiedName{}
						}
					}
				}
			}},
		},

		// Whose names they are.
		"a vendor's own names": {
			site: newSite("Machines>Mill", "Mill>Mill.own:SerialNumber", "Mill>Mill.own:Identification", "Mill.own:Identification>Mill.own:Identification.SerialNumber").
				with("Mill.own:SerialNumber", "of a workpiece"),
			tags: []string{"x.tag"},
		},
		"a serial number, listed twice": {site: newSite("Machines>Mill", "*Mill", "Mill>Mill.SerialNumber"), tags: []string{"x.tag"}, want: "SerialNumber of Mill"},
		"two serial numbers":            {site: newSite("Machines>Mill", "Mill>Mill.SerialNumber", "Mill>Other.SerialNumber"), tags: []string{"x.tag"}},
		"behind 600 others": {
			site: func() *site {
				s := newSite("Machines>Mill")
				for i := range 600 {
					s.link("Mill", fmt.Sprintf("Mill.tag%d", i))
				}
				s.plate("Mill")
				return s
			}(),
			tags: []string{"x.tag"}, want: "SerialNumber of Mill",
		},

		// What SDKs leave.
		"zeros":             {site: oneMachine().with("Mill.Identification.SerialNumber", "0000000"), tags: []string{"x.tag"}, partly: true},
		"crosses":           {site: oneMachine().with("Mill.Identification.SerialNumber", "XXXXXX"), tags: []string{"x.tag"}, partly: true},
		"the name":          {site: oneMachine().with("Mill.Identification.SerialNumber", "Serial Number"), tags: []string{"x.tag"}, partly: true},
		"the name in marks": {site: oneMachine().with("Mill.Identification.SerialNumber", "<serialnumber>"), tags: []string{"x.tag"}, partly: true},
		"a sample":          {site: oneMachine().with("Mill.Identification.SerialNumber", "1234567890"), tags: []string{"x.tag"}, partly: true},
		"not available":     {site: oneMachine().with("Mill.Identification.SerialNumber", " not  Available "), tags: []string{"x.tag"}, partly: true},
		"both say one":      {site: oneMachine("*Mill").with("Mill.Identification.SerialNumber", "1a").with("Mill.SerialNumber", "2b"), tags: []string{"x.tag"}, want: "1a"},
		"the other one":     {site: oneMachine("*Mill").with("Mill.Identification.SerialNumber", "n/a").with("Mill.SerialNumber", "7"), tags: []string{"x.tag"}, want: "7"},
	}
}

// Which machine a device is taken for, and that asking disturbs nothing.
func TestWhichMachine(t *testing.T) {
	t.Parallel()
	for name, c := range siteCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, asked := c.site.start(t, c.o)
			if err := srv.Set("ns=2;s=alive", int32(1)); err != nil {
				t.Fatal(err)
			}
			d := device(srv.Endpoint())
			for i, tag := range c.tags {
				if !strings.Contains(tag, "=") && tag[0] != '/' {
					tag = "ns=3;s=" + tag
				}
				d.Tags = append(d.Tags, protocols.Tag{Name: fmt.Sprintf("t%d", i), Address: tag})
			}
			watched := device(srv.Endpoint(), "ns=2;s=alive")
			all := []*protocols.Device{d}
			for range c.others {
				all = append(all, watched)
			}
			bus, err := driver(t).Open(all)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = bus.Close() })
			b := bus.(protocols.Subscriber)
			connect(t, b)
			if err := b.Subscribe(context.Background(), watched, allTags(watched)); err != nil {
				t.Fatal(err)
			}
			next(t, b, 5*time.Second)
			before := asked.Load()
			who, err := b.(protocols.Identifier).Identify(t.Context(), d)
			if err != nil || who.Serial != c.want || (who.Maker != "") != (c.want != "" || c.partly) {
				t.Errorf("%+v, %v; want %q", who, err, c.want)
			}
			most := c.most
			if most == 0 {
				most = 12
			}
			n := int(asked.Load() - before)
			t.Logf("%d requests", n)
			if n > most || c.o.Tamper == nil && srv.OpenPoints() > 0 {
				t.Errorf("%d requests, %d continuation points left", n, srv.OpenPoints())
			}
			if err := srv.Set("ns=2;s=alive", int32(2)); err != nil {
				t.Fatal(err)
			}
			if r := next(t, b, 5*time.Second); r.Err != nil || srv.Sessions() != 1 {
				t.Errorf("afterwards: %+v, %d sessions", r, srv.Sessions())
			}
		})
	}
}

// Being stopped says nothing of the connection.
func TestIdentifyIsStopped(t *testing.T) {
	t.Parallel()
	srv, _ := oneMachine().start(t, opcuatest.Options{})
	d := device(srv.Endpoint(), "ns=3;s=Mill.tag")
	b := open(t, driver(t), d)
	connect(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if who, err := b.(protocols.Identifier).Identify(ctx, d); protocols.KindOf(err) != protocols.KindTimeout || who != (protocols.Identity{}) {
		t.Errorf("%+v, %v", who, err)
	}
}

// A server that is silent about its machines, but speaks otherwise: it is not
// asked again and again, and the session is what it was.
func TestSilentAboutMachines(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit time.Duration // of who asks; 0: none but the request's time-out
		speak int32         // answers until it is silent
	}{
		"the request's time-out": {}, "the asker's": {limit: 200 * time.Millisecond}, "while tags are looked up from": {speak: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			life, goOn := context.WithCancel(t.Context())
			t.Cleanup(goOn)
			var asks atomic.Bool // from now on
			var browsed atomic.Int32
			srv, _ := twoMachines().start(t, opcuatest.Options{Product: "Acme Server", Tamper: func(r ua.Response) {
				if _, it := r.(*ua.BrowseResponse); it && asks.Load() && browsed.Add(1) > c.speak {
					<-life.Done()
				}
			}})
			d, watched := device(srv.Endpoint(), "ns=3;s=Mill.tag", "ns=3;s=Mill.tag2"), device(srv.Endpoint(), "ns=2;s=alive")
			watched.Timeout = 300 * time.Millisecond
			b := open(t, driver(t), watched)
			connect(t, b)
			if err := b.Subscribe(t.Context(), watched, allTags(watched)); err != nil {
				t.Fatal(err)
			}
			next(t, b, 5*time.Second)
			ctx := t.Context()
			if c.limit > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.limit)
				defer cancel()
			}
			asks.Store(true)
			who, err := b.(protocols.Identifier).Identify(ctx, d)
			goOn()
			if protocols.KindOf(err) != protocols.KindTimeout || who != (protocols.Identity{Software: "Acme Server"}) {
				t.Errorf("%+v, %v", who, err)
			}
			if err := srv.Set("ns=2;s=alive", int32(2)); err != nil {
				t.Fatal(err)
			}
			if r := next(t, b, 5*time.Second); r.Err != nil {
				t.Errorf("afterwards: %+v", r)
			}
			// A session that was taken for broken is left to the server.
			if err := b.Close(); err != nil || srv.Sessions() != 0 {
				t.Errorf("%v, %d sessions are left", err, srv.Sessions())
			}
			if n := browsed.Load(); n != c.speak+1 { // by now the server has seen all
				t.Errorf("asked %d times", n)
			}
		})
	}
}
