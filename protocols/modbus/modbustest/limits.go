package modbustest

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Limits are what a cheap device or gateway cannot do, as a TCP server: with
// Modbus TCP and with RTU over TCP. The zero Limits are none.
type Limits struct {
	// MaxConns is how many connections there may be; further ones are closed
	// at once.
	MaxConns int
	// IdleClose closes connections on which no byte came for so long.
	IdleClose time.Duration
	// MinGap is how long after an answer the next request may come; sooner
	// ones are ignored.
	MinGap time.Duration
	// MaxAge is how long after its request an answer may be sent; later it is
	// forgotten. 0: at any time, which on a busy machine may be much later than
	// a Fault says. It holds on a Line, too.
	MaxAge time.Duration
	// MaxInflight is how many requests of one connection may wait for their
	// answers; those beyond are ignored.
	MaxInflight int
	// Strict closes the connection at a request that comes too soon, or is one
	// too many, instead of ignoring it.
	Strict bool
	// MaxAnswers is how many answers a connection gets; behind the last one it
	// is closed.
	MaxAnswers int
}

// errEnough ends a connection that has had all its answers.
var errEnough = errors.New("no more answers on this connection")

// answered counts an answer of the connection. The caller holds the lock.
func (se *session) answered() error {
	se.answers++
	if l := se.server.limits.Load(); l != nil && l.MaxAnswers > 0 && se.answers >= l.MaxAnswers {
		return errEnough
	}
	return nil
}

// SetLimits sets what s cannot do. Connections that there are go on;
// IdleClose holds for what they wait for after their next byte.
func (s *Server) SetLimits(l Limits) { s.limits.Store(&l) }

// tooOld says that an answer to a request that came then is forgotten.
func (s *Server) tooOld(came time.Time) bool {
	l := s.limits.Load()
	return l != nil && l.MaxAge > 0 && time.Since(came) > l.MaxAge
}

// noteSent counts an answer to a request that came then, if it is too old all
// the same: it waited for the line, or the processor, after it was made.
func (s *Server) noteSent(came time.Time) {
	if s.tooOld(came) {
		s.overdue.Add(1)
	}
}

// maxGap is how far apart the two copies of an answer that comes twice are, at
// the most: a device writes them one behind the other.
const maxGap = 3 * time.Millisecond

// noteGap counts the second copy of an answer, if it comes too late after the
// first: a busy machine may take its time between the two.
func (s *Server) noteGap(first time.Time, allowed time.Duration) {
	if l := s.limits.Load(); l != nil && l.MaxAge > 0 && time.Since(first) > allowed+maxGap {
		s.overdue.Add(1)
	}
}

// Overdue is how many answers were sent later than Limits.MaxAge allows, or
// twice with more between the two than a device would leave.
func (s *Server) Overdue() uint64 { return s.overdue.Load() }

// Refused is how many connections were closed at once by Limits.MaxConns.
// They do not count as accepted.
func (s *Server) Refused() uint64 { return s.refused.Load() }

// Ignored is how many requests were ignored because of the Limits. They do
// not count as the unit's.
func (s *Server) Ignored() uint64 { return s.ignored.Load() }

// AnswerTime is how long a unit takes to answer, on TCP connections.
type AnswerTime struct {
	Time time.Duration
	// Parallel is how many requests the unit works on at once, of all
	// connections; less than 1 is 1.
	Parallel int
	// Shuffled lets each answer take between nothing and twice the Time, at
	// random, and sends it as soon as it is there; else answers come in the
	// order of the requests of their connection.
	Shuffled bool
}

// SetAnswerTime makes u answer as slowly as a says; the zero AnswerTime is
// at once.
func (u *Unit) SetAnswerTime(a AnswerTime) {
	if a.Time <= 0 {
		u.pace.Store(nil)
		return
	}
	u.pace.Store(&pace{AnswerTime: a, slots: make(chan struct{}, max(a.Parallel, 1))})
}

// pace is an AnswerTime at work.
type pace struct {
	AnswerTime

	slots chan struct{} // holds one for each request that is worked on
}

// work takes the time that one answer takes, when its turn has come.
func (p *pace) work(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	d := p.Time
	if p.Shuffled {
		d = rand.N(2 * d)
	}
	return pause(ctx, d)
}
