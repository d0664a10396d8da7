package opcua

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// giveUp asks for the messages that did not come, and goes on without those
// that the server does not have any more. They are counted.
func (p *publisher) giveUp(ctx context.Context, sub *subscription) {
	for {
		first, ok := sub.earliest()
		if !ok {
			return
		}
		lost := uint64(0)
		for left := maxAhead; sub.next != first; left-- {
			if left == 0 {
				lost += uint64(first - sub.next)
				sub.next = first
				break
			}
			m, err := p.fetch(ctx, sub, sub.next)
			if m == nil && (ctx.Err() != nil || err != nil && breaks(err) && p.session != nil && p.session.broken.Load()) {
				p.waitFor(sub, noPublisher) // the next connection asks again
				p.lostMessages(sub, lost)
				return
			}
			sub.next = following(sub.next)
			if m == nil {
				lost++
				continue
			}
			p.report(ctx, sub, m)
		}
		p.lostMessages(sub, lost)
		p.deliverNext(ctx, sub)
	}
}

// earliest returns the number up to which messages are missing.
func (s *subscription) earliest() (uint32, bool) {
	first, ok := s.until, s.behind()
	for n := range s.ahead {
		if !ok || int32(n-first) < 0 {
			first, ok = n, true
		}
	}
	return first, ok
}

// lostMessages counts messages that never came. A value that was in one of
// them may hold for long, so all are read.
func (p *publisher) lostMessages(sub *subscription, n uint64) {
	if n == 0 {
		return
	}
	p.bus.stats.missing.Add(n)
	sub.lost += n // a message has at least one value
	p.log.Warn("notification messages never came", slog.String("device", sub.dev.ID), slog.Uint64("messages", n))
	p.bus.missed(sub, causeMessage)
	sub.stale.Store(true)
}

// refreshStale reads the tags of the subscriptions that lost messages.
func (p *publisher) refreshStale(ctx context.Context) {
	for _, sub := range p.subscriptions() {
		if sub.stale.Load() && p.refresh(ctx, sub) == nil {
			sub.stale.Store(false)
		}
	}
}

// refresh reads all tags of a subscription that are monitored, and reports
// them.
func (p *publisher) refresh(ctx context.Context, sub *subscription) error {
	handles := p.monitored(sub)
	for lo := 0; lo < len(handles); lo += p.perRead {
		part := handles[lo:min(lo+p.perRead, len(handles))]
		req := &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnBoth}
		for _, h := range part {
			node, _ := sub.addrs[h].nodeID(p.session.namespaces)
			req.NodesToRead = append(req.NodesToRead, valueOfNode(node, sub.addrs[h].rng))
		}
		res, err := call[*ua.ReadResponse](ctx, p.session, req)
		if err == nil && len(res.Results) != len(part) {
			err = fmt.Errorf("%w: %d results for %d nodes", errMalformed, len(res.Results), len(part))
		}
		if err != nil {
			return err
		}
		readings := make([]protocols.Reading, len(part))
		for i, dv := range res.Results {
			readings[i].Tag = sub.tags[part[i]]
			p.bus.driver.symbols.fill(&readings[i], dv, sub.addrs[part[i]].one)
		}
		p.deliver.Lock()
		p.send(ctx, protocols.Report{Device: sub.dev, Time: p.bus.driver.o.Now(), Readings: readings, Lost: sub.lost})
		sub.lost = 0
		p.deliver.Unlock()
	}
	return nil
}
