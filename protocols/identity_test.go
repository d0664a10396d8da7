package protocols_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"millrace/protocols"
)

func TestCleanIdentity(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Acme":                        "Acme",
		"  Acme \t Electric\r\n":      "Acme Electric",
		"Acme\x00\x00garbage":         "Acme",
		"\x00":                        "",
		"\x1b[31mAcme\u202e":          "[31mAcme",
		"西门子\xff\xfe":                 "西门子",
		strings.Repeat("长", 100):      strings.Repeat("长", 65) + "…",
		strings.Repeat("x", 200):      strings.Repeat("x", 200),
		strings.Repeat("x", 201)[1:]:  strings.Repeat("x", 200),
		strings.Repeat("y", 1000):     strings.Repeat("y", 197) + "…",
		strings.Repeat(" \x01", 1000): "",
	} {
		got := protocols.Identity{Maker: in, Serial: in, Software: in}.Clean()
		if got != (protocols.Identity{Maker: want, Serial: want, Software: want}) || !utf8.ValidString(got.Maker) {
			t.Errorf("%q: %q, want %q", in, got.Maker, want)
		}
	}
}
