package opcua

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// BrowseOptions say what Browse looks for.
type BrowseOptions struct {
	// Include selects variables; none: all below /Objects. What a server says
	// of itself (/Objects/Server), /Types and /Views are walked only where a
	// glob writes them out.
	Include []*Glob
	// Exclude leaves nodes out, with all that is below them.
	Exclude []*Glob
	// Properties makes properties variables like others. They are read for
	// units and ranges in any case.
	Properties bool
	// Details reads MinimumSamplingInterval and Historizing as well.
	Details bool
	// ByIndex writes addresses with ns= instead of nsu=.
	ByIndex bool
	// MaxNodes ends the walk after so many nodes. 0: DefaultMaxNodes.
	MaxNodes int
	// Progress, if not nil, is called after each answer of the server.
	Progress func(BrowseSummary)
}

// DefaultMaxNodes bounds the memory of a walk: some 150 MB.
const DefaultMaxNodes = 500_000

// maxDepth is the length of the longest path that is followed.
const maxDepth = maxPathSegments

// PathName is one browse name of a path.
type PathName struct {
	Namespace uint16
	Name      string
}

// Variable is a variable that Browse found.
type Variable struct {
	Path    []PathName // from Objects on
	Address string     // as a tag's address

	Type        string // such as Double, Int32[] or an enumeration's name; empty: not known
	Unit        string
	Min, Max    *float64 // the EURange, or else the InstrumentRange, of a number
	Description string

	Writable    bool
	Historizing bool          // with Details
	Sampling    time.Duration // MinimumSamplingInterval, with Details; below 0: not known
}

// PathText is the variable's browse path with namespaces, which a tag may have
// as its address.
func (v *Variable) PathText() string {
	path := make([]pathSegment, len(v.Path))
	for i, n := range v.Path {
		path[i] = pathSegment{int32(n.Namespace), n.Name}
	}
	text := pathText(path)
	if a, err := parseAddress(text); err == nil && a.rng == "" && text == strings.TrimSpace(text) {
		return text
	}
	return text + "[]" // keeps brackets and spaces at the end what they are
}

// BrowseSummary counts what Browse came across.
type BrowseSummary struct {
	Nodes      int // walked
	Variables  int // selected by the globs
	Found      int // handed on
	Refused    int // nodes that the server does not let be looked at
	Unreadable int // selected variables that this user must not read
	Unwritable int // selected variables whose NodeId no tag map can hold
	Deep       int // nodes left out for the length of their path
	Objects    int // nodes that a glob selects, but which are no variables
	Calls      int // requests
	// Stopped says that MaxNodes were reached.
	Stopped bool
	// RefusedAt names some of the nodes that refused, with the reasons.
	RefusedAt []string
}

// maxRefusedNamed is how many nodes RefusedAt names.
const maxRefusedNamed = 5

// Browse walks the address space of dev's server, breadth first, and hands on
// the variables that can be read, each once, by its shortest path. It makes a
// session of its own. With an error, the summary says how far it came.
func (d *Driver) Browse(ctx context.Context, dev *protocols.Device, o BrowseOptions, found func(*Variable) error) (BrowseSummary, error) {
	conf, err := d.connConf([]*protocols.Device{dev})
	if err != nil {
		return BrowseSummary{}, err
	}
	b := newBus(d, conf)
	if err := b.Connect(ctx); err != nil {
		return BrowseSummary{}, err
	}
	defer b.Close() //nolint:errcheck,contextcheck // it never fails, is bounded by itself, and must not be cut short
	return b.walk(ctx, o, found)
}

// walk is Browse in a session that there is.
func (b *bus) walk(ctx context.Context, o BrowseOptions, found func(*Variable) error) (BrowseSummary, error) {
	w := newWalker(b, o, found)
	err := w.run(ctx)
	w.sum.Calls = w.browser.calls + w.describer.calls
	return w.sum, err
}

// spot is a node's place in the tree of paths; those below it share it.
type spot struct {
	up    *spot
	name  PathName
	depth int
}

