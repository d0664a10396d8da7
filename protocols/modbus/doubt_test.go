package modbus

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
)

// scriptedLine serves RTU over TCP by a script: it is called with each whole
// request (its number from 0 on), and sends what it wants when it wants. It
// returns the endpoint.
func scriptedLine(t *testing.T, script func(i int, unit uint8, addr, count int, send func(after time.Duration, frame []byte))) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		var request [rtuRequest]byte
		for i := 0; ; i++ {
			if _, err := io.ReadFull(c, request[:]); err != nil {
				return
			}
			script(i, request[0], int(binary.BigEndian.Uint16(request[2:])), int(binary.BigEndian.Uint16(request[4:])),
				func(after time.Duration, frame []byte) {
					time.AfterFunc(after, func() { _, _ = c.Write(frame) }) // it may be closed by then
				})
		}
	}()
	return "rtu+tcp://" + l.Addr().String()
}

// addressed is the answer of unit 1 whose registers hold their addresses.
func addressed(addr, count int) []byte {
	f := []byte{1, 3, byte(2 * count)}
	for i := range count {
		f = binary.BigEndian.AppendUint16(f, uint16(addr+i))
	}
	return withCRC(f...)
}

// What comes later than something that could have been the answer is never
// taken for the next one's: each of these lines has its own way to mislead.
func TestMisleadingLines(t *testing.T) {
	t.Parallel()
	type sender = func(time.Duration, []byte)
	const ms = time.Millisecond
	for name, script := range map[string]func(i int, addr, count int, send sender){
		// Two units have one number, or somebody else's answer was spoilt.
		"damaged, then whole": func(i, addr, count int, send sender) {
			if i == 0 {
				bad := addressed(addr, count)
				bad[4] ^= 1
				send(ms, bad)
			}
			send(60*ms, addressed(addr, count))
		},
		// The unit thinks for 45 ms about another master's request.
		"another master's request while we wait": func(i, addr, count int, send sender) {
			if i == 0 {
				send(2*ms, withCRC(1, 3, 0x50, 0, 0, 2))
				send(45*ms, addressed(0x5000, 2))
				return
			}
			send(60*ms, addressed(addr, count))
		},
		// An adapter hands it on in two pieces, and we ask in between.
		"another master's request in two pieces": func(i, addr, count int, send sender) {
			if i == 0 {
				send(ms, addressed(addr, count))
				f := withCRC(1, 3, 0x50, 0, 0, 1)
				send(2*ms, f[:6])
				send(12*ms, append(f[6:len(f):len(f)], addressed(0x5000, 1)...))
				return
			}
			send(40*ms, addressed(addr, count))
		},
		"another master's request in two pieces, one right behind an answer": func(i, addr, count int, send sender) {
			if i == 0 {
				f := withCRC(1, 3, 0x50, 0, 0, 1)
				send(ms, append(addressed(addr, count), f[:6]...))
				send(12*ms, append(f[6:len(f):len(f)], addressed(0x5000, 1)...))
				return
			}
			send(40*ms, addressed(addr, count))
		},
		// Two masters ask at once: their requests spoil each other, and the unit
		// answers the other one.
		"two requests at the same moment": func(i, addr, count int, send sender) {
			if i == 0 {
				send(ms, append([]byte{0xd1, 3, 0x57, 0, 0xf0, 1, 0x94, 0x0a}, addressed(0x5000, count)...))
				return
			}
			send(40*ms, addressed(addr, count))
		},
		// An exception belongs to the request before.
		"a late exception": func(i, addr, count int, send sender) {
			if i == 0 {
				send(340*ms, withCRC(1, 0x83, 2))
				return
			}
			send(120*ms, addressed(addr, count))
		},
		"twice in one piece": func(_, addr, count int, send sender) {
			f := addressed(addr, count)
			send(ms, append(slices.Clip(f), f...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice("", "hr:0", "hr:1000", "hr:2000", "hr:3000")
			d.Endpoint = scriptedLine(t, func(i int, _ uint8, addr, count int, send func(time.Duration, []byte)) {
				script(i, addr, count, send)
			})
			d.Timeout = 300 * time.Millisecond
			_, sc := openScan(t, d)
			good := 0
			for range 3 {
				out, _ := read(t.Context(), sc, 4)
				for i, r := range out {
					if r.Reason == protocols.IllegalAddress {
						t.Errorf("register %d is refused", 1000*i)
					}
					if r.Quality != protocols.Good {
						continue
					}
					good++
					if r.Value.AsUint() != uint64(1000*i) {
						t.Errorf("register %d reads %s", 1000*i, text(r))
					}
				}
			}
			if good < 6 {
				t.Errorf("only %d of 12 are good", good)
			}
		})
	}
}

// A device server that was cut off gives all its line has answered when it is
// back, one after the other.
func TestBacklogOfALine(t *testing.T) {
	t.Parallel()
	var heap [][]byte
	d := newDevice("", "hr:0", "hr:1000", "hr:2000", "hr:3000")
	for range 3 {
		d.Tags = append(d.Tags, protocols.Tag{Address: "hr:5000", Type: "uint16[10]"})
	}
	d.Endpoint = scriptedLine(t, func(i int, _ uint8, addr, count int, send func(time.Duration, []byte)) {
		if i < 60 {
			heap = append(heap, addressed(addr, count))
			return
		}
		for n, f := range heap {
			send(time.Duration(n)*time.Millisecond/2, f)
		}
		send(time.Duration(len(heap))*time.Millisecond/2, addressed(addr, count))
		heap = nil
	})
	d.Timeout = 40 * time.Millisecond
	_, sc := openScan(t, d)
	for range 60 {
		read(t.Context(), sc, len(d.Tags))
	}
	sc.pace.timeout = 200 * time.Millisecond
	good := 0
	for range 8 {
		out, _ := read(t.Context(), sc, len(d.Tags))
		for i, r := range out[:4] {
			if r.Quality == protocols.Good {
				good++
				if r.Value.AsUint() != uint64(1000*i) {
					t.Errorf("register %d reads %s", 1000*i, text(r))
				}
			}
		}
	}
	if good < 12 {
		t.Errorf("only %d of 32 are good", good)
	}
}

// A unit that is back gives all that it was asked while it was away, more than
// is remembered of it: what was forgotten is not believed either.
func TestBacklogBeyondWhatIsRemembered(t *testing.T) {
	t.Parallel()
	const away = maxLate + 8
	var heap [][]byte
	d := newDevice("")
	for n := range away {
		d.Tags = append(d.Tags, protocols.Tag{Address: fmt.Sprint("hr:", 1000*n), Type: fmt.Sprintf("uint16[%d]", n+1)})
	}
	d.Tags = append(d.Tags, protocols.Tag{Address: "hr:50000", Type: "uint16[1]"})
	d.Endpoint = scriptedLine(t, func(i int, _ uint8, addr, count int, send func(time.Duration, []byte)) {
		if i < away {
			heap = append(heap, addressed(addr, count))
			return
		}
		for n, f := range heap {
			send(time.Duration(n)*time.Millisecond/2, f)
		}
		send(time.Duration(len(heap))*time.Millisecond/2, addressed(addr, count))
		heap = nil
	})
	d.Timeout, d.Modbus.MaxGap = 10*time.Millisecond, 0
	b, _ := openScan(t, d)
	for n := range away { // each alone: they are all asked
		sc, err := b.Plan(d, []int{n})
		if err != nil {
			t.Fatal(err)
		}
		read(t.Context(), sc.(*scan), 1)
	}
	sc, err := b.Plan(d, []int{away})
	if err != nil {
		t.Fatal(err)
	}
	sc.(*scan).pace.timeout = 300 * time.Millisecond
	good := 0
	for range 4 {
		out, _ := read(t.Context(), sc.(*scan), 1)
		if out[0].Quality != protocols.Good {
			continue
		}
		good++
		if v := out[0].Value.Elems()[0].AsUint(); v != 50000 {
			t.Errorf("register 50000 reads %d", v)
		}
	}
	if good == 0 {
		t.Error("it is not read again")
	}
}

// Another master's request is heard while nothing is asked: it gets the time
// for its answer, and if that comes later it is not taken for ours.
func TestAnotherMasterIsHeard(t *testing.T) {
	t.Parallel()
	const answered = 110 * time.Millisecond // the other master is, after its request
	for name, timeout := range map[string]time.Duration{"within our time-out": time.Second, "later": 60 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked time.Time
			heard := make(chan struct{})
			d := newDevice("", "hr:0", "hr:1000", "hr:1001", "hr:1002")
			d.Endpoint = scriptedLine(t, func(i int, _ uint8, addr, count int, send func(time.Duration, []byte)) {
				switch {
				case i == 0:
					send(0, addressed(addr, count))
					time.AfterFunc(5*time.Millisecond, func() {
						asked = time.Now()
						send(0, withCRC(1, 3, 0x0b, 0xb8, 0, 1))
						send(answered, addressed(3000, 1))
						close(heard)
					})
				case i == 1 && timeout > answered && time.Since(asked) < answered:
					t.Errorf("it asks %v after the other master did, before that has its answer", time.Since(asked))
					fallthrough
				default:
					send(2*answered, addressed(addr, count)) // it is slow
				}
			})
			d.Timeout = time.Second
			b, _ := openScan(t, d)
			one := func(tag int) *scan {
				sc, err := b.Plan(d, []int{tag})
				if err != nil {
					t.Fatal(err)
				}
				return sc.(*scan)
			}
			if out, res := read(t.Context(), one(0), 1); text(out[0]) != "0" {
				t.Fatal(res.Err)
			}
			<-heard
			<-time.After(30 * time.Millisecond) // the machine may be busy
			sc := one(1)
			sc.pace.timeout = timeout
			if out, res := read(t.Context(), sc, 1); out[0].Quality == protocols.Good && text(out[0]) != "1000" || timeout > answered && res.Err != nil {
				t.Errorf("register 1000 reads %s: %v", text(out[0]), res.Err)
			}
		})
	}
}

