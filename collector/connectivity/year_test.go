package connectivity_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"millrace/collector/connectivity"
	"millrace/collector/ledger"
	"millrace/configs"
	"millrace/protocols"
)

const (
	yearDevices = 200
	yearTags    = 10
)

// yearConfig is a site of 250 machines, of which 200 are connected by a device
// each: the first 40 are key equipment, in 8 key processes.
func yearConfig(zone string) *configs.Config {
	c := parse(`gateway: {id: gw-1}
connectivity: {timezone: ` + zone + `}
devices: [{id: d, driver: none, endpoint: "tcp://192.0.2.5:502", tags: [{name: t, address: a}]}]`)
	c.Devices, c.Equipment = nil, nil
	for i := range 250 {
		e := configs.Equipment{Asset: fmt.Sprintf("A-%03d", i), Name: fmt.Sprintf("Machine %d", i), Key: i < 40, Digital: i < 220, KeyProcess: i < 40, Process: fmt.Sprintf("P%d", i%8)}
		if i < yearDevices {
			id := deviceID(i)
			e.Devices = []string{id}
			c.Devices = append(c.Devices, &protocols.Device{ID: id, Enabled: true, Interval: time.Second})
		}
		c.Equipment = append(c.Equipment, e)
	}
	c.EquipmentLedger = "ledger.csv"
	return c
}

func deviceID(i int) string { return fmt.Sprintf("press-%03d", i) }

// virtual is a clock that a test sets.
type virtual struct {
	wall time.Time
	mono time.Duration
}

func (v *virtual) to(t time.Time) {
	v.mono += t.Sub(v.wall)
	v.wall = t
}

func (v *virtual) open(dir string) *ledger.Ledger {
	return ledger.New(ledger.Options{
		Dir: dir, Keep: 400 * 24 * time.Hour,
		Now: func() time.Time { return v.wall }, Elapsed: func() time.Duration { return v.mono },
	})
}

// simulateYear keeps a ledger for 2026: every device has ten tags that are
// read each second, one of them never good. Device i falls silent each day at
// 02:00 for i minutes. On the first of each month the agent is stopped from
// 00:00 to 00:30. On Sundays the broker is away from 12:00 to 15:00, and gets
// what waited at 15:00; on 2026-07-01 what was read from 06:00 to 09:00 is
// given up.
func simulateYear(tb testing.TB, dir string, zone *time.Location, days int) (end time.Time) {
	tb.Helper()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, zone)
	v := &virtual{wall: start}
	l := v.open(dir)
	devs := yearLedger(l, start)
	for d := range days {
		day := start.AddDate(0, 0, d)
		if day.Day() == 1 && d > 0 {
			v.to(day)
			l.Flush(true)
			v.to(day.Add(30 * time.Minute))
			l = v.open(dir)
			l.Flush(false)
			devs = yearLedger(l, v.wall)
		}
		for h := range 24 {
			yearHour(v, l, devs, day, h, d > 0)
		}
	}
	end = start.AddDate(0, 0, days)
	v.to(end)
	l.Flush(true)
	return end
}

func yearLedger(l *ledger.Ledger, now time.Time) []*ledger.Device {
	var devs []*ledger.Device
	var ids []string
	for i := range yearDevices {
		ids = append(ids, deviceID(i))
		d := l.Device(ids[i])
		d.State(now, ledger.Online, time.Time{}, "")
		d.Plan([]ledger.Group{{Tags: yearTags, Interval: time.Second}})
		devs = append(devs, d)
	}
	l.SetDevices(now, ids)
	return devs
}

