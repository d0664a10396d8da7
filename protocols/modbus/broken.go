package modbus

import (
	"errors"
	"fmt"

	"millrace/protocols"
)

// Some devices close the connection after each answer, or when they are asked
// for an address that they do not have. What has answered in this scan is
// connected again in it, and asked for the rest.

// notConnected says that err is a connection that broke, or that was closed
// because nobody knew where its next frame begins.
func notConnected(err error) bool {
	e, ok := errors.AsType[*wireError](err)
	return ok && e.kind == protocols.KindNotConnected
}

// torn takes in that the connection broke while r was under way. It is true
// if r is asked again on a new one.
func (p *pass) torn(r *request) bool {
	alone := p.flying == 0 && !p.broken
	switch {
	case p.over != nil || p.ctx.Err() != nil:
		return false
	case !alone: // it may have been because of any of them
		p.most, p.crowded = 1, true
	case p.result.Answers == 0:
		return false // the bus may connect again
	case r.tore || p.fresh: // it is closed at this request
		p.broken = true
		return false
	default:
		r.tore = true
	}
	p.broken = true
	return true
}

// closedAt says what the failure e of r, at which a device closed two
// connections or a new one, means: the connection is not to blame.
func (p *pass) closedAt(r *request, e *protocols.Error) *protocols.Error {
	p.closed++
	if p.closed >= maxSilent {
		return e
	}
	return &protocols.Error{
		Kind: protocols.KindRefused, Reason: protocols.Offline, Err: e.Err, Alike: e.Alike,
		Text: fmt.Sprintf("%s, unit %d: asked for %s (function %d): the device closes the connection at this request, also a new one, and answers others: check the address and the table (holding or input?)",
			p.bus.endpoint, p.unit.id, r, r.table.function()),
	}
}

// mend makes the connection anew after it broke in the middle of the scan.
func (p *pass) mend() {
	if !p.broken || p.flying > 0 || p.over != nil {
		return
	}
	p.broken, p.fresh = false, true
	p.x.end()
	p.x = nil
	_ = p.bus.transport.close() // it broke
	if p.reconnect() {
		p.begin(p.requests[0])
	}
}

// reconnect makes the connection anew; if that fails, the scan is over.
func (p *pass) reconnect() bool {
	err := p.bus.transport.connect(p.ctx, p.bus.timeout)
	if err != nil {
		p.giveUp(connectError(p.bus.endpoint, p.bus.timeout, err), protocols.Offline)
	}
	return err == nil
}
