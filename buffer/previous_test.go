package buffer

import (
	"os"
	"testing"
	"time"
)

// TestPrevious: a run knows how the one before it ended.
func TestPrevious(t *testing.T) {
	t.Parallel()
	for want, end := range map[string]func(t *testing.T, b *Buffer){
		EndedStopped: func(t *testing.T, b *Buffer) { t.Helper(); closeBuffer(t, b) },
		EndedKilled:  func(t *testing.T, b *Buffer) { t.Helper(); b.die(t) },
		EndedPowerCut: func(t *testing.T, b *Buffer) {
			t.Helper()
			path := b.shared.path
			b.die(t)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			o := testOptions(t, tempDir(t))
			for _, stopBefore := range []bool{false, true} {
				o.CommitInterval = time.Millisecond
				o.Stream = newStream()
				b := openBuffer(t, o)
				if p := b.Stats().Previous; !stopBefore && p != (Previous{}) {
					t.Errorf("before the first run there was %+v", p)
				}
				appendN(t, b, 10, 100)
				waitFor(t, "a commit", func() bool { return settledIn(b) == 10 })
				b.mu.Lock()
				b.o.CommitInterval = time.Hour
				b.mu.Unlock()
				last := appendN(t, b, 5, 100)
				if want == EndedPowerCut {
					last = 10
				}
				end(t, b)
				stream := o.Stream
				o.Stream = newStream()
				b = openBuffer(t, o)
				if p := b.Stats().Previous; p != (Previous{Stream: stream, Last: last, Ended: want}) {
					t.Errorf("got %+v, want %s up to %d, %s", p, stream, last, want)
				}
				closeBuffer(t, b) // and the next run is not taken in by that
			}
		})
	}
}
