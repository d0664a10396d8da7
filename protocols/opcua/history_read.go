package opcua

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

const (
	// maxPerNode is how many values of one node one request asks for.
	maxPerNode = 1000
	// endMargin is added to the end of what is asked for: servers may cut times
	// to milliseconds, and whether the end belongs to it differs, too. What is
	// too much is dropped.
	endMargin = 2 * time.Millisecond
	// nodeTries is how often in a row one node's history may fail for a reason
	// that may pass.
	nodeTries = 3
	// fewestPerNode is how many values of one node one request asks for at the
	// least, unless all are asked for.
	fewestPerNode = 10
)

// tagOf is one tag of one device.
type tagOf struct {
	past *past
	tag  int32
}

// historyReader makes HistoryRead requests in one session. One goroutine uses
// it. See Part 4, 5.11.3 and Part 11, 6.5.3.
type historyReader struct {
	bus     *bus
	session *session

	perRead    int // nodes of a Read
	perCall    int // nodes of a HistoryRead
	perNode    int // values of one node; 0: the server cannot keep a place, and is to send all there is
	timestamps ua.TimestampsToReturn
	access     map[tagOf]string // why there is no history of it; empty: there is one
	tries      map[tagOf]int
	nodes      map[tagOf]*ua.NodeID
	addrs      map[tagOf]*address // what is known of their types, too
}

func newHistoryReader(b *bus, s *session) *historyReader {
	return &historyReader{
		bus: b, session: s, perRead: s.limits.perRead, perCall: s.limits.perHistoryRead, perNode: maxPerNode,
		timestamps: ua.TimestampsToReturnBoth,
		access:     map[tagOf]string{}, tries: map[tagOf]int{}, nodes: map[tagOf]*ua.NodeID{}, addrs: map[tagOf]*address{},
	}
}

// Why a tag has no history.
const (
	noHistory     = "the server keeps no history of them, or not for this user"
	rangedHistory = "a part of an array has no history of its own"
	noHistoryNode = "they are not on the server"
)

// without says why a tag's history cannot be read; empty: it can.
func (r *historyReader) without(p *past, tag int32) string { return r.access[tagOf{p, tag}] }

// prepare asks for the server's time, and which of the tags have a history if
// that is not known in this session. It is asked for when it is needed: few
// sessions ever have a gap.
func (r *historyReader) prepare(ctx context.Context, p *past, tags []int32) (now, started time.Time, err error) {
	now, started, err = r.serverTimes(ctx)
	if err != nil {
		return now, started, err
	}
	var ask []int32
	for _, tag := range tags {
		at := tagOf{p, tag}
		if why, known := r.access[at]; known && (why == "" || why == noHistory || why == rangedHistory) {
			continue
		} // another reason may have passed
		a, node, why := r.nodeOf(p.dev, tag)
		if r.access[at] = why; why == "" {
			r.nodes[at], r.addrs[at] = node, a
			ask = append(ask, tag)
		}
	}
	for lo := 0; lo < len(ask); {
		hi := min(lo+max(r.perRead/2, 1), len(ask))
		err := r.readAccess(ctx, p, ask[lo:hi])
		if wantsFewer(err) && hi-lo > 1 {
			r.perRead = (hi - lo) / 2 * 2
			continue
		}
		if err != nil {
			for _, tag := range ask[lo:] {
				delete(r.access, tagOf{p, tag})
			}
			return now, started, err
		}
		lo = hi
	}
	return now, started, nil
}

// serverTimes returns the server's time, or ours, and when it was started, if
// it says so.
func (r *historyReader) serverTimes(ctx context.Context) (now, started time.Time, err error) {
	now = r.bus.driver.o.Now()
	values, err := r.session.readStandard(ctx, id.Server_ServerStatus_CurrentTime)
	if err != nil {
		return now, started, err
	}
	if at := timeOf(values[0]); !at.IsZero() {
		now = at
	}
	if values, err = r.session.readStandard(ctx, id.Server_ServerStatus_StartTime); err != nil {
		return now, started, err
	}
	return now, timeOf(values[0]), nil
}

