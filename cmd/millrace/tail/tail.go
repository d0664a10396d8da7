package tail

import (
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"millrace/protocols/sparkplug"
)

// Bounds of what is kept, against brokers that are larger than any plant and
// against hostile ones.
const (
	maxGateways = 10_000
	maxStreams  = 8   // of one gateway: the newest ones
	maxID       = 512 // bytes of a group and a gateway that are counted
	// maxKnown is how many bytes are kept of what births say, of all nodes:
	// some hundred thousand metrics.
	maxKnown       = 128 << 20
	maxUnit        = 64  // bytes of a unit
	templateMember = 500 // about how many bytes a member of a definition takes
	maxNotes       = 8   // of one message
	maxHex         = 32  // bytes of what cannot be read that are shown
	maxText        = 4096
	// maxSeq is far above what any stream reaches.
	maxSeq = 1 << 62
)

const (
	// rebirthEvery is how often one node is asked for its births, at most.
	rebirthEvery = time.Minute
	// rebirthPace is how much time there is between two nodes: a broker may
	// have a thousand of them, and births are large.
	rebirthPace = 200 * time.Millisecond
)

// Message is one message as it came from the broker.
type Message struct {
	Topic    string
	Body     []byte
	Retained bool
	Received time.Time
}

// Options of a Tail.
type Options struct {
	Filter Filter
	// Topics are the filters that were subscribed to: gaps are counted where
	// they let everything of a gateway through.
	Topics []string
	// Partial: the gateways are known to send only a part of their batches here,
	// so that numbers which do not come are not missing.
	Partial bool
	// Unit returns the unit of a tag where it is known from elsewhere; nil:
	// of none.
	Unit func(gateway, device, tag string) string
	// NoRebirth: nodes whose births were not seen are not asked for them.
	NoRebirth bool
}

// Tail follows what arrives at one broker. It is used by one goroutine.
type Tail struct {
	o        Options
	gateways map[gatewayKey]*gateway
	others   counts // of gateways beyond maxGateways, and of no gateway
	total    counts
	known    int       // about how many bytes are kept of what births say
	asked    time.Time // when a node was last asked for its births
	wanted   []*gateway
}

type gatewayKey struct{ format, group, id string }

// gateway is what is known of one gateway, or edge node of Sparkplug.
type gateway struct {
	gatewayKey
	counts
	streams []*stream // the newest last
	node    *node     // of Sparkplug
}

type stream struct {
	id string
	seqs
}

// New makes a Tail.
func New(o Options) *Tail {
	return &Tail{o: o, gateways: map[gatewayKey]*gateway{}}
}

// Take reads a message. It returns what is to be shown of it; nil: the filter
// hides it. Counted it is all the same.
func (t *Tail) Take(m Message) *Event {
	e := &Event{Kind: KindUnknown, Received: m.Received.UnixMilli(), Topic: m.Topic, Retained: m.Retained, Size: len(m.Body)}
	levels := strings.Split(m.Topic, "/")
	var g *gateway
	if levels[0] == sparkplug.Namespace {
		g = t.sparkplug(e, levels, m)
	} else {
		g = t.json(e, levels, m)
	}
	if len(e.Notes) > maxNotes {
		e.Notes = append(e.Notes[:maxNotes:maxNotes], "and more of that kind")
	}
	c := &t.others
	if g != nil {
		c = &g.counts
	}
	c.add(e)
	t.total.add(e)
	if !t.o.Filter.event(e) {
		return nil
	}
	return e
}

// Tear notes that messages may have passed us by: the connection was lost, or
// we were too slow. What is missing then nobody else has to answer for.
func (t *Tail) Tear() {
	for _, g := range t.gateways {
		for _, s := range g.streams {
			s.tear()
		}
		if g.node != nil {
			// A birth may have been missed, and an alias stand for something
			// else since: names have to be told anew.
			g.node.torn, g.node.born, g.node.noted = true, false, false
			t.known -= g.node.size
			g.node.size = 0
			g.node.forget()
		}
	}
}

// gateway returns the gateway with a key, nil if there are too many.
func (t *Tail) gateway(k gatewayKey) *gateway {
	if g := t.gateways[k]; g != nil || len(t.gateways) >= maxGateways || len(k.group)+len(k.id) > maxID {
		return g
	}
	g := &gateway{gatewayKey: k}
	t.gateways[k] = g
	return g
}

// stream returns the stream of g with an id. The one that was not heard of
// for the longest time makes room for it.
func (g *gateway) stream(id string) *stream {
	for i, s := range g.streams {
		if s.id == id {
			g.streams = append(append(g.streams[:i], g.streams[i+1:]...), s)
			return s
		}
	}
	if len(g.streams) >= maxStreams {
		g.gone += g.streams[0].missing()
		g.streams = g.streams[1:]
	}
	s := &stream{id: id}
	g.streams = append(g.streams, s)
	return s
}

// unknown shows a body that is not what its topic promises.
func unknown(e *Event, body []byte) {
	switch {
	case len(body) == 0:
	case json.Valid(body):
		e.Body = compact(body)
	case len(body) <= maxText && utf8.Valid(body) && isText(body):
		e.Text = string(body)
	default:
		e.Hex = hex.EncodeToString(body[:min(len(body), maxHex)])
	}
}

// isText says that b is made for people: no control character but line ends
// and tabs.
func isText(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\n' && c != '\r' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
