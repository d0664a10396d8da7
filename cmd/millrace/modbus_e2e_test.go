package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/protocols/modbus/modbustest"
	"millrace/protocols/mqtt/mqtttest"
)

// How devices of a test are read: often, and given up soon, or, where none
// is to be given up, with the patience that a busy machine needs.
const (
	fast    = "interval: 50ms, timeout: 200ms, offline_after: 500ms"
	patient = "interval: 50ms, timeout: 2s, offline_after: 500ms"
)

// TestSerialPeers reads pymodbus and libmodbus over serial lines: values of
// several types arrive as they were set, and a unit that is not there spoils
// nothing.
func TestSerialPeers(t *testing.T) {
	t.Parallel()
	pyClient, pyServer := socatLine(t)
	libClient, libServer := socatLine(t)
	slaves := map[string]*serialSlave{
		"py":  startSerialSlave(t, "/usr/bin/python3", "../../protocols/modbus/testdata/pymodbus_server.py", pyServer, "19200", "N", "1"),
		"lib": startSerialSlave(t, buildLibmodbus(t), libServer, "9600", "N", "7"),
	}
	for _, s := range slaves {
		s.set("holding", 0, 0xee6b, 0x2800, 0x0000, 0x41ac)
		s.set("holding", 10, 0x4d69, 0x6c6c)
		s.set("input", 3, 0xfffb)
		s.set("coil", 5, 1, 0, 1)
	}
	const tags = `interval: 100ms, timeout: 500ms, tags: [{name: count, address: "holding:0", type: uint32}, {name: level, address: "40003", type: float32, order: CDAB},
      {name: name, address: "holding:10", type: string(4)}, {name: temp, address: "30004", type: int16, scale: 0.1}, {name: on, address: "coil:5", type: "bool[3]"}]`
	py := fmt.Sprintf("driver: modbus, endpoint: \"rtu://%s?baud=19200&parity=even\"", pyClient)
	f := startField(t,
		"id: py, unit: 1, "+py+", "+tags,
		"id: gone, unit: 9, interval: 100ms, timeout: 200ms, offline_after: 500ms, tags: [{name: x, address: \"holding:0\"}], "+py,
		fmt.Sprintf("id: lib, unit: 7, driver: modbus, endpoint: \"rtu://%s\", %s", libClient, tags),
	)
	want := map[string]string{"count": "4000000000", "level": "21.5", "name": "Mill", "temp": "-0.5", "on": "[true false true]"}
	for _, id := range []string{"py", "lib"} {
		b := f.awaitGood(id)
		for tag, text := range want {
			if got := fmt.Sprint(b.Values[tag]); got != text {
				t.Errorf("%s: %s is %s, want %s", id, tag, got, text)
			}
		}
		f.awaitState(id, "online")
		slaves[id].set("holding", 0, 0, 17)
		mqtttest.WaitFor(t, "the new value of "+id, func() bool {
			all := f.r.Batches(id)
			return fmt.Sprint(all[len(all)-1].Values["count"]) == "17"
		})
	}
	f.awaitState("gone", "offline", "rtu://"+pyClient+" (19200 8E1), unit 9", "holding 0", "no answer within 200ms", "is unit id 9 right", "wires")
	f.stop()
	verify(t, f.r)
	for _, id := range []string{"py", "lib"} {
		for _, b := range f.r.Batches(id) {
			if n := fmt.Sprint(b.Values["count"]); n != "4000000000" && n != "17" && len(b.Bad) == 0 {
				t.Errorf("%s: count was %s", id, n)
			}
		}
	}
}

