package modbus

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
)

// farApart returns n tags that take a request each; each register of s holds
// its address.
func farApart(s *modbustest.Server, n int) (tags, want []string) {
	for i := range n {
		s.Unit(1).Holding.Set(100*i, uint16(100*i))
		tags = append(tags, fmt.Sprint("hr:", 100*i))
		want = append(want, fmt.Sprint(100*i))
	}
	return tags, want
}

// readConnected is read after what the bus does about a connection that broke
// before its first answer.
func readConnected(t *testing.T, b protocols.Bus, sc *scan, n int) ([]protocols.Reading, protocols.ScanResult) {
	t.Helper()
	out, res := read(t.Context(), sc, n)
	if protocols.KindOf(res.Err) != protocols.KindNotConnected || res.Answers > 0 {
		return out, res
	}
	_ = b.Close()
	if err := b.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return read(t.Context(), sc, n)
}

// A device that gives only so many answers on a connection is read all the
// same, all of it in each scan.
func TestDeviceThatClosesAfterAnswers(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tcp", "rtu+tcp"} {
		for _, answers := range []int{1, 2, 3} {
			t.Run(fmt.Sprint(scheme, answers), func(t *testing.T) {
				t.Parallel()
				s := startServer(t)
				if err := s.ListenRTU(""); err != nil {
					t.Fatal(err)
				}
				s.SetLimits(modbustest.Limits{MaxAnswers: answers})
				tags, want := farApart(s, 6)
				d := newDevice(s.Addr(), tags...)
				if scheme == "rtu+tcp" {
					d.Endpoint = "rtu+tcp://" + s.AddrRTU()
				}
				b, sc := openScan(t, d)
				for range 4 {
					out, res := readConnected(t, b, sc, len(tags))
					wantReadings(t, out, want...)
					if res.Err != nil {
						t.Fatal(res.Err)
					}
				}
			})
		}
	}
}

// A device that closes the connection when it is asked for one address spoils
// nothing else, whether that is asked for first, last, or among others.
func TestDeviceThatClosesAtOneAddress(t *testing.T) {
	t.Parallel()
	for _, inflight := range []int{1, 4} {
		for at := range 6 {
			t.Run(fmt.Sprintf("request %d, %d at once", at, inflight), func(t *testing.T) {
				t.Parallel()
				s := startServer(t)
				tags, want := farApart(s, 6)
				want[at] = string(protocols.Offline)
				s.Unit(1).SetFaults(func(_ uint64, r modbustest.Request) modbustest.Fault {
					return modbustest.Fault{HalfClose: int(r.Addr) == 100*at}
				})
				d := newDevice(s.Addr(), tags...)
				d.Modbus.MaxInflight = inflight
				b, sc := openScan(t, d)
				readConnected(t, b, sc, len(tags))
				for range 20 {
					out, res := read(t.Context(), sc, len(tags))
					wantReadings(t, out, want...)
					wantError(t, res.Err, protocols.KindRefused, protocols.Offline, "unit 1", fmt.Sprint("holding ", 100*at), "closes the connection", "address")
				}
				// It is asked less and less often, each time over two connections.
				if n := s.Accepted(); n > 20 {
					t.Errorf("%d connections", n)
				}
				s.Unit(1).SetFaults(nil)
				for range maxPause + 1 {
					read(t.Context(), sc, len(tags))
				}
				if out, res := read(t.Context(), sc, len(tags)); res.Err != nil || text(out[at]) != fmt.Sprint(100*at) {
					t.Errorf("when it is mended: %v", res.Err)
				}
			})
		}
	}
}

// A device that goes away in the middle of a scan is not asked for the rest.
func TestDeviceThatGoesInTheMiddle(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	tags, want := farApart(s, 40)
	d := newDevice(s.Addr(), tags...)
	s.Unit(1).SetFaults(func(n uint64, _ modbustest.Request) modbustest.Fault {
		return modbustest.Fault{Reset: n > 10}
	})
	_, sc := openScan(t, d)
	out, res := read(t.Context(), sc, len(tags))
	if asked := s.Unit(1).Requests(); res.Answers != 10 || asked > 16 || s.Accepted() > 6 {
		t.Errorf("%+v after %d requests over %d connections", res, asked, s.Accepted())
	}
	wantError(t, res.Err, protocols.KindNotConnected, protocols.Offline)
	wantReadings(t, out, append(want[:10:10], slices.Repeat([]string{"offline"}, 30)...)...)
}

