package mqtt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"millrace/protocols"
	"millrace/protocols/mqtt"
	"millrace/protocols/mqtt/mqtttest"
	"millrace/protocols/sparkplug"
)

// tap stands between an edge node and its broker, and keeps the packets that
// the node sends, but for pings and acknowledgements.
type tap struct {
	listener net.Listener
	broker   string

	mu    sync.Mutex
	conns []net.Conn // of the node, in order
	sent  []tapped
	wait  sync.WaitGroup
}

// tapped is one packet of the node.
type tapped struct {
	conn    int // 0, 1 … : which connection
	packet  packets.ControlPacket
	topic   sparkplug.Topic    // of a PUBLISH
	payload *sparkplug.Payload // of a PUBLISH, and of the will of a CONNECT
}

func newTap(t *testing.T, broker string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{listener: l, broker: broker}
	p.wait.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.wait.Wait()
	})
	return p
}

func (p *tap) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", p.broker)
		if err != nil {
			_ = conn.Close()
			continue
		}
		p.mu.Lock()
		n := len(p.conns)
		p.conns = append(p.conns, conn)
		p.mu.Unlock()
		p.wait.Go(func() {
			_, _ = io.Copy(conn, up)
			_ = conn.Close()
		})
		p.wait.Go(func() {
			p.read(n, io.TeeReader(conn, up))
			_ = up.Close()
		})
	}
}

func (p *tap) read(conn int, from io.Reader) {
	for {
		packet, err := packets.ReadPacket(from)
		if err != nil {
			return
		}
		s := tapped{conn: conn, packet: packet}
		switch m := packet.(type) {
		case *packets.PingreqPacket, *packets.PubackPacket:
			continue // they may stand anywhere
		case *packets.PublishPacket:
			s.topic, _ = sparkplug.ParseTopic(m.TopicName)
			s.payload, _ = sparkplug.Decode(m.Payload)
		case *packets.ConnectPacket:
			s.payload, _ = sparkplug.Decode(m.WillMessage)
		}
		p.mu.Lock()
		p.sent = append(p.sent, s)
		p.mu.Unlock()
	}
}

// cut breaks all connections without a word.
func (p *tap) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

// recording is what one edge node has sent in its life.
type recording struct {
	sent   []tapped
	faults []string // of the strict host beside it
}

