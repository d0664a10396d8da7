// Package nodeopcua starts an OPC UA server made with npm's node-opcua, for
// tests that want a peer which is neither ours nor gopcua's.
package nodeopcua

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Namespace is the URI of the namespace of its variables.
const Namespace = "urn:millrace:nodeopcua"

// The one user that it knows beside the anonymous.
const (
	User     = "operator"
	Password = "sécret"
)

// startTimeout allows for a slow machine that makes keys.
const startTimeout = 60 * time.Second

// Server is the process.
type Server struct {
	// Port is where it listens, on 127.0.0.1.
	Port int

	path  string
	cmd   *exec.Cmd
	kill  context.CancelFunc
	stdin io.WriteCloser
	lines chan string // of its standard output; closed at its end

	mu sync.Mutex // held while a command is obeyed
}

// Start starts a server on a port of 127.0.0.1, 0 for any free one. Its
// certificates are kept in dir, so that one that is started again there is the
// same to its clients. With the flag "strict" it trusts no client's
// certificate; other flags are parts of server.js.
func Start(dir string, port int, flags ...string) (*Server, error) {
	_, file, _, _ := runtime.Caller(0)
	home := filepath.Dir(file)
	if _, err := os.Stat(filepath.Join(home, "node_modules", "node-opcua")); err != nil {
		return nil, errors.New("nodeopcua: npm's node-opcua is not installed; run `make deps`")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, fmt.Errorf("nodeopcua: Node.js is not installed; run `make deps`: %w", err)
	}
	// It ends by itself when its standard input is closed, so it cannot outlive us.
	life, kill := context.WithCancel(context.Background())
	args := append([]string{"server.js", dir, strconv.Itoa(port)}, flags...)
	if slices.Contains(flags, "security") {
		// Node.js has stopped decrypting what Basic128Rsa15 encrypts.
		args = append([]string{"--security-revert=CVE-2023-46809"}, args...)
	}
	cmd := exec.CommandContext(life, node, args...) //nolint:gosec // node is what PATH says
	cmd.Dir, cmd.Stderr = home, os.Stderr
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := cmp.Or(err1, err2); err != nil {
		kill()
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		kill()
		return nil, fmt.Errorf("nodeopcua: %w", err)
	}
	s := &Server{cmd: cmd, kill: kill, stdin: stdin, lines: make(chan string, 100)}
	go func() {
		defer close(s.lines)
		for scan := bufio.NewScanner(stdout); scan.Scan(); {
			s.lines <- scan.Text()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.await(ctx, func(line string) bool {
		var ready struct {
			Port int
			Path string
		}
		ok := json.Unmarshal([]byte(line), &ready) == nil && ready.Port != 0
		s.Port, s.path = ready.Port, ready.Path
		return ok
	}); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// Endpoint returns the URL to connect to.
func (s *Server) Endpoint() string { return fmt.Sprintf("opc.tcp://127.0.0.1:%d%s", s.Port, s.path) }

// PID returns its process id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Command has the server obey a command (see server.js) and returns when it
// has.
func (s *Server) Command(ctx context.Context, line string) error {
	_, err := s.Ask(ctx, line)
	return err
}

// Ask is Command for one that has something to say: it returns that, in JSON.
func (s *Server) Ask(ctx context.Context, line string) (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := io.WriteString(s.stdin, line+"\n"); err != nil {
		return nil, fmt.Errorf("nodeopcua: %w", err)
	}
	var reply struct {
		Done string
		Said json.RawMessage
	}
	err := s.await(ctx, func(got string) bool {
		return json.Unmarshal([]byte(got), &reply) == nil && reply.Done == line
	})
	return reply.Said, err
}

func (s *Server) await(ctx context.Context, wanted func(line string) bool) error {
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				return errors.New("nodeopcua: the server has ended")
			}
			if wanted(line) {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("nodeopcua: no answer: %w", ctx.Err())
		}
	}
}

// Stop kills the server, as a crash would.
func (s *Server) Stop() {
	s.kill()
	_ = s.stdin.Close()
	for range s.lines {
	}
	_ = s.cmd.Wait()
}
