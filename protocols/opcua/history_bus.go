package opcua

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"millrace/protocols"
)

// pasts are what was told of the devices of a bus. They outlive sessions.
type pasts struct {
	mu    sync.Mutex
	all   []*past
	saver saver
	wake  chan struct{} // holds one: the historian of the session is to look for gaps
}

// lookAtHistory has the gaps of all devices looked at. It may be called by any
// goroutine.
func (b *bus) lookAtHistory() {
	select {
	case b.pasts.wake <- struct{}{}:
	default:
	}
}

// pastOf returns a device's past, which it takes from the memory at first.
func (b *bus) pastOf(d *protocols.Device) *past {
	b.pasts.mu.Lock()
	defer b.pasts.mu.Unlock()
	for _, p := range b.pasts.all {
		if p.dev == d {
			return p
		}
	}
	p := newPast(d)
	if err := p.load(b.driver.o.Memory); err != nil {
		b.log.Warn("what was missed since the last run cannot be read from the history", slog.Any("error", err))
	}
	b.pasts.all = append(b.pasts.all, p)
	return p
}

// listening returns the pasts of the devices whose subscriptions stand.
func (b *bus) listening() []*past {
	b.pasts.mu.Lock()
	defer b.pasts.mu.Unlock()
	var list []*past
	for _, p := range b.pasts.all {
		p.mu.Lock()
		if p.listening {
			list = append(list, p)
		}
		p.mu.Unlock()
	}
	return list
}

// forgetPast keeps the cursors of a device that is not listened to any more,
// for the one with its name that may follow it.
func (b *bus) forgetPast(d *protocols.Device) {
	b.pasts.mu.Lock()
	defer b.pasts.mu.Unlock()
	i := slices.IndexFunc(b.pasts.all, func(p *past) bool { return p.dev == d })
	if i < 0 {
		return
	}
	p := b.pasts.all[i]
	b.pasts.all = slices.Delete(b.pasts.all, i, i+1)
	p.ended()
	b.savePast(p, true)
}

// leavePasts notes that all subscriptions have ended; by themselves, or with a
// connection that broke.
func (b *bus) leavePasts(broken bool) {
	b.pasts.mu.Lock()
	for _, p := range b.pasts.all {
		p.ended()
		if !broken { // at a stop
			b.savePast(p, true)
		}
	}
	b.pasts.mu.Unlock()
	b.savePasts(true)
}

// savePasts keeps the cursors for the next run. ended says that what was told
// will not be lost with this one.
func (b *bus) savePasts(ended bool) {
	if b.driver.o.Memory == nil {
		return
	}
	b.pasts.mu.Lock()
	defer b.pasts.mu.Unlock()
	if !slices.ContainsFunc(b.pasts.all, (*past).unsaved) || ended && !b.pasts.saver.may(time.Now()) {
		return
	}
	for _, p := range b.pasts.all {
		b.savePast(p, ended)
	}
}

func (b *bus) savePast(p *past, ended bool) {
	if err := p.save(b.driver.o.Memory, ended); err != nil {
		b.log.Debug("the cursors of a device could not be kept", slog.String("device", p.dev.ID), slog.Any("error", err))
	}
}

// resumePast begins a gap where there was an outage before the subscriptions
// that are about to be made: those that outlived it have missed nothing.
func (b *bus) resumePast(d *protocols.Device, fresh []*subscription) *past {
	p := b.pastOf(d)
	var tags []int
	for _, sub := range fresh {
		for _, t := range sub.tags {
			tags = append(tags, int(t))
		}
	}
	if len(tags) > 0 {
		p.resume(tags, b.driver.o.Now())
	}
	return p
}

// noteTold notes what is about to be handed over of a message. What the end of
// a connection keeps from the collector it gets later.
func (p *publisher) noteTold(sub *subscription, readings []protocols.Reading, at time.Time) {
	sub.past.told(readings, sub.spilled, at)
	if len(sub.spilled) > 0 {
		sub.spilled = sub.spilled[:0]
		p.bus.lookAtHistory()
	}
}
