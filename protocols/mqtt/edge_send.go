package mqtt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/protocols"
	"millrace/protocols/sparkplug"
)

// send hands over the batch r as data of its device, and before it the births
// that it needs. It has its place in the window.
func (e *edge) send(ctx context.Context, s *session, token uint64, r Record) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.u.message(kindBatch, token)
	m.once, m.id = true, batchID{r.Stream, r.Seq}
	schema, err := e.u.o.Schema(r.Schema)
	if err != nil {
		return e.damaged(s, m, r, err)
	}
	passes := e.passes(schema)
	if passes.nothing() {
		m.skip = true
		e.u.handed(token, &r, passed{filtered: protocols.GoodReadings(r.Data)})
		return e.submitCounted(s, m)
	}
	if err := protocols.DecodeBatch(&e.batch, r.Data, schema); err != nil {
		return e.damaged(s, m, r, err)
	}
	some, n := passes.applyCounted(&e.batch)
	e.u.handed(token, &r, n)
	if !some {
		m.skip = true
		return e.submitCounted(s, m)
	}
	historical, send := e.place(&r, schema.Device)
	if !send {
		m.skip = true
		return e.submitCounted(s, m)
	}
	for range maxRebirths {
		var need sparkplug.Need
		m.topic, m.body, need = e.node.Data(m.body[:0], &e.batch, r.Time, e.now(), historical)
		switch need {
		case sparkplug.NeedNothing:
			return e.submitCounted(s, m)
		case sparkplug.NeedDeviceBirth:
			err = e.rebirth(s, schema.Device)
			historical = historical || e.outdated(e.device(schema.Device), r.Time)
		case sparkplug.NeedNodeBirth:
			err = e.births(s)
			historical = historical || e.outdated(e.device(schema.Device), r.Time)
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			s.window.leave(0) // it was called back, and the session goes on
			return err
		}
	}
	return e.damaged(s, m, r, errUnborn)
}

// errUnborn is a fault of ours.
var errUnborn = errors.New("its values do not fit their births")

// damaged announces a batch that cannot be sent as a gap.
func (e *edge) damaged(s *session, m *message, r Record, why error) error {
	e.u.noteDamaged(r, fmt.Errorf("batch %d of stream %s: %w", r.Seq, r.Stream, why))
	e.u.handed(m.token, &r, passed{aside: ReasonDamaged})
	e.gap(m, Gap{
		Stream: r.Stream, From: r.Seq, To: r.Seq, Readings: uint64(max(r.Readings, 0)),
		Reason: ReasonDamaged, Oldest: r.Time, Newest: r.Time,
	})
	return e.submitCounted(s, m)
}

// passes returns what the filter lets through of the batches with a schema.
func (e *edge) passes(schema *protocols.Schema) filtered {
	f, ok := e.filtered[schema]
	if !ok {
		if len(e.filtered) >= maxSchemas {
			clear(e.filtered)
		}
		f = e.u.o.Filter.schema(schema)
		e.filtered[schema] = f
	}
	return f
}

// submitCounted is submit for a message that has a place in the window.
func (e *edge) submitCounted(s *session, m *message) error {
	s.window.grow(len(m.body))
	return e.submit(s, m)
}

// place says how the batch, which is decoded, goes out: as history, or as what
// its device says now. It is called with mu held.
func (e *edge) place(r *Record, id string) (historical, send bool) {
	d := e.device(id)
	_, known := e.kept[id]
	waited := e.batch.Historical || e.now()-r.Time > HistoricalAfter.Milliseconds()
	if !d.alive && !waited && r.Time >= d.dead.UnixMilli() && hasValues(&e.batch) && known {
		// It answers: its state will say so, too.
		d.alive, d.replay = true, false
	}
	if d.alive && known {
		return waited || e.outdated(d, r.Time), true
	}
	if !waited && !hasValues(&e.batch) && !d.replay {
		// Nothing but what its death says, or that it was never born.
		return false, false
	}
	d.replay = true
	if e.replays.IsZero() {
		e.stir() // the events have to look at the time from now on
	}
	e.replays = time.Now()
	return true, true
}

// outdated says that the device's birth has values which are not older than
// the time ms. Births whose times are yet to come say nothing: the clock was
// set back since.
func (e *edge) outdated(d *edgeDevice, ms int64) bool {
	return ms <= d.newest && d.newest <= e.now()+clockSlack.Milliseconds()
}

func hasValues(b *protocols.Batch) bool {
	for i := range b.Readings {
		if hasValue(&b.Readings[i]) {
			return true
		}
	}
	return false
}

// sendGap hands over a gap notice.
func (e *edge) sendGap(s *session, token uint64, g Gap) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.u.message(kindGap, token)
	m.once = true
	e.gap(m, g)
	return e.submitCounted(s, m)
}

// gap makes m the notice of g: data of the node's own metric.
func (e *edge) gap(m *message, g Gap) {
	m.kind = kindGap
	_, text := e.gaps.gap(nil, g)
	e.node.Set(metricGap, protocols.String(string(text)), e.now())
	data, _ := e.node.NodeData(e.now()) // it has just changed
	m.topic, m.body = data.Topic, append(m.body[:0], data.Body...)
}
