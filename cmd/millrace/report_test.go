package main

import (
	"testing"
	"time"

	"millrace/collector/connectivity"
)

// TestNamedPeriods: the periods of a report begin and end with days, also
// where a day has no midnight.
func TestNamedPeriods(t *testing.T) {
	t.Parallel()
	zone, err := time.LoadLocation("America/Havana") // the clock goes from 00:00 to 01:00 on 2026-03-08, a Sunday
	if err != nil {
		t.Fatal(err)
	}
	today, _ := connectivity.DayOf(time.Date(2026, 3, 9, 15, 0, 0, 0, zone))
	for name, want := range map[string][2]string{
		"today":      {"2026-03-09 00", "2026-03-10 00"},
		"yesterday":  {"2026-03-08 01", "2026-03-09 00"},
		"week":       {"2026-03-09 00", "2026-03-10 00"},
		"last-week":  {"2026-03-02 00", "2026-03-09 00"},
		"month":      {"2026-03-01 00", "2026-03-10 00"},
		"":           {"2026-03-01 00", "2026-03-10 00"},
		"last-month": {"2026-02-01 00", "2026-03-01 00"},
		"year":       {"2026-01-01 00", "2026-03-10 00"},
	} {
		from, to, err := namedPeriod(name, today)
		if got := [2]string{from.Format("2006-01-02 15"), to.Format("2006-01-02 15")}; err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
	o := reportOptions{from: "2026-03-08", to: "2026-03-08"}
	from, to, err := o.span(today)
	if err != nil || from.Format("2006-01-02 15") != "2026-03-08 01" || !to.Equal(today) {
		t.Errorf("%s to %s, %v", from, to, err)
	}
}
