package main

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"millrace/cmd/millrace/console"
	"millrace/collector/connectivity"
	"millrace/configs"
)

// pageAge is how old the figures of the page may be.
const pageAge = 20 * time.Second

// pageFigures is what was computed for the page last.
type pageFigures struct {
	at      time.Time
	figures *console.Connectivity
}

// Connectivity is for console.Source.
func (s *source) Connectivity(period string) (*console.Connectivity, error) {
	a := (*agent)(s)
	a.books.pageMu.Lock()
	defer a.books.pageMu.Unlock()
	if p := a.books.pages[period]; p.figures != nil && time.Since(p.at) < pageAge {
		return p.figures, nil
	}
	zone := a.config().Connectivity.Calendar.Location()
	now := a.buf.Now().In(zone)
	from, to := last24h(now)
	for name, days := range map[string]int{"7d": 7, "30d": 30} {
		if period == name {
			_, to = connectivity.DayOf(now)
			from = configs.StartOfDay(now.Year(), now.Month(), now.Day()+1-days, zone)
		}
	}
	a.coll.Count()
	a.books.ledger.Flush(false)
	f, err := a.figuresOf(from, to, true)
	if err != nil {
		return nil, err
	}
	out := forPage(f, period)
	a.books.pages[period] = pageFigures{time.Now(), out}
	return out, nil
}

// forPage makes figures what the page shows of them.
func forPage(f *connectivity.Figures, period string) *console.Connectivity {
	out := &console.Connectivity{
		Period: period, From: f.From.UnixMilli(), To: f.To.UnixMilli(), Until: f.Until.UnixMilli(), StepMS: f.Step.Milliseconds(), Timezone: f.Rule.Timezone,
		Ledger: f.LedgerFile != "", Hours: f.Rule.Hours, Completeness: f.Rule.Completeness, Calendar: f.Rule.Calendar, Uplink: f.Rule.Uplink,
		Indicators: pageIndicators(f), Series: []console.ConnPoint{}, Devices: []console.ConnDevice{}, Outages: []console.ConnOutage{}, Pauses: []console.ConnPause{},
	}
	if !f.Began.IsZero() {
		out.Began = f.Began.UnixMilli()
	}
	for i := range f.Series {
		p := &f.Series[i]
		out.Series = append(out.Series, console.ConnPoint{From: p.From.UnixMilli(), Networked: p.Networked, Machines: p.Machines, Planned: p.Planned})
	}
	for _, i := range f.Worst() {
		d := &f.Devices[i]
		out.Devices = append(out.Devices, console.ConnDevice{
			ID: d.ID, State: d.Evidence.State, Networked: d.Networked, Answering: d.AnsweringSec, Planned: d.PlannedSec,
			Expected: d.Expected, Read: d.Read, Good: d.Good, Due: d.Due, Delivered: d.Delivered, Outages: d.Totals.Outages, Heat: heatText(d.Heat),
		})
		for _, o := range d.Outage {
			out.Outages = append(out.Outages, console.ConnOutage{Device: d.ID, From: o.From, To: o.To, Reason: o.Reason})
		}
	}
	slices.SortFunc(out.Outages, func(a, b console.ConnOutage) int { return cmp.Compare(b.From, a.From) })
	out.Outages = out.Outages[:min(len(out.Outages), console.MaxConnOutages)]
	for _, p := range f.Pauses {
		out.Pauses = append(out.Pauses, console.ConnPause{From: p.From, To: p.To, Ended: string(p.Ended)})
	}
	return out
}

func pageIndicators(f *connectivity.Figures) []console.Indicator {
	all := make([]console.Indicator, len(f.Indicators))
	for i := range all {
		x := &f.Indicators[i]
		all[i] = console.Indicator{ID: string(x.ID), Numerator: x.Numerator, Denominator: x.Denominator, Unit: x.Unit, Points: x.Points}
		if r, ok := x.Rate(); ok {
			all[i].Rate = &r
		}
	}
	return all
}

// heatText writes a row of the heat map with a letter for each step.
func heatText(row []float32) string {
	var b strings.Builder
	for _, part := range row {
		b.WriteByte(heatLetter(part))
	}
	return b.String()
}

func heatLetter(part float32) byte {
	if part < 0 {
		return '-'
	}
	letter := byte('0')
	if part > 0 {
		letter++
	}
	for _, least := range []float32{0.25, 0.75, 0.95, 0.999} {
		if part >= least {
			letter++
		}
	}
	return letter
}
