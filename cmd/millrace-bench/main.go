// Command millrace-bench measures the agent from the wire of the PLCs to a
// subscriber of the broker, on one machine: simulated PLCs as one process, a
// real Mosquitto, the real binary as its own process. Beside it, in the same
// run, it measures what cannot be saved: a bare read loop and a bare
// publisher. It prints a table and writes it as JSON.
//
// It is a tool of the developers and is not shipped.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

// Roles that this program takes when it starts itself again.
const (
	roleSim     = "sim"
	roleReader  = "bare-reader"
	rolePublish = "bare-publisher"
	roleFlood   = "flood"
	rolePace    = "pace"
	roleBacklog = "backlog"
	roleDrain   = "bare-drain"

	roleModbusAgent = "modbus-agent"
	roleModbusBare  = "modbus-bare"
	roleUnits       = "modbus-units"

	roleOPCUAServer = "opcua-server"
	roleOPCUABare   = "opcua-bare"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	err := start(ctx)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "millrace-bench:", err)
		os.Exit(1)
	}
}

// role returns what this program does as one of its own children; nil if
// that is not its role.
func role(name string) func(ctx context.Context, args []string) error {
	switch name {
	case roleSim:
		return runSim
	case roleReader:
		return runBareReader
	case rolePublish:
		return runBarePublisher
	case roleFlood:
		return runFlood
	case rolePace:
		return runPace
	case roleBacklog:
		return runBacklog
	case roleDrain:
		return runBareDrain
	case roleModbusAgent:
		return runModbusAgent
	case roleModbusBare:
		return runModbusBare
	case roleUnits:
		return runUnits
	case roleOPCUAServer:
		return runOPCUAServer
	case roleOPCUABare:
		return runOPCUABare
	}
	return nil
}

func start(ctx context.Context) error {
	if len(os.Args) > 1 {
		if run := role(os.Args[1]); run != nil {
			return run(ctx, os.Args[2:])
		}
	}
	b := bench{}
	flag.StringVar(&b.binary, "millrace", "bin/millrace", "the binary to measure")
	flag.IntVar(&b.devices, "devices", 20, "simulated PLCs")
	flag.IntVar(&b.registers, "registers", 500, "holding registers (uint16) of each")
	flag.DurationVar(&b.window, "window", 15*time.Second, "how long the main run is measured; the others take a third")
	out := flag.String("json", "bench.json", "where the table goes as JSON")
	quick := flag.Bool("quick", false, "only the main run and the yardsticks")
	only := flag.Duration("only", 0, "measure at this interval only")
	large := flag.Bool("large", false, "drain a backlog of 10 GiB, too (20 GiB of disk)")
	parts := []struct {
		only    *bool
		measure func() (string, error)
	}{
		{flag.Bool("live", false, "only live batches beside a backlog, without the JSON"), func() (string, error) {
			all, err := b.measureLives(ctx)
			return livesTable(all), err
		}},
		{flag.Bool("buffer", false, "only the buffer's part, without the JSON"), func() (string, error) { return tableOf(b.measureBuffer(ctx, *large)) }},
		{flag.Bool("modbus", false, "only the Modbus driver's part, without the JSON"), func() (string, error) { return tableOf(b.measureModbus(ctx)) }},
		{flag.Bool("opcua", false, "only the OPC UA driver's part, without the JSON"), func() (string, error) { return tableOf(b.measureOPCUA(ctx)) }},
	}
	flag.StringVar(&b.profiles, "profiles", "", "a directory for CPU profiles of the Modbus driver's part")
	flag.Parse()
	if err := b.prepare(); err != nil {
		return err
	}
	defer b.cleanUp()
	for _, p := range parts {
		if *p.only {
			text, err := p.measure()
			if err == nil {
				fmt.Print(text)
			}
			return err
		}
	}
	if *only > 0 {
		m, err := b.measure(ctx, "only", *only, b.window)
		if err == nil {
			fmt.Println(m.short(), "lag", m.Lag, "gaps", m.Gaps)
		}
		return err
	}
	rep, err := b.all(ctx, *quick, *large)
	if err != nil {
		return err
	}
	fmt.Print(rep.table())
	data, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(*out, append(data, '\n'), 0o644) //nolint:gosec // a report for everyone
}

// bench is one run of the program.
type bench struct {
	binary             string
	devices, registers int
	window             time.Duration
	profiles           string // a directory; empty: none

	dir     string
	tagMap  string
	scanLen int // bytes of one scan's JSON, for the bare publisher
}

// tableOf is a part's table, if it could be measured.
func tableOf[R interface{ table() string }](r R, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return r.table(), nil
}

// all makes the measurements of all parts; with quick of the first alone.
func (b *bench) all(ctx context.Context, quick, large bool) (*report, error) {
	rep, err := b.run(ctx, quick)
	if err != nil || quick {
		return rep, err
	}
	if rep.Modbus, err = b.measureModbus(ctx); err != nil {
		return nil, err
	}
	if rep.OPCUA, err = b.measureOPCUA(ctx); err != nil {
		return nil, err
	}
	rep.Buffer, err = b.measureBuffer(ctx, large)
	return rep, err
}

func (b *bench) prepare() error {
	bin, err := filepath.Abs(b.binary)
	if err != nil {
		return err
	}
	if _, err := os.Stat(bin); err != nil {
		return fmt.Errorf("no binary to measure: %w; run make build", err)
	}
	b.binary = bin
	if b.dir, err = os.MkdirTemp("", "millrace-bench-"); err != nil {
		return err
	}
	b.tagMap = filepath.Join(b.dir, "tags.csv")
	f, err := os.Create(b.tagMap)
	if err != nil {
		return err
	}
	fmt.Fprintln(f, "name,address,type")
	for i := range b.registers {
		fmt.Fprintf(f, "r%03d,holding:%d,uint16\n", i, i)
	}
	return f.Close()
}

func (b *bench) cleanUp() { _ = os.RemoveAll(b.dir) }

// run makes all measurements, one after the other.
func (b *bench) run(ctx context.Context, quick bool) (*report, error) {
	rep := newReport(b)
	const main = 100 * time.Millisecond
	note("%d devices × %d registers every %v, for %v", b.devices, b.registers, main, b.window)
	m, err := b.measure(ctx, "paced", main, b.window)
	if err != nil {
		return nil, err
	}
	rep.Paced = *m
	if err := b.yardsticks(ctx, rep, main); err != nil {
		return nil, err
	}
	if quick {
		return rep, nil
	}
	short := b.window / 3
	if rep.Outage, err = b.measureOutage(ctx, main, b.window); err != nil {
		return nil, err
	}
	clean := m
	for _, ms := range []int{20, 10, 8, 7, 6, 5, 4, 3, 2} {
		interval := time.Duration(ms) * time.Millisecond
		m, err := b.measure(ctx, "ladder", interval, short)
		if err != nil {
			return nil, err
		}
		rep.Ladder = append(rep.Ladder, *m)
		note("%v: %s", interval, m.short())
		if !m.Clean {
			break
		}
		clean = m
	}
	rep.Highest = *clean
	over := max(time.Duration(clean.IntervalMS*float64(time.Millisecond))/2, time.Millisecond)
	m, err = b.measure(ctx, "overload", over, 2*short)
	if err != nil {
		return nil, err
	}
	rep.Overload = *m
	// As much as the configuration allows to ask for.
	if m, err = b.measure(ctx, "saturated", time.Millisecond, 2*short); err != nil {
		return nil, err
	}
	rep.Saturated = *m
	return rep, nil
}

func note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
