package opcuatest

import (
	"math"
	"time"

	"github.com/gopcua/opcua/ua"
)

// changed tells the items of a node that it was set. The caller holds
// Server.subs.
func (s *subscription) changed(n *node, now time.Time) {
	for _, it := range s.items {
		if it.node == n {
			it.take(n.current(now))
		}
	}
}

func (s *session) createSubscription(req *ua.CreateSubscriptionRequest) (ua.Response, error) {
	interval := max(tick, time.Duration(req.RequestedPublishingInterval*float64(time.Millisecond)))
	now := time.Now()
	sub := &subscription{
		id: s.srv.nextID(), user: s.user, interval: interval, keepAlive: max(1, req.RequestedMaxKeepAliveCount), seq: 1,
		life: time.Duration(max(1, req.RequestedLifetimeCount)) * interval, due: now.Add(interval), served: now,
	}
	s.srv.subs.Lock()
	defer s.srv.subs.Unlock()
	if limit := s.srv.o.MaxSubscriptions; limit > 0 && len(s.subs) >= limit {
		return nil, ua.StatusBadTooManySubscriptions
	}
	s.subs[sub.id] = sub
	return &ua.CreateSubscriptionResponse{
		ResponseHeader: header(req, ua.StatusOK), SubscriptionID: sub.id,
		RevisedPublishingInterval: float64(interval) / float64(time.Millisecond),
		RevisedLifetimeCount:      max(1, req.RequestedLifetimeCount), RevisedMaxKeepAliveCount: sub.keepAlive,
	}, nil
}

func (s *session) deleteSubscriptions(req *ua.DeleteSubscriptionsRequest) ua.Response {
	s.srv.subs.Lock()
	defer s.srv.subs.Unlock()
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
	s.srv.subs.Lock()
	defer s.srv.subs.Unlock()
	sub := s.subs[req.SubscriptionID]
	if sub == nil {
		return nil, ua.StatusBadSubscriptionIDInvalid
	}
	if s.srv.o.OneBadItemFailsAll {
		for _, r := range req.ItemsToCreate {
			if s.srv.space.find(r.ItemToMonitor.NodeID) == nil {
				return nil, ua.StatusBadNodeIDUnknown
			}
		}
	}
	results := make([]*ua.MonitoredItemCreateResult, len(req.ItemsToCreate))
	for i, r := range req.ItemsToCreate {
		results[i] = s.createItem(sub, r)
	}
	return &ua.CreateMonitoredItemsResponse{ResponseHeader: header(req, ua.StatusOK), Results: results, DiagnosticInfos: []*ua.DiagnosticInfo{}}, nil
}

func (s *session) createItem(sub *subscription, r *ua.MonitoredItemCreateRequest) *ua.MonitoredItemCreateResult {
	res := &ua.MonitoredItemCreateResult{FilterResult: ua.NewExtensionObject(nil)}
	o := &s.srv.o
	n := s.srv.space.find(r.ItemToMonitor.NodeID)
	if n == nil {
		res.StatusCode = ua.StatusBadNodeIDUnknown
		return res
	}
	if o.MaxItemsPerSubscription > 0 && len(sub.items) >= o.MaxItemsPerSubscription {
		res.StatusCode = ua.StatusBadTooManyMonitoredItems
		return res
	}
	p := r.RequestedParameters
	sub.lastItem++
	it := &item{
		id: sub.lastItem, node: n, handle: p.ClientHandle, size: int(max(1, min(p.QueueSize, 1000))),
		every: max(tick, o.SlowestSampling, time.Duration(p.SamplingInterval*float64(time.Millisecond))),
	}
	if o.MaxQueue > 0 {
		it.size = min(it.size, o.MaxQueue)
	}
	now := n.current(o.Now())
	if res.StatusCode = it.setFilter(p.Filter, o.Filters, n, now); res.StatusCode != ua.StatusOK {
		return res
	}
	it.take(now)
	sub.items = append(sub.items, it)
	res.MonitoredItemID = it.id
	res.RevisedSamplingInterval = float64(it.every) / float64(time.Millisecond)
	res.RevisedQueueSize = uint32(it.size)
	return res
}

func (s *session) deleteItems(req *ua.DeleteMonitoredItemsRequest) (ua.Response, error) {
	s.srv.subs.Lock()
	defer s.srv.subs.Unlock()
	sub := s.subs[req.SubscriptionID]
	if sub == nil {
		return nil, ua.StatusBadSubscriptionIDInvalid
	}
	results := make([]ua.StatusCode, len(req.MonitoredItemIDs))
	for i, id := range req.MonitoredItemIDs {
		results[i] = ua.StatusBadMonitoredItemIDInvalid
		for j, it := range sub.items {
			if it.id == id {
				sub.items = append(sub.items[:j:j], sub.items[j+1:]...)
				results[i] = ua.StatusOK
				break
			}
		}
	}
	return &ua.DeleteMonitoredItemsResponse{ResponseHeader: header(req, ua.StatusOK), Results: results, DiagnosticInfos: []*ua.DiagnosticInfo{}}, nil
}

// deadband is what a value must differ by from the one queued last; 0: at all.
type deadband struct{ size float64 }

// setFilter takes a filter, if the server takes filters.
func (i *item) setFilter(filter *ua.ExtensionObject, taken bool, n *node, now *ua.DataValue) ua.StatusCode {
	if filter == nil || filter.Value == nil {
		return ua.StatusOK
	}
	f, ok := filter.Value.(*ua.DataChangeFilter)
	if !ok || !taken {
		return ua.StatusBadMonitoredItemFilterUnsupported
	}
	if _, numeric := number(now); !numeric {
		return ua.StatusBadFilterNotAllowed
	}
	switch ua.DeadbandType(f.DeadbandType) {
	case ua.DeadbandTypeNone:
	case ua.DeadbandTypeAbsolute:
		i.band.size = f.DeadbandValue
	case ua.DeadbandTypePercent:
		if n.span == 0 {
			return ua.StatusBadMonitoredItemFilterUnsupported
		}
		i.band.size = n.span * f.DeadbandValue / 100
	}
	return ua.StatusOK
}

// exceeds says whether a value is worth queueing after the last one.
func (d deadband) exceeds(last, dv *ua.DataValue) bool {
	if d.size == 0 || last == nil || last.Status != dv.Status {
		return true
	}
	was, ok1 := number(last)
	is, ok2 := number(dv)
	return !ok1 || !ok2 || math.Abs(is-was) > d.size
}

func number(dv *ua.DataValue) (float64, bool) {
	if dv == nil || dv.Value == nil {
		return 0, false
	}
	switch v := dv.Value.Value().(type) {
	case float64:
		return v, true
	case float32:
		return float64(v), true
	case int32:
		return float64(v), true
	case uint16:
		return float64(v), true
	}
	return 0, false
}

func (s *session) queuePublish(c *client, reqID uint32, req *ua.PublishRequest) (ua.Response, error) {
	s.srv.subs.Lock()
	defer s.srv.subs.Unlock()
	acks := s.acknowledge(req.SubscriptionAcknowledgements)
	if len(s.subs) == 0 {
		return nil, ua.StatusBadNoSubscription
	}
	if len(s.publish) >= maxPublish {
		return nil, ua.StatusBadTooManyPublishRequests
	}
	s.publish = append(s.publish, publishRequest{id: reqID, req: req, client: c, acks: acks})
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil, nil //nolint:nilnil // it is answered when there is something to say
}
