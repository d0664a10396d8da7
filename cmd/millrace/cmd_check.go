package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"millrace/configs"
	"millrace/protocols"
)

func cmdCheck(_ context.Context, t terminal, args []string) int {
	fs := flags(t, "check", "check -c FILE [--json] | check --schema", "Looks for mistakes in a configuration without touching a device, and shows what will be read.")
	file := fs.String("c", "", "the configuration `file`")
	asJSON := fs.Bool("json", false, "for programs")
	schema := fs.Bool("schema", false, "print the JSON Schema of the configuration, for editors")
	if code, ok := parse(t, fs, args); !ok {
		return code
	}
	if *schema {
		text, err := configs.Schema()
		if err != nil {
			t.errorf("millrace check: %v\n", err)
			return exitFailed
		}
		t.printf("%s\n", strings.TrimSpace(string(text)))
		return exitDone
	}
	if *asJSON && *file != "" {
		return checkJSON(t, *file)
	}
	cfg, code := loadConfig(t, "check", *file)
	if cfg == nil {
		return code
	}
	plans, buses := readPlans(cfg)
	t.printf("%s", planText(cfg, plans, buses))
	return exitDone
}

// readPlan is what one device's scans at one interval cost.
type readPlan struct {
	Device   string        `json:"device"`
	Interval time.Duration `json:"-"`
	Seconds  float64       `json:"interval_s"`
	Requests []planRequest `json:"requests"`
	Tags     int           `json:"tags"`
	Bytes    int           `json:"bytes"`
	BusMS    float64       `json:"bus_ms"`

	pace  pace
	onBus bool // what is too much is said of its bus
}

type planRequest struct {
	What  string `json:"what"`
	Tags  int    `json:"tags"`
	Bytes int    `json:"bytes"` // both ways
}

