package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"millrace/buffer"
)

// The local API is HTTP over a unix socket in the buffer's directory: so the
// verbs find the agent that uses a directory, and whoever may read the files
// may ask it.
const (
	socketName    = "agent.sock"
	socketTmpName = "agent.sock.tmp" // a start clears away what ends so
	socketMode    = 0o600
	socketCheck   = 3 * time.Second // how often it is looked whether it is there still
	progressEvery = 250 * time.Millisecond
	headerTimeout = 5 * time.Second
)

// Trailers and headers of an export.
const (
	headerTotal    = "Millrace-Total"   // lines that are to be expected, about
	trailerOutcome = "Millrace-Outcome" // an exportOutcome: it tells a whole answer from one that was cut off
	contentNDJSON  = "application/x-ndjson"
	contentCSV     = "text/csv; charset=utf-8"
)

// socketPath returns a name for the socket in dir that is short enough: a
// socket's path is limited to 107 bytes, a directory's is not. The handle
// must stay open while the name is used.
func socketPath(dir, name string) (handle *os.File, path string, err error) {
	handle, err = os.Open(dir)
	if err != nil {
		return nil, "", err
	}
	path = fmt.Sprintf("/proc/self/fd/%d/%s", handle.Fd(), name)
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		path = filepath.Join(dir, name) // there is no /proc here
	}
	return handle, path, nil
}

// dialLocal connects to the agent that uses dir.
func dialLocal(ctx context.Context, dir string) (net.Conn, error) {
	handle, path, err := socketPath(dir, socketName)
	if err != nil {
		return nil, err
	}
	defer handle.Close() //nolint:errcheck // a directory that was only looked at
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// errSocketUsed: another agent answers at the socket.
var errSocketUsed = errors.New("another agent uses the directory")

// listenLocal makes the socket. One that a killed agent left is replaced; one
// at which another agent answers is not: its disk was mounted here.
func listenLocal(ctx context.Context, dir string) (*localSocket, error) {
	if conn, err := dialLocal(ctx, dir); err == nil {
		_ = conn.Close()
		return nil, errSocketUsed
	}
	handle, path, err := socketPath(dir, socketTmpName)
	if err != nil {
		return nil, err
	}
	defer handle.Close() //nolint:errcheck // a directory that was only looked at
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // its name is another by then
	}
	s := &localSocket{Listener: l, path: filepath.Join(dir, socketName)}
	// It gets its name when nobody else can open it any more.
	err = os.Chmod(path, socketMode)
	if err == nil {
		s.info, err = os.Lstat(path)
	}
	if err == nil {
		err = os.Rename(path, filepath.Join(filepath.Dir(path), socketName))
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(path)
		return nil, err
	}
	return s, nil
}

// localSocket is the socket, and which file it is.
type localSocket struct {
	net.Listener

	path string
	info os.FileInfo
}

// there tells whether the socket is still the one under its name: the
// directory may be replaced, or another disk mounted over it.
func (s *localSocket) there() bool {
	info, err := os.Lstat(s.path)
	return err == nil && os.SameFile(info, s.info)
}

// remove removes the socket, if it is there.
func (s *localSocket) remove() {
	if s.there() {
		_ = os.Remove(s.path) // a later start replaces what is left
	}
}

