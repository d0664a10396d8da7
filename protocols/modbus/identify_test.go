package modbus

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
)

// longIdentity takes several answers, of which the first two are alike.
func longIdentity() *modbustest.Identity {
	return &modbustest.Identity{Conformity: 0x82, Room: 40, Objects: map[byte]string{
		0: "Acme Electric", 1: "AC-4711/02", 2: "V2.1", 3: "www.example.com", 4: "Acme Drive", 5: "Drive 47", 0x80: "its own",
	}}
}

func wantLong() protocols.Identity {
	return protocols.Identity{Maker: "Acme Electric", Model: "Drive 47", Product: "AC-4711/02", Version: "V2.1"}
}

// wantNoOther asks a unit that may be disturbed who it is: if it says
// anything, that is true.
func wantNoOther(t *testing.T, b protocols.Bus, d *protocols.Device) {
	t.Helper()
	own, _ := b.(*bus)
	own.unit(1).muteUntil = time.Time{}
	who, err := own.Identify(t.Context(), d)
	want := wantLong()
	for _, f := range [][2]string{{who.Maker, want.Maker}, {who.Product, want.Product}, {who.Version, want.Version}} {
		if f[0] != "" && f[0] != f[1] {
			t.Errorf("it says %q, not %q (%v)", f[0], f[1], err)
		}
	}
	if who.Model != "" && who.Model != want.Model && who.Model != "Acme Drive" {
		t.Errorf("it says it is a %q (%v)", who.Model, err)
	}
	if protocols.KindOf(err) == protocols.KindNotConnected {
		_ = b.Close()
		if err := b.Connect(t.Context()); err != nil {
			t.Log(err)
		}
	}
}

// identifyEndpoints serve s in each way there is.
func identifyEndpoints(t *testing.T, s *modbustest.Server) map[string]string {
	t.Helper()
	if err := s.Listen(""); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"tcp": "tcp://" + s.Addr(), "rtu+tcp": rtuEndpoint(t, s, "tcp", 1),
		"line": openLine(t, s, modbustest.LineOptions{}).URL(), "echo": openLine(t, s, modbustest.LineOptions{Echo: true}).URL(),
	}
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		id   *modbustest.Identity
		want protocols.Identity
	}{
		"basic": {
			&modbustest.Identity{Conformity: 1, Objects: map[byte]string{0: "Acme", 1: "M1", 2: "1.0"}},
			protocols.Identity{Maker: "Acme", Product: "M1", Version: "1.0"},
		},
		"regular": {
			&modbustest.Identity{Conformity: 2, Objects: map[byte]string{0: "Acme", 1: "M1", 2: "1.0", 4: "Meter"}},
			protocols.Identity{Maker: "Acme", Model: "Meter", Product: "M1", Version: "1.0"},
		},
		"in several answers": {longIdentity(), wantLong()},
		"says more than it does": {
			&modbustest.Identity{Conformity: 1, Strict: true, Objects: map[byte]string{0: "Acme", 1: "", 2: "1.0"}},
			protocols.Identity{Maker: "Acme", Version: "1.0"},
		},
		"long": {
			&modbustest.Identity{Conformity: 1, Objects: map[byte]string{0: strings.Repeat("x", 200), 1: strings.Repeat("y", 40), 2: "1.0"}},
			protocols.Identity{Maker: strings.Repeat("x", 200), Product: strings.Repeat("y", 40), Version: "1.0"},
		},
		"nothing": {nil, protocols.Identity{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := modbustest.NewServer()
			t.Cleanup(func() { _ = s.Close() })
			s.Unit(1).SetIdentity(c.id)
			s.Unit(1).Holding.Set(0, 42)
			for link, endpoint := range identifyEndpoints(t, s) {
				d := newDevice("", "hr:0")
				d.Endpoint = endpoint
				b := connectPatiently(t, d)
				id := b.(protocols.Identifier) //nolint:forcetypeassert // the test is about that
				who, err := id.Identify(t.Context(), d)
				// A busy machine makes answers late.
				for try := 0; protocols.KindOf(err) == protocols.KindTimeout && try < 100; try++ {
					b.(*bus).unit(1).muteUntil = time.Time{} //nolint:forcetypeassert // as above
					readOne(t, b, d, 0)
					who, err = id.Identify(t.Context(), d)
				}
				if who != c.want || (err != nil) != (c.id == nil) {
					t.Errorf("%s: %+v, %v", link, who, err)
				}
				if readOne(t, b, d, 0) == 0 {
					t.Errorf("%s: no value after it", link)
				}
			}
		})
	}
}

