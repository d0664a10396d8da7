package opcua

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// dataType is what a server says about one of its data types.
type dataType struct {
	id       *ua.NodeID
	name     string
	abstract bool
	base     nodeKey // what it is a subtype of; null: not known
	subtypes []nodeKey
	encoding *ua.NodeID // Default Binary; nil: none is known
	property *ua.NodeID // with the names of an enumeration
	def      any        // *ua.StructureDefinition or *ua.EnumDefinition; nil: the server has none
	names    *enumeration
	shape    *shape // nil: not made yet

	whole   bool // its definition was asked for, not its place among the others alone
	missing bool // the server has no such node
}

// gatherer asks a server about data types, one batch of requests after the
// other: those of the tags, what these are made of, and what may come in their
// place.
type gatherer struct {
	book  *typeBook
	bus   *bus // for what its errors mean
	s     *session
	limit int // nodes per request

	ids      map[nodeKey]*ua.NodeID
	names    map[nodeKey]string
	declared map[nodeKey]bool // types that a tag or a field has
	open     map[nodeKey]bool // subtypes of these may arrive
	pending  []nodeKey
	fresh    []*dataType // asked for by this gatherer
}

func newGatherer(b *typeBook, of *bus, s *session, limit int) *gatherer {
	return &gatherer{book: b, bus: of, s: s, limit: limit, ids: make(map[nodeKey]*ua.NodeID), names: make(map[nodeKey]string), declared: make(map[nodeKey]bool), open: make(map[nodeKey]bool)}
}

// builtinBase is the highest of the built-in types' NodeIds, and those of the
// abstract numbers and enumerations.
const builtinBase = id.Enumeration

// basic returns the built-in types and the roots of the others, which need not
// be asked for.
func basic(k nodeKey) bool {
	return k.ns == 0 && k.kind == 'i' && k.num >= 1 && k.num <= builtinBase
}

// add has a type asked for. With open, any of its subtypes may arrive in its
// place; whole is false for those that are only looked at on the way.
func (g *gatherer) add(node *ua.NodeID, open bool) {
	k := keyOf(node)
	if k.isNull() || k == standard(id.BaseDataType) && !open {
		return
	}
	if k == standard(id.BaseDataType) {
		// All that can arrive and is not a built-in type is a structure.
		node = ua.NewNumericNodeID(0, id.Structure)
		k = keyOf(node)
	}
	again := open && !g.open[k]
	if open {
		g.open[k] = true
	}
	if basic(k) && k != standard(id.Structure) || k == standard(id.Structure) && !open {
		return
	}
	t := g.book.types[k]
	if t != nil && !again {
		return
	}
	if t == nil && g.ids[k] != nil && !again {
		return // it is pending
	}
	g.ids[k] = node
	if !slices.Contains(g.pending, k) {
		g.pending = append(g.pending, k)
	}
}

// settle asks until nothing is left to ask.
func (g *gatherer) settle(ctx context.Context) error {
	for {
		if err := g.run(ctx); err != nil {
			return err
		}
		// Of which fields subtypes may arrive is known only now.
		for _, t := range g.fresh {
			if def, ok := t.def.(*ua.StructureDefinition); ok {
				for _, f := range def.Fields {
					if f != nil && f.DataType != nil && g.isAbstract(f.DataType) {
						g.add(f.DataType, true)
					}
				}
			}
		}
		if len(g.pending) == 0 {
			return nil
		}
	}
}

// run asks for what is pending, and for what that leads to.
func (g *gatherer) run(ctx context.Context) error {
	for len(g.pending) > 0 {
		keys := g.pending
		g.pending = nil
		var asked []*dataType
		for _, k := range keys {
			if g.book.types[k] == nil && len(g.book.types) < maxTypes {
				t := &dataType{id: g.ids[k]}
				asked = append(asked, t)
			}
		}
		if err := g.fetch(ctx, asked); err != nil {
			return err
		}
		for _, t := range asked {
			g.book.types[keyOf(t.id)] = t
			g.fresh = append(g.fresh, t)
		}
		for _, k := range keys {
			if t := g.book.types[k]; t != nil {
				g.follow(k, t)
			}
		}
	}
	return nil
}

