package sparkplug

import (
	"fmt"
	"slices"

	"millrace/protocols"
)

// The names of the metrics that every edge node has (Sparkplug 3.0, 6.4.20
// and 6.4.21), and where the definitions of ours stand.
const (
	BdSeq        = "bdSeq"
	Rebirth      = "Node Control/Rebirth"
	typesFolder  = "_types_/"
	quality      = "Quality" // a property; its values are those below
	reason       = "Reason"  // a property: our code for why a value is not good
	qualityBad   = 0
	qualityGood  = 192
	qualityStale = 500
)

// Message is one message, ready to be sent: at QoS 0 and not retained, but
// for a death, which goes out at QoS 1 (Sparkplug 3.0, 6.4.25).
type Message struct {
	Topic string
	Body  []byte
}

// Device describes what a device's births say.
type Device struct {
	ID      string
	Metrics []Definition
}

// Definition describes one metric of a device.
type Definition struct {
	Name          string
	Type          DataType // Unknown: the first value tells
	Unit          string   // property engUnit; empty: none
	Low, High     *float64 // properties engLow and engHigh; nil: not known
	Documentation string   // property documentation; empty: none
}

// Current is the newest reading of a tag, for births.
type Current struct {
	Name    string // of the tag, for those who put them in order; a Node goes by the order alone
	Reading protocols.Reading
	Time    int64 // when it arrived, ms since 1970 UTC; 0: there was none yet
}

// Options of a Node.
type Options struct {
	Group, ID string
	// AppendJSON appends a value as JSON: that is how values go out, as texts,
	// which Sparkplug has no data type for.
	AppendJSON func(dst []byte, v protocols.Value) []byte
}

// Node is the state of one edge node: what its births say, and its sequence
// number. What its methods return has to be sent, in the order in which they
// were called.
//
// Data types come from the configuration. Where that does not say one, or a
// value does not fit, the metric's type is learnt from the value: it only
// widens, at last to a text. What was learnt needs a birth before the value
// can go out, and Data says so.
type Node struct {
	o       Options
	bdSeq   uint64
	seq     byte // of the next message
	aliases uint64

	devices map[string]*device
	schemas map[*protocols.Schema]*schema
	own     []*ownMetric
	types   []*template // the definitions
	// stale says that the node's birth is no longer what it should be: a
	// definition was added or has changed.
	stale bool

	order []int32 // of a batch's readings, by their times; used again
	stamp []byte  // a batch's time as it stands in its metrics; used again
	text  []byte  // a value as JSON; used again
}

// device is one device and its metrics.
type device struct {
	id                 string
	birth, data, death string // topics
	metrics            []*metric
	byName             map[string]*metric
	born               bool
	stale              bool // born, but its birth is no longer what it should be
	configured         bool // else only batches from before a change tell of it
	next               bool // configured, while SetDevices runs
}

// metric is one metric of a device.
type metric struct {
	Definition
	slot
	alias      uint64
	configured int // index among the configured metrics; -1: none of them
}

// ownMetric is one of the node's own metrics.
type ownMetric struct {
	name  string
	typ   DataType
	value protocols.Value
	ms    int64
	alias uint64
	dirty bool // changed since it was sent
}

// New makes a Node. The error says which id is not allowed.
func New(o Options) (*Node, error) {
	if err := CheckID(o.Group); err != nil {
		return nil, fmt.Errorf("the group id %w", err)
	}
	if err := CheckID(o.ID); err != nil {
		return nil, fmt.Errorf("the edge node id %w", err)
	}
	return &Node{o: o, devices: map[string]*device{}, schemas: map[*protocols.Schema]*schema{}}, nil
}

// SetDevices makes ds the devices that the configuration knows. It says
// whether births say something else now: then the node has to be born again.
// Metrics keep their aliases, and devices that are not in ds any more are
// forgotten once no batch tells of them: at the next Begin.
func (n *Node) SetDevices(ds []Device) (changed bool, err error) {
	for i := range ds {
		if err := CheckID(ds[i].ID); err != nil {
			return false, fmt.Errorf("the device id %w", err)
		}
	}
	for _, d := range n.devices {
		d.next = false
	}
	for i := range ds {
		d := n.device(ds[i].ID)
		d.next = true
		changed = n.setDevice(d, ds[i].Metrics) || changed
	}
	for _, d := range n.devices {
		changed = changed || d.configured != d.next
		d.configured = d.next
	}
	clear(n.schemas)
	return changed, nil
}

func (n *Node) setDevice(d *device, defs []Definition) (changed bool) {
	for _, m := range d.metrics {
		m.configured = -1
	}
	before := len(d.metrics)
	for i := range defs {
		m := d.byName[defs[i].Name]
		if m == nil {
			m = n.addMetric(d, defs[i])
		} else if !sameDefinition(&m.Definition, &defs[i]) {
			m.Definition = defs[i]
			m.slot = slot{typ: defs[i].Type}
			changed = true
		}
		m.configured = i
	}
	// What the configuration no longer has is known until the next Begin, as
	// batches that wait may tell of it.
	if slices.ContainsFunc(d.metrics[:before], func(m *metric) bool { return m.configured < 0 }) {
		changed = true
	}
	changed = changed || len(d.metrics) > before
	d.stale = d.stale || changed
	return changed
}

func sameDefinition(a, b *Definition) bool {
	same := func(a, b *float64) bool { return a == b || a != nil && b != nil && *a == *b }
	return a.Name == b.Name && a.Type == b.Type && a.Unit == b.Unit && a.Documentation == b.Documentation &&
		same(a.Low, b.Low) && same(a.High, b.High)
}

