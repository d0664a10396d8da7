package tail

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"millrace/protocols"
	"millrace/protocols/mqtt"
	"millrace/protocols/sparkplug"
)

// node is what the births of an edge node say.
type node struct {
	born    bool // its birth was seen, and no death after it
	torn    bool // we were away: the next seq may be any
	started bool // seq is known
	seq     byte // of the last message
	bdSeq   uint64
	session bool                  // bdSeq is known
	partial bool                  // not all of its messages are subscribed to
	known   map[metricKey]*metric // by name
	aliases map[uint64]*metric
	types   map[string]*sparkplug.Template // the definitions
	devices map[string]bool                // true: born
	size    int                            // about how many bytes of it are counted in Tail.known

	asked  time.Time // when it was last asked for its births
	wanted bool      // it is to be asked
	noted  bool      // that births are missing was said; once is enough
}

type metricKey struct{ device, name string }

// metric is what a birth says of one metric.
type metric struct {
	metricKey
	typ  sparkplug.DataType
	unit string
}

// sparkplug reads a message of Sparkplug B.
func (t *Tail) sparkplug(e *Event, levels []string, m Message) *gateway {
	e.Format = FormatSparkplug
	topic, ok := sparkplug.ParseTopic(m.Topic)
	if !ok {
		e.Fault = "this is no topic of Sparkplug B"
		unknown(e, m.Body)
		return nil
	}
	e.Message, e.Group, e.Gateway, e.Device, e.Host = topic.Type, topic.Group, topic.Node, topic.Device, topic.Host
	if topic.Type == sparkplug.STATE {
		hostState(e, m.Body)
		return nil
	}
	g := t.gateway(gatewayKey{FormatSparkplug, e.Group, e.Gateway})
	p, err := sparkplug.Decode(m.Body)
	if err != nil {
		e.Fault = fmt.Sprintf("this is no %s: %v", topic.Type, err)
		unknown(e, m.Body)
		return g
	}
	if g == nil { // too many: it is shown as far as that goes
		g = &gateway{}
	}
	if g.node == nil {
		g.node = &node{}
	}
	if p.HasTimestamp && p.Timestamp <= math.MaxInt64 {
		e.TS = millis(int64(p.Timestamp))
	}
	if p.HasSeq {
		seq := p.Seq
		e.Seq = &seq
	}
	levels[2] = "*"
	n := g.node
	if n.partial = !covered(t.o.Topics, levels[:4]); n.partial {
		n.torn = true
	}
	if m.Retained && topic.Type != sparkplug.NDEATH {
		e.note("it is retained, which Sparkplug does not allow")
	}
	switch topic.Type {
	case sparkplug.NBIRTH, sparkplug.DBIRTH:
		e.Kind = KindBirth
		t.birth(g, e, p)
	case sparkplug.NDEATH, sparkplug.DDEATH:
		e.Kind = KindDeath
		n.death(e, p)
	case sparkplug.NDATA, sparkplug.DDATA:
		e.Kind = KindData
		t.data(g, e, p)
	case sparkplug.NCMD, sparkplug.DCMD:
		e.Kind = KindCommand
		n.readings(e, p)
	}
	if lost := n.gap(e, p); lost > 0 {
		g.lost += lost
		t.want(g) // a birth may have been among them
	}
	return g
}

func hostState(e *Event, body []byte) {
	e.Kind = KindHost
	s, err := sparkplug.ParseState(body)
	if err != nil {
		e.Fault = err.Error()
		unknown(e, body)
		return
	}
	e.Online, e.TS = &s.Online, millis(s.Timestamp)
}

// gap follows the sequence number, and says how many messages are missing.
func (n *node) gap(e *Event, p *sparkplug.Payload) (lost uint64) {
	switch {
	case e.Kind == KindCommand, e.Message == sparkplug.NDEATH:
		return 0
	case !p.HasSeq:
		e.note("it has no seq")
		return 0
	case p.Seq > math.MaxUint8:
		e.note("its seq is above 255")
		return 0
	}
	seq := byte(p.Seq)
	switch {
	case e.Message == sparkplug.NBIRTH:
		if seq != 0 {
			e.note("the seq of an NBIRTH has to be 0")
		}
	case n.started && !n.torn:
		if lost = uint64(seq - n.seq - 1); lost > 0 {
			e.note(lostWords(n.seq, lost))
		}
	}
	n.seq, n.started, n.torn = seq, true, false
	return lost
}