// follow has asked for what a type leads to.
func (g *gatherer) follow(k nodeKey, t *dataType) {
	if !t.base.isNull() && !basic(t.base) {
		g.add(g.idOf(t.base), false)
	}
	if g.open[k] {
		for _, sub := range t.subtypes {
			g.add(g.idOf(sub), true)
		}
	}
	def, ok := t.def.(*ua.StructureDefinition)
	if !ok {
		return
	}
	for _, f := range def.Fields {
		if f != nil && f.DataType != nil {
			g.declared[keyOf(f.DataType)] = true
			g.add(f.DataType, allowsSubtypes(def, f))
		}
	}
}

func (g *gatherer) isAbstract(node *ua.NodeID) bool {
	k := keyOf(node)
	if k == standard(id.Structure) || k == standard(id.BaseDataType) {
		return true
	}
	t := g.book.types[k]
	return t != nil && t.abstract
}

func (g *gatherer) idOf(k nodeKey) *ua.NodeID {
	if t := g.book.types[k]; t != nil {
		return t.id
	}
	return g.ids[k]
}

// fetch fills in what the server says about types.
func (g *gatherer) fetch(ctx context.Context, types []*dataType) error {
	if err := g.browse(ctx, types); err != nil {
		return err
	}
	var want []*ua.ReadValueID
	var of []*dataType
	for _, t := range types {
		k := keyOf(t.id)
		t.whole = true
		if k.ns == 0 && !g.declared[k] && t.encoding != nil && goTypeOf(t.encoding) != nil && g.names[k] != "" {
			// One of the standard's many that gopcua knows, and that only might
			// come in the place of another.
			t.name, t.whole = g.names[k], false
			continue
		}
		for _, a := range [...]ua.AttributeID{ua.AttributeIDBrowseName, ua.AttributeIDIsAbstract, ua.AttributeIDDataTypeDefinition} {
			want = append(want, &ua.ReadValueID{NodeID: t.id, AttributeID: a, DataEncoding: &ua.QualifiedName{}})
		}
		of = append(of, t)
	}
	got, err := g.read(ctx, want)
	if err != nil {
		return err
	}
	for i, t := range of {
		t.take(got[3*i], got[3*i+1], got[3*i+2])
	}
	return g.enumNames(ctx, of)
}

// take fills in the attributes of a type.
func (t *dataType) take(name, abstract, def *ua.DataValue) {
	if n, ok := goodValueOf(name).(*ua.QualifiedName); ok && n.Name != "" {
		t.name = n.Name
	} else if name != nil && name.Status&symbolMask == ua.StatusBadNodeIDUnknown {
		t.missing = true
	}
	t.abstract, _ = goodValueOf(abstract).(bool)
	if o, ok := goodValueOf(def).(*ua.ExtensionObject); ok {
		switch d := o.Value.(type) {
		case *ua.StructureDefinition:
			t.def = d
			if t.encoding == nil && !keyOf(d.DefaultEncodingID).isNull() {
				t.encoding = d.DefaultEncodingID
			}
		case *ua.EnumDefinition:
			t.def = d
		}
	}
	if t.name == "" {
		t.name = nodeIDText(t.id)
	}
}

// goodValueOf returns the value of an answer, nil where there is none.
func goodValueOf(dv *ua.DataValue) any {
	if dv == nil || dv.Value == nil || isBad(dv.Status) {
		return nil
	}
	return dv.Value.Value()
}

// enumNames finds the names of the enumerations among types: in the
// definition, or in the properties that older servers have instead.
func (g *gatherer) enumNames(ctx context.Context, types []*dataType) error {
	var want []*ua.ReadValueID
	var of []*dataType
	for _, t := range types {
		if def, ok := t.def.(*ua.EnumDefinition); ok && len(def.Fields) > 0 {
			t.names = newEnumeration(t.name)
			for _, f := range def.Fields {
				if f != nil {
					t.names.add(f.Value, f.Name)
				}
			}
			continue
		}
		if t.property != nil && t.def == nil {
			want, of = append(want, valueOfNode(t.property, "")), append(of, t)
		}
	}
	got, err := g.read(ctx, want)
	if err != nil {
		return err
	}
	for i, t := range of {
		t.names = namesIn(t.name, goodValueOf(got[i]))
	}
	return nil
}