func (n *Node) device(id string) *device {
	if d := n.devices[id]; d != nil {
		return d
	}
	topic := func(kind string) string {
		return Topic{Type: kind, Group: n.o.Group, Node: n.o.ID, Device: id}.String()
	}
	d := &device{id: id, birth: topic(DBIRTH), data: topic(DDATA), death: topic(DDEATH), byName: map[string]*metric{}}
	n.devices[id] = d
	return d
}

func (n *Node) addMetric(d *device, def Definition) *metric {
	m := &metric{Definition: def, slot: slot{typ: def.Type}, alias: n.alias(), configured: -1}
	d.metrics = append(d.metrics, m)
	d.byName[def.Name] = m
	d.stale = true
	return m
}

func (n *Node) alias() uint64 {
	n.aliases++
	return n.aliases
}

// Set makes v the value of one of the node's own metrics, as of the time ms.
// A new one, or one of another type, needs a birth: Stale.
func (n *Node) Set(name string, v protocols.Value, ms int64) {
	typ := natural(v)
	i := slices.IndexFunc(n.own, func(m *ownMetric) bool { return m.name == name })
	if i < 0 {
		n.own = append(n.own, &ownMetric{name: name, typ: typ, value: v, ms: ms, alias: n.alias()})
		n.stale = true
		return
	}
	m := n.own[i]
	if m.typ != typ {
		m.typ, n.stale = typ, true
	}
	m.value, m.ms, m.dirty = v, ms, true
}

// Stale says that Birth has to be sent, and the births of all devices that
// are born: what one of them said has changed.
func (n *Node) Stale() bool { return n.stale }

// Born says that a device has a birth that is what it should be.
func (n *Node) Born(id string) bool {
	d := n.devices[id]
	return d != nil && d.born && !d.stale
}

// Begin begins a session with the broker. Nothing is born in it yet.
func (n *Node) Begin(bdSeq byte) {
	n.bdSeq, n.seq = uint64(bdSeq), 0
	for id, d := range n.devices {
		d.born = false
		d.metrics = slices.DeleteFunc(d.metrics, func(m *metric) bool {
			gone := m.configured < 0
			if gone {
				delete(d.byName, m.Name)
			}
			return gone
		})
		if !d.configured {
			delete(n.devices, id)
		}
	}
	n.dropTypes()
	clear(n.schemas)
}

// number returns the sequence number of the next message (Sparkplug 3.0,
// 6.4.6: 0 to 255, over all messages of the node).
func (n *Node) number() uint64 {
	s := n.seq
	n.seq++
	return uint64(s)
}

// The keys of a Payload's fields.
const (
	keyTimestamp = 0x08
	keyMetric    = 0x12
	keySeq       = 0x18
)

// The keys of a Metric's fields.
const (
	keyName        = 0x0a
	keyAlias       = 0x10
	keyMetricTime  = 0x18
	keyDataType    = 0x20
	keyHistorical  = 0x28
	keyNull        = 0x38
	keyProperties  = 0x4a
	keyPropName    = 0x0a // in a PropertySet
	keyPropValue   = 0x12
	keyPropType    = 0x08 // in a PropertyValue
	keyPropInt     = 0x18
	keyPropDouble  = 0x31
	keyPropString  = 0x42
	keyMember      = 0x12 // in a Template
	keyTemplateRef = 0x22
	keyDefinition  = 0x28
)

// appendBdSeq appends the metric bdSeq.
func (n *Node) appendBdSeq(dst []byte, ms int64) []byte {
	dst, at := open(dst, keyMetric)
	dst = appendText(dst, keyName, BdSeq)
	dst = appendVarint(dst, keyMetricTime, uint64(ms))
	dst = appendVarint(dst, keyDataType, uint64(Int64))
	return seal(appendVarint(dst, keyLong, n.bdSeq), at)
}

// Death returns the node's death, which is its last will, and what it says
// itself when it leaves. It is sent at QoS 1 and has no sequence number.
func (n *Node) Death(ms int64) Message {
	body := appendVarint(nil, keyTimestamp, uint64(ms))
	return Message{Topic: Topic{Type: NDEATH, Group: n.o.Group, Node: n.o.ID}.String(), Body: n.appendBdSeq(body, ms)}
}

// DeviceDeath returns the death of a device that was born, and false if it
// was not.
func (n *Node) DeviceDeath(id string, ms int64) (Message, bool) {
	d := n.devices[id]
	if d == nil || !d.born {
		return Message{}, false
	}
	d.born = false
	body := appendVarint(nil, keyTimestamp, uint64(ms))
	return Message{Topic: d.death, Body: appendVarint(body, keySeq, n.number())}, true
}

// NodeData returns what has changed of the node's own metrics, and false if
// nothing has.
func (n *Node) NodeData(ms int64) (Message, bool) {
	var body []byte
	for _, m := range n.own {
		if !m.dirty {
			continue
		}
		m.dirty = false
		if body == nil {
			body = appendVarint(nil, keyTimestamp, uint64(ms))
		}
		var at int
		body, at = open(body, keyMetric)
		body = appendVarint(body, keyAlias, m.alias)
		body = appendVarint(body, keyMetricTime, uint64(m.ms))
		body, _ = appendScalar(body, m.typ, m.value) // its type was made from the value
		body = seal(body, at)
	}
	if body == nil {
		return Message{}, false
	}
	topic := Topic{Type: NDATA, Group: n.o.Group, Node: n.o.ID}.String()
	return Message{Topic: topic, Body: appendVarint(body, keySeq, n.number())}, true
}
