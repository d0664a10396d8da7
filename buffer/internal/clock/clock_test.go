package clock

import (
	"testing"

	"pgregory.net/rapid"
)

const (
	hour   = 3_600_000
	y2026  = 1_795_000_000_000 // offset of a clock that is right
	bootMs = 20_000            // when the first sample is taken
)

// stamp is a record as the buffer stores it.
type stamp struct{ time, mono, truth int64 }

// world is a machine: its wall clock is mono plus offset.
type world struct {
	h            History
	mono, offset int64
	stamps       []stamp
}

func (w *world) sample() int64 { return w.h.Observe(w.mono, w.offset) }

// append stamps a record, appends it lag later, and samples the clocks then,
// as the buffer does.
func (w *world) append(lag int64) {
	s := stamp{time: w.mono + w.offset, truth: w.mono}
	w.mono += lag
	s.mono = w.mono
	w.sample()
	w.stamps = append(w.stamps, s)
}

func (w *world) corrected(s stamp) (ms int64, set bool) {
	base, set := w.h.Base()
	return s.time + base - w.h.Stepped(s.mono, s.time-s.mono), set
}

func TestCorrection(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		offsets []int64 // of the epochs, one minute each
		want    int64   // the offset that all records are to have in the end
		set     bool
	}{
		"never stepped":       {[]int64{y2026}, y2026, true},
		"1970, then right":    {[]int64{0, y2026}, y2026, true},
		"1970 for ever":       {[]int64{0}, 0, false},
		"1970, then 1985":     {[]int64{0, 15 * 365 * 24 * hour}, 15 * 365 * 24 * hour, false},
		"an hour forward":     {[]int64{y2026, y2026 + hour}, y2026 + hour, true},
		"an hour back":        {[]int64{y2026, y2026 - hour}, y2026 - hour, true},
		"forward and back":    {[]int64{y2026, y2026 + hour, y2026}, y2026, true},
		"back and forward":    {[]int64{y2026, y2026 - hour, y2026}, y2026, true},
		"fallen to 1970":      {[]int64{y2026, 0}, y2026, true},
		"fallen, and back":    {[]int64{y2026, 0, y2026 + 77}, y2026 + 77, true},
		"small steps":         {[]int64{y2026, y2026 + 900, y2026 - 900}, y2026 - 900, true},
		"before 1970":         {[]int64{-hour, y2026}, y2026, true},
		"again and again":     {[]int64{0, y2026, 0, y2026, y2026 + hour, y2026}, y2026, true},
		"wrong, sane, right":  {[]int64{0, y2026 - 2000*hour, y2026}, y2026, true},
		"too small to matter": {[]int64{y2026, y2026 + 400}, y2026, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{mono: bootMs}
			for _, o := range c.offsets {
				w.offset = o
				for range 60 {
					w.append(3)
					w.mono += 997
				}
			}
			for i, s := range w.stamps {
				got, set := w.corrected(s)
				if want := s.truth + c.want; set != c.set || abs(got-want) > 400 {
					t.Fatalf("record %d: corrected by %d to %d, want %d; set %v", i, got-s.time, got, want, set)
				}
			}
		})
	}
}

func abs(n int64) int64 { return max(n, -n) }

// TestSlewIsNoStep: a clock that is slewed apart from the other one, and one
// that was not looked at for long.
func TestSlewIsNoStep(t *testing.T) {
	t.Parallel()
	w := &world{mono: bootMs, offset: y2026}
	w.sample()
	for range 10_000 { // 500 ppm, the kernel's most, over a week
		w.mono += 60_000
		w.offset += 30
		if step := w.sample(); step != 0 {
			t.Fatalf("a step of %d at %d", step, w.mono)
		}
	}
	w.append(0)
	if got, _ := w.corrected(w.stamps[0]); got != w.stamps[0].time {
		t.Errorf("corrected by %d", got-w.stamps[0].time)
	}
	w.mono += 30 * 24 * hour
	w.offset += 5000
	if w.sample() != 5000 {
		t.Error("a step of 5 s while nobody looked was not seen")
	}
}

// TestStampedAcrossAStep: stamped before, appended after.
func TestStampedAcrossAStep(t *testing.T) {
	t.Parallel()
	for _, step := range []int64{2000, -2000, hour, -hour, y2026, -y2026} {
		for _, lag := range []int64{0, 1, 1200, 5000} {
			w := &world{mono: bootMs, offset: y2026}
			w.append(0)
			w.mono += 10_000
			before := stamp{time: w.mono + w.offset, mono: w.mono + lag, truth: w.mono}
			w.offset += step
			w.mono += lag
			w.sample()
			if got := w.h.Stepped(before.mono, before.time-before.mono); got != 0 {
				t.Errorf("step %d, lag %d: stamped before, taken for after", step, lag)
			}
			w.mono += 10_000
			w.append(lag)
			after := w.stamps[len(w.stamps)-1]
			if got := w.h.Stepped(after.mono, after.time-after.mono); got != step {
				t.Errorf("step %d, lag %d: stamped after, taken for before", step, lag)
			}
		}
	}
}

