package collector

import (
	"math"

	"millrace/protocols"
)

// pipeline is what is done to each reading of one tag, and what must be
// remembered of it to see changes.
type pipeline struct {
	scale, offset float64
	divisor       float64 // 1/scale where that is a whole number, such as 10 for 0.1; 0 otherwise
	low, high     float64
	enum          map[int64]string
	band          protocols.Deadband

	scaled   bool
	bounded  bool
	onChange bool         // only changes go out
	lastSent *sentReading // nil: nothing yet
}

// sentReading is what a change is measured against.
type sentReading struct {
	value   protocols.Value
	reason  protocols.Reason
	quality protocols.Quality
}

func newPipeline(t *protocols.Tag) pipeline {
	p := pipeline{
		scale: t.Scale, offset: t.Offset, scaled: t.HasScale,
		low: math.Inf(-1), high: math.Inf(1), bounded: t.Min != nil || t.Max != nil,
		enum: t.Enum, band: t.Deadband, onChange: t.OnChange || t.Deadband.Size > 0,
	}
	if inverse := math.Round(1 / t.Scale); t.HasScale && 1/inverse == t.Scale {
		p.divisor = inverse
	}
	if t.Min != nil {
		p.low = *t.Min
	}
	if t.Max != nil {
		p.high = *t.Max
	}
	return p
}

// plain says that there is nothing to do to a reading, beside seeing that it
// is a number.
func (p *pipeline) plain() bool {
	return !p.scaled && !p.bounded && p.enum == nil && !p.onChange
}

// transform turns what the device said into what goes out: value × scale +
// offset, the enumeration's text, and bad where the result is no number or
// out of the tag's range.
func (p *pipeline) transform(r *protocols.Reading) {
	if r.Quality == protocols.Bad {
		return
	}
	if p.scaled {
		v, ok := p.scaleValue(r.Value)
		if !ok {
			r.SetBad(protocols.UnsupportedType)
			return
		}
		r.Value = v
	}
	if !r.Value.Finite() {
		r.SetBad(protocols.NotANumber)
		return
	}
	if r.Value.Kind() == protocols.KindObject && (p.bounded || p.enum != nil) {
		// Which of its numbers is meant?
		r.SetBad(protocols.UnsupportedType)
		return
	}
	if p.bounded && !p.within(r.Value) {
		r.SetBad(protocols.OutOfRange)
		return
	}
	if p.enum != nil {
		text, ok := p.enumText(r.Value)
		if !ok {
			r.SetBad(protocols.OutOfRange)
			return
		}
		r.Value = protocols.String(text)
	}
}

func (p *pipeline) scaleValue(v protocols.Value) (protocols.Value, bool) {
	if v.Kind() == protocols.KindArray {
		elems := make([]protocols.Value, len(v.Elems()))
		for i, e := range v.Elems() {
			s, ok := p.scaleValue(e)
			if !ok {
				return v, false
			}
			elems[i] = s
		}
		return protocols.Array(elems), true
	}
	n, ok := v.Number()
	if p.divisor != 0 {
		// 0.1 cannot be had exactly in binary, and 29 × 0.1 is
		// 2.9000000000000004; 29 / 10 is 2.9, as the device meant it.
		return protocols.Float64(n/p.divisor + p.offset), ok
	}
	return protocols.Float64(n*p.scale + p.offset), ok
}

func (p *pipeline) within(v protocols.Value) bool {
	for _, e := range v.Elems() {
		if !p.within(e) {
			return false
		}
	}
	n, ok := v.Number()
	return !ok || n >= p.low && n <= p.high
}

// enumText returns the text for v. A number that the enumeration does not
// have is not guessed at.
func (p *pipeline) enumText(v protocols.Value) (string, bool) {
	var n int64
	switch v.Kind() {
	case protocols.KindInt:
		n = v.AsInt()
	case protocols.KindUint:
		n = int64(v.AsUint())
		if n < 0 {
			return "", false
		}
	case protocols.KindBool:
		if v.AsBool() {
			n = 1
		}
	case protocols.KindFloat32, protocols.KindFloat64:
		f, _ := v.Number()
		n = int64(f)
		if float64(n) != f {
			return "", false
		}
	case protocols.KindNone, protocols.KindString, protocols.KindBytes, protocols.KindTime, protocols.KindArray, protocols.KindObject:
		return "", false
	}
	text, ok := p.enum[n]
	return text, ok
}

// changed says whether r differs from what was sent last by enough to go
// out.
func (p *pipeline) changed(r *protocols.Reading) bool {
	last := p.lastSent
	if last == nil || r.Quality != last.quality || r.Reason != last.reason {
		return true
	}
	if r.Quality == protocols.Bad {
		return false
	}
	if p.band.Size > 0 {
		now, ok1 := r.Value.Number()
		was, ok2 := last.value.Number()
		if ok1 && ok2 {
			band := p.band.Size
			if p.band.Percent {
				band = math.Abs(was) * p.band.Size / 100
			}
			// As in OPC UA Part 4, 7.22.2: reported when it exceeds the band. The
			// tolerance is for the binary system, where 45.1 - 44.9 > 0.2.
			tolerance := 1e-12 * math.Max(math.Abs(now), math.Abs(was))
			return math.Abs(now-was) > band+tolerance
		}
	}
	return !r.Value.Equal(last.value)
}

func (p *pipeline) remember(r *protocols.Reading) {
	if p.lastSent == nil {
		p.lastSent = new(sentReading)
	}
	*p.lastSent = sentReading{value: r.Value, reason: r.Reason, quality: r.Quality}
}
