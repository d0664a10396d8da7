package opcuatest

import (
	"slices"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// browse shows the variables below the Objects folder, and what the Tree
// has, for clients that look around before they read.
func (s *Server) browse(req *ua.BrowseRequest) (ua.Response, error) {
	if most := s.o.Browse.Nodes; most > 0 && len(req.NodesToBrowse) > most {
		return nil, ua.StatusBadTooManyOperations
	}
	results := make([]*ua.BrowseResult, len(req.NodesToBrowse))
	for i, b := range req.NodesToBrowse {
		results[i] = s.browseNode(b, int(req.RequestedMaxReferencesPerNode))
	}
	return &ua.BrowseResponse{ResponseHeader: header(req, ua.StatusOK), Results: results, DiagnosticInfos: []*ua.DiagnosticInfo{}}, nil
}

func (s *Server) browseNode(b *ua.BrowseDescription, size int) *ua.BrowseResult {
	if s.o.References != nil {
		if refs := s.o.References(b.NodeID); refs != nil {
			return &ua.BrowseResult{References: refs}
		}
	}
	switch {
	case b.NodeID == nil:
		return &ua.BrowseResult{References: []*ua.ReferenceDescription{}}
	case slices.Contains(s.o.Browse.Denied, b.NodeID.String()):
		return &ua.BrowseResult{StatusCode: ua.StatusBadUserAccessDenied, References: []*ua.ReferenceDescription{}}
	}
	var refs []*ua.ReferenceDescription
	if b.BrowseDirection == ua.BrowseDirectionInverse {
		refs = s.parents(b.NodeID)
	} else {
		refs = s.references(b.NodeID)
	}
	if mask := b.NodeClassMask; mask != 0 {
		refs = slices.DeleteFunc(refs, func(r *ua.ReferenceDescription) bool { return uint32(r.NodeClass)&mask == 0 })
	}
	return s.page(refs, size)
}

func reference(kind uint32, node *ua.NodeID, name string, class ua.NodeClass, typeOf uint32) *ua.ReferenceDescription {
	return &ua.ReferenceDescription{
		ReferenceTypeID: ua.NewNumericNodeID(0, kind), IsForward: true, NodeID: ua.NewExpandedNodeID(node, "", 0),
		BrowseName:  &ua.QualifiedName{NamespaceIndex: node.Namespace(), Name: name},
		DisplayName: ua.NewLocalizedText(name), NodeClass: class, TypeDefinition: ua.NewNumericExpandedNodeID(0, typeOf),
	}
}

// standardAttribute returns what every variable has beside its value; nil:
// it has no such attribute.
func standardAttribute(n *node, attr ua.AttributeID, now time.Time) *ua.DataValue {
	value := n.current(now).Value
	switch attr {
	case ua.AttributeIDDataType:
		kind := uint32(id.BaseDataType)
		if value != nil {
			kind = uint32(value.Type())
		}
		return goodValue(ua.NewNumericNodeID(0, kind))
	case ua.AttributeIDValueRank:
		if value != nil && value.Has(ua.VariantArrayValues) {
			return goodValue(int32(1))
		}
		return goodValue(int32(-1))
	case ua.AttributeIDAccessLevel, ua.AttributeIDUserAccessLevel:
		return goodValue(byte(1)) // CurrentRead
	}
	return nil
}
