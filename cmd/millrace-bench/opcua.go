package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"millrace/protocols/opcua/opcuatest/nodeopcua"
)

// opcuaReport is the OPC UA driver's part of the report: the agent with its
// uplink, to a Mosquitto, beside gopcua's client alone.
type opcuaReport struct {
	// Load is the machine's load average at the begin and at the end: of what
	// else it does, too.
	Load    [2]string     `json:"load_average"`
	Costs   []opcuaCost   `json:"cost_of_subscribing"`
	Returns []opcuaReturn `json:"returns"`
	Cuts    *opcuaCuts    `json:"cuts"`
}

// opcuaCost is the agent beside gopcua's client alone, at one server. All
// figures but the counts are the medians of the rounds.
type opcuaCost struct {
	Server     string    `json:"server"`
	Items      int       `json:"items"`
	IntervalMS float64   `json:"interval_ms"`
	Sampled    float64   `json:"server_samples_per_s"` // that the server took for the agent, or was told of
	Values     float64   `json:"values_per_s"`
	CPU        float64   `json:"agent_cpu_ms_per_1000_values"` // JSON and delivery included
	BareValues float64   `json:"bare_values_per_s"`
	BareCPU    float64   `json:"bare_cpu_ms_per_1000_values"`
	Ratio      float64   `json:"cpu_ratio"` // the median of the rounds' ratios
	Ratios     []float64 `json:"cpu_ratio_of_each_round"`
	ServerCPU  float64   `json:"server_cpu_ms_per_1000_values"`
	Missing    uint64    `json:"values_missing"`     // steps of a counter that never arrived
	Overflows  uint64    `json:"values_overflowed"`  // that the server said it had dropped
	Again      uint64    `json:"values_twice"`       // that had arrived before
	Bad        uint64    `json:"readings_bad"`       // in all rounds
	Resident   float64   `json:"agent_resident_mib"` // the most at the end of a round
	Peak       float64   `json:"agent_peak_memory_mib"`
}

// kept says that the server could send as much as was asked of it.
func (c *opcuaCost) kept() bool {
	const most = 0.9
	asked := float64(c.Items) * 1000 / c.IntervalMS
	return c.Values >= most*asked && c.BareValues >= most*asked
}

// Rounds and windows.
const (
	opcuaRounds = 3
	opcuaSettle = time.Second
)

