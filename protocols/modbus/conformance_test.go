package modbus_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus"
	"millrace/protocols/modbus/modbustest"
	"millrace/protocols/protocoltest"
)

// conformanceTags are tags of all tables and many types, and what they read
// as.
func conformanceTags() ([]protocols.Tag, []protocols.Value) {
	tags := []protocols.Tag{
		{Name: "counter", Address: "holding:900", Type: "uint32", Order: protocols.CDAB},
		{Name: "on", Address: "coil:3"},
		{Name: "row", Address: "coil:100", Type: "bool[3]"},
		{Name: "door", Address: "10013"},
		{Name: "level", Address: "input:7", Type: "int16"},
	}
	values := []protocols.Value{
		protocols.Uint(4000000000), protocols.Bool(true),
		protocols.Array([]protocols.Value{protocols.Bool(true), protocols.Bool(false), protocols.Bool(true)}),
		protocols.Bool(true), protocols.Int(-5),
	}
	at := 0
	for _, v := range modbustest.Vectors() {
		if v.Value.Kind() != protocols.KindNone && !v.DecodeOnly {
			tags = append(tags, protocols.Tag{Name: fmt.Sprint(at), Address: v.Address(at), Type: v.Type, Order: v.Order})
			values = append(values, v.Value)
			at += len(v.Registers)
		}
	}
	return tags, values
}

// setter writes registers or bits of a server's table.
type setter func(tb testing.TB, table string, addr int, values ...uint16)

// setAll makes a server hold what conformanceTags says.
func setAll(tb testing.TB, set setter) {
	tb.Helper()
	setTag(tb, set, protocols.Uint(4000000000))
	set(tb, "coil", 3, 1)
	set(tb, "coil", 100, 1, 0, 1)
	set(tb, "discrete", 12, 1)
	set(tb, "input", 7, 0xfffb)
	at := 0
	for _, v := range modbustest.Vectors() {
		if v.Value.Kind() != protocols.KindNone && !v.DecodeOnly {
			set(tb, "holding", at, v.Registers...)
			at += len(v.Registers)
		}
	}
}

func setTag(tb testing.TB, set setter, v protocols.Value) {
	tb.Helper()
	raw, err := modbustest.Encode("uint32", protocols.CDAB, v)
	if err != nil {
		tb.Fatal(err)
	}
	set(tb, "holding", 900, binary.BigEndian.Uint16(raw), binary.BigEndian.Uint16(raw[2:]))
}

func conformance(t *testing.T, endpoint string, set setter, start, stop func(*testing.T), mute func(*testing.T, bool)) {
	t.Helper()
	tags, values := conformanceTags()
	protocoltest.Run(t, protocoltest.Target{
		Driver: modbus.New(modbus.Options{}),
		Device: &protocols.Device{
			ID: "press-1", Endpoint: endpoint, Timeout: 5 * time.Second, Tags: tags,
			Modbus: protocols.ModbusOptions{Unit: 1, MaxGap: 50, MaxRegisters: 125, TimeZone: modbustest.TimeZone},
		},
		Values: values,
		BadTag: protocols.Tag{Name: "bad", Address: "holding:1000"},
		Set:    func(t *testing.T, _ int, v protocols.Value) { t.Helper(); setTag(t, set, v) },
		Other:  protocols.Uint(17),
		Stop:   stop,
		Start:  func(t *testing.T) { t.Helper(); start(t); setAll(t, set) },
		Mute:   mute,
	})
}

