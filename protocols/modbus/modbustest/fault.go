package modbustest

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Fault is what is wrong with one answer. The zero Fault is none. Several of
// its fields may be set together, as far as that makes sense. In RTU frames
// the checksum is that of what is sent, unless BadCRC says otherwise.
type Fault struct {
	// Delay is how long the server waits before it answers. Requests behind
	// this one on the same connection or line wait as well.
	Delay time.Duration
	// Late is how much later the answer is sent, while requests behind this
	// one are answered: it comes out of turn. On a Line it does not collide
	// with what is there: it waits for the line to be free.
	Late time.Duration
	// Drop leaves the request without an answer.
	Drop bool
	// Exception answers with this exception code.
	Exception uint8

	WrongID       bool // another transaction id: one more than the request's; TCP only
	WrongProtocol bool // a protocol id that is not Modbus; TCP only
	WrongUnit     bool // another unit: one more than the request's
	WrongFunction bool // another function: 3 for 4, 4 for all others
	WrongCount    bool // a byte count that is not that of the data
	BadCRC        bool // a checksum that is not right; RTU only
	// Fewer leaves out so many bytes of data, in a frame that is well made.
	Fewer int
	// Cut leaves out so many bytes of the frame's end, although its header
	// promises them.
	Cut int
	// NoiseBefore and NoiseAfter are bytes that are no part of the answer,
	// right before and right behind it.
	NoiseBefore []byte
	NoiseAfter  []byte

	// Hold keeps the answer back until the next request has come, and sends
	// it in front of the next answer, in one piece with it: late and glued.
	Hold bool
	// HoldBehind keeps the answer back likewise, and sends it behind the next
	// answer.
	HoldBehind bool
	// Slowly sends the frame byte by byte, each in a segment of its own, with
	// a pause of this length between two of them; 0: in one piece.
	Slowly time.Duration
	// Twice sends the same answer twice.
	Twice bool

	// Foreign is what another master on the same line asks: its requests and
	// the true answers to them are heard by all. RTU only. They are heard
	// even if the answer itself is dropped.
	Foreign []Request
	// ForeignWhen is when they are heard.
	ForeignWhen ForeignTime

	// HalfClose closes the sending side of the connection instead of
	// answering. On a Line it is the same as Drop.
	HalfClose bool
	// Reset resets the connection instead of answering. On a Line it is the
	// same as Drop.
	Reset bool
}

// ForeignTime is when another master's traffic is heard.
type ForeignTime uint8

const (
	// BeforeAnswer is right before the answer to the client's own request.
	BeforeAnswer ForeignTime = iota
	// MidWait is in the middle of the time that the unit takes to answer: of
	// Fault.Delay and the line's turnaround.
	MidWait
	// AfterAnswer is right behind the answer.
	AfterAnswer
)

// Request is a request that a server got.
type Request struct {
	Unit     uint8
	Function uint8
	Addr     uint16
	Count    uint16
}

// Plan says what is wrong with the answer to the n-th request of a unit,
// counted from 1. It may be called by several goroutines.
type Plan func(n uint64, r Request) Fault

// Always returns the Plan by which all answers have the same fault.
func Always(f Fault) Plan {
	return func(uint64, Request) Fault { return f }
}

// Every returns the Plan by which every n-th answer has the fault f.
func Every(n uint64, f Fault) Plan {
	return func(i uint64, _ Request) Fault {
		if i%n == 0 {
			return f
		}
		return Fault{}
	}
}

// Random returns the Plan by which an answer has one of the given faults
// with the given probability. The seed makes it repeatable, as far as the
// order of requests is.
func Random(seed uint64, probability float64, faults ...Fault) Plan {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, seed))
	return func(uint64, Request) Fault {
		mu.Lock()
		defer mu.Unlock()
		if rng.Float64() >= probability {
			return Fault{}
		}
		return faults[rng.IntN(len(faults))]
	}
}
