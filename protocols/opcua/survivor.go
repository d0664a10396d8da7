package opcua

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uasc"

	"millrace/protocols"
)

// A connection that breaks leaves a survivor behind: the session and the
// subscriptions, which the server keeps for a while. The next connection goes
// on with them: the same session on another channel (Part 4, 5.7.3) or, if that
// is gone, another session that takes the subscriptions over (5.14.7). Then
// the messages are asked for that were on their way (5.14.6), and nothing is
// missing.

// bond is what ties a session to its server and to this gateway.
type bond struct {
	nonce   []byte // the server's newest; the next activation signs it
	cert    []byte // the server's
	policy  string
	mode    ua.MessageSecurityMode
	timeout time.Duration // how long the server keeps it without a request
	// started is when the server was started. After that its numbers of
	// sessions and subscriptions may be somebody else's.
	started time.Time
}

func newBond(e *ua.EndpointDescription, res *ua.CreateSessionResponse) bond {
	return bond{
		cert: e.ServerCertificate, policy: e.SecurityPolicyURI, mode: e.SecurityMode,
		timeout: time.Duration(res.RevisedSessionTimeout * float64(time.Millisecond)),
	}
}

// fits says whether a session of that bond may be gone on with at e. What was
// found out about the server's security holds for the same security only.
func (b *bond) fits(e *ua.EndpointDescription) bool {
	same := b.policy == e.SecurityPolicyURI && b.mode == e.SecurityMode && !b.started.IsZero()
	if e.SecurityMode == ua.MessageSecurityModeNone {
		return same
	}
	return same && sameLeaf(b.cert, e.ServerCertificate)
}

// survivor is what is left of a connection that broke.
type survivor struct {
	token      *ua.NodeID // of the session; nil: that is gone
	bond       bond
	limits     limits
	namespaces []string
	heard      time.Time // of the server, for the last time
	tries      int       // to go on with the session that ended with a broken connection

	subs  []*subscription
	acks  []*ua.SubscriptionAcknowledgement // that the server may not have got
	waste []uint32                          // subscriptions that nobody wants any more
}

// maxTries is how often a connection may break while a session is taken up
// again. A server that breaks it each time does not like that.
const maxTries = 3

// survive makes what is left of a session whose connection has been closed.
func (s *session) survive(before *survivor) *survivor {
	v := &survivor{token: s.token, bond: s.bond, limits: s.limits, namespaces: s.namespaces, heard: time.Now()}
	if before != nil {
		v.waste = before.waste
	}
	if s.pub != nil {
		s.pub.survive(v)
	}
	return v
}

// survive adds the subscriptions that may go on. The publisher has ended.
func (p *publisher) survive(v *survivor) {
	p.deliver.Lock()
	defer p.deliver.Unlock()
	v.heard = p.began.Add(time.Duration(p.heard.Load()))
	p.bus.unsent = append(p.bus.unsent, p.unsent...)
	p.unsent = nil
	for _, sub := range p.subscriptions() {
		if sub.dead.Load() {
			v.waste = append(v.waste, sub.id)
			p.abandon(sub)
			continue
		}
		v.subs = append(v.subs, sub)
	}
	v.acks = p.acks
}

// note takes in what a request ended with.
func (s *session) note(err error) {
	if err == nil {
		if s.broken.Load() {
			s.broken.Store(false)
		}
		return
	}
	if breaks(err) {
		s.broken.Store(true)
	}
}

// breaks says that an error is one of the connection or the session, not of
// what was asked.
func breaks(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, errMalformed) {
		return false
	}
	status, ok := errors.AsType[ua.StatusCode](err)
	if !ok {
		return true
	}
	switch status & symbolMask {
	case ua.StatusBadTimeout, ua.StatusBadSessionIDInvalid, ua.StatusBadSessionClosed, ua.StatusBadSessionNotActivated,
		ua.StatusBadSecureChannelIDInvalid, ua.StatusBadSecureChannelClosed, ua.StatusBadSecureChannelTokenUnknown, ua.StatusBadTCPSecureChannelUnknown,
		ua.StatusBadConnectionClosed, ua.StatusBadConnectionRejected, ua.StatusBadNotConnected, ua.StatusBadServerNotConnected,
		ua.StatusBadShutdown, ua.StatusBadServerHalted, ua.StatusBadCommunicationError, ua.StatusBadSecurityChecksFailed:
		return true
	}
	return false
}