// A unit that does not know the question is asked once in a long time.
func TestIdentifyInVain(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"tcp", "rtu+tcp", "line", "echo"} {
		for _, silent := range []bool{false, true} {
			t.Run(fmt.Sprint(link, silent), func(t *testing.T) {
				t.Parallel()
				askInVain(t, link, silent)
			})
		}
	}
}

func askInVain(t *testing.T, link string, silent bool) {
	t.Helper()
	s := modbustest.NewServer()
	t.Cleanup(func() { _ = s.Close() })
	u := s.Unit(1)
	u.Holding.Set(0, 42)
	var asked atomic.Int32
	u.SetFaults(func(_ uint64, r modbustest.Request) (f modbustest.Fault) {
		if r.Function == encapsulated {
			asked.Add(1)
			f.Drop = silent
		}
		return f
	})
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	o := Options{Memory: &memory{}, Now: func() time.Time { return now }}
	d := newDevice("", "hr:0")
	d.Endpoint, d.Timeout = identifyEndpoints(t, s)[link], time.Second
	times := func() int32 {
		b, _ := openWith(t, o, d) // as after a start
		defer func() { _ = b.Close() }()
		before := asked.Load()
		for range 3 {
			if who, _ := b.(protocols.Identifier).Identify(t.Context(), d); who != (protocols.Identity{}) { //nolint:forcetypeassert // the test is about that
				t.Errorf("%+v", who)
			}
		}
		for try := 0; readOne(t, b, d, 0) == 0; try++ { // a busy machine makes answers late
			if try == 20 {
				t.Error("no value after it")
				break
			}
		}
		return asked.Load() - before
	}
	again := forgetAfter
	if silent {
		again = forgetSilence
	}
	got := []int32{times(), times()}
	now = now.Add(again - time.Minute)
	got = append(got, times())
	now = now.Add(2 * time.Minute)
	got = append(got, times())
	now = time.Unix(0, 0) // the clock is not set yet
	got = append(got, times())
	if fmt.Sprint(got) != "[1 0 0 1 1]" {
		t.Errorf("asked %v times", got)
	}
}

// What ends a question from outside says nothing of the unit.
func TestIdentifyEnds(t *testing.T) {
	t.Parallel()
	s := modbustest.NewServer()
	t.Cleanup(func() { _ = s.Close() })
	u := s.Unit(1)
	u.SetIdentity(longIdentity())
	u.Holding.Set(0, 42)
	for link, endpoint := range identifyEndpoints(t, s) {
		d := newDevice("", "hr:0")
		d.Endpoint = endpoint
		b := connectPatiently(t, d)
		id := b.(protocols.Identifier) //nolint:forcetypeassert // the test is about that
		u.SetFaults(modbustest.Always(modbustest.Fault{Exception: excBusy}))
		who, err := id.Identify(t.Context(), d)
		if who != (protocols.Identity{}) || err == nil {
			t.Errorf("%s: %+v, %v", link, who, err)
		}
		u.SetFaults(modbustest.Always(modbustest.Fault{Drop: true}))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		who, err = id.Identify(ctx, d)
		cancel()
		if who != (protocols.Identity{}) || protocols.KindOf(err) != protocols.KindTimeout {
			t.Errorf("%s: %+v, %v", link, who, err)
		}
		u.SetFaults(nil)
		for start := time.Now(); who != wantLong(); who, err = id.Identify(t.Context(), d) {
			if time.Since(start) > 20*time.Second {
				t.Fatalf("%s: %+v, %v", link, who, err)
			}
			if readOne(t, b, d, 0) == 0 {
				t.Errorf("%s: no value", link)
			}
		}
		_ = b.Close()
		if _, err = id.Identify(t.Context(), d); protocols.KindOf(err) != protocols.KindNotConnected {
			t.Errorf("%s: without a connection: %v", link, err)
		}
	}
}

