package opcuatest

import (
	"maps"
	"time"

	"github.com/gopcua/opcua/ua"
)

// What outlives a connection: sessions up to their time-out, subscriptions up
// to their life-time, messages until they are acknowledged.

// attach puts a session on a connection (Part 4, 5.7.3). The PublishRequests
// of the one before are forgotten with it.
func (s *session) attach(c *client) {
	s.client, s.used, s.publish = c, time.Now(), nil
}

// detach notes that a connection has ended.
func (s *session) detach(c *client) {
	if s.client != c {
		return
	}
	s.client, s.used, s.publish = nil, time.Now(), nil
}

// leave ends a session whose time is up: its subscriptions wait for another
// session. The caller holds Server.subs.
func (s *session) leave() {
	maps.Copy(s.srv.orphans, s.subs)
	s.subs = make(map[uint32]*subscription)
	delete(s.srv.sessions, s.id)
}

// close ends a session with its subscriptions. No lock may be held.
func (s *session) close(deleteSubscriptions bool) {
	s.srv.subs.Lock()
	if !deleteSubscriptions {
		s.leave()
	}
	s.subs = make(map[uint32]*subscription)
	s.publish = nil
	delete(s.srv.sessions, s.id)
	s.srv.subs.Unlock()
	s.stop()
	s.wg.Wait()
}

// expireOrphans forgets the subscriptions that nobody took over in time. The
// caller holds Server.subs.
func (s *Server) expireOrphans(now time.Time) {
	for id, sub := range s.orphans {
		if now.Sub(sub.served) > sub.life {
			delete(s.orphans, id)
		}
	}
}

// Subscriptions returns how many subscriptions there are, in sessions or
// without.
func (s *Server) Subscriptions() int {
	s.subs.Lock()
	defer s.subs.Unlock()
	n := len(s.orphans)
	for _, sess := range s.sessions {
		n += len(sess.subs)
	}
	return n
}

// Items returns how many monitored items there are.
func (s *Server) Items() int {
	s.subs.Lock()
	defer s.subs.Unlock()
	n := 0
	for _, sess := range s.sessions {
		for _, sub := range sess.subs {
			n += len(sub.items)
		}
	}
	return n
}

// Forget ends all sessions as their time-out would: their subscriptions stay.
// With the subscriptions too, it is as if the server had been started anew.
func (s *Server) Forget(subscriptionsToo bool) {
	s.subs.Lock()
	var list []*session
	for _, sess := range s.sessions {
		list = append(list, sess)
	}
	s.subs.Unlock()
	for _, sess := range list {
		sess.close(subscriptionsToo)
	}
}

func (s *session) republish(req *ua.RepublishRequest) (ua.Response, error) {
	if s.srv.o.NoRepublish {
		return nil, ua.StatusBadServiceUnsupported
	}
	s.srv.subs.Lock()
	defer s.srv.subs.Unlock()
	sub := s.subs[req.SubscriptionID]
	if sub == nil {
		return nil, ua.StatusBadSubscriptionIDInvalid
	}
	for _, m := range sub.sent {
		if m.SequenceNumber == req.RetransmitSequenceNumber {
			return &ua.RepublishResponse{ResponseHeader: header(req, ua.StatusOK), NotificationMessage: m}, nil
		}
	}
	return nil, ua.StatusBadMessageNotAvailable
}

func (s *session) transfer(req *ua.TransferSubscriptionsRequest) (ua.Response, error) {
	if s.srv.o.NoTransfer {
		return nil, ua.StatusBadServiceUnsupported
	}
	s.srv.subs.Lock()
	defer s.srv.subs.Unlock()
	results := make([]*ua.TransferResult, len(req.SubscriptionIDs))
	for i, id := range req.SubscriptionIDs {
		results[i] = &ua.TransferResult{}
		sub := s.srv.takeOut(id)
		switch {
		case sub == nil:
			results[i].StatusCode = ua.StatusBadSubscriptionIDInvalid
		case sub.user != s.user:
			results[i].StatusCode = ua.StatusBadUserAccessDenied
			s.srv.orphans[id] = sub
		default:
			s.subs[id], sub.served = sub, time.Now()
			results[i].AvailableSequenceNumbers = sub.available()
		}
	}
	return &ua.TransferSubscriptionsResponse{ResponseHeader: header(req, ua.StatusOK), Results: results, DiagnosticInfos: []*ua.DiagnosticInfo{}}, nil
}

// takeOut removes a subscription from where it is. The caller holds
// Server.subs.
func (s *Server) takeOut(id uint32) *subscription {
	if sub := s.orphans[id]; sub != nil {
		delete(s.orphans, id)
		return sub
	}
	for _, sess := range s.sessions {
		if sub := sess.subs[id]; sub != nil {
			delete(sess.subs, id)
			return sub
		}
	}
	return nil
}

// acknowledge forgets messages that the client has.
func (s *session) acknowledge(acks []*ua.SubscriptionAcknowledgement) []ua.StatusCode {
	results := make([]ua.StatusCode, len(acks))
	for i, a := range acks {
		sub := s.subs[a.SubscriptionID]
		if sub == nil {
			results[i] = ua.StatusBadSubscriptionIDInvalid
			continue
		}
		results[i] = ua.StatusBadSequenceNumberUnknown
		for j, m := range sub.sent {
			if m.SequenceNumber == a.SequenceNumber {
				sub.sent = append(sub.sent[:j:j], sub.sent[j+1:]...)
				results[i] = ua.StatusOK
				break
			}
		}
	}
	return results
}
