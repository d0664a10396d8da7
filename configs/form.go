package configs

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"millrace/protocols"
)

// anyText takes every text, and numbers and words as they are written.
func anyText() form[string] {
	return form[string]{
		want:  "text",
		parse: func(s string) (string, error) { return s, nil },
		spec:  schema{"type": []string{"string", "number", "boolean"}},
		free:  true,
	}
}

// filled is text that is not empty.
func filled(what string) form[string] {
	return form[string]{
		want:   what,
		quotes: onlyText,
		parse: func(s string) (string, error) {
			if strings.TrimSpace(s) == "" {
				return "", errForm
			}
			return s, nil
		},
		spec: schema{"type": "string", "minLength": 1},
		free: true,
	}
}

// numbered is like filled, and takes a bare number as it is written: 40001
// is an address.
func numbered(what string) form[string] {
	f := filled(what)
	f.quotes = anyScalar
	f.spec = schema{"type": []string{"string", "number"}, "minLength": 1}
	return f
}

const idPattern = `^[A-Za-z0-9_.-]{1,64}$`

// id is a name that becomes a level of MQTT topics and a metric's label.
func id() form[string] {
	pattern := regexp.MustCompile(idPattern)
	return form[string]{
		want:   `1 to 64 of the letters A-Z a-z, digits, "-", "_" and "."`,
		quotes: onlyText,
		parse: func(s string) (string, error) {
			if pattern.MatchString(s) {
				return s, nil
			}
			switch {
			case strings.ContainsAny(s, "/+#"):
				return "", hint(`"/", "+" and "#" have a meaning in MQTT topics`)
			case strings.ContainsAny(s, " \t"):
				return "", hint("write " + strings.Join(strings.Fields(s), "-"))
			case s != "" && len(s) <= 64:
				return "", hint("names in other scripts can go into labels")
			}
			return "", errForm
		},
		spec: schema{"type": "string", "pattern": idPattern},
	}
}

// name is a name for people that must fit into one MQTT topic level or JSON
// key.
func name(what string, most int, forbidden string) form[string] {
	return form[string]{
		want:   fmt.Sprintf("%s of 1 to %d characters", what, most),
		quotes: onlyText,
		parse: func(s string) (string, error) {
			switch {
			case s == "" || utf8.RuneCountInString(s) > most:
				return "", errForm
			case strings.TrimSpace(s) != s:
				return "", hint("remove the spaces around it")
			case strings.ContainsAny(s, forbidden):
				return "", hint("it must not contain any of " + forbidden)
			case strings.ContainsFunc(s, unicode.IsControl):
				return "", hint("it contains a line break or another control character")
			}
			return s, nil
		},
		spec: schema{"type": "string", "minLength": 1, "maxLength": most},
	}
}

// choice is one of a few words. Those in notYet belong to later versions.
func choice(notYet []string, words ...string) form[string] {
	return form[string]{
		want:   oneOf(words),
		quotes: onlyText,
		parse: func(s string) (string, error) {
			if slices.Contains(words, s) {
				return s, nil
			}
			if slices.Contains(notYet, s) {
				return "", sentence(fmt.Sprintf("%s is not in this version of Millrace: use %s", s, oneOf(words)))
			}
			if c := cmp.Or(nearest(s, words), begins(words, s)); c != "" {
				return "", hint(fmt.Sprintf("did you mean %q?", c))
			}
			return "", errForm
		},
		spec: schema{"type": "string", "enum": words},
	}
}

// begins returns the only word that begins with s.
func begins(words []string, s string) (found string) {
	for _, w := range words {
		switch {
		case len(s) < 3 || !strings.HasPrefix(w, strings.ToLower(s)):
		case found != "":
			return ""
		default:
			found = w
		}
	}
	return found
}

