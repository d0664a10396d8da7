package main

import (
	"fmt"
	"runtime"
	"strings"
	"text/tabwriter"
)

// report is everything that was measured in one run.
type report struct {
	Machine    string        `json:"machine"`
	Devices    int           `json:"devices"`
	Registers  int           `json:"registers"`
	Paced      measurement   `json:"paced"`
	Yardsticks []yardstick   `json:"yardsticks"`
	Outage     *outage       `json:"outage,omitempty"`
	Ladder     []measurement `json:"ladder,omitempty"`
	Highest    measurement   `json:"highest_clean"`
	Overload   measurement   `json:"overload"`
	Saturated  measurement   `json:"saturated"`
	Modbus     *modbusReport `json:"modbus,omitempty"`
	OPCUA      *opcuaReport  `json:"opcua,omitempty"`
	Buffer     *bufferReport `json:"buffer,omitempty"`
}

func newReport(b *bench) *report {
	return &report{
		Machine: fmt.Sprintf("%s/%s, %d cores, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version()),
		Devices: b.devices, Registers: b.registers,
	}
}

func (r *report) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d devices × %d holding registers (uint16), JSON, one subscriber; simulator, Mosquitto and agent on one machine (%s)\n\n", r.Devices, r.Registers, r.Machine)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "run\tinterval ms\toffered/s\tdelivered/s\tCPU s/million\tpeak MiB\twire B\tdisk B\tp50 ms\tp99 ms\tmissed\tlag\tclean\t")
	row := func(name string, m *measurement) {
		if m.Seconds == 0 {
			return
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t%.3f\t%.1f\t%.1f\t%.2f\t%d\t%d\t%d\t%d\t%v\t\n", name, m.IntervalMS, m.Offered, m.Delivered,
			m.CPUPerMillion, m.PeakMiB, m.WirePerReading, m.DiskPerReading, m.P50MS, m.P99MS, m.Missed, m.Lag, m.Clean)
	}
	row("paced", &r.Paced)
	for i := range r.Ladder {
		row("ladder", &r.Ladder[i])
	}
	row("highest clean", &r.Highest)
	row("twice that", &r.Overload)
	row("saturated", &r.Saturated)
	_ = w.Flush() // a strings.Builder takes everything
	b.WriteString("\n")
	var floor float64
	for _, y := range r.Yardsticks {
		floor += y.CPUPerMillion
		fmt.Fprintf(&b, "yardstick: %-46s %.3f s CPU per million readings\n", y.Name, y.CPUPerMillion)
	}
	if floor > 0 {
		fmt.Fprintf(&b, "the agent uses %.2f times what the two together do, with decoding, buffering and JSON\n", r.Paced.CPUPerMillion/floor)
	}
	fmt.Fprintf(&b, "first reading at the broker %d ms after the start of the process\n", r.Paced.FirstReadingMS)
	if o := r.Outage; o != nil {
		fmt.Fprintf(&b, "broker away: %.0f readings/s buffered, %.3f s CPU per million, %.2f bytes written and %.2f bytes of buffer per reading; back: %.0f readings drained in %.1f s (%.0f/s, beside the live ones), peak %.1f MiB\n",
			o.Readings, o.CPUPerMillion, o.WrittenPerRead, o.BufferPerRead, o.BacklogReadings, o.DrainedSeconds, o.DrainedPerSec, o.PeakMiB)
	}
	if r.Overload.Seconds > 0 {
		fmt.Fprintf(&b, "under twice the highest clean load it delivers %.0f %% of the highest clean rate\n", 100*r.Overload.Delivered/r.Highest.Delivered)
	}
	if r.Modbus != nil {
		b.WriteString(r.Modbus.table())
	}
	if r.OPCUA != nil {
		b.WriteString(r.OPCUA.table())
	}
	if r.Buffer != nil {
		b.WriteString(r.Buffer.table())
	}
	return b.String()
}
