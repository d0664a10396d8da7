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
// of OPC UA for Machinery (OPC 40001-1 v1.04, 9.2), and the object DeviceSet of
// OPC UA for Devices (OPC 10000-100 v1.04, 5.9). Both are to be found by their
// NodeIds, not by their places. Both have the same nameplate, the second one's
// IVendorNameplateType (5.5.2): a machine in its Identification (OPC 40001-1,
// 8.6), a device as properties of itself (OPC 10000-100, 5.6), or in its
// functional group Identification (5.4.2).
const (
	machineryURI   = "http://opcfoundation.org/UA/Machinery/"
	machinesFolder = 1001
	devicesURI     = "http://opcfoundation.org/UA/DI/"
	deviceSet      = 5001

	identification = "Identification"
)

// plateProperties are those of IVendorNameplateType that are read.
func plateProperties() []string {
	return []string{"Manufacturer", "Model", "ProductCode", "SerialNumber", "SoftwareRevision", "DeviceRevision", "HardwareRevision"}
}

// maxPlateSearch is among how many of what a machine has its nameplate is
// looked for.
const maxPlateSearch = 1000

// Identify implements protocols.Identifier: the nameplate of the machine that
// the device's tags are of, where that is certain, and the server's software.
func (b *bus) Identify(ctx context.Context, d *protocols.Device) (protocols.Identity, error) {
	if b.session == nil {
		return protocols.Identity{}, b.errNotConnected()
	}
	n := nameplates{
		bus: b, session: b.session,
		devices: indexOf(b.session.namespaces, devicesURI), machinery: indexOf(b.session.namespaces, machineryURI),
	}
	who, err := n.identity(aside(ctx), d)
	if err == nil {
		return who, nil
	}
	e := *b.explain("asking who it is", err)
	switch {
	case ctx.Err() != nil: // that the time is up says nothing of the connection
		e.Kind, e.Reason = protocols.KindTimeout, protocols.Timeout
	case e.Kind != protocols.KindNotConnected && e.Kind != protocols.KindTimeout:
		e.Kind = protocols.KindRefused // there is nothing to be had
	}
	return who, &e
}

// nameplates looks for a server's nameplates.
type nameplates struct {
	bus                *bus
	session            *session
	devices, machinery int // the namespaces; below 0: the server does not have it
}

func (n *nameplates) identity(ctx context.Context, d *protocols.Device) (who protocols.Identity, err error) {
	if who.Software, err = n.software(ctx); err != nil {
		return who, err
	}
	machine, err := n.machine(ctx, d)
	if err != nil || machine == nil {
		return who, err
	}
	plate, err := n.plate(ctx, machine)
	plate.Software = who.Software
	return plate, err
}

// software is what the server says of its own software (Part 5, 12.4
// BuildInfo). Whoever made that need not have made the machine.
func (n *nameplates) software(ctx context.Context) (string, error) {
	var nodes []*ua.ReadValueID
	for _, i := range []uint32{
		id.Server_ServerStatus_BuildInfo_ManufacturerName, id.Server_ServerStatus_BuildInfo_ProductName, id.Server_ServerStatus_BuildInfo_SoftwareVersion,
	} {
		nodes = append(nodes, valueOfNode(ua.NewNumericNodeID(0, i), ""))
	}
	out := make([]*ua.DataValue, len(nodes))
	if err := n.bus.readMany(ctx, nodes, out); err != nil {
		return "", err
	}
	return softwareText(plateText("ManufacturerName", out[0]), plateText("ProductName", out[1]), plateText("SoftwareVersion", out[2])), nil
}

// softwareText puts together what a server says of its software. Products are
// often called by their maker's name and their own, or have their version in
// it; a version alone names nothing.
func softwareText(maker, product, version string) string {
	if product == "" {
		product, maker = maker, ""
	}
	if product == "" {
		return ""
	}
	if maker != "" && !strings.HasPrefix(strings.ToLower(product), strings.ToLower(maker)) {
		product = maker + " " + product
	}
	if version != "" && !strings.HasSuffix(product, " "+version) {
		product += " " + version
	}
	return product
}

