package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// measurement is one run of the agent at one interval.
type measurement struct {
	Name            string  `json:"name"`
	IntervalMS      float64 `json:"interval_ms"`
	Seconds         float64 `json:"seconds"`
	Offered         float64 `json:"offered_readings_per_s"`
	Delivered       float64 `json:"delivered_readings_per_s"`
	CPUPerMillion   float64 `json:"agent_cpu_s_per_million_readings"`
	PeakMiB         float64 `json:"agent_peak_memory_mib"`
	WirePerReading  float64 `json:"wire_bytes_per_reading"`
	DiskPerReading  float64 `json:"disk_bytes_per_reading"`
	P50MS           int     `json:"latency_p50_ms"`
	P99MS           int     `json:"latency_p99_ms"`
	Missed          uint64  `json:"scans_missed"`
	Gaps            int     `json:"gap_notices"`
	Lag             uint64  `json:"lag_batches_at_end"`
	FirstReadingMS  int64   `json:"first_reading_ms"`
	Clean           bool    `json:"clean"`
	MosquittoCPU    float64 `json:"mosquitto_cpu_s"`
	SimulatorCPU    float64 `json:"simulator_cpu_s"`
	AgentCPUSeconds float64 `json:"agent_cpu_s"`
}

func (m *measurement) short() string {
	return fmt.Sprintf("%.0f of %.0f readings/s, %.2f s CPU per million, %.1f MiB, %d missed, p99 %d ms, clean %v",
		m.Delivered, m.Offered, m.CPUPerMillion, m.PeakMiB, m.Missed, m.P99MS, m.Clean)
}

// agentConfig writes a configuration for all PLCs.
func (b *bench) agentConfig(name, broker, console string, plcs []string, interval time.Duration) (string, error) {
	var s strings.Builder
	fmt.Fprintf(&s, "gateway: {id: bench}\nbuffer: {path: %q, commit_interval: 1s}\nuplinks: [{name: bench, broker: \"mqtt://%s\"}]\nconsole: {listen: %q}\ndevices:\n",
		filepath.Join(b.dir, name), broker, console)
	for i, addr := range plcs {
		fmt.Fprintf(&s, "  - {id: plc-%02d, driver: modbus, endpoint: \"tcp://%s\", interval: %v, tags: tags.csv}\n", i, addr, interval)
	}
	path := filepath.Join(b.dir, name+".yaml")
	return path, os.WriteFile(path, []byte(s.String()), 0o600)
}

// measure runs the agent at the given interval, and measures it for window.
func (b *bench) measure(ctx context.Context, name string, interval, window time.Duration) (*measurement, error) {
	sim, plcs, err := b.startSim(ctx)
	if err != nil {
		return nil, err
	}
	defer sim.stop()
	broker, brokerAddr, err := b.startMosquitto(ctx, "")
	if err != nil {
		return nil, err
	}
	defer broker.stop()
	sub, err := subscribe(ctx, brokerAddr, "millrace/#")
	if err != nil {
		return nil, err
	}
	defer sub.close()
	console := freePort(ctx)
	run := fmt.Sprintf("%s-%v", name, interval)
	conf, err := b.agentConfig(run, brokerAddr, console, plcs, interval)
	if err != nil {
		return nil, err
	}
	sub.start()
	started := time.Now()
	agent, _, err := b.spawn(ctx, run, b.binary, "run", "-c", conf)
	if err != nil {
		return nil, err
	}
	defer agent.stop()
	if err := waitFor(ctx, 5*time.Second, sub.some); err != nil {
		log, _ := os.ReadFile(filepath.Join(b.dir, run+".log"))
		return nil, fmt.Errorf("%w: %w\n%s", errNothing, err, log)
	}
	m := &measurement{Name: name, IntervalMS: float64(interval) / 1e6, FirstReadingMS: time.Since(started).Milliseconds()}
	if err := pause(ctx, time.Second); err != nil { // let it settle
		return nil, err
	}
	before := sampleOf(agent.pid(), sim.pid(), broker.pid())
	first := agentStatus(ctx, console)
	sub.start()
	if err := pause(ctx, window); err != nil {
		return nil, err
	}
	got := sub.stop()
	after := sampleOf(agent.pid(), sim.pid(), broker.pid())
	last := agentStatus(ctx, console)
	m.fill(b, got, before, after, interval)
	m.Missed, m.Lag = last.missed-first.missed, last.lag
	b.scanLen = got.scanLen
	// Clean: every scan was made (but for one in 1,000: this is not a machine
	// of its own), and what was made has arrived, but for what lies on the
	// edge of the window.
	scans := m.Offered * m.Seconds / float64(b.registers)
	m.Clean = float64(m.Missed) <= scans/1000 && m.Gaps == 0 && m.Delivered >= 0.99*m.Offered && m.Lag < uint64(10*b.devices)
	return m, nil
}

