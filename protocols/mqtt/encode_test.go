package mqtt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
)

const now = 1795462800123

func encode(t *testing.T, s *protocols.Schema, rs []protocols.Reading, ts int64) string {
	t.Helper()
	c := compileSchema(s, "gw-1", "t")
	b := protocols.Batch{Schema: s, Readings: rs}
	out, err := appendBatch(nil, &Record{Stream: "S", Seq: 7, Time: ts}, c, &b, now)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func reading(tag int32, v protocols.Value, q protocols.Quality, why protocols.Reason, source int64) protocols.Reading {
	return protocols.Reading{Tag: tag, Value: v, Quality: q, Reason: why, Source: source}
}

func good(tag int32, v protocols.Value) protocols.Reading {
	return reading(tag, v, protocols.Good, "", 0)
}

func TestContractExample(t *testing.T) {
	t.Parallel()
	s := &protocols.Schema{Device: "press-1"}
	for _, name := range []string{"temp", "running", "order", "count", "speed", "flow"} {
		s.Tags = append(s.Tags, protocols.SchemaTag{Name: name})
	}
	temp := good(0, protocols.Float64(21.5))
	temp.Source = 1795462800101e6
	got := encode(t, s, []protocols.Reading{
		temp,
		good(1, protocols.Bool(true)),
		good(2, protocols.String("A-17")),
		good(3, protocols.Uint(math.MaxUint64)),
		reading(4, protocols.Value{}, protocols.Bad, protocols.Timeout, 0),
		reading(5, protocols.Float32(0.1), protocols.Uncertain, "UncertainLastUsableValue", 0),
	}, now)
	want := `{"v":1,"gateway":"gw-1","device":"press-1","stream":"S","seq":7,"ts":1795462800123,` +
		`"values":{"temp":21.5,"running":true,"order":"A-17","count":18446744073709551615,"flow":0.1},` +
		`"bad":{"speed":"timeout"},"uncertain":{"flow":"UncertainLastUsableValue"},"source_ts":{"temp":1795462800101}}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestClockUnset: a batch of a clock that was never set says so, and is
// historical only by how long it waited.
func TestClockUnset(t *testing.T) {
	t.Parallel()
	c := compileSchema(&protocols.Schema{Device: "d"}, "gw-1", "t")
	r := &Record{Stream: "S", Seq: 7, Time: 31_000, ClockUnset: true}
	for at, want := range map[int64]string{
		31_005: `"ts":31000,"clock":"unset","values":{}}`,
		45_000: `"ts":31000,"historical":true,"clock":"unset","values":{}}`,
	} {
		got, err := appendBatch(nil, r, c, &protocols.Batch{}, at)
		if err != nil || !strings.HasSuffix(string(got), want) {
			t.Errorf("%s, %v", got, err)
		}
	}
}

func TestBatchParts(t *testing.T) {
	t.Parallel()
	s := &protocols.Schema{Device: `d"1`, Tags: []protocols.SchemaTag{{Name: "a"}, {Name: "温度\n"}}}
	head := `{"v":1,"gateway":"gw-1","device":"d\"1","stream":"S","seq":7,"ts":`
	nan := protocols.Float64(math.NaN())
	for _, c := range []struct {
		name string
		ts   int64
		rs   []protocols.Reading
		want string
	}{
		{"nothing", now, nil, `1795462800123,"values":{}}`},
		{"ten seconds late is live", now - 10_000, nil, `1795462790123,"values":{}}`},
		{"later is historical", now - 10_001, nil, `1795462790122,"historical":true,"values":{}}`},
		{"only the second tag", now, []protocols.Reading{good(1, protocols.Int(-5))}, `1795462800123,"values":{"温度\n":-5}}`},
		{"all bad", now, []protocols.Reading{reading(0, protocols.Value{}, protocols.Bad, "offline", 0), reading(1, protocols.Value{}, protocols.Bad, "BadDeviceFailure", 0)}, `1795462800123,"values":{},"bad":{"a":"offline","温度\n":"BadDeviceFailure"}}`},
		{"a NaN that was called good", now, []protocols.Reading{good(0, nan), good(1, protocols.Float32(float32(math.Inf(1))))}, `1795462800123,"values":{},"bad":{"a":"not_a_number","温度\n":"not_a_number"}}`},
		{"a NaN in an array", now, []protocols.Reading{good(0, protocols.Array([]protocols.Value{protocols.Float64(1), nan}))}, `1795462800123,"values":{},"bad":{"a":"not_a_number"}}`},
		{"a NaN in an object", now, []protocols.Reading{good(0, protocols.Object([]string{"x"}, []protocols.Value{nan}))}, `1795462800123,"values":{},"bad":{"a":"not_a_number"}}`},
		{"an uncertain NaN", now, []protocols.Reading{reading(0, nan, protocols.Uncertain, "UncertainX", 0)}, `1795462800123,"values":{},"bad":{"a":"not_a_number"}}`},
		{"no value", now, []protocols.Reading{good(0, protocols.Value{}), reading(1, protocols.Value{}, protocols.Uncertain, "UncertainX", 0)}, `1795462800123,"values":{},"bad":{"a":"malformed","温度\n":"UncertainX"}}`},
		{"finer source times", now, []protocols.Reading{reading(0, protocols.Uint(1), protocols.Good, "", 1795462800101250000), reading(1, protocols.Value{}, protocols.Bad, "x", -1500)}, `1795462800123,"values":{"a":1},"bad":{"温度\n":"x"},"source_ts":{"a":1795462800101.25,"温度\n":-0.0015}}`},
	} {
		if got := encode(t, s, c.rs, c.ts); got != head+c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, head+c.want)
		} else if !json.Valid([]byte(got)) {
			t.Errorf("%s: not JSON: %s", c.name, got)
		}
	}
}

