package opcua

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

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
		lost, told := uint64(0), true
		for left := maxAhead; sub.next != first; left-- {
			if left == 0 {
				p.bus.missed(sub, causeMessage)
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
				if told { // it is missed since the last value that was told
					p.bus.missed(sub, causeMessage)
				}
				lost, told = lost+1, false
				continue
			}
			p.report(ctx, sub, m)
			told = true
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
	sub.stale.Store(true)
}

// refreshStale reads the tags of the subscriptions that lost messages.
func (p *publisher) refreshStale(ctx context.Context) {
	for _, sub := range p.subscriptions() {
		if sub.stale.Load() && p.refresh(ctx, sub, p.monitored(sub)) == nil {
			sub.stale.Store(false)
		}
	}
}

// readAgain reads the tags whose values had been of a type that is known now.
func (p *publisher) readAgain(ctx context.Context, forms map[*form]struct{}) {
	if len(forms) == 0 {
		return
	}
	for _, sub := range p.subscriptions() {
		handles := slices.DeleteFunc(p.monitored(sub), func(h int) bool {
			_, among := forms[sub.addrs[h].form]
			return !among
		})
		if err := p.refresh(ctx, sub, handles); err != nil && ctx.Err() == nil {
			p.log.Debug("reading tags whose types are known now", slog.String("device", sub.dev.ID), slog.Any("error", err))
		}
	}
}

// refresh reads tags of a subscription, and reports them, in smaller pieces
// where the server, or one value that cannot be decoded, wants that.
func (p *publisher) refresh(ctx context.Context, sub *subscription, handles []int) error {
	for lo := 0; lo < len(handles); {
		hi := min(lo+p.perRead, len(handles))
		err := p.refreshSome(ctx, sub, handles[lo:hi])
		if err == nil {
			lo = hi
			continue
		}
		switch kind := p.bus.explain("reading", err).Kind; {
		case wantsFewer(err) && hi-lo > 1:
			p.perRead = (hi - lo) / 2
			continue
		case kind != protocols.KindRefused && kind != protocols.KindMalformed:
			return err
		case hi-lo > 1:
			mid := lo + (hi-lo)/2
			if err := p.refresh(ctx, sub, handles[lo:mid]); err != nil {
				return err
			}
			if err := p.refresh(ctx, sub, handles[mid:hi]); err != nil {
				return err
			}
		}
		lo = hi
	}
	return nil
}

// refreshSome does that for as many as go into one request. What is published
// meanwhile comes behind it: what was read must not follow a newer value.
func (p *publisher) refreshSome(ctx context.Context, sub *subscription, part []int) error {
	p.deliver.Lock()
	defer p.deliver.Unlock()
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
		p.bus.driver.symbols.fill(&readings[i], dv, &sub.addrs[part[i]])
	}
	p.noteTold(sub, readings, p.bus.driver.o.Now())
	p.send(ctx, protocols.Report{Device: sub.dev, Time: p.bus.driver.o.Now(), Readings: readings, Lost: sub.lost})
	sub.lost = 0
	return nil
}
