package modbus

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"testing"
	"time"

	"millrace/protocols"
)

// scripted is a connection that answers with given bytes, in pieces of a
// given size, and then with nothing until the deadline.
type scripted struct {
	net.Conn

	data  []byte
	piece int
}

func (c *scripted) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(p, c.data[:min(len(c.data), c.piece)])
	c.data = c.data[n:]
	return n, nil
}

func (*scripted) Write(p []byte) (int, error) { return len(p), nil }
func (*scripted) SetDeadline(time.Time) error { return nil }
func (*scripted) Close() error                { return nil }

// exchange sends requests for two registers of unit 1 over a connection that
// brings data.
func exchange(t *testing.T, data []byte, piece, times int) (answers [][]byte, errs []error) {
	t.Helper()
	tr := newTCPTransport(func(context.Context, string, string) (net.Conn, error) {
		return &scripted{data: data, piece: piece}, nil
	}, "plc:502")
	if err := tr.connect(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.begin(t.Context(), pace{timeout: time.Second}); err != nil {
		t.Fatal(err)
	}
	defer tr.end()
	for range times {
		c := &call{unit: 1, function: 3, addr: 10, count: 2}
		tr.send(c)
		if got := tr.receive(); got != c {
			t.Errorf("%+v ended, not %+v", got, c)
		}
		answers = append(answers, append([]byte{}, c.data...))
		errs = append(errs, c.err)
	}
	return answers, errs
}

// frameOf makes an answer of unit 1 to the n-th request of a connection.
func frameOf(n int, pdu ...byte) []byte {
	id := uint16(idStep * n)
	f := binary.BigEndian.AppendUint16(nil, id)
	f = append(f, 0, 0, 0, byte(1+len(pdu)), 1)
	return append(f, pdu...)
}

func TestAnswersInPieces(t *testing.T) {
	t.Parallel()
	for piece := 1; piece < 30; piece++ {
		answers, errs := exchange(t, frameOf(1, 3, 4, 1, 2, 3, 4), piece, 2)
		if errs[0] != nil || string(answers[0]) != "\x01\x02\x03\x04" {
			t.Errorf("in pieces of %d: % x, %v", piece, answers[0], errs[0])
		}
		if protocols.KindOf(wrap(errs[1])) != protocols.KindTimeout {
			t.Errorf("without an answer: %v", errs[1])
		}
	}
}

// Of many answers that arrive together, a read may end anywhere in the next
// one: its first bytes alone do not make the one before it doubtful.
func TestManyAnswersInPieces(t *testing.T) {
	t.Parallel()
	const calls = 8
	var data []byte
	for n := 1; n <= calls; n++ {
		data = append(data, frameOf(n, 3, 4, 0, 0, 0, byte(n))...)
	}
	for piece := 1; piece < 60; piece++ {
		tr := newTCPTransport(func(context.Context, string, string) (net.Conn, error) {
			return &scripted{data: data, piece: piece}, nil
		}, "plc:502")
		if err := tr.connect(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		if _, err := tr.begin(t.Context(), pace{timeout: time.Second, inflight: calls}); err != nil {
			t.Fatal(err)
		}
		for n := 1; n <= calls; n++ {
			tr.send(&call{unit: 1, function: 3, addr: uint16(n), count: 2})
		}
		for got := 0; got < calls; {
			c := tr.receive()
			if c == nil {
				continue // another call might be sent
			}
			got++
			if c.err != nil || c.data[3] != byte(c.addr) {
				t.Fatalf("in pieces of %d: answer %d is % x, %v", piece, c.addr, c.data, c.err)
			}
		}
		tr.end()
	}
}

// wrap types err as a scan does.
func wrap(err error) error {
	s := &scan{bus: &bus{endpoints: []endpoint{{}}}, unit: &unit{id: 1}}
	return s.failure(newRequest([]field{{span: 2}}), err)
}

// What comes behind an answer that was cut short makes up for its missing
// bytes: it is not to be trusted then.
func TestCutAnswerInFrontOfAnother(t *testing.T) {
	t.Parallel()
	cut := frameOf(1, 3, 4, 1, 2, 3, 4)
	cut = cut[:len(cut)-2]
	_, errs := exchange(t, append(cut, frameOf(5, 3, 4, 9, 9, 9, 9)...), 100, 1)
	if protocols.ReasonOf(wrap(errs[0])) != protocols.Malformed || protocols.KindOf(wrap(errs[0])) != protocols.KindNotConnected {
		t.Errorf("the error is %v", errs[0])
	}
}

// An answer that is there before its request is none, even if its
// transaction id is right.
func TestAnswerBeforeItsRequest(t *testing.T) {
	t.Parallel()
	// Behind the first answer is the same once more, and what will be the
	// second request's.
	data := append(frameOf(1, 3, 4, 1, 2, 3, 4), frameOf(1, 3, 4, 1, 2, 3, 4)...)
	data = append(data, frameOf(2, 3, 4, 9, 9, 9, 9)...)
	_, errs := exchange(t, data, 100, 2)
	if errs[0] != nil || protocols.KindOf(wrap(errs[1])) != protocols.KindTimeout {
		t.Errorf("the errors are %v", errs)
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add(frameOf(1, 3, 4, 1, 2, 3, 4), uint8(3))
	f.Add(append(frameOf(7, 3, 4, 1, 2, 3, 4), frameOf(1, 0x83, 2)...), uint8(200))
	f.Add(append(frameOf(1, 3, 4, 1, 2)[:8], frameOf(1, 4, 2, 2)...), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		answers, errs := exchange(t, data, int(piece)+1, 3)
		for i, a := range answers {
			if errs[i] != nil {
				if e := wrap(errs[i]); protocols.KindOf(e) == 0 || e.Error() == "" {
					t.Errorf("an error without a kind: %v", errs[i])
				}
				continue
			}
			if len(a) != 4 {
				t.Errorf("% x is taken for an answer", a)
			}
		}
	})
}
