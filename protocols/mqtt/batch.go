package mqtt

import (
	"fmt"
	"strconv"
	"time"

	"millrace/protocols"
)

// HistoricalAfter is how old a batch is when it is sent from which on it
// counts as one that waited for a link.
const HistoricalAfter = 10 * time.Second

// compiledSchema is a schema with all that is the same in every batch of it
// laid out beforehand.
type compiledSchema struct {
	whole  *protocols.Schema // as it is stored
	passes filtered          // of an uplink: what goes out of it
	topic  string
	head   []byte   // from the opening brace to the stream's value
	keys   []byte   // ,"name": of each tag, one after the other
	ends   []uint32 // where in keys the key of a tag ends
}

func compileSchema(s *protocols.Schema, gateway, topic string) *compiledSchema {
	c := &compiledSchema{whole: s, topic: topic, ends: make([]uint32, len(s.Tags))}
	c.head = append(c.head, `{"v":1`...)
	if gateway != "" { // an export may not know it
		c.head = append(c.head, `,"gateway":`...)
		c.head = appendString(c.head, gateway)
	}
	c.head = append(c.head, `,"device":`...)
	c.head = appendString(c.head, s.Device)
	c.head = append(c.head, `,"stream":`...)
	for i, t := range s.Tags {
		c.keys = append(c.keys, ',')
		c.keys = appendString(c.keys, t.Name)
		c.keys = append(c.keys, ':')
		c.ends[i] = uint32(len(c.keys))
	}
	return c
}

// key returns ,"name": of a tag.
func (c *compiledSchema) key(tag int32) []byte {
	start := uint32(0)
	if tag > 0 {
		start = c.ends[tag-1]
	}
	return c.keys[start:c.ends[tag]]
}

// appendBatch appends the data message of b, which is r decoded, as sent at
// the time now (Unix milliseconds). Its error is one in the record.
func appendBatch(dst []byte, r *Record, c *compiledSchema, b *protocols.Batch, now int64) ([]byte, error) {
	dst = append(dst, c.head...)
	dst = appendString(dst, r.Stream)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendUint(dst, r.Seq, 10)
	dst = append(dst, `,"ts":`...)
	dst = strconv.AppendInt(dst, r.Time, 10)
	if b.Historical || now-r.Time > HistoricalAfter.Milliseconds() {
		dst = append(dst, `,"historical":true`...)
	}
	if r.ClockUnset {
		dst = append(dst, `,"clock":"unset"`...)
	}
	dst, rest, err := appendValues(dst, c, b.Readings)
	if err != nil {
		return dst, err
	}
	if rest.bad {
		dst = appendReasons(dst, `,"bad":{`, c, b.Readings, true)
	}
	if rest.uncertain {
		dst = appendReasons(dst, `,"uncertain":{`, c, b.Readings, false)
	}
	if rest.source {
		dst = appendSources(dst, c, b.Readings)
	}
	return append(dst, '}'), nil
}

// parts says which of a message's optional objects are needed.
type parts struct{ bad, uncertain, source bool }

// hasValue says whether a reading goes into values; all others go into bad.
// A NaN should be bad already; it has no form in JSON.
func hasValue(r *protocols.Reading) bool {
	if r.Quality == protocols.Bad {
		return false
	}
	switch r.Value.Kind() {
	case protocols.KindNone:
		return false
	case protocols.KindFloat32, protocols.KindFloat64, protocols.KindArray, protocols.KindObject:
		return r.Value.Finite()
	case protocols.KindBool, protocols.KindInt, protocols.KindUint, protocols.KindString, protocols.KindBytes, protocols.KindTime:
	}
	return true
}

func appendValues(dst []byte, c *compiledSchema, rs []protocols.Reading) ([]byte, parts, error) {
	var need parts
	dst = append(dst, `,"values":{`...)
	comma := 1 // the first key goes without its comma
	for i := range rs {
		r := &rs[i]
		if uint(r.Tag) >= uint(len(c.ends)) {
			return dst, need, fmt.Errorf("%w: tag %d of %d", protocols.ErrRecord, r.Tag, len(c.ends))
		}
		if r.Source != 0 {
			need.source = true
		}
		if !hasValue(r) {
			need.bad = true
			continue
		}
		if r.Quality == protocols.Uncertain {
			need.uncertain = true
		}
		dst = append(dst, c.key(r.Tag)[comma:]...)
		comma = 0
		if r.Value.Kind() == protocols.KindUint { // most of what a PLC has
			dst = appendUint(dst, r.Value.AsUint())
			continue
		}
		dst = appendValue(dst, r.Value)
	}
	return append(dst, '}'), need, nil
}

// appendReasons appends the object of the bad readings, or of the uncertain
// ones that have a value.
func appendReasons(dst []byte, open string, c *compiledSchema, rs []protocols.Reading, bad bool) []byte {
	dst = append(dst, open...)
	comma := 1
	for i := range rs {
		r := &rs[i]
		if hasValue(r) == bad || !bad && r.Quality != protocols.Uncertain {
			continue
		}
		dst = append(dst, c.key(r.Tag)[comma:]...)
		comma = 0
		dst = appendString(dst, string(reasonOf(r)))
	}
	return append(dst, '}')
}

// reasonOf returns the reason of a reading that is not good, and one for a
// reading that was called good and has no value that JSON can hold.
func reasonOf(r *protocols.Reading) protocols.Reason {
	switch {
	case r.Quality != protocols.Bad && r.Value.Kind() != protocols.KindNone && !r.Value.Finite():
		return protocols.NotANumber
	case r.Reason == "":
		return protocols.Malformed
	}
	return r.Reason
}

func appendSources(dst []byte, c *compiledSchema, rs []protocols.Reading) []byte {
	dst = append(dst, `,"source_ts":{`...)
	comma := 1
	for i := range rs {
		if rs[i].Source == 0 {
			continue
		}
		dst = append(dst, c.key(rs[i].Tag)[comma:]...)
		comma = 0
		dst = appendMillis(dst, rs[i].Source)
	}
	return append(dst, '}')
}
