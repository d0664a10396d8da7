package mqtt_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/mqtt"
	"millrace/protocols/mqtt/mqtttest"
	"millrace/protocols/sparkplug"
)

// plant is what an agent would tell an edge node.
type plant struct {
	mu      sync.Mutex
	devices []sparkplug.Device
	current map[string][]sparkplug.Current
	bdSeq   int
}

func newPlant(devices ...string) *plant {
	p := &plant{current: map[string][]sparkplug.Current{}, bdSeq: -1}
	for _, id := range devices {
		p.devices = append(p.devices, sparkplug.Device{ID: id, Metrics: pressMetrics()})
	}
	return p
}

// pressMetrics are the metrics of the schema press.
func pressMetrics() []sparkplug.Definition {
	return []sparkplug.Definition{
		{Name: "count", Type: sparkplug.UInt32}, {Name: "temp", Type: sparkplug.Double, Unit: "°C"}, {Name: "running", Type: sparkplug.Boolean},
	}
}

func (p *plant) options() mqtt.SparkplugOptions {
	return mqtt.SparkplugOptions{
		Devices: func() []sparkplug.Device {
			p.mu.Lock()
			defer p.mu.Unlock()
			return slices.Clone(p.devices)
		},
		Current: func(id string) []sparkplug.Current {
			p.mu.Lock()
			defer p.mu.Unlock()
			return slices.Clone(p.current[id])
		},
		NextBdSeq: func() byte {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.bdSeq++
			return byte(p.bdSeq)
		},
	}
}

// edgeLine is a line that speaks Sparkplug to a strict host.
type edgeLine struct {
	u      *mqtt.Uplink
	f      *forwarder
	host   *mqtttest.Host
	plant  *plant
	schema *protocols.Schema
}

func newEdgeLine(t *testing.T, broker, url string, change func(*mqtt.Options)) *edgeLine {
	t.Helper()
	l := &edgeLine{plant: newPlant("press-1", "press-2"), schema: press("press-1")}
	l.host = mqtttest.NewHost(t, broker, "scada")
	s := make(schemas)
	s.add(l.schema)
	s.add(press("press-2"))
	o := options("gw-1", url, s)
	o.Format, o.Sparkplug = mqtt.FormatSparkplug, l.plant.options()
	if change != nil {
		change(&o)
	}
	l.u = newUplink(t, o)
	l.f = &forwarder{u: l.u, record: func(seq uint64) mqtt.Record { return record(l.schema, "S1", seq) }}
	t.Cleanup(func() {
		for _, f := range l.host.Faults() {
			t.Error(f)
		}
		if t.Failed() {
			t.Log(strings.Join(l.host.Log(), "\n"))
		}
	})
	return l
}

func (l *edgeLine) online(device string) {
	l.u.SetState(mqtt.DeviceState{Device: device, State: "online", Since: time.Now()})
}

func (l *edgeLine) offline(device string) {
	l.u.SetState(mqtt.DeviceState{Device: device, State: "offline", Since: time.Now()})
}

// more sends what follows, up to last, in the session that there is.
func (l *edgeLine) more(t *testing.T, last uint64) {
	t.Helper()
	l.f.session(t.Context(), make(chan struct{}), last)
	l.whole(t, last)
}

// counts are the values of count that have come, without repeats.
func (l *edgeLine) counts(device string) map[uint64]mqtttest.Sample {
	all := map[uint64]mqtttest.Sample{}
	for _, s := range l.host.Samples("gw-1", device, "count") {
		all[s.Value.AsUint()] = s
	}
	return all
}

// whole checks that all batches to last came.
func (l *edgeLine) whole(t *testing.T, last uint64) {
	t.Helper()
	mqtttest.WaitFor(t, "all values", func() bool { return len(l.counts("press-1")) >= int(last) })
	all := l.counts("press-1")
	for seq := uint64(1); seq <= last; seq++ {
		if _, ok := all[seq]; !ok {
			t.Errorf("%d is missing", seq)
		}
	}
}