// once has one answer go wrong.
func once(f modbustest.Fault) modbustest.Plan {
	done := false
	return func(uint64, modbustest.Request) modbustest.Fault {
		if done {
			return modbustest.Fault{}
		}
		done = true
		return f
	}
}

// A unit that was away for long is asked again, also where it can be asked in
// one way only.
func TestSilentUnitIsWoken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		typ  string
		most int
		away int // scans
	}{{"uint16", 1, 40}, {"uint16", 2, 40}, {"float32", 2, 40}, {"float32", 16, 40}, {"uint16[125]", 125, 1}, {"bool[8]", 1, 40}} {
		t.Run(c.typ, func(t *testing.T) {
			t.Parallel()
			s := modbustest.NewServer()
			u := s.Unit(1)
			u.SetFaults(modbustest.Always(modbustest.Fault{Drop: true}))
			l := openLine(t, s, modbustest.LineOptions{})
			d := newLineDevice(l.URL())
			d.Timeout, d.Modbus.MaxRegisters = 20*time.Millisecond, c.most
			d.Tags = []protocols.Tag{{Address: "hr:0", Type: c.typ}}
			if c.typ == "bool[8]" {
				d.Tags[0].Address = "coil:0"
			}
			_, sc := openScan(t, d)
			for range c.away {
				read(t.Context(), sc, 1)
			}
			u.SetFaults(nil)
			<-time.After(lateLeast + 50*time.Millisecond) // nothing late is to come
			sc.pace.timeout = 200 * time.Millisecond      // other tests run
			if out, res := read(t.Context(), sc, 1); out[0].Quality != protocols.Good {
				t.Errorf("it is not back: %v", res.Err)
			}
		})
	}
}

