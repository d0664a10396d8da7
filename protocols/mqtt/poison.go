package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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
// that. A cut looks like a broker that closes, and on a long line it often
// comes between a message and its acknowledgement. So a message is tested: it
// is held back for a time that is long against the way to the broker, and of
// no fixed length; a ping shows that the line still works; then it is sent.
// Only if the end of the session follows at once, test after test, is it the
// message. If the line breaks while it is held back, the line is to blame, and
// all suspicion ends.
const (
	// closeTime is how soon a broker closes on a message that it does not like,
	// beside the way there and back.
	closeTime = 2 * time.Second
	// aloneAfter is after how many sessions in a row that seem to end with a
	// message it is tested: it may have been another one of the window.
	aloneAfter = 3
	// asideAfter is how many tests in a row it has to fail.
	asideAfter = 5
	// asideKin is the same for one that is like the one set aside before it.
	asideKin = 3
	// patientUpTo bounds how often the number of tests doubles while the broker
	// takes no batch at all.
	patientUpTo = 6
	// aloneFor is how many batches go one by one after a suspicion, as any one
	// of the window may be the one.
	aloneFor = 64
	// A message is held back for holdRoundTrips of the line or holdLeast, and
	// up to twice that; for holdMost at the most.
	holdRoundTrips = 20
	holdLeast      = 250 * time.Millisecond
	holdMost       = time.Minute
	maxSuspects    = 16
	// holdPoll is how often it is looked whether the ping was answered.
	holdPoll = 5 * time.Millisecond
	// stuckAfter is how many sessions in a row have to end with the same message
	// that is no batch before the broker counts as one that refuses.
	stuckAfter = 8
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
	mu    sync.Mutex
	ended int    // sessions in a row that seem to have ended with one message
	last  waited // what the last of them ended with

	careful int // batches that are still to be sent one by one
	sole    struct {
		s  *session
		id batchID // that was sent in it, alone, and is not acknowledged
	}

	suspects map[batchID]suspect // at most maxSuspects
	held     *session            // in which one is held back, or was
	tested   bool                // it was sent after that

	row      int    // batches set aside since the broker last took one
	kinTopic string // what the last one was like; empty: one of this topic was taken since
	kinSize  int    // 0: one as large was taken since

	stuckTopic string // of the message, not a batch, that the last sessions ended with
	stuck      int    // how many they were
}

// suspect is a batch that sessions ended with. There may be several: live ones
// and those of the backlog go beside each other.
type suspect struct {
	topic  string // of its message
	size   int    // of its body
	failed int    // tests in a row that it has failed
}

// waited is what an acknowledgement was due of when a session ended.
type waited struct {
	id    batchID // of a batch
	topic string
}

// closedByBroker says that the far side has closed the connection.
func closedByBroker(cause error) bool {
	return errors.Is(cause, io.EOF) || errors.Is(cause, io.ErrUnexpectedEOF) || errors.Is(cause, syscall.ECONNRESET) || errors.Is(cause, syscall.EPIPE)
}

// sessionEnded takes in how a session ended. It says, in words, that the
// broker does not seem to take a message; empty: nothing of the kind.
func (p *poison) sessionEnded(s *session) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	held, tested := p.held == s, p.held == s && p.tested
	p.held, p.tested = nil, false
	if held && !tested {
		p.clear()
		p.careful = 0
		return ""
	}
	m := s.waited
	if m == nil || !closedByBroker(s.cause) || time.Since(m.written) > closeTime+s.roundTrip {
		p.stuck = 0
		return "" // of a batch it says nothing, for or against
	}
	if s.alone {
		return p.endedAlone(s, m, tested)
	}
	now := waited{m.id, m.topic}
	if now != p.last && s.tookBatch {
		p.ended = 0 // it went on
	}
	p.last = now
	p.ended++
	var x suspect
	if m.kind == kindBatch {
		x = p.suspectIs(m.id, m, false)
	}
	if p.ended < aloneAfter && !p.kin(x) {
		return ""
	}
	p.careful = aloneFor
	if x.topic == "" {
		return "" // a birth, say: what came behind it may be the one
	}
	return p.words(x)
}

// endedAlone takes in the end of a session in which each batch was sent alone,
// and after everything else was acknowledged. What m waited for may be a birth
// that belongs to the batch.
func (p *poison) endedAlone(s *session, m *message, tested bool) string {
	if p.sole.s != s || p.sole.id == (batchID{}) {
		return p.stuckOn(m.topic)
	}
	p.stuck = 0
	p.ended++
	p.careful = aloneFor
	return p.words(p.suspectIs(p.sole.id, m, tested))
}

// suspectIs notes that a session ended with a batch, and m was waited for.
func (p *poison) suspectIs(id batchID, m *message, tested bool) suspect {
	x := p.suspects[id]
	if x.topic == "" || m.kind == kindBatch {
		x.topic, x.size = m.topic, len(m.body)
	}
	if tested {
		x.failed++
	}
	if p.suspects == nil || len(p.suspects) >= maxSuspects {
		p.suspects = map[batchID]suspect{}
	}
	p.suspects[id] = x
	return x
}

