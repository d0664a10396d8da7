package opcua

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols/opcua/opcuatest/nodeopcua"
)

// TestRenew: a server that is not ours gives one token after another, while
// requests go on as fast as they can.
func TestRenew(t *testing.T) {
	t.Parallel()
	srv, err := nodeopcua.Start(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	u, err := parseEndpoint(srv.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	plain, err := openChannel(t.Context(), u, plainConfig(), 10*time.Second, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.close()
	list, err := answer[*ua.GetEndpointsResponse](plain.request(t.Context(), &ua.GetEndpointsRequest{EndpointURL: u.String()}, nil, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	d := New(Options{PKIDir: t.TempDir()})
	tried := 0
	for _, e := range list.Endpoints {
		cfg, err := d.channelConfig(e)
		if err != nil {
			t.Fatal(err)
		}
		c, err := openChannel(t.Context(), u, cfg, 10*time.Second, time.Hour)
		if err != nil {
			t.Fatalf("%s %v: %v", e.SecurityPolicyURI, e.SecurityMode, err)
		}
		tried++
		renewUnderLoad(t, e, c)
		c.close()
	}
	if tried < 7 {
		t.Errorf("only %d endpoints", tried)
	}
}

func renewUnderLoad(t *testing.T, e *ua.EndpointDescription, c *channel) {
	t.Helper()
	var asked atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				_, err := answer[*ua.GetEndpointsResponse](c.request(t.Context(), &ua.GetEndpointsRequest{EndpointURL: "opc.tcp://x"}, nil, 10*time.Second))
				if err != nil {
					t.Errorf("%s %v: %v", e.SecurityPolicyURI, e.SecurityMode, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	last := c.sc.tokens[0].id
	for range 5 {
		if err := c.sc.Renew(t.Context()); err != nil {
			t.Errorf("%s %v: %v", e.SecurityPolicyURI, e.SecurityMode, err)
		}
		c.sc.mu.Lock()
		if id := c.sc.tokens[0].id; id == last {
			t.Errorf("token %d twice", id)
		} else {
			last = id
		}
		c.sc.mu.Unlock()
	}
	close(done)
	wg.Wait()
	if asked.Load() == 0 {
		t.Errorf("%s %v: nothing was asked meanwhile", e.SecurityPolicyURI, e.SecurityMode)
	}
}