// TestUnplug pulls the adapter of a line out while it is used, and kills the
// agent: what is read comes back by itself, under the same name.
func TestUnplug(t *testing.T) {
	t.Parallel()
	s := newUnits(t, 1, 2, 3)
	l := openLine(t, s, modbustest.LineOptions{Baud: 38400, Turnaround: time.Millisecond})
	ids := []string{"meter-1", "meter-2", "meter-3"}
	var devices []string
	for i, id := range ids {
		devices = append(devices, meter(id, l.URL(), i+1, 10, "interval: 100ms, timeout: 300ms, offline_after: 1500ms"))
	}
	f := startField(t, devices...)
	for i, id := range ids {
		wantMeter(t, f.awaitGood(id), i+1)
		f.awaitState(id, "online")
	}

	port, _, _ := strings.Cut(l.URL(), "?")
	cpu, start := f.cpu(), time.Now()
	l.Unplug()
	for _, id := range ids {
		f.awaitState(id, "offline", port, "plugged in")
	}
	used, wall := f.cpu()-cpu, time.Since(start)
	// What the race detector makes of an agent that does nothing is some per
	// cent; one that spins takes all.
	if used > wall/2 {
		t.Errorf("it used %v of processor time in the %v without the adapter", used, wall)
	}
	for _, id := range ids {
		f.wantLogged(1, "device="+id, "state=offline")
	}

	if err := l.Plug(); err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		wantMeter(t, f.awaitGood(id), i+1)
		f.awaitState(id, "online")
	}

	f.kill()
	l.Unplug() // it gets another number
	if err := l.Plug(); err != nil {
		t.Fatal(err)
	}
	f.start()
	for i, id := range ids {
		wantMeter(t, f.awaitGood(id), i+1)
		f.awaitState(id, "online")
	}
	f.stop()
	verify(t, f.r)
	for i, id := range ids {
		for _, b := range f.r.Batches(id) {
			wantMeter(t, b, i+1)
		}
	}
	// One may be the line's own: it was pulled out in the middle of a frame, and
	// a process was killed in one.
	if st := l.Stats(); st.TooSoon > 1 {
		t.Errorf("%d requests came too soon: %+v", st.TooSoon, st)
	}
}

// TestDeadUnit is a serial device server with a unit that is dead: the
// others keep their scans, and everybody is told what to check.
func TestDeadUnit(t *testing.T) {
	t.Parallel()
	s := newUnits(t, 1, 2, 4)
	if err := s.ListenRTU(""); err != nil {
		t.Fatal(err)
	}
	endpoint := "rtu+tcp://" + s.AddrRTU()
	f := startField(t, meter("a", endpoint, 1, 10, patient), meter("b", endpoint, 2, 10, patient), meter("dead", endpoint, 3, 10, fast), meter("c", endpoint, 4, 10, patient))
	reason := f.awaitState("dead", "offline")
	want := endpoint + ", unit 3: asked for holding 0..9 (function 3): no answer within 200ms: is unit id 3 right, and is the device behind it switched on?"
	if reason != want {
		t.Errorf("the state says %q, want %q", reason, want)
	}
	if d := f.device("dead"); d.Reason != want || d.State != "offline" || d.BadTags != 10 {
		t.Errorf("/api/status says %s, %q, %d bad tags", d.State, d.Reason, d.BadTags)
	}
	before := map[string][2]uint64{}
	for _, id := range []string{"a", "b", "c"} {
		f.awaitState(id, "online")
		d := f.device(id)
		before[id] = [2]uint64{d.Scans, d.Missed}
	}
	f.more("a", 60)
	for _, id := range []string{"a", "b", "c"} {
		d := f.device(id)
		scans, missed := d.Scans-before[id][0], d.Missed-before[id][1]
		if missed*10 > scans+missed {
			t.Errorf("%s missed %d of %d scans beside a dead unit", id, missed, scans+missed)
		}
		if bad := d.Bad; bad > 0 {
			t.Errorf("%s has %d bad readings", id, bad)
		}
		for _, b := range f.r.Batches(id) {
			wantMeter(t, b, map[string]int{"a": 1, "b": 2, "c": 4}[id])
		}
	}
	f.wantLogged(1, "device=dead", "state=degraded", strconv.Quote(want))
	f.wantLogged(1, "device=dead", "state=offline", strconv.Quote(want))
	f.wantLogged(2, "device=dead")

	for addr := range 10 {
		s.Unit(3).Holding.Set(addr, uint16(300+addr))
	}
	wantMeter(t, f.awaitGood("dead"), 3)
	f.awaitState("dead", "online")
	f.wantLogged(1, "device=dead", "state=online")
	f.stop()
	verify(t, f.r)
}

