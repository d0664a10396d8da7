package connectivity_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"millrace/collector/connectivity"
	"millrace/collector/ledger"
	"millrace/configs"
	"millrace/protocols"
)

// entry is what a test's ledger has of a device in an hour.
type entry struct {
	device string
	at     time.Time
	n      ledger.Counts
}

// computed returns the figures of a ledger with the given entries, which was
// written up to until.
func computed(t *testing.T, cfg *configs.Config, from, to, until time.Time, entries ...entry) *connectivity.Figures {
	t.Helper()
	f, err := connectivity.Compute(connectivity.Input{
		Config: cfg, From: from, To: to, Now: until,
		Source: func(_, _ time.Time, v ledger.Visitor) (int64, error) {
			for i := range entries {
				v.Row(entries[i].device, entries[i].at.Unix()/3600, &entries[i].n)
			}
			return until.UnixMilli(), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func oneDevice(keys string) *configs.Config {
	return parse("gateway: {id: gw-1}\nconnectivity: {" + keys + "}\ndevices: [{id: d, driver: none, endpoint: \"tcp://192.0.2.5:502\", tags: [{name: t, address: a}]}]")
}

// TestDayWithoutMidnight: where the clock is put forward at midnight, there is
// one step for each day all the same.
func TestDayWithoutMidnight(t *testing.T) {
	t.Parallel()
	for zone, day := range map[string]string{"America/Havana": "2026-03-08", "America/Santiago": "2026-09-06", "Africa/Cairo": "2026-04-24", "Asia/Shanghai": "2026-03-08"} {
		cfg := oneDevice("timezone: " + zone)
		noon, err := time.ParseInLocation("2006-01-02 15", day+" 12", cfg.Connectivity.Calendar.Location())
		if err != nil {
			t.Fatal(err)
		}
		first, to := connectivity.DayOf(noon)
		if first.Day() != noon.Day() || to.Day() != noon.AddDate(0, 0, 1).Day() {
			t.Errorf("%s: the day is from %s to %s", zone, first, to)
		}
		from, _ := connectivity.DayOf(noon.AddDate(0, 0, -2))
		_, to = connectivity.DayOf(noon.AddDate(0, 0, 2))
		f := computed(t, cfg, from, to, to)
		if len(f.Series) != 5 {
			t.Errorf("%s: %d days, want 5", zone, len(f.Series))
		}
		if want := int64(to.Sub(from) / time.Second); f.Rule.PlannedSec != want {
			t.Errorf("%s: %d s planned, want %d", zone, f.Rule.PlannedSec, want)
		}
	}
}

// TestOutagesInOrder: also where an int has 32 bits, which hold 24 days of
// milliseconds (GOARCH=386 go test runs it so).
func TestOutagesInOrder(t *testing.T) {
	t.Parallel()
	cfg := oneDevice("timezone: Asia/Shanghai")
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f, err := connectivity.Compute(connectivity.Input{
		Config: cfg, From: from, To: from.AddDate(1, 0, 0), Now: from,
		Source: func(_, _ time.Time, v ledger.Visitor) (int64, error) {
			for _, day := range []int{80, 0, 160, 120, 40} {
				at := from.AddDate(0, 0, day).UnixMilli()
				v.Outage(ledger.Outage{Device: "d", From: at, To: at + 1})
			}
			return from.UnixMilli(), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	list := f.Devices[0].Outage
	for i := range list {
		if want := from.AddDate(0, 0, 40*i).UnixMilli(); list[i].From != want {
			t.Errorf("outage %d is that of %s", i, time.UnixMilli(list[i].From).UTC())
		}
	}
}

// TestDeliveredAfterKill: readings of the minute before a kill, which were not
// counted when they were handed over, are delivered all the same: no rate is
// above 100 %.
func TestDeliveredAfterKill(t *testing.T) {
	t.Parallel()
	cfg := oneDevice("timezone: Asia/Shanghai")
	from := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	lost := ledger.Counts{Sent: 100, Delivered: 130}
	lost.Dropped[ledger.BufferFull] = 5
	f := computed(t, cfg, from, from.Add(2*time.Hour), from.Add(2*time.Hour), entry{"d", from, lost}, entry{"d", from.Add(time.Hour), ledger.Counts{Sent: 20, Delivered: 10}})
	x := f.Indicators[len(f.Indicators)-1]
	if x.ID != connectivity.DeliveryRate || x.Numerator != 140 || x.Denominator != 145 {
		t.Errorf("%+v, want 140 of 145", x)
	}
	if n := f.Totals.Waiting(); n != 0 {
		t.Errorf("%d wait", n)
	}
	if p := f.Series[0]; p.Due != 135 || p.Delivered != 130 {
		t.Errorf("%+v", p)
	}
}

// ruleConfig is a site of two devices, of which one is switched off, and these
// machines: a with d, b and c with nothing, and what more says.
func ruleConfig(keys string, equipment ...configs.Equipment) *configs.Config {
	cfg := parse("gateway: {id: gw-1}\nconnectivity: {" + keys + "}\ndevices:\n" +
		"  - {id: d, driver: none, endpoint: \"tcp://192.0.2.5:502\", tags: [{name: t, address: a}]}\n" +
		"  - {id: off, driver: none, enabled: false, endpoint: \"tcp://192.0.2.6:502\", tags: [{name: t, address: a}]}\n")
	cfg.Equipment = equipment
	return cfg
}

func delivered(at time.Time, due, delivered int64) entry {
	return entry{"d", at, ledger.Counts{Sent: due, Delivered: delivered, Online: time.Hour}}
}

// TestRule: which hours count, and how much of them is planned.
func TestRule(t *testing.T) {
	t.Parallel()
	const zone = "timezone: Asia/Shanghai"
	from := time.Date(2026, 3, 1, 16, 0, 0, 0, time.UTC) // Monday, 00:00 in Shanghai
	hour := func(n int) time.Time { return from.Add(time.Duration(n) * time.Hour) }
	a := configs.Equipment{Asset: "a", Devices: []string{"d"}, Digital: true}
	for _, c := range []struct {
		name, keys        string
		until             int // hours
		entries           []entry
		planned, answered int64
		counted           int64
		networked         bool
		unplanned         bool
	}{
		{"nine of ten hours", zone, 10, hoursOf(from, 9), 36000, 9 * 3600, 9 * 3600, true, false},
		{"eight of ten hours", zone, 10, hoursOf(from, 8), 36000, 8 * 3600, 8 * 3600, false, false},
		{"half of an hour's readings", zone + ", networked: {hours: 1, completeness: 50%}", 1, []entry{delivered(from, 100, 50)}, 3600, 3600, 3600, true, false},
		{"less than half of them", zone + ", networked: {hours: 1, completeness: 50%}", 1, []entry{delivered(from, 100, 49)}, 3600, 3600, 0, false, false},
		{"nothing delivered", zone, 1, []entry{delivered(from, 100, 0)}, 3600, 3600, 0, false, false},
		{"a shift from 08:30", zone + `, shifts: [{days: mon, from: "08:30", to: "10:00"}]`, 24, []entry{delivered(hour(8), 1, 1)}, 5400, 1800, 1800, false, false},
		{"data beside the shift", zone + `, shifts: [{days: mon, from: "08:00", to: "10:00"}]`, 24, []entry{delivered(hour(11), 1, 1)}, 7200, 0, 0, false, false},
		{"nothing is planned", zone + `, shifts: [{days: tue, from: "08:00", to: "10:00"}]`, 2, []entry{delivered(hour(0), 1, 1)}, 7200, 3600, 3600, false, true},
		{"not begun", zone, 0, nil, 0, 0, 0, false, false},
	} {
		f := computed(t, ruleConfig(c.keys, a), from, hour(24), hour(c.until), c.entries...)
		d, m := &f.Devices[0], &f.Machines[0]
		if f.Rule.PlannedSec != c.planned || f.Rule.Unplanned != c.unplanned || d.AnsweringSec != c.answered || m.DeliveredSec != c.counted || m.Networked != c.networked || d.Networked != c.networked {
			t.Errorf("%s: planned %d s (%t), answering %d s, with data %d s, networked %t and %t",
				c.name, f.Rule.PlannedSec, f.Rule.Unplanned, d.AnsweringSec, m.DeliveredSec, m.Networked, d.Networked)
		}
		if off := &f.Devices[1]; off.PlannedSec != 0 || d.PlannedSec != c.planned {
			t.Errorf("%s: of the device that is off %d s are planned, of the other %d", c.name, off.PlannedSec, d.PlannedSec)
		}
		if !f.Until.Equal(hour(c.until)) {
			t.Errorf("%s: counted until %s", c.name, f.Until)
		}
	}
}

// hoursOf are n hours with data.
func hoursOf(from time.Time, n int) (all []entry) {
	for h := range n {
		all = append(all, delivered(from.Add(time.Duration(h)*time.Hour), 10, 10))
	}
	return all
}

// TestSinceBegun: the figures of a gateway that is new count from when its
// ledger was begun, those of a day do not.
func TestSinceBegun(t *testing.T) {
	t.Parallel()
	from := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	began := from.Add(10*time.Hour + 30*time.Minute)
	for _, since := range []bool{true, false} {
		f, err := connectivity.Compute(connectivity.Input{
			Config: ruleConfig("timezone: Asia/Shanghai"), From: from, To: from.Add(24 * time.Hour), Now: from, SinceBegun: since,
			Source: func(_, _ time.Time, v ledger.Visitor) (int64, error) {
				v.Began(began.UnixMilli())
				v.Row("d", began.Unix()/3600, &ledger.Counts{Online: 30 * time.Minute})
				return from.Add(12 * time.Hour).UnixMilli(), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := map[bool][2]int64{true: {5400, 1800}, false: {12 * 3600, 1800}}[since]
		if got := [2]int64{f.Rule.PlannedSec, f.Devices[0].AnsweringSec}; got != want || !f.Began.Equal(began) {
			t.Errorf("since it was begun %t: %v, want %v; began %s", since, got, want, f.Began)
		}
		if body, err := f.Message(connectivity.Day); err != nil || !strings.Contains(string(body), fmt.Sprintf(`,"began":%d,`, began.UnixMilli())) {
			t.Errorf("%v: %s", err, body)
		}
	}
}

// TestSite: the figures by equipment, and what devices say of their machines.
func TestSite(t *testing.T) {
	t.Parallel()
	from := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	d := []string{"d"}
	cfg := ruleConfig("timezone: Asia/Shanghai",
		configs.Equipment{Asset: "a", Devices: d, Digital: true, Key: true, KeyProcess: true, Process: "welding", Maker: "Siemens AG", Serial: "S-1"},
		configs.Equipment{Asset: "b", Digital: true, KeyProcess: true, Process: "welding"},
		configs.Equipment{Asset: "c", Key: true, KeyProcess: true, Process: "milling"},
		configs.Equipment{Asset: "e", KeyProcess: true},
		configs.Equipment{Asset: "f", Process: "packing"})
	input := connectivity.Input{
		Config: cfg, From: from, To: from.Add(time.Hour), Now: from.Add(time.Hour),
		Evidence: map[string]connectivity.Evidence{"d": {Identity: protocols.Identity{
			Maker: "siemens", Model: "S7-1200", Product: "6ES7 214-1AG40-0XB0", Serial: "S-2", Software: "a server",
		}}},
		Source: func(_, _ time.Time, v ledger.Visitor) (int64, error) {
			v.Row("d", from.Unix()/3600, &ledger.Counts{Sent: 1, Delivered: 1})
			return from.Add(time.Hour).UnixMilli(), nil
		},
	}
	f, err := connectivity.Compute(input)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][2]int64{{2, 5}, {1, 5}, {1, 2}, {1, 2}, {1, 2}} {
		if x := f.Indicators[i]; x.Numerator != want[0] || x.Denominator != want[1] {
			t.Errorf("%s: %d of %d, want %d of %d", x.ID, x.Numerator, x.Denominator, want[0], want[1])
		}
	}
	// 40 % and 20 % are the upper ends of their bands.
	if a, b := *f.Indicators[0].Points, *f.Indicators[1].Points; a != 3 || b != 1.5 {
		t.Errorf("%g and %g points, want 3 and 1.5", a, b)
	}
	m := f.Machines[0]
	if m.Maker != "Siemens AG" || m.Model != "S7-1200" || len(m.Notes) != 1 || m.Notes[0] != (connectivity.Note{Field: "serial", Ledger: "S-1", Device: "S-2", By: "d"}) {
		t.Errorf("%+v", m)
	}
	// The ledger has the code by which it is ordered, which is no contradiction.
	cfg.Equipment[0].Model = "6ES7214-1AG40-0XB0"
	if f, err = connectivity.Compute(input); err != nil {
		t.Fatal(err)
	}
	if m := f.Machines[0]; m.Model != "6ES7214-1AG40-0XB0" || len(m.Notes) != 1 {
		t.Errorf("%+v", m)
	}
	// Of a device that serves two machines it is not known which it means.
	cfg.Equipment[1].Devices = d
	if f, err = connectivity.Compute(input); err != nil {
		t.Fatal(err)
	}
	if m := f.Machines[0]; m.Model != "6ES7214-1AG40-0XB0" || len(m.Notes) != 0 {
		t.Errorf("%+v", m)
	}
}
