package mqtttest

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"millrace/protocols"
	"millrace/protocols/sparkplug"
)

// Host is a strict host application of Sparkplug B 3.0: it follows the edge
// nodes that it hears, keeps what they say, and notes every requirement that
// they break, by its identifier in the specification.
type Host struct {
	client paho.Client
	id     string

	mu     sync.Mutex
	nodes  map[string]*HostNode
	faults []string
	log    []string // type and topic of every message, in order
}

// HostNode is an edge node as a host sees it.
type HostNode struct {
	Online   bool
	BdSeq    uint64
	Births   int // NBIRTHs
	Deaths   int // NDEATHs
	Devices  map[string]*HostDevice
	Metrics  map[string]HostMetric // its own, with their values
	Sessions []uint64              // the bdSeq of every session's first birth

	seq     uint64
	aliases map[uint64]string // whose: device/metric
	types   map[string]*sparkplug.Template
	own     map[uint64]string
}

// HostDevice is a device as a host sees it.
type HostDevice struct {
	Online         bool
	Births, Deaths int
	Metrics        map[string]HostMetric
	// Samples are the values of each metric, in order of arrival.
	Samples map[string][]Sample

	aliases map[uint64]string
}

// HostMetric is a metric as its last birth has it, and its newest value.
type HostMetric struct {
	Type       sparkplug.DataType
	Null       bool
	Value      protocols.Value
	Properties map[string]sparkplug.Property
	TS         uint64
}

// Sample is one value that came as data.
type Sample struct {
	TS         int64
	Historical bool
	Null       bool
	Value      protocols.Value
	Quality    uint64
	Reason     string
}

// NewHost connects, subscribes, and says on its STATE topic that it is online,
// if it has an id. It is closed when the test ends.
func NewHost(t TB, broker, id string) *Host {
	t.Helper()
	h := &Host{id: id, nodes: map[string]*HostNode{}}
	client := "host-" + id
	h.client = listenAt(t, &ReceiverOptions{Broker: broker, ClientID: client, Topic: sparkplug.Namespace + "/#"}, 2, h.receive)
	if id != "" {
		h.SetState(t, true, time.Now().UnixMilli())
	}
	return h
}

// SetState publishes the host's state.
func (h *Host) SetState(t TB, online bool, ms int64) {
	t.Helper()
	h.Publish(t, sparkplug.Namespace+"/STATE/"+h.id, true, fmt.Appendf(nil, `{"online":%v,"timestamp":%d}`, online, ms))
}

// Publish publishes at QoS 1.
func (h *Host) Publish(t TB, topic string, retain bool, body []byte) {
	t.Helper()
	if token := h.client.Publish(topic, 1, retain, body); !token.WaitTimeout(waitTime) || token.Error() != nil {
		t.Fatalf("host: %s was not published: %v", topic, token.Error())
	}
}

// Rebirth asks a node for all births.
func (h *Host) Rebirth(t TB, group, node string) {
	t.Helper()
	h.Publish(t, sparkplug.Topic{Type: sparkplug.NCMD, Group: group, Node: node}.String(), false, sparkplug.RebirthCommand(time.Now().UnixMilli()))
}

// Faults returns the requirements that were broken.
func (h *Host) Faults() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.faults)
}

// Log returns the topics of all messages, in order of arrival.
func (h *Host) Log() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.log)
}

// See calls f with the node as it is now; with an empty one, if it was not
// heard yet.
func (h *Host) See(node string, f func(n *HostNode)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.nodes[node]; n != nil {
		f(n)
		return
	}
	f(&HostNode{})
}

// Samples returns what came as data of a metric.
func (h *Host) Samples(node, device, metric string) (all []Sample) {
	h.See(node, func(n *HostNode) {
		if d := n.Devices[device]; d != nil {
			all = slices.Clone(d.Samples[metric])
		}
	})
	return all
}

// WaitOnline waits until a device is born.
func (h *Host) WaitOnline(t TB, node, device string) {
	t.Helper()
	WaitFor(t, "the birth of "+device, func() (ok bool) {
		h.See(node, func(n *HostNode) { ok = n.Online && n.Devices[device] != nil && n.Devices[device].Online })
		return ok
	})
}

func (h *Host) fault(format string, args ...any) {
	h.faults = append(h.faults, fmt.Sprintf(format, args...))
}

