package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/configs"
	"millrace/protocols/opcua/opcuatest"
	"millrace/protocols/opcua/opcuatest/nodeopcua"
)

func TestScanUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	there := filepath.Join(dir, "there.csv")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"nothing":       {nil, "millrace scan opc.tcp://HOST:PORT"},
		"modbus":        {[]string{"tcp://192.0.2.5:502"}, "scanning Modbus is not in this version"},
		"serial":        {[]string{"rtu:///dev/ttyUSB0"}, "scanning Modbus is not in this version"},
		"no scheme":     {[]string{"192.0.2.5:4840"}, "write opc.tcp://192.0.2.5:4840"},
		"device":        {[]string{"robot-7"}, "millrace scan robot-7 -c FILE"},
		"glob":          {[]string{"opc.tcp://192.0.2.5", "Temperature"}, `write "/**/Temperature"`},
		"exclude":       {[]string{"opc.tcp://192.0.2.5", "--exclude", "/a["}, "&["},
		"policy":        {[]string{"opc.tcp://192.0.2.5", "--policy", "Basic"}, "is not a security policy"},
		"user":          {[]string{"opc.tcp://192.0.2.5", "--user", "u"}, "MILLRACE_PASSWORD"},
		"password file": {[]string{"opc.tcp://192.0.2.5", "--user", "u", "--password-file", filepath.Join(dir, "none")}, "--password-file"},
		"there already": {[]string{"opc.tcp://192.0.2.5", "-o", there}, "--force"},
		"xlsx":          {[]string{"opc.tcp://192.0.2.5", "-o", "x.xlsx"}, "a tag map is a .csv file"},
		"max":           {[]string{"opc.tcp://192.0.2.5", "--max", "-1"}, "1 or more"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, errOut, code := millrace(t, append([]string{"scan"}, c.args...)...)
			if code != exitUsage || !strings.Contains(errOut, c.want) || out != "" {
				t.Errorf("exit %d: %q\n%s", code, out, errOut)
			}
		})
	}
	_, errOut, code := millrace(t, "scan", "opc.tcp://127.0.0.1:1", "--pki", dir)
	if code != exitFailed || !strings.Contains(errOut, "nothing listens there") {
		t.Errorf("exit %d: %s", code, errOut)
	}
}

// steady takes out of a summary what differs from run to run.
func steady(text string) string {
	text = regexp.MustCompile(`, [0-9.]+(ms|s)\.`).ReplaceAllString(text, ", TIME.")
	return regexp.MustCompile(`\d+ requests`).ReplaceAllString(text, "N requests")
}

