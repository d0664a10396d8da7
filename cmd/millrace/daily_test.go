package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"millrace/collector/ledger"
	"millrace/configs"
	"millrace/protocols/mqtt/mqtttest"
)

func TestNextDaily(t *testing.T) {
	t.Parallel()
	zone, err := time.LoadLocation("America/Havana") // 2026-03-08 has no midnight
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ have, now, want string }{
		{"", "2026-03-02 10:00", "2026-03-01"},
		{"2026-03-01", "2026-03-02 10:00", ""},
		{"2026-03-02", "2026-03-02 10:00", ""},
		{"2026-02-27", "2026-03-02 10:00", "2026-02-28"},
		{"2025-06-01", "2026-03-02 10:00", "2026-01-30"}, // away for months: 31 days
		{"2026-03-06", "2026-03-09 00:30", "2026-03-07"},
		{"2026-03-07", "2026-03-09 00:30", "2026-03-08"},
		{"2026-03-07", "2026-03-08 01:30", ""},
		{"2026-03-08", "2026-03-10 00:30", "2026-03-09"},
	} {
		now, err := time.ParseInLocation("2006-01-02 15:04", c.now, zone)
		if err != nil {
			t.Fatal(err)
		}
		if got := nextDaily(c.have, now); got != c.want {
			t.Errorf("has %q at %s: %q, want %q", c.have, c.now, got, c.want)
		}
	}
}

// booksAgent is an agent whose figures a test publishes, with one uplink;
// its ledger was begun so many days ago.
func booksAgent(t *testing.T, days int, config func(broker string) string, broker string) *agent {
	t.Helper()
	dir := t.TempDir()
	cfg := booksConfig(t, dir, config(broker))
	began := time.Now().AddDate(0, 0, -days)
	l := ledger.New(ledger.Options{Dir: cfg.Connectivity.Path, Keep: cfg.Connectivity.Keep, Now: func() time.Time { return began }})
	l.Device("plc-1").Due(began, time.Second, 1, 1)
	l.Flush(true)
	a, err := startAgent(cfg, newLogger(t.Output(), false), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.stop()
		removeSharedMemory(t, cfg.Buffer.Path)
	})
	a.closeBooks() // from here on the test publishes
	a.books.ledger.Flush(false)
	return a
}

func booksConfig(t *testing.T, dir, text string) *configs.Config {
	t.Helper()
	cfg, err := configs.Parse(filepath.Join(dir, "millrace.yaml"), []byte(text), dir, checkers())
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func dailyConfig(broker string) string {
	return fmt.Sprintf("gateway: {id: gw-1, group: plant}\nconsole: {listen: \"\"}\nconnectivity: {timezone: Asia/Shanghai}\nuplinks: [{name: platform, broker: %q}]\n"+
		"devices: [{id: plc-1, driver: modbus, endpoint: \"tcp://127.0.0.1:1\", tags: [{name: a, address: \"holding:0\"}]}]\n", broker)
}

// TestDailyAfterReload: the uplink that takes another's place at a reload has
// the present figures at once. The record that the old one was given, and could not
// deliver, is given to the new one; those of the days after it follow.
func TestDailyAfterReload(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
	a := booksAgent(t, 2, dailyConfig, "mqtt://127.0.0.1:1")
	a.publishFigures()
	if err := a.apply(booksConfig(t, a.config().Dir, dailyConfig(broker.URL("mqtt")))); err != nil {
		t.Fatal(err)
	}
	mqtttest.WaitFor(t, "the present figures", func() bool { return r.Retained("millrace/plant/gw-1/connectivity") != nil })
	zone := a.config().Connectivity.Calendar.Location()
	yesterday := time.Now().Add(-dailyAfter).In(zone).AddDate(0, 0, -1).Format(time.DateOnly)
	mqtttest.WaitFor(t, "the record of yesterday", func() bool {
		a.publishFigures()
		var m struct{ Period struct{ Date string } }
		return json.Unmarshal(r.Retained("millrace/plant/gw-1/connectivity/daily"), &m) == nil && m.Period.Date >= yesterday
	})
	mqtttest.WaitFor(t, "that to be noted", func() bool {
		a.publishFigures()
		return string(a.buf.StateGet(dailyKey("platform"))) >= yesterday
	})
}

// TestNoDailyBefore: a gateway that was installed today has no record of
// yesterday, on which it would have nothing networked.
func TestNoDailyBefore(t *testing.T) {
	t.Parallel()
	a := booksAgent(t, 0, dailyConfig, "mqtt://127.0.0.1:1")
	a.publishFigures()
	a.mu.Lock()
	given := a.uplinks["platform"].daily
	a.mu.Unlock()
	if given != "" {
		t.Errorf("it was given the record of %s", given)
	}
}
