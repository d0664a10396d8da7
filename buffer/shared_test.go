package buffer

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/buffer/internal/shm"
)

// die ends the buffer as a kill would: nothing is committed or saved, and its
// shared memory stays. Only what the system does for a dead process is done.
func (b *Buffer) die(tb tester) {
	tb.Helper()
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	close(b.done)
	b.active.Wait()
	close(b.stop)
	b.writer.Wait()
	if s := b.w.current; s != nil {
		b.disk.files.reopen(s)
	}
	b.disk.files.closeIdle(0)
	if r := b.shared.region; r != nil {
		b.tail.unshare()
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	}
	if err := b.disk.close(); err != nil {
		tb.Error(err)
	}
}

// takeAll delivers all that waits in dir to the uplink a and closes the buffer.
func takeAll(tb tester, o Options) []item {
	tb.Helper()
	o.Stream = newStream()
	b := openBuffer(tb, o)
	r := &receiver{}
	stop := forward(tb, b, "a", r)
	waitFor(tb, "all delivered", func() bool { return b.Stats().Batches == 0 && b.Stats().Uplinks["a"].Gaps == 0 })
	stop()
	closeBuffer(tb, b)
	return r.got()
}

func sharedFile(tb tester, o Options) string {
	tb.Helper()
	path, err := SharedMemoryFile(os.Getenv(sharedVar), o.Dir)
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// gapsIn returns the reasons of the gaps among items.
func gapsIn(items []item) (reasons []string) {
	for _, it := range items {
		if it.gap != "" {
			reasons = append(reasons, it.gap)
		}
	}
	return reasons
}

// TestCrash: what only memory held when the process died comes after the next
// start, with its contents and schema.
func TestCrash(t *testing.T) {
	t.Parallel()
	o := testOptions(t, tempDir(t))
	o.CommitInterval = time.Hour
	b := openBuffer(t, o)
	appendN(t, b, 1000, 100)
	big := make([]byte, 1<<20)
	for i := range big {
		big[i] = byte(rand.Uint32())
	}
	if _, err := b.Append(Record{Time: 9, Schema: 1, Readings: 1, Data: big}); err != nil {
		t.Fatal(err)
	}
	b.die(t)

	first := o.Stream
	o.Stream = newStream()
	b = openBuffer(t, o)
	if s := b.Stats(); s.Batches != 1001 || s.Segments == 0 || s.TailBatches != 0 {
		t.Errorf("%d batches wait, in %d files and %d in memory", s.Batches, s.Segments, s.TailBatches)
	}
	r := &receiver{}
	stop := forward(t, b, "a", r)
	waitFor(t, "all delivered", func() bool { return b.Stats().Batches == 0 })
	stop()
	if blob, err := b.Schema(1); err != nil || string(blob) != "schema one" {
		t.Errorf("the schema: %q, %v", blob, err)
	}
	closeBuffer(t, b)
	items := r.got()
	if gaps := account(t, items, first, 1, 1001); gaps != 0 {
		t.Errorf("gaps: %v", gapsIn(items))
	}
	for i := range 1000 {
		if items[i].data != string(payload(uint64(i), 100)) {
			t.Fatalf("record %d is not what was appended", items[i].from)
		}
	}
	if items[1000].data != string(big) {
		t.Error("the large record is not what it was")
	}
}

// TestCrashAfterAcks: what was acknowledged does not come again, and what is
// on the disk neither is written twice nor missing.
func TestCrashAfterAcks(t *testing.T) {
	t.Parallel()
	o := testOptions(t, tempDir(t))
	b := openBuffer(t, o)
	r := &receiver{hold: true}
	forward(t, b, "a", r)
	appendN(t, b, 100, 100)
	waitFor(t, "a commit", func() bool { return settledIn(b) == 100 })
	b.mu.Lock()
	b.o.CommitInterval = time.Hour
	b.mu.Unlock()
	appendN(t, b, 100, 100)
	waitFor(t, "all sent", func() bool { return r.total() == 200 })
	r.ack(130)
	waitFor(t, "the acknowledgements", func() bool { return b.Stats().Batches == 70 })
	b.die(t)

	items := takeAll(t, o)
	if len(items) != 70 || items[0].from != 131 || items[69].from != 200 {
		t.Errorf("%d items from %d on, want 70 from 131 on", len(items), items[0].from)
	}
}

// TestCrashWithGaps: a gap that nobody was told of yet is told after a crash.
func TestCrashWithGaps(t *testing.T) {
	t.Parallel()
	o := testOptions(t, tempDir(t))
	o.CommitInterval = time.Hour
	b := openBuffer(t, o)
	appendN(t, b, 10, 100)
	b.mu.Lock()
	for range 4 {
		b.giveUp(b.tail.first)
		b.pop()
	}
	b.mu.Unlock()
	b.die(t)
	items := takeAll(t, o)
	account(t, items, o.Stream, 1, 10)
	if items[0].gap != ReasonDisk || items[0].from != 1 || items[0].to != 4 || items[0].readings != 12 || len(items) != 7 {
		t.Errorf("got %+v", items)
	}
}

// TestCrashWithoutState: the places of the uplinks survive the loss of state.db.
func TestCrashWithoutState(t *testing.T) {
	t.Parallel()
	o := testOptions(t, tempDir(t))
	o.CommitInterval = time.Hour
	b := openBuffer(t, o)
	r := &receiver{hold: true}
	forward(t, b, "a", r)
	appendN(t, b, 50, 100)
	waitFor(t, "all sent", func() bool { return r.total() == 50 })
	r.ack(20)
	waitFor(t, "the acknowledgements", func() bool { return b.Stats().Batches == 30 })
	b.die(t)
	if err := os.Truncate(filepath.Join(o.Dir, stateName), 100); err != nil {
		t.Fatal(err)
	}
	items := takeAll(t, o)
	if len(items) != 30 || items[0].from != 21 {
		t.Errorf("%d items from %d on, want 30 from 21 on", len(items), items[0].from)
	}
}

// TestCrashDamaged: what cannot be found in the shared memory any more is
// announced.
func TestCrashDamaged(t *testing.T) {
	t.Parallel()
	o := testOptions(t, tempDir(t))
	o.CommitInterval = time.Hour
	b := openBuffer(t, o)
	appendN(t, b, 20, 100)
	b.die(t)
	path := sharedFile(t, o)
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(image), string(payload(11, 100)))
	if at < 0 {
		t.Fatal("the record is not in the file")
	}
	image[at+50] ^= 1
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(image[at+50:at+51], int64(at+50))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	items := takeAll(t, o)
	account(t, items, o.Stream, 1, 20)
	if last := items[len(items)-1]; last.gap != ReasonCrash || last.to != 20 || len(gapsIn(items)) != 1 {
		t.Errorf("got %+v", items)
	}
}

