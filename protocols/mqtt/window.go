package mqtt

import (
	"context"
	"sync"
)

// window bounds what is in flight: sent, or about to be, and not yet
// acknowledged.
type window struct {
	maxMessages, maxBytes int
	room                  chan struct{} // holds a token when there may be room

	mu              sync.Mutex
	messages, bytes int
}

func newWindow(maxMessages, maxBytes int) *window {
	return &window{maxMessages: maxMessages, maxBytes: maxBytes, room: make(chan struct{}, 1)}
}

// enter takes the place of one message, waiting for it until ctx ends or
// done is closed. The message's size is added with grow once it is known, so
// the bytes in flight may pass their bound by one message: that way, one
// that is larger than the bound goes through as well.
func (w *window) enter(ctx context.Context, done <-chan struct{}) error {
	for !w.tryEnter() {
		select {
		case <-w.room:
		case <-done:
			return errSessionOver
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (w *window) tryEnter() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.messages >= w.maxMessages || w.bytes >= w.maxBytes {
		return false
	}
	w.messages++
	w.signal()
	return true
}

func (w *window) grow(bytes int) {
	w.mu.Lock()
	w.bytes += bytes
	w.mu.Unlock()
}

// widen sets how many messages it admits.
func (w *window) widen(maxMessages int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.maxMessages = maxMessages
	w.signal()
}

// leave gives back the place of one message.
func (w *window) leave(bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.messages--
	w.bytes -= bytes
	w.signal()
}

// signal wakes one that waits, if there is room. It is called with mu held.
func (w *window) signal() {
	if w.messages >= w.maxMessages || w.bytes >= w.maxBytes {
		return
	}
	select {
	case w.room <- struct{}{}:
	default:
	}
}

// load returns what is in flight.
func (w *window) load() (messages, bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.messages, w.bytes
}