// nodeOf returns where a tag's history is, or why it has none.
func (r *historyReader) nodeOf(d *protocols.Device, tag int32) (*address, *ua.NodeID, string) {
	a := r.addressOf(d, tag)
	if a == nil {
		return nil, nil, noHistoryNode
	}
	if a.rng != "" {
		// Servers ignore the range in a HistoryRead, and nothing in the answer
		// shows that they did.
		return nil, nil, rangedHistory
	}
	node, ok := a.nodeID(r.session.namespaces)
	if !ok {
		return nil, nil, noHistoryNode
	}
	return a, node, ""
}

// addressOf returns the address of a tag as its subscription has it: with
// where a path leads to, and what is known of the type, so that what is read
// back has the form of what was live.
func (r *historyReader) addressOf(d *protocols.Device, tag int32) *address {
	for _, sub := range r.session.pub.subscriptions() {
		if sub.dev != d {
			continue
		}
		if h := slices.Index(sub.tags, tag); h >= 0 {
			return r.session.pub.addressCopy(sub, h)
		}
	}
	return nil
}

// readAccess reads whether there is a history, and whether we may read it
// (Part 3, 5.6.2 and 8.57).
func (r *historyReader) readAccess(ctx context.Context, p *past, tags []int32) error {
	req := &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnNeither}
	for _, tag := range tags {
		for _, attribute := range [...]ua.AttributeID{ua.AttributeIDUserAccessLevel, ua.AttributeIDAccessLevel} {
			req.NodesToRead = append(req.NodesToRead, &ua.ReadValueID{NodeID: r.nodes[tagOf{p, tag}], AttributeID: attribute, DataEncoding: &ua.QualifiedName{}})
		}
	}
	res, err := call[*ua.ReadResponse](ctx, r.session, req)
	if err != nil {
		return err
	}
	if len(res.Results) != len(req.NodesToRead) {
		return fmt.Errorf("%w: %d results for %d attributes", errMalformed, len(res.Results), len(req.NodesToRead))
	}
	for i, tag := range tags {
		user, all := accessOf(res.Results[2*i]), accessOf(res.Results[2*i+1])
		if user < 0 {
			user = all
		}
		if user < 0 || user&int(ua.AccessLevelTypeHistoryRead) == 0 {
			r.access[tagOf{p, tag}] = noHistory
		}
	}
	return nil
}

// accessOf returns an access level, or -1.
func accessOf(dv *ua.DataValue) int {
	if dv == nil || dv.Value == nil || isBad(dv.Status) {
		return -1
	}
	if level, ok := dv.Value.Value().(uint8); ok {
		return int(level)
	}
	return -1
}

// window is a stretch of source times of a gap, and what was found in it.
type window struct {
	past     *past
	at, end  int64
	last     bool // it reaches the end of the gap
	nodes    []*nodePart
	values   []protocols.Reading
	arrived  time.Time
	size     time.Duration // that was tried
	narrowed bool
	unneeded []place
	gap      *gap
	known    map[int32]struct{} // tags of which the value before the gap was found
}

// place is where a server would go on with a node's history.
type place struct {
	node  *ua.NodeID
	point []byte
}

// nodePart is one node's part in a window.
type nodePart struct {
	tag   int32
	node  *ua.NodeID
	spans []span
	point []byte // where the server goes on
	found []protocols.Reading
	empty int    // answers in a row that had nothing, but a place to go on
	page  uint64 // the print of the last answer, if that had such a place
	// upTo is what found is whole up to, exclusively.
	upTo int64
}

