package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"millrace/buffer"
)

// text is the look as people read it.
func (l *bufferLook) text(now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Buffer %s", l.Dir)
	if l.Gateway != "" {
		fmt.Fprintf(&b, " of gateway %s", l.Gateway)
	}
	b.WriteString("\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if l.Live {
		fmt.Fprintf(w, "  agent\trunning\n")
	} else {
		fmt.Fprintf(w, "  agent\tnot running; this is what its files say\n")
	}
	fmt.Fprintf(w, "  on disk\t%s\n", l.diskText())
	if m := l.Memory; m != nil {
		fmt.Fprintf(w, "  in memory\t%s\n", memoryText(m, l.Live))
		if m.DiskError != "" {
			fmt.Fprintf(w, "  DISK\t%s\n", m.DiskError)
		}
	}
	fmt.Fprintf(w, "  waiting\t%s\n", l.waitingText(now))
	if l.Forecast != nil {
		fmt.Fprintf(w, "  outlook\t%s\n", l.outlookText(now))
	}
	flushText(w)
	l.uplinksText(&b, now)
	l.streamsText(&b)
	l.lossText(&b)
	l.asideText(&b)
	return b.String()
}

// flushText ends a table.
func flushText(w *tabwriter.Writer) { _ = w.Flush() } // a strings.Builder takes everything

func (l *bufferLook) diskText() string {
	text := sizeText(l.Bytes)
	if l.MaxBytes > 0 {
		text += fmt.Sprintf(" of %s (%.1f %%)", sizeText(l.MaxBytes), 100*float64(l.Bytes)/float64(l.MaxBytes))
	}
	return text + ", " + amount(uint64(l.Segments), "file", "files") + " of batches"
}

// memoryText says what only the memory has.
func memoryText(m *buffer.MemoryLook, live bool) string {
	switch {
	case !live:
		return fmt.Sprintf("%s, %s, left by an agent that was killed; its next start saves them", amount(uint64(m.Batches), "batch", "batches"), sizeText(m.Bytes))
	case m.Only == 0:
		return "nothing that waits is only there"
	}
	return amount(m.Only, "batch is", "batches are") + " only there: a power cut now would take them"
}

func (l *bufferLook) waitingText(now time.Time) string {
	switch {
	case l.StateError != "":
		return "not known: " + l.StateError
	case l.unknown() && l.Batches == 0:
		return "not known: " + l.unknownText()
	case l.unknown():
		return fmt.Sprintf("not known: at least %s; %s", amount(l.Batches, "batch", "batches"), l.unknownText())
	case len(l.Uplinks) == 0:
		return "nothing: there is no uplink"
	case l.Batches == 0:
		return "nothing"
	}
	return amount(l.Batches, "batch", "batches") + ", the oldest from " + sinceText(l.Oldest, now)
}

// unknown tells whether more may wait for some uplink than was counted.
func (l *bufferLook) unknown() bool {
	return slices.ContainsFunc(l.Uplinks, func(u buffer.UplinkLook) bool { return u.Unknown })
}

// unknownText says why it is not known what waits.
func (l *bufferLook) unknownText() string {
	var why []string
	if n := uint64(len(l.Unread)); n > 0 {
		why = append(why, amount(n, "file", "files")+" cannot be read")
	}
	if n := uint64(len(l.Gone)); n > 0 {
		why = append(why, amount(n, "file is", "files are")+" gone")
	}
	return strings.Join(why, ", ")
}

// outlookText is the buffer in time, as the page says it.
func (l *bufferLook) outlookText(now time.Time) string {
	f := l.Forecast
	lost := "full: the oldest batches are being lost, because " + l.limitText(f.FullLimit)
	switch {
	case !f.Known && buffer.Trend(f.Trend) == buffer.TrendFull:
		return lost
	case !f.Known:
		return "not known yet: that takes a minute of readings"
	}
	whole := "an empty buffer holds an outage of " + aboutText(f.Holds) + " at the present rate"
	if limit := l.limitText(f.HoldsLimit); limit != "" {
		whole += ", until " + limit
	}
	switch buffer.Trend(f.Trend) {
	case buffer.TrendFilling:
		if f.Full == 0 {
			return "filling, but so slowly that no limit is near; " + whole
		}
		return fmt.Sprintf("full %s, if it goes on like this: then %s and the oldest batches are lost; %s",
			whenText(now, f.Left), l.limitText(f.FullLimit), whole)
	case buffer.TrendFull:
		return lost + "; " + whole
	case buffer.TrendDraining:
		return fmt.Sprintf("empty %s, if the uplinks go on like this; %s", whenText(now, f.Drained), whole)
	case buffer.TrendStanding:
		return "the backlog stands: the uplink takes as much as comes in, and no more; " + whole
	case buffer.TrendUnknown, buffer.TrendEmpty:
	}
	return whole
}

