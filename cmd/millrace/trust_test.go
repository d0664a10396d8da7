package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"millrace/protocols/mqtt/mqtttest"
	"millrace/protocols/opcua/opcuatest"
)

// trustBench is a plant with one OPC UA server, whose configuration is in a
// directory of its own.
type trustBench struct {
	dir, file string
	srv       *opcuatest.Server
	id        *opcuatest.Identity
}

func newTrustBench(t *testing.T) *trustBench {
	t.Helper()
	id, err := opcuatest.NewIdentity("press-simulator")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := opcuatest.NewServer(opcuatest.Options{Identity: id, OnlySecure: true, Users: map[string]string{"operator": "x"}, Nodes: []opcuatest.Node{{NodeID: "ns=2;s=v"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	b := &trustBench{dir: t.TempDir(), srv: srv, id: id}
	b.file = filepath.Join(b.dir, "gw.yaml")
	text := fmt.Sprintf(`
gateway: {id: gw-1}
devices:
  - id: robot-7
    driver: opcua
    endpoint: %[1]s
    security: {policy: auto}
    tags: [{name: v, address: "ns=2;s=v"}]
  - id: robot-8
    driver: opcua
    endpoint: %[1]s
    security: {policy: None}
    tags: [{name: v, address: "ns=2;s=v"}]
  - id: robot-9
    driver: opcua
    endpoint: opc.tcp://127.0.0.1:1
    security: {policy: Basic256Sha256}
    trust: elsewhere/trusted
    tags: [{name: v, address: "ns=2;s=v"}]
  - id: press-1
    driver: modbus
    endpoint: tcp://127.0.0.1:502
    tags: [{name: v, address: "holding:0"}]
`, srv.Endpoint())
	if err := os.WriteFile(b.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

// run calls the verb as someone does who answers questions so; empty: nobody
// sits there.
func (b *trustBench) run(t *testing.T, answer string, args ...string) (out string, code int) {
	t.Helper()
	var both bytes.Buffer
	code = trust(context.Background(), terminal{&both, &both}, args, time.Now, func(question string) (bool, bool) {
		if answer != "" {
			fmt.Fprintf(&both, "%s [y/N] %s\n", question, answer)
		}
		return answer == "y", answer != ""
	})
	return b.plain(both.String()), code
}

// plain takes out what differs from run to run.
func (b *trustBench) plain(text string) string {
	text = strings.ReplaceAll(text, b.dir, "DIR")
	text = strings.ReplaceAll(text, b.srv.Addr(), "127.0.0.1:4840")
	text = regexp.MustCompile(`[0-9a-f]{64}`).ReplaceAllString(text, "SHA-256-OF-IT")
	text = regexp.MustCompile(`[0-9a-f]{40}`).ReplaceAllString(text, "SHA-1-OF-IT")
	return regexp.MustCompile(`20\d\d-\d\d-\d\d(T[0-9:]+Z)?`).ReplaceAllString(text, "DATE")
}

// TestTrust goes through the verb as a person does, each step against its
// golden file.
func TestTrust(t *testing.T) {
	t.Parallel()
	b := newTrustBench(t)
	for _, step := range []struct {
		name, answer string
		args         []string
		code         int
	}{
		{"list", "", []string{"-c", b.file}, exitDone},
		{"shown", "", []string{"robot-7", "-c", b.file}, exitFailed},
		{"no", "n", []string{"-c", b.file, "robot-7"}, exitFailed},
		{"unchecked", "n", []string{"robot-8", "-c", b.file}, exitFailed},
		{"silent", "", []string{"robot-9", "-c", b.file}, exitFailed},
		{"json-before", "", []string{"robot-7", "-c", b.file, "--json"}, exitFailed},
		{"yes", "y", []string{"robot-7", "-c", b.file}, exitDone},
		{"again", "", []string{"robot-7", "-c", b.file}, exitDone},
		{"json-after", "", []string{"robot-7", "-c", b.file, "--json"}, exitDone},
		{"endpoint", "", []string{b.srv.Endpoint(), "--yes", "--pki", filepath.Join(b.dir, "other")}, exitDone},
		{"list-after", "", []string{"-c", b.file}, exitDone},
		{"list-json", "", []string{"-c", b.file, "--json"}, exitDone},
		{"unknown", "", []string{"robot", "-c", b.file}, exitUsage},
		{"modbus", "", []string{"press-1", "-c", b.file}, exitUsage},
		{"no-file", "", []string{"robot-7"}, exitUsage},
		{"bad-endpoint", "", []string{"opc.tcp://u@h"}, exitUsage},
		{"help", "", nil, exitUsage},
	} {
		out, code := b.run(t, step.answer, step.args...)
		if code != step.code {
			t.Errorf("%s: exit %d, want %d:\n%s", step.name, code, step.code, out)
		}
		golden(t, filepath.Join("testdata", "trust", step.name+".txt"), out)
		if strings.HasPrefix(step.name, "json") && !json.Valid([]byte(out)) {
			t.Errorf("%s is no JSON", step.name)
		}
	}
}

// TestTrustOffline takes the certificate from the rejected ones: the agent was
// refused by nobody but itself, and now the server is off.
func TestTrustOffline(t *testing.T) {
	t.Parallel()
	b := newTrustBench(t)
	rejected := filepath.Join(b.dir, "elsewhere", "rejected")
	if err := os.MkdirAll(rejected, 0o700); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(rejected, "it.der")
	if err := os.WriteFile(kept, b.id.Certificate(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code := b.run(t, "", "robot-9", "-c", b.file, "--yes")
	if code != exitDone {
		t.Errorf("exit %d", code)
	}
	golden(t, "testdata/trust/offline.txt", out)
	if _, err := os.Stat(kept); !os.IsNotExist(err) {
		t.Errorf("it is still among the rejected: %v", err)
	}
	files, _ := filepath.Glob(filepath.Join(b.dir, "elsewhere", "trusted", "*.der"))
	if len(files) != 1 {
		t.Fatalf("trusted: %v", files)
	}
	if data, err := os.ReadFile(files[0]); err != nil || !bytes.Equal(data, b.id.Certificate()) {
		t.Errorf("it is not what it was: %v", err)
	}
}

// TestUntrustedServer starts an agent whose server nobody trusts: its state
// says so with the fingerprint and what to do, the log says it once a state, the
// gateway's own certificate is there to be handed out, and the password is
// nowhere.
func TestUntrustedServer(t *testing.T) {
	t.Parallel()
	const secret = "hunter2-öß"
	b := newTrustBench(t)
	a := newAgent(t, fmt.Sprintf(`
gateway: {id: gw-1}
console: {listen: "CONSOLE"}
devices:
  - id: robot-7
    driver: opcua
    endpoint: %s
    security: {policy: auto}
    auth: {username: operator, password: %q}
    trust: %s
    tags: [{name: v, address: "ns=2;s=v"}]
`, b.srv.Endpoint(), secret, filepath.Join(b.dir, "pki", "trusted")))
	var status string
	mqtttest.WaitFor(t, "the refusal in words", func() bool {
		status, _ = a.get("/api/status")
		return strings.Contains(status, "is not trusted")
	})
	a.stop()
	log := a.output.String()
	fingerprint := regexp.MustCompile(`SHA-256 [0-9a-f]{64}`).FindString(status)
	if fingerprint == "" || !strings.Contains(status, "millrace trust robot-7 -c FILE") {
		t.Errorf("the state does not say what to do: %s", status)
	}
	if n := strings.Count(log, fingerprint); n < 1 || n > 2 { // degraded, and soon offline
		t.Errorf("%d lines in the log:\n%s", n, log)
	}
	if strings.Contains(status+log, "hunter2") {
		t.Errorf("the password is shown:\n%s\n%s", status, log)
	}
	if !strings.Contains(log, "own certificate was made") {
		t.Errorf("the log does not tell of the gateway's own certificate:\n%s", log)
	}
}

// TestAskAt: without a terminal nobody is asked.
func TestAskAt(t *testing.T) {
	t.Parallel()
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	if yes, asked := askAt(in, &bytes.Buffer{})("?"); yes || asked {
		t.Error("the null device said something")
	}
}
