package opcua

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// The folders that every server has (Part 5, 8.2), and its own object.
const (
	rootFolder    = id.RootFolder
	objectsFolder = id.ObjectsFolder
	typesFolder   = id.TypesFolder
	viewsFolder   = id.ViewsFolder
	serverObject  = id.Server
)

// How much one Browse asks for. The number of nodes begins small, for PLCs
// that take seconds, and grows while answers come quickly; the references
// that one answer may bring bound its size, at some hundred bytes each.
const (
	firstBrowseNodes = 20
	mostBrowseNodes  = 200
	referencesAtOnce = 40_000
	mostReferences   = 5000 // of one node
	quickAnswer      = 300 * time.Millisecond
	slowAnswer       = 2 * time.Second
	browseTries      = 3   // of a node whose continuation point was lost
	mostEmptyAnswers = 100 // one after the other, of one node
)

// browser asks for references, within what the server bears.
type browser struct {
	bus     *bus
	session *session
	most    int // nodes per Browse, as the server says
	nodes   int // nodes per Browse, for now
	refs    int // references per Browse; halved where answers are too large
	// hasty: nothing is asked twice. A time-out ends it, and a node whose
	// continuation point is lost has refused.
	hasty bool
	req   ua.BrowseDescription
	calls int
}

// newBrowser returns a browser for all forward hierarchical references to
// nodes of the given classes.
func newBrowser(b *bus, s *session, classes ua.NodeClass) *browser {
	most := min(s.limits.perBrowse, mostBrowseNodes)
	return &browser{
		bus: b, session: s, most: most, nodes: min(most, firstBrowseNodes), refs: referencesAtOnce,
		req: ua.BrowseDescription{
			BrowseDirection: ua.BrowseDirectionForward,
			ReferenceTypeID: ua.NewNumericNodeID(0, id.HierarchicalReferences), IncludeSubtypes: true,
			NodeClassMask: uint32(classes),
			ResultMask: uint32(ua.BrowseResultMaskReferenceTypeID | ua.BrowseResultMaskNodeClass |
				ua.BrowseResultMaskBrowseName | ua.BrowseResultMaskTypeDefinition),
		},
	}
}

// browseSink takes what a browser finds.
type browseSink interface {
	// reference is called for each reference of the i-th node. A node that was
	// asked again may bring the same one twice.
	reference(i int, r *ua.ReferenceDescription)
	// refused is called for a node whose references are not, or not all, known.
	refused(i int, status ua.StatusCode)
	// enough says that no more of the i-th node's references are wanted.
	enough(i int) bool
}

// browse asks for the references of nodes. Its error says that going on is
// useless.
func (b *browser) browse(ctx context.Context, nodes []*ua.NodeID, sink browseSink) error {
	for lo := 0; lo < len(nodes); {
		hi := min(lo+b.nodes, len(nodes))
		began := time.Now()
		again, err := b.once(ctx, nodes, numbers(lo, hi), sink)
		if err != nil {
			smaller, fatal := b.afterError(ctx, err, hi-lo)
			switch {
			case fatal != nil:
				return fatal
			case !smaller:
				sink.refused(lo, statusOf(err))
				lo = hi
			}
			continue
		}
		if b.hasty {
			for _, lost := range again {
				sink.refused(lost.i, lost.status)
			}
		} else if err := b.alone(ctx, nodes, again, sink); err != nil {
			return err
		}
		b.pace(time.Since(began))
		lo = hi
	}
	return nil
}

// numbers returns the numbers from lo to hi.
func numbers(lo, hi int) []int {
	all := make([]int, hi-lo)
	for i := range all {
		all[i] = lo + i
	}
	return all
}

// pace fits the number of nodes to how long an answer takes.
func (b *browser) pace(took time.Duration) {
	switch {
	case took < quickAnswer:
		b.nodes = min(2*b.nodes, b.most)
	case took > slowAnswer:
		b.nodes = max(1, b.nodes/2)
	}
}

// afterError decides what follows a Browse of n nodes that failed: smaller
// ones, giving up this node, or giving up altogether.
func (b *browser) afterError(ctx context.Context, err error, n int) (smaller bool, fatal error) {
	e := b.bus.explain(fmt.Sprintf("browsing %d nodes", n), err)
	late := e.Kind == protocols.KindTimeout && ctx.Err() == nil
	switch {
	case ctx.Err() != nil || e.Kind == protocols.KindNotConnected || late && (n == 1 || b.hasty):
		return false, e
	case n > 1 && (late || wantsFewer(err) || e.Kind == protocols.KindMalformed):
		b.nodes = max(1, n/4)
		if wantsFewer(err) {
			b.most = b.nodes
		}
		return true, nil
	case n > 1:
		b.nodes = 1
		return true, nil
	case wantsFewer(err) && b.refs > 100:
		b.refs /= 10
		return true, nil
	}
	return false, nil
}

