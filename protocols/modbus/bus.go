package modbus

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	gomodbus "github.com/goburrow/modbus"

	"millrace/protocols"
)

// defaultTimeout is for devices whose time-out is not set.
const defaultTimeout = time.Second

// bus is the connection that the units behind one endpoint share.
type bus struct {
	endpoint  string // as a URL, for messages
	transport transport
	timeout   time.Duration // of connecting: the longest of the devices'
	now       func() time.Time
	log       *slog.Logger
}

// Connect implements protocols.Bus.
func (b *bus) Connect(ctx context.Context) error {
	if err := b.transport.connect(ctx, b.timeout); err != nil {
		return connectError(b.endpoint, b.timeout, err)
	}
	return nil
}

// Close implements protocols.Bus.
func (b *bus) Close() error { return b.transport.close() }

// Plan implements protocols.Bus.
func (b *bus) Plan(d *protocols.Device, tags []int) (protocols.Scan, error) {
	// Of devices that a reload brought, too.
	b.timeout = max(b.timeout, d.Timeout)
	requests, err := plan(d, tags)
	if err != nil {
		return nil, err
	}
	// goburrow's packager cannot be had without its handler; the handler's
	// own connection is never made.
	packager := &gomodbus.TCPClientHandler{}
	packager.SlaveId = d.Modbus.Unit
	return &scan{
		bus:      b,
		device:   d.ID,
		unit:     d.Modbus.Unit,
		timeout:  cmp.Or(d.Timeout, defaultTimeout),
		client:   gomodbus.NewClient2(packager, b.transport),
		requests: requests,
	}, nil
}
