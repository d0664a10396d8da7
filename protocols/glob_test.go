package protocols_test

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"millrace/protocols"
)

func TestMatchGlob(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		glob := rapid.StringOfN(rapid.SampledFrom([]rune("ab温*?")), 0, 8, -1).Draw(t, "glob")
		text := rapid.StringOfN(rapid.SampledFrom([]rune("ab温")), 0, 10, -1).Draw(t, "text")
		pattern := regexp.MustCompile("^" + strings.NewReplacer("*", ".*", "?", ".").Replace(glob) + "$")
		if got, want := protocols.MatchGlob(glob, text), pattern.MatchString(text); got != want {
			t.Fatalf("%q matches %q: %v", glob, text, got)
		}
	})
}
