package opcua

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// item is what is known of one monitored item.
type item struct {
	id      uint32        // the server's number of it
	on      bool          // the server watches it
	plain   bool          // the server does not take a filter for it
	trouble ua.StatusCode // why it is not watched

	ranged bool    // its node has a range of values, which a deadband in percent is of
	span   float64 // high - low of that; 0: could not be read
}

// made is what became of the request for one item.
type made struct {
	handle   int
	item     item
	sampling float64 // ms, as the server granted it
	queue    uint32
}

// noNamespace stands for a namespace that the server does not have; it
// is no code of the standard's.
const noNamespace ua.StatusCode = 0x80FF_0000 //nolint:errname // a status code

// How many values of a tag the server keeps between two of its messages, where
// the configuration does not say.
const (
	queueTime     = 10 * time.Second // an outage that loses nothing
	shortestQueue = 10
	longestQueue  = 1000
)

func queueSize(o *protocols.OPCUAOptions, interval time.Duration) uint32 {
	if o.Queue > 0 {
		return uint32(min(o.Queue, 1<<20))
	}
	return uint32(min(max(int64(queueTime/interval), shortestQueue), longestQueue))
}

// createItems asks the server to monitor the tags with the given handles. One
// that it does not take stands in nobody's way. The error is one of the whole
// subscription or connection.
func (p *publisher) createItems(ctx context.Context, sub *subscription, handles []int) ([]made, error) {
	c := &creation{p: p, sub: sub, done: make([]made, 0, len(handles))}
	var list []*ua.MonitoredItemCreateRequest
	for _, h := range handles {
		if r := p.itemRequest(sub, h); r != nil {
			list = append(list, r)
			continue
		}
		it := sub.items[h]
		it.on, it.trouble = false, noNamespace
		c.done = append(c.done, made{handle: h, item: it})
		p.log.Warn("a tag's namespace is not on the server", slog.String("device", sub.dev.ID), slog.String("tag", sub.tagName(h)), slog.String("namespace", sub.addrs[h].uri))
	}
	if err := c.ask(ctx, list); err != nil {
		return nil, err
	}
	// A second round, without a filter, for those whose filter was refused.
	list, c.again = c.again, nil
	for _, r := range list {
		r.RequestedParameters.Filter = nil
	}
	return c.done, c.ask(ctx, list)
}

// itemRequest is nil if the server has no such namespace.
func (p *publisher) itemRequest(sub *subscription, h int) *ua.MonitoredItemCreateRequest {
	node, ok := sub.addrs[h].nodeID(p.session.namespaces)
	if !ok {
		return nil
	}
	queue := queueSize(&sub.dev.OPCUA, sub.interval)
	if most := p.session.limits.queueSize; most > 0 {
		queue = min(queue, uint32(most))
	}
	return &ua.MonitoredItemCreateRequest{
		ItemToMonitor:  valueOfNode(node, sub.addrs[h].rng),
		MonitoringMode: ua.MonitoringModeReporting,
		RequestedParameters: &ua.MonitoringParameters{
			ClientHandle: uint32(h), SamplingInterval: milliseconds(sub.interval), QueueSize: queue, DiscardOldest: true,
			Filter: filterFor(&sub.dev.Tags[sub.tags[h]], &sub.items[h]),
		},
	}
}

// creation is a number of items on their way to being monitored.
type creation struct {
	p     *publisher
	sub   *subscription
	done  []made
	again []*ua.MonitoredItemCreateRequest // to be asked for without a filter
	// alone counts the items that a call was made for of their own, without one
	// that was taken: see refuse.
	alone int
}

// maxAlone is how many items are tried one by one for a server that refuses
// whole calls, until it is clear that it takes none.
const maxAlone = 16

// ask sends the requests, as many at once as the server takes.
func (c *creation) ask(ctx context.Context, list []*ua.MonitoredItemCreateRequest) error {
	limits := &c.p.session.limits
	for lo := 0; lo < len(list); {
		hi := min(lo+limits.perItems, len(list))
		err := c.call(ctx, list[lo:hi])
		if wantsFewer(err) && hi-lo > 1 {
			limits.perItems = (hi - lo) / 2
			continue
		}
		if err := c.divide(ctx, list[lo:hi], err); err != nil {
			return err
		}
		lo = hi
	}
	return nil
}

// divide finds the item that a whole call failed for, if it did, as some
// servers have it, and makes the others.
func (c *creation) divide(ctx context.Context, list []*ua.MonitoredItemCreateRequest, err error) error {
	if err == nil {
		return nil
	}
	status, ok := errors.AsType[ua.StatusCode](err)
	if !ok || breaks(err) || gone(err) {
		return err
	}
	if len(list) == 1 || c.alone >= maxAlone {
		for _, r := range list {
			c.refuse(r, status)
		}
		return nil
	}
	for _, part := range [][]*ua.MonitoredItemCreateRequest{list[:len(list)/2], list[len(list)/2:]} {
		if err := c.divide(ctx, part, c.call(ctx, part)); err != nil {
			return err
		}
	}
	return nil
}

// call makes one request.
func (c *creation) call(ctx context.Context, list []*ua.MonitoredItemCreateRequest) error {
	res, err := call[*ua.CreateMonitoredItemsResponse](ctx, c.p.session, &ua.CreateMonitoredItemsRequest{
		SubscriptionID: c.sub.id, TimestampsToReturn: ua.TimestampsToReturnBoth, ItemsToCreate: list,
	})
	if err != nil {
		return err
	}
	if len(res.Results) != len(list) {
		return fmt.Errorf("%w: %d results for %d items", errMalformed, len(res.Results), len(list))
	}
	for i, r := range res.Results {
		switch {
		case r == nil:
			c.refuse(list[i], ua.StatusBadUnexpectedError)
		case isBad(r.StatusCode):
			c.refuse(list[i], r.StatusCode)
		default:
			c.take(list[i], r)
		}
	}
	return nil
}

func (c *creation) take(req *ua.MonitoredItemCreateRequest, r *ua.MonitoredItemCreateResult) {
	h := int(req.RequestedParameters.ClientHandle)
	it := c.sub.items[h]
	it.id, it.on, it.trouble = r.MonitoredItemID, true, 0
	it.plain = req.RequestedParameters.Filter == nil
	c.done = append(c.done, made{handle: h, item: it, sampling: r.RevisedSamplingInterval, queue: r.RevisedQueueSize})
	c.alone = 0
}

func (c *creation) refuse(req *ua.MonitoredItemCreateRequest, status ua.StatusCode) {
	if req.RequestedParameters.Filter != nil && refusesFilter(status) {
		c.again = append(c.again, req)
		return
	}
	c.alone++
	h := int(req.RequestedParameters.ClientHandle)
	it := c.sub.items[h]
	it.on, it.trouble = false, status
	c.done = append(c.done, made{handle: h, item: it})
}
