package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	// returnLongest bounds Options.ReturnAfter, which doubles each time that
	// returning was in vain.
	returnLongest = time.Hour
	// settled is how long a session on the first broker must last to show that
	// returning was right.
	settled = 30 * time.Second
)

// errReturn ends a session on a fallback.
var errReturn = errors.New("the first broker answers again")

// brokers are the brokers of an uplink in their order, and which of them is
// used.
type brokers struct {
	all []*url.URL

	mu          sync.Mutex
	used        *url.URL      // or tried last
	from        int           // where the next attempt begins
	first, wait time.Duration // until the first broker is looked at, from a fallback
}

func newBrokers(all []*url.URL, first time.Duration) *brokers {
	return &brokers{all: all, used: all[0], first: first, wait: first}
}

// parseBrokers reads the addresses of o and the files of its TLS.
func parseBrokers(o *Options) ([]*url.URL, error) {
	var all []*url.URL
	secure := 0
	for _, text := range append([]string{o.Broker}, o.Fallbacks...) {
		b, err := parseBroker(text)
		if err != nil {
			return nil, err
		}
		if isSecure(b) {
			secure++
			if _, err := o.TLS.Config(b.Hostname()); err != nil {
				return nil, err
			}
		}
		all = append(all, b)
	}
	if secure == 0 && o.TLS != (TLS{}) {
		return nil, fmt.Errorf("tls is set, but %s:// is not encrypted; write %ss://", all[0].Scheme, all[0].Scheme)
	}
	return all, nil
}

func (b *brokers) inUse() *url.URL {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

func (b *brokers) use(broker *url.URL) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = broker
}

// order returns the brokers as they are to be tried: in their order, but after
// one whose primary host has gone, or that hangs, the next one first.
func (b *brokers) order() []*url.URL {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := b.from
	b.from = 0
	return append(append([]*url.URL(nil), b.all[at:]...), b.all[:at]...)
}

// ended notes how a session on a broker ended.
func (b *brokers) ended(broker *url.URL, cause error, lasted time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case errors.Is(cause, errHostOffline), errors.Is(cause, errNoAck), errors.Is(cause, errSilent), isTimeout(cause):
		// It would be connected to at once, and hang again.
		for i, other := range b.all {
			if other == broker {
				b.from = (i + 1) % len(b.all)
			}
		}
	case broker == b.all[0] && lasted >= settled:
		b.wait = b.first
	}
}

// patience is how long an uplink stays on a fallback before it looks whether
// the first broker can be reached: spread, so that gateways that left it
// together do not return together.
func (b *brokers) patience() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wait/2 + rand.N(b.wait) //nolint:gosec // spreading load, not a secret
}

// returns notes that the first broker is tried again: the next time later,
// until a session there has lasted.
func (b *brokers) returns() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wait = min(2*b.wait, returnLongest)
}

// openAny makes a session with the first of the brokers that takes us on. The
// error says why none did; it is a *LinkError, unless ctx ended.
func (u *Uplink) openAny(ctx context.Context, acked func(uint64)) (*session, error) {
	var texts []string
	var last *LinkError
	refused := true
	for _, broker := range u.brokers.order() {
		u.brokers.use(broker)
		s, err := u.openOne(ctx, broker, acked)
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		last = u.refused(broker, err)
		refused = refused && last.refused
		texts = append(texts, last.Text)
	}
	if len(texts) > 1 {
		last = &LinkError{Err: last.Err, Text: strings.Join(texts, "; "), refused: refused}
	}
	u.noteError(last.Text)
	return nil, last
}

func (u *Uplink) openOne(ctx context.Context, broker *url.URL, acked func(uint64)) (*session, error) {
	s, err := u.open(ctx, broker, acked)
	if err != nil || u.edge == nil {
		return s, err
	}
	if err := u.edge.start(ctx, s); err != nil {
		s.giveUp()
		return nil, err
	}
	return s, nil
}

// scout looks from time to time, while s lasts, whether the first broker can
// be reached again, and ends s if it can. It signs on nowhere: an edge node of
// Sparkplug must not be connected to two brokers.
func (u *Uplink) scout(ctx context.Context, s *session) {
	for {
		timer := time.NewTimer(u.brokers.patience())
		select {
		case <-timer.C:
		case <-s.done:
			timer.Stop()
			return
		}
		if u.reachable(ctx, s, u.brokers.all[0]) {
			u.brokers.returns()
			s.farewell()
			s.fail(errReturn)
			return
		}
	}
}

// reachable says that a connection to broker can be made, TLS included.
func (u *Uplink) reachable(ctx context.Context, s *session, broker *url.URL) bool {
	ctx, cancel := context.WithTimeout(ctx, u.o.ConnectTimeout)
	defer cancel()
	u.running.Go(func() {
		select {
		case <-s.done:
			cancel()
		case <-ctx.Done():
		}
	})
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", broker.Host)
	if err != nil {
		return false
	}
	defer conn.Close()
	if !isSecure(broker) {
		return true
	}
	cfg, err := u.o.TLS.Config(broker.Hostname())
	if err != nil {
		return false
	}
	return tls.Client(conn, cfg).HandshakeContext(ctx) == nil
}
