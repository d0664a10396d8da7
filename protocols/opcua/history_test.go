package opcua_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/opcua"
	"millrace/protocols/opcua/opcuatest"
	"millrace/protocols/opcua/opcuatest/nodeopcua"
)

// memory is a protocols.Memory.
type memory struct {
	mu   sync.Mutex
	all  map[string][]byte
	puts int
}

func newMemory() *memory { return &memory{all: map[string][]byte{}} }

func (m *memory) Get(key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all[key]
}

func (m *memory) Put(key string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all[key] = value
	m.puts++
	return nil
}

func (m *memory) copy() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memory{all: maps.Clone(m.all)}
}

// told is a value that came.
type told struct {
	tag     int32
	value   int64
	source  int64
	history bool
}

// listener does what the collector does, and keeps what came.
type listener struct {
	tb      testing.TB
	b       protocols.Subscriber
	d       *protocols.Device
	all     []told
	outages []protocols.Outage
	gaps    time.Duration // the longest between two reports of live values
	last    time.Time
}

func (l *listener) take(r protocols.Report) {
	l.tb.Helper()
	if r.Outage != nil {
		l.outages = append(l.outages, *r.Outage)
		return
	}
	if !r.History {
		if !l.last.IsZero() {
			l.gaps = max(l.gaps, time.Since(l.last))
		}
		l.last = time.Now()
	}
	var before int64
	for _, x := range r.Readings {
		if r.History && x.Source < before {
			l.tb.Errorf("history goes back in time: %d after %d", x.Source, before)
		}
		before = x.Source
		if x.Quality == protocols.Good {
			l.all = append(l.all, told{x.Tag, x.Value.AsInt(), x.Source, r.History})
		}
	}
}

// until takes what comes until something holds. The connection is made again
// when it breaks, unless that is not wanted.
func (l *listener) until(what string, holds func() bool) {
	l.tb.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case r := <-l.b.Reports():
			if r.Err != nil {
				l.close()
				l.subscribe()
				continue
			}
			l.take(r)
		case <-tick.C:
		case <-deadline:
			l.tb.Fatalf("waited in vain for %s; outages %+v; %d values", what, l.outages, len(l.all))
		}
	}
}

// broken takes what comes until the connection breaks, and closes it.
func (l *listener) broken() {
	l.tb.Helper()
	deadline := time.After(patience)
	for {
		select {
		case r := <-l.b.Reports():
			if r.Err == nil {
				l.take(r)
				continue
			}
			l.close()
			return
		case <-deadline:
			l.tb.Fatal("the connection did not break")
		}
	}
}

// close closes the connection, and takes what it leaves behind.
func (l *listener) close() {
	l.tb.Helper()
	for more := true; more; {
		if err := l.b.Close(); err != nil {
			l.tb.Fatal(err)
		}
		more = len(l.b.Reports()) > 0
		for range len(l.b.Reports()) {
			if r := <-l.b.Reports(); r.Err == nil {
				l.take(r)
			}
		}
	}
}

// breakOff cuts the connection, and has the server forget it.
func (l *listener) breakOff(srv *nodeopcua.Server, relay *opcuatest.Relay) {
	l.tb.Helper()
	relay.Cut()
	l.broken()
	command(l.tb, srv, "logout")
}

// subscribe connects and subscribes, as often as it takes.
func (l *listener) subscribe() {
	l.tb.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err = l.b.Connect(context.Background()); err != nil {
			continue
		}
		if err = l.b.Subscribe(context.Background(), l.d, allTags(l.d)); err == nil {
			return
		}
	}
	l.tb.Fatal(err)
}

// has says whether a value of a tag came.
func (l *listener) has(tag int32, value int64) bool {
	return slices.ContainsFunc(l.all, func(x told) bool { return x.tag == tag && x.value == value })
}

// values counts the different values of a tag, but for 0.
func (l *listener) values(tag int32) int64 {
	different := map[int64]bool{}
	for _, x := range l.all {
		if x.tag == tag && x.value != 0 {
			different[x.value] = true
		}
	}
	return int64(len(different))
}

// exact wants each value of a tag from 1 to n once. The value that there is
// when a subscription is made is told by it, whether it was told before or
// not: live, and with the time that it has.
func (l *listener) exact(tag int32, n, step int64) {
	l.tb.Helper()
	l.exactFrom(tag, 1, n, step)
}