// limitText says what a limit means; "" for none.
func (l *bufferLook) limitText(limit string) string {
	switch buffer.Limit(limit) {
	case buffer.LimitSize:
		return "its files reach max_size (" + sizeText(l.MaxBytes) + ")"
	case buffer.LimitAge:
		return "the oldest readings reach max_age"
	case buffer.LimitSpace:
		return "the disk is full: it has less room than max_size"
	case buffer.LimitMemory:
		return "the memory for readings is full, as the disk takes none"
	case buffer.LimitNone:
	}
	return ""
}

// aboutText is a forecast's time, no finer than it is worth. The page rounds
// alike, halves up.
func aboutText(seconds float64) string {
	const minute, hour, day = 60, 3600, 86400
	switch {
	case seconds < 1:
		return "less than a second"
	case seconds < 2*minute:
		return fmt.Sprintf("%.0f s", math.Round(seconds))
	case seconds < 2*hour:
		return fmt.Sprintf("%.0f min", math.Round(seconds/minute))
	case seconds < 3*day:
		return fmt.Sprintf("%.0f h", math.Round(seconds/hour))
	case seconds < 365*day:
		return fmt.Sprintf("%.0f days", math.Round(seconds/day))
	}
	return "more than a year"
}

// whenText is when that will be, to the minute or, when it is far away, to
// ten.
func whenText(now time.Time, seconds float64) string {
	if seconds < 2 {
		return "now"
	}
	step := time.Minute
	if seconds >= 7200 {
		step = 10 * time.Minute
	}
	at := now.Add(time.Duration(seconds * float64(time.Second))).Round(step)
	return fmt.Sprintf("at %s, in %s", at.UTC().Format("2006-01-02 15:04 UTC"), aboutText(seconds))
}

func (l *bufferLook) uplinksText(b *strings.Builder, now time.Time) {
	if len(l.Uplinks) == 0 {
		return
	}
	b.WriteString("\n")
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "UPLINK\tSTATE\tWAITING\tIN FILES OF\tOLDEST\tACKNOWLEDGED\n")
	for i := range l.Uplinks {
		u := &l.Uplinks[i]
		state, oldest := "-", "-"
		switch {
		case u.Connected:
			state = "connected"
		case l.Live:
			state = "not connected"
		}
		if u.Oldest != 0 {
			oldest = sinceText(u.Oldest, now)
		}
		waiting := numberText(u.Batches)
		if u.Unknown {
			waiting = "not known"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", u.Name, state, waiting, sizeText(u.Bytes), oldest, numberText(u.Acked))
	}
	flushText(w)
}

func (l *bufferLook) streamsText(b *strings.Builder) {
	if len(l.Streams) > 0 {
		b.WriteString("\n")
		w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "STREAM (A RUN OF THE AGENT)\tBATCHES\tREADINGS\tFROM\tTO\tSIZE\n")
		for _, s := range l.Streams {
			fmt.Fprintf(w, "%s\t%d to %d\t%s\t%s\t%s\t%s\n", s.Stream, s.First, s.Last, numberText(s.Readings),
				momentText(s.Oldest), momentText(s.Newest), sizeText(s.Bytes))
		}
		flushText(w)
	}
	for _, name := range l.Gone {
		fmt.Fprintf(b, "\n%s is gone: state.db knows it, and not all in it was delivered. Put it back before the next start, or the platform gets a gap notice.\n", name)
	}
	for _, name := range l.Unread {
		fmt.Fprintf(b, "\n%s cannot be read. What is wrong with it: millrace buffer verify %s\n", name, l.Dir)
	}
}

// reasonText says what a reason of a gap means.
func reasonText(reason string) string {
	switch reason {
	case buffer.ReasonFull:
		return "the buffer was full: raise buffer.max_size"
	case buffer.ReasonOld:
		return "older than buffer.max_age"
	case buffer.ReasonDamaged:
		return "the file was damaged"
	case buffer.ReasonDisk:
		return "the disk took nothing and the memory was full"
	case "crash":
		return "the agent died, and its memory was not found"
	}
	return reason
}

func (l *bufferLook) lossText(b *strings.Builder) {
	if m := l.Memory; m != nil && len(m.Dropped) > 0 {
		b.WriteString("\nLost since the agent's start:\n")
		for _, reason := range slices.Sorted(maps.Keys(m.Dropped)) {
			fmt.Fprintf(b, "  %s, %s (%s)\n", amount(m.Dropped[reason], "reading", "readings"), reason, reasonText(reason))
		}
	}
	for i := range l.Uplinks {
		u := &l.Uplinks[i]
		if len(u.Gaps) == 0 {
			continue
		}
		fmt.Fprintf(b, "\nLost, and still to be told to uplink %s:\n", u.Name)
		for j, g := range u.Gaps {
			if j == maxShown && len(u.Gaps) > maxShown+1 {
				fmt.Fprintf(b, "  … and %d more\n", len(u.Gaps)-j)
				break
			}
			fmt.Fprintf(b, "  batches %d to %d of %s, %s: %s (%s)\n", g.From, g.To, g.Stream, gapReadings(&g), g.Reason, reasonText(g.Reason))
		}
	}
}