func TestBatchOfAnotherSchema(t *testing.T) {
	t.Parallel()
	s := &protocols.Schema{Device: "d", Tags: []protocols.SchemaTag{{Name: "a"}}}
	for _, tag := range []int32{1, -1, math.MaxInt32} {
		b := protocols.Batch{Schema: s, Readings: []protocols.Reading{good(tag, protocols.Uint(1))}}
		if _, err := appendBatch(nil, &Record{}, compileSchema(s, "g", "t"), &b, now); !errors.Is(err, protocols.ErrRecord) {
			t.Errorf("tag %d: %v", tag, err)
		}
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v    protocols.Value
		want string
	}{
		{protocols.Int(math.MinInt64), "-9223372036854775808"},
		{protocols.Bool(false), "false"},
		{protocols.Float64(21), "21"},
		{protocols.Float64(-0.125), "-0.125"},
		{protocols.Float64(1.05), "1.05"},
		{protocols.Float64(0.001), "0.001"},
		{protocols.Float64(0.30000000000000004), "0.30000000000000004"},
		{protocols.Float64(math.Copysign(0, -1)), "-0"},
		{protocols.Float64(1e21), "1e+21"},
		{protocols.Float64(5e-324), "5e-324"},
		{protocols.Float64(1e-7), "1e-7"},
		{protocols.Float64(math.MaxFloat64), "1.7976931348623157e+308"},
		{protocols.Float32(0.1), "0.1"},
		{protocols.Float32(16777216), "16777216"},
		{protocols.Float32(1e-7), "1e-7"},
		{protocols.Float32(math.MaxFloat32), "3.4028235e+38"},
		{protocols.String("a\"b\\c\n\r\t\x01<é\u2028"), `"a\"b\\c\n\r\t\u0001<é` + "\u2028" + `"`},
		{protocols.String("x\xff\xc3y"), `"x` + "\ufffd\ufffd" + `y"`},
		{protocols.Bytes([]byte{0, 255, 1, 2}), `"AP8BAg=="`},
		{protocols.Time(time.Unix(1795462800, 5000).In(time.FixedZone("", 3600))), `"2026-11-23T19:40:00.000005Z"`},
		{protocols.Array([]protocols.Value{protocols.Uint(1), {}, protocols.String("a")}), `[1,null,"a"]`},
		{protocols.Array(nil), `[]`},
		{protocols.Array([]protocols.Value{protocols.Array([]protocols.Value{protocols.Int(1), protocols.Int(2)}), protocols.Array(nil)}), `[[1,2],[]]`},
		{protocols.Object([]string{"a", `"字段"`, "none"}, []protocols.Value{protocols.Float64(1.5), protocols.Object([]string{"n"}, []protocols.Value{protocols.Uint(math.MaxUint64)}), {}}), `{"a":1.5,"\"字段\"":{"n":18446744073709551615},"none":null}`},
		{protocols.Object(nil, nil), `{}`},
	} {
		if got := string(appendValue(nil, c.v)); got != c.want {
			t.Errorf("%v: got %s, want %s", c.v.Kind(), got, c.want)
		}
	}
}

