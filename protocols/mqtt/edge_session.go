package mqtt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"millrace/protocols/sparkplug"
)

// errHostOffline ends a session whose primary host has gone.
var errHostOffline = errors.New("the primary host is offline")

// start brings a session that has signed on to where data can be sent: it
// subscribes, waits for the primary host, and sends all births.
func (e *edge) start(ctx context.Context, s *session) error {
	if err := e.subscribe(ctx, s); err != nil {
		return err
	}
	if err := e.awaitHost(ctx, s); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.replays = time.Time{}
	for _, d := range e.devices {
		d.replay = false
	}
	if err := e.takeChanges(nil); err != nil {
		return err
	}
	e.u.running.Go(s.run)
	if err := e.births(s); err != nil {
		return err
	}
	e.u.running.Go(func() { e.events(s) })
	return nil
}

// subscribe asks for commands and for the primary host's state, before
// anything is published (tck-id-message-flow-edge-node-ncmd-subscribe and its
// like).
func (e *edge) subscribe(ctx context.Context, s *session) error {
	o := &e.u.o
	filters := map[string]byte{
		sparkplug.Topic{Type: sparkplug.NCMD, Group: o.Group, Node: o.Gateway}.String():              1,
		sparkplug.Topic{Type: sparkplug.DCMD, Group: o.Group, Node: o.Gateway, Device: "+"}.String(): 1,
	}
	if o.Sparkplug.PrimaryHost != "" {
		filters[e.stateTopic()] = 1
	}
	token := s.client.SubscribeMultiple(filters, nil)
	timer := time.NewTimer(o.AckTimeout)
	defer timer.Stop()
	select {
	case <-token.Done():
	case <-timer.C:
		return errNoAck
	case <-s.done:
		return s.cause
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := token.Error(); err != nil {
		return err
	}
	if t, ok := token.(*paho.SubscribeToken); ok {
		for topic, granted := range t.Result() {
			if granted > 2 {
				return fmt.Errorf("the broker does not let us subscribe to %s; allow it at the broker (ACL)", topic)
			}
		}
	}
	return nil
}

func (e *edge) stateTopic() string {
	return sparkplug.Topic{Type: sparkplug.STATE, Host: e.u.o.Sparkplug.PrimaryHost}.String()
}

// awaitHost waits until the primary host is online; without one it does not.
func (e *edge) awaitHost(ctx context.Context, s *session) error {
	host := e.u.o.Sparkplug.PrimaryHost
	if host == "" {
		return nil
	}
	e.u.noteWaiting(fmt.Sprintf("uplink %s: connected to %s, but the primary host %s is not online there: the data waits in the buffer", e.u.o.Name, s.broker, host))
	var patience <-chan time.Time
	if p := e.u.o.HostPatience; p > 0 {
		timer := time.NewTimer(p)
		defer timer.Stop()
		patience = timer.C
	}
	for {
		e.mu.Lock()
		_ = e.hear(false)
		online := e.host.Online()
		e.mu.Unlock()
		if online {
			return nil
		}
		select {
		case <-e.wake:
		case <-patience:
			return fmt.Errorf("the primary host %s is not online there", host)
		case <-s.done:
			return s.cause
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// events sees to what hosts send and the agent tells, until s ends.
func (e *edge) events(s *session) {
	for {
		asked, err := e.look(s)
		if err != nil {
			if errors.Is(err, errHostOffline) {
				s.farewell() // the death at once
			}
			s.fail(err)
			return
		}
		pause := time.Duration(0)
		if asked {
			pause = rebirthPause
		}
		if !e.rest(s, pause) {
			return
		}
	}
}

// look does what there is to do. It says whether a host had asked for births.
func (e *edge) look(s *session) (asked bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.takeChanges(s); err != nil {
		return false, err
	}
	asked = e.hear(true)
	if e.u.o.Sparkplug.PrimaryHost != "" && e.host.Known() && !e.host.Online() {
		return asked, errHostOffline
	}
	if asked {
		e.u.o.Log.Info("a host asked for all births", "uplink", e.u.o.Name)
		if err := e.births(s); err != nil {
			return true, err
		}
	}
	return asked, e.endReplays(s)
}

// rest waits for the next thing to do, and for the pause at the least.
func (e *edge) rest(s *session, pause time.Duration) (ok bool) {
	if pause > 0 {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.done:
			return false
		}
	}
	e.mu.Lock()
	replaying := !e.replays.IsZero()
	e.mu.Unlock()
	var tick <-chan time.Time
	timer := time.NewTimer(replayTime)
	defer timer.Stop()
	if replaying {
		tick = timer.C
	}
	select {
	case <-e.wake:
	case <-tick:
	case <-s.done:
		return false
	}
	return true
}

// endReplays buries the devices of which nothing more comes from the time when
// they were alive.
func (e *edge) endReplays(s *session) error {
	if e.replays.IsZero() || time.Since(e.replays) < replayTime {
		return nil
	}
	e.replays = time.Time{}
	for id, d := range e.devices {
		if !d.replay {
			continue
		}
		d.replay = false
		if d.alive {
			continue
		}
		if err := e.death(s, id); err != nil {
			return err
		}
	}
	return nil
}

// takeChanges takes over what the agent has told since; s is nil before the
// births. It is called with mu held.
func (e *edge) takeChanges(s *session) error {
	e.inboxMu.Lock()
	states, reload := e.states, e.reload
	e.states, e.reload = map[string]DeviceState{}, false
	e.inboxMu.Unlock()
	// What was told is told once: where the session ends meanwhile, the rest
	// counts all the same, for the next one.
	var failed error
	if reload || s == nil {
		failed = e.redefine(s)
	}
	for id, state := range states {
		to := s
		if failed != nil {
			to = nil
		}
		failed = cmp.Or(failed, e.take(to, id, state))
	}
	if failed != nil {
		return failed
	}
	return e.takeFigures(s)
}

// redefine takes over a changed configuration, and tells hosts of it.
func (e *edge) redefine(s *session) error {
	known := append([]string(nil), e.order...)
	changed, err := e.node.SetDevices(e.takeDevices())
	if err != nil {
		return err
	}
	var failed error
	for _, id := range known {
		if slices.Contains(e.order, id) {
			continue
		}
		changed = true
		delete(e.devices, id)
		if s != nil && failed == nil {
			failed = e.death(s, id)
		}
	}
	if s == nil || failed != nil {
		return failed
	}
	if !changed {
		return nil
	}
	return e.births(s)
}

// takeDevices returns the configured devices and their metrics, as far as the
// filter lets them through.
func (e *edge) takeDevices() []sparkplug.Device {
	var ds []sparkplug.Device
	e.order, e.kept = e.order[:0], map[string][]keptTag{}
	for _, d := range e.u.o.Sparkplug.Devices() {
		if !e.u.o.Filter.Device(d.ID) {
			continue
		}
		kept := sparkplug.Device{ID: d.ID}
		var tags []keptTag
		for i := range d.Metrics {
			if e.u.o.Filter.Tag(d.ID, d.Metrics[i].Name) {
				kept.Metrics = append(kept.Metrics, d.Metrics[i])
				tags = append(tags, keptTag{d.Metrics[i].Name, i})
			}
		}
		if len(d.Metrics) > 0 && len(kept.Metrics) == 0 {
			continue
		}
		e.kept[d.ID] = tags
		ds = append(ds, kept)
		e.order = append(e.order, d.ID)
	}
	return ds
}

// current returns the newest readings of a device's metrics, in their order.
// Those of another configuration, while a reload is under way, are told apart
// by their names.
func (e *edge) current(id string) []sparkplug.Current {
	all, tags := e.u.o.Sparkplug.Current(id), e.kept[id]
	kept := make([]sparkplug.Current, len(tags))
	for at, tag := range tags {
		i := tag.index
		if i >= len(all) || all[i].Name != tag.name {
			i = slices.IndexFunc(all, func(c sparkplug.Current) bool { return c.Name == tag.name })
		}
		if i >= 0 {
			kept[at] = all[i]
		}
	}
	return kept
}

// take takes over a device's state.
func (e *edge) take(s *session, id string, state DeviceState) error {
	d := e.device(id)
	was := d.alive
	switch state.State {
	case "online":
		d.alive = true
	case "degraded":
		// It answers, or has just begun not to: it stays what it was. One that
		// has never answered is born with its first value.
	default:
		d.alive, d.dead = false, state.Since
	}
	switch {
	case s == nil || was == d.alive || !slices.Contains(e.order, id):
		return nil
	case d.alive:
		d.replay = false
		return e.rebirth(s, id)
	}
	d.replay = false
	return e.death(s, id)
}

// hear takes in what hosts have sent. It says whether one of them asks for
// all births.
func (e *edge) hear(running bool) (asked bool) {
	for _, m := range e.takeInbox() {
		if e.u.o.Sparkplug.PrimaryHost != "" && m.Topic() == e.stateTopic() {
			e.hearState(m)
			continue
		}
		if m.Retained() {
			e.note(m.Topic(), "a retained command is not obeyed; clear it at the broker")
			continue
		}
		commands, err := e.node.Commands(m.Topic(), m.Payload())
		if err != nil {
			e.note(m.Topic(), err.Error())
			continue
		}
		for _, c := range commands {
			asked = asked || c.Rebirth && running
			if c.Refused != "" {
				e.note(m.Topic(), fmt.Sprintf("the command to write %q is refused: %s", c.Metric, c.Refused))
			}
		}
	}
	return asked
}

func (e *edge) hearState(m paho.Message) {
	state, err := sparkplug.ParseState(m.Payload())
	if err != nil {
		e.note(m.Topic(), err.Error())
		return
	}
	if !e.host.Take(state) {
		e.u.o.Log.Debug("a late state of the primary host is passed over", "uplink", e.u.o.Name, "topic", m.Topic())
	}
}

// note logs what is wrong with a message of a host: the first times, and then
// ever more rarely.
func (e *edge) note(topic, what string) {
	n := e.u.counts.refused.Add(1)
	if n <= 10 || n&(n-1) == 0 {
		e.u.o.Log.Warn("a message of a host is not obeyed", "uplink", e.u.o.Name, "topic", topic, "reason", what, "so_far", n)
	}
}
