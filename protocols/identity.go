package protocols

import "context"

// Identity is what a device says of itself, as on its nameplate. What it does
// not say is empty.
type Identity struct {
	Maker   string `json:"maker,omitempty"`   // 制造商
	Model   string `json:"model,omitempty"`   // 型号: the name of the type
	Product string `json:"product,omitempty"` // the code it is ordered by, where that is not the model
	Serial  string `json:"serial,omitempty"`  // 序列号
	Version string `json:"version,omitempty"` // of its hardware or firmware
	// Software names what answers for the device, where that is not the device
	// itself: an OPC UA server says who made the server, which may be anybody.
	Software string `json:"software,omitempty"`
}

// Identifier is a Bus that can ask its devices who they are.
type Identifier interface {
	Bus
	// Identify asks d, over the connection that there is, and returns what it
	// says. A device that was found not to say anything is not asked again for
	// long; that is no error, and the Identity is empty. It returns soon after
	// ctx ends. The error is an *Error; with KindNotConnected the connection has
	// ended.
	Identify(ctx context.Context, d *Device) (Identity, error)
}
