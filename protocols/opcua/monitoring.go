package opcua

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// retryInterval is how often the server is asked again for tags that it did
// not take: loading a program into a PLC takes nodes away and brings them back.
const retryInterval = 30 * time.Second

// noteNode takes in what a notification says of the node itself. It is called
// for bad values, and for all where some items are not monitored.
func (p *publisher) noteNode(sub *subscription, n *ua.MonitoredItemNotification) {
	vanished := false
	switch n.Value.Status & symbolMask {
	case ua.StatusBadNodeIDUnknown, ua.StatusBadNodeIDInvalid:
		vanished = true
	}
	p.making.Lock()
	defer p.making.Unlock()
	it := &sub.items[n.ClientHandle]
	switch {
	case vanished && it.on:
		it.on, it.trouble = false, n.Value.Status
		sub.absent.Add(1)
	case !vanished && !it.on && it.id != 0 && !isBad(n.Value.Status):
		// The server found it again by itself.
		it.on, it.trouble = true, 0
		sub.absent.Add(-1)
	default:
		return
	}
	p.dirty.Store(true)
}

// tellMonitoring reports how many tags are monitored, where that has changed.
// The caller holds deliver.
func (p *publisher) tellMonitoring(ctx context.Context) {
	if !p.dirty.Swap(false) {
		return
	}
	for d, m := range p.monitoring() {
		if before, told := p.told[d]; !told || before != m {
			p.told[d] = m
			p.send(ctx, protocols.Report{Device: d, Time: p.bus.driver.o.Now(), Monitoring: &m})
		}
	}
}

// tellAdvice reports the devices of whose types there is something new to say.
// The caller holds deliver.
func (p *publisher) tellAdvice(ctx context.Context) {
	book := p.session.types.Load()
	if book == nil {
		return
	}
	for _, sub := range p.subscriptions() {
		if book.takeNews(sub.dev.ID) {
			p.send(ctx, protocols.Report{Device: sub.dev, Time: p.bus.driver.o.Now(), Learnt: true})
		}
	}
}

// monitoring counts the items of each device.
func (p *publisher) monitoring() map[*protocols.Device]protocols.Monitoring {
	p.making.Lock()
	defer p.making.Unlock()
	all := make(map[*protocols.Device]protocols.Monitoring)
	first := make(map[*protocols.Device]int32)
	for _, sub := range p.subs {
		m := all[sub.dev]
		m.Configured += len(sub.items)
		for h := range sub.items {
			if sub.items[h].on {
				m.Monitored++
				continue
			}
			if at, one := first[sub.dev]; !one || sub.tags[h] < at {
				first[sub.dev] = sub.tags[h]
				m.Why = p.whyNot(sub, h)
			}
		}
		all[sub.dev] = m
	}
	return all
}

// whyNot says in words why an item is not monitored, and what to do.
func (p *publisher) whyNot(sub *subscription, h int) string {
	status := sub.items[h].trouble
	cause, todo := p.bus.driver.symbols.statusText(status), "see what the server's log says"
	switch status & symbolMask {
	case noNamespace:
		cause, todo = fmt.Sprintf("the server has no namespace %q", sub.addrs[h].uri), "check the URI behind nsu="
	case noPath, manyPaths:
		return fmt.Sprintf("%s: %s", sub.tagName(h), p.bus.whyNoNode(p.session, &sub.addrs[h]).Text)
	case ua.StatusBadNodeIDUnknown:
		todo = "check its address, and that the program with it is loaded; it is tried again by itself"
	case ua.StatusBadAttributeIDInvalid:
		todo = "the node is no variable: check its address"
	case ua.StatusBadUserAccessDenied, ua.StatusBadNotReadable:
		todo = "check the user's rights on the server"
	case ua.StatusBadTooManyMonitoredItems, ua.StatusBadOutOfMemory, ua.StatusBadResourceUnavailable:
		todo = "the server has no room for more: take fewer tags, or read some in a device with mode: poll"
	case ua.StatusBadIndexRangeInvalid, ua.StatusBadIndexRangeNoData:
		todo = "check the index range of its address"
	}
	return fmt.Sprintf("%s (%s): %s; %s", sub.tagName(h), sub.dev.Tags[sub.tags[h]].Address, cause, todo)
}

// whyAbsent is the reason of a tag that is not monitored.
func (t symbols) whyAbsent(status ua.StatusCode) protocols.Reason {
	switch status {
	case noNamespace, noPath:
		return protocols.NoSuchNode
	case manyPaths:
		return ambiguousPath
	}
	return t.reason(status)
}

// monitored returns the handles of the items that are.
func (p *publisher) monitored(sub *subscription) []int {
	return p.handles(sub, true)
}

func (p *publisher) handles(sub *subscription, on bool) []int {
	p.making.Lock()
	defer p.making.Unlock()
	var list []int
	for h := range sub.items {
		if sub.items[h].on == on {
			list = append(list, h)
		}
	}
	return list
}

