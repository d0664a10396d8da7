package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/protocols/mqtt/mqtttest"
)

// tailRun is the verb at work in this process.
type tailRun struct {
	out, err syncBuffer
	stop     context.CancelFunc
	ended    chan int
}

func startTail(t *testing.T, args ...string) *tailRun {
	t.Helper()
	return startTailWith(t, nil, args...)
}

func startTailWith(t *testing.T, env map[string]string, args ...string) *tailRun {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r := &tailRun{stop: stop, ended: make(chan int, 1)}
	go func() {
		r.ended <- tailBroker(ctx, terminal{&r.out, &r.err}, args, func(name string) string { return env[name] })
	}()
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			text := r.out.String()
			t.Logf("tail's output:\n%s%s", text[max(0, len(text)-2000):], &r.err)
		}
	})
	return r
}

// await waits until the output has a text.
func (r *tailRun) await(t *testing.T, text string) {
	t.Helper()
	mqtttest.WaitFor(t, fmt.Sprintf("%q in the output of tail", text), func() bool { return strings.Contains(r.out.String()+r.err.String(), text) })
}

// end ends the verb and returns its exit code.
func (r *tailRun) end() int {
	r.stop()
	return <-r.ended
}

// TestTail follows a real agent at a real broker, in both formats, over a
// restart of the broker and a kill of the agent: what it says is what the
// agent sent.
func TestTail(t *testing.T) {
	t.Parallel()
	plc := newCounterPLC(t)
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{Users: map[string]string{"gw": "hunter2-öß"}})
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("hunter2-öß\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := configFor("1s", map[string]string{"platform": broker.URL("mqtt")}, plc)
	config = strings.ReplaceAll(config, `, client_id:`, fmt.Sprintf(", username: gw, password: \"${file:%s}\", client_id:", secret))
	config = strings.Replace(config, "devices:\n", fmt.Sprintf("  - {name: scada, broker: %q, username: gw, password: \"${file:%s}\", client_id: scada, format: sparkplug}\ndevices:\n", broker.URL("mqtt"), secret), 1)
	config = strings.Replace(config, "type: uint64}", "type: uint64, unit: 件}", 1)
	a := newAgent(t, config)

	people := startTail(t, "-c", a.config, "--uplink", "platform")
	programs := startTailWith(t, map[string]string{"MILLRACE_MQTT_USERNAME": "gw", "MILLRACE_MQTT_PASSWORD": "hunter2-öß"}, broker.URL("mqtt"), "--json", "--gateway", "gw-*", "--tag", "cou*")
	programs.await(t, `"message":"DDATA"`)
	// It comes too late for the births.
	scada := startTail(t, strings.TrimPrefix(broker.URL("mqtt"), "mqtt://"), "--format", "sparkplug", "--username", "gw", "--password-file", secret)
	people.await(t, " 件\n")
	people.await(t, "plant/gw-1/plc-1")
	scada.await(t, "asked for births: spBv1.0/plant/NCMD/gw-1")
	scada.await(t, "DBIRTH")
	scada.await(t, " 件\n")

	broker.Restart()
	for _, r := range []*tailRun{people, scada, programs} {
		r.await(t, "lost: the broker closed it; trying again")
		mqtttest.WaitFor(t, "another connection", func() bool { return strings.Count(r.err.String(), "connected to ") == 2 })
	}
	a.kill()
	people.await(t, "connection_lost")
	scada.await(t, "NDEATH")
	a.start()
	people.await(t, `"ended":"killed"`)
	last := len(programs.out.String())
	mqtttest.WaitFor(t, "data after the start", func() bool { return strings.Count(programs.out.String()[last:], `"kind":"data"`) > 20 })
	a.stop()
	scada.await(t, "seq 0  bdSeq")

	for _, r := range []*tailRun{people, scada, programs} {
		if code := r.end(); code != exitDone {
			t.Errorf("exit %d", code)
		}
		if text := r.out.String() + r.err.String(); strings.Contains(text, "hunter2") || strings.Contains(text, "DAMAGED") || strings.Contains(text, `"fault"`) {
			t.Error("a password is shown, or something could not be read")
		}
	}
	streams := map[string]map[uint64]bool{}
	var summary struct {
		Kind  string
		Total struct{ Missing, Messages uint64 }
	}
	for line := range strings.Lines(programs.out.String()) {
		var e struct {
			Kind, Format, Stream string
			Seq                  uint64
			Readings             []struct {
				Tag, Quality string
				Value        json.Number
			}
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if e.Kind == "summary" {
			if err := json.Unmarshal([]byte(line), &summary); err != nil {
				t.Fatal(err)
			}
		}
		if e.Kind != "data" || e.Format != "json" {
			continue
		}
		if streams[e.Stream] == nil {
			streams[e.Stream] = map[uint64]bool{}
		}
		streams[e.Stream][e.Seq] = true
		for _, r := range e.Readings {
			n, err := counterValue(r.Value)
			if r.Quality == "good" && (err != nil || n == 0) {
				t.Errorf("%s is a value that the PLC never had: %v", r.Value, err)
			}
		}
	}
	if len(streams) != 2 || summary.Total.Messages == 0 {
		t.Errorf("%d streams, summary %+v", len(streams), summary)
	}
}

// TestTailEnds: it ends by itself after a count and after a time, and says
// with its code whether enough came.
func TestTailEnds(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	r := mqtttest.NewHost(t, broker.URL("mqtt"), "scada") // its state is retained
	r.SetState(t, true, time.Now().UnixMilli())
	for _, tc := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"count", []string{"--count", "1"}, exitDone, "host scada"},
		{"time", []string{"--for", "100ms"}, exitDone, "messages"},
		{"not enough", []string{"--for", "300ms", "--count", "7"}, exitFailed, "of 7 messages came in 300ms"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tail := startTail(t, append([]string{broker.URL("mqtt")}, tc.args...)...)
			if code := <-tail.ended; code != tc.code || !strings.Contains(tail.out.String()+tail.err.String(), tc.want) {
				t.Errorf("exit %d, want %d and %q:\n%s%s", code, tc.code, tc.want, &tail.out, &tail.err)
			}
		})
	}
}

