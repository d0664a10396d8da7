package opcua

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// The bits of an access level (Part 3, 8.57).
const (
	currentRead  = 1
	currentWrite = 2
)

// describer reads what a walk tells of the variables.
type describer struct {
	bus     *bus
	attrs   []ua.AttributeID
	details bool
	types   map[string]*typeLabel // by the text of their NodeIds
	calls   int
}

func newDescriber(b *bus, details bool) *describer {
	d := &describer{bus: b, details: details, types: builtInTypes(), attrs: []ua.AttributeID{
		ua.AttributeIDDataType, ua.AttributeIDValueRank, ua.AttributeIDAccessLevel, ua.AttributeIDUserAccessLevel, ua.AttributeIDDescription,
	}}
	if details {
		d.attrs = append(d.attrs, ua.AttributeIDMinimumSamplingInterval, ua.AttributeIDHistorizing)
	}
	return d
}

// description is what was read of a variable: nil where the server has nothing.
type description struct {
	attrs                     []*ua.DataValue // as describer.attrs
	unit, euRange, instrument *ua.DataValue
}

// describe hands on the variables of a part of a level.
func (w *walker) describe(ctx context.Context, part []visit) error {
	if len(part) == 0 {
		return nil
	}
	all, err := w.describer.read(ctx, part)
	if err != nil {
		return err
	}
	if err := w.describer.learnTypes(ctx, all); err != nil {
		return err
	}
	for i := range part {
		if err := w.handOn(&part[i], &all[i]); err != nil {
			return err
		}
	}
	return nil
}

// read asks for the attributes and properties of variables.
func (d *describer) read(ctx context.Context, part []visit) ([]description, error) {
	var ask []*ua.ReadValueID
	attribute := func(n *ua.NodeID, attr ua.AttributeID) {
		ask = append(ask, &ua.ReadValueID{NodeID: n, AttributeID: attr, DataEncoding: &ua.QualifiedName{}})
	}
	for i := range part {
		for _, attr := range d.attrs {
			attribute(part[i].node, attr)
		}
		for _, n := range part[i].about.nodes() {
			attribute(n, ua.AttributeIDValue)
		}
	}
	got := make([]*ua.DataValue, len(ask))
	if err := d.bus.readMany(ctx, ask, got); err != nil {
		return nil, err
	}
	d.calls += (len(ask) + d.bus.session.limits.perRead - 1) / d.bus.session.limits.perRead
	all := make([]description, len(part))
	for i := range part {
		one := &all[i]
		one.attrs, got = got[:len(d.attrs)], got[len(d.attrs):]
		if a := part[i].about; a != nil {
			for _, p := range []struct {
				node *ua.NodeID
				to   **ua.DataValue
			}{{a.unit, &one.unit}, {a.euRange, &one.euRange}, {a.instrument, &one.instrument}} {
				if p.node != nil {
					*p.to, got = got[0], got[1:]
				}
			}
		}
	}
	return all, nil
}

// nodes returns the properties that there are, in the order that read gives them out.
func (a *about) nodes() []*ua.NodeID {
	if a == nil {
		return nil
	}
	var all []*ua.NodeID
	for _, n := range []*ua.NodeID{a.unit, a.euRange, a.instrument} {
		if n != nil {
			all = append(all, n)
		}
	}
	return all
}

// handOn makes a Variable of what was read.
func (w *walker) handOn(v *visit, d *description) error {
	level, status := accessLevel(d)
	if status != ua.StatusOK {
		w.refuse(v, status)
		return nil
	}
	if level&currentRead == 0 {
		w.sum.Unreadable++
		return nil
	}
	address, ok := addressOf(v.node, w.bus.session.namespaces, w.o.ByIndex)
	if !ok {
		w.sum.Unwritable++
		return nil
	}
	out := &Variable{Path: v.at.path(), Address: address, Writable: level&currentWrite != 0, Description: localText(d.attrs[4]), Sampling: -1}
	if t := w.describer.typeOf(d); t != nil {
		out.Type = t.name + rankText(d.attrs[1])
		if t.number {
			out.Min, out.Max = rangeOf(d.euRange, d.instrument)
		}
	}
	if eu, ok := structure(d.unit).(*ua.EUInformation); ok && eu.DisplayName != nil {
		out.Unit = oneLine(eu.DisplayName.Text)
	}
	if w.describer.details {
		if ms, ok := plainValue(d.attrs[5]).(float64); ok && ms >= 0 && ms < math.MaxInt32 {
			out.Sampling = time.Duration(ms * float64(time.Millisecond))
		}
		out.Historizing, _ = plainValue(d.attrs[6]).(bool)
	}
	if err := w.found(out); err != nil {
		return fmt.Errorf("%w: %w", errStopped, err)
	}
	w.sum.Found++
	return nil
}