func (h *Host) receive(_ paho.Client, m paho.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	topic, ok := sparkplug.ParseTopic(m.Topic())
	if !ok {
		h.fault("tck-id-topic-structure: %s", m.Topic())
		return
	}
	switch topic.Type {
	case sparkplug.STATE, sparkplug.NCMD, sparkplug.DCMD:
		return
	}
	h.log = append(h.log, m.Topic())
	qos := byte(0)
	if topic.Type == sparkplug.NDEATH {
		qos = 1
	}
	if m.Qos() != qos || m.Retained() {
		h.fault("%s: QoS %d, retained %v", m.Topic(), m.Qos(), m.Retained())
	}
	p, err := sparkplug.Decode(m.Payload())
	if err != nil {
		h.fault("%s: %v", m.Topic(), err)
		return
	}
	n := h.nodes[topic.Node]
	if n == nil {
		n = &HostNode{Devices: map[string]*HostDevice{}, BdSeq: math.MaxUint64}
		h.nodes[topic.Node] = n
	}
	now := uint64(time.Now().UnixMilli())
	if !p.HasTimestamp || p.Timestamp > now+60_000 || p.Timestamp+600_000 < now && topic.Type != sparkplug.NDEATH {
		h.fault("tck-id-payloads-timestamp-in-UTC: %s: %d", m.Topic(), p.Timestamp)
	}
	if topic.Type == sparkplug.NDEATH {
		h.nodeDeath(n, p)
		return
	}
	if topic.Type == sparkplug.NBIRTH {
		n.seq = 0
	} else if !n.Online {
		h.fault("tck-id-message-flow-device-birth-publish-nbirth-wait: %s before NBIRTH", m.Topic())
		return
	}
	if !p.HasSeq || p.Seq != n.seq {
		h.fault("tck-id-payloads-sequence-num-incrementing: %s: seq %d, want %d", m.Topic(), p.Seq, n.seq)
		n.seq = p.Seq
	}
	n.seq = (n.seq + 1) % 256
	switch topic.Type {
	case sparkplug.NBIRTH:
		h.nodeBirth(n, p)
	case sparkplug.NDATA:
		h.nodeData(n, p)
	case sparkplug.DBIRTH:
		h.deviceBirth(n, topic.Device, p)
	case sparkplug.DDATA:
		h.deviceData(n, topic.Device, p)
	case sparkplug.DDEATH:
		d := n.Devices[topic.Device]
		if d == nil || !d.Online {
			h.fault("tck-id-operational-behavior-device-ddeath: of %s, which is not born", topic.Device)
			return
		}
		d.Online = false
		d.Deaths++
	}
}

func bdSeqOf(p *sparkplug.Payload) (uint64, bool) {
	for i := range p.Metrics {
		if m := &p.Metrics[i]; m.Name == sparkplug.BdSeq {
			return m.Value.Num, m.Value.Field == sparkplug.FieldLong && m.Type == sparkplug.Int64 && m.HasTimestamp && !m.HasAlias
		}
	}
	return 0, false
}

func (h *Host) nodeDeath(n *HostNode, p *sparkplug.Payload) {
	seq, ok := bdSeqOf(p)
	switch {
	case !ok || len(p.Metrics) != 1:
		h.fault("tck-id-topics-ndeath-payload: %+v", p.Metrics)
	case p.HasSeq:
		h.fault("tck-id-topics-ndeath-seq: seq %d", p.Seq)
	case n.Online && seq != n.BdSeq:
		// Of an earlier session: a host passes it over.
		return
	}
	n.Deaths++
	n.Online = false
	for _, d := range n.Devices {
		d.Online = false
	}
}