// refusals counts the requests that a unit refuses.
type refusals struct {
	mu      sync.Mutex
	refuses func(modbustest.Request) bool
	n       int
	all     int
}

func (r *refusals) plan(_ uint64, q modbustest.Request) modbustest.Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all++
	if r.refuses(q) {
		r.n++
	}
	return modbustest.Fault{}
}

func (r *refusals) count() (refused, all int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n, r.all
}

// TestLearntOverRestarts: what a device refuses is found out in its first
// scan, said, and not asked again, whatever becomes of the agent.
func TestLearntOverRestarts(t *testing.T) {
	t.Parallel()
	s := newUnits(t, 1, 2)
	if err := s.Listen(""); err != nil {
		t.Fatal(err)
	}
	s.Unit(1).Holding.Refuse(20, 3) // between two tags
	s.Unit(2).Limit(40)
	refused := map[string]*refusals{
		"hole":  {refuses: func(q modbustest.Request) bool { return q.Addr < 23 && q.Addr+q.Count > 20 }},
		"limit": {refuses: func(q modbustest.Request) bool { return q.Count > 40 }},
	}
	s.Unit(1).SetFaults(refused["hole"].plan)
	s.Unit(2).SetFaults(refused["limit"].plan)
	endpoint := "tcp://" + s.Addr()
	var tags []string
	for _, addr := range []int{0, 10, 19, 23, 30, 44} {
		tags = append(tags, fmt.Sprintf("{name: r%d, address: \"holding:%d\"}", addr, addr))
	}
	f := startField(t,
		fmt.Sprintf("id: hole, driver: modbus, endpoint: %q, unit: 1, %s, tags: [%s]", endpoint, patient, strings.Join(tags, ", ")),
		meter("limit", endpoint, 2, 100, patient))
	advice := map[string]string{
		"hole":  "unit 1 refuses holding 20..22 (exception 2), which no tag needs: it is not read any more; max_gap: 2 would leave it out from the start",
		"limit": "unit 2 refused longer requests, but gave 40 holding registers at once: set max_registers: 40",
	}
	units := map[string]int{"hole": 1, "limit": 2}
	for id, text := range advice {
		first := f.r.WaitBatches(t, id, 1)[0]
		if len(first.Bad) > 0 {
			t.Errorf("the first batch of %s: %v are bad", id, first.Bad)
		}
		wantMeter(t, first, units[id])
		f.awaitState(id, "online")
		mqtttest.WaitFor(t, "/api/status to advise: "+text, func() bool { return slices.Equal(f.device(id).Advice, []string{text}) })
		f.more(id, 5)
		f.wantLogged(1, "device="+id, "because="+strconv.Quote(text))
		f.wantLogged(1, "device="+id, "a suggestion")
		if n, _ := refused[id].count(); n == 0 || n > 8 {
			t.Errorf("%d requests of %s were refused", n, id)
		}
	}
	for _, end := range []struct {
		name string
		f    func()
	}{{"SIGTERM", f.stop}, {"kill -9", f.kill}} {
		before := map[string]int{}
		for id := range advice {
			before[id], _ = refused[id].count()
		}
		end.f()
		f.start()
		for id, text := range advice {
			for _, b := range f.more(id, 5) {
				wantMeter(t, b, units[id])
				if len(b.Bad) > 0 {
					t.Errorf("%s after %s: %v", id, end.name, b.Bad)
				}
			}
			if n, all := refused[id].count(); n != before[id] {
				t.Errorf("after %s %d requests of %s were refused again, of %d", end.name, n-before[id], id, all)
			}
			mqtttest.WaitFor(t, "the advice to be there again", func() bool { return slices.Equal(f.device(id).Advice, []string{text}) })
			f.wantLogged(1, "device="+id, "because="+strconv.Quote(text))
			f.wantLogged(1, "device="+id, "a suggestion")
		}
	}
	f.stop()
	verify(t, f.r)
}

