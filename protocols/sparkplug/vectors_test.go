package sparkplug

import (
	"encoding/hex"
	"math"
	"strings"
	"testing"

	"millrace/protocols"
)

const at = 1700000000000 // ms; the reference's test vectors are of this time

func wantHex(t *testing.T, got []byte, want string) {
	t.Helper()
	if h := hex.EncodeToString(got); h != strings.ReplaceAll(want, " ", "") {
		t.Errorf("got  %s\nwant %s", h, strings.ReplaceAll(want, " ", ""))
	}
}

func newNode(tb testing.TB, devices ...Device) *Node {
	tb.Helper()
	n, err := New(Options{Group: "plant", ID: "gw", AppendJSON: appendTestJSON})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := n.SetDevices(devices); err != nil {
		tb.Fatal(err)
	}
	return n
}

func TestVectors(t *testing.T) {
	t.Parallel()
	t.Run("NDEATH", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		n.Begin(0)
		m := n.Death(at)
		wantHex(t, m.Body, "0880d095ffbc31 1212 0a056264536571 1880d095ffbc31 2004 5800")
		if m.Topic != "spBv1.0/plant/NDEATH/gw" {
			t.Error(m.Topic)
		}
	})
	t.Run("NBIRTH", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		n.Begin(0)
		wantHex(t, n.Birth(at).Body, `0880d095ffbc31 1212 0a056264536571 1880d095ffbc31 2004 5800 `+
			`1221 0a144e6f646520436f6e74726f6c2f52656269727468 1880d095ffbc31 200b 7000 1800`)
	})
	t.Run("DDATA", func(t *testing.T) {
		t.Parallel()
		var defs []Definition
		for i, typ := range []DataType{Int8, Int8, Int8, Int8, Int8, Double, String} {
			defs = append(defs, Definition{Name: string(rune('a' + i)), Type: typ})
		}
		n := newNode(t, Device{ID: "d", Metrics: defs})
		n.Begin(0)
		n.Birth(at)
		n.DeviceBirth("d", nil, at)
		n.seq = 255
		s := &protocols.Schema{Device: "d"}
		for _, d := range defs {
			s.Tags = append(s.Tags, protocols.SchemaTag{Name: d.Name})
		}
		b := &protocols.Batch{Schema: s, Readings: []protocols.Reading{{Tag: 4, Value: protocols.Int(-1)}}}
		_, body, _ := n.Data(nil, b, at, at, false)
		wantHex(t, body, "0880d095ffbc31 120f 1005 1880d095ffbc31 50ffffffff0f 18ff01")
		b.Readings = []protocols.Reading{{Tag: 5, Value: protocols.Float64(1.5)}}
		_, body, _ = n.Data(nil, b, at-1000, at, true)
		wantHex(t, body, "0880d095ffbc31 1214 1006 1898c895ffbc31 2801 69000000000000f83f 1800")
		b.Readings = []protocols.Reading{{Tag: 6}}
		b.Readings[0].SetBad("")
		_, body, _ = n.Data(nil, b, at, at, false)
		p := decoded(t, body)
		if m := p.Metrics[0]; !m.Null || m.Alias != 7 || m.Value.Field != FieldNone || p.Seq != 1 {
			t.Errorf("%+v", m)
		}
	})
}

func decoded(tb testing.TB, body []byte) *Payload {
	tb.Helper()
	p, err := Decode(body)
	if err != nil {
		tb.Fatalf("%v: %x", err, body)
	}
	return p
}

