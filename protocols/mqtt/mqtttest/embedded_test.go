package mqtttest

import (
	"net"
	"sync"
	"testing"
)

// TestEmbeddedCloseAmidConnections closes the broker while connections come
// in. The race detector finds mochi's fault (see counted) if it is there.
func TestEmbeddedCloseAmidConnections(t *testing.T) {
	for range 50 {
		e, err := StartEmbedded("127.0.0.1:0", false, nil)
		if err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					c, err := net.Dial("tcp", e.Addr())
					if err != nil {
						return
					}
					c.Close()
				}
			})
		}
		for !listens(e.Addr()) {
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		close(stop)
		callers.Wait()
	}
}
