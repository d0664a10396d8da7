package sparkplug

import (
	"encoding/binary"
	"math"

	"millrace/protocols"
)

// Prepare learns from the newest readings of a device what types its metrics
// have. It is called for all devices that are to be born before Birth, whose
// message has the definitions of all structures.
func (n *Node) Prepare(id string, current []Current) {
	d := n.devices[id]
	if d == nil {
		return
	}
	for _, m := range d.metrics {
		n.prepare(d, m, current)
	}
}

func (n *Node) prepare(d *device, m *metric, current []Current) {
	if m.configured < 0 || m.configured >= len(current) {
		return
	}
	r := &current[m.configured].Reading
	if current[m.configured].Time == 0 || !hasValue(r) {
		return
	}
	if _, ok := n.appendSlot(n.text[:0], &m.slot, r.Value, true); !ok {
		n.widen(&m.slot, r.Value, d.id+"/"+m.Name)
		d.stale = true
	}
}

// hasValue says that r has a value to be sent. A NaN should be bad already.
func hasValue(r *protocols.Reading) bool {
	return r.Quality != protocols.Bad && r.Value.Kind() != protocols.KindNone && r.Value.Finite()
}

// Birth returns the node's birth: bdSeq, Node Control/Rebirth, its own
// metrics and all definitions of structures. The sequence begins anew, and
// no device is born until its own birth.
func (n *Node) Birth(ms int64) Message {
	n.seq, n.stale = 0, false
	for _, d := range n.devices {
		d.born = false
	}
	body := appendVarint(nil, keyTimestamp, uint64(ms))
	body = n.appendBdSeq(body, ms)
	body, at := open(body, keyMetric)
	body = appendText(body, keyName, Rebirth)
	body = appendVarint(body, keyMetricTime, uint64(ms))
	body = appendVarint(body, keyDataType, uint64(Boolean))
	body = seal(appendBool(body, keyBoolean, false), at)
	for _, t := range n.types {
		body = n.appendDefinition(body, t, ms)
	}
	for _, m := range n.own {
		m.dirty = false
		body, at = open(body, keyMetric)
		body = appendText(body, keyName, m.name)
		body = appendVarint(body, keyAlias, m.alias)
		body = appendVarint(body, keyMetricTime, uint64(m.ms))
		body = appendVarint(body, keyDataType, uint64(m.typ))
		body, _ = appendScalar(body, m.typ, m.value) // its type was made from the value
		body = seal(body, at)
	}
	topic := Topic{Type: NBIRTH, Group: n.o.Group, Node: n.o.ID}.String()
	return Message{Topic: topic, Body: appendVarint(body, keySeq, n.number())}
}

// DeviceBirth returns the birth of a device with its newest readings, in the
// order of the configured metrics; nil: there are none. The node must have
// been born. It is false if there is no such device.
func (n *Node) DeviceBirth(id string, current []Current, ms int64) (Message, bool) {
	d := n.devices[id]
	if d == nil {
		return Message{}, false
	}
	d.born, d.stale = true, false
	body := appendVarint(nil, keyTimestamp, uint64(ms))
	for _, m := range d.metrics {
		c := Current{}
		if m.configured >= 0 && m.configured < len(current) {
			c = current[m.configured]
		}
		body = n.appendBirthMetric(body, d, m, &c, ms)
	}
	return Message{Topic: d.birth, Body: appendVarint(body, keySeq, n.number())}, true
}

func (n *Node) appendBirthMetric(dst []byte, d *device, m *metric, c *Current, ms int64) []byte {
	dst, at := open(dst, keyMetric)
	dst = appendText(dst, keyName, m.Name)
	dst = appendVarint(dst, keyAlias, m.alias)
	stamp := ms
	if c.Time != 0 {
		stamp = acquired(&c.Reading, c.Time)
	}
	dst = appendVarint(dst, keyMetricTime, uint64(stamp))
	dst = appendVarint(dst, keyDataType, uint64(m.declared()))
	// What of it is no value is a null: Prepare has seen to the types.
	value, ok := dst, false
	if c.Time != 0 && hasValue(&c.Reading) {
		value, ok = n.appendSlot(dst, &m.slot, c.Reading.Value, true)
		d.stale = d.stale || !ok
	}
	if !ok {
		dst = appendBool(dst, keyNull, true)
	}
	dst, props := n.appendBirthProperties(dst, m, c, ok)
	if ok {
		// The properties stand before the value: field 9 before 10 and above.
		if !props {
			return seal(value, at)
		}
		dst, _ = n.appendSlot(dst, &m.slot, c.Reading.Value, true)
	}
	return seal(dst, at)
}

// appendBirthProperties appends what is known of m beside its value: unit,
// range, documentation, and its quality if that is not good.
func (n *Node) appendBirthProperties(dst []byte, m *metric, c *Current, ok bool) ([]byte, bool) {
	q, why := told(&c.Reading)
	if c.Time == 0 {
		q, why = qualityStale, ""
	} else if !ok && q != qualityBad {
		q = qualityStale
	}
	notGood := !ok || q != qualityGood
	if m.Unit == "" && m.Low == nil && m.High == nil && m.Documentation == "" && !notGood {
		return dst, false
	}
	dst, at := open(dst, keyProperties)
	for _, key := range []struct {
		name string
		has  bool
	}{
		{quality, notGood},
		{reason, notGood && why != ""},
		{"engUnit", m.Unit != ""},
		{"engLow", m.Low != nil},
		{"engHigh", m.High != nil},
		{"documentation", m.Documentation != ""},
	} {
		if key.has {
			dst = appendText(dst, keyPropName, key.name)
		}
	}
	if notGood {
		dst = appendQuality(dst, q)
		if why != "" {
			dst = appendTextProperty(dst, string(why))
		}
	}
	if m.Unit != "" {
		dst = appendTextProperty(dst, m.Unit)
	}
	for _, f := range []*float64{m.Low, m.High} {
		if f != nil {
			dst = append(dst, keyPropValue, 11, keyPropType, byte(Double), keyPropDouble)
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(*f))
		}
	}
	if m.Documentation != "" {
		dst = appendTextProperty(dst, m.Documentation)
	}
	return seal(dst, at), true
}

func appendQuality(dst []byte, q uint64) []byte {
	dst, at := open(dst, keyPropValue)
	dst = append(dst, keyPropType, byte(Int32))
	return seal(appendVarint(dst, keyPropInt, q), at)
}

func appendTextProperty(dst []byte, s string) []byte {
	dst, at := open(dst, keyPropValue)
	dst = append(dst, keyPropType, byte(String))
	return seal(appendText(dst, keyPropString, s), at)
}

// told returns the quality of r as Sparkplug has it, and why it is not good.
func told(r *protocols.Reading) (uint64, protocols.Reason) {
	switch {
	case r.Quality == protocols.Bad:
		return qualityBad, r.Reason
	case !r.Value.Finite():
		return qualityBad, protocols.NotANumber
	case r.Value.Kind() == protocols.KindNone:
		return qualityBad, protocols.Malformed
	case r.Quality == protocols.Uncertain:
		return qualityStale, r.Reason
	}
	return qualityGood, ""
}

// latest is how much later than its arrival a value's own time may be, in ms.
// Beyond that the device's clock is wrong, or runs on local time.
const latest = 60_000

// acquired returns the time of a reading that arrived at ms, in ms since 1970
// UTC: the device's own, if it gives one that can be.
func acquired(r *protocols.Reading, ms int64) int64 {
	if r.Source == 0 {
		return ms
	}
	own := r.Source / 1e6
	if own <= 0 || own > ms+latest {
		return ms
	}
	return own
}
