package buffer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// faultVar makes the test binary the process that a disk fails under: see
// runFault.
const faultVar = "MILLRACE_BUFFER_FAULT"

// faultedCalls are those that fail in TestDiskFaults, one after the other. Not
// those that Go's runtime cannot do without (write, mmap).
func faultedCalls() []string {
	return []string{"openat", "pwrite64", "fdatasync", "fsync", "ftruncate", "truncate", "renameat", "unlinkat", "linkat", "newfstatat", "getdents64", "pread64"}
}

// fault is what strace has a system call do.
type fault struct {
	call  string
	errno string
	when  string // as strace understands it, counted from the opening of the buffer on, by thread
	old   bool   // an earlier run left files
}

func (f fault) String() string { return fmt.Sprintf("%s %s %s old=%v", f.call, f.errno, f.when, f.old) }

// TestDiskFaults has the system calls of a process that uses a buffer fail,
// each kind in turn, once or from some moment on for a while. The process does
// not die, does not hang, and goes on with the disk when that works again. All
// that was appended is delivered or announced, by it or by the next run.
func TestDiskFaults(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is not installed; run `make deps`")
	}
	slots := make(chan struct{}, 4)
	for i, call := range faultedCalls() {
		whens := []string{"1", "2", "3", "5", "9", "17", "1+", "4+", "12+", "3+7"}
		if rounds(1) == 1 {
			whens = []string{whens[i%6], whens[6+i%4]}
		}
		for j, when := range whens {
			f := fault{call, []string{"EIO", "EDQUOT", "ENOSPC"}[(i+j)%3], when, (i/2+j)%2 == 1}
			if call == "pread64" || call == "getdents64" || call == "newfstatat" {
				f.errno = []string{"EIO", "ENOMEM"}[j%2]
			}
			t.Run(f.String(), func(t *testing.T) {
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
				diskFault(t, f)
			})
		}
	}
}

func diskFault(t *testing.T, f fault) {
	t.Helper()
	dir := filepath.Join(tempDir(t), "buffer")
	left := uint64(0)
	var before string
	if f.old {
		o := testOptions(t, dir)
		before = o.Stream
		b := openBuffer(t, o)
		left = appendPayloads(t, b, 300)
		closeBuffer(t, b)
	}
	c := startFaulty(t, dir, f)
	got, ran := c.wait(t)
	r := &receiver{}
	o := testOptions(t, dir)
	b := openBuffer(t, o)
	stop := forward(t, b, "a", r)
	waitFor(t, "all delivered", func() bool {
		u := b.Stats().Uplinks["a"]
		return u.Lag == 0 && u.Gaps == 0 && u.InFlight == 0
	})
	stop()
	closeBuffer(t, b)
	all := slices.Concat(got, r.got())
	for _, it := range all {
		if it.gap == "" && it.data != string(payload(it.from, 400)) {
			t.Fatalf("record %s/%d is not what was appended", it.stream, it.from)
		}
	}
	defer func() {
		if t.Failed() {
			t.Logf("the process said:\n%s", c.said.b.String())
		}
	}()
	if f.old {
		account(t, all, before, 1, left)
	}
	gaps := account(t, all, c.stream, 1, ran)
	t.Log(len(got), "by the process,", len(all), "in all,", gaps, "gaps,", ran, "appended")
}

func appendPayloads(tb tester, b *Buffer, n uint64) uint64 {
	tb.Helper()
	for i := uint64(1); i <= n; i++ {
		if _, err := b.Append(Record{Time: 7, Schema: 1, Readings: 2, Data: payload(i, 400)}); err != nil {
			tb.Fatal(err)
		}
	}
	return n
}

// faulty is a process of which system calls fail.
type faulty struct {
	cmd   *exec.Cmd
	said  logBook
	lines *bufio.Scanner
	in    io.WriteCloser
	trace *exec.Cmd
	end   func()

	stream string
}

// startFaulty starts the process, and strace on it before it opens the buffer.
func startFaulty(t *testing.T, dir string, f fault) *faulty {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	c := &faulty{cmd: exec.CommandContext(ctx, os.Args[0]), end: cancel, stream: newStream()}
	c.cmd.Env = append(os.Environ(), faultVar+"="+dir+" "+c.stream)
	c.cmd.Stderr = &c.said
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGQUIT) }
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.lines = bufio.NewScanner(out)
	c.expect(t, "ready")
	c.trace = exec.CommandContext(ctx, "strace", "-f", "--seccomp-bpf", "-o", os.DevNull, "-p", strconv.Itoa(c.cmd.Process.Pid),
		"-e", "trace="+f.call, "-e", "inject="+f.call+":error="+f.errno+":when="+f.when)
	said, err := c.trace.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.trace.Start(); err != nil {
		t.Fatal(err)
	}
	attached := make(chan struct{})
	go func() {
		once := sync.Once{}
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if strings.Contains(lines.Text(), "attached") {
				once.Do(func() { close(attached) })
			}
		}
	}()
	select {
	case <-attached:
	case <-ctx.Done():
		t.Fatal("strace did not attach")
	}
	return c
}

