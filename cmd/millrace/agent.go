package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/buffer"
	"millrace/collector"
	"millrace/configs"
	"millrace/protocols"
	"millrace/protocols/modbus"
	"millrace/protocols/mqtt"
	"millrace/protocols/opcua"
)

// agent is all parts of a running gateway, put together.
type agent struct {
	log     *slog.Logger
	now     func() time.Time // the machine's clock, with a monotonic part
	started time.Time
	stream  string

	buf    *buffer.Buffer
	learnt *learnt
	books  *books
	coll   *collector.Collector
	local  *local

	schemaMu sync.Mutex // of its own, as the buffer may hold its lock meanwhile
	schemas  map[uint64]*protocols.Schema

	mu      sync.Mutex // guards what follows
	cfg     *configs.Config
	loaded  time.Time
	reload  error // why the last reload was refused
	uplinks map[string]*uplink
	states  map[string]mqtt.DeviceState
	page    *page           // nil: there is none
	gone    map[string]bool // devices whose states brokers may still have
}

// drivers returns the drivers of this version, by the names that the
// configuration uses. pki is the directory of OPC UA certificates, name the
// gateway's; now is the wall clock (nil: time.Now); memory is where drivers
// keep what they learn of devices (nil: nowhere).
func drivers(log *slog.Logger, pki, name string, now func() time.Time, memory protocols.Memory) map[string]protocols.Driver {
	return map[string]protocols.Driver{
		"modbus": modbus.New(modbus.Options{Log: log.With("driver", "modbus"), Now: now, Memory: memory}),
		"opcua":  opcua.New(opcua.Options{Log: log.With("driver", "opcua"), PKIDir: pki, ApplicationName: name, Now: now, Memory: memory}),
	}
}

// checkers returns the drivers as the configuration's validation needs them.
func checkers() map[string]configs.Checker {
	all := map[string]configs.Checker{}
	for name, d := range drivers(slog.New(slog.DiscardHandler), "", "", nil, nil) {
		all[name] = d
	}
	return all
}

// startAgent starts everything: the buffer first, which shows whether another
// agent runs already, the page, the uplinks, and the field last. What is
// wrong with devices, brokers, the disk or the page's port is a state, not
// an error. clock is time.Now, but for tests.
func startAgent(cfg *configs.Config, log *slog.Logger, clock func() time.Time) (*agent, error) {
	now := clock()
	a := &agent{
		log: log, now: clock, started: now, loaded: now, stream: newStreamID(now), cfg: cfg,
		uplinks: map[string]*uplink{}, states: map[string]mqtt.DeviceState{}, schemas: map[uint64]*protocols.Schema{},
		gone: map[string]bool{},
	}
	// Until there is a buffer, which knows the clock's history, it is the machine's.
	var best atomic.Pointer[buffer.Buffer]
	a.openBooks(cfg, func() time.Time {
		if b := best.Load(); b != nil {
			return b.Now()
		}
		return clock()
	})
	var err error
	a.buf, err = buffer.Open(buffer.Options{
		Dir: cfg.Buffer.Path, MaxSize: cfg.Buffer.MaxSize, MaxAge: cfg.Buffer.MaxAge, CommitInterval: cfg.Buffer.CommitInterval,
		Uplinks: uplinkNames(cfg), Stream: a.stream, Now: clock, ClockSet: a.retellStates, Dropped: a.dropped, Log: log.With("part", "buffer"),
	})
	if err != nil {
		return nil, fmt.Errorf("opening the buffer: %w", err)
	}
	best.Store(a.buf)
	a.count(cfg)
	if s := a.buf.Stats(); s.Trouble != buffer.TroubleNone {
		log.Warn("readings stay in memory", "because", diskWords(s.Trouble, cfg.Buffer.Path, s.DiskError))
	}
	a.learnt = newLearnt(a.buf, log)
	a.coll = collector.New(collector.Options{
		Drivers: drivers(log, filepath.Join(cfg.Dir, "pki"), cfg.Gateway.ID, clock, a.learnt), Appender: (*appender)(a), State: a.setState,
		Ledger: a.books.ledger, Log: log, Now: clock,
	})
	a.sayAbout(cfg)
	a.local = a.openLocal(cfg.Buffer.Path)
	a.forgetEarlier(cfg)
	if err := a.startParts(cfg); err != nil {
		a.stop()
		return nil, err
	}
	log.Info("millrace runs", "version", version, "gateway", cfg.Gateway.ID, "stream", a.stream,
		"devices", len(cfg.Devices), "uplinks", len(cfg.Uplinks), "buffer", cfg.Buffer.Path)
	return a, nil
}