// statusOf is the status code behind an error of one node.
func statusOf(err error) ua.StatusCode {
	if status, ok := errors.AsType[ua.StatusCode](err); ok {
		return status
	}
	return ua.StatusBadDecodingError
}

// alone asks once more, one by one, for nodes for which the server had no
// continuation point left, or has lost it.
func (b *browser) alone(ctx context.Context, nodes []*ua.NodeID, again []lostNode, sink browseSink) error {
	for _, lost := range again {
		for try := 1; ; try++ {
			if try == browseTries {
				sink.refused(lost.i, lost.status)
				break
			}
			refs := b.refs
			if try == browseTries-1 {
				b.refs = 0 // all at once: that needs no continuation point
			}
			more, err := b.once(ctx, nodes, []int{lost.i}, sink)
			b.refs = refs
			if err != nil {
				if _, fatal := b.afterError(ctx, err, 1); fatal != nil {
					return fatal
				}
				lost.status = statusOf(err)
				continue
			}
			if len(more) == 0 {
				break
			}
			lost = more[0]
		}
	}
	return nil
}

// lostNode is one that must be asked again.
type lostNode struct {
	i      int
	status ua.StatusCode
}

// openNode is one with more references to come.
type openNode struct {
	i     int
	point []byte
	first nodeKey // where the first reference of the last answer leads to
	empty int     // answers without a reference, or with that one again
}

// once sends a Browse, and what BrowseNext it takes.
func (b *browser) once(ctx context.Context, nodes []*ua.NodeID, which []int, sink browseSink) (again []lostNode, err error) {
	req := &ua.BrowseRequest{View: &ua.ViewDescription{ViewID: ua.NewTwoByteNodeID(0)}}
	if b.refs > 0 {
		req.RequestedMaxReferencesPerNode = uint32(min(max(b.refs/len(which), 10), mostReferences))
	}
	for _, i := range which {
		one := b.req
		one.NodeID = nodes[i]
		req.NodesToBrowse = append(req.NodesToBrowse, &one)
	}
	b.calls++
	res, err := call[*ua.BrowseResponse](ctx, b.session, req)
	if err == nil && len(res.Results) != len(which) {
		err = fmt.Errorf("%w: %d results for %d nodes", errMalformed, len(res.Results), len(which))
	}
	if err != nil {
		return nil, err
	}
	var open []openNode
	for n, i := range which {
		open, again = take(openNode{i: i}, res.Results[n], sink, open, again)
	}
	for {
		if open = b.wanted(ctx, open, sink); len(open) == 0 {
			return again, nil
		}
		var more []lostNode
		if open, more, err = b.next(ctx, open, sink); err != nil {
			return nil, err
		}
		again = append(again, more...)
	}
}

// wanted returns the open nodes of which more is wanted, and lets go of the others.
func (b *browser) wanted(ctx context.Context, open []openNode, sink browseSink) []openNode {
	var rest, over []openNode
	for _, n := range open {
		if sink.enough(n.i) {
			over = append(over, n)
		} else {
			rest = append(rest, n)
		}
	}
	if len(over) > 0 {
		b.release(ctx, over)
	}
	return rest
}

// take hands on the references of a result, and puts its node where it
// belongs: among those that are open, or to be asked again.
func take(n openNode, r *ua.BrowseResult, sink browseSink, open []openNode, again []lostNode) ([]openNode, []lostNode) {
	if r == nil {
		sink.refused(n.i, ua.StatusBadDecodingError)
		return open, again
	}
	switch r.StatusCode & symbolMask {
	case ua.StatusBadNoContinuationPoints, ua.StatusBadContinuationPointInvalid:
		return open, append(again, lostNode{n.i, r.StatusCode})
	}
	if isBad(r.StatusCode) {
		sink.refused(n.i, r.StatusCode)
		return open, again
	}
	for _, ref := range r.References {
		if ref != nil && ref.NodeID != nil && ref.NodeID.NodeID != nil && ref.BrowseName != nil {
			sink.reference(n.i, ref)
		}
	}
	if len(r.ContinuationPoint) == 0 {
		return open, again
	}
	n.point, n.empty = r.ContinuationPoint, n.empty+1
	// Servers that forget where they were begin with the first page again, and
	// would for ever.
	if first := firstOf(r); first != n.first {
		n.first, n.empty = first, 0
	}
	if n.empty == mostEmptyAnswers {
		sink.refused(n.i, ua.StatusBadNoContinuationPoints)
		return open, again
	}
	return append(open, n), again
}

