package mqtt

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"
)

// A broker that will not take a message (it is too large, or its topic is not
// allowed) closes the connection in MQTT 3.1.1, and says nothing. It would do
// so again and again, and the line would stand. So it is watched for a message
// that ends one session after the other; it is then sent alone, and if that
// ends sessions, too, it is set aside: a gap notice takes its place.
//
// A broker that is down, restarts, or a line that is cut must never look like
// that. So only sessions count in which the broker had acknowledged something
// before, closed the connection itself, within closeTime after the message was
// written and with nothing acknowledged after it, as often in a row as below.
const (
	// closeTime is how soon a broker closes on a message that it does not like.
	closeTime = 2 * time.Second
	// aloneAfter is after how many such sessions in a row the message is sent
	// alone: it may have been another one of the window.
	aloneAfter = 3
	// asideAfter is how many sessions in a row it has to end alone.
	asideAfter = 5
	// aloneFor is how many messages go one by one after that, as any one of
	// the window may be the one.
	aloneFor = 64
)

// ReasonRefused is the reason of the gap notice for a batch that the broker
// does not take.
const ReasonRefused = "refused"

// batchID is which batch a message holds.
type batchID struct {
	stream string
	seq    uint64
}

// poison watches the ends of an uplink's sessions.
type poison struct {
	mu      sync.Mutex
	suspect batchID
	ended   int // sessions in a row that it ended
	alone   int // of them, those in which it was alone
	careful int // batches that are still to be sent one by one
}

// closedByBroker says that the far side has closed the connection.
func closedByBroker(cause error) bool {
	return errors.Is(cause, io.EOF) || errors.Is(cause, io.ErrUnexpectedEOF) || errors.Is(cause, syscall.ECONNRESET) || errors.Is(cause, syscall.EPIPE)
}

// ended takes in how a session ended. It says, in words, that the broker does
// not seem to take a message; empty: nothing of the kind.
func (p *poison) sessionEnded(s *session) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := s.head
	if s.tookBatch {
		p.suspect, p.ended, p.alone = batchID{}, 0, 0
		return ""
	}
	if h == nil || !s.greeted || !closedByBroker(s.cause) || time.Since(h.written) > closeTime {
		return "" // it says nothing, for or against
	}
	if h.id != p.suspect {
		p.suspect, p.ended, p.alone = h.id, 0, 0
	}
	p.ended++
	if s.alone {
		p.alone++
	}
	if p.ended >= aloneAfter {
		p.careful = aloneFor
	}
	return fmt.Sprintf("the broker closes the connection each time after a message of %d bytes to %s: it may be too large for the broker, or not allowed (check the broker's message size limit, and its rights for this user); after %d more times it is set aside",
		len(h.body), h.topic, max(asideAfter-p.alone, 0)+max(aloneAfter-p.ended, 0))
}

// window returns how many messages a new session may have on their way.
func (p *poison) window(usual int) (n int, alone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.careful > 0 {
		return 1, true
	}
	return usual, false
}

// took notes that the broker has taken a batch. It says that the window may
// have its usual size again.
func (p *poison) took() (usual bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.careful > 0 {
		p.careful--
	}
	return p.careful == 0
}

// aside says that a batch is to be set aside, once.
func (p *poison) aside(id batchID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if id != p.suspect || p.alone < asideAfter {
		return false
	}
	p.suspect, p.ended, p.alone = batchID{}, 0, 0
	return true
}
