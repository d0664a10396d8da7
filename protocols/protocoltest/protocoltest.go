// Package protocoltest is what every driver has to pass, whatever its
// protocol: the obligations of package protocols, as tests against a real or
// simulated server.
package protocoltest

import (
	"context"
	"errors"
	"testing"
	"time"

	"millrace/protocols"
)

// Target is a driver, and the server that it is tested against.
type Target struct {
	Driver protocols.Driver
	// Device has an endpoint and at least one tag. Its server runs when Run
	// is called.
	Device *protocols.Device
	// Values are what the tags of Device read as.
	Values []protocols.Value
	// BadTag passes Check, but the server refuses it.
	BadTag protocols.Tag
	// Set makes a tag of the running server have another value; nil: it
	// cannot. The value that it is called with is one of Values.
	Set func(t *testing.T, tag int, v protocols.Value)
	// Other is a second value for tag 0, for Set.
	Other protocols.Value
	// Stop ends the server with all its connections; Start starts it again,
	// at the same address and with the same Values.
	Stop, Start func(t *testing.T)
	// Mute makes the server take requests without answering, or answer
	// again; nil: it cannot.
	Mute func(t *testing.T, on bool)
}

// patience is how long a test waits for what should come at once, on a
// machine that does much else.
const patience = 10 * time.Second

// Run runs the tests of a driver, one after the other.
func Run(t *testing.T, target Target) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(*testing.T, Target)
	}{
		{"the configuration passes", testCheck},
		{"reads what was written", testReads},
		{"a part of the tags, in another order", testPart},
		{"reads what is written later", testSet},
		{"one bad address is not a failed scan", testBadAddress},
		{"a scan without a connection", testUnconnected},
		{"closing twice, and connecting again", testCloseTwice},
		{"cancels at once", testCancel},
		{"is silent for one time-out only", testMute},
		{"a context that has ended", testEndedContext},
		{"comes back after the server restarts", testRestart},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, target) })
	}
}

// open returns a bus for the device, which ends with the test.
func open(t *testing.T, target Target, d *protocols.Device) protocols.Bus {
	t.Helper()
	b, err := target.Driver.Open([]*protocols.Device{d})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

// connect opens a bus and connects it.
func connect(t *testing.T, target Target, d *protocols.Device) protocols.Bus {
	t.Helper()
	b := open(t, target, d)
	if err := b.Connect(t.Context()); err != nil {
		t.Fatalf("Connect: %v", err)
	}
	return b
}

// plan returns a scan of the given tags; nil: of all.
func plan(t *testing.T, b protocols.Bus, d *protocols.Device, tags []int) protocols.Scan {
	t.Helper()
	if tags == nil {
		for i := range d.Tags {
			tags = append(tags, i)
		}
	}
	s, err := b.Plan(d, tags)
	if err != nil {
		t.Fatalf("Plan: %v", err)
	}
	return s
}

// mark is what readings hold before a scan, to see that it fills them all
// and leaves Tag alone.
const mark protocols.Reason = "not filled"

func read(ctx context.Context, t *testing.T, s protocols.Scan, n int) ([]protocols.Reading, protocols.ScanResult) {
	t.Helper()
	out := make([]protocols.Reading, n)
	for i := range out {
		out[i].SetBad(mark)
		out[i].Tag = int32(1000 + i)
	}
	res := s.Read(ctx, out)
	for i := range out {
		if out[i].Reason == mark {
			t.Errorf("reading %d is not filled", i)
		}
		if out[i].Tag != int32(1000+i) {
			t.Errorf("reading %d has another Tag", i)
		}
		if (out[i].Quality == protocols.Bad) != (out[i].Value.Kind() == protocols.KindNone) {
			t.Errorf("reading %d has quality %d and a value of kind %d", i, out[i].Quality, out[i].Value.Kind())
		}
		if out[i].Quality != protocols.Good && out[i].Reason == "" {
			t.Errorf("reading %d is not good, but has no reason", i)
		}
	}
	if res.Answers > res.Requests {
		t.Errorf("%d answers to %d requests", res.Answers, res.Requests)
	}
	if (res.Answers > 0) == res.Time.IsZero() {
		t.Errorf("%d answers, the last one at %v", res.Answers, res.Time)
	}
	if res.Err != nil {
		wantTyped(t, res.Err)
	}
	return out, res
}

// wantTyped says that err is an *protocols.Error with all its parts.
func wantTyped(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*protocols.Error](err)
	if !ok || e.Kind == 0 || e.Reason == "" || e.Text == "" {
		t.Errorf("%#v is not an *Error with kind, reason and text", err)
	}
}

