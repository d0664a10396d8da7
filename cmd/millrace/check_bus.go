package main

import (
	"cmp"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/configs"
	"millrace/protocols"
)

// fieldBus is a connection to the field that says what it is, with all
// enabled devices on it.
type fieldBus struct {
	line    protocols.Line
	driver  busDriver
	devices []*protocols.Device
	scans   [][]busScan // of each device
}

// busDriver is what a driver needs so that its buses can be predicted.
type busDriver interface {
	protocols.UnitKeyer
	protocols.Planner
	protocols.Liner
}

// fieldBuses returns the buses of the configuration, in the order of their
// first devices.
func fieldBuses(cfg *configs.Config, all map[string]protocols.Driver) []*fieldBus {
	var buses []*fieldBus
	at := map[string]*fieldBus{}
	for _, d := range cfg.Devices {
		driver, ok := all[d.Driver].(busDriver)
		if !ok || !d.Enabled {
			continue
		}
		key := driver.BusKey(d)
		b := at[key]
		if b == nil {
			b = &fieldBus{line: driver.Line(d), driver: driver}
			at[key] = b
			buses = append(buses, b)
		}
		b.devices = append(b.devices, d)
		b.scans = append(b.scans, b.scansOf(d))
	}
	return buses
}

// scansOf returns what the scans of d cost, which may be one of the bus's
// devices with another configuration.
func (b *fieldBus) scansOf(d *protocols.Device) []busScan {
	p := paceOf(d, b.driver.Line(d))
	var scans []busScan
	for _, g := range tagsByInterval(d) {
		requests := b.driver.Requests(d, g.tags)
		scans = append(scans, busScan{
			unit: b.driver.UnitKey(d), interval: g.interval, timeout: d.Timeout * time.Duration(1+d.Modbus.Retries), requests: len(requests), took: p.scan(requests),
		})
	}
	return scans
}

// busReport is what check says of a bus.
type busReport struct {
	Bus       string       `json:"bus"`
	Settings  string       `json:"settings,omitempty"` // of a serial port, such as 9600 8N1
	Devices   int          `json:"devices"`
	Units     int          `json:"units"`
	PerSecond float64      `json:"requests_per_s"`
	Load      float64      `json:"load"` // asked of the bus's time; 1 is all of it
	CycleMS   float64      `json:"cycle_ms"`
	Dead      []deadReport `json:"dead,omitempty"`
	// ShortestS is the shortest interval that can be met, where those that
	// there are cannot.
	ShortestS float64  `json:"shortest_interval_s,omitempty"`
	Help      []string `json:"help,omitempty"` // what would help beside it

	serial, speedKnown bool
}

type deadReport struct {
	Units    int     `json:"units"`
	Load     float64 `json:"load"`
	CycleMS  float64 `json:"cycle_ms"`
	NoticeMS float64 `json:"notice_ms"`
}

// report predicts how the bus will do.
func (b *fieldBus) report() busReport {
	scans := slices.Concat(b.scans...)
	t := timeOf(scans)
	r := busReport{
		Bus: b.line.Name, Settings: b.line.Settings, Devices: len(b.devices), Units: t.units,
		PerSecond: thousandths(t.requests), Load: thousandths(t.load), CycleMS: millis(t.cycle),
		serial: b.line.Serial, speedKnown: b.line.Baud > 0,
	}
	for _, n := range deadCounts(t.units) {
		d := withDead(scans, n)
		r.Dead = append(r.Dead, deadReport{n, thousandths(d.load), millis(d.cycle), millis(d.notice)})
	}
	if r.overloaded() {
		r.ShortestS = shortest(scans).Seconds()
		r.Help = b.help(t)
	}
	return r
}

// overloaded says that intervals will not be met, if only with a dead unit.
func (r *busReport) overloaded() bool {
	return r.Load > 1 || slices.ContainsFunc(r.Dead, func(d deadReport) bool { return d.Load > 1 })
}

// worthSaying: a device that is alone on a network, and has the time, needs
// no words about its bus.
func (r *busReport) worthSaying() bool {
	return r.Devices > 1 || r.serial || r.overloaded()
}

