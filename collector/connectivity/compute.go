package connectivity

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"millrace/collector/ledger"
	"millrace/configs"
)

// Source is where the counts are read: ledger.Ledger.Read of a running agent,
// or ledger.Read of a directory.
type Source func(from, to time.Time, v ledger.Visitor) (until int64, err error)

// Input is what figures are made of.
type Input struct {
	Config   *configs.Config
	Evidence map[string]Evidence // by device
	Source   Source
	From, To time.Time // whole hours
	Now      time.Time
	// SinceBegun has the planned time begin with the ledger, if that is later
	// than From: for figures of a gateway that was installed just now.
	SinceBegun bool
}

// Compute makes the figures of a period.
func Compute(in Input) (*Figures, error) {
	c := newComputer(in)
	until, err := in.Source(in.From, in.To, ledger.Visitor{Row: c.row, Outage: c.outage, Pause: c.pause, Began: c.noteBegan})
	if err != nil {
		return nil, err
	}
	c.f.Until = in.To
	if u := time.UnixMilli(until).In(c.zone); u.Before(in.To) {
		c.f.Until = u
	}
	if c.f.Until.Before(in.From) {
		c.f.Until = in.From
	}
	c.plan()
	c.devices()
	c.machines()
	c.series()
	c.indicators()
	return &c.f, nil
}

// cell is what of a device's hour is needed again, after all rows of it were
// added up. Readings of an hour fit into 32 bits.
type cell struct {
	due, delivered      int32
	answering, observed int32 // ms
}

// gathered is what was read of a device.
type gathered struct {
	sum   ledger.Counts
	cells []cell
	list  []ledger.Outage
	share int64 // planned seconds of hours that count
}

// computer is one Compute.
type computer struct {
	f     Figures
	cfg   *configs.Config
	in    Input
	zone  *time.Location
	first int64   // hour of From
	hours int     // of the period
	due   []int64 // planned seconds of each hour, up to Until
	book  map[string]*gathered
	steps []step
	of    []int // the step of each hour
	sums  []ledger.Counts
	began time.Time // when the ledger was begun; zero: not known
}

// step is one Point, and the hours that are in it.
type step struct{ from, to time.Time }

// shownInDetail is how long a period may be to be shown by hours.
const shownInDetail = 49 * time.Hour

func newComputer(in Input) *computer {
	cfg := in.Config
	zone := cfg.Connectivity.Calendar.Location()
	c := &computer{
		in: in, cfg: cfg, zone: zone, first: in.From.Unix() / 3600, hours: int(in.To.Sub(in.From) / time.Hour),
		book: map[string]*gathered{},
	}
	c.f = Figures{
		Gateway: cfg.Gateway.ID, Group: cfg.Gateway.Group, Labels: cfg.Gateway.Labels,
		From: in.From.In(zone), To: in.To.In(zone), Made: in.Now.In(zone),
		LedgerFile: cfg.EquipmentLedger, Step: time.Hour,
		Rule: Rule{
			Hours: cfg.Connectivity.NetworkedHours, Completeness: cfg.Connectivity.NetworkedCompleteness,
			AlwaysOn: cfg.Connectivity.Calendar.AlwaysOn(), Timezone: cfg.Connectivity.Calendar.Zone(), Uplink: cfg.Connectivity.Uplink,
			Calendar: map[string]string{"en": cfg.Connectivity.Calendar.Text("en"), "zh": cfg.Connectivity.Calendar.Text("zh")},
		},
	}
	if in.To.Sub(in.From) > shownInDetail {
		c.f.Step = 24 * time.Hour
	}
	c.split()
	return c
}

// split makes the steps of the period: its hours, or the days of its time
// zone.
func (c *computer) split() {
	c.of = make([]int, c.hours)
	for at := c.f.From; at.Before(c.f.To); {
		next := at.Add(time.Hour)
		if c.f.Step > time.Hour {
			next = configs.StartOfDay(at.Year(), at.Month(), at.Day()+1, c.zone)
		}
		if next.After(c.f.To) {
			next = c.f.To
		}
		c.steps = append(c.steps, step{at, next})
		at = next
	}
	s := 0
	for h := range c.of {
		for s < len(c.steps)-1 && !c.startOf(h).Before(c.steps[s].to) {
			s++
		}
		c.of[h] = s
	}
	c.sums = make([]ledger.Counts, len(c.steps))
}

// startOf returns when the h-th hour of the period begins.
func (c *computer) startOf(h int) time.Time { return time.Unix((c.first+int64(h))*3600, 0) }

// row takes in what the ledger says of a device's hour.
func (c *computer) row(device string, hour int64, n *ledger.Counts) {
	h := int(hour - c.first)
	if h < 0 || h >= c.hours {
		return
	}
	g := c.gathered(device)
	g.sum.Add(n)
	c.sums[c.of[h]].Add(n)
	x := &g.cells[h]
	x.due += int32(n.Due())
	x.delivered += int32(n.Delivered)
	x.answering += int32(n.Answering().Milliseconds())
	x.observed += int32(n.Observed().Milliseconds())
}

