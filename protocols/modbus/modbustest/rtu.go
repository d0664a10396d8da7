package modbustest

import (
	"encoding/binary"
	"time"
)

const (
	maxRTU    = 256
	mbap      = 6                     // bytes of a TCP frame before its unit id
	apart     = 20 * time.Millisecond // silence that separates frames where nothing sets the pace
	stale     = 50 * time.Millisecond // how long the rest of a frame may be under way
	crcSeed   = 0xffff
	crcPoly   = 0xa001
	crcSize   = 2
	broadcast = 0 // the unit id that all obey and none answers
)

// AppendCRC appends the checksum of an RTU frame to it.
func AppendCRC(frame []byte) []byte {
	return binary.LittleEndian.AppendUint16(frame, crc(frame))
}

// crc is the checksum of an RTU frame (MODBUS over Serial Line V1.02, 6.2.2).
func crc(frame []byte) uint16 {
	sum := uint16(crcSeed)
	for _, b := range frame {
		sum ^= uint16(b)
		for range 8 {
			low := sum & 1
			sum = sum>>1 ^ low*crcPoly
		}
	}
	return sum
}

// crcRight says that a frame ends with its checksum.
func crcRight(frame []byte) bool {
	n := len(frame) - crcSize
	return n >= 2 && crc(frame[:n]) == binary.LittleEndian.Uint16(frame[n:])
}

// requestSize returns the size of the RTU request that in begins with, 0 if
// there is too little of it to know, and -1 if its function does not say.
func requestSize(in []byte) int {
	if len(in) < 2 {
		return 0
	}
	counted := func(at int) int { // a count of bytes stands at at
		if len(in) <= at {
			return 0
		}
		return at + 1 + int(in[at]) + crcSize
	}
	switch in[1] {
	case 1, 2, 3, 4, 5, 6, 8:
		return 8
	case 7, 11, 12, 17:
		return 4
	case 15, 16:
		return counted(6)
	case 22:
		return 10
	case 23:
		return counted(10)
	case readDeviceID:
		return 7
	}
	return -1
}

// splitter finds the RTU requests in a stream of bytes, as a slave does: a
// frame that is not right spoils all that follows, until the line is silent.
type splitter struct {
	buf  [maxRTU]byte
	n    int
	lost bool // what comes is thrown away until there is silence
}

// silent says that nothing came for gap. After silence, the shortest that
// separates frames, what comes now begins a frame. One that has begun is
// waited for longer: what was written at once may be seen in pieces, the more
// so on a busy machine.
func (s *splitter) silent(gap, silence time.Duration) {
	if s.n > 0 {
		silence = max(silence, stale)
	}
	if gap >= silence {
		s.n, s.lost = 0, false
	}
}

// between says that no frame has begun.
func (s *splitter) between() bool { return s.n == 0 && !s.lost }

// add takes the bytes that came, and calls do with each frame whose checksum
// is right. The frame is valid during that call.
func (s *splitter) add(in []byte, do func(frame []byte)) {
	for len(in) > 0 && !s.lost {
		m := copy(s.buf[s.n:], in)
		s.n += m
		in = in[m:]
		used := 0
		for used < s.n && !s.lost {
			size := s.next(s.buf[used:s.n])
			if size == 0 {
				break
			}
			if size > 0 {
				do(s.buf[used : used+size])
				used += size
			}
		}
		s.n = copy(s.buf[:], s.buf[used:s.n])
		if s.n == len(s.buf) { // longer than any frame
			s.lost = true
		}
	}
	if s.lost {
		s.n = 0
	}
}

// next returns the size of the frame that in begins with, 0 if it is not
// complete. Of a function that does not say its length, all that is there is
// a frame if the checksum says so.
func (s *splitter) next(in []byte) int {
	size := requestSize(in)
	if size < 0 {
		if !crcRight(in) {
			return 0
		}
		return len(in)
	}
	switch {
	case size > maxRTU:
		s.lost = true
	case size == 0 || len(in) < size:
		return 0
	case !crcRight(in[:size]):
		s.lost = true
	default:
		return size
	}
	return 0
}

// fromRTU returns the request of an RTU frame in the form of TCP.
func fromRTU(frame []byte) []byte {
	adu := make([]byte, mbap, mbap+len(frame))
	return append(adu, frame[:len(frame)-crcSize]...)
}

// foreign returns the frames that are heard when another master asks r: its
// request, and the true answer unless there is no such unit.
func (s *Server) foreign(r Request) [][]byte {
	request := make([]byte, mbap, 2*mbap)
	request = append(request, r.Unit, r.Function)
	request = binary.BigEndian.AppendUint16(request, r.Addr)
	request = binary.BigEndian.AppendUint16(request, r.Count)
	frames := [][]byte{AppendCRC(append([]byte{}, request[mbap:]...))}
	u := s.units[r.Unit].Load()
	if u == nil || r.Unit == broadcast {
		return frames
	}
	var out [2 * maxFrame]byte
	n := u.respond(time.Now(), request, r, 0, out[:])
	return append(frames, AppendCRC(out[mbap:n:n]))
}
