package buffer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// tester is what a testing.TB and a rapid.T have in common.
type tester interface {
	Helper()
	Error(args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Cleanup(f func())
}

var streams atomic.Uint64

// newStream returns an id that no other Open of this process uses.
func newStream() string { return fmt.Sprintf("S%06d", streams.Add(1)) }

// payload is the data of the n-th record that a test appends: recognisable,
// and of a size that depends on n.
func payload(n uint64, size int) []byte {
	b := make([]byte, 8+size)
	binary.BigEndian.PutUint64(b, n)
	for i := range size {
		b[8+i] = byte(n>>(i%8) + uint64(i)*7)
	}
	return b
}

func testOptions(tb tester, dir string) Options {
	tb.Helper()
	return Options{
		Dir: dir, CommitInterval: 20 * time.Millisecond, SegmentSize: 64 << 10, TailBytes: 4 << 20,
		Uplinks: []string{"a"}, Stream: newStream(),
	}
}

func openBuffer(tb tester, o Options) *Buffer {
	tb.Helper()
	if o.SharedMemory == "" {
		o.SharedMemory = os.Getenv(sharedVar)
	}
	b, err := Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := b.PutSchema(1, []byte("schema one")); err != nil {
		tb.Fatal(err)
	}
	return b
}

func closeBuffer(tb tester, b *Buffer) {
	tb.Helper()
	if err := b.Close(); err != nil {
		tb.Error(err)
	}
}

func appendN(tb tester, b *Buffer, n, size int) (last uint64) {
	tb.Helper()
	for i := range n {
		seq, err := b.Append(Record{Time: 1_795_000_000_000 + int64(i), Schema: 1, Readings: 3, Data: payload(uint64(i), size)})
		if err != nil {
			tb.Fatal(err)
		}
		last = seq
	}
	return last
}

func waitFor(tb tester, what string, cond func() bool) {
	tb.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			tb.Fatalf("waited in vain for: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// item is what a receiver got.
type item struct {
	stream   string
	from, to uint64 // equal for a record
	readings uint64
	gap      string // its reason; "": a record
	data     string
}

// receiver is a Publisher that keeps what it got. Acknowledgements go out as
// it is told.
type receiver struct {
	mu     sync.Mutex
	items  []item
	tokens []uint64 // received in this session and not acknowledged
	acked  func(uint64)
	lost   chan struct{}
	refuse bool // Connect fails
	hold   bool // acknowledgements wait
	window int  // in flight at most; 0: no limit
	room   chan struct{}
	count  int
	ackQ   chan func()
	acker  sync.WaitGroup
	bare   bool // keeps nothing
}

var errRefused = errors.New("refused")

// link is the Publisher of a receiver.
type link struct{ *receiver }

func (l link) Connect(_ context.Context, acked func(uint64)) (<-chan struct{}, error) {
	r := l.receiver
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse {
		return nil, errRefused
	}
	r.acked, r.lost, r.tokens = acked, make(chan struct{}), nil
	r.room = make(chan struct{}, 1)
	r.ackQ = make(chan func(), 1<<16)
	q := r.ackQ
	r.acker.Go(func() {
		for f := range q {
			f()
		}
	})
	return r.lost, nil
}

func (r *receiver) take(ctx context.Context, token uint64, it item) error {
	for {
		r.mu.Lock()
		select {
		case <-r.lost:
			r.mu.Unlock()
			return errLost
		default:
		}
		if r.window == 0 || len(r.tokens) < r.window {
			break
		}
		room := r.room
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-room:
		}
	}
	defer r.mu.Unlock()
	r.count++
	if !r.bare {
		r.items = append(r.items, it)
	}
	r.tokens = append(r.tokens, token)
	if !r.hold {
		r.ackLocked(len(r.tokens))
	}
	return nil
}

// ackLocked acknowledges the first n of what is in flight.
func (r *receiver) ackLocked(n int) {
	n = min(n, len(r.tokens))
	if n == 0 {
		return
	}
	token, acked := r.tokens[n-1], r.acked
	r.tokens = append(r.tokens[:0], r.tokens[n:]...)
	r.ackQ <- func() { acked(token) }
	select {
	case r.room <- struct{}{}:
	default:
	}
}

func (r *receiver) ack(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ackLocked(n)
}

func (r *receiver) Send(ctx context.Context, token uint64, rec Record) error {
	it := item{stream: rec.Stream, from: rec.Seq, to: rec.Seq, readings: uint64(rec.Readings)}
	if !r.bare {
		it.data = string(rec.Data)
	}
	return r.take(ctx, token, it)
}

func (r *receiver) SendGap(ctx context.Context, token uint64, g Gap) error {
	return r.take(ctx, token, item{stream: g.Stream, from: g.From, to: g.To, readings: g.Readings, gap: g.Reason})
}

func (r *receiver) Disconnect() {
	r.mu.Lock()
	r.drop()
	close(r.ackQ)
	r.tokens = nil
	r.mu.Unlock()
	r.acker.Wait()
}

func (r *receiver) drop() {
	select {
	case <-r.lost:
	default:
		close(r.lost)
	}
}

// cut ends the session from the far side.
func (r *receiver) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost != nil {
		r.drop()
	}
}

func (r *receiver) set(f func(r *receiver)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

func (r *receiver) got() []item {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]item(nil), r.items...)
}

func (r *receiver) total() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// forward runs Forward until the returned stop is called.
func forward(tb tester, b *Buffer, name string, r *receiver) (stop func()) {
	tb.Helper()
	return forwardAs(tb, b, name, r, ForwardOptions{})
}

func forwardAs(tb tester, b *Buffer, name string, r *receiver, o ForwardOptions) (stop func()) {
	tb.Helper()
	o.MinBackoff, o.MaxBackoff = time.Millisecond, 5*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		err := b.Forward(ctx, name, link{r}, o)
		if err != nil && !errors.Is(err, ErrUnknownUplink) && !errors.Is(err, ErrClosed) {
			tb.Error(err)
		}
	})
	once := sync.Once{}
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	tb.Cleanup(stop)
	return stop
}

// account checks what one uplink got of a stream from..to: everything once
// at least, as a record or in a gap; first deliveries in order; no gap over
// what was delivered before; contents right.
func account(tb tester, items []item, stream string, from, to uint64) (gaps int) {
	tb.Helper()
	next := from
	for i, it := range items {
		if it.stream != stream {
			continue
		}
		if it.gap != "" {
			gaps++
		}
		if it.from > next {
			tb.Fatalf("item %d jumps from %d to %d..%d %q", i, next, it.from, it.to, it.gap)
		}
		next = max(next, it.to+1)
	}
	if next != to+1 {
		tb.Fatalf("stream %s: got all up to %d, want %d", stream, next-1, to)
	}
	return gaps
}

// tempDir is t.TempDir for a rapid.T, which has none.
func tempDir(tb tester) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "millrace-buffer-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// randomPayload is a payload that nothing compresses.
func randomPayload(n uint64, size int) []byte {
	b := payload(n, size)
	for i := 8; i < len(b); i++ {
		b[i] = byte(rand.Uint32())
	}
	return b
}