// cut ends a connection that has broken, without logging out.
func (s *session) cut() {
	s.watch.stop()
	if s.pub != nil {
		s.pub.cancel()
	}
	if s.hist != nil {
		s.hist.stop()
	}
	s.ch.close()
	if s.pub != nil {
		s.pub.wait()
	}
}

// goOn takes up an old session on a new channel. It is false where there is
// none, or the server does not have it any more.
func (d *Driver) goOn(ctx context.Context, s *session, cfg *uasc.Config, e *ua.EndpointDescription, l login, conf *connConf, old *survivor) (bool, error) {
	if old == nil {
		return false, nil
	}
	if time.Since(old.heard) > old.bond.timeout || old.tries >= maxTries || !old.bond.fits(e) {
		old.token = nil
	}
	if old.token == nil {
		return false, nil
	}
	if e.SecurityMode != ua.MessageSecurityModeNone && !sameLeaf(cfg.RemoteCertificate, e.ServerCertificate) {
		return false, errUnproven // see login
	}
	s.token, s.bond = old.token, old.bond
	err := s.activate(ctx, e, cfg, old.bond.nonce, l, conf)
	if err == nil {
		var same bool
		if same, err = s.sameServer(ctx); same {
			s.limits, s.namespaces = old.limits, old.namespaces
			return true, nil
		}
	}
	s.token, s.bond = nil, bond{}
	if _, refused := errors.AsType[ua.StatusCode](err); err != nil && (!refused || errors.Is(err, ua.StatusBadTimeout)) {
		old.tries++
		return false, err
	}
	old.token = nil
	if refusesUser(err) {
		return false, err // a second try with the same name might lock it
	}
	return false, nil
}

func refusesUser(err error) bool {
	return errors.Is(err, ua.StatusBadUserAccessDenied) || errors.Is(err, ua.StatusBadIdentityTokenRejected) || errors.Is(err, ua.StatusBadIdentityTokenInvalid)
}

// sameServer says whether the server has been running all the time.
func (s *session) sameServer(ctx context.Context) (bool, error) {
	values, err := s.readStandard(ctx, id.Server_ServerStatus_StartTime)
	if err != nil {
		return false, err
	}
	return s.bond.started.Equal(timeOf(values[0])), nil
}

// timeOf is a DateTime; zero where it is not known.
func timeOf(dv *ua.DataValue) time.Time {
	if dv == nil || dv.Value == nil || isBad(dv.Status) {
		return time.Time{}
	}
	t, _ := dv.Value.Value().(time.Time)
	return t
}

// takeUp goes on with the subscriptions of a survivor in the new session. What
// cannot be gone on with, Subscribe makes anew.
func (b *bus) takeUp(ctx context.Context, s *session, old *survivor) {
	subs := slices.DeleteFunc(old.subs, func(sub *subscription) bool {
		return time.Since(old.heard) > sub.life
	})
	sameSession := old.token != nil && s.token == old.token
	if !sameSession {
		subs = s.transfer(ctx, old, subs)
	}
	p := newPublisher(b, s) //nolint:contextcheck // its goroutines live as long as the session
	p.acks = old.acks
	for _, sub := range subs {
		if p.catchUp(ctx, sub) {
			p.subs[sub.id] = sub
		}
	}
	for _, sub := range old.subs {
		if p.subs[sub.id] != sub {
			p.abandon(sub)
		}
	}
	p.unsent, b.unsent = b.unsent, nil
	if len(p.subs) == 0 && len(p.unsent) == 0 && len(old.waste) == 0 {
		return
	}
	if sameSession && len(old.waste) > 0 {
		// If that fails they end by themselves, as nobody asks for their messages.
		_, _ = call[*ua.DeleteSubscriptionsResponse](ctx, s, &ua.DeleteSubscriptionsRequest{SubscriptionIDs: old.waste})
	}
	b.log.Info("subscriptions go on after a break", slog.Int("subscriptions", len(p.subs)), slog.Int("of", len(old.subs)), slog.Bool("same_session", sameSession))
	s.pub = p
	for _, sub := range p.subs {
		sub.heard.Store(p.now())
		p.resumed = append(p.resumed, protocols.Report{Device: sub.dev, Time: b.driver.o.Now(), Resumed: slices.Clone(sub.tags)})
	}
	p.heard.Store(p.now())
	p.dirty.Store(true)
	p.start()
}