// yearHour is one hour of all devices.
func yearHour(v *virtual, l *ledger.Ledger, devs []*ledger.Device, day time.Time, h int, paused bool) {
	from := day.Add(time.Duration(h) * time.Hour)
	first := from
	if h == 0 && day.Day() == 1 && paused {
		first = from.Add(30 * time.Minute)
	}
	for i, d := range devs {
		d.Due(first, time.Second, int(from.Add(time.Hour).Sub(first)/time.Second), yearTags)
		answered := int64(from.Add(time.Hour).Sub(first)/time.Second) - silentSeconds(i, h)
		n := int(answered)
		if n > 0 {
			d.Scanned(first, ledger.Scan{Read: n * yearTags, Good: n * (yearTags - 1), Sent: n * (yearTags - 1), Took: 20 * time.Millisecond})
		}
		switch {
		case lost(day, h):
			d.Dropped(first.UnixMilli(), ledger.BufferFull, n*(yearTags-1))
		case !late(day, h):
			d.Delivered(first.UnixMilli(), n*(yearTags-1), 0)
		}
	}
	// The silences, in order of time.
	if h >= 2 && h <= 5 {
		for m := range 60 {
			at := from.Add(time.Duration(m) * time.Minute)
			v.to(at)
			for i, d := range devs {
				switch {
				case i > 0 && h == 2 && m == 0:
					d.State(at, ledger.Offline, at, "no answer within 1 s")
				case i > 0 && (h-2)*60+m == i:
					d.State(at, ledger.Online, time.Time{}, "")
				}
			}
		}
	}
	v.to(from.Add(time.Hour))
	if h == 14 && day.Weekday() == time.Sunday { // the broker is back
		for back := 12; back < 15; back++ {
			for i, d := range devs {
				_ = i
				d.Delivered(day.Add(time.Duration(back)*time.Hour).UnixMilli(), 3600*(yearTags-1), 0)
			}
		}
	}
	l.Flush(false)
}

func silentSeconds(i, h int) int64 {
	return int64(min(max(i-(h-2)*60, 0), 60)*60) * int64(b2i(h >= 2))
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func late(day time.Time, h int) bool { return day.Weekday() == time.Sunday && h >= 12 && h < 15 }

func lost(day time.Time, h int) bool {
	return day.Month() == time.July && day.Day() == 1 && h >= 6 && h < 9
}

func memoryDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "millrace-year-") //nolint:usetesting // it is to be in memory
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func sizeOf(tb testing.TB, dir string) (n int64) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			tb.Fatal(err)
		}
		n += info.Size()
	}
	return n
}

