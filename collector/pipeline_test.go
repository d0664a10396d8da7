package collector

import (
	"fmt"
	"math"
	"testing"
	"time"

	"millrace/collector/ledger"
	"millrace/protocols"
)

func ptr(f float64) *float64 { return new(f) }

func object(n float64) protocols.Value {
	return protocols.Object([]string{"n"}, []protocols.Value{protocols.Float64(n)})
}

func TestTransform(t *testing.T) {
	t.Parallel()
	scaled := protocols.Tag{Scale: 0.1, Offset: -5, HasScale: true}
	limits := protocols.Tag{Min: ptr(0), Max: ptr(100)}
	enum := protocols.Tag{Enum: map[int64]string{0: "stopped", 1: "running", -1: "fault"}}
	good := func(v protocols.Value) protocols.Reading { return protocols.Reading{Value: v} }
	bad := func(why protocols.Reason) protocols.Reading {
		return protocols.Reading{Quality: protocols.Bad, Reason: why}
	}
	tests := []struct {
		name string
		tag  protocols.Tag
		in   protocols.Reading
		want protocols.Reading
	}{
		{"as it is", protocols.Tag{}, good(protocols.Uint(math.MaxUint64)), good(protocols.Uint(math.MaxUint64))},
		{"scaled", scaled, good(protocols.Int(-100)), good(protocols.Float64(-15))},
		{"scaled array", scaled, good(protocols.Array([]protocols.Value{protocols.Uint(10), protocols.Uint(20)})), good(protocols.Array([]protocols.Value{protocols.Float64(-4), protocols.Float64(-3)}))},
		{"scaled to the decimal", protocols.Tag{Scale: 0.1, HasScale: true}, good(protocols.Uint(29)), good(protocols.Float64(2.9))},
		{"scaled by a third", protocols.Tag{Scale: 0.3, HasScale: true}, good(protocols.Uint(10)), good(protocols.Float64(3))},
		{"scaled text", scaled, good(protocols.String("x")), bad(protocols.UnsupportedType)},
		{"scaled beyond", protocols.Tag{Scale: 10, HasScale: true}, good(protocols.Float64(math.MaxFloat64)), bad(protocols.NotANumber)},
		{"NaN", protocols.Tag{}, good(protocols.Float32(float32(math.NaN()))), bad(protocols.NotANumber)},
		{"infinity in an array", protocols.Tag{}, good(protocols.Array([]protocols.Value{protocols.Float64(math.Inf(1))})), bad(protocols.NotANumber)},
		{"scaled matrix", scaled, good(protocols.Array([]protocols.Value{protocols.Array([]protocols.Value{protocols.Uint(10)}), protocols.Array([]protocols.Value{protocols.Uint(20)})})), good(protocols.Array([]protocols.Value{protocols.Array([]protocols.Value{protocols.Float64(-4)}), protocols.Array([]protocols.Value{protocols.Float64(-3)})}))},
		{"object", protocols.Tag{OnChange: true}, good(object(1)), good(object(1))},
		{"scaled object", scaled, good(object(1)), bad(protocols.UnsupportedType)},
		{"limits of an object", limits, good(object(1)), bad(protocols.UnsupportedType)},
		{"enum of an object", enum, good(object(1)), bad(protocols.UnsupportedType)},
		{"NaN in an object", protocols.Tag{}, good(object(math.NaN())), bad(protocols.NotANumber)},
		{"at the limit", limits, good(protocols.Int(100)), good(protocols.Int(100))},
		{"above", limits, good(protocols.Float32(100.5)), bad(protocols.OutOfRange)},
		{"below, in an array", limits, good(protocols.Array([]protocols.Value{protocols.Int(1), protocols.Int(-1)})), bad(protocols.OutOfRange)},
		{"limits of a text", limits, good(protocols.String("x")), good(protocols.String("x"))},
		{"enum", enum, good(protocols.Uint(1)), good(protocols.String("running"))},
		{"enum negative", enum, good(protocols.Int(-1)), good(protocols.String("fault"))},
		{"enum of a bit", enum, good(protocols.Bool(true)), good(protocols.String("running"))},
		{"enum unknown", enum, good(protocols.Uint(7)), bad(protocols.OutOfRange)},
		{"enum of what wraps round", enum, good(protocols.Uint(math.MaxUint64)), bad(protocols.OutOfRange)},
		{"enum of a fraction", enum, good(protocols.Float32(0.5)), bad(protocols.OutOfRange)},
		{"bad stays bad", scaled, bad(protocols.Timeout), bad(protocols.Timeout)},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := newPipeline(&tc.tag)
			got := tc.in
			p.transform(&got)
			if got.Quality != tc.want.Quality || got.Reason != tc.want.Reason || !got.Value.Equal(tc.want.Value) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestChanged(t *testing.T) {
	t.Parallel()
	half := protocols.Tag{Deadband: protocols.Deadband{Size: 0.5}}
	percent := protocols.Tag{Deadband: protocols.Deadband{Size: 10, Percent: true}}
	tests := []struct {
		name     string
		tag      protocols.Tag
		was, now protocols.Value
		want     bool
	}{
		{"the same", protocols.Tag{OnChange: true}, protocols.Int(1), protocols.Int(1), false},
		{"another", protocols.Tag{OnChange: true}, protocols.Int(1), protocols.Int(2), true},
		{"another kind", protocols.Tag{OnChange: true}, protocols.Int(1), protocols.Uint(1), true},
		{"another object", half, object(1), object(1.1), true},
		{"the same object", half, object(1), object(1), false},
		{"within", half, protocols.Float64(1), protocols.Float64(1.5), false},
		{"on the step", protocols.Tag{Deadband: protocols.Deadband{Size: 0.2}}, protocols.Float64(44.9), protocols.Float64(45.1), false},
		{"beyond", half, protocols.Float64(1), protocols.Float64(0.49), true},
		{"within 10 %", percent, protocols.Float64(-200), protocols.Float64(-181), false},
		{"beyond 10 %", percent, protocols.Float64(-200), protocols.Float64(-179), true},
		{"any from zero", percent, protocols.Int(0), protocols.Int(1), true},
		{"a text with a deadband", half, protocols.String("a"), protocols.String("b"), true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := newPipeline(&tc.tag)
			p.remember(&protocols.Reading{Value: tc.was})
			if got := p.changed(&protocols.Reading{Value: tc.now}); got != tc.want {
				t.Errorf("changed = %v", got)
			}
			if !p.changed(&protocols.Reading{Quality: protocols.Bad, Reason: protocols.Timeout}) {
				t.Error("a change of quality is no change")
			}
		})
	}
}

func TestPhases(t *testing.T) {
	t.Parallel()
	if p := phaseOf("press-1", time.Second, 32); p != 0 {
		t.Errorf("on a small gateway a device is read %v after the full second", p)
	}
	var early int
	for i := range 1000 {
		p := phaseOf(string(rune('a'+i%26))+string(rune('0'+i/26)), time.Second, 1000)
		if p < 0 || p >= 512*time.Millisecond {
			t.Fatalf("phase %v", p)
		}
		if p < 256*time.Millisecond {
			early++
		}
	}
	if early < 400 || early > 600 {
		t.Errorf("%d of 1,000 scans in the first half of their time", early)
	}
	if p := phaseOf("x", 20*time.Millisecond, 1000); p >= 20*time.Millisecond {
		t.Errorf("phase %v beyond the interval", p)
	}
}

type nullAppender struct{}

func (nullAppender) PutSchema(uint64, []byte) error          { return nil }
func (nullAppender) Append(int64, uint64, int, []byte) error { return nil }

// BenchmarkScanned is one scan's way through the collector, from its turn on
// the clock to the buffer, with and without the completeness ledger.
func BenchmarkScanned(b *testing.B) {
	for _, tags := range []int{1, 20, 500} {
		b.Run(fmt.Sprintf("tags=%d/counted", tags), func(b *testing.B) { benchmarkScanned(b, tags, true) })
		b.Run(fmt.Sprintf("tags=%d/plain", tags), func(b *testing.B) { benchmarkScanned(b, tags, false) })
	}
}

func benchmarkScanned(b *testing.B, tags int, counted bool) {
	b.Helper()
	o := Options{Appender: nullAppender{}, State: func(DeviceState) {}, Log: testLog(), Now: time.Now}
	if counted {
		o.Ledger = ledger.New(ledger.Options{Dir: b.TempDir(), Keep: 24 * time.Hour, Now: time.Now, Log: testLog()})
	}
	d, err := newDevice(testDevice("press-1", "a", make([]string, tags)...), o)
	if err != nil {
		b.Fatal(err)
	}
	g := d.groups(1)[0]
	for i := range g.out {
		g.out[i].SetGood(protocols.Uint(uint64(i)))
	}
	res := protocols.ScanResult{Time: time.Now(), Requests: 4, Answers: 4}
	b.ReportAllocs()
	for b.Loop() {
		g.count(res.Time, 1)
		d.scanned(g, res, time.Millisecond)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(tags), "ns/reading")
}
