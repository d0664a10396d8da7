package opcua

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

const (
	// itemQueue is how many values of one tag the server keeps between two of
	// its publish responses; beyond them the oldest goes.
	itemQueue = 10
	// keepAlive is how long a subscription may have nothing to say. The
	// watchdog lives on it, so it is short; an empty response a second costs
	// nothing.
	keepAlive = time.Second
	// subscriptionLife is how long a subscription outlives its gateway.
	subscriptionLife = time.Minute
	// shortestInterval is what is asked for at the least.
	shortestInterval = 10 * time.Millisecond
)

// subscription is the tags of one device with one interval.
type subscription struct {
	id    uint32
	dev   *protocols.Device
	tags  []int32   // by client handle
	addrs []address // by client handle
	past  *past     // of dev
	// silence is how long it may be mute before it is given up.
	silence time.Duration
	heard   atomic.Int64 // when a message or a keep-alive came, since the publisher began

	// What follows belongs to the publisher's deliver lock.
	lost    uint64              // values, until they are reported
	spilled []int               // which of a message's readings follow values that the server dropped
	failed  []protocols.Reading // tags that could not be subscribed, until they are reported
	next    uint32              // the sequence number of the next message
	ahead   map[uint32]*message // messages that came before an earlier one
	unseen  uint                // the goroutines, as bits, that may yet bring that one
}

// Subscribe asks for the changes of the given tags of d.
func (b *bus) Subscribe(ctx context.Context, d *protocols.Device, tags []int) error {
	if b.session == nil {
		return b.errNotConnected()
	}
	addrs, err := parseTags(d, tags)
	if err != nil {
		return err
	}
	if b.session.pub == nil {
		b.session.pub = newPublisher(b, b.session)  //nolint:contextcheck // its goroutines live as long as the session
		b.session.hist = newHistorian(b, b.session) //nolint:contextcheck // the same
	}
	past := b.pastOf(d)
	past.resume(tags, b.driver.o.Now())
	for _, interval := range intervals(d, tags) {
		sub := &subscription{dev: d, past: past, next: 1, ahead: make(map[uint32]*message)}
		for i, t := range tags {
			if intervalOf(d, t) == interval {
				sub.tags = append(sub.tags, int32(t))
				sub.addrs = append(sub.addrs, addrs[i])
			}
		}
		if err := b.session.pub.add(ctx, sub, interval); err != nil {
			return b.explain(fmt.Sprintf("subscribing %d tags of %s", len(sub.tags), d.ID), err)
		}
	}
	past.subscribed(b.driver.o.Now())
	b.lookAtHistory()
	return nil
}

// Unsubscribe ends what Subscribe began for d.
func (b *bus) Unsubscribe(context.Context, *protocols.Device) {}

func intervalOf(d *protocols.Device, tag int) time.Duration {
	every := d.Tags[tag].Interval
	if every <= 0 {
		every = d.Interval
	}
	return max(every, shortestInterval)
}

// intervals returns the different intervals of tags, the shortest first.
func intervals(d *protocols.Device, tags []int) []time.Duration {
	var all []time.Duration
	for _, t := range tags {
		all = append(all, intervalOf(d, t))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// create makes the subscription on the server, with its monitored items.
func (p *publisher) create(ctx context.Context, sub *subscription, interval time.Duration) error {
	keepAliveCount := max(1, uint32(keepAlive/interval))
	res, err := call[*ua.CreateSubscriptionResponse](ctx, p.session, &ua.CreateSubscriptionRequest{
		RequestedPublishingInterval: milliseconds(interval),
		RequestedMaxKeepAliveCount:  keepAliveCount,
		// Part 4, 5.14.2: at least three times the keep-alive count.
		RequestedLifetimeCount: max(3*keepAliveCount, uint32(subscriptionLife/interval)),
		PublishingEnabled:      true,
	})
	if err != nil {
		return err
	}
	sub.id = res.SubscriptionID
	sub.silence = silenceLimit(res, interval, p.bus.conf.timeout)
	for lo := 0; lo < len(sub.tags); {
		hi := min(lo+p.session.limits.perItems, len(sub.tags))
		err := p.createItems(ctx, sub, interval, lo, hi)
		if wantsFewer(err) && hi-lo > 1 {
			p.session.limits.perItems = (hi - lo) / 2
			continue
		}
		if err != nil {
			return err
		}
		lo = hi
	}
	slices.SortFunc(sub.failed, byTag)
	return nil
}

// silenceLimit is three keep-alives as the server granted them, and the time
// that an answer may take.
func silenceLimit(res *ua.CreateSubscriptionResponse, interval, timeout time.Duration) time.Duration {
	every := time.Duration(res.RevisedPublishingInterval * float64(time.Millisecond))
	intervals := 3 * max(1, int64(res.RevisedMaxKeepAliveCount))
	return time.Duration(intervals*int64(max(every, interval))) + timeout
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// createItems makes the monitored items with the handles from lo to hi. One
// that the server does not take becomes a bad reading and stands in nobody's way.
func (p *publisher) createItems(ctx context.Context, sub *subscription, interval time.Duration, lo, hi int) error {
	req := &ua.CreateMonitoredItemsRequest{SubscriptionID: sub.id, TimestampsToReturn: ua.TimestampsToReturnBoth}
	for h := lo; h < hi; h++ {
		node, ok := sub.addrs[h].nodeID(p.session.namespaces)
		if !ok {
			sub.fail(h, protocols.NoSuchNode)
			p.log.Warn("a tag's namespace is not on the server", slog.String("device", sub.dev.ID), slog.String("tag", sub.tagName(h)), slog.String("namespace", sub.addrs[h].uri))
			continue
		}
		req.ItemsToCreate = append(req.ItemsToCreate, &ua.MonitoredItemCreateRequest{
			ItemToMonitor:  valueOfNode(node, sub.addrs[h].rng),
			MonitoringMode: ua.MonitoringModeReporting,
			RequestedParameters: &ua.MonitoringParameters{
				ClientHandle: uint32(h), SamplingInterval: milliseconds(interval), QueueSize: itemQueue, DiscardOldest: true,
			},
		})
	}
	if len(req.ItemsToCreate) == 0 {
		return nil
	}
	res, err := call[*ua.CreateMonitoredItemsResponse](ctx, p.session, req)
	if err != nil {
		return err
	}
	if len(res.Results) != len(req.ItemsToCreate) {
		return fmt.Errorf("%w: %d results for %d items", errMalformed, len(res.Results), len(req.ItemsToCreate))
	}
	for i, r := range res.Results {
		if r != nil && !isBad(r.StatusCode) {
			continue
		}
		why := protocols.Malformed
		if r != nil {
			why = p.bus.driver.symbols.reason(r.StatusCode)
		}
		sub.fail(int(req.ItemsToCreate[i].RequestedParameters.ClientHandle), why)
	}
	return nil
}

// fail makes a tag a bad reading of the first report.
func (s *subscription) fail(handle int, why protocols.Reason) {
	r := protocols.Reading{Tag: s.tags[handle]}
	r.SetBad(why)
	s.failed = append(s.failed, r)
}

func (s *subscription) tagName(handle int) string { return s.dev.Tags[s.tags[handle]].Name }

func byTag(a, b protocols.Reading) int { return int(a.Tag) - int(b.Tag) }
