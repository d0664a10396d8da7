package opcuatest

import (
	"context"
	"sync"
	"time"

	"github.com/gopcua/opcua/ua"
)

// session is a client's session with its subscriptions. It outlives the
// connection that it is used on, up to its time-out. Its fields are guarded by
// Server.subs, where it does not say otherwise.
type session struct {
	srv        *Server
	id         uint32
	clientCert []byte
	timeout    time.Duration
	user       string // who may use it and take its subscriptions

	stop context.CancelFunc
	wg   sync.WaitGroup
	wake chan struct{} // a PublishRequest came

	client  *client // whose connection it is on; nil: none at present
	nonce   []byte  // that the next ActivateSession must sign
	active  bool
	used    time.Time // the last request, or the end of the connection
	subs    map[uint32]*subscription
	publish []publishRequest // waiting to be answered, the oldest first
}

type publishRequest struct {
	id     uint32
	req    *ua.PublishRequest
	client *client
	acks   []ua.StatusCode
}

// maxPublish is how many PublishRequests may wait, and maxSent how many
// messages are kept until they are acknowledged, at the least (Part 4,
// 5.14.1.2: twice as many).
const (
	maxPublish = 100
	maxSent    = 2 * maxPublish
)

// subscription outlives its session: another one may take it over.
type subscription struct {
	id        uint32
	user      string
	interval  time.Duration
	keepAlive uint32 // in intervals
	life      time.Duration
	seq       uint32 // of the next message
	idle      uint32 // intervals since the last message
	due       time.Time
	served    time.Time // when a PublishRequest was there for it
	items     []*item
	lastItem  uint32
	sent      []*ua.NotificationMessage // not acknowledged, the oldest first
}

// item is one monitored item and the queue of its values.
type item struct {
	id     uint32
	node   *node
	handle uint32
	band   deadband
	every  time.Duration
	due    time.Time
	size   int
	queue  []*ua.DataValue
	last   *ua.DataValue
}

func newSession(c *client, nonce []byte, req *ua.CreateSessionRequest) *session {
	timeout := max(100*time.Millisecond, time.Duration(req.RequestedSessionTimeout*float64(time.Millisecond)))
	if most := c.srv.o.SessionTimeout; most > 0 {
		timeout = min(timeout, most)
	}
	return &session{
		client: c, srv: c.srv, id: c.srv.nextID(), nonce: nonce, clientCert: req.ClientCertificate,
		timeout: timeout, stop: func() {}, subs: make(map[uint32]*subscription), wake: make(chan struct{}, 1), used: time.Now(),
	}
}

// run starts the goroutine that samples and publishes.
func (s *session) run(ctx context.Context) {
	ctx, s.stop = context.WithCancel(ctx)
	s.wg.Go(func() { s.loop(ctx) })
}

// tick is how finely sampling and publishing intervals are kept.
const tick = 5 * time.Millisecond

func (s *session) loop(ctx context.Context) {
	defer s.stop()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.wake:
		}
		if s.step(ctx) {
			return
		}
	}
}

// step samples what is due and publishes what is there. It says whether the
// session has ended.
func (s *session) step(ctx context.Context) bool {
	s.srv.mu.Lock()
	muted := s.srv.muted
	s.srv.mu.Unlock()
	if muted {
		return false
	}
	out, ended := s.collect()
	for _, p := range out {
		if s.srv.o.Tamper != nil {
			s.srv.o.Tamper(p.res)
		}
		// Not under the lock: a client that does not read must not hold up Set.
		// What is lost on the way can be asked for again.
		_ = p.client.sc.SendResponseWithContext(ctx, p.id, p.res)
	}
	return ended
}

type publishResponse struct {
	id     uint32
	client *client
	res    ua.Response
}

// collect takes what is due out of the queues.
func (s *session) collect() ([]publishResponse, bool) {
	s.srv.subs.Lock()
	defer s.srv.subs.Unlock()
	now := time.Now()
	if now.Sub(s.used) > s.timeout && len(s.publish) == 0 {
		s.leave()
		return nil, true
	}
	s.srv.expireOrphans(now)
	for _, sub := range s.subs {
		for _, it := range sub.items {
			if !now.Before(it.due) {
				it.due = now.Add(it.every)
				it.take(it.node.current(s.srv.o.Now()))
			}
		}
	}
	var out []publishResponse
	for id, sub := range s.subs {
		if len(s.publish) > 0 {
			sub.served = now
		} else if now.Sub(sub.served) > sub.life {
			delete(s.subs, id)
			continue
		}
		if now.Before(sub.due) || len(s.publish) == 0 {
			continue
		}
		data := sub.drain()
		sub.idle++
		if len(data) == 0 && sub.idle < sub.keepAlive && sub.seq > 1 {
			sub.due = now.Add(sub.interval)
			continue
		}
		sub.idle, sub.due = 0, now.Add(sub.interval)
		out = append(out, s.respond(sub, data))
	}
	return out, false
}

// respond answers the oldest PublishRequest.
func (s *session) respond(sub *subscription, data []*ua.MonitoredItemNotification) publishResponse {
	p := s.publish[0]
	s.publish = s.publish[1:]
	msg := &ua.NotificationMessage{SequenceNumber: sub.seq, PublishTime: time.Now(), NotificationData: []*ua.ExtensionObject{}}
	if len(data) > 0 {
		msg.NotificationData = []*ua.ExtensionObject{ua.NewExtensionObject(&ua.DataChangeNotification{MonitoredItems: data, DiagnosticInfos: []*ua.DiagnosticInfo{}})}
		sub.seq++
		sub.sent = append(sub.sent, msg)
		if len(sub.sent) > maxSent {
			sub.sent = sub.sent[1:]
		}
	}
	return publishResponse{id: p.id, client: p.client, res: &ua.PublishResponse{
		ResponseHeader: header(p.req, ua.StatusOK), SubscriptionID: sub.id, AvailableSequenceNumbers: sub.available(),
		NotificationMessage: msg, Results: p.acks, DiagnosticInfos: []*ua.DiagnosticInfo{},
	}}
}

func (s *subscription) available() []uint32 {
	list := make([]uint32, len(s.sent))
	for i, m := range s.sent {
		list[i] = m.SequenceNumber
	}
	return list
}

// drain empties the queues of all items.
func (s *subscription) drain() []*ua.MonitoredItemNotification {
	n := 0
	for _, it := range s.items {
		n += len(it.queue)
	}
	if n == 0 {
		return nil
	}
	data := make([]*ua.MonitoredItemNotification, 0, n)
	for _, it := range s.items {
		for _, dv := range it.queue {
			data = append(data, &ua.MonitoredItemNotification{ClientHandle: it.handle, Value: dv})
		}
		it.queue = it.queue[:0]
	}
	return data
}

// take queues a value if it is a new one. In a full queue the oldest goes, and
// the next says so (Part 4, 5.13.1.5).
func (i *item) take(dv *ua.DataValue) {
	if dv == i.last || !i.band.exceeds(i.last, dv) {
		return
	}
	i.last = dv
	if len(i.queue) >= i.size {
		i.queue = append(i.queue[:0], i.queue[1:]...)
		if len(i.queue) > 0 {
			first := *i.queue[0]
			first.Status |= 0x480
			first.EncodingMask |= ua.DataValueStatusCode
			i.queue[0] = &first
		}
	}
	i.queue = append(i.queue, dv)
}