func (p *spot) path() []PathName {
	path := make([]PathName, p.depth)
	for q := p; q != nil; q = q.up {
		path[q.depth-1] = q.name
	}
	return path
}

// visit is a node that is to be walked.
type visit struct {
	node     *ua.NodeID
	at       *spot
	sel      *selection
	variable bool
	about    *about // nil until a property of it is seen
}

// about are the properties of a variable that say something of its value.
type about struct {
	unit, euRange, instrument *ua.NodeID
}

// walker is one walk.
type walker struct {
	bus       *bus
	o         BrowseOptions
	found     func(*Variable) error
	browser   *browser
	describer *describer
	selector  *selector
	seed      maphash.Seed
	// seen are the hashes of nodes, each with the selection it was come to
	// with: by another path it may be selected that by the first was not.
	seen map[uint64]struct{}
	done map[uint64]struct{} // the hashes of the variables that were handed on
	skip map[uint32]bool     // nodes of namespace 0 that nobody asked for

	now  []visit // being browsed
	next []visit // the level below
	sum  BrowseSummary
}

func newWalker(b *bus, o BrowseOptions, found func(*Variable) error) *walker {
	if len(o.Include) == 0 {
		all, _ := ParseGlob("/Objects/**") // it is one
		o.Include = []*Glob{all}
	}
	if o.MaxNodes <= 0 {
		o.MaxNodes = DefaultMaxNodes
	}
	w := &walker{
		bus: b, o: o, found: found, selector: newSelector(o.Include, o.Exclude), seed: maphash.MakeSeed(),
		seen: make(map[uint64]struct{}), done: make(map[uint64]struct{}), skip: make(map[uint32]bool),
	}
	classes := ua.NodeClassObject | ua.NodeClassVariable
	asks := func(n int, name string) bool {
		return slices.ContainsFunc(o.Include, func(g *Glob) bool { return g.names(n, name) })
	}
	if asks(0, "Types") {
		classes |= ua.NodeClassObjectType | ua.NodeClassVariableType
	}
	w.browser = newBrowser(b, b.session, classes)
	w.describer = newDescriber(b, o.Details)
	w.skip[rootFolder] = true
	for name, folder := range roots() {
		w.skip[folder] = folder != objectsFolder && !asks(0, name)
	}
	w.skip[serverObject] = !asks(1, "Server")
	return w
}

// run walks level by level.
func (w *walker) run(ctx context.Context) error {
	start := w.selector.start()
	for _, name := range []string{"Objects", "Types", "Views"} {
		w.meet(ua.NewNumericNodeID(0, roots()[name]), nil, start, PathName{0, name}, false)
	}
	for len(w.next) > 0 {
		level := w.next
		w.next = nil
		for len(level) > 0 {
			n := min(len(level), mostBrowseNodes)
			if err := w.some(ctx, level[:n]); err != nil {
				return err
			}
			clear(level[:n]) // what was walked is forgotten
			level = level[n:]
		}
	}
	return nil
}

// some browses and describes a part of a level.
func (w *walker) some(ctx context.Context, part []visit) error {
	if w.sum.Stopped {
		// What was met is told of; nothing new is looked for.
		part = slices.DeleteFunc(part, func(v visit) bool { return !v.variable || !v.sel.hit })
	}
	w.now = part
	nodes := make([]*ua.NodeID, len(part))
	for i := range part {
		nodes[i] = part[i].node
	}
	if err := w.browser.browse(ctx, nodes, w); err != nil {
		return err
	}
	var wanted []visit
	for i := range part {
		v := &part[i]
		switch {
		case !v.sel.hit:
		case !v.variable:
			w.sum.Objects++
		case w.first(v.node):
			w.sum.Variables++
			wanted = append(wanted, *v)
		}
	}
	if err := w.describe(ctx, wanted); err != nil {
		return err
	}
	if w.o.Progress != nil {
		w.o.Progress(w.sum)
	}
	return nil
}

// first says that a variable was not handed on before.
func (w *walker) first(n *ua.NodeID) bool {
	h := w.hash(n, 0)
	if _, ok := w.done[h]; ok {
		return false
	}
	w.done[h] = struct{}{}
	return true
}