// FuzzEncode makes a batch out of arbitrary values and compares what
// encoding/json reads from the message with what was put in.
func FuzzEncode(f *testing.F) {
	f.Add("temp", "A-17", []byte{1, 2}, int64(-1), uint64(math.MaxUint64), 21.5, float32(0.1), int64(1795462800101250000), "timeout")
	f.Add("\xff\"\\", "\x00\u2028\xf0\x9f", bytes.Repeat([]byte{7}, 100), int64(math.MinInt64), uint64(0), math.NaN(), float32(math.Inf(-1)), int64(-7), "")
	f.Add("", "", []byte(nil), int64(0), uint64(1), 1e-7, float32(1e-7), int64(math.MinInt64), "\x7f")
	f.Fuzz(func(t *testing.T, name, text string, raw []byte, i int64, u uint64, f64 float64, f32 float32, ns int64, why string) {
		values := []protocols.Value{
			protocols.String(text), protocols.Bytes(raw), protocols.Int(i), protocols.Uint(u), protocols.Float64(f64), protocols.Float32(f32),
			protocols.Time(time.Unix(0, ns)), protocols.Array([]protocols.Value{protocols.Float64(f64), protocols.Float32(f32)}),
		}
		s := &protocols.Schema{Device: name}
		var rs []protocols.Reading
		for k, v := range values {
			s.Tags = append(s.Tags, protocols.SchemaTag{Name: fmt.Sprint(k, name)})
			rs = append(rs, reading(int32(k), v, protocols.Quality(u>>k&1), protocols.Reason(why), ns))
		}
		s.Tags = append(s.Tags, protocols.SchemaTag{Name: "bad"})
		rs = append(rs, reading(int32(len(values)), protocols.Value{}, protocols.Bad, protocols.Reason(why), 0))
		check(t, encode(t, s, rs, i), s, rs)
	})
}

// check compares a message with the readings that it was made of.
func check(t *testing.T, text string, s *protocols.Schema, rs []protocols.Reading) {
	t.Helper()
	var m struct {
		Values    map[string]json.RawMessage
		Bad       map[string]string
		Uncertain map[string]string
		SourceTS  map[string]json.Number `json:"source_ts"`
	}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, r := range rs {
		var name string
		quoted, _ := json.Marshal(s.Tags[r.Tag].Name)
		_ = json.Unmarshal(quoted, &name) // as JSON holds it, if it is not UTF-8
		value, has := m.Values[name]
		_, bad := m.Bad[name]
		if has == bad || has != (r.Quality != protocols.Bad && r.Value.Finite()) {
			t.Fatalf("%q is in values %v, in bad %v: %s", name, has, bad, text)
		}
		if _, unsure := m.Uncertain[name]; unsure != (has && r.Quality == protocols.Uncertain) {
			t.Fatalf("%q is in uncertain %v: %s", name, unsure, text)
		}
		if has {
			checkValue(t, value, r.Value)
		}
		if r.Source != 0 {
			checkMillis(t, string(m.SourceTS[name]), r.Source)
		}
	}
}

func checkValue(t *testing.T, text []byte, v protocols.Value) {
	t.Helper()
	var want any
	switch v.Kind() {
	case protocols.KindFloat64:
		want = v.AsFloat64()
	case protocols.KindFloat32:
		want = v.AsFloat32()
	case protocols.KindInt:
		want = v.AsInt()
	case protocols.KindUint:
		want = v.AsUint()
	case protocols.KindString:
		want = v.AsString()
	case protocols.KindBytes:
		want = base64.StdEncoding.EncodeToString([]byte(v.AsString()))
	case protocols.KindTime:
		want = v.AsTime()
	case protocols.KindArray:
		e := v.Elems()
		want = []any{e[0].AsFloat64(), e[1].AsFloat32()}
	}
	plain, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	// Strings may be escaped in other ways; numbers must be the same text.
	if v.Kind() == protocols.KindString || v.Kind() == protocols.KindTime {
		var a, b any
		if json.Unmarshal(text, &a) != nil || json.Unmarshal(plain, &b) != nil || !reflect.DeepEqual(a, b) {
			t.Fatalf("got %s, want %s", text, plain)
		}
		return
	}
	if !bytes.Equal(text, plain) {
		t.Fatalf("got %s, want %s", text, plain)
	}
}

func checkMillis(t *testing.T, text string, ns int64) {
	t.Helper()
	whole, frac, _ := strings.Cut(text, ".")
	frac += strings.Repeat("0", 6-len(frac))
	got, err := strconv.ParseInt(whole+frac, 10, 64)
	if err != nil || got != ns || strings.HasSuffix(text, ".") {
		t.Fatalf("%s ms for %d ns", text, ns)
	}
}

