package opcua_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gopcua "github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols/opcua/opcuatest"
)

const (
	benchItems    = 1000
	benchInterval = 100 * time.Millisecond
)

func benchServer(b *testing.B) (*opcuatest.Server, []string) {
	b.Helper()
	var n atomic.Int64
	o := opcuatest.Options{}
	var addresses []string
	for i := range benchItems {
		a := fmt.Sprintf("ns=2;s=Line1.Station%d.Value", i)
		o.Nodes = append(o.Nodes, opcuatest.Node{NodeID: a, Value: func(time.Time) any { return float64(n.Add(1)) }})
		addresses = append(addresses, a)
	}
	return newServer(b, o), addresses
}

// cpu returns the processor time this process, simulator included, has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func report(b *testing.B, values int, used time.Duration) {
	b.Helper()
	b.ReportMetric(float64(used.Microseconds())/float64(values), "cpu-ms/1000values")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkSubscribe receives 1,000 items that change every 100 ms. The
// simulator's time is in the figure, as in BenchmarkSubscribeBare's: compare
// the two.
func BenchmarkSubscribe(b *testing.B) {
	srv, addresses := benchServer(b)
	d := device(srv.Endpoint(), addresses...)
	d.Interval = benchInterval
	bus := open(b, driver(b), d)
	connect(b, bus)
	if err := bus.Subscribe(context.Background(), d, allTags(d)); err != nil {
		b.Fatal(err)
	}
	next(b, bus, 5*time.Second)
	b.ResetTimer()
	began, values := cpu(), 0
	for values < b.N*benchItems {
		r := next(b, bus, 5*time.Second)
		if r.Err != nil {
			b.Fatal(r.Err)
		}
		values += len(r.Readings)
	}
	report(b, values, cpu()-began)
}

// BenchmarkSubscribeBare does the same with gopcua's own client, and throws
// the values away.
func BenchmarkSubscribeBare(b *testing.B) {
	srv, addresses := benchServer(b)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	c, err := gopcua.NewClient(srv.Endpoint(), gopcua.AutoReconnect(false), gopcua.AuthAnonymous(), gopcua.AuthPolicyID("anonymous"))
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Connect(ctx); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()
	notes := make(chan *gopcua.PublishNotificationData, 100)
	sub, err := c.Subscribe(ctx, &gopcua.SubscriptionParameters{Interval: benchInterval}, notes)
	if err != nil {
		b.Fatal(err)
	}
	var items []*ua.MonitoredItemCreateRequest
	for i, a := range addresses {
		items = append(items, gopcua.NewMonitoredItemCreateRequestWithDefaults(ua.MustParseNodeID(a), ua.AttributeIDValue, uint32(i)))
	}
	for _, item := range items {
		item.RequestedParameters.SamplingInterval = float64(benchInterval / time.Millisecond)
	}
	if _, err := sub.Monitor(ctx, ua.TimestampsToReturnBoth, items...); err != nil {
		b.Fatal(err)
	}
	<-notes
	b.ResetTimer()
	began, values := cpu(), 0
	for values < b.N*benchItems {
		n := <-notes
		if change, ok := n.Value.(*ua.DataChangeNotification); ok {
			values += len(change.MonitoredItems)
		}
	}
	report(b, values, cpu()-began)
}
