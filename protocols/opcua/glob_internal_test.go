package opcua

import (
	"strings"
	"testing"
	"time"
)

// selects follows a path of names, each of namespace 2.
func selects(s *selector, path string) (hit, alive bool) {
	st := s.start()
	for name := range strings.SplitSeq(path[1:], "/") {
		st = s.step(st, 2, name)
	}
	return st.hit, st.alive
}

func TestGlobs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		glob, path string
		hit, alive bool
	}{
		{"/Objects/Line*/**/Temperature", "/Objects/Line1/Temperature", true, true},
		{"/Objects/Line*/**/Temperature", "/Objects/Line1/Cell/Oven/Temperature", true, true},
		{"/Objects/Line*/**/Temperature", "/Objects/Line/Temperatures", false, true},
		{"/Objects/Line*/**/Temperature", "/Objects/Press", false, false},
		{"/Objects/*/Speed", "/Objects/A/B/Speed", false, false},
		{"/Objects/*/Speed", "/Objects/A/Speed", true, false},
		{"/**", "/Objects", true, true},
		{"/**/a/**/b", "/x/a/a/b", true, true},
		{"/**/**/b", "/b", true, true},
		{"/a?c", "/abc", true, false},
		{"/a?c", "/aßc", true, false},
		{"/a?c", "/ac", false, false},
		{"/温*", "/温度", true, false},
		{"/Axis[1-35]", "/Axis2", true, false},
		{"/Axis[1-35]", "/Axis5", true, false},
		{"/Axis[1-35]", "/Axis4", false, false},
		{"/Axis[!1-3]", "/Axis4", true, false},
		{"/Axis[^1-3]", "/Axis2", false, false},
		{"/{Speed,Torque*}", "/Torque2", true, false},
		{"/{Speed,Torque*}", "/Speed2", false, false},
		{"/a{1,2}{x,y}", "/a2x", true, false},
		{"/a&*b", "/a*b", true, false},
		{"/a&*b", "/axb", false, false},
		{"/a&[1]", "/a[1]", true, false},
		{"/2:Speed", "/Speed", true, false},
		{"/3:Speed", "/Speed", false, false},
		{"/3:*", "/Speed", false, false},
		{"/2&:x", "/2:x", true, false},
		{"/&*&*", "/**", true, false},
		{"/a*b*c", "/abbbcbc", true, false},
		{"/a*b*c", "/abbbcb", false, false},
		{"/*", "/", true, false},
	} {
		g, err := ParseGlob(c.glob)
		if err != nil {
			t.Errorf("%s: %v", c.glob, err)
			continue
		}
		if hit, alive := selects(newSelector([]*Glob{g}, nil), c.path); hit != c.hit || alive != c.alive {
			t.Errorf("%s at %s: hit %t, alive %t", c.glob, c.path, hit, alive)
		}
	}
}

func TestGlobExclude(t *testing.T) {
	t.Parallel()
	in, _ := ParseGlob("/Objects/**")
	out, _ := ParseGlob("/**/Diagnostics")
	s := newSelector([]*Glob{in}, []*Glob{out})
	if hit, _ := selects(s, "/Objects/Line1/Speed"); !hit {
		t.Error("Speed is not selected")
	}
	if hit, alive := selects(s, "/Objects/Line1/Diagnostics"); hit || alive {
		t.Error("Diagnostics is selected")
	}
	if hit, _ := selects(s, "/Objects/Line1/Diagnostics/x"); hit {
		t.Error("what is below Diagnostics is selected")
	}
}

func TestGlobsRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Temperature":                    `write "/**/Temperature"`,
		"":                               "begins with /",
		"/a//b":                          "is empty",
		"/a/":                            "is empty",
		"/a[":                            "&[",
		"/a[]":                           "&[",
		"/a[z-a]":                        "the smaller one first",
		"/{a":                            "&{",
		"/{a,{b,c}}":                     "one by one",
		"/a&":                            "&&",
		"/99999:x":                       "0 to 65535",
		"/2:":                            "no name",
		"/" + strings.Repeat("{a,b}", 9): "more than 256",
	} {
		if _, err := ParseGlob(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestGlobEffort: what makes matchers that try everything take for ever.
func TestGlobEffort(t *testing.T) {
	t.Parallel()
	g, err := ParseGlob("/" + strings.Repeat("*a", 100) + "*b/" + strings.Repeat("**/x*/", 40) + "y")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s := newSelector([]*Glob{g}, nil)
	if hit, _ := selects(s, "/"+strings.Repeat("a", 5000)+strings.Repeat("/x", 60)); hit {
		t.Error("selected")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%s", took)
	}
}

func FuzzGlob(f *testing.F) {
	for _, s := range []string{"/Objects/Line*/**/Temperature", "/a[!b-c]?{x,y}/2:z", "/&*&/", "/**/**", "/[]]", "/{,}"} {
		f.Add(s, "Line1")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		g, err := ParseGlob(text)
		if err != nil {
			return
		}
		s := newSelector([]*Glob{g}, nil)
		st := s.start()
		for range 5 {
			st = s.step(st, 2, name)
		}
		// A name, escaped, selects itself.
		var escaped strings.Builder
		for _, r := range name {
			escaped.WriteByte('&')
			escaped.WriteRune(r)
		}
		if name == "" || len(escaped.String()) > maxPathBytes-1 || strings.ToValidUTF8(name, "\uFFFD") != name {
			return
		}
		own, err := ParseGlob("/" + escaped.String())
		if err != nil {
			t.Fatalf("%q: %v", escaped.String(), err)
		}
		sel := newSelector([]*Glob{own}, nil)
		if !sel.step(sel.start(), 7, name).hit {
			t.Fatalf("%q does not select %q", own, name)
		}
	})
}

func TestPaths(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"/Objects/Line1/Speed":     "/Objects/Line1/Speed",
		"/0:Objects/2:Line1/Speed": "/Objects/2:Line1/Speed",
		"/Objects/a&/b":            "/Objects/a&/b",
		"/Objects/2&:x":            "/Objects/2&:x",
		"/Objects/2:2:x":           "/Objects/2:2:x",
		"/Objects/&A&x&i&s":        "/Objects/Axis",
		"/Types/温度":                "/Types/温度",
		"/Objects/a b ":            "/Objects/a b ",
	} {
		path, err := parsePath(text)
		if got := pathText(path); err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"/":                "is empty",
		"/Objects":         "has no value",
		"/Objects/":        "is empty",
		"/Line1/Speed":     "perhaps /Objects/Line1/Speed",
		"/Root/Objects/x":  "leave /Root out",
		"/objects/x":       "/Objects",
		"/Objects/2:":      "no name",
		"/Objects/70000:x": "0 to 65535",
		"/2:Objects/x":     "begins with /Objects",
		"/Objects/x&":      "&&",
		"/Objects/x[3:1]":  "the smaller index first",
		"/Objects/" + strings.Repeat("a/", 100) + "a": "more than 100",
	} {
		if _, err := parseAddress(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	a, err := parseAddress("/Objects/Line1/Speeds[0:3]")
	if err != nil || a.rng != "0:3" || a.text != "/Objects/Line1/Speeds" {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err = parseAddress("/Objects/Speeds[2]"); err != nil || a.rng != "" || a.path[1].name != "Speeds[2]" {
		t.Errorf("%+v, %v", a, err)
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/Objects/2:Line1/Speed", "/Objects/a&/b&&", "/Objects/2&:x", "/Objects/::", "/Objects/1:2:3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		path, err := parsePath(s)
		if err != nil {
			return
		}
		text := pathText(path)
		again, err := parsePath(text)
		if err != nil && len(text) <= maxPathBytes {
			t.Fatalf("%q: %q: %v", s, text, err)
		}
		if err == nil && pathText(again) != text {
			t.Fatalf("%q: %q is another path", s, text)
		}
	})
}

func TestSimilar(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		like bool
	}{
		{"Temprature", "Temperature", true}, {"speed", "Speed", true}, {"Speed", "Torque", false}, {"Line1", "Line2", true}, {"a", "b", false},
	} {
		if got := similar(c.a, c.b); got > 0 != c.like {
			t.Errorf("%s, %s: %d", c.a, c.b, got)
		}
	}
}
