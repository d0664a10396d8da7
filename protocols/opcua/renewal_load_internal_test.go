package opcua

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols/opcua/opcuatest"
)

// Requests of several goroutines and renewals of the token do not get into
// each other's way: gopcua's own channel panics where they do.
func TestRequestsWhileTokensAreRenewed(t *testing.T) {
	t.Parallel()
	srv, err := opcuatest.NewServer(opcuatest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	u, err := parseEndpoint(srv.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	// A token that holds for no time is renewed as often as there may be.
	c, err := openChannel(t.Context(), u, plainConfig(), 10*time.Second, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := c.request(context.Background(), &ua.GetEndpointsRequest{EndpointURL: u.String()}, nil, 10*time.Second)
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
