package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// target is a figure that was asked for, and what was seen.
type target struct {
	what        string
	asked, seen float64
	most        bool // it is to be at most asked; else at least
}

func (t *target) met() bool {
	if t.most {
		return t.seen <= t.asked
	}
	return t.seen >= t.asked
}

// targets holds what the buffer reached against what was asked of it. What
// was not measured is not in it.
func (r *bufferReport) targets() (all []target) {
	for _, f := range r.Floods {
		asked := 2e6
		if f.Batch <= 20 {
			asked = 300e3
		}
		all = append(all,
			target{fmt.Sprintf("append to durable, batches of %d, readings/s", f.Batch), asked, f.Readings, false},
			target{fmt.Sprintf("allocations per batch of %d, bbolt's included", f.Batch), 1, f.AllocsPerBatch, true})
	}
	for _, p := range r.Paces {
		name := p.Name + ", " + p.Store
		switch {
		case p.Store == storeBolt:
		case p.Store != storeOffline:
			all = append(all, target{name + ": written a second, bytes", 1024, p.PerSecond, true})
		default:
			all = append(all, target{name + ": beside the compressed, KiB/commit", 24, p.BesideCommit / 1024, true})
			if p.Readings < 100e3 {
				continue
			}
			asked := 3.0
			if strings.Contains(p.Name, "float") {
				asked = 6
			}
			all = append(all, target{name + ": written a reading, bytes", asked, p.PerReading, true})
		}
	}
	for _, d := range r.Drains {
		name := fmt.Sprintf("backlog of %d MiB", d.MiB)
		all = append(all, target{name + ": peak memory, MiB", 64, d.PeakMiB, true}, target{name + ": first message, ms", 1000, float64(d.StartMS), true})
		if d.Bare > 0 {
			all = append(all, target{name + ": share of the bare publisher", 0.8, d.Share, false})
		}
	}
	for _, l := range r.Lives {
		all = append(all, target{"live_first, " + lineText(l.Bits) + ": live p99, ms", 1000, float64(l.P99MS), true})
	}
	return all
}

func targetsTable(part string, all []target) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s: what was asked for\n\n", part)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tasked\tseen\t")
	for _, t := range all {
		bound, verdict := "at least", "met"
		if t.most {
			bound = "at most"
		}
		if !t.met() {
			verdict = "MISSED"
		}
		fmt.Fprintf(w, "%s\t%s %.4g\t%.4g\t%s\n", t.what, bound, t.asked, t.seen, verdict)
	}
	_ = w.Flush() // a strings.Builder takes everything
	return b.String()
}