// recordLife has an edge node live through what is asked of one: a primary
// host that is late, goes and comes back, commands, devices that come and go,
// structures, bad values, stored values, a broken connection, a farewell.
func recordLife(t *testing.T) *recording {
	t.Helper()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	p := newTap(t, broker.Addr)
	l := newEdgeLine(t, broker.URL("mqtt"), "mqtt://"+p.listener.Addr().String(), func(o *mqtt.Options) {
		o.Sparkplug.PrimaryHost = "scada"
		get := o.Schema
		o.Schema = func(id uint64) (*protocols.Schema, error) {
			if s := axes(); s.ID() == id {
				return s, nil
			}
			return get(id)
		}
	})
	now := time.Now().UnixMilli()
	l.host.SetState(t, false, now)
	l.online("press-1")
	l.online("press-2")
	var running sync.WaitGroup
	running.Go(func() { l.f.run(t.Context(), t, 300) })
	mqtttest.WaitFor(t, "the waiting", func() bool { return strings.Contains(l.u.Stats().LastError, "is not online") })
	l.host.SetState(t, true, now+1)
	running.Wait()
	l.whole(t, 300)
	sees := func(what string, ok func(n *mqtttest.HostNode) bool) {
		t.Helper()
		mqtttest.WaitFor(t, what, func() (yes bool) {
			l.host.See("gw-1", func(n *mqtttest.HostNode) { yes = ok(n) })
			return yes
		})
	}
	births := func(n int) func(*mqtttest.HostNode) bool {
		return func(node *mqtttest.HostNode) bool { return node.Births >= n }
	}
	l.host.Rebirth(t, "plant", "gw-1")
	sees("a rebirth", births(2))
	l.more(t, 310)

	// A structure that nobody knew: its definition needs another birth.
	l.f.record = func(seq uint64) mqtt.Record {
		s := axes()
		b := protocols.Batch{Schema: s, Readings: []protocols.Reading{
			{Tag: 0, Value: protocols.Object([]string{"pos", "on", "inner"}, []protocols.Value{
				protocols.Float64(1.5), protocols.Bool(true), protocols.Object([]string{"n"}, []protocols.Value{protocols.Int(-3)}),
			})},
			{Tag: 1, Value: protocols.Array([]protocols.Value{protocols.Float32(1), protocols.Float32(2)}), Source: (now - 5) * 1e6},
		}}
		return mqtt.Record{Stream: "S1", Seq: seq, Time: time.Now().UnixMilli(), Schema: s.ID(), Readings: 2, Data: protocols.EncodeBatch(nil, &b)}
	}
	l.f.session(t.Context(), make(chan struct{}), 311)
	sees("the structure", func(n *mqtttest.HostNode) bool {
		d := n.Devices["press-2"]
		return d != nil && len(d.Samples["axis"]) > 0
	})
	l.f.record = func(seq uint64) mqtt.Record { return record(l.schema, "S1", seq) }

	if err := l.u.SendGap(t.Context(), 312, mqtt.Gap{Stream: "S1", From: 2, To: 5, Readings: 12, Reason: "buffer_full"}); err != nil {
		t.Fatal(err)
	}
	l.offline("press-2")
	sees("the death of press-2", func(n *mqtttest.HostNode) bool { return !n.Devices["press-2"].Online })
	l.online("press-2")
	l.host.WaitOnline(t, "gw-1", "press-2")

	l.host.SetState(t, false, now+2)
	sees("the node's death", func(n *mqtttest.HostNode) bool { return !n.Online })
	mqtttest.WaitFor(t, "the end of the session", func() bool { return !l.u.Stats().Connected })
	l.host.SetState(t, true, now+3)
	l.f.record = func(seq uint64) mqtt.Record { // it has waited
		r := record(l.schema, "S1", seq)
		r.Time -= 30_000
		return r
	}
	l.f.run(t.Context(), t, 320)
	p.cut()
	sees("the last will", func(n *mqtttest.HostNode) bool { return n.Deaths >= 2 && !n.Online })
	mqtttest.WaitFor(t, "the loss", func() bool { return !l.u.Stats().Connected })
	l.f.record = func(seq uint64) mqtt.Record { return record(l.schema, "S1", seq) }
	l.f.run(t.Context(), t, 330)
	l.u.Disconnect()
	sees("the farewell", func(n *mqtttest.HostNode) bool { return !n.Online && n.Deaths >= 3 })
	mqtttest.WaitFor(t, "the DISCONNECT", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		_, ok := p.sent[len(p.sent)-1].packet.(*packets.DisconnectPacket)
		return ok
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	return &recording{sent: slices.Clone(p.sent), faults: l.host.Faults()}
}

// axes is a device with a structure and an array.
func axes() *protocols.Schema {
	return &protocols.Schema{Device: "press-2", Tags: []protocols.SchemaTag{{Name: "axis"}, {Name: "curve"}}}
}

// published calls check for every message of the given type.
func (r *recording) published(typ string, check func(s *tapped, m *packets.PublishPacket) error) error {
	n := 0
	for i := range r.sent {
		m, ok := r.sent[i].packet.(*packets.PublishPacket)
		if !ok || r.sent[i].topic.Type != typ {
			continue
		}
		n++
		if r.sent[i].payload == nil {
			return fmt.Errorf("%s is no Sparkplug payload: %x", m.TopicName, m.Payload)
		}
		if err := check(&r.sent[i], m); err != nil {
			return fmt.Errorf("%s: %w", m.TopicName, err)
		}
	}
	if n == 0 {
		return errors.New("there is none")
	}
	return nil
}

// connects calls check for every CONNECT.
func (r *recording) connects(check func(i int, s *tapped, c *packets.ConnectPacket) error) error {
	n := 0
	for i := range r.sent {
		if c, ok := r.sent[i].packet.(*packets.ConnectPacket); ok {
			if err := check(n, &r.sent[i], c); err != nil {
				return err
			}
			n++
		}
	}
	if n < 3 {
		return fmt.Errorf("only %d connections", n)
	}
	return nil
}

// of returns what was sent over a connection.
func (r *recording) of(conn int) (all []tapped) {
	for _, s := range r.sent {
		if s.conn == conn {
			all = append(all, s)
		}
	}
	return all
}

func all(types []string, r *recording, check func(s *tapped, m *packets.PublishPacket) error) error {
	for _, typ := range types {
		if err := r.published(typ, check); err != nil {
			return fmt.Errorf("%s: %w", typ, err)
		}
	}
	return nil
}

func must(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func metric(p *sparkplug.Payload, name string) *sparkplug.Metric {
	for i := range p.Metrics {
		if p.Metrics[i].Name == name {
			return &p.Metrics[i]
		}
	}
	return &sparkplug.Metric{}
}

// TestRequirements holds a whole life of an edge node against the requirements
// of Sparkplug 3.0 that can be seen from its packets, each by its identifier.
func TestRequirements(t *testing.T) {
	t.Parallel()
	r := recordLife(t)
	for _, q := range requirements() {
		for id := range strings.FieldsSeq(q.ids) {
			t.Run(id, func(t *testing.T) {
				t.Parallel()
				if err := q.check(r); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

type requirement struct {
	ids   string
	check func(r *recording) error
}

func requirements() []requirement {
	return slices.Concat(sessionRequirements(), birthRequirements(), dataRequirements(), deathRequirements(), templateRequirements())
}

// atMost checks QoS and retain of all messages of a type.
func atMost(qos byte, types ...string) func(r *recording) error {
	return func(r *recording) error {
		return all(types, r, func(_ *tapped, m *packets.PublishPacket) error {
			return must(m.Qos == qos && !m.Retain, "QoS %d, retained %v", m.Qos, m.Retain)
		})
	}
}

// topicOf checks the topics of a type.
func topicOf(typ, want string) func(r *recording) error {
	return func(r *recording) error {
		return r.published(typ, func(_ *tapped, m *packets.PublishPacket) error {
			return must(m.TopicName == want || strings.HasSuffix(want, "/") && strings.HasPrefix(m.TopicName, want) && !strings.Contains(m.TopicName[len(want):], "/"), "not %s", want)
		})
	}
}

// hostAgrees says that the strict host found nothing of the kind; it checks
// the requirements that need more than one message.
func hostAgrees(r *recording) error {
	return must(len(r.faults) == 0, "the host says: %v", r.faults)
}

func sessionRequirements() []requirement {
	return []requirement{
		{"tck-id-principles-persistence-clean-session-311", func(r *recording) error {
			return r.connects(func(_ int, _ *tapped, c *packets.ConnectPacket) error {
				return must(c.CleanSession && c.ProtocolVersion == 4, "clean %v, version %d", c.CleanSession, c.ProtocolVersion)
			})
		}},
		{`tck-id-message-flow-edge-node-birth-publish-will-message tck-id-payloads-ndeath-will-message
			tck-id-message-flow-edge-node-birth-publish-will-message-topic tck-id-message-flow-edge-node-birth-publish-will-message-payload
			tck-id-message-flow-edge-node-birth-publish-will-message-qos tck-id-payloads-ndeath-will-message-qos
			tck-id-message-flow-edge-node-birth-publish-will-message-will-retained tck-id-payloads-ndeath-will-message-retain`, func(r *recording) error {
			return r.connects(func(_ int, s *tapped, c *packets.ConnectPacket) error {
				return must(c.WillFlag && c.WillTopic == "spBv1.0/plant/NDEATH/gw-1" && c.WillQos == 1 && !c.WillRetain && s.payload != nil, "will %+v", c)
			})
		}},
		{"tck-id-message-flow-edge-node-birth-publish-will-message-payload-bdSeq tck-id-topics-nbirth-bdseq-increment", func(r *recording) error {
			return r.connects(func(i int, s *tapped, _ *packets.ConnectPacket) error {
				m := metric(s.payload, "bdSeq")
				return must(m.Type == sparkplug.Int64 && m.Value.Field == sparkplug.FieldLong && m.Value.Num == uint64(i), "connection %d has %+v", i, m)
			})
		}},
		{"tck-id-topics-nbirth-bdseq-matching tck-id-payloads-nbirth-bdseq-repeat tck-id-payloads-ndeath-bdseq tck-id-operational-behavior-data-commands-rebirth-action-3", func(r *recording) error {
			return all([]string{sparkplug.NBIRTH, sparkplug.NDEATH}, r, func(s *tapped, _ *packets.PublishPacket) error {
				return must(metric(s.payload, "bdSeq").Value.Num == uint64(s.conn), "bdSeq %d in session %d", metric(s.payload, "bdSeq").Value.Num, s.conn)
			})
		}},
		{`tck-id-message-flow-edge-node-ncmd-subscribe tck-id-message-flow-device-dcmd-subscribe tck-id-message-flow-edge-node-birth-publish-connect
			tck-id-principles-birth-certificates-order tck-id-operational-behavior-primary-application-state-with-multiple-servers-state-subs`, func(r *recording) error {
			for conn := range 3 {
				sent := r.of(conn)
				sub, ok := sent[1].packet.(*packets.SubscribePacket)
				if !ok {
					return fmt.Errorf("connection %d: %v comes after CONNECT", conn, sent[1].packet)
				}
				for _, topic := range []string{"spBv1.0/plant/NCMD/gw-1", "spBv1.0/plant/DCMD/gw-1/+", "spBv1.0/STATE/scada"} {
					i := slices.Index(sub.Topics, topic)
					if i < 0 || sub.Qoss[i] != 1 {
						return fmt.Errorf("connection %d subscribes %v at %v", conn, sub.Topics, sub.Qoss)
					}
				}
				first := slices.IndexFunc(sent, func(s tapped) bool { return s.topic.Type != "" })
				if first < 0 || sent[first].topic.Type != sparkplug.NBIRTH {
					return fmt.Errorf("connection %d begins with %+v", conn, sent[first].topic)
				}
			}
			return nil
		}},
		{"tck-id-topic-structure tck-id-topic-structure-namespace-a tck-id-topic-structure-namespace-device-id-associated-message-types tck-id-topic-structure-namespace-device-id-non-associated-message-types", func(r *recording) error {
			for _, s := range r.sent {
				if m, ok := s.packet.(*packets.PublishPacket); ok && (s.topic.Type == "" || s.topic.String() != m.TopicName) {
					return fmt.Errorf("%s", m.TopicName)
				}
			}
			return nil
		}},
		{`tck-id-message-flow-edge-node-birth-publish-phid-wait tck-id-operational-behavior-edge-node-birth-sequence-wait
			tck-id-message-flow-edge-node-birth-publish-phid-wait-id tck-id-message-flow-edge-node-birth-publish-phid-wait-online
			tck-id-message-flow-edge-node-birth-publish-phid-wait-timestamp tck-id-message-flow-edge-node-birth-publish-phid-offline
			tck-id-operational-behavior-edge-node-termination-host-offline tck-id-operational-behavior-edge-node-termination-host-offline-reconnect`, func(r *recording) error {
			// The first session waited for the host (TestEdgePrimaryHost tries what
			// does not count), and ended with a death when it went.
			sent := r.of(0)
			n := len(sent)
			_, disconnected := sent[n-1].packet.(*packets.DisconnectPacket)
			return must(disconnected && sent[n-2].topic.Type == sparkplug.NDEATH, "it ended with %v, %v", sent[n-2].packet, sent[n-1].packet)
		}},
	}
}

func birthRequirements() []requirement {
	births := []string{sparkplug.NBIRTH, sparkplug.DBIRTH}
	everyMetric := func(check func(m *sparkplug.Metric) error) func(r *recording) error {
		return func(r *recording) error {
			return all(births, r, func(s *tapped, _ *packets.PublishPacket) error {
				for i := range s.payload.Metrics {
					if err := check(&s.payload.Metrics[i]); err != nil {
						return fmt.Errorf("%s: %w", s.payload.Metrics[i].Name, err)
					}
				}
				return nil
			})
		}
	}
	return []requirement{
		{"tck-id-topics-nbirth-topic tck-id-message-flow-edge-node-birth-publish-nbirth-topic", topicOf(sparkplug.NBIRTH, "spBv1.0/plant/NBIRTH/gw-1")},
		{"tck-id-topics-dbirth-topic tck-id-message-flow-device-birth-publish-dbirth-topic tck-id-message-flow-device-birth-publish-dbirth-match-edge-node-topic", topicOf(sparkplug.DBIRTH, "spBv1.0/plant/DBIRTH/gw-1/")},
		{`tck-id-topics-nbirth-mqtt tck-id-payloads-nbirth-qos tck-id-message-flow-edge-node-birth-publish-nbirth-qos tck-id-payloads-nbirth-retain tck-id-message-flow-edge-node-birth-publish-nbirth-retained
			tck-id-topics-dbirth-mqtt tck-id-payloads-dbirth-qos tck-id-message-flow-device-birth-publish-dbirth-qos tck-id-payloads-dbirth-retain tck-id-message-flow-device-birth-publish-dbirth-retained`, atMost(0, births...)},
		{`tck-id-message-flow-edge-node-birth-publish-nbirth-payload tck-id-message-flow-device-birth-publish-dbirth-payload
			tck-id-topics-nbirth-timestamp tck-id-payloads-nbirth-timestamp tck-id-topics-dbirth-timestamp tck-id-payloads-dbirth-timestamp tck-id-payloads-timestamp-in-UTC`, func(r *recording) error {
			now := uint64(time.Now().UnixMilli())
			return all(births, r, func(s *tapped, _ *packets.PublishPacket) error {
				return must(s.payload.HasTimestamp && s.payload.Timestamp <= now && s.payload.Timestamp+300_000 > now, "timestamp %d", s.payload.Timestamp)
			})
		}},
		{"tck-id-topics-nbirth-bdseq-included tck-id-payloads-nbirth-bdseq tck-id-message-flow-edge-node-birth-publish-nbirth-payload-bdSeq", func(r *recording) error {
			return r.published(sparkplug.NBIRTH, func(s *tapped, _ *packets.PublishPacket) error {
				m := metric(s.payload, "bdSeq")
				return must(m.Type == sparkplug.Int64 && m.Value.Field == sparkplug.FieldLong && m.HasTimestamp, "%+v", m)
			})
		}},
		{`tck-id-topics-nbirth-rebirth-metric tck-id-payloads-nbirth-rebirth-req tck-id-operational-behavior-data-commands-rebirth-name tck-id-operational-behavior-data-commands-rebirth-datatype
			tck-id-operational-behavior-data-commands-rebirth-value tck-id-operational-behavior-data-commands-rebirth-name-aliases`, func(r *recording) error {
			return r.published(sparkplug.NBIRTH, func(s *tapped, _ *packets.PublishPacket) error {
				m := metric(s.payload, "Node Control/Rebirth")
				return must(m.Type == sparkplug.Boolean && m.Value.Field == sparkplug.FieldBoolean && m.Value.Num == 0 && !m.HasAlias, "%+v", m)
			})
		}},
		{`tck-id-topics-nbirth-metrics tck-id-topics-dbirth-metrics tck-id-payloads-metric-datatype-req tck-id-payloads-metric-datatype-value-type tck-id-payloads-metric-datatype-value tck-id-payloads-name-requirement`, everyMetric(func(m *sparkplug.Metric) error {
			return must(m.Name != "" && m.Type != sparkplug.Unknown && m.Type <= sparkplug.DateTimeArray, "%+v", m)
		})},
		{"tck-id-operational-behavior-data-publish-nbirth-values tck-id-operational-behavior-data-publish-dbirth-values", everyMetric(func(m *sparkplug.Metric) error {
			return must(m.Null == (m.Value.Field == sparkplug.FieldNone), "%+v", m)
		})},
		{"tck-id-payloads-name-birth-data-requirement tck-id-payloads-metric-timestamp-in-UTC", everyMetric(func(m *sparkplug.Metric) error {
			return must(m.HasTimestamp && m.Timestamp > 1_700_000_000_000, "%+v", m)
		})},
		{"tck-id-payloads-alias-birth-requirement", everyMetric(func(m *sparkplug.Metric) error {
			return must(m.HasAlias || m.Name == "bdSeq" || m.Name == "Node Control/Rebirth", "no alias")
		})},
		{"tck-id-payloads-metric-propertyvalue-type-type tck-id-payloads-metric-propertyvalue-type-value tck-id-payloads-metric-propertyvalue-type-req", everyMetric(func(m *sparkplug.Metric) error {
			for _, p := range m.Properties {
				if p.Type < sparkplug.Int8 || p.Type > sparkplug.Text {
					return fmt.Errorf("property %+v", p)
				}
			}
			return nil
		})},
		{"tck-id-payloads-nbirth-seq tck-id-payloads-sequence-num-req-nbirth tck-id-message-flow-edge-node-birth-publish-nbirth-payload-seq tck-id-topics-nbirth-seq-num", func(r *recording) error {
			return r.published(sparkplug.NBIRTH, func(s *tapped, _ *packets.PublishPacket) error {
				return must(s.payload.HasSeq && s.payload.Seq == 0, "seq %d", s.payload.Seq)
			})
		}},
		{`tck-id-payloads-sequence-num-always-included tck-id-payloads-sequence-num-incrementing
			tck-id-topics-dbirth-seq tck-id-payloads-dbirth-seq tck-id-payloads-dbirth-seq-inc tck-id-message-flow-device-birth-publish-dbirth-payload-seq
			tck-id-topics-ndata-seq-num tck-id-payloads-ndata-seq tck-id-payloads-ndata-seq-inc tck-id-topics-ddata-seq-num tck-id-payloads-ddata-seq tck-id-payloads-ddata-seq-inc
			tck-id-topics-ddeath-seq-num tck-id-payloads-ddeath-seq tck-id-payloads-ddeath-seq-inc tck-id-payloads-ddeath-seq-number`, func(r *recording) error {
			next, seen := uint64(0), 0
			for _, s := range r.sent {
				if s.topic.Type == "" || s.topic.Type == sparkplug.NDEATH {
					continue
				}
				if s.topic.Type == sparkplug.NBIRTH {
					next = 0
				}
				if !s.payload.HasSeq || s.payload.Seq != next {
					return fmt.Errorf("%v has %d, want %d", s.topic, s.payload.Seq, next)
				}
				next = (next + 1) % 256
				seen++
			}
			return must(seen > 300, "only %d messages", seen)
		}},
		{`tck-id-message-flow-device-birth-publish-nbirth-wait tck-id-payloads-dbirth-order tck-id-payloads-ndata-order tck-id-payloads-ddata-order
			tck-id-operational-behavior-data-commands-rebirth-action-1 tck-id-operational-behavior-data-commands-rebirth-action-2`, func(r *recording) error {
			// Behind each NBIRTH come the DBIRTHs of both devices (of those that
			// are alive), and then data.
			n := 0
			for i, s := range r.sent {
				if s.topic.Type != sparkplug.NBIRTH {
					continue
				}
				n++
				if one, two := r.sent[i+1].topic, r.sent[i+2].topic; one.Type != sparkplug.DBIRTH || two.Type != sparkplug.DBIRTH {
					return fmt.Errorf("birth %d is followed by %v, %v", n, one, two)
				}
			}
			return must(n >= 5, "only %d births", n)
		}},
		{`tck-id-topics-nbirth-metric-reqs tck-id-topics-dbirth-metric-reqs tck-id-operational-behavior-data-publish-nbirth tck-id-operational-behavior-data-publish-dbirth
			tck-id-payloads-alias-uniqueness tck-id-payloads-propertyset-keys-array-size tck-id-payloads-propertyset-values-array-size`, hostAgrees},
	}
}

func dataRequirements() []requirement {
	data := []string{sparkplug.NDATA, sparkplug.DDATA}
	return []requirement{
		{"tck-id-topics-ndata-topic", topicOf(sparkplug.NDATA, "spBv1.0/plant/NDATA/gw-1")},
		{"tck-id-topics-ddata-topic", topicOf(sparkplug.DDATA, "spBv1.0/plant/DDATA/gw-1/")},
		{"tck-id-topics-ndata-mqtt tck-id-payloads-ndata-qos tck-id-payloads-ndata-retain tck-id-topics-ddata-mqtt tck-id-payloads-ddata-qos tck-id-payloads-ddata-retain", atMost(0, data...)},
		{"tck-id-topics-ndata-timestamp tck-id-payloads-ndata-timestamp tck-id-topics-ddata-timestamp tck-id-payloads-ddata-timestamp", func(r *recording) error {
			return all(data, r, func(s *tapped, _ *packets.PublishPacket) error { return must(s.payload.HasTimestamp, "no timestamp") })
		}},
		{"tck-id-payloads-alias-data-cmd-requirement tck-id-payloads-metric-datatype-not-req tck-id-topics-ndata-payload tck-id-topics-ddata-payload", func(r *recording) error {
			return all(data, r, func(s *tapped, _ *packets.PublishPacket) error {
				for _, m := range s.payload.Metrics {
					if !m.HasAlias || m.Name != "" || m.Type != sparkplug.Unknown || !m.HasTimestamp {
						return fmt.Errorf("%+v", m)
					}
				}
				return must(len(s.payload.Metrics) > 0, "empty")
			})
		}},
		{"tck-id-operational-behavior-data-publish-nbirth-order tck-id-operational-behavior-data-publish-dbirth-order", func(r *recording) error {
			sourced := false
			err := all(data, r, func(s *tapped, _ *packets.PublishPacket) error {
				last := uint64(0)
				for _, m := range s.payload.Metrics {
					if !m.Historical && m.Timestamp < last {
						return fmt.Errorf("%d after %d", m.Timestamp, last)
					}
					sourced = sourced || m.Timestamp != s.payload.Metrics[0].Timestamp
					last = m.Timestamp
				}
				return nil
			})
			return errors.Join(err, must(sourced, "no message had two times"))
		}},
		{"tck-id-payloads-propertyset-quality-value-type tck-id-payloads-propertyset-quality-value-value", func(r *recording) error {
			seen := false
			err := r.published(sparkplug.DDATA, func(s *tapped, _ *packets.PublishPacket) error {
				for _, m := range s.payload.Metrics {
					for _, p := range m.Properties {
						if p.Key != "Quality" {
							continue
						}
						seen = true
						if n := p.Value.Num; p.Type != sparkplug.Int32 || p.Value.Field != sparkplug.FieldInt || n != 0 && n != 192 && n != 500 {
							return fmt.Errorf("%+v", p)
						}
					}
				}
				return nil
			})
			return errors.Join(err, must(seen, "no quality was sent"))
		}},
	}
}

func deathRequirements() []requirement {
	return []requirement{
		{"tck-id-topics-ndeath-topic", topicOf(sparkplug.NDEATH, "spBv1.0/plant/NDEATH/gw-1")},
		{"tck-id-topics-ddeath-topic tck-id-operational-behavior-device-ddeath", topicOf(sparkplug.DDEATH, "spBv1.0/plant/DDEATH/gw-1/")},
		{"tck-id-topics-ddeath-mqtt", atMost(0, sparkplug.DDEATH)},
		{"tck-id-payloads-ddeath-timestamp", func(r *recording) error {
			return r.published(sparkplug.DDEATH, func(s *tapped, _ *packets.PublishPacket) error { return must(s.payload.HasTimestamp, "no timestamp") })
		}},
		{"tck-id-topics-ndeath-payload tck-id-topics-ndeath-seq tck-id-payloads-ndeath-seq", func(r *recording) error {
			return r.published(sparkplug.NDEATH, func(s *tapped, m *packets.PublishPacket) error {
				return must(len(s.payload.Metrics) == 1 && !s.payload.HasSeq && !m.Retain, "%+v", s.payload)
			})
		}},
		{`tck-id-operational-behavior-edge-node-intentional-disconnect-ndeath tck-id-payloads-ndeath-will-message-publisher
			tck-id-operational-behavior-edge-node-intentional-disconnect-packet tck-id-payloads-ndeath-will-message-publisher-disconnect-mqtt311`, func(r *recording) error {
			n := 0
			for i, s := range r.sent {
				if _, ok := s.packet.(*packets.DisconnectPacket); !ok {
					continue
				}
				n++
				if before := r.sent[i-1]; before.topic.Type != sparkplug.NDEATH || before.conn != s.conn {
					return fmt.Errorf("before DISCONNECT comes %v", before.topic)
				}
			}
			return must(n >= 2, "only %d farewells", n)
		}},
	}
}

func templateRequirements() []requirement {
	definitions := func(check func(m *sparkplug.Metric) error) func(r *recording) error {
		return func(r *recording) error {
			seen := 0
			err := r.published(sparkplug.NBIRTH, func(s *tapped, _ *packets.PublishPacket) error {
				for i := range s.payload.Metrics {
					if m := &s.payload.Metrics[i]; m.Type == sparkplug.TemplateType {
						seen++
						if err := check(m); err != nil {
							return err
						}
					}
				}
				return nil
			})
			return errors.Join(err, must(seen > 0, "there is no definition"))
		}
	}
	return []requirement{
		{`tck-id-topics-nbirth-templates tck-id-payloads-template-definition-nbirth tck-id-payloads-template-definition-is-definition tck-id-payloads-template-is-definition-definition
			tck-id-payloads-template-definition-ref tck-id-payloads-template-ref-definition`, definitions(func(m *sparkplug.Metric) error {
			return must(m.Value.Template != nil && m.Value.Template.Definition && m.Value.Template.Ref == "", "%+v", m.Value.Template)
		})},
		{"tck-id-payloads-template-definition-nbirth-only", func(r *recording) error {
			return all([]string{sparkplug.DBIRTH, sparkplug.DDATA, sparkplug.NDATA}, r, func(s *tapped, _ *packets.PublishPacket) error {
				for _, m := range s.payload.Metrics {
					if m.Value.Template != nil && m.Value.Template.Definition {
						return fmt.Errorf("%+v", m)
					}
				}
				return nil
			})
		}},
		{`tck-id-payloads-template-definition-members tck-id-payloads-template-instance-is-definition tck-id-payloads-template-is-definition-instance tck-id-payloads-template-instance-ref tck-id-payloads-template-ref-instance
			tck-id-payloads-template-instance-members tck-id-payloads-template-instance-members-birth tck-id-payloads-template-instance-members-data`, func(r *recording) error {
			seen := false
			err := r.published(sparkplug.DDATA, func(s *tapped, _ *packets.PublishPacket) error {
				for _, m := range s.payload.Metrics {
					if m.Value.Template != nil {
						seen = true
						return must(!m.Value.Template.Definition && m.Value.Template.Ref == "_types_/press-2/axis", "%+v", m.Value.Template)
					}
				}
				return nil
			})
			return errors.Join(err, must(seen, "there is no instance"), hostAgrees(r))
		}},
		{"tck-id-payloads-template-is-definition", func(r *recording) error { // written in both: field 5, a varint
			for _, s := range r.sent {
				if m, ok := s.packet.(*packets.PublishPacket); ok && bytes.Contains(m.Payload, []byte("_types_/press-2/axis")) {
					return must(bytes.Contains(m.Payload, []byte{0x28, 0}) || bytes.Contains(m.Payload, []byte{0x28, 1}), "%x", m.Payload)
				}
			}
			return errors.New("there is none")
		}},
	}
}