// window returns what is to be read next of a gap; nil: it is done.
func (r *historyReader) window(p *past, g *gap, f *filling) *window {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := &window{past: p, gap: g, at: g.at, size: f.window, end: math.MinInt64, known: map[int32]struct{}{}}
	byTag := map[int32]*nodePart{}
	first := int64(math.MaxInt64)
	for i := range g.spans {
		s := &g.spans[i]
		to := s.to.time
		if to == 0 {
			to = max(f.limit, s.from.time)
		}
		// A clock that is far ahead for a moment is no reason to look there.
		to = min(to, max(f.limit, s.from.time)+int64(p.dev.OPCUA.History))
		if s.unchanged() || to < g.at || r.without(p, s.tag) != "" {
			continue
		}
		w.end = max(w.end, to+1)
		first = min(first, max(s.from.time, g.at))
		n := byTag[s.tag]
		if n == nil {
			n = &nodePart{tag: s.tag, node: r.nodes[tagOf{p, s.tag}]}
			byTag[s.tag] = n
			w.nodes = append(w.nodes, n)
		}
		c := span{tag: s.tag, from: s.from.clone(), to: s.to.clone()}
		if c.to.time == 0 {
			c.to.time = to
		}
		n.spans = append(n.spans, c)
	}
	if len(w.nodes) == 0 {
		return nil
	}
	w.at = max(w.at, first) // nothing is wanted of what is before
	w.limit(w.at + int64(w.size))
	w.keepWithin()
	return w
}

// limit ends the window at a time that servers can express.
func (w *window) limit(end int64) {
	step := int64(windowStep)
	if end-w.at >= 2*int64(time.Second) {
		step = int64(time.Second)
	}
	end = end / step * step
	if end <= w.at {
		end = (w.at/step + 1) * step
	}
	if w.end <= end {
		w.last = true
		return
	}
	w.end = end
}

// keepWithin drops the nodes that want nothing of the window.
func (w *window) keepWithin() {
	kept := w.nodes[:0]
	for _, n := range w.nodes {
		for i := range n.spans {
			if n.spans[i].from.time < w.end {
				n.upTo = w.at
				kept = append(kept, n)
				break
			}
		}
	}
	w.nodes = kept
}

// narrow ends the window earlier.
func (w *window) narrow(end int64) {
	if end >= w.end {
		return
	}
	w.end, w.narrowed = end, true
	for _, n := range w.nodes {
		n.cut(end)
	}
}

func (w *window) count() int {
	sum := 0
	for _, n := range w.nodes {
		sum += len(n.found)
	}
	return sum
}

// next is the size of the window that is to follow.
func (w *window) next() time.Duration {
	covered := time.Duration(w.end - w.at)
	n := len(w.values)
	switch {
	case w.narrowed && covered == 0:
		return w.size
	case w.narrowed:
		return max(covered, windowStep)
	case n < windowValues/4:
		return min(4*w.size, 24*time.Hour)
	case n > windowValues:
		return max(w.size/2, windowStep)
	}
	return w.size
}

// cut drops what is not before end.
func (n *nodePart) cut(end int64) {
	kept := n.found[:0]
	for i := range n.found {
		if n.found[i].Source < end {
			kept = append(kept, n.found[i])
		}
	}
	clear(n.found[len(kept):])
	n.found = kept
	n.upTo = min(n.upTo, end)
}

// fill reads the window. Where there is more in it than fits, it ends earlier.
func (r *historyReader) fill(ctx context.Context, w *window) error {
	defer r.release(w) //nolint:contextcheck // it is bounded by itself, and told even when the reading is given up
	for lo := 0; lo < len(w.nodes); {
		hi := min(lo+r.perCall, len(w.nodes))
		done, err := r.readNodes(ctx, w, w.nodes[lo:hi])
		if err != nil {
			return err
		}
		lo += done
		r.shrink(w)
	}
	end := w.end
	for _, n := range w.nodes {
		if r.without(w.past, n.tag) == "" {
			end = min(end, n.upTo)
		}
	}
	if end <= w.at {
		return r.stuck(w)
	}
	w.narrow(end)
	for _, n := range w.nodes {
		w.values = append(w.values, n.missing()...)
		n.found = nil
	}
	return nil
}

