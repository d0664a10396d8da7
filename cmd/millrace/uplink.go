package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"millrace/buffer"
	"millrace/configs"
	"millrace/protocols/mqtt"
)

// uplink is one MQTT destination and the goroutine that forwards to it.
type uplink struct {
	cfg    configs.Uplink
	mqtt   *mqtt.Uplink
	tally  *tally
	daily  string // the day whose record it was given last; of the goroutine that publishes figures
	cancel context.CancelFunc
	done   chan struct{}
}

// publisher is an mqtt.Uplink as the buffer sees it. The two packages do not
// know each other; their records are the same to the letter.
type publisher struct{ *mqtt.Uplink }

// Send is for buffer.Publisher.
func (p publisher) Send(ctx context.Context, token uint64, r buffer.Record) error {
	return p.Uplink.Send(ctx, token, mqtt.Record(r))
}

// SendGap is for buffer.Publisher.
func (p publisher) SendGap(ctx context.Context, token uint64, g buffer.Gap) error {
	return p.Uplink.SendGap(ctx, token, mqtt.Gap(g))
}

// makeUplinks makes the uplinks of cfg that are not the same in old, which
// may be nil, without starting them: so that mistakes are found before
// anything is changed.
func (a *agent) makeUplinks(cfg, old *configs.Config) (map[string]*freshUplink, error) {
	fresh := map[string]*freshUplink{}
	for i := range cfg.Uplinks {
		u := &cfg.Uplinks[i]
		if old != nil && slices.ContainsFunc(old.Uplinks, func(o configs.Uplink) bool { return o.Equal(u) }) {
			continue
		}
		m, err := a.newMQTT(cfg, u)
		if err != nil {
			return nil, err
		}
		fresh[u.Name] = m
	}
	return fresh, nil
}

// freshUplink is one that is not started.
type freshUplink struct {
	*mqtt.Uplink

	tally *tally
}

// swapUplinks stops the uplinks that cfg does not have, or that there is a
// fresh one for, and starts the fresh ones. One that changed keeps its place
// in the buffer.
func (a *agent) swapUplinks(cfg *configs.Config, fresh map[string]*freshUplink) {
	names := uplinkNames(cfg)
	var wg sync.WaitGroup
	for _, u := range a.takeUplinks(func(u *uplink) bool { return fresh[u.cfg.Name] != nil || !slices.Contains(names, u.cfg.Name) }) {
		wg.Go(u.stop)
	}
	wg.Wait()
	if err := a.buf.SetUplinks(names); err != nil {
		// It holds for this run; a full disk must not keep an uplink away.
		a.log.Warn("the buffer could not save which uplinks there are; it tries again", "error", err)
	}
	for i := range cfg.Uplinks {
		if m := fresh[cfg.Uplinks[i].Name]; m != nil {
			a.startUplink(cfg.Uplinks[i], m)
		}
	}
}

// takeUplinks removes the uplinks that match from the running ones.
func (a *agent) takeUplinks(match func(*uplink) bool) []*uplink {
	a.mu.Lock()
	defer a.mu.Unlock()
	var taken []*uplink
	for name, u := range a.uplinks {
		if match(u) {
			taken = append(taken, u)
			delete(a.uplinks, name)
		}
	}
	return taken
}

func (a *agent) newMQTT(cfg *configs.Config, u *configs.Uplink) (*freshUplink, error) {
	counts := a.newTally(u.Name)
	m, err := mqtt.New(mqtt.Options{
		Name: u.Name, Broker: u.Broker, Fallbacks: u.Fallback, ClientID: u.ClientID, Username: u.Username, Password: string(u.Password),
		TLS:    mqtt.TLS{CA: u.TLS.CA, Cert: u.TLS.Cert, Key: u.TLS.Key, ServerName: u.TLS.ServerName},
		Filter: mqtt.Filter{Devices: u.Devices, Tags: u.Tags},
		Format: u.Format, Sparkplug: a.sparkplugOptions(u),
		Topic: u.Topic, Group: cfg.Gateway.Group, Gateway: cfg.Gateway.ID, Version: version,
		Status: a.statusFields, Handed: counts.handed,
		MaxInflight: u.MaxInflight, Schema: a.schema, Now: a.buf.Now, Log: a.log,
	})
	if err != nil {
		return nil, fmt.Errorf("uplink %s: %w", u.Name, err)
	}
	m.SetFigures(noFigures())
	a.books.mu.Lock()
	m.SetFigures(a.books.told)
	a.books.mu.Unlock()
	return &freshUplink{m, counts}, nil
}

