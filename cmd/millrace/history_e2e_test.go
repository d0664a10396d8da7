package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"millrace/protocols/mqtt/mqtttest"
	"millrace/protocols/opcua/opcuatest"
	"millrace/protocols/opcua/opcuatest/nodeopcua"
)

// TestHistoryArrives cuts an OPC UA server off, and stops and kills the
// agent, while a counter goes up: all of its values arrive at the broker, the
// missed ones in historical batches with their own times.
func TestHistoryArrives(t *testing.T) {
	t.Parallel()
	srv, err := nodeopcua.Start(t.TempDir(), 0, "history")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	target := fmt.Sprintf("127.0.0.1:%d", srv.Port)
	relay, err := opcuatest.NewRelay(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Close() })
	ask := func(line string) {
		t.Helper()
		if err := srv.Command(t.Context(), line); err != nil {
			t.Fatal(err)
		}
	}
	f := startField(t, fmt.Sprintf(`id: robot, driver: opcua, endpoint: %q, security: {policy: None}, interval: 20ms, queue: 10, timeout: 2s,
      tags: [{name: count, address: "nsu=%s;s=Historized", scale: 10}, {name: plain, address: "nsu=%s;s=Plain"}]`,
		strings.Replace(srv.Endpoint(), target, relay.Addr(), 1), nodeopcua.Namespace, nodeopcua.Namespace))
	f.awaitState("robot", "online")
	f.r.WaitBatches(t, "robot", 1)

	type came struct {
		live, historical int
		source           json.Number
	}
	collect := func() map[int]*came {
		all := map[int]*came{}
		for _, b := range f.r.Batches("robot") {
			v, ok := b.Values["count"].(json.Number)
			if !ok {
				continue
			}
			n, err := v.Float64()
			if err != nil {
				t.Fatal(err)
			}
			c := all[int(n/10)]
			if c == nil {
				c = &came{}
				all[int(n/10)] = c
			}
			c.source = b.SourceTS["count"]
			if b.Historical {
				c.historical++
			} else {
				c.live++
			}
			if c.source == "" || b.Historical && time.Now().UnixMilli()-b.TS > 600_000 {
				t.Errorf("%+v", b)
			}
		}
		return all
	}
	whole := func(what string, n int) {
		t.Helper()
		mqtttest.WaitFor(t, what, func() bool {
			all := collect()
			for v := 1; v <= n; v++ {
				if all[v] == nil {
					return false
				}
			}
			return true
		})
	}

	ask("burst 5 50")
	whole("live values", 5)
	relay.Stall(true) // whoever connects again waits until the counter has gone on
	relay.Cut()
	ask("logout")
	ask("burst 200 2")
	relay.Stall(false)
	whole("what was missed", 205)
	mqtttest.WaitFor(t, "the outage in the log", func() bool {
		return f.logged("robot was away for", "values of 1 tag were read from its history; 1 tag has no history") == 1
	})
	if d := f.device("robot"); d.Outages == nil || d.Outages.Count != 1 || d.Backfilled < 199 || d.Outages.Last[0].Filled != "part" {
		t.Errorf("%+v", d.Outages)
	}
	if text, _ := f.get("/metrics"); !strings.Contains(text, `millrace_outages_total{device="robot"} 1`) || !strings.Contains(text, `millrace_outage_seconds_total{device="robot",filled="part"}`) || strings.Contains(text, `millrace_history_readings_total{device="robot"} 0`) {
		t.Error("the metrics do not tell of it")
	}

	f.stop()
	ask("burst 100 2")
	f.start()
	whole("what was missed while the agent was stopped", 305)
	for v, c := range collect() {
		if v > 0 && (c.historical > 1 || c.historical == 1 && c.live > 0 && v != 5 && v != 205 && v != 305) {
			t.Errorf("%d came %d times live, %d times from the history", v, c.live, c.historical)
		}
	}

	f.kill()
	ask("burst 100 2")
	f.start()
	whole("what was missed while the agent was dead", 405)
	if faults := f.r.Faults(); len(faults) > 0 {
		t.Error(faults)
	}
}

// TestReloadsLoseNothing reloads the configuration while a counter goes up: a
// tag comes and goes, and a second device on the same server. All values of
// the devices that stay arrive, each device's in order, live and from the
// history.
func TestReloadsLoseNothing(t *testing.T) {
	t.Parallel()
	srv, err := nodeopcua.Start(t.TempDir(), 0, "history")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	device := func(id string, tags ...string) string {
		text := fmt.Sprintf(`id: %s, driver: opcua, endpoint: %q, security: {policy: None}, interval: 20ms, timeout: 5s, tags: [`, id, srv.Endpoint())
		for _, tag := range tags {
			text += fmt.Sprintf(`{name: %s, address: "nsu=%s;s=%s"},`, tag, nodeopcua.Namespace, tag)
		}
		return text + "]"
	}
	alone, both, other := device("robot", "Historized"), device("robot", "Historized", "Second"), device("oven", "Historized")
	f := startField(t, alone, other)
	f.awaitState("robot", "online")
	f.awaitState("oven", "online")
	f.r.WaitBatches(t, "robot", 1)
	f.r.WaitBatches(t, "oven", 1)

	const n = 600
	if err := srv.Command(t.Context(), fmt.Sprintf("begin %d 5", n)); err != nil {
		t.Fatal(err)
	}
	// counts returns how often each value came of a device, by live and
	// historical, and complains of what is out of order.
	counts := func(id string) (live, historical map[int64]int) {
		live, historical = map[int64]int{}, map[int64]int{}
		var lastLive, lastSeq uint64
		for i, b := range f.r.Batches(id) {
			if i > 0 && b.Seq <= lastSeq {
				t.Fatalf("%s: batch %d behind %d", id, b.Seq, lastSeq)
			}
			lastSeq = b.Seq
			number, ok := b.Values["Historized"].(json.Number)
			if !ok {
				continue
			}
			v, err := number.Int64()
			if err != nil {
				t.Fatal(err)
			}
			if b.Historical {
				historical[v]++
				continue
			}
			if uint64(v) < lastLive {
				t.Fatalf("%s: %d behind %d", id, v, lastLive)
			}
			lastLive = uint64(v)
			live[v]++
		}
		return live, historical
	}
	for _, devices := range [][]string{{both, other}, {both}, {alone, other}} {
		before, _ := counts("robot")
		f.reload(devices...)
		mqtttest.WaitFor(t, "live values after the reload", func() bool {
			now, _ := counts("robot")
			return len(now) > len(before)+3 || now[n] > 0
		})
	}
	for _, id := range []string{"robot", "oven"} {
		mqtttest.WaitFor(t, "all values of "+id, func() bool {
			live, historical := counts(id)
			for v := int64(1); v <= n; v++ {
				if live[v]+historical[v] == 0 {
					return false
				}
			}
			return true
		})
		live, historical := counts(id)
		for v, times := range historical {
			// A reload that comes while the history is being read has some of it
			// read again.
			if times > 3 {
				t.Errorf("%s: %d came %d times from the history", id, v, times)
			}
		}
		t.Logf("%s: %d live, %d from the history", id, len(live), len(historical))
	}
	tag := func() (came bool) {
		for _, b := range f.r.Batches("robot") {
			_, ok := b.Values["Second"]
			came = came || ok
		}
		return came
	}
	if !tag() {
		t.Error("the tag that a reload added never came")
	}
	if faults := f.r.Faults(); len(faults) > 0 {
		t.Error(faults)
	}
}
