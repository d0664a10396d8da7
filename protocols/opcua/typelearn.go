package opcua

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// serverKey says which start of which server it is whose types are known.
type serverKey struct {
	started    int64  // nanoseconds since 1970; 0: the server does not say
	namespaces string // their numbers are part of all NodeIds
}

// currentTypes returns the book of the session's server: the one there was, if
// the server has not started anew since.
func (b *bus) currentTypes(ctx context.Context) (*typeBook, error) {
	if b.types != nil && b.typesOf == b.generation && !b.types.stale() {
		return b.types, nil
	}
	key := serverKey{namespaces: strings.Join(b.session.namespaces, "\x00")}
	g := newGatherer(nil, b, b.session, 1)
	got, err := g.read(ctx, []*ua.ReadValueID{valueOfNode(ua.NewNumericNodeID(0, id.Server_ServerStatus_StartTime), "")})
	if err != nil {
		return nil, err
	}
	if at, ok := goodValueOf(got[0]).(interface{ UnixNano() int64 }); ok {
		key.started = at.UnixNano()
	}
	if b.types == nil || key.started == 0 || key != b.typesKey || b.types.stale() {
		b.types = newTypeBook(b.driver.symbols, b.log)
	}
	b.typesKey, b.typesOf = key, b.generation
	b.session.types.Store(b.types)
	return b.types, nil
}

// learnTypes finds out what the tags' data types are, as far as that is needed
// to make sense of their values, and keeps it in addrs.
func (b *bus) learnTypes(ctx context.Context, d *protocols.Device, tags []int, addrs []address) error {
	book, err := b.currentTypes(ctx)
	if err != nil {
		return err
	}
	book.learning.Lock()
	defer book.learning.Unlock()
	g := newGatherer(book, b, b.session, b.session.limits.perRead)
	if err := g.tagTypes(ctx, addrs); err != nil {
		return err
	}
	if err := g.settle(ctx); err != nil {
		return err
	}
	if err := g.finish(ctx); err != nil {
		return err
	}
	plain := &form{book: book, plain: true}
	for i := range addrs {
		node, ok := addrs[i].nodeID(b.session.namespaces)
		if !ok {
			continue
		}
		t := &d.Tags[tags[i]]
		f := &form{book: book, dev: d, tag: t.Name, node: node}
		if dt := book.nodes[addrs[i].node()]; dt != nil {
			f.fill(dt, t)
		} else {
			// Not there, or not now.
			f.later = &laterForm{spec: t}
		}
		if f.plain {
			f = plain
		}
		addrs[i].form = f
	}
	return nil
}

// fill makes of f what is to be known of a tag with the given data type.
func (f *form) fill(dt *dataType, t *protocols.Tag) {
	k := keyOf(dt.id)
	f.later = nil
	switch f.book.root(k) {
	case id.Structure, id.BaseDataType, 0:
	case id.Enumeration:
		f.plain = true
		if known := f.book.types[k]; known != nil && known.names != nil && !wantsNumbers(t) {
			f.plain, f.names = false, known.names
		}
	default:
		f.plain = true
	}
	if t.Type != "" && !f.book.agrees(t.Type, k) {
		f.book.advise(f.dev.ID, t.Name, fmt.Sprintf("%s: the map says %s, the server has %s, which is what counts; correct the type in the map, or leave it empty", t.Name, t.Type, f.book.typeName(k)))
	}
}

// wantsNumbers says that a tag is worked on as a number.
func wantsNumbers(t *protocols.Tag) bool {
	return t.Enum != nil || t.HasScale || t.Deadband.Size > 0 || t.Min != nil || t.Max != nil
}

// tagTypes reads the data types of the tags that are not known yet, and has
// those asked for.
func (g *gatherer) tagTypes(ctx context.Context, addrs []address) error {
	var want []*ua.ReadValueID
	var of []string
	for i := range addrs {
		key := addrs[i].node()
		if _, known := g.book.nodes[key]; known {
			continue
		}
		if node, ok := addrs[i].nodeID(g.s.namespaces); ok {
			want = append(want, &ua.ReadValueID{NodeID: node, AttributeID: ua.AttributeIDDataType, DataEncoding: &ua.QualifiedName{}})
			of = append(of, key)
		}
	}
	got, err := g.read(ctx, want)
	if err != nil {
		return err
	}
	for i, key := range of {
		if dt := g.dataTypeIn(got[i]); dt != nil {
			g.book.nodes[key] = dt
		}
	}
	return nil
}

// dataTypeIn takes the answer for an attribute DataType; nil: it is not known,
// but may be later.
func (g *gatherer) dataTypeIn(dv *ua.DataValue) *dataType {
	node, ok := goodValueOf(dv).(*ua.NodeID)
	if !ok {
		if dv == nil || dv.Status&symbolMask == ua.StatusBadNodeIDUnknown {
			return nil
		}
		// The server doesn't tell. Anything may come.
		return &dataType{id: ua.NewTwoByteNodeID(0)}
	}
	g.declared[keyOf(node)] = true
	g.add(node, true)
	return &dataType{id: node}
}

