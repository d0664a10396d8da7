package opcua

import (
	"context"
	"maps"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// Unsubscribe ends what Subscribe began for d. If that fails, the server ends
// it by itself: its messages are not asked for.
func (b *bus) Unsubscribe(ctx context.Context, d *protocols.Device) {
	delete(b.subscribed, d)
	if v := b.survivor; v != nil {
		kept := v.subs[:0]
		for _, sub := range v.subs {
			if sub.dev == d {
				v.waste = append(v.waste, sub.id)
				continue
			}
			kept = append(kept, sub)
		}
		v.subs = kept
	}
	if b.session == nil || b.session.pub == nil {
		b.forgetPast(d)
		return
	}
	ids := b.session.pub.remove(d)
	b.forgetPast(d)
	if len(ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, b.conf.timeout)
	defer cancel()
	_, _ = call[*ua.DeleteSubscriptionsResponse](ctx, b.session, &ua.DeleteSubscriptionsRequest{SubscriptionIDs: ids})
}

// remove forgets the subscriptions of a device, and returns their ids.
func (p *publisher) remove(d *protocols.Device) []uint32 {
	p.making.Lock()
	defer p.making.Unlock()
	var ids []uint32
	maps.DeleteFunc(p.subs, func(id uint32, sub *subscription) bool {
		if sub.dev == d {
			ids = append(ids, id)
		}
		return sub.dev == d
	})
	return ids
}
