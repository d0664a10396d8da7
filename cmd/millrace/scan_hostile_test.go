package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/configs"
	"millrace/protocols/opcua"
	"millrace/protocols/opcua/opcuatest"
)

// hostilePieces are what a server's texts are made of that is out for harm.
func hostilePieces() []string {
	return []string{
		"=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "'", "\"", ",", ";", "\t", "\r", "\n", "\x00", "\x1b[2J", "\u009b31m", "\u202e", "\u2028", "\ufeff", "\u00a0",
		"${env:HOME}", "$${", "$", "{", "}", "#", "//", " ", ".", "~2", "~", "长", "é", "e\u0301", "\xff\xfe", "", "|", "\u200b", "＝1", "\\", "[0:3]", "[]", "%3B", ";s=", "ns=0;i=1",
		strings.Repeat("x", 130), strings.Repeat("=", 140), "a", "b", "Line1",
	}
}

// TestScanHostileMap: whatever a server calls its nodes, the tag map is one
// that can be loaded, with each tag once, and that a spreadsheet and a
// terminal show as text.
func TestScanHostileMap(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 1))
	pieces := hostilePieces()
	text := func() string {
		var b strings.Builder
		for range 1 + rnd.IntN(4) {
			b.WriteString(pieces[rnd.IntN(len(pieces))])
		}
		return b.String()
	}
	var m scanMap
	for i := range 1000 {
		low, high := -rnd.ExpFloat64()*1e9, rnd.ExpFloat64()*1e-9
		v := &opcua.Variable{
			Address: fmt.Sprintf("nsu=urn:a;s=%s%d", strings.ToValidUTF8(printable(text()), "?"), i), Type: "Double", Sampling: -1,
			Path: []opcua.PathName{{Name: "Objects"}}, Min: &low, Max: &high,
			// As a browse hands them on: see oneLine.
			Unit: strings.TrimSpace(strings.ToValidUTF8(printable(text()), "?")), Description: strings.TrimSpace(strings.ToValidUTF8(printable(text()), "?")),
		}
		for range 1 + rnd.IntN(4) {
			v.Path = append(v.Path, opcua.PathName{Namespace: 2, Name: text()})
		}
		if err := m.add(v); err != nil {
			t.Fatal(err)
		}
	}
	m.finish()
	var out strings.Builder
	if err := m.writeCSV(&out); err != nil {
		t.Fatal(err)
	}
	tags := loadMap(t, out.String())
	if len(tags) != len(m.tags) {
		t.Fatalf("seed %d: %d tags, %d loaded", seed, len(m.tags), len(tags))
	}
	for i := range tags {
		if tags[i].Name != m.tags[i].Name || tags[i].Address != m.tags[i].Address {
			t.Errorf("seed %d: %q %s was loaded as %q %s", seed, m.tags[i].Name, m.tags[i].Address, tags[i].Name, tags[i].Address)
		}
		for _, cell := range []string{m.tags[i].Name, textCell(m.tags[i].Unit), textCell(m.tags[i].Description)} {
			if isFormula(cell) {
				t.Errorf("seed %d: a formula: %q", seed, cell)
			}
		}
		if printable(m.tags[i].Name) != m.tags[i].Name && !strings.ContainsAny(m.tags[i].Name, "\u00a0\u2028") {
			t.Errorf("seed %d: %q", seed, m.tags[i].Name)
		}
	}
}

// isFormula says that a spreadsheet may run the cell (OWASP, CSV Injection),
// the wide forms of East Asian keyboards included.
func isFormula(cell string) bool {
	r := []rune(cell)
	return len(r) > 0 && strings.ContainsRune("=+-@＝＋－＠\t\r\n", r[0])
}

type loadedTag struct{ Name, Address string }

