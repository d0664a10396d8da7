package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	gomodbus "github.com/goburrow/modbus"

	"millrace/protocols"
)

// The exception codes that the driver tells apart (Specification, 7).
const (
	excFunction     = 1
	excAddress      = 2
	excValue        = 3
	excFailure      = 4
	excAcknowledge  = 5
	excBusy         = 6
	excGatewayPath  = 10
	excGatewayTimed = 11
)

// exception is what an exception code means for tags and for people.
type exception struct {
	reason protocols.Reason
	what   string
	hint   string
}

// explain returns the meaning of an exception code.
func explain(code byte) exception {
	switch code {
	case excFunction:
		return exception{protocols.IllegalFunction, "illegal function", "the device has no such table: try holding for input, or coil for discrete, and the other way round"}
	case excAddress:
		return exception{protocols.IllegalAddress, "illegal data address", "check the address, the address base (zero or one based: holding:100 is 40101), and the table (holding or input?)"}
	case excValue:
		return exception{protocols.IllegalValue, "illegal data value", "check the address; if the device can't give so many registers at once, set max_registers"}
	case excFailure:
		return exception{protocols.DeviceFailure, "device failure", "look at the device's own diagnosis"}
	case excAcknowledge, excBusy:
		return exception{protocols.DeviceBusy, "device busy", "ask it less often: a longer interval, or fewer masters"}
	case excGatewayPath:
		return exception{protocols.GatewayNoPath, "gateway path unavailable", "check the unit id and the gateway's configuration"}
	case excGatewayTimed:
		return exception{protocols.GatewayNoAnswer, "the gateway got no answer from the unit", "check the unit id, and the serial line behind the gateway"}
	}
	return exception{protocols.DeviceFailure, "an exception that Modbus does not define", "see the device's manual"}
}

// failure puts into words that r did not go through, and types it.
func (s *scan) failure(r *request, err error) *protocols.Error {
	asked := fmt.Sprintf("%s, unit %d: asked for %s (function %d): ", s.bus.endpoint, s.unit.id, r, r.table.function())
	if refused, ok := errors.AsType[*gomodbus.ModbusError](err); ok {
		e := explain(refused.ExceptionCode)
		if refused.ExceptionCode == excAddress {
			e.hint = r.meant() + e.hint
		}
		return &protocols.Error{
			Kind: protocols.KindRefused, Reason: e.reason, Err: err, Alike: e.what,
			Text: fmt.Sprintf("%sthe answer was exception %d (%s): %s", asked, refused.ExceptionCode, e.what, e.hint),
		}
	}
	wire, ok := errors.AsType[*wireError](err)
	if !ok { // goburrow's own complaints; checkAnswer is before them
		wire = &wireError{kind: protocols.KindMalformed, what: err.Error(), err: errMalformed}
	}
	e := &protocols.Error{Kind: wire.kind, Err: err, Alike: wire.what}
	hint := wire.hint
	switch {
	case errors.Is(err, errMalformed):
		e.Reason = protocols.Malformed
	case wire.kind == protocols.KindTimeout:
		e.Reason = protocols.Timeout
		if hint == "" {
			hint = s.silenceHint()
		}
	default:
		e.Reason = protocols.Offline
		if isClosed(err) {
			e.Alike, hint = "the connection broke", s.closedHint()
		}
	}
	e.Text = asked + wire.what
	if hint != "" {
		e.Text += ": " + hint
	}
	return e
}

// isClosed says that the other side ended the connection; how it does so
// depends on the moment.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// closedHint is what to check where the other side ended the connection.
func (s *scan) closedHint() string {
	switch line := s.bus.endpoints[s.bus.at]; {
	case line.kind == linkSerial:
		return "is the adapter plugged in?"
	case line.kind == linkRTUTCP && !s.bus.spoke:
		return "does it accept enough connections? Or does this address speak Modbus TCP? Then write tcp://"
	case line.kind == linkRTUTCP:
		return "does it accept enough connections?"
	}
	return "does it accept enough connections, and does it know the unit?"
}

// silenceHint is what to check where nothing was answered: of a unit, or of
// the line where none of several does.
func (s *scan) silenceHint() string {
	line := s.bus.endpoints[s.bus.at]
	silent := len(s.bus.silent)
	all := silent > 1 && s.bus.unanswered >= 2*silent
	switch {
	case s.unit.spoke && !all:
		return "it answered before: is it switched on, and is its cable plugged in?"
	case all && line.kind == linkSerial:
		return fmt.Sprintf("nobody on this line answers: is its cable plugged in, are the wires (A and B) right, do the devices have %s, too?", line.line)
	case all:
		return "nobody behind this address answers: is the line behind it connected, and are its settings right?"
	case line.kind == linkSerial:
		return fmt.Sprintf("is unit id %d right, is the device switched on, are the wires (A and B) right, and does it have %s, too?", s.unit.id, line.line)
	}
	hint := fmt.Sprintf("is unit id %d right, and is the device behind it switched on?", s.unit.id)
	switch {
	case s.bus.spoke: // so it is the right protocol
	case line.kind == linkTCP:
		hint += " Or does this address pass serial frames on as they are? Then write rtu+tcp://"
	case line.kind == linkRTUTCP:
		hint += " Or does this address speak Modbus TCP? Then write tcp://"
	}
	return hint
}

// meant is a question for those who wrote a Modicon number behind a table's
// name.
func (r *request) meant() string {
	first := int(r.addr)
	if digit := first / 10000; r.fields[0].form != named || first < 1 || first%10000 == 0 || digit > 4 ||
		digit != int(r.table.modicon()-'0') || r.table == coil {
		return ""
	}
	return fmt.Sprintf("%s:%d counts from zero: did you mean %d (%s:%d)? Otherwise ", r.table, first, first, r.table, first%10000-1)
}

// connectError puts into words why no connection could be made.
func connectError(endpoint string, timeout time.Duration, err error) *protocols.Error {
	var dns *net.DNSError
	var hint string
	var serial *serialError
	switch {
	case errors.As(err, &serial):
		hint = serial.text
	case errors.Is(err, context.Canceled):
		hint = "the attempt was ended"
	case errors.As(err, &dns):
		hint = fmt.Sprintf("the name %q could not be looked up (%s): is it spelt right, and does the gateway have a DNS server?", dns.Name, dns.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		hint = "connection refused: is the device's Modbus server switched on, and is the port right?"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		hint = "no route to the host: are the address, the cable and the gateway's network settings right?"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		hint = fmt.Sprintf("no answer within %v: is the device switched on, is the address right, does a firewall stand between?", timeout)
	default:
		hint = plainCause(err)
	}
	return &protocols.Error{
		Kind: protocols.KindNotConnected, Reason: protocols.Offline, Err: err,
		Text: endpoint + ": cannot connect: " + hint,
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// plainCause is the innermost part of a network error, without its numbers.
func plainCause(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return "the device reset it"
	case errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "it is closed"
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return err.Error()
}