// TestYear has the figures of a simulated year of 200 devices be those that
// can be computed by hand, to the second and the reading.
func TestYear(t *testing.T) {
	t.Parallel()
	cfg := yearConfig("Asia/Shanghai")
	zone := cfg.Connectivity.Calendar.Location()
	dir := memoryDir(t)
	end := simulateYear(t, dir, zone, yearDays)
	if size := sizeOf(t, dir); size > 50<<20 {
		t.Errorf("the ledger has %d bytes", size)
	} else {
		t.Logf("the ledger has %.1f MiB", float64(size)/(1<<20))
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, zone)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	f, err := connectivity.Compute(connectivity.Input{
		Config: cfg, From: start, To: end, Now: end,
		Source: func(from, to time.Time, v ledger.Visitor) (int64, error) { return ledger.Read(dir, from, to, v) },
	})
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	t.Logf("computed in %s, %d MiB from the system", took, (after.Sys-before.Sys)>>20)

	const days = yearDays
	pauses, lostDays := 0, int64(0)
	for d := 1; d < days; d++ {
		pauses += b2i(start.AddDate(0, 0, d).Day() == 1)
		lostDays += int64(b2i(lost(start.AddDate(0, 0, d), 6)))
	}
	pause := int64(pauses * 1800) // s
	for i := range f.Devices {
		d := &f.Devices[i]
		silent := int64(i) * 60 * days
		up := days*86400 - pause
		answered := up - silent
		dropped := lostDays * 3 * 3600 * 9
		want := connectivity.Totals{
			Expected: days * 86400 * yearTags, Read: answered * yearTags, Good: answered * 9, Due: answered * 9,
			Delivered: answered*9 - dropped,
			OnlineSec: answered, OfflineSec: silent, AnsweringSec: answered, PlannedSec: days * 86400, Outages: days * int64(b2i(i > 0)),
		}
		if dropped > 0 {
			want.Dropped = map[string]int64{"buffer_full": dropped}
		}
		if fmt.Sprint(d.Totals) != fmt.Sprint(want) {
			t.Fatalf("%s:\n%+v, want\n%+v", d.ID, d.Totals, want)
		}
		// Hours without data: the whole ones of each day's silence, and those
		// that were given up.
		without := int64(i/60)*days*3600 + lostDays*3*3600
		if d.DeliveredSec != days*86400-without {
			t.Fatalf("%s: %d s with data, want %d", d.ID, d.DeliveredSec, days*86400-without)
		}
		if d.Networked != (i < 180) { // 21 of 24 hours are less than 90 %
			t.Errorf("%s is networked: %t", d.ID, d.Networked)
		}
		if len(d.Outage) != days*b2i(i > 0) {
			t.Fatalf("%s: %d outages", d.ID, len(d.Outage))
		}
		for _, o := range d.Outage {
			if o.To-o.From != int64(i)*60000 || o.Cut {
				t.Fatalf("%s: %+v", d.ID, o)
			}
		}
	}
	checkIndicators(t, f, map[connectivity.IndicatorID][2]int64{
		connectivity.Digitalisation:    {220, 250},
		connectivity.Networking:        {180, 250},
		connectivity.DigitalNetworking: {180, 220},
		connectivity.KeyNetworking:     {40, 40},
		connectivity.KeyProcesses:      {8, 8},
		connectivity.Availability:      {200*(days*86400-pause) - 199*200/2*60*days, 200 * days * 86400},
		connectivity.ReadRate:          {(200*(days*86400-pause) - 199*200/2*60*days) * 10, 200 * days * 86400 * 10},
		connectivity.ValidRate:         {(200*(days*86400-pause) - 199*200/2*60*days) * 9, (200*(days*86400-pause) - 199*200/2*60*days) * 10},
		connectivity.DeliveryRate:      {(200*(days*86400-pause)-199*200/2*60*days)*9 - 200*lostDays*3*3600*9, (200*(days*86400-pause) - 199*200/2*60*days) * 9},
	})
	if p := *f.Indicators[1].Points; p != 6 { // 72 %
		t.Errorf("%g points", p)
	}
	if len(f.Pauses) != pauses || len(f.Series) != days {
		t.Errorf("%d pauses, %d points", len(f.Pauses), len(f.Series))
	}
	if p := f.Series[5]; p.Networked != 180 || p.Machines != 250 || p.Expected != 200*864000 {
		t.Errorf("%+v", p)
	}
}

func checkIndicators(t *testing.T, f *connectivity.Figures, want map[connectivity.IndicatorID][2]int64) {
	t.Helper()
	for i := range f.Indicators {
		x := &f.Indicators[i]
		if w := want[x.ID]; x.Numerator != w[0] || x.Denominator != w[1] {
			t.Errorf("%s: %d of %d, want %d of %d", x.ID, x.Numerator, x.Denominator, w[0], w[1])
		}
	}
}

// BenchmarkYear computes the figures of a year of 200 devices.
func BenchmarkYear(b *testing.B) {
	cfg := yearConfig("Asia/Shanghai")
	zone := cfg.Connectivity.Calendar.Location()
	dir := memoryDir(b)
	end := simulateYear(b, dir, zone, 365)
	b.ReportMetric(float64(sizeOf(b, dir))/(1<<20), "MiB")
	for b.Loop() {
		if _, err := connectivity.Compute(connectivity.Input{
			Config: cfg, From: time.Date(2026, 1, 1, 0, 0, 0, 0, zone), To: end, Now: end,
			Source: func(from, to time.Time, v ledger.Visitor) (int64, error) { return ledger.Read(dir, from, to, v) },
		}); err != nil {
			b.Fatal(err)
		}
	}
}