func lostWords(before byte, lost uint64) string {
	switch {
	case lost == 1:
		return fmt.Sprintf("the seq was %d before: a message is missing", before)
	case lost > math.MaxUint8/2:
		return fmt.Sprintf("the seq was %d before: %d messages are missing, or this one came late or again", before, lost)
	}
	return fmt.Sprintf("the seq was %d before: %d messages are missing", before, lost)
}

// birth takes in what a birth says.
func (t *Tail) birth(g *gateway, e *Event, p *sparkplug.Payload) {
	n := g.node
	switch {
	case e.Device == "":
		t.nodeBirth(n, e, p)
	case !n.born:
		t.miss(g, e, "the birth of its node was not seen")
	}
	if n.known == nil {
		n.forget()
	}
	if _, again := n.devices[e.Device]; e.Device != "" && (again || t.room(n, len(e.Device))) {
		n.devices[e.Device] = true
	}
	for i := range p.Metrics {
		t.learn(n, e, &p.Metrics[i])
	}
	n.readings(e, p)
}

// forget forgets what births said.
func (n *node) forget() {
	n.known, n.aliases = map[metricKey]*metric{}, map[uint64]*metric{}
	n.types, n.devices = map[string]*sparkplug.Template{}, map[string]bool{}
}

// nodeBirth begins anew: the births of all devices follow.
func (t *Tail) nodeBirth(n *node, e *Event, p *sparkplug.Payload) {
	t.known -= n.size
	n.size, n.born, n.wanted, n.noted = 0, true, false, false
	n.forget()
	bdSeq, ok := bdSeqOf(p)
	if !ok {
		e.note("it has no bdSeq")
		return
	}
	e.BdSeq = &bdSeq
	if n.session && !n.torn && bdSeq != n.bdSeq && bdSeq != (n.bdSeq+1)&math.MaxUint8 {
		e.note(fmt.Sprintf("its bdSeq was %d before: there were sessions with the broker of which nothing was seen", n.bdSeq))
	}
	n.bdSeq, n.session = bdSeq, true
}

// room says whether there is room for one more thing that n says in its
// births, with so many bytes of text, and takes it.
func (t *Tail) room(n *node, text int) bool {
	size := text + 200 // with what maps take
	if t.known+size > maxKnown {
		return false
	}
	t.known += size
	n.size += size
	return true
}

// learn takes in what a birth says of one metric.
func (t *Tail) learn(n *node, e *Event, m *sparkplug.Metric) {
	if m.Name == "" {
		e.note("a metric of the birth has no name")
		return
	}
	key := metricKey{e.Device, m.Name}
	known := n.known[key]
	if known == nil {
		if !t.room(n, len(m.Name)) {
			e.note("there are too many metrics in all: its name is not kept")
			return
		}
		known = &metric{metricKey: key}
		n.known[key] = known
	}
	known.typ, known.unit = m.Type, ""
	for i := range m.Properties {
		if p := &m.Properties[i]; p.Key == "engUnit" && !p.Null && len(p.Value.Text) <= maxUnit {
			known.unit = p.Value.Text
		}
	}
	if m.HasAlias && len(n.aliases) <= 2*len(n.known) {
		if other := n.aliases[m.Alias]; other != nil && other != known {
			e.note(fmt.Sprintf("alias %d is another metric's, %s", m.Alias, path(other.device, other.name)))
		}
		n.aliases[m.Alias] = known
	}
	if def := m.Value.Template; def != nil && def.Definition && t.room(n, len(def.Metrics)*templateMember) {
		n.types[m.Name] = m.Value.Template
	}
}

func path(device, name string) string {
	if device == "" {
		return name
	}
	return device + "/" + name
}

func (n *node) death(e *Event, p *sparkplug.Payload) {
	if e.Device != "" {
		if _, ok := n.devices[e.Device]; ok {
			n.devices[e.Device] = false
		}
		return
	}
	bdSeq, ok := bdSeqOf(p)
	switch {
	case !ok:
		e.note("it has no bdSeq")
	case n.born && n.session && bdSeq != n.bdSeq:
		e.BdSeq = &bdSeq
		e.note(fmt.Sprintf("the node was born with bdSeq %d: this is the death of an earlier session, which hosts pass over", n.bdSeq))
		return
	default:
		e.BdSeq = &bdSeq
	}
	n.born = false
	for id := range n.devices {
		n.devices[id] = false
	}
}