// socketReason is why there is no socket, in the system's own words: the name
// that it was tried under means nothing to a person.
func socketReason(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

// local serves the local API.
type local struct {
	a      *agent
	dir    string
	cancel context.CancelFunc
	done   chan struct{}
	busy   chan struct{} // holds one: long work is done one at a time

	mu     sync.Mutex // guards what follows
	closed bool
	calls  sync.WaitGroup // that are being answered; none begins once closed is set
}

// openLocal starts the local API. A directory that cannot hold a socket (it
// is read-only, or full) is tried again, and a socket that is gone is made
// again.
func (a *agent) openLocal(dir string) *local {
	ctx, cancel := context.WithCancel(context.Background())
	l := &local{a: a, dir: dir, cancel: cancel, done: make(chan struct{}), busy: make(chan struct{}, 1)}
	go func() {
		defer close(l.done)
		l.run(ctx)
	}()
	return l
}

// close ends the API and all that is being asked.
func (l *local) close() {
	l.cancel()
	<-l.done
}

func (l *local) run(ctx context.Context) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /buffer/stat", l.stat)
	mux.HandleFunc("GET /buffer/verify", l.alone(l.verify))
	mux.HandleFunc("GET /buffer/export", l.alone(l.export))
	mux.HandleFunc("GET /ledger/flush", l.alone(func(http.ResponseWriter, *http.Request) { l.a.flushBooks() }))
	server := &http.Server{
		Handler: l.counted(mux), ReadHeaderTimeout: headerTimeout,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	tick := time.NewTicker(socketCheck)
	defer tick.Stop()
	told := false
	for ctx.Err() == nil {
		s, err := listenLocal(ctx, l.dir)
		if err == nil {
			l.serve(ctx, server, s, tick.C)
			told = false
			continue
		}
		if !told && ctx.Err() == nil {
			told = true
			l.a.log.Warn("the buffer's directory takes no socket: millrace buffer cannot ask this agent; it is tried again", "dir", l.dir, "error", socketReason(err))
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	_ = server.Close() // and with it all connections
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.calls.Wait()
}

// serve answers at the socket until it is gone, or ctx ends. What is being
// answered when the socket goes is answered to its end.
func (l *local) serve(ctx context.Context, server *http.Server, s *localSocket, tick <-chan time.Time) {
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		failed <- server.Serve(s)
	}()
	for s.there() {
		select {
		case <-ctx.Done():
			s.remove()
			_ = s.Close()
			for range failed { // until it has ended
			}
			return
		case err := <-failed:
			l.a.log.Warn("the local API has stopped; it is started again", "error", socketReason(err))
			s.remove()
			_ = s.Close()
			select { // what failed at once would fail at once again
			case <-ctx.Done():
			case <-tick:
			}
			return
		case <-tick:
		}
	}
	l.a.log.Info("the socket in the buffer's directory is gone: it is made again", "dir", l.dir)
	_ = s.Close()
	for range failed { // until it has ended
	}
}

// counted lets close wait for the calls that are being answered.
func (l *local) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return
		}
		l.calls.Add(1)
		l.mu.Unlock()
		defer l.calls.Done()
		next.ServeHTTP(w, r)
	})
}

// alone lets one long work be done at a time: the agent has other things to
// do.
func (l *local) alone(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case l.busy <- struct{}{}:
			defer func() { <-l.busy }()
			next(w, r)
		default:
			http.Error(w, "the agent is busy with another verify or export; try again when that has ended", http.StatusServiceUnavailable)
		}
	}
}

func (l *local) stat(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(l.a.lookIntoBuffer()) // who asked is gone
}

// verifyLine is one line of the answer to /buffer/verify.
type verifyLine struct {
	Done   int64          `json:"done,omitempty"`
	Total  int64          `json:"total,omitempty"`
	Report *buffer.Report `json:"report,omitempty"`
	Error  string         `json:"error,omitempty"`
}

func (l *local) verify(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", contentNDJSON)
	enc := json.NewEncoder(w)
	var told time.Time
	report, err := l.a.buf.Verify(r.Context(), func(done, total int64) {
		if time.Since(told) < progressEvery {
			return
		}
		told = time.Now()
		_ = enc.Encode(verifyLine{Done: done, Total: total}) // who asked is gone: the context ends it
		_ = http.NewResponseController(w).Flush()
	})
	end := verifyLine{Report: report}
	if err != nil {
		end.Error = err.Error()
	}
	_ = enc.Encode(end)
}

func (l *local) export(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	o := buffer.ExportOptions{Uplink: q.Get("uplink"), Salvage: q.Get("salvage") == "true"}
	format := q.Get("format")
	look := l.a.lookIntoBuffer()
	if o.Uplink != "" && look.uplink(o.Uplink) == nil {
		http.Error(w, fmt.Sprintf("there is no uplink %q; there is %s", o.Uplink, look.uplinkNames()), http.StatusNotFound)
		return
	}
	switch format {
	case formatNDJSON:
		w.Header().Set("Content-Type", contentNDJSON)
	case formatCSV:
		w.Header().Set("Content-Type", contentCSV)
	default:
		http.Error(w, fmt.Sprintf("format %q: it is ndjson or csv", format), http.StatusBadRequest)
		return
	}
	w.Header().Set(headerTotal, strconv.FormatUint(look.lines(format, o.Uplink), 10))
	w.Header().Set("Trailer", trailerOutcome)
	out := exportTo(r.Context(), w, format, look.Gateway, func(ctx context.Context, put buffer.Put) (buffer.ExportResult, error) {
		return l.a.buf.Export(ctx, o, put)
	})
	text, err := json.Marshal(out)
	if err != nil {
		return
	}
	w.Header().Set(trailerOutcome, string(text))
}

// exportTo writes what export brings to w.
func exportTo(ctx context.Context, w io.Writer, format, gateway string,
	export func(context.Context, buffer.Put) (buffer.ExportResult, error),
) exportOutcome {
	x := newExportWriter(w, format, gateway)
	res, err := export(ctx, x.put)
	if ferr := x.flush(); err == nil {
		err = ferr
	}
	out := exportOutcome{ExportResult: res, Unknown: x.unknown}
	out.Readings -= min(out.Readings, x.unread) // those that were written are told
	if err != nil {
		out.Error = err.Error()
	}
	return out
}
