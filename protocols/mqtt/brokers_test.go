package mqtt_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/protocols/mqtt"
	"millrace/protocols/mqtt/mqtttest"
)

// When the first broker is gone the second one gets what follows, and when it
// is back it gets what follows from there: each batch goes to one of them.
func TestFallback(t *testing.T) {
	t.Parallel()
	first, second := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{}), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	at1 := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: first.URL("mqtt")})
	at2 := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: second.URL("mqtt")})
	s := make(schemas)
	schema := press("press-1")
	s.add(schema)
	o := options("gw-1", first.URL("mqtt"), s)
	o.Fallbacks, o.ReturnAfter = []string{second.URL("mqtt")}, 100*time.Millisecond
	u := newUplink(t, o)
	u.SetState(mqtt.DeviceState{Device: "press-1", State: "online", Since: time.Now()})
	f := &forwarder{u: u, record: func(seq uint64) mqtt.Record { return record(schema, "S1", seq) }}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	running.Go(func() { f.run(ctx, t, 1<<40) })
	mqtttest.WaitFor(t, "batches at the first", func() bool { return at1.Count() > 100 })
	first.Stop()
	mqtttest.WaitFor(t, "batches at the second", func() bool { return at2.Count() > 100 })
	if st := u.Stats(); st.Broker != second.URL("mqtt") || !st.Fallback {
		t.Errorf("%s is said to be in use", st.Broker)
	}
	mqtttest.WaitFor(t, "the state at the second", func() bool { _, ok := at2.State("press-1"); return ok })
	first.Start()
	// The receiver may still have had some of before in hand: only a new session
	// says that we are back.
	mqtttest.WaitFor(t, "the first to be in use again", func() bool {
		st := u.Stats()
		return st.Broker == first.URL("mqtt") && !st.Fallback && st.Connected
	})
	before := at1.Count()
	mqtttest.WaitFor(t, "batches at the first again", func() bool { return at1.Count() > before+100 })
	mqtttest.WaitFor(t, "the second to know that we left", func() bool { return at2.Status("gw-1")["reason"] == "stopped" })
	cancel()
	u.Disconnect()
	running.Wait()
	acked := f.next() - 1
	mqtttest.WaitFor(t, "all batches", func() bool {
		seen := map[uint64]bool{}
		for _, r := range []*mqtttest.Receiver{at1, at2} {
			for _, seq := range r.Seqs("S1") {
				seen[seq] = true
			}
		}
		for seq := uint64(1); seq <= acked; seq++ {
			if !seen[seq] {
				return false
			}
		}
		return true
	})
	if faults := append(at1.Faults(), at2.Faults()...); len(faults) > 0 {
		t.Error(faults)
	}
	// What one has acknowledged does not go to the other: twice there is at
	// most what was on its way when the first one went.
	both := at1.Count() + at2.Count() - int(acked)
	if both > 2*mqtt.DefaultMaxInflight {
		t.Errorf("%d batches went to both", both)
	}
}

// A first broker that signs us on and then hangs is left for the next one.
func TestFallbackFromAHang(t *testing.T) {
	t.Parallel()
	var count atomic.Int64
	first := mqtttest.NewFake(t, neverAcks(&count))
	second := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newLine(t, second.URL("mqtt"), "mqtt://"+first.Addr, func(o *mqtt.Options) {
		o.Fallbacks, o.AckTimeout = []string{second.URL("mqtt")}, 100*time.Millisecond
	})
	l.f.run(t.Context(), t, 500)
	l.whole(t, 500)
	if st := l.u.Stats(); !st.Fallback || st.Sessions < 2 {
		t.Errorf("%+v", st)
	}
}

// A first broker that answers and then refuses is not tried all the time.
func TestFallbackFromARefusal(t *testing.T) {
	t.Parallel()
	first := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{Users: map[string]string{"other": "x"}})
	second := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	proxy := mqtttest.NewProxy(t, first.Addr)
	o := options("gw-1", "mqtt://"+proxy.Addr, schemas{})
	o.Fallbacks, o.ReturnAfter = []string{second.URL("mqtt")}, 20*time.Millisecond
	u := newUplink(t, o)
	start := time.Now()
	for time.Since(start) < time.Second {
		lost, err := u.Connect(t.Context(), func(uint64) {})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-lost:
		case <-time.After(time.Until(start.Add(time.Second))):
		}
	}
	if n := proxy.Accepted(); n < 2 || n > 14 { // 20 ms, 40, 80 … : each costs a look and an attempt
		t.Errorf("the first broker was tried %d times in a second", n)
	}
	u.Disconnect()
	second.Stop()
	_, err := u.Connect(t.Context(), func(uint64) {})
	if err == nil || strings.Count(err.Error(), "no connection to") != 2 {
		t.Errorf("error %v", err)
	}
}

// The primary host may be at another broker.
func TestFallbackToThePrimaryHost(t *testing.T) {
	t.Parallel()
	first, second := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{}), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, second.URL("mqtt"), first.URL("mqtt"), func(o *mqtt.Options) {
		o.Sparkplug.PrimaryHost = "scada"
		o.Fallbacks, o.HostPatience = []string{second.URL("mqtt")}, 200*time.Millisecond
	})
	there := mqtttest.NewHost(t, first.URL("mqtt"), "")
	l.online("press-1")
	l.f.run(t.Context(), t, 10)
	l.whole(t, 10)
	// The host moves.
	now := time.Now().UnixMilli()
	there.Publish(t, "spBv1.0/STATE/scada", true, []byte(`{"online":true,"timestamp":1}`))
	l.host.SetState(t, false, now)
	mqtttest.WaitFor(t, "the death", func() (dead bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) { dead = !n.Online })
		return dead
	})
	l.f.run(t.Context(), t, 20)
	mqtttest.WaitFor(t, "the values where the host is now", func() bool { return len(there.Samples("gw-1", "press-1", "count")) >= 10 })
	for _, f := range there.Faults() {
		t.Error(f)
	}
}
