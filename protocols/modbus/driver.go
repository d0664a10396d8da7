package modbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"millrace/protocols"
)

// Options are what a Driver gets from outside. The zero value is fit for
// use.
type Options struct {
	// Log gets what is worth knowing when looking into a device; errors are
	// returned, not logged. Nil: nothing is logged.
	Log *slog.Logger
	// Now is the wall clock; nil: time.Now.
	Now func() time.Time
	// Dial makes the connections; nil: TCP with keep-alive.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Memory keeps what is learnt of devices over restarts; nil: nothing does.
	Memory protocols.Memory
}

// Driver is the Modbus driver. It implements protocols.Driver,
// protocols.Planner, protocols.UnitKeyer, protocols.LinkKeyer and
// protocols.Liner.
type Driver struct {
	log  *slog.Logger
	now  func() time.Time
	dial dialFunc

	memory protocols.Memory
}

// New returns a Driver.
func New(o Options) *Driver {
	d := &Driver{log: o.Log, now: o.Now, dial: o.Dial, memory: o.Memory}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.now == nil {
		d.now = time.Now
	}
	if d.dial == nil {
		// A PLC that lost its power says nothing: without probes, the
		// connection would look alive until the next request.
		dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
		}}
		d.dial = dialer.DialContext
	}
	return d
}

// BusKey implements protocols.Driver: devices share a connection if their
// endpoints have the same host and port, or the same serial port.
func (*Driver) BusKey(d *protocols.Device) string {
	e, err := parseEndpoint(d.Endpoint)
	if err != nil {
		return d.Endpoint
	}
	return e.key()
}

// UnitKey implements protocols.UnitKeyer.
func (*Driver) UnitKey(d *protocols.Device) string { return strconv.Itoa(int(d.Modbus.Unit)) }

// Open implements protocols.Driver. The error is a *protocols.Error: there
// are no devices, or their endpoint is wrong.
func (dr *Driver) Open(devices []*protocols.Device) (protocols.Bus, error) {
	if len(devices) == 0 {
		return nil, &protocols.Error{Kind: protocols.KindBadAddress, Text: "modbus: a bus without devices"}
	}
	endpoints, err := endpointsOf(devices)
	if err != nil {
		return nil, &protocols.Error{Kind: protocols.KindBadAddress, Text: "endpoint: " + err.Error(), Err: err}
	}
	b := &bus{
		endpoints: endpoints,
		now:       dr.now,
		log:       dr.log,
		memory:    dr.memory,
		units:     map[uint8]*unit{},
		silent:    map[uint8]bool{},
		heard:     true,
	}
	for _, e := range b.endpoints {
		b.links = append(b.links, dr.link(e))
	}
	b.use(0)
	for _, d := range devices {
		b.timeout = max(b.timeout, cmp.Or(d.Timeout, defaultTimeout))
	}
	return b, nil
}

// endpointsOf returns where the devices of one bus are: their endpoint, and
// the fallback of the first that has one.
func endpointsOf(devices []*protocols.Device) ([]endpoint, error) {
	e, err := parseEndpoint(devices[0].Endpoint)
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		if second, err := parseEndpoint(d.Modbus.Fallback); d.Modbus.Fallback != "" && err == nil {
			return []endpoint{e, second}, nil
		}
	}
	return []endpoint{e}, nil
}

// LinkKey implements protocols.LinkKeyer: a serial port has settings, and
// there may be a second address.
func (*Driver) LinkKey(devices []*protocols.Device) string {
	endpoints, err := endpointsOf(devices)
	if err != nil {
		return ""
	}
	names := make([]string, len(endpoints))
	for i, e := range endpoints {
		names[i] = e.String()
	}
	return strings.Join(names, " ")
}

// link makes the transport to an endpoint.
func (dr *Driver) link(e endpoint) transport {
	switch e.kind {
	case linkSerial:
		return newSerialTransport(e.addr, e.line)
	case linkRTUTCP:
		return newRTUTCPTransport(dr.dial, e.addr)
	case linkTCP:
	}
	return newTCPTransport(dr.dial, e.addr)
}

// Requests implements protocols.Planner. Tags with mistakes, which Check
// reports, are left out.
func (*Driver) Requests(d *protocols.Device, tags []int) []protocols.Request {
	e, err := parseEndpoint(d.Endpoint)
	if err != nil {
		e = endpoint{} // Check reports that, too
	}
	lim := limitsOf(d)
	fields := make([]field, 0, len(tags))
	for _, i := range tags {
		if f, err := parseTag(&d.Tags[i], lim); err == nil {
			fields = append(fields, f)
		}
	}
	requests := merge(fields, lim)
	list := make([]protocols.Request, len(requests))
	for i, r := range requests {
		list[i] = e.cost(r)
	}
	return list
}

// fieldsOf returns the fields of the given tags of d. The error is a
// *protocols.Error that names every mistake.
func fieldsOf(d *protocols.Device, tags []int) ([]field, error) {
	lim := limitsOf(d)
	fields := make([]field, 0, len(tags))
	var mistakes []error
	for out, i := range tags {
		f, err := parseTag(&d.Tags[i], lim)
		if err != nil {
			err.Tag = i
			mistakes = append(mistakes, fmt.Errorf("tag %s: %w", d.Tags[i].Name, err))
			continue
		}
		f.out = out
		fields = append(fields, f)
	}
	if err := errors.Join(mistakes...); err != nil {
		return nil, &protocols.Error{
			Kind: protocols.KindBadAddress, Reason: protocols.IllegalAddress, Err: err,
			Text: "device " + d.ID + ": " + err.Error(),
		}
	}
	return fields, nil
}
