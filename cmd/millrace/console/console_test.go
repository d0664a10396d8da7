package console

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeAgent is a Source that says what a test wants.
type fakeAgent struct {
	mu     sync.Mutex
	status Status
	ready  error
}

func (f *fakeAgent) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *fakeAgent) change(g func(s *Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g(&f.status)
}

func (f *fakeAgent) Ready() error { return f.ready }

// Connectivity is a day of two devices, one of which was away for six hours.
func (f *fakeAgent) Connectivity(period string) (*Connectivity, error) {
	if f.ready != nil {
		return nil, f.ready
	}
	rate, points, hour := 0.2, 1.5, int64(3600_000)
	from := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC).UnixMilli()
	c := &Connectivity{
		Period: period, From: from, To: from + 24*hour, Until: from + 24*hour, StepMS: hour, Timezone: "Asia/Shanghai", Ledger: true, Hours: 0.9,
		Calendar: map[string]string{"en": "around the clock (Asia/Shanghai)", "zh": "全天 24 小时（Asia/Shanghai）"}, Uplink: "platform",
		Indicators: []Indicator{
			{ID: "equipment_networking", Numerator: 1, Denominator: 5, Unit: "machines", Rate: &rate, Points: &points},
			{ID: "key_process_collection", Unit: "processes"},
			{ID: "delivery_rate", Numerator: 1999999, Denominator: 2000000, Unit: "readings", Rate: &rate},
		},
		Devices: []ConnDevice{
			{ID: "robot-7 <b>x</b>", State: "offline", Answering: 64800, Planned: 86400, Expected: 1000, Read: 750, Good: 750, Due: 750, Delivered: 700, Outages: 1, Heat: "555555555500000035555--5"},
			{ID: "press-1", State: "online", Networked: true, Answering: 86400, Planned: 86400, Expected: 1000, Read: 1000, Good: 999, Due: 999, Delivered: 999, Heat: "555555555555555555555--5"},
		},
		Outages: []ConnOutage{{Device: "robot-7", From: from + 10*hour, To: from + 16*hour, Reason: "no answer <i>at all</i>"}, {Device: "robot-7", From: from + 23*hour, Reason: "again"}},
		Pauses:  []ConnPause{{From: from + 21*hour, To: from + 23*hour, Ended: "killed"}},
	}
	for h := range int64(24) {
		c.Series = append(c.Series, ConnPoint{From: from + h*hour, Networked: int(h % 3), Machines: 5, Planned: h > 6})
	}
	return c, nil
}

func (*fakeAgent) Values(device string) []Value {
	if device != "press-1" {
		return nil
	}
	return []Value{
		{Name: "force", Address: "holding:2", Value: "1204.5", Unit: "kN", Quality: "good", Time: time.Now().UnixMilli(), Description: "at the <slide>"},
		{Name: "油温", Address: "holding:5", Quality: "bad", Reason: "timeout", Time: time.Now().UnixMilli()},
		{Name: "late", Address: "holding:9", Quality: "none"},
		{Name: "log", Address: "holding:100", Value: strings.Repeat("q83vEjRWeJA", 25), Unit: "kN", Quality: "good", Time: time.Now().UnixMilli()},
	}
}

func plantStatus() Status {
	now := time.Now().UnixMilli()
	return Status{
		Gateway: "gw-press-01", Group: "plant-2", Version: "1.0.0", Commit: "abc", Go: "go1.26", Started: now - 3_600_000, Now: now,
		Buffer: Buffer{
			Batches: 12, Bytes: 3 << 20, MaxBytes: 1 << 30, Memory: 2048, MemoryOnly: 9, MemoryMax: 8 << 20, Oldest: now - 90_000, Dropped: map[string]uint64{"buffer_full": 42}, DroppedBatches: map[string]uint64{"buffer_full": 2, "damaged": 7},
			Forecast: Forecast{Known: true, Rate: 9625, Holds: 111_600, HoldsLimit: "max_size", Trend: "filling", Left: 26_000, Full: now + 26_000_000, FullLimit: "max_size"},
		},
		Uplinks: []Uplink{
			{Name: "platform", Broker: "mqtt://127.0.0.1:1883", Up: true, Since: now - 60_000, Delivered: 123456, Lag: 3},
			{Name: "backup", Broker: "mqtts://192.0.2.1:8883", Since: now - 60_000, Reason: "the broker refused the password: check username and password", Lag: 900},
		},
		Devices: []Device{
			{ID: "press-1", Driver: "modbus", Endpoint: "tcp://192.0.2.5:502", State: "online", Since: now - 60_000, Tags: 3, LastTime: now, ScanMS: 3.2, IntervalMS: 1000, Scans: 60, Good: 120, Bad: 60, ScanHistogram: Histogram{Count: 60, Sum: time.Second, Buckets: map[time.Duration]uint64{time.Millisecond: 7}}},
			{ID: "meter-9", Driver: "modbus", Endpoint: "tcp://192.0.2.6:502", Unit: new(uint8(9)), State: "offline", Since: now - 5_000, Tags: 40, Monitored: new(38), Missed: 7, Reason: "no answer from unit 9 at tcp://192.0.2.6:502 within 1s: is unit id 9 right? <b>"},
		},
	}
}

