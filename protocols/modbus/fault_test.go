package modbus

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
)

// wantError checks kind, reason and words of a scan's first failure.
func wantError(t *testing.T, err error, kind protocols.ErrorKind, why protocols.Reason, words ...string) {
	t.Helper()
	if err == nil || protocols.KindOf(err) != kind || protocols.ReasonOf(err) != why {
		t.Errorf("the error is %v (kind %d, reason %s), want kind %d, reason %s", err, protocols.KindOf(err), protocols.ReasonOf(err), kind, why)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestExceptionsBecomeReasons(t *testing.T) {
	t.Parallel()
	for code, want := range map[uint8]protocols.Reason{
		1: protocols.IllegalFunction, 2: protocols.IllegalAddress, 3: protocols.IllegalValue,
		4: protocols.DeviceFailure, 5: protocols.DeviceBusy, 6: protocols.DeviceBusy,
		10: protocols.GatewayNoPath, 11: protocols.GatewayNoAnswer, 99: protocols.DeviceFailure,
	} {
		s := startServer(t)
		s.Unit(1).SetFaults(modbustest.Always(modbustest.Fault{Exception: code}))
		d := newDevice(s.Addr(), "40101")
		_, sc := openScan(t, d)
		out, res := read(t.Context(), sc, 1)
		wantReadings(t, out, string(want))
		wantError(t, res.Err, protocols.KindRefused, want, "tcp://127.0.0.1:", "unit 1", "40101", "function 3", "exception")
		requests := 1
		if code == excAcknowledge || code == excBusy {
			requests += maxBusy
		}
		if answered := code != 10 && code != 11; res.Requests != requests || (res.Answers == requests) != answered {
			t.Errorf("exception %d: %+v", code, res)
		}
	}
}

func TestOneBadTagSpoilsNoBlock(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	u := s.Unit(1)
	for i := range 125 {
		u.Holding.Set(i, uint16(i))
	}
	u.Holding.Refuse(77, 1)
	d := newDevice(s.Addr(), holdingTags(125)...)
	_, sc := openScan(t, d)
	check := func(out []protocols.Reading, res protocols.ScanResult) {
		t.Helper()
		for i, r := range out {
			want := protocols.Reading{}
			want.SetGood(protocols.Uint(uint64(i)))
			if i == 77 {
				want.SetBad(protocols.IllegalAddress)
			}
			if r.Quality != want.Quality || r.Reason != want.Reason || !r.Value.Equal(want.Value) {
				t.Fatalf("reading %d is %+v", i, r)
			}
		}
		wantError(t, res.Err, protocols.KindRefused, protocols.IllegalAddress, "holding 77 ", "address base")
	}
	check(read(t.Context(), sc, 125))
	first := u.Requests()
	if first > 20 {
		t.Errorf("%d requests to find one bad tag", first)
	}
	for range 20 { // what was learnt is kept, and the bad tag asked now and then only
		check(read(t.Context(), sc, 125))
	}
	if per := float64(u.Requests()-first) / 20; per > 8 {
		t.Errorf("%.1f requests per scan afterwards", per)
	}
	u.Holding.Refuse(77, 0)
	for range maxPause + 1 {
		if out, res := read(t.Context(), sc, 125); res.Err == nil {
			wantReadings(t, out[77:], "77")
			return
		}
	}
	t.Error("the bad tag did not come back")
}

func TestAllTagsBad(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	u := s.Unit(1)
	u.Holding.Refuse(0, 200)
	d := newDevice(s.Addr(), holdingTags(125)...)
	_, sc := openScan(t, d)
	for range 12 {
		before := u.Requests()
		out, res := read(t.Context(), sc, 125)
		if res.Err == nil || res.Answers == 0 {
			t.Errorf("unexpected result %+v", res)
		}
		for i := range out {
			if out[i].Reason != protocols.IllegalAddress {
				t.Fatalf("reading %d is %+v", i, out[i])
			}
		}
		if n := u.Requests() - before; n > 200 {
			t.Errorf("%d requests in one scan", n)
		}
	}
}

func TestDeviceWithSmallAnswers(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	u := s.Unit(1)
	u.Limit(32)
	u.Holding.Set(124, 124)
	d := newDevice(s.Addr(), holdingTags(125)...)
	_, sc := openScan(t, d)
	last := uint64(0)
	for i := range 9 {
		before := u.Requests()
		out, res := read(t.Context(), sc, 125)
		wantReadings(t, out[124:], "124")
		if res.Err != nil {
			t.Error(res.Err)
		}
		last = u.Requests() - before
		if i == 0 && last != 7 {
			t.Errorf("%d requests to find out that there is a limit, want 7", last)
		}
	}
	if last != 4 {
		t.Errorf("%d requests in the end, want 4", last)
	}
}

func TestDeadUnitCostsOneTimeout(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	u := s.Unit(1)
	u.SetFaults(modbustest.Always(modbustest.Fault{Drop: true}))
	d := newDevice(s.Addr(), "hr:0", "hr:1000", "hr:2000", "coil:1")
	d.Timeout = 30 * time.Millisecond
	_, sc := openScan(t, d)
	out, res := read(t.Context(), sc, 4)
	wantReadings(t, out, "timeout", "timeout", "timeout", "timeout")
	wantError(t, res.Err, protocols.KindTimeout, protocols.Timeout, "no answer within 30ms", "is unit id 1 right")
	if res.Answers != 0 || res.Requests != 4 || u.Requests() != 1 || !res.Time.IsZero() {
		t.Errorf("unexpected result %+v after %d requests", res, u.Requests())
	}
	u.SetFaults(nil)
	out, res = read(t.Context(), sc, 4)
	wantReadings(t, out, "0", "0", "0", "false")
	if res.Err != nil || s.Accepted() != 1 {
		t.Errorf("%v after %d connections", res.Err, s.Accepted())
	}
}

// A device may be silent about one range only, even the first one.
func TestSilentRangeSpoilsNoOther(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.Unit(1).SetFaults(func(_ uint64, r modbustest.Request) modbustest.Fault {
		return modbustest.Fault{Drop: r.Addr == 0 || r.Addr == 2000}
	})
	d := newDevice(s.Addr(), "hr:0", "hr:1000", "hr:2000", "hr:3000")
	d.Timeout = 30 * time.Millisecond
	_, sc := openScan(t, d)
	_, res := read(t.Context(), sc, 4)
	wantError(t, res.Err, protocols.KindTimeout, protocols.Timeout)
	for range 4 {
		out, res := read(t.Context(), sc, 4)
		wantReadings(t, out, "timeout", "0", "timeout", "0")
		wantError(t, res.Err, protocols.KindTimeout, protocols.Timeout)
	}
}

func TestMalformedAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault modbustest.Fault
		kind  protocols.ErrorKind
		why   protocols.Reason
		words string
	}{
		"unit":     {modbustest.Fault{WrongUnit: true}, protocols.KindMalformed, protocols.Malformed, "set unit: 2"},
		"function": {modbustest.Fault{WrongFunction: true}, protocols.KindMalformed, protocols.Malformed, "function 4 came instead"},
		"count":    {modbustest.Fault{WrongCount: true}, protocols.KindMalformed, protocols.Malformed, "instead of 2"},
		"fewer":    {modbustest.Fault{Fewer: 2}, protocols.KindMalformed, protocols.Malformed, "0 bytes of values came instead of 2"},
		"id":       {modbustest.Fault{WrongID: true}, protocols.KindTimeout, protocols.Timeout, "wrong transaction id"},
		"cut":      {modbustest.Fault{Cut: 1}, protocols.KindTimeout, protocols.Timeout, "no answer"},
		"protocol": {modbustest.Fault{WrongProtocol: true}, protocols.KindNotConnected, protocols.Malformed, "no Modbus TCP frame"},
		"reset":    {modbustest.Fault{Reset: true}, protocols.KindNotConnected, protocols.Offline, "the device reset it"},
		"eof":      {modbustest.Fault{HalfClose: true}, protocols.KindNotConnected, protocols.Offline, "closed the connection"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			s.Unit(1).SetFaults(modbustest.Always(c.fault))
			d := newDevice(s.Addr(), "hr:7")
			d.Timeout = 100 * time.Millisecond
			b, sc := openScan(t, d)
			out, res := read(t.Context(), sc, 1)
			wantReadings(t, out, string(c.why))
			wantError(t, res.Err, c.kind, c.why, "holding 7", c.words)
			s.Unit(1).SetFaults(nil)
			if c.kind == protocols.KindNotConnected {
				_, res = read(t.Context(), sc, 1)
				wantError(t, res.Err, protocols.KindNotConnected, protocols.Offline)
			}
			if err := b.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c.fault.Cut > 0 { // the next answer's first byte completes the last one
				return
			}
			out, res = read(t.Context(), sc, 1)
			wantReadings(t, out, "0")
			if res.Err != nil {
				t.Error(res.Err)
			}
		})
	}
}

func TestCancelAtOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.Unit(1).SetFaults(modbustest.Every(1, modbustest.Fault{Drop: true}))
	d := newDevice(s.Addr(), "hr:0", "coil:0")
	d.Timeout = time.Minute
	_, sc := openScan(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	begin := time.Now()
	_, res := read(ctx, sc, 2)
	if res.Err == nil || time.Since(begin) > 5*time.Second {
		t.Errorf("%v after %v", res.Err, time.Since(begin))
	}
	if _, res = read(ctx, sc, 2); !errors.Is(res.Err, errStopped) {
		t.Errorf("the error with an ended context is %v", res.Err)
	}
	s.Unit(1).SetFaults(nil)
	if _, res = read(t.Context(), sc, 2); res.Err != nil {
		t.Errorf("the next scan: %v", res.Err)
	}
}

func TestConnectErrors(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	addr := s.Addr()
	_ = s.Close()
	for endpoint, words := range map[string]string{
		addr:              "connection refused: is the device's Modbus server switched on",
		"plc.invalid:502": "could not be looked up",
	} {
		b, err := New(Options{}).Open([]*protocols.Device{newDevice(endpoint)})
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, b.Connect(t.Context()), protocols.KindNotConnected, protocols.Offline, endpoint, words)
	}
}

// Units behind one endpoint share its connection, each with its own time-out.
func TestUnitsShareAConnection(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.Unit(1).Holding.Set(0, 1)
	s.Unit(2).Holding.Set(0, 2)
	one, two, dead := newDevice(s.Addr(), "hr:0"), newDevice(s.Addr(), "hr:0"), newDevice(s.Addr(), "hr:0")
	two.Modbus.Unit, dead.Modbus.Unit = 2, 3
	dead.Timeout = 20 * time.Millisecond
	dr := New(Options{})
	if dr.BusKey(one) != dr.BusKey(two) {
		t.Error("they do not share a bus")
	}
	b, err := dr.Open([]*protocols.Device{one, two, dead})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	if err := b.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	var scans []protocols.Scan
	for _, d := range []*protocols.Device{one, two, dead} {
		sc, err := b.Plan(d, []int{0})
		if err != nil {
			t.Fatal(err)
		}
		scans = append(scans, sc)
	}
	for range 3 {
		for i, want := range []string{"1", "2", "timeout"} {
			out := make([]protocols.Reading, 1)
			scans[i].Read(t.Context(), out)
			wantReadings(t, out, want)
		}
	}
	if n := s.Accepted(); n != 1 {
		t.Errorf("%d connections", n)
	}
}
