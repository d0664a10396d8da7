package sparkplug

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"millrace/protocols"
)

// model is a host that believes nothing: it follows one node by the bytes of
// its messages, and knows what was put into them.
type model struct {
	seq     uint64
	born    map[string]map[uint64]modelMetric // devices, by alias
	aliases map[uint64]string
	types   map[string]*Template
}

type modelMetric struct {
	name string
	typ  DataType
}

func (m *model) take(t *rapid.T, msg Message) map[string]Metric {
	topic, ok := ParseTopic(msg.Topic)
	if !ok {
		t.Fatalf("topic %q", msg.Topic)
	}
	p, err := Decode(msg.Body)
	if err != nil {
		t.Fatalf("%s: %v", msg.Topic, err)
	}
	if topic.Type == NBIRTH {
		*m = model{born: map[string]map[uint64]modelMetric{}, aliases: map[uint64]string{}, types: map[string]*Template{}}
		for i := range p.Metrics {
			if d := p.Metrics[i].Value.Template; d != nil {
				m.types[p.Metrics[i].Name] = d
			}
			if p.Metrics[i].HasAlias {
				m.aliases[p.Metrics[i].Alias] = "node/" + p.Metrics[i].Name
			}
		}
	}
	if !p.HasSeq || p.Seq != m.seq {
		t.Fatalf("%s has seq %d, want %d", msg.Topic, p.Seq, m.seq)
	}
	m.seq = (m.seq + 1) % 256
	got := map[string]Metric{}
	switch topic.Type {
	case DBIRTH:
		known := map[uint64]modelMetric{}
		for _, x := range p.Metrics {
			who := topic.Device + "/" + x.Name
			if other, taken := m.aliases[x.Alias]; taken && other != who || !x.HasAlias || x.Type == Unknown {
				t.Fatalf("%s: alias %d is of %s and %s", msg.Topic, x.Alias, other, who)
			}
			m.aliases[x.Alias] = who
			known[x.Alias] = modelMetric{x.Name, x.Type}
			m.check(t, x.Type, &x)
		}
		m.born[topic.Device] = known
	case DDATA:
		known := m.born[topic.Device]
		for _, x := range p.Metrics {
			k, ok := known[x.Alias]
			if !ok {
				t.Fatalf("%s: alias %d is not of its birth", msg.Topic, x.Alias)
			}
			m.check(t, k.typ, &x)
			x.Type = k.typ
			got[k.name] = x
		}
	case DDEATH:
		delete(m.born, topic.Device)
	}
	return got
}

func (m *model) check(t *rapid.T, typ DataType, x *Metric) {
	if x.Null {
		if x.Value.Field != FieldNone {
			t.Fatalf("a null with a value: %+v", x)
		}
		return
	}
	if typ == TemplateType {
		m.instance(t, x.Value.Template)
		return
	}
	if _, ok := x.Value.As(typ); !ok {
		t.Fatalf("%+v is no %v", x.Value, typ)
	}
}

func (m *model) instance(t *rapid.T, in *Template) {
	if in == nil || in.Definition || m.types[in.Ref] == nil {
		t.Fatalf("instance of what? %+v", in)
	}
	for i := range in.Metrics {
		x := &in.Metrics[i]
		def := slices.IndexFunc(m.types[in.Ref].Metrics, func(d Metric) bool { return d.Name == x.Name })
		if def < 0 {
			t.Fatalf("%s has no member %q", in.Ref, x.Name)
		}
		m.check(t, m.types[in.Ref].Metrics[def].Type, x)
	}
}

// anyValue draws values of all kinds, of few enough forms that types clash.
func anyValue(t *rapid.T, depth int) protocols.Value {
	kinds := 10
	if depth > 0 {
		kinds = 8
	}
	switch rapid.IntRange(0, kinds).Draw(t, "kind") {
	case 0:
		return protocols.Bool(rapid.Bool().Draw(t, "bool"))
	case 1:
		return protocols.Int(rapid.Int64().Draw(t, "int"))
	case 2:
		return protocols.Uint(rapid.Uint64().Draw(t, "uint"))
	case 3:
		return protocols.Float32(rapid.Float32Range(-1e6, 1e6).Draw(t, "float32"))
	case 4:
		return protocols.Float64(rapid.Float64Range(-1e300, 1e300).Draw(t, "float64"))
	case 5:
		return protocols.String(rapid.StringN(0, 5, 20).Draw(t, "string"))
	case 6:
		return protocols.Bytes([]byte(rapid.StringN(0, 5, 20).Draw(t, "bytes")))
	case 7:
		return protocols.Time(moment(rapid.Int64Range(0, 2e12).Draw(t, "time")))
	case 8:
		return protocols.Uint(uint64(rapid.IntRange(0, 300).Draw(t, "small")))
	case 9:
		var elems []protocols.Value
		for range rapid.IntRange(0, 3).Draw(t, "elements") {
			elems = append(elems, anyValue(t, depth+1))
		}
		return protocols.Array(elems)
	default:
		names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"x", "y", "z"}), 0, 3, rapid.ID).Draw(t, "fields")
		var values []protocols.Value
		for range names {
			values = append(values, anyValue(t, depth))
		}
		return protocols.Object(names, values)
	}
}