func bdSeqOf(p *sparkplug.Payload) (uint64, bool) {
	for i := range p.Metrics {
		if m := &p.Metrics[i]; m.Name == sparkplug.BdSeq && (m.Value.Field == sparkplug.FieldLong || m.Value.Field == sparkplug.FieldInt) {
			return m.Value.Num, true
		}
	}
	return 0, false
}

// data reads an NDATA or a DDATA.
func (t *Tail) data(g *gateway, e *Event, p *sparkplug.Payload) {
	n := g.node
	switch {
	case !n.born:
		t.miss(g, e, "the birth of its node was not seen")
	case e.Device != "" && !n.devices[e.Device]:
		t.miss(g, e, "its device is not born")
	}
	if n.readings(e, p) > 0 {
		t.miss(g, e, "the births say nothing of some of its metrics")
	}
	if e.Device != "" {
		return
	}
	for i := range e.Readings { // an edge node of Millrace tells of gaps so
		var notice struct{ Gap *Gap }
		if r := &e.Readings[i]; r.Tag == "Gap" && json.Unmarshal([]byte(unquote(r.Value)), &notice) == nil &&
			notice.Gap != nil && notice.Gap.From <= notice.Gap.To && notice.Gap.To <= maxSeq {
			e.Gap = notice.Gap
		}
	}
}

// readings makes readings of the metrics, and says of how many nothing is
// known.
func (n *node) readings(e *Event, p *sparkplug.Payload) (unknown int) {
	e.Historical = len(p.Metrics) > 0
	for i := range p.Metrics {
		m := &p.Metrics[i]
		r := Reading{Tag: m.Name, Quality: Good, Historical: m.Historical}
		typ := m.Type
		known := n.known[metricKey{e.Device, m.Name}]
		if m.Name == "" {
			known = n.aliases[m.Alias]
			r.Tag = fmt.Sprintf("alias %d", m.Alias)
		}
		switch {
		case known != nil:
			r.Tag, r.Unit = known.name, known.unit
			if typ == sparkplug.Unknown {
				typ = known.typ
			}
		case e.Kind == KindData:
			unknown++
		}
		if typ != sparkplug.Unknown {
			r.Type = typ.String()
		}
		if m.HasTimestamp && m.Timestamp <= math.MaxInt64 {
			r.TS = millis(int64(m.Timestamp))
		}
		n.value(&r, m, typ)
		e.Historical = e.Historical && m.Historical
		e.Readings = append(e.Readings, r)
	}
	return unknown
}

// value fills in the value and the quality of r.
func (n *node) value(r *Reading, m *sparkplug.Metric, typ sparkplug.DataType) {
	for i := range m.Properties {
		p := &m.Properties[i]
		switch {
		case p.Null:
		case p.Key == "Quality":
			switch q := uint32(p.Value.Num); q {
			case 192:
			case 0:
				r.Quality = Bad
			case 500:
				r.Quality = Stale
			default:
				r.Quality, r.Reason = Uncertain, fmt.Sprintf("Quality %d", q)
			}
		case p.Key == "Reason" && p.Value.Field == sparkplug.FieldString:
			r.Reason = p.Value.Text
		}
	}
	if m.Null {
		return
	}
	raw, ok := n.text(m.Value, typ)
	switch {
	case !ok && typ == sparkplug.Unknown, !ok && m.Value.Field == sparkplug.FieldNone:
		r.Quality, r.Reason = Bad, "it has no value"
	case !ok:
		r.Quality, r.Reason = Bad, "its value is no "+typ.String()
	case raw == nil:
		r.Quality, r.Reason = Bad, string(protocols.NotANumber)
	default:
		r.Value = raw
	}
}

