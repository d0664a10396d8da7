package buffer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"millrace/buffer/internal/pace"
)

const (
	defaultMinBackoff = time.Second
	defaultMaxBackoff = time.Minute
	// ackPatience is how long a forwarder that ends waits for the
	// acknowledgements of what is in flight.
	ackPatience = time.Second
	rescuePause = 200 * time.Millisecond
	// refusedBackoff is how long the wait may get where the far side answers
	// and says no.
	refusedBackoff = time.Minute
)

// refusal is an error of Connect that says whether the far side has answered,
// and said no.
type refusal interface {
	error
	Refusal() bool
}

// refuser is a Publisher that says whether the far side ends the sessions
// because it does not take what it is sent, time after time.
type refuser interface{ Refused() bool }

// refused says that the far side answers, and says no.
func refused(p Publisher, err error) bool {
	if r := refusal(nil); errors.As(err, &r) && r.Refusal() {
		return true
	}
	r, ok := p.(refuser)
	return ok && r.Refused()
}

// ForwardOptions of one Forward. The zero value works.
type ForwardOptions struct {
	// CatchUp is the order of what waited, Rate its bound.
	CatchUp CatchUp
	Rate    Rate
	// Window is how many messages the Publisher has on their way at most;
	// LiveFirst leaves a part of it to new records. 0: 64.
	Window int
	// MinBackoff and MaxBackoff bound the wait before the next attempt to
	// connect; it doubles with each failure. 0: 1 s and 1 min.
	MinBackoff, MaxBackoff time.Duration
	// Rand returns a number in [0, 1) by which the wait is spread between its
	// half and its whole; nil: from math/rand/v2.
	Rand func() float64
	// OnState, if not nil, is told of every change of the connection, by the
	// goroutine of Forward.
	OnState func(ForwardState)
	// OnAcked, if not nil, is told of each item that the far side has taken for
	// good, once and in order, by its token. was is the reason with which
	// Options.Dropped was told of it before: it was on its way, and has arrived;
	// empty: it was not. It must not wait, nor call the buffer.
	OnAcked func(token uint64, was string)
}

// ForwardState is the state of an uplink's connection.
type ForwardState struct {
	Connected bool
	Err       error         // why it is not connected; nil at the end
	Retry     time.Duration // when the next attempt is made
}

func (o *ForwardOptions) fill() {
	if o.MinBackoff <= 0 {
		o.MinBackoff = defaultMinBackoff
	}
	if o.MaxBackoff < o.MinBackoff {
		o.MaxBackoff = max(defaultMaxBackoff, o.MinBackoff)
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.OnState == nil {
		o.OnState = func(ForwardState) {}
	}
}

var (
	// errLost: the session ended.
	errLost = errors.New("the connection was lost")
	// errLate: there was no room for a live record while it was one.
	errLate = errors.New("too late to be live")
	// errStale: the uplink's place was moved.
	errStale = errors.New("the buffer's disk is there now; what waits on it goes out first")
)

// Forward hands the records and gap notices of one uplink to p, in order (with
// LiveFirst: in order among those that waited and among the others), until ctx ends, the buffer is closed, or the uplink is removed
// (ErrUnknownUplink). It connects, sends, and takes the acknowledgements; when
// the session is lost it connects anew, ever more slowly, and begins with the
// first item that was not acknowledged. Nothing else moves the uplink's
// place. One Forward per uplink runs at a time. When it is to end it waits
// at most 1 s for the acknowledgements of what is in flight.
func (b *Buffer) Forward(ctx context.Context, name string, p Publisher, o ForwardOptions) error {
	o.fill()
	u, err := b.claim(name)
	if err != nil {
		return err
	}
	defer b.active.Done()
	defer b.unclaim(u)
	// Close ends the forwarders, too.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-b.done:
			cancel()
		case <-ctx.Done():
		}
	}()

	b.mu.Lock()
	u.catchUp(&o)
	u.onAcked = o.OnAcked
	b.mu.Unlock()
	f := &forwarder{b: b, u: u, p: p, o: o}
	defer f.close()
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		acked := u.ackedCount(b)
		err := f.session(ctx)
		if errors.Is(err, ErrUnknownUplink) || ctx.Err() != nil {
			o.OnState(ForwardState{})
			if errors.Is(err, ErrUnknownUplink) {
				return err
			}
			break
		}
		if u.ackedCount(b) > acked {
			backoff = 0 // it worked for a while
		}
		most := o.MaxBackoff
		if refused(p, err) {
			most = max(most, refusedBackoff)
		}
		backoff = min(max(2*backoff, o.MinBackoff), most)
		wait := backoff/2 + time.Duration(o.Rand()*float64(backoff/2))
		o.OnState(ForwardState{Err: err, Retry: wait})
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

