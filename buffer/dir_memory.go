package buffer

import (
	"errors"
	"os"
	"slices"

	"millrace/buffer/internal/clock"
	"millrace/buffer/internal/shm"
)

// leftMemory is what only the memory of a killed agent held: its next start
// writes it to a file.
type leftMemory struct {
	ord     uint64
	stream  string
	records []shm.Record // by seq, beyond what the files have
	schemas map[uint64][]byte
	bytes   int64
	clock   *clock.History
}

// readMemory looks into what the last run left in shared memory, if it was
// killed. It knows the uplinks' places better than state.db does.
func (d *Dir) readMemory(base string) {
	path, err := SharedMemoryFile(base, d.path)
	if err != nil {
		return // there is no shared memory
	}
	s, err := shm.Peek(path, d.path)
	if err != nil {
		return // there is none of this directory
	}
	defer s.Close() //nolint:errcheck // only read
	if !isLast(s, d.state, d.segments, d.stateErr != nil && !errors.Is(d.stateErr, os.ErrNotExist)) {
		return
	}
	r := newRevival(s)
	r.correct(d.state)
	m := &leftMemory{ord: s.Ordinal, stream: s.Stream, schemas: r.schemas}
	last := uint64(0)
	for _, seg := range d.segments {
		if seg.ord == s.Ordinal {
			last = max(last, seg.last)
		}
	}
	if d.clocks.streams[s.Ordinal] == "" {
		// Shared memory is of this boot.
		boot := newClocks("", s.Stream).boot
		d.clocks.adopt(s.Ordinal, boot, nil)
	}
	for i := range s.Records {
		ref := &s.Records[i]
		if ref.Seq <= last {
			continue
		}
		rec, _, err := s.Record(ref, nil)
		if err != nil {
			continue // the next start announces it
		}
		d.clocks.learn(s.Ordinal, ref.Time, ref.Mono)
		m.records = append(m.records, rec)
		m.bytes += int64(len(rec.Data))
	}
	m.clock = d.clocks.of(s.Ordinal)
	if len(m.records) > 0 {
		d.memory = m
	}
}

// plain returns the record's time by a clock that nobody set.
func (m *leftMemory) plain(r *shm.Record) int64 {
	return r.Time - m.clock.Stepped(r.Mono, r.Time-r.Mono)
}

// lookInto adds to l what is in memory.
func (m *leftMemory) lookInto(l *Look, uplinks map[string]*uplink, wall func(ord uint64, plain int64) int64) {
	l.Memory = &MemoryLook{Stream: m.stream, Batches: len(m.records), Bytes: m.bytes}
	at := slices.IndexFunc(l.Streams, func(s StreamLook) bool { return s.Stream == m.stream })
	if at < 0 {
		at = len(l.Streams)
		l.Streams = append(l.Streams, StreamLook{Stream: m.stream, First: m.records[0].Seq})
	}
	st := &l.Streams[at]
	for i := range m.records {
		r := &m.records[i]
		arrived := wall(m.ord, m.plain(r))
		st.Last = max(st.Last, r.Seq)
		st.Readings += uint64(r.Readings)
		st.Oldest, st.Newest = older(st.Oldest, arrived), max(st.Newest, arrived)
		waits := false
		for k := range l.Uplinks {
			u := &l.Uplinks[k]
			if len(uplinks[u.Name].uncovered(m.ord, r.Seq, r.Seq)) > 0 {
				waits = true
				u.Batches++
				u.Oldest = older(u.Oldest, arrived)
				l.Batches = max(l.Batches, u.Batches)
				l.Oldest = older(l.Oldest, arrived)
			}
		}
		if waits {
			l.Memory.Only++
		}
	}
}

// export hands out what is in memory.
func (m *leftMemory) export(e *exporter) error {
	base, set := m.clock.Base()
	for id, blob := range m.schemas {
		if e.schemas[id] == nil {
			e.schemas[id] = blob
		}
	}
	for i := range m.records {
		r := &m.records[i]
		if e.parts != nil && len(e.parts(m.ord, r.Seq, r.Seq)) == 0 || e.stream == m.stream && r.Seq <= e.last {
			continue
		}
		if err := e.ctx.Err(); err != nil {
			return err
		}
		rec := Record{Stream: m.stream, Seq: r.Seq, Time: m.plain(r) + base, Schema: r.Schema, Readings: r.Readings, Data: r.Data}
		rec.ClockUnset = !set && rec.Time < clock.FirstSane
		if err := e.emit(&rec); err != nil {
			return err
		}
	}
	return nil
}
