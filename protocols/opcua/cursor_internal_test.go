package opcua

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"millrace/protocols"
)

func FuzzDecodeCursors(f *testing.F) {
	f.Add(encodeCursors(cursorEnded, 1795462800123456789, []cursor{{7, 1795462800101000000, 1}, {9, 1795462800101000140, 3}, {11, -5, 1}}))
	f.Add([]byte{1, 0, 2, 1, 0, 0, 0, 0, 3, 2, 200})
	f.Fuzz(func(t *testing.T, data []byte) {
		flags, at, list, err := decodeCursors(data)
		if err != nil {
			return
		}
		again := encodeCursors(flags, at, slices.Clone(list))
		_, at2, list2, err := decodeCursors(again)
		if err != nil || at2 != at || len(list2) != len(list) {
			t.Fatalf("%v %v", list2, err)
		}
	})
}

func TestCursorsRoundTrip(t *testing.T) {
	t.Parallel()
	var list []cursor
	at := int64(1795462800123456789)
	for i := range 10_000 {
		list = append(list, cursor{hash: uint32(i) * 2654435761, time: at - int64(i)*int64(7*time.Millisecond) - int64(i%3), count: i%3 + 1})
	}
	data := encodeCursors(cursorEnded, at, list) // sorts list
	flags, when, got, err := decodeCursors(data)
	if err != nil || flags != cursorEnded || when != at || !slices.Equal(got, list) {
		t.Fatalf("%v", err)
	}
	t.Logf("%d bytes for %d tags", len(data), len(list))
	if len(data) > 130_000 {
		t.Errorf("%d bytes", len(data))
	}
	for cut := range 100 {
		if _, _, _, err := decodeCursors(data[:cut]); err == nil {
			t.Fatalf("cut at %d", cut)
		}
	}
	if !bytes.Equal(data[:2], []byte{cursorVersion, cursorEnded}) {
		t.Errorf("% x", data[:2])
	}
}

// valuesAt makes readings of tag 0 with the given values and times.
func valuesAt(pairs ...int64) []protocols.Reading {
	var list []protocols.Reading
	for i := 0; i < len(pairs); i += 2 {
		r := protocols.Reading{Source: pairs[i+1]}
		r.SetGood(protocols.Int(pairs[i]))
		list = append(list, r)
	}
	return list
}

