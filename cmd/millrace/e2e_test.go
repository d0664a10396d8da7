package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/buffer"
	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
	"millrace/protocols/mqtt/mqtttest"
)

// agentProcess is the real program as a process of its own.
type agentProcess struct {
	t       *testing.T
	config  string
	console string
	mode    string // of beAgent; "": "1"
	cmd     *exec.Cmd
	output  *syncBuffer
	exited  chan struct{}
	code    int
}

// syncBuffer is a bytes.Buffer for a process's output.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// newAgent writes the configuration and starts the program with it. The text
// may have CONSOLE for a free address.
func newAgent(t *testing.T, config string) *agentProcess {
	t.Helper()
	dir := t.TempDir()
	a := &agentProcess{t: t, config: filepath.Join(dir, "millrace.yaml"), console: mqtttest.FreeAddr(t)}
	a.write(config)
	t.Cleanup(func() {
		a.kill()
		removeSharedMemory(t, filepath.Join(dir, "data", "buffer"))
	})
	a.start()
	return a
}

// removeSharedMemory removes what a killed agent left for its next start.
func removeSharedMemory(t *testing.T, dir string) {
	t.Helper()
	path, err := buffer.SharedMemoryFile("", dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func (a *agentProcess) write(config string) {
	a.t.Helper()
	if err := os.WriteFile(a.config, []byte(strings.ReplaceAll(config, "CONSOLE", a.console)), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *agentProcess) start() {
	a.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		a.t.Fatal(err)
	}
	a.output, a.exited = &syncBuffer{}, make(chan struct{})
	a.cmd = exec.Command(exe, "run", "-c", a.config)
	a.cmd.Env = append(os.Environ(), beAgent+"="+cmp.Or(a.mode, "1"))
	a.cmd.Stdout, a.cmd.Stderr = a.output, a.output
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	go func(cmd *exec.Cmd, exited chan struct{}) {
		defer close(exited)
		_ = cmd.Wait()
		a.code = cmd.ProcessState.ExitCode()
	}(a.cmd, a.exited)
}

func (a *agentProcess) signal(s syscall.Signal) {
	a.t.Helper()
	if err := a.cmd.Process.Signal(s); err != nil {
		a.t.Fatal(err)
	}
}

// kill ends the program as a power cut would, and may be called after its
// end.
func (a *agentProcess) kill() {
	_ = a.cmd.Process.Kill()
	<-a.exited
	if a.t.Failed() {
		a.t.Logf("the agent's output:\n%s", a.output)
	}
}

// stop ends the program as its service manager does, and wants it to be
// quick and content.
func (a *agentProcess) stop() {
	a.t.Helper()
	start := time.Now()
	a.signal(syscall.SIGTERM)
	<-a.exited
	if took := time.Since(start); took > 5*time.Second || a.code != exitDone {
		a.t.Errorf("SIGTERM: ended after %v with %d, want within 5 s and 0\n%s", took, a.code, a.output)
	}
}

func (a *agentProcess) get(path string) (body string, status int) {
	res, err := http.Get("http://" + a.console + path)
	if err != nil {
		return "", 0
	}
	defer res.Body.Close()
	var b bytes.Buffer
	_, _ = b.ReadFrom(res.Body)
	return b.String(), res.StatusCode
}

// counterPLC is a simulated PLC with a counter that goes up with every
// answer, and says in its other half that it is whole.
type counterPLC struct {
	*modbustest.Server
	count atomic.Uint32
}

func newCounterPLC(t *testing.T) *counterPLC {
	t.Helper()
	p := &counterPLC{Server: modbustest.NewServer()}
	err := p.Unit(1).Holding.SetValueFunc(0, "uint64", protocols.ABCD, func(time.Time) protocols.Value {
		n := p.count.Add(1)
		return protocols.Uint(uint64(n)<<32 | uint64(^n))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Listen(""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// configFor makes a configuration with the given uplinks (name → broker) and
// counters.
func configFor(commit string, uplinks map[string]string, plcs ...*counterPLC) string {
	var b strings.Builder
	fmt.Fprintf(&b, "gateway: {id: gw-1, group: plant}\nbuffer: {commit_interval: %s}\nconsole: {listen: \"CONSOLE\"}\nuplinks:\n", commit)
	for _, name := range slices.Sorted(keys(uplinks)) {
		fmt.Fprintf(&b, "  - {name: %s, broker: %q, client_id: %q}\n", name, uplinks[name], "gw-1-"+name)
	}
	b.WriteString("devices:\n")
	for i, p := range plcs {
		fmt.Fprintf(&b, "  - id: plc-%d\n    driver: modbus\n    endpoint: tcp://%s\n    interval: 20ms\n    timeout: 500ms\n    tags: [{name: count, address: \"holding:0\", type: uint64}]\n", i+1, p.Addr())
	}
	return b.String()
}

func keys[V any](m map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// verify holds what a receiver got against what must always be: all batches,
// in order, and only values that the PLC had, each once.
func verify(t *testing.T, r *mqtttest.Receiver, devices ...string) {
	t.Helper()
	for _, f := range r.Faults() {
		t.Errorf("the receiver says: %s", f)
	}
	for _, stream := range r.Streams() {
		seqs := r.Seqs(stream)
		last := seqs[len(seqs)-1]
		if missing := r.Missing(stream, last); len(missing) > 0 {
			t.Errorf("stream %s: %d of %d batches are missing: %v", stream, len(missing), last, missing[:min(len(missing), 20)])
		}
	}
	for _, dev := range devices {
		verifyCounter(t, dev, r.Batches(dev))
	}
}

func verifyCounter(t *testing.T, dev string, batches []mqtttest.Batch) {
	t.Helper()
	var last uint64
	for _, b := range batches {
		v, ok := b.Values["count"]
		if !ok {
			if b.Bad["count"] == "" {
				t.Errorf("%s seq %d has neither a value nor a reason", dev, b.Seq)
			}
			continue
		}
		n, err := counterValue(v)
		if err != nil {
			t.Fatalf("%s seq %d: %v", dev, b.Seq, err)
		}
		if n <= last {
			t.Errorf("%s seq %d: the counter went from %d to %d", dev, b.Seq, last, n)
		}
		last = n
	}
}

// hasCounter tells whether one of the values from from to to was received.
func hasCounter(batches []mqtttest.Batch, from, to uint64) bool {
	return slices.ContainsFunc(batches, func(b mqtttest.Batch) bool {
		n, err := counterValue(b.Values["count"])
		return err == nil && n >= from && n <= to
	})
}

func counterValue(v any) (uint64, error) {
	text, ok := v.(json.Number)
	if !ok {
		return 0, fmt.Errorf("%v (%T) is no number with all its digits", v, v)
	}
	var n uint64
	if _, err := fmt.Sscan(text.String(), &n); err != nil {
		return 0, err
	}
	if n>>32 != uint64(^uint32(n)) {
		return 0, fmt.Errorf("%x is a value that the PLC never had", n)
	}
	return n >> 32, nil
}

// settled stops the agent cleanly, waits until everything has arrived, and
// verifies it.
func settled(t *testing.T, a *agentProcess, r *mqtttest.Receiver, devices ...string) {
	t.Helper()
	a.stop()
	mqtttest.WaitFor(t, "the retained offline status", func() bool { return !r.Online("gw-1") })
	verify(t, r, devices...)
}

func TestBrokerGoneForAWhile(t *testing.T) {
	t.Parallel()
	for _, commit := range []string{"0s", "1s", "200ms"} {
		t.Run(commit, func(t *testing.T) {
			t.Parallel()
			plc, broker := newCounterPLC(t), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
			r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
			a := newAgent(t, configFor(commit, map[string]string{"platform": broker.URL("mqtt")}, plc))
			r.WaitBatches(t, "plc-1", 50)
			broker.Stop()
			before := plc.count.Load()
			mqtttest.WaitFor(t, "the PLC to be read on", func() bool { return plc.count.Load() > before+100 })
			broker.Start()
			r.WaitBatches(t, "plc-1", 250)
			settled(t, a, r, "plc-1")
		})
	}
}

func TestPLCGoneForAWhile(t *testing.T) {
	t.Parallel()
	plc, well := newCounterPLC(t), newCounterPLC(t)
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
	a := newAgent(t, configFor("1s", map[string]string{"platform": broker.URL("mqtt")}, plc, well))
	r.WaitBatches(t, "plc-1", 20)
	addr := plc.Addr()
	if err := plc.Close(); err != nil {
		t.Fatal(err)
	}
	mqtttest.WaitFor(t, "the state offline", func() bool { s, _ := r.State("plc-1"); return s.State == "offline" })
	s, _ := r.State("plc-1")
	if !strings.Contains(s.Reason, addr) || !strings.Contains(s.Reason, "refused") {
		t.Errorf("the reason does not name the endpoint and what happened: %q", s.Reason)
	}
	if s, _ := r.State("plc-2"); s.State != "online" {
		t.Errorf("the other PLC is %s", s.State)
	}
	n := len(r.Batches("plc-1"))
	if err := plc.Listen(addr); err != nil {
		t.Fatal(err)
	}
	r.WaitBatches(t, "plc-1", n+20)
	mqtttest.WaitFor(t, "the state online", func() bool { s, _ := r.State("plc-1"); return s.State == "online" })
	settled(t, a, r, "plc-1", "plc-2")
	bad := 0
	for _, b := range r.Batches("plc-1") {
		if len(b.Bad) > 0 {
			bad++
		}
	}
	if bad != 1 {
		t.Errorf("%d batches of bad readings in the outage, want one", bad)
	}
}

// TestKill9 kills the agent under load, again and again. Whatever the commit
// interval is, no batch is missing, and none is announced as missing: what
// only memory held, and the backlog of a broker that was away, come later.
func TestKill9(t *testing.T) {
	t.Parallel()
	for _, commit := range []string{"0s", "1s"} {
		t.Run(commit, func(t *testing.T) {
			t.Parallel()
			plc, broker := newCounterPLC(t), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
			r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
			a := newAgent(t, configFor(commit, map[string]string{"platform": broker.URL("mqtt")}, plc))
			for round := range 6 {
				mqtttest.WaitFor(t, "batches of the new stream", func() bool { return len(r.Streams()) == round+1 })
				r.WaitBatches(t, "plc-1", len(r.Batches("plc-1"))+10+5*round)
				if round%2 == 1 { // with a backlog
					broker.Stop()
					before := plc.count.Load()
					mqtttest.WaitFor(t, "a backlog", func() bool { return plc.count.Load() > before+30 })
				}
				read := uint64(plc.count.Load())
				a.kill()
				end := uint64(plc.count.Load())
				if round%2 == 1 {
					broker.Start()
				}
				a.start()
				// The last answer may have been on its way.
				mqtttest.WaitFor(t, "all that the killed agent had read", func() bool { return hasCounter(r.Batches("plc-1"), read-1, end) })
				stream := r.Streams()[round]
				mqtttest.WaitFor(t, "the status to say how the last run ended", func() bool {
					p, _ := r.Status("gw-1")["previous"].(map[string]any)
					return p["ended"] == "killed" && p["stream"] == stream
				})
			}
			mqtttest.WaitFor(t, "batches of the last stream", func() bool { return len(r.Streams()) == 7 })
			settled(t, a, r, "plc-1")
			if gaps := r.Gaps(); len(gaps) > 0 {
				t.Errorf("gaps were announced: %v", gaps)
			}
		})
	}
}

func TestTwoUplinksOneDown(t *testing.T) {
	t.Parallel()
	plc := newCounterPLC(t)
	b1, b2 := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{}), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	r1 := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: b1.URL("mqtt")})
	r2 := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: b2.URL("mqtt")})
	a := newAgent(t, configFor("100ms", map[string]string{"one": b1.URL("mqtt"), "two": b2.URL("mqtt")}, plc))
	r2.WaitBatches(t, "plc-1", 20)
	b2.Stop()
	n := len(r1.Batches("plc-1"))
	r1.WaitBatches(t, "plc-1", n+100)
	mqtttest.WaitFor(t, "the second uplink's lag on the page", func() bool {
		text, _ := a.get("/metrics")
		return strings.Contains(text, `millrace_uplink_up{uplink="two"} 0`) && strings.Contains(text, `millrace_uplink_up{uplink="one"} 1`)
	})
	b2.Start()
	r2.WaitBatches(t, "plc-1", n+100)
	a.stop()
	verify(t, r1, "plc-1")
	verify(t, r2, "plc-1")
}

func TestReload(t *testing.T) {
	t.Parallel()
	first, second := newCounterPLC(t), newCounterPLC(t)
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
	up := map[string]string{"platform": broker.URL("mqtt")}
	a := newAgent(t, configFor("1s", up, first))
	r.WaitBatches(t, "plc-1", 10)

	a.write(configFor("1s", up, first, second))
	a.signal(syscall.SIGHUP)
	r.WaitBatches(t, "plc-2", 10)
	if n := first.Accepted(); n != 1 {
		t.Errorf("the unchanged PLC got %d connections, want the one it had", n)
	}

	a.write(strings.Replace(configFor("1s", up, first), "interval", "intervall", 1))
	a.signal(syscall.SIGHUP)
	mqtttest.WaitFor(t, "the refusal on the page", func() bool {
		text, _ := a.get("/api/status")
		return strings.Contains(text, "intervall")
	})
	n := len(r.Batches("plc-2"))
	r.WaitBatches(t, "plc-2", n+10)

	a.write(configFor("1s", up, first))
	a.signal(syscall.SIGHUP)
	mqtttest.WaitFor(t, "the second PLC's state to be cleared", func() bool { return len(r.Retained("millrace/plant/gw-1/plc-2/state")) == 0 })
	if n := first.Accepted(); n != 1 {
		t.Errorf("the unchanged PLC got %d connections over three reloads", n)
	}
	if n := len(r.Streams()); n != 1 {
		t.Errorf("%d streams", n)
	}
	settled(t, a, r, "plc-1")
}

func TestHealth(t *testing.T) {
	t.Parallel()
	plc, broker := newCounterPLC(t), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	a := newAgent(t, configFor("1s", map[string]string{"platform": broker.URL("mqtt")}, plc))
	mqtttest.WaitFor(t, "the agent to be ready", func() bool { _, code := a.get("/readyz"); return code == http.StatusOK })
	if body, code := a.get("/healthz"); code != http.StatusOK || body != "alive\n" {
		t.Errorf("/healthz: %d %q", code, body)
	}
	mqtttest.WaitFor(t, "readings in the metrics", func() bool {
		text, _ := a.get("/metrics")
		return strings.Contains(text, `millrace_device_up{device="plc-1"} 1`) && strings.Contains(text, `millrace_uplink_up{uplink="platform"} 1`)
	})
	text, _ := a.get("/metrics")
	for _, name := range []string{
		`millrace_readings_total{device="plc-1",quality="good"}`, `millrace_scan_duration_seconds_bucket{device="plc-1",le="0.001"}`,
		`millrace_scans_missed_total{device="plc-1"}`, "millrace_buffer_batches ", "millrace_buffer_bytes ",
		`millrace_uplink_batches_total{uplink="platform"}`, `millrace_uplink_lag_batches{uplink="platform"}`, "millrace_build_info{",
	} {
		if !strings.Contains(text, name) {
			t.Errorf("no %s in the metrics", name)
		}
	}
	second := exec.Command(a.cmd.Path, "run", "-c", a.config)
	second.Env = append(os.Environ(), beAgent+"=1")
	out, err := second.CombinedOutput()
	if err == nil || second.ProcessState.ExitCode() != exitFailed || !strings.Contains(string(out), "another millrace") {
		t.Errorf("a second agent with the same buffer and port: %v\n%s", err, out)
	}
	a.stop()
}

// TestPortTaken: the data flows although the page's port is taken, and the
// page comes when it is free.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	plc, broker := newCounterPLC(t), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := newAgent(t, strings.ReplaceAll(configFor("1s", map[string]string{"platform": broker.URL("mqtt")}, plc), "CONSOLE", taken.Addr().String()))
	r.WaitBatches(t, "plc-1", 10)
	if !strings.Contains(a.output.String(), "the console cannot start") {
		t.Error("the log does not say why there is no page")
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	a.console = taken.Addr().String()
	mqtttest.WaitFor(t, "the page", func() bool { _, code := a.get("/healthz"); return code == http.StatusOK })
	settled(t, a, r, "plc-1")
}

// TestStopWhileAllHang: the broker and a PLC take connections and say
// nothing any more; the stop is as quick as ever, and nothing is lost.
func TestStopWhileAllHang(t *testing.T) {
	t.Parallel()
	plc, dead, broker := newCounterPLC(t), newCounterPLC(t), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
	config := strings.ReplaceAll(configFor("1s", map[string]string{"platform": broker.URL("mqtt")}, plc, dead), "timeout: 500ms", "timeout: 30s")
	a := newAgent(t, config)
	r.WaitBatches(t, "plc-1", 20)
	r.WaitBatches(t, "plc-2", 20)
	dead.Unit(1).SetFaults(modbustest.Always(modbustest.Fault{Drop: true}))
	broker.Pause()
	before := plc.count.Load()
	mqtttest.WaitFor(t, "a backlog", func() bool { return plc.count.Load() > before+30 })
	a.stop()
	broker.Resume()
	a.start()
	mqtttest.WaitFor(t, "batches of the new stream", func() bool { return len(r.Streams()) == 2 })
	dead.Unit(1).SetFaults(nil)
	settled(t, a, r, "plc-1", "plc-2")
}

// TestDeviceGoneOverARestart: the broker must not hold the state of a device
// that the configuration lost while the agent was off.
func TestDeviceGoneOverARestart(t *testing.T) {
	t.Parallel()
	first, second := newCounterPLC(t), newCounterPLC(t)
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
	up := map[string]string{"platform": broker.URL("mqtt")}
	a := newAgent(t, configFor("1s", up, first, second))
	r.WaitBatches(t, "plc-2", 5)
	a.stop()
	a.write(configFor("1s", up, first))
	a.start()
	mqtttest.WaitFor(t, "the lost device's state to be cleared", func() bool { return len(r.Retained("millrace/plant/gw-1/plc-2/state")) == 0 })
	settled(t, a, r, "plc-1")
}