// TestFallback is a device with two network ports.
func TestFallback(t *testing.T) {
	t.Parallel()
	first, second := newUnits(t, 1), newUnits(t, 1)
	var addrs []string
	for _, s := range []*modbustest.Server{first, second} {
		if err := s.Listen(""); err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, s.Addr())
	}
	f := startField(t, meter("plc", "tcp://"+addrs[0], 1, 10, patient+fmt.Sprintf(", fallback: %q", "tcp://"+addrs[1])))
	wantMeter(t, f.awaitGood("plc"), 1)
	f.awaitState("plc", "online")
	if n := second.Accepted(); n > 0 {
		t.Errorf("the second address got %d connections while the first answered", n)
	}

	_ = first.Close()
	for _, b := range f.more("plc", 20) {
		wantMeter(t, b, 1)
		if len(b.Bad) > 0 {
			t.Errorf("a scan was lost: %v", b.Bad)
		}
	}
	f.awaitState("plc", "online")
	f.wantLogged(1, "second address is in use", addrs[0], addrs[1])

	_ = second.Close()
	f.awaitState("plc", "offline", addrs[0], addrs[1], "refused")
	if d := f.device("plc"); !strings.Contains(d.Reason, addrs[0]) || !strings.Contains(d.Reason, addrs[1]) {
		t.Errorf("/api/status says %q", d.Reason)
	}

	if err := first.Listen(addrs[0]); err != nil {
		t.Fatal(err)
	}
	wantMeter(t, f.awaitGood("plc"), 1)
	f.wantLogged(1, "first address is in use again", addrs[0])
	f.wantLogged(1, "second address is in use")
	f.stop()
	verify(t, f.r)
}

// TestFallbackOfAFrozenDevice: the first address takes connections and says
// nothing any more.
func TestFallbackOfAFrozenDevice(t *testing.T) {
	t.Parallel()
	first, second := newUnits(t, 1), newUnits(t, 1)
	for _, s := range []*modbustest.Server{first, second} {
		if err := s.Listen(""); err != nil {
			t.Fatal(err)
		}
	}
	f := startField(t, meter("plc", "tcp://"+first.Addr(), 1, 10, fast+fmt.Sprintf(", fallback: %q", "tcp://"+second.Addr())))
	f.awaitGood("plc")
	first.Unit(1).SetFaults(modbustest.Always(modbustest.Fault{Drop: true}))
	f.awaitState("plc", "offline", first.Addr(), "no answer within 200ms")
	wantMeter(t, f.awaitGood("plc"), 1)
	if second.Accepted() == 0 {
		t.Error("the second address was not tried")
	}
	f.awaitState("plc", "online")
	f.wantLogged(1, "second address is in use")
	f.stop()
	verify(t, f.r)
}

// TestCheapDevice takes one connection, closes it when nothing comes, loses
// requests that come too soon, and gives few registers at once.
func TestCheapDevice(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, keys string
		limits     modbustest.Limits
		conns      func(n, scans uint64) bool
	}{
		{
			"closes idle connections", "interval: 200ms, pause: 25ms, max_registers: 10",
			modbustest.Limits{MaxConns: 1, IdleClose: 100 * time.Millisecond, MinGap: 15 * time.Millisecond},
			func(n, scans uint64) bool { return n >= scans/2 && n <= scans+2 },
		},
		{
			"close_after_scan", "interval: 200ms, pause: 25ms, max_registers: 10, close_after_scan: true",
			modbustest.Limits{MaxConns: 1, MinGap: 15 * time.Millisecond},
			func(n, scans uint64) bool { return n >= scans-1 && n <= scans+2 },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newUnits(t, 1)
			s.SetLimits(tc.limits)
			s.Unit(1).Limit(10)
			if err := s.Listen(""); err != nil {
				t.Fatal(err)
			}
			f := startField(t, meter("plc", "tcp://"+s.Addr(), 1, 30, "timeout: 2s, "+tc.keys))
			all := f.r.WaitBatches(t, "plc", 12)
			for _, b := range all {
				wantMeter(t, b, 1)
				if len(b.Bad) > 0 || len(b.Values) != 30 {
					t.Errorf("batch %d has %d values, and is bad: %v", b.Seq, len(b.Values), b.Bad)
				}
			}
			d := f.device("plc")
			if n := s.Accepted(); !tc.conns(n, d.Scans) {
				t.Errorf("%d connections for %d scans", n, d.Scans)
			}
			if d.State != "online" || len(d.Advice) > 0 {
				t.Errorf("%s (%s), with the advice %q", d.State, d.Reason, d.Advice)
			}
			f.stop()
			verify(t, f.r)
			if s.Refused() > 0 || s.Ignored() > 0 {
				t.Errorf("the device refused %d connections, and ignored %d requests", s.Refused(), s.Ignored())
			}
			f.wantLogged(0, "level=WARN", "device=plc", "state=")
		})
	}
}