// statusFields are what the agent adds to the status message of a session.
func (a *agent) statusFields() map[string]any {
	p := a.buf.Stats().Previous
	if p.Ended == "" {
		return nil
	}
	return map[string]any{"previous": struct {
		Stream string `json:"stream"`
		Last   uint64 `json:"last"`
		Ended  string `json:"ended"`
	}{p.Stream, p.Last, p.Ended}}
}

func (a *agent) startUplink(cfg configs.Uplink, m *freshUplink) {
	ctx, cancel := context.WithCancel(context.Background())
	u := &uplink{cfg: cfg, mqtt: m.Uplink, tally: m.tally, cancel: cancel, done: make(chan struct{})}
	a.mu.Lock()
	for id := range a.gone {
		m.RemoveDevice(id)
	}
	for _, s := range a.states {
		m.SetState(a.dated(s))
	}
	a.uplinks[cfg.Name] = u
	a.mu.Unlock()
	go func() {
		defer close(u.done)
		err := a.buf.Forward(ctx, cfg.Name, publisher{m.Uplink}, buffer.ForwardOptions{
			CatchUp: catchUp(cfg.CatchUp), Rate: buffer.Rate(cfg.CatchUpRate), Window: cfg.MaxInflight,
			MinBackoff: reconnectFirst, MaxBackoff: reconnectLongest, OnState: a.uplinkLog(cfg.Name, m.Uplink), OnAcked: u.tally.acked,
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			a.log.Error("the uplink has stopped", "uplink", cfg.Name, "error", err)
		}
	}()
}

func catchUp(how string) buffer.CatchUp {
	if how == configs.LiveFirst {
		return buffer.LiveFirst
	}
	return buffer.InOrder
}

// Between attempts to reach a broker, spread by half. The first is short: a
// broker that was restarted is back soon. With the longest, data flows again
// within 2 s of its return, and it costs a dead mobile line little. A broker
// that answers and refuses is tried ever more rarely, up to a minute apart.
const (
	reconnectFirst   = 500 * time.Millisecond
	reconnectLongest = 1900 * time.Millisecond
)

// retellAfter is how often the log says again that an uplink comes and goes.
const retellAfter = time.Minute

// uplinkLog returns what logs the changes of an uplink's connection: each
// reason once, and one that repeats summed up each minute.
func (a *agent) uplinkLog(name string, m *mqtt.Uplink) func(buffer.ForwardState) {
	told, broker, repeats := "", "", 0
	var toldAt, connectedAt time.Time
	return func(s buffer.ForwardState) {
		now := time.Now()
		if s.Connected {
			used := m.Stats().Broker
			if used != broker || repeats == 0 || now.Sub(connectedAt) >= retellAfter {
				a.log.Info("uplink connected", "uplink", name, "broker", used)
				broker, connectedAt = used, now
			}
			return
		}
		if s.Err == nil {
			return
		}
		// The session knows why it ended; the buffer only that it did.
		why := cmp.Or(m.Stats().LastError, s.Err.Error())
		if why == told && now.Sub(toldAt) < retellAfter {
			repeats++
			return
		}
		if repeats > 0 {
			a.log.Warn("uplink not connected", "uplink", name, "reason", why, "repeats", repeats)
		} else {
			a.log.Warn("uplink not connected", "uplink", name, "reason", why)
		}
		told, toldAt, repeats = why, now, 0
	}
}

// stop ends the session cleanly and waits for it.
func (u *uplink) stop() {
	u.cancel()
	<-u.done
}
