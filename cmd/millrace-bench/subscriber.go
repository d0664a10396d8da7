package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// subscriber counts what arrives at the broker. It speaks just enough of
// MQTT 3.1.1 (QoS 0) to take little of the machine that it measures.
type subscriber struct {
	conn net.Conn
	done chan struct{}

	mu       sync.Mutex
	on       bool
	batches  int
	readings int
	bytes    int
	waited   int   // batches that are marked historical
	latency  []int // ms, of each of the others
	scanLen  int
	gaps     int
	began    time.Time // when the first batch arrived
	keep     int       // how many bodies to keep
	kept     [][]byte
	check    *steps // nil: the values are not looked at
}

func subscribe(ctx context.Context, addr, topic string) (*subscriber, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &subscriber{conn: c, done: make(chan struct{})}
	connect := append([]byte{0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0}, mqttText("bench-subscriber")...) // clean session, no keep-alive
	sub := append([]byte{0, 1}, mqttText(topic)...)
	sub = append(sub, 0)
	if _, err := c.Write(append(mqttPacket(0x10, connect), mqttPacket(0x82, sub)...)); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	go s.read()
	return s, nil
}

func mqttText(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

// mqttPacket is for bodies of less than 128 bytes.
func mqttPacket(kind byte, body []byte) []byte { return append([]byte{kind, byte(len(body))}, body...) }

func (s *subscriber) close() {
	_ = s.conn.Close()
	<-s.done
}

func (s *subscriber) read() {
	defer close(s.done)
	r := bufio.NewReaderSize(s.conn, 1<<18)
	var body []byte
	for {
		kind, err := r.ReadByte()
		if err != nil {
			return
		}
		n, err := binary.ReadUvarint(r) // MQTT's length is the same encoding
		if err != nil {
			return
		}
		body = slices.Grow(body[:0], int(n))[:n]
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		if kind>>4 != 3 {
			continue
		}
		topic := int(binary.BigEndian.Uint16(body))
		s.take(body[2:2+topic], body[2+topic:], int(n)+2)
	}
}

func (s *subscriber) take(topic, payload []byte, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes.HasSuffix(topic, []byte("/gap")) {
		s.gaps++
	}
	if !s.on || !bytes.HasSuffix(topic, []byte("/data")) {
		return
	}
	if s.check != nil {
		s.check.take(payload)
	}
	if s.batches == 0 {
		s.began = time.Now()
	}
	if len(s.kept) < s.keep {
		s.kept = append(s.kept, bytes.Clone(payload))
	}
	s.batches++
	s.bytes += size
	s.scanLen = len(payload)
	if _, values, ok := bytes.Cut(payload, []byte(`"values":`)); ok {
		s.readings += bytes.Count(values, []byte{':'})
	}
	if bytes.Contains(payload[:min(len(payload), 300)], []byte(`"historical":true`)) {
		s.waited++
		return
	}
	if _, text, ok := bytes.Cut(payload, []byte(`"ts":`)); ok {
		var ts int64
		for _, c := range text {
			if c < '0' || c > '9' {
				break
			}
			ts = 10*ts + int64(c-'0')
		}
		s.latency = append(s.latency, int(time.Now().UnixMilli()-ts))
	}
}

// start begins to count, from nothing.
func (s *subscriber) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on = true
	s.batches, s.readings, s.bytes, s.gaps, s.waited, s.latency = 0, 0, 0, 0, 0, s.latency[:0]
}

// counted is what arrived between start and stop.
type counted struct {
	batches, readings, bytes, gaps, scanLen int
	waited                                  int // marked historical
	p50, p99                                int // ms, of the others
}

func (s *subscriber) stop() counted {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on = false
	c := counted{batches: s.batches, readings: s.readings, bytes: s.bytes, gaps: s.gaps, scanLen: s.scanLen, waited: s.waited}
	if n := len(s.latency); n > 0 {
		slices.Sort(s.latency)
		c.p50, c.p99 = s.latency[n/2], s.latency[n*99/100]
	}
	return c
}

// some says whether anything arrives.
func (s *subscriber) some() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.batches > 0
}

// first is when the first batch arrived after start.
func (s *subscriber) first() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.began
}

// hasKept says whether all bodies that are to be kept are there.
func (s *subscriber) hasKept() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.kept) >= s.keep
}

var errNothing = errors.New("nothing arrives at the broker")
