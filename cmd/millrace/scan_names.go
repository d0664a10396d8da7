package main

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxTagName is how long a tag's name may be.
const maxTagName = 128

// tagNames names tags by the ends of their browse paths: the last two names,
// as in Line1.Temperature, and as many more as it takes to tell them apart. So
// a tag keeps its name whatever is added elsewhere, unless that has the same
// two names at its end. paths begin with Objects, which is no part of a name.
func tagNames(paths [][]string) []string {
	names := make([]string, len(paths))
	taken := make(map[string]bool, len(paths))
	last := make(map[string]int) // by the name, the last number it got
	open := make([]int, len(paths))
	for i := range open {
		open[i] = i
	}
	const least = 2
	for depth := least; len(open) > 0; depth++ {
		count := make(map[string]int, len(open))
		for _, i := range open {
			names[i] = pathEnd(paths[i], depth)
			count[names[i]]++
		}
		var rest, whole []int
		for _, i := range open {
			switch {
			case count[names[i]] == 1 && !taken[names[i]]:
			case depth < len(paths[i])-1:
				rest = append(rest, i)
			default:
				whole = append(whole, i)
			}
		}
		for _, i := range open {
			if count[names[i]] == 1 {
				taken[names[i]] = true
			}
		}
		// The same to the very beginning: they are numbered.
		for _, i := range whole {
			names[i] = numbered(names[i], taken, last)
		}
		open = rest
	}
	return names
}

// numbered returns a name that is not taken, and takes it. last is where the
// count goes on: a server may have 100,000 nodes of one name.
func numbered(name string, taken map[string]bool, last map[string]int) string {
	for n := last[name] + 1; ; n++ {
		s := name
		if n > 1 {
			s = fmt.Sprintf("%s~%d", shorten(name, maxTagName-8), n)
		}
		if !taken[s] {
			taken[s], last[name] = true, n
			return s
		}
	}
}

// pathEnd joins the last names of a path, without its first.
func pathEnd(path []string, depth int) string {
	below := path[min(1, len(path)-1):]
	below = below[max(0, len(below)-depth):]
	parts := make([]string, len(below))
	for i, s := range below {
		parts[i] = namePart(s)
	}
	name := strings.Join(parts, ".")
	// What a spreadsheet would take for a formula, and blanks at either end,
	// are no part of a name.
	if strings.HasPrefix(name, "'") || startsFormula(name) {
		name = "_" + name
	}
	return shorten(name, maxTagName)
}

// startsFormula says that a spreadsheet takes a cell with that text for a
// formula; those for East Asian languages know the wide signs too.
func startsFormula(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return strings.ContainsRune("=+-@＝＋－＠", r)
}

// namePart makes a browse name fit to be a part of a tag's name.
func namePart(s string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == utf8.RuneError {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(s, "_")))
	if s == "" {
		return "_"
	}
	return s
}

// shorten cuts a name that is too long at its beginning; what was cut leaves
// its mark, so that two do not become one.
func shorten(name string, most int) string {
	r := []rune(name)
	if len(r) <= most {
		return name
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // it never fails
	mark := fmt.Sprintf("~%08x", h.Sum32())
	end := strings.TrimSpace(string(r[len(r)-most+len(mark):]))
	if startsFormula(end) { // the "_" that kept it from being one was cut off
		_, size := utf8.DecodeRuneInString(end)
		end = "_" + end[size:]
	}
	return end + mark
}

// byPath orders tags by their paths, so that what belongs together stands
// together.
func byPath(a, b []string) int { return slices.Compare(a, b) }
