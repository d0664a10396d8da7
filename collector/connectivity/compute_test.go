package connectivity_test

import (
	"testing"
	"time"

	"millrace/collector/connectivity"
	"millrace/collector/ledger"
	"millrace/configs"
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