func (b *Buffer) claim(name string) (*uplink, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.uplinks[name]
	switch {
	case b.closed:
		return nil, ErrClosed
	case u == nil:
		return nil, fmt.Errorf("%w %q", ErrUnknownUplink, name)
	case u.claimed:
		return nil, fmt.Errorf("uplink %q is being forwarded already", name)
	}
	u.claimed = true
	b.active.Add(1)
	return u, nil
}

func (b *Buffer) unclaim(u *uplink) {
	b.mu.Lock()
	defer b.mu.Unlock()
	u.claimed = false
}

func (u *uplink) ackedCount(b *Buffer) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return u.acked
}

// forwarder is one run of Forward.
type forwarder struct {
	b *Buffer
	u *uplink
	p Publisher
	o ForwardOptions

	backlog, live batch // of the two lanes
}

func (f *forwarder) close() {
	for _, bt := range []*batch{&f.backlog, &f.live} {
		if bt.decoder != nil {
			bt.decoder.close()
		}
	}
}

// session connects and sends until the session is lost or ctx ends.
func (f *forwarder) session(ctx context.Context) error {
	b, u := f.b, f.u
	over := &atomic.Bool{}
	b.mu.Lock()
	base := u.token // acknowledgements of earlier sessions mean nothing
	u.rewind()
	u.stale = false
	b.mu.Unlock()
	f.backlog.reset(0)
	f.live.reset(0)
	lost, err := f.p.Connect(ctx, func(token uint64) {
		if token > base && !over.Load() {
			b.land(u, token)
		}
	})
	if err != nil {
		return err
	}
	defer f.p.Disconnect()
	defer over.Store(true)
	f.setConnected(true)
	defer f.setConnected(false)

	// A Send that waits for room in the window ends with the session.
	sctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-lost:
			cancel(errLost)
		case <-sctx.Done():
		}
	}()
	err = f.pump(sctx)
	if ctx.Err() != nil {
		f.awaitAcks(lost)
		return ctx.Err()
	}
	if cause := context.Cause(sctx); cause != nil {
		return cause
	}
	return err
}

func (f *forwarder) setConnected(on bool) {
	f.b.mu.Lock()
	f.u.connected = on
	f.u.acks.Reset(f.b.clock(), f.u.acked)
	f.b.mu.Unlock()
	if on {
		f.o.OnState(ForwardState{Connected: true})
	}
}