// namesIn reads the property EnumStrings, which has a name for each number from
// 0, or EnumValues (Part 3, 5.8.3).
func namesIn(name string, v any) *enumeration {
	e := newEnumeration(name)
	switch list := v.(type) {
	case []*ua.LocalizedText:
		for i, text := range list {
			if text != nil {
				e.add(int64(i), text.Text)
			}
		}
	case []*ua.ExtensionObject:
		for _, o := range list {
			if o == nil {
				continue
			}
			if v, ok := o.Value.(*ua.EnumValueType); ok && v.DisplayName != nil {
				e.add(v.Value, v.DisplayName.Text)
			}
		}
	}
	if len(e.names) == 0 {
		return nil
	}
	return e
}

// read reads nodes, as many at once as the server takes. Where the server
// refuses, or what it says cannot be understood, the answer is nil.
func (g *gatherer) read(ctx context.Context, nodes []*ua.ReadValueID) ([]*ua.DataValue, error) {
	out := make([]*ua.DataValue, len(nodes))
	for lo := 0; lo < len(nodes); {
		hi := min(lo+g.limit, len(nodes))
		err := g.readSome(ctx, nodes[lo:hi], out[lo:hi])
		if unsupported(err) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		lo = hi
	}
	return out, nil
}

// readSome reads nodes in one request, or in smaller and smaller ones until the
// one that cannot be answered stands alone.
func (g *gatherer) readSome(ctx context.Context, nodes []*ua.ReadValueID, out []*ua.DataValue) error {
	res, err := call[*ua.ReadResponse](ctx, g.s, &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnNeither, NodesToRead: nodes})
	if err == nil && len(res.Results) != len(nodes) {
		err = fmt.Errorf("%w: %d results for %d nodes", errMalformed, len(res.Results), len(nodes))
	}
	if err == nil {
		copy(out, res.Results)
		return nil
	}
	if unsupported(err) || !g.survives(err) {
		return err
	}
	half := len(nodes) / 2
	if half == 0 {
		return nil
	}
	if wantsFewer(err) {
		g.limit = min(g.limit, half)
	}
	if err := g.readSome(ctx, nodes[:half], out[:half]); err != nil {
		return err
	}
	return g.readSome(ctx, nodes[half:], out[half:])
}

// unsupported says that the server does not offer a service at all.
func unsupported(err error) bool { return errors.Is(err, ua.StatusBadServiceUnsupported) }

// survives says that the connection is still there after an error: the
// server refused, or what it said could not be understood.
func (g *gatherer) survives(err error) bool {
	kind, _, _ := g.bus.classify(err)
	return kind == protocols.KindRefused || kind == protocols.KindMalformed
}

// browse asks for the references of types.
func (g *gatherer) browse(ctx context.Context, types []*dataType) error {
	nodes := make([]*ua.NodeID, len(types))
	for i, t := range types {
		nodes[i] = t.id
	}
	refs, err := g.references(ctx, nodes)
	if err != nil {
		return err
	}
	for i, t := range types {
		for _, r := range refs[i] {
			g.note(t, r)
		}
	}
	return nil
}

// note takes in one reference of a type.
func (g *gatherer) note(t *dataType, r *ua.ReferenceDescription) {
	other := localNode(r.NodeID, g.s.namespaces)
	if other == nil {
		return
	}
	k := keyOf(other)
	name := ""
	if r.BrowseName != nil {
		name = r.BrowseName.Name
	}
	switch keyOf(r.ReferenceTypeID) {
	case standard(id.HasSubtype):
		if r.IsForward {
			t.subtypes = append(t.subtypes, k)
		} else if t.base.isNull() {
			t.base = k
		}
		if g.ids[k] == nil {
			g.ids[k] = other
		}
		g.names[k] = name
	case standard(id.HasEncoding):
		if r.IsForward && name == "Default Binary" {
			t.encoding = other
		}
	case standard(id.HasProperty):
		if r.IsForward && (name == "EnumStrings" || name == "EnumValues") {
			t.property = other
		}
	}
}

// localNode returns the NodeId behind an expanded one; nil if it is of another
// server, or of a namespace that this one does not have.
func localNode(n *ua.ExpandedNodeID, namespaces []string) *ua.NodeID {
	if n == nil || n.NodeID == nil || n.ServerIndex != 0 {
		return nil
	}
	plain := ua.NewNodeIDFromExpandedNodeID(n)
	if n.NamespaceURI != "" {
		i := indexOf(namespaces, n.NamespaceURI)
		if i < 0 || plain.SetNamespace(uint16(i)) != nil {
			return nil
		}
	}
	return plain
}

