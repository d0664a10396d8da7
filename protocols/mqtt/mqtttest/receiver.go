package mqtttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// Batch is a data message as it came in. Numbers are json.Number.
type Batch struct {
	V          int                    `json:"v"`
	Gateway    string                 `json:"gateway"`
	Device     string                 `json:"device"`
	Stream     string                 `json:"stream"`
	Seq        uint64                 `json:"seq"`
	TS         int64                  `json:"ts"`
	Historical bool                   `json:"historical"`
	Clock      string                 `json:"clock"`
	Values     map[string]any         `json:"values"`
	Bad        map[string]string      `json:"bad"`
	Uncertain  map[string]string      `json:"uncertain"`
	SourceTS   map[string]json.Number `json:"source_ts"`

	Arrived time.Time `json:"-"`
}

// Gap is a gap notice as it came in.
type Gap struct {
	Gateway string `json:"gateway"`
	Stream  string `json:"stream"`
	Gap     struct {
		From     uint64 `json:"from"`
		To       uint64 `json:"to"`
		Readings uint64 `json:"readings"`
		Reason   string `json:"reason"`
		Oldest   int64  `json:"oldest"`
		Newest   int64  `json:"newest"`
	} `json:"gap"`
}

// State is a device's retained state as it came in.
type State struct {
	V       int    `json:"v"`
	Gateway string `json:"gateway"`
	Device  string `json:"device"`
	State   string `json:"state"`
	Since   int64  `json:"since"`
	Reason  string `json:"reason"`
}

// key is what the contract drops repeats by.
type key struct {
	gateway, stream string
	seq             uint64
}

// Receiver is a subscriber of its own that keeps what arrives, and notes
// what must not be: a batch that came out of order, a message that is not
// what the contract says.
type Receiver struct {
	client paho.Client

	mu       sync.Mutex
	batches  map[string][]Batch // by device, in order of arrival, repeats dropped
	seen     map[key]struct{}
	newest   map[string]uint64 // by device and stream
	gaps     []Gap
	states   map[string]State // by device
	statuses map[string][]map[string]any
	retained map[string][]byte // every retained topic's newest body
	faults   []string
	repeats  int
	bytes    int
}

// ReceiverOptions say how a Receiver connects.
type ReceiverOptions struct {
	Broker   string // URL, such as mqtt://127.0.0.1:1883
	ClientID string // default: receiver
	Username string
	Password string
	Topic    string // default: #
}

// NewReceiver connects and subscribes. Its session outlives a restart of the
// broker, so it misses nothing that the broker has acknowledged. It is
// closed when the test ends.
func NewReceiver(t TB, o ReceiverOptions) *Receiver {
	t.Helper()
	r := &Receiver{
		batches: make(map[string][]Batch), seen: make(map[key]struct{}), newest: make(map[string]uint64),
		states: make(map[string]State), statuses: make(map[string][]map[string]any), retained: make(map[string][]byte),
	}
	r.client = listen(t, &o, r.receive)
	return r
}

// Listen has f called, by one goroutine, with each message that arrives, for
// those who keep less, or other things, than a Receiver does. It connects as
// a Receiver would.
func Listen(t TB, o ReceiverOptions, f func(topic string, body []byte)) {
	t.Helper()
	listen(t, &o, func(_ paho.Client, m paho.Message) { f(m.Topic(), m.Payload()) })
}

func listen(t TB, o *ReceiverOptions, f paho.MessageHandler) paho.Client {
	t.Helper()
	return listenAt(t, o, 1, f)
}

func listenAt(t TB, o *ReceiverOptions, qos byte, f paho.MessageHandler) paho.Client {
	t.Helper()
	if o.ClientID == "" {
		o.ClientID = "receiver"
	}
	if o.Topic == "" {
		o.Topic = "#"
	}
	c := paho.NewClientOptions()
	c.AddBroker(o.Broker)
	c.SetClientID(o.ClientID).SetUsername(o.Username).SetPassword(o.Password)
	c.SetCleanSession(false).SetAutoReconnect(true).SetMaxReconnectInterval(100 * time.Millisecond)
	c.SetOrderMatters(true)
	c.SetDefaultPublishHandler(f)
	client := paho.NewClient(c)
	t.Cleanup(func() { client.Disconnect(500) })
	if token := client.Connect(); !token.WaitTimeout(waitTime) || token.Error() != nil {
		t.Fatalf("receiver: no connection to %s: %v", o.Broker, token.Error())
		return nil
	}
	if token := client.Subscribe(o.Topic, qos, nil); !token.WaitTimeout(waitTime) || token.Error() != nil {
		t.Fatalf("receiver: no subscription: %v", token.Error())
		return nil
	}
	return client
}

func (r *Receiver) receive(_ paho.Client, m paho.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	topic, body := m.Topic(), m.Payload()
	r.bytes += len(body)
	levels := strings.Split(topic, "/")
	switch levels[len(levels)-1] {
	case "data":
		r.data(levels, body, m.Retained())
	case "gap":
		var g Gap
		if r.decode(topic, body, &g) {
			r.gaps = append(r.gaps, g)
		}
	case "state":
		r.keepRetained(topic, body)
		r.state(levels, body)
	case "status":
		r.keepRetained(topic, body)
		var s map[string]any
		if r.decode(topic, body, &s) {
			gateway, _ := s["gateway"].(string)
			r.statuses[gateway] = append(r.statuses[gateway], s)
		}
	default:
		r.keepRetained(topic, body)
	}
}