func thousandths(f float64) float64 { return math.Round(f*1000) / 1000 }

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// text is the report as people read it.
func (r *busReport) text() string {
	var b strings.Builder
	b.WriteString("bus " + r.Bus)
	if r.Settings != "" {
		b.WriteString(" (" + r.Settings + ")")
	}
	fmt.Fprintf(&b, ": %s, %s requests a second, %s of its time\n", counted(r.Units, "unit"), threeDigits(r.PerSecond), percent(r.Load))
	b.WriteString("  one round of all scans takes " + msText(r.CycleMS))
	for i, d := range r.Dead {
		switch i {
		case 0:
			fmt.Fprintf(&b, "; with %d unit dead %s for the others", d.Units, msText(d.CycleMS))
		default:
			fmt.Fprintf(&b, ", with %d dead %s", d.Units, msText(d.CycleMS))
		}
	}
	if len(r.Dead) > 0 {
		fmt.Fprintf(&b, " (at first %s more for each)", msText(r.Dead[0].NoticeMS))
	}
	b.WriteString("\n")
	switch {
	case r.serial && !r.speedKnown:
		b.WriteString("  the serial line behind it is not in these figures: set turnaround to what an answer takes there\n")
	case !r.serial && r.Units > 1:
		b.WriteString("  if these units are on a serial line behind a gateway, that is not in these figures: set turnaround to what an answer takes there\n")
	}
	r.warn(&b)
	return b.String()
}

func (r *busReport) warn(b *strings.Builder) {
	if !r.overloaded() {
		return
	}
	if r.Load > 1 {
		b.WriteString("  WARNING: there is not enough time for all scans: some will be skipped.")
	} else {
		b.WriteString("  WARNING: while a unit is dead there is not enough time for all scans: some will be skipped.")
	}
	if r.ShortestS > 0 {
		least := time.Duration(r.ShortestS * float64(time.Second)).Round(time.Millisecond)
		fmt.Fprintf(b, " With no interval below %s they can all be made.", configs.ShortDuration(least))
	}
	b.WriteString("\n")
	if len(r.Help) > 0 {
		b.WriteString("  what would help, too: " + strings.Join(r.Help, "; ") + "\n")
	}
}

// msText writes milliseconds with as many digits as matter.
func msText(ms float64) string {
	switch {
	case ms < 999.5:
		return threeDigits(ms) + " ms"
	case ms < 59_950:
		return threeDigits(ms/1000) + " s"
	}
	return configs.ShortDuration(time.Duration(ms * float64(time.Millisecond)).Round(time.Second))
}

