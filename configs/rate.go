package configs

import (
	"errors"
	"strconv"
	"strings"
)

// Rate is how fast a backlog may be sent: at most one of its fields is set.
// The zero value: as fast as what is live leaves room for.
type Rate struct {
	PerSecond float64 // batches per second
	Share     float64 // part of the link's time, above 0 and up to 1
}

// String returns the rate as a user would write it; empty: there is none.
func (r Rate) String() string {
	switch {
	case r.Share > 0:
		return strconv.FormatFloat(r.Share*100, 'f', -1, 64) + "%"
	case r.PerSecond > 0:
		return strconv.FormatFloat(r.PerSecond, 'f', -1, 64) + "/s"
	}
	return ""
}

// The most is far beyond what a broker takes.
const maxRate = 1e6

const ratePattern = `^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)? *(/s|%)?$`

// rate is a number of batches a second, or a part of the link's time.
func rate() form[Rate] {
	return form[Rate]{
		want:  "batches per second such as 200/s, or a share of the link from 1% to 100% such as 25%",
		parse: parseRate,
		spec: schema{"anyOf": []schema{
			{"type": "string", "pattern": ratePattern},
			{"type": "number", "minimum": 1, "maximum": maxRate},
		}},
	}
}

func parseRate(s string) (Rate, error) {
	if plain := strings.ReplaceAll(narrow(s), "_", ""); plain != s {
		return Rate{}, hint("write " + plain)
	}
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/% ")
	unit := strings.TrimSpace(s[len(digits):])
	n, err := parseNumber(digits)
	if h, ok := errors.AsType[hint](err); ok {
		return Rate{}, h + hint(unit)
	}
	if err != nil {
		return Rate{}, err
	}
	if n < 0 {
		return Rate{}, hint("a rate is above 0")
	}
	if n == 0 {
		return Rate{}, hint("at 0 the backlog would never be sent; left out, it goes as fast as the live batches allow")
	}
	switch unit {
	case "%":
		if n < 1 || n > 100 {
			return Rate{}, errForm
		}
		return Rate{Share: n / 100}, nil
	case "":
		if n < 1 { // more likely a part of the link than a batch every few seconds
			return Rate{}, hint("write " + plainNumber(n*100) + "%, or " + digits + "/s if that is meant")
		}
	case "/s":
	default:
		return Rate{}, rateHint(digits, n, unit)
	}
	if n > maxRate {
		return Rate{}, hint("the most is 1000000/s; left out, it goes as fast as the live batches allow")
	}
	return Rate{PerSecond: n}, nil
}

// rateHint finds what was meant by a unit that a rate does not have.
func rateHint(digits string, n float64, unit string) error {
	switch strings.ToLower(strings.ReplaceAll(unit, " ", "")) {
	case "/s", "/sec", "/second", "s", "batches/s", "batch/s", "msg/s", "messages/s", "persecond", "hz":
		return hint("write " + digits + "/s")
	case "/m", "/min", "/minute", "perminute":
		return hint("write " + plainNumber(n/60) + "/s")
	case "/h", "/hr", "/hour", "perhour":
		return hint("write " + plainNumber(n/3600) + "/s")
	case "percent", "pct":
		return hint("write " + digits + "%")
	}
	return hint("the units are /s (batches per second) and % (share of the link)")
}

// narrow is s with the wide letters and digits that Chinese and Japanese
// keyboards give as plain ones.
func narrow(s string) string {
	const firstWide, lastWide, toPlain = '！', '～', '！' - '!'
	return strings.Map(func(r rune) rune {
		if r >= firstWide && r <= lastWide {
			return r - toPlain
		}
		return r
	}, s)
}

// plainNumber is a number with the few digits that a person would write.
func plainNumber(f float64) string {
	digits := 2
	for limit := 0.1; f < limit && digits < 6; limit /= 10 {
		digits++
	}
	s := strconv.FormatFloat(f, 'f', digits, 64)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}
