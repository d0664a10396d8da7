package tail

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// json reads a message of the format json. Topics are
// ROOT/GROUP/GATEWAY/DEVICE/data and so on, where ROOT may have several
// levels.
func (t *Tail) json(e *Event, levels []string, m Message) *gateway {
	n := len(levels) - 1
	kind, at := Kind(levels[n]), n-1 // where the gateway's level is
	switch kind {
	case KindData, KindState:
		at--
	case KindStatus, KindGap, KindConnectivity:
	case KindBirth, KindDeath, KindCommand, KindHost, KindUnknown:
		kind = KindUnknown
	default:
		kind = KindUnknown
	}
	if kind == KindUnknown || at < 2 {
		unknown(e, m.Body)
		return nil
	}
	e.Format, e.Group, e.Gateway = FormatJSON, levels[at-1], levels[at]
	if at < n-1 {
		e.Device = levels[n-1]
	}
	fields, err := members(m.Body)
	if err == nil && !has(fields, "v") {
		e.Format, e.Group, e.Gateway, e.Device = "", "", "", "" // somebody else's
		unknown(e, m.Body)
		return nil
	}
	g := t.gateway(gatewayKey{FormatJSON, e.Group, e.Gateway})
	if kind == KindState && len(m.Body) == 0 {
		e.Kind, e.Cleared = kind, true
		return g
	}
	if err != nil {
		e.Fault = fmt.Sprintf("this is no %s message: %v", kind, err)
		unknown(e, m.Body)
		return g
	}
	e.Kind = kind
	d := decoder{e: e, fields: fields}
	switch kind {
	case KindData:
		d.data(t)
		if g != nil && e.Fault == "" {
			t.follow(g, e, levels[:at+1])
		}
	case KindState:
		e.State, e.Since, e.Reason = d.text("state"), d.number("since"), d.text("reason")
	case KindStatus:
		online := d.flag("online")
		e.Online, e.TS, e.Version, e.Reason = &online, d.number("ts"), d.text("version"), d.text("reason")
		e.Body = d.raw("previous")
	case KindGap:
		e.Gap, e.Stream = d.gap(), d.stream()
		if g != nil && e.Fault == "" && !e.Retained {
			s := g.stream(e.Stream)
			if t.o.Partial || !covered(t.o.Topics, levels[:at+1]) {
				s.tear()
			}
			s.announce(span{e.Gap.From, e.Gap.To})
		}
	case KindConnectivity:
		e.Body = compact(m.Body)
	case KindBirth, KindDeath, KindCommand, KindHost, KindUnknown:
	}
	if e.Fault != "" {
		unknown(e, m.Body)
	}
	return g
}

// follow counts the number of a batch.
func (t *Tail) follow(g *gateway, e *Event, levels []string) {
	s := g.stream(e.Stream)
	if t.o.Partial || !covered(t.o.Topics, levels) {
		s.tear() // what we did not ask for is not missing
	}
	a := s.take(*e.Seq)
	e.Repeat, e.Late = a.repeat, a.late
	if a.missing.to > 0 {
		e.note(missingWords(a.missing))
	}
}

func missingWords(s span) string {
	if s.from == s.to {
		return fmt.Sprintf("seq %d is missing before it", s.from)
	}
	return fmt.Sprintf("seq %d to %d are missing before it: %d batches", s.from, s.to, s.to-s.from+1)
}

// member is one member of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// members returns the members of a JSON object in their order.
func members(raw []byte) ([]member, error) {
	if !json.Valid(raw) {
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, err
		}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	first, err := d.Token()
	if err != nil {
		return nil, err
	}
	if first != json.Delim('{') {
		return nil, errors.New("it is no JSON object")
	}
	var all []member
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		m := member{}
		m.name, _ = name.(string) // of a valid object it is one
		if err := d.Decode(&m.value); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

func has(all []member, name string) bool {
	return slices.ContainsFunc(all, func(m member) bool { return m.name == name })
}

// compact returns JSON without the white space between its parts.
func compact(raw []byte) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return nil
	}
	return b.Bytes()
}

