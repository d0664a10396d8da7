package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/collector"
	"millrace/protocols"
	"millrace/protocols/modbus"
)

// maxRequest is the registers of one request, at most.
const maxRequest = 125

// readSpec is what a child that reads is told to do.
type readSpec struct {
	Endpoints []string      // as a configuration has them
	Units     int           // 1, 2, 3 … behind each of them
	Registers int           // of each unit: holding:0 and those behind it, uint16
	Interval  time.Duration // of each unit's scan
	Timeout   time.Duration
	Inflight  int
	Profile   string // a file for the CPU profile; empty: none
}

// requests is how many requests one scan of a unit takes.
func (s *readSpec) requests() int { return (s.Registers + maxRequest - 1) / maxRequest }

// look is what a child that reads says of itself. What it spends on saying
// it lies between Before and After.
type look struct {
	Before, After spent
	Requests      uint64
	Registers     uint64 // that were read well
	Bounds        []time.Duration
	Delays        []uint64   // scans that began at most so late, by Bounds; the last is all of them
	Units         []unitLook `json:",omitempty"` // in the order of the endpoints
}

// spent is what a process has used until At, which counts from its start.
type spent struct {
	At, CPU time.Duration
	Mallocs uint64
}

// unitLook is one unit as the collector sees it.
type unitLook struct {
	Scans, Missed, Good uint64
	Took                time.Duration // by all of its scans
}

// runModbusAgent is the collector with the Modbus driver, and nothing behind
// them: records are made and thrown away. It says how far it is with each
// line of its input.
func runModbusAgent(ctx context.Context, args []string) error {
	spec, err := loadSpec(args)
	if err != nil {
		return err
	}
	if spec.Profile != "" {
		f, err := os.Create(spec.Profile)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // the profile is a help, not a result
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	log := slog.New(slog.DiscardHandler)
	c := collector.New(collector.Options{
		Drivers:  map[string]protocols.Driver{"modbus": modbus.New(modbus.Options{Log: log})},
		Appender: noAppender{}, State: func(collector.DeviceState) {}, Log: log,
	})
	if err := c.Apply(spec.devices()); err != nil { //nolint:contextcheck // ends with Stop
		return err
	}
	defer c.Stop()
	return answerLooks(ctx, func(l *look) {
		all := c.Status()
		l.Bounds = all[0].StartDelay.Bounds
		l.Delays = make([]uint64, len(l.Bounds)+1)
		for i := range all {
			s := &all[i]
			for j, n := range s.StartDelay.Buckets {
				l.Delays[j] += n
			}
			l.Delays[len(l.Delays)-1] += s.StartDelay.Count
			l.Requests += s.Scans * uint64(spec.requests())
			l.Registers += s.Good
			l.Units = append(l.Units, unitLook{s.Scans, s.Missed, s.Good, s.ScanDuration.Sum})
		}
	})
}

// noAppender takes records and throws them away.
type noAppender struct{}

func (noAppender) PutSchema(uint64, []byte) error          { return nil }
func (noAppender) Append(int64, uint64, int, []byte) error { return nil }

func loadSpec(args []string) (*readSpec, error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("want a file, got %v", args)
	}
	data, err := os.ReadFile(args[0])
	if err != nil {
		return nil, err
	}
	s := &readSpec{}
	return s, json.Unmarshal(data, s)
}

func (s *readSpec) devices() []*protocols.Device {
	tags := make([]protocols.Tag, s.Registers)
	for i := range tags {
		tags[i] = protocols.Tag{Name: fmt.Sprintf("r%03d", i), Address: fmt.Sprintf("holding:%d", i), Type: "uint16"}
	}
	var all []*protocols.Device
	for i, endpoint := range s.Endpoints {
		for unit := 1; unit <= s.Units; unit++ {
			all = append(all, &protocols.Device{
				ID: fmt.Sprintf("plc-%04d-%02d", i, unit), Driver: "modbus", Endpoint: endpoint, Enabled: true, Tags: tags,
				Interval: s.Interval, Timeout: s.Timeout, Snapshot: 10 * time.Minute, OfflineAfter: 5 * time.Second,
				Modbus: protocols.ModbusOptions{Unit: uint8(unit), MaxGap: 10, MaxRegisters: maxRequest, MaxInflight: s.Inflight},
			})
		}
	}
	return all
}