func TestEdgeSession(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	l.online("press-1")
	l.f.run(t.Context(), t, 300) // the sequence goes round
	l.whole(t, 300)
	l.host.WaitOnline(t, "gw-1", "press-1")
	for _, s := range l.counts("press-1") {
		if s.Historical {
			t.Error("a live value is marked as historical")
		}
	}
	l.host.See("gw-1", func(n *mqtttest.HostNode) {
		if d := n.Devices["press-2"]; d != nil {
			t.Error("press-2 is born, and never answered")
		}
		if v := n.Metrics["Node Info/Version"].Value.AsString(); v != "v0" {
			t.Errorf("version %q", v)
		}
		m := n.Devices["press-1"].Metrics["temp"]
		if u := m.Properties["engUnit"].Value.Text; u != "°C" || m.Type != sparkplug.Double || !m.Null {
			t.Errorf("temp: %+v", m)
		}
	})
	running := l.host.Samples("gw-1", "press-1", "running")
	if s := running[len(running)-1]; !s.Null || s.Quality != 0 || s.Reason != "timeout" {
		t.Errorf("running: %+v", s)
	}
	l.u.Disconnect()
	mqtttest.WaitFor(t, "the death", func() (dead bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) { dead = n.Deaths == 1 && !n.Online })
		return dead
	})
	want := []string{"spBv1.0/plant/NBIRTH/gw-1", "spBv1.0/plant/DBIRTH/gw-1/press-1", "spBv1.0/plant/DDATA/gw-1/press-1"}
	if got := l.host.Log(); !slices.Equal(got[:3], want) {
		t.Errorf("began with %q", got[:3])
	}
}

// The state of a device decides whether it is born.
func TestEdgeDevices(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	l.f.run(t.Context(), t, 1) // a value that no state has announced births it
	l.host.WaitOnline(t, "gw-1", "press-1")
	l.online("press-2")
	l.host.WaitOnline(t, "gw-1", "press-2")
	l.offline("press-2")
	mqtttest.WaitFor(t, "the death of press-2", func() (dead bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) { dead = n.Devices["press-2"].Deaths == 1 })
		return dead
	})
	l.online("press-2")
	l.host.WaitOnline(t, "gw-1", "press-2")

	// What a dead device said when it was alive comes between a birth and a death.
	l.offline("press-1")
	mqtttest.WaitFor(t, "the death of press-1", func() (dead bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) { dead = n.Devices["press-1"].Deaths == 1 })
		return dead
	})
	l.f.record = func(seq uint64) mqtt.Record {
		r := record(l.schema, "S1", seq)
		r.Time -= 60_000
		return r
	}
	l.more(t, 5)
	for seq, s := range l.counts("press-1") {
		if s.Historical != (seq > 1) {
			t.Errorf("%d: %+v", seq, s)
		}
	}
	mqtttest.WaitFor(t, "the second death of press-1", func() (dead bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) { dead = n.Devices["press-1"].Deaths == 2 })
		return dead
	})
}

func TestEdgeRebirth(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	l.online("press-1")
	l.online("press-2")
	var running sync.WaitGroup
	const last = 5000
	running.Go(func() { l.f.run(t.Context(), t, last) })
	births := func() (n int) {
		l.host.See("gw-1", func(node *mqtttest.HostNode) { n = node.Births })
		return n
	}
	for range 3 {
		before := births()
		l.host.Rebirth(t, "plant", "gw-1")
		l.host.Rebirth(t, "plant", "gw-1")
		mqtttest.WaitFor(t, "births", func() bool { return births() > before })
	}
	running.Wait()
	l.whole(t, last)
	l.host.See("gw-1", func(n *mqtttest.HostNode) {
		if len(n.Sessions) != 1 {
			t.Errorf("sessions: %v", n.Sessions)
		}
	})
}

