package mqtt

import (
	"maps"
	"slices"

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

// noteRetained notes that the broker has acknowledged a retained message.
func (u *Uplink) noteRetained(m *message) {
	u.mu.Lock()
	defer u.mu.Unlock()
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