// wantValues reads all tags of d, and wants their values.
func wantValues(t *testing.T, s protocols.Scan, values []protocols.Value) {
	t.Helper()
	begin := time.Now()
	out, res := read(t.Context(), t, s, len(values))
	if res.Err != nil {
		t.Fatalf("Read: %v", res.Err)
	}
	if res.Time.Before(begin.Add(-time.Second)) || res.Time.After(time.Now().Add(time.Second)) {
		t.Errorf("the time of the answer is %v", res.Time)
	}
	for i, v := range values {
		if out[i].Quality != protocols.Good || !out[i].Value.Equal(v) {
			t.Errorf("reading %d is %+v, want %+v", i, out[i], v)
		}
	}
}

func testCheck(t *testing.T, target Target) {
	t.Helper()
	d := *target.Device
	d.Tags = append([]protocols.Tag{target.BadTag}, d.Tags...)
	for _, err := range target.Driver.Check(&d) {
		t.Errorf("tag %d: %v", err.Tag, err)
	}
	if target.Driver.BusKey(&d) != target.Driver.BusKey(target.Device) {
		t.Error("the same device has two bus keys")
	}
	if p, ok := target.Driver.(protocols.Planner); ok {
		tags := 0
		for _, r := range p.Requests(target.Device, []int{0}) {
			tags += r.Tags
			if r.What == "" || r.ReqBytes <= 0 || r.AnsBytes <= 0 {
				t.Errorf("%+v says too little", r)
			}
		}
		if tags != 1 {
			t.Errorf("the requests for one tag read %d", tags)
		}
	}
}

func testReads(t *testing.T, target Target) {
	t.Helper()
	s := plan(t, connect(t, target, target.Device), target.Device, nil)
	for range 3 {
		wantValues(t, s, target.Values)
	}
}

func testPart(t *testing.T, target Target) {
	t.Helper()
	last := len(target.Values) - 1
	b := open(t, target, target.Device)
	s := plan(t, b, target.Device, []int{last, 0, last}) // before Connect
	if err := b.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantValues(t, s, []protocols.Value{target.Values[last], target.Values[0], target.Values[last]})
}

func testSet(t *testing.T, target Target) {
	t.Helper()
	if target.Set == nil {
		t.SkipNow()
	}
	s := plan(t, connect(t, target, target.Device), target.Device, []int{0})
	for _, v := range []protocols.Value{target.Other, target.Values[0]} {
		target.Set(t, 0, v)
		wantValues(t, s, []protocols.Value{v})
	}
}

func testBadAddress(t *testing.T, target Target) {
	t.Helper()
	d := *target.Device
	d.Tags = append([]protocols.Tag{target.BadTag}, d.Tags...)
	s := plan(t, connect(t, target, &d), &d, nil)
	for range 3 {
		out, res := read(t.Context(), t, s, len(d.Tags))
		if res.Err == nil || res.Answers == 0 {
			t.Errorf("unexpected result %+v", res)
		}
		if out[0].Quality != protocols.Bad {
			t.Errorf("the bad tag reads %+v", out[0])
		}
		for i, v := range target.Values {
			if out[i+1].Quality != protocols.Good || !out[i+1].Value.Equal(v) {
				t.Errorf("reading %d is %+v, want %+v", i, out[i+1], v)
			}
		}
	}
}

// wantOffline reads without a connection.
func wantOffline(t *testing.T, s protocols.Scan, n int) {
	t.Helper()
	out, res := read(t.Context(), t, s, n)
	if protocols.KindOf(res.Err) != protocols.KindNotConnected || res.Answers != 0 {
		t.Errorf("unexpected result %+v", res)
	}
	for i := range out {
		if out[i].Quality != protocols.Bad || out[i].Reason != protocols.Offline {
			t.Errorf("reading %d is %+v", i, out[i])
		}
	}
}

