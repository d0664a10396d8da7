package opcuatest

import (
	"context"
	"sync"
	"time"

	"github.com/gopcua/opcua/ua"
)

// session is a client's session with its subscriptions.
type session struct {
	client     *client
	srv        *Server
	id         uint32
	nonce      []byte
	clientCert []byte
	active     bool

	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	subs    map[uint32]*subscription
	publish []publishRequest // waiting to be answered, the oldest first
	wake    chan struct{}    // a PublishRequest came
}

type publishRequest struct {
	id  uint32
	req *ua.PublishRequest
}

// maxPublish is how many PublishRequests may wait.
const maxPublish = 100

type subscription struct {
	id        uint32
	interval  time.Duration
	keepAlive uint32 // in intervals
	seq       uint32 // of the next message
	idle      uint32 // intervals since the last message
	due       time.Time
	items     []*item
}

// item is one monitored item and the queue of its values.
type item struct {
	node   *node
	handle uint32
	every  time.Duration
	due    time.Time
	size   int
	queue  []*ua.DataValue
	last   *ua.DataValue
}

func newSession(c *client, nonce, clientCert []byte) *session {
	return &session{
		client: c, srv: c.srv, id: c.srv.nextID(), nonce: nonce, clientCert: clientCert,
		stop: func() {}, subs: make(map[uint32]*subscription), wake: make(chan struct{}, 1),
	}
}

// run starts the goroutine that samples and publishes.
func (s *session) run(ctx context.Context) {
	ctx, s.stop = context.WithCancel(ctx)
	s.wg.Go(func() { s.loop(ctx) })
}

func (s *session) end() {
	s.stop()
	s.wg.Wait()
}

// tick is how finely sampling and publishing intervals are kept.
const tick = 5 * time.Millisecond

func (s *session) loop(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.wake:
		}
		if s.step(ctx) != nil {
			return
		}
	}
}

// step samples what is due and publishes what is there.
func (s *session) step(ctx context.Context) error {
	s.srv.mu.Lock()
	muted := s.srv.muted
	s.srv.mu.Unlock()
	if muted {
		return nil
	}
	for _, p := range s.collect() {
		// Not under the lock: a client that does not read must not hold up Set.
		if err := s.client.sc.SendResponseWithContext(ctx, p.id, p.res); err != nil {
			return err
		}
	}
	return nil
}

type publishResponse struct {
	id  uint32
	res *ua.PublishResponse
}

// collect takes what is due out of the queues.
func (s *session) collect() []publishResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, sub := range s.subs {
		for _, it := range sub.items {
			if !now.Before(it.due) {
				it.due = now.Add(it.every)
				it.take(it.node.current(s.srv.o.Now()))
			}
		}
	}
	var out []publishResponse
	for _, sub := range s.subs {
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
	return out
}

// respond answers the oldest PublishRequest.
func (s *session) respond(sub *subscription, data []*ua.MonitoredItemNotification) publishResponse {
	p := s.publish[0]
	s.publish = s.publish[1:]
	msg := &ua.NotificationMessage{SequenceNumber: sub.seq, PublishTime: time.Now(), NotificationData: []*ua.ExtensionObject{}}
	if len(data) > 0 {
		msg.NotificationData = []*ua.ExtensionObject{ua.NewExtensionObject(&ua.DataChangeNotification{MonitoredItems: data, DiagnosticInfos: []*ua.DiagnosticInfo{}})}
		sub.seq++
	}
	return publishResponse{id: p.id, res: &ua.PublishResponse{
		ResponseHeader: header(p.req, ua.StatusOK), SubscriptionID: sub.id, AvailableSequenceNumbers: []uint32{},
		NotificationMessage: msg, Results: make([]ua.StatusCode, len(p.req.SubscriptionAcknowledgements)), DiagnosticInfos: []*ua.DiagnosticInfo{},
	}}
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
	if dv == i.last {
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

// changed tells the items of a node that it was set.
func (s *session) changed(n *node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range s.subs {
		for _, it := range sub.items {
			if it.node == n {
				it.take(n.current(s.srv.o.Now()))
			}
		}
	}
}

func (s *session) createSubscription(req *ua.CreateSubscriptionRequest) ua.Response {
	interval := max(tick, time.Duration(req.RequestedPublishingInterval*float64(time.Millisecond)))
	sub := &subscription{id: s.srv.nextID(), interval: interval, keepAlive: max(1, req.RequestedMaxKeepAliveCount), seq: 1, due: time.Now().Add(interval)}
	s.mu.Lock()
	s.subs[sub.id] = sub
	s.mu.Unlock()
	return &ua.CreateSubscriptionResponse{
		ResponseHeader: header(req, ua.StatusOK), SubscriptionID: sub.id,
		RevisedPublishingInterval: float64(interval) / float64(time.Millisecond),
		RevisedLifetimeCount:      req.RequestedLifetimeCount, RevisedMaxKeepAliveCount: sub.keepAlive,
	}
}

func (s *session) deleteSubscriptions(req *ua.DeleteSubscriptionsRequest) ua.Response {
	s.mu.Lock()
	defer s.mu.Unlock()
	results := make([]ua.StatusCode, len(req.SubscriptionIDs))
	for i, id := range req.SubscriptionIDs {
		if s.subs[id] == nil {
			results[i] = ua.StatusBadSubscriptionIDInvalid
		}
		delete(s.subs, id)
	}
	return &ua.DeleteSubscriptionsResponse{ResponseHeader: header(req, ua.StatusOK), Results: results, DiagnosticInfos: []*ua.DiagnosticInfo{}}
}

func (s *session) createItems(req *ua.CreateMonitoredItemsRequest) (ua.Response, error) {
	if limit := s.srv.o.MaxItemsPerCall; limit > 0 && len(req.ItemsToCreate) > limit {
		return nil, ua.StatusBadTooManyOperations
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.subs[req.SubscriptionID]
	if sub == nil {
		return nil, ua.StatusBadSubscriptionIDInvalid
	}
	results := make([]*ua.MonitoredItemCreateResult, len(req.ItemsToCreate))
	for i, r := range req.ItemsToCreate {
		results[i] = &ua.MonitoredItemCreateResult{FilterResult: ua.NewExtensionObject(nil)}
		n := s.srv.space.find(r.ItemToMonitor.NodeID)
		if n == nil {
			results[i].StatusCode = ua.StatusBadNodeIDUnknown
			continue
		}
		p := r.RequestedParameters
		it := &item{node: n, handle: p.ClientHandle, size: int(max(1, min(p.QueueSize, 1000))), every: max(tick, time.Duration(p.SamplingInterval*float64(time.Millisecond)))}
		it.take(n.current(s.srv.o.Now()))
		sub.items = append(sub.items, it)
		results[i].MonitoredItemID = uint32(len(sub.items))
		results[i].RevisedSamplingInterval = p.SamplingInterval
		results[i].RevisedQueueSize = uint32(it.size)
	}
	return &ua.CreateMonitoredItemsResponse{ResponseHeader: header(req, ua.StatusOK), Results: results, DiagnosticInfos: []*ua.DiagnosticInfo{}}, nil
}

func (s *session) queuePublish(reqID uint32, req *ua.PublishRequest) (ua.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.subs) == 0 {
		return nil, ua.StatusBadNoSubscription
	}
	if len(s.publish) >= maxPublish {
		return nil, ua.StatusBadTooManyPublishRequests
	}
	s.publish = append(s.publish, publishRequest{id: reqID, req: req})
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil, nil //nolint:nilnil // it is answered when there is something to say
}