func (h *Host) nodeBirth(n *HostNode, p *sparkplug.Payload) {
	seq, ok := bdSeqOf(p)
	if !ok {
		h.fault("tck-id-topics-nbirth-bdseq-included")
	}
	again := n.Online && seq == n.BdSeq
	if !again {
		round := n.BdSeq > 200 && seq < 50
		if len(n.Sessions) > 0 && seq <= n.BdSeq && !round {
			h.fault("tck-id-topics-nbirth-bdseq-increment: %d after %d", seq, n.BdSeq)
		}
		n.Sessions = append(n.Sessions, seq)
	}
	n.Online, n.BdSeq = true, seq
	n.Births++
	n.aliases, n.types, n.own = map[uint64]string{}, map[string]*sparkplug.Template{}, map[uint64]string{}
	n.Metrics = map[string]HostMetric{}
	for _, d := range n.Devices {
		d.Online = false
	}
	h.definitions(n, p)
	rebirth := false
	for i := range p.Metrics {
		m := &p.Metrics[i]
		if m.Name == sparkplug.Rebirth {
			rebirth = m.Type == sparkplug.Boolean && m.Value.Field == sparkplug.FieldBoolean && m.Value.Num == 0 && !m.HasAlias
		}
		if m.HasAlias {
			n.own[m.Alias] = m.Name
		}
		if m.Name != sparkplug.BdSeq && m.Name != sparkplug.Rebirth && !m.HasAlias {
			h.fault("tck-id-payloads-alias-birth-requirement: %s", m.Name)
		}
		n.Metrics[m.Name] = h.birthMetric(n, "", m)
	}
	if !rebirth {
		h.fault("tck-id-topics-nbirth-rebirth-metric")
	}
}

// definitions takes in the definitions of templates.
func (h *Host) definitions(n *HostNode, p *sparkplug.Payload) {
	for i := range p.Metrics {
		m := &p.Metrics[i]
		if m.Type == sparkplug.TemplateType && m.Value.Template != nil {
			t := m.Value.Template
			if !t.Definition || t.Ref != "" {
				h.fault("tck-id-payloads-template-definition-is-definition: %s", m.Name)
			}
			n.types[m.Name] = t
		}
	}
}

// birthMetric checks a metric of a birth.
func (h *Host) birthMetric(n *HostNode, device string, m *sparkplug.Metric) HostMetric {
	out := HostMetric{Type: m.Type, Null: m.Null, Properties: h.properties(m, true), TS: m.Timestamp}
	who := device + "/" + m.Name
	switch {
	case m.Name == "":
		h.fault("tck-id-payloads-name-requirement: alias %d of %s", m.Alias, device)
	case m.Type == sparkplug.Unknown || m.Type > sparkplug.DateTimeArray:
		h.fault("tck-id-payloads-metric-datatype-req: %s", who)
	case !m.HasTimestamp:
		h.fault("tck-id-payloads-name-birth-data-requirement: %s", who)
	case m.Null != (m.Value.Field == sparkplug.FieldNone):
		h.fault("tck-id-operational-behavior-data-publish-dbirth-values: %s", who)
	}
	if m.HasAlias {
		if other, taken := n.aliases[m.Alias]; taken && other != who {
			h.fault("tck-id-payloads-alias-uniqueness: %d is of %s and %s", m.Alias, other, who)
		}
		n.aliases[m.Alias] = who
	}
	if !m.Null && (m.Value.Template == nil || !m.Value.Template.Definition) {
		out.Value = h.value(n, who, m.Type, m.Value, true)
	}
	return out
}

// value checks that a value fits its type, and returns it.
func (h *Host) value(n *HostNode, who string, typ sparkplug.DataType, v sparkplug.Value, birth bool) protocols.Value {
	if typ == sparkplug.TemplateType && v.Template != nil {
		h.instance(n, who, v.Template, birth)
		return protocols.Value{}
	}
	out, ok := v.As(typ)
	if !ok {
		h.fault("tck-id-payloads-metric-datatype-value: %s: %+v is no %v", who, v, typ)
	}
	return out
}

func (h *Host) instance(n *HostNode, who string, t *sparkplug.Template, birth bool) {
	def := n.types[t.Ref]
	if def == nil || t.Definition {
		h.fault("tck-id-payloads-template-instance-ref: %s: %q", who, t.Ref)
		return
	}
	members := map[string]sparkplug.DataType{}
	for i := range def.Metrics {
		members[def.Metrics[i].Name] = def.Metrics[i].Type
	}
	for i := range t.Metrics {
		m := &t.Metrics[i]
		typ, known := members[m.Name]
		if !known {
			h.fault("tck-id-payloads-template-instance-members: %s: %s", who, m.Name)
			continue
		}
		delete(members, m.Name)
		if birth && m.Type != typ {
			h.fault("tck-id-payloads-metric-datatype-req: %s/%s", who, m.Name)
		}
		if !m.Null {
			h.value(n, who+"/"+m.Name, typ, m.Value, birth)
		}
	}
	if birth && len(members) > 0 {
		h.fault("tck-id-payloads-template-instance-members-birth: %s: %v", who, members)
	}
}

