package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/protocols"
)

// Record is one batch as the buffer holds it.
type Record struct {
	Stream   string // the run of the agent that it was made in
	Seq      uint64 // its number in the stream
	Time     int64  // when the device's answer arrived, in Unix milliseconds
	Schema   uint64 // the ID of the schema that Data refers to
	Readings int    // how many readings are in it
	Data     []byte // the batch, as protocols.EncodeBatch writes it

	// ClockUnset: the clock was never set since the boot in which Time was
	// taken, so that it is not to be trusted.
	ClockUnset bool
}

// Gap tells of batches that will never come.
type Gap struct {
	Stream         string
	From, To       uint64 // the first and the last of their numbers
	Readings       uint64 // how many readings were in them
	Reason         string // a stable code, such as buffer_full
	Oldest, Newest int64  // times of the first and the last, in Unix milliseconds
}

// ReasonDamaged is the reason of the gap notice that is sent in place of a
// record that cannot be decoded.
const ReasonDamaged = "damaged"

// DeviceState is the state of a device's connection.
type DeviceState struct {
	Device string
	State  string // online, degraded, offline or disabled
	Since  time.Time
	Reason string // in words for people; may be empty
}

// Defaults of Options.
const (
	// DefaultMaxInflight hides a round trip of 50 ms at 1,000 messages/s.
	DefaultMaxInflight = 64
	// DefaultMaxInflightBytes bounds what is sent again after a lost session.
	DefaultMaxInflightBytes = 1 << 20
	// DefaultConnectTimeout is enough for TLS over a slow mobile line.
	DefaultConnectTimeout = 10 * time.Second
	// DefaultAckTimeout, with the keep-alive, finds a half-open connection
	// in less than 30 s.
	DefaultAckTimeout = 20 * time.Second
	// DefaultKeepAlive is how long a line is idle before a ping tries it;
	// with a quarter of it more at times, it takes 22.5 s to find it dead.
	DefaultKeepAlive = 10 * time.Second
	// DefaultPingTimeout is how long the answer to a ping may take.
	DefaultPingTimeout = 10 * time.Second
	// DefaultReturnAfter lets a broker that restarts come to rest.
	DefaultReturnAfter = time.Minute
	// DefaultHostPatience is how long a host of Sparkplug is waited for on one
	// of several brokers: its state is retained, and comes at once.
	DefaultHostPatience = 10 * time.Second
)

// Options say where an uplink leads, and how it is used.
type Options struct {
	Name   string // for messages to people
	Broker string // URL: mqtt, mqtts, ws or wss; without user and password
	// Fallbacks are brokers that are used, in their order, while the ones before
	// them cannot be, with the same ClientID, user and TLS.
	Fallbacks []string
	ClientID  string // default: Gateway
	Username  string // empty: none
	Password  string // appears in no error and no log
	TLS       TLS    // for mqtts and wss

	Format    string // FormatJSON (the default) or FormatSparkplug
	Sparkplug SparkplugOptions
	// HostPatience is how long the primary host of Sparkplug is waited for on
	// one broker before the session is given up; 0: without end, or with
	// Fallbacks DefaultHostPatience.
	HostPatience time.Duration

	Filter Filter // what of all readings goes out

	Topic   string // of JSON: the first level or levels of all topics
	Group   string
	Gateway string
	Version string // of the agent, for the status message

	MaxInflight      int           // messages sent and not acknowledged; default DefaultMaxInflight
	MaxInflightBytes int           // bytes of them, passed by one message at most; default DefaultMaxInflightBytes
	ConnectTimeout   time.Duration // of a whole attempt; default DefaultConnectTimeout
	AckTimeout       time.Duration // without any acknowledgement while some are due; default DefaultAckTimeout
	KeepAlive        time.Duration // whole seconds; default DefaultKeepAlive
	PingTimeout      time.Duration // default DefaultPingTimeout
	ReturnAfter      time.Duration // on a fallback, until the first broker is looked at; default DefaultReturnAfter

	// Schema returns the schema with an ID. A record whose schema it does
	// not know is announced as a gap.
	Schema func(id uint64) (*protocols.Schema, error)
	// Handed, if not nil, is told of each batch that is handed over, before it is
	// sent, by the goroutine that calls Send. A batch that is given again is told
	// again.
	Handed func(token uint64, h Handed)
	// Status adds fields to the status message of every new session; may be
	// nil.
	Status func() map[string]any
	Now    func() time.Time // wall clock, by which batches are historical; default time.Now
	Log    *slog.Logger     // default: none
}