func gapReadings(g *buffer.Gap) string {
	if g.Readings == 0 {
		return "number of readings not known"
	}
	return amount(g.Readings, "reading", "readings")
}

func (l *bufferLook) asideText(b *strings.Builder) {
	if len(l.SetAside) == 0 {
		return
	}
	b.WriteString("\nDamaged files that were set aside:\n")
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, f := range l.SetAside {
		fmt.Fprintf(w, "  %s\t%s\n", f.Name, sizeText(f.Bytes))
	}
	flushText(w)
	fmt.Fprintf(b, "What was readable in them was saved. To have a look yourself: millrace buffer export --salvage %s\nThen they may be deleted; the agent deletes them itself when it needs the room.\n", l.Dir)
}

// amount is a number of something.
func amount(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return numberText(n) + " " + many
}

// numberText is a number with its thousands apart.
func numberText(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// sizeText is a size as people read it.
func sizeText(n int64) string {
	const k = 1 << 10
	switch {
	case n < k:
		return fmt.Sprintf("%d B", n)
	case n < k*k:
		return fmt.Sprintf("%.1f KiB", float64(n)/k)
	case n < k*k*k:
		return fmt.Sprintf("%.1f MiB", float64(n)/(k*k))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(k*k*k))
}

// momentText is a time in Unix ms.
func momentText(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05 UTC") }

// sinceText is a time in Unix ms and how long ago it was.
func sinceText(ms int64, now time.Time) string {
	ago := now.Sub(time.UnixMilli(ms))
	if ago < 0 {
		return momentText(ms) // by another clock
	}
	return fmt.Sprintf("%s (%s ago)", momentText(ms), agoText(ago))
}

func agoText(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// reportText is a verification as people read it.
func reportText(dir string, r *buffer.Report) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for i := range r.Files {
		f := &r.Files[i]
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Name, sizeText(f.Bytes), fileText(f))
	}
	flushText(w)
	for _, l := range r.Lost {
		fmt.Fprintf(&b, "MISSING: batches %d to %d of %s should be in the files and are not\n", l.From, l.To, l.Stream)
	}
	if len(r.Files) > 0 {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%s\n", verdict(dir, r))
	return b.String()
}

func fileText(f *buffer.FileReport) string {
	text := ""
	switch {
	case f.Kind == buffer.KindState && len(f.Faults) == 0:
		return "good: the places of the uplinks"
	case f.Kind == buffer.KindLeftOver:
		return "left by a crash, of no use: the next start deletes it"
	case f.Batches > 0:
		text = fmt.Sprintf("%s, %s", rangeText(f), amount(f.Readings, "reading", "readings"))
	default:
		text = "nothing readable"
	}
	switch {
	case f.Kind == buffer.KindSetAside && f.Stream == "":
		return "set aside by the agent"
	case f.Kind == buffer.KindSetAside:
		return "set aside by the agent; readable: " + text
	case f.Kind == buffer.KindState:
		return "DAMAGED: " + strings.Join(f.Faults, "; ")
	case len(f.Faults) > 0:
		return "DAMAGED: " + strings.Join(f.Faults, "; ") + "; readable: " + text
	case f.Active:
		return "good, being written: " + text
	}
	return "good: " + text
}

// rangeText is which batches of a file are readable. There may be holes, also
// good ones: what was acknowledged in time was never written.
func rangeText(f *buffer.FileReport) string {
	if all := f.Last - f.First + 1; f.Batches != all {
		return fmt.Sprintf("%s of the batches %d to %d", numberText(f.Batches), f.First, f.Last)
	}
	return fmt.Sprintf("batches %d to %d", f.First, f.Last)
}

// verdict is the last word, and what to do next.
func verdict(dir string, r *buffer.Report) string {
	read := fmt.Sprintf("%s with %s", amount(r.Batches, "batch", "batches"), amount(r.Readings, "reading", "readings"))
	if !r.Damaged {
		return "All is in order: " + read + "."
	}
	state := slices.ContainsFunc(r.Files, func(f buffer.FileReport) bool { return f.Kind == buffer.KindState && len(f.Faults) > 0 })
	text := "Damage was found. Readable are " + read + ".\n"
	if len(r.Lost) > 0 {
		missing := uint64(0)
		for _, l := range r.Lost {
			missing += l.To - l.From + 1
		}
		text += fmt.Sprintf("Missing for good: %s. The platform gets a gap notice for them.\n", amount(missing, "batch", "batches"))
	}
	if state {
		text += "Without state.db, the agent begins again with the oldest batch: the platform gets some of them twice.\n"
	}
	return text + "The agent repairs what it can by itself at its next start, or as it reads on. A copy of all that is readable: millrace buffer export --salvage " + dir
}