// exactFrom wants those from a value on that step divides.
func (l *listener) exactFrom(tag int32, from, n, step int64) {
	l.tb.Helper()
	live, hist := map[int64]int64{}, map[int64]int{}
	var lastHist int64
	for _, x := range l.all {
		if x.tag != tag || x.value == 0 {
			continue
		}
		if !x.history {
			if at, ok := live[x.value]; ok && at != x.source {
				l.tb.Errorf("tag %d: %d came live with two times", tag, x.value)
			}
			live[x.value] = x.source
			continue
		}
		hist[x.value]++
		if x.value < lastHist {
			l.tb.Errorf("tag %d: history out of order: %d after %d", tag, x.value, lastHist)
		}
		lastHist = x.value
	}
	lost, twice := 0, 0
	for v := (from + step - 1) / step * step; v <= n; v += step {
		_, was := live[v]
		times := hist[v]
		if was {
			times++
		}
		switch {
		case times == 0:
			lost++
			if lost < 5 {
				l.tb.Errorf("tag %d: %d never came", tag, v)
			}
		case times > 1:
			twice++
			if twice < 5 {
				l.tb.Errorf("tag %d: %d came %d times (live: %t)", tag, v, times, was)
			}
		}
	}
	if lost+twice > 0 {
		l.tb.Errorf("tag %d: %d of %d values lost, %d twice", tag, lost, n/step, twice)
	}
	l.tb.Logf("tag %d: %d live, %d from history", tag, len(live), len(hist))
}

func historyDevice(endpoint string, names ...string) *protocols.Device {
	addresses := make([]string, len(names))
	for i, n := range names {
		addresses[i] = "nsu=" + nodeopcua.Namespace + ";s=" + n
	}
	d := device(endpoint, addresses...)
	d.Interval = 10 * time.Millisecond // the test's values change more slowly, but for outages
	d.OPCUA.History, d.OPCUA.Queue = 24*time.Hour, 10
	return d
}

func historyListener(tb testing.TB, d *protocols.Device, m protocols.Memory) *listener {
	tb.Helper()
	drv := opcua.New(opcua.Options{PKIDir: tb.TempDir(), ApplicationName: "gw-test", Memory: m})
	return &listener{tb: tb, b: open(tb, drv, d), d: d}
}

// throughRelay starts a server with histories, and a relay before it.
func throughRelay(tb testing.TB) (*nodeopcua.Server, *opcuatest.Relay, string) {
	tb.Helper()
	srv := startPeer(tb, 0, "history")
	relay := newRelay(tb, fmt.Sprintf("127.0.0.1:%d", srv.Port))
	return srv, relay, strings.Replace(srv.Endpoint(), fmt.Sprintf("127.0.0.1:%d", srv.Port), relay.Addr(), 1)
}

// ask has the server obey, and returns the number that it says.
func ask(tb testing.TB, s *nodeopcua.Server, line string) int64 {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	said, err := s.Ask(ctx, line)
	if err != nil {
		tb.Fatal(err)
	}
	var n int64
	if len(said) > 0 && json.Unmarshal(said, &n) != nil {
		tb.Fatalf("%s: %s", line, said)
	}
	return n
}

// TestHistoryOutage has an outage in which the server's queues overflow many
// times over.
func TestHistoryOutage(t *testing.T) {
	t.Parallel()
	srv, relay, endpoint := throughRelay(t)
	d := historyDevice(endpoint, "Historized", "Second", "Plain")
	l := historyListener(t, d, nil)
	l.subscribe()
	l.until("first values", func() bool { return len(l.all) == 3 })
	ask(t, srv, "burst 10 50")
	l.until("live values", func() bool { return l.has(0, 10) })
	l.breakOff(srv, relay)
	ask(t, srv, "burst 300 2")
	l.subscribe()
	l.until("the outage to be over", func() bool { return len(l.outages) == 1 })
	n := ask(t, srv, "burst 10 50")
	l.until("live values", func() bool { return l.has(0, n) && l.has(2, n) })
	l.exact(0, n, 1)
	l.exact(1, n, 5)
	// The connection stands, and brings nothing until the server's queues are full.
	relay.Stall(true)
	n = ask(t, srv, "burst 300 2")
	relay.Stall(false)
	l.until("the second outage to be over", func() bool { return len(l.outages) >= 2 && l.values(0) == n && l.values(1) == n/5 })
	l.exact(0, n, 1)
	l.exact(1, n, 5)
	if o := l.outages[1]; o.Cause != protocols.OutageOverflow || o.NoHistory != 1 || o.Read == 0 {
		t.Errorf("%+v", o)
	}
	o := l.outages[0]
	if o.Cause != protocols.OutageConnection || o.Tags != 3 || o.Read != 2 || o.NoHistory != 1 || o.Filled() != protocols.FilledPart || o.Values < 300 || o.To.Before(o.From) {
		t.Errorf("%+v", o)
	}
}

