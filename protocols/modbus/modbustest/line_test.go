package modbustest

import (
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// port is a client's side of RTU: a serial port or a connection.
type port interface {
	io.ReadWriteCloser
	SetReadDeadline(t time.Time) error
}

// ask is the request for n holding registers of a unit, from addr on.
func ask(unit, function, addr, n byte) []byte {
	return AppendCRC([]byte{unit, function, 0, addr, 0, n})
}

// hear returns what comes until nothing does for a while, in hexadecimal.
func hear(t *testing.T, p port, still time.Duration) string {
	t.Helper()
	var all []byte
	var buf [512]byte
	for {
		_ = p.SetReadDeadline(time.Now().Add(still))
		n, err := p.Read(buf[:])
		all = append(all, buf[:n]...)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return hex.EncodeToString(all)
		}
		if err != nil {
			t.Fatalf("%v after %x", err, all)
		}
	}
}

// hearN returns the next n bytes.
func hearN(t *testing.T, p port, n int) string {
	t.Helper()
	buf := make([]byte, n)
	_ = p.SetReadDeadline(time.Now().Add(10 * time.Second))
	if m, err := io.ReadFull(p, buf); err != nil {
		t.Fatalf("%v after %x", err, buf[:m])
	}
	return hex.EncodeToString(buf)
}

func write(t *testing.T, p port, b []byte) {
	t.Helper()
	if _, err := p.Write(b); err != nil {
		t.Fatal(err)
	}
}

func openPort(t *testing.T, path string) port {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// slaves is a server of unit 1, whose holding register n is 0x1100 + n, and
// unit 2 with 0x2200 + n.
func slaves(t *testing.T) *Server {
	t.Helper()
	s := NewServer()
	t.Cleanup(func() { _ = s.Close() })
	for n := range 200 {
		s.Unit(1).Holding.Set(n, 0x1100+uint16(n))
		s.Unit(2).Holding.Set(n, 0x2200+uint16(n))
		s.Unit(1).Input.Set(n, 0x1300+uint16(n))
	}
	return s
}

func openLine(t *testing.T, s *Server, o LineOptions) (*Line, port) {
	t.Helper()
	l, err := OpenLine(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s.ServeLine(l)
	return l, openPort(t, l.Path())
}

func dialRTU(t *testing.T, s *Server) port {
	t.Helper()
	if err := s.ListenRTU(""); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", s.AddrRTU())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// rtuPorts runs a test with each way to carry RTU frames.
func rtuPorts(t *testing.T, test func(t *testing.T, s *Server, p port)) {
	t.Helper()
	t.Run("tcp", func(t *testing.T) {
		t.Parallel()
		s := slaves(t)
		test(t, s, dialRTU(t, s))
	})
	for name, o := range map[string]LineOptions{"unpaced": {}, "115200": {Baud: 115200, CharBits: 11}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := slaves(t)
			_, p := openLine(t, s, o)
			test(t, s, p)
		})
	}
}

func TestRTUAnswers(t *testing.T) {
	t.Parallel()
	rtuPorts(t, func(t *testing.T, s *Server, p port) {
		t.Helper()
		for _, c := range []struct{ request, want string }{
			{"0103000500020000", ""}, // checksum
			{hex.EncodeToString(ask(1, 3, 5, 2)), "0103041105 1106"},
			{hex.EncodeToString(ask(2, 3, 0, 1)), "0203022200"},
			{hex.EncodeToString(ask(1, 4, 0, 1)), "0104021300"},
			{hex.EncodeToString(ask(3, 3, 0, 1)), ""}, // no such unit
			{hex.EncodeToString(ask(0, 3, 0, 1)), ""}, // all obey, none answers
			{hex.EncodeToString(ask(1, 3, 0, 126)), "018303"},
			{hex.EncodeToString(AppendCRC([]byte{1, 16, 0, 0, 0, 1, 2, 3, 4})), "019001"},
			{hex.EncodeToString(AppendCRC([]byte{1, 7})), "018701"},
			{hex.EncodeToString(AppendCRC([]byte{1, 0x2b, 14, 1, 0})), "01ab01"}, // of unknown length
		} {
			raw, err := hex.DecodeString(c.request)
			if err != nil {
				t.Fatal(err)
			}
			write(t, p, raw)
			want, _ := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
			if len(want) == 0 {
				if got := hear(t, p, 50*time.Millisecond); got != "" {
					t.Errorf("%s is answered by %s", c.request, got)
				}
				continue
			}
			if got := hearN(t, p, len(want)+2); got != hex.EncodeToString(AppendCRC(want)) {
				t.Errorf("%s is answered by %s, want %x", c.request, got, want)
			}
			pauseFor(60 * time.Millisecond)
		}
		if n := s.Unit(1).Requests(); n != 6 {
			t.Errorf("%d requests", n)
		}
	})
}

// pauseFor is silence on the line.
func pauseFor(d time.Duration) { <-time.After(d) }

func TestRTUFaults(t *testing.T) {
	t.Parallel()
	right := func(s string) string {
		raw, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			t.Error(err)
		}
		return hex.EncodeToString(AppendCRC(raw))
	}
	answer := right("010304 1105 1106")
	broken := answer[:16] + hex.EncodeToString([]byte{0xff ^ unhex(answer[16:18])})
	other := []Request{{Unit: 1, Function: 3, Addr: 9, Count: 2}}
	heard := right("010300090002") + right("010304 1109 110a")
	for name, c := range map[string]struct {
		fault Fault
		want  string
	}{
		"crc":              {Fault{BadCRC: true}, broken},
		"noise":            {Fault{NoiseBefore: []byte{0, 0xff}, NoiseAfter: []byte{7}}, "00ff" + answer + "07"},
		"unit":             {Fault{WrongUnit: true}, right("020304 1105 1106")},
		"function":         {Fault{WrongFunction: true}, right("010404 1105 1106")},
		"count":            {Fault{WrongCount: true}, right("010306 1105 1106")},
		"fewer":            {Fault{Fewer: 2}, right("010302 1105")},
		"fewer than there": {Fault{Fewer: 200}, right("010300")},
		"cut":              {Fault{Cut: 3}, answer[:12]},
		"cut all":          {Fault{Cut: 300, NoiseAfter: []byte{1}}, "01"},
		"exception":        {Fault{Exception: 6}, right("018306")},
		"slowly":           {Fault{Slowly: time.Millisecond}, answer},
		"delay":            {Fault{Delay: 50 * time.Millisecond}, answer},
		"late":             {Fault{Late: 50 * time.Millisecond}, answer},
		"drop":             {Fault{Drop: true}, ""},
		"twice":            {Fault{Twice: true}, answer + answer},
		"foreign before":   {Fault{Foreign: other}, heard + answer},
		"foreign after":    {Fault{Foreign: other, ForeignWhen: AfterAnswer}, answer + heard},
		"foreign mid":      {Fault{Foreign: other, ForeignWhen: MidWait, Delay: 20 * time.Millisecond}, heard + answer},
		"foreign only":     {Fault{Foreign: other, Drop: true}, heard},
		"foreign to none":  {Fault{Foreign: []Request{{Unit: 9, Function: 3, Addr: 9, Count: 2}}}, right("090300090002") + answer},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rtuPorts(t, func(t *testing.T, s *Server, p port) {
				t.Helper()
				s.Unit(1).SetFaults(Always(c.fault))
				write(t, p, ask(1, 3, 5, 2))
				if c.want != "" {
					if got := hearN(t, p, len(c.want)/2); got != c.want {
						t.Errorf("%s, want %s", got, c.want)
					}
				}
				if got := hear(t, p, 80*time.Millisecond); got != "" {
					t.Errorf("%s more", got)
				}
			})
		})
	}
}

