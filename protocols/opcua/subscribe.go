package opcua

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

const (
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
	// interval is what was asked for, for sampling and publishing.
	interval time.Duration
	// silence is how long it may be mute before it is given up, and life how
	// long the server keeps it without anybody who asks for its messages.
	silence, life time.Duration
	heard         atomic.Int64 // when a message or a keep-alive came, since the publisher began
	dead          atomic.Bool  // it is not to outlive the connection
	stale         atomic.Bool  // messages of it are lost: its tags are to be read
	absent        atomic.Int32 // how many items are not monitored

	// items are what is known of the monitored items, by client handle. The
	// publisher's making lock guards them, and advice.
	items  []item
	advice []string

	// What follows belongs to the publisher's deliver lock.
	lost   uint64              // values, until they are reported
	failed []protocols.Reading // tags that could not be subscribed, until they are reported
	next   uint32              // the sequence number of the next message
	ahead  map[uint32]*message // messages that came before an earlier one
	until  uint32              // the number that a keep-alive said comes next; 0: none did
	unseen uint                // the goroutines, as bits, that may yet bring that one
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
		b.session.pub = newPublisher(b, b.session) //nolint:contextcheck // its goroutines live as long as the session
	}
	known := b.subscribed[d]
	b.subscribed[d] = true
	for _, sub := range b.missing(d, tags, addrs) {
		if err := b.session.pub.add(ctx, sub, sub.interval); err != nil {
			return b.explain(fmt.Sprintf("subscribing %d tags of %s", len(sub.tags), d.ID), err)
		}
		if known {
			b.missed(sub, causeRemade)
		}
	}
	return nil
}

// missing makes the subscriptions for those of the given tags that none is
// there for: one for each interval, or several where the server bounds them.
func (b *bus) missing(d *protocols.Device, tags []int, addrs []address) []*subscription {
	there := make(map[int32]bool)
	for _, sub := range b.session.pub.subscriptions() {
		if sub.dev == d {
			for _, t := range sub.tags {
				there[t] = true
			}
		}
	}
	most := b.session.limits.itemsPerSubscription
	var list []*subscription
	for _, interval := range intervals(d, tags) {
		var sub *subscription
		for i, t := range tags {
			if there[int32(t)] || intervalOf(d, t) != interval {
				continue
			}
			if sub == nil || most > 0 && len(sub.tags) >= most {
				sub = &subscription{dev: d, interval: interval, next: 1, ahead: make(map[uint32]*message)}
				list = append(list, sub)
			}
			sub.tags = append(sub.tags, int32(t))
			sub.addrs = append(sub.addrs, addrs[i])
		}
	}
	for _, sub := range list {
		sub.items = make([]item, len(sub.tags))
	}
	return list
}

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
	sub.life = time.Duration(float64(res.RevisedLifetimeCount) * max(res.RevisedPublishingInterval, 1) * float64(time.Millisecond))
	handles := make([]int, len(sub.tags))
	for h := range handles {
		handles[h] = h
	}
	p.findRanges(ctx, sub, handles)
	made, err := p.createItems(ctx, sub, handles)
	if err != nil {
		return err
	}
	for _, m := range made {
		sub.items[m.handle] = m.item
		if !m.item.on {
			sub.absent.Add(1)
			sub.fail(m.handle, p.bus.driver.symbols.whyAbsent(m.item.trouble))
		}
	}
	slices.SortFunc(sub.failed, byTag)
	p.advise(sub, made)
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

// fail makes a tag a bad reading of the first report.
func (s *subscription) fail(handle int, why protocols.Reason) {
	r := protocols.Reading{Tag: s.tags[handle]}
	r.SetBad(why)
	s.failed = append(s.failed, r)
}

func (s *subscription) tagName(handle int) string { return s.dev.Tags[s.tags[handle]].Name }

func byTag(a, b protocols.Reading) int { return int(a.Tag) - int(b.Tag) }
