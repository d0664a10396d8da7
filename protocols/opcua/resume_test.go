package opcua_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/opcua"
	"millrace/protocols/opcua/opcuatest"
)

// whole follows a tag that counts, and knows whether a value is missing.
type whole struct {
	last      int64
	source    int64
	resumed   int
	conflicts []string
}

func (w *whole) take(r *protocols.Report, tag int32) {
	if r.Resumed != nil {
		w.resumed++
	}
	for _, x := range r.Readings {
		if x.Tag != tag {
			continue
		}
		if x.Quality != protocols.Good {
			w.conflicts = append(w.conflicts, fmt.Sprintf("after %d: %s", w.last, x.Reason))
			continue
		}
		v := x.Value.AsInt()
		// node-opcua sends the last value again to a session on a new channel.
		if w.last != 0 && v != w.last+1 && (v != w.last || x.Source != w.source) {
			w.conflicts = append(w.conflicts, fmt.Sprintf("after %d came %d", w.last, v))
		}
		w.last, w.source = v, x.Source
	}
}

// until takes reports in until the counter has passed a number, or the
// connection ends, which it says.
func (w *whole) until(tb testing.TB, b protocols.Subscriber, tag int32, number int64, within time.Duration) bool {
	tb.Helper()
	end := time.After(within)
	for w.last < number {
		select {
		case r := <-b.Reports():
			if r.Err != nil {
				return false
			}
			w.take(&r, tag)
		case <-end:
			tb.Fatalf("only %d of %d within %s", w.last, number, within)
		}
	}
	return true
}

// again closes, connects and subscribes, as the loop above does. What was
// received is taken in first.
func (w *whole) again(tb testing.TB, b protocols.Subscriber, d *protocols.Device, tag int32) {
	tb.Helper()
	_ = b.Close()
	for len(b.Reports()) > 0 {
		if r := <-b.Reports(); r.Err == nil {
			w.take(&r, tag)
		}
		_ = b.Close()
	}
	deadline := time.Now().Add(patience)
	for {
		err := b.Connect(context.Background())
		if err == nil {
			err = b.Subscribe(context.Background(), d, allTags(d))
		}
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatal(err)
		}
		_ = b.Close()
	}
}

func stats(b protocols.Bus) opcua.Stats { return b.(interface{ Stats() opcua.Stats }).Stats() }

// TestDropsLoseNothing cuts the connection a hundred times, with values coming
// all the time, and wants every one of them.
func TestDropsLoseNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		o      opcuatest.Options
		forget bool // the session, not its subscriptions
	}{
		"same session": {o: opcuatest.Options{}},
		"transfer":     {o: opcuatest.Options{}, forget: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.o.Nodes = oneNode()
			srv := newServer(t, c.o)
			set(t, srv, int32(0))
			relay := newRelay(t, srv.Addr())
			d := device("opc.tcp://"+relay.Addr(), "ns=2;s=v")
			b := open(t, driver(t), d)
			connect(t, b)
			if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
				t.Fatal(err)
			}
			stop, stopped := make(chan struct{}), make(chan struct{})
			n := int32(0)
			go func() {
				defer close(stopped)
				ticker := time.NewTicker(3 * time.Millisecond)
				defer ticker.Stop()
				for {
					select {
					case <-stop:
						return
					case <-ticker.C:
						n++
						_ = srv.Set("ns=2;s=v", n)
					}
				}
			}()
			w := &whole{}
			for range 100 {
				w.until(t, b, 0, w.last+3, 5*time.Second)
				relay.Cut()
				if c.forget {
					srv.Forget(false)
				}
				w.again(t, b, d, 0)
			}
			close(stop)
			<-stopped
			for w.last < int64(n) {
				if !w.until(t, b, 0, int64(n), 5*time.Second) {
					w.again(t, b, d, 0)
				}
			}
			if len(w.conflicts) > 0 || w.resumed < 90 || stats(b) != (opcua.Stats{}) {
				t.Fatalf("%d values: %v; %d times taken up; %+v", n, w.conflicts, w.resumed, stats(b))
			}
			t.Logf("%d values, %d times taken up", n, w.resumed)
		})
	}
}

// TestPeerDropsLoseNothing does the same with node-opcua, whose variable
// counts how often it is sampled.
func TestPeerDropsLoseNothing(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0)
	d := device(srv.Endpoint(), "ns=2;s=Samples")
	b := open(t, driver(t), d)
	connect(t, b)
	if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
		t.Fatal(err)
	}
	w := &whole{}
	var slowest time.Duration
	for range 100 {
		w.until(t, b, 0, w.last+3, patience)
		command(t, srv, "drop")
		began := time.Now()
		w.again(t, b, d, 0)
		w.until(t, b, 0, w.last+1, patience)
		slowest = max(slowest, time.Since(began))
	}
	w.until(t, b, 0, w.last+3, patience)
	if len(w.conflicts) > 0 || w.resumed < 100 || stats(b) != (opcua.Stats{}) {
		t.Fatalf("%v; %d times taken up; %+v", w.conflicts, w.resumed, stats(b))
	}
	t.Logf("%d values, %d times taken up, the slowest in %s", w.last, w.resumed, slowest)
}

// TestPeerRenews has the secure channel's token renewed every second, under
// load, and wants every value.
func TestPeerRenews(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0, "renewals")
	drv := driver(t)
	drv.Lifetime(2 * time.Second)
	d := device(srv.Endpoint(), "ns=2;s=Samples")
	d.OPCUA.SecurityPolicy = "Basic256Sha256"
	d.OPCUA.Trust = filepath.Join(t.TempDir(), "pki", "trusted")
	b := open(t, drv, d)
	trustRejected(t, d.OPCUA.Trust, b.Connect(context.Background()))
	connect(t, b)
	subscribe(t, b, d)
	w := &whole{}
	renewals := func() int {
		said, err := srv.Ask(context.Background(), "renewals")
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(string(said))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for renewals() < 3 {
		if !w.until(t, b, 0, w.last+10, patience) {
			t.Fatal("the connection broke")
		}
	}
	if s := stats(b); s != (opcua.Stats{}) || len(w.conflicts) > 0 {
		t.Errorf("%+v %v", s, w.conflicts)
	}
}

// TestPeerIsBackSoon restarts a server that wants encryption, and wants a
// value less than two seconds after it listens again, with a try each second
// (see the collector's backoff).
func TestPeerIsBackSoon(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0)
	d := device(srv.Endpoint(), "ns=2;s=Samples")
	d.OPCUA.SecurityPolicy = "Basic256Sha256"
	d.OPCUA.Trust = filepath.Join(t.TempDir(), "pki", "trusted")
	b := open(t, driver(t), d)
	trustRejected(t, d.OPCUA.Trust, b.Connect(context.Background()))
	connect(t, b)
	subscribe(t, b, d)
	next(t, b, patience)
	srv.Stop()
	awaitErr(t, b, patience)
	_ = b.Close()
	back := make(chan time.Time, 1)
	go func() {
		startPeer(t, srv.Port)
		back <- time.Now()
	}()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for b.Connect(context.Background()) != nil {
		<-ticker.C
	}
	subscribe(t, b, d)
	if r := next(t, b, patience); r.Err != nil {
		t.Fatal(r.Err)
	}
	took := time.Since(<-back)
	if took > 2*time.Second {
		t.Errorf("the first value came %s after the server", took)
	}
	t.Logf("the first value came %s after the server", took)
}
