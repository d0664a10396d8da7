package mqtt_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/mqtt"
	"millrace/protocols/mqtt/mqtttest"
)

// bigRecord is a batch that is too large for the broker.
func bigRecord(s *protocols.Schema, seq uint64) mqtt.Record {
	b := protocols.Batch{Schema: s, Readings: []protocols.Reading{{Tag: 0, Value: protocols.String(strings.Repeat("x", 5000))}}}
	return mqtt.Record{Stream: "S1", Seq: seq, Time: time.Now().UnixMilli(), Schema: s.ID(), Readings: 1, Data: protocols.EncodeBatch(nil, &b)}
}

// A batch that the broker does not take is set aside after some tries, and
// announced; everything else arrives, in order.
func TestRefusedBatch(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{Config: []string{"max_packet_size 2000"}})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
	s := make(schemas)
	schema := press("press-1")
	s.add(schema)
	u := newUplink(t, options("gw-1", broker.URL("mqtt"), s))
	f := &forwarder{u: u, record: func(seq uint64) mqtt.Record {
		if seq == 50 || seq == 52 {
			return bigRecord(schema, seq)
		}
		return record(schema, "S1", seq)
	}}
	told := false
	var running sync.WaitGroup
	running.Go(func() { f.run(t.Context(), t, 300) })
	mqtttest.WaitFor(t, "both to be set aside", func() bool {
		told = told || strings.Contains(u.Stats().LastError, "bytes to millrace/plant/gw-1/press-1/data: it may be too large for the broker")
		return u.Stats().SetAside == 2
	})
	running.Wait()
	r.WaitBatches(t, "press-1", 298)
	if !told {
		t.Error("nobody was told why")
	}
	if missing := r.Missing("S1", 300); len(missing) > 0 { // of what no gap was announced of
		t.Errorf("missing: %v", missing)
	}
	gaps := r.Gaps()
	if len(gaps) != 2 || gaps[0].Gap.From != 50 || gaps[0].Gap.To != 50 || gaps[0].Gap.Reason != "refused" || gaps[1].Gap.From != 52 {
		t.Errorf("gaps %+v", gaps)
	}
	if faults := r.Faults(); len(faults) > 0 {
		t.Error(faults)
	}
}

// The same as an edge node of Sparkplug.
func TestRefusedData(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{Config: []string{"max_packet_size 2000"}})
	notes := &protocols.Schema{Device: "press-1", Tags: []protocols.SchemaTag{{Name: "note"}}}
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), func(o *mqtt.Options) {
		get := o.Schema
		o.Schema = func(id uint64) (*protocols.Schema, error) {
			if id == notes.ID() {
				return notes, nil
			}
			return get(id)
		}
	})
	l.online("press-1")
	l.f.record = func(seq uint64) mqtt.Record {
		if seq == 20 {
			return bigRecord(notes, seq)
		}
		return record(l.schema, "S1", seq)
	}
	l.f.run(t.Context(), t, 100)
	if n := l.u.Stats().SetAside; n != 1 {
		t.Errorf("%d set aside", n)
	}
	mqtttest.WaitFor(t, "all values", func() bool { return len(l.counts("press-1")) == 99 })
	mqtttest.WaitFor(t, "the gap notice", func() (ok bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) {
			ok = strings.Contains(n.Metrics["Gap"].Value.AsString(), `"reason":"refused"`)
		})
		return ok
	})
}

// Brokers that restart and lines that are cut, all the time, set nothing
// aside.
func TestNothingSetAside(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	proxy := mqtttest.NewProxy(t, broker.Addr)
	l := newLine(t, broker.URL("mqtt"), "mqtt://"+proxy.Addr, nil)
	const last = 20_000
	var running sync.WaitGroup
	running.Go(func() { l.f.run(t.Context(), t, last) })
	stop := make(chan struct{})
	running.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(1+i%30) * time.Millisecond):
				proxy.Cut()
			}
		}
	})
	mqtttest.WaitFor(t, "sessions", func() bool { return l.u.Stats().Sessions > 40 || l.f.next() > last })
	close(stop)
	running.Wait()
	l.whole(t, last)
	if n := l.u.Stats().SetAside; n > 0 {
		t.Errorf("%d set aside", n)
	}
}
