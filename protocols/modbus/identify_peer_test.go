package modbus_test

import (
	"os/exec"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus"
)

// identified asks a server of another maker who it is, between two scans.
func identified(t *testing.T, endpoint string, set setter) protocols.Identity {
	t.Helper()
	d := &protocols.Device{
		ID: "peer", Driver: "modbus", Endpoint: endpoint, Enabled: true, Timeout: 2 * time.Second,
		Modbus: protocols.ModbusOptions{Unit: 1, MaxRegisters: 125, MaxInflight: 1},
		Tags:   []protocols.Tag{{Name: "a", Address: "holding:7"}},
	}
	set(t, "holding", 7, 4711)
	bus, err := modbus.New(modbus.Options{}).Open([]*protocols.Device{d})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bus.Close() }()
	if err := bus.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	scan, err := bus.Plan(d, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	read := func() {
		t.Helper()
		out := make([]protocols.Reading, 1)
		if res := scan.Read(t.Context(), out); res.Err != nil || out[0].Value != protocols.Uint(4711) {
			t.Errorf("%+v, %v", out[0], res.Err)
		}
	}
	read()
	who, err := bus.(protocols.Identifier).Identify(t.Context(), d) //nolint:forcetypeassert // the test is about that
	if protocols.KindOf(err) == protocols.KindNotConnected {
		t.Error(err)
	}
	read()
	return who
}

func TestIdentifyPeers(t *testing.T) {
	t.Parallel()
	pymodbus := protocols.Identity{Maker: "Pymodbus Works", Model: "PM 3000", Product: "PM-3", Version: "3.0"}
	t.Run("pymodbus", func(t *testing.T) {
		t.Parallel()
		p, endpoint := newPeer(t, func(port string) *exec.Cmd { return exec.Command(python, pymodbusServer, port) })
		if who := identified(t, endpoint, p.set); who != pymodbus {
			t.Errorf("%+v", who)
		}
	})
	t.Run("pymodbus on a line", func(t *testing.T) {
		t.Parallel()
		p := newSerialPeer(t, python, pymodbusServer)
		if who := identified(t, "rtu://"+p.line.client+"?baud=19200", p.set); who != pymodbus {
			t.Errorf("%+v", who)
		}
	})
	// libmodbus does not know the question: over TCP it refuses it after half a
	// second, on a line it takes it for damaged and is silent.
	t.Run("libmodbus", func(t *testing.T) {
		t.Parallel()
		server := buildLibmodbus(t)
		p, endpoint := newPeer(t, func(port string) *exec.Cmd { return exec.Command(server, port) })
		if who := identified(t, endpoint, p.set); who != (protocols.Identity{}) {
			t.Errorf("%+v", who)
		}
	})
	t.Run("libmodbus on a line", func(t *testing.T) {
		t.Parallel()
		p := newSerialPeer(t, buildLibmodbus(t))
		if who := identified(t, "rtu://"+p.line.client+"?baud=19200", p.set); who != (protocols.Identity{}) {
			t.Errorf("%+v", who)
		}
	})
}
