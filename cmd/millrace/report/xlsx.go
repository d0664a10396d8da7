package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"millrace/collector/connectivity"
	"millrace/configs/xlsx"
)

// workbook makes the sheets of a report. Rates are formulas over the sheets of
// machines and devices, so that whoever corrects a cell there sees what
// becomes of them.
type workbook struct {
	f *connectivity.Figures
	t *text
}

// Columns of the sheet of machines that formulas refer to.
const (
	colProcess    = 3
	colKey        = 4
	colKeyProcess = 5
	colDigital    = 6
	colNetworked  = 7
	colDelivered  = 9
)

// rowRule is where the sheet of definitions has the rule's two numbers.
const (
	rowHours   = 3
	rowPlanned = 4
)

func writeXLSX(w io.Writer, f *connectivity.Figures, t *text) error {
	b := workbook{f, t}
	return xlsx.Write(w, []xlsx.Sheet{b.indicators(), b.equipment(), b.processes(), b.devices(), b.series(), b.outages(), b.definitions()})
}

func (b *workbook) head(keys ...string) []xlsx.Cell {
	row := make([]xlsx.Cell, len(keys))
	for i, k := range keys {
		row[i] = xlsx.Styled(b.t.S(k), xlsx.Head)
	}
	return row
}

// area is a column of the rows of a sheet below its header.
func (b *workbook) area(sheet string, column, rows int) string {
	first, last := xlsx.Ref(column, 2), xlsx.Ref(column, max(rows, 1)+1)
	return fmt.Sprintf("'%s'!$%s:$%s", b.t.S(sheet), dollar(first), dollar(last))
}

// dollar makes A1 A$1.
func dollar(ref string) string {
	i := strings.IndexAny(ref, "0123456789")
	return ref[:i] + "$" + ref[i:]
}

func (b *workbook) indicators() xlsx.Sheet {
	f, t := b.f, b.t
	yes := `"` + t.S("yes") + `"`
	n := len(f.Machines)
	machine := func(column int) string { return b.area("sheet.equipment", column, n) }
	device := func(column int) string { return "SUM(" + b.area("sheet.devices", column, len(f.Devices)) + ")" }
	processes := len(b.allProcesses())
	all := fmt.Sprintf("COUNTA(%s)", machine(0))
	networked := fmt.Sprintf("COUNTIF(%s,%s)", machine(colNetworked), yes)
	both := func(column int) string {
		return fmt.Sprintf("COUNTIFS(%s,%s,%s,%s)", machine(column), yes, machine(colNetworked), yes)
	}
	formulas := map[connectivity.IndicatorID][2]string{
		connectivity.Digitalisation:    {fmt.Sprintf("COUNTIF(%s,%s)", machine(colDigital), yes), all},
		connectivity.Networking:        {networked, all},
		connectivity.DigitalNetworking: {both(colDigital), fmt.Sprintf("COUNTIF(%s,%s)", machine(colDigital), yes)},
		connectivity.KeyNetworking:     {both(colKey), fmt.Sprintf("COUNTIF(%s,%s)", machine(colKey), yes)},
		connectivity.KeyProcesses: {
			fmt.Sprintf("COUNTIF(%s,%s)", b.area("sheet.processes", 3, processes), yes),
			fmt.Sprintf(`COUNTIF(%s,">0")`, b.area("sheet.processes", 1, processes)),
		},
		connectivity.Availability: {device(devAnswering), device(devPlanned)},
		connectivity.ReadRate:     {device(devRead), device(devExpected)},
		connectivity.ValidRate:    {device(devGood), device(devRead)},
		connectivity.DeliveryRate: {device(devDelivered), device(devDue)},
	}
	s := xlsx.Sheet{Name: t.S("sheet.indicators"), Widths: []float64{36, 62, 16, 16, 12, 10, 46}, Frozen: 4, Rows: [][]xlsx.Cell{
		{xlsx.Styled(t.S("title"), xlsx.Title)},
		{xlsx.Text(fmt.Sprintf("%s %s · %s %s – %s", t.S("gateway"), f.Gateway, t.S("period"), f.From.Format(minute), f.To.Format(minute)))},
		{xlsx.Text(t.S("hint.xlsx"))},
		b.head("indicator", "formula", "num", "den", "rate", "points", "family"),
	}}
	for i := range f.Indicators {
		x := &f.Indicators[i]
		row := len(s.Rows) + 1
		num, den := xlsx.Ref(2, row), xlsx.Ref(3, row)
		rate, some := x.Rate()
		cells := []xlsx.Cell{
			xlsx.Text(t.S("ind." + string(x.ID))), xlsx.Text(t.S("def." + string(x.ID))),
			xlsx.Formula(formulas[x.ID][0], float64(x.Numerator), xlsx.Whole), xlsx.Formula(formulas[x.ID][1], float64(x.Denominator), xlsx.Whole),
			xlsx.TextFormula(fmt.Sprintf(`IF(%s=0,"—",%s/%s)`, den, num, den), "—"),
			{},
			xlsx.Text(t.S("fam." + string(x.ID))),
		}
		if some {
			cells[4] = xlsx.Formula(fmt.Sprintf(`IF(%s=0,"—",%s/%s)`, den, num, den), rate, xlsx.Percent)
		}
		if x.Points != nil {
			r := xlsx.Ref(4, row)
			cells[5] = xlsx.Formula(fmt.Sprintf("IF(%s>0.6,6,IF(%s>0.4,4.5,IF(%s>0.2,3,IF(%s>0.1,1.5,0))))", r, r, r, r), *x.Points, xlsx.Decimal)
		}
		s.Rows = append(s.Rows, cells)
	}
	return s
}

