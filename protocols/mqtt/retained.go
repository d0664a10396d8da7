package mqtt

import (
	"maps"
	"slices"
	"sync"
)

// retained holds the newest body of each retained topic, so that every
// session can begin with all of them.
type retained struct {
	mu    sync.Mutex
	last  uint64 // version of the newest change
	items map[string]retainedItem
}

// retainedItem is what one topic has to hold.
type retainedItem struct {
	body    []byte // empty: the topic is to be cleared
	version uint64
}

func newRetained() *retained {
	return &retained{items: make(map[string]retainedItem)}
}

// set makes body what topic has to hold, and returns its version. It keeps body.
func (r *retained) set(topic string, body []byte) (version uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	r.items[topic] = retainedItem{body: body, version: r.last}
	return r.last
}

// cleared drops topic, which the broker has cleared, unless it was set since.
func (r *retained) cleared(topic string, version uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if item, ok := r.items[topic]; ok && item.version == version {
		delete(r.items, topic)
	}
}

// since returns, in order of topic, what was changed after the given
// version, but for what is to be left out, and the version to ask with next.
func (r *retained) since(version uint64, leaveOut func(topic string) bool) (messages []*message, next uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == version {
		return nil, version
	}
	for _, topic := range slices.Sorted(maps.Keys(r.items)) {
		if item := r.items[topic]; item.version > version && !leaveOut(topic) {
			messages = append(messages, &message{kind: kindRetained, topic: topic, body: item.body, version: item.version})
		}
	}
	return messages, r.last
}
