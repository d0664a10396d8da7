package mqtt_test

import (
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

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
	mqtttest.WaitFor(t, "the first to be set aside", func() bool {
		told = told || strings.Contains(u.Stats().LastError, "bytes to millrace/plant/gw-1/press-1/data: it may be too large for the broker")
		return u.Stats().SetAside > 0
	})
	mqtttest.WaitFor(t, "the second to be set aside", func() bool { return u.Stats().SetAside == 2 })
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

// A line with a long way is cut whenever a batch is on it, time after time:
// the acknowledgement of what comes first is there by then, and the batch's is
// not.
func TestNothingSetAsideOnALongLine(t *testing.T) {
	t.Parallel()
	const late = 30 * time.Millisecond
	var mended atomic.Bool
	fake := mqtttest.NewFake(t, func(conn io.ReadWriter) {
		start := time.Now()
		take := picky(func(*packets.PublishPacket) bool {
			if mended.Load() {
				return false
			}
			<-time.After(late)
			return time.Since(start) >= 2*late
		})
		go func() {
			<-time.After(late + rand.N(late))
			if c, ok := conn.(io.Closer); ok && !mended.Load() {
				c.Close()
			}
		}()
		take(conn)
	})
	s := make(schemas)
	schema := press("press-1")
	s.add(schema)
	u := newUplink(t, options("gw-1", "mqtt://"+fake.Addr, s))
	f := &forwarder{u: u, record: func(seq uint64) mqtt.Record { return record(schema, "S1", seq) }}
	var running sync.WaitGroup
	running.Go(func() { f.run(t.Context(), t, 50) })
	mqtttest.WaitFor(t, "sessions", func() bool { return u.Stats().Sessions > 60 })
	mended.Store(true)
	running.Wait()
	if st := u.Stats(); st.SetAside > 0 || st.Gaps > 0 {
		t.Errorf("%+v", st)
	}
}

// What the broker does not take waits in the backlog while new batches arrive
// beside it (catch_up: live_first).
func TestRefusedBatchBesideLiveOnes(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{Config: []string{"max_packet_size 2000"}})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
	s := make(schemas)
	schema := press("press-1")
	s.add(schema)
	u := newUplink(t, options("gw-1", broker.URL("mqtt"), s))
	const culprit = 1
	token, live := uint64(0), uint64(100)
	for u.Stats().SetAside == 0 && t.Context().Err() == nil {
		acked := make(chan uint64, 4)
		lost, err := u.Connect(t.Context(), func(token uint64) { acked <- token })
		if err != nil {
			t.Fatal(err)
		}
		live++
		token++
		if u.Send(t.Context(), token, record(schema, "S1", live)) == nil {
			select {
			case <-acked:
			case <-lost:
			}
		}
		token++
		if u.Send(t.Context(), token, bigRecord(schema, culprit)) == nil {
			select {
			case <-acked:
			case <-lost:
			}
		}
		u.Disconnect()
		if live > 150 {
			t.Fatalf("nothing set aside in %d sessions: %s", u.Stats().Sessions, u.Stats().LastError)
		}
	}
	mqtttest.WaitFor(t, "the notice", func() bool { return len(r.Gaps()) == 1 })
	if g := r.Gaps()[0].Gap; g.From != culprit || g.To != culprit {
		t.Errorf("notice of %+v", g)
	}
}

// picky is a broker that takes everything but what refuses says no to: there
// it closes the connection.
func picky(refuses func(p *packets.PublishPacket) bool) func(io.ReadWriter) {
	return func(conn io.ReadWriter) {
		for {
			p, err := packets.ReadPacket(conn)
			if err != nil {
				return
			}
			switch p := p.(type) {
			case *packets.ConnectPacket:
				_ = packets.NewControlPacket(packets.Connack).Write(conn)
			case *packets.PingreqPacket:
				_ = packets.NewControlPacket(packets.Pingresp).Write(conn)
			case *packets.PublishPacket:
				if refuses(p) {
					return
				}
				ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
				ack.MessageID = p.MessageID
				_ = ack.Write(conn)
			}
		}
	}
}

// A broker that takes no batch at all (its rights were set wrong, say) must not
// have the whole buffer thrown away.
func TestBrokerThatTakesNoBatch(t *testing.T) {
	t.Parallel()
	var closed atomic.Bool
	closed.Store(true)
	fake := mqtttest.NewFake(t, picky(func(p *packets.PublishPacket) bool {
		return closed.Load() && strings.HasSuffix(p.TopicName, "/data")
	}))
	s := make(schemas)
	schema := press("press-1")
	s.add(schema)
	u := newUplink(t, options("gw-1", "mqtt://"+fake.Addr, s))
	f := &forwarder{u: u, record: func(seq uint64) mqtt.Record { return record(schema, "S1", seq) }}
	var running sync.WaitGroup
	running.Go(func() { f.run(t.Context(), t, 50) })
	mqtttest.WaitFor(t, "sessions", func() bool { return u.Stats().Sessions > 15 })
	st, refused := u.Stats(), u.Refused()
	closed.Store(false)
	running.Wait()
	if st.SetAside != 1 || !strings.Contains(st.LastError, "the data waits in the buffer") || !refused {
		t.Errorf("refused: %v, %+v", refused, st)
	}
	if n := u.Stats().SetAside; n > 2 {
		t.Errorf("%d set aside at last", n)
	}
	t.Logf("%d set aside in %d sessions; %s", st.SetAside, st.Sessions, st.LastError)
}

// A message that is no batch cannot be left out: what is wrong is said, and
// that there is no hurry.
func TestRefusedStatus(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"millrace/plant/gw-1/status", "millrace/plant/gw-1/press-1/state", "millrace/plant/gw-1/gap"} {
		t.Run(topic, func(t *testing.T) {
			t.Parallel()
			var mended atomic.Bool
			fake := mqtttest.NewFake(t, picky(func(p *packets.PublishPacket) bool { return p.TopicName == topic && !mended.Load() }))
			s := make(schemas)
			schema := press("press-1")
			s.add(schema)
			u := newUplink(t, options("gw-1", "mqtt://"+fake.Addr, s))
			u.SetState(mqtt.DeviceState{Device: "press-1", State: "online", Since: time.Now()})
			session := func() {
				lost, err := u.Connect(t.Context(), func(uint64) {})
				if err != nil {
					t.Fatal(err)
				}
				if err := u.SendGap(t.Context(), 1, mqtt.Gap{Stream: "S1", From: 1, To: 2, Reason: "too_old"}); err == nil && !mended.Load() {
					<-lost
				}
			}
			for n := 0; !u.Refused(); n++ {
				session()
				if n > 30 {
					t.Fatalf("it does not count as refused: %s", u.Stats().LastError)
				}
			}
			if st := u.Stats(); !strings.Contains(st.LastError, "after a message to "+topic+": it may not be allowed") || st.SetAside > 0 {
				t.Errorf("%+v", st)
			}
			mended.Store(true)
			session()
			if err := u.Send(t.Context(), 2, record(schema, "S1", 3)); err != nil {
				t.Fatal(err)
			}
			mqtttest.WaitFor(t, "the batch", func() bool { return u.Stats().Acked == 1 })
			if u.Refused() {
				t.Error("it still counts as refused")
			}
		})
	}
}
