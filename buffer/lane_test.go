package buffer

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// thinLink is a Publisher over a link that takes so long for each message,
// one after the other, and so long for the way there and back. It has a window
// as an uplink has, and says what is historical when a message gets into it.
type thinLink struct {
	each, way time.Duration
	window    int

	mu       sync.Mutex
	got      []arrival
	sessions []int     // index in got of each session's first
	stalled  time.Time // nothing moves until then

	room  chan struct{}
	queue chan message
	acks  chan ack
	lost  chan struct{}
	wg    sync.WaitGroup
}

type message struct {
	token uint64
	sent  time.Time
	arrival
}

type ack struct {
	token uint64
	due   time.Time
}

// arrival is a record (or a gap) at the far side.
type arrival struct {
	stream     string
	seq, to    uint64
	gap        string
	historical bool
	delay      time.Duration // from the record's time to its arrival
}

func (l *thinLink) Connect(_ context.Context, acked func(uint64)) (<-chan struct{}, error) {
	l.mu.Lock()
	l.sessions = append(l.sessions, len(l.got))
	l.mu.Unlock()
	l.queue, l.acks = make(chan message, l.window), make(chan ack, l.window)
	l.room, l.lost = make(chan struct{}, l.window), make(chan struct{})
	queue, acks, lost, room := l.queue, l.acks, l.lost, l.room
	l.wg.Go(func() {
		defer close(acks)
		for m := range queue {
			<-time.After(l.each + l.stall())
			select {
			case <-lost:
				continue
			default:
			}
			m.delay += time.Since(m.sent)
			l.mu.Lock()
			l.got = append(l.got, m.arrival)
			l.mu.Unlock()
			acks <- ack{m.token, time.Now().Add(l.way)}
		}
	})
	l.wg.Go(func() {
		for a := range acks {
			<-time.After(time.Until(a.due))
			select {
			case <-lost:
			default:
				<-room
				acked(a.token)
			}
		}
	})
	return l.lost, nil
}

func (l *thinLink) stall() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(time.Until(l.stalled), 0)
}

func (l *thinLink) enter(ctx context.Context) error {
	select {
	case <-l.lost:
		return errLost
	case <-ctx.Done():
		return ctx.Err()
	case l.room <- struct{}{}:
		return nil
	}
}

func (l *thinLink) Send(ctx context.Context, token uint64, r Record) error {
	if err := l.enter(ctx); err != nil {
		return err
	}
	age := time.Since(time.UnixMilli(r.Time))
	l.queue <- message{token, time.Now(), arrival{stream: r.Stream, seq: r.Seq, to: r.Seq, historical: age > HistoricalAfter, delay: age}}
	return nil
}

func (l *thinLink) SendGap(ctx context.Context, token uint64, g Gap) error {
	if err := l.enter(ctx); err != nil {
		return err
	}
	l.queue <- message{token, time.Now(), arrival{stream: g.Stream, seq: g.From, to: g.To, gap: g.Reason}}
	return nil
}

func (l *thinLink) Disconnect() {
	select {
	case <-l.lost:
	default:
		close(l.lost)
	}
	close(l.queue)
	l.wg.Wait()
}

func (l *thinLink) arrivals() []arrival {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.got)
}

// cut ends the session, if there is one.
func (l *thinLink) cut() { close(l.lost) }

// run forwards to l until stop is called.
func (l *thinLink) run(t *testing.T, b *Buffer, o ForwardOptions) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.Forward(ctx, "a", l, o); err != nil {
			t.Error(err)
		}
	})
	return func() { cancel(); wg.Wait() }
}

