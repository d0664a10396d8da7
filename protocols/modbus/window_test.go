package modbus

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
)

// sparse returns n tags, each of which takes a request of its own.
func sparse(n int) []string {
	tags := make([]string, n)
	for i := range tags {
		tags[i] = fmt.Sprintf("hr:%d", 200*i)
	}
	return tags
}

func TestPipelining(t *testing.T) {
	t.Parallel()
	for name, shuffled := range map[string]bool{"in order": false, "shuffled": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			u := s.Unit(1)
			for i := range 64 {
				u.Holding.Set(200*i, uint16(i))
			}
			u.SetAnswerTime(modbustest.AnswerTime{Time: 10 * time.Millisecond, Parallel: 8, Shuffled: shuffled})
			d := newDevice(s.Addr(), sparse(64)...)
			d.Modbus.MaxInflight = 8
			_, sc := openScan(t, d)
			begin := time.Now()
			for range 3 {
				out, res := read(t.Context(), sc, 64)
				if res.Err != nil || res.Answers != 64 || s.Accepted() != 1 {
					t.Fatalf("unexpected result %+v", res)
				}
				for i := range out {
					if text(out[i]) != fmt.Sprint(i) {
						t.Errorf("reading %d is %s", i, text(out[i]))
					}
				}
			}
			if took := time.Since(begin); took > 3*64*10*time.Millisecond/2 {
				t.Errorf("it took %v: not much was under way at once", took)
			}
		})
	}
}

// Of several requests under way, each faulty answer spoils its own only.
func TestPipeliningNeverAWrongValue(t *testing.T) {
	t.Parallel()
	const timeout = 5 * time.Millisecond
	// What is cut off here is as long as the answers of one register, two and
	// three.
	cuts := []modbustest.Fault{{Cut: 11}, {Cut: 13}, {Cut: 15}}
	t.Run("every fault", func(t *testing.T) {
		t.Parallel()
		pipelineFaults(t, 8000, timeout, modbustest.Random(3, 0.03, append(everyFault(timeout), cuts...)...))
	})
	// Another answer fits the hole, and its id or its protocol does not tell.
	t.Run("cut, and a wrong answer behind", func(t *testing.T) {
		t.Parallel()
		pipelineFaults(t, 8000, timeout, modbustest.Random(4, 0.06, modbustest.Fault{Cut: 11}, modbustest.Fault{WrongID: true}, modbustest.Fault{WrongProtocol: true}))
	})
}

// pipelineFaults reads registers that hold their own addresses from a unit
// with the given faults, eight requests at once.
func pipelineFaults(t *testing.T, answers int, timeout time.Duration, faults modbustest.Plan) {
	t.Helper()
	s := startServer(t)
	u := s.Unit(1)
	for i := range addresses {
		u.Holding.Set(i, uint16(i))
	}
	d := newDevice(s.Addr(), sparse(200)...)
	for i := range d.Tags { // answers of many lengths
		d.Tags[i].Type = fmt.Sprintf("uint16[%d]", 1+i%7)
	}
	d.Timeout, d.Modbus.MaxInflight = timeout, 8
	b := connectPatiently(t, d)
	sc, err := b.Plan(d, allTags(d))
	if err != nil {
		t.Fatal(err)
	}
	u.SetFaults(faults)
	good := 0
	out := make([]protocols.Reading, 200)
	scans := faultyAnswers(t, answers, 0.2, 1) / 200
	for range scans {
		res := sc.Read(t.Context(), out)
		if protocols.KindOf(res.Err) == protocols.KindNotConnected || res.Answers == 0 {
			_ = b.Close()
			if err := b.Connect(t.Context()); err != nil {
				t.Log(err)
			}
		}
		for i := range out {
			if out[i].Quality == protocols.Good {
				good++
				for j, v := range out[i].Value.Elems() {
					if v.AsUint() != uint64(200*i+j) {
						t.Fatalf("register %d of %d reads %d", j, 200*i, v.AsUint())
					}
				}
			}
		}
	}
	t.Logf("%d of %d good, over %d connections", good, 200*scans, s.Accepted())
	if good == 0 {
		t.Errorf("none of %d are good", 200*scans)
	}
}

