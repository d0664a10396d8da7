package opcua

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// Where servers describe the machines that they stand for: the folder Machines
// of OPC UA for Machinery (OPC 40001-1, 11.2), and the object DeviceSet of OPC
// UA for Devices (OPC 10000-100, 5.4.2). Both have the same nameplate, the
// second one's IVendorNameplateType (4.5.2).
const (
	machineryURI = "http://opcfoundation.org/UA/Machinery/"
	machines     = 1001
	devicesURI   = "http://opcfoundation.org/UA/DI/"
	deviceSet    = 5001

	identification = "Identification" // the object of a machine that has its nameplate
)

const (
	// maxMachines is from how many machines on a server is not asked for their
	// nameplates.
	maxMachines = 64
	// maxAncestors bounds the search for the machine that tags belong to.
	maxAncestors = 2000
	maxAscent    = 16
	// maxSampledTags is how many of a device's tags are looked at for that.
	maxSampledTags = 200
)

// Identify implements protocols.Identifier: the nameplate of the machine that
// the device's tags are of, where that is certain, and the server's software.
func (b *bus) Identify(ctx context.Context, d *protocols.Device) (protocols.Identity, error) {
	if b.session == nil {
		return protocols.Identity{}, b.errNotConnected()
	}
	n := nameplates{bus: b, session: b.session}
	who, err := n.identity(ctx, d)
	if err != nil {
		e := b.explain("asking who it is", err)
		if e.Kind != protocols.KindNotConnected && e.Kind != protocols.KindTimeout {
			e.Kind = protocols.KindRefused // there is nothing to be had
		}
		return who, e
	}
	return who, nil
}

// nameplates looks for a server's nameplates.
type nameplates struct {
	bus     *bus
	session *session
}

func (n *nameplates) identity(ctx context.Context, d *protocols.Device) (who protocols.Identity, err error) {
	if who.Software, err = n.software(ctx); err != nil {
		return who, err
	}
	found, err := n.machines(ctx)
	if err != nil || len(found) == 0 {
		return who, err
	}
	machine := found[0]
	if len(found) > 1 {
		if machine, err = n.machineOf(ctx, d, found); err != nil || machine == nil {
			return who, err
		}
	}
	plate, err := n.plate(ctx, machine)
	plate.Software = who.Software
	return plate, err
}

// software is what the server says of its own software (Part 5, 12.4
// BuildInfo). Whoever made that need not have made the machine.
func (n *nameplates) software(ctx context.Context) (string, error) {
	nodes := []*ua.ReadValueID{}
	for _, i := range []uint32{
		id.Server_ServerStatus_BuildInfo_ManufacturerName, id.Server_ServerStatus_BuildInfo_ProductName, id.Server_ServerStatus_BuildInfo_SoftwareVersion,
	} {
		nodes = append(nodes, valueOfNode(ua.NewNumericNodeID(0, i), ""))
	}
	out := make([]*ua.DataValue, len(nodes))
	if err := n.bus.readMany(ctx, nodes, out); err != nil {
		return "", err
	}
	var parts []string
	for _, v := range out {
		// Products are often called by their maker's name and their own.
		if text := plateText(v); text != "" && !slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(p, text) }) {
			parts = slices.DeleteFunc(parts, func(p string) bool { return strings.HasPrefix(text, p) })
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, " "), nil
}

// machines returns the machines that the server has: those of the folder
// Machines, or else those of DeviceSet. It returns none where there are too
// many.
func (n *nameplates) machines(ctx context.Context) ([]*ua.NodeID, error) {
	for _, place := range []struct {
		uri string
		id  uint32
	}{{machineryURI, machines}, {devicesURI, deviceSet}} {
		ns := indexOf(n.session.namespaces, place.uri)
		if ns < 0 {
			continue
		}
		below, err := n.below(ctx, ua.NodeClassObject, ua.NewNumericNodeID(uint16(ns), place.id))
		if err != nil {
			return nil, err
		}
		var found []*ua.NodeID
		for _, r := range below[0].refs {
			// What the specification itself has there describes no machine
			// (DeviceFeatures, say).
			if node := n.session.localNode(r.NodeID); node != nil && int(node.Namespace()) != ns && node.Namespace() != 0 {
				found = append(found, node)
			}
		}
		if len(found) > maxMachines || below[0].more {
			return nil, nil
		}
		if len(found) > 0 {
			return found, nil
		}
	}
	return nil, nil
}

// plate reads the nameplate of a machine: properties of its Identification, or
// of itself.
func (n *nameplates) plate(ctx context.Context, machine *ua.NodeID) (protocols.Identity, error) {
	below, err := n.below(ctx, ua.NodeClassObject|ua.NodeClassVariable, machine)
	if err != nil {
		return protocols.Identity{}, err
	}
	properties := below[0].refs
	for _, r := range below[0].refs {
		if r.NodeClass != ua.NodeClassObject || r.BrowseName.Name != identification {
			continue
		}
		if node := n.session.localNode(r.NodeID); node != nil {
			own, err := n.below(ctx, ua.NodeClassVariable, node)
			if err != nil {
				return protocols.Identity{}, err
			}
			properties = slices.Concat(own[0].refs, properties) // they go before
		}
	}
	texts, err := n.texts(ctx, properties)
	if err != nil {
		return protocols.Identity{}, err
	}
	return protocols.Identity{
		Maker: texts["Manufacturer"], Model: texts["Model"], Product: texts["ProductCode"], Serial: texts["SerialNumber"],
		Version: cmp.Or(texts["SoftwareRevision"], texts["DeviceRevision"], texts["HardwareRevision"]),
	}, nil
}

