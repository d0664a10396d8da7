package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"millrace/protocols/modbus/modbustest"
)

const (
	busUnits     = 32
	busRegisters = 10
	deadCount    = 5
	lineBaud     = 19200

	// What a healthy bus does in four fifths of its time: 32 exchanges of
	// some 30 ms on the line, and of 10 ms behind the gateway.
	lineInterval    = 1200 * time.Millisecond
	gatewayAnswer   = 10 * time.Millisecond
	gatewayInterval = 420 * time.Millisecond
	busTimeout      = 200 * time.Millisecond

	healthyWindow = 8 * time.Second
	deadWarmUp    = 8 * time.Second // in which the dead are found
	deadWindow    = 30 * time.Second
	reviveLimit   = 60 * time.Second
)

// unitsSpec is what a child that simulates units is told to do.
type unitsSpec struct {
	Units, Registers int
	Baud             int           // of a serial line, with even parity; 0: a port of Modbus TCP
	Turnaround       time.Duration // on the line
	Answer           time.Duration // on TCP
	Parallel         int
}

// runUnits simulates units behind one endpoint, whose URL it prints. With
// each line of its input it does a command.
func runUnits(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want a description, got %v", args)
	}
	var spec unitsSpec
	if err := json.Unmarshal([]byte(args[0]), &spec); err != nil {
		return err
	}
	s := modbustest.NewServer()
	defer s.Close() //nolint:errcheck // the program ends
	for id := 1; id <= spec.Units; id++ {
		u := s.Unit(uint8(id))
		u.Holding.Set(0, make([]uint16, spec.Registers)...)
		u.SetAnswerTime(modbustest.AnswerTime{Time: spec.Answer, Parallel: spec.Parallel})
	}
	var line *modbustest.Line
	if spec.Baud == 0 {
		if err := s.Listen(""); err != nil { //nolint:contextcheck // closed above
			return err
		}
		fmt.Println("tcp://" + s.Addr())
	} else {
		l, err := modbustest.OpenLine(modbustest.LineOptions{Baud: spec.Baud, CharBits: 11, Turnaround: spec.Turnaround}) //nolint:contextcheck // closed below
		if err != nil {
			return err
		}
		defer l.Close() //nolint:errcheck // the program ends
		s.ServeLine(l)
		fmt.Println(l.URL())
		line = l
	}
	return doCommands(ctx, s, line)
}

// Commands of runUnits.
const (
	cmdReset = "reset" // count what happens on the line from now on
	cmdStats = "stats" // print it
	cmdMute  = "mute"  // so many units answer nothing; 0: all answer
)

func doCommands(ctx context.Context, s *modbustest.Server, line *modbustest.Line) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() && ctx.Err() == nil {
		command, arg, _ := strings.Cut(in.Text(), " ")
		switch command {
		case cmdReset:
			line.ResetStats()
		case cmdStats:
			if err := tell(line.Stats()); err != nil {
				return err
			}
		case cmdMute:
			n, err := strconv.Atoi(arg)
			if err != nil {
				return err
			}
			for i := range deadCount {
				u := s.Unit(deadUnit(i))
				u.SetFaults(nil)
				if i < n {
					u.SetFaults(modbustest.Always(modbustest.Fault{Drop: true}))
				}
			}
		default:
			return fmt.Errorf("there is no command %q", command)
		}
	}
	return in.Err()
}

// deadUnit is the id of the i-th unit that dies: they are spread over the
// bus.
func deadUnit(i int) uint8 { return uint8(4 + 6*i) }

func isDead(unit int) bool { return unit >= 4 && (unit-4)%6 == 0 && (unit-4)/6 < deadCount }

// units is a child that simulates units, seen from outside.
type units struct {
	*process

	url string
	out *bufio.Reader
}

func (b *bench) startUnits(ctx context.Context, spec *unitsSpec) (*units, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	p, out, err := b.spawn(ctx, roleUnits, os.Args[0], roleUnits, string(data))
	if err != nil {
		return nil, err
	}
	url, err := out.ReadString('\n')
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("the simulated units: %w", err)
	}
	return &units{p, strings.TrimSpace(url), out}, nil
}

func (u *units) do(command string) error {
	_, err := fmt.Fprintln(u.stdin, command)
	return err
}

func (u *units) stats() (s modbustest.Stats, err error) {
	if err := u.do(cmdStats); err != nil {
		return s, err
	}
	data, err := u.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	return s, err
}

// lineUse is what became of the time of a line that is asked for more than
// it can do, in the window with the median idle time. Shares are of the time.
type lineUse struct {
	Idles      []float64 `json:"idle_of_each_window"`
	Seconds    float64   `json:"seconds"`
	Requests   uint64    `json:"requests"`
	Violations uint64    `json:"violations"`
	Busy       float64   `json:"characters"`
	Silence    float64   `json:"silence_of_the_protocol"`
	Turnaround float64   `json:"turnaround"`
	Idle       float64   `json:"idle"` // the simulator's lag left out
	IdleAll    float64   `json:"idle_with_the_lag"`
	PerRequest float64   `json:"idle_ms_per_request"`
}

