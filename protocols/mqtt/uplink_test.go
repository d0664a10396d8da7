package mqtt_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/mqtt"
	"millrace/protocols/mqtt/mqtttest"
)

// press is the schema that most tests use.
func press(device string) *protocols.Schema {
	return &protocols.Schema{Device: device, Tags: []protocols.SchemaTag{{Name: "count"}, {Name: "temp", Unit: "°C"}, {Name: "running"}}}
}

// schemas are what an uplink asks for.
type schemas map[uint64]*protocols.Schema

func (s schemas) add(x *protocols.Schema) uint64 {
	s[x.ID()] = x
	return x.ID()
}

func (s schemas) get(id uint64) (*protocols.Schema, error) {
	if x, ok := s[id]; ok {
		return x, nil
	}
	return nil, fmt.Errorf("no schema %016x", id)
}

// record makes batch seq of a stream; its count is seq.
func record(s *protocols.Schema, stream string, seq uint64) mqtt.Record {
	b := protocols.Batch{Schema: s, Readings: make([]protocols.Reading, 3)}
	for i := range b.Readings {
		b.Readings[i].Tag = int32(i)
	}
	b.Readings[0].SetGood(protocols.Uint(seq))
	b.Readings[1].SetGood(protocols.Float64(21.5))
	b.Readings[2].SetBad(protocols.Timeout)
	return mqtt.Record{
		Stream: stream, Seq: seq, Time: time.Now().UnixMilli(), Schema: s.ID(), Readings: 3,
		Data: protocols.EncodeBatch(nil, &b),
	}
}

// options are those of an uplink of a gateway to a broker.
func options(gateway, broker string, s schemas) mqtt.Options {
	return mqtt.Options{
		Name: "platform", Broker: broker, Topic: "millrace", Group: "plant", Gateway: gateway, Version: "v0",
		Schema: s.get,
	}
}

func newUplink(t *testing.T, o mqtt.Options) *mqtt.Uplink {
	t.Helper()
	u, err := mqtt.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Disconnect)
	return u
}

// forwarder does what the buffer's does: it sends records 1 to its last in
// order, and after a lost session again from the first not acknowledged.
type forwarder struct {
	u      *mqtt.Uplink
	record func(seq uint64) mqtt.Record

	mu    sync.Mutex
	acked uint64
	errs  []error
}

func (f *forwarder) ack(t *testing.T) func(uint64) {
	t.Helper()
	return func(token uint64) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if token != f.acked+1 {
			t.Errorf("acknowledged %d after %d", token, f.acked)
		}
		f.acked = token
	}
}

func (f *forwarder) next() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.acked + 1
}

// run forwards until all up to last are acknowledged.
func (f *forwarder) run(ctx context.Context, t *testing.T, last uint64) {
	t.Helper()
	for f.next() <= last && ctx.Err() == nil {
		lost, err := f.u.Connect(ctx, f.ack(t))
		if err != nil {
			f.mu.Lock()
			f.errs = append(f.errs, err)
			f.mu.Unlock()
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		f.session(ctx, lost, last)
		select {
		case <-lost:
			start := time.Now()
			f.u.Disconnect()
			if d := time.Since(start); d > time.Second {
				t.Errorf("letting go of a lost session took %v", d)
			}
		default: // the test goes on with it
		}
	}
}

func (f *forwarder) session(ctx context.Context, lost <-chan struct{}, last uint64) {
	for seq := f.next(); seq <= last; seq++ {
		if err := f.u.Send(ctx, seq, f.record(seq)); err != nil {
			<-lost
			return
		}
	}
	for f.next() <= last {
		select {
		case <-lost:
			return
		case <-ctx.Done():
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	receiver := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
	s := make(schemas)
	schema := press("press-1")
	s.add(schema)
	o := options("gw-1", broker.URL("mqtt"), s)
	o.Status = func() map[string]any { return map[string]any{"labels": map[string]string{"district": "北"}, "v": 2} }
	u := newUplink(t, o)
	u.SetState(mqtt.DeviceState{Device: "press-1", State: "online", Since: time.UnixMilli(1795462800123)})

	f := &forwarder{u: u, record: func(seq uint64) mqtt.Record { return record(schema, "S1", seq) }}
	f.run(t.Context(), t, 200)
	for i, b := range receiver.WaitBatches(t, "press-1", 200) {
		if b.Seq != uint64(i+1) || b.Gateway != "gw-1" || b.Stream != "S1" || b.Historical {
			t.Fatalf("batch %d is %+v", i, b)
		}
		if got := fmt.Sprintf("%v %v %v", b.Values["count"], b.Values["temp"], b.Bad["running"]); got != fmt.Sprintf("%d 21.5 timeout", i+1) {
			t.Fatalf("batch %d has %s", i, got)
		}
	}
	status := receiver.Status("gw-1")
	if !receiver.Online("gw-1") || status["version"] != "v0" || fmt.Sprint(status["labels"]) != "map[district:北]" || fmt.Sprint(status["v"]) != "1" {
		t.Errorf("status is %v", status)
	}
	if state, _ := receiver.State("press-1"); state != (mqtttest.State{V: 1, Gateway: "gw-1", Device: "press-1", State: "online", Since: 1795462800123}) {
		t.Errorf("state is %+v", state)
	}
	if st := u.Stats(); !st.Connected || st.Sent != 200 || st.Acked != 200 || st.Sessions != 1 || st.Bytes < 200*100 || st.Inflight != 0 {
		t.Errorf("stats are %+v", st)
	}
	u.Disconnect()
	mqtttest.WaitFor(t, "offline", func() bool { return receiver.Status("gw-1")["reason"] == "stopped" })
	if faults := receiver.Faults(); len(faults) > 0 {
		t.Error(faults)
	}
}