// loadMap loads a tag map as the agent does.
func loadMap(t *testing.T, csv string) []loadedTag {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "gw.yaml")
	yaml := "gateway: {id: gw}\nuplinks:\n  - {name: p, broker: \"mqtt://127.0.0.1\"}\ndevices:\n  - id: plant\n    driver: opcua\n    endpoint: opc.tcp://127.0.0.1\n    security: {policy: None}\n    tags: tags.csv\n"
	for path, data := range map[string]string{config: yaml, filepath.Join(dir, "tags.csv"): csv} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := configs.Load(config, checkers())
	if err != nil {
		t.Fatal(err)
	}
	var tags []loadedTag
	for _, tag := range cfg.Devices[0].Tags {
		tags = append(tags, loadedTag{tag.Name, tag.Address})
	}
	return tags
}

// TestScanSameNames: many variables with one browse name take no longer than
// others.
func TestScanSameNames(t *testing.T) {
	t.Parallel()
	const many = 60_000
	paths := make([][]string, many)
	for i := range paths {
		paths[i] = []string{"Objects", "Line1", "Temperature"}
	}
	began := time.Now()
	names := tagNames(paths)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	seen := make(map[string]bool, many)
	for _, n := range names {
		seen[n] = true
	}
	if len(seen) != many || names[1] != "Line1.Temperature~2" {
		t.Errorf("%d different names, such as %s", len(seen), names[1])
	}
}

// escapes clear a terminal, colour it, set its title, turn text around and
// begin lines of their own.
const escapes = "\x1b[2J\u009b31m\x1b]0;owned\x07\u202e\r\nIt is trusted, by x.\x7f"

// TestScanEscapes: what a server says does not reach a terminal as it is,
// neither from a tag map nor from what is told of a scan.
func TestScanEscapes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tamper func(ua.Response)
		args   []string
		want   string
	}{
		"policy": {func(res ua.Response) {
			if r, ok := res.(*ua.GetEndpointsResponse); ok {
				for _, e := range r.Endpoints {
					e.SecurityPolicyURI = escapes
				}
			}
		}, nil, "it offers"},
		"refused": {func(res ua.Response) {
			switch r := res.(type) {
			case *ua.BrowseResponse:
				for _, one := range r.Results {
					for _, ref := range one.References {
						ref.BrowseName.Name = escapes + ref.BrowseName.Name
					}
				}
			case *ua.ReadResponse:
				for _, one := range r.Results {
					if one.Value != nil && one.Value.Type() == ua.TypeIDByte { // the access levels
						one.Value, one.Status, one.EncodingMask = nil, ua.StatusBadUserAccessDenied, ua.DataValueStatusCode
					}
				}
			}
		}, []string{"--policy", "None"}, "refused to be looked at"},
		"names": {func(res ua.Response) {
			switch r := res.(type) {
			case *ua.BrowseResponse:
				for _, one := range r.Results {
					for _, ref := range one.References {
						ref.BrowseName.Name = escapes + ref.BrowseName.Name
					}
				}
			case *ua.ReadResponse:
				for _, one := range r.Results {
					if one.Value != nil && one.Value.Type() == ua.TypeIDLocalizedText {
						one.Value = ua.MustVariant(ua.NewLocalizedText(escapes))
					}
				}
			}
		}, []string{"--policy", "None"}, "1 tag:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, err := opcuatest.NewServer(opcuatest.Options{Tamper: c.tamper, Nodes: []opcuatest.Node{{NodeID: "ns=2;s=a", Name: "a", Value: func(time.Time) any { return 1.5 }}}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = srv.Close() })
			for _, command := range [][]string{append([]string{"scan", srv.Endpoint(), "--pki", t.TempDir()}, c.args...), {"trust", srv.Endpoint(), "--pki", t.TempDir()}} {
				out, errOut, _ := millrace(t, command...)
				if command[0] == "scan" && !strings.Contains(errOut, c.want) {
					t.Errorf("%q: %q", out, errOut)
				}
				text := strings.TrimPrefix(strings.ReplaceAll(out, "\r\n", "\n"), "\ufeff") + errOut
				for line := range strings.SplitSeq(text, "\n") {
					if printable(line) != line || strings.HasPrefix(line, "It is trusted") {
						t.Errorf("%s: %q", command[0], line)
					}
				}
			}
		})
	}
}
