package modbus

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
)

// everyFault is what TestNeverAWrongValue mixes.
func everyFault(timeout time.Duration) []modbustest.Fault {
	return []modbustest.Fault{
		{Delay: timeout + timeout/2},
		{Delay: 3 * timeout},
		{Drop: true},
		{Exception: 6},
		{WrongID: true},
		{WrongID: true, Delay: 2 * timeout},
		{WrongProtocol: true},
		{WrongUnit: true},
		{WrongFunction: true},
		{WrongCount: true},
		{Fewer: 2},
		{Fewer: 3},
		{Cut: 1},
		{Cut: 10},
		{Cut: 25},
		{Late: 2 * timeout},
		{Twice: true},
		{Hold: true},
		{HoldBehind: true},
		{HoldBehind: true, Cut: 3},
		{Slowly: 10 * time.Microsecond},
		{Slowly: timeout / 8},
		{HalfClose: true},
		{Reset: true},
	}
}

// A value that is delivered is the answer to its request, whatever the
// device or the network does to the answers. Each register holds its own
// address and each request asks for others, so an answer to another request
// is found out.
func TestNeverAWrongValue(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			const timeout = 4 * time.Millisecond
			n := faultyAnswers(t, 2500, 0.5, 8)
			s := startServer(t)
			u := s.Unit(1)
			for i := range addresses {
				u.Holding.Set(i, uint16(i))
			}
			d := newDevice(s.Addr())
			d.Timeout = timeout
			for i := range addresses / 10 {
				d.Tags = append(d.Tags, protocols.Tag{Address: fmt.Sprintf("hr:%d", 10*i), Type: "uint16[10]"})
			}
			b := connectPatiently(t, d)
			u.SetFaults(modbustest.Random(seed, 0.15, everyFault(timeout)...))
			good := 0
			rng := rand.New(rand.NewPCG(seed, 1))
			u.SetIdentity(longIdentity())
			for i := range n {
				if i%16 == 0 {
					wantNoOther(t, b, d)
				}
				good += readOne(t, b, d, rng.IntN(len(d.Tags)))
			}
			t.Logf("%d of %d good, over %d connections", good, n, s.Accepted())
			if good < n/2 {
				t.Errorf("only %d of %d are good", good, n)
			}
			u.SetFaults(nil)
			_ = b.Close()
			for i := 1; readOne(t, b, d, 1) == 0; i++ { // 4 ms may be short when other tests run
				if i == 100 {
					t.Fatal("it does not recover")
				}
			}
		})
	}
}

// connectPatiently opens the bus of d with a neighbour whose time-out is
// long, so that connecting may take longer than a request.
func connectPatiently(t *testing.T, d *protocols.Device) protocols.Bus {
	t.Helper()
	slow := *d
	slow.Timeout = 10 * time.Second
	b, err := New(Options{}).Open([]*protocols.Device{d, &slow})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	if err := b.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// readOne reads one tag, and connects again where that is due. It returns 1
// if the reading is good, otherwise 0.
func readOne(t *testing.T, b protocols.Bus, d *protocols.Device, tag int) int {
	t.Helper()
	good, wrong := readAndLook(t, b, d, tag)
	if wrong != "" {
		t.Fatal(wrong)
	}
	return good
}

// readAndLook is readOne for one who decides what a wrong value means.
func readAndLook(t *testing.T, b protocols.Bus, d *protocols.Device, tag int) (good int, wrong string) {
	t.Helper()
	sc, err := b.Plan(d, []int{tag})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]protocols.Reading, 1)
	res := sc.Read(t.Context(), out)
	if protocols.KindOf(res.Err) == protocols.KindNotConnected {
		_ = b.Close()
		if err := b.Connect(t.Context()); err != nil {
			t.Log(err)
		}
	}
	if out[0].Quality != protocols.Good {
		if res.Err == nil {
			t.Fatal("a bad reading without an error")
		}
		return 0, ""
	}
	for i, v := range out[0].Value.Elems() {
		if v.AsUint() != uint64(10*tag+i) {
			return 0, fmt.Sprintf("register %d reads %d", 10*tag+i, v.AsUint())
		}
	}
	return 1, ""
}

// After a late answer the same connection goes on, in step.
func TestLateAnswerIsDropped(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]modbustest.Fault{
		"late": {Delay: 450 * time.Millisecond}, "glued in front": {Hold: true}, "glued behind": {HoldBehind: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			for i := range 20 {
				s.Unit(1).Holding.Set(10*i, uint16(i))
			}
			s.Unit(1).SetFaults(func(n uint64, _ modbustest.Request) modbustest.Fault {
				if n == 5 {
					return f
				}
				return modbustest.Fault{}
			})
			d := newDevice(s.Addr())
			d.Timeout = 300 * time.Millisecond
			for i := range 20 {
				d.Tags = append(d.Tags, protocols.Tag{Address: fmt.Sprintf("hr:%d", 10*i)})
			}
			d.Modbus.MaxGap = 0
			_, sc := openScan(t, d)
			out, res := read(t.Context(), sc, 20)
			for i, r := range out {
				want := fmt.Sprint(i)
				if i == 4 {
					want = "timeout"
				}
				if text(r) != want {
					t.Errorf("reading %d is %s, want %s", i, text(r), want)
				}
			}
			if res.Answers != 19 || s.Accepted() != 1 {
				t.Errorf("unexpected result %+v over %d connections", res, s.Accepted())
			}
		})
	}
}

// connections is how many connections a test of faults makes: few, or many
// for MILLRACE_ANSWERS.
func connections(few, many uint64) uint64 {
	if os.Getenv("MILLRACE_ANSWERS") == "" {
		return few
	}
	return many
}

// faultyAnswers is how many answers one of so many connections of a test of
// faults gets: few, or its part of the share that the test has of
// MILLRACE_ANSWERS.
func faultyAnswers(t *testing.T, few int, share float64, connections int) int {
	t.Helper()
	text := os.Getenv("MILLRACE_ANSWERS")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("MILLRACE_ANSWERS=%s: %v", text, err)
	}
	return int(float64(n)*share)/connections + 1
}
