package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/buffer"
	"millrace/collector/connectivity"
	"millrace/collector/ledger"
	"millrace/configs"
	"millrace/protocols"
	"millrace/protocols/mqtt"
)

// books is what the agent counts for the connectivity figures, and publishes.
type books struct {
	ledger  *ledger.Ledger
	cancel  context.CancelFunc
	done    chan struct{}
	counted atomic.Pointer[countedUplinks]

	mu       sync.Mutex // guards what follows
	figures  *connectivity.Figures
	told     mqtt.Figures                     // the same, as they are published
	evidence map[string]connectivity.Evidence // as it was saved last
	saved    time.Time                        // when

	saveMu sync.Mutex // the file of the evidence is written by one at a time

	pageMu sync.Mutex // one of the page's figures is computed at a time
	pages  map[string]pageFigures
}

// openBooks makes the ledger, which counts at once; its files are touched
// later. now is the best time that is known.
func (a *agent) openBooks(cfg *configs.Config, now func() time.Time) {
	c := &cfg.Connectivity
	a.books = &books{
		ledger:   ledger.New(ledger.Options{Dir: c.Path, Keep: c.Keep, Now: now, Log: a.log.With("part", "ledger")}),
		evidence: loadEvidence(c.Path), pages: map[string]pageFigures{},
	}
	a.books.counted.Store(&countedUplinks{countedUplink: countedOf(cfg, cfg.Connectivity.Uplink)})
}

// countedUplink is an uplink whose deliveries count, and what it gets.
type countedUplink struct {
	name   string
	filter mqtt.Filter
}

func countedOf(cfg *configs.Config, name string) countedUplink {
	c := countedUplink{name: name}
	for i := range cfg.Uplinks {
		if u := &cfg.Uplinks[i]; u.Name == name {
			c.filter = mqtt.Filter{Devices: u.Devices, Tags: u.Tags}
		}
	}
	return c
}

// countedUplinks are the uplink whose deliveries count, and the one that
// counted before it: what was read until it was changed counts when that one
// has delivered it. Otherwise the two would count the same readings twice, or
// not at all.
type countedUplinks struct {
	countedUplink

	since  int64 // Unix ms; 0: always
	before countedUplink
}

// of returns the uplink that counts for what was read at a time.
func (c *countedUplinks) of(ms int64) *countedUplink {
	if ms < c.since && c.before.name != "" {
		return &c.before
	}
	return &c.countedUplink
}

// countedKey is where the buffer's small state has, as JSON, which uplink
// counts since when.
const countedKey = "connectivity uplink"

type countedState struct {
	Name   string `json:"name"`
	Since  int64  `json:"since,omitempty"`
	Before string `json:"before,omitempty"`
}

// count makes the configured uplink the one that counts, from now on.
func (a *agent) count(cfg *configs.Config) {
	var s countedState
	if json.Unmarshal(a.buf.StateGet(countedKey), &s) != nil {
		s = countedState{}
	}
	if name := cfg.Connectivity.Uplink; s.Name != name {
		if s.Name != "" {
			s.Since, s.Before = a.buf.Now().UnixMilli(), s.Name
		}
		s.Name = name
		data, err := json.Marshal(s)
		if err == nil {
			err = a.buf.StatePut(countedKey, data)
		}
		if err != nil {
			a.log.Debug("which uplink counts could not be saved", "error", err)
		}
	}
	a.books.counted.Store(&countedUplinks{countedOf(cfg, s.Name), s.Since, countedOf(cfg, s.Before)})
}

// keepBooks writes and publishes what is counted, each minute, until
// closeBooks.
func (a *agent) keepBooks() {
	ctx, cancel := context.WithCancel(context.Background())
	a.books.cancel, a.books.done = cancel, make(chan struct{})
	go func() {
		defer close(a.books.done)
		a.books.ledger.Run(ctx, a.coll.Count, a.publishFigures)
	}()
}

// closeBooks writes what was counted last. Nothing is counted any more.
func (a *agent) closeBooks() {
	if a.books.cancel == nil {
		return
	}
	a.books.cancel()
	<-a.books.done
	a.saveEvidence(a.config(), a.evidence())
}

