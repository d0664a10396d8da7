package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	gopcua "github.com/gopcua/opcua"
	gopcuaserver "github.com/gopcua/opcua/server"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols/opcua/opcuatest"
)

// Servers that are subscribed.
const (
	serverOwn    = "opcuatest" // ours, on gopcua's codec and secure channel
	serverGopcua = "gopcua"    // gopcua's own package server
	serverNode   = "node-opcua"
)

// opcuaEvery is the interval of changes, of sampling and of publishing.
const opcuaEvery = 100 * time.Millisecond

// opcuaPlace is where a server is, and how its items are called: the prefix
// and five digits.
type opcuaPlace struct {
	Endpoint string
	Prefix   string
}

func (p *opcuaPlace) nodeID(i int) string { return fmt.Sprintf("%s%05d", p.Prefix, i) }

// served is how many values a server has given out.
type served struct{ Sent uint64 }

// runOPCUAServer is an OPC UA server of a kind with counters: at a port
// (0: any), with so many of them. It prints its opcuaPlace, then, with each
// line of its input, what it has served, and ends with its input.
func runOPCUAServer(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("want a kind, a port and a number of items, got %v", args)
	}
	var port, items int
	if err := numbers(args[1:], &port, &items); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sent atomic.Uint64
	serve := serveOwn
	if args[0] == serverGopcua {
		serve = serveGopcua
	}
	place, err := serve(ctx, port, items, &sent)
	if err != nil {
		return err
	}
	if err := tell(place); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() && ctx.Err() == nil {
		if err := tell(served{sent.Load()}); err != nil {
			return err
		}
	}
	return in.Err()
}

// serveOwn serves counters that go up by one whenever they are sampled: what
// is sampled has no holes.
func serveOwn(ctx context.Context, port, items int, sent *atomic.Uint64) (*opcuaPlace, error) {
	place := &opcuaPlace{Prefix: "ns=2;s=Line1.Station"}
	o := opcuatest.Options{Addr: "127.0.0.1:" + strconv.Itoa(port)}
	for i := range items {
		n := 0.0
		o.Nodes = append(o.Nodes, opcuatest.Node{NodeID: place.nodeID(i), Value: func(time.Time) any {
			n++
			sent.Add(1)
			return n
		}})
	}
	s, err := opcuatest.NewServer(o) //nolint:contextcheck // closed with ctx
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	place.Endpoint = s.Endpoint()
	return place, nil
}

// serveGopcua serves the same with gopcua's own server: it samples nothing,
// but is told of each change, and keeps the newest value of an item.
func serveGopcua(ctx context.Context, port, items int, sent *atomic.Uint64) (*opcuaPlace, error) {
	if port == 0 {
		if _, err := fmt.Sscanf(freePort(ctx), "127.0.0.1:%d", &port); err != nil {
			return nil, err
		}
	}
	// It signs its session with whatever the policy is.
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	s := gopcuaserver.New(
		gopcuaserver.EnableSecurity("None", ua.MessageSecurityModeNone), gopcuaserver.EnableAuthMode(ua.UserTokenTypeAnonymous),
		gopcuaserver.EndPoint("127.0.0.1", port), gopcuaserver.PrivateKey(key))
	ns := gopcuaserver.NewMapNamespace(s, "bench")
	place := &opcuaPlace{Endpoint: fmt.Sprintf("opc.tcp://127.0.0.1:%d", port), Prefix: fmt.Sprintf("ns=%d;s=Station", ns.ID())}
	keys := make([]string, items)
	for i := range keys {
		keys[i] = fmt.Sprintf("Station%05d", i)
		ns.Data[keys[i]] = 0.0
	}
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	n := 0.0
	go every(ctx, opcuaEvery, func() error {
		// A Read takes no lock at all, and ends the program where a value is
		// written beside it: who subscribes reads the types before.
		s.MonitoredItemService.Mu.Lock()
		ready := len(s.MonitoredItemService.Items) >= len(keys)
		s.MonitoredItemService.Mu.Unlock()
		if !ready {
			return nil
		}
		n++
		for _, k := range keys {
			// Not by SetValue: it writes into the map that others read under
			// this lock, which ends the program.
			s.MonitoredItemService.Mu.Lock()
			ns.Data[k] = n
			s.MonitoredItemService.Mu.Unlock()
			ns.ChangeNotification(k)
			sent.Add(1)
		}
		return nil
	})
	return place, nil
}

