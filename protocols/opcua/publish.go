package opcua

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

const (
	// publishers is how many PublishRequests are with the server. With one
	// alone it would have to wait a round trip between two responses.
	publishers = 2
	// publishTimeout is how long a PublishRequest may wait at the server. It is
	// the watchdog that notices when nothing comes.
	publishTimeout = time.Hour
	// publishPause follows a PublishRequest that the server had no room for.
	publishPause = time.Second
	// maxAhead is how many messages may wait for one before them. No server that
	// answers PublishRequests in their order lets it come to that.
	maxAhead = 100
	// watchEvery is how often the watchdog looks.
	watchEvery = 250 * time.Millisecond
	// probeAfter is how long nothing at all may come before the server is asked
	// whether it is there.
	probeAfter = 2 * keepAlive
)

// publisher keeps PublishRequests with the server, and makes reports of what
// comes back. Its goroutines end when cancel is called or the connection
// breaks; wait returns when they have.
type publisher struct {
	bus     *bus
	session *session
	log     *slog.Logger
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	start   func() // starts the goroutines, once
	failing sync.Once

	// shaping is held while what is monitored changes on the server, by requests
	// one after another.
	shaping sync.Mutex

	// making is held while a subscription is made: a response for it may
	// arrive before the server has said its id. It guards subs.
	making sync.Mutex
	subs   map[uint32]*subscription

	// deliver is held while a response is worked on and reported, so that the
	// order of a device's values is kept. Who holds making never waits for it,
	// as the one who makes a subscription also empties the reports.
	deliver sync.Mutex
	acks    []*ua.SubscriptionAcknowledgement
	resumed []protocols.Report         // to be sent before all else
	unsent  []protocols.Report         // that the connection's end left behind
	gaps    map[*subscription]struct{} // those with messages that wait for an earlier one

	began   time.Time
	heard   atomic.Int64 // when anything came from the server, since began
	blocked atomic.Bool  // the reports are full: nobody can tell whether the server is silent

	made        atomic.Uint64 // counts the subscriptions, before and after each is made
	wake        chan struct{} // there are subscriptions again
	dirty       atomic.Bool   // what is monitored may have changed
	told        map[*protocols.Device]protocols.Monitoring
	perRead     int // nodes of one Read
	noRepublish atomic.Bool
}

// message is one numbered NotificationMessage.
type message struct {
	at   time.Time
	data []*ua.ExtensionObject
}

func newPublisher(b *bus, s *session) *publisher {
	// It outlives the call that makes it, up to the end of the session.
	ctx, cancel := context.WithCancel(context.Background())
	p := &publisher{
		bus: b, session: s, log: b.log, cancel: cancel, subs: make(map[uint32]*subscription), gaps: make(map[*subscription]struct{}), began: time.Now(),
		wake: make(chan struct{}, publishers), told: make(map[*protocols.Device]protocols.Monitoring), perRead: maxNodesPerRead,
	}
	if s != nil {
		p.perRead = s.limits.perRead
	}
	p.start = sync.OnceFunc(func() {
		p.wg.Go(func() {
			p.begin(ctx)
			for i := range publishers {
				p.wg.Go(func() { p.publish(ctx, i) })
			}
			p.watch(ctx)
		})
	})
	return p
}

func (p *publisher) wait() { p.wg.Wait() }