// maxBrowse is how many nodes are browsed at once.
const maxBrowse = 100

// references returns the references of nodes, both ways. A node that cannot be
// browsed has none.
func (g *gatherer) references(ctx context.Context, nodes []*ua.NodeID) ([][]*ua.ReferenceDescription, error) {
	out := make([][]*ua.ReferenceDescription, len(nodes))
	for lo := 0; lo < len(nodes); {
		hi := min(lo+maxBrowse, lo+g.limit, len(nodes))
		err := g.browseSome(ctx, nodes[lo:hi], out[lo:hi])
		if unsupported(err) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		lo = hi
	}
	return out, nil
}

// browseSome does for references what readSome does for attributes.
func (g *gatherer) browseSome(ctx context.Context, nodes []*ua.NodeID, out [][]*ua.ReferenceDescription) error {
	const referenceType, isForward, browseName = 1, 2, 8 // of the result mask (Part 4, 5.9.2)
	req := &ua.BrowseRequest{View: &ua.ViewDescription{ViewID: ua.NewTwoByteNodeID(0)}}
	for _, n := range nodes {
		req.NodesToBrowse = append(req.NodesToBrowse, &ua.BrowseDescription{
			NodeID: n, BrowseDirection: ua.BrowseDirectionBoth, ReferenceTypeID: ua.NewTwoByteNodeID(0), IncludeSubtypes: true,
			ResultMask: referenceType | isForward | browseName,
		})
	}
	res, err := call[*ua.BrowseResponse](ctx, g.s, req)
	if err == nil && len(res.Results) != len(nodes) {
		err = fmt.Errorf("%w: %d results for %d nodes", errMalformed, len(res.Results), len(nodes))
	}
	if err == nil {
		return g.collect(ctx, out, res.Results)
	}
	if unsupported(err) || !g.survives(err) {
		return err
	}
	half := len(nodes) / 2
	if half == 0 {
		return nil
	}
	if wantsFewer(err) {
		g.limit = min(g.limit, half)
	}
	if err := g.browseSome(ctx, nodes[:half], out[:half]); err != nil {
		return err
	}
	return g.browseSome(ctx, nodes[half:], out[half:])
}

// maxReferences is how many references of one node are looked at.
const maxReferences = 50_000

// collect takes the references out of browse results, and fetches what did not
// fit into them.
func (g *gatherer) collect(ctx context.Context, out [][]*ua.ReferenceDescription, results []*ua.BrowseResult) error {
	for i, r := range results {
		for r != nil && !isBad(r.StatusCode) {
			out[i] = append(out[i], r.References...)
			if len(r.ContinuationPoint) == 0 {
				break
			}
			over := len(out[i]) >= maxReferences
			res, err := call[*ua.BrowseNextResponse](ctx, g.s, &ua.BrowseNextRequest{ReleaseContinuationPoints: over, ContinuationPoints: [][]byte{r.ContinuationPoint}})
			if err != nil && !g.survives(err) {
				return err
			}
			if err != nil || over || len(res.Results) != 1 {
				break
			}
			r = res.Results[0]
		}
		out[i] = slices.DeleteFunc(out[i], func(r *ua.ReferenceDescription) bool { return r == nil || r.NodeID == nil })
	}
	return nil
}

// allowsSubtypes says that a field holds its data type or any subtype of it
// (Part 3, 8.51: IsOptional means that in types with subtyped values).
func allowsSubtypes(def *ua.StructureDefinition, f *ua.StructureField) bool {
	subtyped := def.StructureType == ua.StructureTypeStructureWithSubtypedValues || def.StructureType == ua.StructureTypeUnionWithSubtypedValues
	return subtyped && f.IsOptional
}

