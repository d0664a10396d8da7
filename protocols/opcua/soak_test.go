package opcua_test

import (
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"millrace/protocols/opcua"
	"millrace/protocols/opcua/opcuatest"
)

// drops is how often the soak test breaks the connection: `make soak`.
func drops(tb testing.TB) int {
	tb.Helper()
	text := os.Getenv("MILLRACE_DROPS")
	if text == "" {
		return 300
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		tb.Fatalf("MILLRACE_DROPS=%s is no number", text)
	}
	return n
}

// seed returns the choices of a run, which MILLRACE_SEED gives again.
func seed(tb testing.TB) *rand.Rand {
	tb.Helper()
	n := rand.Uint64()
	if text := os.Getenv("MILLRACE_SEED"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Logf("MILLRACE_SEED=%d", n)
	return rand.New(rand.NewPCG(n, n))
}

// usage is what may leak.
type usage struct {
	goroutines, files, sessions, subscriptions int
	heap                                       uint64
}

func usageOf(tb testing.TB, srv *opcuatest.Server) usage {
	tb.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return usage{runtime.NumGoroutine(), len(files), srv.Sessions(), srv.Subscriptions(), m.HeapAlloc}
}

// TestSoak breaks the connection at random moments, also while it is being
// made, and wants every value, and nothing that grows: here or at the server.
// It is not parallel: what others use would count.
func TestSoak(t *testing.T) {
	total, choose := drops(t), seed(t)
	srv := newServer(t, opcuatest.Options{Nodes: oneNode(), SessionTimeout: 2 * time.Second})
	set(t, srv, int32(0))
	relay := newRelay(t, srv.Addr())
	d := device("opc.tcp://"+relay.Addr(), "ns=2;s=v")
	b := open(t, driver(t), d)
	connect(t, b)
	subscribe(t, b, d)

	var n, cuts atomic.Int32
	stop, ended := make(chan struct{}), make(chan struct{}, 2)
	every := func(do func(), next func() time.Duration) {
		defer func() { ended <- struct{}{} }()
		timer := time.NewTimer(next())
		defer timer.Stop()
		for {
			select {
			case <-stop:
				return
			case <-timer.C:
				do()
				timer.Reset(next())
			}
		}
	}
	go every(func() { _ = srv.Set("ns=2;s=v", n.Add(1)) }, func() time.Duration { return 2 * time.Millisecond })
	go every(func() {
		relay.Cut()
		cuts.Add(1)
	}, func() time.Duration { return time.Duration(choose.IntN(40)) * time.Millisecond })

	w := &whole{}
	var first usage
	for int(cuts.Load()) < total {
		if !w.until(t, b, 0, w.last+1, patience) {
			w.again(t, b, d, 0)
		}
		if first == (usage{}) && int(cuts.Load()) > total/5 {
			first = usageOf(t, srv)
		}
	}
	close(stop)
	<-ended
	<-ended
	for w.last < int64(n.Load()) {
		if !w.until(t, b, 0, int64(n.Load()), patience) {
			w.again(t, b, d, 0)
		}
	}
	last := usageOf(t, srv)
	if len(w.conflicts) > 0 || stats(b) != (opcua.Stats{}) {
		t.Errorf("%d values: %v; %+v", n.Load(), w.conflicts, stats(b))
	}
	// A session is left behind, up to its time-out, where the answer to the
	// request for it was lost.
	if last.goroutines > first.goroutines+15 || last.files > first.files+10 || last.heap > first.heap+8<<20 || last.sessions > 5 || last.subscriptions > 2 {
		t.Errorf("it grows: %+v, then %+v", first, last)
	}
	t.Logf("%d drops, %d values, taken up %d times, made anew %d times; %+v, then %+v", cuts.Load(), n.Load(), w.resumed, opcua.Misses(b), first, last)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}