// What is said of a connection that breaks names the next thing to check,
// however the device ends it, and it is the same failure each time.
func TestWordsOfBrokenConnections(t *testing.T) {
	t.Parallel()
	alike := map[string]bool{}
	for scheme, words := range map[string][]string{
		"tcp":     {"accept enough connections", "know the unit"},
		"rtu+tcp": {"accept enough connections", "Or does this address speak Modbus TCP? Then write tcp://"},
	} {
		for _, f := range []modbustest.Fault{{Reset: true}, {HalfClose: true}} {
			s := startServer(t)
			if err := s.ListenRTU(""); err != nil {
				t.Fatal(err)
			}
			s.Unit(1).SetFaults(modbustest.Always(f))
			d := newDevice(s.Addr(), "hr:7")
			if scheme == "rtu+tcp" {
				d.Endpoint = "rtu+tcp://" + s.AddrRTU()
			}
			_, sc := openScan(t, d)
			_, res := read(t.Context(), sc, 1)
			wantError(t, res.Err, protocols.KindNotConnected, protocols.Offline, append(words, scheme+"://127.0.0.1:", "unit 1", "holding 7")...)
			alike[protocols.AlikeOf(res.Err)] = true
		}
	}
	if len(alike) != 1 {
		t.Errorf("they are told apart: %v", alike)
	}
}

// A unit at which the gateway hangs up does not send the bus to its other
// address while its neighbours answer on this one; when they don't, it goes.
func TestHangUpIsNoReasonForTheFallback(t *testing.T) {
	t.Parallel()
	first, second := startServer(t), startServer(t)
	for _, s := range []*modbustest.Server{first, second} {
		s.Unit(2).SetFaults(modbustest.Always(modbustest.Fault{Reset: true}))
	}
	d := newDevice(first.Addr(), "hr:0")
	d.Modbus.Fallback = "tcp://" + second.Addr()
	dead := *d
	dead.Modbus.Unit = 2
	b, healthy := openScan(t, d)
	sc, err := b.Plan(&dead, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	again := func() {
		t.Helper()
		_ = b.Close()
		if err := b.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	first.Unit(1).Holding.Set(0, 1)
	second.Unit(1).Holding.Set(0, 2)
	for range 3 {
		if out, res := read(t.Context(), healthy, 1); text(out[0]) != "1" {
			t.Fatalf("it reads %s: %v", text(out[0]), res.Err)
		}
		for range 2 { // as the collector does
			if _, res := read(t.Context(), sc.(*scan), 1); protocols.KindOf(res.Err) != protocols.KindNotConnected {
				t.Fatal(res.Err)
			}
			again()
		}
	}
	first.Unit(1).SetFaults(modbustest.Always(modbustest.Fault{Reset: true}))
	for range 2 {
		read(t.Context(), healthy, 1)
		again()
	}
	if out, res := read(t.Context(), healthy, 1); text(out[0]) != "2" {
		t.Errorf("on the other address it reads %s: %v", text(out[0]), res.Err)
	}
}

// What a device server still has in its memory when a connection breaks comes
// on the next one: it is not taken for the answer to what is asked there.
func TestLateAnswerOnANewConnection(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	frame := func(values ...uint16) []byte {
		f := []byte{1, 3, byte(2 * len(values))}
		for _, v := range values {
			f = binary.BigEndian.AppendUint16(f, v)
		}
		return binary.LittleEndian.AppendUint16(f, crc16(f))
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		behind := frame(111) // to the request at which the first connection breaks
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			in := make([]byte, rtuRequest)
			for {
				if _, err := io.ReadFull(c, in); err != nil || n == 0 && in[3] == 100 {
					break
				}
				values := make([]uint16, in[5])
				for i := range values {
					values[i] = uint16(in[3]) + uint16(i)
				}
				answer := frame(values...)
				if n == 1 { // it is one behind
					answer, behind = behind, answer
				}
				_, _ = c.Write(answer) // it may have been closed
			}
			_ = c.Close()
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { _ = l.Close() })
	d := newDevice("", "hr:0", "hr:100", "hr:200")
	d.Endpoint, d.Timeout = "rtu+tcp://"+l.Addr().String(), 100*time.Millisecond
	b, sc := openScan(t, d)
	for range 3 {
		out, _ := readConnected(t, b, sc, 3)
		for i, r := range out {
			if r.Quality == protocols.Good && text(r) != fmt.Sprint(100*i) {
				t.Errorf("holding %d reads %s", 100*i, text(r))
			}
		}
	}
	_ = b.Close()
}

// A device that closes the connection when it is asked for too much at once is
// found out (max_inflight: auto), and no reading is lost to that.
func TestInflightThatClosesTheConnection(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.Unit(1).SetAnswerTime(modbustest.AnswerTime{Time: 2 * time.Millisecond, Parallel: 8})
	s.SetLimits(modbustest.Limits{MaxInflight: 3, Strict: true})
	tags, want := farApart(s, 32)
	d := newDevice(s.Addr(), tags...)
	d.Modbus.MaxInflight = protocols.InflightAuto
	b, sc := openScan(t, d)
	for range 10 * windowScans {
		out, res := readConnected(t, b, sc, len(tags))
		wantReadings(t, out, want...)
		if res.Err != nil {
			t.Error(res.Err)
		}
		if sc.unit.window.settled {
			break
		}
	}
	if w := sc.unit.window; !w.settled || w.n > 3 || s.Accepted() > 10 {
		t.Errorf("the window is %+v, after %d connections", w, s.Accepted())
	}
}
