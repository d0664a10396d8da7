package mqtt_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"millrace/protocols/mqtt"
	"millrace/protocols/mqtt/mqtttest"
)

// TestFiguresTooLarge: figures that a broker does not take cost two sessions;
// then they rest, and every reading is delivered. Smaller ones go out again
// with the session after that rest, which TestFiguresRest has.
func TestFiguresTooLarge(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{Config: []string{"max_packet_size 2000"}})
	receiver := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt"), Topic: "millrace/#"})
	s := make(schemas)
	schema := press("press-1")
	s.add(schema)
	o := options("gw-1", broker.URL("mqtt"), s)
	u := newUplink(t, o)
	figures := mqtt.Figures{Body: []byte(`{"v":1,"text":"` + strings.Repeat("x", 5000) + `"}`)}
	u.SetFigures(figures)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	f := &forwarder{u: u, record: func(seq uint64) mqtt.Record { return record(schema, "S1", seq) }}
	f.run(ctx, t, 300)
	u.SetFigures(figures) // as they come each minute
	u.SetDaily("2026-11-25", figures)
	f.run(ctx, t, 600)
	if got := receiver.WaitBatches(t, "press-1", 600); len(got) != 600 {
		t.Errorf("%d batches", len(got))
	}
	if missing := receiver.Missing("S1", 600); len(missing) > 0 {
		t.Errorf("missing: %v", missing)
	}
	if st := u.Stats(); st.Sessions > 3 || !st.Connected {
		t.Errorf("%+v", st)
	}
	if faults := receiver.Faults(); len(faults) > 0 {
		t.Error(faults)
	}
	if u.DailyDelivered() != "" || receiver.Retained("millrace/plant/gw-1/connectivity") != nil {
		t.Error("they were delivered")
	}
}
