package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
	"millrace/protocols/mqtt/mqtttest"
)

// campaignPLC is a simulated PLC that counts its answers, and remembers when
// it gave each. An answer holds the count with a half that checks it, and
// four numbers that follow from it.
type campaignPLC struct {
	*modbustest.Server
	device string

	mu       sync.Mutex
	answered []time.Time // of the answers 1, 2, 3…
	runs     []plcRun
}

// plcRun is what the PLC knows of one run of the agent: its last answer.
type plcRun struct {
	ending
	last int
}

func newCampaignPLC(t *testing.T, device string) *campaignPLC {
	t.Helper()
	p := &campaignPLC{Server: modbustest.NewServer(), device: device}
	count := p.Unit(1).Holding.SetValueFunc(0, "uint64", protocols.ABCD, func(now time.Time) protocols.Value {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.answered = append(p.answered, now)
		n := uint32(len(p.answered))
		return protocols.Uint(uint64(n)<<32 | uint64(^n))
	})
	follow := p.Unit(1).Holding.SetValueFunc(4, "uint64[4]", protocols.ABCD, func(time.Time) protocols.Value {
		elems := make([]protocols.Value, 4)
		for i := range elems {
			elems[i] = protocols.Uint(follower(uint64(p.count()), i))
		}
		return protocols.Array(elems)
	})
	if err := errors.Join(count, follow); err != nil {
		t.Fatal(err)
	}
	p.answered = p.answered[:0] // the functions were tried
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// follower is the i-th number that follows from the count n.
func follower(n uint64, i int) uint64 { return n * (0x9E3779B97F4A7C15 + 2*uint64(i)) }

func (p *campaignPLC) config() string {
	return fmt.Sprintf(`  - id: %s
    driver: modbus
    endpoint: tcp://%s
    interval: 10ms
    timeout: 10s
    tags:
      - {name: count, address: "holding:0", type: uint64}
      - {name: follow, address: "holding:4", type: "uint64[4]"}
`, p.device, p.Addr())
}

func (p *campaignPLC) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.answered)
}

// close waits until every request of the agent that is gone has been
// answered, and notes where its run ended.
func (p *campaignPLC) close(end ending) error {
	err := p.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs = append(p.runs, plcRun{end, len(p.answered)})
	return err
}

// arrival is a batch as the ledger keeps it.
type arrival struct {
	sum    uint64 // of the body without its mark; 0: it did not come
	device uint8
	count  uint32
}

// arrivals keeps what a receiver got, small enough for days of it, and notes
// what must not be.
type arrivals struct {
	seed  maphash.Seed
	apart bool // historical batches keep an order of their own

	mu      sync.Mutex
	devices []string
	newest  [][2]uint32          // the highest count of each device; of its historical batches
	streams map[string][]arrival // by seq-1
	order   []string
	gaps    []mqtttest.Gap
	faults  []string
	total   int
	repeats int
	marked  int // historical
	offline bool
}

func newLedger(apart bool) *arrivals {
	return &arrivals{seed: maphash.MakeSeed(), apart: apart, streams: map[string][]arrival{}}
}

const historicalMark = `,"historical":true`

// receive takes a message.
func (g *arrivals) receive(topic string, body []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case strings.HasSuffix(topic, "/data"):
		g.data(body)
	case strings.HasSuffix(topic, "/gap"):
		var gap mqtttest.Gap
		if err := json.Unmarshal(body, &gap); err != nil {
			g.fault("%s: %v", body, err)
		}
		g.gaps = append(g.gaps, gap)
	case strings.HasSuffix(topic, "/status"):
		g.offline = bytes.Contains(body, []byte(`"online":false`))
	}
}

func (g *arrivals) fault(format string, args ...any) {
	if len(g.faults) < 20 {
		g.faults = append(g.faults, fmt.Sprintf(format, args...))
	}
}