func (b *workbook) equipment() xlsx.Sheet {
	f, t := b.f, b.t
	s := xlsx.Sheet{Name: t.S("sheet.equipment"), Widths: []float64{16, 24, 16, 16, 10, 10, 10, 10, 12, 16, 18, 18, 18, 28}, Frozen: 1, Rows: [][]xlsx.Cell{
		b.head("asset", "name", "workshop", "process", "key", "keyproc", "digital", "networked", "share", "delivered_s", "maker", "model", "serial", "devices"),
	}}
	rule := func(row int) string { return fmt.Sprintf("'%s'!$B$%d", t.S("sheet.definitions"), row) }
	for i := range f.Machines {
		m := &f.Machines[i]
		row := len(s.Rows) + 1
		sec := xlsx.Ref(colDelivered, row)
		s.Rows = append(s.Rows, []xlsx.Cell{
			xlsx.Text(m.Asset), xlsx.Text(m.Name), xlsx.Text(m.Workshop), xlsx.Text(m.Process), xlsx.Text(t.Yes(m.Key)), xlsx.Text(t.Yes(m.KeyProcess)), xlsx.Text(t.Yes(m.Digital)),
			xlsx.TextFormula(fmt.Sprintf(`IF(AND(%s>0,%s>=%s*%s-0.000001),%q,%q)`, sec, sec, rule(rowHours), rule(rowPlanned), t.S("yes"), t.S("no")), t.Yes(m.Networked)),
			xlsx.Formula(fmt.Sprintf(`IF(%s=0,0,%s/%s)`, rule(rowPlanned), sec, rule(rowPlanned)), m.Share, xlsx.Percent),
			xlsx.Int(m.DeliveredSec), xlsx.Text(m.Maker), xlsx.Text(m.Model), xlsx.Text(m.Serial), xlsx.Text(strings.Join(m.Devices, ", ")),
		})
	}
	return s
}

// allProcesses returns the processes of the site, key ones or not: whoever
// corrects the sheet of machines may make one a key process.
func (b *workbook) allProcesses() (names []string) {
	for i := range b.f.Machines {
		if p := b.f.Machines[i].Process; p != "" && !slices.Contains(names, p) {
			names = append(names, p)
		}
	}
	return names
}

