package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/cmd/millrace/console"
	"millrace/protocols/modbus/modbustest"
	"millrace/protocols/mqtt/mqtttest"
)

// field is an agent with its broker and its receiver; what it reads is the
// test's.
type field struct {
	*agentProcess
	t      *testing.T
	broker *mqtttest.Broker
	r      *mqtttest.Receiver
}

// startField starts an agent with the given devices, each as in a
// configuration's list.
func startField(t *testing.T, devices ...string) *field {
	t.Helper()
	f := &field{t: t, broker: mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})}
	f.r = mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: f.broker.URL("mqtt")})
	f.agentProcess = newAgent(t, f.configure(devices...))
	return f
}

func (f *field) configure(devices ...string) string {
	return fmt.Sprintf("gateway: {id: gw-1, group: plant}\nbuffer: {commit_interval: 200ms}\nconsole: {listen: \"CONSOLE\"}\nuplinks: [{name: platform, broker: %q}]\ndevices:\n  - {%s}\n",
		f.broker.URL("mqtt"), strings.Join(devices, "}\n  - {"))
}

// reload puts other devices into the configuration.
func (f *field) reload(devices ...string) {
	f.t.Helper()
	f.write(f.configure(devices...))
	before := strings.Count(f.output.String(), "the configuration was reloaded")
	f.signal(syscall.SIGHUP)
	mqtttest.WaitFor(f.t, "the reload", func() bool {
		return strings.Count(f.output.String(), "the configuration was reloaded") > before
	})
}

// more waits for n further batches of the device, and returns them.
func (f *field) more(device string, n int) []mqtttest.Batch {
	f.t.Helper()
	had := len(f.r.Batches(device))
	return f.r.WaitBatches(f.t, device, had+n)[had:]
}

// awaitState waits until the device's retained state is the wanted one, and
// its reason has all of the words. It returns the reason.
func (f *field) awaitState(device, state string, words ...string) string {
	f.t.Helper()
	var s mqtttest.State
	found := func() bool {
		s, _ = f.r.State(device)
		if s.State != state {
			return false
		}
		for _, w := range words {
			if !strings.Contains(s.Reason, w) {
				return false
			}
		}
		return true
	}
	defer func() {
		if f.t.Failed() {
			f.t.Logf("%s is %s: %s", device, s.State, s.Reason)
		}
	}()
	mqtttest.WaitFor(f.t, fmt.Sprintf("%s to be %s with the words %q", device, state, words), found)
	return s.Reason
}

// awaitGood waits until a batch of the device has come from now on in which
// nothing is bad.
func (f *field) awaitGood(device string) mqtttest.Batch {
	f.t.Helper()
	had := len(f.r.Batches(device))
	var found mqtttest.Batch
	mqtttest.WaitFor(f.t, "good readings of "+device, func() bool {
		for _, b := range f.r.Batches(device)[had:] {
			if len(b.Values) > 0 && len(b.Bad) == 0 {
				found = b
				return true
			}
		}
		return false
	})
	return found
}

// device is what /api/status says of a device.
func (f *field) device(id string) console.Device {
	f.t.Helper()
	text, _ := f.get("/api/status")
	var s console.Status
	if text != "" {
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			f.t.Fatalf("/api/status: %v\n%s", err, text)
		}
	}
	for _, d := range s.Devices {
		if d.ID == id {
			return d
		}
	}
	return console.Device{}
}

// logged is how often a line of the log has all of the words.
func (f *field) logged(words ...string) int {
	n := 0
lines:
	for line := range strings.Lines(f.output.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		n++
	}
	return n
}

// wantLogged wants a line of the log with all of the words so many times.
func (f *field) wantLogged(n int, words ...string) {
	f.t.Helper()
	if got := f.logged(words...); got != n {
		f.t.Errorf("the log has %d lines with %q, want %d:\n%s", got, words, n, f.output)
	}
}

// cpu is how much processor time the agent has used so far.
func (f *field) cpu() time.Duration {
	f.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", f.cmd.Process.Pid))
	if err != nil {
		f.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may have spaces
	const user, system, tick = 11, 12, 10 * time.Millisecond
	fields, total := strings.Fields(rest), 0
	for _, i := range []int{user, system} {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			f.t.Fatal(err)
		}
		total += n
	}
	return time.Duration(total) * tick
}