// A reload tells of new tags and devices, and of those that are gone.
func TestEdgeReload(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	l.online("press-1")
	l.online("press-2")
	l.f.run(t.Context(), t, 1)
	l.host.WaitOnline(t, "gw-1", "press-2")
	l.plant.mu.Lock()
	l.plant.devices = []sparkplug.Device{{ID: "press-1", Metrics: append(pressMetrics(), sparkplug.Definition{Name: "new", Type: sparkplug.Int8})}}
	l.plant.mu.Unlock()
	l.u.Reloaded()
	mqtttest.WaitFor(t, "new births", func() (ok bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) {
			_, has := n.Devices["press-1"].Metrics["new"]
			ok = has && n.Devices["press-1"].Online && n.Devices["press-2"].Deaths == 1
		})
		return ok
	})
	l.more(t, 3)
}

// While the primary host is offline nothing is sent, and the session ends.
func TestEdgePrimaryHost(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), func(o *mqtt.Options) { o.Sparkplug.PrimaryHost = "scada" })
	now := time.Now().UnixMilli()
	l.host.SetState(t, false, now)
	l.online("press-1")
	var running sync.WaitGroup
	running.Go(func() { l.f.run(t.Context(), t, 10) })
	mqtttest.WaitFor(t, "the waiting to be told", func() bool { return strings.Contains(l.u.Stats().LastError, "the primary host scada is not online") })
	for _, body := range []string{"rubbish", `{"online":"true","timestamp":9999999999999}`, `{"Online":true,"timestamp":9999999999999}`} {
		l.host.Publish(t, "spBv1.0/STATE/scada", true, []byte(body))
	}
	l.host.Publish(t, "spBv1.0/STATE/SCADA", true, []byte(`{"online":true,"timestamp":9999999999999}`))
	l.host.SetState(t, true, now-1) // of an earlier session
	if l.u.Stats().Connected {
		t.Error("connected without the primary host")
	}
	l.host.SetState(t, true, now+1)
	running.Wait()
	l.whole(t, 10)
	l.host.SetState(t, false, now) // late
	l.more(t, 20)
	l.host.SetState(t, false, now+2)
	mqtttest.WaitFor(t, "the death", func() (dead bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) { dead = n.Deaths > 0 && !n.Online })
		return dead
	})
	mqtttest.WaitFor(t, "the end of the session", func() bool { return !l.u.Stats().Connected })
	if text := l.u.Stats().LastError; !strings.Contains(text, "the primary host scada is offline") {
		t.Error(text)
	}
	l.host.SetState(t, true, now+3)
	l.f.run(t.Context(), t, 30)
	l.whole(t, 30)
	l.host.See("gw-1", func(n *mqtttest.HostNode) {
		// One session waited in vain for each STATE that was none.
		if n.Deaths != 1 || len(n.Sessions) != 2 {
			t.Errorf("%d deaths, sessions %v", n.Deaths, n.Sessions)
		}
	})
}

// Connections that are cut, and that swallow what was sent: at QoS 0 nothing
// is lost all the same.
func TestEdgeTrouble(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	proxy := mqtttest.NewProxy(t, broker.Addr)
	l := newEdgeLine(t, broker.URL("mqtt"), "mqtt://"+proxy.Addr, func(o *mqtt.Options) { o.AckTimeout = 300 * time.Millisecond })
	l.online("press-1")
	const last = 10_000
	var running sync.WaitGroup
	running.Go(func() { l.f.run(t.Context(), t, last) })
	modes := []mqtttest.Mode{mqtttest.Pass, mqtttest.SwallowDown, mqtttest.SwallowUp, mqtttest.SwallowBoth, mqtttest.StallUp}
	for i := range 15 {
		mqtttest.WaitFor(t, "progress", func() bool { return l.f.next() > uint64(i+1)*last/20 })
		before := l.u.Stats().Sessions
		mode := modes[i%len(modes)]
		proxy.Set(mode)
		if mode == mqtttest.Pass {
			proxy.Cut()
		}
		mqtttest.WaitFor(t, "the end of the session", func() bool { s := l.u.Stats(); return s.Sessions != before || !s.Connected })
		proxy.Set(mqtttest.Pass)
		proxy.Cut()
	}
	running.Wait()
	l.whole(t, last)
	l.host.See("gw-1", func(n *mqtttest.HostNode) { t.Logf("%d sessions, %d deaths", len(n.Sessions), n.Deaths) })
}

