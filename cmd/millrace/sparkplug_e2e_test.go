package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/protocols/mqtt/mqtttest"
	"millrace/protocols/sparkplug"
)

// sparkplugConfig has a JSON uplink and a Sparkplug uplink beside it.
func sparkplugConfig(json, edge, more string, plcs ...*counterPLC) string {
	text := configFor("1s", map[string]string{"platform": json}, plcs...)
	return strings.Replace(text, "devices:\n", fmt.Sprintf("  - {name: scada, broker: %q, client_id: gw-1-scada, format: sparkplug, primary_host: scada}\ndevices:\n", edge), 1) + more
}

// counters are the values of the counter that a host got.
func counters(t *testing.T, h *mqtttest.Host, device string) map[uint64]mqtttest.Sample {
	t.Helper()
	all := map[uint64]mqtttest.Sample{}
	for _, s := range h.Samples("gw-1", device, "count") {
		if s.Null {
			continue
		}
		n := s.Value.AsUint()
		if n>>32 != uint64(^uint32(n)) {
			t.Fatalf("%x is a value that the PLC never had", n)
		}
		if other, ok := all[n>>32]; ok && other.TS != s.TS {
			t.Errorf("%d came with the times %d and %d", n>>32, other.TS, s.TS)
		}
		all[n>>32] = s
	}
	return all
}

// TestSparkplug kills the agent, cuts its connection, sends its primary host
// away, its PLC, and reloads it. A strict host finds no fault, and gets every
// value that goes out as JSON.
func TestSparkplug(t *testing.T) {
	t.Parallel()
	plc, other := newCounterPLC(t), newCounterPLC(t)
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	proxy := mqtttest.NewProxy(t, broker.Addr)
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt"), Topic: "millrace/#"})
	h := mqtttest.NewHost(t, broker.URL("mqtt"), "scada")
	config := sparkplugConfig(broker.URL("mqtt"), "mqtt://"+proxy.Addr, "", plc)
	a := newAgent(t, config)

	both := func() bool {
		want := r.Batches("plc-1")
		got := counters(t, h, "plc-1")
		last := uint64(0)
		for _, b := range want {
			v, ok := b.Values["count"]
			if !ok {
				continue
			}
			n, err := counterValue(v)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := got[n]; !ok {
				return false
			}
			last = n
		}
		return last > 0
	}
	more := func(what string) {
		t.Helper()
		r.WaitBatches(t, "plc-1", len(r.Batches("plc-1"))+20)
		h.WaitOnline(t, "gw-1", "plc-1")
		mqtttest.WaitFor(t, "everything after "+what, both)
	}
	more("the start")
	h.See("gw-1", func(n *mqtttest.HostNode) {
		m := n.Devices["plc-1"].Metrics["count"]
		if n.Sessions[0] != 0 || m.Type != sparkplug.UInt64 {
			t.Errorf("sessions %v, count is %v", n.Sessions, m.Type)
		}
	})

	a.kill()
	mqtttest.WaitFor(t, "the last will", func() (dead bool) {
		h.See("gw-1", func(n *mqtttest.HostNode) { dead = n.Deaths == 1 })
		return dead
	})
	a.start()
	more("the kill")

	proxy.Cut()
	more("the cut")
	h.See("gw-1", func(n *mqtttest.HostNode) {
		if m := n.Devices["plc-1"].Metrics["count"]; m.Null {
			t.Errorf("born without the value that it has: %+v", m)
		}
	})

	h.SetState(t, false, time.Now().UnixMilli())
	mqtttest.WaitFor(t, "the death", func() (dead bool) {
		h.See("gw-1", func(n *mqtttest.HostNode) { dead = !n.Online })
		return dead
	})
	r.WaitBatches(t, "plc-1", len(r.Batches("plc-1"))+20)
	a.kill() // with data that waits for the host
	a.start()
	r.WaitBatches(t, "plc-1", len(r.Batches("plc-1"))+20)
	h.See("gw-1", func(n *mqtttest.HostNode) {
		if n.Online {
			t.Error("born without its primary host")
		}
	})
	h.SetState(t, true, time.Now().UnixMilli())
	more("the host's return")

	// Another tag and another device, by a reload.
	a.write(strings.Replace(sparkplugConfig(broker.URL("mqtt"), "mqtt://"+proxy.Addr, "", plc, other), "type: uint64}]", "type: uint64}, {name: low, address: \"holding:3\", unit: bar, min: 0, max: 70000, scale: 0.1}]", 1))
	a.signal(syscall.SIGHUP)
	h.WaitOnline(t, "gw-1", "plc-2")
	mqtttest.WaitFor(t, "the new tag's birth", func() (ok bool) {
		h.See("gw-1", func(n *mqtttest.HostNode) {
			m := n.Devices["plc-1"].Metrics["low"]
			ok = m.Type == sparkplug.Double && m.Properties["engUnit"].Value.Text == "bar" && n.Devices["plc-1"].Online
		})
		return ok
	})
	more("the reload")

	// The PLC goes, and comes back.
	addr := other.Addr()
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	mqtttest.WaitFor(t, "the death of plc-2", func() (dead bool) {
		h.See("gw-1", func(n *mqtttest.HostNode) { dead = !n.Devices["plc-2"].Online })
		return dead
	})
	if err := other.Listen(addr); err != nil {
		t.Fatal(err)
	}
	h.WaitOnline(t, "gw-1", "plc-2")

	a.stop()
	mqtttest.WaitFor(t, "the end", func() (dead bool) {
		h.See("gw-1", func(n *mqtttest.HostNode) { dead = !n.Online })
		return dead
	})
	if !both() {
		t.Error("not everything came")
	}
	h.See("gw-1", func(n *mqtttest.HostNode) {
		for i, s := range n.Sessions {
			if i > 0 && s <= n.Sessions[i-1] {
				t.Errorf("sessions %v", n.Sessions)
			}
		}
	})
	verify(t, r, "plc-1")
	for _, f := range h.Faults() {
		t.Error(f)
	}
}
