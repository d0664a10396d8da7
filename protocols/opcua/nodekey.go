package opcua

import "github.com/gopcua/opcua/ua"

// nodeKey is a NodeId as the key of a map: gopcua's cannot be compared, and
// its text form costs an allocation.
type nodeKey struct {
	ns   uint16
	kind byte // i, s, g or b
	num  uint32
	text string
}

func keyOf(n *ua.NodeID) nodeKey {
	if n == nil {
		return nodeKey{kind: 'i'}
	}
	k := nodeKey{ns: n.Namespace(), kind: 'i', num: n.IntID()}
	switch n.Type() {
	case ua.NodeIDTypeString:
		k.kind, k.text = 's', n.StringID()
	case ua.NodeIDTypeGUID:
		k.kind, k.text = 'g', n.StringID()
	case ua.NodeIDTypeByteString:
		k.kind, k.text = 'b', n.StringID()
	case ua.NodeIDTypeTwoByte, ua.NodeIDTypeFourByte, ua.NodeIDTypeNumeric:
	}
	return k
}

// standard is the key of a node of the namespace 0.
func standard(num uint32) nodeKey { return nodeKey{kind: 'i', num: num} }

// isNull says that there is no such node: the null NodeId.
func (k nodeKey) isNull() bool { return k == nodeKey{} || k == standard(0) }
