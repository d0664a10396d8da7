package mqtt

import "sync"

// queue holds what is to be published, in order. It takes everything at once:
// the in-flight window bounds the batches in it, and of births there are as
// many as there are devices.
type queue struct {
	ready chan struct{} // holds a token when there may be something

	mu    sync.Mutex
	items []*message
	first int // of items; those before it were taken
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

func (q *queue) push(m *message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, m)
	q.signal()
}

// signal says that there is something. It is called with mu held.
func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// pop returns the next message after a token of ready; nil: there is none. If
// there are more, ready holds a token again.
func (q *queue) pop() *message {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return nil
	}
	m := q.items[q.first]
	q.items[q.first] = nil
	q.first++
	if q.first == len(q.items) {
		q.items, q.first = q.items[:0], 0
		return m
	}
	q.signal()
	return m
}
