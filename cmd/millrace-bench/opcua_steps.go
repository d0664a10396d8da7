package main

import (
	"bytes"
	"strconv"
	"time"
)

// stepTag is what the tags of counters are called: this and five digits.
const stepTag = "t"

// steps checks that counters arrive without a hole: each of a tag's values is
// to be one more than the one before. It belongs to a subscriber, under its
// lock.
type steps struct {
	last    []float64 // by tag; 0: none yet
	values  uint64
	started int       // tags that have had a value
	missing uint64    // steps that never came
	again   uint64    // values that came before
	broken  uint64    // of a payload, that make no sense
	bad     uint64    // readings that were bad
	first   time.Time // when the first value arrived since mark
}

func newSteps(tags int) *steps { return &steps{last: make([]float64, tags)} }

// take works on the body of a batch.
func (s *steps) take(payload []byte) {
	_, values, ok := bytes.Cut(payload, []byte(`"values":{`))
	if ok {
		s.takeValues(values)
	}
	if _, bad, ok := bytes.Cut(payload, []byte(`"bad":{`)); ok {
		in, _, _ := bytes.Cut(bad, []byte{'}'})
		s.bad += uint64(bytes.Count(in, []byte{':'}))
	}
}

// takeValues reads "t00012":34,"t00013":5} from the begin of text.
func (s *steps) takeValues(text []byte) {
	for len(text) > 0 && text[0] == '"' {
		colon := bytes.IndexByte(text, ':')
		if colon < 0 {
			break
		}
		end := colon + 1
		for end < len(text) && text[end] != ',' && text[end] != '}' {
			end++
		}
		s.step(text[1:max(1, colon-1)], text[colon+1:end])
		if end >= len(text) || text[end] == '}' {
			return
		}
		text = text[end+1:]
	}
}

func (s *steps) step(name, text []byte) {
	tag, err1 := strconv.Atoi(string(bytes.TrimPrefix(name, []byte(stepTag))))
	v, err2 := strconv.ParseFloat(string(text), 64)
	if err1 != nil || err2 != nil || tag < 0 || tag >= len(s.last) {
		s.broken++
		return
	}
	s.values++
	if s.first.IsZero() {
		s.first = time.Now()
	}
	before := s.last[tag]
	switch {
	case before == 0:
		s.started++
	case v <= before:
		s.again++
		return
	default:
		s.missing += uint64(v - before - 1)
	}
	s.last[tag] = v
}

// step returns what the subscriber's check has counted so far.
func (s *subscriber) steps() steps {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := *s.check
	c.last = nil
	return c
}

// mark forgets when the first value arrived.
func (s *subscriber) mark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check.first = time.Time{}
}