func (b *workbook) processes() xlsx.Sheet {
	f, t := b.f, b.t
	s := xlsx.Sheet{Name: t.S("sheet.processes"), Widths: []float64{24, 12, 12, 12}, Frozen: 1, Rows: [][]xlsx.Cell{b.head("process", "machines_n", "networked_n", "collected")}}
	yes := `"` + t.S("yes") + `"`
	for _, name := range b.allProcesses() {
		row := len(s.Rows) + 1
		machines, networked := 0, 0
		for i := range f.Machines {
			if m := &f.Machines[i]; m.KeyProcess && m.Process == name {
				machines++
				networked += map[bool]int{true: 1}[m.Networked]
			}
		}
		of := fmt.Sprintf("%s,%s,%s,%s", b.area("sheet.equipment", colProcess, len(f.Machines)), xlsx.Ref(0, row), b.area("sheet.equipment", colKeyProcess, len(f.Machines)), yes)
		s.Rows = append(s.Rows, []xlsx.Cell{
			xlsx.Text(name),
			xlsx.Formula("COUNTIFS("+of+")", float64(machines), xlsx.Whole),
			xlsx.Formula(fmt.Sprintf("COUNTIFS(%s,%s,%s)", of, b.area("sheet.equipment", colNetworked, len(f.Machines)), yes), float64(networked), xlsx.Whole),
			xlsx.TextFormula(fmt.Sprintf(`IF(%s>0,%s,%q)`, xlsx.Ref(2, row), yes, t.S("no")), t.Yes(networked > 0)),
		})
	}
	return s
}

// Columns of the sheet of devices.
const (
	devExpected  = 5
	devRead      = 6
	devGood      = 7
	devDue       = 8
	devDelivered = 9
	devAnswering = 11
	devPlanned   = 12
)

func (b *workbook) devices() xlsx.Sheet {
	f, t := b.f, b.t
	zone := f.From.Location()
	s := xlsx.Sheet{Name: t.S("sheet.devices"), Widths: []float64{20, 10, 34, 20, 20, 14, 14, 14, 14, 14, 12, 14, 14, 11, 10, 12, 12}, Frozen: 1, Rows: [][]xlsx.Cell{
		append(b.head("device", "protocol", "address", "first", "last", "expected", "read", "good", "due", "delivered", "dropped", "answering_s", "planned_s", "available", "outages", "reconnect"),
			xlsx.Styled(t.S("answer")+" p50 (ms)", xlsx.Head), xlsx.Styled(t.S("answer")+" p95 (ms)", xlsx.Head), xlsx.Styled(t.S("assets"), xlsx.Head)),
	}}
	for i := range f.Devices {
		d := &f.Devices[i]
		row := len(s.Rows) + 1
		lost := int64(0)
		for _, n := range d.Dropped {
			lost += n
		}
		available := 0.0
		if d.PlannedSec > 0 {
			available = float64(d.AnsweringSec) / float64(d.PlannedSec)
		}
		s.Rows = append(s.Rows, []xlsx.Cell{
			xlsx.Text(d.ID), xlsx.Text(d.Evidence.Driver), xlsx.Text(addressOf(d, t)), xlsx.Text(stamp(d.Evidence.First, zone)), xlsx.Text(stamp(d.Evidence.Last, zone)),
			xlsx.Int(d.Expected), xlsx.Int(d.Read), xlsx.Int(d.Good), xlsx.Int(d.Due), xlsx.Int(d.Delivered), xlsx.Int(lost), xlsx.Int(d.AnsweringSec), xlsx.Int(d.PlannedSec),
			xlsx.Formula(fmt.Sprintf("IF(%s=0,0,%s/%s)", xlsx.Ref(devPlanned, row), xlsx.Ref(devAnswering, row), xlsx.Ref(devPlanned, row)), available, xlsx.Percent),
			xlsx.Int(d.Totals.Outages), xlsx.Int(d.Reconnects), xlsx.Number(d.P50MS, xlsx.Decimal), xlsx.Number(d.P95MS, xlsx.Decimal), xlsx.Text(strings.Join(d.Assets, ", ")),
		})
	}
	return s
}

func addressOf(d *connectivity.Device, t *text) string {
	if d.Evidence.Unit != nil {
		return fmt.Sprintf("%s, %s %d", d.Evidence.Endpoint, t.S("unit"), *d.Evidence.Unit)
	}
	return d.Evidence.Endpoint
}

