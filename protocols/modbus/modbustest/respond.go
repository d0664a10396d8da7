package modbustest

import (
	"encoding/binary"
	"time"
)

const (
	maxFrame     = 260
	maxRegisters = 125
	maxBits      = 2000
)

// The function codes that a unit answers, and the exceptions it gives.
const (
	readCoils    = 1
	readDiscrete = 2
	readHolding  = 3
	readInput    = 4
	readDeviceID = 0x2b

	illegalFunction = 1
	illegalAddress  = 2
	illegalValue    = 3
)

// parseRequest returns what frame asks; the quantity is zero if the frame
// is too short for one.
func parseRequest(frame []byte) Request {
	r := Request{Unit: frame[6], Function: frame[7]}
	if len(frame) >= 12 {
		r.Addr = binary.BigEndian.Uint16(frame[8:])
		r.Count = binary.BigEndian.Uint16(frame[10:])
	}
	return r
}

// respond makes the answer to r, whose frame is given, in out and returns
// its size. An exception code other than 0 is answered whatever is asked.
func (u *Unit) respond(now time.Time, frame []byte, r Request, exception uint8, out []byte) int {
	n := 0
	if id := u.identity.Load(); id != nil && r.Function == readDeviceID && exception == 0 {
		if n, exception = id.answer(frame, out[8:]); exception == 0 {
			copy(out, frame[:8])
			binary.BigEndian.PutUint16(out[4:], uint16(2+n))
			return 8 + n
		}
	} else if exception == 0 {
		n, exception = u.values(now, r, out[9:])
	}
	copy(out, frame[:8])
	if exception != 0 {
		out[7] |= 0x80
		out[8] = exception
		n = 0
	} else {
		out[8] = byte(n)
	}
	binary.BigEndian.PutUint16(out[4:], uint16(3+n))
	return 9 + n
}

// values fills out with the values that r asks for, and returns how many
// bytes they are, or an exception code.
func (u *Unit) values(now time.Time, r Request, out []byte) (int, uint8) {
	count := int(r.Count)
	size, most := 2*count, maxRegisters
	switch r.Function {
	case readCoils, readDiscrete:
		size, most = (count+7)/8, maxBits
	case readHolding, readInput:
		if limit := int(u.limit.Load()); limit > 0 {
			most = limit
		}
	default:
		return 0, illegalFunction
	}
	if count == 0 || count > most {
		return 0, illegalValue
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	ok := false
	switch r.Function {
	case readCoils:
		ok = u.Coils.answer(now, int(r.Addr), count, out[:size])
	case readDiscrete:
		ok = u.Discrete.answer(now, int(r.Addr), count, out[:size])
	case readHolding:
		ok = u.Holding.answer(now, int(r.Addr), out[:size])
	case readInput:
		ok = u.Input.answer(now, int(r.Addr), out[:size])
	}
	if !ok {
		return 0, illegalAddress
	}
	return size, 0
}