func unhex(s string) byte {
	b, _ := hex.DecodeString(s)
	return b[0]
}

func TestRTUHold(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]Fault{"hold": {Hold: true}, "behind": {HoldBehind: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rtuPorts(t, func(t *testing.T, s *Server, p port) {
				t.Helper()
				s.Unit(1).SetFaults(func(n uint64, _ Request) Fault {
					if n == 1 {
						return f
					}
					return Fault{}
				})
				first, second := hex.EncodeToString(AppendCRC([]byte{1, 3, 2, 0x11, 0})), hex.EncodeToString(AppendCRC([]byte{1, 3, 2, 0x11, 1}))
				write(t, p, ask(1, 3, 0, 1))
				if got := hear(t, p, 50*time.Millisecond); got != "" {
					t.Fatalf("%s is not held", got)
				}
				write(t, p, ask(1, 3, 1, 1))
				want := first + second
				if f.HoldBehind {
					want = second + first
				}
				if got := hearN(t, p, 14); got != want {
					t.Errorf("%s, want %s", got, want)
				}
			})
		})
	}
}

func TestLateComesOutOfTurn(t *testing.T) {
	t.Parallel()
	rtuPorts(t, func(t *testing.T, s *Server, p port) {
		t.Helper()
		s.Unit(1).SetFaults(func(n uint64, _ Request) Fault {
			if n == 1 {
				return Fault{Late: 500 * time.Millisecond}
			}
			return Fault{}
		})
		write(t, p, ask(1, 3, 0, 1))
		pauseFor(50 * time.Millisecond)
		write(t, p, ask(1, 3, 1, 1))
		if got := hearN(t, p, 14); got[6:10] != "1101" || got[20:24] != "1100" {
			t.Errorf("%s", got)
		}
	})
}

