package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"millrace/protocols/opcua/opcuatest"
	"millrace/protocols/opcua/opcuatest/nodeopcua"
)

// opcuaReturn is how soon values come again from a server that was away: from
// the moment that its port takes connections to the first new value at the
// broker.
type opcuaReturn struct {
	Server      string    `json:"server"`
	AwaySeconds float64   `json:"away_s"`
	EachMS      []float64 `json:"first_value_ms"`
	MedianMS    float64   `json:"median_ms"`
	WorstMS     float64   `json:"worst_ms"`
}

func (r *opcuaReturn) text() string {
	return fmt.Sprintf("%s away for %.0f s and back, %d times: the first new value %.0f ms after its port took connections, %.0f at worst\n",
		r.Server, r.AwaySeconds, len(r.EachMS), r.MedianMS, r.WorstMS)
}

// measureReturns kills servers and starts them again on the same port.
func (b *bench) measureReturns(ctx context.Context) (all []opcuaReturn, err error) {
	for _, c := range []struct {
		server string
		away   time.Duration
		times  int
	}{{serverOwn, time.Second, 4}, {serverOwn, 12 * time.Second, 1}, {serverNode, time.Second, 2}} {
		note("opcua: %s goes for %v and comes back, %d times", c.server, c.away, c.times)
		r, err := b.measureReturn(ctx, c.server, c.away, c.times)
		if err != nil {
			return nil, fmt.Errorf("the return of %s: %w", c.server, err)
		}
		all = append(all, *r)
	}
	return all, nil
}

// starter starts a server on a port; 0: any.
type starter func(port int) (place *opcuaPlace, stop func(), err error)

func (b *bench) starter(ctx context.Context, kind string, items int) starter {
	if kind == serverNode {
		return func(port int) (*opcuaPlace, func(), error) { //nolint:contextcheck // it ends with what is returned
			s, err := nodeopcua.Start(filepath.Join(b.dir, "node"), port, "bench")
			if err != nil {
				return nil, nil, err
			}
			// The nodes that it has from the start.
			return &opcuaPlace{s.Endpoint(), "nsu=" + nodeopcua.Namespace + ";s=Early"}, s.Stop, nil
		}
	}
	return func(port int) (*opcuaPlace, func(), error) {
		p, place, err := b.startOPCUAServer(ctx, kind, port, items)
		if err != nil {
			return nil, nil, err
		}
		return place, func() { _ = p.cmd.Process.Kill(); p.stop() }, nil
	}
}

func (b *bench) measureReturn(ctx context.Context, kind string, away time.Duration, times int) (*opcuaReturn, error) {
	const items = 100
	start := b.starter(ctx, kind, items)
	place, stop, err := start(0)
	if err != nil {
		return nil, err
	}
	defer func() { stop() }() //nolint:gocritic // it is another one by then
	a, err := b.startOPCUAAgent(ctx, place, items, "")
	if err != nil {
		return nil, err
	}
	defer a.stop()
	u, err := url.Parse(place.Endpoint)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return nil, err
	}
	r := &opcuaReturn{Server: kind, AwaySeconds: away.Seconds()}
	for range times {
		stop()
		stop = func() {}
		if err := pause(ctx, away); err != nil {
			return nil, err
		}
		a.sub.mark()
		open := portOpens(ctx, u.Host)
		_, again, err := start(port)
		if err != nil {
			return nil, err
		}
		stop = again
		opened := <-open
		if err := waitFor(ctx, 30*time.Second, func() bool { return !a.sub.steps().first.IsZero() }); err != nil {
			log, _ := os.ReadFile(a.log)
			return nil, fmt.Errorf("%w: %w\n%s", errNothing, err, log)
		}
		r.EachMS = append(r.EachMS, float64(a.sub.steps().first.Sub(opened))/1e6)
		// It is to be well again before the next time.
		if err := pause(ctx, time.Duration(500+rand.IntN(500))*time.Millisecond); err != nil { //nolint:gosec // no secret
			return nil, err
		}
	}
	r.WorstMS, r.MedianMS = slices.Max(r.EachMS), median(slices.Clone(r.EachMS))
	return r, nil
}

// portOpens says when a port first takes a connection.
func portOpens(ctx context.Context, addr string) <-chan time.Time {
	at := make(chan time.Time, 1)
	go func() {
		for ctx.Err() == nil {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err == nil {
				at <- time.Now()
				_ = c.Close()
				return
			}
			_ = pause(ctx, 2*time.Millisecond) // its end is seen above
		}
		at <- time.Now()
	}()
	return at
}