func (r *Receiver) keepRetained(topic string, body []byte) {
	if len(body) == 0 {
		delete(r.retained, topic)
		return
	}
	r.retained[topic] = body
}

func (r *Receiver) decode(topic string, body []byte, into any) bool {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		r.fault("%s: %v: %q", topic, err, body)
		return false
	}
	return true
}

// maxFaults bounds the list of faults.
const maxFaults = 20

func (r *Receiver) fault(format string, args ...any) {
	if len(r.faults) < maxFaults {
		r.faults = append(r.faults, fmt.Sprintf(format, args...))
	}
}

func (r *Receiver) data(levels []string, body []byte, retained bool) {
	var b Batch
	topic := strings.Join(levels, "/")
	if !r.decode(topic, body, &b) {
		return
	}
	b.Arrived = time.Now()
	switch {
	case retained:
		r.fault("%s: a batch is retained", topic)
	case len(levels) < 4 || levels[len(levels)-2] != b.Device || levels[len(levels)-3] != b.Gateway:
		r.fault("%s: topic and body differ: %s %s", topic, b.Gateway, b.Device)
	case b.V != 1 || b.Values == nil || b.Seq == 0:
		r.fault("%s: not a batch: %s", topic, body)
	}
	for name := range b.Bad {
		if _, both := b.Values[name]; both {
			r.fault("%s seq %d: %s is in values and in bad", topic, b.Seq, name)
		}
	}
	k := key{b.Gateway, b.Stream, b.Seq}
	if _, again := r.seen[k]; again {
		r.repeats++
		return
	}
	r.seen[k] = struct{}{}
	line := b.Device + "\x00" + b.Stream
	if last := r.newest[line]; b.Seq < last {
		r.fault("%s: seq %d came after %d", topic, b.Seq, last)
	}
	r.newest[line] = max(r.newest[line], b.Seq)
	r.batches[b.Device] = append(r.batches[b.Device], b)
}

func (r *Receiver) state(levels []string, body []byte) {
	topic := strings.Join(levels, "/")
	device := levels[max(len(levels)-2, 0)]
	if len(body) == 0 {
		delete(r.states, device)
		return
	}
	var s State
	if r.decode(topic, body, &s) {
		if s.Device != device {
			r.fault("%s: topic and body differ: %s", topic, s.Device)
		}
		r.states[device] = s
	}
}

// Batches returns what came of a device, in order, repeats dropped.
func (r *Receiver) Batches(device string) []Batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.batches[device])
}

// Seqs returns the sorted numbers of all batches of a stream.
func (r *Receiver) Seqs(stream string) []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var seqs []uint64
	for k := range r.seen {
		if k.stream == stream {
			seqs = append(seqs, k.seq)
		}
	}
	slices.Sort(seqs)
	return seqs
}

// Streams returns the streams of which batches came, sorted.
func (r *Receiver) Streams() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var streams []string
	for k := range r.seen {
		if !slices.Contains(streams, k.stream) {
			streams = append(streams, k.stream)
		}
	}
	slices.Sort(streams)
	return streams
}

// Missing returns the numbers from 1 to last of a stream that neither came
// as a batch nor were announced in a gap notice.
func (r *Receiver) Missing(stream string, last uint64) []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	have := make(map[uint64]bool)
	for k := range r.seen {
		if k.stream == stream {
			have[k.seq] = true
		}
	}
	for _, g := range r.gaps {
		if g.Stream == stream {
			for seq := g.Gap.From; seq <= min(g.Gap.To, last); seq++ {
				have[seq] = true
			}
		}
	}
	var missing []uint64
	for seq := uint64(1); seq <= last; seq++ {
		if !have[seq] {
			missing = append(missing, seq)
		}
	}
	return missing
}

// Count returns how many batches came, repeats dropped.
func (r *Receiver) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// Repeats returns how many batches came again.
func (r *Receiver) Repeats() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.repeats
}

// Bytes returns the size of all bodies that came.
func (r *Receiver) Bytes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// Gaps returns the gap notices that came.
func (r *Receiver) Gaps() []Gap {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.gaps)
}

// State returns the newest state of a device.
func (r *Receiver) State(device string) (State, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.states[device]
	return s, ok
}

// Status returns the newest status of a gateway; nil if none came.
func (r *Receiver) Status(gateway string) map[string]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	if all := r.statuses[gateway]; len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// Online says whether the newest status of a gateway is that it is online.
func (r *Receiver) Online(gateway string) bool {
	online, _ := r.Status(gateway)["online"].(bool)
	return online
}

// Retained returns the newest body that came on a retained topic.
func (r *Receiver) Retained(topic string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.retained[topic]
}

// Faults returns what came and must not be, the first 20 of it.
func (r *Receiver) Faults() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.faults)
}

// WaitBatches waits until at least n batches of a device have come.
func (r *Receiver) WaitBatches(t TB, device string, n int) []Batch {
	t.Helper()
	WaitFor(t, fmt.Sprintf("%d batches of %s", n, device), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.batches[device]) >= n
	})
	return r.Batches(device)
}