// field appends a record each period until stop is called.
func field(t *testing.T, b *Buffer, period time.Duration) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(period)
		defer tick.Stop()
		for i := uint64(0); ; i++ {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				if _, err := b.Append(Record{Time: now.UnixMilli(), Schema: 1, Readings: 1, Data: payload(i, 40)}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// verdict checks what arrived: each kind in order within a session, all
// records of the streams, and how often one came more than once.
func (l *thinLink) verdict(t *testing.T, want map[string]uint64) (repeats int) {
	t.Helper()
	seen := map[string]map[uint64]int{}
	last := map[bool]arrival{}
	for i, a := range l.arrivals() {
		if slices.Contains(l.sessions, i) {
			last = map[bool]arrival{}
		}
		if seen[a.stream] == nil {
			seen[a.stream] = map[uint64]int{}
		}
		for seq := a.seq; seq <= a.to; seq++ {
			seen[a.stream][seq]++
		}
		if a.gap != "" {
			continue
		}
		if p := last[a.historical]; p.stream == a.stream && p.seq >= a.seq || p.stream > a.stream {
			t.Fatalf("%s %d came after %s %d, both historical=%v", a.stream, a.seq, p.stream, p.seq, a.historical)
		}
		last[a.historical] = a
	}
	for stream, n := range want {
		for seq := uint64(1); seq <= n; seq++ {
			if seen[stream][seq] == 0 {
				t.Fatalf("%s %d is missing", stream, seq)
			}
			repeats += seen[stream][seq] - 1
		}
	}
	return repeats
}

func p99(delays []time.Duration) time.Duration {
	slices.Sort(delays)
	return delays[len(delays)*99/100]
}

// TestLiveFirst: while a backlog drains over a thin link, new batches arrive
// within a second, the backlog uses what they leave of the link, both kinds
// keep their order, and nothing comes twice.
func TestLiveFirst(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		each, way, period time.Duration
		window            int
		share             float64 // of the spare link that the backlog must get
	}{
		"4G":                {10 * time.Millisecond, 60 * time.Millisecond, 100 * time.Millisecond, 64, 0.6},
		"fast":              {200 * time.Microsecond, time.Millisecond, 20 * time.Millisecond, 64, 0.6},
		"satellite":         {40 * time.Millisecond, 700 * time.Millisecond, 250 * time.Millisecond, 64, 0.5},
		"one at a time":     {10 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond, 1, 0.1},
		"2G, half in use":   {200 * time.Millisecond, 300 * time.Millisecond, 400 * time.Millisecond, 64, 0.5},
		"two in the window": {20 * time.Millisecond, 40 * time.Millisecond, 200 * time.Millisecond, 2, 0.2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := testOptions(t, tempDir(t))
				o.CommitInterval = time.Second
				b := openBuffer(t, o)
				stopField := field(t, b, c.period)
				backlog := 3000 * c.period
				<-time.After(backlog)
				l := &thinLink{each: c.each, way: c.way, window: c.window}
				stop := l.run(t, b, ForwardOptions{CatchUp: LiveFirst, Window: c.window})
				connected := time.Now()
				for b.Stats().Uplinks["a"].Lag > 20 {
					<-time.After(time.Second)
				}
				took := time.Since(connected)
				<-time.After(30 * time.Second)
				stopField()
				<-time.After(3 * time.Second)
				stop()
				if lag := b.Stats().Uplinks["a"].Lag; lag != 0 {
					t.Errorf("%d batches wait still", lag)
				}
				if repeats := l.verdict(t, map[string]uint64{o.Stream: b.Stats().Appended}); repeats != 0 {
					t.Errorf("%d batches came twice", repeats)
				}
				var live []time.Duration
				for _, a := range l.arrivals() {
					if !a.historical {
						live = append(live, a.delay)
					}
				}
				spare := 1/c.each.Seconds() - 1/c.period.Seconds()
				best := time.Duration(3000 / spare * float64(time.Second))
				t.Logf("live p99 %v; drained in %v, at best %v", p99(live), took, best)
				if p := p99(live); p > time.Second {
					t.Errorf("the 99th percentile of the live batches' delay is %v", p)
				}
				// The youngest of the backlog wait until they are old enough.
				if took > time.Duration(float64(best)/c.share)+HistoricalAfter {
					t.Errorf("the backlog took %v, with all that live batches left of the link it takes %v", took, best)
				}
				closeBuffer(t, b)
			})
		})
	}
}

