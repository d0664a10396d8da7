package tail_test

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"millrace/cmd/millrace/tail"
	"millrace/protocols"
	"millrace/protocols/mqtt"
	"millrace/protocols/sparkplug"
)

var update = flag.Bool("update", false, "write the golden files anew")

// start is when the first message of a test arrives; each comes a second
// after the one before.
var start = time.Date(2026, 11, 26, 6, 3, 21, 123e6, time.UTC)

func at(i int) time.Time { return start.Add(time.Duration(i) * time.Second) }

// shanghai is eight hours before UTC, without a summer time.
var shanghai = time.FixedZone("CST", 8*3600)

func golden(t *testing.T, file, got string) {
	t.Helper()
	file = filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); -update writes it anew:\n%s", file, diff)
	}
}

// show returns what people and programs see of messages, their summaries
// included.
func show(t *testing.T, tl *tail.Tail, p tail.Printer, all []tail.Message) (text, lines string) {
	t.Helper()
	p.Zone = shanghai
	var b, j strings.Builder
	for i, m := range all {
		if m.Received.IsZero() {
			m.Received = at(i)
		}
		if topic, _, ok := tl.Rebirth(m.Received); ok {
			fmt.Fprintf(&b, "(asked: %s)\n", topic)
		}
		e := tl.Take(m)
		if e == nil {
			continue
		}
		b.WriteString(p.Text(e))
		line, err := e.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(line) {
			t.Errorf("no JSON: %s", line)
		}
		j.Write(line)
	}
	s := tl.Summary(at(len(all)).UnixMilli(), float64(len(all)))
	b.WriteString(p.Summary(&s))
	line, err := s.AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	j.Write(line)
	return b.String(), j.String()
}

// topics are those that tail subscribes to unless told otherwise.
var topics = tail.Filter{}.Topics("millrace")

func message(topic, body string) tail.Message {
	return tail.Message{Topic: topic, Body: []byte(body)}
}

// batch is a data message of gw-1.
func batch(device string, seq int, more string) tail.Message {
	return message("millrace/plant-2/gw-1/"+device+"/data", fmt.Sprintf(`{"v":1,"gateway":"gw-1","device":%q,"stream":"01M848G32JCB26T4ESY0B80FMQ","seq":%d,"ts":%d%s}`, device, seq, at(0).UnixMilli(), more))
}

func jsonMessages() []tail.Message {
	var long strings.Builder
	for i := range 40 {
		fmt.Fprintf(&long, `,"register_%02d":%d`, i, i*i)
	}
	all := []tail.Message{
		message("millrace/plant-2/gw-1/status", `{"v":1,"gateway":"gw-1","online":true,"ts":1795673001012,"version":"0.1.0","previous":{"stream":"01M8","last":4711,"ended":"power_cut"}}`),
		message("millrace/plant-2/gw-1/press-1/state", `{"v":1,"gateway":"gw-1","device":"press-1","state":"online","since":1795586601000,"reason":""}`),
		batch("press-1", 1042, `,"values":{"temp":21.5,"running":true,"order":"A-17","count":18446744073709551615,"least":-9223372036854775808,"exact":0.1000000000000000055511151231257827,"flow":3.2,"工件编号":"螺栓 M8×40","名称":"\u538b\u529b\u673a"},"bad":{"speed":"illegal_address"},"uncertain":{"flow":"UncertainLastUsableValue"},"source_ts":{"temp":1795673001123.25,"order":1795669401101}`),
		batch("press-1", 1045, `,"values":{"temp":21.6}`),
		batch("press-1", 1045, `,"values":{"temp":21.6}`),
		batch("press-1", 1043, `,"historical":true,"values":{"temp":21.4},"source_ts":{"temp":1795586601000}`),
		message("millrace/plant-2/gw-1/gap", `{"v":1,"gateway":"gw-1","stream":"01M848G32JCB26T4ESY0B80FMQ","gap":{"from":1044,"to":1044,"readings":10,"reason":"buffer_full","oldest":1795672995001,"newest":1795672995001}}`),
		message("millrace/plant-2/gw-1/gap", `{"v":1,"gateway":"gw-1","stream":"01M848G32JCB26T4ESY0B80FMQ","gap":{"from":1046,"to":1049,"readings":40,"reason":"damaged","oldest":0,"newest":0}}`),
		batch("press-1", 1050, `,"clock":"unset","values":{}`),
		message("millrace/plant-2/gw-1/press-1/state", `{"v":1,"gateway":"gw-1","device":"press-1","state":"offline","since":1795673010000,"reason":"tcp://192.0.2.5:502: cannot connect: connection refused; check that it is on"}`),
		batch("press-1", 1052, `,"values":{},"bad":{"temp":"timeout","running":"timeout"}`),
		batch("meter-2", 1053, `,"values":{"phases":[230.1,229.8,231],"energy":{"total":12345678901234567890,"unit":"kWh"},"raw":"3q2+7w=="}`),
		batch("meter-2", 1054, `,"values":{`+long.String()[1:]+`},"bad":{"x":"timeout","y":"timeout"}`),
		message("millrace/plant-2/gw-1/press-1/state", ``),
		message("millrace/plant-2/gw-1/connectivity", `{"v":1, "gateway":"gw-1", "labels":{"workshop":"冲压车间"}, "rate":99.98}`),
		message("millrace/plant-2/gw-1/status", `{"v":1,"gateway":"gw-1","online":false,"reason":"connection_lost"}`),
		// What is not what it should be.
		message("millrace/plant-2/gw-1/press-1/data", `{"v":1,"values":{"temp":21.`),
		message("millrace/plant-2/gw-1/press-1/data", `{"v":1,"stream":"s","seq":-1,"ts":"now","values":{"a":1}}`),
		message("millrace/plant-2/gw-1/press-1/data", "\x00\xff\x1b[2J"),
		message("millrace/plant-2/gw-1/gap", `{"v":1,"stream":"s","gap":{"from":9,"to":3}}`),
		message("millrace/plant-2/gw-1/press-1/data", `{"temperature":21}`),
		message("factory/line", "21.5 °C\r\nand more"),
		message("factory/picture", "\x89PNG\r\n\x1a\n"+strings.Repeat("\x00", 100)),
		message("factory/nothing", ""),
		// What a terminal would obey.
		message("millrace/plant-2/gw-1/press-1/data", `{"v":1,"stream":"\u001b]0;s","seq":1,"ts":1795673001012,"values":{"\u001b[31mred":"\u001b[2J\u009b2J\r\n\u202egnp\u0007","b`+"\u202e\u009b\x7f"+`c":{"x`+"\u009b"+`":1}},"bad":{"c":"\u001b[A"}}`),
		message("factory/\x1b[2J", "\x1b[2J"),
	}
	all[0].Retained, all[1].Retained = true, true
	next := batch("press-1", 1055, `,"values":{"temp":21.6}`)
	next.Received = start.Add(24 * time.Hour)
	return append(all, next)
}