// TestHistoryRestart goes on after a restart of the agent: with what it kept
// at its end, with what it kept some time before it was killed, and in no time at first.
func TestHistoryRestart(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0, "history")
	d := historyDevice(srv.Endpoint(), "Historized")
	ask(t, srv, "burst 20 2") // before we knew it
	m := newMemory()
	l := historyListener(t, d, m)
	l.subscribe()
	l.until("the first value", func() bool { return l.has(0, 20) })
	ask(t, srv, "burst 10 50")
	l.until("live values", func() bool { return l.has(0, 30) })
	if err := l.b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, x := range l.all {
		if x.history {
			t.Fatalf("history without a cursor: %+v", x)
		}
	}
	stale := m.copy()
	ask(t, srv, "burst 100 2")

	again := historyListener(t, d, m)
	again.subscribe()
	again.until("the outage to be over", func() bool { return len(again.outages) == 1 })
	if o := again.outages[0]; o.Cause != protocols.OutageRestart || o.Filled() != protocols.FilledYes || o.Values != 99 || o.Tags != 1 {
		t.Errorf("%+v", o)
	}
	both := &listener{tb: t, all: append(append([]told{}, l.all...), again.all...)}
	for v := range int64(19) { // never to be had
		both.all = append(both.all, told{value: v + 1})
	}
	both.exact(0, 130, 1)

	// Killed: what it knows is from before the values that again has told.
	killed := historyListener(t, d, stale)
	killed.subscribe()
	killed.until("the outage to be over", func() bool { return len(killed.outages) == 1 })
	for v := int64(31); v <= 130; v++ {
		if !killed.has(0, v) {
			t.Fatalf("%d is missing", v)
		}
	}
	at := map[int64]int64{}
	for _, x := range again.all {
		at[x.value] = x.source
	}
	for _, x := range killed.all {
		if was, ok := at[x.value]; ok && was != x.source {
			t.Fatalf("%d came again with another time", x.value)
		}
	}
}

// TestHistoryReconnects breaks the connection a hundred times while a counter
// goes up.
func TestHistoryReconnects(t *testing.T) {
	t.Parallel()
	srv, relay, endpoint := throughRelay(t)
	d := historyDevice(endpoint, "Historized", "Second")
	l := historyListener(t, d, newMemory())
	l.subscribe()
	l.until("first values", func() bool { return len(l.all) == 2 })
	const n = 600
	command(t, srv, fmt.Sprintf("begin %d 20", n))
	for i := range 100 {
		seen := len(l.all)
		if i%4 == 0 { // mostly before anything has come
			l.until("values", func() bool { return len(l.all) > seen })
		}
		if i%2 == 0 {
			l.breakOff(srv, relay)
		} else { // the subscription may outlive this
			relay.Cut()
			l.broken()
		}
		l.subscribe()
	}
	l.until("all", func() bool { return l.values(0) == n && l.values(1) == n/5 })
	l.exact(0, n, 1)
	l.exact(1, n, 5)
	t.Logf("%d outages", len(l.outages))
}