// measureOPCUA measures, in about three minutes, what was asked of the driver.
func (b *bench) measureOPCUA(ctx context.Context) (*opcuaReport, error) {
	r := &opcuaReport{}
	r.Load[0] = loadAverage()
	for _, c := range []struct {
		server string
		items  int
		rounds int
		window time.Duration
	}{
		{serverOwn, 1000, opcuaRounds, 3 * time.Second},
		{serverOwn, 10000, opcuaRounds, 3 * time.Second},
		{serverGopcua, 1000, 1, 3 * time.Second},
		{serverGopcua, 10000, 1, 3 * time.Second},
		{serverNode, 1000, 1, 3 * time.Second},
		{serverNode, 10000, 1, 3 * time.Second},
	} {
		note("opcua: %d items of %s every %v, beside gopcua's client alone, %d rounds", c.items, c.server, opcuaEvery, c.rounds)
		m, err := b.measureOPCUACost(ctx, c.server, c.items, c.rounds, c.window)
		if err != nil && c.server == serverGopcua && ctx.Err() == nil {
			// It locks itself up when its subscribers cannot keep up with it, and dies
			// of a read beside a write (reference/libraries.md).
			note("opcua: NOT MEASURED: %d items of %s: %v", c.items, c.server, err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%d items of %s: %w", c.items, c.server, err)
		}
		note("opcua: %.0f values/s, %.2f ms CPU per 1,000, %.2f bare: ratio %.2f; %d missing, %.1f MiB", m.Values, m.CPU, m.BareCPU, m.Ratio, m.Missing, m.Resident)
		r.Costs = append(r.Costs, *m)
	}
	var err error
	if r.Returns, err = b.measureReturns(ctx); err != nil {
		return nil, err
	}
	r.Cuts, err = b.measureCuts(ctx)
	r.Load[1] = loadAverage()
	return r, err
}

// opcuaSource is a server in a process of its own.
type opcuaSource struct {
	place *opcuaPlace
	pid   int
	sent  func() (uint64, error)
	stop  func()
}

// startSource starts a server of a kind with counters.
func (b *bench) startSource(ctx context.Context, kind string, items int) (*opcuaSource, error) {
	if kind == serverNode {
		return b.startNode(ctx, items)
	}
	p, place, err := b.startOPCUAServer(ctx, kind, 0, items)
	if err != nil {
		return nil, err
	}
	return &opcuaSource{place: place, pid: p.pid(), sent: p.sent, stop: p.stop}, nil
}

// startNode starts node-opcua with counters.
func (b *bench) startNode(ctx context.Context, items int) (*opcuaSource, error) {
	s, err := nodeopcua.Start(filepath.Join(b.dir, "node"), 0, "bench") //nolint:contextcheck // it ends with Stop
	if err != nil {
		return nil, err
	}
	namespace, err := s.Ask(ctx, fmt.Sprintf("looks %d", items))
	if err != nil {
		s.Stop()
		return nil, err
	}
	place := &opcuaPlace{s.Endpoint(), fmt.Sprintf("ns=%s;s=Look", namespace)}
	return &opcuaSource{place: place, pid: s.PID(), stop: s.Stop, sent: func() (uint64, error) {
		said, err := s.Ask(ctx, "sent")
		if err != nil {
			return 0, err
		}
		var n struct{ Looks uint64 }
		err = json.Unmarshal(said, &n)
		return n.Looks, err
	}}, nil
}

// opcuaAgent is the real binary, a Mosquitto, and who counts what arrives there.
type opcuaAgent struct {
	*process

	sub     *subscriber
	broker  *process
	console string
	log     string
}

func (a *opcuaAgent) stop() {
	a.process.stop()
	a.sub.close()
	a.broker.stop()
}

// opcuaConfig writes the configuration of an agent that subscribes items.
func (b *bench) opcuaConfig(name, broker, console, more string, place *opcuaPlace, items int) (string, error) {
	tags := filepath.Join(b.dir, name+".csv")
	var s strings.Builder
	s.WriteString("name,address\n")
	for i := range items {
		fmt.Fprintf(&s, "%s%05d,%s\n", stepTag, i, place.nodeID(i))
	}
	if err := os.WriteFile(tags, []byte(s.String()), 0o600); err != nil {
		return "", err
	}
	text := fmt.Sprintf("gateway: {id: bench}\nbuffer: {path: %q, commit_interval: 1s}\nuplinks: [{name: bench, broker: \"mqtt://%s\"}]\nconsole: {listen: %q}\n"+
		"devices:\n  - {id: server, driver: opcua, endpoint: %q, interval: %v, security: {policy: None}, tags: %q%s}\n",
		filepath.Join(b.dir, name), broker, console, place.Endpoint, opcuaEvery, tags, more)
	path := filepath.Join(b.dir, name+".yaml")
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// startOPCUAAgent starts an agent that subscribes items; more is added to its
// device's configuration.
func (b *bench) startOPCUAAgent(ctx context.Context, place *opcuaPlace, items int, more string) (*opcuaAgent, error) {
	broker, addr, err := b.startMosquitto(ctx, "")
	if err != nil {
		return nil, err
	}
	a := &opcuaAgent{broker: broker, console: freePort(ctx)}
	if a.sub, err = subscribe(ctx, addr, "millrace/#"); err != nil {
		broker.stop()
		return nil, err
	}
	a.sub.check = newSteps(items)
	a.sub.start()
	name := fmt.Sprintf("opcua-%d", time.Now().UnixNano())
	conf, err := b.opcuaConfig(name, addr, a.console, more, place, items)
	if err == nil {
		a.process, _, err = b.spawn(ctx, name, b.binary, "run", "-c", conf)
	}
	if err != nil {
		a.sub.close()
		broker.stop()
		return nil, err
	}
	a.log = filepath.Join(b.dir, name+".log")
	if err := waitFor(ctx, time.Minute, func() bool { return a.sub.steps().started == items }); err != nil {
		log, _ := os.ReadFile(a.log)
		got := a.sub.steps()
		a.stop()
		return nil, fmt.Errorf("%w: %d of %d items (%d bad): %w\n%s", errNothing, got.started, items, got.bad, err, log)
	}
	return a, nil
}

// opcuaSpan is what one of the two used in a window.
type opcuaSpan struct {
	seconds, values, cpu, serverCPU, sampled float64
}

func (s *opcuaSpan) cpuPerThousand() float64 { return s.cpu / s.values * 1e6 }

// measureSpan lets a window pass; count says how many values have come so far.
func measureSpan(ctx context.Context, src *opcuaSource, pid int, window time.Duration, count func() (uint64, error)) (*opcuaSpan, error) {
	if err := pause(ctx, opcuaSettle); err != nil {
		return nil, err
	}
	sampled, err := src.sent()
	if err != nil {
		return nil, err
	}
	from, err := count()
	start, cpu, server := time.Now(), fineCPU(pid), fineCPU(src.pid)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, window); err != nil {
		return nil, err
	}
	to, err := count()
	s := &opcuaSpan{
		seconds: time.Since(start).Seconds(), values: float64(to - from),
		cpu: (fineCPU(pid) - cpu).Seconds(), serverCPU: (fineCPU(src.pid) - server).Seconds(),
	}
	if err != nil {
		return nil, err
	}
	if s.values == 0 {
		return nil, errors.New("no values came")
	}
	more, err := src.sent()
	s.sampled = float64(more - sampled)
	return s, err
}

// measureOPCUACost lets the two take turns: what else the machine does then
// falls upon both.
func (b *bench) measureOPCUACost(ctx context.Context, kind string, items, rounds int, window time.Duration) (*opcuaCost, error) {
	c := &opcuaCost{Server: kind, Items: items, IntervalMS: float64(opcuaEvery / time.Millisecond)}
	var ours, bare []*opcuaSpan
	for range rounds {
		g, err := b.observeBare(ctx, kind, items, window)
		if err != nil {
			return nil, fmt.Errorf("the bare client: %w", err)
		}
		o, err := b.observeOPCUA(ctx, c, window)
		if err != nil {
			return nil, err
		}
		ours, bare = append(ours, o), append(bare, g)
		c.Ratios = append(c.Ratios, o.cpuPerThousand()/g.cpuPerThousand())
	}
	med := func(all []*opcuaSpan, f func(*opcuaSpan) float64) float64 {
		var vs []float64
		for _, s := range all {
			vs = append(vs, f(s))
		}
		return median(vs)
	}
	rate := func(s *opcuaSpan) float64 { return s.values / s.seconds }
	c.Sampled = med(ours, func(s *opcuaSpan) float64 { return s.sampled / s.seconds })
	c.Values, c.BareValues = med(ours, rate), med(bare, rate)
	c.CPU, c.BareCPU = med(ours, (*opcuaSpan).cpuPerThousand), med(bare, (*opcuaSpan).cpuPerThousand)
	c.ServerCPU = med(ours, func(s *opcuaSpan) float64 { return s.serverCPU / s.values * 1e6 })
	c.Ratio = median(slices.Clone(c.Ratios))
	return c, nil
}

// observeBare is one round of gopcua's client. Each round has a server of its
// own: gopcua's does not always survive that a subscriber goes.
func (b *bench) observeBare(ctx context.Context, kind string, items int, window time.Duration) (*opcuaSpan, error) {
	src, err := b.startSource(ctx, kind, items)
	if err != nil {
		return nil, err
	}
	defer src.stop()
	p, err := b.startBare(ctx, src.place, items)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	var n uint64
	if err := waitFor(ctx, time.Minute, func() bool {
		n, err = p.sent()
		return err != nil || n >= uint64(items)
	}); err != nil {
		return nil, err
	}
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(b.dir, roleOPCUABare+".log"))
		return nil, fmt.Errorf("%w\n%s", err, log)
	}
	return measureSpan(ctx, src, p.pid(), window, p.sent)
}

