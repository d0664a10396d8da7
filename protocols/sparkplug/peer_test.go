package sparkplug

import (
	"fmt"
	"math"
	"strconv"
	"testing"

	"millrace/protocols"
	"millrace/protocols/sparkplug/sparkplugtest"
)

// peerPayloads are messages of a node with all types, structures, properties
// and qualities.
func peerPayloads(t *testing.T) [][]byte {
	t.Helper()
	low := -1.5
	values := []protocols.Value{
		protocols.Int(-1), protocols.Int(math.MinInt16), protocols.Int(math.MinInt32), protocols.Int(math.MinInt64),
		protocols.Uint(255), protocols.Uint(65535), protocols.Uint(math.MaxUint32), protocols.Uint(math.MaxUint64),
		protocols.Float32(-0.1), protocols.Float64(math.Pi), protocols.Bool(false), protocols.String("温度 \"1\""),
		protocols.Time(moment(at)), protocols.Bytes([]byte{0, 1, 255}),
		protocols.Array([]protocols.Value{protocols.Uint(1), protocols.Uint(65535)}), bools("101100001"),
		protocols.Array([]protocols.Value{protocols.String("a"), protocols.String("")}),
		protocols.Object([]string{"x", "on", "in"}, []protocols.Value{
			protocols.Float64(1), protocols.Bool(true), protocols.Object([]string{"n"}, []protocols.Value{protocols.Int(-3)}),
		}),
		protocols.Array([]protocols.Value{protocols.Array(nil)}),
	}
	types := []DataType{Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64, Float, Double, Boolean, String, DateTime, Bytes, UInt16Array, BooleanArray, StringArray}
	s := &protocols.Schema{Device: "d"}
	b := &protocols.Batch{Schema: s}
	d := Device{ID: "d"}
	var current []Current
	for i, v := range values {
		def := Definition{Name: fmt.Sprintf("folder/tag%d", i)}
		if i < len(types) {
			def.Type = types[i]
		}
		if i%3 == 0 {
			def.Unit, def.Low, def.Documentation = "bar", &low, "压力"
		}
		d.Metrics = append(d.Metrics, def)
		s.Tags = append(s.Tags, protocols.SchemaTag{Name: def.Name})
		r := protocols.Reading{Tag: int32(i), Value: v}
		switch i {
		case 4:
			r.SetBad(protocols.Timeout)
		case 5:
			r.Quality, r.Reason = protocols.Uncertain, "UncertainLastUsableValue"
		}
		b.Readings = append(b.Readings, r)
		current = append(current, Current{Reading: r, Time: at})
	}
	n := newNode(t, d)
	n.Begin(7)
	n.Set("Gap", protocols.String("{}"), at)
	n.Prepare("d", current)
	all := [][]byte{n.Death(at).Body, n.Birth(at).Body}
	birth, _ := n.DeviceBirth("d", current, at)
	all = append(all, birth.Body)
	for _, historical := range []bool{false, true} {
		_, body, need := n.Data(nil, b, at, at, historical)
		if need != NeedNothing {
			t.Fatalf("it needs %d", need)
		}
		all = append(all, body)
	}
	n.Set("Gap", protocols.String("{}"), at)
	data, _ := n.NodeData(at)
	death, _ := n.DeviceDeath("d", at)
	return append(all, data.Body, death.Body, RebirthCommand(at))
}

// A decoder that is not ours finds in our bytes what ours does.
func TestPeerDecodes(t *testing.T) {
	t.Parallel()
	payloads := peerPayloads(t)
	peers, err := sparkplugtest.Decode(payloads...)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range peers {
		if p.Error != "" {
			t.Errorf("payload %d: %s", i, p.Error)
			continue
		}
		own := decoded(t, payloads[i])
		if got, want := number(p.Timestamp), optional(own.Timestamp, own.HasTimestamp); got != want {
			t.Errorf("payload %d: timestamp %s, want %s", i, got, want)
		}
		if got, want := number(p.Seq), optional(own.Seq, own.HasSeq); got != want {
			t.Errorf("payload %d: seq %s, want %s", i, got, want)
		}
		samePeer(t, fmt.Sprintf("payload %d", i), p.Metrics, own.Metrics)
	}
}

