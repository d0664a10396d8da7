package mqtt_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
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

// line is one uplink with a forwarder and a receiver of its own.
type line struct {
	u        *mqtt.Uplink
	f        *forwarder
	receiver *mqtttest.Receiver
	schema   *protocols.Schema
}

// newLine sends through url and receives from the broker itself.
func newLine(t *testing.T, broker, url string, change func(*mqtt.Options)) *line {
	t.Helper()
	s := make(schemas)
	schema := press("press-1")
	s.add(schema)
	o := options("gw-1", url, s)
	if change != nil {
		change(&o)
	}
	l := &line{u: newUplink(t, o), schema: schema}
	l.receiver = mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker})
	l.f = &forwarder{u: l.u, record: func(seq uint64) mqtt.Record { return record(schema, "S1", seq) }}
	return l
}

// whole checks that all batches to last came, in order.
func (l *line) whole(t *testing.T, last uint64) {
	t.Helper()
	l.receiver.WaitBatches(t, "press-1", int(last))
	if missing := l.receiver.Missing("S1", last); len(missing) > 0 {
		t.Errorf("missing: %v", missing)
	}
	if faults := l.receiver.Faults(); len(faults) > 0 {
		t.Error(faults)
	}
	t.Logf("%d sessions, %d repeats", l.u.Stats().Sessions, l.receiver.Repeats())
}

func TestBrokerRestarts(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	const last = 20_000
	var running sync.WaitGroup
	running.Go(func() { l.f.run(t.Context(), t, last) })
	for i := range 5 {
		mqtttest.WaitFor(t, "progress", func() bool { return l.f.next() > uint64(i+1)*last/8 })
		broker.Restart()
	}
	running.Wait()
	l.whole(t, last)
	if n := l.u.Stats().Sessions; n < 6 {
		t.Errorf("only %d sessions", n)
	}
}

// rounds is how much trouble a test makes: MILLRACE_TROUBLE (make restarts), or
// little.
func rounds(t *testing.T, usual int) (n int, long bool) {
	t.Helper()
	text := os.Getenv("MILLRACE_TROUBLE")
	if text == "" {
		return usual, false
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("MILLRACE_TROUBLE: %v", err)
	}
	return n, true
}

// ledger notes of a stream of batches which came, in little room.
type ledger struct {
	mu              sync.Mutex
	seen            []uint64 // a bit for each seq
	newest          uint64
	distinct, again int
	faults          []string
}

func (l *ledger) take(topic string, body []byte) {
	if !strings.HasSuffix(topic, "/data") {
		return
	}
	var b struct{ Seq uint64 }
	err := json.Unmarshal(body, &b)
	l.mu.Lock()
	defer l.mu.Unlock()
	word, bit := b.Seq/64, uint64(1)<<(b.Seq%64)
	for uint64(len(l.seen)) <= word {
		l.seen = append(l.seen, make([]uint64, len(l.seen)+64)...)
	}
	switch {
	case err != nil:
		l.faults = append(l.faults, err.Error())
	case l.seen[word]&bit != 0:
		l.again++
	default:
		if b.Seq < l.newest {
			l.faults = append(l.faults, fmt.Sprintf("%d came after %d", b.Seq, l.newest))
		}
		l.seen[word] |= bit
		l.newest = max(l.newest, b.Seq)
		l.distinct++
	}
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.distinct
}

