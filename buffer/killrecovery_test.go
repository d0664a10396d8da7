package buffer

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// recoverVar makes the test binary a process that does nothing but open a
// damaged buffer, and read all of it: see runRecovery.
const recoverVar = "MILLRACE_BUFFER_RECOVER"

// TestKillMinusNineInRecovery kills process after process while it recovers a
// directory in which most files are damaged. In the end, as much is delivered
// as without the kills, and the rest is announced.
func TestKillMinusNineInRecovery(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	fromEnv(t, "MILLRACE_SEED", &seed)
	t.Logf("MILLRACE_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range rounds(3) {
		dir := tempDir(t)
		streams := written(t, dir)
		damaged := 0
		for _, f := range segmentsIn(t, dir) {
			if ins := injuries(); rng.IntN(4) > 0 {
				ins[rng.IntN(len(ins))].apply(t, f)
				damaged++
			}
		}
		undisturbed := tempDir(t)
		copyDir(t, dir, undisturbed)
		want := map[string][]item{}
		for _, uplink := range []string{"a", "b"} {
			want[uplink] = deliver(t, undisturbed, uplink)
		}
		const kills = 15
		for n := range kills {
			killRecovery(t, dir, fmt.Sprintf("R%dx%d", round, n), rng)
		}
		for _, uplink := range []string{"a", "b"} {
			got := deliver(t, dir, uplink)
			for _, s := range streams {
				account(t, want[uplink], s, 1, damagedRecords)
				account(t, got, s, 1, damagedRecords)
			}
			sameRecords(t, want[uplink], got)
		}
		// A kill may cost one good file its name: the one that was being opened.
		if aside, _ := filepath.Glob(filepath.Join(dir, damagedPrefix+"*")); len(aside) > damaged+kills {
			t.Errorf("%d files were damaged, %d are set aside: %v", damaged, len(aside), aside)
		}
		if t.Failed() {
			t.Fatalf("in round %d of MILLRACE_SEED=%d", round, seed)
		}
	}
}

// sameRecords wants every record that came without kills to come with them.
func sameRecords(tb tester, want, got []item) {
	tb.Helper()
	came := map[string]bool{}
	for _, it := range got {
		if it.gap == "" {
			came[fmt.Sprint(it.stream, it.from)] = true
		}
	}
	lost := 0
	for _, it := range want {
		if it.gap == "" && !came[fmt.Sprint(it.stream, it.from)] {
			lost++
		}
	}
	if lost > 0 {
		tb.Error(lost, "records that could be saved were lost to the kills")
	}
}

// killRecovery runs one process and kills it while it recovers: after a
// while, or in the moment when it opens a file.
func killRecovery(t *testing.T, dir, stream string, rng *rand.Rand) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), recoverVar+"="+dir+" "+stream)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan() // it begins
	late := time.After(time.Duration(rng.IntN(40_000)) * time.Microsecond)
	if rng.IntN(2) == 0 {
		late = opening(dir)
	}
	<-late
	_ = cmd.Process.Kill()
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "failed") {
			t.Error(lines.Text())
		}
	}
	_ = cmd.Wait() // by the kill
}

// opening returns a channel that is closed when somebody opens a file in dir,
// or when that takes too long.
func opening(dir string) <-chan time.Time {
	moment := make(chan time.Time)
	go func() {
		defer close(moment)
		for range 2000 {
			if _, err := os.Stat(filepath.Join(dir, markerName)); err == nil {
				return
			}
			<-time.After(20 * time.Microsecond)
		}
	}()
	return moment
}

// runRecovery opens the buffer and reads all of it for two uplinks, without
// an acknowledgement; then it waits for its end.
//
//	DIR STREAM
func runRecovery(spec string) int {
	dir, stream, _ := strings.Cut(spec, " ")
	fmt.Println("begins")
	b, err := Open(Options{
		Dir: dir, Stream: stream, CommitInterval: 20 * time.Millisecond, SegmentSize: 64 << 10, Uplinks: []string{"a", "b"},
		SharedMemory: os.Getenv(sharedVar),
	})
	if err != nil {
		fmt.Println("failed:", err)
		return 2
	}
	for _, name := range []string{"a", "b"} {
		go func() {
			_ = b.Forward(context.Background(), name, link{&receiver{hold: true}}, ForwardOptions{})
		}()
	}
	select {}
}
