package opcua

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// typeBook is what is known of a server's data types. It outlives sessions,
// as long as the server has not started anew in between. Its methods may be
// called by several goroutines.
type typeBook struct {
	symbols symbols
	log     *slog.Logger

	// learning is held while the server is asked.
	learning sync.Mutex
	types    map[nodeKey]*dataType // all that was asked for; of learning
	dicts    *dictionaries         // of learning; nil until a type needs one
	dictIDs  map[nodeKey]string    // the dictionaries that were read, and their namespaces
	nodes    map[string]*dataType  // by a tag's address; of learning

	mu     sync.RWMutex
	shapes map[nodeKey]*shape // by the NodeId of the binary encoding
	wanted []*ua.NodeID       // encodings that came and are not known
	unsure []*form            // tags whose data type is not known
	behind map[*form]struct{} // tags that have no value for want of a type
	asked  map[nodeKey]time.Time
	said   map[string][]string // by device: what cannot be decoded, in sentences; so that each is told once
	advice map[string][]string // by device: where the tag map differs from the server
	news   map[string]bool     // the devices that have something new in said or advice

	waiting  atomic.Bool // wanted or unsure is not empty
	doubtful atomic.Bool // a value was not of the type that the server had said
	made     time.Time
}

// The bounds of a typeBook.
const (
	maxTypes     = 20_000           // that are asked for
	maxWanted    = 100              // that wait to be asked for
	maxSaid      = 20               // sentences about one device
	askAgain     = 10 * time.Minute // what was not known is asked for again
	doubtForgive = 10 * time.Minute // how often a server may be asked for everything again
)

func newTypeBook(t symbols, log *slog.Logger) *typeBook {
	keepRaw(ua.NewNumericNodeID(0, decimalType))
	return &typeBook{
		symbols: t, log: log,
		types: make(map[nodeKey]*dataType), nodes: make(map[string]*dataType), dictIDs: make(map[nodeKey]string),
		shapes: make(map[nodeKey]*shape), asked: make(map[nodeKey]time.Time),
		said: make(map[string][]string), advice: make(map[string][]string), news: make(map[string]bool),
		behind: make(map[*form]struct{}), made: time.Now(),
	}
}

// shapeOf returns the layout of the bodies with an encoding; nil if it is not
// known.
func (b *typeBook) shapeOf(encoding nodeKey) *shape {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.shapes[encoding]
}

// want has an encoding looked up as soon as somebody has the time.
func (b *typeBook) want(encoding *ua.NodeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := keyOf(encoding)
	if at, ok := b.asked[key]; ok && time.Since(at) < askAgain || len(b.wanted) >= maxWanted {
		return
	}
	if len(b.asked) >= maxTypes {
		clear(b.asked)
	}
	b.asked[key] = time.Now()
	b.wanted = append(b.wanted, encoding)
	b.waiting.Store(true)
}

// await has a tag read again once the type of its value is known.
func (b *typeBook) await(f *form) {
	if f.dev == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.behind[f] = struct{}{}
}

// doubt notes that a value contradicts what the server had said of its type.
func (b *typeBook) doubt() { b.doubtful.Store(true) }

// stale says that it is time to ask the server for everything again.
func (b *typeBook) stale() bool { return b.doubtful.Load() && time.Since(b.made) > doubtForgive }

// laterForm is the form of a tag that was not there, or whose data type could
// not be read, when the others were.
type laterForm struct {
	spec  *protocols.Tag
	known atomic.Pointer[form]
	asked atomic.Int64 // when it was; 0: not yet, or in vain
}

// get returns the form if it is known by now, and has it looked up otherwise:
// a value has come, so there is a node.
func (l *laterForm) get(f *form) *form {
	if known := l.known.Load(); known != nil {
		return known
	}
	now := time.Now().UnixNano()
	if at := l.asked.Load(); (at == 0 || now-at > int64(askAgain)) && l.asked.CompareAndSwap(at, now) {
		f.book.mu.Lock()
		f.book.unsure = append(f.book.unsure, f)
		f.book.waiting.Store(true)
		f.book.mu.Unlock()
	}
	return nil
}

// explain tells, once for each device and sentence, why a tag has no value.
func (b *typeBook) explain(f *form, why protocols.Reason, words string) {
	if words == "" || f.dev == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if list := b.said[f.dev.ID]; len(list) < maxSaid && !slices.ContainsFunc(list, func(s string) bool { return hasSuffix(s, words) }) {
		text := fmt.Sprintf("%s (%s): %s", f.tag, nodeIDText(f.node), words)
		b.said[f.dev.ID] = append(list, text)
		b.news[f.dev.ID] = true
		b.log.Warn("a value cannot be used", slog.String("device", f.dev.ID), slog.String("tag", f.tag), slog.String("reason", string(why)), slog.String("why", words))
	}
}

func hasSuffix(s, end string) bool { return len(s) >= len(end) && s[len(s)-len(end):] == end }

// wordsFor returns what was said last of a tag of the device; empty: nothing.
func (b *typeBook) wordsFor(f *form) string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	begin := fmt.Sprintf("%s (%s): ", f.tag, nodeIDText(f.node))
	for _, s := range slices.Backward(b.said[f.dev.ID]) {
		if len(s) > len(begin) && s[:len(begin)] == begin {
			return s[len(begin):]
		}
	}
	return ""
}

// advise sets what the tag map of a device has wrong.
func (b *typeBook) advise(device, tag, sentence string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if list := b.advice[device]; len(list) < maxSaid && !slices.Contains(list, sentence) {
		b.advice[device] = append(list, sentence)
		b.news[device] = true
		b.log.Warn("the tag map differs from the server", slog.String("device", device), slog.String("tag", tag), slog.String("what", sentence))
	}
}

// sentences returns all there is to say about a device.
func (b *typeBook) sentences(device string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.news, device)
	return slices.Concat(b.advice[device], b.said[device])
}

// takeNews says the same, as if they had been returned now.
func (b *typeBook) takeNews(device string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	news := b.news[device]
	delete(b.news, device)
	return news
}

// learnt says whether there are new sentences about a device, since they were
// returned last.
func (b *typeBook) learnt(device string) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.news[device]
}
