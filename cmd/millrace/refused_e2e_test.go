package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"millrace/protocols/mqtt/mqtttest"
)

// TestBrokerTakesNotAll has one device whose batches are too large for the
// broker, beside one whose batches are not. With both orders the line goes on
// (with live_first, some of the backlog still waits when the agent stops).
func TestBrokerTakesNotAll(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"in_order", "live_first"} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			plc, other := newCounterPLC(t), newCounterPLC(t)
			broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{Config: []string{"max_packet_size 600"}})
			r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt"), Topic: "millrace/#"})
			var config strings.Builder
			fmt.Fprintf(&config, `gateway: {id: gw-1, group: plant}
console: {listen: "CONSOLE"}
uplinks:
  - {name: platform, broker: %q, catch_up: %s}
devices:
  - id: plc-1
    driver: modbus
    endpoint: tcp://%s
    interval: 200ms
    tags: [{name: count, address: "holding:0", type: uint64}]
  - id: large
    driver: modbus
    endpoint: tcp://%s
    interval: 5s
    tags:
`, broker.URL("mqtt"), order, plc.Addr(), other.Addr())
			for i := range 60 {
				fmt.Fprintf(&config, "      - {name: a-long-name-%d, address: \"holding:%d\"}\n", i, 100+i)
			}
			a := newAgent(t, config.String())
			// Nine sessions, with live_first up to twice as many: it takes a while.
			for start := time.Now(); len(r.Gaps()) == 0; <-time.After(10 * time.Millisecond) {
				if time.Since(start) > 4*time.Minute {
					t.Fatal("nothing was set aside")
				}
			}
			r.WaitBatches(t, "plc-1", len(r.Batches("plc-1"))+1)
			a.stop()
			for _, stream := range r.Streams() {
				seqs := r.Seqs(stream)
				if missing := r.Missing(stream, seqs[len(seqs)-1]); order == "in_order" && len(missing) > 0 {
					t.Errorf("missing: %v", missing)
				}
			}
			if faults := r.Faults(); order == "in_order" && len(faults) > 0 {
				t.Error(faults)
			}
			for _, g := range r.Gaps() {
				if g.Gap.Reason != "refused" || g.Gap.Readings != 60 || g.Gap.From != g.Gap.To {
					t.Errorf("%+v", g)
				}
			}
			t.Logf("%d set aside, %d batches", len(r.Gaps()), len(r.Batches("plc-1")))
		})
	}
}

// TestFallbackBroker stops the first of two brokers.
func TestFallbackBroker(t *testing.T) {
	t.Parallel()
	plc := newCounterPLC(t)
	first, second := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{}), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	at1 := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: first.URL("mqtt"), Topic: "millrace/#"})
	at2 := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: second.URL("mqtt"), Topic: "millrace/#"})
	config := strings.Replace(configFor("1s", map[string]string{"platform": first.URL("mqtt")}, plc),
		", client_id", fmt.Sprintf(", fallback: %q, client_id", second.URL("mqtt")), 1)
	a := newAgent(t, config)
	at1.WaitBatches(t, "plc-1", 20)
	first.Stop()
	at2.WaitBatches(t, "plc-1", 20)
	if text, _ := a.get("/api/status"); !strings.Contains(text, fmt.Sprintf(`"broker":%q,"fallback":true,"up":true`, second.URL("mqtt"))) {
		t.Errorf("the status is %s", text)
	}
	if text, _ := a.get("/metrics"); !strings.Contains(text, `millrace_uplink_on_fallback{uplink="platform"} 1`) {
		t.Error("the metrics do not say so")
	}
	a.stop()
	first.Start()
	var last uint64
	seen := map[uint64]bool{}
	mqtttest.WaitFor(t, "all batches", func() bool {
		for _, r := range []*mqtttest.Receiver{at1, at2} {
			for _, b := range r.Batches("plc-1") {
				seen[b.Seq] = true
				last = max(last, b.Seq)
			}
		}
		return len(seen) == int(last)
	})
}