// errStuck is behind a window that nothing can be said of.
var errStuck = errors.New("the server's history does not get on")

// stuck is for a server that keeps no place in a history with many values of
// one time: it is to send them all at once.
func (r *historyReader) stuck(w *window) error {
	if r.perNode == 0 {
		return errStuck
	}
	r.perNode = 0
	w.end, w.narrowed = w.at, true
	w.size = max(w.size/16, windowStep)
	return nil
}

// shrink ends the window earlier if it has become too large.
func (r *historyReader) shrink(w *window) {
	for w.count() > 2*windowValues {
		half := (w.at + (w.end-w.at)/2) / int64(windowStep) * int64(windowStep)
		if half <= w.at {
			return
		}
		w.narrow(half)
	}
}

// readNodes reads the window for some nodes, and returns how many of the first
// of them it was done with.
func (r *historyReader) readNodes(ctx context.Context, w *window, nodes []*nodePart) (int, error) {
	todo := nodes
	for len(todo) > 0 {
		err := r.request(ctx, w, todo)
		switch {
		case err == nil:
		case wantsFewer(err) && len(nodes) > 1:
			r.perCall = max(1, len(nodes)/2)
			w.restart(nodes)
			return 0, nil
		case wantsFewer(err) && r.perNode > fewestPerNode:
			r.perNode = max(fewestPerNode, r.perNode/4)
			w.restart(nodes)
			return 0, nil
		case r.unsupported(err):
			for _, n := range todo {
				r.access[tagOf{w.past, n.tag}] = noHistory
			}
			return len(nodes), nil
		case errors.Is(err, errAgain):
			return 0, err
		case r.bus.explain("", err).Kind == protocols.KindMalformed && len(todo) > 1:
			// One value that cannot be decoded spoils them all.
			return r.readEach(ctx, w, nodes)
		case r.bus.explain("", err).Kind == protocols.KindMalformed:
			r.access[tagOf{w.past, todo[0].tag}] = "their history cannot be understood"
			return len(nodes), nil
		default:
			return 0, err
		}
		var more, refused []*nodePart
		for _, n := range todo {
			switch {
			case n.upTo < 0:
				refused = append(refused, n)
			case len(n.point) > 0:
				more = append(more, n)
			}
		}
		if len(refused) > 0 {
			return r.fewerPoints(ctx, w, nodes, refused, more)
		}
		if w.count() > 2*windowValues {
			return len(nodes), nil // the window will end where they are
		}
		todo = more
	}
	return len(nodes), nil
}

// restart forgets what was read of nodes in this window.
func (w *window) restart(nodes []*nodePart) {
	for _, n := range nodes {
		w.leave(n)
		n.found, n.upTo, n.empty, n.page = nil, w.at, 0, 0
	}
}

// leave gives up the place where a server would go on.
func (w *window) leave(n *nodePart) {
	if len(n.point) > 0 {
		w.unneeded = append(w.unneeded, place{n.node, n.point})
	}
	n.point = nil
}

func (r *historyReader) readEach(ctx context.Context, w *window, nodes []*nodePart) (int, error) {
	w.restart(nodes)
	for _, n := range nodes {
		if _, err := r.readNodes(ctx, w, []*nodePart{n}); err != nil {
			return 0, err
		}
	}
	return len(nodes), nil
}

// fewerPoints goes on where a server has no more places to keep: with those
// that have one, and then with fewer nodes at once.
func (r *historyReader) fewerPoints(ctx context.Context, w *window, nodes, refused, more []*nodePart) (int, error) {
	for _, n := range refused {
		n.upTo = w.at
	}
	if len(nodes) > 1 {
		r.perCall = max(1, len(nodes)-len(refused))
		if r.perCall == len(nodes) {
			r.perCall = max(1, len(nodes)/2)
		}
	} else {
		r.perNode = 0
	}
	if len(more) > 0 {
		if _, err := r.readNodes(ctx, w, more); err != nil {
			return 0, err
		}
	}
	for _, n := range refused {
		if _, err := r.readAlone(ctx, w, n); err != nil {
			return 0, err
		}
	}
	return len(nodes), nil
}