func (a *agent) startParts(cfg *configs.Config) error {
	a.openPage(cfg.Console.Listen)
	fresh, err := a.makeUplinks(cfg, nil)
	if err != nil {
		return err
	}
	a.swapUplinks(cfg, fresh)
	if err := a.coll.Apply(cfg.Devices); err != nil {
		return err
	}
	a.keepBooks()
	return nil
}

func uplinkNames(cfg *configs.Config) []string {
	names := make([]string, len(cfg.Uplinks))
	for i := range cfg.Uplinks {
		names[i] = cfg.Uplinks[i].Name
	}
	return names
}

// apply makes a new configuration the one in force, touching only what
// changed. On an error the old one goes on, and the page says why.
func (a *agent) apply(cfg *configs.Config) (err error) {
	old := a.config()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.reload = err
		if err == nil {
			a.cfg, a.loaded = cfg, a.now()
			for _, u := range a.uplinks {
				u.mqtt.Reloaded()
			}
		}
	}()
	if err := fixedKeys(cfg, old); err != nil {
		return err
	}
	if cfg.Buffer != old.Buffer {
		a.log.Warn("what changed under buffer: takes effect at the next start")
	}
	fresh, err := a.makeUplinks(cfg, old)
	if err != nil {
		return err
	}
	if err := a.coll.Apply(cfg.Devices); err != nil {
		return err
	}
	a.count(cfg)
	a.swapUplinks(cfg, fresh)
	a.forgetDevices(cfg)
	if cfg.Console.Listen != old.Console.Listen {
		a.closePage()
		a.openPage(cfg.Console.Listen)
	}
	return nil
}

// fixedKeys says which keys have changed that a reload cannot change: all
// topics hang on the first two, and every batch that waits on the third.
func fixedKeys(cfg, old *configs.Config) error {
	for _, k := range []struct{ key, was, is string }{
		{"gateway.id", old.Gateway.ID, cfg.Gateway.ID},
		{"gateway.group", old.Gateway.Group, cfg.Gateway.Group},
		{"buffer.path", old.Buffer.Path, cfg.Buffer.Path},
		{"connectivity.path", old.Connectivity.Path, cfg.Connectivity.Path},
	} {
		if k.was != k.is {
			return fmt.Errorf("%s was changed from %q to %q: that needs a new start of the agent", k.key, k.was, k.is)
		}
	}
	return nil
}

// refuse notes why a reload came to nothing.
func (a *agent) refuse(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reload = err
}

func (a *agent) config() *configs.Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cfg
}

// devicesKey is where the buffer keeps the ids of the devices that brokers
// may hold a state of.
const devicesKey = "devices"

// forgetEarlier notes the devices that an earlier run had and this one has
// not: the uplinks are to clear what brokers keep of them.
func (a *agent) forgetEarlier(cfg *configs.Config) {
	a.mu.Lock()
	for id := range strings.SplitSeq(string(a.buf.StateGet(devicesKey)), "\n") {
		if id != "" {
			a.gone[id] = true
		}
	}
	a.mu.Unlock()
	a.forgetDevices(cfg)
}

// forgetDevices has the uplinks clear what brokers keep of devices that cfg
// does not have, and keeps the ids of those that it has for the next start.
func (a *agent) forgetDevices(cfg *configs.Config) {
	ids := make([]string, len(cfg.Devices))
	for i, d := range cfg.Devices {
		ids[i] = d.ID
	}
	a.mu.Lock()
	for id := range a.states {
		a.gone[id] = true
	}
	for _, id := range ids {
		delete(a.gone, id)
	}
	for id := range a.gone {
		delete(a.states, id)
		for _, u := range a.uplinks {
			u.mqtt.RemoveDevice(id)
		}
	}
	a.mu.Unlock()
	if now := strings.Join(ids, "\n"); now != string(a.buf.StateGet(devicesKey)) {
		if err := a.buf.StatePut(devicesKey, []byte(now)); err != nil {
			a.log.Debug("which devices there are could not be saved", "error", err)
		}
	}
}

// setState passes a device's state on to all uplinks.
func (a *agent) setState(s collector.DeviceState) {
	state := mqtt.DeviceState{Device: s.Device, State: string(s.State), Since: s.Since, Reason: s.Reason}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.states[s.Device] = state
	for _, u := range a.uplinks {
		u.mqtt.SetState(a.dated(state))
	}
}

