package opcua

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"time"

	"millrace/protocols"
)

const (
	// historyRate is how many values a second are read at the most: the buffer
	// and the uplinks have the live ones to carry, too.
	historyRate = 10_000
	// historyRoom is how many reports may wait for the collector when one of
	// history is added. Live ones find the rest of the queue free.
	historyRoom = reportsRoom / 4
	// historyReport is how many readings one report has; more if they have one time.
	historyReport = 500
	// windowValues is how many values are wanted in one window of time, of all
	// tags of a device; what is read at once is at most some three times that.
	windowValues = 5_000
	// firstWindow is the first that is tried.
	firstWindow = 10 * time.Second
	// windowStep is what windows begin and end on: servers may keep no finer times.
	windowStep = time.Millisecond
	// settleTime is how long, beside two intervals, the first values of a new
	// subscription are waited for: they say where its gap ends.
	settleTime = 5 * time.Second
	settlePoll = 10 * time.Millisecond
	// historyTries is how often in a row a server may fail to answer before a
	// gap is given up.
	historyTries = 5
	historyRetry = 500 * time.Millisecond
)

// historian reads what was missed from the server's history, one request at
// a time. Its goroutine ends with the session; what it has not read then is
// read in the next.
type historian struct {
	bus    *bus
	reader *historyReader
	cancel context.CancelFunc
	done   chan struct{}

	devices map[*past]*filling // of this session
}

// filling is how the first gap of a device is being read in this session.
type filling struct {
	next    *gap      // that it waits for
	since   time.Time // that long
	gap     *gap      // that it reads
	limit   int64     // the server's time; what has no other end ends here
	started int64     // when the server was started, if it says so
	window  time.Duration
	failed  int // times in a row
	why     string
}

func newHistorian(b *bus, s *session) *historian {
	ctx, cancel := context.WithCancel(context.Background())
	h := &historian{
		bus: b, reader: newHistoryReader(b, s), cancel: cancel,
		done: make(chan struct{}), devices: map[*past]*filling{},
	}
	go h.run(ctx)
	return h
}

func (h *historian) stop() {
	h.cancel()
	<-h.done
}

func (h *historian) run(ctx context.Context) {
	defer close(h.done)
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-save.C:
			h.bus.savePasts(false)
		case <-h.bus.pasts.wake:
		}
		for h.turn(ctx) && ctx.Err() == nil {
			select {
			case <-save.C:
				h.bus.savePasts(false)
			default:
			}
		}
	}
}

// turn gives each device that has a gap one window. It is false when there
// is nothing to do.
func (h *historian) turn(ctx context.Context) bool {
	busy, waiting := false, false
	listening := h.bus.listening()
	maps.DeleteFunc(h.devices, func(p *past, _ *filling) bool { return !slices.Contains(listening, p) })
	for _, p := range listening {
		f := h.devices[p]
		if f == nil {
			f = &filling{}
			h.devices[p] = f
		}
		g := p.first()
		if g == nil {
			continue
		}
		if f.next != g {
			f.next, f.since = g, time.Now()
		}
		if f.gap != g && !h.ready(p, g, f) {
			waiting = true
			continue
		}
		busy = true
		if err := h.step(ctx, p, g, f); err != nil && ctx.Err() == nil {
			h.failed(ctx, p, g, f, err)
		}
		if ctx.Err() != nil {
			return false
		}
	}
	if waiting && !busy {
		pause(ctx, settlePoll)
	}
	return busy || waiting
}

// ready says whether the first values after the gap have come, or have been
// waited for long enough.
func (h *historian) ready(p *past, g *gap, f *filling) bool {
	if p.settled(g) {
		return true
	}
	longest := p.dev.Interval
	for i := range p.dev.Tags {
		longest = max(longest, p.dev.Tags[i].Interval)
	}
	return time.Since(f.since) > settleTime+min(2*longest, 10*time.Second)
}

// step reads one window of a gap, or finishes it.
func (h *historian) step(ctx context.Context, p *past, g *gap, f *filling) error {
	if f.gap != g {
		if err := h.begin(ctx, p, g, f); err != nil {
			return err
		}
	}
	w := h.reader.window(p, g, f)
	if w == nil {
		return h.finish(ctx, p, g, f)
	}
	if err := h.reader.fill(ctx, w); err != nil {
		return err
	}
	f.failed = 0
	f.window = w.next()
	return h.tell(ctx, p, g, w)
}

// begin finds out what of a gap can be read.
func (h *historian) begin(ctx context.Context, p *past, g *gap, f *filling) error {
	p.mu.Lock()
	tags := make([]int32, 0, len(g.spans))
	for i := range g.spans {
		tags = append(tags, g.spans[i].tag)
	}
	p.mu.Unlock()
	slices.Sort(tags)
	tags = slices.Compact(tags)
	now := h.bus.driver.o.Now()
	if len(tags) > 0 {
		var err error
		var started time.Time
		if now, started, err = h.reader.prepare(ctx, p, tags); err != nil {
			return err
		}
		f.started, _ = nanoseconds(started)
	}
	f.gap, f.limit, f.window = g, now.UnixNano(), firstWindow
	p.mu.Lock()
	defer p.mu.Unlock()
	g.begun = true
	oldest := now.Add(-p.dev.OPCUA.History).UnixNano()
	if g.at == 0 {
		g.at = math.MaxInt64
		for i := range g.spans {
			g.at = min(g.at, g.spans[i].from.time)
		}
		g.at = max(g.at, oldest)
		g.read, g.known = make(map[int32]struct{}), make(map[int32]struct{})
	}
	return nil
}

