package mqtt

import (
	"slices"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"millrace/protocols"
	"millrace/protocols/sparkplug"
)

// The formats of an uplink.
const (
	FormatJSON      = "json"
	FormatSparkplug = "sparkplug"
)

// SparkplugOptions are those of an uplink whose format is Sparkplug.
type SparkplugOptions struct {
	// PrimaryHost is the id of the host application without which nothing is
	// sent; empty: none.
	PrimaryHost string
	// Devices returns what births say of the devices.
	Devices func() []sparkplug.Device
	// Current returns the newest readings of a device's tags, in the order of
	// its metrics in Devices. While a reload is under way they may be those of
	// another configuration than Devices: their names count.
	Current func(device string) []sparkplug.Current
	// NextBdSeq returns the number of the next session: one more each time,
	// also over restarts; after 255 comes 0.
	NextBdSeq func() byte
}

// The edge node's own metrics. That of the last gap notice holds its JSON, as
// in the format json.
const (
	metricSoftware = "Node Info/Software"
	metricVersion  = "Node Info/Version"
	metricGap      = "Gap"
)

const (
	// replayTime is how long a device that is dead stays born after the last
	// batch from the time when it was alive.
	replayTime = 2 * time.Second
	// rebirthPause is the least time between two rebirths that hosts ask for.
	rebirthPause = 250 * time.Millisecond
	// maxInbox bounds the messages of hosts that wait to be looked at, and
	// maxStates how many of the primary host's states may wait beyond that: a
	// flood of commands must not hide that it has gone.
	maxInbox  = 256
	maxStates = 256
	// clockSlack is how far ahead of the clock the newest value of a birth may be.
	clockSlack = time.Second
	// maxRebirths bounds how often one batch may need births before it goes
	// out: once for its types and once for its device would be enough.
	maxRebirths = 4
)

// edge is an uplink as an edge node of Sparkplug: which message has to be
// sent when. What the messages hold is the node's.
//
// What is sent gets its sequence number, is encoded and handed to the session
// under one lock, so that messages leave in the order of their numbers.
type edge struct {
	u    *Uplink
	gaps *jsonFormat

	// inbox is what hosts have sent, and changes what the agent has told, until
	// the session's events see to it.
	inboxMu sync.Mutex
	inbox   []paho.Message
	states  map[string]DeviceState
	figures map[string]protocols.Value // of the node's own metrics
	reload  bool                       // the configuration has changed
	wake    chan struct{}

	mu       sync.Mutex // guards what follows
	node     *sparkplug.Node
	told     map[string]string // values of the node's own metrics, as text
	host     sparkplug.Host
	left     bool // the session's last message was handed over
	devices  map[string]*edgeDevice
	order    []string             // of the configured devices
	kept     map[string][]keptTag // of each of them, the metrics that pass the filter
	filtered map[*protocols.Schema]filtered
	batch    protocols.Batch
	replays  time.Time // when a batch of a dead device was sent last; zero: none since the last look
}

// keptTag is where the newest reading of a metric stands.
type keptTag struct {
	name  string
	index int // among all of the device's
}

// edgeDevice is what is known of a device beside its metrics.
type edgeDevice struct {
	alive  bool
	dead   time.Time // since when, if it is not
	replay bool      // it is born for what it said when it was alive
	newest int64     // time of the newest value in its birth
}

func newEdge(u *Uplink) (*edge, error) {
	node, err := sparkplug.New(sparkplug.Options{Group: u.o.Group, ID: u.o.Gateway, AppendJSON: appendValue})
	if err != nil {
		return nil, err
	}
	e := &edge{
		u: u, gaps: newJSONFormat(&u.o), node: node, states: map[string]DeviceState{},
		figures: map[string]protocols.Value{}, told: map[string]string{},
		devices: map[string]*edgeDevice{}, filtered: map[*protocols.Schema]filtered{}, wake: make(chan struct{}, 1),
	}
	ms := e.now()
	node.Set(metricSoftware, protocols.String("millrace"), ms)
	node.Set(metricVersion, protocols.String(u.o.Version), ms)
	node.Set(metricGap, protocols.String(""), ms)
	if err := e.define(); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *edge) now() int64 { return e.u.o.Now().UnixMilli() }

// define takes over what the configuration says of the devices.
func (e *edge) define() error {
	_, err := e.node.SetDevices(e.takeDevices())
	return err
}

