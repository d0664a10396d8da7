package opcua_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/protocols"
	"millrace/protocols/opcua"
	"millrace/protocols/opcua/opcuatest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := peerDir(); err == nil {
		_ = os.RemoveAll(dir)
	}
	if shared.srv != nil {
		shared.srv.Stop()
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// device returns a device that subscribes the given addresses, named t0, t1 and so on.
func device(endpoint string, addresses ...string) *protocols.Device {
	d := &protocols.Device{
		ID: "plc", Driver: "opcua", Endpoint: endpoint, Enabled: true,
		Interval: 20 * time.Millisecond, Timeout: 5 * time.Second,
		OPCUA: protocols.OPCUAOptions{Subscribe: true, SecurityPolicy: "None"},
	}
	for i, a := range addresses {
		d.Tags = append(d.Tags, protocols.Tag{Name: fmt.Sprintf("t%d", i), Address: a})
	}
	return d
}

func allTags(d *protocols.Device) []int {
	tags := make([]int, len(d.Tags))
	for i := range tags {
		tags[i] = i
	}
	return tags
}

func newServer(tb testing.TB, o opcuatest.Options) *opcuatest.Server {
	tb.Helper()
	s, err := opcuatest.NewServer(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// open returns a bus that is closed at the test's end, and not yet connected.
func open(tb testing.TB, drv *opcua.Driver, d *protocols.Device) protocols.Subscriber {
	tb.Helper()
	if found := drv.Check(d); len(found) > 0 {
		tb.Fatalf("Check: %v", found)
	}
	b, err := drv.Open([]*protocols.Device{d})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = b.Close() })
	return b.(protocols.Subscriber)
}

func connect(tb testing.TB, b protocols.Bus) {
	tb.Helper()
	if err := b.Connect(context.Background()); err != nil {
		tb.Fatal(err)
	}
}

func driver(tb testing.TB) *opcua.Driver {
	tb.Helper()
	return opcua.New(opcua.Options{PKIDir: tb.TempDir(), ApplicationName: "gw-test"})
}

// read polls all tags of d once.
func read(tb testing.TB, b protocols.Bus, d *protocols.Device) ([]protocols.Reading, protocols.ScanResult) {
	tb.Helper()
	s, err := b.Plan(d, allTags(d))
	if err != nil {
		tb.Fatal(err)
	}
	out := make([]protocols.Reading, len(d.Tags))
	return out, s.Read(context.Background(), out)
}

// next waits for a report with readings, or an error.
func next(tb testing.TB, b protocols.Subscriber, within time.Duration) protocols.Report {
	tb.Helper()
	end := time.After(within)
	for {
		select {
		case r := <-b.Reports():
			if r.Err != nil || len(r.Readings) > 0 {
				return r
			}
		case <-end:
			tb.Fatalf("no report within %s", within)
		}
	}
}

func TestPollAndSubscribe(t *testing.T) {
	t.Parallel()
	srv := newServer(t, opcuatest.Options{Nodes: []opcuatest.Node{
		{NodeID: "ns=2;s=speed"},
		{NodeID: "ns=2;i=7", Value: func(time.Time) any { return "Ölpresse 1号" }},
	}})
	if err := srv.Set("ns=2;s=speed", int32(-5)); err != nil {
		t.Fatal(err)
	}
	d := device(srv.Endpoint(), "ns=2;s=speed", "nsu="+opcuatest.Namespace+";i=7", "ns=2;s=none", "nsu=urn:nowhere;i=1")
	b := open(t, driver(t), d)
	connect(t, b)

	out, res := read(t, b, d)
	if res.Requests != 1 || res.Answers != 1 || protocols.KindOf(res.Err) == 0 {
		t.Fatalf("%+v", res)
	}
	want := []string{"-5", "Ölpresse 1号", "no_such_node", "no_such_node"}
	for i, w := range want {
		if got := show(out[i]); got != w {
			t.Errorf("tag %d: %s, want %s", i, got, w)
		}
	}

	if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
		t.Fatal(err)
	}
	r := next(t, b, 5*time.Second)
	if r.Err != nil || len(r.Readings) != 4 {
		t.Fatalf("first report: %+v", r)
	}
	for i, w := range want {
		if got := show(r.Readings[i]); got != w || int(r.Readings[i].Tag) != i {
			t.Errorf("reading %d of tag %d: %s, want %s", i, r.Readings[i].Tag, got, w)
		}
	}
	for i := range 100 {
		if err := srv.Set("ns=2;s=speed", int32(i)); err != nil {
			t.Fatal(err)
		}
		r := next(t, b, 5*time.Second)
		if r.Err != nil || len(r.Readings) != 1 || r.Readings[0].Value.AsInt() != int64(i) {
			t.Fatalf("%d: %+v", i, r)
		}
	}
}

// show writes a reading so that tests can compare it.
func show(r protocols.Reading) string {
	if r.Quality == protocols.Bad {
		return string(r.Reason)
	}
	s := showValue(r.Value)
	if r.Quality == protocols.Uncertain {
		s += " (" + string(r.Reason) + ")"
	}
	return s
}

func showValue(v protocols.Value) string {
	switch v.Kind() {
	case protocols.KindBool:
		return strconv.FormatBool(v.AsBool())
	case protocols.KindInt:
		return strconv.FormatInt(v.AsInt(), 10)
	case protocols.KindUint:
		return fmt.Sprintf("%du", v.AsUint())
	case protocols.KindFloat32:
		return fmt.Sprintf("%gf", v.AsFloat32())
	case protocols.KindFloat64:
		return fmt.Sprint(v.AsFloat64())
	case protocols.KindString:
		return v.AsString()
	case protocols.KindBytes:
		return fmt.Sprintf("%x", v.AsString())
	case protocols.KindTime:
		return v.AsTime().Format(time.RFC3339Nano)
	case protocols.KindArray:
		parts := make([]string, len(v.Elems()))
		for i, e := range v.Elems() {
			parts[i] = showValue(e)
		}
		return "[" + strings.Join(parts, " ") + "]"
	}
	return "none"
}