// threeDigits writes a number with so many that are not zeros for nothing,
// and all those before the point.
func threeDigits(f float64) string {
	decimals := 2
	for limit := 9.995; decimals > 0 && f >= limit; limit *= 10 {
		decimals--
	}
	s := strconv.FormatFloat(f, 'f', decimals, 64)
	if decimals > 0 {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// percent of a load; what is little is not nothing.
func percent(load float64) string {
	if load > 0 && load < 0.01 {
		return "less than 1%"
	}
	return fmt.Sprintf("%.0f%%", load*100)
}

// help finds what would take load off a bus that has too much of it: the
// best gaps, a higher speed of a serial line, several requests at once on a
// network.
func (b *fieldBus) help(now busTime) []string {
	var all []string
	for _, find := range []func(busTime) string{b.otherGap, b.higherSpeed, b.moreAtOnce} {
		if text := find(now); text != "" {
			all = append(all, text)
		}
	}
	return all
}

// worthwhile is how much of the load must go so that a change is worth it.
const worthwhile = 0.02

// gapChoice is a max_gap that is better than the present one, and for whom.
type gapChoice struct {
	gap     int
	devices []string
	saved   time.Duration // of each round
	load    float64       // saved
}

// otherGap finds the max_gap that saves the most, if that is worth a word.
func (b *fieldBus) otherGap(now busTime) string {
	var choices []*gapChoice
	for i, d := range b.devices {
		gap, saved := b.bestGap(d, timeOf(b.scans[i]))
		if gap < 0 {
			continue
		}
		at := slices.IndexFunc(choices, func(c *gapChoice) bool { return c.gap == gap })
		if at < 0 {
			at = len(choices)
			choices = append(choices, &gapChoice{gap: gap})
		}
		c := choices[at]
		c.devices = append(c.devices, d.ID)
		c.saved += saved.cycle
		c.load += saved.load
	}
	var best *gapChoice
	for _, c := range choices {
		if best == nil || c.load > best.load {
			best = c
		}
	}
	if best == nil || best.load < now.load*worthwhile {
		return ""
	}
	where := someOf(best.devices, len(b.devices))
	if best.saved <= 0 { // less often, but not in a round of all
		return fmt.Sprintf("max_gap: %d on %s (%s of the time)", best.gap, where, percent(now.load-best.load))
	}
	return fmt.Sprintf("max_gap: %d on %s would save %s of each round (%s of the time)",
		best.gap, where, msText(millis(best.saved)), percent(now.load-best.load))
}

// bestGap returns the max_gap with which the scans of d ask for the least,
// and how much less that is; -1: the present one. Of equals it is the one
// that changes the least.
func (b *fieldBus) bestGap(d *protocols.Device, now busTime) (gap int, saved busTime) {
	gap = -1
	other := *d
	gaps := []int{0, 2, 4, 8, 16, 32, 64, 125}
	slices.SortStableFunc(gaps, func(a, b int) int {
		return cmp.Compare(max(a-d.Modbus.MaxGap, d.Modbus.MaxGap-a), max(b-d.Modbus.MaxGap, d.Modbus.MaxGap-b))
	})
	for _, g := range gaps {
		other.Modbus.MaxGap = g
		t := timeOf(b.scansOf(&other))
		if s := now.load - t.load; s > saved.load && s > now.load/1000 {
			gap, saved = g, busTime{load: s, cycle: now.cycle - t.cycle}
		}
	}
	return gap, saved
}

// someOf names devices, but not a whole plant of them.
func someOf(ids []string, all int) string {
	const most = 3
	switch {
	case len(ids) == all && all > 1:
		return fmt.Sprintf("all %d devices", all)
	case len(ids) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(ids[:most-1], ", "), len(ids)-most+1)
	}
	return strings.Join(ids, ", ")
}

// higherSpeed finds the lowest speed at which there is time for all scans,
// or the highest if that is not enough.
func (b *fieldBus) higherSpeed(now busTime) string {
	text := ""
	for _, baud := range []int{9600, 19200, 38400, 57600, 115200} {
		if b.line.Baud == 0 || baud <= b.line.Baud {
			continue
		}
		t := b.with(func(d *protocols.Device) { d.Endpoint = atSpeed(d.Endpoint, baud) })
		if t.load > now.load*(1-worthwhile) {
			continue
		}
		text = fmt.Sprintf("%d baud, if all devices can (%s of the time)", baud, percent(t.load))
		if t.load <= fullLoad {
			break
		}
	}
	return text
}

// atSpeed returns the endpoint of the same serial port at another speed.
func atSpeed(endpoint string, baud int) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return endpoint
	}
	settings := u.Query()
	settings.Set("baud", strconv.Itoa(baud))
	u.RawQuery = settings.Encode()
	return u.String()
}

// moreAtOnce says what several requests at once would save.
func (b *fieldBus) moreAtOnce(now busTime) string {
	const window = 4 // what most servers on TCP take
	if b.line.Serial {
		return ""
	}
	t := b.with(func(d *protocols.Device) { d.Modbus.MaxInflight = max(d.Modbus.MaxInflight, window) })
	if t.load > now.load*(1-worthwhile) {
		return ""
	}
	return fmt.Sprintf("max_inflight: %d, if the devices can (%s of the time)", window, percent(t.load))
}

// with adds up the bus as it would be if all its devices were changed.
func (b *fieldBus) with(change func(*protocols.Device)) busTime {
	var scans []busScan
	for _, d := range b.devices {
		other := *d
		change(&other)
		scans = append(scans, b.scansOf(&other)...)
	}
	return timeOf(scans)
}
