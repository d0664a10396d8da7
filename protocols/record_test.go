package protocols

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"
)

func schemaOf(n int) *Schema {
	s := &Schema{Device: "press-1"}
	for i := range n {
		s.Tags = append(s.Tags, SchemaTag{Name: fmt.Sprintf("tag-%d", i), Unit: "°C"})
	}
	return s
}

func reading(tag int, v Value) Reading { return Reading{Tag: int32(tag), Value: v} }

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	many := make([]Reading, 500)
	for i := range many {
		many[i] = reading(i, Uint(uint64(i*131)))
	}
	tests := []struct {
		name string
		tags int
		in   []Reading
	}{
		{"empty", 3, nil},
		{"full", 500, many},
		{"some tags", 900, []Reading{reading(3, Int(-1)), reading(4, Bool(true)), reading(899, String("订单 A-17"))}},
		{"all kinds", 12, []Reading{
			reading(0, Bool(false)), reading(1, Int(math.MinInt64)), reading(2, Int(math.MaxInt64)),
			reading(3, Uint(math.MaxUint64)), reading(4, Float32(0.1)), reading(5, Float64(math.Pi)),
			reading(6, Float64(math.NaN())), reading(7, String("")), reading(8, Bytes([]byte{0, 255})),
			reading(9, Time(time.Unix(1795462800, 123))), reading(10, Array([]Value{Int(1), Int(-70000)})), reading(11, Array(nil)),
		}},
		{"arrays and objects", 5, []Reading{
			reading(0, Array([]Value{Array([]Value{Int(1), Int(2)}), Array(nil), String("x")})),
			reading(1, Object([]string{"a", "字段", ""}, []Value{Float64(1.5), Object(nil, nil), {}})),
			reading(2, Object([]string{"list"}, []Value{Array([]Value{Object([]string{"n"}, []Value{Uint(math.MaxUint64)})})})),
			reading(3, nested(MaxDepth, false)), reading(4, nested(MaxDepth, true)),
		}},
		{"bad and uncertain", 5, []Reading{
			{Tag: 0, Quality: Bad, Reason: Timeout},
			{Tag: 1, Quality: Uncertain, Reason: "UncertainLastUsableValue", Value: Float64(1)},
			{Tag: 2, Value: Float64(2)},
			{Tag: 3, Quality: Bad, Reason: "BadDeviceFailure"},
			{Tag: 4, Quality: Bad, Reason: Timeout},
		}},
		{"all bad", 2, []Reading{{Tag: 0, Quality: Bad, Reason: Offline}, {Tag: 1, Quality: Bad, Reason: Offline}}},
		{"source times", 3, []Reading{
			{Tag: 0, Value: Int(1), Source: 1795462800101000000},
			{Tag: 1, Value: Int(1)},
			{Tag: 2, Value: Int(1), Source: 1795462800101000100},
		}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := schemaOf(tc.tags)
			data := EncodeBatch(nil, &Batch{Schema: s, Readings: tc.in})
			var got Batch
			// Readings that are used again must not shine through.
			got.Readings = make([]Reading, 0, 1000)
			for range 1000 {
				got.Readings = append(got.Readings, Reading{Quality: Bad, Reason: Overflow, Source: 1, Value: String("old")})
			}
			if err := DecodeBatch(&got, data, s); err != nil {
				t.Fatal(err)
			}
			sameReadings(t, got.Readings, tc.in)
			for cut := range data {
				if err := DecodeBatch(&got, data[:cut], s); !errors.Is(err, ErrRecord) {
					t.Fatalf("cut at %d of %d: %v", cut, len(data), err)
				}
			}
		})
	}
}

// nested returns values within one another.
func nested(depth int, objects bool) Value {
	v := Bool(true)
	for range depth {
		if objects {
			v = Object([]string{"in"}, []Value{v})
		} else {
			v = Array([]Value{v})
		}
	}
	return v
}

func TestRecordTooDeep(t *testing.T) {
	t.Parallel()
	s := schemaOf(1)
	for _, objects := range []bool{false, true} {
		var got Batch
		data := EncodeBatch(nil, &Batch{Schema: s, Readings: []Reading{reading(0, nested(MaxDepth+1, objects))}})
		if err := DecodeBatch(&got, data, s); !errors.Is(err, ErrRecord) {
			t.Errorf("objects %v: %v", objects, err)
		}
	}
}