func (g *arrivals) data(body []byte) {
	var b struct {
		Device, Stream string
		Seq            uint64
		Historical     bool
		Values         struct {
			Count  uint64
			Follow []uint64
		}
		Bad map[string]string
	}
	if err := json.Unmarshal(body, &b); err != nil || b.Seq == 0 || b.Stream == "" {
		g.fault("not a batch (%v): %s", err, body)
		return
	}
	if b.Historical {
		g.marked++
	}
	sum := maphash.Bytes(g.seed, bytes.Replace(body, []byte(historicalMark), nil, 1)) | 1
	all := g.streams[b.Stream]
	if all == nil {
		g.order = append(g.order, b.Stream)
	}
	for uint64(len(all)) < b.Seq {
		all = append(all, arrival{})
	}
	g.streams[b.Stream] = all
	if before := all[b.Seq-1]; before.sum != 0 {
		g.repeats++
		if before.sum != sum {
			g.fault("%s seq %d came again with another body: %s", b.Stream, b.Seq, body)
		}
		return
	}
	g.total++
	n := uint32(b.Values.Count >> 32)
	wrong := len(b.Bad) > 0 || uint64(^n) != b.Values.Count&(1<<32-1) || len(b.Values.Follow) != 4
	for i, v := range b.Values.Follow {
		wrong = wrong || v != follower(uint64(n), i)
	}
	if wrong {
		g.fault("values that the PLC never had: %s", body)
	}
	dev := g.device(b.Device)
	newest := &g.newest[dev][0]
	if g.apart && b.Historical {
		newest = &g.newest[dev][1]
	}
	if n <= *newest {
		g.fault("%s: the count went from %d to %d: %s", b.Device, *newest, n, body)
	}
	*newest = n
	all[b.Seq-1] = arrival{sum: sum, device: uint8(dev), count: n}
}

func (g *arrivals) device(id string) int {
	if i := slices.Index(g.devices, id); i >= 0 {
		return i
	}
	g.devices, g.newest = append(g.devices, id), append(g.newest, [2]uint32{})
	return len(g.devices) - 1
}

func (g *arrivals) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total
}

func (g *arrivals) saidOffline() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.offline
}

// forgetStatus has saidOffline wait for what the agent says from now on.
func (g *arrivals) forgetStatus() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.offline = false
}

// String sums up.
func (g *arrivals) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return fmt.Sprintf("%d batches of %d runs, %d repeats, %d historical, %d gap notices", g.total, len(g.order), g.repeats, g.marked, len(g.gaps))
}

// holes returns what is missing below the last batch of some stream, and what
// a gap notice says although it came. Nothing here is ever given up: the
// buffer is larger than all that is appended.
func (g *arrivals) holes() (out []error) {
	for _, gap := range g.gaps {
		out = append(out, fmt.Errorf("a gap notice: %+v", gap))
	}
	for _, stream := range g.order {
		for i, a := range g.streams[stream] {
			if a.sum == 0 {
				out = append(out, fmt.Errorf("stream %s: seq %d is missing, %d came", stream, i+1, len(g.streams[stream])))
			}
		}
	}
	return out
}

// arrived returns which of the PLC's answers came.
func (g *arrivals) arrived(device string, most int) []bool {
	out := make([]bool, most+1)
	dev := g.device(device)
	for _, all := range g.streams {
		for _, a := range all {
			if a.sum != 0 && int(a.device) == dev && int(a.count) <= most {
				out[a.count] = true
			}
		}
	}
	return out
}

// verdict holds what arrived against what the PLCs answered.
func (l *lane) verdict() error {
	l.ledger.mu.Lock()
	defer l.ledger.mu.Unlock()
	var out []error
	for _, f := range l.ledger.faults {
		out = append(out, errors.New(f))
	}
	out = append(out, l.ledger.holes()...)
	for _, p := range l.plcs {
		out = append(out, l.missing(p)...)
	}
	entries, err := os.ReadDir(l.bufferDir())
	out = append(out, err)
	for _, e := range entries {
		// A file that was being opened when the agent was killed is set aside: see round.
		if e.Name() != "state.db" && e.Name() != "lock" && !strings.HasPrefix(e.Name(), "damaged-") {
			out = append(out, fmt.Errorf("after all has arrived there is still %s", e.Name()))
		}
	}
	return errors.Join(out[:min(len(out), 20)]...)
}

// missing returns the PLC's answers that did not come although no kill
// excuses it: a run that was killed may have lost the very last one, which the
// agent may not have taken yet.
func (l *lane) missing(p *campaignPLC) (out []error) {
	arrived := l.ledger.arrived(p.device, len(p.answered))
	first := 1
	for i, r := range p.runs {
		for n := first; n <= r.last; n++ {
			before := r.at.Sub(p.answered[n-1])
			if arrived[n] || !r.clean && n == r.last {
				continue
			}
			out = append(out, fmt.Errorf("%s: answer %d (of %d..%d in run %d, ended by %q) is missing, %v before its end",
				p.device, n, first, r.last, i+1, r.kind, before.Round(time.Microsecond)))
		}
		first = r.last + 1
	}
	return out
}