func (c *computer) gathered(device string) *gathered {
	g := c.book[device]
	if g == nil {
		g = &gathered{cells: make([]cell, c.hours)}
		c.book[device] = g
	}
	return g
}

func (c *computer) outage(o ledger.Outage) {
	g := c.gathered(o.Device)
	g.list = append(g.list, o)
}

func (c *computer) noteBegan(ms int64) { c.began = time.UnixMilli(ms).In(c.zone) }

func (c *computer) pause(p ledger.Pause) { c.f.Pauses = append(c.f.Pauses, p) }

// plan finds out how much of each hour is planned production time, as far as
// it was counted.
func (c *computer) plan() {
	cal := &c.cfg.Connectivity.Calendar
	c.due = make([]int64, c.hours)
	fill := func(planned func(from, to time.Time) int64) (sum int64) {
		for h := range c.due {
			from, to := c.counted(h)
			c.due[h] = 0
			if from.Before(to) {
				c.due[h] = planned(from, to)
			}
			sum += c.due[h]
		}
		return sum
	}
	sum := fill(cal.Planned)
	if sum == 0 && c.f.Until.After(c.f.From) {
		c.f.Rule.Unplanned = true
		sum = fill(func(from, to time.Time) int64 { return int64(to.Sub(from) / time.Second) })
	}
	c.f.Rule.PlannedSec = sum
	if c.began.After(c.f.From) {
		c.f.Began = c.began
	}
}

// counted returns what of the h-th hour was counted.
func (c *computer) counted(h int) (from, to time.Time) {
	from = c.startOf(h)
	to = from.Add(time.Hour)
	if c.f.Until.Before(to) {
		to = c.f.Until
	}
	if c.in.SinceBegun && from.Before(c.began) {
		from = c.began
	}
	return from, to
}

// counts says whether an hour counts for the rule.
func (c *computer) counts(x *cell) bool {
	return x.delivered > 0 && float64(x.delivered) >= c.f.Rule.Completeness*float64(x.due)
}

// answering returns how much of the planned seconds of the h-th hour the
// device answered, in ms. Of an hour that is planned in part, the answering
// counts by that part.
func (c *computer) answering(x *cell, h int) int64 {
	planned := c.due[h]
	if planned == 0 {
		return 0
	}
	return min(int64(x.answering), 3600_000) * planned / c.length(h)
}

// length returns how many seconds of the h-th hour were counted.
func (c *computer) length(h int) int64 {
	from, to := c.counted(h)
	return max(int64(to.Sub(from)/time.Second), 1)
}

// totals makes sums of counts. What was delivered or dropped was to be
// delivered: an agent that is killed knows no more what it has read in its last
// minute, but the buffer still delivers it.
func totals(n *ledger.Counts) Totals {
	t := Totals{
		Expected: n.Expected, Read: n.Read, Good: n.Good, Due: max(n.Due(), n.Delivered+n.Lost()), Delivered: n.Delivered,
		OnlineSec: seconds(n.Online), DegradedSec: seconds(n.Degraded), OfflineSec: seconds(n.Offline), DisabledSec: seconds(n.Disabled),
		Outages: n.Outages, Reconnects: n.Connects,
	}
	for i, name := range ledger.Reasons() {
		if n.Dropped[i] != 0 {
			if t.Dropped == nil {
				t.Dropped = map[string]int64{}
			}
			t.Dropped[name] = n.Dropped[i]
		}
	}
	return t
}

func seconds(d time.Duration) int64 { return int64(d.Round(time.Second) / time.Second) }