func TestJSON(t *testing.T) {
	t.Parallel()
	o := tail.Options{Topics: []string{"#"}, Unit: func(gateway, device, tag string) string {
		return map[string]string{"gw-1/press-1/temp": "°C", "gw-1/press-1/flow": "l/min"}[gateway+"/"+device+"/"+tag]
	}}
	text, lines := show(t, tail.New(o), tail.Printer{}, jsonMessages())
	golden(t, "json.txt", text)
	golden(t, "json.ndjson", lines)
	harmless(t, text+lines)
	colored, _ := show(t, tail.New(o), tail.Printer{Color: true, All: true}, jsonMessages())
	golden(t, "json-colour.txt", colored)
}

// harmless looks for what a terminal would obey.
func harmless(t *testing.T, text string) {
	t.Helper()
	for i, r := range text {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Fatalf("%q is printed: %.80q", r, text[max(i-40, 0):])
		}
	}
}

// edge makes messages of an edge node of Sparkplug.
type edge struct {
	t    testing.TB
	node *sparkplug.Node
	all  []tail.Message
}

func newEdge(tb testing.TB) *edge {
	tb.Helper()
	n, err := sparkplug.New(sparkplug.Options{Group: "plant-2", ID: "gw-1", AppendJSON: mqtt.AppendJSONValue})
	if err != nil {
		tb.Fatal(err)
	}
	low, high := 0.0, 400.0
	if _, err := n.SetDevices([]sparkplug.Device{{ID: "press-1", Metrics: []sparkplug.Definition{
		{Name: "压力", Type: sparkplug.Double, Unit: "bar", Low: &low, High: &high},
		{Name: "count", Type: sparkplug.UInt64},
		{Name: "offset", Type: sparkplug.Int16},
		{Name: "axis"},
		{Name: "bits", Type: sparkplug.BooleanArray},
		{Name: "when", Type: sparkplug.DateTime},
		{Name: "raw", Type: sparkplug.Bytes},
	}}}); err != nil {
		tb.Fatal(err)
	}
	n.Set("Gap", protocols.String(""), start.UnixMilli())
	return &edge{t: tb, node: n}
}

// now is when the next message arrives.
func (e *edge) now() int64 { return at(len(e.all)).UnixMilli() }

func (e *edge) add(m sparkplug.Message, ok bool) {
	e.t.Helper()
	if !ok {
		e.t.Fatal("there is no message")
	}
	e.all = append(e.all, tail.Message{Topic: m.Topic, Body: m.Body})
}

func (e *edge) raw(topic, body string) {
	e.add(sparkplug.Message{Topic: topic, Body: []byte(body)}, true)
}

var pressTags = &protocols.Schema{Device: "press-1", Tags: []protocols.SchemaTag{
	{Name: "压力"}, {Name: "count"}, {Name: "offset"}, {Name: "axis"}, {Name: "bits"}, {Name: "when"}, {Name: "raw"},
}}