// TestMissing: what is at the ends of a span was told, as far as it was.
func TestMissing(t *testing.T) {
	t.Parallel()
	edgeOf := func(pairs ...int64) (e edge) {
		for _, r := range valuesAt(pairs...) {
			e.add(r.Source, printOf(&r))
		}
		return e
	}
	for name, c := range map[string]struct {
		from, to edge
		found    []protocols.Reading
		want     string
	}{
		"between":                   {edgeOf(1, 10), edgeOf(4, 40), valuesAt(1, 10, 2, 20, 3, 30, 4, 40), "[2 3]"},
		"nothing":                   {edgeOf(1, 10), edgeOf(4, 40), nil, "[]"},
		"told first of two":         {edgeOf(1, 10), edgeOf(4, 40), valuesAt(1, 10, 2, 10, 4, 40), "[2]"},
		"told last of two":          {edgeOf(2, 10), edgeOf(4, 40), valuesAt(1, 10, 2, 10, 4, 40), "[1]"},
		"told two of three":         {edgeOf(1, 10, 3, 10), edgeOf(4, 40), valuesAt(1, 10, 2, 10, 3, 10, 4, 40), "[2]"},
		"live is last of two":       {edgeOf(1, 10), edgeOf(4, 40), valuesAt(1, 10, 3, 40, 4, 40), "[3]"},
		"all at one time":           {edgeOf(1, 10), edgeOf(3, 10), valuesAt(1, 10, 2, 10, 3, 10), "[2]"},
		"equal values at a time":    {edgeOf(1, 10), edgeOf(4, 40), valuesAt(1, 10, 1, 10, 4, 40), "[1]"},
		"another run's":             {edge{time: 10, count: 1}, edgeOf(4, 40), valuesAt(1, 10, 2, 10, 4, 40), "[2]"},
		"none told at that time":    {edge{time: 10}, edgeOf(4, 40), valuesAt(1, 10, 4, 40), "[1]"},
		"the history's own form":    {edgeOf(1, 10), edgeOf(4, 40), valuesAt(11, 10, 2, 20, 44, 40), "[2]"},
		"out of the server's order": {edgeOf(1, 10), edgeOf(4, 40), valuesAt(4, 40, 3, 30, 2, 20, 1, 10), "[2 3]"},
	} {
		n := &nodePart{spans: []span{{from: c.from, to: c.to}}, found: c.found}
		got := []int64{}
		for _, r := range n.missing() {
			got = append(got, r.Value.AsInt())
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
}

// TestPast follows one tag through breaks.
func TestPast(t *testing.T) {
	t.Parallel()
	d := &protocols.Device{ID: "d", Tags: []protocols.Tag{{Address: "i=1"}}, OPCUA: protocols.OPCUAOptions{History: time.Hour}}
	now := time.Unix(1000, 0)
	p := newPast(d)
	p.resume([]int{0}, now)
	p.subscribed(now)
	if p.first() != nil {
		t.Fatal("a gap before the first value")
	}
	p.told(valuesAt(1, 10, 2, 20), nil, now)
	p.told(valuesAt(3, 30), nil, now)
	p.ended()
	p.resume([]int{0}, now)
	p.subscribed(now)
	g := p.first()
	if g == nil || p.settled(g) || g.spans[0].from.time != 30 || g.spans[0].from.count != 1 {
		t.Fatalf("%+v", g)
	}
	// A break before anything came: the span covers both outages.
	p.ended()
	p.resume([]int{0}, now)
	p.subscribed(now)
	p.told(valuesAt(5, 50, 6, 50, 7, 70, 8, 50, 7, 70), nil, now) // a clock that goes back opens nothing again
	if !p.settled(g) || g.spans[0].to.time != 50 || g.spans[0].to.count != 2 || len(p.gaps) != 2 || len(p.gaps[1].spans) != 0 {
		t.Fatalf("%+v", p.gaps[1])
	}
	// A queue that overflowed between 70 and 90.
	p.told(valuesAt(9, 90, 10, 100), []int{1}, now)
	o := p.gaps[2]
	if o.cause != protocols.OutageOverflow || o.spans[0].from.time != 70 || o.spans[0].to.time != 90 {
		t.Fatalf("%+v", o)
	}
	// What is kept for the next run is what is not read yet.
	m := mapMemory{}
	if err := p.save(m, true); err != nil {
		t.Fatal(err)
	}
	next := newPast(d)
	if err := next.load(m); err != nil || next.marks[0].last.time != 30 || !next.restarted {
		t.Fatalf("%+v %v", next.marks[0], err)
	}
	for range 3 {
		p.finish(1)
	}
	if err := p.save(m, false); err != nil || p.spans != 0 {
		t.Fatal(p.spans, err)
	}
	// A run that was killed may have lost the last seconds.
	next = newPast(d)
	if err := next.load(m); err != nil || next.marks[0].last.time != 100-int64(notSafe) || next.marks[0].last.count != 0 {
		t.Fatalf("%+v %v", next.marks[0], err)
	}
}

// TestPastRefused: a subscription that is refused again and again is one
// outage, however often it is tried.
func TestPastRefused(t *testing.T) {
	t.Parallel()
	for _, keep := range []time.Duration{0, time.Hour} {
		d := &protocols.Device{ID: "d", Tags: make([]protocols.Tag, 2), OPCUA: protocols.OPCUAOptions{History: keep}}
		p, now := newPast(d), time.Unix(1000, 0)
		p.subscribed(now)
		p.told(valuesAt(1, 10), nil, now)
		p.ended()
		for range 5 {
			now = now.Add(time.Minute)
			p.resume([]int{0, 1}, now)
			p.ended()
		}
		if len(p.gaps) != 1 || !p.gaps[0].to.Equal(now) || !p.gaps[0].from.Equal(time.Unix(1000, 0)) || keep > 0 && len(p.gaps[0].spans) != 1 {
			t.Errorf("%d gaps, the first %+v", len(p.gaps), p.gaps[0])
		}
		p.subscribed(now)
		p.ended()
		p.resume([]int{0, 1}, now)
		if len(p.gaps) != 2 {
			t.Errorf("another outage: %d gaps", len(p.gaps))
		}
	}
}

// TestPastOfParts: a part of an array has no history that could be read, and
// values without times cannot be looked for. The gap is told all the same.
func TestPastOfParts(t *testing.T) {
	t.Parallel()
	conf := &connConf{timeout: time.Second}
	var err error
	if conf.url, err = parseEndpoint("opc.tcp://h"); err != nil {
		t.Fatal(err)
	}
	b := newBus(New(Options{Log: slog.New(slog.DiscardHandler)}), conf)
	d := &protocols.Device{ID: "d", Tags: []protocols.Tag{{Address: "i=1[0:1]"}, {Address: "i=1"}}, OPCUA: protocols.OPCUAOptions{History: time.Hour}}
	addrs, err := parseTags(d, []int{0, 1})
	if err != nil {
		t.Fatal(err)
	}
	s := &session{}
	s.pub = newPublisher(b, s)
	defer s.pub.cancel()
	s.pub.subs[1] = &subscription{id: 1, dev: d, tags: []int32{0, 1}, addrs: addrs}
	h := &historian{bus: b, reader: newHistoryReader(b, s)}
	p, now := newPast(d), time.Unix(1000, 0)
	p.subscribed(now)
	timeless := valuesAt(1, 0)
	timeless[0].Tag = 1
	p.told(append(valuesAt(1, 10), timeless...), nil, now)
	p.ended()
	p.resume([]int{0, 1}, now)
	g := p.first()
	_, _, h.reader.access[tagOf{p, 0}] = h.reader.nodeOf(d, 0)
	if o := h.result(p, g, &filling{}); o.Tags != 2 || o.NoHistory != 2 || o.Filled() != protocols.FilledNo || o.Why != rangedHistory {
		t.Errorf("%+v", o)
	}
	if _, node, why := h.reader.nodeOf(d, 1); node == nil || why != "" {
		t.Errorf("%v %s", node, why)
	}
}

type mapMemory map[string][]byte

func (m mapMemory) Get(key string) []byte { return m[key] }

func (m mapMemory) Put(key string, value []byte) error {
	m[key] = value
	return nil
}

func TestSaver(t *testing.T) {
	t.Parallel()
	var s saver
	now, n := time.Unix(1000, 0), 0
	for range 600 { // ten minutes of breaks
		if s.may(now) {
			n++
		}
		now = now.Add(time.Second)
	}
	if n < 10 || n > saveBurst+10 {
		t.Errorf("%d writes in ten minutes of breaks", n)
	}
}

// BenchmarkTold is what the hot path pays.
func BenchmarkTold(b *testing.B) {
	d := &protocols.Device{ID: "d", Tags: make([]protocols.Tag, 1000), OPCUA: protocols.OPCUAOptions{History: time.Hour}}
	p := newPast(d)
	list := make([]protocols.Reading, 1000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		for j := range list {
			list[j].Tag, list[j].Source = int32(j), int64(i+1)
			list[j].SetGood(protocols.Float64(float64(i + j)))
		}
		p.told(list, nil, time.Time{})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/value")
}
