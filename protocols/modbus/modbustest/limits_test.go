package modbustest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"
)

// dialTCP returns a server that listens, with the limits, and a connection.
func dialTCP(t *testing.T, l Limits) (*Server, net.Conn) {
	t.Helper()
	s := slaves(t)
	s.SetLimits(l)
	if err := s.Listen(""); err != nil {
		t.Fatal(err)
	}
	return s, dial(t, s)
}

func dial(t *testing.T, s *Server) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// askTCP is a request for a register of unit 1, whose id is its address.
func askTCP(n byte) []byte { return []byte{0, n, 0, 0, 0, 6, 1, 3, 0, n, 0, 1} }

// ids returns the ids of the next n answers, in the order in which they come.
func ids(t *testing.T, c net.Conn, n int) []int {
	t.Helper()
	var all []int
	for range n {
		buf := make([]byte, 11)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatalf("%v after %v", err, all)
		}
		id := binary.BigEndian.Uint16(buf)
		if got := binary.BigEndian.Uint16(buf[9:]); got != 0x1100+id {
			t.Errorf("register %d is %04x", id, got)
		}
		all = append(all, int(id))
	}
	return all
}

// wantClosed wants the server to close c.
func wantClosed(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestMaxConns(t *testing.T) {
	t.Parallel()
	s, c := dialTCP(t, Limits{MaxConns: 1})
	write(t, c, askTCP(1))
	ids(t, c, 1)
	wantClosed(t, dial(t, s))
	if s.Accepted() != 1 || s.Refused() != 1 {
		t.Errorf("%d accepted, %d refused", s.Accepted(), s.Refused())
	}
	_ = c.Close()
	for end := time.Now().Add(10 * time.Second); ; { // until the server knows
		d := dial(t, s)
		_, _ = d.Write(askTCP(1)) // it may be closed
		_ = d.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, _ := d.Read(make([]byte, 11)); n == 11 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("no other connection is accepted")
		}
	}
}

func TestIdleClose(t *testing.T) {
	t.Parallel()
	_, c := dialTCP(t, Limits{IdleClose: 300 * time.Millisecond})
	begin := time.Now()
	for range 5 {
		write(t, c, askTCP(1))
		ids(t, c, 1)
		pauseFor(10 * time.Millisecond)
	}
	wantClosed(t, c)
	if took := time.Since(begin); took < 340*time.Millisecond {
		t.Errorf("closed after %v", took)
	}
}

func TestMinGap(t *testing.T) {
	t.Parallel()
	s, c := dialTCP(t, Limits{MinGap: 500 * time.Millisecond})
	write(t, c, append(askTCP(1), askTCP(2)...))
	ids(t, c, 1)
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the second one is answered: %v", err)
	}
	pauseFor(500 * time.Millisecond)
	write(t, c, askTCP(3))
	ids(t, c, 1)
	if s.Ignored() != 1 || s.Unit(1).Requests() != 2 {
		t.Errorf("%d ignored, %d requests", s.Ignored(), s.Unit(1).Requests())
	}
}

func TestMaxInflight(t *testing.T) {
	t.Parallel()
	s, c := dialTCP(t, Limits{MaxInflight: 2})
	s.Unit(1).SetFaults(Always(Fault{Delay: 100 * time.Millisecond}))
	write(t, c, bytes.Join([][]byte{askTCP(1), askTCP(2), askTCP(3), askTCP(4)}, nil))
	if got := ids(t, c, 2); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("%v are answered", got)
	}
	for s.Ignored() != 2 {
		pauseFor(time.Millisecond)
	}
	for begin := time.Now(); time.Since(begin) < 10*time.Second; { // until the second one does not count any more
		write(t, c, askTCP(5))
		_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if n, _ := io.ReadFull(c, make([]byte, 11)); n == 11 {
			return
		}
	}
	t.Error("nothing is answered any more")
}

