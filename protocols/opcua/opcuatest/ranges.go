package opcuatest

import (
	"fmt"
	"time"

	"github.com/gopcua/opcua/ua"
)

// addRange makes the property EURange of a node.
func (sp *space) addRange(n *node, low, high float64) {
	nodeID := rangeID(n.id)
	sp.nodes[nodeID.String()] = &node{name: "EURange", id: nodeID, make: func(time.Time) any {
		return ua.NewExtensionObject(&ua.Range{Low: low, High: high})
	}, data: &ua.DataValue{}}
}

func rangeID(n *ua.NodeID) *ua.NodeID {
	return ua.NewStringNodeID(n.Namespace(), n.String()+".EURange")
}

// translate follows paths of one step, to properties.
func (s *Server) translate(req *ua.TranslateBrowsePathsToNodeIDsRequest) ua.Response {
	results := make([]*ua.BrowsePathResult, len(req.BrowsePaths))
	for i, p := range req.BrowsePaths {
		results[i] = &ua.BrowsePathResult{StatusCode: ua.StatusBadNoMatch}
		if p.RelativePath == nil || len(p.RelativePath.Elements) != 1 || p.RelativePath.Elements[0].TargetName.Name != "EURange" {
			continue
		}
		if to := rangeID(p.StartingNode); s.space.find(to) != nil {
			results[i] = &ua.BrowsePathResult{Targets: []*ua.BrowsePathTarget{{TargetID: &ua.ExpandedNodeID{NodeID: to}, RemainingPathIndex: 0xFFFFFFFF}}}
		}
	}
	return &ua.TranslateBrowsePathsToNodeIDsResponse{ResponseHeader: header(req, ua.StatusOK), Results: results, DiagnosticInfos: []*ua.DiagnosticInfo{}}
}

// Add puts a node there that Options had Absent, or that Remove took away.
func (s *Server) Add(nodeID string) error {
	parsed, err := ua.ParseNodeID(nodeID)
	if err != nil {
		return err
	}
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	for _, n := range s.space.list {
		if n.id.Equal(parsed) {
			s.space.nodes[parsed.String()] = n
			return nil
		}
	}
	return fmt.Errorf("opcuatest: %s is no node of the options", nodeID)
}

// Remove takes a node away; its items say so, once.
func (s *Server) Remove(nodeID string) error {
	parsed, err := ua.ParseNodeID(nodeID)
	if err != nil {
		return err
	}
	s.space.mu.Lock()
	n := s.space.nodes[parsed.String()]
	delete(s.space.nodes, parsed.String())
	s.space.mu.Unlock()
	if n == nil {
		return fmt.Errorf("opcuatest: there is no %s", nodeID)
	}
	gone := badValue(ua.StatusBadNodeIDUnknown)
	s.subs.Lock()
	defer s.subs.Unlock()
	for _, sess := range s.sessions {
		for _, sub := range sess.subs {
			for _, it := range sub.items {
				if it.node == n {
					it.take(gone)
					it.node = &node{name: n.name, id: n.id, data: gone}
				}
			}
		}
	}
	return nil
}