// How many requests a device bears is found out without losing a reading,
// and kept.
func TestInflightIsFoundOut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit    int // the device drops what is beyond
		parallel int // it works on so many at once
		most     int // what may be found
		least    int
	}{
		"bears two":          {limit: 2, parallel: 8, least: 1, most: 2},
		"bears one":          {limit: 1, parallel: 1, least: 1, most: 1},
		"bears eight":        {limit: 8, parallel: 8, least: 2, most: 8},
		"no faster for more": {limit: 16, parallel: 1, least: 1, most: 2},
		"bears all":          {limit: 16, parallel: 16, least: 2, most: 16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			u := s.Unit(1)
			s.SetLimits(modbustest.Limits{MaxInflight: c.limit})
			u.SetAnswerTime(modbustest.AnswerTime{Time: 4 * time.Millisecond, Parallel: c.parallel})
			d := newDevice(s.Addr(), sparse(32)...)
			d.Timeout, d.Modbus.MaxInflight = 500*time.Millisecond, protocols.InflightAuto
			m := &memory{}
			_, sc := openWith(t, Options{Memory: m}, d)
			for range 5*windowScans + 2 {
				out, res := read(t.Context(), sc, 32)
				for i := range out {
					if out[i].Quality != protocols.Good {
						t.Fatalf("reading %d is %s: %v", i, text(out[i]), res.Err)
					}
				}
			}
			n := sc.unit.window.n
			if n < c.least || n > c.most || !sc.unit.window.settled {
				t.Errorf("%d are found (%+v), want %d to %d", n, sc.unit.window, c.least, c.most)
			}
			if again := newUnit(1, sc.unit.key, m, time.Now).window; again.n != n || !again.settled {
				t.Errorf("kept: %+v, want %d", again, n)
			}
		})
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.Unit(1)
	s.SetLimits(modbustest.Limits{MinGap: 15 * time.Millisecond})
	d := newDevice(s.Addr(), sparse(5)...)
	d.Modbus.Pause, d.Modbus.MaxInflight = 25*time.Millisecond, 4
	_, sc := openScan(t, d)
	for range 2 {
		if _, res := read(t.Context(), sc, 5); res.Err != nil || s.Ignored() > 0 {
			t.Errorf("%d requests came too soon: %v", s.Ignored(), res.Err)
		}
	}
}

func TestFallback(t *testing.T) {
	t.Parallel()
	first, second := startServer(t), startServer(t)
	first.Unit(1).Holding.Set(0, 1)
	second.Unit(1).Holding.Set(0, 2)
	d := newDevice(first.Addr(), "hr:0")
	d.Modbus.Fallback = "tcp://" + second.Addr()
	d.Timeout = 100 * time.Millisecond
	b, sc := openScan(t, d)
	wantNow := func(want string) {
		t.Helper()
		out, res := read(t.Context(), sc, 1)
		if text(out[0]) != want {
			t.Errorf("it reads %s (%v), want %s", text(out[0]), res.Err, want)
		}
	}
	connect := func() error {
		_ = b.Close()
		return b.Connect(t.Context())
	}
	wantNow("1")
	addr := first.Addr()
	_ = first.Close()
	if err := connect(); err != nil {
		t.Fatal(err)
	}
	wantNow("2")
	_ = second.Close()
	wantError(t, connect(), protocols.KindNotConnected, protocols.Offline, second.Addr(), addr)
	if err := first.Listen(addr); err != nil {
		t.Fatal(err)
	}
	if err := connect(); err != nil {
		t.Fatal(err)
	}
	wantNow("1")
	// An address that takes connections and answers nothing is left, too.
	if err := second.Listen(strings.TrimPrefix(d.Modbus.Fallback, "tcp://")); err != nil {
		t.Fatal(err)
	}
	first.Unit(1).SetFaults(modbustest.Always(modbustest.Fault{Drop: true}))
	for range 2 {
		if err := connect(); err != nil {
			t.Fatal(err)
		}
		_, _ = read(t.Context(), sc, 1)
	}
	wantNow("2")
}

// Others have their turn between two requests of a long scan.
func TestScanLetsOthersIn(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.Unit(1).Holding.Set(0, 1)
	s.Unit(2).Holding.Set(0, 2)
	long, short := newDevice(s.Addr(), sparse(10)...), newDevice(s.Addr(), "hr:0")
	short.Modbus.Unit = 2
	b, sc := openScan(t, long)
	other, err := b.Plan(short, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	turns := 0
	sc.OnPause(func() bool { return turns < 5 }, func() {
		turns++
		out := make([]protocols.Reading, 1)
		if res := other.Read(t.Context(), out); res.Err != nil || text(out[0]) != "2" {
			t.Errorf("the other reads %s, %v", text(out[0]), res.Err)
		}
		if turns == 5 { // it may lose the connection, too: that harms nobody
			_ = b.Close()
		}
	})
	out, res := read(t.Context(), sc, 10)
	if text(out[0]) != "1" || text(out[4]) != "0" || text(out[9]) != "0" || res.Err != nil || turns != 5 {
		t.Errorf("after %d turns: %s, %s, %s, %v", turns, text(out[0]), text(out[4]), text(out[9]), res.Err)
	}
}