// TestTrouble cuts, delays, swallows and half-opens the line at random moments
// under load, and restarts the broker: nothing is missing, out of order, or
// set aside, and nothing is left over.
func TestTrouble(t *testing.T) {
	t.Parallel()
	n, long := rounds(t, 16)
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	proxy := mqtttest.NewProxy(t, broker.Addr)
	s := make(schemas)
	schema := press("press-1")
	s.add(schema)
	o := options("gw-1", "mqtt://"+proxy.Addr, s)
	o.AckTimeout = 300 * time.Millisecond
	u := newUplink(t, o)
	var came ledger
	mqtttest.Listen(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")}, came.take)
	f := &forwarder{u: u, record: func(seq uint64) mqtt.Record { return record(schema, "S1", seq) }}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { f.run(ctx, t, 1<<40) })

	spoil := []func(ended func()){
		func(ended func()) { proxy.Cut(); ended() },
		func(ended func()) { proxy.Set(mqtttest.SwallowDown); ended() },
		func(ended func()) { proxy.Set(mqtttest.SwallowUp); ended() },
		func(ended func()) { proxy.Set(mqtttest.SwallowBoth); ended() },
		func(ended func()) { proxy.Set(mqtttest.StallUp); ended() },
		func(ended func()) { proxy.Set(mqtttest.LateDown); proxy.Cut(); ended() },
		func(ended func()) { proxy.Set(mqtttest.RefuseClients); proxy.Cut(); ended() },
		func(ended func()) { broker.Stop(); ended(); broker.Start() },
	}
	goroutines, heap := 0, uint64(0)
	for i := range n {
		progress := came.count() + 1 + rand.IntN(500)
		mqtttest.WaitFor(t, "progress", func() bool { return came.count() > progress })
		if i == n/4 || i == n-1 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if i == n-1 && long { // nothing else runs beside it
				t.Logf("goroutines %d, then %d; heap %d kB, then %d kB", goroutines, runtime.NumGoroutine(), heap>>10, m.HeapAlloc>>10)
				if runtime.NumGoroutine() > goroutines+10 || m.HeapAlloc > heap+4<<20 {
					t.Error("something is left over")
				}
			}
			goroutines, heap = runtime.NumGoroutine(), m.HeapAlloc
		}
		before := u.Stats().Sessions
		spoil[i%len(spoil)](func() {
			mqtttest.WaitFor(t, "the end of the session", func() bool { st := u.Stats(); return st.Sessions != before || !st.Connected })
		})
		proxy.Set(mqtttest.Pass)
		proxy.Cut()
	}
	cancel()
	u.Disconnect()
	running.Wait()
	acked := f.next() - 1
	mqtttest.WaitFor(t, "all batches", func() bool { return came.count() >= int(acked) })
	came.mu.Lock()
	defer came.mu.Unlock()
	for seq := uint64(1); seq <= acked; seq++ {
		if came.seen[seq/64]&(1<<(seq%64)) == 0 {
			t.Fatalf("%d is missing, and %d were acknowledged", seq, acked)
		}
	}
	if st := u.Stats(); st.SetAside > 0 || st.Gaps > 0 || len(came.faults) > 0 {
		t.Errorf("%d set aside, %d gaps, %v", st.SetAside, st.Gaps, came.faults)
	}
	t.Logf("%d sessions, %d batches, %d repeats", u.Stats().Sessions, acked, came.again)
}

// mutable is a connection whose other side hears nothing once it is mute.
type mutable struct {
	io.ReadWriter

	mute *atomic.Bool
}

func (m mutable) Write(p []byte) (int, error) {
	if m.mute.Load() {
		return len(p), nil
	}
	return m.ReadWriter.Write(p)
}

// TestHalfOpen has a broker from which nothing comes any more, and which closes
// nothing (a Mosquitto behind a proxy would): that is noticed, whether anything
// is under way or not. make restarts does it with the time-outs that an agent
// has: there it takes less than 30 s.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	_, long := rounds(t, 0)
	for _, load := range []bool{true, false} {
		t.Run(fmt.Sprint("load ", load), func(t *testing.T) {
			t.Parallel()
			var mute atomic.Bool
			takesAll := picky(func(*packets.PublishPacket) bool { return false })
			fake := mqtttest.NewFake(t, func(conn io.ReadWriter) { takesAll(mutable{conn, &mute}) })
			s := make(schemas)
			schema := press("press-1")
			s.add(schema)
			o := options("gw-1", "mqtt://"+fake.Addr, s)
			if !long {
				o.AckTimeout, o.KeepAlive, o.PingTimeout = 500*time.Millisecond, time.Second, 500*time.Millisecond
			}
			u := newUplink(t, o)
			lost, err := u.Connect(t.Context(), func(uint64) {})
			if err != nil {
				t.Fatal(err)
			}
			send := func(token uint64) {
				if err := u.Send(t.Context(), token, record(schema, "S1", token)); err != nil {
					t.Fatal(err)
				}
			}
			send(1)
			mqtttest.WaitFor(t, "an acknowledgement", func() bool { return u.Stats().Acked == 1 })
			mute.Store(true)
			start := time.Now()
			if load {
				send(2)
			}
			select {
			case <-lost:
			case <-time.After(30 * time.Second):
				t.Error("not noticed in 30 s")
			}
			t.Logf("noticed after %v: %s", time.Since(start).Round(time.Millisecond), u.Stats().LastError)
		})
	}
}

