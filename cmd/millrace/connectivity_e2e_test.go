package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"millrace/collector/connectivity"
	"millrace/collector/ledger"
	"millrace/protocols/mqtt/mqtttest"
)

// deviceHour is what the ledger and the receiver both count by.
type deviceHour struct {
	device string
	hour   int64
}

// booksOf reads the ledger of an agent.
func booksOf(t *testing.T, dir string) (map[deviceHour]ledger.Counts, []ledger.Pause, []ledger.Outage) {
	t.Helper()
	rows := map[deviceHour]ledger.Counts{}
	var pauses []ledger.Pause
	var outages []ledger.Outage
	_, err := ledger.Read(dir, time.Now().Add(-72*time.Hour), time.Now().Add(72*time.Hour), ledger.Visitor{
		Row: func(device string, hour int64, c *ledger.Counts) {
			sum := rows[deviceHour{device, hour}]
			sum.Add(c)
			rows[deviceHour{device, hour}] = sum
		},
		Pause:  func(p ledger.Pause) { pauses = append(pauses, p) },
		Outage: func(o ledger.Outage) { outages = append(outages, o) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows, pauses, outages
}

// arrivedGood is what the receiver got, by device and hour: all good readings,
// and those that arrived while the agent's counts were not written any more.
func arrivedGood(r *mqtttest.Receiver, unwritten [][2]time.Time) (all, late map[deviceHour]int64) {
	all, late = map[deviceHour]int64{}, map[deviceHour]int64{}
	for _, device := range []string{"plc-1", "plc-2"} {
		seen := map[string]bool{}
		for _, b := range r.Batches(device) {
			id := fmt.Sprint(b.Stream, b.Seq)
			if seen[id] {
				continue
			}
			seen[id] = true
			k := deviceHour{device, b.TS / 3600_000}
			n := int64(len(b.Values) - len(b.Uncertain))
			all[k] += n
			for _, w := range unwritten {
				if b.Arrived.After(w[0]) && b.Arrived.Before(w[1]) {
					late[k] += n
				}
			}
		}
	}
	return all, late
}

// TestLedgerAgainstReceiver runs the real agent over the end of an hour, with
// a PLC that falls silent and a broker that goes away, and stops it: its
// ledger has counted what the receiver has, device by device, hour by hour, to
// the reading. Then it is killed twice: what is missing is what arrived after
// the ledger was written last, and the ledger says so.
func TestLedgerAgainstReceiver(t *testing.T) {
	t.Parallel()
	one, two, broker := newCounterPLC(t), newCounterPLC(t), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
	dir := t.TempDir()
	a := &agentProcess{t: t, config: filepath.Join(dir, "millrace.yaml"), console: mqtttest.FreeAddr(t), mode: filepath.Join(dir, "offset")}
	// Ten seconds before the hour is full.
	now := time.Now()
	offset := now.Truncate(time.Hour).Add(time.Hour - 10*time.Second).Sub(now)
	if err := os.WriteFile(a.mode, []byte(strconv.FormatInt(offset.Milliseconds(), 10)), 0o600); err != nil {
		t.Fatal(err)
	}
	full := now.Add(offset).Add(10 * time.Second)
	// Where that is midnight. (The sign is the other way round in these names.)
	zone := fmt.Sprintf("Etc/GMT%+d", full.UTC().Hour())
	if full.UTC().Hour() > 12 {
		zone = fmt.Sprintf("Etc/GMT%+d", full.UTC().Hour()-24)
	}
	config := fmt.Sprintf("gateway: {id: gw-1, group: plant}\nconsole: {listen: \"CONSOLE\"}\nconnectivity: {timezone: %s}\nuplinks: [{name: platform, broker: %q}]\ndevices:\n", zone, broker.URL("mqtt"))
	for i, p := range []*counterPLC{one, two} {
		config += fmt.Sprintf("  - {id: plc-%d, driver: modbus, endpoint: \"tcp://%s\", interval: 50ms, timeout: 200ms, offline_after: 1s, "+
			"tags: [{name: a, address: \"holding:0\", type: uint32}, {name: b, address: \"holding:0\"}, {name: c, address: \"holding:900\"}, {name: d, address: \"holding:1\", on_change: true}]}\n", i+1, p.Addr())
	}
	a.write(config)
	t.Cleanup(func() {
		a.kill()
		removeSharedMemory(t, filepath.Join(dir, "data", "buffer"))
	})
	books := filepath.Join(dir, "data", "ledger")

	a.start()
	mqtttest.WaitFor(t, "batches", func() bool { return len(r.Batches("plc-1")) > 20 && len(r.Batches("plc-2")) > 20 })
	addr := two.Addr()
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	mqtttest.WaitFor(t, "PLC 2 to be offline", func() bool { s, _ := r.State("plc-2"); return s.State == "offline" })
	broker.Stop()
	if err := two.Listen(addr); err != nil {
		t.Fatal(err)
	}
	// Over the full hour, by the agent's clock.
	mqtttest.WaitFor(t, "the next hour", func() bool { return time.Now().Add(offset).After(full.Add(time.Second)) })
	broker.Start()
	mqtttest.WaitFor(t, "live batches of both", func() bool {
		for _, id := range []string{"plc-1", "plc-2"} {
			if bs := r.Batches(id); bs[len(bs)-1].TS < full.Add(2*time.Second).UnixMilli() {
				return false
			}
		}
		return true
	})
	a.stop()
	mqtttest.WaitFor(t, "the last batches", func() bool { return r.Status("gw-1")["reason"] == "stopped" })
	rows, pauses, outages := booksOf(t, books)
	got, _ := arrivedGood(r, nil)
	if len(got) < 4 || len(pauses) != 0 {
		t.Errorf("counted in %v, pauses %v", got, pauses)
	}
	for k, n := range got {
		c := rows[k]
		if c.Delivered != n || c.Sent != n || c.Lost() != 0 {
			t.Errorf("%v: the receiver has %d good readings, the ledger says sent %d, delivered %d, dropped %d", k, n, c.Sent, c.Delivered, c.Lost())
		}
		if c.Good < n || c.Read < c.Good || c.Expected < c.Read {
			t.Errorf("%v: %d due, %d read, %d good", k, c.Expected, c.Read, c.Good)
		}
	}
	if len(outages) != 1 || outages[0].Device != "plc-2" || outages[0].To == 0 {
		t.Errorf("outages: %+v", outages)
	}

	// Killed twice.
	var unwritten [][2]time.Time
	for range 2 {
		a.start()
		n := len(r.Batches("plc-1"))
		mqtttest.WaitFor(t, "batches again", func() bool { return len(r.Batches("plc-1")) > n+20 })
		// What has just arrived there may not be acknowledged here yet.
		written := time.Now().Add(-2 * time.Second)
		flushLedger(t, filepath.Join(dir, "data", "buffer"))
		n = len(r.Batches("plc-2"))
		mqtttest.WaitFor(t, "batches that are not counted", func() bool { return len(r.Batches("plc-2")) > n+5 })
		a.kill()
		unwritten = append(unwritten, [2]time.Time{written, time.Now()})
	}
	mqtttest.WaitFor(t, "the day to be over for long enough", func() bool { return time.Now().Add(offset).After(full.Add(dailyAfter + time.Second)) })
	a.start()
	n := len(r.Batches("plc-1"))
	mqtttest.WaitFor(t, "the record of the day", func() bool { return r.Retained("millrace/plant/gw-1/connectivity/daily") != nil })
	mqtttest.WaitFor(t, "batches after the kills", func() bool { return len(r.Batches("plc-1")) > n+20 })
	a.stop()
	mqtttest.WaitFor(t, "the last batches", func() bool { return r.Status("gw-1")["reason"] == "stopped" })
	rows, pauses, _ = booksOf(t, books)
	got, late := arrivedGood(r, unwritten)
	for k, n := range got {
		if c := rows[k]; c.Delivered > n || c.Delivered < n-late[k] {
			t.Errorf("%v: the receiver has %d good readings, of which %d may be missing; the ledger says %d", k, n, late[k], c.Delivered)
		}
	}
	var ended []ledger.Ended
	for _, p := range pauses {
		ended = append(ended, p.Ended)
	}
	if fmt.Sprint(ended) != "[stopped killed killed]" {
		t.Errorf("pauses: %+v", pauses)
	}
	checkPublished(t, r)
	checkDaily(t, r, full)
	checkReport(t, a)
}

// checkDaily looks at the record of the day that ended at a time.
func checkDaily(t *testing.T, r *mqtttest.Receiver, end time.Time) {
	t.Helper()
	var m struct {
		Period struct {
			Kind     string
			From, To int64
		}
		Totals struct{ Delivered int64 }
	}
	body := r.Retained("millrace/plant/gw-1/connectivity/daily")
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatalf("%v: %q", err, body)
	}
	if err := conforms(t, "daily", body); err != nil {
		t.Error(err)
	}
	got, _ := arrivedGood(r, nil)
	want := int64(0)
	for k, n := range got {
		if k.hour < end.Unix()/3600 {
			want += n
		}
	}
	if m.Period.Kind != "day" || m.Period.To != end.UnixMilli() || m.Totals.Delivered != want {
		t.Errorf("the day's record says %d delivered, the receiver %d: %s", m.Totals.Delivered, want, body)
	}
}

// flushLedger has the agent write what it has counted.
func flushLedger(t *testing.T, bufferDir string) {
	t.Helper()
	if live, err := flushAgent(t.Context(), bufferDir); err != nil || !live {
		t.Fatalf("%t, %v", live, err)
	}
}

// checkPublished looks at the retained figures.
func checkPublished(t *testing.T, r *mqtttest.Receiver) {
	t.Helper()
	var m struct {
		V          int
		Gateway    string
		Ledger     bool
		Indicators []struct {
			ID                     connectivity.IndicatorID
			Numerator, Denominator int64
		}
		Devices []struct {
			Device   string
			Expected int64
		}
	}
	body := r.Retained("millrace/plant/gw-1/connectivity")
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatalf("%v: %q", err, body)
	}
	if err := conforms(t, "connectivity", body); err != nil {
		t.Error(err)
	}
	if m.V != 1 || m.Gateway != "gw-1" || m.Ledger || len(m.Devices) != 2 || m.Devices[0].Expected == 0 || len(m.Indicators) != 9 {
		t.Errorf("published: %s", body)
	}
	if x := m.Indicators[1]; x.ID != connectivity.Networking || x.Denominator != 2 {
		t.Errorf("%+v", x)
	}
}

// checkReport makes reports of the stopped agent's files.
func checkReport(t *testing.T, a *agentProcess) {
	t.Helper()
	day := time.Now().Add(-24 * time.Hour).UTC().Format(time.DateOnly) // whatever the time zone: it has come
	for _, format := range []string{"html", "xlsx", "csv", "json"} {
		name := filepath.Join(t.TempDir(), "r."+format)
		stdout, stderr, code := millrace(t, "report", "-c", a.config, "--from", day, "--lang", "zh", "-o", name)
		if code != exitDone {
			t.Fatalf("%s%s", stdout, stderr)
		}
		if info, err := os.Stat(name); err != nil || info.Size() < 500 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