// TestInflightAuto finds out what two devices bear at once: one a single
// request, the other many.
func TestInflightAuto(t *testing.T) {
	t.Parallel()
	weak, strong := newUnits(t, 1), newUnits(t, 1)
	weak.SetLimits(modbustest.Limits{MaxInflight: 1})
	weak.Unit(1).SetAnswerTime(modbustest.AnswerTime{Time: 3 * time.Millisecond})
	strong.Unit(1).SetAnswerTime(modbustest.AnswerTime{Time: 3 * time.Millisecond, Parallel: 16})
	var devices []string
	var tags []string
	for i := range 24 {
		tags = append(tags, fmt.Sprintf("{name: r%d, address: \"holding:%d\"}", 4*i, 4*i))
	}
	for i, s := range []*modbustest.Server{weak, strong} {
		if err := s.Listen(""); err != nil {
			t.Fatal(err)
		}
		devices = append(devices, fmt.Sprintf("id: %s, driver: modbus, endpoint: \"tcp://%s\", interval: 150ms, timeout: 1s, max_inflight: auto, max_gap: 0, tags: [%s]",
			[]string{"weak", "strong"}[i], s.Addr(), strings.Join(tags, ", ")))
	}
	f := startField(t, devices...)
	f.r.WaitBatches(t, "strong", 3)
	mqtttest.WaitFor(t, "the strong one's scans to take less than a third of 24 × 3 ms", func() bool {
		ms := f.device("strong").ScanMS
		return ms > 0 && ms < 24
	})
	f.r.WaitBatches(t, "weak", 20)
	for _, id := range []string{"weak", "strong"} {
		for _, b := range f.r.Batches(id) {
			wantMeter(t, b, 1)
			if len(b.Bad) > 0 || len(b.Values) != 24 {
				t.Errorf("batch %d of %s: %d values, bad: %v", b.Seq, id, len(b.Values), b.Bad)
			}
		}
		if d := f.device(id); d.State != "online" || d.Bad > 0 {
			t.Errorf("%s: %s (%s), %d bad readings", id, d.State, d.Reason, d.Bad)
		}
	}
	if n := weak.Ignored(); n == 0 || n > 2 {
		t.Errorf("the weak one ignored %d requests", n)
	}
	ignored := weak.Ignored()
	f.stop()
	f.start()
	for _, id := range []string{"weak", "strong"} {
		f.awaitGood(id)
	}
	f.more("weak", 10)
	if n := weak.Ignored(); n != ignored {
		t.Errorf("after the restart the weak one ignored %d more requests", n-ignored)
	}
	if ms := f.device("strong").ScanMS; ms > 36 {
		t.Errorf("after the restart a scan of the strong one takes %v ms", ms)
	}
	f.stop()
	verify(t, f.r)
	for _, id := range []string{"weak", "strong"} {
		f.wantLogged(0, "level=WARN", "device="+id)
	}
}

