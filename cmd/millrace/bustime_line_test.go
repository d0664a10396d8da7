package main

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"testing"
	"time"

	"millrace/collector"
	"millrace/configs"
	"millrace/protocols/modbus/modbustest"
	"millrace/protocols/mqtt/mqtttest"
)

// nowhere is a collector.Appender that keeps nothing.
type nowhere struct{}

func (nowhere) PutSchema(uint64, []byte) error          { return nil }
func (nowhere) Append(int64, uint64, int, []byte) error { return nil }

// TestPredictionHolds compares what check says of a serial line with what a
// simulated one shows that has no time left: within 15 %, with all units
// healthy and with some dead. It is not run beside other tests: what it
// measures is time.
func TestPredictionHolds(t *testing.T) {
	const units, registers = 16, 10
	for _, baud := range []int{9600, 19200} {
		for _, dead := range []int{0, 4} {
			t.Run(fmt.Sprintf("%d baud, %d dead", baud, dead), func(t *testing.T) {
				t.Parallel()
				// Tests of other packages may take the processor, so that the line
				// is asked later than it could be.
				const tries = 5
				for try := 1; ; try++ {
					got, want := roundTime(t, baud, units, registers, dead)
					off := got.Seconds()/want.Seconds() - 1
					t.Logf("a round takes %v; predicted is %v (%+.1f %%)", got, want, 100*off)
					if math.Abs(off) < 0.15 {
						return
					}
					if try == tries {
						t.Fatalf("a round takes %v, but check predicts %v", got, want)
					}
				}
			})
		}
	}
}

// roundTime reads units on a line of which the last ones are dead, as fast
// as that goes, and returns what one round takes, and what check predicts.
func roundTime(t *testing.T, baud, units, registers, dead int) (got, want time.Duration) {
	t.Helper()
	s := modbustest.NewServer()
	defer func() { _ = s.Close() }()
	l, err := modbustest.OpenLine(modbustest.LineOptions{Baud: baud, Turnaround: turnaround})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for id := 1; id <= units-dead; id++ {
		s.Unit(uint8(id)).Holding.Set(0, make([]uint16, registers)...)
	}
	s.ServeLine(l)
	text := "gateway: {id: gw-1}\ndevices:\n"
	for i := range units {
		text += fmt.Sprintf("  - {id: meter-%d, driver: modbus, endpoint: %q, unit: %d, interval: 100ms, timeout: 100ms, tags: [{name: x, address: \"holding:0\", type: \"uint16[%d]\"}]}\n",
			i+1, l.URL(), i+1, registers)
	}
	cfg, err := configs.Parse("line.yaml", []byte(text), t.TempDir(), checkers())
	if err != nil {
		t.Fatal(err)
	}
	scans := slices.Concat(fieldBuses(cfg, drivers(slog.New(slog.DiscardHandler), "", "", nil, nil))[0].scans...)
	want = timeOf(scans).cycle
	if dead > 0 {
		want = withDead(scans, dead).cycle
	}

	c := collector.New(collector.Options{
		Drivers: drivers(slog.New(slog.DiscardHandler), "", "", nil, nil), Appender: nowhere{}, Log: slog.New(slog.DiscardHandler),
		State: func(collector.DeviceState) {},
	})
	if err := c.Apply(cfg.Devices); err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	healthy := func() (scans uint64) {
		for _, d := range c.Status()[:units-dead] {
			scans += d.Scans
		}
		return scans
	}
	mqtttest.WaitFor(t, "all units to be known, dead or alive", func() bool {
		for _, d := range c.Status() {
			if d.Scans == 0 {
				return false
			}
		}
		return true
	})
	// So many rounds that the probes of dead units, of which there is one
	// every 2 s, are as many as there should be.
	rounds := map[bool]int{false: 3, true: 6}[dead > 0] * baud / 9600
	l.ResetStats()
	begin, start := healthy(), time.Now()
	mqtttest.WaitFor(t, "some rounds", func() bool { return healthy() >= begin+uint64(rounds*(units-dead)) })
	wall := time.Since(start) - l.Stats().Lag
	return wall * time.Duration(units-dead) / time.Duration(healthy()-begin), want
}