func startConsole(t *testing.T, f *fakeAgent) string {
	t.Helper()
	c, err := New(t.Context(), Options{Listen: "127.0.0.1:0", Source: f, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- c.Serve() }()
	t.Cleanup(func() {
		start := time.Now()
		c.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("closing took %v", took)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return "http://" + c.Addr()
}

// get returns the body, the status code and the content security policy.
func get(t *testing.T, url string) (body string, code int, policy string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data), res.StatusCode, res.Header.Get("Content-Security-Policy")
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	url := startConsole(t, &fakeAgent{status: plantStatus()})
	tests := []struct {
		path, want string
		code       int
	}{
		{"/", "<title>Millrace</title>", http.StatusOK},
		{"/page.js", "EventSource", http.StatusOK},
		{"/healthz", "alive", http.StatusOK},
		{"/readyz", "ready", http.StatusOK},
		{"/api/status", `"gateway":"gw-press-01"`, http.StatusOK},
		{"/api/devices/press-1/values", `"油温"`, http.StatusOK},
		{"/api/devices/press-9/values", "there is no device press-9", http.StatusNotFound},
		{"/metrics", `millrace_readings_total{device="press-1",quality="good"} 120`, http.StatusOK},
		{"/metrics", `millrace_device_up{device="meter-9"} 0`, http.StatusOK},
		{"/metrics", `millrace_scan_duration_seconds_bucket{device="press-1",le="0.001"} 7`, http.StatusOK},
		{"/metrics", `millrace_uplink_lag_batches{uplink="backup"} 900`, http.StatusOK},
		{"/metrics", `millrace_buffer_dropped_readings_total{reason="buffer_full"} 42`, http.StatusOK},
		{"/metrics", `millrace_buffer_dropped_batches_total{reason="damaged"} 7`, http.StatusOK},
		{"/metrics", `millrace_scans_missed_total{device="meter-9"} 7`, http.StatusOK},
		{"/metrics", `millrace_build_info{commit="abc",goversion="go1.26",version="1.0.0"} 1`, http.StatusOK},
		{"/metrics", `millrace_tags_configured{device="meter-9"} 40`, http.StatusOK},
		{"/metrics", `millrace_tags_monitored{device="meter-9"} 38`, http.StatusOK},
		{"/api/status", `"monitored":38`, http.StatusOK},
		{"/metrics", "millrace_buffer_holds_seconds 111600\n", http.StatusOK},
		{"/metrics", "millrace_buffer_full_timestamp_seconds 1.", http.StatusOK},
		{"/metrics", "millrace_buffer_oldest_timestamp_seconds 1.", http.StatusOK},
		{"/metrics", "millrace_buffer_outage_growth_bytes_per_second 9625\n", http.StatusOK},
		{"/metrics", "millrace_buffer_max_bytes 1.073741824e+09\n", http.StatusOK},
		{"/api/status", `"forecast":{"known":true,"bytes_per_second":9625,"holds_seconds":111600,"holds_limit":"max_size","trend":"filling","left_seconds":26000,"full":`, http.StatusOK},
		{"/nothing", "not found", http.StatusNotFound},
	}
	for _, tc := range tests {
		body, code, policy := get(t, url+tc.path)
		if code != tc.code || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %d, want %d with %q:\n%.400s", tc.path, code, tc.code, tc.want, body)
		}
		if policy == "" {
			t.Errorf("%s has no content security policy", tc.path)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/status", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", res.StatusCode)
	}
}

func TestNotReady(t *testing.T) {
	t.Parallel()
	url := startConsole(t, &fakeAgent{ready: errors.New("no space left on device")})
	if body, code, _ := get(t, url+"/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no space left") {
		t.Errorf("%d %s", code, body)
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	url := startConsole(t, &fakeAgent{})
	addr := strings.TrimPrefix(url, "http://")
	if _, err := New(t.Context(), Options{Listen: addr, Source: &fakeAgent{}, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("error %v, want one that names %s", err, addr)
	}
}

// TestEvents reads two events, and expects the request to end with the
// console (see startConsole).
func TestEvents(t *testing.T) {
	t.Parallel()
	f := &fakeAgent{status: plantStatus()}
	url := startConsole(t, f)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/api/events?device=press-1", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	next := func() (e event) {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		return e
	}
	if e := next(); e.Status.Devices[0].State != "online" || len(e.Values) != 4 || e.Device != "press-1" {
		t.Errorf("first event %+v", e)
	}
	f.change(func(s *Status) { s.Devices = s.Devices[1:] })
	if e := next(); len(e.Status.Devices) != 1 {
		t.Errorf("second event %+v", e)
	}
}