// pump sends what there is, and waits for more.
func (f *forwarder) pump(ctx context.Context) error {
	for {
		t, err := f.b.next(f.u, &f.backlog, &f.live)
		if err != nil {
			f.b.log.Warn("the buffer cannot be read; trying again", "uplink", f.u.name, "err", err)
			t = turn{step: stepWait, wait: rescuePause}
		}
		switch t.step {
		case stepRecords:
			err = f.sendBatch(ctx, t.live)
		case stepOne:
			err = f.send(ctx, &f.backlog, t)
		case stepGap:
			err = f.sendGap(ctx, t)
		case stepWait:
			f.wait(ctx, t.wait)
			err = nil
		case stepGone:
			return fmt.Errorf("%w %q: it was removed", ErrUnknownUplink, f.u.name)
		case stepStale:
			return errStale
		case stepAgain:
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// wait returns when there may be something to do.
func (f *forwarder) wait(ctx context.Context, d time.Duration) {
	if d == pace.Wait {
		select {
		case <-ctx.Done():
		case <-f.u.notify:
		}
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-f.u.notify:
	case <-timer.C:
	}
}

// sendBatch sends all that is in the lane's batch.
func (f *forwarder) sendBatch(ctx context.Context, live bool) error {
	bt := &f.backlog
	if live {
		bt = &f.live
	}
	for bt.at < len(bt.recs) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.send(ctx, bt, turn{live: live}); err != nil {
			return err
		}
	}
	return nil
}

// send sends the next record of the batch, as t says.
func (f *forwarder) send(ctx context.Context, bt *batch, t turn) error {
	r := bt.recs[bt.at]
	plain := f.b.date(bt, &r)
	if t.live {
		left := f.b.timely(&r)
		if left < 0 {
			bt.reset(0) // the lane jumps
			return nil
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, left, errLate)
		defer cancel()
	}
	token, err := f.b.launch(f.u, flight{at: place{bt.ord, r.Seq}, time: plain, readings: r.Readings, live: t.live, paced: t.paced})
	if err != nil {
		return err
	}
	if err := f.p.Send(ctx, token, r); err != nil {
		f.b.recall(f.u, token)
		if t.live && errors.Is(context.Cause(ctx), errLate) {
			bt.reset(0)
			return nil
		}
		return err
	}
	bt.at++
	return nil
}

func (f *forwarder) sendGap(ctx context.Context, t turn) error {
	f.b.mu.Lock()
	u, g := f.u, t.gap
	if u.stale {
		f.b.mu.Unlock()
		return errStale
	}
	l := u.backlogLane()
	if t.live {
		l = u.liveLane()
	}
	if u.removed || u.nextGap(&l) != g {
		f.b.mu.Unlock()
		return nil
	}
	v := u.view(g, &l)
	g.flying = true
	token := u.launch(flight{at: g.end(), time: v.Oldest, gap: g, live: t.live})
	v.Oldest, v.Newest = f.b.clocks.wall(g.ord, v.Oldest), f.b.clocks.wall(g.ord, v.Newest)
	f.b.mu.Unlock()
	if err := f.p.SendGap(ctx, token, v); err != nil {
		f.b.recall(u, token)
		return err
	}
	return nil
}

func (b *Buffer) launch(u *uplink, f flight) (token uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u.stale {
		return 0, errStale
	}
	if f.paced {
		f.sent = b.clock()
	}
	return u.launch(f), nil
}

func (b *Buffer) recall(u *uplink, token uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	u.recall(token)
}

// land takes an acknowledgement.
func (b *Buffer) land(u *uplink, token uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u.removed || !u.land(token, b.clock()) {
		return
	}
	b.sharePlace(u) // before what it acknowledged is gone
	b.shareGaps()
	b.release()
	if len(u.flying()) == 0 && u.ending {
		u.waiting = true
		u.wake()
	}
	if u.wantsAck {
		u.wake()
	}
	if b.arming || !b.matters(u) && !u.gapsDirty {
		return
	}
	b.arming = true
	b.kickWriter()
}

// awaitAcks gives what is in flight some time.
func (f *forwarder) awaitAcks(lost <-chan struct{}) {
	timer := time.NewTimer(f.b.patience)
	defer timer.Stop()
	for {
		f.b.mu.Lock()
		f.u.ending = len(f.u.flying()) > 0
		ending := f.u.ending
		f.b.mu.Unlock()
		if !ending {
			return
		}
		select {
		case <-f.u.notify:
		case <-lost:
			return
		case <-timer.C:
			return
		}
	}
}