// flushBooks writes what was counted up to now, for those who read the files.
func (a *agent) flushBooks() {
	a.coll.Count()
	a.books.ledger.Flush(false)
	cfg := a.config()
	a.saveEvidence(cfg, a.evidence())
}

// figuresOf computes the figures of a period.
func (a *agent) figuresOf(from, to time.Time, sinceBegun bool) (*connectivity.Figures, error) {
	f, err := connectivity.Compute(connectivity.Input{
		Config: a.config(), Evidence: a.evidence(), Source: a.books.ledger.Read, From: from, To: to, Now: a.buf.Now(),
		SinceBegun: sinceBegun,
	})
	if err != nil {
		return nil, fmt.Errorf("connectivity figures: %w", err)
	}
	return f, nil
}

// last24h is the period of the figures that are published each minute.
func last24h(now time.Time) (from, to time.Time) {
	to = now.Truncate(time.Hour).Add(time.Hour)
	return to.Add(-25 * time.Hour), to
}

// tooEarly is for how long a ledger that has just been begun yields no figures:
// they would say that nothing is networked.
const tooEarly = 5 * time.Second

// publishFigures publishes the figures of the last 24 hours, and the record of
// the day that has ended.
func (a *agent) publishFigures() {
	from, to := last24h(a.buf.Now())
	f, err := a.figuresOf(from, to, true)
	if err != nil {
		a.log.Debug("no connectivity figures yet", "error", err)
		return
	}
	if f.Until.Sub(f.Began) < tooEarly {
		return // no machine could be networked yet
	}
	body, err := f.Message(connectivity.Last24h)
	if err != nil {
		a.log.Error("the connectivity figures cannot be written", "error", err)
		return
	}
	out := mqtt.Figures{Body: body, Metrics: figureMetrics(f.Numbers())}
	a.books.mu.Lock()
	a.books.figures, a.books.told = f, out
	stale := time.Since(a.books.saved) > evidenceEvery
	a.books.mu.Unlock()
	a.mu.Lock()
	all := make([]*uplink, 0, len(a.uplinks))
	for _, u := range a.uplinks {
		u.mqtt.SetFigures(out)
		all = append(all, u)
	}
	a.mu.Unlock()
	for _, u := range all {
		a.publishDaily(u)
	}
	if stale {
		a.saveEvidence(a.config(), a.evidence())
	}
}

// figureMetrics are figures as metrics of a node of Sparkplug.
func figureMetrics(numbers map[string]int64) map[string]protocols.Value {
	all := make(map[string]protocols.Value, len(numbers))
	for name, n := range numbers {
		all["Connectivity/"+name] = protocols.Int(n)
	}
	return all
}

// noFigures are the node's metrics before there are any figures, so that its
// births have them.
func noFigures() mqtt.Figures {
	m := figureMetrics(connectivity.NoNumbers())
	maps.Copy(m, dailyMetrics("", connectivity.NoNumbers()))
	return mqtt.Figures{Metrics: m}
}

// dailyMetrics are the figures of a day as metrics of a node of Sparkplug:
// numbers alone, as all births hold them.
func dailyMetrics(day string, numbers map[string]int64) map[string]protocols.Value {
	all := map[string]protocols.Value{"Connectivity/daily/date": protocols.String(day)}
	for name, n := range numbers {
		all["Connectivity/daily/"+name] = protocols.Int(n)
	}
	return all
}

// maxDaily is how many days' records an uplink gets that was away for long.
const maxDaily = 31

func dailyKey(uplink string) string { return "connectivity daily " + uplink }