// said is v as the receiver of typ has to understand it.
func said(typ DataType, v protocols.Value) string {
	if typ == TemplateType {
		return "" // its parts were checked
	}
	if typ == String && v.Kind() != protocols.KindString {
		return string(appendTestJSON(nil, protocols.String(string(appendTestJSON(nil, v)))))
	}
	return string(appendTestJSON(nil, as(typ, v)))
}

// as is v with the precision of typ.
func as(typ DataType, v protocols.Value) protocols.Value {
	if typ.array() {
		var elems []protocols.Value
		for _, e := range v.Elems() {
			elems = append(elems, as(typ.element(), e))
		}
		return protocols.Array(elems)
	}
	if f, ok := v.Number(); ok && typ == Double {
		return protocols.Float64(f)
	}
	if v.Kind() == protocols.KindTime {
		return protocols.Time(moment(v.AsTime().UnixMilli()))
	}
	return v
}

// TestNode drives a node with any values of any kinds, births when it asks for
// them, rebirths, deaths and sessions, and holds every message against the
// model: nothing is sent that the births have not declared, every value
// arrives as it was, and learning comes to an end.
func TestNode(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n, err := New(Options{Group: "plant", ID: "gw", AppendJSON: appendTestJSON})
		if err != nil {
			t.Fatal(err)
		}
		ids := []string{"d1", "d2"}
		types := []DataType{Unknown, Unknown, UInt8, Int16, Double, Boolean, String, UInt16Array}
		schemas := map[string]*protocols.Schema{}
		var devices []Device
		for _, id := range ids {
			d, s := Device{ID: id}, &protocols.Schema{Device: id}
			for i := range 3 {
				name := fmt.Sprintf("tag%d", i)
				s.Tags = append(s.Tags, protocols.SchemaTag{Name: name})
				if i < 2 { // the third is of an older configuration
					d.Metrics = append(d.Metrics, Definition{Name: name, Type: rapid.SampledFrom(types).Draw(t, "type")})
				}
			}
			devices, schemas[id] = append(devices, d), s
		}
		if _, err := n.SetDevices(devices); err != nil {
			t.Fatal(err)
		}
		m := &model{}
		births := 0
		birth := func() {
			births++
			m.take(t, n.Birth(at))
			for _, id := range ids {
				msg, _ := n.DeviceBirth(id, nil, at)
				m.take(t, msg)
			}
		}
		n.Begin(0)
		birth()
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			id := rapid.SampledFrom(ids).Draw(t, "device")
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				birth()
				continue
			case 1:
				if msg, ok := n.DeviceDeath(id, at); ok {
					m.take(t, msg)
				}
				continue
			case 2:
				n.Begin(1)
				birth()
				continue
			}
			b := &protocols.Batch{Schema: schemas[id]}
			for i := range 3 {
				if !rapid.Bool().Draw(t, "there") {
					continue
				}
				r := protocols.Reading{Tag: int32(i), Value: anyValue(t, 0)}
				if rapid.IntRange(0, 5).Draw(t, "bad") == 0 {
					r.SetBad(protocols.Timeout)
				}
				b.Readings = append(b.Readings, r)
			}
			before := births
			for {
				topic, body, need := n.Data(nil, b, at, at, false)
				if need == NeedNothing {
					check(t, b, m.take(t, Message{topic, body}))
					break
				}
				if births-before > 8 {
					t.Fatal("its types never settle")
				}
				if need == NeedNodeBirth {
					birth()
					continue
				}
				births++
				msg, _ := n.DeviceBirth(id, nil, at)
				m.take(t, msg)
			}
		}
	})
}

