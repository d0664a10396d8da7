package main

import (
	"regexp"
	"testing"
	"time"
)

func TestStreamID(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[0-7][0-9A-HJKMNP-TV-Z]{25}$`)
	now := time.UnixMilli(1469918176385)
	seen := map[string]bool{}
	for range 1000 {
		id := newStreamID(now)
		// The example of the ULID specification has this time.
		if !form.MatchString(id) || id[:10] != "01ARYZ6S41" {
			t.Fatalf("%q is no ULID of that time", id)
		}
		if seen[id] {
			t.Fatal("the same id twice")
		}
		seen[id] = true
	}
	if a, b := newStreamID(now), newStreamID(now.Add(time.Millisecond)); a >= b {
		t.Errorf("%s is not before %s", a, b)
	}
}