func (c *faulty) expect(t *testing.T, word string) {
	t.Helper()
	if !c.lines.Scan() || c.lines.Text() != word {
		_ = c.cmd.Wait() // what it said tells more
		t.Fatalf("the process says %q, want %q:\n%s", c.lines.Text(), word, c.said.b.String())
	}
}

func (c *faulty) tell(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(c.in, "\n"); err != nil {
		t.Error(err)
	}
}

// wait lets the process run, heals the disk when it is half through, and
// returns what its uplink got, and how many records it appended.
func (c *faulty) wait(t *testing.T) (got []item, appended uint64) {
	t.Helper()
	defer c.end()
	c.tell(t)
	c.expect(t, "half")
	if err := c.trace.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	_ = c.trace.Wait() // it says that it was ended
	c.tell(t)
	for c.lines.Scan() {
		w := strings.Fields(c.lines.Text())
		if len(w) != 5 {
			t.Errorf("the process says: %s", c.lines.Text())
			continue
		}
		from, err1 := strconv.ParseUint(w[2], 10, 64)
		to, err2 := strconv.ParseUint(w[3], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			t.Error(err)
		}
		switch w[0] {
		case "appended":
			appended = to
		case "record":
			// The process has compared its data.
			got = append(got, item{stream: w[1], from: from, to: to, data: string(payload(from, 400))})
		case "gap":
			got = append(got, item{stream: w[1], from: from, to: to, gap: w[4]})
		}
	}
	if err := c.cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, c.said.b.String())
	}
	return got, appended
}

// tellParent writes a line, with a system call that does not fail.
func tellParent(format string, args ...any) {
	_, _ = unix.Writev(1, [][]byte{fmt.Appendf(nil, format, args...)}) // the parent will miss it
}

// runFault is the process of TestDiskFaults: it appends, while its uplink is
// away, while it comes and goes, and after the disk is well again; then it
// waits until the disk is in use, and stops.
func runFault(spec string) int {
	dir, stream, _ := strings.Cut(spec, " ")
	_ = unix.Prctl(unix.PR_SET_PTRACER, ^uintptr(0), 0, 0, 0) // strace is no parent of ours
	in := bufio.NewReader(os.Stdin)
	tellParent("ready\n")
	if _, err := in.ReadString('\n'); err != nil {
		return 2
	}
	b, err := Open(Options{
		Dir: dir, Stream: stream, CommitInterval: 2 * time.Millisecond, SegmentSize: 64 << 10, Uplinks: []string{"a"},
		SharedMemory: os.Getenv(sharedVar), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if err := b.PutSchema(1, []byte("schema one")); err != nil {
		return 2
	}
	r, n := &receiver{hold: true, window: 30}, uint64(0)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = b.Forward(ctx, "a", link{r}, ForwardOptions{MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond})
	})
	part := func(k int) bool {
		for range k {
			n++
			if _, err := b.Append(Record{Time: 7, Schema: 1, Readings: 2, Data: payload(n, 400)}); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return false
			}
			if n%20 == 0 {
				<-time.After(2 * time.Millisecond)
				r.ack(8)
			}
		}
		return true
	}
	if !part(1500) {
		return 1
	}
	tellParent("half\n")
	if _, err := in.ReadString('\n'); err != nil || !part(500) {
		return 1
	}
	for end := time.Now().Add(40 * time.Second); b.Stats().DiskError != ""; {
		if time.Now().After(end) {
			fmt.Fprintln(os.Stderr, "the disk is well, but not in use:", b.Stats().DiskError)
			return 1
		}
		<-time.After(10 * time.Millisecond)
	}
	cancel()
	wg.Wait()
	if err := b.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, it := range r.got() {
		if it.gap != "" {
			tellParent("gap %s %d %d %s\n", it.stream, it.from, it.to, it.gap)
			continue
		}
		if it.data != string(payload(it.from, 400)) {
			fmt.Fprintln(os.Stderr, "a wrong record:", it.stream, it.from)
			return 1
		}
		tellParent("record %s %d %d -\n", it.stream, it.from, it.to)
	}
	tellParent("appended %s 1 %d -\n", stream, n)
	return 0
}