func TestAnswerTime(t *testing.T) {
	t.Parallel()
	const n = 60
	for name, c := range map[string]struct {
		time  AnswerTime
		least time.Duration
		sort  bool
	}{
		"one by one": {AnswerTime{Time: 3 * time.Millisecond}, n * 3 * time.Millisecond, true},
		"parallel":   {AnswerTime{Time: 30 * time.Millisecond, Parallel: 10}, n / 10 * 30 * time.Millisecond, true},
		"shuffled":   {AnswerTime{Time: 3 * time.Millisecond, Parallel: 16, Shuffled: true}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, conn := dialTCP(t, Limits{})
			s.Unit(1).SetAnswerTime(c.time)
			var all []byte
			for i := range byte(n) {
				all = append(all, askTCP(i)...)
			}
			begin := time.Now()
			write(t, conn, all)
			got := ids(t, conn, n)
			took := time.Since(begin)
			if took < c.least {
				t.Errorf("it took %v, less than %v", took, c.least)
			}
			if c.time.Parallel == 10 && took > n*c.time.Time/2 {
				t.Errorf("it took %v: not in parallel", took)
			}
			if slices.IsSorted(got) != c.sort {
				t.Errorf("the order is %v", got)
			}
			s.Unit(1).SetAnswerTime(AnswerTime{})
			write(t, conn, askTCP(7))
			ids(t, conn, 1)
		})
	}
}

func TestTCPFaults(t *testing.T) {
	t.Parallel()
	s, c := dialTCP(t, Limits{})
	plan := func(faults ...Fault) {
		first := s.Unit(1).Requests()
		s.Unit(1).SetFaults(func(n uint64, _ Request) Fault {
			if i := int(n - first - 1); i < len(faults) {
				return faults[i]
			}
			return Fault{}
		})
	}
	plan(Fault{Late: 200 * time.Millisecond})
	write(t, c, append(askTCP(1), askTCP(2)...))
	if got := ids(t, c, 2); !slices.Equal(got, []int{2, 1}) {
		t.Errorf("late: %v", got)
	}
	plan(Fault{Delay: 100 * time.Millisecond, Twice: true})
	write(t, c, append(askTCP(1), askTCP(2)...))
	if got := ids(t, c, 3); !slices.Equal(got, []int{1, 1, 2}) {
		t.Errorf("delayed and twice: %v", got)
	}
	plan(Fault{NoiseBefore: []byte{7}, BadCRC: true, Foreign: []Request{{Unit: 1, Function: 3}}})
	write(t, c, askTCP(1))
	if got := hearN(t, c, 12); got != "07"+"000100000005"+"0103021101" {
		t.Errorf("noise: %s", got)
	}
	plan(Fault{Hold: true}, Fault{}, Fault{Slowly: time.Millisecond})
	for i := range byte(3) {
		write(t, c, askTCP(i))
	}
	if got := ids(t, c, 3); !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("held: %v", got)
	}
	plan(Fault{Reset: true})
	write(t, c, askTCP(1))
	wantClosed(t, c)
	c = dial(t, s)
	plan(Fault{HalfClose: true})
	write(t, c, askTCP(1))
	wantClosed(t, c)
}

// A server that is closed does not wait for answers that are due later.
func TestCloseEndsWaits(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]Fault{"delay": {Delay: time.Hour}, "late": {Late: time.Hour}, "slowly": {Slowly: time.Hour}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c := dialTCP(t, Limits{})
			l, p := openLine(t, s, LineOptions{})
			r := dialRTU(t, s)
			s.Unit(1).SetFaults(Always(f))
			write(t, c, askTCP(1))
			write(t, p, ask(1, 3, 0, 1))
			write(t, r, ask(1, 3, 0, 1))
			for s.Unit(1).Requests() < 3 {
				pauseFor(time.Millisecond)
			}
			begin := time.Now()
			_ = s.Close()
			_ = l.Close()
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}