func TestWill(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	proxy := mqtttest.NewProxy(t, broker.Addr)
	l := newLine(t, broker.URL("mqtt"), "mqtt://"+proxy.Addr, nil)
	l.f.run(t.Context(), t, 1)
	mqtttest.WaitFor(t, "online", func() bool { return l.receiver.Online("gw-1") })
	proxy.Cut()
	mqtttest.WaitFor(t, "the will", func() bool { return l.receiver.Status("gw-1")["reason"] == "connection_lost" })
	if l.receiver.Online("gw-1") || len(l.receiver.Retained("millrace/plant/gw-1/status")) == 0 {
		t.Errorf("status is %v", l.receiver.Status("gw-1"))
	}
	mqtttest.WaitFor(t, "the loss", func() bool { return !l.u.Stats().Connected })
	if text := l.u.Stats().LastError; !strings.Contains(text, "uplink platform") || !strings.Contains(text, "closed it") {
		t.Errorf("last error: %s", text)
	}
	l.f.run(t.Context(), t, 2)
	mqtttest.WaitFor(t, "online", func() bool { return l.receiver.Online("gw-1") })
}

func TestStates(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	const devices = 300 // more than may be in flight
	state := func(i int, s string) mqtt.DeviceState {
		return mqtt.DeviceState{Device: fmt.Sprint("d", i), State: s, Since: time.UnixMilli(5), Reason: "no answer \"10 s\""}
	}
	for i := range devices {
		l.u.SetState(state(i, "offline"))
		l.u.SetState(state(i, "online"))
	}
	l.u.RemoveDevice("d0")
	if _, err := l.u.Connect(t.Context(), func(uint64) {}); err != nil {
		t.Fatal(err)
	}
	has := func(r *mqtttest.Receiver, i int, want string) func() bool {
		return func() bool { s, _ := r.State(fmt.Sprint("d", i)); return s.State == want }
	}
	for i := 1; i < devices; i++ {
		mqtttest.WaitFor(t, "states", has(l.receiver, i, "online"))
	}
	l.u.SetState(state(5, "degraded"))
	mqtttest.WaitFor(t, "a change", has(l.receiver, 5, "degraded"))
	l.u.RemoveDevice("d6")
	mqtttest.WaitFor(t, "a removal", has(l.receiver, 6, ""))

	// The broker forgets everything: the next session tells it again.
	broker.Kill()
	l.u.SetState(state(7, "disabled"))
	broker.Start()
	late := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt"), ClientID: "late"})
	if _, err := l.u.Connect(t.Context(), func(uint64) {}); err != nil {
		t.Fatal(err)
	}
	mqtttest.WaitFor(t, "a change while away", has(late, 7, "disabled"))
	mqtttest.WaitFor(t, "all states", has(late, 99, "online")) // the last by name
	if s, ok := late.State("d6"); ok {
		t.Errorf("a removed device has state %+v", s)
	}
	if s, _ := late.State("d5"); s.Reason != "no answer \"10 s\"" || s.Since != 5 {
		t.Errorf("state is %+v", s)
	}
}

