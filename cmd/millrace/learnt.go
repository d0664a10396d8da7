package main

import (
	"log/slog"
	"slices"
	"sync"

	"millrace/buffer"
)

// learnt keeps what the drivers have learnt of devices in the buffer's small
// state. It implements protocols.Memory: a bus must not wait for the disk, so
// a goroutine writes.
type learnt struct {
	buf *buffer.Buffer
	log *slog.Logger

	mu      sync.Mutex        // guards what follows
	waiting map[string][]byte // what is not written yet
	closed  bool

	more chan struct{} // holds one: there is something in waiting
	done chan struct{}
}

func newLearnt(buf *buffer.Buffer, log *slog.Logger) *learnt {
	l := &learnt{buf: buf, log: log, waiting: map[string][]byte{}, more: make(chan struct{}, 1), done: make(chan struct{})}
	go l.write()
	return l
}

// Get implements protocols.Memory.
func (l *learnt) Get(key string) []byte {
	l.mu.Lock()
	value, found := l.waiting[key]
	l.mu.Unlock()
	if found {
		return slices.Clone(value)
	}
	return l.buf.StateGet(key)
}

// Put implements protocols.Memory. What cannot be written is logged, and
// learnt again after the next start.
func (l *learnt) Put(key string, value []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return buffer.ErrClosed
	}
	l.waiting[key] = slices.Clone(value)
	select {
	case l.more <- struct{}{}:
	default:
	}
	return nil
}

// close writes what waits, and ends.
func (l *learnt) close() {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed = true
	l.mu.Unlock()
	close(l.more)
	<-l.done
}

func (l *learnt) write() {
	defer close(l.done)
	for range l.more {
		l.flush()
	}
	l.flush()
}

func (l *learnt) flush() {
	for {
		l.mu.Lock()
		var key string
		var value []byte
		for key, value = range l.waiting {
			break
		}
		none := len(l.waiting) == 0
		l.mu.Unlock()
		if none {
			return
		}
		if err := l.buf.StatePut(key, value); err != nil {
			l.log.Debug("what was learnt of a device could not be written", "error", err)
		}
		l.mu.Lock()
		if slices.Equal(l.waiting[key], value) {
			delete(l.waiting, key)
		}
		l.mu.Unlock()
	}
}
