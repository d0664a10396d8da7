package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"millrace/protocols"
)

// modbusReport is the Modbus driver's part of the report: the collector and
// the driver as a process of their own, with nothing behind them.
type modbusReport struct {
	// Load is the machine's load average at the begin and at the end: of what
	// else it does, too.
	Load     [2]string      `json:"load_average"`
	Costs    []readCost     `json:"cost_of_reading"`
	Many     *manyPLCs      `json:"many_plcs"`
	Inflight []inflightRate `json:"max_inflight"`
	Line     *lineUse       `json:"saturated_line"`
	Dead     []deadUnits    `json:"dead_units"`
}

// readCost is the collector and the driver beside goburrow's client alone.
// All figures are the medians of the rounds.
type readCost struct {
	Name         string  `json:"name"`
	IntervalMS   float64 `json:"interval_ms"`
	Registers    float64 `json:"registers_per_s"`
	CPU          float64 `json:"cpu_s_per_million_registers"`
	Allocs       float64 `json:"allocs_per_request"`
	BareRegister float64 `json:"bare_registers_per_s"`
	BareCPU      float64 `json:"bare_cpu_s_per_million_registers"`
	BareAllocs   float64 `json:"bare_allocs_per_request"`
	// Ratio is the median of the rounds' ratios; each has its own.
	Ratio  float64   `json:"cpu_ratio"`
	Ratios []float64 `json:"cpu_ratio_of_each_round"`
}

// manyPLCs compares many PLCs with few.
type manyPLCs struct {
	Devices       int     `json:"devices"`
	Seconds       float64 `json:"seconds"`
	Scans         uint64  `json:"scans"`
	Missed        uint64  `json:"missed"`
	P99MS         float64 `json:"start_delay_p99_at_most_ms"` // the bound of its bucket; 0: beyond all
	Within5MS     float64 `json:"started_within_5_ms"`        // a share
	BareWithin5MS float64 `json:"bare_timer_within_5_ms"`     // of a goroutine that only waits, in another process
	CPUPerRead    float64 `json:"cpu_us_per_reading"`
	FewDevices    int     `json:"few_devices"`
	FewSeconds    float64 `json:"few_seconds"`
	FewPerRead    float64 `json:"few_cpu_us_per_reading"`
	FewMissed     uint64  `json:"few_missed"`
	Ratio         float64 `json:"cpu_ratio"` // many to few
	AllocsPerReq  float64 `json:"allocs_per_request"`
}

// inflightRate is the throughput to one slow device.
type inflightRate struct {
	Inflight string  `json:"max_inflight"`
	Requests float64 `json:"requests_per_s"`
	Ratio    float64 `json:"of_one"`
}

const (
	costRounds = 3
	costWindow = 4 * time.Second
	// startTime is for connecting, and for the first scans.
	startTime = time.Second

	manyDevices = 1000
	fewDevices  = 10
	manyWindow  = 12 * time.Second
	fewWindow   = 20 * time.Second // they use little: 200 scans
)

// measureModbus measures, in about three minutes, what was asked of the
// driver.
func (b *bench) measureModbus(ctx context.Context) (*modbusReport, error) {
	r := &modbusReport{}
	r.Load[0] = loadAverage()
	for _, c := range []struct {
		name     string
		interval time.Duration
	}{{"paced", 100 * time.Millisecond}, {"unpaced", time.Millisecond}} {
		note("modbus: %d × %d registers every %v, beside goburrow's client alone, %d rounds", b.devices, b.registers, c.interval, costRounds)
		m, err := b.measureCost(ctx, c.name, c.interval)
		if err != nil {
			return nil, err
		}
		r.Costs = append(r.Costs, *m)
	}
	var err error
	if r.Many, err = b.measureMany(ctx); err != nil {
		return nil, err
	}
	if r.Inflight, err = b.measureInflight(ctx); err != nil {
		return nil, err
	}
	if r.Line, err = b.measureLine(ctx); err != nil {
		return nil, err
	}
	r.Dead, err = b.measureDead(ctx)
	r.Load[1] = loadAverage()
	return r, err
}

// loadAverage is that of the last minute, as Linux says it.
func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	first, _, _ := strings.Cut(string(data), " ")
	return first
}

// observe runs a child that reads, and returns what it did in the window.
func (b *bench) observe(ctx context.Context, role string, spec *readSpec, warmUp, window time.Duration) (*span, error) {
	p, err := b.startReader(ctx, role, spec)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if err := pause(ctx, warmUp); err != nil {
		return nil, err
	}
	s, err := p.watch(ctx, window)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", role, err)
	}
	return s, nil
}