// observeOPCUA is one round of the agent. It adds to what c counts.
func (b *bench) observeOPCUA(ctx context.Context, c *opcuaCost, window time.Duration) (*opcuaSpan, error) {
	src, err := b.startSource(ctx, c.Server, c.Items)
	if err != nil {
		return nil, err
	}
	defer src.stop()
	a, err := b.startOPCUAAgent(ctx, src.place, c.Items, "")
	if err != nil {
		return nil, err
	}
	defer a.stop()
	s, err := measureSpan(ctx, src, a.pid(), window, func() (uint64, error) { return a.sub.steps().values, nil })
	if err != nil {
		return nil, err
	}
	got := a.sub.steps()
	c.Missing, c.Again, c.Bad = c.Missing+got.missing, c.Again+got.again, c.Bad+got.bad
	c.Overflows += agentStatus(ctx, a.console).lost
	c.Resident = max(c.Resident, float64(residentKB(a.pid()))/1024)
	c.Peak = max(c.Peak, float64(peakKB(a.pid()))/1024)
	return s, nil
}

func (r *opcuaReport) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(&b, "\nopcua: the agent, JSON and delivery at QoS 1 to Mosquitto included; beside it gopcua's client alone, in turn, which throws the values away; CPU in ms per 1,000 values; load average %s at the begin, %s at the end\n\n", r.Load[0], r.Load[1])
	fmt.Fprintln(w, "server\titems\tinterval ms\tsampled/s\tvalues/s\tbare\tCPU\tbare\tratio\tof each round\tserver's CPU\tmissing\toverflows\ttwice\tbad\tMiB\tpeak MiB\t")
	for i := range r.Costs {
		c := &r.Costs[i]
		each := strings.Trim(strings.ReplaceAll(fmt.Sprintf("%.2f", c.Ratios), " ", ", "), "[]")
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%.0f\t%.0f\t%.2f\t%.2f\t%.2f\t%s\t%.2f\t%d\t%d\t%d\t%d\t%.1f\t%.1f\t\n", c.Server, c.Items, c.IntervalMS, c.Sampled, c.Values, c.BareValues,
			c.CPU, c.BareCPU, c.Ratio, each, c.ServerCPU, c.Missing, c.Overflows, c.Again, c.Bad, c.Resident, c.Peak)
	}
	_ = w.Flush() // a strings.Builder takes everything
	b.WriteString("\n")
	for i := range r.Costs {
		if c := &r.Costs[i]; !c.kept() {
			fmt.Fprintf(&b, "%s is too slow for %d items every %.0f ms: nothing is asked of the others there\n", c.Server, c.Items, c.IntervalMS)
		}
	}
	for i := range r.Returns {
		b.WriteString(r.Returns[i].text())
	}
	return b.String() + r.Cuts.text() + targetsTable("opcua", r.targets())
}

// targets holds what the driver reached against what was asked of it.
func (r *opcuaReport) targets() (all []target) {
	for i := range r.Costs {
		c := &r.Costs[i]
		name := fmt.Sprintf("%d items of %s", c.Items, c.Server)
		if !c.kept() {
			continue // the server is too slow: neither gets what was asked for
		}
		all = append(all,
			target{name + ": CPU per value, times the bare client's", 1.5, c.Ratio, true},
			target{name + ": values per second, of the bare client's", 0.95, c.Values / c.BareValues, false})
		if c.Server != serverGopcua { // which keeps the newest value alone
			all = append(all, target{name + ": values missing", 0, float64(c.Missing), true})
		}
	}
	for i := range r.Returns {
		q := &r.Returns[i]
		all = append(all, target{fmt.Sprintf("%s back after %.0f s: first value, ms, at worst", q.Server, q.AwaySeconds), 2000, q.WorstMS, true})
	}
	if c := r.Cuts; c != nil {
		all = append(all,
			target{"connections cut and made again", cutTimes, float64(c.survived()), false},
			target{fmt.Sprintf("%d connections cut: values missing", c.Cuts), 0, float64(c.Missing), true})
	}
	return all
}