// TestForeignSharedMemory: a file that is not ours is neither read nor
// removed, and one of another run is removed.
func TestForeignSharedMemory(t *testing.T) {
	t.Parallel()
	o := testOptions(t, tempDir(t))
	path := sharedFile(t, o)
	if err := os.Symlink("/dev/null", path); err != nil {
		t.Fatal(err)
	}
	b := openBuffer(t, o)
	appendN(t, b, 10, 100)
	if b.shared.region != nil {
		t.Error("a symbolic link was replaced")
	}
	closeBuffer(t, b)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	takeAll(t, o)

	r, err := shm.Create(path, shm.Options{Stream: o.Stream, Ordinal: 1, Memory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	r.SetRange(5, 9)
	if err := errors.Join(r.Publish(), r.Close()); err != nil {
		t.Fatal(err)
	}
	if items := takeAll(t, o); len(items) != 0 {
		t.Errorf("got %+v", items)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there still: %v", err)
	}
}

// TestNoSharedMemory: without a tmpfs the buffer is as good as its commits.
func TestNoSharedMemory(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{"off": NoSharedMemory, "a disk": t.TempDir(), "nowhere": "/nowhere"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := testOptions(t, tempDir(t))
			o.SharedMemory = dir
			b := openBuffer(t, o)
			appendN(t, b, 10, 100)
			waitFor(t, "a commit", func() bool { return settledIn(b) == 10 })
			b.die(t)
			items := takeAll(t, o)
			if gaps := account(t, items, o.Stream, 1, 10); gaps != 0 {
				t.Errorf("gaps: %v", gapsIn(items))
			}
		})
	}
}

// TestTwoBuffers: each has its own shared memory.
func TestTwoBuffers(t *testing.T) {
	t.Parallel()
	one, two := testOptions(t, tempDir(t)), testOptions(t, tempDir(t))
	one.CommitInterval, two.CommitInterval = time.Hour, time.Hour
	b1, b2 := openBuffer(t, one), openBuffer(t, two)
	appendN(t, b1, 10, 100)
	appendN(t, b2, 20, 100)
	b1.die(t)
	account(t, takeAll(t, one), one.Stream, 1, 10)
	b2.die(t)
	account(t, takeAll(t, two), two.Stream, 1, 20)
}

// sharedFullVar holds the directory for the half of TestSharedMemoryFull that
// runs with a small tmpfs of its own.
const sharedFullVar = "MILLRACE_BUFFER_SHARED_FULL"