// accessLevel returns what this user may do with the value, or the status
// that keeps it from being known.
func accessLevel(d *description) (uint8, ua.StatusCode) {
	level, ok := plainValue(d.attrs[2]).(uint8)
	if user, known := plainValue(d.attrs[3]).(uint8); known {
		if ok {
			user &= level
		}
		return user, ua.StatusOK
	}
	if ok {
		return level, ua.StatusOK
	}
	for _, dv := range []*ua.DataValue{d.attrs[2], d.attrs[3]} {
		if dv != nil && isBad(dv.Status) {
			return 0, dv.Status
		}
	}
	return 0, ua.StatusBadDecodingError
}

// plainValue is the value of an attribute; nil if there is none.
func plainValue(dv *ua.DataValue) any {
	if dv == nil || dv.Value == nil || isBad(dv.Status) {
		return nil
	}
	return dv.Value.Value()
}

func localText(dv *ua.DataValue) string {
	if t, ok := plainValue(dv).(*ua.LocalizedText); ok && t != nil {
		return oneLine(t.Text)
	}
	return ""
}

// oneLine makes text of a server fit for a line of a file.
func oneLine(s string) string { return harmless(s, 500) }

// harmless takes out of a text what a server may have put there for a terminal
// or an editor to obey, and cuts it to that many characters.
func harmless(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || turnsText(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return strings.TrimSpace(s)
}

// turnsText says that a character ends a line, or has what follows shown in
// another order than it is in.
func turnsText(r rune) bool {
	return r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
}

// structure returns the structure that a property holds.
func structure(dv *ua.DataValue) any {
	if x, ok := plainValue(dv).(*ua.ExtensionObject); ok && x != nil {
		return x.Value
	}
	return nil
}

// rangeOf returns the first range that says something. A range from 0 to 0 is
// one that nobody filled in.
func rangeOf(ranges ...*ua.DataValue) (low, high *float64) {
	for _, dv := range ranges {
		r, ok := structure(dv).(*ua.Range)
		if ok && r.Low < r.High && !math.IsInf(r.Low, 0) && !math.IsInf(r.High, 0) {
			return &r.Low, &r.High
		}
	}
	return nil, nil
}

// rankText writes a ValueRank (Part 3, 5.6.2) behind a type.
func rankText(dv *ua.DataValue) string {
	rank, ok := plainValue(dv).(int32)
	switch {
	case !ok || rank < 0:
		return ""
	case rank == 0: // one dimension or more
		rank = 1
	}
	return strings.Repeat("[]", int(min(rank, 10)))
}

// typeLabel is what is known of a data type.
type typeLabel struct {
	name   string
	number bool
}

// builtInTypes are the types that need no looking up, by the text of their
// NodeIds: the built-in ones (Part 6, 5.1.2) and the abstract numbers.
func builtInTypes() map[string]*typeLabel {
	types := make(map[string]*typeLabel)
	for i, name := range []string{
		"Boolean", "SByte", "Byte", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float", "Double", "String",
		"DateTime", "Guid", "ByteString", "XmlElement", "NodeId", "ExpandedNodeId", "StatusCode", "QualifiedName",
		"LocalizedText", "Structure", "DataValue", "BaseDataType", "DiagnosticInfo", "Number", "Integer", "UInteger", "Enumeration",
	} {
		n := i + 1
		number := n >= id.SByte && n <= id.Double || n >= id.Number && n <= id.UInteger
		types[fmt.Sprintf("i=%d", n)] = &typeLabel{name, number}
	}
	return types
}

func (d *describer) typeOf(one *description) *typeLabel {
	if n, ok := plainValue(one.attrs[0]).(*ua.NodeID); ok && n != nil {
		return d.types[nodeIDText(n)]
	}
	return nil
}

// unknownType is a data type whose name and base are being looked up.
type unknownType struct {
	node  *ua.NodeID
	above *ua.NodeID // how far up its base was followed; nil: to the end
	name  string
}

// learnTypes looks up the data types that are new.
func (d *describer) learnTypes(ctx context.Context, all []description) error {
	fresh := make(map[string]*unknownType)
	var order []*unknownType
	for i := range all {
		n, ok := plainValue(all[i].attrs[0]).(*ua.NodeID)
		if !ok || n == nil {
			continue
		}
		key := nodeIDText(n)
		if d.types[key] == nil && fresh[key] == nil {
			fresh[key] = &unknownType{node: n, above: n}
			order = append(order, fresh[key])
		}
	}
	if len(order) == 0 {
		return nil
	}
	if err := d.nameTypes(ctx, order); err != nil {
		return err
	}
	// A type is below one that is known, within a few steps: of an enumeration
	// or a structure the own name is kept, of others (Duration) the base counts.
	const maxSteps = 20
	for range maxSteps {
		open := d.settle(order)
		if len(open) == 0 {
			break
		}
		if err := d.climb(ctx, open); err != nil {
			return err
		}
	}
	for key, u := range fresh {
		if d.types[key] == nil {
			d.types[key] = &typeLabel{name: u.name}
		}
	}
	return nil
}

// settle enters the types whose base is known, and returns the others.
func (d *describer) settle(all []*unknownType) []*unknownType {
	var open []*unknownType
	for _, u := range all {
		key := nodeIDText(u.node)
		if d.types[key] != nil {
			continue
		}
		if u.above == nil {
			d.types[key] = &typeLabel{name: u.name}
			continue
		}
		base := d.types[nodeIDText(u.above)]
		switch {
		case base == nil:
			open = append(open, u)
		case isStandard(u.above, id.Structure), isStandard(u.above, id.Enumeration), isStandard(u.above, id.BaseDataType):
			d.types[key] = &typeLabel{name: u.name}
		case u.above.Namespace() == 0 && u.above.IntID() <= id.UInteger:
			d.types[key] = base
		default: // a base that was looked up before: the same kind
			own := *base
			if !d.isBuiltIn(base.name) {
				own.name = u.name
			}
			d.types[key] = &own
		}
	}
	return open
}

func (d *describer) isBuiltIn(name string) bool {
	for n := 1; n <= id.UInteger; n++ {
		if d.types[fmt.Sprintf("i=%d", n)].name == name {
			return true
		}
	}
	return false
}

// nameTypes reads the browse names of types.
func (d *describer) nameTypes(ctx context.Context, all []*unknownType) error {
	ask := make([]*ua.ReadValueID, len(all))
	for i, u := range all {
		ask[i] = &ua.ReadValueID{NodeID: u.node, AttributeID: ua.AttributeIDBrowseName, DataEncoding: &ua.QualifiedName{}}
	}
	got := make([]*ua.DataValue, len(ask))
	if err := d.bus.readMany(ctx, ask, got); err != nil {
		return err
	}
	d.calls++
	for i, u := range all {
		if q, ok := plainValue(got[i]).(*ua.QualifiedName); ok && q != nil {
			u.name = typeName(q.Name)
		}
	}
	return nil
}

// typeName leaves nothing in a type's name that a table could take for
// something else: "[" says that it is an array.
func typeName(s string) string {
	s = strings.Map(func(r rune) rune {
		if strings.ContainsRune("[](){}=+-@'\",;", r) {
			return '_'
		}
		return r
	}, oneLine(s))
	return strings.TrimSpace(string([]rune(s)[:min(len([]rune(s)), 100)]))
}

// climb moves types one step up the tree of types.
func (d *describer) climb(ctx context.Context, open []*unknownType) error {
	up := newBrowser(d.bus, d.bus.session, ua.NodeClassDataType)
	up.req.BrowseDirection = ua.BrowseDirectionInverse
	up.req.ReferenceTypeID, up.req.IncludeSubtypes = ua.NewNumericNodeID(0, id.HasSubtype), false
	nodes := make([]*ua.NodeID, len(open))
	for i, u := range open {
		nodes[i] = u.above
		u.above = nil
	}
	err := up.browse(ctx, nodes, climber{d.bus.session, open})
	d.calls += up.calls
	return err
}

// climber is a browseSink.
type climber struct {
	session *session
	open    []*unknownType
}

func (c climber) reference(i int, r *ua.ReferenceDescription) {
	c.open[i].above = c.session.localNode(r.NodeID)
}

func (climber) refused(int, ua.StatusCode) {}

func (climber) enough(int) bool { return false }
