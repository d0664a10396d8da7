package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/configs"
	"millrace/protocols"
)

// registers is the request for n registers at 9600 8N1, by hand: a character
// is 10 bits, 1.0417 ms; 8 characters there, 5 and two for each register
// back, and two silences of 3.5 characters, 3.646 ms.
func registers(n int) protocols.Request {
	chars := float64(8+5+2*n) + 2*3.5
	return protocols.Request{ReqBytes: 8, AnsBytes: 5 + 2*n, Line: time.Duration(chars * 10 / 9600 * 1e9)}
}

func near(got, want time.Duration) bool { return max(got-want, want-got) < 2*time.Microsecond }

func TestPace(t *testing.T) {
	t.Parallel()
	const silence = 3646 * time.Microsecond
	network := protocols.Request{ReqBytes: 12, AnsBytes: 259} // 216.8 µs at 10 Mbit/s
	many := slices.Repeat([]protocols.Request{network}, 5)
	tests := []struct {
		name     string
		pace     pace
		requests []protocols.Request
		want     time.Duration
	}{
		{"nothing", pace{turnaround: 5e6}, nil, 0},
		{"10 registers", pace{turnaround: 5e6, silence: silence}, []protocols.Request{registers(10)}, 46_667 * time.Microsecond},
		{"125 registers", pace{silence: silence}, []protocols.Request{registers(125)}, 281_250 * time.Microsecond},
		{"two requests", pace{turnaround: 5e6, silence: silence}, []protocols.Request{registers(10), registers(1)}, 74_583 * time.Microsecond},
		{"a pause within the silence", pace{turnaround: 5e6, pause: 3e6, silence: silence}, []protocols.Request{registers(10)}, 46_667 * time.Microsecond},
		{"a pause of 50 ms", pace{turnaround: 20e6, pause: 50e6, silence: silence}, []protocols.Request{registers(10)}, 108_021 * time.Microsecond},
		{"network", pace{turnaround: 5e6}, many[:1], 5217 * time.Microsecond},
		{"one after the other", pace{turnaround: 5e6, pause: 2e6}, many, 36_084 * time.Microsecond},
		{"four at once", pace{turnaround: 5e6, window: 4}, many, 11_084 * time.Microsecond},
		{"auto is one", pace{turnaround: 5e6, window: protocols.InflightAuto}, many, 26_084 * time.Microsecond},
	}
	for _, tc := range tests {
		if got := tc.pace.scan(tc.requests); !near(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// scansLike are one scan for each of the times, of as many units.
func scansLike(interval time.Duration, took ...time.Duration) []busScan {
	scans := make([]busScan, len(took))
	for i := range took {
		scans[i] = busScan{unit: string(rune('a' + i)), interval: interval, timeout: 300 * time.Millisecond, requests: 2, took: took[i]}
	}
	return scans
}

func TestBusTime(t *testing.T) {
	t.Parallel()
	scans := scansLike(time.Second, 100e6, 200e6, 300e6)
	// The second unit has another scan, and is another device's as well.
	scans = append(scans, busScan{unit: "b", interval: 10 * time.Second, timeout: time.Second, requests: 5, took: 400e6})
	b := timeOf(scans)
	if b.units != 3 || b.cycle != time.Second || math.Abs(b.load-0.64) > 1e-9 || math.Abs(b.requests-6.5) > 1e-9 {
		t.Errorf("%+v", b)
	}
	for n, want := range map[int]deadTime{
		// The first one is dead, which had the least to do.
		1: {units: 1, load: 0.05 + 0.54, cycle: 947_368 * time.Microsecond, notice: time.Second},
		// The second has more to do than the third.
		2: {units: 2, load: 0.05 + 0.24, cycle: 631_579 * time.Microsecond, notice: 1300e6},
		3: {units: 3, load: 0.05, notice: 1600e6},
	} {
		got := withDead(scans, n)
		if got.units != want.units || got.notice != want.notice || !near(got.cycle, want.cycle) || math.Abs(got.load-want.load) > 1e-9 {
			t.Errorf("%d dead: %+v, want %+v", n, got, want)
		}
	}
}

func TestDeadCounts(t *testing.T) {
	t.Parallel()
	for units, want := range map[int][]int{0: nil, 1: nil, 2: {1}, 4: {1}, 5: {1, 2}, 8: {1, 2}, 12: {1, 3}, 32: {1, 8}, 247: {1, 62}} {
		if got := deadCounts(units); !slices.Equal(got, want) {
			t.Errorf("of %d units: %v, want %v", units, got, want)
		}
	}
}

func TestShortest(t *testing.T) {
	t.Parallel()
	tests := []struct {
		scans []busScan
		want  time.Duration
	}{
		{scansLike(time.Millisecond, 9e6), 10 * time.Millisecond},
		{scansLike(time.Millisecond, 9.6e6), 20 * time.Millisecond}, // a twentieth is left for probes
		{scansLike(time.Second, 700e6, 700e6), 1500 * time.Millisecond},
		{scansLike(time.Second, 1900e6), 2 * time.Second},
		{scansLike(time.Second, 1901e6), 3 * time.Second},
		// What is asked less often is left as it is.
		{append(scansLike(100*time.Millisecond, 150e6), scansLike(10*time.Second, 2e9)...), 200 * time.Millisecond},
		{scansLike(time.Second, 3500*time.Second), 0},
	}
	for i, tc := range tests {
		if got := shortest(tc.scans); got != tc.want {
			t.Errorf("%d: %v, want %v", i, got, tc.want)
		}
	}
}

func TestNumbersForPeople(t *testing.T) {
	t.Parallel()
	for f, want := range map[float64]string{0: "0", 0.004: "0", 0.5: "0.5", 9.994: "9.99", 9.996: "10", 12.34: "12.3", 99.97: "100", 100: "100", 1234.5: "1234"} {
		if got := threeDigits(f); got != want {
			t.Errorf("%v is %s, want %s", f, got, want)
		}
	}
	for f, want := range map[float64]string{0.25: "0.25 ms", 435.2: "435 ms", 999.6: "1 s", 1234: "1.23 s", 59_940: "59.9 s", 59_960: "1m", 125_400: "2m5s"} {
		if got := msText(f); got != want {
			t.Errorf("%v is %s, want %s", f, got, want)
		}
	}
	for f, want := range map[float64]string{0: "0%", 0.001: "less than 1%", 0.435: "44%", 1.471: "147%"} {
		if got := percent(f); got != want {
			t.Errorf("%v is %s, want %s", f, got, want)
		}
	}
}

// meterLine is a configuration of meters on one line at 9600 8N1, all alike.
func meterLine(t *testing.T, meters int, device string) *configs.Config {
	t.Helper()
	var b strings.Builder
	b.WriteString("gateway: {id: gw-1}\ndevices:\n")
	for i := range meters {
		fmt.Fprintf(&b, "  - {id: meter-%d, unit: %d, driver: modbus, endpoint: \"rtu:///dev/ttyS1?baud=9600\", %s}\n", i+1, i+1, device)
	}
	c, err := configs.Parse("plant.yaml", []byte(b.String()), t.TempDir(), checkers())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestBigLine: many units take no more lines than few, and what helps is
// said for all of them.
func TestBigLine(t *testing.T) {
	t.Parallel()
	// Each is 18 and 20 registers, with 10 between them: 49 + 53 characters and
	// 4 silences, 120.8 ms, and twice 5 ms; in one request 109 characters and 2
	// silences, the same 120.8 ms, but 5 ms once.
	_, buses := readPlans(meterLine(t, 32, `interval: 2s, max_gap: 4, tags: [{name: a, address: "input:0", type: "uint16[18]"}, {name: b, address: "input:28", type: "uint16[20]"}]`))
	if len(buses) != 1 {
		t.Fatalf("%d buses", len(buses))
	}
	const want = `bus rtu:///dev/ttyS1 (9600 8N1): 32 units, 32 requests a second, 209% of its time
  one round of all scans takes 4.19 s; with 1 unit dead 4.27 s for the others, with 8 dead 3.31 s (at first 1 s more for each)
  WARNING: there is not enough time for all scans: some will be skipped. With no interval below 5s they can all be made.
  what would help, too: max_gap: 16 on all 32 devices would save 160 ms of each round (201% of the time); 38400 baud, if all devices can (70% of the time)
`
	if got := buses[0].text(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

// TestOnlyTheDeadAreTooMuch: a line that has just time enough for its scans
// has none for probes.
func TestOnlyTheDeadAreTooMuch(t *testing.T) {
	t.Parallel()
	// 41.67 ms on the line and 5.9 ms each: 21 of them are 99.9% of a second,
	// 20 and a twentieth for probes 100.1%.
	cfg := meterLine(t, 21, `turnaround: 5900us, tags: [{name: a, address: "input:0", type: "uint16[10]"}]`)
	_, buses := readPlans(cfg)
	text := buses[0].text()
	if buses[0].Load > 1 || !strings.Contains(text, "WARNING: while a unit is dead") || !strings.Contains(text, "With no interval below 1.5s") {
		t.Errorf("load %v:\n%s", buses[0].Load, text)
	}
}
