package buffer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
)

// powerVar makes the test binary the process of which a disk is simulated:
// see runPower.
const powerVar = "MILLRACE_BUFFER_POWER"

// usualCuts is how many disks TestPowerCut makes where MILLRACE_CUTS says
// nothing else.
const usualCuts = 210

// tracedCalls are those that change files, or end such a change.
const tracedCalls = "openat,close,write,pwrite64,ftruncate,truncate,fsync,fdatasync,renameat,renameat2,unlinkat,mkdirat," +
	"pwritev,pwritev2,writev,fallocate,linkat,symlinkat,sync_file_range,copy_file_range,msync"

// powerCase is one way in which the buffer is used.
type powerCase struct {
	name     string
	interval time.Duration
	maxSize  int64
}

// TestPowerCut traces the system calls of processes that use a buffer, and
// makes of them what a disk may hold after a power cut at a random moment:
// whatever was synced, and any part of the rest. From each of those disks the
// buffer must start and deliver all that was on the disk for good, or
// announce it where it had given it up before.
//
// MILLRACE_CUTS says how many disks, MILLRACE_SEED with which choices.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("strace is not installed; run `make deps`")
	}
	seed, cuts := rand.Uint64(), usualCuts
	fromEnv(t, "MILLRACE_SEED", &seed)
	fromEnv(t, "MILLRACE_CUTS", &cuts)
	t.Logf("MILLRACE_CUTS=%d MILLRACE_SEED=%d", cuts, seed)
	cases := []powerCase{
		{"0s", 0, 64 << 20},
		{"interval", 20 * time.Millisecond, 64 << 20},
		{"full", 0, minMaxSize},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			log := tracePower(t, strace, c, rng)
			for n := range max(cuts/len(cases), 1) {
				cutPower(t, log, c, rand.New(rand.NewPCG(rng.Uint64(), 0)))
				if t.Failed() {
					t.Fatalf("at the cut %d of MILLRACE_SEED=%d", n, seed)
				}
			}
		})
	}
}

