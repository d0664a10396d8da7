package opcua

import "time"

// LookAtTrust sets how often a standing connection's certificate is looked up
// again, on buses that are opened later.
func (d *Driver) LookAtTrust(every time.Duration) { d.trustLook = every }