// devices makes the figures of each device: of those that are configured, in
// their order, and then of those that once were.
func (c *computer) devices() {
	var ids []string
	enabled := map[string]bool{}
	for _, d := range c.cfg.Devices {
		ids = append(ids, d.ID)
		enabled[d.ID] = d.Enabled
	}
	for _, id := range slices.Sorted(maps.Keys(c.book)) {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	assets := map[string][]string{}
	for i := range c.cfg.Equipment {
		for _, id := range c.cfg.Equipment[i].Devices {
			assets[id] = append(assets[id], c.cfg.Equipment[i].Asset)
		}
	}
	for _, id := range ids {
		g := c.gathered(id)
		d := Device{ID: id, Totals: totals(&g.sum), Outage: g.list, Assets: assets[id], Evidence: c.in.Evidence[id]}
		d.P50, d.P95 = g.sum.Quantile(0.5), g.sum.Quantile(0.95)
		d.P50MS, d.P95MS = millis(d.P50), millis(d.P95)
		slices.SortFunc(d.Outage, func(a, b ledger.Outage) int { return cmp.Compare(a.From, b.From) })
		answering := int64(0)
		for h := range g.cells {
			answering += c.answering(&g.cells[h], h)
			if c.counts(&g.cells[h]) {
				g.share += c.due[h]
			}
		}
		d.DeliveredSec = g.share
		d.Share, d.Networked = c.networked(g.share)
		if enabled[id] {
			d.AnsweringSec, d.PlannedSec = (answering+500)/1000, c.f.Rule.PlannedSec
		}
		d.Heat = c.heat(g)
		c.f.Devices = append(c.f.Devices, d)
		c.f.Totals.add(&d.Totals)
	}
}

func millis(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// networked applies the rule to planned seconds in whose hours data was
// delivered.
func (c *computer) networked(delivered int64) (share float64, yes bool) {
	if c.f.Rule.PlannedSec == 0 {
		return 0, false
	}
	share = float64(delivered) / float64(c.f.Rule.PlannedSec)
	// Not by the quotient: 0.9 has no exact form.
	return share, float64(delivered) >= c.f.Rule.Hours*float64(c.f.Rule.PlannedSec)-1e-6 && delivered > 0
}

// heat makes the row of a device in the heat map.
func (c *computer) heat(g *gathered) []float32 {
	answering, observed := make([]int64, len(c.steps)), make([]int64, len(c.steps))
	for h := range g.cells {
		answering[c.of[h]] += int64(g.cells[h].answering)
		observed[c.of[h]] += int64(g.cells[h].observed)
	}
	row := make([]float32, len(c.steps))
	for i := range row {
		row[i] = -1
		if observed[i] > 0 {
			row[i] = float32(answering[i]) / float32(observed[i])
		}
	}
	return row
}

// add adds o to t.
func (t *Totals) add(o *Totals) {
	t.Expected += o.Expected
	t.Read += o.Read
	t.Good += o.Good
	t.Due += o.Due
	t.Delivered += o.Delivered
	for why, n := range o.Dropped {
		if t.Dropped == nil {
			t.Dropped = map[string]int64{}
		}
		t.Dropped[why] += n
	}
	t.AnsweringSec += o.AnsweringSec
	t.PlannedSec += o.PlannedSec
	t.OnlineSec += o.OnlineSec
	t.DegradedSec += o.DegradedSec
	t.OfflineSec += o.OfflineSec
	t.DisabledSec += o.DisabledSec
	t.Outages += o.Outages
	t.Reconnects += o.Reconnects
}

// machines judges each machine. An hour in which data of any of its devices
// was delivered counts for it.
func (c *computer) machines() {
	for i := range c.cfg.Equipment {
		e := &c.cfg.Equipment[i]
		m := Machine{
			Asset: e.Asset, Name: e.Name, Workshop: e.Workshop, Process: e.Process, Maker: e.Maker, Model: e.Model, Serial: e.Serial,
			Key: e.Key, KeyProcess: e.KeyProcess, Digital: e.Digital, Devices: append([]string{}, e.Devices...),
		}
		c.inventory(&m)
		for h := range c.due {
			if c.anyCounts(e.Devices, h) {
				m.DeliveredSec += c.due[h]
			}
		}
		m.Share, m.Networked = c.networked(m.DeliveredSec)
		c.f.Machines = append(c.f.Machines, m)
	}
}

func (c *computer) anyCounts(devices []string, h int) bool {
	return slices.ContainsFunc(devices, func(id string) bool { return c.counts(&c.book[id].cells[h]) })
}

// inventory fills in what the ledger does not say of a machine and its device
// does, and notes where they disagree. Of a device that serves several
// machines it is not known which it means.
func (c *computer) inventory(m *Machine) {
	for _, id := range m.Devices {
		if c.serves(id) != 1 {
			continue
		}
		ev := c.in.Evidence[id]
		for _, f := range []struct {
			name    string
			have    *string
			says    string
			instead string // the same in another way
		}{
			{"maker", &m.Maker, ev.Maker, ""},
			{"model", &m.Model, cmp.Or(ev.Model, ev.Product), ev.Product},
			{"serial", &m.Serial, ev.Serial, ""},
		} {
			switch {
			case f.says == "":
			case *f.have == "":
				*f.have = f.says
			case !alike(*f.have, f.says) && (f.instead == "" || !alike(*f.have, f.instead)):
				m.Notes = append(m.Notes, Note{Field: f.name, Ledger: *f.have, Device: f.says, By: id})
			}
		}
	}
}

func (c *computer) serves(device string) (n int) {
	for i := range c.cfg.Equipment {
		if slices.Contains(c.cfg.Equipment[i].Devices, device) {
			n++
		}
	}
	return n
}

// alike says that two names mean the same: one contains the other, but for
// case, spaces and punctuation.
func alike(a, b string) bool {
	plain := func(s string) string {
		return strings.Map(func(r rune) rune {
			if strings.ContainsRune(" -_./,()", r) {
				return -1
			}
			return r
		}, strings.ToLower(s))
	}
	a, b = plain(a), plain(b)
	return strings.Contains(a, b) || strings.Contains(b, a)
}

// series makes the figures of each step.
func (c *computer) series() {
	c.f.Series = make([]Point, len(c.steps))
	planned := make([]int64, len(c.steps))
	for h, s := range c.of {
		planned[s] += c.due[h]
	}
	enabled := c.enabled()
	for i := range c.steps {
		p := &c.f.Series[i]
		*p = Point{From: c.steps[i].from, To: c.steps[i].to, Machines: len(c.f.Machines), Planned: planned[i] > 0, Totals: totals(&c.sums[i])}
		p.PlannedSec = planned[i] * int64(len(enabled))
	}
	answering := make([]int64, len(c.steps))
	for _, id := range enabled {
		g := c.book[id]
		for h := range g.cells {
			answering[c.of[h]] += c.answering(&g.cells[h], h)
		}
	}
	for i := range answering {
		c.f.Series[i].AnsweringSec = (answering[i] + 500) / 1000
	}
	for m := range c.f.Machines {
		delivered := make([]int64, len(c.steps))
		for h, s := range c.of {
			if c.due[h] > 0 && c.anyCounts(c.f.Machines[m].Devices, h) {
				delivered[s] += c.due[h]
			}
		}
		for i, n := range delivered {
			if n > 0 && float64(n) >= c.f.Rule.Hours*float64(planned[i])-1e-6 {
				c.f.Series[i].Networked++
			}
		}
	}
}

func (c *computer) enabled() (ids []string) {
	for _, d := range c.cfg.Devices {
		if d.Enabled {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

// points are those of the 2024 indicators for small and medium enterprises
// (工信厅企业〔2024〕56号): up to 10 % 0, up to 20 % 1.5, up to 40 % 3, up to 60 %
// 4.5, above 6.
func points(i *Indicator) *float64 {
	p := 0.0
	for _, band := range []int64{10, 20, 40, 60} {
		if i.Numerator*100 > band*i.Denominator {
			p += 1.5
		}
	}
	if i.Denominator == 0 {
		return nil
	}
	return &p
}

// indicators makes the figures of the site.
func (c *computer) indicators() {
	all := func(*Machine) bool { return true }
	digital := func(m *Machine) bool { return m.Digital }
	key := func(m *Machine) bool { return m.Key }
	networked := func(m *Machine) bool { return m.Networked }
	first := c.ofMachines(Digitalisation, all, digital)
	second := c.ofMachines(Networking, all, networked)
	first.Points, second.Points = points(&first), points(&second)
	t := &c.f.Totals
	c.f.Indicators = []Indicator{
		first, second,
		c.ofMachines(DigitalNetworking, digital, networked),
		c.ofMachines(KeyNetworking, key, networked),
		c.keyProcesses(),
		{ID: Availability, Numerator: t.AnsweringSec, Denominator: t.PlannedSec, Unit: "seconds"},
		{ID: ReadRate, Numerator: t.Read, Denominator: t.Expected, Unit: "readings"},
		{ID: ValidRate, Numerator: t.Good, Denominator: t.Read, Unit: "readings"},
		{ID: DeliveryRate, Numerator: t.Delivered, Denominator: t.Due, Unit: "readings"},
	}
}

func (c *computer) ofMachines(id IndicatorID, of, in func(*Machine) bool) Indicator {
	i := Indicator{ID: id, Unit: "machines"}
	for n := range c.f.Machines {
		m := &c.f.Machines[n]
		switch {
		case !of(m):
		case in(m):
			i.In = append(i.In, m.Asset)
		default:
			i.Out = append(i.Out, m.Asset)
		}
	}
	i.Numerator, i.Denominator = int64(len(i.In)), int64(len(i.In)+len(i.Out))
	return i
}

// keyProcesses: data of a process is collected if one of its machines is
// networked.
func (c *computer) keyProcesses() Indicator {
	i := Indicator{ID: KeyProcesses, Unit: "processes"}
	collected := map[string]bool{}
	var names []string
	for n := range c.f.Machines {
		m := &c.f.Machines[n]
		if !m.KeyProcess || m.Process == "" {
			continue
		}
		if _, known := collected[m.Process]; !known {
			names = append(names, m.Process)
		}
		collected[m.Process] = collected[m.Process] || m.Networked
	}
	for _, name := range names {
		if collected[name] {
			i.In = append(i.In, name)
		} else {
			i.Out = append(i.Out, name)
		}
	}
	i.Numerator, i.Denominator = int64(len(i.In)), int64(len(names))
	return i
}