// measureCost lets the two take turns: what else the machine does then
// falls upon both.
func (b *bench) measureCost(ctx context.Context, name string, interval time.Duration) (*readCost, error) {
	sim, addrs, err := b.startSim(ctx)
	if err != nil {
		return nil, err
	}
	defer sim.stop()
	spec := &readSpec{Endpoints: endpoints(addrs), Units: 1, Registers: b.registers, Interval: interval, Timeout: time.Second, Inflight: 1}
	agent := *spec
	if b.profiles != "" {
		agent.Profile = filepath.Join(b.profiles, "modbus-"+name+".pprof")
	}
	var ours, bare []*span
	c := &readCost{Name: name, IntervalMS: float64(interval) / 1e6}
	for range costRounds {
		o, err := b.observe(ctx, roleModbusAgent, &agent, startTime, costWindow)
		if err != nil {
			return nil, err
		}
		g, err := b.observe(ctx, roleModbusBare, spec, startTime, costWindow)
		if err != nil {
			return nil, err
		}
		ours, bare = append(ours, o), append(bare, g)
		c.Ratios = append(c.Ratios, o.cpuPerMillion()/g.cpuPerMillion())
	}
	rate := func(s *span) float64 { return s.registers / s.seconds }
	allocs := func(s *span) float64 { return s.mallocs / s.requests }
	c.Registers, c.BareRegister = medianOf(ours, rate), medianOf(bare, rate)
	c.CPU, c.BareCPU = medianOf(ours, (*span).cpuPerMillion), medianOf(bare, (*span).cpuPerMillion)
	c.Allocs, c.BareAllocs = medianOf(ours, allocs), medianOf(bare, allocs)
	c.Ratio = median(slices.Clone(c.Ratios))
	return c, nil
}

func endpoints(addrs []string) []string {
	all := make([]string, len(addrs))
	for i, a := range addrs {
		all[i] = "tcp://" + a
	}
	return all
}

func medianOf(all []*span, f func(*span) float64) float64 {
	var vs []float64
	for _, s := range all {
		vs = append(vs, f(s))
	}
	return median(vs)
}

// median sorts what it is given.
func median(vs []float64) float64 {
	slices.Sort(vs)
	return vs[len(vs)/2]
}

// measureMany measures many PLCs, and few of the same.
func (b *bench) measureMany(ctx context.Context) (*manyPLCs, error) {
	// A listener and a connection for each, in one simulator.
	if err := needFiles(2*manyDevices + 100); err != nil {
		return nil, err
	}
	one := func(devices int, window time.Duration) (*span, error) {
		note("modbus: %d devices × 50 registers every second, for %v", devices, window)
		some := *b
		some.devices, some.registers = devices, 50
		sim, addrs, err := some.startSim(ctx)
		if err != nil {
			return nil, err
		}
		defer sim.stop()
		spec := &readSpec{Endpoints: endpoints(addrs), Units: 1, Registers: some.registers, Interval: time.Second, Timeout: time.Second, Inflight: 1}
		return b.observe(ctx, roleModbusAgent, spec, 4*startTime, window)
	}
	timer := startTimer(ctx)
	many, err := one(manyDevices, manyWindow)
	punctual := timer()
	if err != nil {
		return nil, err
	}
	few, err := one(fewDevices, fewWindow)
	if err != nil {
		return nil, err
	}
	m := &manyPLCs{
		Devices: manyDevices, Seconds: many.seconds, Scans: many.scans(), Missed: many.missed(), CPUPerRead: many.cpuPerMillion(),
		FewDevices: fewDevices, FewSeconds: few.seconds, FewPerRead: few.cpuPerMillion(), FewMissed: few.missed(),
		Ratio: many.cpuPerMillion() / few.cpuPerMillion(), AllocsPerReq: many.mallocs / many.requests,
	}
	if p99, ok := many.startP99(); ok {
		m.P99MS = float64(p99) / 1e6
	}
	m.Within5MS, m.BareWithin5MS = many.startedWithin(5*time.Millisecond), punctual
	return m, nil
}

// startTimer wakes up every 10 ms; what it returns ends that, and says how
// large a share of the awakenings was at most 5 ms late. That is the
// machine's part of the scans' delays.
func startTimer(ctx context.Context) func() float64 {
	ctx, cancel := context.WithCancel(ctx)
	result := make(chan float64)
	go func() {
		all, late := 0, 0
		for ctx.Err() == nil {
			due := time.Now().Add(10 * time.Millisecond)
			_ = pause(ctx, time.Until(due)) // that it was ended is seen above
			all++
			if time.Since(due) > 5*time.Millisecond {
				late++
			}
		}
		result <- float64(all-late) / float64(all)
	}()
	return func() float64 {
		cancel()
		return <-result
	}
}

// needFiles says whether processes may open so many files; Go's raise their
// own limit as far as they may.
func needFiles(n uint64) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	if l.Max < n {
		return fmt.Errorf("%d open files are needed, and %d are allowed: raise the limit (ulimit -Hn %d)", n, l.Max, n)
	}
	return nil
}

