package mqtt

import (
	"log/slog"
	"maps"
	"slices"
	"time"

	"millrace/protocols"
)

// The topics of the connectivity figures, of format json: below the gateway's.
const (
	topicConnectivity = "connectivity"
	topicDaily        = "connectivity/daily"
)

// Figures are the connectivity figures as they are published.
type Figures struct {
	// Body is the message of format json.
	Body []byte
	// Metrics are those of a node of Sparkplug, by their names.
	Metrics map[string]protocols.Value
}

// daily is the record of a day that is to be delivered.
type daily struct {
	day       string
	version   uint64 // of its retained topic
	delivered string // the newest day that the broker has acknowledged
}

// SetFigures makes f what the retained topic of the connectivity figures
// holds: at once when connected, and again in every new session. It never
// waits. The metrics' names are to be the same each time: a new one makes the
// node be born again.
func (u *Uplink) SetFigures(f Figures) {
	if u.edge != nil {
		u.edge.setFigures(f.Metrics)
		return
	}
	if f.Body != nil {
		u.setRetained(u.format.topic(topicConnectivity), f.Body)
	}
}

// SetDaily makes f what the retained topic of the last day's record holds.
func (u *Uplink) SetDaily(day string, f Figures) {
	if u.edge != nil {
		u.edge.setFigures(f.Metrics)
		u.mu.Lock()
		u.daily.delivered = day // a node's newest data is in its births
		u.mu.Unlock()
		return
	}
	topic := u.format.topic(topicDaily)
	u.mu.Lock()
	u.daily.day, u.daily.version = day, u.retained.set(topic, f.Body)
	if u.current != nil {
		u.current.wake()
	}
	u.mu.Unlock()
}

// DailyDelivered returns the newest day whose record the broker has
// acknowledged, in this run of the agent; empty: none.
func (u *Uplink) DailyDelivered() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.daily.delivered
}

// withheld keeps the connectivity figures from a broker that closes the
// connection on them: they may be larger than what it takes, and the readings
// must not suffer for that. Uplink.mu covers it.
type withheld struct {
	cuts  int       // sessions in a row that ended while figures were on their way
	until time.Time // by the monotonic clock
}

// The figures rest for withheldFirst after the first such session, and for
// withheldLong after the next ones.
const (
	withheldFirst = time.Minute
	withheldLong  = time.Hour
)

// cut notes that a session ended while figures were on their way.
func (w *withheld) cut(uplink string, log *slog.Logger) {
	w.cuts++
	rest := withheldFirst
	if w.cuts > 1 {
		rest = withheldLong
		log.Warn("the broker closes the connection when it gets the connectivity figures; they rest for an hour: check the broker's message size limit, and its rights for this user",
			"uplink", uplink, "times", w.cuts)
	}
	w.until = time.Now().Add(rest)
}

// isFigures says whether a topic is one of the figures'.
func (u *Uplink) isFigures(topic string) bool {
	return u.edge == nil && (topic == u.format.topic(topicConnectivity) || topic == u.format.topic(topicDaily))
}

// leavesOut says that a retained topic is not to be sent now; else, if it is
// one of the figures', that it is on its way.
func (s *session) leavesOut(topic string) bool {
	if !s.u.isFigures(topic) {
		return false
	}
	s.u.mu.Lock()
	defer s.u.mu.Unlock()
	if time.Now().Before(s.u.withheld.until) {
		return true
	}
	s.figures.Add(1)
	return false
}

// noteRetained notes that the broker has acknowledged a retained message.
func (u *Uplink) noteRetained(s *session, m *message) {
	figures := u.isFigures(m.topic)
	u.mu.Lock()
	defer u.mu.Unlock()
	if figures {
		s.figures.Add(-1)
		u.withheld.cuts = 0
	}
	if u.daily.version != 0 && m.version == u.daily.version {
		u.daily.delivered = u.daily.day
	}
}

// setFigures notes the values of node metrics. It does not wait.
func (e *edge) setFigures(metrics map[string]protocols.Value) {
	e.inboxMu.Lock()
	maps.Copy(e.figures, metrics)
	e.inboxMu.Unlock()
	e.stir()
}

// takeFigures takes over the values of node metrics, and sends those that have
// changed; s is nil before the births. It is called with mu held.
func (e *edge) takeFigures(s *session) error {
	e.inboxMu.Lock()
	figures := e.figures
	e.figures = map[string]protocols.Value{}
	e.inboxMu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		text := string(appendValue(nil, figures[name]))
		if e.told[name] != text {
			e.told[name] = text
			e.node.Set(name, figures[name], e.now())
		}
	}
	switch {
	case s == nil || len(figures) == 0:
		return nil
	case e.node.Stale():
		return e.births(s)
	}
	if m, changed := e.node.NodeData(e.now()); changed {
		return e.emit(s, m)
	}
	return nil
}
