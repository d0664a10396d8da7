package main

import (
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/buffer"
	"millrace/collector/ledger"
	"millrace/configs"
	"millrace/protocols"
	"millrace/protocols/mqtt"
)

// tallyHour is when the readings of these tests were read.
var tallyHour = time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)

// tallyAgent counts what becomes of records of press, of whose tags the uplink
// gets those whose names begin with a; counts tells what was counted.
func tallyAgent(t *testing.T) (a *agent, schema *protocols.Schema, record func(good int) []byte, counts func() ledger.Counts) {
	t.Helper()
	now := tallyHour.Add(time.Minute)
	l := ledger.New(ledger.Options{Dir: t.TempDir(), Keep: 1000 * time.Hour, Now: func() time.Time { return now }})
	a = &agent{books: &books{ledger: l}, schemas: map[uint64]*protocols.Schema{}}
	cfg := &configs.Config{Uplinks: []configs.Uplink{{Name: "other"}, {Name: "platform", Tags: []string{"a*"}}}}
	cfg.Connectivity.Uplink = "platform"
	a.books.counted.Store(&countedUplinks{countedUplink: countedOf(cfg, "platform")})
	schema = &protocols.Schema{Device: "press", Tags: []protocols.SchemaTag{{Name: "a1"}, {Name: "a2"}, {Name: "b1"}, {Name: "b2"}}}
	record = func(good int) []byte {
		b := protocols.Batch{Schema: schema}
		for i := range schema.Tags {
			r := protocols.Reading{Tag: int32(i), Value: protocols.Int(int64(i))}
			if i >= good {
				r.SetBad(protocols.Timeout)
			}
			b.Readings = append(b.Readings, r)
		}
		return protocols.EncodeBatch(nil, &b)
	}
	counts = func() (sum ledger.Counts) {
		l.Flush(false)
		if _, err := l.Read(tallyHour, tallyHour.Add(time.Hour), ledger.Visitor{Row: func(_ string, _ int64, c *ledger.Counts) { sum.Add(c) }}); err != nil {
			t.Fatal(err)
		}
		return sum
	}
	t.Cleanup(func() { l.Flush(true) })
	return a, schema, record, counts
}

// TestDroppedByFilter: of a record that is given up, what the uplink was not
// to get is not lost for it; and it is known whose it was, although its schema
// is of an earlier configuration.
func TestDroppedByFilter(t *testing.T) {
	t.Parallel()
	a, schema, record, counts := tallyAgent(t)
	r := buffer.Record{Time: tallyHour.UnixMilli(), Schema: schema.ID(), Readings: 4, Data: record(3)} // a1, a2 and b1 are good
	blob := protocols.AppendSchema(nil, schema)
	a.dropped("other", buffer.ReasonFull, r, blob)
	a.dropped("platform", buffer.ReasonFull, r, nil) // nobody knows whose it is
	a.dropped("platform", buffer.ReasonFull, r, blob)
	want := ledger.Counts{Filtered: 1}
	want.Dropped[ledger.BufferFull] = 2
	if diff := cmp.Diff(want, counts()); diff != "" {
		t.Error(diff)
	}
}

// TestTally: what counts is what was acknowledged with its own token.
func TestTally(t *testing.T) {
	t.Parallel()
	a, schema, record, counts := tallyAgent(t)
	if _, err := a.learnSchema(schema.ID(), protocols.AppendSchema(nil, schema)); err != nil {
		t.Fatal(err)
	}
	c, other := a.newTally("platform"), a.newTally("other")
	hand := func(token uint64, aside string) {
		h := mqtt.Handed{Schema: schema.ID(), Time: tallyHour.UnixMilli(), Sent: 2, Filtered: 1, Aside: aside}
		c.handed(token, h)
		other.handed(token, h)
	}
	hand(1, "")
	hand(2, "")
	c.acked(1, "")
	other.acked(1, "")
	c.acked(1, "") // again
	// The session breaks: 2 is sent again, as 3.
	hand(3, "")
	c.acked(3, "")
	hand(4, mqtt.ReasonRefused)
	c.acked(4, "")
	c.acked(5, "") // a notice, of which nothing was handed over
	// It was given up while it was on its way, and arrives.
	hand(6, "")
	a.dropped("platform", buffer.ReasonFull, buffer.Record{Time: tallyHour.UnixMilli(), Schema: schema.ID(), Data: record(3)}, nil)
	c.acked(6, buffer.ReasonFull)
	want := ledger.Counts{Delivered: 6, Filtered: 4}
	want.Dropped[ledger.Refused] = 2
	if diff := cmp.Diff(want, counts()); diff != "" {
		t.Error(diff)
	}
}

// TestCountedUplinkChanges: what was read before another uplink was made the
// one that counts counts when the old one delivers it, and only then; what is
// read afterwards when the new one does. A restart does not change that.
func TestCountedUplinkChanges(t *testing.T) {
	t.Parallel()
	a, schema, record, counts := tallyAgent(t)
	if _, err := a.learnSchema(schema.ID(), protocols.AppendSchema(nil, schema)); err != nil {
		t.Fatal(err)
	}
	var clock atomic.Int64 // ms
	clock.Store(tallyHour.Add(time.Minute).UnixMilli())
	now := func() time.Time { return time.UnixMilli(clock.Load()) }
	open := func() {
		var err error
		a.log = slog.New(slog.DiscardHandler)
		if a.buf, err = buffer.Open(buffer.Options{Dir: filepath.Join(t.TempDir(), "buffer"), Stream: "S", Uplinks: []string{"other", "platform"}, Now: now}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.buf.Close() })
	}
	open()
	cfg := &configs.Config{Uplinks: []configs.Uplink{{Name: "other"}, {Name: "platform", Tags: []string{"a*"}}}}
	cfg.Connectivity.Uplink = "platform"
	a.count(cfg)
	platform, other := a.newTally("platform"), a.newTally("other")
	before, after := mqtt.Handed{Schema: schema.ID(), Time: clock.Load(), Sent: 2}, mqtt.Handed{Schema: schema.ID(), Time: clock.Load() + 10_000, Sent: 2}
	platform.handed(1, before)
	platform.acked(1, "")
	clock.Add(5000)
	cfg.Connectivity.Uplink = "other"
	for range 2 { // a reload, and a start
		a.count(cfg)
		other.handed(1, before) // delivered by the old one already
		other.acked(1, "")
		a.books.counted.Store(&countedUplinks{countedUplink: countedOf(cfg, "other")})
		clock.Add(1000)
	}
	a.count(cfg)
	platform.handed(2, before) // it was behind
	platform.acked(2, "")
	platform.handed(3, after)
	platform.acked(3, "")
	other.handed(2, after)
	other.acked(2, "")
	a.dropped("other", buffer.ReasonFull, buffer.Record{Time: before.Time, Schema: schema.ID(), Data: record(4)}, nil)
	a.dropped("platform", buffer.ReasonFull, buffer.Record{Time: before.Time, Schema: schema.ID(), Data: record(4)}, nil)
	want := ledger.Counts{Delivered: 6, Filtered: 2}
	want.Dropped[ledger.BufferFull] = 2
	if diff := cmp.Diff(want, counts()); diff != "" {
		t.Error(diff)
	}
}