func oneOf(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func order() form[protocols.Order] {
	// The other names are those of the four for 64 bits.
	names := map[string]protocols.Order{"ABCDEFGH": protocols.ABCD, "GHEFCDAB": protocols.CDAB, "BADCFEHG": protocols.BADC, "HGFEDCBA": protocols.DCBA}
	words := []string{"ABCD", "CDAB", "BADC", "DCBA", "ABCDEFGH", "GHEFCDAB", "BADCFEHG", "HGFEDCBA", "EFGHABCD", "CDABGHEF", "FEHGBADC", "DCBAHGFE"}
	for o := range protocols.DCBAHGFE + 1 {
		names[o.String()] = o
	}
	c := choice(nil, words...)
	return form[protocols.Order]{
		want:   c.want,
		quotes: onlyText,
		parse: func(s string) (protocols.Order, error) {
			w, err := c.parse(s)
			return names[w], err
		},
		spec: c.spec,
	}
}

func boolean() form[bool] {
	return form[bool]{
		want:   "true or false",
		quotes: onlyBare,
		parse: func(s string) (bool, error) {
			switch strings.ToLower(s) {
			case "true":
				return true, nil
			case "false":
				return false, nil
			case "yes", "on", "y", "1":
				return false, hint("write true")
			case "no", "off", "n", "0":
				return false, hint("write false")
			}
			return false, errForm
		},
		spec: schema{"type": "boolean"},
	}
}

func integer(low, high int) form[int] {
	return form[int]{
		want:   fmt.Sprintf("a whole number from %d to %d", low, high),
		quotes: onlyBare,
		parse: func(s string) (int, error) {
			n, err := strconv.Atoi(s)
			if err != nil || n < low || n > high {
				return 0, errForm
			}
			return n, nil
		},
		spec: schema{"type": "integer", "minimum": low, "maximum": high},
	}
}

func number() form[float64] {
	return form[float64]{
		want:   "a number such as 0.1",
		quotes: onlyBare,
		parse:  parseNumber,
		spec:   schema{"type": "number"},
	}
}

func parseNumber(s string) (float64, error) {
	if strings.ContainsAny(s, "xXpP_") { // Go's, not a spreadsheet's
		return 0, errForm
	}
	f, err := strconv.ParseFloat(s, 64)
	if err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
		return f, nil
	}
	if strings.Count(s, ",") == 1 && !strings.Contains(s, ".") {
		point := strings.Replace(s, ",", ".", 1)
		if _, err := strconv.ParseFloat(point, 64); err == nil {
			return 0, hint("write " + point)
		}
	}
	return 0, errForm
}

func scaleFactor() form[float64] {
	f := number()
	f.parse = func(s string) (float64, error) {
		v, err := parseNumber(s)
		if err == nil && v == 0 {
			return 0, sentence("a scale of 0 would make every value 0: remove it, or write the right factor")
		}
		return v, err
	}
	f.spec = schema{"type": "number", "not": schema{"const": 0}}
	return f
}

func deadband() form[protocols.Deadband] {
	const want = "a number that is not negative, such as 0.5, or a percentage up to 100 such as 2%"
	return form[protocols.Deadband]{
		want: want,
		parse: func(s string) (protocols.Deadband, error) {
			text, percent := strings.CutSuffix(s, "%")
			if percent {
				text = strings.TrimSpace(text)
			}
			f, err := parseNumber(text)
			if err != nil {
				return protocols.Deadband{}, err
			}
			if f < 0 || percent && f > 100 {
				return protocols.Deadband{}, errForm
			}
			return protocols.Deadband{Size: f, Percent: percent}, nil
		},
		spec: schema{"anyOf": []schema{
			{"type": "number", "minimum": 0},
			{"type": "string", "pattern": `^[0-9.]+ *%?$`},
		}},
	}
}

// durationPattern is what Go's time.ParseDuration takes, without a sign.
const durationPattern = `^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`

// duration is a time span from low to high; where zeroToo, also 0.
func duration(low, high time.Duration, zeroToo bool) form[time.Duration] {
	want := fmt.Sprintf("a duration from %s to %s such as 500ms or 10s", ShortDuration(low), ShortDuration(high))
	if zeroToo && low > 0 {
		want += ", or 0"
	}
	spec := schema{"type": "string", "pattern": durationPattern}
	if zeroToo {
		spec = schema{"anyOf": []schema{spec, {"const": 0}}}
	}
	return form[time.Duration]{
		want: want,
		parse: func(s string) (time.Duration, error) {
			d, err := time.ParseDuration(s)
			if err != nil {
				return 0, durationHint(s)
			}
			if d == 0 && zeroToo {
				return 0, nil
			}
			if d < low || d > high {
				return 0, errForm
			}
			return d, nil
		},
		spec: spec,
	}
}