// TestTailMistakes holds what mistakes are answered with.
func TestTailMistakes(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{Users: map[string]string{"u": "secret"}})
	dir := t.TempDir()
	file := filepath.Join(dir, "gw.yaml")
	if err := os.WriteFile(file, []byte("gateway: {id: gw-1}\nuplinks:\n  - {name: a, broker: \"mqtt://127.0.0.1:1\"}\n  - {name: b, broker: \"mqtt://127.0.0.1:1\", client_id: b}\ndevices: [{id: p, driver: modbus, endpoint: \"tcp://127.0.0.1:1\", tags: [{name: a, address: \"hr:1\"}]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(dir, "wrong")
	if err := os.WriteFile(wrong, []byte("wrong-one"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{nil, exitUsage, "Use: millrace tail mqtt://HOST:1883"},
		{[]string{"127.0.0.1:2", "-c", file, "--uplink", "a"}, exitFailed, "no connection to mqtt://127.0.0.1:2"},
		{[]string{"mqtt://h", "--uplink", "a"}, exitUsage, "--uplink needs -c FILE"},
		{[]string{"-c", file}, exitUsage, "say which with --uplink: a, b"},
		{[]string{"-c", file, "--uplink", "c"}, exitUsage, `has no uplink "c"; there are: a, b`},
		{[]string{"-c", file, "--uplink", "a"}, exitFailed, "nothing listens there"},
		{[]string{"mqtt://h", "--format", "xml"}, exitUsage, `there is no format "xml"`},
		{[]string{"mqtt://h", "--group", "a/b"}, exitUsage, "--group"},
		{[]string{"mqtt://h", "--topic", "a/#/b"}, exitUsage, "not its last level"},
		{[]string{"mqtt://u:secret@h"}, exitUsage, "put it into --username and --password-file"},
		{[]string{"http://h"}, exitUsage, "use mqtt://"},
		{[]string{"mqtt://h", "--password-file", filepath.Join(dir, "none")}, exitUsage, "the password: open"},
		{[]string{"mqtts://h", "--ca", wrong}, exitUsage, "--ca: " + wrong + " holds no certificate"},
		{[]string{broker.URL("mqtt"), "--username", "u", "--password-file", wrong}, exitFailed, "check --username and --password-file"},
		{[]string{broker.URL("mqtt")}, exitFailed, "set --username and --password-file"},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			t.Parallel()
			r := startTail(t, tc.args...)
			code := <-r.ended
			text := r.out.String() + r.err.String()
			if code != tc.code || r.out.String() != "" || !strings.Contains(text, tc.want) || strings.Contains(text, "secret") || strings.Contains(text, "wrong-one") {
				t.Errorf("exit %d, want %d and %q: %s", code, tc.code, tc.want, text)
			}
		})
	}
	out, errOut, code := millrace(t, "tail", "-h")
	if code != exitDone || errOut != "" {
		t.Errorf("%d: %s", code, errOut)
	}
	golden(t, "testdata/tail/help.txt", out)
}

// TestTailSlowOutput: what nobody reads is bounded and counted, keeps nobody
// from ending the program, and is no gap.
func TestTailSlowOutput(t *testing.T) {
	t.Parallel()
	f := &tailer{now: time.Now, ready: make(chan struct{}, 1)}
	for i := range tailBacklog + 5 {
		f.hear("a", []byte{byte(i)}, false)
	}
	queue, passed := f.take()
	f.hear("a", nil, false)
	f.hear("a", nil, false)
	next, _ := f.take()
	if len(queue) != tailBacklog || passed != 5 || queue[0].torn || !next[0].torn || next[1].torn {
		t.Errorf("%d kept, %d passed over, torn %v %v", len(queue), passed, next[0].torn, next[1].torn)
	}
	for range 3 {
		f.hear("a", make([]byte, tailBacklogBytes-10), false)
	}
	if queue, passed := f.take(); len(queue) != 1 || passed != 2 {
		t.Errorf("of large ones, %d kept, %d passed over", len(queue), passed)
	}

	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	h := mqtttest.NewHost(t, broker.URL("mqtt"), "scada")
	h.SetState(t, true, 1)
	stuck := &stuckWriter{begun: make(chan struct{}), free: make(chan struct{})}
	defer close(stuck.free)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan int, 1)
	var errOut syncBuffer
	go func() {
		ended <- tailBroker(ctx, terminal{stuck, &errOut}, []string{broker.URL("mqtt")}, func(string) string { return "" })
	}()
	<-stuck.begun
	stop()
	if code := <-ended; code != exitFailed {
		t.Errorf("exit %d", code)
	}
}

// stuckWriter is an output that nobody reads.
type stuckWriter struct {
	once        sync.Once
	begun, free chan struct{}
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.begun) })
	<-w.free
	return len(p), nil
}