// retry asks again for the items that are not monitored, without touching the
// others.
func (p *publisher) retry(ctx context.Context) {
	for _, sub := range p.subscriptions() {
		if sub.absent.Load() == 0 {
			continue
		}
		if err := p.retryItems(ctx, sub); err != nil && ctx.Err() == nil {
			p.log.Debug("asking again for tags that are not monitored", slog.String("device", sub.dev.ID), slog.Any("error", err))
		}
	}
}

// resolveAgain finds out where browse paths lead now: those that led nowhere,
// and those whose nodes are gone.
func (p *publisher) resolveAgain(ctx context.Context, sub *subscription, handles []int) error {
	paths := false
	for _, h := range handles {
		if a := &sub.addrs[h]; a.kind == pathKind {
			paths = true
			if a.found != nil {
				p.session.paths.forget(a, time.Now().Add(-pathRetry))
			}
		}
	}
	if !paths {
		return nil
	}
	fresh := slices.Clone(sub.addrs)
	if err := p.bus.resolvePaths(ctx, p.session, fresh); err != nil {
		return err
	}
	book := p.session.types.Load()
	// Values are made with the addresses while deliver is held.
	p.deliver.Lock()
	defer p.deliver.Unlock()
	p.making.Lock()
	defer p.making.Unlock()
	for h := range fresh {
		a := &sub.addrs[h]
		if a.kind != pathKind || fresh[h].found == nil || a.found == fresh[h].found {
			continue
		}
		a.found = fresh[h].found
		if t := &sub.dev.Tags[sub.tags[h]]; book != nil {
			a.form = &form{book: book, dev: sub.dev, tag: t.Name, node: a.found, later: &laterForm{spec: t}}
		}
	}
	return nil
}

// addressCopy returns an address that nothing changes any more.
func (p *publisher) addressCopy(sub *subscription, h int) *address {
	p.making.Lock()
	defer p.making.Unlock()
	a := sub.addrs[h]
	return &a
}

func (p *publisher) retryItems(ctx context.Context, sub *subscription) error {
	if err := p.resolveAgain(ctx, sub, p.handles(sub, false)); err != nil {
		return err
	}
	failed, err := p.makeAgain(ctx, sub)
	if err != nil || len(failed) == 0 {
		return err
	}
	// Without shaping: who waits for that may be the one who empties the reports.
	p.deliver.Lock()
	defer p.deliver.Unlock()
	p.send(ctx, protocols.Report{Device: sub.dev, Time: p.bus.driver.o.Now(), Readings: failed})
	return nil
}

// makeAgain asks for the items that are not monitored, and returns the tags
// whose reason is another one now.
func (p *publisher) makeAgain(ctx context.Context, sub *subscription) ([]protocols.Reading, error) {
	p.shaping.Lock()
	defer p.shaping.Unlock()
	handles := p.handles(sub, false)
	// What is asked for is a copy: notifications may change what is known of the
	// items in the meantime.
	p.making.Lock()
	like := &subscription{id: sub.id, dev: sub.dev, tags: sub.tags, addrs: sub.addrs, interval: sub.interval, items: slices.Clone(sub.items)}
	p.making.Unlock()
	p.findRanges(ctx, like, handles)
	list, err := p.createItems(ctx, like, handles)
	if err != nil {
		return nil, err
	}
	replaced, failed := p.applyRetry(sub, list)
	if len(replaced) > 0 {
		// The items of nodes that had vanished; the new ones have their handles.
		_, _ = call[*ua.DeleteMonitoredItemsResponse](ctx, p.session, &ua.DeleteMonitoredItemsRequest{SubscriptionID: sub.id, MonitoredItemIDs: replaced})
	}
	slices.SortFunc(failed, byTag)
	return failed, nil
}

// applyRetry takes in what became of a second try. It returns the items that
// are replaced, and the tags whose reason is another one now.
func (p *publisher) applyRetry(sub *subscription, list []made) (replaced []uint32, failed []protocols.Reading) {
	p.making.Lock()
	defer p.making.Unlock()
	for _, m := range list {
		it := &sub.items[m.handle]
		switch {
		case m.item.on:
			if it.id != 0 {
				replaced = append(replaced, it.id)
			}
			if !it.on {
				sub.absent.Add(-1)
			}
			*it = m.item
			p.dirty.Store(true)
		case !it.on && it.trouble&symbolMask != m.item.trouble&symbolMask:
			it.trouble = m.item.trouble
			r := protocols.Reading{Tag: sub.tags[m.handle]}
			r.SetBad(p.bus.driver.symbols.whyAbsent(it.trouble))
			failed = append(failed, r)
			p.dirty.Store(true)
		}
	}
	return replaced, failed
}
