package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/buffer"
	"millrace/protocols/mqtt"
	"millrace/protocols/mqtt/mqtttest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// beAgent makes the test binary the program itself: "1", or the file that
// says how wrong its clock is (see clock_test.go).
const beAgent = "MILLRACE_TEST_BE_AGENT"

// peakFile gets /proc/self/status of such a program at its end: a process that
// is waited for counts its parent's memory as well.
const peakFile = "MILLRACE_TEST_PEAK"

func TestMain(m *testing.M) {
	switch mode := os.Getenv(beAgent); mode {
	case "":
	case "1":
		code := execute(context.Background(), terminal{os.Stdout, os.Stderr}, os.Args[1:])
		if file := os.Getenv(peakFile); file != "" {
			status, _ := os.ReadFile("/proc/self/status")
			_ = os.WriteFile(file, status, 0o600)
		}
		os.Exit(code)
	default:
		os.Exit(runWithClock(mode, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// millrace runs the program in this process and returns what it printed.
func millrace(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	code = execute(t.Context(), terminal{&out, &err}, args)
	return out.String(), err.String(), code
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); -update writes it anew:\n%s", file, diff)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		args []string
		code int
		want string // in either output
	}{
		{"help", []string{"help"}, exitDone, "Use: millrace VERB"},
		{"nothing", nil, exitUsage, "Use: millrace VERB"},
		{"unknown", []string{"rnu"}, exitUsage, `there is no verb "rnu"`},
		{"later", []string{"simulate", "-c", "x"}, exitUsage, "is not in this version of Millrace"},
		{"verb's help", []string{"run", "-h"}, exitDone, "Use: millrace run -c FILE"},
		{"unknown option", []string{"run", "-x"}, exitUsage, "there is no option --x. See millrace run -h"},
		{"option without value", []string{"run", "-c"}, exitUsage, "the option --c needs a value"},
		{"no file", []string{"run"}, exitUsage, "millrace run -c FILE"},
		{"no file to check", []string{"check"}, exitUsage, "millrace check -c FILE"},
		{"too much", []string{"check", "-c", "a.yaml", "b.yaml"}, exitUsage, `"b.yaml" is too much`},
		{"missing file", []string{"run", "-c", "testdata/missing.yaml"}, exitUsage, "testdata/missing.yaml"},
		{"demo address without port", []string{"demo", "-console", "8090"}, exitUsage, `"8090" is no address`},
		{"demo port", []string{"demo", "-broker", ":x"}, exitUsage, `":x" is no address`},
		{"demo port too high", []string{"demo", "-console", "127.0.0.1:70000"}, exitUsage, `"127.0.0.1:70000" is no address`},
		{"version", []string{"version"}, exitDone, "millrace dev"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			out, errOut, code := millrace(t, tc.args...)
			if code != tc.code || !strings.Contains(out+errOut, tc.want) {
				t.Errorf("exit %d, want %d and %q:\n%s%s", code, tc.code, tc.want, out, errOut)
			}
			if (code == exitDone) != (errOut == "") {
				t.Errorf("exit %d with standard error %q", code, errOut)
			}
		})
	}
	out, _, _ := millrace(t, "help")
	for _, later := range laterVerbs() {
		if strings.Contains(out, "\n  "+later+" ") {
			t.Errorf("the help shows %s, which is not there", later)
		}
	}
}

func TestVersionJSON(t *testing.T) {
	t.Parallel()
	out, _, code := millrace(t, "version", "--json")
	var v map[string]string
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitDone || v["version"] == "" || v["go"] == "" {
		t.Errorf("%v, exit %d: %s", err, code, out)
	}
}

// TestMistakes holds what typical mistakes are answered with: each of the
// files testdata/mistakes/NAME.yaml against NAME.txt.
func TestMistakes(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/mistakes/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".yaml")
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			out, errOut, code := millrace(t, "check", "-c", file)
			if code != exitUsage || out != "" {
				t.Errorf("exit %d, standard output %q", code, out)
			}
			golden(t, name+".txt", errOut)
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	out, errOut, code := millrace(t, "check", "-c", "testdata/check/plant.yaml")
	if code != exitDone {
		t.Fatalf("exit %d: %s", code, errOut)
	}
	golden(t, "testdata/check/plant.txt", out)
	if strings.Contains(out, "not-to-be-shown") {
		t.Error("the password is shown")
	}
	out, _, code = millrace(t, "check", "-c", "testdata/check/plant.yaml", "--json")
	if code != exitDone {
		t.Fatalf("exit %d", code)
	}
	golden(t, "testdata/check/plant.json", out)
	for _, args := range [][]string{{"serial.txt"}, {"serial.json", "--json"}} {
		out, errOut, code = millrace(t, append([]string{"check", "-c", "testdata/check/serial.yaml"}, args[1:]...)...)
		if code != exitDone {
			t.Fatalf("exit %d: %s", code, errOut)
		}
		golden(t, "testdata/check/"+args[0], out)
	}
	out, _, code = millrace(t, "check", "-c", "testdata/mistakes/wrong-key.yaml", "--json")
	var res checkResult
	if err := json.Unmarshal([]byte(out), &res); err != nil || code != exitUsage || res.OK || len(res.Problems) == 0 || res.Problems[0].Line == 0 {
		t.Errorf("%v, exit %d: %s", err, code, out)
	}
	if out, _, code = millrace(t, "check", "--schema"); code != exitDone || !json.Valid([]byte(out)) {
		t.Errorf("the schema is no JSON, or exit %d", code)
	}
}

// TestDemoText holds what the demo shows, and its help, against golden files.
func TestDemoText(t *testing.T) {
	t.Parallel()
	golden(t, "testdata/demo/screen.txt", demoText("127.0.0.1:8080", "127.0.0.1:1883", "127.0.0.1:40001", "127.0.0.1:40002", "127.0.0.1:40003"))
	out, errOut, code := millrace(t, "demo", "-h")
	if code != exitDone || errOut != "" {
		t.Errorf("%d: %s", code, errOut)
	}
	golden(t, "testdata/demo/help.txt", out)
}

// TestExamples runs each shipped example through check, drivers and all. The
// secrets and certificates that they name are the user's; here they are made.
func TestExamples(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../configs/examples")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ROBOT_PASSWORD", "x")
	pki := mqtttest.NewPKI(t)
	cert, key := pki.Issue("gateway", time.Now().Add(time.Hour), "localhost")
	for name, from := range map[string]string{"ca.pem": pki.CA, "gateway.pem": cert, "gateway.key": key, "mqtt-password": key, "user.pem": cert, "user.key": key} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "pki"), 0o700), os.WriteFile(filepath.Join(dir, "pki", name), data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		if out, errOut, code := millrace(t, "check", "-c", file); code != exitDone || !strings.Contains(out, "is in order") {
			t.Errorf("%s: exit %d: %s%s", filepath.Base(file), code, out, errOut)
		}
	}
}

func TestDemoListensOnLoopback(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{":8090": "127.0.0.1:8090", "127.0.0.1:0": "127.0.0.1:0", "0.0.0.0:80": "0.0.0.0:80"} {
		if got, ok := demoAddr(in); !ok || got != want {
			t.Errorf("%s: %s, %v", in, got, ok)
		}
	}
}

// TestHistorical: what the buffer holds back until it is historical is marked
// so by the uplink.
func TestHistorical(t *testing.T) {
	t.Parallel()
	if buffer.HistoricalAfter != mqtt.HistoricalAfter {
		t.Errorf("the buffer holds back for %v, the uplink marks after %v", buffer.HistoricalAfter, mqtt.HistoricalAfter)
	}
}
