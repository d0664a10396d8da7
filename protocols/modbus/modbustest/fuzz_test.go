package modbustest

import (
	"bytes"
	"testing"
	"time"
)

// FuzzRTURequests: whatever comes, the splitter hands out only whole frames
// with the right checksum, in any pieces, and is at its beginning after a
// silence.
func FuzzRTURequests(f *testing.F) {
	f.Add(ask(1, 3, 0, 10), uint8(3))
	f.Add(append(ask(1, 3, 0, 10), ask(2, 4, 0, 1)...), uint8(1))
	f.Add(AppendCRC([]byte{1, 16, 0, 0, 0, 1, 2, 3, 4}), uint8(200))
	f.Add(AppendCRC([]byte{1, 0x2b, 14, 1, 0}), uint8(7))
	f.Add(AppendCRC([]byte{1, 23, 0, 0, 0, 1, 0, 0, 0, 1, 2, 5, 6}), uint8(5))
	f.Add(bytes.Repeat([]byte{1, 0x41}, 200), uint8(100))
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		s := NewServer()
		s.Unit(1)
		var split splitter
		for rest := in; len(rest) > 0; {
			n := min(len(rest), int(piece)+1)
			split.add(rest[:n], func(frame []byte) {
				if !crcRight(frame) || len(frame) > maxRTU {
					t.Errorf("% x is no frame", frame)
				}
				answered(t, s, fromRTU(frame))
			})
			rest = rest[n:]
		}
		split.silent(stale, apart)
		whole := 0
		split.add(ask(1, 3, 0, 10), func([]byte) { whole++ })
		if whole != 1 {
			t.Errorf("%d frames after silence", whole)
		}
	})
}

// FuzzTCPRequests: whatever comes, frameSize finds frames of the right sizes
// in it, and each of them can be answered.
func FuzzTCPRequests(f *testing.F) {
	f.Add(askTCP(1))
	f.Add(append(askTCP(1), askTCP(2)[:9]...))
	f.Add([]byte{0, 0, 0, 0, 0, 2, 1, 3})
	f.Add([]byte{0, 0, 0, 1, 0, 6, 1, 3})
	f.Fuzz(func(t *testing.T, in []byte) {
		s := NewServer()
		s.Unit(1)
		for {
			size, ok := frameSize(in)
			if !ok || size == 0 {
				return
			}
			if size < 8 || size > maxFrame || size > len(in) {
				t.Fatalf("%d bytes of %d", size, len(in))
			}
			answered(t, s, in[:size])
			in = in[size:]
		}
	})
}

// answered wants frame to be answered, whatever it is.
func answered(t *testing.T, s *Server, frame []byte) {
	t.Helper()
	var out [2 * maxFrame]byte
	request := parseRequest(frame)
	n := s.Unit(1).respond(time.Now(), frame, request, 0, out[:])
	if size, ok := frameSize(out[:n]); !ok || size != n {
		t.Errorf("% x is answered by % x", frame, out[:n])
	}
	for _, f := range []Fault{{BadCRC: true, Cut: 9, Fewer: 7}, {WrongCount: true, WrongFunction: true, NoiseAfter: []byte{1}, Twice: true}} {
		k := keeper{rtu: true}
		k.frames(&f, bytes.Clone(out[:n]), time.Time{})
	}
	s.foreign(request)
}
