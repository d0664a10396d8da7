package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	gomodbus "github.com/goburrow/modbus"

	"millrace/protocols"
)

// transport is the way to the units behind one endpoint. It outlives its
// connections, and belongs to one goroutine.
type transport interface {
	// connect makes the connection, if there is none.
	connect(ctx context.Context, timeout time.Duration) error
	close() error
	// begin prepares for the calls of one scan: none goes on after ctx has
	// ended.
	begin(ctx context.Context, p pace) (exchanger, error)
}

// exchanger carries the calls of one scan.
type exchanger interface {
	// window is how many calls may be under way now, if at most that many are
	// wanted.
	window(most int) int
	// send puts a call under way. It may fail at once: receive says so.
	send(c *call)
	// receive waits for one of the calls under way to end, which has its
	// answer or its error then. It is nil where only the window has grown:
	// another call may be sent first.
	receive() *call
	// idle waits for d while no call is under way, and drops what arrives.
	idle(d time.Duration) error
	// end must come last.
	end()
}

// pace is what a device can take.
type pace struct {
	timeout  time.Duration // of one call
	pause    time.Duration // from an answer to the next request, at the least
	inflight int           // calls under way at once, on TCP; below 2: one
}

// call is one request to a unit for a range of its addresses, or who it is,
// and what came of it.
type call struct {
	unit        uint8
	function    byte
	addr, count uint16 // of Read Device Identification, addr is the code and the first object

	// data are the values of the answer; they are valid until the transport's
	// next method is called.
	data []byte
	// err is a *wireError, or a *gomodbus.ModbusError: an exception.
	err error

	id      uint16   // on TCP: its transaction
	request *request // nil: of nobody
	lim     limits   // what the device can
}

// dataBytes is how many bytes of values the answer to c has.
func (c *call) dataBytes() int { return dataBytes(c.function, int(c.count)) }

// longest is how many bytes of values the answer to c may have.
func (c *call) longest() int {
	if c.function == encapsulated {
		return maxRTU - rtuAnswer
	}
	return c.dataBytes()
}

func dataBytes(function byte, count int) int {
	if function < 3 {
		return (count + 7) / 8
	}
	return 2 * count
}

// fail ends c with an error.
func (c *call) fail(err error) { c.data, c.err = nil, err }

// take ends c with the answer that begins with its function code. goburrow's
// client takes answers that are too short (it compares the byte count with
// the frame alone), and any other function code for an exception.
func (c *call) take(unit uint8, pdu []byte) {
	const function, count = 0, 1
	malformed := func(format string, args ...any) {
		c.fail(&wireError{
			kind: protocols.KindMalformed, err: errMalformed,
			what: fmt.Sprintf(format, args...),
			hint: "the device or a gateway on the way breaks the protocol: is there newer firmware?",
		})
	}
	switch {
	case unit != c.unit:
		c.fail(&wireError{
			kind: protocols.KindMalformed, err: errMalformed,
			what: fmt.Sprintf("unit %d answered instead of unit %d", unit, c.unit),
			hint: fmt.Sprintf("if that is the device, set unit: %d", unit),
		})
	case pdu[function] == c.function|0x80:
		if len(pdu) != count+1 {
			malformed("an exception of %d bytes instead of %d", len(pdu), count+1)
			return
		}
		c.fail(&gomodbus.ModbusError{FunctionCode: pdu[function], ExceptionCode: pdu[count]})
	case pdu[function] != c.function:
		malformed("an answer to function %d came instead of one to function %d", pdu[function], c.function)
	case c.function == encapsulated:
		c.data, c.err = pdu[count:], nil
	default:
		want := c.dataBytes()
		if got := len(pdu) - count - 1; got != want || int(pdu[count]) != want {
			malformed("an answer of %d bytes of values came instead of %d", max(got, 0), want)
			return
		}
		c.data, c.err = pdu[count+1:], nil
	}
}

// wireError is a request without a usable answer.
type wireError struct {
	kind protocols.ErrorKind
	what string // what happened, in plain words
	hint string // the next thing to check
	err  error
}

func (e *wireError) Error() string { return e.what }

func (e *wireError) Unwrap() error { return e.err }

var (
	errNotConnected = &wireError{
		kind: protocols.KindNotConnected, what: "there is no connection",
		hint: "it is made again by itself",
	}
	errStopped = &wireError{
		kind: protocols.KindTimeout, what: "the scan was ended before the answer",
		hint: "nothing to check, unless the agent was not stopping",
	}
	// errMalformed marks the wireErrors of answers that break the protocol.
	errMalformed = errors.New("malformed answer")
	// errDamaged marks those of answers that arrived with a wrong checksum, or
	// mixed with something else: asked again, they may be whole.
	errDamaged = fmt.Errorf("%w: damaged on its way", errMalformed)
)

// What is said of a device whose answers come after the time-out.
const (
	tardyText = " (but answers to earlier requests after that)"
	tardyHint = "is the timeout long enough for this device?"
)

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// framer makes the frames of requests, with goburrow's packager.
type framer struct {
	pdu  gomodbus.ProtocolDataUnit
	data [4]byte
}

// request returns the PDU of c, which is valid until the next call.
func (f *framer) request(c *call) *gomodbus.ProtocolDataUnit {
	binary.BigEndian.PutUint16(f.data[:], c.addr)
	binary.BigEndian.PutUint16(f.data[2:], c.count)
	f.pdu = gomodbus.ProtocolDataUnit{FunctionCode: c.function, Data: f.data[:]}
	if c.function == encapsulated {
		f.pdu.Data = append(f.data[:0], deviceID, byte(c.addr>>8), byte(c.addr))
	}
	return &f.pdu
}