func fromEnv[N any](t *testing.T, name string, into *N) {
	t.Helper()
	if text := os.Getenv(name); text != "" {
		if _, err := fmt.Sscan(text, into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// tracePower runs three processes, one after the other, on the same buffer.
func tracePower(t *testing.T, strace string, c powerCase, rng *rand.Rand) *diskLog {
	t.Helper()
	log := &diskLog{base: tempDir(t), syncs: map[string][]span2{}}
	present := map[string]*diskFile{}
	for run, end := range []string{"kill", "kill", "close"} {
		traceRun(t, strace, log, present, fmt.Sprintf("P%d %v %d %d %s", run+1, c.interval, c.maxSize, rng.Uint64(), end))
	}
	if len(log.notes) < 1000 || len(log.names) < 20 {
		t.Fatalf("only %d notes and %d changes of names were traced", len(log.notes), len(log.names))
	}
	return log
}

// traceRun runs one process; spec is what runPower wants beside the directory.
func traceRun(t *testing.T, strace string, log *diskLog, present map[string]*diskFile, spec string) {
	t.Helper()
	trace := filepath.Join(tempDir(t), "trace")
	cmd := exec.CommandContext(t.Context(), strace, "-f", "--seccomp-bpf", "-xx", "-s", "16777216", "-o", trace, "-e", "trace="+tracedCalls, os.Args[0])
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", powerVar+"="+filepath.Join(log.base, "buffer")+" "+spec)
	cmd.Stderr = os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if strings.HasSuffix(spec, "kill") && errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		err = nil // strace ends as its process did
	}
	if err != nil {
		t.Fatalf("strace: %v", err)
	}
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	err = log.readTrace(f, present)
	if err := errors.Join(err, f.Close(), os.Remove(trace)); err != nil {
		t.Fatal(err)
	}
}

// TestPowerCutAfterAKill: a kill may come between a commit's writes and their
// sync, so that the next run reads what a power cut can still take. It must
// sync that before it counts on it.
func TestPowerCutAfterAKill(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("strace is not installed; run `make deps`")
	}
	dir := tempDir(t)
	b := openBuffer(t, powerOptions(dir, "P0", 0, 64<<20))
	last := appendN(t, b, 50, 100)
	waitFor(t, "a commit", func() bool { return b.visibleNow() == last })
	log := &diskLog{base: tempDir(t), syncs: map[string][]span2{}}
	as := filepath.Join(log.base, "buffer")
	if err := os.Mkdir(as, dirMode); err != nil {
		t.Fatal(err)
	}
	copyDir(t, dir, as)
	closeBuffer(t, b)
	segments, err := filepath.Glob(filepath.Join(as, "*"+segmentSuffix))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	segment := &diskFile{}
	traceRun(t, strace, log, map[string]*diskFile{
		filepath.Join("buffer", filepath.Base(segments[0])): segment, filepath.Join("buffer", stateName): {},
	}, "P1 0s 67108864 1 close")
	handed := slices.IndexFunc(log.notes, func(n diskNote) bool { return strings.HasPrefix(n.text, "handed a P0 ") })
	if handed < 0 {
		t.Fatal("nothing of the earlier run was handed to the uplink")
	}
	if at := log.notes[handed].line; settledUpTo(segment.syncs, at) == 0 || settledUpTo(log.syncs["buffer"], at) == 0 {
		t.Error("the uplink was handed what neither the last run nor this one is known to have synced")
	}
}

// cutPower makes one disk and gives the verdict on what comes out of it.
func cutPower(t *testing.T, log *diskLog, c powerCase, rng *rand.Rand) {
	t.Helper()
	cut := 1 + rng.IntN(log.lines)
	facts := log.facts(cut)
	held := &strings.Builder{}
	base := imageDir(t)
	defer os.RemoveAll(base)
	if err := log.image(base, cut, rng); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(filepath.Join(base, "buffer"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, f := range files {
		fmt.Fprintf(held, "%s, %d bytes\n", f.Name(), fileSize(filepath.Join(base, "buffer", f.Name())))
	}
	o := powerOptions(filepath.Join(base, "buffer"), newStream(), 0, 64<<20)
	var said bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&said, nil))
	b := openBuffer(t, o)
	got := map[string]*receiver{"a": {}, "b": {}}
	var stops []func()
	for name, r := range got {
		stops = append(stops, forward(t, b, name, r))
	}
	for name := range got {
		waitFor(t, "all delivered", func() bool {
			s := b.Stats().Uplinks[name]
			return s.Lag == 0 && s.Gaps == 0 && s.InFlight == 0
		})
	}
	for _, stop := range stops {
		stop()
	}
	closeBuffer(t, b)
	defer func() {
		if t.Failed() {
			t.Logf("the disk held:\n%sthe buffer said:\n%s", held, &said)
		}
	}()
	for name, r := range got {
		for _, stream := range []string{"P1", "P2", "P3"} {
			if err := facts.check(name, stream, r.got(), c); err != nil {
				t.Errorf("cut at line %d of %d, uplink %s, stream %s: %v", cut, log.lines, name, stream, err)
			}
		}
	}
}

// imageDir is a folder in memory, where there is one: syncing a simulated
// disk need not take as long as a real one's does.
func imageDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "millrace-powercut-") //nolint:usetesting // a test's own folder is on a disk
	if err != nil {
		return tempDir(t)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// powerFacts is what the process is known to have reached at some moment.
type powerFacts struct {
	settled map[string]uint64 // by stream: on the disk, or acknowledged by all
	handed  map[string]uint64 // by stream: an uplink has seen it
	acked   map[string]uint64 // by uplink and stream: acknowledged, or about to be
}

// facts reads the lines that were printed before the cut.
func (l *diskLog) facts(cut int) *powerFacts {
	f := &powerFacts{settled: map[string]uint64{}, handed: map[string]uint64{}, acked: map[string]uint64{}}
	for _, n := range l.notes {
		if n.line > cut {
			break
		}
		w := strings.Fields(n.text)
		seq, err := strconv.ParseUint(w[len(w)-1], 10, 64)
		if err != nil {
			continue
		}
		switch w[0] {
		case "settled":
			f.settled[w[1]] = max(f.settled[w[1]], seq)
		case "handed":
			f.handed[w[2]] = max(f.handed[w[2]], seq)
		case "acked":
			f.acked[w[1]+w[2]] = max(f.acked[w[1]+w[2]], seq)
		}
	}
	return f
}

// check holds what an uplink got of a stream against the facts.
func (f *powerFacts) check(uplink, stream string, items []item, c powerCase) error {
	durable := f.settled[stream]
	if c.interval == 0 {
		durable = max(durable, f.handed[stream])
	}
	acked := f.acked[uplink+stream]
	next, last := acked+1, uint64(0) // the next one that must come; the last one that came
	for _, it := range items {
		if it.stream != stream {
			continue
		}
		switch {
		case it.from <= last:
			return fmt.Errorf("%d..%d came after %d", it.from, it.to, last)
		case it.from > next:
			return fmt.Errorf("%d..%d is missing (%d is acknowledged, %d on the disk)", next, it.from-1, acked, durable)
		case it.gap == "" && it.data != string(powerPayload(stream, it.from)):
			return fmt.Errorf("%d is not what was appended", it.from)
		case it.gap != "" && it.gap != ReasonFull && it.from <= durable:
			return fmt.Errorf("%d..%d is announced as %q, %d is on the disk", it.from, it.to, it.gap, durable)
		case it.gap == ReasonFull && c.maxSize > minMaxSize:
			return fmt.Errorf("%d..%d is announced as %q, and there was room", it.from, it.to, it.gap)
		}
		last = it.to
		next = max(next, it.to+1)
	}
	if next <= durable {
		return fmt.Errorf("all from %d on is missing (%d is acknowledged, %d on the disk)", next, acked, durable)
	}
	return nil
}

func powerOptions(dir, stream string, interval time.Duration, maxSize int64) Options {
	return Options{
		Dir: dir, Stream: stream, CommitInterval: interval, MaxSize: maxSize,
		SegmentSize: 128 << 10, TailBytes: 1 << 20, Uplinks: []string{"a", "b"},
		SharedMemory: NoSharedMemory, // a power cut takes it
	}
}

// powerPayload is the data of a record: it does not compress, so that a
// commit writes many pages.
func powerPayload(stream string, seq uint64) []byte {
	rng := rand.New(rand.NewPCG(seq, uint64(len(stream))<<8|uint64(stream[len(stream)-1])))
	b := make([]byte, 8, 512)
	binary.BigEndian.PutUint64(b, seq)
	for range rng.IntN(60) {
		b = binary.LittleEndian.AppendUint64(b, rng.Uint64())
	}
	return b
}

// visibleNow returns up to where uplinks may see this run's records.
func (b *Buffer) visibleNow() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.visible()
}