// TestSilentBroker has no message in flight, so only pings can tell.
func TestSilentBroker(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	proxy := mqtttest.NewProxy(t, broker.Addr)
	l := newLine(t, broker.URL("mqtt"), "mqtt://"+proxy.Addr, func(o *mqtt.Options) { o.KeepAlive, o.PingTimeout = time.Second, 500*time.Millisecond })
	l.f.run(t.Context(), t, 1)
	select { // pings are answered
	case <-time.After(3 * time.Second):
	case <-t.Context().Done():
	}
	if s := l.u.Stats(); !s.Connected {
		t.Fatalf("an idle session ended: %s", s.LastError)
	}
	proxy.Set(mqtttest.SwallowBoth)
	start := time.Now()
	mqtttest.WaitFor(t, "the end of the session", func() bool { return !l.u.Stats().Connected })
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("noticed after %v", d)
	}
	if text := l.u.Stats().LastError; !strings.Contains(text, "no longer answers") {
		t.Errorf("last error: %s", text)
	}
}

// neverAcks signs everybody on, counts what is published, and is silent.
func neverAcks(count *atomic.Int64) func(io.ReadWriter) {
	return func(conn io.ReadWriter) {
		for {
			p, err := packets.ReadPacket(conn)
			if err != nil {
				return
			}
			switch p := p.(type) {
			case *packets.ConnectPacket:
				_ = packets.NewControlPacket(packets.Connack).Write(conn)
			case *packets.PublishPacket:
				if !p.Retain {
					count.Add(1)
				}
			}
		}
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name            string
		messages, bytes int
		want            int
	}{
		{"messages", 7, 0, 7},
		{"bytes", 100, 1000, 7}, // of some 150 bytes
		{"one that is too large", 100, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var published atomic.Int64
			fake := mqtttest.NewFake(t, neverAcks(&published))
			s := make(schemas)
			schema := press("press-1")
			s.add(schema)
			o := options("gw-1", "mqtt://"+fake.Addr, s)
			o.MaxInflight, o.MaxInflightBytes, o.AckTimeout = c.messages, c.bytes, 300*time.Millisecond
			u := newUplink(t, o)
			lost, err := u.Connect(t.Context(), func(token uint64) { t.Errorf("%d counts as acknowledged", token) })
			if err != nil {
				t.Fatal(err)
			}
			sent := 0
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			for err == nil {
				if err = u.Send(ctx, uint64(sent), record(schema, "S", 1)); err == nil {
					sent++
				}
			}
			if sent != c.want || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("sent %d, want %d; %v", sent, c.want, err)
			}
			mqtttest.WaitFor(t, "messages", func() bool { return published.Load() == int64(c.want) })
			if n := u.Stats().Inflight; n != c.want {
				t.Errorf("%d in flight", n)
			}
			// The session ends by itself, and Send with it.
			if err := u.Send(t.Context(), 99, record(schema, "S", 1)); err == nil || !strings.Contains(err.Error(), "session") {
				t.Errorf("Send: %v", err)
			}
			<-lost
			if text := u.Stats().LastError; !strings.Contains(text, "acknowledged nothing for 300ms") {
				t.Errorf("last error: %s", text)
			}
		})
	}
}

func TestDisconnectFromHungBroker(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	l.f.run(t.Context(), t, 5)
	broker.Pause()
	defer broker.Resume()
	large := record(l.schema, "S1", 6)
	for range 10 {
		if err := l.u.Send(t.Context(), 6, large); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	l.u.Disconnect()
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("Disconnect took %v", d)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start = time.Now()
	if _, err := l.u.Connect(ctx, func(uint64) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Connect: %v", err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("Connect took %v after its context ended", d)
	}
}

func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	l.f.record = func(seq uint64) mqtt.Record {
		r := record(l.schema, "S1", seq)
		switch seq {
		case 2:
			r.Data = []byte("rubbish")
		case 3:
			r.Schema++
		}
		return r
	}
	l.f.run(t.Context(), t, 4)
	l.receiver.WaitBatches(t, "press-1", 2)
	if missing := l.receiver.Missing("S1", 4); len(missing) > 0 {
		t.Errorf("missing without a notice: %v", missing)
	}
	gaps := l.receiver.Gaps()
	if len(gaps) != 2 || gaps[0].Gap.From != 2 || gaps[0].Gap.To != 2 || gaps[0].Gap.Readings != 3 || gaps[0].Gap.Reason != mqtt.ReasonDamaged || gaps[0].Gap.Oldest == 0 {
		t.Errorf("gaps are %+v", gaps)
	}
	if s := l.u.Stats(); s.Damaged != 2 || s.Acked != 2 || s.Gaps != 2 {
		t.Errorf("stats are %+v", s)
	}
}