// publishDaily gives an uplink the record of the next day that is over, once
// it has the one before.
func (a *agent) publishDaily(u *uplink) {
	zone := a.config().Connectivity.Calendar.Location()
	have := string(a.buf.StateGet(dailyKey(u.cfg.Name)))
	if done := u.mqtt.DailyDelivered(); done != "" && done == u.daily && done > have {
		have = done
		a.saveDaily(u, have)
	}
	// What was read at midnight is on its way for a while.
	date := nextDaily(have, a.buf.Now().Add(-dailyAfter).In(zone))
	day, err := time.Parse(time.DateOnly, date)
	if err != nil || date == u.daily {
		return
	}
	from := configs.StartOfDay(day.Year(), day.Month(), day.Day(), zone)
	to := configs.StartOfDay(day.Year(), day.Month(), day.Day()+1, zone)
	f, err := a.figuresOf(from, to, false)
	if err != nil {
		return // it is tried again in a minute
	}
	if !f.Began.Before(to) {
		a.saveDaily(u, date) // nobody counted that day: it has no record
		return
	}
	body, err := f.Message(connectivity.Day)
	if err != nil {
		a.log.Error("the day's connectivity figures cannot be written", "error", err)
		return
	}
	u.mqtt.SetDaily(date, mqtt.Figures{Body: body, Metrics: dailyMetrics(date, f.Numbers())})
	u.daily = date
}

// saveDaily notes the day up to which an uplink has the records.
func (a *agent) saveDaily(u *uplink, date string) {
	if err := a.buf.StatePut(dailyKey(u.cfg.Name), []byte(date)); err != nil {
		a.log.Debug("which day's record was delivered could not be saved", "error", err)
	}
}

