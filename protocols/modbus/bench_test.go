package modbus

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"testing"
	"time"

	gomodbus "github.com/goburrow/modbus"

	"millrace/protocols"
)

// holdingTags returns n tags of one register each, side by side.
func holdingTags(n int) []string {
	tags := make([]string, n)
	for i := range tags {
		tags[i] = fmt.Sprintf("holding:%d", i)
	}
	return tags
}

// planOf returns the requests for all tags of d.
func planOf(d *protocols.Device) ([]*request, error) {
	fields, err := fieldsOf(d, allTags(d))
	return merge(fields, limitsOf(d)), err
}

func BenchmarkDecode125(b *testing.B) {
	for _, typ := range []string{"uint16", "int16"} {
		b.Run(typ, func(b *testing.B) {
			d := newDevice("x:1", holdingTags(125)...)
			for i := range d.Tags {
				d.Tags[i].Type = typ
			}
			requests, err := planOf(d)
			if err != nil {
				b.Fatal(err)
			}
			benchmarkDecode(b, requests[0], 125)
		})
	}
	b.Run("float32", func(b *testing.B) {
		d := newDevice("x:1")
		for i := range 62 {
			d.Tags = append(d.Tags, protocols.Tag{Address: fmt.Sprintf("hr:%d", 2*i), Type: "float32", Order: protocols.CDAB})
		}
		requests, err := planOf(d)
		if err != nil {
			b.Fatal(err)
		}
		benchmarkDecode(b, requests[0], 62)
	})
}

func benchmarkDecode(b *testing.B, r *request, tags int) {
	b.Helper()
	data := make([]byte, 2*r.count)
	out := make([]protocols.Reading, tags)
	b.ReportAllocs()
	n := uint16(0)
	for b.Loop() {
		n++
		binary.BigEndian.PutUint16(data, n)
		decode(r.fields, r.addr, data, out)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(tags), "ns/tag")
}

func BenchmarkPlan10000Tags(b *testing.B) {
	d := newDevice("x:1", holdingTags(10000)...)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := planOf(d); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCRC16(b *testing.B) {
	frame := make([]byte, maxRTU-2)
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		crc16(frame)
	}
}

// ready is a serial port whose answer to a request is there at once, and
// which is silent otherwise.
type ready struct {
	answer  []byte
	waiting bool
}

func (p *ready) Write(b []byte) (int, error) {
	p.waiting = true
	return len(b), nil
}

func (p *ready) Read(b []byte) (int, error) {
	if !p.waiting {
		return 0, os.ErrDeadlineExceeded
	}
	p.waiting = false
	return copy(b, p.answer), nil
}

func (*ready) SetDeadline(time.Time) error { return nil }
func (*ready) Close() error                { return nil }

// BenchmarkRTUExchange is one request of 125 registers over a port that
// takes no time: what our side of it costs.
func BenchmarkRTUExchange(b *testing.B) {
	answer := append([]byte{1, 3, 250}, make([]byte, 250)...)
	answer = binary.LittleEndian.AppendUint16(answer, crc16(answer))
	tr := newRTUTransport(func(context.Context) (port, error) { return &ready{answer: answer}, nil })
	if err := tr.connect(b.Context(), time.Second); err != nil {
		b.Fatal(err)
	}
	x, err := tr.begin(b.Context(), pace{timeout: time.Second})
	if err != nil {
		b.Fatal(err)
	}
	defer x.end()
	c := &call{unit: 1, function: 3, count: 125}
	b.ReportAllocs()
	for b.Loop() {
		x.send(c)
		x.receive()
		if c.err != nil {
			b.Fatal(c.err)
		}
	}
}

// BenchmarkScan125 is one request of 125 registers, the simulator's part
// included, beside the same with goburrow's own loop, which throws the
// values away.
func BenchmarkScan125(b *testing.B) {
	b.Run("millrace", func(b *testing.B) {
		s := startServer(b)
		s.Unit(1)
		d := newDevice(s.Addr(), holdingTags(125)...)
		_, sc := openScan(b, d)
		out := make([]protocols.Reading, 125)
		b.ReportAllocs()
		for b.Loop() {
			if res := sc.Read(b.Context(), out); res.Err != nil {
				b.Fatal(res.Err)
			}
		}
	})
	b.Run("goburrow", func(b *testing.B) {
		s := startServer(b)
		s.Unit(1)
		h := gomodbus.NewTCPClientHandler(s.Addr())
		h.SlaveId = 1
		h.Timeout = time.Second
		if err := h.Connect(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = h.Close() })
		c := gomodbus.NewClient(h)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.ReadHoldingRegisters(0, 125); err != nil {
				b.Fatal(err)
			}
		}
	})
}