func TestRTUResynchronises(t *testing.T) {
	t.Parallel()
	rtuPorts(t, func(t *testing.T, s *Server, p port) {
		t.Helper()
		bad := ask(1, 3, 0, 1)
		bad[7] ^= 1
		for _, garbage := range [][]byte{bad, {1, 3, 0}, {1, 16, 0, 0, 0, 1, 255, 1, 1}, make([]byte, 600)} {
			write(t, p, append(garbage, ask(1, 3, 0, 1)...))
			if got := hear(t, p, 100*time.Millisecond); got != "" {
				t.Errorf("%x is answered by %s", garbage, got)
			}
			write(t, p, ask(1, 3, 0, 1))
			if got := hearN(t, p, 7); got[6:10] != "1100" {
				t.Errorf("after %x: %s", garbage, got)
			}
			pauseFor(60 * time.Millisecond)
		}
		if n := s.Unit(1).Requests(); n != 4 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestEcho(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]LineOptions{"unpaced": {Echo: true}, "paced": {Echo: true, Baud: 600}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p := openLine(t, slaves(t), o)
			want := hex.EncodeToString(ask(1, 3, 0, 1)) + hex.EncodeToString(AppendCRC([]byte{1, 3, 2, 0x11, 0}))
			for range 3 {
				write(t, p, ask(1, 3, 0, 1)[:3])
				write(t, p, ask(1, 3, 0, 1)[3:])
				if got := hearN(t, p, len(want)/2); got != want {
					t.Errorf("%s, want %s", got, want)
				}
				pauseFor(30 * time.Millisecond)
			}
		})
	}
}

// A client that keeps to the rules of a line gets from it what a real one
// gives, and the statistics say where the time went.
func TestPace(t *testing.T) {
	t.Parallel()
	const baud, rounds = 9600, 10
	char := time.Second * 11 / baud
	turnaround := 5 * time.Millisecond
	s := slaves(t)
	l, p := openLine(t, s, LineOptions{Baud: baud, CharBits: 11, Turnaround: turnaround})
	silence := 7 * char / 2
	begin := time.Now()
	l.ResetStats()
	for range rounds {
		at := time.Now()
		write(t, p, ask(1, 3, 0, 10))
		hearN(t, p, 1)
		if took, want := time.Since(at), 16*char+silence+turnaround; took < want {
			t.Errorf("8 characters of the answer after %v, sooner than %v", took, want)
		}
		hearN(t, p, 24)
		if took, want := time.Since(at), 33*char+silence+turnaround; took < want {
			t.Errorf("the answer after %v, sooner than %v", took, want)
		}
		pauseFor(silence)
	}
	st := l.Stats()
	wall := time.Since(begin)
	if st.Requests != rounds || st.Answers != rounds || st.Violations() != 0 {
		t.Errorf("%+v", st)
	}
	if st.Busy != rounds*33*char || st.Silence != 2*rounds*silence || st.Turnaround != rounds*turnaround {
		t.Errorf("%+v, want busy %v, silence %v", st, rounds*33*char, 2*rounds*silence)
	}
	if idle := st.Idle(); idle < 0 || st.Wall > wall {
		t.Errorf("idle %v of %v", idle, wall)
	}
	t.Logf("idle %v of %v, lag %v", st.Idle(), st.Wall, st.Lag)
}

// What is late on a line does not make the rest late: 255 pieces of an answer
// end when the last one is due.
func TestPaceDoesNotDrift(t *testing.T) {
	t.Parallel()
	l, p := openLine(t, slaves(t), LineOptions{Baud: 38400, Chunk: 1})
	want := 263*l.char + l.silence
	var took time.Duration
	for range 20 { // the machine may be busy
		at := time.Now()
		write(t, p, ask(1, 3, 0, 125))
		hearN(t, p, 255)
		if took = time.Since(at); took < want {
			t.Fatalf("%v, want %v", took, want)
		}
		if took < want+want/20 {
			return
		}
		pauseFor(l.silence)
	}
	t.Errorf("%v, want %v", took, want)
}

func TestTooSoon(t *testing.T) {
	t.Parallel()
	l, p := openLine(t, slaves(t), LineOptions{Baud: 600})
	for range 3 { // to a unit that is not there
		write(t, p, ask(9, 3, 0, 1))
	}
	for l.Stats().Requests < 3 {
		pauseFor(time.Millisecond)
	}
	if st := l.Stats(); st.TooSoon != 2 || st.Collisions != 0 {
		t.Errorf("%+v", st)
	}
	for range 20 { // the machine may be busy
		write(t, p, ask(1, 3, 0, 1))
		hearN(t, p, 7)
		if l.Stats().TooSoon > 3 {
			return
		}
	}
	t.Errorf("%+v", l.Stats())
}