// readDictionaries finds the layout of types that the server describes only in
// a type dictionary: by its encoding's description, which names the entry in
// the dictionary that it is part of (Part 5, annex D).
func (g *gatherer) readDictionaries(ctx context.Context, types []*dataType) (map[*dataType]bsdName, error) {
	nodes := make([]*ua.NodeID, len(types))
	for i, t := range types {
		nodes[i] = t.encoding
	}
	descriptions, err := g.step(ctx, nodes, id.HasDescription, true)
	if err != nil {
		return nil, err
	}
	homes, err := g.step(ctx, descriptions, id.HasComponent, false)
	if err != nil {
		return nil, err
	}
	want := make([]*ua.ReadValueID, len(types))
	for i, n := range descriptions {
		if n == nil {
			n = ua.NewTwoByteNodeID(0)
		}
		want[i] = valueOfNode(n, "")
	}
	entries, err := g.read(ctx, want)
	if err != nil {
		return nil, err
	}
	found := make(map[*dataType]bsdName)
	for i, t := range types {
		name, ok := goodValueOf(entries[i]).(string)
		if !ok || homes[i] == nil {
			continue
		}
		space, err := g.readDictionary(ctx, homes[i])
		if err != nil {
			return nil, err
		}
		found[t] = bsdName{space, name}
	}
	return found, g.readOthers(ctx, found)
}

// step goes from each node over the first reference of a kind. The nodes may
// be nil, and what it returns may be.
func (g *gatherer) step(ctx context.Context, nodes []*ua.NodeID, kind uint32, forward bool) ([]*ua.NodeID, error) {
	out := make([]*ua.NodeID, len(nodes))
	var from []*ua.NodeID
	var pos []int
	for i, n := range nodes {
		if n != nil {
			from, pos = append(from, n), append(pos, i)
		}
	}
	refs, err := g.references(ctx, from)
	if err != nil {
		return nil, err
	}
	for i, list := range refs {
		for _, r := range list {
			if keyOf(r.ReferenceTypeID) == standard(kind) && r.IsForward == forward && out[pos[i]] == nil {
				out[pos[i]] = localNode(r.NodeID, g.s.namespaces)
			}
		}
	}
	return out, nil
}

// readDictionary reads one dictionary, if it has not been, and returns the
// namespace of its types. One that cannot be read has none.
func (g *gatherer) readDictionary(ctx context.Context, node *ua.NodeID) (string, error) {
	k := keyOf(node)
	if space, ok := g.book.dictIDs[k]; ok {
		return space, nil
	}
	got, err := g.read(ctx, []*ua.ReadValueID{valueOfNode(node, "")})
	if err != nil {
		return "", err
	}
	if g.book.dicts == nil {
		g.book.dicts = newDictionaries()
	}
	var space string
	if text, ok := goodValueOf(got[0]).([]byte); ok {
		if space, err = g.book.dicts.add(text); err != nil {
			g.book.log.Warn("a type dictionary cannot be read", slog.String("node", nodeIDText(node)), slog.Any("err", err))
		}
	}
	g.book.dictIDs[k] = space
	return space, nil
}

// readOthers reads the rest of the server's dictionaries, where a type refers
// to one that has not been read.
func (g *gatherer) readOthers(ctx context.Context, found map[*dataType]bsdName) error {
	if g.book.dicts == nil || !g.book.dicts.lacks(found) {
		return nil
	}
	refs, err := g.references(ctx, []*ua.NodeID{ua.NewNumericNodeID(0, id.OPCBinarySchema_TypeSystem)})
	if err != nil {
		return err
	}
	for _, r := range refs[0] {
		if r.IsForward && keyOf(r.ReferenceTypeID) == standard(id.HasComponent) {
			if node := localNode(r.NodeID, g.s.namespaces); node != nil {
				if _, err := g.readDictionary(ctx, node); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// lacks says that one of the entries, or what it is made of, is not there.
func (ds *dictionaries) lacks(found map[*dataType]bsdName) bool {
	seen := make(map[bsdName]bool)
	for _, n := range found {
		if ds.lacksType(n, seen) {
			return true
		}
	}
	return false
}

func (ds *dictionaries) lacksType(n bsdName, seen map[bsdName]bool) bool {
	if seen[n] {
		return false
	}
	seen[n] = true
	t := ds.types[n]
	s, ok := t.(*bsdStructure)
	if !ok {
		return t == nil
	}
	dict := ds.homes[n]
	for i := range s.Fields {
		f := &s.Fields[i]
		space, name, ok := qualified(f.Type, f.Attrs, s.Attrs, dict.Attrs)
		if !ok || space == schemaOPC || space == schemaUA && (uaType(name) != nil || ds.goShape(name) != nil) {
			continue
		}
		if ds.lacksType(bsdName{space, name}, seen) {
			return true
		}
	}
	return false
}
