package modbus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
)

// memory is a protocols.Memory for tests.
type memory struct {
	mu   sync.Mutex
	kept map[string][]byte
	err  error
}

func (m *memory) Get(key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.kept[key])
}

func (m *memory) Put(key string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept == nil {
		m.kept = map[string][]byte{}
	}
	m.kept[key] = slices.Clone(value)
	return m.err
}

// openWith opens the bus of d with a driver that has the given options.
func openWith(tb testing.TB, o Options, d *protocols.Device) (protocols.Bus, *scan) {
	tb.Helper()
	b, err := New(o).Open([]*protocols.Device{d})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = b.Close() })
	if err := b.Connect(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	s, err := b.Plan(d, allTags(d))
	if err != nil {
		tb.Fatal(err)
	}
	return b, s.(*scan)
}

// A hole between two tags is found once, within one scan, and is known after
// a restart.
func TestHoleIsLearnt(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	u := s.Unit(1)
	u.Holding.Refuse(105, 2)
	// Three gaps could be the reason; it is the middle one.
	d := newDevice(s.Addr(), "hr:90", "hr:97", "hr:100", "hr:110", "hr:113", "coil:1")
	m := &memory{}
	b, sc := openWith(t, Options{Memory: m}, d)
	out, res := read(t.Context(), sc, 6)
	if res.Err != nil || !res.Learnt {
		t.Errorf("unexpected result %+v", res)
	}
	wantReadings(t, out, "0", "0", "0", "0", "0", "false")
	advice := b.(protocols.Adviser).Advice(d)
	if len(advice) != 1 || !strings.Contains(advice[0], "holding 101..109 ") || !strings.Contains(advice[0], "max_gap: 8") {
		t.Errorf("the advice is %q", advice)
	}
	wantRequests := func(sc *scan, want uint64) {
		t.Helper()
		before := u.Requests()
		for range 3 {
			out, res := read(t.Context(), sc, 6)
			if res.Err != nil || res.Learnt {
				t.Errorf("unexpected result %+v", res)
			}
			wantReadings(t, out, "0", "0", "0", "0", "0", "false")
		}
		if n := u.Requests() - before; n != 3*want {
			t.Errorf("%d requests in 3 scans, want %d", n, 3*want)
		}
	}
	wantRequests(sc, 3)
	_ = b.Close()
	_, sc = openWith(t, Options{Memory: m}, d)
	wantRequests(sc, 3)
	later := func() time.Time { return time.Now().Add(forgetAfter + time.Hour) }
	_, sc = openWith(t, Options{Memory: m, Now: later}, d)
	if _, res := read(t.Context(), sc, 6); !res.Learnt || res.Err != nil {
		t.Errorf("what was learnt is believed for ever: %+v", res)
	}
}

func TestLimitIsLearnt(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	u := s.Unit(1)
	u.Limit(40)
	d := newDevice(s.Addr(), holdingTags(250)...)
	m := &memory{}
	b, sc := openWith(t, Options{Memory: m}, d)
	for i := range 10 { // the half at once, the exact number within some scans
		out, res := read(t.Context(), sc, 250)
		if res.Err != nil || i == 0 && !res.Learnt || i == 9 && res.Learnt {
			t.Errorf("unexpected result %+v", res)
		}
		wantReadings(t, out[249:], "0")
		// Nothing is suggested that the next scan may disprove.
		for _, text := range b.(protocols.Adviser).Advice(d) {
			if !strings.Contains(text, "set max_registers: 40") {
				t.Errorf("the advice after scan %d is %q", i+1, text)
			}
		}
	}
	advice := b.(protocols.Adviser).Advice(d)
	if len(advice) != 1 || !strings.Contains(advice[0], "set max_registers: 40") {
		t.Errorf("the advice is %q", advice)
	}
	_ = b.Close()
	_, sc = openWith(t, Options{Memory: m}, d)
	before := u.Requests()
	if _, res := read(t.Context(), sc, 250); res.Err != nil || u.Requests()-before != 7 {
		t.Errorf("%d requests after the restart, %+v", u.Requests()-before, res)
	}
	d.Modbus.MaxRegisters = 40
	if advice := b.(protocols.Adviser).Advice(d); len(advice) != 0 {
		t.Errorf("the advice that was heeded is still %q", advice)
	}
	// A changed configuration is believed, and what contradicts it learnt anew.
	_ = b.Close()
	u.Limit(100)
	d.Modbus.MaxRegisters = 100
	_, sc = openWith(t, Options{Memory: m}, d)
	before = u.Requests()
	if _, res := read(t.Context(), sc, 250); res.Err != nil || !res.Learnt || u.Requests()-before != 3 {
		t.Errorf("%d requests with the new configuration, %+v", u.Requests()-before, res)
	}
}