// Handed is what an uplink makes of a batch.
type Handed struct {
	Schema uint64
	Time   int64 // of the batch, in Unix milliseconds
	// Sent is how many good readings go out, Filtered how many the uplink is not
	// to get.
	Sent, Filtered int
	// Aside, if not empty, is the reason of the gap notice that goes out instead;
	// Sent is how many good readings would have gone out.
	Aside string
}

func (o *Options) setDefaults() {
	if o.ClientID == "" {
		o.ClientID = o.Gateway
	}
	if o.MaxInflight <= 0 {
		o.MaxInflight = DefaultMaxInflight
	}
	if o.MaxInflightBytes <= 0 {
		o.MaxInflightBytes = DefaultMaxInflightBytes
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = DefaultConnectTimeout
	}
	if o.AckTimeout <= 0 {
		o.AckTimeout = DefaultAckTimeout
	}
	if o.KeepAlive <= 0 {
		o.KeepAlive = DefaultKeepAlive
	}
	if o.PingTimeout <= 0 {
		o.PingTimeout = DefaultPingTimeout
	}
	if o.ReturnAfter <= 0 {
		o.ReturnAfter = DefaultReturnAfter
	}
	if o.HostPatience <= 0 && len(o.Fallbacks) > 0 {
		o.HostPatience = DefaultHostPatience
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func (o *Options) check() error {
	if o.Schema == nil {
		return errors.New("no Schema function is given")
	}
	switch o.Format {
	case "", FormatJSON:
	case FormatSparkplug:
		return nil // its ids are checked by its node
	default:
		return fmt.Errorf("there is no format %q", o.Format)
	}
	if o.Topic == "" || strings.HasPrefix(o.Topic, "$") || strings.ContainsAny(o.Topic, "+#\x00") {
		return fmt.Errorf("topic %q must be one or more levels like millrace or plant/line, without + and #, and not begin with $", o.Topic)
	}
	for _, level := range []struct{ name, text string }{{"group", o.Group}, {"gateway id", o.Gateway}} {
		if level.text == "" || strings.ContainsAny(level.text, "/+#\x00") {
			return fmt.Errorf("%s %q must be one level of a topic: not empty, without / + and #", level.name, level.text)
		}
	}
	return nil
}

// Uplink is the way to one broker. Connect and Disconnect are called by one
// goroutine; everything else may be called by any.
type Uplink struct {
	o        Options
	brokers  *brokers
	poison   poison
	format   format
	edge     *edge // of Sparkplug; nil: JSON
	retained *retained
	messages sync.Pool // of *message; their bodies are used again once acknowledged
	running  sync.WaitGroup
	wrote    atomic.Uint64
	counts   counters

	mu         sync.Mutex
	current    *session // nil: Connect was not called, or Disconnect was
	connected  bool
	since      time.Time
	lastError  string
	lastErrAt  time.Time
	shortLived int // sessions in a row that ended soon
	daily      daily
	withheld   withheld

	filteredOut map[string]bool // devices that the filter leaves out, once their states were cleared
}

// counters are counted up by whoever does the work.
type counters struct {
	sent, acked, gaps, damaged, sessions, refused, aside atomic.Uint64
}

// New makes the uplink that o describes. It connects to nothing, but reads
// the files of TLS, to find mistakes in them. Its error names the key of the
// configuration that is wrong.
func New(o Options) (*Uplink, error) {
	o.setDefaults()
	wrap := func(err error) error { return fmt.Errorf("uplink %s: %w", o.Name, err) }
	if err := o.check(); err != nil {
		return nil, wrap(err)
	}
	all, err := parseBrokers(&o)
	if err != nil {
		return nil, wrap(err)
	}
	u := &Uplink{o: o, brokers: newBrokers(all, o.ReturnAfter), retained: newRetained(), filteredOut: map[string]bool{}}
	u.format = newJSONFormat(&u.o)
	u.messages.New = func() any { return new(message) }
	if o.Format == FormatSparkplug {
		if u.edge, err = newEdge(u); err != nil {
			return nil, wrap(err)
		}
	}
	return u, nil
}

// Connect starts a session, ending the one before if there still is one.
// The session publishes that the gateway is online and all device states.
//
// For every token handed to Send or SendGap in this session, acked is called
// once the broker has acknowledged it, in the order in which they were
// handed over and never beyond one that is not acknowledged. It is called by
// one goroutine and must not wait. lost is closed when the session has
// ended, for whatever reason, after the last call of acked.
//
// An error is a *LinkError, unless ctx ended.
func (u *Uplink) Connect(ctx context.Context, acked func(token uint64)) (lost <-chan struct{}, err error) {
	if u.edge != nil {
		u.farewell() // a node does not leave without a word
	}
	u.release()
	s, err := u.openAny(ctx, acked)
	if err != nil {
		return nil, err
	}
	u.counts.sessions.Add(1)
	u.mu.Lock()
	u.current, u.connected, u.since = s, true, u.o.Now()
	u.mu.Unlock()
	if u.edge == nil {
		u.running.Go(s.run)
	}
	if s.broker != u.brokers.all[0] {
		u.running.Go(func() { u.scout(context.WithoutCancel(ctx), s) })
	}
	return s.lost, nil
}

// release lets go of the current session without waiting for its end.
func (u *Uplink) release() {
	u.mu.Lock()
	s := u.current
	u.current = nil
	u.mu.Unlock()
	if s != nil {
		s.fail(errStopped)
	}
}

// Send hands over a batch. It waits while the in-flight window is full. A
// record that cannot be decoded is announced as a gap with ReasonDamaged
// instead, under the same token. Send keeps nothing of r.
//
// After an error (the session has ended, or ctx did) the batch was not
// taken, and acked will not be called for it.
func (u *Uplink) Send(ctx context.Context, token uint64, r Record) error {
	s, err := u.enter(ctx)
	if err != nil {
		return err
	}
	id := batchID{r.Stream, r.Seq}
	if m, refused := u.poison.aside(id); refused {
		return u.setAside(s, token, &r, m)
	}
	if err := u.poison.hold(ctx, s, id); err != nil {
		s.window.leave(0)
		return fmt.Errorf("uplink %s: %w", u.o.Name, err)
	}
	if u.edge != nil {
		return u.edge.send(ctx, s, token, r)
	}
	m := u.message(kindBatch, token)
	m.id = id
	var n passed
	m.topic, m.body, n, err = u.format.record(m.body[:0], r)
	switch {
	case errors.Is(err, errNothing):
		m.skip = true
	case err != nil:
		u.noteDamaged(r, err)
		n = passed{aside: ReasonDamaged}
		m.kind = kindGap
		m.topic, m.body = u.format.gap(m.body[:0], Gap{
			Stream: r.Stream, From: r.Seq, To: r.Seq, Readings: uint64(max(r.Readings, 0)),
			Reason: ReasonDamaged, Oldest: r.Time, Newest: r.Time,
		})
	}
	u.handed(token, &r, n)
	return s.submit(m)
}

// passed is how many good readings of a batch go out, and how many the filter
// holds back.
type passed struct {
	sent, filtered int
	aside          string // why none goes out
}

// handed tells of a batch that is handed over.
func (u *Uplink) handed(token uint64, r *Record, n passed) {
	if u.o.Handed == nil {
		return
	}
	h := Handed{Schema: r.Schema, Time: r.Time, Sent: n.sent, Filtered: n.filtered, Aside: n.aside}
	if n.aside != "" {
		h.Sent = protocols.GoodReadings(r.Data)
		if s, err := u.o.Schema(r.Schema); err == nil {
			h.Sent, h.Filtered = u.o.Filter.Good(s, r.Data)
		}
	}
	u.o.Handed(token, h)
}

// setAside announces a batch that the broker does not take as a gap.
func (u *Uplink) setAside(s *session, token uint64, r *Record, m suspect) error {
	n := u.counts.aside.Add(1)
	u.o.Log.Error("the broker closes the connection each time after a certain batch; it is set aside, and announced as a gap: check the broker's message size limit, and its rights for this user",
		"uplink", u.o.Name, "broker", s.broker.String(), "topic", m.topic, "bytes", m.size, "stream", r.Stream, "seq", r.Seq, "readings", r.Readings, "tries", m.failed, "set_aside_so_far", n)
	u.handed(token, r, passed{aside: ReasonRefused})
	return u.announce(s, token, Gap{
		Stream: r.Stream, From: r.Seq, To: r.Seq, Readings: uint64(max(r.Readings, 0)),
		Reason: ReasonRefused, Oldest: r.Time, Newest: r.Time,
	})
}

// SendGap hands over a gap notice, in order with the batches.
func (u *Uplink) SendGap(ctx context.Context, token uint64, g Gap) error {
	s, err := u.enter(ctx)
	if err != nil {
		return err
	}
	return u.announce(s, token, g)
}

// announce hands over a gap notice that has a place in the window.
func (u *Uplink) announce(s *session, token uint64, g Gap) error {
	if u.edge != nil {
		return u.edge.sendGap(s, token, g)
	}
	m := u.message(kindGap, token)
	m.topic, m.body = u.format.gap(m.body[:0], g)
	return s.submit(m)
}

// enter takes a place in the window of the current session.
func (u *Uplink) enter(ctx context.Context) (*session, error) {
	u.mu.Lock()
	s := u.current
	u.mu.Unlock()
	if s == nil {
		return nil, fmt.Errorf("uplink %s: %w", u.o.Name, errNotConnected)
	}
	if err := s.window.enter(ctx, s.done); err != nil {
		return nil, fmt.Errorf("uplink %s: %w", u.o.Name, err)
	}
	return s, nil
}

// message returns one to be filled; its body may have room.
func (u *Uplink) message(kind messageKind, token uint64) *message {
	m := u.messages.Get().(*message)
	m.kind, m.token = kind, token
	return m
}

// Disconnect ends the session, if there is one, and returns when all that
// belonged to it (and to those before) has ended. If the session is alive,
// what was handed over is still given up to farewellTime to be acknowledged,
// and the retained status says that the gateway has stopped; if it is not,
// the broker publishes the last will.
func (u *Uplink) Disconnect() {
	u.farewell()
	u.release()
	u.running.Wait()
}

// farewell has the session that there is say that it ends.
func (u *Uplink) farewell() {
	u.mu.Lock()
	s := u.current
	u.mu.Unlock()
	if s != nil {
		s.farewell()
	}
}

// SetState makes s what the device's retained topic holds: at once when
// connected, and again in every new session. It never waits.
func (u *Uplink) SetState(s DeviceState) {
	if !u.o.Filter.Device(s.Device) {
		u.forgetFiltered(s.Device)
		return
	}
	if u.edge != nil {
		u.edge.setState(s)
		return
	}
	m := u.format.state(s)
	u.setRetained(m.topic, m.body)
}

// RemoveDevice clears the retained state of a device, now or in the next
// session. It never waits.
func (u *Uplink) RemoveDevice(id string) {
	if u.edge != nil {
		return // Reloaded tells of it
	}
	u.setRetained(u.format.topic(stateTopic(id)), nil)
}

// forgetFiltered clears, once, what the broker may have of a device from
// before it was filtered out.
func (u *Uplink) forgetFiltered(id string) {
	u.mu.Lock()
	told := u.filteredOut[id]
	u.filteredOut[id] = true
	u.mu.Unlock()
	if !told {
		u.RemoveDevice(id)
	}
}

// Reloaded says that the configuration of the devices has changed, for formats
// whose messages describe it. It never waits.
func (u *Uplink) Reloaded() {
	if u.edge != nil {
		u.edge.reloaded()
	}
}

func (u *Uplink) setRetained(topic string, body []byte) {
	u.retained.set(topic, body)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.current != nil {
		u.current.wake()
	}
}

// Stats is how an uplink is doing.
type Stats struct {
	Connected     bool
	Since         time.Time // Connected is as it is since then; zero: since the start
	Broker        string    // URL of the one in use, or tried last
	Fallback      bool      // that is not the first one
	LastError     string    // why the last session ended, or could not be had; in words for people
	LastErrorTime time.Time
	Sessions      uint64 // how many there have been
	Sent          uint64 // batches, repeats included
	Acked         uint64 // batches
	Gaps          uint64 // gap notices acknowledged
	Damaged       uint64 // records that could not be decoded
	SetAside      uint64 // batches that the broker does not take
	Bytes         uint64 // written to the broker, headers of MQTT included, those of TLS not
	Inflight      int    // messages sent and not acknowledged
	InflightBytes int
}

// Stats returns how u is doing.
func (u *Uplink) Stats() Stats {
	u.mu.Lock()
	defer u.mu.Unlock()
	broker := u.brokers.inUse()
	s := Stats{
		Connected: u.connected, Since: u.since, Broker: broker.String(), Fallback: broker != u.brokers.all[0],
		LastError: u.lastError, LastErrorTime: u.lastErrAt,
		Sessions: u.counts.sessions.Load(),
		Sent:     u.counts.sent.Load(), Acked: u.counts.acked.Load(), Gaps: u.counts.gaps.Load(),
		Damaged: u.counts.damaged.Load(), SetAside: u.counts.aside.Load(), Bytes: u.wrote.Load(),
	}
	if u.connected && u.current != nil {
		s.Inflight, s.InflightBytes = u.current.window.load()
	}
	return s
}

// Refused says that the broker does not take what the last sessions ended
// with, time after time, so that there is no use in trying again soon.
func (u *Uplink) Refused() bool { return u.poison.refuses() }

// noteWaiting notes what a session that has signed on waits for.
func (u *Uplink) noteWaiting(text string) {
	u.mu.Lock()
	told := u.lastError == text
	u.mu.Unlock()
	if !told {
		u.o.Log.Warn("uplink not connected", "uplink", u.o.Name, "reason", text)
	}
	u.noteError(text)
}

func (u *Uplink) noteError(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lastError, u.lastErrAt = text, u.o.Now()
}

// noteDamaged counts a record that cannot be decoded, and logs the first and
// then ever fewer of them.
func (u *Uplink) noteDamaged(r Record, err error) {
	n := u.counts.damaged.Add(1)
	if n&(n-1) == 0 {
		u.o.Log.Error("a batch cannot be decoded and is announced as a gap", "uplink", u.o.Name, "stream", r.Stream, "seq", r.Seq, "damaged_so_far", n, "error", err)
	}
}

const (
	// soon is how early a session must end to be suspicious.
	soon = 10 * time.Second
	// suspicious is how many such sessions in a row are.
	suspicious = 3
)

// noteEnd takes down why s ended. Two gateways with one client id throw each
// other out all the time, and nothing in MQTT 3.1.1 says so.
func (u *Uplink) noteEnd(s *session) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.o.Now()
	if u.current == s || u.current == nil {
		u.connected, u.since = false, now
	}
	u.brokers.ended(s.broker, s.cause, time.Since(s.started))
	if errors.Is(s.cause, errStopped) {
		return
	}
	text := u.lostWords(s.broker, s.cause)
	if time.Since(s.started) < soon {
		u.shortLived++
	} else {
		u.shortLived = 0
	}
	if s.figures.Load() > 0 && !s.left() {
		u.withheld.cut(u.o.Name, u.o.Log)
	}
	why := u.poison.sessionEnded(s)
	if why != "" {
		text += "; " + why
	}
	if u.shortLived >= suspicious && (why == "" || s.waited.kind != kindBatch) {
		text += fmt.Sprintf("; it happens soon after every connect: check that no other program uses the client id %q (client_id)", u.o.ClientID)
		if s.tookBatch {
			text += ", and that the broker's rights for this user and its message size limit allow what is sent (some brokers acknowledge what they do not allow, drop it, and close the connection)"
		}
	}
	if text != u.lastError {
		u.o.Log.Debug("the session with the broker ended", "uplink", u.o.Name, "error", text)
	}
	u.lastError, u.lastErrAt = text, now
}
