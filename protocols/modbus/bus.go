package modbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"millrace/protocols"
)

// defaultTimeout is for devices whose time-out is not set.
const defaultTimeout = time.Second

// bus is the connection that the units behind one endpoint share.
type bus struct {
	endpoints []endpoint  // where it may be: the device's own, and its fallback
	links     []transport // one for each
	at        int         // the one in use

	endpoint  string // as messages name it
	transport transport
	timeout   time.Duration // of connecting: the longest of the devices'
	now       func() time.Time
	log       *slog.Logger
	memory    protocols.Memory
	units     map[uint8]*unit
	heard     bool // something was answered on this connection
	spoke     bool // something was ever answered
	missed    bool // a unit that had answered the last time did not on this connection
	// unanswered is how many scans in a row, whosever, got no answer, and
	// silent the units that they were of.
	unanswered int
	silent     map[uint8]bool
	told       bool // that the fallback is in use
}

// Connect implements protocols.Bus. Where there is a second address, it is
// tried when the first one does not answer, or did not on the connection
// before.
func (b *bus) Connect(ctx context.Context) error {
	var first error
	for range b.links {
		err := b.transport.connect(ctx, b.timeout)
		if err == nil {
			b.heard, b.missed = false, false
			b.sayAddress()
			return nil
		}
		e := connectError(b.endpoint, b.timeout, err)
		if first == nil {
			first = e
		}
		if ctx.Err() != nil {
			break
		}
		b.use(b.at + 1)
	}
	if len(b.links) > 1 {
		e := *first.(*protocols.Error) //nolint:errorlint,forcetypeassert // made above
		e.Text += fmt.Sprintf(" (nor does the other address, %s, answer)", b.endpoints[(b.at+1)%len(b.endpoints)])
		return &e
	}
	return first
}

// use makes the i-th address the one in use.
func (b *bus) use(i int) {
	b.at = i % len(b.links)
	b.transport, b.endpoint = b.links[b.at], b.endpoints[b.at].String()
}

// sayAddress logs, once per change, which of two addresses is in use.
func (b *bus) sayAddress() {
	switch onFallback := b.at > 0; {
	case onFallback && !b.told:
		b.log.Warn("the device's second address is in use", "address", b.endpoint, "instead_of", b.endpoints[0].String())
	case !onFallback && b.told:
		b.log.Info("the device's first address is in use again", "address", b.endpoint)
	}
	b.told = b.at > 0
}

// deafScans is after how many scans without an answer the other address is
// tried.
const deafScans = 3

// Close implements protocols.Bus. A connection on which nothing was ever
// answered, or nothing any more, makes the next one go to the other address,
// unless only units were asked that are silent while others are not.
func (b *bus) Close() error {
	err := b.transport.close()
	deaf := !b.heard && (b.missed || b.allSilent())
	if len(b.links) > 1 && (deaf || b.unanswered >= deafScans) {
		b.unanswered = 0
		b.use(b.at + 1)
	}
	b.heard = true // closing twice is closing once
	return err
}

// note takes in whether a scan of a unit was answered, and if not, why.
func (b *bus) note(u *unit, answered bool, err error) {
	if answered {
		b.unanswered, u.silent, u.spoke, b.spoke = 0, false, true, true
		clear(b.silent)
		return
	}
	b.unanswered++
	b.silent[u.id] = true
	if errors.Is(err, errMalformed) { // somebody is there
		clear(b.silent)
	}
	b.missed = b.missed || !u.silent
	u.silent = true
}

// allSilent says that no unit answered the last time that it was asked.
func (b *bus) allSilent() bool {
	for _, u := range b.units {
		if !u.silent {
			return false
		}
	}
	return true
}

// Plan implements protocols.Bus.
func (b *bus) Plan(d *protocols.Device, tags []int) (protocols.Scan, error) {
	// Of devices that a reload brought, too.
	b.timeout = max(b.timeout, d.Timeout)
	fields, err := fieldsOf(d, tags)
	if err != nil {
		return nil, err
	}
	s := &scan{
		bus:     b,
		device:  d.ID,
		unit:    b.unit(d.Modbus.Unit),
		lim:     limitsOf(d),
		config:  fmt.Sprintf("%d/%d", d.Modbus.MaxGap, d.Modbus.MaxRegisters),
		retries: d.Modbus.Retries,
		auto:    d.Modbus.MaxInflight == protocols.InflightAuto,
		fields:  fields,
		pace: pace{
			timeout:  cmp.Or(d.Timeout, defaultTimeout),
			pause:    d.Modbus.Pause,
			inflight: d.Modbus.MaxInflight,
		},
	}
	if s.auto {
		s.pace.inflight = maxWindow
	}
	return s, nil
}

// unit returns what is known of a unit.
func (b *bus) unit(id uint8) *unit {
	u := b.units[id]
	if u == nil {
		u = newUnit(id, fmt.Sprintf("modbus/%s/%d", b.endpoints[0].key(), id), b.memory, b.now)
		b.units[id] = u
	}
	return u
}

// Advice implements protocols.Adviser.
func (b *bus) Advice(d *protocols.Device) []string {
	tags := make([]int, len(d.Tags))
	for i := range tags {
		tags[i] = i
	}
	fields, err := fieldsOf(d, tags)
	if err != nil {
		return nil
	}
	return b.unit(d.Modbus.Unit).advice(d, fields)
}
