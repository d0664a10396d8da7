package modbus

import (
	"errors"
	"fmt"

	"millrace/protocols"
)

// Check implements protocols.Driver.
func (*Driver) Check(d *protocols.Device) []*protocols.FieldError {
	var all []*protocols.FieldError
	refuse := func(key, text string) {
		all = append(all, &protocols.FieldError{Tag: -1, Field: key, Text: text})
	}
	e, err := parseEndpoint(d.Endpoint)
	if err != nil {
		refuse("endpoint", err.Error())
	} else {
		e.check(d, refuse)
	}
	lim := limitsOf(d)
	for i := range d.Tags {
		if _, err := parseTag(&d.Tags[i], lim); err != nil {
			err.Tag = i
			all = append(all, err)
		}
	}
	return all
}

// The units of a serial line (MODBUS over Serial Line V1.02, 2.2): 0 is for
// broadcasts, 248 to 255 are reserved. On TCP they are just numbers.
const (
	firstUnit = 1
	lastUnit  = 247
)

// check finds what cannot be at e.
func (e endpoint) check(d *protocols.Device, refuse func(key, text string)) {
	o := &d.Modbus
	if o.Fallback != "" {
		if err := e.checkFallback(o.Fallback); err != nil {
			refuse("fallback", err.Error())
		}
	}
	if e.kind == linkTCP {
		return
	}
	switch {
	case o.Unit == 0:
		refuse("unit", fmt.Sprintf("0 is for broadcasts, which nobody answers: on a serial line units are %d to %d", firstUnit, lastUnit))
	case o.Unit > lastUnit:
		refuse("unit", fmt.Sprintf("%d is reserved: on a serial line units are %d to %d", o.Unit, firstUnit, lastUnit))
	}
	if o.MaxInflight > 1 || o.MaxInflight == protocols.InflightAuto {
		refuse("max_inflight", "there is one request at a time on a serial line: remove it (it is for tcp://)")
	}
}

// checkFallback finds why a URL is no second address of what is at e.
func (e endpoint) checkFallback(second string) error {
	f, err := parseEndpoint(second)
	switch {
	case err != nil:
		return err
	case f.kind != e.kind:
		return fmt.Errorf("it begins with %s://, but the endpoint with %s://: both are addresses of the same device, of the same kind", f.kind.scheme(), e.kind.scheme())
	case f.key() == e.key():
		return errors.New("it is the same as the endpoint: write the device's second address, or remove it")
	}
	return nil
}

// Line implements protocols.Liner. Of an endpoint that Check refuses it is
// empty.
func (*Driver) Line(d *protocols.Device) protocols.Line {
	e, err := parseEndpoint(d.Endpoint)
	if err != nil {
		return protocols.Line{}
	}
	l := protocols.Line{Name: e.key(), Serial: e.kind != linkTCP}
	if e.kind == linkSerial {
		l.Settings, l.Baud, l.Silence = e.line.String(), e.line.baud, e.line.silence()
	}
	return l
}
