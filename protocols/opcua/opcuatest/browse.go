package opcuatest

import (
	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// browse shows the variables below the Objects folder, for clients that look
// around before they read.
func (s *Server) browse(req *ua.BrowseRequest) ua.Response {
	results := make([]*ua.BrowseResult, len(req.NodesToBrowse))
	for i, b := range req.NodesToBrowse {
		results[i] = s.browseNode(b)
	}
	return &ua.BrowseResponse{ResponseHeader: header(req, ua.StatusOK), Results: results, DiagnosticInfos: []*ua.DiagnosticInfo{}}
}

func (s *Server) browseNode(b *ua.BrowseDescription) *ua.BrowseResult {
	r := &ua.BrowseResult{References: []*ua.ReferenceDescription{}}
	if s.o.References != nil {
		if refs := s.o.References(b.NodeID); refs != nil {
			r.References = refs
			return r
		}
	}
	switch {
	case b.NodeID == nil || b.NodeID.Namespace() != 0 || b.BrowseDirection == ua.BrowseDirectionInverse:
	case b.NodeID.IntID() == id.RootFolder:
		r.References = append(r.References, reference(id.Organizes, ua.NewNumericNodeID(0, id.ObjectsFolder), "Objects", ua.NodeClassObject, id.FolderType))
	case b.NodeID.IntID() == id.ObjectsFolder:
		for _, n := range s.space.list {
			r.References = append(r.References, reference(id.HasComponent, n.id, n.name, ua.NodeClassVariable, id.BaseDataVariableType))
		}
	}
	return r
}

func reference(kind uint32, node *ua.NodeID, name string, class ua.NodeClass, typeOf uint32) *ua.ReferenceDescription {
	return &ua.ReferenceDescription{
		ReferenceTypeID: ua.NewNumericNodeID(0, kind), IsForward: true, NodeID: ua.NewExpandedNodeID(node, "", 0),
		BrowseName:  &ua.QualifiedName{NamespaceIndex: node.Namespace(), Name: name},
		DisplayName: ua.NewLocalizedText(name), NodeClass: class, TypeDefinition: ua.NewNumericExpandedNodeID(0, typeOf),
	}
}