// A gap notice is a metric of the node.
func TestEdgeGap(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	l.online("press-1")
	l.f.run(t.Context(), t, 1)
	if err := l.u.SendGap(t.Context(), 2, mqtt.Gap{Stream: "S1", From: 2, To: 5, Readings: 12, Reason: "buffer_full"}); err != nil {
		t.Fatal(err)
	}
	mqtttest.WaitFor(t, "the gap notice", func() (ok bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) {
			ok = strings.Contains(n.Metrics["Gap"].Value.AsString(), `"gap":{"from":2,"to":5,"readings":12,"reason":"buffer_full"`)
		})
		return ok
	})
}

// A batch that cannot be decoded is announced, and the line goes on.
func TestEdgeDamaged(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	l.online("press-1")
	l.f.record = func(seq uint64) mqtt.Record {
		r := record(l.schema, "S1", seq)
		if seq == 3 {
			r.Data = []byte{9, 9}
		}
		return r
	}
	l.f.run(t.Context(), t, 5)
	mqtttest.WaitFor(t, "the gap notice", func() (ok bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) {
			ok = strings.Contains(n.Metrics["Gap"].Value.AsString(), `"reason":"damaged"`)
		})
		return ok
	})
	mqtttest.WaitFor(t, "the others", func() bool { return len(l.counts("press-1")) == 4 })
}

// Whatever hosts send, the session goes on.
func TestEdgeCommands(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	l.online("press-1")
	l.f.run(t.Context(), t, 1)
	l.host.WaitOnline(t, "gw-1", "press-1")
	for _, body := range [][]byte{nil, {0xff}, []byte("{}"), {0x12, 0x02, 0x10, 0x63}, {0x12, 0x05, 0x0a, 0x01, 'x', 0x70, 0x01}} {
		l.host.Publish(t, "spBv1.0/plant/NCMD/gw-1", false, body)
		l.host.Publish(t, "spBv1.0/plant/DCMD/gw-1/press-1", false, body)
		l.host.Publish(t, "spBv1.0/plant/DCMD/gw-1/nobody", false, body)
	}
	l.host.Publish(t, "spBv1.0/plant/NCMD/gw-1", true, sparkplug.RebirthCommand(1)) // comes live, and is retained for the next session
	l.host.Rebirth(t, "plant", "gw-1")
	mqtttest.WaitFor(t, "births", func() (ok bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) { ok = n.Births > 1 })
		return ok
	})
	l.more(t, 5)
	if n := l.u.Stats().Sessions; n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// While a reload is under way the agent's values are in the order of the new
// tag map, and the births still in that of the old one.
func TestEdgeReloadUnderWay(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), func(o *mqtt.Options) { o.Filter.Tags = []string{"count", "temp"} })
	value := func(name string, v protocols.Value) sparkplug.Current {
		return sparkplug.Current{Name: name, Reading: protocols.Reading{Value: v}, Time: time.Now().UnixMilli() - 1000}
	}
	l.plant.current["press-1"] = []sparkplug.Current{value("count", protocols.Uint(7)), value("temp", protocols.Float64(20)), value("running", protocols.Bool(true))}
	l.online("press-1")
	l.f.run(t.Context(), t, 1)
	l.host.WaitOnline(t, "gw-1", "press-1")
	births := func() (births int, count, temp mqtttest.HostMetric) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) {
			d := n.Devices["press-1"]
			births, count, temp = d.Births, d.Metrics["count"], d.Metrics["temp"]
		})
		return births, count, temp
	}
	for _, current := range [][]sparkplug.Current{
		l.plant.current["press-1"],
		{value("new", protocols.Uint(99)), value("count", protocols.Uint(7)), value("temp", protocols.Float64(20))},
		{value("temp", protocols.Float64(20)), value("count", protocols.Uint(7))},
	} {
		l.plant.mu.Lock()
		l.plant.current["press-1"] = current
		l.plant.mu.Unlock()
		before, _, _ := births()
		l.host.Rebirth(t, "plant", "gw-1")
		mqtttest.WaitFor(t, "births", func() bool { n, _, _ := births(); return n > before })
		if _, count, temp := births(); count.Value.AsUint() != 7 || temp.Value.AsFloat64() != 20 {
			t.Errorf("the birth says that count is %+v and temp %+v", count, temp)
		}
	}
	l.plant.mu.Lock()
	l.plant.current["press-1"] = nil // the device is not there any more
	l.plant.mu.Unlock()
	before, _, _ := births()
	l.host.Rebirth(t, "plant", "gw-1")
	mqtttest.WaitFor(t, "births", func() bool { n, _, _ := births(); return n > before })
	if _, count, temp := births(); !count.Null || !temp.Null {
		t.Errorf("the birth says that count is %+v and temp %+v", count, temp)
	}
}

