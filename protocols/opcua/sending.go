package opcua

import (
	"context"
	"sync"
)

// sending lets one request after another be sent, not at once. When gopcua
// renews a security token, in a goroutine of its own, SecureChannel.renew
// waits on a sync.WaitGroup for the requests that are being sent. One that is
// counted in while the last of the others is counted out makes that wait
// panic ("WaitGroup is reused before previous Wait has returned"), which ends
// the program. With one at a time it cannot: the next one finds the channel
// locked for the renewal before it is counted.
type sending struct{ turn sync.Mutex }

// send has call send a request, and returns what it does. Others are let in
// when the request is on its way, although call goes on to wait for the answer.
func (s *sending) send(ctx context.Context, call func(ctx context.Context) error) error {
	s.turn.Lock()
	phase := &sendPhase{Context: ctx, over: s.turn.Unlock}
	defer phase.end()
	return call(phase)
}

// sendPhase knows when a request has been sent: SendRequestWithTimeout asks
// for Done before it writes each of the message's chunks, and once more when
// it has counted the request out and begins to wait. Of a message of several
// chunks the end is not known, and the second of them passes for it; such
// ones are sent when a session begins, and not when a token is renewed.
type sendPhase struct {
	context.Context //nolint:containedctx // it is one

	asked int
	over  func() // nil: it is
}

func (p *sendPhase) Done() <-chan struct{} {
	if p.asked++; p.asked > 1 {
		p.end()
	}
	return p.Context.Done()
}

func (p *sendPhase) end() {
	if p.over != nil {
		p.over()
		p.over = nil
	}
}