// text returns a value as JSON; nil: it is a NaN or an infinity.
func (n *node) text(v sparkplug.Value, typ sparkplug.DataType) (json.RawMessage, bool) {
	if v.DataSet != nil {
		return n.table(v.DataSet), true
	}
	if v.Template != nil {
		n.resolve(v.Template, 0)
		typ = sparkplug.TemplateType
	}
	if typ == sparkplug.Unknown {
		typ = likely(v.Field)
	}
	value, ok := v.As(typ)
	if !ok || !value.Finite() {
		return nil, ok
	}
	return mqtt.AppendJSONValue(nil, value), true
}

// likely is the type of a value of which no birth was seen.
func likely(f sparkplug.Field) sparkplug.DataType {
	switch f {
	case sparkplug.FieldInt:
		return sparkplug.UInt32
	case sparkplug.FieldLong:
		return sparkplug.UInt64
	case sparkplug.FieldFloat:
		return sparkplug.Float
	case sparkplug.FieldDouble:
		return sparkplug.Double
	case sparkplug.FieldBoolean:
		return sparkplug.Boolean
	case sparkplug.FieldString:
		return sparkplug.String
	case sparkplug.FieldBytes:
		return sparkplug.Bytes
	case sparkplug.FieldNone, sparkplug.FieldDataSet, sparkplug.FieldTemplate, sparkplug.FieldOther:
	}
	return sparkplug.Unknown
}

// maxNesting is how deep the decoder lets templates be nested.
const maxNesting = 32

// resolve gives the members of an instance the types that its definition has
// for them: in data they have none.
func (n *node) resolve(t *sparkplug.Template, depth int) {
	def := n.types[t.Ref]
	if depth > maxNesting {
		return
	}
	types := map[string]sparkplug.DataType{}
	if def != nil && def != t {
		for i := range def.Metrics {
			types[def.Metrics[i].Name] = def.Metrics[i].Type
		}
	}
	for i := range t.Metrics {
		m := &t.Metrics[i]
		if m.Type == sparkplug.Unknown {
			m.Type = types[m.Name]
		}
		if m.Value.Template != nil {
			n.resolve(m.Value.Template, depth+1)
		}
	}
}

// table is a data set as JSON.
func (n *node) table(d *sparkplug.DataSet) json.RawMessage {
	rows := make([][]json.RawMessage, len(d.Rows))
	for i, row := range d.Rows {
		rows[i] = make([]json.RawMessage, len(row))
		for j, cell := range row {
			typ := sparkplug.Unknown
			if j < len(d.Types) {
				typ = d.Types[j]
			}
			if rows[i][j], _ = n.text(cell, typ); rows[i][j] == nil {
				rows[i][j] = json.RawMessage("null")
			}
		}
	}
	raw, err := json.Marshal(struct {
		Columns []string            `json:"columns"`
		Rows    [][]json.RawMessage `json:"rows"`
	}{d.Columns, rows})
	if err != nil {
		return json.RawMessage("null")
	}
	return raw
}

// miss notes that a birth is missing, and wants it.
func (t *Tail) miss(g *gateway, e *Event, text string) {
	if !g.node.noted {
		g.node.noted = true
		e.note(text)
	}
	t.want(g)
}

// want notes that a node is to be asked for its births.
func (t *Tail) want(g *gateway) {
	if t.o.NoRebirth || g.node.partial || g.node.wanted || g.id == "" || !t.o.Filter.node(g.group, g.id) || t.o.Filter.Format == FormatJSON {
		return
	}
	g.node.wanted = true
	t.wanted = append(t.wanted, g)
}

// Rebirth returns the next node that is to be asked for its births now: where
// to, and with what.
func (t *Tail) Rebirth(now time.Time) (topic string, body []byte, ok bool) {
	if now.Sub(t.asked) < rebirthPace {
		return "", nil, false
	}
	t.wanted = slices.DeleteFunc(t.wanted, func(g *gateway) bool { return !g.node.wanted }) // born meanwhile
	for i, g := range t.wanted {
		if n := g.node; n.asked.IsZero() || now.Sub(n.asked) >= rebirthEvery {
			n.wanted, n.asked, t.asked = false, now, now
			t.wanted = slices.Delete(t.wanted, i, i+1)
			topic = sparkplug.Topic{Type: sparkplug.NCMD, Group: g.group, Node: g.id}.String()
			return topic, sparkplug.RebirthCommand(now.UnixMilli()), true
		}
	}
	return "", nil, false
}