// readAlone reads one node for which the server had no place to keep.
func (r *historyReader) readAlone(ctx context.Context, w *window, n *nodePart) (int, error) {
	if err := r.request(ctx, w, []*nodePart{n}); err != nil {
		return 0, err
	}
	if n.upTo < 0 { // again
		n.upTo = w.at
		r.perNode = 0
		if err := r.request(ctx, w, []*nodePart{n}); err != nil {
			return 0, err
		}
		if n.upTo < 0 {
			n.upTo = w.at
			r.access[tagOf{w.past, n.tag}] = "the server has no room to read their history"
		}
	}
	for len(n.point) > 0 && w.count() <= 2*windowValues {
		if err := r.request(ctx, w, []*nodePart{n}); err != nil {
			return 0, err
		}
	}
	return 1, nil
}

// unsupported recognises servers without any history.
func (r *historyReader) unsupported(err error) bool {
	var status ua.StatusCode
	if !errors.As(err, &status) {
		return false
	}
	switch status & symbolMask {
	case ua.StatusBadServiceUnsupported, ua.StatusBadHistoryOperationUnsupported, ua.StatusBadHistoryOperationInvalid, ua.StatusBadNotSupported, ua.StatusBadNotImplemented:
		return true
	}
	return false
}

// request sends one HistoryRead and waits as long as it took, at the least.
func (r *historyReader) request(ctx context.Context, w *window, nodes []*nodePart) error {
	perNode := r.perNode
	if perNode > 0 {
		perNode = max(fewestPerNode, min(perNode, windowValues/len(nodes)))
	}
	req := &ua.HistoryReadRequest{
		HistoryReadDetails: ua.NewExtensionObject(&ua.ReadRawModifiedDetails{
			StartTime: time.Unix(0, w.at/100*100).UTC(), EndTime: time.Unix(0, w.end).Add(endMargin).UTC(), NumValuesPerNode: uint32(perNode),
		}),
		TimestampsToReturn: r.timestamps,
	}
	for _, n := range nodes {
		req.NodesToRead = append(req.NodesToRead, &ua.HistoryReadValueID{NodeID: n.node, DataEncoding: &ua.QualifiedName{}, ContinuationPoint: n.point})
	}
	began := time.Now()
	res, err := call[*ua.HistoryReadResponse](ctx, r.session, req)
	took := time.Since(began)
	w.arrived = r.bus.driver.o.Now()
	values := 0
	if err == nil && len(res.Results) != len(nodes) {
		err = fmt.Errorf("%w: %d results for %d nodes", errMalformed, len(res.Results), len(nodes))
	}
	if err == nil {
		for i, node := range nodes {
			n, again := r.take(w, node, res.Results[i], perNode)
			values += n
			if again {
				err = errAgain
			}
		}
	}
	pause(ctx, max(took, time.Duration(values)*time.Second/historyRate))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// errAgain asks for the window once more, later or in another way.
var errAgain = errors.New("the server could not read the history of a node")

// endlessHistory is why a history is not read that brings nothing, but always has
// a place to go on.
const endlessHistory = "the server's answers about their history do not end"

// take takes in what came for one node, of which so many values were asked for
// (0: all), and says how many came.
func (r *historyReader) take(w *window, n *nodePart, res *ua.HistoryReadResult, most int) (values int, again bool) {
	at := tagOf{w.past, n.tag}
	if res == nil {
		r.access[at] = noHistory
		return 0, false
	}
	if isBad(res.StatusCode) {
		return 0, r.refused(w, n, res.StatusCode)
	}
	delete(r.tries, at)
	n.point = res.ContinuationPoint
	list := historyData(res)
	came, page := r.page(w, n, list)
	if n.page == page && len(came) > 0 {
		// The server begins from the start again: the window ends where it was.
		w.leave(n)
		return len(list), false
	}
	if n.page, n.empty = page, n.empty+1; len(list) > 0 {
		n.empty = 0
	}
	if len(n.point) > 0 && n.empty >= mostEmptyAnswers {
		w.leave(n)
		r.access[at] = endlessHistory
		return 0, false
	}
	last := n.upTo
	for _, rd := range came {
		last = max(last, rd.Source)
		if rd.Source >= w.at && rd.Source < w.end {
			if n.within(rd.Source) {
				n.found = append(n.found, rd)
			}
		}
		if n.begins(rd.Source) {
			w.known[n.tag] = struct{}{}
		}
	}
	if len(n.point) == 0 && (most == 0 || len(list) < most) {
		n.upTo = w.end
		return len(list), false
	}
	// Others with the last one's time may follow. They may also where a server
	// sends all that was asked for, and no place to go on: some have none.
	n.upTo = min(last, w.end)
	if last >= w.end {
		w.leave(n)
	}
	return len(list), false
}

// page returns the values of list that have a time, and a print of them all.
func (r *historyReader) page(w *window, n *nodePart, list []*ua.DataValue) (came []protocols.Reading, sum uint64) {
	came = make([]protocols.Reading, 0, len(list))
	sum = uint64(len(list))
	for _, dv := range list {
		if dv == nil || isNothing(dv.Status) {
			continue
		}
		rd := protocols.Reading{Tag: n.tag}
		r.bus.fillHistory(&rd, dv, r.addrs[tagOf{w.past, n.tag}])
		if rd.Source != 0 {
			came = append(came, rd)
			at := protocols.Int(rd.Source)
			sum = printValue(sum^printOf(&rd), &at)
		}
	}
	return came, sum
}

// historyData returns the values of a result.
func historyData(res *ua.HistoryReadResult) []*ua.DataValue {
	if res.HistoryData == nil {
		return nil
	}
	switch data := res.HistoryData.Value.(type) {
	case *ua.HistoryData:
		return data.DataValues
	case *ua.HistoryModifiedData:
		return data.DataValues
	}
	return nil
}

// refused takes in that a node's history was not read, and says whether to try again.
func (r *historyReader) refused(w *window, n *nodePart, status ua.StatusCode) bool {
	at := tagOf{w.past, n.tag}
	continued := len(n.point) > 0
	n.point = nil
	switch status & symbolMask {
	case ua.StatusBadNoData, ua.StatusBadBoundNotFound, ua.StatusBadNoDataAvailable:
		n.upTo = w.end
		return false
	case ua.StatusBadNoContinuationPoints:
		n.upTo = -1
		return false
	case ua.StatusBadContinuationPointInvalid:
		if continued {
			return false // the window ends where it is
		}
	case ua.StatusBadTimestampNotSupported, ua.StatusBadTimestampsToReturnInvalid:
		if r.timestamps == ua.TimestampsToReturnBoth {
			r.timestamps = ua.TimestampsToReturnSource
			return true
		}
		if r.timestamps == ua.TimestampsToReturnSource {
			r.timestamps = ua.TimestampsToReturnServer
			return true
		}
	case ua.StatusBadHistoryOperationUnsupported, ua.StatusBadHistoryOperationInvalid, ua.StatusBadNotSupported, ua.StatusBadInvalidArgument,
		ua.StatusBadUserAccessDenied, ua.StatusBadNotReadable, ua.StatusBadNodeIDUnknown, ua.StatusBadNodeIDInvalid, ua.StatusBadServiceUnsupported, ua.StatusBadNotImplemented:
		r.access[at] = noHistory
		return false
	}
	r.tries[at]++
	if r.tries[at] < nodeTries {
		return true
	}
	r.access[at] = "the server answered " + r.bus.driver.symbols.statusText(status)
	return false
}

// isNothing recognises a place in a history that has no value.
func isNothing(status ua.StatusCode) bool {
	switch status & symbolMask {
	case ua.StatusBadNoData, ua.StatusBadBoundNotFound, ua.StatusBadBoundNotSupported, ua.StatusGoodNoData:
		return true
	}
	return false
}

// release tells the server that places in its histories are not needed. What
// it answers changes nothing.
func (r *historyReader) release(w *window) {
	req := &ua.HistoryReadRequest{
		HistoryReadDetails: ua.NewExtensionObject(&ua.ReadRawModifiedDetails{
			StartTime: time.Unix(0, w.at/100*100).UTC(), EndTime: time.Unix(0, w.end).UTC(), NumValuesPerNode: 1,
		}),
		TimestampsToReturn: r.timestamps, ReleaseContinuationPoints: true,
	}
	for _, n := range w.nodes {
		w.leave(n)
	}
	for _, u := range w.unneeded {
		req.NodesToRead = append(req.NodesToRead, &ua.HistoryReadValueID{NodeID: u.node, DataEncoding: &ua.QualifiedName{}, ContinuationPoint: u.point})
	}
	w.unneeded = nil
	for lo := 0; lo < len(req.NodesToRead); lo += r.perCall {
		some := *req
		some.NodesToRead = req.NodesToRead[lo:min(lo+r.perCall, len(req.NodesToRead))]
		// When the session ends the server forgets them anyway.
		ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
		_, _ = call[*ua.HistoryReadResponse](ctx, r.session, &some)
		cancel()
	}
}

// within says whether a time may be in one of the spans.
func (n *nodePart) within(at int64) bool {
	for i := range n.spans {
		if at >= n.spans[i].from.time && at <= n.spans[i].to.time {
			return true
		}
	}
	return false
}

// begins says whether one of the spans begins at a time.
func (n *nodePart) begins(at int64) bool {
	for i := range n.spans {
		if at == n.spans[i].from.time {
			return true
		}
	}
	return false
}

// missing returns what was found and not told. The ends of the spans are
// where values may have been told.
func (n *nodePart) missing() []protocols.Reading {
	slices.SortStableFunc(n.found, bySource)
	kept := n.found[:0]
	for lo := 0; lo < len(n.found); {
		hi := lo + 1
		for hi < len(n.found) && n.found[hi].Source == n.found[lo].Source {
			hi++
		}
		group := n.found[lo:hi]
		for i := range n.spans {
			s := &n.spans[i]
			if s.from.time == group[0].Source {
				group = s.from.without(group, false)
			}
			if len(group) > 0 && s.to.time == group[0].Source {
				group = s.to.without(group, true)
			}
			if len(group) == 0 {
				break
			}
		}
		kept = append(kept, group...)
		lo = hi
	}
	return kept
}

// without returns those of the readings, which all have the edge's time, that
// were not told: by their values, and where those are not known, or the
// history has them in another form, by how many they were; the first ones, or
// the last ones.
func (e *edge) without(group []protocols.Reading, last bool) []protocols.Reading {
	if len(group) <= e.count {
		return nil
	}
	if e.count == 0 {
		return group
	}
	rest := make([]protocols.Reading, 0, len(group))
	known := e.clone()
	for i := range group {
		if !known.has(printOf(&group[i])) {
			rest = append(rest, group[i])
		}
	}
	switch {
	case len(rest) < len(group):
		return rest
	case last:
		return rest[:len(rest)-e.count]
	}
	return rest[e.count:]
}

// fillHistory makes r what the server's history says.
func (b *bus) fillHistory(r *protocols.Reading, dv *ua.DataValue, a *address) {
	b.driver.symbols.fill(r, dv, a)
}