func (h *Host) properties(m *sparkplug.Metric, birth bool) map[string]sparkplug.Property {
	if m.Properties == nil {
		return nil
	}
	all := map[string]sparkplug.Property{}
	for _, p := range m.Properties {
		all[p.Key] = p
		if birth && p.Type == sparkplug.Unknown {
			h.fault("tck-id-payloads-metric-propertyvalue-type-req: %s", p.Key)
		}
		if p.Key == "Quality" && (p.Type != sparkplug.Int32 || p.Value.Num != 0 && p.Value.Num != 192 && p.Value.Num != 500) {
			h.fault("tck-id-payloads-propertyset-quality-value-type: %+v", p)
		}
	}
	return all
}

func (h *Host) deviceBirth(n *HostNode, id string, p *sparkplug.Payload) {
	d := n.Devices[id]
	if d == nil {
		d = &HostDevice{Samples: map[string][]Sample{}}
		n.Devices[id] = d
	}
	d.Online = true
	d.Births++
	d.Metrics, d.aliases = map[string]HostMetric{}, map[uint64]string{}
	for i := range p.Metrics {
		m := &p.Metrics[i]
		if !m.HasAlias {
			h.fault("tck-id-payloads-alias-birth-requirement: %s/%s", id, m.Name)
		}
		if m.Historical {
			h.fault("a stored value in a birth: %s/%s", id, m.Name)
		}
		if _, twice := d.Metrics[m.Name]; twice {
			h.fault("%s/%s is twice in its birth", id, m.Name)
		}
		d.aliases[m.Alias] = m.Name
		d.Metrics[m.Name] = h.birthMetric(n, id, m)
	}
}

func (h *Host) nodeData(n *HostNode, p *sparkplug.Payload) {
	for i := range p.Metrics {
		m := &p.Metrics[i]
		name, ok := n.own[m.Alias]
		if !ok || m.Name != "" {
			h.fault("tck-id-payloads-alias-data-cmd-requirement: NDATA %q, alias %d", m.Name, m.Alias)
			continue
		}
		known := n.Metrics[name]
		known.Value, known.Null = h.value(n, name, known.Type, m.Value, false), m.Null
		n.Metrics[name] = known
	}
}

func (h *Host) deviceData(n *HostNode, id string, p *sparkplug.Payload) {
	d := n.Devices[id]
	if d == nil || !d.Online {
		h.fault("tck-id-payloads-ddata-order: of %s, which is not born", id)
		return
	}
	last := uint64(0)
	for i := range p.Metrics {
		m := &p.Metrics[i]
		name, ok := d.aliases[m.Alias]
		switch {
		case !ok || m.Name != "" || !m.HasAlias:
			h.fault("tck-id-payloads-alias-data-cmd-requirement: %s: %q, alias %d", id, m.Name, m.Alias)
			continue
		case m.Type != sparkplug.Unknown:
			h.fault("tck-id-payloads-metric-datatype-not-req: %s/%s", id, name)
		case !m.HasTimestamp:
			h.fault("tck-id-payloads-name-birth-data-requirement: %s/%s", id, name)
		case m.Null != (m.Value.Field == sparkplug.FieldNone):
			h.fault("a null with a value, or neither: %s/%s", id, name)
		}
		if !m.Historical {
			if m.Timestamp < last {
				h.fault("tck-id-operational-behavior-data-publish-dbirth-order: %s/%s", id, name)
			}
			last = m.Timestamp
		}
		s := Sample{TS: int64(m.Timestamp), Historical: m.Historical, Null: m.Null, Quality: 192}
		for key, prop := range h.properties(m, true) {
			switch key {
			case "Quality":
				s.Quality = prop.Value.Num
			case "Reason":
				s.Reason = prop.Value.Text
			}
		}
		if !m.Null {
			s.Value = h.value(n, id+"/"+name, d.Metrics[name].Type, m.Value, false)
		}
		d.Samples[name] = append(d.Samples[name], s)
	}
}