// A device that a reload has taken away while the uplink was away is born for
// what it still has to say, and dies.
func TestEdgeRemovedMeanwhile(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	l.online("press-1")
	l.online("press-2")
	l.f.run(t.Context(), t, 1)
	l.host.WaitOnline(t, "gw-1", "press-2")
	l.u.Disconnect()
	l.plant.mu.Lock()
	l.plant.devices = l.plant.devices[:1]
	l.plant.mu.Unlock()
	l.u.Reloaded()
	l.f.record = func(seq uint64) mqtt.Record { return record(press("press-2"), "S1", seq) }
	l.f.run(t.Context(), t, 3)
	mqtttest.WaitFor(t, "the death of press-2", func() (dead bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) { dead = n.Devices["press-2"].Deaths == 1 })
		return dead
	})
	if n := len(l.counts("press-2")); n != 2 {
		t.Errorf("%d values of press-2", n)
	}
	for seq, s := range l.counts("press-2") {
		if !s.Historical {
			t.Errorf("%d came as what the device says now", seq)
		}
	}
	l.host.WaitOnline(t, "gw-1", "press-1")
}

// A batch that is called back while its device is born gives its place in the
// window back.
func TestEdgeCalledBack(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), func(o *mqtt.Options) { o.MaxInflight = 1 })
	lost, err := l.u.Connect(t.Context(), l.f.ack(t))
	if err != nil {
		t.Fatal(err)
	}
	late, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.u.Send(late, 1, l.f.record(1)); err == nil {
		t.Fatal("a batch was taken that was called back")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	l.f.session(ctx, lost, 1)
	l.whole(t, 1)
}

// Of many commands at once some may be dropped; the primary host's state may not.
func TestEdgeFlood(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), func(o *mqtt.Options) { o.Sparkplug.PrimaryHost = "scada" })
	l.online("press-1")
	l.f.run(t.Context(), t, 1)
	l.whole(t, 1)
	l.host.Rebirth(t, "plant", "gw-1") // a pause follows
	mqtttest.WaitFor(t, "births", func() (ok bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) { ok = n.Births > 1 })
		return ok
	})
	for range 300 {
		l.host.Publish(t, "spBv1.0/plant/DCMD/gw-1/press-1", false, nil)
	}
	l.host.SetState(t, false, time.Now().UnixMilli()+1)
	mqtttest.WaitFor(t, "the death", func() (dead bool) {
		l.host.See("gw-1", func(n *mqtttest.HostNode) { dead = n.Deaths > 0 })
		return dead
	})
}

// After a clock that was wrong is set back, what devices say now is not
// history.
func TestEdgeClockSetBack(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), nil)
	l.plant.current["press-1"] = []sparkplug.Current{{Name: "count", Reading: protocols.Reading{Value: protocols.Uint(0)}, Time: time.Now().Add(8 * time.Hour).UnixMilli()}}
	l.online("press-1")
	l.f.run(t.Context(), t, 3)
	l.whole(t, 3)
	for seq, s := range l.counts("press-1") {
		if s.Historical {
			t.Errorf("%d came as history", seq)
		}
	}
}
