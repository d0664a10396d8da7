package report

import (
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"millrace/collector/connectivity"
	"millrace/collector/ledger"
)

//go:embed style.css
var style string

// page is what the page shows.
type page struct {
	T    *text
	F    *connectivity.Figures
	Lang string // of HTML

	Labels     [][2]string
	Period     string
	Indicators []indicatorRow
	Rule       string
	Calendar   string
	Weak       []string
	Over       string // SVG
	Heat       []string
	Lines      string
	Away       []awayRow
	Lists      []list
	Machines   []machineRow
	Sheets     []sheet
	EachPage   bool // each device has a page of its own
}

type indicatorRow struct {
	Name, Other, Definition, Family, Rate, Points string
	Num, Den                                      string
}

type awayRow struct{ Device, Length, Times string }

type list struct {
	Name    string
	In, Out []string
	More    [2]int // that are not shown
}

type machineRow struct {
	connectivity.Machine

	ShareText string
	NoteTexts []string
}

type sheet struct {
	*connectivity.Device

	Address, First, Last, Available, Answer string
	Rates                                   [3]string
	Lost                                    string
	State                                   string
	Samples                                 []sampleRow
	Outages                                 []outageRow
	More                                    int
}

type sampleRow struct{ Name, Address, Value, Time string }

type outageRow struct{ From, To, Length, Reason string }

const (
	// maxOwnPages is up to how many devices each has a page of its own.
	maxOwnPages = 50
	maxListed   = 400 // of a list behind a figure
	maxOutages  = 12  // of one device, the longest
	maxPauses   = 20
	maxAway     = 12
)