// TestLearn: steps that were not written down are found in what was stored.
func TestLearn(t *testing.T) {
	t.Parallel()
	w := &world{mono: bootMs}
	var found History
	for _, o := range []int64{0, y2026, y2026 + hour, y2026} {
		w.offset = o
		for range 30 {
			w.append(40)
			w.mono += 960
			s := w.stamps[len(w.stamps)-1]
			found.Learn(s.mono, s.time-s.mono)
		}
	}
	base, set := found.Base()
	for i, s := range w.stamps {
		got := s.time + base - found.Stepped(s.mono, s.time-s.mono)
		if want := s.truth + y2026; !set || abs(got-want) > 50 {
			t.Fatalf("record %d: %d, want %d", i, got, want)
		}
	}
	kept := len(found.epochs)
	found.Learn(bootMs, y2026+5*hour) // older than what is known
	if len(found.epochs) != kept {
		t.Error("an old record changed what is known")
	}
}

// TestOrder: whatever the clock does, in the end (when it is right) times do
// not fall as seq rises, and are as far from each other as the records were.
func TestOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &world{mono: bootMs, offset: rapid.SampledFrom([]int64{0, y2026, y2026 - hour}).Draw(t, "offset")}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(t, "records") {
					w.append(rapid.Int64Range(0, 300).Draw(t, "lag"))
					w.mono += rapid.Int64Range(0, 2000).Draw(t, "pause")
				}
			},
			"idle": func(t *rapid.T) {
				w.mono += rapid.Int64Range(0, 3*hour).Draw(t, "idle")
				w.sample()
			},
			"step": func(t *rapid.T) {
				w.sample()
				w.mono += 301
				step := rapid.SampledFrom([]int64{hour, -hour, 5000, -5000, 800_000, -7 * 24 * hour}).Draw(t, "by")
				if step+w.mono+w.offset > 0 {
					w.offset += step
				}
			},
			"fall":   func(*rapid.T) { w.sample(); w.mono += 301; w.offset = 0 },
			"mend":   func(*rapid.T) { w.sample(); w.mono += 301; w.offset = y2026 },
			"reopen": func(t *rapid.T) { reopen(t, &w.h) },
		})
		w.mono += 301
		w.offset = y2026
		w.sample()
		last := int64(0)
		for i, s := range w.stamps {
			got, set := w.corrected(s)
			if !set || got < last {
				t.Fatalf("record %d at %d, after one at %d", i, got, last)
			}
			if want := s.truth + y2026; got != want {
				t.Fatalf("record %d at %d, want %d", i, got, want)
			}
			last = got
		}
	})
}

func reopen(t *rapid.T, h *History) {
	back, ok := Parse(h.Append(nil))
	if !ok || len(back.epochs) != len(h.epochs) {
		t.Fatal("what was stored does not come back")
	}
	*h = *back
}

func TestBound(t *testing.T) {
	t.Parallel()
	w := &world{mono: bootMs}
	for i := range int64(10_000) {
		w.offset = y2026 + i%2*hour
		w.mono += 1000
		w.append(1)
	}
	if len(w.h.epochs) > maxEpochs || len(w.h.Append(nil)) > 1+maxEpochs*epochSize {
		t.Fatalf("%d epochs", len(w.h.epochs))
	}
	for _, s := range w.stamps[len(w.stamps)-maxEpochs+1:] {
		if got, _ := w.corrected(s); got != s.truth+w.offset {
			t.Fatalf("%+v: corrected to %d", s, got)
		}
	}
	if _, ok := Parse(w.h.Append(nil)); !ok {
		t.Error("it cannot be read back")
	}
}

func FuzzParse(f *testing.F) {
	w := &world{mono: bootMs}
	w.sample()
	w.offset = y2026
	w.sample()
	f.Add(w.h.Append(nil))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := Parse(b)
		if !ok {
			return
		}
		h.Base()
		h.Stepped(5, 7)
		h.Observe(h.Until()+1, 9)
		if again, ok := Parse(h.Append(nil)); !ok && h.Until() > 0 {
			t.Errorf("%+v does not come back: %+v", h, again)
		}
	})
}
