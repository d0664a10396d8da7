package modbustest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// LineOptions are how a Line is.
type LineOptions struct {
	// Baud sets the pace: each character takes CharBits/Baud seconds, and
	// frames are 3.5 characters apart (1.75 ms above 19,200 baud). 0: no
	// pace, everything is there at once.
	Baud int
	// CharBits is the bits of a character on the line: 10 for 8N1, 11 with a
	// parity or a second stop bit; 0 is 10.
	CharBits int
	// Turnaround is what a slave takes between the silence after a request
	// and the begin of its answer.
	Turnaround time.Duration
	// Chunk is in pieces of how many characters the client gets to hear the
	// line, as from a UART with a FIFO; 0 is 8. Without a pace, frames come
	// whole.
	Chunk int
	// Echo lets the client hear what it sends itself, as with RS-485 adapters
	// that do not suppress it.
	Echo bool
	// Foreigner is another master on the line; nil: there is none.
	Foreigner *Foreigner
	// Link is the path of a symbolic link to the line, which is made while
	// the line is plugged in and stands for /dev/serial/by-id/…; "": none.
	Link string
}

// Foreigner is another master on a Line, which asks the units of the line's
// Server, without their faults, and is heard with their answers by all. It
// waits for the line to be silent, as a slave's turnaround is, too.
type Foreigner struct {
	Requests []Request // what it asks, one of them at a time, at random
	// Every is the mean time between two of its requests; the times
	// themselves are random.
	Every time.Duration
	Seed  uint64 // makes the choices repeatable, though not what they meet
	// Collide lets it begin whether there is silence or not: frames that it
	// meets are spoilt.
	Collide bool
}

// Stats is what happened on a Line. With a pace, times are those of the
// line: Wall = Busy + Silence + Turnaround + Idle().
type Stats struct {
	Wall       time.Duration // since the line was opened, or ResetStats
	Busy       time.Duration // characters, in both directions and of all masters
	Silence    time.Duration // what the protocol demands before each request and each answer
	Turnaround time.Duration // LineOptions.Turnaround and Fault.Delay of the answers
	// Lag is how much later than due the simulator was with the last
	// characters of frames, by itself or the machine: a part of Idle that is
	// not the client's.
	Lag time.Duration

	Requests uint64 // whole ones with the right checksum, of the client
	Answers  uint64 // to them, faulty ones included
	Foreign  uint64 // requests of other masters

	// TooSoon is requests of the client that began before the line had been
	// silent for 3.5 characters, less half a character. What the client wrote
	// is seen later than it was written, and what it hears is written no
	// sooner than it is on the line: so errors of measurement make the
	// silence only seem longer, and half a character is left for the
	// client's own arithmetic. It is 0 without a pace.
	TooSoon uint64
	// Collisions is frames of the client, and of a Foreigner that collides,
	// that met another one on the line. Both were spoilt.
	Collisions uint64
}

// Violations is how often the client broke the rules of the line.
func (s Stats) Violations() uint64 { return s.TooSoon + s.Collisions }

// Idle is the time in which nothing happened that the protocol or a slave
// demanded.
func (s Stats) Idle() time.Duration { return s.Wall - s.Busy - s.Silence - s.Turnaround }

// Line is a simulated serial line: a pseudo terminal whose slave side is the
// client's serial port, with the slaves of a Server at the other end: see
// [Server.ServeLine]. Baud rate and parity that a client sets have no effect
// on it, and the parity cannot be read back: pseudo terminals have none.
//
// As with a serial port, what comes while nobody has it open is lost.
type Line struct {
	o             LineOptions
	char, silence time.Duration
	server        atomic.Pointer[Server]
	foreigner     atomic.Pointer[foreigner]

	mu   sync.Mutex // guards what follows
	wire *wire      // nil while it is unplugged

	statsMu sync.Mutex // guards what follows
	stats   Stats
	since   time.Time
}