func writeHTML(w io.Writer, f *connectivity.Figures, t *text) error {
	b := &builder{t: t}
	p := newPage(f, t)
	p.write(b)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

func newPage(f *connectivity.Figures, t *text) *page {
	other := texts("zh")
	if t.lang == "zh" {
		other = texts("en")
	}
	p := &page{
		T: t, F: f, Lang: map[string]string{"zh": "zh-CN", "en": "en"}[t.lang], Rule: ruleText(f, t), Calendar: f.Rule.Calendar[t.lang],
		Weak: weak(f, t), EachPage: len(f.Devices) <= maxOwnPages,
		Period: f.From.Format(minute) + " – " + f.To.Format(minute),
	}
	for _, k := range slices.Sorted(maps.Keys(f.Labels)) {
		p.Labels = append(p.Labels, [2]string{k, f.Labels[k]})
	}
	for i := range f.Indicators {
		x := &f.Indicators[i]
		row := indicatorRow{
			Name: t.S("ind." + string(x.ID)), Other: other.S("ind." + string(x.ID)), Definition: t.S("def." + string(x.ID)), Family: t.S("fam." + string(x.ID)),
			Rate: percent(x.Numerator, x.Denominator), Num: thousands(x.Numerator), Den: thousands(x.Denominator),
		}
		if x.Points != nil {
			row.Points = decimal(*x.Points)
		}
		p.Indicators = append(p.Indicators, row)
		if len(x.In)+len(x.Out) > 0 {
			l := list{Name: row.Name, In: x.In, Out: x.Out}
			for side, all := range []*[]string{&l.In, &l.Out} {
				if n := len(*all); n > maxListed {
					l.More[side] = n - maxListed
					*all = (*all)[:maxListed]
				}
			}
			p.Lists = append(p.Lists, l)
		}
	}
	p.Over, p.Lines, p.Heat = overTime(f, t), timeLines(f, t), heatMaps(f, t)
	for i := range f.Machines {
		m := machineRow{Machine: f.Machines[i], ShareText: percent(f.Machines[i].DeliveredSec, f.Rule.PlannedSec)}
		for _, n := range m.Notes {
			m.NoteTexts = append(m.NoteTexts, t.S(n.Field)+": "+fmt.Sprintf(t.S("note"), n.Ledger, n.Device))
		}
		p.Machines = append(p.Machines, m)
	}
	for _, i := range f.Worst() {
		d := &f.Devices[i]
		if away := awayTime(d, f.Until); away > 0 && len(p.Away) < maxAway {
			p.Away = append(p.Away, awayRow{d.ID, t.Span(away), thousands(d.Totals.Outages)})
		}
	}
	for i := range f.Devices {
		p.Sheets = append(p.Sheets, newSheet(&f.Devices[i], f, t))
	}
	return p
}

func awayTime(d *connectivity.Device, until time.Time) int64 {
	ms := int64(0)
	for _, o := range d.Outage {
		ms += outageLength(&o, until)
	}
	return ms / 1000
}

func outageLength(o *ledger.Outage, until time.Time) int64 {
	if o.To == 0 {
		return max(until.UnixMilli()-o.From, 0)
	}
	return o.To - o.From
}

func newSheet(d *connectivity.Device, f *connectivity.Figures, t *text) sheet {
	zone := f.From.Location()
	s := sheet{
		Device: d, Address: addressOf(d, t), First: stamp(d.Evidence.First, zone), Last: stamp(d.Evidence.Last, zone),
		Available: percent(d.AnsweringSec, d.PlannedSec), Rates: [3]string{percent(d.Read, d.Expected), percent(d.Good, d.Read), percent(d.Delivered, d.Due)},
		Answer: "—", Lost: "0",
	}
	if d.P50MS > 0 {
		s.Answer = fmt.Sprintf("%.3g / %.3g ms (p50 / p95)", d.P50MS, d.P95MS)
	}
	if len(d.Dropped) > 0 {
		s.Lost = droppedText(&d.Totals, t)
	}
	if d.Evidence.State != "" {
		s.State = t.S(d.Evidence.State)
	}
	for _, x := range d.Evidence.Samples {
		s.Samples = append(s.Samples, sampleRow{x.Name, x.Address, strings.TrimSpace(x.Value + " " + x.Unit), stamp(x.Time, zone)})
	}
	longest := slices.Clone(d.Outage)
	slices.SortStableFunc(longest, func(a, b ledger.Outage) int {
		return cmp.Compare(outageLength(&b, f.Until), outageLength(&a, f.Until))
	})
	if len(longest) > maxOutages {
		s.More = len(longest) - maxOutages
		longest = longest[:maxOutages]
	}
	slices.SortFunc(longest, func(a, b ledger.Outage) int { return cmp.Compare(a.From, b.From) })
	for i := range longest {
		o := &longest[i]
		row := outageRow{From: stamp(o.From, zone), To: t.S("goeson"), Length: t.Span(outageLength(o, f.Until) / 1000), Reason: o.Reason}
		if o.To != 0 {
			row.To = stamp(o.To, zone)
		}
		if o.Cut {
			row.To = t.S("cut")
		}
		if row.Reason == "" {
			row.Reason = t.S("noreason")
		}
		s.Outages = append(s.Outages, row)
	}
	return s
}

func droppedText(n *connectivity.Totals, t *text) string {
	var parts []string
	for _, why := range n.Reasons() {
		parts = append(parts, thousands(n.Dropped[why])+" "+t.S("drop."+why))
	}
	return strings.Join(parts, ", ")
}

func ruleText(f *connectivity.Figures, t *text) string {
	part := ""
	if f.Rule.Completeness > 0 {
		part = fmt.Sprintf(t.S("rule.part"), share(f.Rule.Completeness))
	}
	return fmt.Sprintf(t.S("rule.text"), share(f.Rule.Hours), part)
}

func share(part float64) string { return fmt.Sprintf("%.10g %%", part*100) }

// weak says what is to be known of the figures.
func weak(f *connectivity.Figures, t *text) []string {
	var all []string
	zone := f.From.Location()
	if f.Rule.Unplanned {
		all = append(all, t.S("unplanned"))
	}
	if _, offset := f.From.Zone(); offset%3600 != 0 {
		all = append(all, t.S("weak.zone"))
	}
	if f.Until.Before(f.To) {
		all = append(all, fmt.Sprintf(t.S("weak.until"), f.Until.Format(minute)))
	}
	if !f.Began.IsZero() {
		all = append(all, fmt.Sprintf(t.S("weak.began"), f.Began.Format(minute)))
	}
	for i, p := range f.Pauses {
		if i == maxPauses {
			all = append(all, fmt.Sprintf(t.S("weak.more"), len(f.Pauses)-i))
			break
		}
		key := "weak.killed"
		if p.Ended == ledger.EndedStopped {
			key = "weak.stopped"
		}
		all = append(all, fmt.Sprintf(t.S(key), stamp(p.From, zone), stamp(p.To, zone), t.Span((p.To-p.From)/1000)))
	}
	if n := f.Totals.Waiting(); n > 0 {
		all = append(all, fmt.Sprintf(t.S("weak.waiting"), thousands(n)))
	}
	lost := int64(0)
	for _, n := range f.Totals.Dropped {
		lost += n
	}
	if lost > 0 {
		all = append(all, fmt.Sprintf(t.S("weak.dropped"), thousands(lost), droppedText(&f.Totals, t)))
	}
	if len(all) == 0 {
		all = append(all, t.S("weak.none"))
	}
	return all
}
