package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
	"millrace/protocols/mqtt/mqtttest"
)

// runWithClock is the agent on a machine whose wall clock somebody sets: the
// file says by how many milliseconds it is off. Only the test binary has it.
func runWithClock(file string, args []string) int {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	t := terminal{os.Stdout, os.Stderr}
	cfg, code := loadConfig(t, "run", args[len(args)-1])
	if cfg == nil {
		return code
	}
	a, err := startAgent(cfg, newLogger(t.err, true), func() time.Time {
		offset := readOffset(file) // which takes a while
		return offBy(time.Now(), offset)
	})
	if err != nil {
		t.errorf("%v\n", err)
		return exitFailed
	}
	<-ctx.Done()
	a.stop()
	return exitDone
}

func readOffset(file string) time.Duration {
	text, err := os.ReadFile(file)
	if err != nil {
		panic(err)
	}
	ms, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		panic(err)
	}
	return time.Duration(ms) * time.Millisecond
}

// offBy returns t as time.Now would give it had the wall clock been set: see
// the same in collector/schedule_test.go.
func offBy(t time.Time, by time.Duration) time.Time {
	t = t.Add(by)
	fields := (*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&t))
	fields.ext -= int64(by)
	return t
}

// datedPLC knows when it gave which value.
type datedPLC struct {
	*modbustest.Server
	mu sync.Mutex
	at []time.Time // the value n was read at at[n-1]
}

func newDatedPLC(t *testing.T) *datedPLC {
	t.Helper()
	p := &datedPLC{Server: modbustest.NewServer()}
	err := p.Unit(1).Holding.SetValueFunc(0, "uint32", protocols.ABCD, func(time.Time) protocols.Value {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.at = append(p.at, time.Now())
		return protocols.Uint(uint64(len(p.at)))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Listen(""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func (p *datedPLC) reads() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.at)
}

// TestClockIsSet runs the real agent, kills it, and sets its clock, while its
// broker is away: the backlog arrives with the times at which the PLC was
// really read, by the clock as it was in the end, in order, and so does the
// state.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	since1970 := -time.Now().Add(-time.Minute).UnixMilli()
	hour := time.Hour.Milliseconds()
	for name, offsets := range map[string][]int64{
		"1970, then right": {since1970, 0},
		"an hour forward":  {0, hour},
		"an hour back":     {0, -hour},
		"there and back":   {0, hour, 0},
		"fallen to 1970":   {0, since1970, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plc, broker := newDatedPLC(t), mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
			r := mqtttest.NewReceiver(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")})
			broker.Stop()
			dir := t.TempDir()
			a := &agentProcess{t: t, config: filepath.Join(dir, "millrace.yaml"), console: mqtttest.FreeAddr(t), mode: filepath.Join(dir, "offset")}
			set := func(ms int64) {
				// Renamed, so that the agent never reads half a number.
				if err := os.WriteFile(a.mode+".new", []byte(strconv.FormatInt(ms, 10)), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(a.mode+".new", a.mode); err != nil {
					t.Fatal(err)
				}
			}
			set(offsets[0])
			a.write(fmt.Sprintf("gateway: {id: gw-1, group: plant}\nbuffer: {commit_interval: 0s, max_age: 1h}\nconsole: {listen: \"CONSOLE\"}\n"+
				"uplinks: [{name: platform, broker: %q}]\ndevices:\n  - {id: plc-1, driver: modbus, endpoint: \"tcp://%s\", interval: 20ms, timeout: 2s, "+
				"tags: [{name: count, address: \"holding:0\", type: uint32}]}\n", broker.URL("mqtt"), plc.Addr()))
			t.Cleanup(a.kill)
			a.start()
			for i, offset := range offsets {
				if i > 0 {
					set(offset)
				}
				n := plc.reads()
				mqtttest.WaitFor(t, "the PLC to be read", func() bool { return plc.reads() > n+25 })
				a.kill()
				a.start()
				n = plc.reads()
				mqtttest.WaitFor(t, "the PLC to be read again", func() bool { return plc.reads() > n+25 })
			}
			broker.Start()
			n := plc.reads()
			mqtttest.WaitFor(t, "live batches", func() bool { bs := r.Batches("plc-1"); return len(bs) > 0 && count(bs[len(bs)-1]) > n })
			wantDated(t, r, plc, offsets[len(offsets)-1])
			a.stop()
		})
	}
}

func count(b mqtttest.Batch) int {
	n, _ := strconv.Atoi(fmt.Sprint(b.Values["count"]))
	return n
}

func wantDated(t *testing.T, r *mqtttest.Receiver, plc *datedPLC, offset int64) {
	t.Helper()
	for _, f := range r.Faults() {
		t.Errorf("the receiver says: %s", f)
	}
	if gaps := r.Gaps(); len(gaps) > 0 {
		t.Errorf("gaps: %+v", gaps)
	}
	const busy = 2000 // ms between a read and its answer's arrival, on a machine with other work
	last := int64(0)
	for _, b := range r.Batches("plc-1") {
		n := count(b)
		if n == 0 {
			continue
		}
		plc.mu.Lock()
		late := b.TS - offset - plc.at[n-1].UnixMilli()
		plc.mu.Unlock()
		if late < -10 || late > busy || b.Clock != "" || b.TS < last {
			t.Errorf("stream %s seq %d: ts is %d ms from when the PLC was read; clock %q, %d after %d", b.Stream, b.Seq, late, b.Clock, b.TS, last)
			return
		}
		last = b.TS
	}
	newest := r.Batches("plc-1")
	if b := newest[len(newest)-1]; b.Historical && time.Now().UnixMilli()+offset-b.TS < 10_000 {
		t.Errorf("a live batch is historical: %+v", b)
	}
	s, _ := r.State("plc-1")
	if off := s.Since - offset - time.Now().UnixMilli(); off > 0 || off < -120_000 {
		t.Errorf("the state is since %s", time.UnixMilli(s.Since).UTC())
	}
}