func TestConformance(t *testing.T) {
	t.Parallel()
	s := modbustest.NewServer()
	if err := s.Listen(""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	u := s.Unit(1)
	u.Holding.Refuse(1000, 1)
	set := unitSetter(u)
	addr := s.Addr()
	setAll(t, set)
	conformance(t, "tcp://"+addr, set,
		func(t *testing.T) {
			t.Helper()
			if err := s.Listen(addr); err != nil {
				t.Fatal(err)
			}
		},
		func(*testing.T) { _ = s.Close() },
		mute(u))
}

// unitSetter sets what a simulated unit holds.
func unitSetter(u *modbustest.Unit) setter {
	return func(tb testing.TB, table string, addr int, values ...uint16) {
		tb.Helper()
		bits := make([]bool, len(values))
		for i, v := range values {
			bits[i] = v != 0
		}
		switch table {
		case "holding":
			u.Holding.Set(addr, values...)
		case "input":
			u.Input.Set(addr, values...)
		case "coil":
			u.Coils.Set(addr, bits...)
		case "discrete":
			u.Discrete.Set(addr, bits...)
		}
	}
}

// mute makes a simulated unit silent, and lets it speak again.
func mute(u *modbustest.Unit) func(*testing.T, bool) {
	return func(_ *testing.T, on bool) {
		u.SetFaults(modbustest.Always(modbustest.Fault{Drop: on}))
	}
}

// peer is a server of another maker, as a process that obeys its standard
// input.
type peer struct {
	command func() *exec.Cmd
	serves  func() error // what is missing until it can be asked

	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// newPeer starts a server of Modbus TCP at a free port, and returns its
// endpoint, too.
func newPeer(t *testing.T, command func(port string) *exec.Cmd) (p *peer, endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	p = &peer{
		command: func() *exec.Cmd { return command(port) },
		serves: func() error {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				_ = c.Close()
			}
			return err
		},
	}
	p.start(t)
	t.Cleanup(func() { p.stop(t) })
	return p, "tcp://" + addr
}

func (p *peer) start(t *testing.T) {
	t.Helper()
	cmd := p.command()
	var said strings.Builder
	cmd.Stderr = &said
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
	p.cmd, p.in, p.out = cmd, in, bufio.NewReader(out)
	for end := time.Now().Add(15 * time.Second); ; <-time.After(20 * time.Millisecond) {
		err := p.serves()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			p.stop(t)
			t.Fatalf("%s does not serve (run `make deps`): %v\n%s", cmd.Path, err, said.String())
		}
	}
}

func (p *peer) stop(t *testing.T) {
	t.Helper()
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended by itself
	_ = p.cmd.Wait()         // killed
	p.cmd = nil
}

func (p *peer) set(tb testing.TB, table string, addr int, values ...uint16) {
	tb.Helper()
	line := fmt.Sprint(table, " ", addr, " ", strings.Trim(fmt.Sprint(values), "[]"), "\n")
	if _, err := io.WriteString(p.in, line); err != nil {
		tb.Fatal(err)
	}
	if answer, err := p.out.ReadString('\n'); err != nil || answer != "ok\n" {
		tb.Fatalf("%q was answered by %q, %v", line, answer, err)
	}
}

const (
	python         = "/usr/bin/python3"
	pymodbusServer = "testdata/pymodbus_server.py"
)

func TestConformancePymodbus(t *testing.T) {
	t.Parallel()
	p, endpoint := newPeer(t, func(port string) *exec.Cmd {
		return exec.Command(python, pymodbusServer, port)
	})
	setAll(t, p.set)
	conformance(t, endpoint, p.set, p.start, p.stop, nil)
}

// buildLibmodbus returns the path of the server on libmodbus.
func buildLibmodbus(t *testing.T) string {
	t.Helper()
	server := filepath.Join(t.TempDir(), "server")
	build := exec.CommandContext(t.Context(), "cc", "-Wall", "-I/usr/include/modbus", "-o", server, "testdata/libmodbus_server.c", "-lmodbus")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("no libmodbus server (run `make deps`): %v\n%s", err, out)
	}
	return server
}

func TestConformanceLibmodbus(t *testing.T) {
	t.Parallel()
	server := buildLibmodbus(t)
	p, endpoint := newPeer(t, func(port string) *exec.Cmd {
		return exec.Command(server, port)
	})
	setAll(t, p.set)
	conformance(t, endpoint, p.set, p.start, p.stop, nil)
}
