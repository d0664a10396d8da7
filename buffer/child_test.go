package buffer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// runChild is what the test binary does as a child process: it appends to the
// buffer in the directory that the mode names, as fast as the disk takes it,
// and prints every seq that it appended, that its uplink was handed, and that
// was acknowledged.
//
//	DIR STREAM INTERVAL
func runChild(mode string) int {
	f := strings.Fields(mode)
	interval, err := time.ParseDuration(f[2])
	if err != nil {
		return 2
	}
	b, err := Open(Options{
		Dir: f[0], Stream: f[1], CommitInterval: interval, SegmentSize: 128 << 10, Uplinks: []string{"a"},
		SharedMemory: os.Getenv(sharedVar), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if err := b.PutSchema(1, []byte("schema one")); err != nil {
		return 2
	}
	go func() {
		_ = b.Forward(context.Background(), "a", &printer{}, ForwardOptions{})
	}()
	for i := uint64(1); ; i++ {
		seq, err := b.Append(Record{Time: 7, Schema: 1, Readings: 2, Data: payload(i, 400)})
		if err != nil {
			return 2
		}
		say("appended %s %d\n", f[1], seq)
		for b.Stats().Batches > 2000 {
			<-time.After(100 * time.Microsecond)
		}
	}
}

// say prints a line in one write: the lines of two goroutines do not mix, and
// a kill cuts none.
func say(format string, args ...any) { fmt.Printf(format, args...) }

// printer acknowledges part of what it gets, and prints all of it.
type printer struct {
	acked func(uint64)
	sent  []Record // those of the session; the index is the token's offset
	first uint64
}

func (p *printer) Connect(_ context.Context, acked func(uint64)) (<-chan struct{}, error) {
	p.acked = acked
	return make(chan struct{}), nil
}

func (p *printer) Send(_ context.Context, token uint64, r Record) error {
	say("sent %s %d\n", r.Stream, r.Seq)
	if p.sent == nil {
		p.first = token
	}
	p.sent = append(p.sent, Record{Stream: r.Stream, Seq: r.Seq})
	if n := len(p.sent); n%40 == 0 {
		p.acked(token - 20)
		last := p.sent[token-20-p.first]
		say("acked %s %d\n", last.Stream, last.Seq)
	}
	return nil
}

func (p *printer) SendGap(_ context.Context, _ uint64, g Gap) error {
	say("gap %s %d %d %s\n", g.Stream, g.From, g.To, g.Reason)
	return nil
}

func (p *printer) Disconnect() {}

// ledger is what the children said.
type ledger struct {
	t        *testing.T
	order    []string
	appended map[string]uint64          // the last seq, by stream
	acked    map[string]uint64          // up to here
	sent     map[string]map[uint64]bool // by stream
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	return &ledger{t: t, appended: make(map[string]uint64), acked: make(map[string]uint64), sent: make(map[string]map[uint64]bool)}
}

func (l *ledger) take(line string) {
	f := strings.Fields(line)
	if len(f) != 3 {
		l.t.Errorf("a child says: %s", line)
		return
	}
	seq, err := strconv.ParseUint(f[2], 10, 64)
	if err != nil {
		l.t.Errorf("a child says: %s", line)
		return
	}
	switch f[0] {
	case "appended":
		l.appended[f[1]] = seq
	case "acked":
		l.acked[f[1]] = seq
		for i, s := range l.order {
			if s == f[1] {
				for _, before := range l.order[:i] {
					l.acked[before] = ^uint64(0)
				}
			}
		}
	case "sent":
		l.got(f[1], seq)
	}
}

func (l *ledger) got(stream string, seq uint64) {
	if seq <= l.acked[stream] {
		l.t.Errorf("%s %d was sent again after its acknowledgement", stream, seq)
	}
	if l.sent[stream] == nil {
		l.sent[stream] = make(map[uint64]bool)
	}
	l.sent[stream][seq] = true
}

// TestKill kills a process that uses the buffer, again and again. Whatever
// the commit interval is, every record that was appended is sent, none after
// its acknowledgement, and there is no gap: what only memory held is found
// in shared memory.
func TestKill(t *testing.T) {
	t.Parallel()
	for _, interval := range []string{"0s", "2ms", "1h"} {
		t.Run(interval, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(tempDir(t), "buffer")
			l := newLedger(t)
			for range rounds(12) {
				stream := newStream()
				l.order = append(l.order, stream)
				killOne(t, dir, stream, interval, l)
			}
			last := make(map[string]uint64)
			for i, it := range deliverAll(t, dir) {
				if it.gap != "" {
					t.Fatalf("item %d: a gap %d..%d %q", i, it.from, it.to, it.gap)
				}
				if before := last[it.stream]; before != 0 && it.from != before+1 {
					t.Fatalf("item %d: %s jumps from %d to %d", i, it.stream, before, it.from)
				}
				last[it.stream] = it.from
				l.got(it.stream, it.from)
				checkPayload(t, it)
			}
			total := uint64(0)
			for stream, appended := range l.appended {
				for seq := uint64(1); seq <= appended; seq++ {
					if !l.sent[stream][seq] {
						t.Fatalf("%s %d of %d was never sent", stream, seq, appended)
					}
				}
				total += appended
			}
			t.Log(total, "records")
		})
	}
}

func deliverAll(tb tester, dir string) []item {
	tb.Helper()
	o := testOptions(tb, dir)
	b := openBuffer(tb, o)
	r := &receiver{}
	stop := forward(tb, b, "a", r)
	waitFor(tb, "all delivered", func() bool { return b.Stats().Batches == 0 })
	stop()
	closeBuffer(tb, b)
	return r.got()
}

// killOne runs one child, kills it at a random moment, and notes what it said.
func killOne(t *testing.T, dir, stream, interval string, l *ledger) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVar+"="+dir+" "+stream+" "+interval)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pause := time.After(time.Duration(5+rand.IntN(120)) * time.Millisecond)
	first := make(chan struct{})
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if l.appended[stream] == 0 && strings.HasPrefix(lines.Text(), "appended") {
				close(first)
			}
			l.take(lines.Text())
		}
	}()
	select {
	case <-first:
		<-pause
	case <-read:
	case <-pause: // killed while it starts
	}
	_ = cmd.Process.Kill()
	<-read
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatal("the child ended by itself:", err)
	}
}