func number(s *string) string {
	if s == nil {
		return "none"
	}
	return *s
}

func optional(n uint64, has bool) string {
	if !has {
		return "none"
	}
	return strconv.FormatUint(n, 10)
}

func samePeer(t *testing.T, where string, peers []sparkplugtest.Metric, own []Metric) {
	t.Helper()
	if len(peers) != len(own) {
		t.Errorf("%s: %d metrics, want %d", where, len(peers), len(own))
		return
	}
	for i := range own {
		p, o := &peers[i], &own[i]
		got := fmt.Sprint(p.Name, " ", number(p.Alias), " ", number(p.Timestamp), " ", p.DataType, " ", p.IsHistorical, " ", p.IsNull, " ", peerValue(p.Value, &p.Values, p.BytesValue))
		want := fmt.Sprint(o.Name, " ", optional(o.Alias, o.HasAlias), " ", optional(o.Timestamp, o.HasTimestamp), " ", uint32(o.Type), " ", o.Historical, " ", o.Null, " ", ownValue(o.Value))
		if got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", where, got, want)
		}
		samePeerProperties(t, where+" "+o.Name, p.Properties, o.Properties)
		if (p.TemplateValue == nil) != (o.Value.Template == nil) {
			t.Errorf("%s %s: template %v", where, o.Name, p.TemplateValue)
			continue
		}
		if o.Value.Template != nil {
			if p.TemplateValue.IsDefinition == nil || *p.TemplateValue.IsDefinition != o.Value.Template.Definition ||
				(p.TemplateValue.TemplateRef == nil) != (o.Value.Template.Ref == "") {
				t.Errorf("%s %s: %+v", where, o.Name, p.TemplateValue)
			}
			samePeer(t, where+" "+o.Name, p.TemplateValue.Metrics, o.Value.Template.Metrics)
		}
	}
}

func samePeerProperties(t *testing.T, where string, p *sparkplugtest.Properties, own []Property) {
	t.Helper()
	var got, want string
	if p != nil {
		for i := range p.Values {
			got += fmt.Sprintln(p.Keys[i], p.Values[i].Type, peerValue(p.Values[i].Value, &p.Values[i].Values, nil))
		}
	}
	for _, o := range own {
		want += fmt.Sprintln(o.Key, uint32(o.Type), ownValue(o.Value))
	}
	if got != want {
		t.Errorf("%s: properties\n%s, want\n%s", where, got, want)
	}
}

func peerValue(field string, v *sparkplugtest.Values, raw []byte) string {
	text := map[string]string{
		"intValue": fmt.Sprint(v.IntValue), "longValue": v.LongValue, "stringValue": v.StringValue,
		"booleanValue": fmt.Sprint(v.BooleanValue), "bytesValue": string(raw),
		"floatValue": peerFloat(v.FloatValue.String()), "doubleValue": peerFloat(v.DoubleValue.String()),
	}[field]
	return field + " " + text
}

func peerFloat(s string) string {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return s
	}
	return fmt.Sprint(f)
}

func ownValue(v Value) string {
	switch v.Field {
	case FieldInt:
		return fmt.Sprint("intValue ", v.Num)
	case FieldLong:
		return fmt.Sprint("longValue ", v.Num)
	case FieldFloat, FieldDouble:
		return map[Field]string{FieldFloat: "floatValue ", FieldDouble: "doubleValue "}[v.Field] + fmt.Sprint(v.float64())
	case FieldBoolean:
		return fmt.Sprint("booleanValue ", v.Num != 0)
	case FieldString:
		return "stringValue " + v.Text
	case FieldBytes:
		return "bytesValue " + v.Text
	case FieldTemplate:
		return "templateValue "
	case FieldNone, FieldDataSet, FieldOther:
	}
	return " "
}
