package modbus

import (
	"time"

	"millrace/protocols"
)

// Sizes on the wire. On TCP a header (MBAP, MODBUS Messaging on TCP/IP
// Implementation Guide V1.0b, 3.1.3) stands before function and data; on a
// serial line the unit does, and a checksum behind them (MODBUS over Serial
// Line V1.02, 2.5.1.2).
const (
	headerBytes   = 7 // the unit included
	unitBytes     = 1
	checksumBytes = 2
	askBytes      = 5 // function, address, quantity
	answerHead    = 2 // function, number of bytes
)

// cost returns what users see of r in `millrace check`, asked at e.
func (e endpoint) cost(r *request) protocols.Request {
	around := headerBytes
	if e.kind != linkTCP {
		around = unitBytes + checksumBytes
	}
	c := protocols.Request{
		What:     span(r.table, r.addr, r.count, named),
		Tags:     len(r.fields),
		ReqBytes: around + askBytes,
		AnsBytes: around + answerHead + r.answerBytes(),
	}
	if e.kind == linkSerial {
		// One silence before the request, one before the answer: that is how
		// the device knows that the request is over.
		c.Line = time.Duration(c.ReqBytes+c.AnsBytes)*e.line.char() + 2*e.line.silence()
	}
	return c
}