// decoder reads the fields of a message. The first that is not what it should
// be is the message's fault.
type decoder struct {
	e      *Event
	fields []member
}

func (d *decoder) raw(name string) json.RawMessage {
	for i := range d.fields {
		if d.fields[i].name == name && string(d.fields[i].value) != "null" {
			return compact(d.fields[i].value)
		}
	}
	return nil
}

func (d *decoder) fault(name, want string) {
	if d.e.Fault == "" {
		d.e.Fault = fmt.Sprintf("%q is no %s", name, want)
	}
}

func (d *decoder) text(name string) (s string) {
	if raw := d.raw(name); raw != nil && json.Unmarshal(raw, &s) != nil {
		d.fault(name, "text")
	}
	return s
}

// maxStream is how long the id of a stream may be, in bytes; it has 26.
const maxStream = 128

func (d *decoder) stream() string {
	s := d.text("stream")
	if s == "" || len(s) > maxStream {
		d.fault("stream", "id of a run")
	}
	return s
}

func (d *decoder) flag(name string) (b bool) {
	if raw := d.raw(name); raw != nil && json.Unmarshal(raw, &b) != nil {
		d.fault(name, "true or false")
	}
	return b
}

// number returns a number with all its digits.
func (d *decoder) number(name string) json.RawMessage {
	raw := d.raw(name)
	if raw != nil && !isNumber(raw) {
		d.fault(name, "number")
		return nil
	}
	return raw
}

func isNumber(raw []byte) bool {
	return len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9')
}

// object returns the members of an object that may be missing.
func (d *decoder) object(name string) []member {
	raw := d.raw(name)
	if raw == nil {
		return nil
	}
	all, err := members(raw)
	if err != nil {
		d.fault(name, "object")
	}
	return all
}

// data reads a batch.
func (d *decoder) data(t *Tail) {
	e := d.e
	e.Stream, e.TS, e.Historical, e.Clock = d.stream(), d.number("ts"), d.flag("historical"), d.text("clock")
	raw := d.raw("seq")
	seq, err := strconv.ParseUint(string(raw), 10, 64)
	if err != nil || seq > maxSeq {
		d.fault("seq", "number of a batch")
	} else {
		e.Seq = &seq
	}
	times, reasons := texts(d.object("source_ts")), texts(d.object("uncertain"))
	for _, m := range d.object("values") {
		r := Reading{Tag: m.name, Value: compact(m.value), Quality: Good}
		if why, ok := reasons[m.name]; ok {
			r.Quality, r.Reason = Uncertain, unquote(why)
		}
		d.add(t, r, times)
	}
	for _, m := range d.object("bad") {
		d.add(t, Reading{Tag: m.name, Quality: Bad, Reason: unquote(m.value)}, times)
	}
}

func (d *decoder) add(t *Tail, r Reading, times map[string]json.RawMessage) {
	if ts := times[r.Tag]; isNumber(ts) {
		r.TS = ts
	}
	if t.o.Unit != nil {
		r.Unit = t.o.Unit(d.e.Gateway, d.e.Device, r.Tag)
	}
	d.e.Readings = append(d.e.Readings, r)
}

func texts(all []member) map[string]json.RawMessage {
	found := make(map[string]json.RawMessage, len(all))
	for _, m := range all {
		found[m.name] = m.value
	}
	return found
}

// unquote returns a JSON string's text, and of anything else its JSON.
func unquote(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

func (d *decoder) gap() *Gap {
	g := &Gap{}
	raw := d.raw("gap")
	if raw == nil || json.Unmarshal(raw, g) != nil || g.From > g.To || g.To > maxSeq {
		d.fault("gap", "gap notice")
	}
	return g
}