// TestHistoryLimits: a server that takes few nodes at once, whose places to
// go on fail, and an outage that goes further back than what is asked for.
func TestHistoryLimits(t *testing.T) {
	t.Parallel()
	srv, relay, endpoint := throughRelay(t)
	last := int64(0)
	for _, c := range []struct {
		name     string
		commands []string
		per      int // max_per_call
	}{
		{"no limit", nil, 0},
		{"two nodes at once", []string{"limit 2"}, 0},
		{"one node at once", []string{"limit 1"}, 0},
		{"no places", []string{"limit 0", "points 0"}, 0},
		{"few places", []string{"points 1"}, 0},
		{"one node at once, configured", []string{"points -1"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := historyDevice(endpoint, "Historized", "Second", "Huge")
			d.OPCUA.MaxPerCall = c.per
			for _, line := range c.commands {
				command(t, srv, line)
			}
			l := historyListener(t, d, nil)
			l.subscribe()
			l.until("first values", func() bool { return len(l.all) == 3 })
			l.breakOff(srv, relay)
			n := ask(t, srv, "burst 2200 0")
			l.subscribe()
			l.until("the outage to be over", func() bool { return len(l.outages) == 1 && l.has(0, n) })
			l.exactFrom(0, last+1, n, 1)
			l.exactFrom(1, last+1, n, 5)
			last = n
			if o := l.outages[0]; o.Filled() != protocols.FilledYes {
				t.Errorf("%+v", o)
			}
			if err := l.b.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestHistoryBeyond: gaps that cannot be filled, or not all of them.
func TestHistoryBeyond(t *testing.T) {
	t.Parallel()
	srv, relay, endpoint := throughRelay(t)
	for _, c := range []struct {
		name    string
		history time.Duration
		forget  bool
		filled  string
		why     string
	}{
		{"off", 0, false, protocols.FilledNo, "history: 0s"},
		{"too long", time.Second, false, protocols.FilledPart, "the history key"},
		{"forgotten", time.Hour, true, protocols.FilledNo, "lost it at a restart"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := historyDevice(endpoint, "Historized")
			d.OPCUA.History = c.history
			l := historyListener(t, d, nil)
			l.subscribe()
			l.until("first values", func() bool { return len(l.all) == 1 })
			l.breakOff(srv, relay)
			n := ask(t, srv, "burst 300 5")
			if c.forget {
				command(t, srv, "forget")
			}
			l.subscribe()
			l.until("the outage to be over", func() bool { return len(l.outages) == 1 && l.has(0, n) })
			if o := l.outages[0]; o.Filled() != c.filled || !strings.Contains(o.Why, c.why) {
				t.Errorf("%s: %+v", o.Filled(), o)
			}
			if err := l.b.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestHistoryHuge reads a hundred thousand values while live ones go on, and
// is stopped in the middle of it.
func TestHistoryHuge(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0, "history")
	d := historyDevice(srv.Endpoint(), "Historized", "Huge")
	const n = 100_000
	m := newMemory()
	first := historyListener(t, d, m)
	first.subscribe()
	first.until("first values", func() bool { return len(first.all) == 2 })
	if err := first.b.Close(); err != nil {
		t.Fatal(err)
	}
	from := time.Now()
	ask(t, srv, fmt.Sprintf("future %d 1", n))

	l := historyListener(t, d, m)
	l.subscribe()
	command(t, srv, "begin 60 50")
	history := func() (count int) {
		for _, x := range l.all {
			if x.history && x.tag == 1 {
				count++
			}
		}
		return count
	}
	l.until("a part of the history", func() bool { return history() > 20_000 })
	if l.gaps > time.Second {
		t.Errorf("live values came %s apart while history was read", l.gaps)
	}
	began := time.Now()
	if err := l.b.Close(); err != nil || time.Since(began) > 1200*time.Millisecond {
		t.Fatalf("closing took %s: %v", time.Since(began), err)
	}
	l.close()
	// The next session goes on where this one was.
	l.subscribe()
	l.until("all of it", func() bool { return len(l.outages) == 2 })
	took := time.Since(from)
	seen := map[int64]int{}
	for _, x := range l.all {
		if x.history && x.tag == 1 {
			seen[x.value]++
		}
	}
	lost, twice := 0, 0
	for v := int64(1); v < n; v++ { // the last one is live
		switch seen[v] {
		case 0:
			lost++
		case 1:
		default:
			twice++
		}
	}
	if lost+twice > 0 {
		t.Errorf("%d lost, %d twice", lost, twice)
	}
	t.Logf("%d values in %s; live values at most %s apart", len(seen), took, l.gaps)
}

// TestHistoryAlike has values with the same source time on both sides of an
// outage.
func TestHistoryAlike(t *testing.T) {
	t.Parallel()
	srv, relay, endpoint := throughRelay(t)
	d := historyDevice(endpoint, "Historized")
	l := historyListener(t, d, nil)
	l.subscribe()
	l.until("first values", func() bool { return len(l.all) == 1 })
	at := time.Now().UnixMilli()
	command(t, srv, fmt.Sprintf("stamp 1 %d", at))
	l.until("a live value", func() bool { return l.has(0, 1) })
	l.breakOff(srv, relay)
	// 2 and 3 are made in the same millisecond as 1, which was told; 5 and 6 in
	// the same as 7, which will be.
	for i, ms := range []int64{at, at, at + 5, at + 9, at + 9, at + 9} {
		command(t, srv, fmt.Sprintf("stamp %d %d", i+2, ms))
	}
	l.subscribe()
	l.until("the outage to be over", func() bool { return len(l.outages) == 1 && l.has(0, 7) })
	l.exact(0, 7, 1)
}