// Exception 3 to a long request with gaps is for its length: the gaps are no
// holes.
func TestLimitIsLearntAcrossGaps(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	u := s.Unit(1)
	u.Limit(40)
	d := newDevice(s.Addr())
	for i := range 80 {
		d.Tags = append(d.Tags, protocols.Tag{Address: fmt.Sprint("hr:", 3*i)})
	}
	b, sc := openWith(t, Options{Memory: &memory{}}, d)
	for range 10 {
		if out, res := read(t.Context(), sc, 80); res.Err != nil || text(out[79]) != "0" {
			t.Errorf("unexpected result %+v", res)
		}
	}
	// Fourteen tags fill 40 registers.
	advice := b.(protocols.Adviser).Advice(d)
	if len(advice) != 1 || !strings.Contains(advice[0], "set max_registers: 40") || len(sc.requests) != 6 {
		t.Errorf("%d requests, and the advice is %q", len(sc.requests), advice)
	}
}

func TestRefusedTagIsAdvised(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	u := s.Unit(1)
	u.Holding.Refuse(7, 1)
	d := newDevice(s.Addr(), "40001", "40008", "40009")
	m := &memory{err: errors.New("the disk is full")} // it is learnt all the same
	b, sc := openWith(t, Options{Memory: m}, d)
	for range 2 {
		out, res := read(t.Context(), sc, 3)
		wantReadings(t, out, "0", "illegal_address", "0")
		wantError(t, res.Err, protocols.KindRefused, protocols.IllegalAddress, "40008 ")
	}
	advice := b.(protocols.Adviser).Advice(d)
	if len(advice) != 1 || !strings.Contains(advice[0], "refuses 40008 (exception 2), which the tag 40008 reads") {
		t.Errorf("the advice is %q", advice)
	}
	u.Holding.Refuse(7, 0)
	for range maxPause + 2 {
		out, _ := read(t.Context(), sc, 3)
		if out[1].Quality == protocols.Good {
			if advice := b.(protocols.Adviser).Advice(d); len(advice) != 0 {
				t.Errorf("the advice is still %q", advice)
			}
			return
		}
	}
	t.Error("the tag did not come back")
}

// What is kept may be of anyone.
func TestForeignMemory(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.Unit(1)
	for _, blob := range []string{
		"{", "[]", `{"limit":[-1,99999,0,0],"since":32503680000}`,
		`{"holes":[{"table":9,"first":0,"end":1},{"table":0,"first":5,"end":1},{"table":0,"first":0,"end":999999}],"window":999,"since":32503680000}`,
	} {
		m := &memory{}
		d := newDevice(s.Addr(), holdingTags(20)...)
		if err := m.Put("modbus/tcp://"+s.Addr()+"/1", []byte(blob)); err != nil {
			t.Fatal(err)
		}
		b, sc := openWith(t, Options{Memory: m}, d)
		if _, res := read(t.Context(), sc, 20); res.Err != nil || res.Requests != 1 {
			t.Errorf("with %s: %+v", blob, res)
		}
		_ = b.Close()
	}
}

// A device that is busy is asked again, and gives its values in the same
// scan.
func TestBusyDeviceIsAskedAgain(t *testing.T) {
	t.Parallel()
	for _, code := range []uint8{5, 6} {
		s := startServer(t)
		s.Unit(1).SetFaults(func(n uint64, r modbustest.Request) modbustest.Fault {
			if r.Addr == 100 && n < 6 {
				return modbustest.Fault{Exception: code}
			}
			return modbustest.Fault{}
		})
		d := newDevice(s.Addr(), "hr:0", "hr:100", "hr:200")
		_, sc := openScan(t, d)
		out, res := read(t.Context(), sc, 3)
		wantReadings(t, out, "0", "0", "0")
		if res.Err != nil || res.Requests < 5 {
			t.Errorf("exception %d: %+v", code, res)
		}
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	u := s.Unit(1)
	d := newDevice(s.Addr(), "hr:0", "hr:100", "hr:200")
	d.Timeout, d.Modbus.Retries = 50*time.Millisecond, 2
	_, sc := openScan(t, d)
	drops := 0
	u.SetFaults(func(_ uint64, r modbustest.Request) modbustest.Fault {
		if r.Addr == 100 && drops < 2 {
			drops++
			return modbustest.Fault{Drop: true}
		}
		return modbustest.Fault{}
	})
	out, res := read(t.Context(), sc, 3)
	wantReadings(t, out, "0", "0", "0")
	if res.Err != nil {
		t.Error(res.Err)
	}
	u.SetFaults(modbustest.Always(modbustest.Fault{Drop: true}))
	_, _ = read(t.Context(), sc, 3)
	before := u.Requests()
	if _, res = read(t.Context(), sc, 3); res.Answers > 0 || u.Requests()-before != 1 {
		t.Errorf("a unit that is away gets %d requests in a scan", u.Requests()-before)
	}
}
