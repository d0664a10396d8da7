package opcua

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// message with the value n for the first tag.
func numbered(n int32) []*ua.ExtensionObject {
	return []*ua.ExtensionObject{ua.NewExtensionObject(&ua.DataChangeNotification{MonitoredItems: []*ua.MonitoredItemNotification{{
		Value: &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(n)},
	}}})}
}

// TestOrder feeds messages as two goroutines may bring them.
func TestOrder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		numbers []uint32 // of messages, 0: a keep-alive; from 100 on: the second goroutine's
		want    []int64
		missing uint64
	}{
		"in order":               {[]uint32{1, 102, 3}, []int64{1, 2, 3}, 0},
		"swapped":                {[]uint32{2, 101, 3}, []int64{1, 2, 3}, 0},
		"one goroutine far back": {[]uint32{1, 3, 4, 5, 0, 6, 102, 107}, []int64{1, 2, 3, 4, 5, 6, 7}, 0},
		"twice":                  {[]uint32{1, 101, 2, 1}, []int64{1, 2}, 0},
		"one lost":               {[]uint32{1, 3, 4, 105, 6}, []int64{1, 3, 4, 5, 6}, 1},
		"lost, then silence":     {[]uint32{1, 3, 100, 4}, []int64{1, 3, 4}, 1},
		"two lost":               {[]uint32{1, 3, 5, 106}, []int64{1, 3, 5, 6}, 2},
		"keep-alives between":    {[]uint32{0, 1, 100, 0, 2}, []int64{1, 2}, 0},
		"waits for the missed":   {[]uint32{1, 3, 4}, []int64{1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conf := &connConf{timeout: time.Second}
			var err error
			if conf.url, err = parseEndpoint("opc.tcp://h"); err != nil {
				t.Fatal(err)
			}
			b := newBus(New(Options{Log: slog.New(slog.DiscardHandler)}), conf)
			p := newPublisher(b, nil)
			defer p.cancel()
			p.subs[7] = &subscription{id: 7, dev: &protocols.Device{}, past: newPast(&protocols.Device{}), tags: []int32{5}, addrs: make([]address, 1), next: 1, ahead: make(map[uint32]*message)}
			for _, n := range c.numbers {
				who := int(n / 100)
				n %= 100
				m := &ua.NotificationMessage{SequenceNumber: n}
				if n > 0 {
					m.NotificationData = numbered(int32(n))
				}
				p.take(context.Background(), who, &ua.PublishResponse{SubscriptionID: 7, NotificationMessage: m}, time.Now())
				p.passed(context.Background(), who)
			}
			var got []int64
			for range len(b.reports) {
				r := <-b.reports
				got = append(got, r.Readings[0].Value.AsInt())
			}
			if !slices.Equal(got, c.want) || b.Stats().Missing != c.missing {
				t.Errorf("%v, %d missing", got, b.Stats().Missing)
			}
		})
	}
}

// TestEndBehindALostMessage ends a subscription that waits for a message, with
// values behind it that have arrived, one of them bad: these are kept, and the
// gap before them is told.
func TestEndBehindALostMessage(t *testing.T) {
	t.Parallel()
	conf := &connConf{timeout: time.Second}
	var err error
	if conf.url, err = parseEndpoint("opc.tcp://h"); err != nil {
		t.Fatal(err)
	}
	b := newBus(New(Options{Log: slog.New(slog.DiscardHandler)}), conf)
	p := newPublisher(b, nil)
	defer p.cancel()
	d := &protocols.Device{ID: "d", Tags: []protocols.Tag{{Name: "t", Address: "i=1"}}, OPCUA: protocols.OPCUAOptions{History: time.Hour}}
	sub := &subscription{id: 7, dev: d, past: newPast(d), tags: []int32{0}, addrs: make([]address, 1), items: make([]item, 1), next: 1, ahead: make(map[uint32]*message)}
	p.subs[7] = sub
	send := func(n uint32, dv *ua.DataValue) {
		dv.EncodingMask |= ua.DataValueSourceTimestamp
		dv.SourceTimestamp = time.Unix(int64(n), 0).UTC()
		p.take(context.Background(), 0, &ua.PublishResponse{SubscriptionID: 7, NotificationMessage: &ua.NotificationMessage{SequenceNumber: n, NotificationData: []*ua.ExtensionObject{
			ua.NewExtensionObject(&ua.DataChangeNotification{MonitoredItems: []*ua.MonitoredItemNotification{{Value: dv}}}),
		}}}, time.Now())
	}
	send(1, &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(int32(1))})
	send(4, &ua.DataValue{EncodingMask: ua.DataValueStatusCode, Status: ua.StatusBadNodeIDUnknown})
	sub.dead.Store(true)
	var v survivor
	p.survive(&v)
	if len(v.subs) != 0 || len(b.unsent) != 1 || b.unsent[0].Readings[0].Reason != protocols.NoSuchNode || b.unsent[0].Lost != 2 || b.Stats().Missing != 2 {
		t.Fatalf("%+v, %+v", b.unsent, b.Stats())
	}
	if g := sub.past.first(); g == nil || g.cause != protocols.OutageMessages || len(g.spans) != 1 || g.spans[0].from.time != 1e9 || g.spans[0].to.time != 4e9 {
		t.Fatalf("%+v", g)
	}
}

func TestFollowing(t *testing.T) {
	t.Parallel()
	if following(1) != 2 || following(1<<32-1) != 1 {
		t.Error("numbers go on from 1, without 0")
	}
}

func TestStatusChangeEndsSubscription(t *testing.T) {
	t.Parallel()
	p := &publisher{bus: &bus{driver: New(Options{})}}
	for _, status := range []ua.StatusCode{ua.StatusBadTimeout, ua.StatusGoodSubscriptionTransferred} {
		_, err := p.readings(&subscription{}, &message{data: []*ua.ExtensionObject{nil, ua.NewExtensionObject(&ua.StatusChangeNotification{Status: status})}})
		if err == nil {
			t.Errorf("%s is no end", status)
		}
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":           "",
		"a1b1c1":     "a1b1c1",
		"c1a1b1":     "a1b1c1",
		"a1a2a3":     "a1/a2/a3",
		"b1a1b2c1":   "a1b1c1/b2",
		"b1b2a1a2b3": "a1b1/a2b2/b3",
	} {
		var list []protocols.Reading
		for i := 0; i < len(in); i += 2 {
			list = append(list, protocols.Reading{Tag: int32(in[i]), Source: int64(in[i+1])})
		}
		var parts []string
		for _, part := range split(list) {
			var b strings.Builder
			for _, r := range part {
				b.WriteByte(byte(r.Tag))
				b.WriteByte(byte(r.Source))
			}
			parts = append(parts, b.String())
		}
		if got := strings.Join(parts, "/"); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