// runModbusBare does what runModbusAgent does with goburrow's client alone,
// one connection for each endpoint, and throws the values away.
func runModbusBare(ctx context.Context, args []string) error {
	spec, err := loadSpec(args)
	if err != nil {
		return err
	}
	var requests, registers atomic.Uint64
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, endpoint := range spec.Endpoints {
		wg.Go(func() {
			bareReader(ctx, strings.TrimPrefix(endpoint, "tcp://"), spec.Registers, spec.Interval, func() {
				requests.Add(uint64(spec.requests()))
				registers.Add(uint64(spec.Registers))
			})
		})
	}
	return answerLooks(ctx, func(l *look) { l.Requests, l.Registers = requests.Load(), registers.Load() })
}

// answerLooks says how far the process is with each line of its input, until
// that ends.
func answerLooks(ctx context.Context, fill func(*look)) error {
	start := time.Now()
	take := func() spent {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return spent{time.Since(start), ownCPU(), m.Mallocs}
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() && ctx.Err() == nil {
		l := look{Before: take()}
		fill(&l)
		l.After = take()
		if err := tell(l); err != nil {
			return err
		}
	}
	return in.Err()
}

// reader is a child that reads, seen from outside.
type reader struct {
	*process

	out *json.Decoder
}

// startReader starts a child in a role, on two cores.
func (b *bench) startReader(ctx context.Context, role string, spec *readSpec) (*reader, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, fmt.Sprintf("%s-%d.json", role, time.Now().UnixNano()))
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return nil, err
	}
	p, out, err := b.spawn(ctx, role, os.Args[0], role, file)
	if err != nil {
		return nil, err
	}
	return &reader{p, json.NewDecoder(out)}, nil
}

// look asks the child how far it is.
func (r *reader) look() (l look, err error) {
	if _, err := r.stdin.Write([]byte{'\n'}); err != nil {
		return l, err
	}
	err = r.out.Decode(&l)
	return l, err
}

// watch is what happened in d.
func (r *reader) watch(ctx context.Context, d time.Duration) (*span, error) {
	from, err := r.look()
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, d); err != nil {
		return nil, err
	}
	to, err := r.look()
	if err != nil {
		return nil, err
	}
	s := between(&from, &to)
	if s.registers == 0 {
		return nil, errors.New("nothing was read")
	}
	return s, nil
}

// span is what a child did between two looks.
type span struct {
	seconds, cpu        float64
	requests, registers float64
	mallocs             float64
	bounds              []time.Duration
	delays              []uint64
	units               []unitLook
}

func between(from, to *look) *span {
	s := &span{
		seconds:   (to.Before.At - from.After.At).Seconds(),
		cpu:       (to.Before.CPU - from.After.CPU).Seconds(),
		requests:  float64(to.Requests - from.Requests),
		registers: float64(to.Registers - from.Registers),
		mallocs:   float64(to.Before.Mallocs - from.After.Mallocs),
		bounds:    to.Bounds,
	}
	for i := range to.Delays {
		s.delays = append(s.delays, to.Delays[i]-from.Delays[i])
	}
	for i, u := range to.Units {
		f := from.Units[i]
		s.units = append(s.units, unitLook{u.Scans - f.Scans, u.Missed - f.Missed, u.Good - f.Good, u.Took - f.Took})
	}
	return s
}

// cpuPerMillion is the CPU seconds for a million registers.
func (s *span) cpuPerMillion() float64 { return s.cpu / s.registers * 1e6 }

// startedWithin is the share of the scans that began at most so late; d is
// one of the collector's bounds.
func (s *span) startedWithin(d time.Duration) float64 {
	at := slices.Index(s.bounds, d)
	if at < 0 {
		return 0
	}
	return float64(s.delays[at]) / float64(max(s.delays[len(s.delays)-1], 1))
}

// startP99 is the bound within which 99 % of the scans began; false: none.
func (s *span) startP99() (time.Duration, bool) {
	for _, d := range s.bounds {
		if s.startedWithin(d) >= 0.99 {
			return d, true
		}
	}
	return 0, false
}

func (s *span) missed() (n uint64) {
	for _, u := range s.units {
		n += u.Missed
	}
	return n
}

func (s *span) scans() (n uint64) {
	for _, u := range s.units {
		n += u.Scans
	}
	return n
}