// readings are the values of one scan; axis is an OPC UA structure.
func readings(k int64) []protocols.Reading {
	axis := protocols.Object([]string{"name", "torque", "turns"}, []protocols.Value{protocols.String("主轴"), protocols.Float64(0.5), protocols.Int(-k)})
	return []protocols.Reading{
		{Tag: 0, Value: protocols.Float64(120.5)},
		{Tag: 1, Value: protocols.Uint(1<<63 + uint64(k))},
		{Tag: 2, Value: protocols.Int(-k)},
		{Tag: 3, Value: axis},
		{Tag: 4, Value: protocols.Array([]protocols.Value{protocols.Bool(true), protocols.Bool(false)})},
		{Tag: 5, Value: protocols.Time(start)},
		{Tag: 6, Value: protocols.Bytes([]byte{0xde, 0xad})},
	}
}

func (e *edge) birth() {
	e.t.Helper()
	current := make([]sparkplug.Current, len(pressTags.Tags))
	for i, r := range readings(1) {
		current[i] = sparkplug.Current{Reading: r, Time: e.now()}
	}
	e.node.Prepare("press-1", current)
	e.add(e.node.Birth(e.now()), true)
	e.add(e.node.DeviceBirth("press-1", current, e.now()))
}

func (e *edge) data(rs []protocols.Reading, historical bool) {
	e.t.Helper()
	ms := e.now()
	if historical {
		ms -= 60_000
	}
	topic, body, need := e.node.Data(nil, &protocols.Batch{Schema: pressTags, Readings: rs}, ms, e.now(), historical)
	e.add(sparkplug.Message{Topic: topic, Body: body}, need == sparkplug.NeedNothing)
}

func sparkplugMessages(tb testing.TB) []tail.Message {
	tb.Helper()
	e := newEdge(tb)
	e.node.Begin(254)
	e.birth()
	e.all = nil // we come later
	e.data(readings(1), false)
	e.data(readings(2), false)
	e.raw("spBv1.0/plant-2/NCMD/gw-1", string(sparkplug.RebirthCommand(e.now())))
	e.birth()
	e.data(readings(3), false)
	e.data([]protocols.Reading{
		{Tag: 0, Quality: protocols.Bad, Reason: protocols.Timeout},
		{Tag: 1, Quality: protocols.Uncertain, Reason: "UncertainLastUsableValue", Value: protocols.Uint(7)},
		{Tag: 2, Value: protocols.Int(-5), Source: (start.UnixMilli() - 5000) * 1e6},
	}, false)
	e.data(readings(4)[:2], true)
	lost := len(e.all)
	e.data(readings(5), false)
	e.all = e.all[:lost]
	e.data(readings(6)[:1], false)
	e.node.Set("Gap", protocols.String(`{"v":1,"gap":{"from":3,"to":9,"readings":70,"reason":"too_old","oldest":1795672995001,"newest":1795672999001}}`), e.now())
	e.add(e.node.NodeData(e.now()))
	e.add(e.node.DeviceDeath("press-1", e.now()))
	e.raw("spBv1.0/plant-2/DDATA/gw-1/press-1", string(e.all[6].Body))
	e.node.Begin(9) // a late will
	e.add(e.node.Death(e.now()), true)
	e.node.Begin(254)
	e.add(e.node.Death(e.now()), true)
	e.node.Begin(255)
	e.birth()
	e.node.Begin(0)
	e.birth()
	e.node.Begin(7)
	e.birth()
	e.raw("spBv1.0/STATE/ignition-1", `{"online":true,"timestamp":1795673001012}`)
	e.raw("spBv1.0/STATE/ignition-1", `{"online":"yes"}`)
	e.raw("spBv1.0/STATE/ignition-1", `OFFLINE`)
	e.raw("spBv1.0/plant-2/DDATA/gw-1/press-1", "\x0a\xff\xff\x1b[2J")
	e.raw("spBv1.0/plant-2/NDATA", "x")
	e.raw("spBv1.0/plant-2/NDATA/gw-2", table())
	e.raw("spBv1.0/plant-2/NBIRTH/gw-3", "")
	return e.all
}

// table is a payload without a seq whose metric is a data set: two columns and
// two rows, one of them with a cell too many.
func table() string {
	part := func(key string, body string) string {
		return key + string(binary.AppendUvarint(nil, uint64(len(body)))) + body
	}
	cell := func(body string) string { return part("\x0a", body) }
	set := "\x08\x02" + part("\x12", "name") + part("\x12", "数量") + "\x18\x0c\x18\x03" +
		part("\x22", cell("\x32\x03abc")+cell("\x08\xff\xff\xff\xff\x0f")) + part("\x22", cell("\x32\x00")+cell("\x08\x05")+cell(""))
	return part("\x12", "\x0a\x05order"+"\x20\x10"+part("\x8a\x01", set))
}

func TestSparkplug(t *testing.T) {
	t.Parallel()
	text, lines := show(t, tail.New(tail.Options{Topics: topics}), tail.Printer{}, sparkplugMessages(t))
	golden(t, "sparkplug.txt", text)
	golden(t, "sparkplug.ndjson", lines)
	harmless(t, text+lines)
}
