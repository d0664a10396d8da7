package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/protocols/mqtt/mqtttest"
	"millrace/protocols/opcua/opcuatest/nodeopcua"
)

// pymodbusScript serves a holding register pair that counts up every 20 ms.
const pymodbusScript = `
import sys, threading, time
from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server import StartTcpServer
unit = ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, [0] * 100), zero_mode=True)
def count():
    n = 0
    while True:
        n += 1
        unit.setValues(3, 0, [n >> 16, n & 0xffff])
        time.sleep(0.02)
threading.Thread(target=count, daemon=True).start()
threading.Thread(target=lambda: (sys.stdin.read(), __import__("os")._exit(0)), daemon=True).start()
StartTcpServer(context=ModbusServerContext(slaves={1: unit}, single=False), address=("127.0.0.1", int(sys.argv[1])))
`

func startPymodbus(t *testing.T) (addr string) {
	t.Helper()
	addr = mqtttest.FreeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", pymodbusScript, port)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; run `make deps`", err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("pymodbus says: %s", said.String())
		}
	})
	return addr
}

// TestForeignPeers is the whole way with nothing of ours but the agent:
// pymodbus and node-opcua to Mosquitto.
func TestForeignPeers(t *testing.T) {
	t.Parallel()
	modbus := startPymodbus(t)
	opc, err := nodeopcua.Start(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(opc.Stop)
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
	a := newAgent(t, fmt.Sprintf(`
gateway: {id: gw-1, group: plant}
uplinks: [{name: platform, broker: %q}]
console: {listen: "CONSOLE"}
devices:
  - id: meter
    driver: modbus
    endpoint: tcp://%s
    interval: 50ms
    tags: [{name: count, address: "40001", type: uint32}]
  - id: robot
    driver: opcua
    endpoint: %s
    interval: 50ms
    security: {policy: None}
    tags:
      - {name: count, address: "ns=2;s=Counter"}
      - {name: nothing, address: "ns=2;s=NoSuchThing"}
  - id: robot-polled
    driver: opcua
    endpoint: %s
    mode: poll
    interval: 100ms
    security: {policy: None}
    tags: [{name: count, address: "ns=2;s=Counter"}]
`, broker.URL("mqtt"), modbus, opc.Endpoint(), opc.Endpoint()))
	if err := opc.Command(t.Context(), "counter start 120"); err != nil {
		t.Fatal(err)
	}
	for _, dev := range []string{"meter", "robot", "robot-polled"} {
		r.WaitBatches(t, dev, 40)
	}
	broker.Stop()
	mqtttest.WaitFor(t, "a backlog", func() bool {
		text, _ := a.get("/metrics")
		m := regexp.MustCompile(`millrace_uplink_lag_batches\{uplink="platform"\} (\d{2,})`).FindStringSubmatch(text)
		return m != nil
	})
	broker.Start()
	for _, dev := range []string{"meter", "robot", "robot-polled"} {
		r.WaitBatches(t, dev, len(r.Batches(dev))+20)
	}
	a.stop()
	for _, f := range r.Faults() {
		t.Error(f)
	}
	var gone string
	for _, dev := range []string{"meter", "robot", "robot-polled"} {
		last := int64(-1)
		for _, b := range r.Batches(dev) {
			if why := b.Bad["nothing"]; why != "" {
				gone = why
			}
			v, ok := b.Values["count"]
			if !ok {
				continue
			}
			var n int64
			if _, err := fmt.Sscan(fmt.Sprint(v), &n); err != nil {
				t.Fatal(err)
			}
			// A subscription, which samples faster than it counts, brings each
			// value; polling may see one twice.
			if n < last || dev == "robot" && last >= 0 && n != last+1 {
				t.Errorf("%s: the counter went from %d to %d", dev, last, n)
			}
			last = n
		}
	}
	if gone != "no_such_node" {
		t.Errorf("the missing node is bad because of %q", gone)
	}
	if s, _ := r.State("robot"); s.State != "degraded" || !strings.Contains(s.Reason, "nothing") {
		t.Errorf("a device with a missing node is %q, %q", s.State, s.Reason)
	}
	verify(t, r)
}

// TestDemo runs what a new user runs first.
func TestDemo(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	cmd := exec.CommandContext(t.Context(), exe, "demo", "-console", "127.0.0.1:0", "-broker", mqtttest.FreeAddr(t))
	cmd.Env = append(os.Environ(), beAgent+"=1", "TMPDIR="+tmp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var page, subscribe string
	find := regexp.MustCompile(`Open the page: +(\S+)`)
	for lines.Scan() && subscribe == "" {
		if m := find.FindStringSubmatch(lines.Text()); m != nil {
			page = m[1]
		}
		if strings.Contains(lines.Text(), "mosquitto_sub") {
			subscribe = lines.Text()
		}
	}
	if page == "" || subscribe == "" {
		t.Fatal("the demo does not say what to open and what to subscribe to")
	}
	m := regexp.MustCompile(`-h (\S+) -p (\d+) -t '(\S+)'`).FindStringSubmatch(subscribe)
	if m == nil {
		t.Fatalf("cannot copy %q", subscribe)
	}
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: "mqtt://" + m[1] + ":" + m[2], Topic: m[3]})
	for _, dev := range []string{"press-1", "moulder-1", "compressor-1"} {
		r.WaitBatches(t, dev, 2)
		mqtttest.WaitFor(t, dev+" to be online", func() bool { s, _ := r.State(dev); return s.State == "online" })
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v until there was data of all devices", took)
	}
	res, err := http.Get(page)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("the page: %s", res.Status)
	}
	for _, f := range r.Faults() {
		t.Error(f)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	stopping := time.Now()
	if err := cmd.Wait(); err != nil || time.Since(stopping) > 5*time.Second {
		t.Errorf("Ctrl-C: %v after %v", err, time.Since(stopping))
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("the demo left %v behind (%v)", left, err)
	}
}