// plate reads the nameplate of a machine: of its Identification, or else of
// itself.
func (n *nameplates) plate(ctx context.Context, machine *ua.NodeID) (protocols.Identity, error) {
	own, err := n.parts(ctx, ua.NodeClassObject|ua.NodeClassVariable, machine)
	if err != nil {
		return protocols.Identity{}, err
	}
	places := []*plateParts{own}
	if node := own.get(identification); node != nil {
		group, err := n.parts(ctx, ua.NodeClassVariable, node)
		if err != nil {
			return protocols.Identity{}, err
		}
		places = []*plateParts{group, own}
	}
	var names []string
	var nodes []*ua.ReadValueID
	for _, place := range places {
		for _, name := range plateProperties() {
			if node := place.get(name); node != nil {
				names, nodes = append(names, name), append(nodes, valueOfNode(node, ""))
			}
		}
	}
	out := make([]*ua.DataValue, len(nodes))
	if err := n.bus.readMany(ctx, nodes, out); err != nil {
		return protocols.Identity{}, err
	}
	texts := make(map[string]string)
	for i, name := range names {
		texts[name] = cmp.Or(texts[name], plateText(name, out[i]))
	}
	return protocols.Identity{
		Maker: texts["Manufacturer"], Model: texts["Model"], Product: texts["ProductCode"], Serial: texts["SerialNumber"],
		Version: cmp.Or(texts["SoftwareRevision"], texts["DeviceRevision"], texts["HardwareRevision"]),
	}, nil
}

// plateParts is a browseSink for what of a node may be of a nameplate. A
// vendor's own names are not taken: his ProductCode may be a workpiece's.
type plateParts struct {
	plates *nameplates
	found  map[ua.QualifiedName][]*ua.NodeID
	seen   int
}

// parts returns the parts of a nameplate that are below node. There may be
// more of them, which the server does not show.
func (n *nameplates) parts(ctx context.Context, classes ua.NodeClass, node *ua.NodeID) (*plateParts, error) {
	p := &plateParts{plates: n, found: make(map[ua.QualifiedName][]*ua.NodeID)}
	b := newBrowser(n.bus, n.session, classes)
	b.refs = maxPlateSearch
	return p, b.browse(ctx, []*ua.NodeID{node}, p)
}

func (p *plateParts) reference(_ int, r *ua.ReferenceDescription) {
	p.seen++
	class := ua.NodeClassObject
	if r.BrowseName.Name != identification {
		class = ua.NodeClassVariable
		if !slices.Contains(plateProperties(), r.BrowseName.Name) {
			return
		}
	}
	node := p.plates.session.localNode(r.NodeID)
	same := func(n *ua.NodeID) bool { return keyOf(n) == keyOf(node) }
	if node != nil && r.NodeClass == class && !slices.ContainsFunc(p.found[*r.BrowseName], same) {
		p.found[*r.BrowseName] = append(p.found[*r.BrowseName], node)
	}
}

func (*plateParts) refused(int, ua.StatusCode) {}

func (p *plateParts) enough(int) bool { return p.seen >= maxPlateSearch }

// get returns the one node of a name; nil: there is none, or it is not known
// which.
func (p *plateParts) get(name string) *ua.NodeID {
	for _, ns := range []int{p.plates.devices, p.plates.machinery} {
		if ns < 0 {
			continue
		}
		switch found := p.found[ua.QualifiedName{NamespaceIndex: uint16(ns), Name: name}]; len(found) {
		case 0:
		case 1:
			return found[0]
		default:
			return nil
		}
	}
	return nil
}

// plateText is the text of a property of that name; empty: it says nothing.
func plateText(name string, dv *ua.DataValue) string {
	text := ""
	switch v := plainValue(dv).(type) {
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
	if isPlaceholder(name, text) {
		return ""
	}
	return text
}

// isPlaceholder says that a text is what SDKs and their samples leave in a
// property that nobody has filled in.
func isPlaceholder(name, text string) bool {
	text = strings.ToLower(strings.Trim(text, " <>[](){}\"'"))
	if strings.Trim(text, " 0.,:;-_*#?/") == "" || len(text) > 2 && strings.Trim(text, "x") == "" {
		return true
	}
	if strings.EqualFold(strings.ReplaceAll(text, " ", ""), name) {
		return true
	}
	const sample = "01234567890"
	if at := strings.Index(sample, text); name == "SerialNumber" && len(text) >= 5 && (at == 0 || at == 1) {
		return true
	}
	switch text {
	case "n/a", "na", "n.a.", "n.a", "none", "null", "nil", "nan", "unknown", "undefined", "unspecified", "default", "empty", "string", "text", "tbd", "todo",
		"to be defined", "not available", "not applicable", "not supported", "not set", "not specified", "not defined", "not used", "no value", "无", "未知":
		return true
	}
	return false
}