// TestScanRoundTrip scans a server that is not ours, and loads the tag map.
func TestScanRoundTrip(t *testing.T) {
	t.Parallel()
	srv, err := nodeopcua.Start(t.TempDir(), 0, "browse")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	dir := t.TempDir()
	file := filepath.Join(dir, "tags.csv")
	out, errOut, code := millrace(t, "scan", srv.Endpoint(), "/Objects/Plant/**", "--exclude", "/Objects/**/Objects", "--policy", "None", "--pki", dir, "-o", file)
	if code != exitDone || out != "" {
		t.Fatalf("exit %d: %s%s", code, out, errOut)
	}
	golden(t, "testdata/scan/plant.txt", steady(strings.ReplaceAll(errOut, dir, "DIR")))
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/scan/plant.csv", string(data))

	config := filepath.Join(dir, "gw.yaml")
	yaml := "gateway: {id: gw}\nuplinks:\n  - {name: p, broker: \"mqtt://127.0.0.1\"}\ndevices:\n  - id: plant\n    driver: opcua\n    endpoint: " +
		srv.Endpoint() + "\n    security: {policy: None}\n    tags: tags.csv\n"
	if err := os.WriteFile(config, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errOut, code := millrace(t, "check", "-c", config); code != exitDone {
		t.Fatalf("exit %d: %s%s", code, out, errOut)
	}
	cfg, err := configs.Load(config, checkers())
	if err != nil {
		t.Fatal(err)
	}

	// The same through the configuration, whose tag map need not be there yet.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	out, errOut, code = millrace(t, "scan", "plant", "-c", config, "--json", "/Objects/Plant/**", "--exclude", "/Objects/**/Objects", "--no-ranges")
	var r scanResult
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitDone || !r.Complete {
		t.Fatalf("exit %d, %v: %s", code, err, errOut)
	}
	if len(r.Tags) != len(cfg.Devices[0].Tags) || r.Summary.Ranges != 0 {
		t.Fatalf("%d tags, %d loaded: %+v", len(r.Tags), len(cfg.Devices[0].Tags), r.Summary)
	}
	for i, tag := range cfg.Devices[0].Tags {
		got := r.Tags[i]
		if tag.Name != got.Name || tag.Address != got.Address || tag.Unit != got.Unit || strings.TrimPrefix(tag.Description, "'") != got.Description {
			t.Errorf("%+v was loaded as %+v", got, tag)
		}
	}

	out, errOut, code = millrace(t, "scan", "plnt", "-c", config)
	if code != exitUsage || !strings.Contains(errOut, `did you mean "plant"?`) {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
}

func TestScanAdvice(t *testing.T) {
	t.Parallel()
	srv, err := opcuatest.NewServer(opcuatest.Options{Nodes: []opcuatest.Node{{NodeID: "ns=2;s=a", Name: "a", Value: func(time.Time) any { return 1.5 }}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	dir := t.TempDir()
	for name, c := range map[string]struct {
		args []string
		want string
		code int
	}{
		"only None": {nil, "add --policy None", exitFailed},
		"a tag":     {[]string{"--policy", "None"}, "1 tag:", exitDone},
		"no match":  {[]string{"--policy", "None", "/Objects/b"}, "No variable matches", exitFailed},
		"a folder":  {[]string{"--policy", "None", "/Objects"}, "put /** behind it", exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, errOut, code := millrace(t, append([]string{"scan", srv.Endpoint(), "--pki", dir}, c.args...)...)
			if code != c.code || !strings.Contains(errOut, c.want) {
				t.Errorf("exit %d: %s", code, errOut)
			}
		})
	}
}

// TestScanInterrupted ends a scan early: what is there is written.
func TestScanInterrupted(t *testing.T) {
	t.Parallel()
	var nodes []opcuatest.Node
	for i := range 300 {
		nodes = append(nodes, opcuatest.Node{NodeID: "ns=2;s=n" + strings.Repeat("x", i), Value: func(time.Time) any { return true }})
	}
	srv, err := opcuatest.NewServer(opcuatest.Options{Nodes: nodes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var job scanJob
	var out, errOut strings.Builder
	term := terminal{&out, &errOut}
	words, _, ok := parseWords(term, job.flags(term), []string{srv.Endpoint(), "--policy", "None", "--pki", t.TempDir()})
	if !ok {
		t.Fatal(errOut.String())
	}
	job.what = words[0]
	if err := job.check(nil); err != nil {
		t.Fatal(err)
	}
	dev, driver, _ := job.device(term)
	code := job.runWith(ctx, term, dev, driver, func(found int) {
		if found > 0 {
			cancel()
		}
	})
	if code != exitFailed || !strings.Contains(errOut.String(), "It is not all: interrupted. What was found until then was written.") {
		t.Errorf("exit %d: %s", code, errOut.String())
	}
	if rows := strings.Count(out.String(), "\n"); rows < 2 || rows > 300 {
		t.Errorf("%d rows", rows)
	}
}

func TestTagNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("长", 100)
	for name, c := range map[string]struct{ paths, want []string }{
		"two names":       {[]string{"Objects/Line1/Temp", "Objects/Line2/Temp"}, []string{"Line1.Temp", "Line2.Temp"}},
		"one name":        {[]string{"Objects/Temp"}, []string{"Temp"}},
		"three":           {[]string{"Objects/A/Cell/Temp", "Objects/B/Cell/Temp", "Objects/C/Speed"}, []string{"A.Cell.Temp", "B.Cell.Temp", "C.Speed"}},
		"one is shorter":  {[]string{"Objects/Cell/Temp", "Objects/B/Cell/Temp"}, []string{"Cell.Temp", "B.Cell.Temp"}},
		"the same":        {[]string{"Objects/A/x", "Objects/A/x", "Objects/A/x"}, []string{"A.x", "A.x~2", "A.x~3"}},
		"dots":            {[]string{"Objects/A.B/C", "Objects/A/B.C"}, []string{"A.B.C", "A.B.C~2"}},
		"formula":         {[]string{"Objects/=cmd/x", "Objects/-1"}, []string{"_=cmd.x", "_-1"}},
		"blanks":          {[]string{"Objects/ a /b\n c"}, []string{"a.b_ c"}},
		"long":            {[]string{"Objects/" + long + "/" + long}, []string{strings.Repeat("长", 18) + "." + long + "~4ad3a5f1"}},
		"nothing in them": {[]string{"Objects//"}, []string{"_._"}},
	} {
		var paths [][]string
		for _, p := range c.paths {
			paths = append(paths, strings.Split(p, "/"))
		}
		got := tagNames(paths)
		if name == "long" {
			if n := len([]rune(got[0])); n != maxTagName || !strings.Contains(got[0], "."+long+"~") {
				t.Errorf("%d characters: %s", n, got[0])
			}
			continue
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if !slices.Equal(mapColumns()[:2], []string{"name", "address"}) {
		t.Error("the first columns are not name and address")
	}
}
