package mqtt

import (
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/sparkplug"
)

// States that are told while a session ends are not forgotten: the next one
// begins with them.
func TestEdgeToldAtTheEnd(t *testing.T) {
	t.Parallel()
	ids := []string{"a", "b", "c", "d"}
	var devices []sparkplug.Device
	for _, id := range ids {
		devices = append(devices, sparkplug.Device{ID: id})
	}
	u, err := New(Options{
		Name: "scada", Broker: "mqtt://127.0.0.1:1", Format: FormatSparkplug, Group: "plant", Gateway: "gw",
		Schema: func(uint64) (*protocols.Schema, error) { return nil, errNothing },
		Sparkplug: SparkplugOptions{
			Devices:   func() []sparkplug.Device { return devices },
			Current:   func(string) []sparkplug.Current { return nil },
			NextBdSeq: func() byte { return 0 },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	e := u.edge
	tell := func(state string) {
		for _, id := range ids {
			u.SetState(DeviceState{Device: id, State: state, Since: time.Now()})
		}
	}
	e.begin()
	tell("online")
	if err := e.takeChanges(nil); err != nil {
		t.Fatal(err)
	}
	s := &session{queue: newQueue(), done: make(chan struct{})}
	if err := e.births(s); err != nil {
		t.Fatal(err)
	}
	s.fail(errStopped)
	tell("offline")
	devices = devices[:3] // a reload takes d away
	u.Reloaded()
	if err := e.takeChanges(s); err == nil {
		t.Fatal("told to a session that is over")
	}
	e.begin()
	if err := e.takeChanges(nil); err != nil {
		t.Fatal(err)
	}
	if born := e.born(); len(born) != 0 {
		t.Errorf("%q would be born, and all are offline", born)
	}
}
