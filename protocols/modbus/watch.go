package modbus

import (
	"context"
	"sync/atomic"
	"time"
)

type deadliner interface{ SetDeadline(t time.Time) error }

// watch ends what waits on a connection when a context ends. The connection
// must have been given by reset.
type watch struct {
	target deadliner

	release   func() bool // ends the watch over the context
	interrupt func()      // what the context's end calls
	// stopped says that the context has ended; interrupted then gets one
	// element when stop is through.
	stopped     atomic.Bool
	interrupted chan struct{}
}

// reset begins with a new connection.
func (w *watch) reset(conn deadliner) {
	if w.interrupted == nil {
		w.interrupted = make(chan struct{}, 1)
	}
	w.target = conn
	w.interrupt = func() {
		w.stopped.Store(true)
		_ = conn.SetDeadline(time.Unix(1, 0)) // fails only if conn is closed
		w.interrupted <- struct{}{}
	}
}

// begin watches ctx until end.
func (w *watch) begin(ctx context.Context) error {
	if ctx.Err() != nil { // AfterFunc would take a moment
		return errStopped
	}
	w.release = context.AfterFunc(ctx, w.interrupt)
	return nil
}

func (w *watch) end() {
	if !w.release() {
		<-w.interrupted // lest it hits the next scan
	}
	w.stopped.Store(false)
}

// deadline sets when reading and writing give up. It must come before the
// look at stopped: the interruption does the same in the other order, so one
// of the two is seen.
func (w *watch) deadline(at time.Time) error {
	if err := w.target.SetDeadline(at); err != nil {
		return err
	}
	if w.stopped.Load() {
		return errStopped
	}
	return nil
}