func TestCollision(t *testing.T) {
	t.Parallel()
	l, p := openLine(t, slaves(t), LineOptions{Baud: 4800})
	write(t, p, ask(1, 3, 0, 50))
	hearN(t, p, 16)
	write(t, p, ask(1, 3, 0, 1))
	rest := hearN(t, p, 105-16)
	if st := l.Stats(); st.Collisions != 1 || st.Requests != 1 {
		t.Errorf("%+v", st)
	}
	whole := AppendCRC(append([]byte{1, 3, 100}, unhexAll(rest)[:87]...))
	if hex.EncodeToString(whole[len(whole)-2:]) == rest[len(rest)-4:] {
		t.Error("the answer is not spoilt")
	}
	if got := hear(t, p, 100*time.Millisecond); got != "" {
		t.Errorf("%s more", got)
	}
	write(t, p, ask(1, 3, 0, 1))
	hearN(t, p, 7)
}

func unhexAll(s string) []byte {
	b, _ := hex.DecodeString(s)
	return b
}

func TestForeigner(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]LineOptions{"unpaced": {}, "paced": {Baud: 38400, Turnaround: 2 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := slaves(t)
			l, p := openLine(t, s, o)
			l.SetForeigner(&Foreigner{Requests: []Request{{Unit: 1, Function: 3, Addr: 50, Count: 1}}, Every: 20 * time.Millisecond})
			pair := hex.EncodeToString(ask(1, 3, 50, 1)) + hex.EncodeToString(AppendCRC([]byte{1, 3, 2, 0x11, 50}))
			if got := hearN(t, p, 45); got != pair+pair+pair {
				t.Errorf("%s, want thrice %s", got, pair)
			}
			l.SetForeigner(nil)
			if got := strings.ReplaceAll(hear(t, p, 100*time.Millisecond), pair, ""); got != "" {
				t.Errorf("%s more", got)
			}
			if n := s.Unit(1).Requests(); n != 0 || l.Stats().Collisions != 0 || l.Stats().Foreign < 3 {
				t.Errorf("%d requests, %+v", n, l.Stats())
			}
			l.SetForeigner(&Foreigner{Requests: []Request{{Unit: 9, Function: 3}}, Every: time.Millisecond})
			if got, want := hearN(t, p, 8), hex.EncodeToString(ask(9, 3, 0, 0)); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

func TestForeignerCollides(t *testing.T) {
	t.Parallel()
	f := &Foreigner{Requests: []Request{{Unit: 2, Function: 3, Addr: 50, Count: 1}}, Every: 10 * time.Millisecond, Collide: true}
	l, p := openLine(t, slaves(t), LineOptions{Baud: 9600, Foreigner: f})
	for end := time.Now().Add(10 * time.Second); l.Stats().Collisions < 3; {
		if time.Now().After(end) {
			t.Fatalf("%+v", l.Stats())
		}
		write(t, p, ask(1, 3, 0, 20))
		hear(t, p, 30*time.Millisecond)
	}
}

func TestUnplug(t *testing.T) {
	t.Parallel()
	link := filepath.Join(t.TempDir(), "by-id", "usb-adapter")
	s := slaves(t)
	l, err := OpenLine(LineOptions{Link: link})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s.ServeLine(l)
	if got, want := l.URL(), "rtu://"+link+"?baud=115200&parity=none&stop=1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for range 3 {
		p := openPort(t, link)
		write(t, p, ask(1, 3, 0, 1))
		hearN(t, p, 7)
		l.Unplug()
		l.Unplug()
		_ = p.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := p.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EIO) {
			t.Errorf("%d bytes, %v after the hang-up", n, err)
		}
		if _, err := os.Lstat(link); err == nil || l.Path() != "" {
			t.Errorf("%q is there", l.Path())
		}
		for range 2 {
			if err := l.Plug(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = s.Close()
	p := openPort(t, link)
	write(t, p, ask(1, 3, 0, 1))
	if got := hear(t, p, 50*time.Millisecond); got != "" {
		t.Errorf("a server that is closed answers %s", got)
	}
}

func TestClosedPortHearsNothing(t *testing.T) {
	t.Parallel()
	s := slaves(t)
	l, p := openLine(t, s, LineOptions{Foreigner: &Foreigner{Requests: []Request{{Unit: 1, Function: 3, Addr: 50, Count: 1}}, Every: time.Millisecond}})
	hearN(t, p, 15)
	_ = p.Close()
	for n := l.Stats().Foreign; l.Stats().Foreign < n+10; {
		pauseFor(time.Millisecond)
	}
	l.SetForeigner(nil)
	pauseFor(20 * time.Millisecond)
	p = openPort(t, l.Path())
	if got := hear(t, p, 30*time.Millisecond); got != "" {
		t.Errorf("%s was kept", got)
	}
	write(t, p, ask(1, 3, 0, 1))
	hearN(t, p, 7)
}
