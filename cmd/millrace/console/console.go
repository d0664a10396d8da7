// Package console is the web console: the status page, its live events, the
// JSON behind it, the metrics and the health checks. It only looks; it
// changes nothing.
package console

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

//go:embed static
var static embed.FS

// Source is where the console gets what it shows: the agent.
type Source interface {
	// Status returns the state of everything, without the values.
	Status() Status
	// Values returns the newest readings of one device; nil if it is unknown.
	Values(device string) []Value
	// Connectivity returns the connectivity figures of one of Periods.
	Connectivity(period string) (*Connectivity, error)
	// Ready says what is wrong, if the agent cannot do its work.
	Ready() error
}

// Options are what a Console needs.
type Options struct {
	Listen string // host:port
	Source Source
	Log    *slog.Logger
}

// Console is the HTTP server of the console.
type Console struct {
	opts     Options
	listener net.Listener
	server   *http.Server
	stopped  chan struct{} // closed when the live events are to end
	pages    atomic.Int32  // that get live events
}

// maxPages bounds the pages that get live events: each costs memory for the
// values of the device that it shows.
const maxPages = 8

// eventInterval is how often an open page gets new values.
const eventInterval = time.Second

// New opens the console's port, so that a port in use is known before
// anything else starts.
func New(ctx context.Context, o Options) (*Console, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("console.listen: cannot listen on %s: %w; is another millrace running? Choose another port, or \"\" for no console", o.Listen, err)
	}
	c := &Console{opts: o, listener: l, stopped: make(chan struct{})}
	c.server = &http.Server{Handler: c.handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)}
	return c, nil
}

// Addr is where the console listens.
func (c *Console) Addr() string { return c.listener.Addr().String() }

// Serve answers requests until Close.
func (c *Console) Serve() error {
	if err := c.server.Serve(c.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("console: %w", err)
	}
	return nil
}

// Close ends open requests and gives the port back, within half a second.
func (c *Console) Close() {
	close(c.stopped)
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if err := c.server.Shutdown(ctx); err != nil {
		c.opts.Log.Debug("console: requests were cut off", "error", err)
		_ = c.server.Close()
	}
}

func (c *Console) handler() http.Handler {
	files, err := fs.Sub(static, "static")
	if err != nil {
		files = static // cannot be: the directory is compiled in
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.Handle("GET /metrics", metricsHandler(c.opts.Source))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("alive\n"))
	})
	mux.HandleFunc("GET /readyz", c.ready)
	mux.HandleFunc("GET /api/status", func(w http.ResponseWriter, _ *http.Request) { c.json(w, c.opts.Source.Status()) })
	mux.HandleFunc("GET /api/devices/{id}/values", c.values)
	mux.HandleFunc("GET /api/connectivity", c.connectivity)
	mux.HandleFunc("GET /api/events", c.events)
	return guarded(mux)
}

// guarded sets the headers that keep a browser from doing with the page what
// it was not made for.
func guarded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("Cache-Control", "no-cache")
		h.ServeHTTP(w, r)
	})
}

func (c *Console) ready(w http.ResponseWriter, _ *http.Request) {
	if err := c.opts.Source.Ready(); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ready\n"))
}

func (c *Console) values(w http.ResponseWriter, r *http.Request) {
	vs := c.opts.Source.Values(r.PathValue("id"))
	if vs == nil {
		http.Error(w, "there is no device "+r.PathValue("id"), http.StatusNotFound)
		return
	}
	c.json(w, vs)
}

func (c *Console) json(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		c.opts.Log.Debug("console: sending an answer", "error", err)
	}
}

// event is what an open page gets each second.
type event struct {
	Status Status  `json:"status"`
	Device string  `json:"device,omitempty"` // the one whose values follow
	Values []Value `json:"values,omitempty"`
}

// events sends the status, and the values of the device that the page has
// open, each second until the page goes (server-sent events, WHATWG HTML 9.2).
func (c *Console) events(w http.ResponseWriter, r *http.Request) {
	defer c.pages.Add(-1)
	if c.pages.Add(1) > maxPages {
		http.Error(w, "too many pages are open: close one", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	device := r.URL.Query().Get("device")
	tick := time.NewTicker(eventInterval)
	defer tick.Stop()
	for {
		e := event{Status: c.opts.Source.Status()}
		if device != "" {
			e.Device, e.Values = device, c.opts.Source.Values(device)
		}
		data, err := json.Marshal(e)
		if err != nil {
			c.opts.Log.Error("console: the status cannot be written as JSON", "error", err)
			return
		}
		// A page that does not read must not hold the request for ever.
		_ = out.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := fmt.Fprintf(w, "data: %s\n\n", data); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		case <-c.stopped:
			return
		}
	}
}