// An answer was cut short by as many bytes as the next answer has, which came
// in their place.
func TestAnswerWithinAnAnswer(t *testing.T) {
	t.Parallel()
	long := frameOf(1, append([]byte{3, 40}, make([]byte, 40)...)...)
	next := frameOf(2, 3, 2, 0, 7)
	data := append(append(long[:len(long)-len(next):len(long)-len(next)], next...), frameOf(3, 3, 2, 0, 9)...)
	tr := newTCPTransport(func(context.Context, string, string) (net.Conn, error) {
		return &scripted{data: data, piece: 1000}, nil
	}, "plc:502")
	if err := tr.connect(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	x, err := tr.begin(t.Context(), pace{timeout: time.Second, inflight: 8})
	if err != nil {
		t.Fatal(err)
	}
	defer x.end()
	for _, n := range []uint16{20, 1, 1} {
		x.send(&call{unit: 1, function: 3, count: n})
	}
	for n := 0; n < 3; {
		c := x.receive()
		if c == nil {
			continue
		}
		n++
		if c.count == 20 && c.err == nil {
			t.Errorf("% x is taken for the answer", c.data)
		}
	}
}

// A device that was switched off for a while keeps the number of requests
// that it bears.
func TestWindowOutlivesAPowerCut(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	u := s.Unit(1)
	d := newDevice(s.Addr(), sparse(64)...)
	d.Timeout, d.Modbus.MaxInflight = 100*time.Millisecond, protocols.InflightAuto
	_, sc := openScan(t, d)
	sc.unit.window = newWindow(8)
	if _, res := read(t.Context(), sc, 64); res.Err != nil {
		t.Fatal(res.Err)
	}
	u.SetFaults(modbustest.Always(modbustest.Fault{Drop: true}))
	for range 4 {
		read(t.Context(), sc, 64)
	}
	// One lost answer of a request that was alone says nothing either.
	u.SetFaults(nil)
	read(t.Context(), sc, 64)
	if sc.unit.window.n != 8 {
		t.Errorf("after a power cut the window is %+v", sc.unit.window)
	}
}

// A device that refuses for a moment has taught nothing; one that refuses for
// good has.
func TestMomentaryRefusal(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	u := s.Unit(1)
	d := newDevice(s.Addr(), holdingTags(100)...)
	b, sc := openWith(t, Options{Memory: &memory{}}, d)
	read(t.Context(), sc, 100)
	for range 5 {
		u.SetFaults(once(modbustest.Fault{Exception: 2}))
		out, res := read(t.Context(), sc, 100)
		if res.Err != nil || out[99].Quality != protocols.Good {
			t.Errorf("not all tags are good in spite of a moment's refusal: %v", res.Err)
		}
		read(t.Context(), sc, 100)
	}
	if n := len(sc.requests); n != 1 || len(b.(protocols.Adviser).Advice(d)) > 0 {
		t.Errorf("%d requests: %q", n, b.(protocols.Adviser).Advice(d))
	}
	u.Limit(50)
	for range 12 {
		read(t.Context(), sc, 100)
	}
	if advice := b.(protocols.Adviser).Advice(d); len(advice) != 1 || len(sc.requests) != 2 {
		t.Errorf("%d requests: %q", len(sc.requests), advice)
	}
}

// countingMemory counts what is written.
type countingMemory struct {
	memory

	puts int
}

func (c *countingMemory) Put(key string, value []byte) error {
	c.puts++
	return c.memory.Put(key, value)
}

// Learning comes to an end, also where two devices of a unit want different
// things of it, and where tags overlap at the border of what it takes.
func TestLearningEnds(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	u := s.Unit(1)
	u.Holding.Refuse(105, 2)
	u.SetFaults(func(_ uint64, r modbustest.Request) modbustest.Fault {
		if r.Addr == 500 && r.Count > 10 {
			return modbustest.Fault{Exception: 2}
		}
		return modbustest.Fault{}
	})
	one, two := newDevice(s.Addr(), "hr:100", "hr:110"), newDevice(s.Addr(), "hr:200", "hr:201")
	two.ID, two.Modbus.MaxGap = "two", 4
	two.Tags = append(two.Tags, protocols.Tag{Address: "hr:500", Type: "string(20)"}, protocols.Tag{Address: "hr:505", Type: "string(20)"})
	m := &countingMemory{}
	b, first := openWith(t, Options{Memory: m}, one)
	second, err := b.Plan(two, allTags(two))
	if err != nil {
		t.Fatal(err)
	}
	learnt := 0
	out := make([]protocols.Reading, 4)
	for range 20 {
		for _, r := range []protocols.ScanResult{first.Read(t.Context(), out[:2]), second.Read(t.Context(), out)} {
			if r.Learnt {
				learnt++
			}
		}
	}
	if learnt > 3 || m.puts > 3 {
		t.Errorf("learnt %d times, written %d times", learnt, m.puts)
	}
}
