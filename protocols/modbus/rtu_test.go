package modbus

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
)

// openLine makes a simulated line with s on it.
func openLine(t *testing.T, s *modbustest.Server, o modbustest.LineOptions) *modbustest.Line {
	t.Helper()
	l, err := modbustest.OpenLine(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(); _ = s.Close() })
	s.ServeLine(l)
	return l
}

func newLineDevice(url string, tags ...string) *protocols.Device {
	d := newDevice("", tags...)
	d.Endpoint, d.Timeout = url, 200*time.Millisecond
	return d
}

func TestSerialReadsAllTables(t *testing.T) {
	t.Parallel()
	s := modbustest.NewServer()
	u := s.Unit(1)
	u.Holding.Set(0, 7, 0x8001)
	u.Input.Set(65535, 9)
	u.Coils.Set(3, true)
	u.Coils.Set(20, true)
	u.Discrete.Set(4, true)
	l := openLine(t, s, modbustest.LineOptions{Baud: 115200})
	d := newLineDevice(l.URL(), "holding:0", "40002.15", "hr:1.1", "ir:65535", "coil:3", "coil:2", "coil:20", "10005")
	_, sc := openScan(t, d)
	for range 3 {
		out, res := read(t.Context(), sc, len(d.Tags))
		if res.Err != nil || res.Requests != 4 || res.Answers != 4 {
			t.Errorf("unexpected result %+v", res)
		}
		wantReadings(t, out, "7", "true", "false", "9", "true", "false", "true", "true")
	}
	if n := l.Stats().Violations(); n > 0 {
		t.Errorf("%d requests broke the rules of the line", n)
	}
}

// A late answer has the function and the length of the next one, which asks
// for other addresses.
func TestLateRTUAnswerIsNotTheNextOne(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]modbustest.Fault{
		"late":            {Delay: 300 * time.Millisecond},
		"out of turn":     {Late: 300 * time.Millisecond},
		"glued in front":  {Hold: true},
		"glued behind":    {HoldBehind: true},
		"late exception":  {Exception: 2, Delay: 300 * time.Millisecond},
		"another's, same": {Drop: true, Foreign: []modbustest.Request{{Unit: 1, Function: 3, Addr: 77, Count: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := modbustest.NewServer()
			for i := range 20 {
				s.Unit(1).Holding.Set(10*i, uint16(i))
				s.Unit(1).Holding.Set(10*i+1, 999)
			}
			s.Unit(1).SetFaults(modbustest.Every(5, f))
			l := openLine(t, s, modbustest.LineOptions{})
			d := newLineDevice(l.URL())
			for i := range 20 {
				d.Tags = append(d.Tags, protocols.Tag{Address: "hr:" + text(uintReading(10*i))})
			}
			d.Modbus.MaxGap = 0
			_, sc := openScan(t, d)
			good := 0
			for range 2 {
				out, _ := read(t.Context(), sc, 20)
				for i, r := range out {
					if r.Quality == protocols.Good {
						good++
						if r.Value.AsUint() != uint64(i) {
							t.Errorf("reading %d is %s", i, text(r))
						}
					} else if r.Reason == protocols.IllegalAddress && i%5 != 4 && f.Exception == 0 {
						t.Errorf("reading %d is %s", i, text(r))
					}
				}
			}
			if good < 10 {
				t.Errorf("only %d of 40 are good", good)
			}
		})
	}
}

func uintReading(n int) (r protocols.Reading) {
	r.SetGood(protocols.Uint(uint64(n)))
	return r
}

