package main

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"millrace/protocols/mqtt/mqtttest"
)

// TestBrokerRestartsOften stops the broker at random moments under load, for
// random times, MILLRACE_RESTARTS times (make restarts: 100), and starts it
// again. Both formats are delivered: of JSON nothing is missing and nothing out
// of order, and a strict Sparkplug host finds no fault. How long it took until
// new data came is in the log.
func TestBrokerRestartsOften(t *testing.T) {
	t.Parallel()
	restarts := int(numberFrom(t, "MILLRACE_RESTARTS", 4))
	plc, broker := newCounterPLC(t), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt"), Topic: "millrace/#"})
	h := mqtttest.NewHost(t, broker.URL("mqtt"), "scada")
	text := configFor("1s", map[string]string{"platform": broker.URL("mqtt")}, plc)
	a := newAgent(t, strings.Replace(text, "devices:\n", "  - {name: scada, broker: \""+broker.URL("mqtt")+"\", client_id: gw-1-scada, format: sparkplug}\ndevices:\n", 1))
	r.WaitBatches(t, "plc-1", 20)
	var worst time.Duration
	for range restarts {
		<-time.After(time.Duration(rand.IntN(400)) * time.Millisecond)
		broker.Stop() // it keeps what it has acknowledged; a killed one would not
		<-time.After(time.Duration(rand.IntN(1500)) * time.Millisecond)
		before := len(r.Batches("plc-1"))
		broker.Start()
		back := time.Now()
		r.WaitBatches(t, "plc-1", before+1)
		worst = max(worst, time.Since(back))
		h.WaitOnline(t, "gw-1", "plc-1")
	}
	t.Logf("%d restarts: new data at most %v after the broker's return", restarts, worst.Round(time.Millisecond))
	a.stop()
	mqtttest.WaitFor(t, "the farewell", func() bool { return !r.Online("gw-1") })
	verify(t, r, "plc-1")
	for _, f := range h.Faults() {
		t.Error(f)
	}
}