// OpenLine makes a line. Nobody answers on it at first.
func OpenLine(o LineOptions) (*Line, error) {
	if o.CharBits == 0 {
		o.CharBits = 10
	}
	if o.Chunk <= 0 {
		o.Chunk = 8
	}
	l := &Line{o: o, since: time.Now()}
	if o.Baud > 0 {
		l.char = time.Duration(o.CharBits) * time.Second / time.Duration(o.Baud)
		l.silence = 7 * l.char / 2
		if o.Baud > 19200 {
			l.silence = 1750 * time.Microsecond
		}
	}
	l.SetForeigner(o.Foreigner)
	if err := l.Plug(); err != nil {
		return nil, err
	}
	return l, nil
}

// Path is the path of the client's serial port, such as /dev/pts/5; another
// one each time it is plugged in, and "" while it is not.
func (l *Line) Path() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire == nil {
		return ""
	}
	return l.wire.path
}

// URL is the endpoint of the line for a configuration: of its Link if it has
// one, else of its Path.
func (l *Line) URL() string {
	path, baud, parity := l.o.Link, l.o.Baud, "none"
	if path == "" {
		path = l.Path()
	}
	if baud == 0 {
		baud = 115200
	}
	if l.o.CharBits > 10 {
		parity = "even"
	}
	return fmt.Sprintf("rtu://%s?baud=%d&parity=%s&stop=1", path, baud, parity)
}

// Plug makes the serial port, and its link, after Unplug. It is no error if
// it is there.
func (l *Line) Plug() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire != nil {
		return nil
	}
	master, path, err := openPty()
	if err != nil {
		return fmt.Errorf("modbustest: %w", err)
	}
	if err := makeLink(l.o.Link, path); err != nil {
		_ = master.Close()
		return fmt.Errorf("modbustest: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &wire{
		line:   l,
		master: master,
		path:   path,
		cancel: cancel,
		heard:  make(chan arrival, 64),
		poke:   make(chan struct{}, 1),
		keeper: keeper{rtu: true},
	}
	w.running.Go(func() { w.listen(ctx) })
	w.running.Go(func() { w.run(ctx) })
	l.wire = w
	return nil
}

// makeLink makes link point to path, in place of a link that is there.
func makeLink(link, path string) error {
	if link == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	if st, err := os.Lstat(link); err == nil && st.Mode()&fs.ModeSymlink == 0 {
		return fmt.Errorf("%s is there, and is no symbolic link", link)
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(path, link)
}

// Unplug takes the serial port away, as an adapter that is pulled out: who
// has it open gets a hang-up, and the link is gone.
func (l *Line) Unplug() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire == nil {
		return
	}
	if l.o.Link != "" {
		_ = os.Remove(l.o.Link) // it may be gone with its folder
	}
	l.wire.cancel()
	_ = l.wire.master.Close() // whoever reads from it finds out
	l.wire.running.Wait()
	l.wire = nil
}

// Close ends the line. Closing twice is no error.
func (l *Line) Close() error {
	l.Unplug()
	return nil
}

// SetForeigner puts another master on the line, or takes it away.
func (l *Line) SetForeigner(f *Foreigner) {
	l.foreigner.Store(newForeigner(f))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire != nil {
		select {
		case l.wire.poke <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// Stats returns what happened so far.
func (l *Line) Stats() Stats {
	l.statsMu.Lock()
	defer l.statsMu.Unlock()
	s := l.stats
	s.Wall = time.Since(l.since)
	return s
}

// ResetStats lets what happened be counted from now on.
func (l *Line) ResetStats() {
	l.statsMu.Lock()
	defer l.statsMu.Unlock()
	l.stats, l.since = Stats{}, time.Now()
}

// count changes the statistics.
func (l *Line) count(change func(*Stats)) {
	l.statsMu.Lock()
	defer l.statsMu.Unlock()
	change(&l.stats)
}

// chars is how long n characters take.
func (l *Line) chars(n int) time.Duration { return time.Duration(n) * l.char }