func (b *workbook) series() xlsx.Sheet {
	s := xlsx.Sheet{Name: b.t.S("sheet.series"), Widths: []float64{18, 12, 12, 10, 14, 14, 14, 14, 14, 14, 14}, Frozen: 1, Rows: [][]xlsx.Cell{
		b.head("from", "networked_n", "machines_n", "rate", "expected", "read", "good", "due", "delivered", "answering_s", "planned_s"),
	}}
	for i := range b.f.Series {
		p := &b.f.Series[i]
		row := len(s.Rows) + 1
		rate := 0.0
		if p.Machines > 0 {
			rate = float64(p.Networked) / float64(p.Machines)
		}
		s.Rows = append(s.Rows, []xlsx.Cell{
			xlsx.Text(p.From.Format(minute)), xlsx.Int(int64(p.Networked)), xlsx.Int(int64(p.Machines)),
			xlsx.Formula(fmt.Sprintf("IF(%s=0,0,%s/%s)", xlsx.Ref(2, row), xlsx.Ref(1, row), xlsx.Ref(2, row)), rate, xlsx.Percent),
			xlsx.Int(p.Expected), xlsx.Int(p.Read), xlsx.Int(p.Good), xlsx.Int(p.Due), xlsx.Int(p.Delivered), xlsx.Int(p.AnsweringSec), xlsx.Int(p.PlannedSec),
		})
	}
	return s
}

func (b *workbook) outages() xlsx.Sheet {
	zone := b.f.From.Location()
	s := xlsx.Sheet{Name: b.t.S("sheet.outages"), Widths: []float64{20, 20, 20, 14, 80}, Frozen: 1, Rows: [][]xlsx.Cell{b.head("device", "from", "to", "length", "reason")}}
	s.More = func(yield func([]xlsx.Cell) bool) {
		for i := range b.f.Devices {
			for _, o := range b.f.Devices[i].Outage {
				to, length := b.t.S("goeson"), b.f.Until.UnixMilli()-o.From
				if o.To != 0 {
					to, length = stamp(o.To, zone), o.To-o.From
				}
				if !yield([]xlsx.Cell{xlsx.Text(o.Device), xlsx.Text(stamp(o.From, zone)), xlsx.Text(to), xlsx.Number(float64(length)/1000, xlsx.Decimal), xlsx.Text(o.Reason)}) {
					return
				}
			}
		}
	}
	return s
}

func (b *workbook) definitions() xlsx.Sheet {
	f, t := b.f, b.t
	s := xlsx.Sheet{Name: t.S("sheet.definitions"), Widths: []float64{34, 110}, Rows: [][]xlsx.Cell{
		{xlsx.Styled(t.S("rule"), xlsx.Head), {}},
		{xlsx.Text(t.S("rule")), xlsx.Styled(ruleText(f, t), xlsx.Wrapped)},
		{xlsx.Text(t.S("min_share")), xlsx.Number(f.Rule.Hours, xlsx.Percent)},
		{xlsx.Text(t.S("planned_s")), xlsx.Int(f.Rule.PlannedSec)},
		{xlsx.Text(t.S("calendar")), xlsx.Styled(f.Rule.Calendar[t.lang], xlsx.Wrapped)},
		{xlsx.Text(t.S("uplink")), xlsx.Text(f.Rule.Uplink)},
		{xlsx.Text(t.S("points")), xlsx.Styled(t.S("bands"), xlsx.Wrapped)},
		{{}, xlsx.Styled(t.S("parts"), xlsx.Wrapped)},
	}}
	if f.LedgerFile == "" {
		s.Rows = append(s.Rows, []xlsx.Cell{xlsx.Text(t.S("ledger")), xlsx.Styled(t.S("noledger"), xlsx.Wrapped)})
	}
	for i := range f.Indicators {
		id := string(f.Indicators[i].ID)
		s.Rows = append(s.Rows, []xlsx.Cell{xlsx.Text(t.S("ind." + id)), xlsx.Styled(t.S("def."+id)+" · "+t.S("fam."+id), xlsx.Wrapped)})
	}
	for _, line := range weak(f, t) {
		s.Rows = append(s.Rows, []xlsx.Cell{xlsx.Text(t.S("weak")), xlsx.Styled(line, xlsx.Wrapped)})
	}
	return s
}
