package modbustest

import (
	"encoding/binary"
	"time"
)

// keeper makes the bytes that are sent of answers, and keeps back those that
// are to go with the next one.
type keeper struct {
	rtu    bool
	held   []byte
	behind bool      // it goes behind the next answer
	since  time.Time // when the request came whose answer is held
}

// oldest returns when the first request came of those whose answers the next
// frames have in them, the last of which came then.
func (k *keeper) oldest(came time.Time) time.Time {
	if k.held != nil && k.since.Before(came) {
		return k.since
	}
	return came
}

// frames returns what is sent, of an answer with a fault, in how many pieces;
// none if it is kept back. The answer is in the form of TCP, and is changed;
// its request came at the given time.
func (k *keeper) frames(f *Fault, answer []byte, came time.Time) [][]byte {
	one := k.encode(f, answer)
	if f.Hold || f.HoldBehind {
		if k.held == nil {
			k.since = came // the oldest of them
		}
		k.held = append(k.held, one...)
		k.behind = f.HoldBehind
		return nil
	}
	if k.held != nil {
		if k.behind {
			one = append(one, k.held...)
		} else {
			one = append(k.held, one...)
		}
		k.held = nil
	}
	if f.Twice {
		return [][]byte{one, one}
	}
	return [][]byte{one}
}

// encode returns an answer's bytes with its fault.
func (k *keeper) encode(f *Fault, answer []byte) []byte {
	answer = distort(f, answer)
	out := append([]byte{}, f.NoiseBefore...)
	begin := len(out)
	if k.rtu {
		out = append(out, answer[mbap:]...)
		out = binary.LittleEndian.AppendUint16(out, crc(out[begin:]))
		if f.BadCRC {
			out[len(out)-1] ^= 0xff
		}
	} else {
		out = append(out, answer...)
	}
	out = out[:max(len(out)-max(f.Cut, 0), begin)]
	return append(out, f.NoiseAfter...)
}

// distort changes an answer in the form of TCP in place, and returns what is
// left of it.
func distort(f *Fault, answer []byte) []byte {
	if f.WrongID {
		binary.BigEndian.PutUint16(answer, binary.BigEndian.Uint16(answer)+1)
	}
	if f.WrongProtocol {
		answer[2] = 0x55
	}
	if f.WrongUnit {
		answer[6]++
	}
	if f.WrongFunction {
		if answer[7] == readInput {
			answer[7] = readHolding
		} else {
			answer[7] = readInput
		}
	}
	if f.WrongCount {
		answer[8] += 2
	}
	if n := min(f.Fewer, len(answer)-9); n > 0 {
		answer = answer[:len(answer)-n]
		binary.BigEndian.PutUint16(answer[4:], uint16(len(answer)-mbap))
		answer[8] -= uint8(n)
	}
	return answer
}