// TestLiveFirstCut: sessions end and runs end in the middle of the drain.
// Nothing is missing, and only what was on its way comes again.
func TestLiveFirstCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(t, tempDir(t))
		o.CommitInterval = time.Second
		l := &thinLink{each: 5 * time.Millisecond, way: 30 * time.Millisecond, window: 16}
		want := map[string]uint64{}
		cuts := 0
		for run := range 4 {
			o.Stream = newStream()
			b := openBuffer(t, o)
			stopField := field(t, b, 50*time.Millisecond)
			if run < 3 {
				<-time.After(2 * time.Minute) // no link
			}
			stop := l.run(t, b, ForwardOptions{CatchUp: LiveFirst, Window: 16})
			for range 6 {
				<-time.After(2*time.Second + 300*time.Millisecond)
				if run < 3 {
					l.cut()
					cuts++
					<-time.After(15 * time.Second)
				}
			}
			if run == 3 {
				<-time.After(3 * time.Minute)
				stopField()
				<-time.After(time.Second)
				if lag := b.Stats().Uplinks["a"].Lag; lag != 0 {
					t.Errorf("%d batches wait still", lag)
				}
			}
			stopField()
			stop()
			want[o.Stream] = b.Stats().Appended
			closeBuffer(t, b)
		}
		if repeats := l.verdict(t, want); repeats > 16*cuts {
			t.Errorf("%d batches came twice in %d cuts", repeats, cuts)
		}
	})
}

// TestLiveFirstStall: a link that stands still for a while without breaking.
// What was live and has become too old for it does not go out as if it were.
func TestLiveFirstStall(t *testing.T) {
	t.Parallel()
	for _, stall := range []time.Duration{3 * time.Second, 7 * time.Second, 9 * time.Second, 12 * time.Second, 18 * time.Second} {
		t.Run(stall.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := testOptions(t, tempDir(t))
				o.CommitInterval = time.Second
				b := openBuffer(t, o)
				stopField := field(t, b, 20*time.Millisecond)
				<-time.After(200 * time.Second)
				l := &thinLink{each: 5 * time.Millisecond, way: 20 * time.Millisecond, window: 64}
				stop := l.run(t, b, ForwardOptions{CatchUp: LiveFirst, Window: 64})
				<-time.After(20 * time.Second)
				l.mu.Lock()
				l.stalled = time.Now().Add(stall)
				l.mu.Unlock()
				<-time.After(170 * time.Second)
				stopField()
				<-time.After(20 * time.Second)
				stop()
				if lag := b.Stats().Uplinks["a"].Lag; lag != 0 {
					t.Errorf("%d batches wait still", lag)
				}
				if repeats := l.verdict(t, map[string]uint64{o.Stream: b.Stats().Appended}); repeats != 0 {
					t.Errorf("%d batches came twice", repeats)
				}
				closeBuffer(t, b)
			})
		})
	}
}

// TestLiveFirstOldTimes: records that come with old times of their own keep
// nothing from going on.
func TestLiveFirstOldTimes(t *testing.T) {
	t.Parallel()
	b := openBuffer(t, testOptions(t, tempDir(t)))
	b.historical, b.behindAge = 20*time.Millisecond, 10*time.Millisecond
	last := appendN(t, b, 500, 100)
	<-time.After(2 * b.behindAge)
	r := &receiver{window: 8}
	stop := forwardAs(t, b, "a", r, ForwardOptions{CatchUp: LiveFirst, Window: 8})
	for range 20 {
		last = appendN(t, b, 5, 100)
		<-time.After(time.Millisecond)
	}
	waitFor(t, "all delivered", func() bool { return b.Stats().Uplinks["a"].Acked == last })
	stop()
	closeBuffer(t, b)
}

