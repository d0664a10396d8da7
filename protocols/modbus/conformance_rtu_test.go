package modbus_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/protocols/modbus/modbustest"
)

// conformingUnit returns a server whose unit 1 holds what conformanceTags
// says.
func conformingUnit(t *testing.T) (*modbustest.Server, *modbustest.Unit) {
	t.Helper()
	s := modbustest.NewServer()
	t.Cleanup(func() { _ = s.Close() })
	u := s.Unit(1)
	u.Holding.Refuse(1000, 1)
	setAll(t, unitSetter(u))
	return s, u
}

func TestConformanceRTUOverTCP(t *testing.T) {
	t.Parallel()
	s, u := conformingUnit(t)
	if err := s.ListenRTU(""); err != nil {
		t.Fatal(err)
	}
	addr := s.AddrRTU()
	conformance(t, "rtu+tcp://"+addr, unitSetter(u),
		func(t *testing.T) {
			t.Helper()
			if err := s.ListenRTU(addr); err != nil {
				t.Fatal(err)
			}
		},
		func(*testing.T) { _ = s.Close() },
		mute(u))
}

func TestConformanceRTUOnALine(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]modbustest.LineOptions{
		"no pace": {},
		"115200":  {Baud: 115200, Turnaround: 2 * time.Millisecond},
		"38400":   {Baud: 38400, CharBits: 11, Turnaround: time.Millisecond},
		"echo":    {Baud: 115200, Echo: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, u := conformingUnit(t)
			o.Link = filepath.Join(t.TempDir(), "adapter")
			l, err := modbustest.OpenLine(o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			s.ServeLine(l)
			conformance(t, l.URL(), unitSetter(u),
				func(t *testing.T) {
					t.Helper()
					if err := l.Plug(); err != nil {
						t.Fatal(err)
					}
				},
				func(*testing.T) { l.Unplug() },
				mute(u))
			// The suite cancels requests under way, after which a client
			// cannot know when the answer ends: so not Violations.
			if st := l.Stats(); st.TooSoon > 0 {
				t.Errorf("%d requests came too soon: %+v", st.TooSoon, st)
			}
		})
	}
}

// socat is a serial line between two pseudo terminals: that of the client
// and that of the server.
type socat struct {
	client, server string // paths
	log            string
	cmd            *exec.Cmd
	held           []*os.File
}

// socatPair starts a line, which ends with the test.
func socatPair(t *testing.T) *socat {
	t.Helper()
	dir := t.TempDir()
	s := &socat{
		client: filepath.Join(dir, "client"),
		server: filepath.Join(dir, "server"),
		log:    filepath.Join(dir, "log"),
	}
	s.start(t)
	t.Cleanup(func() { s.stop(t) })
	return s
}

func (s *socat) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command("socat", "-d", "-d", "-lf", s.log, "pty,raw,echo=0,link="+s.client, "pty,raw,echo=0,link="+s.server)
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: run `make deps`", err)
	}
	s.cmd = cmd
	for end := time.Now().Add(15 * time.Second); ; <-time.After(10 * time.Millisecond) {
		if log, _ := os.ReadFile(s.log); strings.Contains(string(log), "starting data transfer loop") {
			break
		}
		if time.Now().After(end) {
			log, _ := os.ReadFile(s.log)
			s.stop(t)
			t.Fatalf("socat makes no line:\n%s", log)
		}
	}
	// socat ends when either side is closed: both are held open.
	for _, path := range []string{s.client, s.server} {
		f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.held = append(s.held, f)
	}
}

func (s *socat) stop(t *testing.T) {
	t.Helper()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // so that it removes its links; it may have ended by itself
	_ = s.cmd.Wait()                          // says that it was killed
	s.cmd = nil
	for _, f := range s.held {
		_ = f.Close()
	}
	s.held = nil
	for _, path := range []string{s.client, s.server, s.log} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
}

// asks is an error until unit 1 answers.
func (s *socat) asks() error {
	port := s.held[0]
	if _, err := port.Write(modbustest.AppendCRC([]byte{1, 3, 0, 0, 0, 1})); err != nil {
		return err
	}
	var answer []byte
	buf := make([]byte, 256)
	for {
		if err := port.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		n, err := port.Read(buf)
		answer = append(answer, buf[:n]...)
		if err == nil {
			continue // until all is read that comes
		}
		if len(answer) < 7 || !bytes.Equal(answer[:3], []byte{1, 3, 2}) {
			return fmt.Errorf("% x came: %w", answer, err)
		}
		return nil
	}
}

// serialPeer is a server of another maker at the end of a line.
type serialPeer struct {
	peer
	line *socat
}

func newSerialPeer(t *testing.T, command ...string) *serialPeer {
	t.Helper()
	p := &serialPeer{line: socatPair(t)}
	p.command = func() *exec.Cmd {
		args := slices.Concat(command, []string{p.line.server, "19200", "N", "1"})
		return exec.Command(args[0], args[1:]...)
	}
	p.serves = p.line.asks
	p.peer.start(t)
	t.Cleanup(func() { p.peer.stop(t) })
	return p
}

func (p *serialPeer) start(t *testing.T) {
	t.Helper()
	p.line.start(t)
	p.peer.start(t)
}

func (p *serialPeer) stop(t *testing.T) {
	t.Helper()
	p.peer.stop(t)
	p.line.stop(t)
}

func (p *serialPeer) conformance(t *testing.T) {
	t.Helper()
	setAll(t, p.set)
	conformance(t, "rtu://"+p.line.client+"?baud=19200", p.set, p.start, p.stop, nil)
}

func TestConformanceRTUPymodbus(t *testing.T) {
	t.Parallel()
	newSerialPeer(t, python, pymodbusServer).conformance(t)
}

func TestConformanceRTULibmodbus(t *testing.T) {
	t.Parallel()
	newSerialPeer(t, buildLibmodbus(t)).conformance(t)
}
