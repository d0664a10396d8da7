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
}

// space is the address space: fixed nodes with values that change.
type space struct {
	nodes map[string]*node // by NodeId in gopcua's text form
	list  []*node          // as given
}

// node is one variable. Its lock is held while a value is made.
type node struct {
	name string
	id   *ua.NodeID
	make func(now time.Time) any

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
	standard := []Node{
		{"NamespaceArray", fmt.Sprintf("i=%d", id.Server_NamespaceArray), func(time.Time) any { return namespaces }},
		{"CurrentTime", fmt.Sprintf("i=%d", id.Server_ServerStatus_CurrentTime), func(now time.Time) any { return now }},
		{"State", fmt.Sprintf("i=%d", id.Server_ServerStatus_State), func(time.Time) any { return int32(ua.ServerStateRunning) }},
		{"MaxNodesPerRead", fmt.Sprintf("i=%d", id.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead), limit(o.MaxNodesPerRead)},
		{"MaxMonitoredItemsPerCall", fmt.Sprintf("i=%d", id.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall), limit(o.MaxItemsPerCall)},
		{"MaxNodesPerBrowse", fmt.Sprintf("i=%d", id.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse), limit(o.Browse.Nodes)},
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
		v := &node{name: n.Name, id: nodeID, make: n.Value, data: &ua.DataValue{}}
		if v.name == "" {
			v.name = n.NodeID
		}
		sp.nodes[key] = v
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