// Answers as no device should make them.
func TestParseIdentity(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		data string
		want string
		ok   bool
	}{
		"empty":               {"", "map[]", false},
		"no objects":          {"\x0e\x01\x01\x00\x00\x00", "map[]", true},
		"another kind":        {"\x0d\x01\x01\x00\x00\x00", "map[]", false},
		"whole":               {"\x0e\x01\x01\x00\x00\x02\x00\x01A\x01\x00", "map[0:A 1:]", true},
		"cut in an object":    {"\x0e\x01\x01\x00\x00\x02\x00\x01A\x01\x05B", "map[0:A]", false},
		"fewer than it says":  {"\x0e\x01\x01\x00\x00\x03\x00\x01A", "map[0:A]", false},
		"more than it says":   {"\x0e\x01\x01\x00\x00\x01\x00\x01A\x01\x01B", "map[0:A]", true},
		"of the maker's own":  {"\x0e\x01\x01\x00\x00\x01\x80\x01A", "map[]", true},
		"longer than it says": {"\x0e\x01\x01\x00\x00\x01\x00\xffA", "map[]", false},
	} {
		o := idObjects{}
		_, err := o.parse([]byte(c.data))
		if fmt.Sprint(o) != c.want || (err == nil) != c.ok {
			t.Errorf("%s: %v, %v", name, o, err)
		}
	}
}

// A device that says again and again that there is more costs a few requests.
func TestIdentifyEndless(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]func(from byte) byte{
		"the same":   func(from byte) byte { return from },
		"the first":  func(byte) byte { return 0 },
		"on and on":  func(from byte) byte { return from + 1 },
		"to the end": func(from byte) byte { return max(from, 0xfe) + 1 },
	} {
		asked := 0
		x := &scriptedExchange{answer: func(c *call) {
			asked++
			c.take(1, []byte{encapsulated, deviceID, byte(c.addr >> 8), 2, 0xff, next(byte(c.addr)), 0})
		}}
		b := &bus{}
		if err := b.ask(x, &unit{id: 1}, idObjects{}); err != nil || asked > 2*maxIDRequests {
			t.Errorf("%s: asked %d times, %v", name, asked, err)
		}
	}
}

// scriptedExchange answers each call at once.
type scriptedExchange struct {
	answer func(c *call)
	sent   *call
}

func (*scriptedExchange) window(int) int           { return 1 }
func (*scriptedExchange) idle(time.Duration) error { return nil }
func (*scriptedExchange) end()                     {}
func (x *scriptedExchange) send(c *call)           { x.sent = c }

func (x *scriptedExchange) receive() *call {
	x.answer(x.sent)
	return x.sent
}

func FuzzIdentity(f *testing.F) {
	f.Add([]byte("\x0e\x01\x81\xff\x02\x02\x00\x04Acme\x01\x02M1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		o := idObjects{}
		p, err := o.parse(data)
		size := 0
		for id, text := range o {
			if id > lastRegular {
				t.Errorf("object %d", id)
			}
			size += 2 + len(text)
		}
		if size > max(len(data)-deviceIDHeader, 0) || err == nil && len(data) < deviceIDHeader || p.conformity > 0x7f {
			t.Errorf("%+v, %v: %v", p, err, o)
		}
		// The frame on a line is as long as what is in it.
		frame := append([]byte{1, encapsulated}, data...)
		if n := idFrame(frame); n > 0 && n <= len(frame)+2 && len(data) >= deviceIDHeader && err != nil {
			t.Errorf("a frame of %d bytes for what cannot be read", n)
		}
	})
}
