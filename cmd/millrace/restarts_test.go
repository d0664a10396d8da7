package main

import (
	"math/rand/v2"
	"testing"
	"time"

	"millrace/protocols/mqtt/mqtttest"
)

// TestBrokerRestartsOften stops the broker at random moments under load, for
// random times, MILLRACE_RESTARTS times (make restarts: 100), and starts it
// again. Nothing is missing, and nothing out of order. How long it took until
// new data came is in the log. (Of Sparkplug, a broker that restarts loses what
// it passes on at QoS 0 while the host is away: TestSparkplug cuts the node's
// line instead.)
func TestBrokerRestartsOften(t *testing.T) {
	t.Parallel()
	restarts := int(numberFrom(t, "MILLRACE_RESTARTS", 4))
	plc, broker := newCounterPLC(t), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt"), Topic: "millrace/#"})
	a := newAgent(t, configFor("1s", map[string]string{"platform": broker.URL("mqtt")}, plc))
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
	}
	t.Logf("%d restarts: new data at most %v after the broker's return", restarts, worst.Round(time.Millisecond))
	a.stop()
	mqtttest.WaitFor(t, "the farewell", func() bool { return !r.Online("gw-1") })
	verify(t, r, "plc-1")
}
