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
// and prints every seq that its uplink was handed.
//
//	DIR STREAM INTERVAL
func runChild(mode string) int {
	f := strings.Fields(mode)
	interval, err := time.ParseDuration(f[2])
	if err != nil {
		return 2
	}
	b, err := Open(Options{Dir: f[0], Stream: f[1], CommitInterval: interval, SegmentSize: 128 << 10, Uplinks: []string{"a"}, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
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
		if _, err := b.Append(Record{Time: 7, Schema: 1, Readings: 2, Data: payload(i, 400)}); err != nil {
			return 2
		}
		for b.Stats().Batches > 2000 {
			<-time.After(100 * time.Microsecond)
		}
	}
}

// printer acknowledges part of what it gets, and prints all of it.
type printer struct {
	acked func(uint64)
	n     int
}

func (p *printer) Connect(_ context.Context, acked func(uint64)) (<-chan struct{}, error) {
	p.acked = acked
	return make(chan struct{}), nil
}

func (p *printer) Send(_ context.Context, token uint64, r Record) error {
	fmt.Printf("%s %d\n", r.Stream, r.Seq)
	p.n++
	if p.n%40 == 0 {
		p.acked(token - 20)
	}
	return nil
}

func (p *printer) SendGap(_ context.Context, _ uint64, g Gap) error {
	fmt.Printf("gap %s %d %d %s\n", g.Stream, g.From, g.To, g.Reason)
	return nil
}

func (p *printer) Disconnect() {}

// TestKill kills a process that uses the buffer, again and again. With a
// commit interval of 0, what an uplink has seen is on the disk: every seq
// that the child was handed, in the end arrives or was acknowledged, and no
// seq is missing before it.
func TestKill(t *testing.T) {
	t.Parallel()
	for _, interval := range []string{"0s", "2ms"} {
		t.Run(interval, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(tempDir(t), "buffer")
			sent := make(map[string]uint64) // the last seq that any child was handed, by stream
			for range rounds(12) {
				killOne(t, dir, newStream(), interval, sent)
			}
			items := deliverAll(t, dir)
			last := make(map[string]uint64)
			for i, it := range items {
				if it.gap != "" {
					t.Fatalf("item %d: a gap %d..%d %q", i, it.from, it.to, it.gap)
				}
				// What was acknowledged within the interval was never written.
				before := last[it.stream]
				hole := interval != "0s" && it.from > before && it.from <= sent[it.stream]
				if before != 0 && it.from != before+1 && !hole {
					t.Fatalf("item %d: %s jumps from %d to %d", i, it.stream, before, it.from)
				}
				last[it.stream] = it.from
				checkPayload(t, it)
			}
			for stream, seq := range sent {
				// 0s: what it was handed is on the disk. What was acknowledged last may have been unlinked.
				if interval == "0s" && last[stream] != 0 && last[stream] < seq {
					t.Errorf("%s: %d was sent, but the disk ends at %d", stream, seq, last[stream])
				}
			}
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

// killOne runs one child, kills it at a random moment, and notes what it was
// handed.
func killOne(t *testing.T, dir, stream, interval string, sent map[string]uint64) {
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
			f := strings.Fields(lines.Text())
			if len(f) != 2 {
				if len(f) == 5 {
					t.Errorf("a gap: %s", lines.Text())
				}
				continue // the last line may be cut
			}
			seq, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				continue
			}
			if sent[f[0]] == 0 && f[0] == stream {
				close(first)
			}
			sent[f[0]] = seq
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
	// The last line may be cut in the middle of a number: it says less, never more.
}