// nextDaily returns the day whose record is to be made next for an uplink that
// has them up to the day have, or none where that is empty; empty: none is.
func nextDaily(have string, now time.Time) string {
	on := func(days int) string {
		return time.Date(now.Year(), now.Month(), now.Day()+days, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
	}
	last, err := time.Parse(time.DateOnly, have)
	if err != nil {
		return on(-1)
	}
	next := max(last.AddDate(0, 0, 1).Format(time.DateOnly), on(-maxDaily))
	if next > on(-1) {
		return ""
	}
	return next
}

// dailyAfter is how long after midnight a day's record is made.
const dailyAfter = 20 * time.Second

// tally keeps, for one uplink, what of each batch that is on its way counts
// when it is acknowledged.
type tally struct {
	a    *agent
	name string

	mu      sync.Mutex // guards what follows
	waiting []handed
	devices map[uint64]*ledger.Device // by schema
}

type handed struct {
	token  uint64
	device *ledger.Device
	mqtt.Handed
}

// count counts a batch that is acknowledged, or the notice that stands for it.
func (h *handed) count() {
	if h.Aside == "" {
		h.device.Delivered(h.Time, h.Sent, h.Filtered)
		return
	}
	h.device.Dropped(h.Time, ledger.ReasonOf(h.Aside), h.Sent)
	h.device.Delivered(h.Time, 0, h.Filtered)
}

// maxHanded bounds what is remembered of sessions that never get an
// acknowledgement.
const maxHanded = 8192

func (a *agent) newTally(name string) *tally {
	return &tally{a: a, name: name, devices: map[uint64]*ledger.Device{}}
}

// counts says whether this uplink's deliveries of what was read at a time
// count.
func (t *tally) counts(ms int64) bool { return t.a.books.counted.Load().of(ms).name == t.name }

// handed notes a batch that is handed over.
func (t *tally) handed(token uint64, h mqtt.Handed) {
	if !t.counts(h.Time) {
		return
	}
	d, known := t.devices[h.Schema]
	if !known {
		if s, err := t.a.schema(h.Schema); err == nil {
			d = t.a.books.ledger.Device(s.Device)
		}
		if len(t.devices) > maxHanded {
			clear(t.devices)
		}
		t.devices[h.Schema] = d
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) >= maxHanded {
		t.waiting = append(t.waiting[:0], t.waiting[maxHanded/2:]...)
	}
	t.waiting = append(t.waiting, handed{token, d, h})
}

// acked counts what the broker has taken. was is the reason with which it was
// counted as dropped before.
func (t *tally) acked(token uint64, was string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for n < len(t.waiting) && t.waiting[n].token <= token {
		h := &t.waiting[n]
		n++
		switch {
		case h.token != token: // of a session that was lost: it was sent again
		case was != "":
			h.device.Dropped(h.Time, ledger.ReasonOf(was), -h.Sent)
			h.device.Delivered(h.Time, 0, -h.Filtered)
			h.count()
		default:
			h.count()
		}
	}
	if n > 0 {
		t.waiting = append(t.waiting[:0], t.waiting[n:]...)
	}
}

// dropped counts a record that an uplink will not get. A record of an earlier
// run may be of a configuration that is not known yet: it comes with its schema.
func (a *agent) dropped(uplink, reason string, r buffer.Record, schema []byte) {
	c := a.books.counted.Load().of(r.Time)
	if c.name != uplink {
		return
	}
	s, err := a.schemaKnown(r.Schema)
	if err != nil && schema != nil {
		s, err = a.learnSchema(r.Schema, schema)
	}
	if err != nil {
		return // nobody knows whose readings these are
	}
	sent, filtered := c.filter.Good(s, r.Data)
	d := a.books.ledger.Device(s.Device)
	d.Dropped(r.Time, ledger.ReasonOf(reason), sent)
	d.Delivered(r.Time, 0, filtered)
}

// Evidence is saved beside the ledger, for the report on an agent that does
// not run.
const (
	evidenceName  = "devices.json"
	evidenceEvery = 24 * time.Hour
	maxSamples    = 8
)

// evidence is what shows that the devices are connected, now.
func (a *agent) evidence() map[string]connectivity.Evidence {
	a.books.mu.Lock()
	before := a.books.evidence
	a.books.mu.Unlock()
	all := map[string]connectivity.Evidence{}
	for _, d := range a.coll.Status() {
		cfg := d.Config
		e := connectivity.Evidence{
			Driver: cfg.Driver, Endpoint: cfg.Endpoint, Tags: len(cfg.Tags), State: string(d.State.State),
			Since: a.present(d.State.Since).UnixMilli(), Reason: d.State.Reason,
		}
		if cfg.Driver == "modbus" {
			e.Unit = &cfg.Modbus.Unit
		}
		was := before[cfg.ID]
		if e.Identity = d.Identity; e.Identity == (protocols.Identity{}) {
			e.Identity = was.Identity // of an earlier run
		}
		first, last := a.books.ledger.Device(cfg.ID).Data()
		e.First, e.Last, e.Samples = was.First, max(was.Last, last), was.Samples
		if e.First == 0 {
			e.First = first
		}
		if s := a.samples(cfg.ID); len(s) > 0 {
			e.Samples = s
		}
		all[cfg.ID] = e
	}
	return all
}

// samples are the newest good readings of some of a device's tags.
func (a *agent) samples(device string) (all []connectivity.Sample) {
	for _, v := range a.coll.Values(device) {
		if v.Time == 0 || v.Reading.Quality == protocols.Bad || len(all) == maxSamples {
			continue
		}
		text := valueText(v.Reading.Value)
		if len(text) > 200 {
			text = strings.ToValidUTF8(text[:200], "") + "…"
		}
		all = append(all, connectivity.Sample{
			Name: v.Tag.Name, Address: v.Tag.Address, Value: text, Unit: v.Tag.Unit, Quality: qualityWord(v), Reason: string(v.Reading.Reason), Time: v.Time,
		})
	}
	return all
}

func loadEvidence(dir string) map[string]connectivity.Evidence {
	all := map[string]connectivity.Evidence{}
	data, err := os.ReadFile(filepath.Join(dir, evidenceName))
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil {
		return map[string]connectivity.Evidence{}
	}
	return all
}

func (a *agent) saveEvidence(cfg *configs.Config, all map[string]connectivity.Evidence) {
	a.books.saveMu.Lock()
	defer a.books.saveMu.Unlock()
	data, err := json.MarshalIndent(all, "", " ")
	if err == nil {
		err = replaceFile(filepath.Join(cfg.Connectivity.Path, evidenceName), data)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		a.log.Debug("what is known of the devices could not be saved", "error", err)
	}
	a.books.mu.Lock()
	defer a.books.mu.Unlock()
	a.books.evidence, a.books.saved = all, time.Now()
}

// replaceFile writes a file that is there whole or not at all.
func replaceFile(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o640); err != nil { //nolint:gosec // whoever may read the ledger may read this
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