// newUnits returns a server with the given units, whose holding registers
// hold 100 × unit + address.
func newUnits(t *testing.T, ids ...uint8) *modbustest.Server {
	t.Helper()
	s := modbustest.NewServer()
	t.Cleanup(func() { _ = s.Close() })
	for _, id := range ids {
		for addr := range 300 {
			s.Unit(id).Holding.Set(addr, uint16(100*int(id)+addr))
		}
	}
	return s
}

// openLine makes a simulated line with a link that stands for
// /dev/serial/by-id/….
func openLine(t *testing.T, s *modbustest.Server, o modbustest.LineOptions) *modbustest.Line {
	t.Helper()
	o.Link = filepath.Join(t.TempDir(), "by-id", "usb-FTDI_USB-RS485_Cable_FT7XQ1-if00-port0")
	l, err := modbustest.OpenLine(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s.ServeLine(l)
	return l
}

// meter is a device with one request of so many registers. Its tags r0, r1 …
// are what newUnits makes.
func meter(id, endpoint string, unit, registers int, more string) string {
	tags := make([]string, registers)
	for i := range tags {
		tags[i] = fmt.Sprintf("{name: r%d, address: \"holding:%d\"}", i, i)
	}
	return fmt.Sprintf("id: %s, driver: modbus, endpoint: %q, unit: %d, %s, tags: [%s]", id, endpoint, unit, more, strings.Join(tags, ", "))
}

// wantMeter holds a batch of a meter against what newUnits makes. Tags that
// are bad are not looked at.
func wantMeter(t *testing.T, b mqtttest.Batch, unit int) {
	t.Helper()
	for name, v := range b.Values {
		addr, err := strconv.Atoi(strings.TrimPrefix(name, "r"))
		if want := strconv.Itoa(100*unit + addr); err != nil || fmt.Sprint(v) != want {
			t.Errorf("%s of unit %d is %v, want %s", name, unit, v, want)
		}
	}
}

// socatLine starts a serial line between two pseudo terminals, which ends
// with the test, and returns the paths of both.
func socatLine(t *testing.T) (client, server string) {
	t.Helper()
	dir := t.TempDir()
	client, server = filepath.Join(dir, "client"), filepath.Join(dir, "server")
	log := filepath.Join(dir, "log")
	cmd := exec.Command("socat", "-d", "-d", "-lf", log, "pty,raw,echo=0,link="+client, "pty,raw,echo=0,link="+server)
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: run `make deps`", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		_ = cmd.Wait()
	})
	mqtttest.WaitFor(t, "socat's line", func() bool {
		said, _ := os.ReadFile(log)
		return strings.Contains(string(said), "starting data transfer loop")
	})
	// socat ends when either side is closed: both are held open.
	for _, path := range []string{client, server} {
		f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
	}
	return client, server
}

// serialSlave is a server of another maker at the end of a line, which takes
// orders.
type serialSlave struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

func startSerialSlave(t *testing.T, command ...string) *serialSlave {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: run `make deps`", err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill() // it may have ended by itself
		_ = cmd.Wait()
	})
	return &serialSlave{t: t, in: in, out: bufio.NewReader(out)}
}

// set sets values of a table, and waits until that is done.
func (s *serialSlave) set(table string, addr int, values ...uint16) {
	s.t.Helper()
	line := fmt.Sprintln(table, addr, strings.Trim(fmt.Sprint(values), "[]"))
	if _, err := io.WriteString(s.in, line); err != nil {
		s.t.Fatal(err)
	}
	if answer, err := s.out.ReadString('\n'); err != nil || answer != "ok\n" {
		s.t.Fatalf("%q was answered by %q, %v", line, answer, err)
	}
}

// buildLibmodbus returns the path of the server on libmodbus.
func buildLibmodbus(t *testing.T) string {
	t.Helper()
	server := filepath.Join(t.TempDir(), "server")
	build := exec.CommandContext(t.Context(), "cc", "-Wall", "-I/usr/include/modbus", "-o", server, "../../protocols/modbus/testdata/libmodbus_server.c", "-lmodbus")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("no libmodbus server (run `make deps`): %v\n%s", err, out)
	}
	return server
}
