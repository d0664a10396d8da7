package modbus

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"time"

	"millrace/protocols"
)

// Read Device Identification (MODBUS Application Protocol V1.1b3, 6.21): the
// only request here that is not for a range of addresses, and the only answer
// whose size is not known beforehand.
const (
	encapsulated   = 0x2b // the function: Encapsulated Interface Transport
	deviceID       = 0x0e // its kind (MEI type)
	deviceIDHeader = 6    // kind, code, conformity level, more follows, next object, number of objects

	basicID   = 1 // the codes: maker, product code, revision
	regularID = 2 // and names of the product and the model

	// The objects' ids.
	vendorName  = 0
	productCode = 1
	revision    = 2
	productName = 4
	modelName   = 5
	lastRegular = 0x7f // those above are the maker's own

	// maxIDRequests bounds what one question costs: seven objects fit into a few
	// answers.
	maxIDRequests = 8
)

// idObjects are the texts that a device has given, by the ids of the objects.
type idObjects map[byte]string

// idPart is an answer to Read Device Identification.
type idPart struct {
	conformity byte
	more       bool
	next       byte // the object to go on with
}

// parse reads the answer behind its function code, and adds its objects
// to the others. The error wraps errMalformed.
func (o idObjects) parse(data []byte) (idPart, error) {
	if len(data) < deviceIDHeader || data[0] != deviceID {
		return idPart{}, errMalformed
	}
	p := idPart{conformity: data[2] & 0x7f, more: data[3] == 0xff, next: data[4]}
	count, rest := int(data[5]), data[deviceIDHeader:]
	for range count {
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return p, errMalformed
		}
		id, size := rest[0], int(rest[1])
		if id <= lastRegular {
			o[id] = string(rest[2 : 2+size])
		}
		rest = rest[2+size:]
	}
	return p, nil
}

// identity is what the objects say.
func (o idObjects) identity() protocols.Identity {
	return protocols.Identity{
		Maker: o[vendorName], Model: cmp.Or(o[modelName], o[productName]), Product: o[productCode], Version: o[revision],
	}
}

// Identify implements protocols.Identifier.
func (b *bus) Identify(ctx context.Context, d *protocols.Device) (protocols.Identity, error) {
	u := b.unit(d.Modbus.Unit)
	if u.mute() {
		return protocols.Identity{}, nil
	}
	x, err := b.transport.begin(ctx, pace{timeout: cmp.Or(d.Timeout, defaultTimeout), pause: d.Modbus.Pause})
	if err != nil {
		return protocols.Identity{}, b.identifyError(u, err)
	}
	defer x.end()
	objects := idObjects{}
	err = b.ask(x, u, objects)
	if err == nil {
		return objects.identity(), nil
	}
	if d := muteFor(err); d > 0 && len(objects) == 0 && ctx.Err() == nil {
		u.setMute(d)
	}
	return objects.identity(), b.identifyError(u, err)
}

// ask asks for what every device has that knows the question, and for more if
// it says that it has more.
func (b *bus) ask(x exchanger, u *unit, objects idObjects) error {
	level, err := b.askCode(x, u, basicID, objects)
	if err != nil || level < regularID {
		return err
	}
	if _, err = b.askCode(x, u, regularID, objects); exceptionCode(err) != 0 {
		return nil // it has less than it says
	}
	return err
}

// askCode asks for all objects of one code, and returns the conformity level
// that the device says it has.
func (b *bus) askCode(x exchanger, u *unit, code byte, objects idObjects) (level byte, err error) {
	from := byte(0)
	for range maxIDRequests {
		c := &call{unit: u.id, function: encapsulated, addr: uint16(code)<<8 | uint16(from)}
		x.send(c)
		for x.receive() == nil { // there is one: nothing else can come
		}
		if c.err != nil {
			return level, c.err
		}
		p, err := objects.parse(c.data)
		if err != nil {
			return level, &wireError{kind: protocols.KindMalformed, err: errMalformed, what: "what it says of itself breaks the protocol"}
		}
		level = p.conformity
		if !p.more || p.next <= from {
			return level, nil
		}
		from = p.next
	}
	return level, nil
}

// muteFor is how long a unit is left alone that answered with err: it does not
// know the question, or is silent about it. It is 0 where err says nothing of
// the unit, but of the line.
func muteFor(err error) time.Duration {
	code := exceptionCode(err)
	switch {
	case code == excAcknowledge, code == excBusy, errors.Is(err, errDamaged), errors.Is(err, errNotAsked):
		return 0
	case isTimeoutError(err):
		return forgetSilence
	}
	if wire, ok := errors.AsType[*wireError](err); ok && wire.kind == protocols.KindNotConnected {
		return 0
	}
	return forgetAfter
}

// identifyError types err, which came instead of an answer.
func (b *bus) identifyError(u *unit, err error) error {
	e := &protocols.Error{
		Kind: protocols.KindRefused, Err: err,
		Text: b.endpoint + ", unit " + strconv.Itoa(int(u.id)) + ": asked who it is (function 43/14): " + err.Error(),
	}
	if wire, ok := errors.AsType[*wireError](err); ok {
		e.Kind = wire.kind
	}
	return e
}

// A unit that does not say who it is is not asked again for long: an unknown
// function costs some devices, and gateways before them, a time-out.

// forgetSilence is how long a unit is not asked again that did not answer. It
// may have been something else, so that is shorter than forgetAfter.
const forgetSilence = 24 * time.Hour

func (u *unit) muteKey() string { return u.key + "/identity" }

// mute says that the unit was asked in vain not long ago.
func (u *unit) mute() bool {
	until := u.muteUntil
	if until.IsZero() && u.memory != nil {
		if s, err := strconv.ParseInt(string(u.memory.Get(u.muteKey())), 10, 64); err == nil {
			until = time.Unix(s, 0)
		}
	}
	left := until.Sub(u.now())
	return left > 0 && left <= forgetAfter // longer: one of the two clocks was wrong
}

func (u *unit) setMute(d time.Duration) {
	u.muteUntil = u.now().Add(d)
	if u.memory != nil {
		_ = u.memory.Put(u.muteKey(), strconv.AppendInt(nil, u.muteUntil.Unix(), 10)) // else it is asked once after the next start
	}
}