// failed waits before the next attempt, and gives a gap up that the server
// does not get anywhere with.
func (h *historian) failed(ctx context.Context, p *past, g *gap, f *filling, err error) {
	f.failed++
	e := h.bus.explain("reading the history", err)
	h.bus.log.Debug("reading the history", slog.String("device", p.dev.ID), slog.Any("error", e))
	f.window = max(f.window/2, windowStep)
	if f.failed < historyTries || e.Kind == protocols.KindNotConnected {
		pause(ctx, historyRetry)
		return
	}
	f.why = e.Text
	_ = h.finish(ctx, p, g, f)
}

// finish tells what became of a gap.
func (h *historian) finish(ctx context.Context, p *past, g *gap, f *filling) error {
	o := h.result(p, g, f)
	p.finish(f.limit)
	f.gap, f.failed, f.why = nil, 0, ""
	h.bus.savePasts(true)
	return h.send(ctx, protocols.Report{Device: p.dev, Time: h.bus.driver.o.Now(), History: true, Outage: &o})
}

// result is what is told of a gap at its end.
func (h *historian) result(p *past, g *gap, f *filling) protocols.Outage {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := g.result
	o.Cause, o.From, o.To, o.Read = g.cause, g.from, g.to, len(g.read)
	if p.marks == nil {
		o.Why = "its history is not read (history: 0s)"
		return o
	}
	// A tag counts once, by the worst that happened to it.
	const fine, partly, none = 0, 1, 2
	fate := map[int32]int{}
	why := map[int]string{}
	oldest := f.limit - int64(p.dev.OPCUA.History)
	for i := range g.spans {
		s := &g.spans[i]
		if s.unchanged() {
			continue
		}
		_, read := g.read[s.tag]
		_, known := g.known[s.tag]
		how := fine
		switch reason := h.reader.without(p, s.tag); {
		case reason != "":
			how = none
			why[none] = reason
		case f.why != "":
			how = partly
			why[partly] = f.why
		case max(s.from.time, g.from.UnixNano()) < oldest:
			how = partly
			why[partly] = fmt.Sprintf("it is longer ago than the history key says (%s)", p.dev.OPCUA.History)
		case !known && (!read || f.started > s.from.time):
			// Not even the value before the gap is in it.
			how = partly
			why[partly] = "the server's history has nothing of that time, or not all: it does not record it, or has lost it at a restart"
		}
		fate[s.tag] = max(fate[s.tag], how)
	}
	o.Tags, o.NoHistory = len(fate)+g.untimed, g.untimed
	if g.untimed > 0 && why[none] == "" {
		why[none] = "the server gives their values no time"
	}
	for _, how := range fate {
		switch how {
		case partly:
			o.Partly++
		case none:
			o.NoHistory++
		}
	}
	for _, how := range [...]int{partly, none} {
		if o.Why == "" {
			o.Why = why[how]
		}
	}
	return o
}

// unchanged says that nothing was missed of the tag: the first value after
// the gap is the last one before it.
func (s *span) unchanged() bool {
	return s.from.time == s.to.time && s.from.count > 0 && s.to.count > 0 && (s.from.first == s.to.first || s.from.first == 0)
}

// tell hands over what a window brought, in the order of time.
func (h *historian) tell(ctx context.Context, p *past, g *gap, w *window) error {
	list := w.values
	slices.SortStableFunc(list, bySource)
	for lo := 0; lo < len(list); {
		hi := min(lo+historyReport, len(list))
		for hi < len(list) && list[hi].Source == list[hi-1].Source {
			hi++
		}
		part := list[lo:hi:hi]
		upTo := part[len(part)-1].Source + 1
		tags := make([]int32, len(part)) // the receiver owns the readings
		for i := range part {
			tags[i] = part[i].Tag
		}
		if err := h.send(ctx, protocols.Report{Device: p.dev, Time: w.arrived, Readings: part, History: true}); err != nil {
			return err
		}
		p.mu.Lock()
		g.at = upTo
		g.result.Values += uint64(len(part))
		for _, tag := range tags {
			g.read[tag] = struct{}{}
		}
		p.changed = true
		p.mu.Unlock()
		lo = hi
	}
	p.mu.Lock()
	g.at = max(g.at, w.end)
	maps.Copy(g.known, w.known)
	p.mu.Unlock()
	return nil
}

func bySource(a, b protocols.Reading) int {
	if a.Source != b.Source {
		return cmp.Compare(a.Source, b.Source)
	}
	return cmp.Compare(a.Tag, b.Tag)
}

// send hands over a report when few others wait.
func (h *historian) send(ctx context.Context, r protocols.Report) error {
	for len(h.bus.reports) > historyRoom {
		pause(ctx, time.Millisecond)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	select {
	case h.bus.reports <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