// readPlans returns the plans of all devices that are polled, and what they
// make of the buses that they share.
func readPlans(cfg *configs.Config) ([]readPlan, []busReport) {
	all := drivers(newLogger(discard{}, false), cfg.Dir, cfg.Gateway.ID, nil, nil)
	var plans []readPlan
	for _, d := range cfg.Devices {
		planner, ok := all[d.Driver].(protocols.Planner)
		if !ok || !d.Enabled {
			continue
		}
		var line protocols.Line
		liner, onBus := all[d.Driver].(protocols.Liner)
		if onBus {
			line = liner.Line(d)
		}
		pace := paceOf(d, line)
		for _, g := range tagsByInterval(d) {
			p := readPlan{Device: d.ID, Interval: g.interval, Seconds: g.interval.Seconds(), Tags: len(g.tags), pace: pace, onBus: onBus}
			requests := planner.Requests(d, g.tags)
			for _, r := range requests {
				p.Requests = append(p.Requests, planRequest{What: r.What, Tags: r.Tags, Bytes: r.ReqBytes + r.AnsBytes})
				p.Bytes += r.ReqBytes + r.AnsBytes
			}
			p.BusMS = millis(pace.scan(requests))
			plans = append(plans, p)
		}
	}
	var reports []busReport
	for _, b := range fieldBuses(cfg, all) {
		reports = append(reports, b.report())
	}
	return plans, reports
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

type intervalTags struct {
	interval time.Duration
	tags     []int
}

// tagsByInterval groups the tags of d as the collector does, the shortest
// interval first.
func tagsByInterval(d *protocols.Device) []intervalTags {
	var groups []intervalTags
	for i := range d.Tags {
		interval := d.Tags[i].Interval
		if interval <= 0 {
			interval = d.Interval
		}
		at := slices.IndexFunc(groups, func(g intervalTags) bool { return g.interval == interval })
		if at < 0 {
			at = len(groups)
			groups = append(groups, intervalTags{interval: interval})
		}
		groups[at].tags = append(groups[at].tags, i)
	}
	slices.SortFunc(groups, func(a, b intervalTags) int { return cmp.Compare(a.interval, b.interval) })
	return groups
}

// maxShown is how many requests of a plan are listed.
const maxShown = 12

func planText(cfg *configs.Config, plans []readPlan, buses []busReport) string {
	var b strings.Builder
	tags := 0
	for _, d := range cfg.Devices {
		tags += len(d.Tags)
	}
	fmt.Fprintf(&b, "%s is in order: gateway %s, %s, %s, %s.\n", cfg.Path, cfg.Gateway.ID,
		counted(len(cfg.Devices), "device"), counted(tags, "tag"), counted(len(cfg.Uplinks), "uplink"))
	if e := equipmentOf(cfg); e != nil {
		b.WriteString(e.text())
	}
	for i := range cfg.Uplinks {
		if u := &cfg.Uplinks[i]; i == 0 {
			fmt.Fprintf(&b, "\n%s\n", uplinkText(u))
		} else {
			fmt.Fprintf(&b, "%s\n", uplinkText(u))
		}
	}
	for _, d := range cfg.Devices {
		fmt.Fprintf(&b, "\n%s  %s %s", d.ID, d.Driver, d.Endpoint)
		if d.Driver == "modbus" {
			fmt.Fprintf(&b, " unit %d", d.Modbus.Unit)
		}
		b.WriteString("\n")
		if !d.Enabled {
			b.WriteString("  disabled\n")
		}
		for _, p := range plans {
			if p.Device == d.ID {
				planLines(&b, d, &p)
			}
		}
	}
	for i := range buses {
		if buses[i].worthSaying() {
			b.WriteString("\n" + buses[i].text())
		}
	}
	return b.String()
}

// uplinkText is an uplink in words: what a rate is taken for, say.
func uplinkText(u *configs.Uplink) string {
	text := fmt.Sprintf("uplink %s  %s, %s", u.Name, strings.Join(append([]string{u.Broker}, u.Fallback...), ", else "), u.Format)
	if u.PrimaryHost != "" {
		text += ", while the host " + u.PrimaryHost + " is online"
	}
	if len(u.Devices) > 0 {
		text += "; devices " + strings.Join(u.Devices, ", ")
	}
	if len(u.Tags) > 0 {
		text += "; tags " + strings.Join(u.Tags, ", ")
	}
	text += "; after an outage "
	rate := rateWords(u.CatchUpRate)
	switch {
	case u.CatchUp == configs.LiveFirst && rate == "":
		return text + "new batches go at once, and those that wait beside them"
	case u.CatchUp == configs.LiveFirst:
		return text + "new batches go at once, and those that wait beside them, with " + rate
	case rate == "":
		return text + "the oldest batch goes first"
	}
	return text + "the oldest batch goes first, with " + rate + "; new ones wait behind"
}

func rateWords(r configs.Rate) string {
	switch {
	case r.Share > 0:
		return "at most " + r.String() + " of the link's time"
	case r.PerSecond > 0:
		return "at most " + strings.TrimSuffix(r.String(), "/s") + " batches a second"
	}
	return ""
}

func planLines(b *strings.Builder, d *protocols.Device, p *readPlan) {
	if d.OPCUA.Subscribe {
		fmt.Fprintf(b, "  subscribed at %s: %s\n", configs.ShortDuration(p.Interval), counted(p.Tags, "tag"))
		return
	}
	fmt.Fprintf(b, "  every %s: %s in %s, %d bytes, about %.0f ms of the bus (at %v for each answer)\n",
		configs.ShortDuration(p.Interval), counted(p.Tags, "tag"), counted(len(p.Requests), "request"), p.Bytes, p.BusMS, p.pace.turnaround)
	if busy := p.BusMS / 1000 / p.Seconds; busy > 1 && !p.onBus {
		fmt.Fprintf(b, "  WARNING: that is more than the interval: scans will be skipped. Use a longer interval.\n")
	}
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for i, r := range p.Requests {
		if i == maxShown && len(p.Requests) > maxShown+1 {
			fmt.Fprintf(w, "    … and %d more\n", len(p.Requests)-i)
			break
		}
		fmt.Fprintf(w, "    %s\t%s\t%d bytes\n", r.What, counted(r.Tags, "tag"), r.Bytes)
	}
	_ = w.Flush() // a strings.Builder takes everything
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// checkResult is what check --json prints.
type checkResult struct {
	OK       bool           `json:"ok"`
	Problems []checkProblem `json:"problems"`
	Uplinks  []checkUplink  `json:"uplinks,omitempty"`
	// Equipment sums up the equipment ledger; nil: there is none.
	Equipment *checkEquipment `json:"equipment,omitempty"`
	Plan      []readPlan      `json:"plan,omitempty"`
	Buses     []busReport     `json:"buses,omitempty"`
}

type checkUplink struct {
	Name        string   `json:"name"`
	Broker      string   `json:"broker"`
	Fallback    []string `json:"fallback,omitempty"`
	Format      string   `json:"format"`
	PrimaryHost string   `json:"primary_host,omitempty"`
	Devices     []string `json:"devices,omitempty"`
	Tags        []string `json:"tags,omitempty"`
	CatchUp     string   `json:"catch_up"`
	CatchUpRate string   `json:"catch_up_rate,omitempty"`
}

type checkProblem struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	Name   string `json:"column_name,omitempty"` // of a tag map
	Text   string `json:"text"`
}

func checkJSON(t terminal, file string) int {
	cfg, err := configs.Load(file, checkers())
	res := checkResult{OK: err == nil, Problems: []checkProblem{}}
	code := exitDone
	if err == nil {
		res.Plan, res.Buses = readPlans(cfg)
		res.Equipment = equipmentOf(cfg)
		for i := range cfg.Uplinks {
			u := &cfg.Uplinks[i]
			res.Uplinks = append(res.Uplinks, checkUplink{u.Name, u.Broker, u.Fallback, u.Format, u.PrimaryHost, u.Devices, u.Tags, u.CatchUp, u.CatchUpRate.String()})
		}
	} else {
		code = exitUsage
		res.Problems = problemsOf(err, file)
	}
	enc := json.NewEncoder(t.out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(res); err != nil {
		t.errorf("millrace check: %v\n", err)
		return exitFailed
	}
	return code
}

func problemsOf(err error, file string) []checkProblem {
	ps, ok := err.(configs.Problems) //nolint:errorlint // Load says that it is nothing else
	if !ok {
		return []checkProblem{{File: file, Text: err.Error()}}
	}
	out := make([]checkProblem, len(ps))
	for i, p := range ps {
		out[i] = checkProblem{File: p.Pos.File, Line: p.Pos.Line, Column: p.Pos.Col, Name: p.Pos.Name, Text: p.Text}
	}
	return out
}

// checkEquipment sums up the equipment ledger.
type checkEquipment struct {
	File      string `json:"file"`
	Machines  int    `json:"machines"`
	Digital   int    `json:"digital"`
	Connected int    `json:"connected"` // with a device
	Key       int    `json:"key"`
	// Unlisted are devices that no machine names: they count for no machine.
	Unlisted []string `json:"unlisted_devices,omitempty"`
}

func equipmentOf(cfg *configs.Config) *checkEquipment {
	if cfg.EquipmentLedger == "" {
		return nil
	}
	e := &checkEquipment{File: cfg.EquipmentLedger, Machines: len(cfg.Equipment)}
	named := map[string]bool{}
	for i := range cfg.Equipment {
		m := &cfg.Equipment[i]
		for _, id := range m.Devices {
			named[id] = true
		}
		for n, is := range map[*int]bool{&e.Digital: m.Digital, &e.Connected: len(m.Devices) > 0, &e.Key: m.Key} {
			if is {
				*n++
			}
		}
	}
	for _, d := range cfg.Devices {
		if !named[d.ID] {
			e.Unlisted = append(e.Unlisted, d.ID)
		}
	}
	return e
}

func (e *checkEquipment) text() string {
	s := fmt.Sprintf("Equipment ledger %s: %s, of which %d digital, %d connected by a device, %d key.\n", filepath.Base(e.File), counted(e.Machines, "machine"), e.Digital, e.Connected, e.Key)
	if len(e.Unlisted) > 0 {
		s += fmt.Sprintf("  No machine names %s: add them to its column devices, or their data counts for no machine.\n", strings.Join(e.Unlisted, ", "))
	}
	return s
}