func TestObject(t *testing.T) {
	t.Parallel()
	o := Object([]string{"a", "b"}, []Value{Int(1), Array([]Value{Float64(2)})})
	if o.Kind() != KindObject || o.Len() != 2 || o.Elems() != nil {
		t.Fatalf("%+v", o)
	}
	if name, v := o.Field(1); name != "b" || v.Elems()[0].AsFloat64() != 2 {
		t.Errorf("%s %+v", name, v)
	}
	for name, other := range map[string]Value{
		"another name":  Object([]string{"a", "c"}, []Value{Int(1), Array([]Value{Float64(2)})}),
		"another value": Object([]string{"a", "b"}, []Value{Int(1), Array([]Value{Float64(3)})}),
		"fewer":         Object([]string{"a"}, []Value{Int(1)}),
		"an array":      Array([]Value{String("a"), Int(1), String("b"), Array([]Value{Float64(2)})}),
	} {
		if same := o; o.Equal(other) || !o.Equal(same) {
			t.Error(name)
		}
	}
	if _, ok := o.Number(); ok || !o.Finite() || Object([]string{"a"}, []Value{Array([]Value{Float32(float32(math.NaN()))})}).Finite() {
		t.Error("numbers in an object")
	}
	o.PutInt(5)
	if o.Kind() != KindInt || o.AsInt() != 5 || o.Len() != 0 {
		t.Errorf("%+v", o)
	}
}

func sameReadings(t *testing.T, got, want []Reading) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d readings, want %d", len(got), len(want))
	}
	for i, g := range got {
		w := want[i]
		if g.Tag != w.Tag || g.Quality != w.Quality || g.Reason != w.Reason || g.Source != w.Source || !g.Value.Equal(w.Value) {
			t.Errorf("reading %d: %+v, want %+v", i, g, w)
		}
	}
}

func TestSchemaRoundTrip(t *testing.T) {
	t.Parallel()
	s := schemaOf(3)
	got, err := DecodeSchema(AppendSchema(nil, s))
	if err != nil {
		t.Fatal(err)
	}
	if got.Device != s.Device || len(got.Tags) != 3 || got.Tags[2] != s.Tags[2] {
		t.Errorf("got %+v", got)
	}
	if got.ID() != s.ID() {
		t.Error("the id changed")
	}
	got.Tags[1].Unit = "bar"
	if got.ID() == s.ID() {
		t.Error("two schemas with one id")
	}
}

func FuzzDecodeBatch(f *testing.F) {
	s := schemaOf(8)
	f.Add(EncodeBatch(nil, &Batch{Schema: s, Readings: []Reading{
		{Tag: 0, Quality: Bad, Reason: Timeout}, reading(2, String("x")), reading(3, Array([]Value{Int(1)})), {Tag: 7, Source: 5, Value: Float64(1)},
	}}))
	f.Add(EncodeBatch(nil, &Batch{Schema: s, Readings: []Reading{reading(1, Object([]string{"a", "b"}, []Value{Array([]Value{Int(1)}), Object(nil, nil)}))}}))
	f.Add([]byte{1, 0, 1, 0, 1, 0x61})
	f.Fuzz(func(t *testing.T, data []byte) {
		var b, again Batch
		if err := DecodeBatch(&b, data, s); err != nil {
			if !errors.Is(err, ErrRecord) {
				t.Fatal(err)
			}
			return
		}
		if err := DecodeBatch(&again, EncodeBatch(nil, &b), s); err != nil {
			t.Fatal(err)
		}
		sameReadings(t, again.Readings, b.Readings)
	})
}

func FuzzDecodeSchema(f *testing.F) {
	f.Add(AppendSchema(nil, schemaOf(2)))
	f.Fuzz(func(_ *testing.T, data []byte) {
		if s, err := DecodeSchema(data); err == nil {
			_ = s.ID()
		}
	})
}

func BenchmarkEncodeBatch(b *testing.B) {
	batch := Batch{Schema: schemaOf(500)}
	for i := range 500 {
		batch.Readings = append(batch.Readings, reading(i, Uint(uint64(i*131)&0xffff)))
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = EncodeBatch(buf[:0], &batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/reading")
	b.ReportMetric(float64(len(buf))/500, "B/reading")
}

func BenchmarkDecodeBatch(b *testing.B) {
	batch := Batch{Schema: schemaOf(500)}
	for i := range 500 {
		batch.Readings = append(batch.Readings, reading(i, Uint(uint64(i*131)&0xffff)))
	}
	buf := EncodeBatch(nil, &batch)
	b.ReportAllocs()
	for b.Loop() {
		if err := DecodeBatch(&batch, buf, batch.Schema); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/reading")
}
