package configs

import (
	"fmt"
	"strings"
)

// didYouMean returns `; did you mean "x"?` for the candidate that is nearest
// to a wrong word, or an empty text if none is near.
func didYouMean(word string, candidates []string) string {
	if c := nearest(word, candidates); c != "" {
		return fmt.Sprintf("; did you mean %q?", c)
	}
	return ""
}

// nearest returns the candidate nearest to word if it is near enough to be
// what was meant.
func nearest(word string, candidates []string) string {
	const longest = 40
	if len(word) > longest {
		return ""
	}
	word = plainWord(word)
	best, bestAt := "", 1+min(3, max(1, len(word)/3))
	for _, c := range candidates {
		if d := editDistance(word, plainWord(c)); d < bestAt && d < len(c) {
			best, bestAt = c, d
		}
	}
	return best
}

// plainWord levels what people mix up without noticing.
func plainWord(s string) string {
	return strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToLower(s))
}

// editDistance returns how many letters must be put in, left out, changed or
// swapped with their neighbour to make b out of a.
func editDistance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