// TestSharedMemoryFull runs itself again in a mount namespace, with 1 MiB of
// shared memory: what finds no room there lives on the heap, and is announced
// after a crash.
func TestSharedMemoryFull(t *testing.T) {
	if dir := os.Getenv(sharedFullVar); dir != "" {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal("mount a small tmpfs:", err)
		}
		testSharedMemoryFull(t, dir)
		return
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSharedMemoryFull$", "-test.v")
	cmd.Env = append(os.Environ(), sharedFullVar+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	} else {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS // and its mounts private
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v (it needs user namespaces, or root)\n%s", err, out)
	}
}

func testSharedMemoryFull(t *testing.T, dir string) {
	t.Helper()
	o := testOptions(t, tempDir(t))
	o.SharedMemory, o.CommitInterval, o.TailBytes = dir, time.Hour, 8<<20
	b := openBuffer(t, o)
	last := appendN(t, b, 3000, 1000)
	if n := b.Stats().TailBatches; n != 3000 {
		t.Fatalf("%d batches in memory, this proves nothing", n)
	}
	b.die(t)
	items := takeAll(t, o)
	account(t, items, o.Stream, 1, last)
	reasons := gapsIn(items)
	if len(reasons) == 0 || len(items) < 500 {
		t.Errorf("%d items, gaps: %v", len(items), reasons)
	}
	for i, reason := range reasons {
		if reason != ReasonCrash {
			t.Errorf("gap %d: %s", i, reason)
		}
	}
}

// TestLookAfterKill: a look at the directory of a killed agent sees what only
// its memory held, for all and for an uplink, and takes it from nobody.
func TestLookAfterKill(t *testing.T) {
	t.Parallel()
	o := testOptions(t, tempDir(t))
	o.CommitInterval = time.Hour
	o.Uplinks = []string{"a", "b"}
	b := openBuffer(t, o)
	add := func(from, to uint64) {
		for i := from; i <= to; i++ {
			if _, err := b.Append(Record{Time: time.Now().UnixMilli(), Schema: 1, Readings: 2, Data: payload(i, 400)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(1, 40)
	if err := b.commit(); err != nil { // the writer sleeps for an hour
		t.Fatal(err)
	}
	add(41, 100)
	r := &receiver{window: 70, hold: true}
	stop := forward(t, b, "a", r)
	waitFor(t, "70 on their way", func() bool { return r.total() == 70 })
	r.ack(70)
	waitFor(t, "70 acknowledged", func() bool { return b.Stats().Uplinks["a"].Acked == 70 })
	b.die(t)
	stop()

	d, err := openDirOf(o.Dir, os.Getenv(sharedVar))
	if err != nil {
		t.Fatal(err)
	}
	l := d.Look()
	if l.Memory == nil || l.Memory.Batches != 60 || l.Batches != 100 || len(l.Uplinks) != 2 ||
		l.Uplinks[0].Batches != 30 || l.Uplinks[1].Batches != 100 || l.Streams[0].Last != 100 {
		t.Errorf("%+v, memory %+v", l, l.Memory)
	}
	if _, res := d.mustExport(t, ExportOptions{}); res.Records != 100 {
		t.Errorf("exported %d", res.Records)
	}
	if _, res := d.mustExport(t, ExportOptions{Uplink: "a"}); res.Records != 30 {
		t.Errorf("exported %d for a", res.Records)
	}
	o.Uplinks = []string{"a"}
	if items := takeAll(t, o); len(items) != 30 {
		t.Errorf("%d came after the next start", len(items))
	}
}

// TestReplacedDirectory: the shared memory of a killed agent is not taken for
// that of a buffer that came into the same directory later, be it a new one or
// another gateway's.
func TestReplacedDirectory(t *testing.T) {
	t.Parallel()
	saved := testOptions(t, tempDir(t))
	b := openBuffer(t, saved)
	appendN(t, b, 100, 100)
	closeBuffer(t, b)
	for name, files := range map[string]string{"a new one": "", "another's": saved.Dir} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := testOptions(t, tempDir(t))
			for run := range 3 {
				o.Stream = newStream()
				b := openBuffer(t, o)
				appendN(t, b, 5, 100)
				if run < 2 {
					closeBuffer(t, b)
				} else {
					b.die(t)
				}
			}
			old, err := filepath.Glob(filepath.Join(o.Dir, "*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range old {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
			want := 0
			if files != "" {
				copyDir(t, files, o.Dir)
				want = 100
			}
			if items := takeAll(t, o); len(items) != want || want > 0 && items[0].stream != saved.Stream {
				t.Errorf("%d items came of the other buffer, want %d", len(items), want)
			}
		})
	}
}
