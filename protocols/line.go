package protocols

import "time"

// Liner is a Driver that can say what its devices are connected by.
type Liner interface {
	// Line returns what is known of the line that d is on. It touches no
	// device.
	Line(d *Device) Line
}

// Line is what devices with one bus key share, as far as the configuration
// says it.
type Line struct {
	Name string // such as rtu:///dev/ttyUSB0
	// Settings are what a serial port is set to, such as 9600 8N1; empty:
	// there is none, or it is not ours to set. A port has one for all its
	// devices.
	Settings string
	// Baud is the line's speed; 0: not known, or a network.
	Baud int
	// Serial says that one request at a time goes over a serial line, here or
	// behind a device server.
	Serial bool
	// Silence is how long the line is left alone after an answer in any case;
	// Request.Line has it already.
	Silence time.Duration
}
