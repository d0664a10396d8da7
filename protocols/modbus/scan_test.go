package modbus

import (
	"context"
	"strconv"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
)

// startServer returns a server on a free port that ends with the test.
func startServer(tb testing.TB) *modbustest.Server {
	tb.Helper()
	s := modbustest.NewServer()
	if err := s.Listen(""); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// newDevice returns unit 1 behind addr, with tags named by their addresses.
func newDevice(addr string, tags ...string) *protocols.Device {
	d := &protocols.Device{
		ID: "press-1", Driver: "modbus", Endpoint: "tcp://" + addr, Timeout: 2 * time.Second,
		Modbus: protocols.ModbusOptions{Unit: 1, MaxGap: 10, MaxRegisters: 125},
	}
	for _, a := range tags {
		d.Tags = append(d.Tags, protocols.Tag{Name: a, Address: a})
	}
	return d
}

// openScan connects to the device and plans a scan of all its tags.
func openScan(tb testing.TB, d *protocols.Device) (protocols.Bus, *scan) {
	tb.Helper()
	b, err := New(Options{}).Open([]*protocols.Device{d})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = b.Close() })
	if err := b.Connect(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	s, err := b.Plan(d, allTags(d))
	if err != nil {
		tb.Fatal(err)
	}
	return b, s.(*scan)
}

func allTags(d *protocols.Device) []int {
	tags := make([]int, len(d.Tags))
	for i := range tags {
		tags[i] = i
	}
	return tags
}

func read(ctx context.Context, s *scan, n int) ([]protocols.Reading, protocols.ScanResult) {
	out := make([]protocols.Reading, n)
	for i := range out {
		out[i].SetBad("not filled")
	}
	return out, s.Read(ctx, out)
}

// text writes a reading in short, for comparisons.
func text(r protocols.Reading) string {
	if r.Quality != protocols.Good {
		return string(r.Reason)
	}
	v := r.Value
	switch v.Kind() {
	case protocols.KindBool:
		return strconv.FormatBool(v.AsBool())
	case protocols.KindInt:
		return strconv.FormatInt(v.AsInt(), 10)
	case protocols.KindUint:
		return strconv.FormatUint(v.AsUint(), 10)
	default:
		return v.AsString()
	}
}

func wantReadings(t *testing.T, got []protocols.Reading, want ...string) {
	t.Helper()
	for i := range want {
		if s := text(got[i]); s != want[i] {
			t.Errorf("reading %d is %q, want %q", i, s, want[i])
		}
	}
}

func TestScanReadsAllTables(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	u := s.Unit(1)
	u.Holding.Set(0, 7, 0x8001)
	u.Input.Set(65535, 9)
	u.Coils.Set(3, true)
	u.Discrete.Set(4, true)
	d := newDevice(s.Addr(), "holding:0", "40002.15", "hr:1.1", "ir:65535", "coil:3", "coil:2", "10005")
	_, sc := openScan(t, d)
	out, res := read(t.Context(), sc, len(d.Tags))
	if res.Err != nil || res.Requests != 4 || res.Answers != 4 || res.Time.IsZero() {
		t.Errorf("unexpected result %+v", res)
	}
	wantReadings(t, out, "7", "true", "false", "9", "true", "false", "true")
}
