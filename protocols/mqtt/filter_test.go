package mqtt_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"millrace/protocols/mqtt"
	"millrace/protocols/mqtt/mqtttest"
)

func TestFilter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		f           mqtt.Filter
		device, tag string
		want        bool
	}{
		{mqtt.Filter{}, "press-1", "temp", true},
		{mqtt.Filter{Devices: []string{"press-*"}}, "press-1", "temp", true},
		{mqtt.Filter{Devices: []string{"press-*"}}, "meter-1", "temp", false},
		{mqtt.Filter{Tags: []string{"temp*"}}, "press-1", "temperature", true},
		{mqtt.Filter{Tags: []string{"press-1/*"}}, "press-1", "count", true},
		{mqtt.Filter{Tags: []string{"press-1/*"}}, "press-2", "count", false},
		{mqtt.Filter{Tags: []string{"Zone?/温度"}}, "press-2", "Zone1/温度", true},
	} {
		if got := c.f.Device(c.device) && c.f.Tag(c.device, c.tag); got != c.want {
			t.Errorf("%+v lets %s/%s through: %v", c.f, c.device, c.tag, got)
		}
	}
}

// An uplink gets what its filter lets through; everything else is
// acknowledged without being sent, in its place.
func TestFilteredUplinks(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt"), Topic: "millrace/#"})
	s := make(schemas)
	one, two := press("press-1"), press("press-2")
	s.add(one)
	s.add(two)
	o := options("gw-1", broker.URL("mqtt"), s)
	o.Filter = mqtt.Filter{Devices: []string{"press-1"}, Tags: []string{"count", "press-2/temp"}}
	u := newUplink(t, o)
	for _, id := range []string{"press-1", "press-2"} {
		u.SetState(mqtt.DeviceState{Device: id, State: "online", Since: time.Now()})
	}
	f := &forwarder{u: u, record: func(seq uint64) mqtt.Record {
		if seq%2 == 0 {
			return record(two, "S1", seq)
		}
		return record(one, "S1", seq)
	}}
	f.run(t.Context(), t, 20)
	for i, b := range r.WaitBatches(t, "press-1", 10) {
		if want := uint64(2*i + 1); b.Seq != want || fmt.Sprint(b.Values) != fmt.Sprintf("map[count:%d]", want) || len(b.Bad) > 0 {
			t.Errorf("%+v", b)
		}
	}
	if n := len(r.Batches("press-2")); n > 0 {
		t.Errorf("%d batches of press-2", n)
	}
	mqtttest.WaitFor(t, "the state of press-1", func() bool { _, ok := r.State("press-1"); return ok })
	if _, ok := r.State("press-2"); ok {
		t.Error("a state of press-2")
	}
	if st := u.Stats(); st.Acked != 10 || st.Inflight != 0 {
		t.Errorf("%+v", st)
	}
}

func TestFilteredEdge(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	l := newEdgeLine(t, broker.URL("mqtt"), broker.URL("mqtt"), func(o *mqtt.Options) {
		o.Filter = mqtt.Filter{Devices: []string{"press-1"}, Tags: []string{"temp", "count"}}
	})
	two := press("press-2")
	l.f.record = func(seq uint64) mqtt.Record {
		if seq%2 == 0 {
			return record(two, "S1", seq)
		}
		return record(l.schema, "S1", seq)
	}
	l.online("press-1")
	l.online("press-2")
	l.f.run(t.Context(), t, 21)
	mqtttest.WaitFor(t, "all values", func() bool { return len(l.counts("press-1")) == 11 })
	l.host.See("gw-1", func(n *mqtttest.HostNode) {
		var names []string
		for name := range n.Devices["press-1"].Metrics {
			names = append(names, name)
		}
		slices.Sort(names)
		if !slices.Equal(names, []string{"count", "temp"}) || n.Devices["press-2"] != nil {
			t.Errorf("births of %v, press-2 %+v", names, n.Devices["press-2"])
		}
	})
}