func check(t *rapid.T, b *protocols.Batch, got map[string]Metric) {
	for i := range b.Readings {
		r := &b.Readings[i]
		x, ok := got[b.Schema.Tags[r.Tag].Name]
		if !ok {
			t.Fatalf("%+v did not arrive", r)
		}
		if r.Quality == protocols.Bad {
			if !x.Null {
				t.Fatalf("%+v arrived as %+v", r, x)
			}
			continue
		}
		v, ok := x.Value.As(x.Type)
		want := said(x.Type, r.Value)
		if have := string(appendTestJSON(nil, v)); !ok || want != "" && have != want {
			t.Fatalf("%s arrived as %v %s", want, x.Type, have)
		}
	}
}

// What a birth says of a metric beside its value.
func TestBirthProperties(t *testing.T) {
	t.Parallel()
	low, high := -5.0, 120.5
	n := newNode(t, Device{ID: "d", Metrics: []Definition{
		{Name: "a", Type: Double, Unit: "°C", Low: &low, High: &high, Documentation: "温度"},
		{Name: "b", Type: UInt16},
		{Name: "c"},
		{Name: "d", Type: Int8},
	}})
	n.Begin(0)
	n.Birth(at)
	current := []Current{
		{Reading: protocols.Reading{Value: protocols.Float64(21.5), Source: (at - 1500) * 1e6}, Time: at - 1000},
		{Reading: protocols.Reading{Quality: protocols.Bad, Reason: protocols.Timeout}, Time: at - 1000},
		{},
		{Reading: protocols.Reading{Value: protocols.Int(-7), Quality: protocols.Uncertain, Reason: "UncertainLastUsableValue", Source: (at + 28_800_000) * 1e6}, Time: at - 1000},
	}
	n.Prepare("d", current)
	m, _ := n.DeviceBirth("d", current, at)
	var lines []string
	for _, x := range decoded(t, m.Body).Metrics {
		line := fmt.Sprintf("%s %v null=%v t=%d", x.Name, x.Type, x.Null, int64(x.Timestamp)-at)
		for _, p := range x.Properties {
			line += fmt.Sprintf(" %s=%v", p.Key, p.Type)
			switch p.Value.Field {
			case FieldString:
				line += ":" + p.Value.Text
			case FieldDouble:
				line += fmt.Sprint(":", math.Float64frombits(p.Value.Num))
			default:
				line += fmt.Sprint(":", p.Value.Num)
			}
		}
		lines = append(lines, line)
	}
	want := `a Double null=false t=-1500 engUnit=String:°C engLow=Double:-5 engHigh=Double:120.5 documentation=String:温度
b UInt16 null=true t=-1000 Quality=Int32:0 Reason=String:timeout
c String null=true t=0 Quality=Int32:500
d Int8 null=false t=-1000 Quality=Int32:500 Reason=String:UncertainLastUsableValue`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "a/b", "a+b", "#", "a\x00", "\xff"} {
		if CheckID(id) == nil {
			t.Errorf("%q is taken for an id", id)
		}
	}
	if err := CheckID("车间-2"); err != nil {
		t.Error(err)
	}
	for _, topic := range []string{"spBv1.0/g/NBIRTH/n", "spBv1.0/g/DDATA/n/d", "spBv1.0/STATE/h"} {
		if p, ok := ParseTopic(topic); !ok || p.String() != topic {
			t.Errorf("%q: %+v", topic, p)
		}
	}
	for _, topic := range []string{"spBv1.0/g/NBIRTH/n/d", "spBv1.0/g/DDATA/n", "spAv1.0/g/NBIRTH/n", "STATE/h", "spBv1.0/g/OTHER/n", "spBv1.0/g//n"} {
		if p, ok := ParseTopic(topic); ok {
			t.Errorf("%q: %+v", topic, p)
		}
	}
}

// The primary host's words count by their time.
func TestHost(t *testing.T) {
	t.Parallel()
	var h Host
	for i, c := range []struct {
		s      State
		taken  bool
		online bool
	}{
		{State{true, 100}, true, true},
		{State{false, 99}, false, true}, // the will of an earlier session
		{State{false, 100}, true, false},
		{State{true, 50}, false, false},
		{State{true, 101}, true, true},
		{State{false, 101}, true, false},
	} {
		if taken := h.Take(c.s); taken != c.taken || h.Online() != c.online {
			t.Errorf("%d: taken %v, online %v", i, taken, h.Online())
		}
	}
}