// opcuaCuts is what is lost when connections are cut, of counters of a server
// that keeps sessions and queues.
type opcuaCuts struct {
	Cuts      int     `json:"cuts"`
	Stuck     bool    `json:"stuck"` // after the last of them nothing came any more
	Items     int     `json:"items"`
	EveryMS   float64 `json:"change_every_ms"`
	Seconds   float64 `json:"seconds"`
	Values    uint64  `json:"values"`
	Missing   uint64  `json:"values_missing"`
	Again     uint64  `json:"values_twice"`
	Overflows uint64  `json:"values_overflowed"`
	Bad       uint64  `json:"readings_bad"`
	MedianMS  float64 `json:"back_after_ms_median"` // from the cut to the next value
	WorstMS   float64 `json:"back_after_ms_worst"`
}

// survived is after how many cuts values came again.
func (c *opcuaCuts) survived() int {
	if c.Stuck {
		return c.Cuts - 1
	}
	return c.Cuts
}

func (c *opcuaCuts) text() string {
	if c == nil {
		return ""
	}
	stuck := ""
	if c.Stuck {
		stuck = "; after the last cut NOTHING CAME ANY MORE"
	}
	return fmt.Sprintf("node-opcua, %d counters every %.0f ms, %d connections cut in %.0f s: %d values arrived, %d missing, %d twice, %d overflowed, %d bad; the next value %.0f ms after a cut, %.0f at worst%s\n",
		c.Items, c.EveryMS, c.Cuts, c.Seconds, c.Values, c.Missing, c.Again, c.Overflows, c.Bad, c.MedianMS, c.WorstMS, stuck)
}

const (
	cutTimes = 100
	cutItems = 50
	// cutEvery is longer than the sampling interval: no change is missed
	// between two samples, unless the server is late by as much.
	cutEvery = 300 * time.Millisecond
)

// measureCuts cuts the agent's connection at random moments.
func (b *bench) measureCuts(ctx context.Context) (*opcuaCuts, error) {
	note("opcua: %d connections cut while %d counters of node-opcua run", cutTimes, cutItems)
	s, err := nodeopcua.Start(filepath.Join(b.dir, "node"), 0, "bench") //nolint:contextcheck // it ends with Stop
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	for _, command := range []string{fmt.Sprintf("counters %d", cutItems), fmt.Sprintf("tick %d", cutEvery.Milliseconds())} {
		if err := s.Command(ctx, command); err != nil {
			return nil, err
		}
	}
	relay, err := opcuatest.NewRelay(fmt.Sprintf("127.0.0.1:%d", s.Port)) //nolint:contextcheck // closed below
	if err != nil {
		return nil, err
	}
	defer relay.Close() //nolint:errcheck // the connections are cut at the end anyway
	u, err := url.Parse(s.Endpoint())
	if err != nil {
		return nil, err
	}
	place := &opcuaPlace{"opc.tcp://" + relay.Addr() + u.Path, "nsu=" + nodeopcua.Namespace + ";s=Counter"}
	a, err := b.startOPCUAAgent(ctx, place, cutItems, ", queue: 100")
	if err != nil {
		return nil, err
	}
	defer a.stop()
	c := &opcuaCuts{Items: cutItems, EveryMS: float64(cutEvery.Milliseconds())}
	start := time.Now()
	var back []float64
	for c.Cuts < cutTimes && !c.Stuck {
		if err := pause(ctx, time.Duration(rand.IntN(300))*time.Millisecond); err != nil { //nolint:gosec // no secret
			return nil, err
		}
		a.sub.mark()
		cut := time.Now()
		relay.Cut()
		c.Cuts++
		if err := waitFor(ctx, 30*time.Second, func() bool { return !a.sub.steps().first.IsZero() }); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			log, _ := os.ReadFile(a.log)
			note("opcua: after cut %d nothing comes any more; the agent's log:\n%s", c.Cuts, log)
			c.Stuck = true
			back = append(back, float64(time.Since(cut))/1e6)
			continue
		}
		back = append(back, float64(a.sub.steps().first.Sub(cut))/1e6)
	}
	c.Seconds = time.Since(start).Seconds()
	// What was queued has to arrive, too.
	if err := pause(ctx, 3*cutEvery+time.Second); err != nil {
		return nil, err
	}
	got := a.sub.steps()
	c.Values, c.Missing, c.Again, c.Bad = got.values, got.missing, got.again, got.bad
	c.Overflows = agentStatus(ctx, a.console).lost
	c.WorstMS, c.MedianMS = slices.Max(back), median(back)
	return c, nil
}