func testUnconnected(t *testing.T, target Target) {
	t.Helper()
	b := open(t, target, target.Device)
	wantOffline(t, plan(t, b, target.Device, nil), len(target.Values))
}

func testCloseTwice(t *testing.T, target Target) {
	t.Helper()
	b := connect(t, target, target.Device)
	s := plan(t, b, target.Device, nil)
	for range 2 {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	wantOffline(t, s, len(target.Values))
	if err := b.Connect(t.Context()); err != nil {
		t.Fatalf("Connect: %v", err)
	}
	wantValues(t, s, target.Values)
}

func testCancel(t *testing.T, target Target) {
	t.Helper()
	if target.Mute == nil {
		t.SkipNow()
	}
	d := *target.Device
	d.Timeout = 10 * patience
	s := plan(t, connect(t, target, &d), &d, nil)
	target.Mute(t, true)
	defer target.Mute(t, false)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop := time.AfterFunc(50*time.Millisecond, cancel)
	defer stop.Stop()
	begin := time.Now()
	out, res := read(ctx, t, s, len(d.Tags))
	if took := time.Since(begin); res.Err == nil || took > patience {
		t.Errorf("%v after %v", res.Err, took)
	}
	for i := range out {
		if out[i].Quality != protocols.Bad {
			t.Errorf("reading %d is %+v", i, out[i])
		}
	}
}

func testMute(t *testing.T, target Target) {
	t.Helper()
	if target.Mute == nil {
		t.SkipNow()
	}
	d := *target.Device
	d.Timeout = 300 * time.Millisecond
	b := connect(t, target, &d)
	s := plan(t, b, &d, nil)
	target.Mute(t, true)
	begin := time.Now()
	_, res := read(t.Context(), t, s, len(d.Tags))
	took := time.Since(begin)
	target.Mute(t, false)
	if kind := protocols.KindOf(res.Err); kind != protocols.KindTimeout && kind != protocols.KindNotConnected || res.Answers != 0 {
		t.Errorf("unexpected result %+v", res)
	}
	if took < d.Timeout || took > patience {
		t.Errorf("it took %v", took)
	}
	comeBack(t, b, s, target.Values)
}

// comeBack reads until all is well again, and connects where that is due, as
// the loop above the drivers does.
func comeBack(t *testing.T, b protocols.Bus, s protocols.Scan, values []protocols.Value) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		_, res := read(t.Context(), t, s, len(values))
		if res.Err == nil {
			wantValues(t, s, values)
			return
		}
		if protocols.KindOf(res.Err) == protocols.KindNotConnected {
			if err := b.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if err := b.Connect(t.Context()); err != nil {
				wantTyped(t, err)
				<-time.After(20 * time.Millisecond) // as the loop's backoff
			}
		}
	}
	t.Error("it does not recover")
}

func testEndedContext(t *testing.T, target Target) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := open(t, target, target.Device)
	if err := b.Connect(ctx); err == nil {
		t.Error("it connects although the context has ended")
	} else {
		wantTyped(t, err)
	}
	if err := b.Connect(t.Context()); err != nil {
		t.Fatalf("Connect: %v", err)
	}
	s := plan(t, b, target.Device, nil)
	begin := time.Now()
	if _, res := read(ctx, t, s, len(target.Values)); res.Err == nil {
		t.Error("it reads although the context has ended")
	}
	if took := time.Since(begin); took > patience {
		t.Errorf("it took %v", took)
	}
	comeBack(t, b, s, target.Values)
}

func testRestart(t *testing.T, target Target) {
	t.Helper()
	b := connect(t, target, target.Device)
	s := plan(t, b, target.Device, nil)
	wantValues(t, s, target.Values)
	target.Stop(t)
	if _, res := read(t.Context(), t, s, len(target.Values)); protocols.KindOf(res.Err) != protocols.KindNotConnected {
		t.Errorf("the error without a server is %v", res.Err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	err := b.Connect(t.Context())
	if protocols.KindOf(err) != protocols.KindNotConnected {
		t.Errorf("connecting without a server: %v", err)
	}
	if err != nil {
		wantTyped(t, err)
	}
	target.Start(t)
	comeBack(t, b, s, target.Values)
}