// runOPCUABare subscribes to a server's items with gopcua's client, and
// throws the values away. It says how far it is with each line of its input.
func runOPCUABare(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("want an endpoint, a prefix and a number of items, got %v", args)
	}
	place := &opcuaPlace{Endpoint: args[0], Prefix: args[1]}
	items, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var values atomic.Uint64
	errs := make(chan error, 1)
	go func() { errs <- subscribeBare(ctx, place, items, &values) }()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() && ctx.Err() == nil {
		select {
		case err := <-errs:
			return cmp.Or(err, errors.New("the subscription has ended"))
		default:
		}
		if err := tell(served{values.Load()}); err != nil {
			return err
		}
	}
	return in.Err()
}

func subscribeBare(ctx context.Context, place *opcuaPlace, items int, values *atomic.Uint64) error {
	c, err := gopcua.NewClient(place.Endpoint, gopcua.AutoReconnect(false), gopcua.SecurityMode(ua.MessageSecurityModeNone))
	if err != nil {
		return err
	}
	if err := c.Connect(ctx); err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	notes := make(chan *gopcua.PublishNotificationData, 100)
	sub, err := c.Subscribe(ctx, &gopcua.SubscriptionParameters{Interval: opcuaEvery}, notes)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- monitorBare(ctx, sub, place, items) }()
	for {
		select {
		case n := <-notes:
			if n.Error != nil {
				return n.Error
			}
			if change, ok := n.Value.(*ua.DataChangeNotification); ok {
				values.Add(uint64(len(change.MonitoredItems)))
			}
		case err := <-done:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// monitorBare makes the items, a few hundred at a time as any client must.
func monitorBare(ctx context.Context, sub *gopcua.Subscription, place *opcuaPlace, items int) error {
	const atOnce = 500
	for lo := 0; lo < items; lo += atOnce {
		var reqs []*ua.MonitoredItemCreateRequest
		for i := lo; i < min(lo+atOnce, items); i++ {
			id, err := ua.ParseNodeID(place.nodeID(i))
			if err != nil {
				return err
			}
			r := gopcua.NewMonitoredItemCreateRequestWithDefaults(id, ua.AttributeIDValue, uint32(i))
			r.RequestedParameters.SamplingInterval = float64(opcuaEvery / time.Millisecond)
			reqs = append(reqs, r)
		}
		res, err := sub.Monitor(ctx, ua.TimestampsToReturnBoth, reqs...)
		if err != nil {
			return err
		}
		for _, r := range res.Results {
			if r.StatusCode != ua.StatusOK {
				return r.StatusCode
			}
		}
	}
	return nil
}

// asked is a child that says how far it is when it is asked.
type asked struct {
	*process

	out *json.Decoder
}

func (a *asked) sent() (uint64, error) {
	if _, err := a.stdin.Write([]byte{'\n'}); err != nil {
		return 0, err
	}
	var s served
	err := a.out.Decode(&s)
	return s.Sent, err
}

func (b *bench) startBare(ctx context.Context, place *opcuaPlace, items int) (*asked, error) {
	p, out, err := b.spawn(ctx, roleOPCUABare, os.Args[0], roleOPCUABare, place.Endpoint, place.Prefix, strconv.Itoa(items))
	if err != nil {
		return nil, err
	}
	return &asked{p, json.NewDecoder(out)}, nil
}

func (b *bench) startOPCUAServer(ctx context.Context, kind string, port, items int) (*asked, *opcuaPlace, error) {
	p, out, err := b.spawn(ctx, roleOPCUAServer, os.Args[0], roleOPCUAServer, kind, strconv.Itoa(port), strconv.Itoa(items))
	if err != nil {
		return nil, nil, err
	}
	s, place := &asked{p, json.NewDecoder(out)}, &opcuaPlace{}
	if err := s.out.Decode(place); err != nil {
		p.stop()
		return nil, nil, fmt.Errorf("the OPC UA server: %w", err)
	}
	return s, place, nil
}