// catchUp looks up what came and was not known, and returns the tags whose
// values are other ones now. It is called where somebody has the time; what
// the server does not know then is asked for once more another day.
func (b *bus) catchUp(ctx context.Context, s *session) map[*form]struct{} {
	book := s.types.Load()
	if book == nil || !book.waiting.Load() {
		return nil
	}
	book.mu.Lock()
	wanted, unsure := book.wanted, book.unsure
	book.wanted, book.unsure = nil, nil
	book.waiting.Store(false)
	book.mu.Unlock()
	book.learning.Lock()
	defer book.learning.Unlock()
	if err := book.lookUp(ctx, newGatherer(book, b, s, maxBrowse), wanted, unsure); err != nil {
		b.log.Debug("looking up data types failed", slog.Any("err", err))
		book.inVain(wanted, unsure)
		return nil
	}
	book.mu.Lock()
	defer book.mu.Unlock()
	again := book.behind
	book.behind = make(map[*form]struct{})
	for _, f := range unsure {
		if f.later.known.Load() != nil {
			again[f] = struct{}{}
		}
	}
	return again
}

// inVain has what could not be looked up asked for again when it comes again.
func (b *typeBook) inVain(encodings []*ua.NodeID, forms []*form) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range encodings {
		delete(b.asked, keyOf(n))
	}
	for _, f := range forms {
		f.later.asked.Store(0)
	}
}

func (b *typeBook) lookUp(ctx context.Context, g *gatherer, encodings []*ua.NodeID, forms []*form) error {
	owners, err := g.step(ctx, encodings, id.HasEncoding, false)
	if err != nil {
		return err
	}
	for _, node := range owners {
		if node != nil {
			g.add(node, false)
		}
	}
	want := make([]*ua.ReadValueID, len(forms))
	for i, f := range forms {
		want[i] = &ua.ReadValueID{NodeID: f.node, AttributeID: ua.AttributeIDDataType, DataEncoding: &ua.QualifiedName{}}
	}
	got, err := g.read(ctx, want)
	if err != nil {
		return err
	}
	types := make([]*dataType, len(forms))
	for i := range forms {
		types[i] = g.dataTypeIn(got[i])
	}
	if err := g.settle(ctx); err != nil {
		return err
	}
	if err := g.finish(ctx); err != nil {
		return err
	}
	for i, f := range forms {
		if types[i] != nil {
			known := &form{book: b, dev: f.dev, tag: f.tag, node: f.node}
			known.fill(types[i], f.later.spec)
			f.later.known.Store(known)
		}
	}
	return nil
}

// typeAdvice says where the tag map differs from the server, and what cannot
// be decoded.
func (b *bus) typeAdvice(d *protocols.Device) []string {
	if b.types == nil {
		return nil
	}
	return b.types.sentences(d.ID)
}

// learnTypes does for a scan what a subscription does when it is made.
func (s *scan) learnTypes(ctx context.Context) error {
	b := s.bus
	if s.book == nil || s.book != b.types || b.typesOf != b.generation || s.book.stale() {
		if err := b.learnTypes(ctx, s.dev, s.tags, s.addrs); err != nil {
			return err
		}
		s.book = b.types
	}
	b.catchUp(ctx, b.session)
	return nil
}

// typeName is a data type's name, for people.
func (b *typeBook) typeName(k nodeKey) string {
	if basic(k) {
		return basicNames()[k.num]
	}
	if t := b.types[k]; t != nil && t.name != "" {
		switch b.root(k) {
		case id.Enumeration:
			return "the enumeration " + t.name
		case id.Structure:
			return "the structure " + t.name
		}
		return t.name
	}
	return "a type that it does not describe"
}

// basicNames are the names of the built-in types and the roots of the others,
// by the number of their NodeId.
func basicNames() [builtinBase + 1]string {
	return [...]string{
		"", "Boolean", "SByte", "Byte", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float", "Double", "String", "DateTime", "Guid",
		"ByteString", "XmlElement", "NodeId", "ExpandedNodeId", "StatusCode", "QualifiedName", "LocalizedText", "Structure", "DataValue", "BaseDataType",
		"DiagnosticInfo", "Number", "Integer", "UInteger", "Enumeration",
	}
}

// agrees says that what a tag map calls a type is what the server has: its name,
// or that of a type it is derived from. Where the server says nothing, or leaves
// it open, anything agrees.
func (b *typeBook) agrees(said string, k nodeKey) bool {
	if b.root(k) == 0 || k == standard(id.BaseDataType) {
		return true
	}
	said = opcuaName(said)
	for range maxTypes {
		if basic(k) {
			name := basicNames()[k.num]
			numeric := k.num == id.Number || k.num == id.Integer || k.num == id.UInteger
			return strings.EqualFold(said, name) || numeric || strings.EqualFold(said, "BaseDataType")
		}
		t := b.types[k]
		if t == nil {
			return true
		}
		if strings.EqualFold(said, strings.Trim(t.name, `"`)) || strings.EqualFold(said, t.name) {
			return true
		}
		k = t.base
	}
	return true
}

// opcuaName is the name of a type as OPC UA has it, of one as other tag maps
// have it, without what makes it an array.
func opcuaName(said string) string {
	if i := strings.IndexAny(said, "[("); i > 0 {
		said = said[:i]
	}
	said = strings.TrimSpace(said)
	switch strings.ToLower(said) {
	case "bool":
		return "Boolean"
	case "int8":
		return "SByte"
	case "uint8":
		return "Byte"
	case "float32":
		return "Float"
	case "float64":
		return "Double"
	case "bytes":
		return "ByteString"
	case "enum":
		return "Enumeration"
	case "struct", "object", "extensionobject":
		return "Structure"
	}
	return said
}