// uint16s is a scan of n registers.
func uint16s(n int) (*protocols.Schema, *protocols.Batch) {
	s := &protocols.Schema{Device: "press-1"}
	b := &protocols.Batch{Schema: s}
	for i := range n {
		s.Tags = append(s.Tags, protocols.SchemaTag{Name: fmt.Sprintf("tag%03d", i)})
		b.Readings = append(b.Readings, good(int32(i), protocols.Uint(uint64(i*131)&0xffff)))
	}
	return s, b
}

func benchFormat(s *protocols.Schema) *jsonFormat {
	return newJSONFormat(&Options{
		Topic: "millrace", Group: "g", Gateway: "gw-1", Now: time.Now,
		Schema: func(uint64) (*protocols.Schema, error) { return s, nil },
	})
}

func TestNoAllocations(t *testing.T) {
	s, b := uint16s(100)
	f := benchFormat(s)
	r := Record{Stream: "01KA", Seq: 1, Time: now, Data: protocols.EncodeBatch(nil, b)}
	buf := make([]byte, 0, 16<<10)
	allocs := testing.AllocsPerRun(100, func() {
		if _, _, _, err := f.record(buf[:0], r); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations a batch", allocs)
	}
}

// BenchmarkRecord decodes and encodes a scan of 500 registers.
func BenchmarkRecord(b *testing.B) {
	s, batch := uint16s(500)
	f := benchFormat(s)
	r := Record{Stream: "01KA0000000000000000000000", Seq: 1, Time: now, Data: protocols.EncodeBatch(nil, batch)}
	buf := make([]byte, 0, 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, _, err := f.record(buf[:0], r); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/reading")
}

func BenchmarkFloats(b *testing.B) {
	for _, c := range []struct {
		name string
		v    protocols.Value
	}{
		{"tenths", protocols.Float64(21.5)},
		{"full", protocols.Float64(math.Pi)},
		{"float32", protocols.Float32(21.5)},
		{"float32full", protocols.Float32(math.Pi)},
	} {
		b.Run(c.name, func(b *testing.B) {
			buf := make([]byte, 0, 64)
			for b.Loop() {
				_ = appendValue(buf, c.v)
			}
		})
	}
}

// BenchmarkStandardLibrary is the yardstick: the same message by encoding/json.
func BenchmarkStandardLibrary(b *testing.B) {
	s, batch := uint16s(500)
	data := protocols.EncodeBatch(nil, batch)
	b.ReportAllocs()
	for b.Loop() {
		var d protocols.Batch
		if err := protocols.DecodeBatch(&d, data, s); err != nil {
			b.Fatal(err)
		}
		values := make(map[string]any, len(d.Readings))
		for _, r := range d.Readings {
			values[s.Tags[r.Tag].Name] = r.Value.AsUint()
		}
		if _, err := json.Marshal(map[string]any{"v": 1, "gateway": "gw-1", "device": s.Device, "values": values}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/reading")
}

// TestShortFloats compares the short way with strconv, for every float32 of
// a stretch and for all thousandths.
func TestShortFloats(t *testing.T) {
	t.Parallel()
	for k := int64(-1_000_100); k <= 1_000_100; k++ {
		f64, f32 := float64(k)/1000, float32(k)/1000
		if got, want := string(appendFloat(nil, f64, 64)), strconv.FormatFloat(f64, 'f', -1, 64); got != want {
			t.Fatalf("float64: got %s, want %s", got, want)
		}
		if got, want := string(appendFloat(nil, float64(f32), 32)), strconv.FormatFloat(float64(f32), 'f', -1, 32); got != want {
			t.Fatalf("float32: got %s, want %s", got, want)
		}
	}
	for bits := math.Float32bits(0.5); bits < math.Float32bits(1000); bits += 997 {
		f := float64(math.Float32frombits(bits))
		if got, want := string(appendFloat(nil, f, 32)), strconv.FormatFloat(f, 'f', -1, 32); got != want {
			t.Fatalf("float32: got %s, want %s", got, want)
		}
	}
}

// TestIntegers: all digits, for every length.
func TestIntegers(t *testing.T) {
	t.Parallel()
	check := func(v int64) {
		if got, want := string(appendInt(nil, v)), strconv.FormatInt(v, 10); got != want {
			t.Fatalf("appendInt(%s) = %s", want, got)
		}
		if got, want := string(appendUint(nil, uint64(v))), strconv.FormatUint(uint64(v), 10); got != want {
			t.Fatalf("appendUint(%s) = %s", want, got)
		}
	}
	for v := range int64(150_000) {
		check(v)
		check(-v)
	}
	for shift := range 64 {
		for d := range int64(3) {
			check(int64(uint64(1)<<shift) + d - 1)
		}
	}
}