// durationHint finds what was meant by a text that is not a duration.
func durationHint(s string) error {
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit := strings.ToLower(strings.TrimSpace(s[len(digits):]))
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || n < 0 || n > 1e9 || strings.ContainsAny(digits, "eExXpP_+") {
		return errForm
	}
	switch unit {
	case "":
		if n >= 100 { // nobody means 500 seconds
			return hint("write " + digits + "ms, or " + digits + "s if that is meant")
		}
		unit = "s"
	case "sec", "secs", "second", "seconds":
		unit = "s"
	case "min", "mins", "minute", "minutes":
		unit = "m"
	case "hour", "hours", "hr", "hrs":
		unit = "h"
	case "msec", "millis", "milliseconds":
		unit = "ms"
	case "d", "day", "days":
		digits, unit = strconv.FormatFloat(n*24, 'f', -1, 64), "h"
	case "s", "m", "h", "ms", "us", "ns":
	default:
		return hint("the units are ms, s, m and h")
	}
	return hint("write " + digits + unit)
}

// ShortDuration prints a duration as a user would write it, without the zeros that time.Duration adds.
func ShortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

const sizePattern = `^[0-9]+(\.[0-9]+)?(KiB|MiB|GiB|TiB|kB|MB|GB|TB|B)?$`

// size is a number of bytes.
func size(low, high int64) form[int64] {
	return form[int64]{
		want: fmt.Sprintf("a size from %s to %s such as 512MiB or 1GiB", shortSize(low), shortSize(high)),
		parse: func(s string) (int64, error) {
			digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
			n, err := parseNumber(digits)
			if err != nil || n < 0 {
				return 0, errForm
			}
			factor, err := sizeUnit(digits, s[len(digits):])
			bytes := n * float64(factor)
			switch {
			case factor > 0 && bytes < float64(low): // before its spelling: what is spelled right must help
				return 0, hint("that is less than " + shortSize(low))
			case factor > 0 && bytes > float64(high):
				return 0, hint("that is more than " + shortSize(high))
			case err != nil:
				return 0, err
			}
			return int64(bytes), nil
		},
		spec: schema{"anyOf": []schema{
			{"type": "string", "pattern": sizePattern},
			{"type": "integer", "minimum": low, "maximum": high},
		}},
	}
}

// sizeUnit returns how many bytes a unit has, with a hint as the error if it
// is written otherwise; 0: that is not known.
func sizeUnit(digits, unit string) (int64, error) {
	units := []struct {
		name   string
		factor int64
	}{
		{"KiB", 1 << 10},
		{"MiB", 1 << 20},
		{"GiB", 1 << 30},
		{"TiB", 1 << 40},
		{"kB", 1e3},
		{"MB", 1e6},
		{"GB", 1e9},
		{"TB", 1e12},
		{"B", 1},
		{"", 1},
	}
	plain := strings.ToLower(strings.TrimSpace(unit))
	for _, u := range units {
		if u.name == unit {
			return u.factor, nil
		}
	}
	for _, u := range units {
		if l := strings.ToLower(u.name); l == plain || l != "" && l[:1] == plain || l != "" && l[:len(l)-1] == plain {
			return u.factor, hint("write " + digits + u.name)
		}
	}
	return 0, hint("the units are KiB, MiB, GiB (powers of 1024) and kB, MB, GB (powers of 1000)")
}

func shortSize(n int64) string {
	for _, u := range []struct {
		name   string
		factor int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.factor && n%u.factor == 0 {
			return strconv.FormatInt(n/u.factor, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// optional makes a form whose value is a pointer, nil where it was not given.
func optional(f form[float64]) form[*float64] {
	return form[*float64]{
		want: f.want, quotes: f.quotes, spec: f.spec,
		parse: func(s string) (*float64, error) {
			v, err := f.parse(s)
			return &v, err
		},
	}
}
