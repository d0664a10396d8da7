package opcuatest

import (
	"encoding/binary"
	"sync"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// Tree is an address space that is made up while it is looked at: it may be
// large, deep or odd, and takes no memory.
type Tree interface {
	// Children returns the forward hierarchical references of a node; false:
	// there is no such node in the tree.
	Children(node *ua.NodeID) ([]Child, bool)
	// Attribute returns an attribute of a node; nil: there is no such node in
	// the tree, or it has none.
	Attribute(node *ua.NodeID, attr ua.AttributeID) any
}

// UpwardTree is a Tree that can be browsed from below, too.
type UpwardTree interface {
	Tree
	// Parents returns the inverse hierarchical references of a node.
	Parents(node *ua.NodeID) []Child
}

// Child is a reference of a Tree.
type Child struct {
	Kind      uint32 // of the reference, such as id.HasComponent
	Node      *ua.NodeID
	Namespace uint16 // of the name
	Name      string
	Class     ua.NodeClass
	TypeOf    uint32 // the type definition, such as id.FolderType
	Server    uint32 // its index, of a node on another server
}

// BrowseLimits are what a Server bears of browsing. 0: no limit.
type BrowseLimits struct {
	Nodes      int // per Browse
	References int // of one node in one answer
	Points     int // continuation points at a time
	// Forget makes it lose that many continuation points, the first ones.
	Forget int
	// Denied are nodes that must not be browsed, in gopcua's text form.
	Denied []string
	// NoPaths leaves the service out that resolves browse paths.
	NoPaths bool
}

// points are the continuation points of a session.
type points struct {
	mu   sync.Mutex
	next uint64
	open map[uint64][]*ua.ReferenceDescription
	size map[uint64]int
}

// OpenPoints returns how many continuation points nobody has used up or released.
func (s *Server) OpenPoints() int {
	s.points.mu.Lock()
	defer s.points.mu.Unlock()
	return len(s.points.open)
}

// page cuts the references of a node to what goes into one answer.
func (s *Server) page(refs []*ua.ReferenceDescription, size int) *ua.BrowseResult {
	if most := s.o.Browse.References; most > 0 && (size == 0 || size > most) {
		size = most
	}
	if size == 0 || len(refs) <= size {
		return &ua.BrowseResult{References: refs}
	}
	p := &s.points
	p.mu.Lock()
	defer p.mu.Unlock()
	if most := s.o.Browse.Points; most > 0 && len(p.open) >= most {
		return &ua.BrowseResult{StatusCode: ua.StatusBadNoContinuationPoints}
	}
	if p.open == nil {
		p.open, p.size = make(map[uint64][]*ua.ReferenceDescription), make(map[uint64]int)
	}
	p.next++
	if p.next > uint64(s.o.Browse.Forget) {
		p.open[p.next], p.size[p.next] = refs[size:], size
	}
	return &ua.BrowseResult{References: refs[:size], ContinuationPoint: binary.BigEndian.AppendUint64(nil, p.next)}
}

func (s *Server) browseNext(req *ua.BrowseNextRequest) ua.Response {
	res := &ua.BrowseNextResponse{ResponseHeader: header(req, ua.StatusOK), DiagnosticInfos: []*ua.DiagnosticInfo{}}
	for _, point := range req.ContinuationPoints {
		var n uint64
		if len(point) == 8 {
			n = binary.BigEndian.Uint64(point)
		}
		s.points.mu.Lock()
		refs, ok := s.points.open[n]
		size := s.points.size[n]
		delete(s.points.open, n)
		delete(s.points.size, n)
		s.points.mu.Unlock()
		switch {
		case req.ReleaseContinuationPoints:
			res.Results = append(res.Results, &ua.BrowseResult{References: []*ua.ReferenceDescription{}})
		case !ok:
			res.Results = append(res.Results, &ua.BrowseResult{StatusCode: ua.StatusBadContinuationPointInvalid, References: []*ua.ReferenceDescription{}})
		default:
			res.Results = append(res.Results, s.page(refs, size))
		}
	}
	return res
}

// treeReferences returns the references of a node of the tree.
func (s *Server) treeReferences(node *ua.NodeID) ([]*ua.ReferenceDescription, bool) {
	if s.o.Tree == nil {
		return nil, false
	}
	kids, ok := s.o.Tree.Children(node)
	return childReferences(kids, true), ok
}

func childReferences(all []Child, forward bool) []*ua.ReferenceDescription {
	refs := make([]*ua.ReferenceDescription, 0, len(all))
	for _, k := range all {
		r := reference(k.Kind, k.Node, k.Name, k.Class, k.TypeOf)
		r.BrowseName.NamespaceIndex, r.IsForward = k.Namespace, forward
		if k.Server > 0 {
			r.NodeID = ua.NewExpandedNodeID(k.Node, "", k.Server)
		}
		refs = append(refs, r)
	}
	return refs
}

// parents returns the inverse hierarchical references of a node, as far as the
// tree knows them.
func (s *Server) parents(node *ua.NodeID) []*ua.ReferenceDescription {
	if up, ok := s.o.Tree.(UpwardTree); ok {
		return childReferences(up.Parents(node), false)
	}
	return []*ua.ReferenceDescription{}
}

// translate resolves browse paths by exact names.
func (s *Server) translate(req *ua.TranslateBrowsePathsToNodeIDsRequest) ua.Response {
	res := &ua.TranslateBrowsePathsToNodeIDsResponse{ResponseHeader: header(req, ua.StatusOK), DiagnosticInfos: []*ua.DiagnosticInfo{}}
	for _, p := range req.BrowsePaths {
		res.Results = append(res.Results, s.translateOne(p))
	}
	return res
}

func (s *Server) translateOne(p *ua.BrowsePath) *ua.BrowsePathResult {
	if r := s.translateRange(p); r != nil {
		return r
	}
	at := []*ua.NodeID{p.StartingNode}
	for _, e := range p.RelativePath.Elements {
		var below []*ua.NodeID
		for _, n := range at {
			for _, r := range s.references(n) {
				if *r.BrowseName == *e.TargetName {
					below = append(below, r.NodeID.NodeID)
				}
			}
		}
		at = below
	}
	res := &ua.BrowsePathResult{StatusCode: ua.StatusBadNoMatch, Targets: []*ua.BrowsePathTarget{}}
	for _, n := range at {
		res.StatusCode = ua.StatusOK
		res.Targets = append(res.Targets, &ua.BrowsePathTarget{TargetID: ua.NewExpandedNodeID(n, "", 0), RemainingPathIndex: 0xFFFF_FFFF})
	}
	return res
}

// references returns all forward hierarchical references of a node.
func (s *Server) references(node *ua.NodeID) []*ua.ReferenceDescription {
	if refs, ok := s.treeReferences(node); ok {
		return refs
	}
	var refs []*ua.ReferenceDescription
	switch {
	case node == nil || node.Namespace() != 0:
	case node.IntID() == id.RootFolder:
		refs = append(refs, reference(id.Organizes, ua.NewNumericNodeID(0, id.ObjectsFolder), "Objects", ua.NodeClassObject, id.FolderType))
	case node.IntID() == id.ObjectsFolder:
		for _, n := range s.space.list {
			refs = append(refs, reference(id.HasComponent, n.id, n.name, ua.NodeClassVariable, id.BaseDataVariableType))
		}
	}
	return refs
}

// treeAttribute returns an attribute of a node of the tree; nil: it has none.
func (s *Server) treeAttribute(r *ua.ReadValueID) *ua.DataValue {
	if s.o.Tree == nil {
		return nil
	}
	switch v := s.o.Tree.Attribute(r.NodeID, r.AttributeID).(type) {
	case nil:
		return nil
	case ua.StatusCode:
		return badValue(v)
	default:
		return goodValue(v)
	}
}