// words say what the broker does. It is called with mu held.
func (p *poison) words(x suspect) string {
	what := fmt.Sprintf("the broker closes the connection each time after a message of %d bytes to %s: it may be too large for the broker, or not allowed (check the broker's message size limit, and its rights for this user)", x.size, x.topic)
	if p.row > 0 {
		return what + "; the broker has taken no batch since it refused another one, so the data waits in the buffer"
	}
	return what + "; if that goes on, it is set aside" // the same words each time: the log has them once
}

// stuckOn notes that a session ended with a message that is no batch, which
// cannot be left out.
func (p *poison) stuckOn(topic string) string {
	if topic != p.stuckTopic {
		p.stuckTopic, p.stuck = topic, 0
	}
	p.stuck++
	if p.stuck < aloneAfter {
		return ""
	}
	return fmt.Sprintf("the broker closes the connection each time after a message to %s: it may not be allowed, or too large (check the broker's rights for this user, and its message size limit)", topic)
}

// clear ends all suspicion.
func (p *poison) clear() {
	p.suspects, p.ended = nil, 0
}

// kin says that x is like the batch that was set aside last: of the
// same topic, or as large.
func (p *poison) kin(x suspect) bool {
	return p.row == 0 && (x.topic == p.kinTopic && x.topic != "" || p.kinSize > 0 && x.size >= p.kinSize)
}

// need is how many tests x has to fail. While the broker takes no
// batch at all, each one has to fail twice as many as the one before it: it is
// then rather the broker's settings that are wrong, and mended some day.
func (p *poison) need(x suspect) int {
	if p.kin(x) {
		return asideKin
	}
	return asideAfter << min(p.row, patientUpTo)
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
func (p *poison) took(m *message) (usual bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.row, p.stuck = 0, 0
	p.sole.id = batchID{}
	if _, suspected := p.suspects[m.id]; suspected {
		p.held, p.tested, p.ended = nil, false, 0
		delete(p.suspects, m.id)
	}
	if m.topic == p.kinTopic {
		p.kinTopic = ""
	}
	if len(m.body) >= p.kinSize {
		p.kinSize = 0
	}
	if p.careful > 0 {
		p.careful--
	}
	return p.careful == 0
}

// passed notes that a message which is no batch, or was not sent, has had its
// turn.
func (p *poison) passed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sole.id = batchID{}
}

// hold returns when a batch, which has its place in the window, is to be sent:
// at once, unless each is sent alone, or this one is tested.
func (p *poison) hold(ctx context.Context, s *session, id batchID) error {
	p.mu.Lock()
	careful := p.careful > 0
	_, test := p.suspects[id]
	if test = test && careful; test {
		p.held, p.tested = s, false
	}
	p.mu.Unlock()
	if !careful {
		return nil
	}
	err := s.settled(ctx)
	if err == nil && test {
		err = s.quiet(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		if ctx.Err() != nil && p.held == s {
			p.held = nil // it was called back
		}
		return err
	}
	p.tested = test && p.held == s
	p.sole.s, p.sole.id = s, id
	return nil
}

// settled returns when all that was sent is acknowledged.
func (s *session) settled(ctx context.Context) error {
	return s.until(ctx, func() bool { return s.due.Load() == 0 })
}

// until waits until yes says so, which it looks for now and then.
func (s *session) until(ctx context.Context, yes func() bool) error {
	if yes() {
		return nil
	}
	ticker := time.NewTicker(holdPoll)
	defer ticker.Stop()
	for !yes() {
		select {
		case <-ticker.C:
		case <-s.done:
			return errSessionOver
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// quiet returns when nothing was sent for a while on a line that works.
func (s *session) quiet(ctx context.Context) error {
	select {
	case <-s.calm:
	case <-s.done:
		return errSessionOver
	case <-ctx.Done():
		return ctx.Err()
	}
	d := min(max(holdRoundTrips*s.roundTrip, holdLeast), holdMost/2)
	timer := time.NewTimer(d + rand.N(d)) //nolint:gosec // no fixed time, not a secret
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.done:
		return errSessionOver
	case <-ctx.Done():
		return ctx.Err()
	}
	n := s.conn.barrier()
	return s.until(ctx, func() bool { return s.pongs.Load() >= n })
}

// aside says that a batch is to be set aside, once.
func (p *poison) aside(id batchID) (x suspect, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x, suspected := p.suspects[id]
	if !suspected || x.failed < p.need(x) {
		return suspect{}, false
	}
	p.kinTopic, p.kinSize = x.topic, x.size
	p.row++
	p.ended = 0
	delete(p.suspects, id)
	return x, true
}

// refuses says that the broker is not likely to take soon what the last
// sessions ended with.
func (p *poison) refuses() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stuck >= stuckAfter || p.row > 0 && p.ended >= aloneAfter
}