// hash is 64 bits, seeded at random: that two of a million nodes have the same
// is less likely than a fault of the memory.
func (w *walker) hash(n *ua.NodeID, selection int) uint64 {
	var h maphash.Hash
	h.SetSeed(w.seed)
	maphash.WriteComparable(&h, selection)
	maphash.WriteComparable(&h, n.Namespace())
	maphash.WriteComparable(&h, n.IntID())
	if k := n.Type(); k != ua.NodeIDTypeTwoByte && k != ua.NodeIDTypeFourByte && k != ua.NodeIDTypeNumeric {
		maphash.WriteComparable(&h, k)
		_, _ = h.WriteString(n.StringID()) // it never fails
	}
	return h.Sum64()
}

// reference is for browseSink.
func (w *walker) reference(i int, r *ua.ReferenceDescription) {
	from := &w.now[i]
	node := w.bus.session.localNode(r.NodeID)
	if node == nil {
		return
	}
	variable := r.NodeClass == ua.NodeClassVariable
	if variable && isProperty(r) {
		if from.variable {
			from.note(r, node)
		}
		if !w.o.Properties {
			return
		}
	}
	w.meet(node, from.at, from.sel, PathName{r.BrowseName.NamespaceIndex, r.BrowseName.Name}, variable)
}

func isProperty(r *ua.ReferenceDescription) bool {
	return isStandard(r.ReferenceTypeID, id.HasProperty) ||
		r.TypeDefinition != nil && isStandard(r.TypeDefinition.NodeID, id.PropertyType)
}

func isStandard(n *ua.NodeID, number uint32) bool {
	return n != nil && n.Namespace() == 0 && n.IntID() == number
}

// note keeps a property that says something of the value (Part 8, 5.3.2).
func (v *visit) note(r *ua.ReferenceDescription, node *ua.NodeID) {
	if v.about == nil {
		v.about = new(about)
	}
	switch r.BrowseName.Name {
	case "EngineeringUnits":
		v.about.unit = node
	case "EURange":
		v.about.euRange = node
	case "InstrumentRange":
		v.about.instrument = node
	}
}

// meet puts a node on the list of those to walk, if it is worth it and was
// not there before.
func (w *walker) meet(node *ua.NodeID, up *spot, from *selection, name PathName, variable bool) {
	if node.Namespace() == 0 && w.skip[node.IntID()] || w.sum.Stopped {
		return
	}
	sel := w.selector.step(from, name.Namespace, name.Name)
	if !sel.hit && !sel.alive {
		return
	}
	at := &spot{up: up, name: name, depth: 1}
	if up != nil {
		at.depth += up.depth
	}
	if at.depth > maxDepth {
		w.sum.Deep++
		return
	}
	h := w.hash(node, sel.number+1)
	if _, ok := w.seen[h]; ok {
		return
	}
	w.seen[h] = struct{}{}
	w.sum.Nodes++
	w.next = append(w.next, visit{node: node, at: at, sel: sel, variable: variable})
	if len(w.seen) >= w.o.MaxNodes {
		w.sum.Stopped = true
	}
}

// refused is for browseSink.
func (w *walker) refused(i int, status ua.StatusCode) { w.refuse(&w.now[i], status) }

func (w *walker) refuse(v *visit, status ua.StatusCode) {
	w.sum.Refused++
	if len(w.sum.RefusedAt) < maxRefusedNamed {
		w.sum.RefusedAt = append(w.sum.RefusedAt, fmt.Sprintf("%s (%s)", spotText(v.at), w.bus.driver.symbols.symbol(status)))
	}
}

func spotText(p *spot) string {
	var b strings.Builder
	for _, n := range p.path() {
		b.WriteByte('/')
		writeName(&b, n.Name, true)
	}
	return oneLine(b.String()) // for a person, and of the server's choice
}

// enough is for browseSink.
func (w *walker) enough(i int) bool { return w.sum.Stopped && !w.now[i].variable }

// errStopped is what a callback's error is wrapped in.
var errStopped = errors.New("the walk was ended")
