package opcua

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"

	"millrace/protocols"
)

// reportsRoom is how many reports may wait for the collector. When they are
// full no more is asked of the server, whose item queues then fill.
const reportsRoom = 64

// bus is one session with a server, and what is read and subscribed in it.
type bus struct {
	driver *Driver
	log    *slog.Logger
	conf   *connConf
	// devices is how many devices of the configuration are on it.
	devices int

	session  *session  // nil: not connected
	survivor *survivor // what the connection before left behind; nil: nothing
	// subscribed are the devices that Subscribe was called for: a second time is
	// after a break.
	subscribed map[*protocols.Device]bool
	unsent     []protocols.Report // from before the break, for the next publisher
	// generation counts the sessions: scans and subscriptions made for another
	// one must be made anew.
	generation uint64
	reports    chan protocols.Report
	stats      counters
	pasts      pasts
	notes      []string // of the last session's security

	types    *typeBook // what is known of the server's data types; nil: nothing yet
	typesKey serverKey // whose they are
	typesOf  uint64    // the generation for which that was checked
}

// counters are what a bus counts; they outlive its connections.
type counters struct {
	overflows, missing, misses atomic.Uint64
}

// Stats is what a bus knows of notifications that never arrived.
type Stats struct {
	// Overflows counts the notifications whose item's queue had overflowed on
	// the server: at least as many older values are lost.
	Overflows uint64
	// Missing counts whole notification messages that were numbered but never came.
	Missing uint64
}

func newBus(d *Driver, conf *connConf) *bus {
	return &bus{
		driver: d, conf: conf,
		log:        d.o.Log.With(slog.String("endpoint", conf.url.Host)),
		subscribed: make(map[*protocols.Device]bool),
		reports:    make(chan protocols.Report, reportsRoom),
		pasts:      pasts{wake: make(chan struct{}, 1)},
	}
}

// Stats returns the counts since the bus was opened. It may be called by any
// goroutine.
func (b *bus) Stats() Stats {
	return Stats{Overflows: b.stats.overflows.Load(), Missing: b.stats.missing.Load()}
}

// keepUnsent keeps what a session that was closed had received.
func (b *bus) keepUnsent(s *session) {
	if s.pub == nil {
		return
	}
	var v survivor
	s.pub.survive(&v)
	for _, sub := range v.subs {
		s.pub.abandon(sub)
	}
}

// flushUnsent puts into the queue of reports what had no room there, as far as
// it has now.
func (b *bus) flushUnsent() {
	for len(b.unsent) > 0 {
		select {
		case b.reports <- b.unsent[0]:
			b.unsent = b.unsent[1:]
		default:
			return
		}
	}
	b.unsent = nil
}

// Connect makes a session, after closing the one there was.
func (b *bus) Connect(ctx context.Context) error {
	if err := b.Close(); err != nil { //nolint:contextcheck // closing is bounded by itself, and must not be cut short
		return err
	}
	if b.conf.security.policy != policyNone {
		// Made once in a gateway's life, which may take a small one longer than
		// the time-out.
		if _, err := b.driver.identity(); err != nil {
			return &protocols.Error{Kind: protocols.KindNotConnected, Reason: protocols.Offline, Text: b.conf.url.Host + ": " + err.Error(), Err: err}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, b.conf.timeout)
	defer cancel()
	s, err := b.driver.openSession(ctx, b.conf, b.survivor)
	if err != nil {
		return b.explain("connecting", err)
	}
	s.logLimits(b.log)
	b.session = s
	b.notes = s.notes
	b.generation++
	old := b.survivor
	b.survivor = nil
	if old == nil && len(b.unsent) > 0 {
		old = &survivor{}
	}
	if old != nil {
		b.takeUp(ctx, s, old)
	}
	return nil
}

// Close ends the session, if there is one. One whose connection has broken is
// kept for the next Connect. What was received and had no room in the queue of
// reports goes there; closing again brings the rest.
func (b *bus) Close() error {
	if b.session == nil {
		b.flushUnsent()
		b.leavePasts(true)
		return nil
	}
	s := b.session
	b.session = nil
	broken := s.broken.Load()
	if broken {
		s.cut()
	} else {
		broken = !s.close()
	}
	if broken {
		b.survivor = s.survive(b.survivor)
	} else {
		b.keepUnsent(s)
	}
	b.dropErrors()
	b.flushUnsent()
	b.leavePasts(broken)
	return nil
}

// dropErrors takes the reports of failed subscriptions out of the queue: they
// would be taken for failures of the next connection. What was received stays.
// Nobody writes to the queue while there is no session.
func (b *bus) dropErrors() {
	for range len(b.reports) {
		r := <-b.reports
		if r.Err == nil {
			b.reports <- r
		}
	}
}

func (b *bus) errNotConnected() *protocols.Error {
	return &protocols.Error{Kind: protocols.KindNotConnected, Reason: protocols.Offline, Text: b.conf.url.Host + ": there is no connection"}
}

// parseTags reads the addresses of tags.
func parseTags(d *protocols.Device, tags []int) ([]address, error) {
	addrs := make([]address, len(tags))
	for i, t := range tags {
		if t < 0 || t >= len(d.Tags) {
			return nil, fmt.Errorf("opcua: device %s has no tag %d", d.ID, t)
		}
		a, err := parseAddress(d.Tags[t].Address)
		if err != nil {
			return nil, &protocols.Error{Kind: protocols.KindBadAddress, Reason: protocols.NoSuchNode, Text: d.ID + ": " + d.Tags[t].Name + ": " + err.Error(), Err: err}
		}
		addrs[i] = a
	}
	return addrs, nil
}

// Reports is where changes come in.
func (b *bus) Reports() <-chan protocols.Report { return b.reports }
