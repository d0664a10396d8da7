package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

const (
	liveBatches = 1_000_000 // that wait
	liveTags    = 20        // in each of them
	liveDevices = 5         // that go on, each with all its registers once a second

	thinLine = 1_000_000             // bits a second, both ways
	thinWay  = 30 * time.Millisecond // one way
)

// live is how live batches fare while a backlog drains (catch_up: live_first).
type live struct {
	Bits    int     `json:"line_bits_per_s"` // 0: the loopback's
	Batches uint64  `json:"backlog_batches"`
	Seconds float64 `json:"seconds"`
	Live    float64 `json:"live_batches_per_s"`
	P50MS   int     `json:"live_p50_ms"` // from the PLC's answer to the subscriber
	P99MS   int     `json:"live_p99_ms"`
	Backlog float64 `json:"backlog_batches_per_s"`
	Use     float64 `json:"of_the_line_in_use"`
	Left    uint64  `json:"backlog_left"`
	PeakMiB float64 `json:"agent_peak_memory_mib"`
}

func lineText(bits int) string {
	if bits == 0 {
		return "loopback"
	}
	return fmt.Sprintf("%d kbit/s, %v there and back", bits/1000, 2*thinWay)
}

// measureLives measures over the loopback and over a thin line.
func (b *bench) measureLives(ctx context.Context) (all []live, err error) {
	for _, bits := range []int{0, thinLine} {
		note("live batches while a backlog of a million drains, %s", lineText(bits))
		l, err := b.measureLive(ctx, bits, 2*b.window)
		if err != nil {
			return nil, err
		}
		all = append(all, *l)
	}
	return all, nil
}

func livesTable(all []live) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	b.WriteString("\nbuffer: live_first, while a backlog of 1,000,000 batches of 20 readings drains\n\n")
	fmt.Fprintln(w, "line\tlive/s\tlive p50 ms\tlive p99 ms\tbacklog/s\tline in use\tleft at the end\tpeak MiB\t")
	for _, l := range all {
		use := "-"
		if l.Bits > 0 {
			use = fmt.Sprintf("%.0f %%", 100*l.Use)
		}
		fmt.Fprintf(w, "%s\t%.0f\t%d\t%d\t%.0f\t%s\t%d\t%.1f\t\n", lineText(l.Bits), l.Live, l.P50MS, l.P99MS, l.Backlog, use, l.Left, l.PeakMiB)
	}
	_ = w.Flush()
	return b.String()
}

// measureLive makes a backlog and measures, while the agent drains it, how
// late live batches are: until it is gone, or for window.
func (b *bench) measureLive(ctx context.Context, bits int, window time.Duration) (*live, error) {
	dir := filepath.Join(b.dir, "live")
	defer os.RemoveAll(dir) //nolint:errcheck // so will cleanUp
	var m made
	if err := b.child(ctx, 0, &m, roleBacklog, dir, strconv.Itoa(64<<10), strconv.Itoa(liveTags), strconv.Itoa(liveBatches)); err != nil {
		return nil, err
	}
	sim, plcs, err := b.startSim(ctx)
	if err != nil {
		return nil, err
	}
	defer sim.stop()
	broker, addr, err := b.startMosquitto(ctx, "")
	if err != nil {
		return nil, err
	}
	defer broker.stop()
	sub, err := subscribe(ctx, addr, "millrace/#")
	if err != nil {
		return nil, err
	}
	defer sub.close()
	if bits > 0 {
		line, err := openLine(ctx, addr, bits, thinWay)
		if err != nil {
			return nil, err
		}
		defer line.close()
		addr = line.addr()
	}
	console := freePort(ctx)
	conf, err := b.liveConfig(dir, addr, console, plcs[:min(liveDevices, len(plcs))])
	if err != nil {
		return nil, err
	}
	agent, _, err := b.spawn(ctx, "live", b.binary, "run", "-c", conf)
	if err != nil {
		return nil, err
	}
	defer agent.stop()
	if err := waitFor(ctx, 10*time.Second, func() bool { return agentStatus(ctx, console).delivered > 0 }); err != nil {
		return nil, err
	}
	sub.start()
	start, end := time.Now(), time.Now().Add(window)
	st := agentStatus(ctx, console)
	for time.Now().Before(end) && (st.lag == 0 || st.lag > 2*liveDevices) {
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
		st = agentStatus(ctx, console)
	}
	took, got := time.Since(start).Seconds(), sub.stop()
	l := &live{
		Bits: bits, Batches: m.Batches, Seconds: took, P50MS: got.p50, P99MS: got.p99, Left: st.lag,
		Live: float64(got.batches-got.waited) / took, Backlog: float64(got.waited) / took,
		PeakMiB: float64(peakKB(agent.pid())) / 1024,
	}
	if bits > 0 {
		l.Use = float64(got.bytes) * 8 / took / float64(bits)
	}
	return l, nil
}

func (b *bench) liveConfig(dir, broker, console string, plcs []string) (string, error) {
	path, err := b.agentConfig("live", broker, console, plcs, time.Second)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	// The backlog waits under the name of its uplink.
	head := fmt.Sprintf("gateway: {id: bench}\nbuffer: {path: %q, max_size: 64GiB}\nuplinks: [{name: %s, broker: \"mqtt://%s\", catch_up: live_first}]\n",
		dir, benchUplink, broker)
	_, rest, _ := strings.Cut(string(text), "\nconsole:")
	return path, os.WriteFile(path, []byte(head+"console:"+rest), 0o600)
}

// line is a thin line to a broker: what goes through it takes its time.
type line struct {
	l     net.Listener
	to    string
	bits  int
	way   time.Duration
	mu    sync.Mutex
	conns []net.Conn
	wg    sync.WaitGroup
}

func openLine(ctx context.Context, to string, bits int, way time.Duration) (*line, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &line{l: l, to: to, bits: bits, way: way}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := new(net.Dialer).DialContext(ctx, "tcp", to)
			if err != nil {
				_ = c.Close()
				continue
			}
			// What a modem holds before the line is little.
			_ = c.(*net.TCPConn).SetReadBuffer(16 << 10) // a larger one makes the test harder
			p.mu.Lock()
			p.conns = append(p.conns, c, up)
			p.mu.Unlock()
			p.wg.Go(func() { p.carry(up, c) })
			p.wg.Go(func() { p.carry(c, up) })
		}
	})
	return p, nil
}

func (p *line) addr() string { return p.l.Addr().String() }

func (p *line) close() {
	_ = p.l.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// carry moves bytes at the line's speed; each arrives a way later.
func (p *line) carry(to, from net.Conn) {
	type packet struct {
		data []byte
		due  time.Time
	}
	air := make(chan packet, 1<<12)
	p.wg.Go(func() {
		for k := range air {
			time.Sleep(time.Until(k.due)) //nolint:forbidigo // a line's delay
			if _, err := to.Write(k.data); err != nil {
				_ = from.Close()
			}
		}
		_ = to.Close()
	})
	defer close(air)
	free := time.Now()
	for {
		buf := make([]byte, 1400)
		n, err := from.Read(buf)
		if n > 0 {
			if now := time.Now(); free.Before(now) {
				free = now
			}
			free = free.Add(time.Duration(n) * 8 * time.Second / time.Duration(p.bits))
			time.Sleep(time.Until(free)) //nolint:forbidigo // a line's speed
			air <- packet{buf[:n], free.Add(p.way)}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				_ = to.Close()
			}
			return
		}
	}
}
