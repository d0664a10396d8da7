package opcua

import (
	"fmt"
	"slices"
	"time"

	"millrace/protocols"
)

// advise notes where the server grants much less than was asked for.
func (p *publisher) advise(sub *subscription, list []made) {
	asked := queueSize(&sub.dev.OPCUA, sub.interval)
	slow, slowest, short, shortest := 0, time.Duration(0), 0, asked
	for _, m := range list {
		if !m.item.on {
			continue
		}
		if every := time.Duration(m.sampling * float64(time.Millisecond)); every > 2*sub.interval {
			slow, slowest = slow+1, max(slowest, every)
		}
		if m.queue < asked/2 {
			short, shortest = short+1, min(shortest, m.queue)
		}
	}
	sub.advice = nil
	if slow > 0 {
		sub.advice = append(sub.advice, fmt.Sprintf("the server samples %d tags every %s only, not every %s as asked: values in between are not seen; write interval: %s, or have the server sample faster",
			slow, slowest, sub.interval, slowest))
	}
	if short > 0 {
		sub.advice = append(sub.advice, fmt.Sprintf("the server keeps only %d values of a tag, not %d as asked, for %d tags: outages longer than %s lose values; raise the server's limit of the queue size",
			shortest, asked, short, time.Duration(max(shortest, 1))*sub.interval))
	}
}

// Advice returns what is wrong with the security of the last session, though
// it was made, and what the server does not do as it was asked to for d.
func (b *bus) Advice(d *protocols.Device) []string {
	list := slices.Clone(b.notes)
	return append(list, b.subscriptionAdvice(d)...)
}

func (b *bus) subscriptionAdvice(d *protocols.Device) []string {
	if b.session == nil || b.session.pub == nil {
		return nil
	}
	p := b.session.pub
	p.making.Lock()
	defer p.making.Unlock()
	var list []string
	for _, sub := range p.subs {
		if sub.dev == d {
			list = append(list, sub.advice...)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