func TestSerialWords(t *testing.T) {
	t.Parallel()
	s := modbustest.NewServer()
	s.Unit(1)
	l := openLine(t, s, modbustest.LineOptions{})
	for name, c := range map[string]struct {
		fault modbustest.Fault
		unit  uint8
		kind  protocols.ErrorKind
		why   protocols.Reason
		words []string
	}{
		"silent":   {modbustest.Fault{}, 9, protocols.KindTimeout, protocols.Timeout, []string{"115200 8N1", "unit 9", "holding 7 ", "no answer within 50ms", "wires"}},
		"checksum": {modbustest.Fault{BadCRC: true}, 2, protocols.KindMalformed, protocols.Malformed, []string{"wrong checksum", "termination", "115200 8N1 at both ends"}},
		"unit":     {modbustest.Fault{WrongUnit: true}, 3, protocols.KindMalformed, protocols.Malformed, []string{"unit 4 answered instead of unit 3", "set unit: 4"}},
		"function": {modbustest.Fault{WrongFunction: true}, 4, protocols.KindMalformed, protocols.Malformed, []string{"another master"}},
		"count":    {modbustest.Fault{Fewer: 2}, 5, protocols.KindMalformed, protocols.Malformed, []string{"0 bytes of values came instead of 2"}},
		"cut":      {modbustest.Fault{Cut: 3}, 6, protocols.KindTimeout, protocols.Timeout, []string{"only 4 bytes that are no answer"}},
		"address":  {modbustest.Fault{Exception: 2}, 7, protocols.KindRefused, protocols.IllegalAddress, []string{"illegal data address", "address base"}},
	} {
		if c.unit != 9 {
			s.Unit(c.unit).SetFaults(modbustest.Always(c.fault))
		}
		d := newLineDevice(l.URL(), "hr:7")
		d.Timeout, d.Modbus.Unit = 50*time.Millisecond, c.unit
		b, sc := openScan(t, d)
		out, res := read(t.Context(), sc, 1)
		wantReadings(t, out, string(c.why))
		wantError(t, res.Err, c.kind, c.why, c.words...)
		if err := b.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An adapter that is pulled out is an error at once, and is found again by
// its name when it is back.
func TestUnplugged(t *testing.T) {
	t.Parallel()
	s := modbustest.NewServer()
	s.Unit(1).Holding.Set(0, 5)
	link := filepath.Join(t.TempDir(), "by-id", "usb-FTDI-if00")
	l := openLine(t, s, modbustest.LineOptions{Link: link})
	d := newLineDevice(l.URL(), "hr:0")
	d.Timeout = 10 * time.Second
	b, sc := openScan(t, d)
	out, _ := read(t.Context(), sc, 1)
	wantReadings(t, out, "5")
	s.Unit(1).SetFaults(modbustest.Always(modbustest.Fault{Drop: true}))
	time.AfterFunc(50*time.Millisecond, l.Unplug)
	begin := time.Now()
	_, res := read(t.Context(), sc, 1)
	wantError(t, res.Err, protocols.KindNotConnected, protocols.Offline, "the serial port is gone", "plugged in")
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	_ = b.Close()
	wantError(t, b.Connect(t.Context()), protocols.KindNotConnected, protocols.Offline, "there is no serial port "+link, "plugged in")
	s.Unit(1).SetFaults(nil)
	if err := l.Plug(); err != nil {
		t.Fatal(err)
	}
	if err := b.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	out, _ = read(t.Context(), sc, 1)
	wantReadings(t, out, "5")
}

func TestSerialPortIsNotShared(t *testing.T) {
	t.Parallel()
	s := modbustest.NewServer()
	l := openLine(t, s, modbustest.LineOptions{})
	openScan(t, newLineDevice(l.URL(), "hr:0"))
	b, err := New(Options{}).Open([]*protocols.Device{newLineDevice(l.URL(), "hr:0")})
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, b.Connect(t.Context()), protocols.KindNotConnected, protocols.Offline, "another program uses")
}

func TestNoSerialPort(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := modbustest.NewServer()
	l := openLine(t, s, modbustest.LineOptions{})
	for url, words := range map[string]string{
		"rtu://" + file:       "is no serial port",
		"rtu:///dev/ttyNone":  "there is no serial port /dev/ttyNone",
		l.URL() + "&rs485=on": "remove rs485=on",
	} {
		b, err := New(Options{}).Open([]*protocols.Device{newLineDevice(url, "hr:0")})
		if err != nil {
			t.Fatal(err)
		}
		err = b.Connect(t.Context())
		wantError(t, err, protocols.KindNotConnected, protocols.Offline, words)
		if strings.Count(err.Error(), "cannot connect") > 1 {
			t.Errorf("%v repeats itself", err)
		}
	}
}

// What was asked while the unit was away is not believed when it comes.
func TestBacklogOfALongSilence(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	l := lateList{now: func() time.Time { return now }}
	for n := 1; n <= maxLate+1; n++ {
		l.add(&call{unit: 1, function: 3, count: uint16(n)}, 10*time.Millisecond)
	}
	if !l.backlog(1) || l.backlog(2) {
		t.Error("the backlog is not known")
	}
	now = now.Add(time.Hour)
	l.prune(1)
	if !l.expects(1, 3, 2*maxLate) {
		t.Error("what the unit never spoke behind is forgotten")
	}
	l.heard(1, 3, 200)
	l.prune(1)
	if l.expects(1, 3, 2*maxLate) {
		t.Error("what can't come any more is not forgotten")
	}
}

// The line is left alone for 3.5 characters between two frames, and not much
// longer.
func TestSilenceBetweenFrames(t *testing.T) {
	t.Parallel()
	s := modbustest.NewServer()
	s.Unit(1)
	l := openLine(t, s, modbustest.LineOptions{Baud: 9600})
	d := newLineDevice(l.URL(), "hr:0", "hr:100", "hr:200", "hr:300")
	d.Timeout = 2 * time.Second // the machine may be busy
	_, sc := openScan(t, d)
	l.ResetStats()
	for range 4 {
		if _, res := read(t.Context(), sc, 4); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	st := l.Stats()
	if st.Violations() > 0 || st.Requests != 16 {
		t.Errorf("%d violations in %d requests", st.Violations(), st.Requests)
	}
	t.Logf("idle %.1f %% of %v", 100*float64(st.Idle()-st.Lag)/float64(st.Wall), st.Wall)
}

func TestScanOfALineCancels(t *testing.T) {
	t.Parallel()
	s := modbustest.NewServer()
	l := openLine(t, s, modbustest.LineOptions{})
	d := newLineDevice(l.URL(), "hr:0", "hr:1000")
	d.Timeout = time.Minute
	_, sc := openScan(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	begin := time.Now()
	if _, res := read(ctx, sc, 2); res.Err == nil || time.Since(begin) > 5*time.Second {
		t.Errorf("%v after %v", res.Err, time.Since(begin))
	}
}

// The registers of one tag belong to one moment: a request that has to be
// asked in parts is not cut within a tag.
func TestTagsAreNotTorn(t *testing.T) {
	t.Parallel()
	for name, tags := range map[string][]protocols.Tag{
		"alone":                       {{Address: "hr:0", Type: "uint32"}},
		"a block":                     {{Address: "hr:0", Type: "uint32"}, {Address: "hr:2", Type: "uint64"}, {Address: "hr:6", Type: "uint32"}, {Address: "hr:8", Type: "uint32"}},
		"at the end of the addresses": {{Address: "hr:65534", Type: "uint32"}},
		"bits":                        {{Address: "co:0", Type: "bool[20]"}, {Address: "co:20", Type: "bool[12]"}},
		"lists":                       {{Address: "hr:1", Type: "uint32[4]"}, {Address: "hr:9"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := modbustest.NewServer()
			u := s.Unit(1)
			var asked atomic.Uint32 // all registers hold how often the unit was asked
			for i := range 20 {
				u.Holding.SetFunc(i, func(time.Time) uint16 { return uint16(asked.Load()) })
			}
			for i := addresses - 4; i < addresses; i++ {
				u.Holding.SetFunc(i, func(time.Time) uint16 { return uint16(asked.Load()) })
			}
			for i := range 40 {
				u.Coils.SetFunc(i, func(time.Time) bool { return asked.Load()%2 == 1 })
			}
			u.SetFaults(func(n uint64, _ modbustest.Request) modbustest.Fault {
				asked.Add(1)
				return modbustest.Fault{Drop: n%7 == 3}
			})
			l := openLine(t, s, modbustest.LineOptions{})
			d := newLineDevice(l.URL())
			d.Timeout = 50 * time.Millisecond
			d.Tags = tags
			_, sc := openScan(t, d)
			good := 0
			for range 30 {
				out, _ := read(t.Context(), sc, len(tags))
				for i := range out {
					if out[i].Quality == protocols.Good {
						good++
						wantWhole(t, out[i].Value)
					}
				}
			}
			if good < 10*len(tags) {
				t.Errorf("only %d of %d are good", good, 30*len(tags))
			}
		})
	}
}

// wantWhole says that all words of v, or all of its elements, are the same.
func wantWhole(t *testing.T, v protocols.Value) {
	t.Helper()
	if n := v.AsUint(); v.Kind() == protocols.KindUint {
		for w := n; w > 0; w >>= 16 {
			if uint16(w) != uint16(n) {
				t.Errorf("%x is torn", n)
				return
			}
		}
	}
	for _, e := range v.Elems() {
		wantWhole(t, e)
		if !e.Equal(v.Elems()[0]) {
			t.Errorf("a list is torn: %v and %v", e, v.Elems()[0])
		}
	}
}

// What is read beyond a request keeps to what the device can.
func TestLongerPartsKeepToTheDevice(t *testing.T) {
	t.Parallel()
	l := lateList{now: time.Now}
	c := &call{unit: 1, function: 3, addr: 10, count: 1, request: &request{}}
	l.add(c, time.Second)
	c.lim = limits{registers: 1}
	if p := l.parts(c, nil); p != nil {
		t.Errorf("a device that gives one register is asked for %v", p)
	}
	c.lim = limits{registers: 10, unit: &facts{Holes: []hole{{First: 11, End: 12}}}}
	if p := l.parts(c, nil); len(p) != 1 || p[0] != (part{9, 2}) {
		t.Errorf("with a hole behind it, %v is asked", p)
	}
	c.lim.unit.Limit[holding] = 1
	if p := l.parts(c, nil); p != nil {
		t.Errorf("beyond the learnt limit, %v is asked", p)
	}
}

// A unit that was away for long is back with the first probe, although its
// only register has no neighbours that could be read with it.
func TestLoneRegisterComesBackAtOnce(t *testing.T) {
	t.Parallel()
	s := modbustest.NewServer()
	u := s.Unit(1)
	u.Holding.Set(7, 42)
	u.Holding.Refuse(8, 1000)
	u.Holding.Refuse(0, 7)
	u.SetFaults(modbustest.Always(modbustest.Fault{Drop: true}))
	l := openLine(t, s, modbustest.LineOptions{})
	d := newLineDevice(l.URL(), "hr:7")
	d.Timeout = 10 * time.Millisecond
	b, sc := openScan(t, d)
	for range 40 {
		out, _ := read(t.Context(), sc, 1)
		wantReadings(t, out, "timeout")
	}
	<-time.After(lateLeast + 50*time.Millisecond) // nothing late is to come
	sc.pace.timeout = 200 * time.Millisecond
	u.SetFaults(nil)
	out, res := read(t.Context(), sc, 1)
	wantReadings(t, out, "42")
	if advice := b.(protocols.Adviser).Advice(d); len(advice) > 0 || res.Learnt {
		t.Errorf("%q was learnt of a unit that was away", advice)
	}
}

// Where something comes back that is no answer, somebody is there: a unit that
// is silent beside it is not told that nobody is.
func TestSomebodyOnTheLine(t *testing.T) {
	t.Parallel()
	s := modbustest.NewServer()
	s.Unit(10).SetFaults(modbustest.Always(modbustest.Fault{WrongUnit: true}))
	s.Unit(20).SetFaults(modbustest.Always(modbustest.Fault{WrongUnit: true}))
	l := openLine(t, s, modbustest.LineOptions{})
	var scans []*scan
	var b protocols.Bus
	for _, id := range []uint8{10, 20, 30} { // the wrong ones are 11 and 21
		d := newLineDevice(l.URL(), "hr:0")
		d.Timeout, d.Modbus.Unit = 400*time.Millisecond, id
		if b == nil {
			b, _ = openScan(t, d)
		}
		sc, err := b.Plan(d, []int{0})
		if err != nil {
			t.Fatal(err)
		}
		scans = append(scans, sc.(*scan))
	}
	out := make([]protocols.Reading, 1)
	for range 4 {
		scans[0].Read(t.Context(), out)
		scans[1].Read(t.Context(), out)
		wantError(t, scans[2].Read(t.Context(), out).Err, protocols.KindTimeout, protocols.Timeout, "is unit id 30 right")
	}
}

// Where none of several units answers, it is the line that is to be checked.
func TestNobodyOnTheLine(t *testing.T) {
	t.Parallel()
	s := modbustest.NewServer()
	l := openLine(t, s, modbustest.LineOptions{})
	one, two := newLineDevice(l.URL(), "hr:0"), newLineDevice(l.URL(), "hr:0")
	one.Timeout, two.Timeout, two.Modbus.Unit = 20*time.Millisecond, 20*time.Millisecond, 2
	b, first := openScan(t, one)
	second, err := b.Plan(two, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]protocols.Reading, 1)
	for i := range 4 {
		want := "is unit id 1 right"
		if i > 1 {
			want = "nobody on this line answers: is its cable plugged in"
		}
		wantError(t, first.Read(t.Context(), out).Err, protocols.KindTimeout, protocols.Timeout, want, "115200 8N1")
		second.Read(t.Context(), out)
	}
	s.Unit(2)
	if res := second.Read(t.Context(), out); res.Err != nil {
		t.Fatal(res.Err)
	}
	wantError(t, first.Read(t.Context(), out).Err, protocols.KindTimeout, protocols.Timeout, "is unit id 1 right")
}