func TestGap(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	acked := make(chan uint64, 1)
	if _, err := l.u.Connect(t.Context(), func(token uint64) { acked <- token }); err != nil {
		t.Fatal(err)
	}
	if err := l.u.SendGap(t.Context(), 94, mqtt.Gap{Stream: "S1", From: 17, To: 94, Readings: 3900, Reason: "buffer_full", Oldest: 5, Newest: 6}); err != nil {
		t.Fatal(err)
	}
	if token := <-acked; token != 94 {
		t.Errorf("acknowledged %d", token)
	}
	mqtttest.WaitFor(t, "the notice", func() bool { return len(l.receiver.Gaps()) == 1 })
	g := l.receiver.Gaps()[0]
	if fmt.Sprintf("%+v", g) != "{Gateway:gw-1 Stream:S1 Gap:{From:17 To:94 Readings:3900 Reason:buffer_full Oldest:5 Newest:6}}" {
		t.Errorf("notice is %+v", g)
	}
}

func TestTwoUplinks(t *testing.T) {
	t.Parallel()
	up := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	down := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	a := newLine(t, up.URL("mqtt"), up.URL("mqtt"), nil)
	b := newLine(t, down.URL("mqtt"), down.URL("mqtt"), nil)
	down.Stop()
	var running sync.WaitGroup
	running.Go(func() { b.f.run(t.Context(), t, 100) })
	a.f.run(t.Context(), t, 100)
	a.whole(t, 100)
	mqtttest.WaitFor(t, "an error", func() bool { return b.u.Stats().LastError != "" })
	down.Start()
	running.Wait()
	b.whole(t, 100)
}

// TestSameClientID has two gateways that throw each other out.
func TestSameClientID(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	s := make(schemas)
	var uplinks [2]*mqtt.Uplink
	for i := range uplinks {
		o := options(fmt.Sprint("gw-", i), broker.URL("mqtt"), s)
		o.ClientID = "the-same"
		uplinks[i] = newUplink(t, o)
	}
	for range 6 {
		for _, u := range uplinks {
			if !u.Stats().Connected {
				if _, err := u.Connect(t.Context(), func(uint64) {}); err != nil {
					t.Fatal(err)
				}
			}
		}
		mqtttest.WaitFor(t, "one to be thrown out", func() bool { return !uplinks[0].Stats().Connected || !uplinks[1].Stats().Connected })
	}
	for _, u := range uplinks {
		if text := u.Stats().LastError; !strings.Contains(text, `client id "the-same"`) {
			t.Errorf("last error: %s", text)
		}
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	// Debian's Mosquitto is built without WebSockets.
	broker, err := mqtttest.StartEmbedded("127.0.0.1:0", true, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	url := "ws://" + broker.Addr()
	l := newLine(t, url+"/mqtt", url, nil)
	l.f.run(t.Context(), t, 500)
	l.whole(t, 500)
	l.u.Disconnect()
	mqtttest.WaitFor(t, "offline", func() bool { return l.receiver.Status("gw-1")["reason"] == "stopped" })
}

func TestEmbedded(t *testing.T) {
	t.Parallel()
	broker, err := mqtttest.StartEmbedded("127.0.0.1:0", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	l := newLine(t, "mqtt://"+broker.Addr(), "mqtt://"+broker.Addr(), nil)
	l.f.run(t.Context(), t, 2000)
	l.whole(t, 2000)
}