// TestLiveFirstFlapping: a link that breaks hundreds of times in one drain,
// for a moment or for longer, has its live batches in each session, and what
// is kept of it stays bounded.
func TestLiveFirstFlapping(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		away    time.Duration
		cuts    int
		liveFor int // sessions that must have live batches
	}{
		"for a moment":       {3 * time.Second, 300, 300},
		"for longer":         {12 * time.Second, 250, 250},
		"longer, and longer": {12 * time.Second, 300, 250}, // beyond maxSpans the lane does not jump
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := testOptions(t, tempDir(t))
				o.CommitInterval = 20 * time.Second
				b := openBuffer(t, o)
				stopField := field(t, b, 100*time.Millisecond)
				<-time.After(20 * time.Minute)
				l := &thinLink{each: 60 * time.Millisecond, way: 20 * time.Millisecond, window: 16}
				for i := range c.cuts {
					stop := l.run(t, b, ForwardOptions{CatchUp: LiveFirst, Window: 16})
					first := len(l.arrivals())
					<-time.After(5 * time.Second)
					stop()
					live := 0
					for _, a := range l.arrivals()[first:] {
						if a.delay < 5*time.Second {
							live++
						}
					}
					if live < 25 && i < c.liveFor {
						t.Errorf("session %d had %d live batches of about 50", i, live)
						break
					}
					<-time.After(c.away)
				}
				b.mu.Lock()
				spans := len(b.uplinks["a"].done)
				b.mu.Unlock()
				if spans > maxSpans {
					t.Errorf("%d spans", spans)
				}
				stopField()
				l.each = time.Millisecond
				stop := l.run(t, b, ForwardOptions{CatchUp: LiveFirst, Window: 16})
				for b.Stats().Uplinks["a"].Lag > 0 {
					<-time.After(time.Second)
				}
				stop()
				if repeats := l.verdict(t, map[string]uint64{o.Stream: b.Stats().Appended}); repeats > 16*c.cuts {
					t.Errorf("%d batches came twice in %d cuts", repeats, c.cuts)
				}
				closeBuffer(t, b)
			})
		})
	}
}

// TestCatchUpRate: a backlog goes out no faster than it may, by number and by
// share of the link, in both orders; live batches are not bound.
func TestCatchUpRate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		o        ForwardOptions
		least    time.Duration // that 2000 batches of backlog take
		atMost   time.Duration
		maxDelay time.Duration // p99 of live batches; 0: not looked at
	}{
		"in order, 50/s":    {ForwardOptions{Rate: Rate{PerSecond: 50}}, 39 * time.Second, 60 * time.Second, 0},
		"live first, 50/s":  {ForwardOptions{CatchUp: LiveFirst, Rate: Rate{PerSecond: 50}}, 39 * time.Second, 44 * time.Second, 100 * time.Millisecond},
		"live first, 25 %":  {ForwardOptions{CatchUp: LiveFirst, Rate: Rate{Share: 0.25}}, 30 * time.Second, 60 * time.Second, 200 * time.Millisecond},
		"in order, 25 %":    {ForwardOptions{Rate: Rate{Share: 0.25}}, 30 * time.Second, 70 * time.Second, 0},
		"live first, 100 %": {ForwardOptions{CatchUp: LiveFirst, Rate: Rate{Share: 1}}, 8 * time.Second, 20 * time.Second, 300 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := testOptions(t, tempDir(t))
				o.CommitInterval = time.Second
				b := openBuffer(t, o)
				stopField := field(t, b, 100*time.Millisecond)
				<-time.After(200 * time.Second)
				l := &thinLink{each: 5 * time.Millisecond, way: 20 * time.Millisecond, window: 64}
				stop := l.run(t, b, c.o)
				connected := time.Now()
				for b.Stats().Uplinks["a"].Lag > 20 {
					<-time.After(100 * time.Millisecond)
				}
				if took := time.Since(connected); took < c.least || took > c.atMost {
					t.Errorf("the backlog took %v, want %v to %v", took, c.least, c.atMost)
				}
				stopField()
				<-time.After(2 * time.Second)
				stop()
				l.verdict(t, map[string]uint64{o.Stream: b.Stats().Appended})
				var live []time.Duration
				for _, a := range l.arrivals() {
					if !a.historical {
						live = append(live, a.delay)
					}
				}
				if c.maxDelay > 0 && p99(live) > c.maxDelay {
					t.Errorf("the 99th percentile of the live batches' delay is %v", p99(live))
				}
				closeBuffer(t, b)
			})
		})
	}
}

