package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"testing"
	"time"

	"millrace/protocols"
)

// withCRC returns a frame with its checksum.
func withCRC(frame ...byte) []byte {
	return binary.LittleEndian.AppendUint16(frame, crc16(frame))
}

// The examples of MODBUS over Serial Line V1.02 and of the field.
func TestCRC16(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		frame []byte
		want  uint16
	}{
		{[]byte{0x02, 0x07}, 0x1241}, // Appendix B
		{[]byte{0x01, 0x03, 0x00, 0x00, 0x00, 0x0a}, 0xcdc5},
		{nil, 0xffff},
	} {
		if got := crc16(c.frame); got != c.want {
			t.Errorf("the checksum of % x is %04x, want %04x", c.frame, got, c.want)
		}
	}
}

// request is the call that the tests of frames wait for: two registers of
// unit 1.
func testCall() *call {
	return &call{unit: 1, function: 3, addr: 10, count: 2, lim: limits{registers: maxRegisters, bits: maxBits}}
}

func TestFindFrames(t *testing.T) {
	t.Parallel()
	answer := withCRC(1, 3, 4, 1, 2, 3, 4)
	exception := withCRC(1, 0x83, 2)
	late := withCRC(1, 3, 2, 9, 9)
	request := withCRC(1, 3, 0, 10, 0, 2)
	join := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	damaged := join(answer)
	damaged[4] ^= 0x10
	for name, c := range map[string]struct {
		in    []byte
		kind  findKind
		used  int
		noise int
	}{
		"nothing":                {nil, foundNothing, 0, 0},
		"answer":                 {answer, foundAnswer, 9, 0},
		"answer in part":         {answer[:8], foundNothing, 0, 0},
		"exception":              {exception, foundAnswer, 5, 0},
		"noise before":           {join([]byte{0xff, 1}, answer), foundAnswer, 11, 2},
		"noise like a header":    {join([]byte{1, 3, 4}, answer), foundAnswer, 12, 3},
		"damaged":                {damaged, foundDamaged, 9, 0},
		"late in front":          {join(late, answer), foundLate, 7, 0},
		"echo":                   {join(request, answer), foundAnswer, 17, 0},
		"echo alone":             {request, foundNothing, 8, 0},
		"another's request":      {withCRC(1, 3, 0, 99, 0, 2), foundForeign, 8, 0},
		"another unit's answer":  {withCRC(2, 3, 4, 1, 2, 3, 4), foundForeign, 9, 0},
		"another size":           {withCRC(1, 3, 6, 1, 2, 3, 4, 5, 6), foundForeign, 11, 0},
		"another function":       {withCRC(1, 4, 4, 1, 2, 3, 4), foundForeign, 9, 0},
		"another's exception":    {withCRC(2, 0x83, 2), foundForeign, 5, 0},
		"a write":                {withCRC(1, 6, 0, 1, 0, 2), foundForeign, 8, 0},
		"noise":                  {[]byte{0, 0, 0xff, 0xfe, 7, 1, 3}, foundNothing, 0, 0},
		"exception in two parts": {exception[:4], foundNothing, 0, 0},
	} {
		late := lateList{now: time.Now}
		late.add(&call{unit: 1, function: 3, count: 1}, time.Second)
		l := listener{call: testCall(), echo: request, late: &late}
		if f := l.find(c.in, true); f.kind != c.kind || f.used != c.used || f.noise != c.noise {
			t.Errorf("%s: kind %d, %d used, %d noise; want %d, %d, %d", name, f.kind, f.used, f.noise, c.kind, c.used, c.noise)
		}
	}
}

// scriptedPort brings given bytes in pieces, then nothing.
type scriptedPort struct {
	data  []byte
	piece int
	sent  bool
}

