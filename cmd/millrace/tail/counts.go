package tail

import (
	"cmp"
	"math"
	"slices"
)

// counts is what came of one gateway. The names are those of the summary for
// programs.
type counts struct {
	Messages   uint64 `json:"messages"`
	Readings   uint64 `json:"readings"`    // of data; births say what is known anyway
	NotGood    uint64 `json:"not_good"`    // of the readings
	Historical uint64 `json:"historical"`  // of the readings
	Repeats    uint64 `json:"repeats"`     // batches
	Late       uint64 `json:"late"`        // batches that were missing first
	GapNotices uint64 `json:"gap_notices"` // and batches that they say will never come
	GivenUp    uint64 `json:"given_up"`
	Damaged    uint64 `json:"damaged"` // messages that could not be read

	lost uint64 // of Sparkplug: messages that the seq shows to be missing
	gone uint64 // batches missing of streams that were forgotten
}

func (c *counts) add(e *Event) {
	c.Messages++
	if e.Fault != "" {
		c.Damaged++
	}
	if e.Repeat {
		c.Repeats++
	}
	if e.Late {
		c.Late++
	}
	if e.Gap != nil && e.Fault == "" {
		c.GapNotices++
		c.GivenUp += e.Gap.To - e.Gap.From + 1
	}
	if e.Kind != KindData {
		return
	}
	c.Readings += uint64(len(e.Readings))
	for i := range e.Readings {
		if e.Readings[i].Quality != Good {
			c.NotGood++
		}
		if e.Historical || e.Readings[i].Historical {
			c.Historical++
		}
	}
}

// Summary is what came since the beginning.
type Summary struct {
	Kind     string           `json:"kind"` // "summary"
	Received int64            `json:"received"`
	Seconds  float64          `json:"seconds"`
	Total    GatewaySummary   `json:"total"`
	Gateways []GatewaySummary `json:"gateways"`
}

// GatewaySummary is what came of one gateway.
type GatewaySummary struct {
	Format  string `json:"format,omitempty"`
	Group   string `json:"group,omitempty"`
	Gateway string `json:"gateway,omitempty"`
	counts
	Missing           uint64  `json:"missing"` // batches, or messages of Sparkplug, that did not come
	MessagesPerSecond float64 `json:"messages_per_second"`
	ReadingsPerSecond float64 `json:"readings_per_second"`
}

// Summary sums up what came in the given time of the gateways that the filter
// lets through, busiest first.
func (t *Tail) Summary(now int64, seconds float64) Summary {
	s := Summary{Kind: "summary", Received: now, Seconds: thousandths(seconds), Gateways: []GatewaySummary{}}
	s.Total = summarize(&t.total, seconds)
	for k, g := range t.gateways {
		if t.o.Filter.Format != "" && t.o.Filter.Format != k.format || !t.o.Filter.node(k.group, k.id) {
			continue
		}
		one := summarize(&g.counts, seconds)
		one.Format, one.Group, one.Gateway, one.Missing = k.format, k.group, k.id, t.missing(g)
		s.Gateways = append(s.Gateways, one)
		s.Total.Missing += one.Missing
	}
	slices.SortFunc(s.Gateways, func(a, b GatewaySummary) int {
		return cmp.Or(cmp.Compare(b.Readings, a.Readings), cmp.Compare(b.Messages, a.Messages), cmp.Compare(a.Group, b.Group),
			cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Format, b.Format))
	})
	return s
}

func summarize(c *counts, seconds float64) GatewaySummary {
	s := GatewaySummary{counts: *c}
	if seconds > 0 {
		s.MessagesPerSecond, s.ReadingsPerSecond = thousandths(float64(c.Messages)/seconds), thousandths(float64(c.Readings)/seconds)
	}
	return s
}

func thousandths(f float64) float64 { return math.Round(f*1000) / 1000 }

// missing is how many batches or messages of g did not come.
func (t *Tail) missing(g *gateway) uint64 {
	if g.format == FormatSparkplug {
		return g.lost
	}
	n := g.gone
	for _, s := range g.streams {
		n += s.missing()
	}
	return n
}

// AppendJSON appends s as one line of JSON.
func (s *Summary) AppendJSON(dst []byte) ([]byte, error) { return appendJSONLine(dst, s) }