// texts reads those of the variables that are of a nameplate, by their names.
func (n *nameplates) texts(ctx context.Context, refs []*ua.ReferenceDescription) (map[string]string, error) {
	var names []string
	var nodes []*ua.ReadValueID
	for _, r := range refs {
		switch name := r.BrowseName.Name; name {
		case "Manufacturer", "Model", "ProductCode", "SerialNumber", "SoftwareRevision", "DeviceRevision", "HardwareRevision":
			if node := n.session.localNode(r.NodeID); node != nil && r.NodeClass == ua.NodeClassVariable {
				names, nodes = append(names, name), append(nodes, valueOfNode(node, ""))
			}
		}
	}
	out := make([]*ua.DataValue, len(nodes))
	if err := n.bus.readMany(ctx, nodes, out); err != nil {
		return nil, err
	}
	texts := make(map[string]string)
	for i, v := range out {
		if texts[names[i]] == "" {
			texts[names[i]] = plateText(v)
		}
	}
	return texts, nil
}

// plateText is the text of a value of a nameplate; empty: it says nothing.
func plateText(dv *ua.DataValue) string {
	if dv == nil || dv.Value == nil || isBad(dv.Status) {
		return ""
	}
	text := ""
	switch v := dv.Value.Value().(type) {
	case string:
		text = v
	case *ua.LocalizedText:
		if v != nil {
			text = v.Text
		}
	case int8, int16, int32, int64, uint8, uint16, uint32, uint64: // a revision, mostly; -1: not known
		if text = fmt.Sprint(v); strings.HasPrefix(text, "-") {
			return ""
		}
	}
	text = protocols.Identity{Maker: text}.Clean().Maker
	switch strings.ToLower(text) {
	case "-", "--", "n/a", "na", "none", "null", "unknown", "undefined", "not set", "default", "tbd", "?", "0":
		return ""
	}
	return text
}

// machineOf returns the machine that all tags of d are below of; nil: that is
// not certain.
func (n *nameplates) machineOf(ctx context.Context, d *protocols.Device, found []*ua.NodeID) (*ua.NodeID, error) {
	isMachine := make(map[string]*ua.NodeID, len(found))
	for _, node := range found {
		isMachine[node.String()] = node
	}
	level, err := n.tagNodes(ctx, d)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	var of *ua.NodeID
	for range maxAscent {
		var next []*ua.NodeID
		for _, node := range level {
			key := node.String()
			if seen[key] {
				continue
			}
			seen[key] = true
			if m := isMachine[key]; m != nil {
				if of != nil {
					return nil, nil // of two
				}
				of = m
				continue // what is above a machine is not asked for
			}
			next = append(next, node)
		}
		if len(next) == 0 {
			return of, nil
		}
		if len(seen) > maxAncestors {
			return nil, nil
		}
		if level, err = n.above(ctx, next); err != nil {
			return nil, err
		}
	}
	return nil, nil // there is more above: it is not known what
}

// tagNodes returns the nodes of some of the device's tags.
func (n *nameplates) tagNodes(ctx context.Context, d *protocols.Device) ([]*ua.NodeID, error) {
	step := max(1, (len(d.Tags)+maxSampledTags-1)/maxSampledTags)
	var tags []int
	for i := 0; i < len(d.Tags); i += step {
		tags = append(tags, i)
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
		if node, ok := addrs[i].nodeID(n.session.namespaces); ok {
			nodes = append(nodes, node)
		}
	}
	return nodes, nil
}

// listing is what a browse of one node found.
type listing struct {
	refs []*ua.ReferenceDescription
	more bool // than were taken
}

// listings collects them. A node that refuses has none.
type listings struct {
	all  []listing
	most int // of one node
}

func (l *listings) reference(i int, r *ua.ReferenceDescription) {
	if one := &l.all[i]; len(one.refs) < l.most {
		one.refs = append(one.refs, r)
	} else {
		one.more = true
	}
}

func (*listings) refused(int, ua.StatusCode) {}

func (l *listings) enough(i int) bool { return l.all[i].more }

// below returns what is below nodes.
func (n *nameplates) below(ctx context.Context, classes ua.NodeClass, nodes ...*ua.NodeID) ([]listing, error) {
	l := listings{all: make([]listing, len(nodes)), most: 4 * maxMachines}
	br := newBrowser(n.bus, n.session, classes)
	br.refs = (l.most + 1) * len(nodes)
	err := br.browse(ctx, nodes, &l)
	return l.all, err
}

// above returns the nodes that nodes are below of.
func (n *nameplates) above(ctx context.Context, nodes []*ua.NodeID) ([]*ua.NodeID, error) {
	l := listings{all: make([]listing, len(nodes)), most: 16}
	br := newBrowser(n.bus, n.session, ua.NodeClassObject|ua.NodeClassVariable)
	br.req.BrowseDirection = ua.BrowseDirectionInverse
	err := br.browse(ctx, nodes, &l)
	var all []*ua.NodeID
	for i := range l.all {
		for _, r := range l.all[i].refs {
			if node := n.session.localNode(r.NodeID); node != nil {
				all = append(all, node)
			}
		}
	}
	return all, err
}
