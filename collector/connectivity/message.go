package connectivity

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"millrace/configs"
)

// Period names the time that a message is about.
type Period string

// The periods of messages.
const (
	Last24h Period = "last_24h" // the last 24 full hours and the one that is going on
	Day     Period = "day"      // a calendar day of the time zone
)

// MaxListed is how many machines a message lists. Of a longer ledger it lists
// those that have devices; all of them count.
const MaxListed = 2000

// message is the JSON form of the figures on the topic connectivity, version
// 1: docs/platform/schemas/connectivity.json.
type message struct {
	V       int               `json:"v"`
	Gateway string            `json:"gateway"`
	Group   string            `json:"group"`
	TS      int64             `json:"ts"`
	Labels  map[string]string `json:"labels,omitempty"`
	Period  messagePeriod     `json:"period"`
	Rule    Rule              `json:"rule"`
	// Ledger is false where each configured device counts as a machine.
	Ledger     bool               `json:"ledger"`
	Indicators []messageIndicator `json:"indicators"`
	Totals     Totals             `json:"totals"`
	Machines   []messageMachine   `json:"machines"`
	Listed     string             `json:"machines_listed"` // all, or connected
	Devices    []messageDevice    `json:"devices"`
	Pauses     []messagePause     `json:"pauses,omitempty"`
}

type messagePeriod struct {
	Kind     Period `json:"kind"`
	Date     string `json:"date,omitempty"` // of a day
	From     int64  `json:"from"`
	To       int64  `json:"to"`
	Until    int64  `json:"until"`
	Began    int64  `json:"began,omitempty"` // of the ledger, if that is within the period
	Timezone string `json:"timezone"`
}

type messageIndicator struct {
	ID          IndicatorID `json:"id"`
	Numerator   int64       `json:"numerator"`
	Denominator int64       `json:"denominator"`
	Unit        string      `json:"unit"`
	Rate        *float64    `json:"rate"`
	Points      *float64    `json:"points,omitempty"`
}

type messageMachine struct {
	Asset        string   `json:"asset"`
	Name         string   `json:"name"`
	Workshop     string   `json:"workshop,omitempty"`
	Process      string   `json:"process,omitempty"`
	Digital      bool     `json:"digital"`
	Key          bool     `json:"key"`
	KeyProcess   bool     `json:"key_process"`
	Networked    bool     `json:"networked"`
	DeliveredSec int64    `json:"delivered_s"`
	Devices      []string `json:"devices"`
}

type messageDevice struct {
	Device       string `json:"device"`
	State        string `json:"state,omitempty"`
	Since        int64  `json:"since,omitempty"`
	Networked    bool   `json:"networked"`
	DeliveredSec int64  `json:"delivered_s"`
	Totals
	P50MS float64 `json:"answer_p50_ms,omitempty"`
	P95MS float64 `json:"answer_p95_ms,omitempty"`
}

type messagePause struct {
	From  int64  `json:"from"`
	To    int64  `json:"to"`
	Ended string `json:"ended"`
}

// Message returns the figures as they are published.
func (f *Figures) Message(kind Period) ([]byte, error) {
	m := message{
		V: 1, Gateway: f.Gateway, Group: f.Group, TS: f.Made.UnixMilli(), Labels: f.Labels, Rule: f.Rule, Ledger: f.LedgerFile != "", Totals: f.Totals,
		Period:   messagePeriod{Kind: kind, From: f.From.UnixMilli(), To: f.To.UnixMilli(), Until: f.Until.UnixMilli(), Timezone: f.Rule.Timezone},
		Machines: []messageMachine{}, Devices: []messageDevice{}, Listed: "all",
	}
	if !f.Began.IsZero() {
		m.Period.Began = f.Began.UnixMilli()
	}
	if kind == Day {
		m.Period.Date = f.From.Format(time.DateOnly)
	}
	for i := range f.Indicators {
		x := &f.Indicators[i]
		n := messageIndicator{ID: x.ID, Numerator: x.Numerator, Denominator: x.Denominator, Unit: x.Unit, Points: x.Points}
		if r, ok := x.Rate(); ok {
			n.Rate = &r
		}
		m.Indicators = append(m.Indicators, n)
	}
	if len(f.Machines) > MaxListed {
		m.Listed = "connected"
	}
	for i := range f.Machines {
		x := &f.Machines[i]
		if m.Listed != "all" && len(x.Devices) == 0 {
			continue
		}
		m.Machines = append(m.Machines, messageMachine{
			Asset: x.Asset, Name: x.Name, Workshop: x.Workshop, Process: x.Process, Digital: x.Digital, Key: x.Key, KeyProcess: x.KeyProcess,
			Networked: x.Networked, DeliveredSec: x.DeliveredSec, Devices: x.Devices,
		})
	}
	for i := range f.Devices {
		x := &f.Devices[i]
		d := messageDevice{Device: x.ID, Networked: x.Networked, DeliveredSec: x.DeliveredSec, Totals: x.Totals, P50MS: x.P50MS, P95MS: x.P95MS}
		if kind == Last24h {
			d.State, d.Since = x.Evidence.State, x.Evidence.Since
		}
		m.Devices = append(m.Devices, d)
	}
	for _, p := range f.Pauses {
		m.Pauses = append(m.Pauses, messagePause{p.From, p.To, string(p.Ended)})
	}
	data, err := json.Marshal(&m)
	if err != nil {
		return nil, fmt.Errorf("connectivity figures: %w", err)
	}
	return data, nil
}

// Numbers returns the figures by name, for those who take no JSON: of each
// indicator its numerator and denominator.
func (f *Figures) Numbers() map[string]int64 {
	all := map[string]int64{}
	for i := range f.Indicators {
		x := &f.Indicators[i]
		all[string(x.ID)+"/numerator"] = x.Numerator
		all[string(x.ID)+"/denominator"] = x.Denominator
	}
	return all
}

// NoNumbers returns the names that Numbers has, with zeros.
func NoNumbers() map[string]int64 {
	f := Figures{}
	for _, id := range IndicatorIDs() {
		f.Indicators = append(f.Indicators, Indicator{ID: id})
	}
	return f.Numbers()
}

// IndicatorIDs returns the indicators in the order in which they are shown.
func IndicatorIDs() []IndicatorID {
	return []IndicatorID{Digitalisation, Networking, DigitalNetworking, KeyNetworking, KeyProcesses, Availability, ReadRate, ValidRate, DeliveryRate}
}

// DayOf returns the day that t is in, in the time zone of t: from its
// beginning to its end.
func DayOf(t time.Time) (from, to time.Time) {
	from = configs.StartOfDay(t.Year(), t.Month(), t.Day(), t.Location())
	return from, configs.StartOfDay(t.Year(), t.Month(), t.Day()+1, t.Location())
}

// Worst returns the indexes of the devices, the one that answered the smallest
// part of its time first; those that were not observed last.
func (f *Figures) Worst() []int {
	order := make([]int, len(f.Devices))
	for i := range order {
		order[i] = i
	}
	share := func(i int) float64 {
		d := &f.Devices[i]
		if d.PlannedSec == 0 {
			return 2
		}
		return float64(d.AnsweringSec) / float64(d.PlannedSec)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch x, y := share(a), share(b); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return order
}

// Reasons returns why readings were dropped, the names in order.
func (t *Totals) Reasons() []string { return slices.Sorted(maps.Keys(t.Dropped)) }