// firstOf is where the first reference of an answer leads to.
func firstOf(r *ua.BrowseResult) nodeKey {
	if len(r.References) == 0 || r.References[0] == nil || r.References[0].NodeID == nil {
		return nodeKey{}
	}
	return keyOf(r.References[0].NodeID.NodeID)
}

// next sends one BrowseNext for all open nodes.
func (b *browser) next(ctx context.Context, open []openNode, sink browseSink) (rest []openNode, again []lostNode, err error) {
	part := open[:min(len(open), b.most)]
	req := &ua.BrowseNextRequest{}
	for _, n := range part {
		req.ContinuationPoints = append(req.ContinuationPoints, n.point)
	}
	b.calls++
	res, err := call[*ua.BrowseNextResponse](ctx, b.session, req)
	if err == nil && len(res.Results) != len(part) {
		err = fmt.Errorf("%w: %d results for %d continuation points", errMalformed, len(res.Results), len(part))
	}
	if err != nil {
		b.release(ctx, open)
		return nil, nil, err
	}
	for i, r := range res.Results {
		rest, again = take(part[i], r, sink, rest, again)
	}
	return append(rest, open[len(part):]...), again, nil
}

// release gives the continuation points of open nodes back: servers have few.
func (b *browser) release(ctx context.Context, open []openNode) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	req := &ua.BrowseNextRequest{ReleaseContinuationPoints: true}
	for _, n := range open {
		req.ContinuationPoints = append(req.ContinuationPoints, n.point)
	}
	_, _ = call[*ua.BrowseNextResponse](ctx, b.session, req) // they also end with the session
}

// localNode returns the NodeId that a reference leads to; nil for one on
// another server.
func (s *session) localNode(n *ua.ExpandedNodeID) *ua.NodeID {
	if n == nil || n.NodeID == nil || n.ServerIndex != 0 {
		return nil
	}
	node := ua.NewNodeIDFromExpandedNodeID(n)
	if n.NamespaceURI == "" {
		return node
	}
	ns := indexOf(s.namespaces, n.NamespaceURI)
	if ns < 0 {
		return nil
	}
	if k := node.Type(); k == ua.NodeIDTypeTwoByte || k == ua.NodeIDTypeFourByte {
		node = ua.NewNumericNodeID(0, node.IntID()) // the short forms hold no index
	}
	if node.SetNamespace(uint16(ns)) != nil {
		return nil
	}
	return node
}

// readMany reads attributes in as many requests as the server wants. out[i] is
// nil where the answer cannot be decoded.
func (b *bus) readMany(ctx context.Context, nodes []*ua.ReadValueID, out []*ua.DataValue) error {
	for lo := 0; lo < len(nodes); {
		hi := min(lo+b.session.limits.perRead, len(nodes))
		if err := b.readSome(ctx, nodes[lo:hi], out[lo:hi]); err != nil {
			return err
		}
		lo = hi
	}
	return nil
}

func (b *bus) readSome(ctx context.Context, nodes []*ua.ReadValueID, out []*ua.DataValue) error {
	res, err := call[*ua.ReadResponse](ctx, b.session, &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnNeither, NodesToRead: nodes})
	if err == nil && len(res.Results) != len(nodes) {
		err = fmt.Errorf("%w: %d results for %d nodes", errMalformed, len(res.Results), len(nodes))
	}
	if err == nil {
		copy(out, res.Results)
		return nil
	}
	e := b.explain(fmt.Sprintf("reading the attributes of %d nodes", len(nodes)), err)
	if ctx.Err() != nil || e.Kind == protocols.KindNotConnected || e.Kind == protocols.KindTimeout && len(nodes) == 1 {
		return e
	}
	if len(nodes) == 1 {
		return nil
	}
	mid := len(nodes) / 2
	if wantsFewer(err) {
		b.session.limits.perRead = max(1, min(b.session.limits.perRead, mid))
	}
	if err := b.readSome(ctx, nodes[:mid], out[:mid]); err != nil {
		return err
	}
	return b.readSome(ctx, nodes[mid:], out[mid:])
}