func lineSpec() *unitsSpec {
	return &unitsSpec{Units: busUnits, Registers: busRegisters, Baud: lineBaud, Turnaround: 5 * time.Millisecond}
}

// measureLine asks the line for as much as it can do.
func (b *bench) measureLine(ctx context.Context) (*lineUse, error) {
	const windows, window = 3, 4 * time.Second
	note("modbus: %d units on one line of %d baud, saturated, %d times %v", busUnits, lineBaud, windows, window)
	sim, err := b.startUnits(ctx, lineSpec())
	if err != nil {
		return nil, err
	}
	defer sim.stop()
	spec := &readSpec{Endpoints: []string{sim.url}, Units: busUnits, Registers: busRegisters, Interval: 100 * time.Millisecond, Timeout: busTimeout}
	if b.profiles != "" {
		spec.Profile = b.profiles + "/modbus-line.pprof"
	}
	agent, err := b.startReader(ctx, roleModbusAgent, spec)
	if err != nil {
		return nil, err
	}
	defer agent.stop()
	if err := pause(ctx, 2*startTime); err != nil {
		return nil, err
	}
	var all []*lineUse
	var violations uint64
	for range windows {
		if err := errors.Join(sim.do(cmdReset), pause(ctx, window)); err != nil {
			return nil, err
		}
		st, err := sim.stats()
		if err != nil {
			return nil, err
		}
		l := lineUseOf(&st)
		violations += l.Violations
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b *lineUse) int { return cmp.Compare(a.Idle, b.Idle) })
	l := all[windows/2]
	l.Violations = violations
	for _, other := range all {
		l.Idles = append(l.Idles, other.Idle)
	}
	return l, nil
}

func lineUseOf(st *modbustest.Stats) *lineUse {
	share := func(d time.Duration) float64 { return d.Seconds() / st.Wall.Seconds() }
	l := &lineUse{
		Seconds: st.Wall.Seconds(), Requests: st.Requests, Violations: st.Violations(),
		Busy: share(st.Busy), Silence: share(st.Silence), Turnaround: share(st.Turnaround),
		Idle: share(st.Idle() - st.Lag), IdleAll: share(st.Idle()),
	}
	l.PerRequest = l.Idle * l.Seconds * 1000 / float64(max(l.Requests, 1))
	return l
}

func (l *lineUse) text() string {
	if l == nil {
		return ""
	}
	return fmt.Sprintf("\nsaturated line of %d baud, %d units: %.1f requests/s; characters %.1f %%, silence of the protocol %.1f %%, turnaround %.1f %%, idle %.1f %% (%.2f ms a request; %.1f %% with what the simulator was late; from %.1f to %.1f %% in %d windows); %d violations\n",
		lineBaud, busUnits, float64(l.Requests)/l.Seconds, 100*l.Busy, 100*l.Silence, 100*l.Turnaround, 100*l.Idle, l.PerRequest, 100*l.IdleAll,
		100*l.Idles[0], 100*l.Idles[len(l.Idles)-1], len(l.Idles), l.Violations)
}

// deadUnits is what units that do not answer cost the others on their bus.
type deadUnits struct {
	Name        string  `json:"bus"`
	IntervalMS  float64 `json:"interval_ms"`
	Load        float64 `json:"load_when_healthy"`  // the share of the time in which the bus is in use
	HealthyKept float64 `json:"scans_when_healthy"` // the share of those that were due
	Seconds     float64 `json:"seconds"`
	Kept        float64 `json:"scans_of_the_others"`
	Worst       float64 `json:"scans_of_the_worst_of_them"`
	Control     float64 `json:"scans_of_a_healthy_bus_meanwhile"`
	Probes      uint64  `json:"probes"`
	ProbeShare  float64 `json:"time_for_the_dead"`
	FirstMS     int64   `json:"first_is_back_after_ms"`
	LastMS      int64   `json:"last_is_back_after_ms"`
}