// What stands in the value field, to the byte, and what is read from there.
func TestValues(t *testing.T) {
	t.Parallel()
	u := func(n ...uint64) protocols.Value {
		var all []protocols.Value
		for _, v := range n {
			all = append(all, protocols.Uint(v))
		}
		return protocols.Array(all)
	}
	for _, c := range []struct {
		typ  DataType
		v    protocols.Value
		want string // the whole field; empty: it does not fit
	}{
		{Int8, protocols.Int(-128), "5080ffffff0f"},
		{Int8, protocols.Int(-129), ""},
		{Int8, protocols.Uint(127), "507f"},
		{Int8, protocols.Uint(128), ""},
		{Int16, protocols.Int(-1), "50ffffffff0f"},
		{Int32, protocols.Int(math.MinInt32), "508080808008"},
		{Int32, protocols.Int(math.MaxInt32 + 1), ""},
		{Int64, protocols.Int(math.MinInt64), "5880808080808080808001"},
		{Int64, protocols.Uint(math.MaxInt64), "58ffffffffffffffff7f"},
		{Int64, protocols.Uint(math.MaxInt64 + 1), ""},
		{UInt8, protocols.Uint(255), "50ff01"},
		{UInt8, protocols.Uint(256), ""},
		{UInt16, protocols.Uint(65535), "50ffff03"},
		{UInt16, protocols.Int(-1), ""},
		{UInt16, protocols.Int(7), "5007"},
		{UInt32, protocols.Uint(math.MaxUint32), "50ffffffff0f"},
		{UInt64, protocols.Uint(math.MaxUint64), "58ffffffffffffffffff01"},
		{UInt64, protocols.Int(-1), ""},
		{Float, protocols.Float32(1.5), "650000c03f"},
		{Float, protocols.Float64(1.5), ""},
		{Float, protocols.Float32(float32(math.NaN())), ""},
		{Double, protocols.Float32(1.5), "69000000000000f83f"},
		{Double, protocols.Uint(1 << 53), "690000000000004043"},
		{Double, protocols.Uint(1<<53 + 1), ""},
		{Double, protocols.Float64(math.Inf(1)), ""},
		{Boolean, protocols.Bool(false), "7000"},
		{Boolean, protocols.Uint(1), ""},
		{String, protocols.String(""), "7a00"},
		{String, protocols.String("温度"), "7a06e6b8a9e5baa6"},
		{DateTime, protocols.Time(moment(at)), "5880d095ffbc31"},
		{Bytes, protocols.Bytes([]byte{0, 255}), "82010200ff"},
		{Int8Array, protocols.Array([]protocols.Value{protocols.Int(-1), protocols.Int(2)}), "820102ff02"},
		{UInt16Array, u(1, 65535), "8201040100ffff"},
		{UInt16Array, u(65536), ""},
		{UInt32Array, u(1), "82010401000000"},
		{UInt64Array, u(1), "8201080100000000000000"},
		{UInt64Array, u(), "820100"},
		{FloatArray, protocols.Array([]protocols.Value{protocols.Float32(1.5)}), "8201040000c03f"},
		{DoubleArray, protocols.Array([]protocols.Value{protocols.Float64(1.5)}), "820108000000000000f83f"},
		{BooleanArray, bools("100000001"), "820106090000008080"},
		{StringArray, protocols.Array([]protocols.Value{protocols.String("ab"), protocols.String("")}), "82010461620000"},
		{StringArray, protocols.Array([]protocols.Value{protocols.String("a\x00b")}), ""},
		{DateTimeArray, protocols.Array([]protocols.Value{protocols.Time(moment(at))}), "8201080068e5cf8b010000"},
	} {
		got, ok := appendScalar(nil, c.typ, c.v)
		if ok != (c.want != "") {
			t.Errorf("%v of %+v: fits: %v", c.typ, c.v, ok)
			continue
		}
		if !ok {
			if len(got) > 0 {
				t.Errorf("%v of %+v: %x was appended", c.typ, c.v, got)
			}
			continue
		}
		wantHex(t, got, c.want)
		m, err := (&decoder{parts: 100}).metric(got, 0)
		if err != nil {
			t.Errorf("%v: %v", c.typ, err)
			continue
		}
		back, ok := m.Value.As(c.typ)
		if w, _ := appendScalar(nil, c.typ, back); !ok || string(w) != string(got) {
			t.Errorf("%v of %+v comes back as %+v", c.typ, c.v, back)
		}
	}
}

// Forms that others write.
func TestLenientValues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		typ  DataType
		v    Value
		want string // as JSON; empty: refused
	}{
		{Int8, Value{Field: FieldInt, Num: 255}, "-1"},
		{Int8, Value{Field: FieldInt, Num: 0xffffffff}, "-1"},
		{Int8, Value{Field: FieldInt, Num: 256}, ""},
		{Int16, Value{Field: FieldInt, Num: 0xfffe}, "-2"},
		{UInt32, Value{Field: FieldLong, Num: 7}, "7"},
		{UInt32, Value{Field: FieldInt, Num: 7}, "7"},
		{UInt32, Value{Field: FieldLong, Num: 1 << 32}, ""},
		{UInt8, Value{Field: FieldBoolean, Num: 1}, ""},
		{String, Value{Field: FieldInt, Num: 1}, ""},
		{BooleanArray, Value{Field: FieldBytes, Text: "\xff\xff\xff\xff\x01"}, ""},
		{StringArray, Value{Field: FieldBytes, Text: "no end"}, ""},
		{Int16Array, Value{Field: FieldBytes, Text: "odd"}, ""},
		{Double, Value{}, ""},
	} {
		v, ok := c.v.As(c.typ)
		if ok != (c.want != "") || ok && string(appendTestJSON(nil, v)) != c.want {
			t.Errorf("%v of %+v: %+v, %v", c.typ, c.v, v, ok)
		}
	}
}
