package collector

import (
	"context"
	"time"

	"millrace/protocols"
)

const (
	// identifyDelay is how long a device has to answer until it is asked who it
	// is: the readings come first, and a connection that has just been made may
	// have a backlog.
	identifyDelay = 2 * time.Second
	// identifyGap is for how long, at the most, nothing may be due for the
	// question to be put: some devices take half a second to refuse it, and drop
	// what they are asked meanwhile (libmodbus). For identifyPatience such a gap
	// is waited for.
	identifyGap      = 500 * time.Millisecond
	identifyPatience = time.Minute
	// identifyTime is how long a device may take for the whole of its answer.
	identifyTime = 5 * time.Second
	// A question that the line has spoilt is put again after identifyRetry,
	// identifyTries times in all.
	identifyTries = 3
	identifyRetry = 20 * time.Second
	// identifyAgain is how long a device that was away is not asked again: it
	// may be another one by then, or have new firmware.
	identifyAgain = time.Hour
)

// identification is when a device is asked who it is.
type identification struct {
	since time.Time // the question waits since then; zero: there is none
	next  time.Time // when to look for a gap
	asked time.Time // last
	gone  bool      // it was offline since
	tries int       // that came to nothing
}

// wanted notes that the device answers.
func (i *identification) wanted(now time.Time) {
	if !i.since.IsZero() || !i.asked.IsZero() && (!i.gone || now.Sub(i.asked) < identifyAgain) {
		return
	}
	i.since, i.next = now.Add(identifyDelay), now.Add(identifyDelay)
}

// answers notes that d has answered, and may be asked who it is.
func (b *bus) answers(d *device) {
	if b.ident != nil && d.cfg.Identify {
		d.ident.wanted(b.now())
	}
}

// identifyDue returns a device that should be asked who it is now, if there
// is time until the next scan.
func (b *bus) identifyDue(now time.Time) *device {
	if b.ident == nil || !b.connected {
		return nil
	}
	for _, d := range b.devices {
		i := &d.ident
		if i.since.IsZero() || now.Before(i.next) || d.unit.silent || d.cfg.Modbus.CloseAfterScan {
			continue
		}
		g := b.sched.first()
		if g != nil && g.due.Sub(now) < min(d.cfg.Timeout, identifyGap) && now.Sub(i.since) < identifyPatience {
			i.next = g.due // behind it there may be a gap
			continue
		}
		return d
	}
	return nil
}

// identifyWake is when to look for a device to ask next; false: there is none.
func (b *bus) identifyWake() (at time.Time, found bool) {
	if b.ident == nil || !b.connected {
		return at, false
	}
	for _, d := range b.devices {
		i := &d.ident
		if i.since.IsZero() || d.unit.silent || d.cfg.Modbus.CloseAfterScan {
			continue
		}
		if !found || i.next.Before(at) {
			at, found = i.next, true
		}
	}
	return at, found
}

// identifyWithScan asks a device whose connection ends with its scan.
func (b *bus) identifyWithScan(work context.Context, d *device) {
	if b.ident != nil && !d.ident.since.IsZero() && !b.now().Before(d.ident.next) {
		b.identify(work, d)
	}
}

// identify asks d who it is. What comes of it changes nothing of its state.
func (b *bus) identify(work context.Context, d *device) {
	// Before it is asked: whatever happens then does not happen again at once.
	d.ident = identification{asked: b.now(), tries: d.ident.tries + 1}
	ctx, cancel := context.WithTimeout(work, identifyTime)
	defer cancel()
	who, err := b.ident.Identify(ctx, d.cfg)
	if err == nil {
		d.ident.tries = 0
	} else {
		d.log.Debug("the device was asked who it is", "error", err)
		if protocols.KindOf(err) != protocols.KindRefused && d.ident.tries < identifyTries {
			d.ident.since = b.now().Add(identifyRetry)
			d.ident.next = d.ident.since
		}
	}
	if protocols.KindOf(err) == protocols.KindNotConnected {
		b.dropConnection(err)
		// Without waiting for the next scan, which should find it.
		if work.Err() == nil && len(b.subs) == 0 && !d.cfg.Modbus.CloseAfterScan {
			b.connect(work, b.now())
		}
	}
	if who = who.Clean(); who != (protocols.Identity{}) {
		d.identified(who)
	}
}

// identified takes in what the device says of itself.
func (d *device) identified(who protocols.Identity) {
	d.view.mu.Lock()
	before := d.view.identity
	d.view.identity = who
	d.view.mu.Unlock()
	if who != before {
		d.log.Info("the device says who it is", "maker", who.Maker, "model", who.Model, "product", who.Product,
			"serial", who.Serial, "version", who.Version, "software", who.Software)
	}
}