// TestCatchUpRateAfterHealth: what a bound did not bind while all was well does
// not count against the backlog of a later outage.
func TestCatchUpRateAfterHealth(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rate              Rate
		period, each, way time.Duration
		quiet             time.Duration // of the field, before the outage
		atMost            time.Duration // that the backlog of a minute takes
	}{
		"more than the rate":     {Rate{PerSecond: 10}, 50 * time.Millisecond, time.Millisecond, 20 * time.Millisecond, 0, 3 * time.Minute},
		"always some on its way": {Rate{Share: 0.25}, 250 * time.Millisecond, time.Millisecond, 700 * time.Millisecond, 3 * time.Second, 3 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := testOptions(t, tempDir(t))
				o.CommitInterval = time.Second
				b := openBuffer(t, o)
				stopField := field(t, b, c.period)
				l := &thinLink{each: c.each, way: c.way, window: 64}
				stop := l.run(t, b, ForwardOptions{
					CatchUp: LiveFirst, Window: 64, Rate: c.rate, MinBackoff: time.Minute, MaxBackoff: time.Minute,
					Rand: func() float64 { return 1 },
				})
				<-time.After(20 * time.Minute)
				stopField()
				<-time.After(c.quiet)
				stopField = field(t, b, c.period)
				<-time.After(c.quiet)
				l.cut()
				<-time.After(61 * time.Second)
				for start := time.Now(); b.Stats().Uplinks["a"].Lag > 20; {
					if time.Since(start) > c.atMost {
						t.Fatalf("%d wait still after %v", b.Stats().Uplinks["a"].Lag, c.atMost)
					}
					<-time.After(time.Second)
				}
				stopField()
				<-time.After(3 * time.Second)
				stop()
				closeBuffer(t, b)
			})
		})
	}
}

// TestCursorRow: what is acknowledged beyond the cursor survives a restart,
// and no bytes make a row that makes no sense.
func TestCursorRow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := cursor{at: place{2, rapid.Uint64Range(0, 9).Draw(t, "seq")}, acked: 7}
		next := c.at.seq + 1
		for range rapid.IntRange(0, 5).Draw(t, "spans") {
			from := next + rapid.Uint64Range(1, 5).Draw(t, "gap")
			to := from + rapid.Uint64Range(0, 5).Draw(t, "length")
			c.done = append(c.done, ackSpan{ord: 2, from: from, to: to, sent: to})
			next = to + 1
		}
		got, ok := parseCursor(c.encode())
		if !ok || got.at != c.at || got.acked != c.acked || !slices.Equal(got.done, c.done) {
			t.Fatalf("%+v became %+v (%v)", c, got, ok)
		}
		row := c.encode()
		row[rapid.IntRange(0, len(row)-1).Draw(t, "byte")] ^= 0x41
		if got, ok := parseCursor(row); ok {
			last := got.at
			for _, s := range got.done {
				if !last.before(place{s.ord, s.from}) || s.to < s.from {
					t.Fatalf("%x became %+v", row, got)
				}
				last = place{s.ord, s.to}
			}
		}
	})
}
