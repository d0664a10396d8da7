package protocols

import "strings"

// MatchGlob says that text is one that the glob stands for: * is any
// characters, ? is one, and everything else is itself. There is no glob that
// is wrong.
func MatchGlob(glob, text string) bool {
	if plain := !strings.ContainsAny(glob, "*?"); plain {
		return glob == text
	}
	g, s := []rune(glob), []rune(text)
	// After a mismatch, the last star takes one character more.
	star, taken := -1, 0
	for i, j := 0, 0; j < len(s) || i < len(g); {
		switch {
		case i < len(g) && g[i] == '*':
			star, taken = i, j
			i++
			continue
		case i < len(g) && j < len(s) && (g[i] == '?' || g[i] == s[j]):
			i, j = i+1, j+1
			continue
		case star < 0 || taken >= len(s):
			return false
		}
		taken++
		i, j = star+1, taken
	}
	return true
}
