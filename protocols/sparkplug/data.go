package sparkplug

import (
	"cmp"
	"encoding/binary"
	"slices"

	"millrace/protocols"
)

// maxSchemas bounds the compiled schemas that are kept.
const maxSchemas = 8192

// schema is the names of a batch's tags, turned into aliases.
type schema struct {
	device *device
	cells  []cell // by tag
}

type cell struct {
	metric *metric
	head   [1 + binary.MaxVarintLen32 + 2]byte // the alias as it stands in a metric
	size   uint8
}

// Need is what has to be sent before data can be.
type Need uint8

// What Data may need.
const (
	NeedNothing     Need = iota
	NeedDeviceBirth      // of the device that the data is of
	NeedNodeBirth        // and all device births with it
)

// Data appends the data message of the batch b, which arrived at the time ms,
// to dst. Historical says that it is too old to be anyone's current value.
// Before the message come the births that it needs: then nothing is appended,
// and no sequence number is taken. It allocates nothing but what dst needs to
// grow, as long as types do not change.
func (n *Node) Data(dst []byte, b *protocols.Batch, ms, now int64, historical bool) (topic string, body []byte, need Need) {
	s := n.schema(b.Schema)
	sourced := n.learn(s, b.Readings)
	if n.stale {
		return "", dst, NeedNodeBirth
	}
	if !s.device.born || s.device.stale {
		return "", dst, NeedDeviceBirth
	}
	dst = appendVarint(dst, keyTimestamp, uint64(now))
	n.stamp = appendVarint(n.stamp[:0], keyMetricTime, uint64(ms))
	if historical {
		n.stamp = appendBool(n.stamp, keyHistorical, true)
	}
	if sourced && !historical {
		for _, i := range n.byTime(b.Readings, ms) {
			dst = n.appendData(dst, s, &b.Readings[i], ms, historical)
		}
	} else {
		dst = n.appendAll(dst, s, b.Readings, ms, historical)
	}
	return s.device.data, appendVarint(dst, keySeq, n.number()), NeedNothing
}

// appendAll appends readings in the order in which they stand.
func (n *Node) appendAll(dst []byte, s *schema, rs []protocols.Reading, ms int64, historical bool) []byte {
	// Most are small numbers: each in a few steps, where it is known to fit.
	const atMost = 2 + len(cell{}.head) + 16 + 1 + binary.MaxVarintLen32
	for i := range rs {
		r := &rs[i]
		c := &s.cells[r.Tag]
		if t := c.metric.typ; r.Quality != protocols.Good || r.Source != 0 || t < UInt8 || t > UInt32 || r.Value.Kind() != protocols.KindUint {
			dst = n.appendData(dst, s, r, ms, historical)
			continue
		}
		dst = slices.Grow(dst, atMost)
		at := len(dst)
		dst = append(dst, keyMetric, 0)
		dst = append(dst, c.head[:c.size]...)
		dst = append(dst, n.stamp...)
		dst = appendVarint(dst, keyInt, r.Value.AsUint())
		dst[at+1] = byte(len(dst) - at - 2)
	}
	return dst
}

// schema returns s compiled.
func (n *Node) schema(s *protocols.Schema) *schema {
	if c := n.schemas[s]; c != nil {
		return c
	}
	if len(n.schemas) >= maxSchemas {
		clear(n.schemas)
	}
	c := &schema{device: n.device(s.Device), cells: make([]cell, len(s.Tags))}
	for i, t := range s.Tags {
		m := c.device.byName[t.Name]
		if m == nil {
			m = n.addMetric(c.device, Definition{Name: t.Name, Unit: t.Unit})
		}
		cell := &c.cells[i]
		cell.metric = m
		cell.size = uint8(len(appendVarint(cell.head[:0], keyAlias, m.alias)))
	}
	n.schemas[s] = c
	return c
}

// learn looks for values that do not fit what births say, and widens the
// types. It says whether readings have times of their own.
func (n *Node) learn(s *schema, rs []protocols.Reading) (sourced bool) {
	for i := range rs {
		r := &rs[i]
		sourced = sourced || r.Source != 0
		m := s.cells[r.Tag].metric
		if plainFit(m.typ, r) || m.json || !hasValue(r) {
			continue
		}
		out, ok := n.appendSlot(n.text[:0], &m.slot, r.Value, false)
		n.text = out[:0]
		if ok {
			continue
		}
		n.widen(&m.slot, r.Value, s.device.id+"/"+m.Name)
		s.device.stale = true
	}
	return sourced
}

// plainFit says that r surely fits: most readings of most PLCs.
func plainFit(t DataType, r *protocols.Reading) bool {
	switch r.Value.Kind() {
	case protocols.KindUint:
		return t.unsigned() && r.Value.AsUint()>>t.bits() == 0
	case protocols.KindBool:
		return t == Boolean
	case protocols.KindFloat32:
		return t == Float
	case protocols.KindFloat64:
		return t == Double
	case protocols.KindString:
		return t == String
	case protocols.KindNone, protocols.KindInt, protocols.KindBytes, protocols.KindTime, protocols.KindArray, protocols.KindObject:
	}
	return false
}

// byTime returns the order of the readings by their times, in which values
// that are current have to be (Sparkplug 3.0, 6.4.8).
func (n *Node) byTime(rs []protocols.Reading, ms int64) []int32 {
	n.order = n.order[:0]
	for i := range rs {
		n.order = append(n.order, int32(i))
	}
	slices.SortStableFunc(n.order, func(a, b int32) int { return cmp.Compare(acquired(&rs[a], ms), acquired(&rs[b], ms)) })
	return n.order
}

func (n *Node) appendData(dst []byte, s *schema, r *protocols.Reading, ms int64, historical bool) []byte {
	c := &s.cells[r.Tag]
	dst, at := open(dst, keyMetric)
	dst = append(dst, c.head[:c.size]...)
	if r.Source == 0 {
		dst = append(dst, n.stamp...)
	} else {
		dst = appendVarint(dst, keyMetricTime, uint64(acquired(r, ms)))
		if historical {
			dst = appendBool(dst, keyHistorical, true)
		}
	}
	if !hasValue(r) {
		dst = appendBool(dst, keyNull, true)
	}
	if q, why := told(r); q != qualityGood {
		var props int
		dst, props = open(dst, keyProperties)
		dst = appendText(dst, keyPropName, quality)
		if why != "" {
			dst = appendText(dst, keyPropName, reason)
		}
		dst = appendQuality(dst, q)
		if why != "" {
			dst = appendTextProperty(dst, string(why))
		}
		dst = seal(dst, props)
	}
	if hasValue(r) {
		dst, _ = n.appendSlot(dst, &c.metric.slot, r.Value, false) // learn has seen that it fits
	}
	return seal(dst, at)
}