// transfer has the new session take subscriptions over from the old one, and
// returns those that it got.
func (s *session) transfer(ctx context.Context, old *survivor, subs []*subscription) []*subscription {
	if len(subs) == 0 || s.bond.started.IsZero() || !s.bond.started.Equal(old.bond.started) || s.bond.policy != old.bond.policy {
		return nil
	}
	req := &ua.TransferSubscriptionsRequest{}
	for _, sub := range subs {
		req.SubscriptionIDs = append(req.SubscriptionIDs, sub.id)
	}
	res, err := call[*ua.TransferSubscriptionsResponse](ctx, s, req)
	if err != nil || len(res.Results) != len(subs) {
		return nil
	}
	var got []*subscription
	for i, r := range res.Results {
		if r != nil && !isBad(r.StatusCode) {
			got = append(got, subs[i])
		}
	}
	return got
}

// catchUp asks for the messages of a subscription that were sent and never
// came. It is false if the server does not have the subscription.
func (p *publisher) catchUp(ctx context.Context, sub *subscription) bool {
	for n, left := sub.next, maxAhead; left > 0; n, left = following(n), left-1 {
		if sub.ahead[n] != nil {
			continue
		}
		m, err := p.fetch(ctx, sub, n)
		if m == nil {
			return !gone(err)
		}
		sub.ahead[n] = m
	}
	return true
}

// gone says that a subscription does not exist (any more).
func gone(err error) bool {
	return errors.Is(err, ua.StatusBadSubscriptionIDInvalid) || errors.Is(err, ua.StatusBadNoSubscription)
}

var errNotAvailable = errors.New("the server does not send messages again")

// fetch asks for one message again, and sees to it that it is acknowledged.
func (p *publisher) fetch(ctx context.Context, sub *subscription, n uint32) (*message, error) {
	if p.session == nil || p.noRepublish.Load() {
		return nil, errNotAvailable
	}
	res, err := call[*ua.RepublishResponse](ctx, p.session, &ua.RepublishRequest{SubscriptionID: sub.id, RetransmitSequenceNumber: n})
	if errors.Is(err, ua.StatusBadServiceUnsupported) || errors.Is(err, ua.StatusBadNotImplemented) || errors.Is(err, ua.StatusBadNotSupported) {
		p.noRepublish.Store(true)
	}
	if err != nil {
		return nil, err
	}
	if res.NotificationMessage == nil || res.NotificationMessage.SequenceNumber != n {
		return nil, errMalformed
	}
	p.acks = append(p.acks, &ua.SubscriptionAcknowledgement{SubscriptionID: sub.id, SequenceNumber: n})
	return &message{at: p.bus.driver.o.Now(), data: res.NotificationMessage.NotificationData}, nil
}

// abandon keeps what has arrived of a subscription that does not go on. The
// messages that it waited for are lost.
func (p *publisher) abandon(sub *subscription) {
	for _, n := range slices.SortedFunc(maps.Keys(sub.ahead), func(a, b uint32) int { return int(int32(a - b)) }) {
		if n != sub.next { // it is missed since the last value that was told
			p.bus.missed(sub, causeMessage)
			p.bus.stats.missing.Add(uint64(n - sub.next))
			sub.lost += uint64(n - sub.next)
		}
		sub.next = following(n)
		readings, _ := p.readings(sub, sub.ahead[n])
		p.noteTold(sub, readings, sub.ahead[n].at)
		for _, part := range split(readings) {
			p.bus.unsent = append(p.bus.unsent, protocols.Report{Device: sub.dev, Time: sub.ahead[n].at, Readings: part, Lost: sub.lost})
			sub.lost = 0
		}
	}
	clear(sub.ahead)
}

// begin hands over what a break left behind, before anything newer.
func (p *publisher) begin(ctx context.Context) {
	p.deliver.Lock()
	defer p.deliver.Unlock()
	waiting := slices.Concat(p.resumed, p.unsent)
	p.resumed, p.unsent = nil, nil
	for _, r := range waiting {
		p.send(ctx, r)
	}
	for _, sub := range p.subscriptions() {
		p.deliverNext(ctx, sub)
		if len(sub.ahead) > 0 || sub.behind() {
			p.waitFor(sub, noPublisher)
		}
	}
}

// subscriptions returns those there are.
func (p *publisher) subscriptions() []*subscription {
	p.making.Lock()
	defer p.making.Unlock()
	return slices.Collect(maps.Values(p.subs))
}
