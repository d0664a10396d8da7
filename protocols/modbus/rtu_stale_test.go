package modbus

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
)

// rtuFaults is what TestNeverAWrongValueRTU mixes: what a frame without a
// number cannot tell by itself.
func rtuFaults(timeout time.Duration) []modbustest.Fault {
	foreign := func(counts ...uint16) []modbustest.Request {
		var rs []modbustest.Request
		for _, n := range counts {
			rs = append(rs, modbustest.Request{Unit: 1, Function: 3, Addr: 30000, Count: n})
		}
		return rs
	}
	return []modbustest.Fault{
		{Delay: timeout + timeout/4},
		{Delay: 3 * timeout},
		{Drop: true},
		{Exception: 6},
		{Exception: 6, Delay: timeout + timeout/4},
		{Late: timeout + timeout/4},
		{Late: 2 * timeout},
		{Late: 3 * timeout},
		{WrongUnit: true},
		{WrongFunction: true},
		{WrongCount: true},
		{BadCRC: true},
		{Fewer: 2},
		{Fewer: 3},
		{Cut: 1},
		{Cut: 10},
		{Hold: true},
		{HoldBehind: true},
		{HoldBehind: true, Cut: 3},
		{Slowly: 10 * time.Microsecond},
		{Twice: true},
		{NoiseBefore: []byte{0}},
		{NoiseBefore: []byte{1, 3, 20}},
		{NoiseBefore: []byte{0xff, 1, 3}},
		{NoiseAfter: []byte{0xff, 0}},
		{Foreign: foreign(10), ForeignWhen: modbustest.BeforeAnswer},
		{Foreign: foreign(1, 10), ForeignWhen: modbustest.AfterAnswer},
		{Foreign: foreign(10), ForeignWhen: modbustest.MidWait, Delay: timeout / 8},
		{Foreign: foreign(2), ForeignWhen: modbustest.MidWait, Delay: timeout * 2 / 3},
		{Foreign: foreign(9, 1), ForeignWhen: modbustest.MidWait, Delay: 2 * timeout},
		{BadCRC: true, Twice: true},
		{BadCRC: true, Late: timeout / 2},
		{Foreign: foreign(1), ForeignWhen: modbustest.BeforeAnswer, Drop: true},
		{Reset: true},
	}
}

// A value that is delivered is the answer to its request, although frames do
// not say which one they answer. Each register holds its own address and
// each request asks for others, of the same function and often of the same
// length, so an answer to another request is found out.
func TestNeverAWrongValueRTU(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"line", "echo", "tcp"} {
		for seed := range connections(2, 8) {
			t.Run(fmt.Sprint(link, seed), func(t *testing.T) {
				t.Parallel()
				neverWrongRTU(t, link, seed)
			})
		}
	}
}

func neverWrongRTU(t *testing.T, link string, seed uint64) {
	t.Helper()
	// Longer than the quiet that follows on trouble: late answers come behind it.
	const timeout = 30 * time.Millisecond
	n := faultyAnswers(t, 250, 0.3, 3*int(connections(2, 8)))
	s := modbustest.NewServer()
	t.Cleanup(func() { _ = s.Close() })
	// A busy machine makes answers as late as no device is: the driver waits for
	// them for half a second (decision 0020).
	s.SetLimits(modbustest.Limits{MaxAge: 200 * time.Millisecond})
	u := s.Unit(1)
	for i := range addresses {
		u.Holding.Set(i, uint16(i))
	}
	u.SetIdentity(longIdentity())
	d := newDevice("")
	d.Endpoint = rtuEndpoint(t, s, link, seed)
	d.Timeout = timeout
	for i := range 2000 {
		typ := [...]string{"uint16[10]", "uint16[1]", "uint16[2]", "uint16[9]"}[i%4]
		d.Tags = append(d.Tags, protocols.Tag{Address: fmt.Sprintf("hr:%d", 10*i), Type: typ})
	}
	b := connectPatiently(t, d)
	u.SetFaults(modbustest.Random(seed, 0.1, rtuFaults(timeout)...))
	good := 0
	rng := rand.New(rand.NewPCG(seed, 1))
	var overdue uint64
	var at time.Time // when an answer was sent that no device would have sent so late
	for i := range n {
		if i%16 == 0 {
			wantNoOther(t, b, d)
		}
		one, wrong := readAndLook(t, b, d, rng.IntN(len(d.Tags)))
		if now := s.Overdue(); now != overdue {
			overdue, at = now, time.Now()
		}
		switch {
		case wrong == "":
		case time.Since(at) < time.Second:
			t.Logf("%s: the simulation sent %d answers later than it may; not the driver's fault", wrong, overdue)
		default:
			t.Fatal(wrong)
		}
		good += one
	}
	t.Logf("%d of %d good", good, n)
	if good < n/2 {
		t.Errorf("only %d of %d are good", good, n)
	}
	u.SetFaults(nil)
	for i := 1; readOne(t, b, d, 1) == 0; i++ { // 8 ms may be short when other tests run
		if i == 100 {
			t.Fatal("it does not recover")
		}
	}
}

// rtuEndpoint serves s and returns the URL of its endpoint.
func rtuEndpoint(t *testing.T, s *modbustest.Server, link string, seed uint64) string {
	t.Helper()
	if link == "tcp" {
		if err := s.ListenRTU(""); err != nil {
			t.Fatal(err)
		}
		return "rtu+tcp://" + s.AddrRTU()
	}
	l, err := modbustest.OpenLine(modbustest.LineOptions{
		Echo: link == "echo",
		Foreigner: &modbustest.Foreigner{
			Every: 20 * time.Millisecond, Seed: seed,
			Requests: []modbustest.Request{{Unit: 1, Function: 3, Addr: 40000, Count: 10}, {Unit: 1, Function: 3, Addr: 50000, Count: 1}, {Unit: 2, Function: 3, Addr: 1, Count: 10}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s.ServeLine(l)
	return l.URL()
}
