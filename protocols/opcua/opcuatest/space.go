package opcuatest

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// Node is a variable of a Server.
type Node struct {
	// Name is its browse name. Empty: its NodeID.
	Name string
	// NodeID is where it is found, such as ns=2;s=Press.Temperature.
	NodeID string
	// Value makes its value at a time: a Go type that gopcua knows (bool, int32,
	// float64, string, time.Time, slices of them …), or a *ua.DataValue with
	// status and times. Until it changes, no one is told. It is called by one
	// goroutine at a time. Nil: what Set says, and nothing before.
	Value func(now time.Time) any
	// Low and High are its EURange; both 0: it has none.
	Low, High float64
	// Absent leaves it out until Server.Add puts it there.
	Absent bool
}

// space is the address space: fixed nodes with values that change.
type space struct {
	mu    sync.Mutex
	nodes map[string]*node // by NodeId in gopcua's text form
	list  []*node          // as given
}

// node is one variable. Its lock is held while a value is made.
type node struct {
	name string
	id   *ua.NodeID
	make func(now time.Time) any
	span float64 // of its EURange; 0: it has none

	mu   sync.Mutex
	raw  any // what the current value was made of
	data *ua.DataValue
}

func newSpace(o *Options) (*space, error) {
	sp := &space{nodes: make(map[string]*node)}
	namespaces := []string{"http://opcfoundation.org/UA/", "urn:" + o.Name, o.Namespace}
	limit := func(n int) func(time.Time) any {
		return func(time.Time) any {
			if o.HideLimits {
				return uint32(0)
			}
			return uint32(n)
		}
	}
	started := time.Now().UTC()
	text := func(s string) func(time.Time) any { return func(time.Time) any { return s } }
	standard := []Node{
		{Name: "NamespaceArray", NodeID: fmt.Sprintf("i=%d", id.Server_NamespaceArray), Value: func(time.Time) any { return namespaces }},
		{Name: "CurrentTime", NodeID: fmt.Sprintf("i=%d", id.Server_ServerStatus_CurrentTime), Value: func(now time.Time) any { return now }},
		{Name: "StartTime", NodeID: fmt.Sprintf("i=%d", id.Server_ServerStatus_StartTime), Value: func(time.Time) any { return started }},
		{Name: "State", NodeID: fmt.Sprintf("i=%d", id.Server_ServerStatus_State), Value: func(time.Time) any { return int32(ua.ServerStateRunning) }},
		{Name: "MaxNodesPerRead", NodeID: fmt.Sprintf("i=%d", id.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead), Value: limit(o.MaxNodesPerRead)},
		{Name: "MaxMonitoredItemsPerCall", NodeID: fmt.Sprintf("i=%d", id.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall), Value: limit(o.MaxItemsPerCall)},
		{Name: "MaxMonitoredItemsPerSubscription", NodeID: fmt.Sprintf("i=%d", id.Server_ServerCapabilities_MaxMonitoredItemsPerSubscription), Value: limit(o.MaxItemsPerSubscription)},
		{Name: "ProductName", NodeID: fmt.Sprintf("i=%d", id.Server_ServerStatus_BuildInfo_ProductName), Value: text(o.Product)},
		{Name: "ManufacturerName", NodeID: fmt.Sprintf("i=%d", id.Server_ServerStatus_BuildInfo_ManufacturerName), Value: text(o.Maker)},
	}
	for _, n := range slices.Concat(standard, o.Nodes) {
		nodeID, err := ua.ParseNodeID(n.NodeID)
		if err != nil {
			return nil, fmt.Errorf("opcuatest: %s: %w", n.NodeID, err)
		}
		key := nodeID.String()
		if sp.nodes[key] != nil {
			return nil, fmt.Errorf("opcuatest: %s is there twice", n.NodeID)
		}
		v := &node{name: n.Name, id: nodeID, make: n.Value, span: n.High - n.Low, data: &ua.DataValue{}}
		if v.name == "" {
			v.name = n.NodeID
		}
		if !n.Absent {
			sp.nodes[key] = v
		}
		if v.span != 0 {
			sp.addRange(v, n.Low, n.High)
		}
		if nodeID.Namespace() != 0 {
			sp.list = append(sp.list, v)
		}
	}
	return sp, nil
}

func (sp *space) find(nodeID *ua.NodeID) *node {
	if nodeID == nil {
		return nil
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.nodes[nodeID.String()]
}

func (sp *space) set(nodeID string, value any, now time.Time) (*node, error) {
	parsed, err := ua.ParseNodeID(nodeID)
	if err != nil {
		return nil, fmt.Errorf("opcuatest: %s: %w", nodeID, err)
	}
	n := sp.find(parsed)
	if n == nil || n.make != nil {
		return nil, fmt.Errorf("opcuatest: %s is no node without a Value function", nodeID)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	err = n.update(value, now)
	return n, err
}

// current returns the node's value, which nobody changes any more.
func (n *node) current(now time.Time) *ua.DataValue {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.make != nil {
		if err := n.update(n.make(now), now); err != nil {
			return &ua.DataValue{EncodingMask: ua.DataValueStatusCode, Status: ua.StatusBadInternalError}
		}
	}
	return n.data
}

// update takes a new value; an equal one leaves the old, with its time.
func (n *node) update(value any, now time.Time) error {
	if reflect.DeepEqual(value, n.raw) && n.raw != nil {
		return nil
	}
	dv, ok := value.(*ua.DataValue)
	if !ok {
		v, err := ua.NewVariant(value)
		if err != nil {
			return fmt.Errorf("opcuatest: %s: %w", n.name, err)
		}
		dv = &ua.DataValue{Value: v, SourceTimestamp: now, ServerTimestamp: now}
		dv.UpdateMask()
	}
	n.raw, n.data = value, dv
	return nil
}