// measureDead measures both buses, at the same time: they use little of the
// machine.
func (b *bench) measureDead(ctx context.Context) ([]deadUnits, error) {
	note("modbus: %d of %d units die, on a gateway and on a line, for %v", deadCount, busUnits, deadWindow)
	all := []deadUnits{
		{Name: "gateway on TCP", IntervalMS: float64(gatewayInterval.Milliseconds())},
		{Name: fmt.Sprintf("line of %d baud", lineBaud), IntervalMS: float64(lineInterval.Milliseconds())},
	}
	specs := []*unitsSpec{{Units: busUnits, Registers: busRegisters, Answer: gatewayAnswer}, lineSpec()}
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			if err := b.killUnits(ctx, &all[i], specs[i]); err != nil {
				errs[i] = fmt.Errorf("%s: %w", all[i].Name, err)
			}
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// readUnits starts a bus and a child that reads it.
func (b *bench) readUnits(ctx context.Context, spec *unitsSpec, interval time.Duration) (*units, *reader, error) {
	sim, err := b.startUnits(ctx, spec)
	if err != nil {
		return nil, nil, err
	}
	agent, err := b.startReader(ctx, roleModbusAgent, &readSpec{
		Endpoints: []string{sim.url}, Units: busUnits, Registers: busRegisters, Interval: interval, Timeout: busTimeout, Inflight: 1,
	})
	if err != nil {
		sim.stop()
		return nil, nil, err
	}
	return sim, agent, nil
}

// killUnits lets units of a bus die. Another one like it, on which none does,
// shows what the machine did to both.
func (b *bench) killUnits(ctx context.Context, d *deadUnits, spec *unitsSpec) error {
	interval := time.Duration(d.IntervalMS * float64(time.Millisecond))
	sim, agent, err := b.readUnits(ctx, spec, interval)
	if err != nil {
		return err
	}
	defer sim.stop()
	defer agent.stop()
	controlSim, control, err := b.readUnits(ctx, spec, interval)
	if err != nil {
		return err
	}
	defer controlSim.stop()
	defer control.stop()
	if err := pause(ctx, 3*startTime); err != nil {
		return err
	}
	healthy, err := agent.watch(ctx, healthyWindow)
	if err != nil {
		return err
	}
	if err := errors.Join(sim.do(fmt.Sprint(cmdMute, " ", deadCount)), pause(ctx, deadWarmUp)); err != nil {
		return err
	}
	from, err := control.look()
	if err != nil {
		return err
	}
	dead, err := agent.watch(ctx, deadWindow)
	if err != nil {
		return err
	}
	to, err := control.look()
	if err != nil {
		return err
	}
	d.fill(healthy, dead, between(&from, &to))
	return d.revive(ctx, sim, agent)
}

func (d *deadUnits) fill(healthy, dead, control *span) {
	kept := func(made, missed uint64) float64 { return float64(made) / float64(max(made+missed, 1)) }
	var took time.Duration
	for _, u := range healthy.units {
		took += u.Took
	}
	d.Load = took.Seconds() / healthy.seconds
	d.HealthyKept, d.Control = kept(healthy.scans(), healthy.missed()), kept(control.scans(), control.missed())
	d.Seconds, d.Worst = dead.seconds, 1
	var others unitLook
	took = 0
	for i, u := range dead.units {
		if isDead(i + 1) {
			d.Probes += u.Scans
			took += u.Took
			continue
		}
		others.Scans += u.Scans
		others.Missed += u.Missed
		d.Worst = min(d.Worst, kept(u.Scans, u.Missed))
	}
	d.Kept, d.ProbeShare = kept(others.Scans, others.Missed), took.Seconds()/dead.seconds
}

// revive lets the dead answer again, and waits until they are read.
func (d *deadUnits) revive(ctx context.Context, sim *units, agent *reader) error {
	before, err := agent.look()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := sim.do(cmdMute + " 0"); err != nil {
		return err
	}
	for time.Since(start) < reviveLimit {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		now, err := agent.look()
		if err != nil {
			return err
		}
		back := 0
		for i := range now.Units {
			if isDead(i+1) && now.Units[i].Good > before.Units[i].Good {
				back++
			}
		}
		if back > 0 && d.FirstMS == 0 {
			d.FirstMS = time.Since(start).Milliseconds()
		}
		if back == deadCount {
			d.LastMS = time.Since(start).Milliseconds()
			return nil
		}
	}
	return fmt.Errorf("the units that answer again are not back after %v", reviveLimit)
}

func deadTable(all []deadUnits) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nmodbus: %d of %d units die; time-out %v\n\n", deadCount, busUnits, busTimeout)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "bus\tinterval ms\tload before\tscans before\tof the others\tof the worst\tof a healthy bus\tprobes\ttheir time\tfirst back ms\tall back ms\t")
	for _, d := range all {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f %%\t%.1f %%\t%.1f %%\t%.1f %%\t%.1f %%\t%d in %.0f s\t%.1f %%\t%d\t%d\t\n", d.Name, d.IntervalMS, 100*d.Load, 100*d.HealthyKept,
			100*d.Kept, 100*d.Worst, 100*d.Control, d.Probes, d.Seconds, 100*d.ProbeShare, d.FirstMS, d.LastMS)
	}
	_ = w.Flush() // a strings.Builder takes everything
	return b.String()
}