func (p *scriptedPort) Read(b []byte) (int, error) {
	if len(p.data) == 0 || !p.sent {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(b, p.data[:min(len(p.data), p.piece)])
	p.data = p.data[n:]
	return n, nil
}

func (p *scriptedPort) Write(b []byte) (int, error) {
	p.sent = true
	return len(b), nil
}

func (*scriptedPort) SetDeadline(time.Time) error { return nil }
func (*scriptedPort) Close() error                { return nil }

// rtuExchange makes one call over a port that brings data.
func rtuExchange(t *testing.T, data []byte, piece int) *call {
	t.Helper()
	return rtuAsk(t, testCall(), data, piece)
}

func rtuAsk(t *testing.T, c *call, data []byte, piece int) *call {
	t.Helper()
	tr := newRTUTransport(func(context.Context) (port, error) { return &scriptedPort{data: data, piece: piece}, nil })
	if err := tr.connect(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	x, err := tr.begin(t.Context(), pace{timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer x.end()
	x.send(c)
	return x.receive()
}

func TestRTUAnswersInPieces(t *testing.T) {
	t.Parallel()
	for piece := 1; piece < 12; piece++ {
		for _, noise := range []string{"", "\xff", "\x01\x03"} {
			c := rtuExchange(t, append([]byte(noise), withCRC(1, 3, 4, 1, 2, 3, 4)...), piece)
			if c.err != nil || string(c.data) != "\x01\x02\x03\x04" {
				t.Errorf("in pieces of %d behind %q: % x, %v", piece, noise, c.data, c.err)
			}
		}
	}
	// Answers that contradict each other are not chosen from.
	two := append(withCRC(1, 3, 4, 1, 2, 3, 4), withCRC(1, 3, 4, 9, 9, 9, 9)...)
	if c := rtuExchange(t, two, 100); c.err == nil {
		t.Errorf("% x is taken, with another answer behind it", c.data)
	}
}

// What is taken for the answer was there, whole, with its checksum, and
// nothing that it could be confused with.
// Frames of Read Device Identification, awaited and not.
func TestFindIdentity(t *testing.T) {
	t.Parallel()
	answer := withCRC(1, 0x2b, 0x0e, 1, 1, 0, 0, 2, 0, 2, 'A', 'B', 1, 1, 'C')
	asked := &call{unit: 1, function: encapsulated, addr: 1 << 8}
	request := withCRC(1, 0x2b, 0x0e, 1, 0)
	damaged := append([]byte{}, answer...)
	damaged[10] ^= 1
	late := &lateList{now: time.Now}
	late.add(asked, time.Second)
	for name, c := range map[string]struct {
		l     listener
		in    []byte
		kind  findKind
		noise int
	}{
		"the answer":        {listener{call: asked}, answer, foundAnswer, 0},
		"behind noise":      {listener{call: asked}, append([]byte{0}, answer...), foundAnswer, 1},
		"behind its echo":   {listener{call: asked, echo: request}, append(append([]byte{}, request...), answer...), foundAnswer, 0},
		"damaged":           {listener{call: asked}, damaged, foundDamaged, 0},
		"a refusal":         {listener{call: asked}, withCRC(1, 0xab, 1), foundAnswer, 0},
		"another unit's":    {listener{call: &call{unit: 2, function: encapsulated}}, answer, foundForeign, 0},
		"another's request": {listener{call: testCall()}, request, foundForeign, 0},
		"a late one":        {listener{call: testCall(), late: late}, answer, foundLate, 0},
		"a late refusal":    {listener{call: testCall(), late: late}, withCRC(1, 0xab, 1), foundLate, 0},
		"nobody asked":      {listener{call: testCall()}, answer, foundForeign, 0},
		"too long":          {listener{call: asked}, withCRC(append([]byte{1, 0x2b, 0x0e, 1, 1, 0, 0, 2, 0, 250}, make([]byte, 252)...)...), foundNothing, 0},
	} {
		if c.l.late == nil {
			c.l.late = &lateList{now: time.Now}
		}
		if got := c.l.find(c.in, true); got.kind != c.kind || got.noise != c.noise {
			t.Errorf("%s: %+v", name, got)
		}
		for n := 1; n < len(c.in) && c.kind == foundAnswer; n++ {
			if got := c.l.find(c.in[:n], false); got.kind != foundNothing {
				t.Errorf("%s, %d bytes of it: %+v", name, n, got)
			}
		}
	}
}

func FuzzRTUAnswers(f *testing.F) {
	f.Add(withCRC(1, 3, 4, 1, 2, 3, 4), uint8(3))
	f.Add(append(withCRC(1, 0x83, 2), withCRC(1, 3, 4, 1, 2, 3, 4)...), uint8(200))
	f.Add(append([]byte{1, 3, 4}, withCRC(1, 3, 4, 1, 2, 3, 4)...), uint8(1))
	f.Add(append(withCRC(1, 3, 0, 10, 0, 2), withCRC(1, 3, 4, 1, 2, 3, 4)...), uint8(8))
	f.Add(append(withCRC(2, 3, 2, 1, 1), withCRC(1, 3, 4, 1, 2, 3, 4)...), uint8(5))
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		c := rtuExchange(t, data, int(piece)+1)
		if c.err != nil {
			if e := wrap(c.err); protocols.KindOf(e) == 0 || e.Error() == "" {
				t.Errorf("an error without a kind: %v", c.err)
			}
			return
		}
		want := withCRC(append([]byte{1, 3, 4}, c.data...)...)
		for at := 0; at+len(want) <= len(data); at++ {
			if string(data[at:at+len(want)]) == string(want) {
				return
			}
		}
		t.Errorf("% x is taken for an answer", c.data)
	})
}

func FuzzRTUIdentity(f *testing.F) {
	f.Add(withCRC(1, 0x2b, 0x0e, 1, 1, 0, 0, 2, 0, 2, 'A', 'B', 1, 1, 'C'), uint8(4))
	f.Add(withCRC(1, 0xab, 1), uint8(1))
	f.Add(append([]byte{1, 0x2b}, withCRC(1, 0x2b, 0x0e, 1, 1, 0, 0, 0)...), uint8(200))
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		c := rtuAsk(t, &call{unit: 1, function: encapsulated, addr: 1 << 8}, data, int(piece)+1)
		if c.err != nil {
			if e := wrap(c.err); protocols.KindOf(e) == 0 || e.Error() == "" {
				t.Errorf("an error without a kind: %v", c.err)
			}
			return
		}
		want := withCRC(append([]byte{1, encapsulated}, c.data...)...)
		if !bytes.Contains(data, want) {
			t.Errorf("% x is taken for an answer", c.data)
		}
		if _, err := (idObjects{}).parse(c.data); err != nil {
			t.Errorf("% x: %v", c.data, err)
		}
	})
}