func (m *measurement) fill(b *bench, got counted, before, after sample, interval time.Duration) {
	m.Seconds = after.at.Sub(before.at).Seconds()
	m.Offered = float64(b.devices*b.registers) / interval.Seconds()
	m.Delivered = float64(got.readings) / m.Seconds
	cpu := after.agent - before.agent
	m.AgentCPUSeconds = cpu.Seconds()
	m.SimulatorCPU, m.MosquittoCPU = (after.sim - before.sim).Seconds(), (after.broker - before.broker).Seconds()
	n := float64(max(got.readings, 1))
	m.CPUPerMillion = cpu.Seconds() / n * 1e6
	m.PeakMiB = float64(after.peakKB) / 1024
	m.WirePerReading = float64(got.bytes) / n
	m.DiskPerReading = float64(after.written-before.written) / n
	m.P50MS, m.P99MS, m.Gaps = got.p50, got.p99, got.gaps
}

// sample is what the operating system says of the processes at one moment.
type sample struct {
	at                 time.Time
	agent, sim, broker time.Duration
	peakKB, written    int
}

func sampleOf(agent, sim, broker int) sample {
	return sample{
		at: time.Now(), agent: cpuTime(agent), sim: cpuTime(sim), broker: cpuTime(broker),
		peakKB: peakKB(agent), written: written(agent),
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func freePort(ctx context.Context) string {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:0"
	}
	defer l.Close()
	return l.Addr().String()
}

// status is what the agent says of itself, over all devices and uplinks.
type status struct {
	missed, readings, lag, delivered uint64
	lost                             uint64 // values that devices dropped
	buffer                           int64  // bytes on disk
}

// agentStatus asks the agent; an agent that does not answer has all zeros.
func agentStatus(ctx context.Context, console string) (st status) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+console+"/api/status", http.NoBody)
	if err != nil {
		return st
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return st
	}
	defer res.Body.Close()
	var s struct {
		Buffer  struct{ Bytes int64 }
		Uplinks []struct{ Lag, Delivered uint64 }
		Devices []struct{ Missed, Good, Lost uint64 }
	}
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		return st
	}
	st.buffer = s.Buffer.Bytes
	for _, d := range s.Devices {
		st.missed += d.Missed
		st.readings += d.Good
		st.lost += d.Lost
	}
	for _, u := range s.Uplinks {
		st.lag += u.Lag
		st.delivered += u.Delivered
	}
	return st
}

// outage is a run whose broker goes away.
type outage struct {
	IntervalMS      float64 `json:"interval_ms"`
	Seconds         float64 `json:"seconds"`
	Readings        float64 `json:"readings_per_s"`
	CPUPerMillion   float64 `json:"agent_cpu_s_per_million_readings"`
	PeakMiB         float64 `json:"agent_peak_memory_mib"`
	WrittenPerRead  float64 `json:"disk_bytes_written_per_reading"` // as the operating system counts
	BufferPerRead   float64 `json:"buffer_bytes_per_reading"`       // what the files grow by
	DrainedPerSec   float64 `json:"drained_readings_per_s"`         // after the broker's return, beside the live ones
	DrainedSeconds  float64 `json:"drained_after_s"`
	BacklogReadings float64 `json:"backlog_readings"`
}

// measureOutage stops the broker for window, and starts it again.
func (b *bench) measureOutage(ctx context.Context, interval, window time.Duration) (*outage, error) {
	sim, plcs, err := b.startSim(ctx)
	if err != nil {
		return nil, err
	}
	defer sim.stop()
	broker, brokerAddr, err := b.startMosquitto(ctx, "")
	if err != nil {
		return nil, err
	}
	console := freePort(ctx)
	conf, err := b.agentConfig("outage", brokerAddr, console, plcs, interval)
	if err != nil {
		return nil, err
	}
	agent, _, err := b.spawn(ctx, "outage", b.binary, "run", "-c", conf)
	if err != nil {
		return nil, err
	}
	defer agent.stop()
	err = waitFor(ctx, 5*time.Second, func() bool { return agentStatus(ctx, console).readings > 0 })
	broker.stop()
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, 2*time.Second); err != nil { // the first commits
		return nil, err
	}
	start, before, first := time.Now(), sampleOf(agent.pid(), sim.pid(), agent.pid()), agentStatus(ctx, console)
	if err := pause(ctx, window); err != nil {
		return nil, err
	}
	after, last := sampleOf(agent.pid(), sim.pid(), agent.pid()), agentStatus(ctx, console)
	n := float64(max(last.readings-first.readings, 1))
	o := &outage{IntervalMS: float64(interval) / 1e6, Seconds: time.Since(start).Seconds(), BacklogReadings: float64(last.lag) * float64(b.registers)}
	o.Readings = n / o.Seconds
	o.CPUPerMillion = (after.agent - before.agent).Seconds() / n * 1e6
	o.WrittenPerRead = float64(after.written-before.written) / n
	o.BufferPerRead = float64(last.buffer-first.buffer) / n

	if broker, _, err = b.startMosquitto(ctx, brokerAddr); err != nil {
		return nil, err
	}
	defer broker.stop()
	start = time.Now()
	if err := waitFor(ctx, time.Minute, func() bool { return agentStatus(ctx, console).lag < uint64(b.devices) }); err != nil {
		return nil, fmt.Errorf("draining the backlog: %w", err)
	}
	o.DrainedSeconds = time.Since(start).Seconds()
	o.DrainedPerSec = o.BacklogReadings / o.DrainedSeconds
	o.PeakMiB = float64(peakKB(agent.pid())) / 1024
	return o, nil
}