// retellStates has the uplinks tell all states again, with their times by the
// clock that was just set.
func (a *agent) retellStates() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.states {
		for _, u := range a.uplinks {
			u.mqtt.SetState(a.dated(s))
		}
	}
}

// dated returns s with its time by the clock as it is set now.
func (a *agent) dated(s mqtt.DeviceState) mqtt.DeviceState {
	s.Since = a.present(s.Since)
	return s
}

// present returns a time of this run by the clock as it is set now: the clock
// may have been set since t was taken.
func (a *agent) present(t time.Time) time.Time { return a.buf.Now().Add(-a.now().Sub(t)) }

// A stop may take 5 s. In the worst case, with a PLC and a broker that hang,
// the scan in flight takes 1 s (collector), the draining drainPatience, the
// acknowledgements of what is in flight 1 s (buffer), the farewell to the
// broker 1 s (mqtt), and the page's requests 0.5 s.
const (
	drainTime     = time.Second            // for what waits, while it gets less
	drainPatience = 300 * time.Millisecond // without getting less
	drainStep     = 10 * time.Millisecond
)

// stop ends everything, in this order: no more scans; what has been read
// goes out, as far as the uplinks are up; the uplinks say offline and
// disconnect; the page ends; what was not acknowledged is written to disk,
// and the buffer's files are closed.
func (a *agent) stop() {
	a.coll.Stop()
	a.drain()
	a.mu.Lock()
	all := a.uplinks
	a.uplinks = map[string]*uplink{}
	a.mu.Unlock()
	var wg sync.WaitGroup
	for _, u := range all {
		wg.Go(u.stop)
	}
	wg.Wait()
	a.closePage()
	a.local.close()
	a.closeBooks()
	a.learnt.close()
	if err := a.buf.Close(); err != nil {
		a.log.Error("closing the buffer", "error", err)
	}
}

// drain waits until the uplinks that are up have everything, the time is
// over, or they take nothing more.
func (a *agent) drain() {
	deadline := time.NewTimer(drainTime)
	defer deadline.Stop()
	stuck := time.NewTimer(drainPatience)
	defer stuck.Stop()
	tick := time.NewTicker(drainStep)
	defer tick.Stop()
	for least := a.waiting(); least > 0; {
		select {
		case <-deadline.C:
			return
		case <-stuck.C:
			return
		case <-tick.C:
		}
		if n := a.waiting(); n < least {
			least = n
			stuck.Reset(drainPatience)
		}
	}
}

// waiting returns how many batches wait for uplinks that are up.
func (a *agent) waiting() (n uint64) {
	lag := a.buf.Stats().Uplinks
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, u := range a.uplinks {
		if u.mqtt.Stats().Connected {
			n += lag[name].Lag
		}
	}
	return n
}

// schema is where the uplinks get the names of the tags of a record.
func (a *agent) schema(id uint64) (*protocols.Schema, error) {
	a.schemaMu.Lock()
	s, ok := a.schemas[id]
	a.schemaMu.Unlock()
	if ok {
		return s, nil
	}
	blob, err := a.buf.Schema(id)
	if err != nil {
		return nil, err
	}
	return a.learnSchema(id, blob)
}

// schemaKnown is schema for those that the buffer calls: it asks the buffer
// nothing.
func (a *agent) schemaKnown(id uint64) (*protocols.Schema, error) {
	a.schemaMu.Lock()
	defer a.schemaMu.Unlock()
	if s, ok := a.schemas[id]; ok {
		return s, nil
	}
	return nil, buffer.ErrUnknownSchema
}

func (a *agent) learnSchema(id uint64, blob []byte) (*protocols.Schema, error) {
	s, err := protocols.DecodeSchema(blob)
	if err != nil {
		return nil, err
	}
	a.schemaMu.Lock()
	defer a.schemaMu.Unlock()
	a.schemas[id] = s
	return s, nil
}

// appender is the agent as the collector sees it.
type appender agent

// PutSchema is for collector.Appender.
func (a *appender) PutSchema(id uint64, blob []byte) error {
	if _, err := (*agent)(a).learnSchema(id, blob); err != nil {
		return err
	}
	return a.buf.PutSchema(id, blob)
}

// Append is for collector.Appender.
func (a *appender) Append(ms int64, schema uint64, readings int, record []byte) error {
	_, err := a.buf.Append(buffer.Record{Time: ms, Schema: schema, Readings: readings, Data: record})
	return err
}
