package opcua

import (
	"context"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

const (
	// maxAscent and maxAscentNodes bound the search for the machine that tags
	// are below of, and with them how many tags a device may have for it to be
	// found: of each it must be known.
	maxAscent      = 16
	maxAscentNodes = 2000
	// maxAscentRequests bounds it where a request takes few nodes.
	maxAscentRequests = 20
	// maxParents is of how many nodes a node may be below.
	maxParents = 16
	// someMachines is how many machines are asked for, where only none, one and
	// several are told apart; what a server has twice, and what is no machine,
	// are among them.
	someMachines = 16
)

// machine returns the machine that d is: the only one that the server has, or
// the one that all of the device's tags are below of. Nil: it is not certain.
func (n *nameplates) machine(ctx context.Context, d *protocols.Device) (*ua.NodeID, error) {
	for _, place := range []struct {
		ns   int
		node uint32
	}{{n.machinery, machinesFolder}, {n.devices, deviceSet}} {
		if place.ns < 0 {
			continue
		}
		folder := ua.NewNumericNodeID(uint16(place.ns), place.node)
		l, err := n.list(ctx, folder)
		switch {
		case err != nil:
			return nil, err
		case len(l.nodes) == 0 && l.whole():
			continue // the devices of a server that has machines are parts of those
		case len(l.nodes) == 1 && l.whole() && n.bus.devices == 1:
			return l.nodes[0], nil
		}
		return n.machineOf(ctx, d, folder)
	}
	return nil, nil
}

// listing is a browseSink for the machines in a folder, as far as they are
// needed to know whether there are several.
type listing struct {
	session *session
	folder  *ua.NodeID
	nodes   []*ua.NodeID
	more    bool // than those, or it is not known
}

func (n *nameplates) list(ctx context.Context, folder *ua.NodeID) (*listing, error) {
	l := &listing{session: n.session, folder: folder}
	b := newBrowser(n.bus, n.session, ua.NodeClassObject)
	b.hasty, b.refs = true, someMachines
	return l, b.browse(ctx, []*ua.NodeID{folder}, l)
}

// whole says that all of the folder's machines are known.
func (l *listing) whole() bool { return !l.more }

func (l *listing) reference(_ int, r *ua.ReferenceDescription) {
	node := l.session.localNode(r.NodeID)
	switch {
	case node == nil:
		l.more = true // on another server
	case node.Namespace() == l.folder.Namespace(), node.Namespace() == 0:
		// What the specification itself has there describes no machine
		// (DeviceFeatures, OPC 10000-100, 5.10).
	case len(l.nodes) == 0:
		l.nodes = append(l.nodes, node)
	case keyOf(node) != keyOf(l.nodes[0]): // else it is the same by another reference
		l.more = true
	}
}

func (l *listing) refused(_ int, status ua.StatusCode) {
	// A server may have the namespace without the folder.
	l.more = l.more || status&symbolMask != ua.StatusBadNodeIDUnknown
}

func (l *listing) enough(int) bool { return l.more }

// machineOf returns the machine in folder that all tags of d are below of. It
// looks up from the tags: so it does not matter how many machines there are.
func (n *nameplates) machineOf(ctx context.Context, d *protocols.Device, folder *ua.NodeID) (*ua.NodeID, error) {
	b := newBrowser(n.bus, n.session, ua.NodeClassObject|ua.NodeClassVariable)
	most := min(maxAscentNodes, maxAscentRequests*b.most)
	if len(d.Tags) > most {
		return nil, nil
	}
	tags, err := n.tagNodes(ctx, d)
	if err != nil || len(tags) == 0 {
		return nil, err
	}
	b.hasty = true
	b.req.BrowseDirection = ua.BrowseDirectionInverse
	b.req.ResultMask |= uint32(ua.BrowseResultMaskIsForward)
	a := &ascent{session: n.session, folder: keyOf(folder), all: make(map[nodeKey]*ancestor)}
	for _, node := range tags {
		a.at(node).tag = true
	}
	for depth := 0; len(a.next) > 0; depth++ {
		if depth == maxAscent || len(a.all) > most {
			return nil, nil
		}
		a.now, a.next = a.next, nil
		nodes := make([]*ua.NodeID, len(a.now))
		for i, p := range a.now {
			nodes[i] = p.node
		}
		b.refs = (maxParents + 1) * b.nodes
		if err := b.browse(ctx, nodes, a); err != nil {
			return nil, err
		}
		a.climb()
		if a.lost || len(a.machines) > 1 {
			return nil, nil
		}
	}
	return a.machine(), nil
}

// tagNodes returns the nodes of the device's tags, but for those of the server
// itself, which are no machine's. It returns none if not all are known.
func (n *nameplates) tagNodes(ctx context.Context, d *protocols.Device) ([]*ua.NodeID, error) {
	tags := make([]int, len(d.Tags))
	for i := range tags {
		tags[i] = i
	}
	addrs, err := parseTags(d, tags)
	if err != nil {
		return nil, err
	}
	if err := n.bus.resolvePaths(ctx, n.session, addrs); err != nil {
		return nil, err
	}
	var nodes []*ua.NodeID
	for i := range addrs {
		node, ok := addrs[i].nodeID(n.session.namespaces)
		if !ok {
			return nil, nil
		}
		if node.Namespace() != 0 {
			nodes = append(nodes, node)
		}
	}
	return nodes, nil
}

// ancestor is a node that tags are below of, or a tag.
type ancestor struct {
	node   *ua.NodeID
	above  []*ua.NodeID // until the level below is done
	below  []*ancestor
	tag    bool
	listed bool // among the machines of the folder
}

// ascent is the way up from tags to the first machines. It is a browseSink.
type ascent struct {
	session  *session
	folder   nodeKey
	all      map[nodeKey]*ancestor
	machines []*ancestor
	now      []*ancestor // being browsed
	next     []*ancestor // the level above
	lost     bool        // what is above some node is not, or not all, known
}

// at returns the ancestor of that node, which is put on the list if it is new.
func (a *ascent) at(node *ua.NodeID) *ancestor {
	key := keyOf(node)
	p := a.all[key]
	if p == nil {
		p = &ancestor{node: node}
		a.all[key] = p
		a.next = append(a.next, p)
	}
	return p
}

func (a *ascent) reference(i int, r *ua.ReferenceDescription) {
	p, node := a.now[i], a.session.localNode(r.NodeID)
	switch {
	case r.IsForward: // it was not asked for
	case node == nil || len(p.above) == maxParents:
		a.lost = true
	case keyOf(node) == a.folder:
		p.listed = true
	case node.Namespace() == 0: // Objects and the like: no machine is above them
	default:
		p.above = append(p.above, node)
	}
}

func (a *ascent) refused(int, ua.StatusCode) { a.lost = true }

func (a *ascent) enough(i int) bool { return a.lost || a.now[i].listed }

// climb goes up by a level. What is above a machine is not looked at: a tag is
// of the nearest one.
func (a *ascent) climb() {
	for _, p := range a.now {
		if p.listed {
			a.machines = append(a.machines, p)
			continue
		}
		for _, node := range p.above {
			up := a.at(node)
			up.below = append(up.below, p)
		}
		p.above = nil
	}
}

// machine returns the only machine that there was, if each tag is below of it.
func (a *ascent) machine() *ua.NodeID {
	if len(a.machines) != 1 {
		return nil
	}
	reached := map[*ancestor]bool{a.machines[0]: true}
	for todo := []*ancestor{a.machines[0]}; len(todo) > 0; {
		p := todo[0]
		todo = todo[1:]
		for _, q := range p.below {
			if !reached[q] {
				reached[q] = true
				todo = append(todo, q)
			}
		}
	}
	for _, p := range a.all {
		if p.tag && !reached[p] {
			return nil
		}
	}
	return a.machines[0].node
}