func (e *edge) device(id string) *edgeDevice {
	d := e.devices[id]
	if d == nil {
		d = &edgeDevice{}
		e.devices[id] = d
	}
	return d
}

// begin begins a session: it takes its number and returns its last will.
func (e *edge) begin() sparkplug.Message {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.node.Begin(e.u.o.Sparkplug.NextBdSeq())
	e.left = false
	// A late word of the last session's broker says nothing on this one.
	e.host = sparkplug.Host{}
	e.inboxMu.Lock()
	e.inbox = nil
	e.inboxMu.Unlock()
	return e.node.Death(e.now())
}

// setState notes a device's state. It does not wait.
func (e *edge) setState(s DeviceState) {
	e.inboxMu.Lock()
	e.states[s.Device] = s
	e.inboxMu.Unlock()
	e.stir()
}

// reloaded notes that Devices says something else. It does not wait.
func (e *edge) reloaded() {
	e.inboxMu.Lock()
	e.reload = true
	e.inboxMu.Unlock()
	e.stir()
}

func (e *edge) stir() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// receive returns the handler of what hosts send. It must
// not wait: paho reads nothing until it returns.
func (e *edge) receive() paho.MessageHandler {
	return func(_ paho.Client, m paho.Message) {
		e.inboxMu.Lock()
		if n := len(e.inbox); n < maxInbox || n < maxInbox+maxStates && m.Topic() == e.stateTopic() {
			e.inbox = append(e.inbox, m)
		} else {
			e.u.o.Log.Warn("a message of a host is dropped: too many wait", "uplink", e.u.o.Name, "topic", m.Topic())
		}
		e.inboxMu.Unlock()
		e.stir()
	}
}

// takeInbox returns what waits, oldest first.
func (e *edge) takeInbox() []paho.Message {
	e.inboxMu.Lock()
	defer e.inboxMu.Unlock()
	all := e.inbox
	e.inbox = nil
	return all
}

// emit hands a message to the session's writer. It is called with mu held.
func (e *edge) emit(s *session, m sparkplug.Message) error {
	return e.submit(s, &message{kind: kindOther, topic: m.Topic, body: m.Body, once: true})
}

// submit is emit for a message that has its place in the window, if any.
func (e *edge) submit(s *session, m *message) error {
	if e.left {
		return errSessionOver
	}
	return s.push(m)
}

// births sends the births of the node and of every device that is alive. It
// is called with mu held.
func (e *edge) births(s *session) error {
	current := map[string][]sparkplug.Current{}
	for _, id := range e.born() {
		current[id] = e.current(id)
		e.node.Prepare(id, current[id])
	}
	if err := e.emit(s, e.node.Birth(e.now())); err != nil {
		return err
	}
	for _, id := range e.born() {
		if err := e.birth(s, id, current[id]); err != nil {
			return err
		}
	}
	return nil
}

// born returns the devices that a host should know, in the order of the
// configuration.
func (e *edge) born() []string {
	var all []string
	for _, id := range e.order {
		if d := e.device(id); d.alive || d.replay {
			all = append(all, id)
		}
	}
	for id, d := range e.devices { // what the configuration does not know any more
		if d.replay && !slices.Contains(e.order, id) {
			all = append(all, id)
		}
	}
	return all
}

// birth sends the birth of one device. It is called with mu held.
func (e *edge) birth(s *session, id string, current []sparkplug.Current) error {
	m, ok := e.node.DeviceBirth(id, current, e.now())
	if !ok {
		return nil
	}
	d := e.device(id)
	d.newest = 0
	for i := range current {
		d.newest = max(d.newest, current[i].Time)
	}
	return e.emit(s, m)
}

// rebirth sends the birth of a device again, or for the first time; and all
// births, if its values need definitions that the node's birth has not. It is
// called with mu held.
func (e *edge) rebirth(s *session, id string) error {
	current := e.current(id)
	e.node.Prepare(id, current)
	if e.node.Stale() {
		return e.births(s)
	}
	return e.birth(s, id, current)
}

// death sends the death of a device that was born. It is called with mu held.
func (e *edge) death(s *session, id string) error {
	m, ok := e.node.DeviceDeath(id, e.now())
	if !ok {
		return nil
	}
	return e.emit(s, m)
}

// leave returns the session's last message, once: nothing follows it. nil: it
// was returned before.
func (e *edge) leave() *message {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.left {
		return nil
	}
	e.left = true
	m := e.node.Death(e.now())
	return &message{kind: kindStatus, topic: m.Topic, body: m.Body}
}