// runPower is what the test binary does for tracePower: it appends some
// thousand records, while one uplink acknowledges now and then and the other
// one is away for the first half. What it has reached it prints, one write
// each.
//
//	DIR STREAM INTERVAL MAXSIZE SEED close|kill
func runPower(spec string) int {
	f := strings.Fields(spec)
	interval, err1 := time.ParseDuration(f[2])
	maxSize, err2 := strconv.ParseInt(f[3], 10, 64)
	seed, err3 := strconv.ParseUint(f[4], 10, 64)
	o := powerOptions(f[0], f[1], interval, maxSize)
	b, err4 := Open(o)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if err := b.PutSchema(1, []byte("schema one")); err != nil {
		return 2
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	links := map[string]*powerLink{"a": {name: "a"}, "b": {name: "b", away: true}}
	for name, l := range links {
		go func() {
			_ = b.Forward(context.Background(), name, l, ForwardOptions{MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond})
		}()
	}
	go tellSettled(b, f[1])
	const most = 2400
	for i := uint64(1); i <= most; i++ {
		for b.Stats().TailBytes > o.TailBytes/2 { // a traced disk is slow: nothing is to be given up for that
			<-time.After(200 * time.Microsecond)
		}
		if _, err := b.Append(Record{Time: 7, Schema: 1, Readings: 2, Data: powerPayload(f[1], i)}); err != nil {
			return 2
		}
		if rng.IntN(25) == 0 {
			<-time.After(time.Duration(rng.IntN(3000)) * time.Microsecond)
		}
		if rng.IntN(80) == 0 {
			links["a"].hold(rng.IntN(2) == 0)
		}
		if i == most/2 {
			links["b"].come()
		}
	}
	if f[5] == "close" {
		links["a"].hold(false)
		if err := b.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		return 0
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// tellSettled prints up to where records need no writing any more.
func tellSettled(b *Buffer, stream string) {
	told := uint64(0)
	for {
		b.mu.Lock()
		now := b.settled
		b.mu.Unlock()
		if now != told {
			tell("settled %s %d", stream, now)
			told = now
		}
		<-time.After(200 * time.Microsecond)
	}
}

func tell(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

// powerLink is a Publisher that prints what it gets.
type powerLink struct {
	name string

	mu     sync.Mutex
	away   bool
	held   bool
	acked  func(uint64)
	flying []flying
}

type flying struct {
	token  uint64
	stream string
	seq    uint64
}

func (p *powerLink) Connect(_ context.Context, acked func(uint64)) (<-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		return nil, errRefused
	}
	p.acked, p.flying = acked, nil
	return make(chan struct{}), nil
}

func (p *powerLink) Disconnect() {}

func (p *powerLink) Send(_ context.Context, token uint64, r Record) error {
	tell("handed %s %s %d", p.name, r.Stream, r.Seq)
	p.take(flying{token, r.Stream, r.Seq})
	return nil
}

func (p *powerLink) SendGap(_ context.Context, token uint64, g Gap) error {
	p.take(flying{token, g.Stream, g.To})
	return nil
}

func (p *powerLink) take(f flying) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying = append(p.flying, f)
	if len(p.flying) > 20 {
		p.ack()
	}
}

// ack acknowledges all, if that is not held back, and says so before.
func (p *powerLink) ack() {
	if p.held || len(p.flying) == 0 {
		return
	}
	for i, f := range p.flying {
		if last := i == len(p.flying)-1; last || p.flying[i+1].stream != f.stream {
			tell("acked %s %s %d", p.name, f.stream, f.seq)
		}
	}
	p.acked(p.flying[len(p.flying)-1].token)
	p.flying = p.flying[:0]
}

func (p *powerLink) hold(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = on
	p.ack()
}

func (p *powerLink) come() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = false
}
