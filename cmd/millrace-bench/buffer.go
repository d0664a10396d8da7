package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// bufferReport is the buffer's part of the report.
type bufferReport struct {
	Floods []flood `json:"append_to_durable_on_one_core"`
	Paces  []pace  `json:"written_at_a_steady_load"`
	Drains []drain `json:"drains"`
	Lives  []live  `json:"lives"`
}

// Sizes of the backlogs, in MiB. The small one shows what memory does not
// depend on.
const (
	smallBacklog = 10
	mainBacklog  = 1 << 10
	largeBacklog = 10 << 10
)

// measureBuffer measures the buffer alone, with a bare bbolt as the
// yardstick, and then the agent that drains a backlog, with a bare publisher
// as the yardstick.
func (b *bench) measureBuffer(ctx context.Context, large bool) (*bufferReport, error) {
	r := &bufferReport{}
	for _, tags := range []int{1000, 20} {
		note("append to durable, batches of %d readings, one core; then bare bbolt", tags)
		f, err := b.flood(ctx, tags)
		if err != nil {
			return nil, err
		}
		r.Floods = append(r.Floods, *f)
	}
	note("bytes written at a steady load, for %v", b.window)
	var err error
	if r.Paces, err = b.paces(ctx); err != nil {
		return nil, err
	}
	sizes := []int{smallBacklog, mainBacklog}
	if large {
		sizes = append(sizes, largeBacklog)
	}
	for _, mib := range sizes {
		note("the agent drains a backlog of %d MiB; then the bare publisher", mib)
		d, err := b.measureDrain(ctx, mib, b.window/2)
		if err != nil {
			return nil, err
		}
		r.Drains = append(r.Drains, *d)
	}
	r.Lives, err = b.measureLives(ctx)
	return r, err
}

func (b *bench) flood(ctx context.Context, tags int) (*flood, error) {
	var f, bare flood
	seconds := strconv.Itoa(int(b.window.Seconds()/3) + 1)
	if err := b.child(ctx, 1, &f, roleFlood, storeOffline, strconv.Itoa(tags), seconds); err != nil {
		return nil, err
	}
	if err := b.child(ctx, 1, &bare, roleFlood, storeBolt, strconv.Itoa(tags), seconds); err != nil {
		return nil, err
	}
	f.ReadingsBareBolt = bare.Readings
	return &f, nil
}

// paces measures the steady loads, all at the same time: they take little.
func (b *bench) paces(ctx context.Context) ([]pace, error) {
	loads := []struct {
		name, store, values     string
		devices, tags, interval int
	}{
		{"1,000 tags at 1 s, uint16", storeOnline, slowUint16, 2, 500, 1000},
		{"1,000 tags at 1 s, uint16", storeOffline, slowUint16, 2, 500, 1000},
		{"1,000 tags at 1 s, uint16", storeBolt, slowUint16, 2, 500, 1000},
		{"1,000 tags at 1 s, float32", storeOffline, randomFloat, 2, 500, 1000},
		{"200 × 500 at 1 s, uint16", storeOnline, slowUint16, 200, 500, 1000},
		{"200 × 500 at 1 s, uint16", storeOffline, slowUint16, 200, 500, 1000},
		{"200 × 500 at 1 s, uint16", storeBolt, slowUint16, 200, 500, 1000},
		{"20 × 500 at 100 ms, uint16", storeOffline, slowUint16, 20, 500, 100},
		{"200 × 500 at 1 s, float32", storeOffline, randomFloat, 200, 500, 1000},
	}
	out, errs := make([]pace, len(loads)+1), make([]error, len(loads))
	seconds := strconv.Itoa(int(b.window.Seconds()))
	var wg sync.WaitGroup
	for i, l := range loads {
		wg.Go(func() {
			errs[i] = b.child(ctx, 0, &out[i], rolePace, l.store, l.values,
				strconv.Itoa(l.devices), strconv.Itoa(l.tags), strconv.Itoa(l.interval), seconds)
			out[i].Name = l.name
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	// The same once more for the whole agent, as the kernel counts it.
	quiet := *b
	quiet.devices = 2
	m, err := quiet.measure(ctx, "quiet", time.Second, b.window/2)
	if err != nil {
		return nil, err
	}
	perSecond := m.DiskPerReading * m.Delivered
	out[len(loads)] = pace{
		Name: "1,000 tags at 1 s, uint16", Store: "the agent, online", Readings: m.Offered, Seconds: m.Seconds,
		PerSecond: perSecond, WriteCalls: perSecond, PerDay: perSecond * 86400, CPUMilliPerSec: m.AgentCPUSeconds * 1000 / m.Seconds,
	}
	return out, nil
}

func (r *bufferReport) table() string {
	var b strings.Builder
	b.WriteString("\nbuffer: append to durable, commits of 1 s, one core\n\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "readings/batch\treadings/s\tbare bbolt/s\tCPU s/million\tallocs/batch\twritten B/reading\t")
	for _, f := range r.Floods {
		fmt.Fprintf(w, "%d\t%.0f\t%.0f\t%.4f\t%.2f\t%.2f\t\n", f.Batch, f.Readings, f.ReadingsBareBolt, f.CPUPerMillion, f.AllocsPerBatch, f.WrittenPerRead)
	}
	_ = w.Flush() // a strings.Builder takes everything
	b.WriteString("\nbuffer: bytes passed to write calls; a day is scaled from the window\n\n")
	fmt.Fprintln(w, "load\tstore\treadings/s\twritten/s\tB/reading\tKiB/commit\tcompressed\tbeside\tkernel says/s\tMiB/day\tCPU ms/s\t")
	for _, p := range r.Paces {
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%.0f\t%.2f\t%.1f\t%.1f\t%.1f\t%.0f\t%.1f\t%.1f\t\n", p.Name, p.Store, p.Readings, p.PerSecond, p.PerReading,
			p.PerCommit/1024, p.PackedCommit/1024, p.BesideCommit/1024, p.WriteCalls, p.PerDay/(1<<20), p.CPUMilliPerSec)
	}
	_ = w.Flush()
	b.WriteString("\nbuffer: the agent drains a backlog of scans of 500 uint16 that do not compress; window of 64\n\n")
	fmt.Fprintln(w, "backlog MiB\tbatches\tfirst message ms\tmessages/s\tbare publisher/s\tshare\tCPU µs/message\tbare\tpeak MiB\t")
	for _, d := range r.Drains {
		fmt.Fprintf(w, "%d\t%d\t%d\t%.0f\t%.0f\t%.2f\t%.1f\t%.1f\t%.1f\t\n", d.MiB, d.Batches, d.StartMS, d.Messages, d.Bare, d.Share, d.CPUPerMessage, d.BareCPU, d.PeakMiB)
	}
	_ = w.Flush()
	return b.String() + livesTable(r.Lives) + targetsTable("buffer", r.targets())
}