// measureInflight measures a device that takes 3 ms to answer, and works on
// 8 requests at once.
func (b *bench) measureInflight(ctx context.Context) (all []inflightRate, err error) {
	const registers = 32 * maxRequest
	note("modbus: max_inflight 1, 8 and auto, answers after 3 ms")
	sim, err := b.startUnits(ctx, &unitsSpec{Units: 1, Registers: registers, Answer: 3 * time.Millisecond, Parallel: 8})
	if err != nil {
		return nil, err
	}
	defer sim.stop()
	for _, c := range []struct {
		name string
		n    int
	}{{"1", 1}, {"8", 8}, {"auto", protocols.InflightAuto}} {
		spec := &readSpec{Endpoints: []string{sim.url}, Units: 1, Registers: registers, Interval: time.Millisecond, Timeout: time.Second, Inflight: c.n}
		s, err := b.observe(ctx, roleModbusAgent, spec, 2*startTime, 3*time.Second)
		if err != nil {
			return nil, err
		}
		r := inflightRate{Inflight: c.name, Requests: s.requests / s.seconds, Ratio: 1}
		if len(all) > 0 {
			r.Ratio = r.Requests / all[0].Requests
		}
		all = append(all, r)
	}
	return all, nil
}

func (r *modbusReport) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(&b, "\nmodbus: collector and driver, records made and thrown away; beside it goburrow's client alone (medians of %d rounds in turn); load average %s at the begin, %s at the end\n\n", costRounds, r.Load[0], r.Load[1])
	fmt.Fprintln(w, "pace\tinterval ms\tregisters/s\tbare\tCPU s/million\tbare\tratio\tof each round\tallocs/request\tbare\t")
	for _, c := range r.Costs {
		rounds := strings.Trim(strings.ReplaceAll(fmt.Sprintf("%.2f", c.Ratios), " ", ", "), "[]")
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t%.4f\t%.4f\t%.2f\t%s\t%.2f\t%.2f\t\n", c.Name, c.IntervalMS, c.Registers, c.BareRegister,
			c.CPU, c.BareCPU, c.Ratio, rounds, c.Allocs, c.BareAllocs)
	}
	_ = w.Flush() // a strings.Builder takes everything
	if m := r.Many; m != nil {
		fmt.Fprintf(&b, "\n%d devices × 50 registers at 1 s: %d scans in %.1f s, %d missed; p99 of the start's delay at most %g ms (%.2f %% within 5 ms; of a bare timer meanwhile %.2f %%); %.3f µs CPU and, at %d devices over %.0f s, %.3f µs per reading (all that the process uses, its idle cost included): ratio %.2f; %.2f allocations per request\n",
			m.Devices, m.Scans, m.Seconds, m.Missed, m.P99MS, 100*m.Within5MS, 100*m.BareWithin5MS, m.CPUPerRead, m.FewDevices, m.FewSeconds, m.FewPerRead, m.Ratio, m.AllocsPerReq)
	}
	for _, i := range r.Inflight {
		fmt.Fprintf(&b, "answers after 3 ms, 8 at once: max_inflight %-4s %6.0f requests/s, %.2f times as many as with 1\n", i.Inflight, i.Requests, i.Ratio)
	}
	return b.String() + r.Line.text() + deadTable(r.Dead) + targetsTable("modbus", r.targets())
}

// targets holds what the driver reached against what was asked of it.
func (r *modbusReport) targets() (all []target) {
	for _, c := range r.Costs {
		all = append(all,
			target{c.Name + ": CPU per register, times the bare client's", 1.3, c.Ratio, true},
			target{c.Name + ": allocations per request", 4, c.Allocs, true})
	}
	if m := r.Many; m != nil {
		name := fmt.Sprintf("%d devices", m.Devices)
		p99 := m.P99MS
		if p99 == 0 {
			p99 = 1e9 // beyond the last bound
		}
		all = append(all,
			target{name + ": p99 of the start's delay, ms", 5, p99, true},
			target{name + ": scans missed", 0, float64(m.Missed), true},
			target{fmt.Sprintf("%s: CPU per reading, times that at %d", name, m.FewDevices), 1.15, m.Ratio, true})
	}
	for _, i := range r.Inflight {
		if i.Inflight == "8" {
			all = append(all, target{"max_inflight 8, answers after 3 ms: times the throughput of 1", 6, i.Ratio, false})
		}
	}
	if l := r.Line; l != nil {
		all = append(all,
			target{"saturated line: idle, % of the time", 10, 100 * l.Idle, true},
			target{"saturated line: violations of the silence", 0, float64(l.Violations), true})
	}
	for _, d := range r.Dead {
		all = append(all, target{fmt.Sprintf("%s, %d of %d units dead: the others' scans, %%", d.Name, deadCount, busUnits), 95, 100 * d.Kept, false})
	}
	return all
}