// baudOf is the speed that a pseudo terminal was set to.
func baudOf(t *testing.T, path string) int {
	t.Helper()
	p, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s, err := unix.IoctlGetTermios(int(p.Fd()), unix.TCGETS2)
	if err != nil {
		t.Fatal(err)
	}
	return int(s.Ospeed)
}

// TestReloadOfALine changes a serial line in use.
func TestReloadOfALine(t *testing.T) {
	t.Parallel()
	s := newUnits(t, 1, 2)
	l := openLine(t, s, modbustest.LineOptions{Baud: 38400, Turnaround: time.Millisecond})
	slow := strings.Replace(l.URL(), "baud=38400", "baud=19200", 1)
	const keys = "interval: 100ms, timeout: 2s, offline_after: 1s"
	f := startField(t, meter("a", l.URL(), 1, 10, keys))
	f.awaitGood("a")
	f.awaitState("a", "online")
	if n := baudOf(t, l.Path()); n != 38400 {
		t.Errorf("the port has %d baud", n)
	}

	f.reload(meter("a", l.URL(), 1, 10, keys), meter("b", l.URL(), 2, 10, keys))
	wantMeter(t, f.awaitGood("b"), 2)
	wantMeter(t, f.awaitGood("a"), 1)
	f.awaitState("b", "online")
	f.wantLogged(1, "device=a", "state=") // it was not touched

	f.reload(meter("a", slow, 1, 10, keys), meter("b", slow, 2, 10, keys))
	wantMeter(t, f.awaitGood("a"), 1)
	wantMeter(t, f.awaitGood("b"), 2)
	if n := baudOf(t, l.Path()); n != 19200 {
		t.Errorf("the port has %d baud after the reload, want 19200", n)
	}
	f.awaitState("a", "online")
	f.awaitState("b", "online")
	f.wantLogged(0, "another program")

	f.reload(meter("a", slow, 1, 10, keys))
	mqtttest.WaitFor(t, "b's state to be cleared", func() bool { return len(f.r.Retained("millrace/plant/gw-1/b/state")) == 0 })
	f.more("a", 2) // what b was asked last has left the line
	before := s.Unit(2).Requests()
	f.more("a", 5)
	if n := s.Unit(2).Requests(); n != before {
		t.Errorf("b was asked %d times after it was removed", n-before)
	}
	f.stop()
	verify(t, f.r)
	for i, id := range []string{"a", "b"} {
		for _, b := range f.r.Batches(id) {
			wantMeter(t, b, i+1)
			if len(b.Bad) > 0 {
				t.Errorf("%s lost readings by a reload: %v", id, b.Bad)
			}
		}
	}
	if st := l.Stats(); st.Violations() > 0 {
		t.Errorf("the rules of the line were broken: %+v", st)
	}
}

// TestTimeoutTooShort: a device that answers, but late, is not taken for one
// that is switched off.
func TestTimeoutTooShort(t *testing.T) {
	t.Parallel()
	s := newUnits(t, 1, 2)
	if err := s.Listen(""); err != nil {
		t.Fatal(err)
	}
	l := openLine(t, s, modbustest.LineOptions{Baud: 38400, Turnaround: time.Millisecond})
	for id := range uint8(2) {
		s.Unit(id + 1).SetFaults(modbustest.Always(modbustest.Fault{Late: 150 * time.Millisecond}))
	}
	const keys = "interval: 250ms, timeout: 100ms, offline_after: 1s"
	f := startField(t, meter("network", "tcp://"+s.Addr(), 1, 10, keys), meter("line", l.URL(), 2, 10, keys))
	for _, id := range []string{"network", "line"} {
		f.awaitState(id, "offline", "no answer within 100ms (but answers to earlier requests after that): is the timeout long enough for this device?")
		s.Unit(map[string]uint8{"network": 1, "line": 2}[id]).SetFaults(nil)
	}
	for id, unit := range map[string]int{"network": 1, "line": 2} {
		f.awaitGood(id)
		f.awaitState(id, "online")
		for _, b := range f.r.Batches(id) {
			wantMeter(t, b, unit)
		}
	}
	f.stop()
	verify(t, f.r)
}
