package opcua

import (
	"context"
	"errors"
	"net"
	"time"
)

// dialFirst is how long the first attempts to reach a server may take. Its
// TCP asks again after 1 s, then after 2 and 4; a server that comes back while
// it is asked would wait for that, so a new attempt is made instead.
const (
	dialFirst = 1200 * time.Millisecond
	dialTries = 3
)

// dial connects to a host. The last attempt has all the time that is left, for
// networks that are slower than dialFirst.
func dial(ctx context.Context, host string) (net.Conn, error) {
	for try := 1; ; try++ {
		limit := ctx
		cancel := context.CancelFunc(func() {})
		if try < dialTries {
			limit, cancel = context.WithTimeout(ctx, dialFirst)
		}
		var dialer net.Dialer
		conn, err := dialer.DialContext(limit, "tcp", host)
		cancel()
		var slow net.Error
		if err == nil || ctx.Err() != nil || try == dialTries || !errors.As(err, &slow) || !slow.Timeout() {
			return conn, err
		}
	}
}