// add makes a subscription on the server and begins to listen to it.
func (p *publisher) add(ctx context.Context, sub *subscription, interval time.Duration) error {
	p.shaping.Lock()
	defer p.shaping.Unlock()
	p.making.Lock()
	defer p.making.Unlock()
	p.made.Add(1)
	defer p.made.Add(1)
	if err := p.create(ctx, sub, interval); err != nil {
		if sub.id != 0 {
			// Half of it is worse than none; if this fails too, the loop above
			// closes the session.
			_, _ = call[*ua.DeleteSubscriptionsResponse](ctx, p.session, &ua.DeleteSubscriptionsRequest{SubscriptionIDs: []uint32{sub.id}})
		}
		return err
	}
	if _, taken := p.subs[sub.id]; taken || sub.id == 0 {
		return fmt.Errorf("%w: subscription id %d, given twice or none", errMalformed, sub.id)
	}
	now := p.now()
	sub.heard.Store(now)
	p.heard.Store(now)
	p.subs[sub.id] = sub
	p.dirty.Store(true)
	p.start()
	for range publishers {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

func (p *publisher) now() int64 { return int64(time.Since(p.began)) }

// publish sends one PublishRequest after another. who counts the goroutines
// that do so.
func (p *publisher) publish(ctx context.Context, who int) {
	for ctx.Err() == nil {
		made := p.made.Load()
		req := p.request()
		res, err := answer[*ua.PublishResponse](p.session.ch.request(ctx, req, p.session.token, publishTimeout))
		at := p.bus.driver.o.Now()
		p.deliver.Lock()
		if err == nil {
			p.take(ctx, who, res, at)
		} else {
			// The server may not have heard of these.
			p.acks = append(req.SubscriptionAcknowledgements, p.acks...)
		}
		p.passed(ctx, who)
		p.deliver.Unlock()
		switch {
		case err == nil:
		case errors.Is(err, ua.StatusBadTimeout):
		case errors.Is(err, ua.StatusBadTooManyPublishRequests):
			pause(ctx, publishPause)
		case errors.Is(err, ua.StatusBadNoSubscription) && (p.idle(ctx) || p.made.Load() != made):
			// There are none, or one is new.
		case ctx.Err() == nil:
			p.refused(ctx, err)
		}
	}
}

// refused gives up, for an error that a PublishRequest was answered with.
func (p *publisher) refused(ctx context.Context, err error) {
	p.session.note(err)
	if errors.Is(err, ua.StatusBadNoSubscription) {
		for _, sub := range p.subscriptions() {
			sub.dead.Store(true)
		}
	}
	p.fail(ctx, p.bus.explain("waiting for changes", err))
}

// idle waits until there is a subscription, if there is none; it is false if
// there was one all the time.
func (p *publisher) idle(ctx context.Context) bool {
	if len(p.subscriptions()) > 0 {
		return false
	}
	select {
	case <-ctx.Done():
	case <-p.wake:
	}
	return true
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (p *publisher) request() *ua.PublishRequest {
	p.deliver.Lock()
	defer p.deliver.Unlock()
	acks := p.acks
	p.acks = nil
	return &ua.PublishRequest{SubscriptionAcknowledgements: acks}
}

// fail reports, once, that the connection must be made anew. Subscriptions
// that are not dead may go on then.
func (p *publisher) fail(ctx context.Context, err *protocols.Error) {
	p.failing.Do(func() {
		if p.session != nil {
			p.session.broken.Store(true)
		}
		p.making.Lock()
		var devices []*protocols.Device
		for _, sub := range p.subs {
			if !slices.Contains(devices, sub.dev) {
				devices = append(devices, sub.dev)
			}
		}
		p.making.Unlock()
		now := p.bus.driver.o.Now()
		for _, d := range devices {
			p.send(ctx, protocols.Report{Device: d, Time: now, Err: err})
		}
		p.cancel()
	})
}

// send hands a report over, and waits where the collector is behind. What the
// connection's end keeps it from, the next one does.
func (p *publisher) send(ctx context.Context, r protocols.Report) {
	select {
	case p.bus.reports <- r:
		return
	default:
	}
	p.blocked.Store(true)
	select {
	case p.bus.reports <- r:
	case <-ctx.Done():
		if r.Err == nil && r.Resumed == nil {
			p.unsent = append(p.unsent, r)
		}
	}
	p.blocked.Store(false)
}

// take works on one response, which arrived at the given time. Like all that
// it calls, it wants deliver held.
func (p *publisher) take(ctx context.Context, who int, res *ua.PublishResponse, at time.Time) {
	p.making.Lock()
	sub := p.subs[res.SubscriptionID]
	p.making.Unlock()
	now := p.now()
	p.heard.Store(now)
	if sub == nil || res.NotificationMessage == nil {
		return
	}
	sub.heard.Store(now)
	n, m := res.NotificationMessage.SequenceNumber, &message{at: at, data: res.NotificationMessage.NotificationData}
	p.tellMonitoring(ctx)
	if len(m.data) == 0 {
		// A keep-alive.
		sub.past.alive(at)
		if len(sub.failed) > 0 {
			p.report(ctx, sub, m)
		}
		p.expect(sub, who, n)
		return
	}
	p.order(ctx, who, sub, n, m)
	p.acks = append(p.acks, &ua.SubscriptionAcknowledgement{SubscriptionID: sub.id, SequenceNumber: n})
}

// order delivers messages in the order of their numbers. Several goroutines
// take responses, and the one with the earlier may be the later to get here.
func (p *publisher) order(ctx context.Context, who int, sub *subscription, n uint32, m *message) {
	switch {
	case n == 0: // no number; some servers do not count
		p.report(ctx, sub, m)
		return
	case int32(n-sub.next) < 0:
		return // it came twice, or too late
	}
	if n != sub.next && len(sub.ahead) == 0 {
		p.waitFor(sub, who)
	}
	before := sub.next
	sub.ahead[n] = m
	p.deliverNext(ctx, sub)
	switch {
	case len(sub.ahead) == 0 && !sub.behind():
		delete(p.gaps, sub)
	case sub.next != before:
		p.waitFor(sub, who) // for another one
	}
}

// expect takes in the number that a keep-alive says comes next (Part 4,
// 5.14.1.2). If it is further on, a message has not arrived yet.
func (p *publisher) expect(sub *subscription, who int, n uint32) {
	if n == 0 || int32(n-sub.next) <= 0 {
		return
	}
	sub.until = n
	if _, waits := p.gaps[sub]; !waits {
		p.waitFor(sub, who)
	}
}

// behind says that messages are known to have been sent that have not come.
func (s *subscription) behind() bool { return s.until != 0 && int32(s.until-s.next) > 0 }

// noPublisher stands for none of the goroutines that publish.
const noPublisher = publishers

// waitFor notes that a message is missing, which any goroutine but the given
// one may have in its hands.
func (p *publisher) waitFor(sub *subscription, who int) {
	sub.unseen = (1<<publishers - 1) &^ (1 << who)
	p.gaps[sub] = struct{}{}
}

// passed notes that a goroutine has nothing in its hands. A message that none
// of them has brought never came.
func (p *publisher) passed(ctx context.Context, who int) {
	for sub := range p.gaps {
		sub.unseen &^= 1 << who
		if sub.unseen == 0 || len(sub.ahead) >= maxAhead {
			delete(p.gaps, sub)
			p.giveUp(ctx, sub)
		}
	}
}

// deliverNext reports what waited for nothing but its turn.
func (p *publisher) deliverNext(ctx context.Context, sub *subscription) {
	for m := sub.ahead[sub.next]; m != nil; m = sub.ahead[sub.next] {
		delete(sub.ahead, sub.next)
		sub.next = following(sub.next)
		p.report(ctx, sub, m)
	}
}

// following is the number after n; 0 is left out (Part 4, 7.25).
func following(n uint32) uint32 {
	if n == math.MaxUint32 {
		return 1
	}
	return n + 1
}

// report makes reports of a message: one, or several where it holds several
// values of one tag.
func (p *publisher) report(ctx context.Context, sub *subscription, m *message) {
	readings, err := p.readings(sub, m)
	p.noteTold(sub, readings, m.at)
	for _, part := range split(readings) {
		p.send(ctx, protocols.Report{Device: sub.dev, Time: m.at, Readings: part, Lost: sub.lost})
		sub.lost = 0
	}
	if err != nil {
		sub.dead.Store(true)
		p.fail(ctx, p.bus.explain("waiting for changes", err))
	}
}

// readings decodes the data of a message, behind the tags that could not be
// subscribed if those are yet to be told. An error says that the subscription
// is gone.
func (p *publisher) readings(sub *subscription, m *message) ([]protocols.Reading, error) {
	size := len(sub.failed)
	for _, d := range m.data {
		if change, ok := notificationOf(d).(*ua.DataChangeNotification); ok {
			size += len(change.MonitoredItems)
		}
	}
	list := append(make([]protocols.Reading, 0, size), sub.failed...)
	sub.failed = nil
	var gone error
	for _, d := range m.data {
		switch n := notificationOf(d).(type) {
		case *ua.DataChangeNotification:
			for _, item := range n.MonitoredItems {
				list = p.appendReading(list, sub, item)
			}
		case *ua.StatusChangeNotification:
			gone = n.Status
			if isGood(n.Status) {
				// Good_SubscriptionTransferred: somebody else has it now.
				gone = ua.StatusBadNoSubscription
			}
		}
	}
	return list, gone
}

func notificationOf(d *ua.ExtensionObject) any {
	if d == nil {
		return nil
	}
	return d.Value
}

func (p *publisher) appendReading(list []protocols.Reading, sub *subscription, item *ua.MonitoredItemNotification) []protocols.Reading {
	if item == nil || item.Value == nil || item.ClientHandle >= uint32(len(sub.tags)) {
		return list
	}
	if overflowed(item.Value.Status) {
		p.bus.stats.overflows.Add(1)
		sub.lost++
		sub.spilled = append(sub.spilled, len(list))
		p.bus.missed(sub, causeOverflow)
	}
	if sub.absent.Load() > 0 || isBad(item.Value.Status) {
		p.noteNode(sub, item)
	}
	list = append(list, protocols.Reading{Tag: sub.tags[item.ClientHandle]})
	p.bus.driver.symbols.fill(&list[len(list)-1], item.Value, &sub.addrs[item.ClientHandle])
	return list
}

// split puts readings in the order of their tags. The second value of a tag
// goes into a second list, and so on.
func split(list []protocols.Reading) [][]protocols.Reading {
	if len(list) == 0 {
		return nil
	}
	ascending := true
	for i := 1; i < len(list) && ascending; i++ {
		ascending = list[i-1].Tag < list[i].Tag
	}
	if ascending {
		return [][]protocols.Reading{list}
	}
	slices.SortStableFunc(list, byTag)
	var parts [][]protocols.Reading
	nth := 0
	for i := range list {
		nth++
		if i == 0 || list[i].Tag != list[i-1].Tag {
			nth = 0
		}
		if nth == len(parts) {
			parts = append(parts, make([]protocols.Reading, 0, len(list)-i))
		}
		parts[nth] = append(parts[nth], list[i])
	}
	return parts
}

// watch gives the subscriptions up when the server falls silent, and sees to
// what is not monitored. A server that has lost them may still answer every
// other request, so their keep-alives are what counts.
func (p *publisher) watch(ctx context.Context) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	retried := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		p.readAgain(ctx, p.bus.catchUp(ctx, p.session))
		if err := p.look(ctx); err != nil && ctx.Err() == nil {
			p.fail(ctx, err)
			return
		}
		if time.Since(retried) >= p.bus.driver.retryEvery {
			p.retry(ctx)
			retried = time.Now()
		}
		p.refreshStale(ctx)
		p.deliver.Lock()
		p.tellMonitoring(ctx)
		p.tellAdvice(ctx)
		p.deliver.Unlock()
	}
}

// look says what is wrong, if anything is.
func (p *publisher) look(ctx context.Context) *protocols.Error {
	now := p.now()
	subs := p.subscriptions()
	if p.blocked.Load() {
		p.heard.Store(now)
		for _, sub := range subs {
			sub.heard.Store(now)
		}
		return nil
	}
	for _, sub := range subs {
		if mute := time.Duration(now - sub.heard.Load()); mute > sub.silence {
			p.dismiss(subs, now)
			return &protocols.Error{Kind: protocols.KindNotConnected, Reason: protocols.Offline, Text: fmt.Sprintf(
				"%s: the subscription for %s has been silent for %s, without a keep-alive; it is made anew", p.bus.conf.url.Host, sub.dev.ID, mute.Round(time.Second))}
		}
	}
	if time.Duration(now-p.heard.Load()) < probeAfter {
		return nil
	}
	return p.probe(ctx)
}

// dismiss marks the silent subscriptions as dead: those of one server fall
// silent together, and one after the other is not what they are waited for.
func (p *publisher) dismiss(subs []*subscription, now int64) {
	for _, sub := range subs {
		if time.Duration(now-sub.heard.Load()) > sub.silence/2 {
			sub.dead.Store(true)
		}
	}
}

// probe asks for the server's time, and is content with any answer.
func (p *publisher) probe(ctx context.Context) *protocols.Error {
	_, err := call[*ua.ReadResponse](ctx, p.session, &ua.ReadRequest{
		NodesToRead: []*ua.ReadValueID{valueOfNode(ua.NewNumericNodeID(0, id.Server_ServerStatus_CurrentTime), "")},
	})
	p.heard.Store(p.now())
	if err == nil {
		return nil
	}
	e := p.bus.explain("asking whether the server is there", err)
	switch e.Kind {
	case protocols.KindTimeout:
		// A server that does not answer this has lost the connection.
		return &protocols.Error{Kind: protocols.KindNotConnected, Reason: protocols.Offline, Text: e.Text, Err: e}
	case protocols.KindNotConnected:
		return e
	case protocols.KindRefused, protocols.KindMalformed, protocols.KindBadAddress, protocols.KindUntrusted:
	}
	return nil
}
