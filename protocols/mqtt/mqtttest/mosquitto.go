package mqtttest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// MosquittoOptions say how Mosquitto is to be set up.
type MosquittoOptions struct {
	Users map[string]string // name → password; empty: everybody is let in
	ACL   string            // text of its ACL file
	PKI   *PKI              // TLS with its server certificate
	// ClientCerts asks every client for a certificate of the PKI.
	ClientCerts bool
	Config      []string // more lines
}

// Broker is a Mosquitto process. It keeps sessions and retained messages
// from one start to the next, except over Kill.
type Broker struct {
	Addr string // host:port, the same after a restart

	t      TB
	dir    string
	output bytes.Buffer // guarded by the process's end
	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

// StartMosquitto starts Debian's Mosquitto on a free port of the loopback.
// It is stopped when the test ends.
func StartMosquitto(t TB, o MosquittoOptions) *Broker {
	t.Helper()
	if _, err := exec.LookPath(mosquittoPath()); err != nil {
		t.Fatalf("mosquitto is not installed; run `make deps`")
	}
	b := &Broker{t: t, dir: t.TempDir(), Addr: FreeAddr(t)}
	b.configure(o)
	t.Cleanup(b.Stop)
	b.Start()
	return b
}

// mosquittoPath is where Debian puts it, which is not in every user's PATH.
func mosquittoPath() string {
	if _, err := os.Stat("/usr/sbin/mosquitto"); err == nil {
		return "/usr/sbin/mosquitto"
	}
	return "mosquitto"
}

// FreeAddr returns a free host:port of the loopback.
func FreeAddr(t TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("no free port: %v", err)
		return ""
	}
	defer l.Close()
	return l.Addr().String()
}

func (b *Broker) configure(o MosquittoOptions) {
	b.t.Helper()
	_, port, _ := net.SplitHostPort(b.Addr)
	lines := []string{
		"listener " + port + " 127.0.0.1",
		"persistence true",
		"persistence_location " + b.dir + "/",
		"max_queued_messages 0",
		"set_tcp_nodelay true",
		"log_dest stderr",
	}
	if os.Geteuid() == 0 {
		lines = append(lines, "user root") // or it could not read its directory
	}
	if len(o.Users) == 0 {
		lines = append(lines, "allow_anonymous true")
	} else {
		lines = append(lines, "allow_anonymous false", "password_file "+b.passwords(o.Users))
	}
	if o.ACL != "" {
		lines = append(lines, "acl_file "+b.file("acl", o.ACL))
	}
	if o.PKI != nil {
		lines = append(lines, "cafile "+o.PKI.CA, "certfile "+o.PKI.ServerCert, "keyfile "+o.PKI.ServerKey)
		lines = append(lines, "require_certificate "+strconv.FormatBool(o.ClientCerts))
	}
	lines = append(lines, o.Config...)
	b.file("mosquitto.conf", strings.Join(lines, "\n")+"\n")
}

func (b *Broker) file(name, text string) string {
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.t.Fatalf("%v", err)
	}
	return path
}

func (b *Broker) passwords(users map[string]string) string {
	path := b.file("passwords", "")
	for name, password := range users {
		if out, err := exec.Command("mosquitto_passwd", "-b", path, name, password).CombinedOutput(); err != nil {
			b.t.Fatalf("mosquitto_passwd: %v %s; run `make deps`", err, out)
		}
	}
	return path
}

// Start starts the process, if it does not run, and waits until it listens.
func (b *Broker) Start() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cmd != nil {
		return
	}
	b.output.Reset()
	cmd := exec.Command(mosquittoPath(), "-c", filepath.Join(b.dir, "mosquitto.conf"))
	cmd.Stderr = &b.output
	if err := cmd.Start(); err != nil {
		b.t.Fatalf("mosquitto: %v", err)
		return
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its output
		close(exited)
	}()
	b.cmd, b.exited = cmd, exited
	late := time.After(waitTime)
	ticker := time.NewTicker(pollTime)
	defer ticker.Stop()
	for !listens(b.Addr) {
		select {
		case <-ticker.C:
		case <-exited:
			b.t.Fatalf("mosquitto ended at its start: %s", b.output.String())
			return
		case <-late:
			b.t.Fatalf("mosquitto does not listen on %s", b.Addr)
			return
		}
	}
}

func listens(addr string) bool {
	var dialer net.Dialer
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Stop ends the process, which saves its sessions before.
func (b *Broker) Stop() { b.end(syscall.SIGTERM) }

// Kill ends the process at once, as a power cut would.
func (b *Broker) Kill() { b.end(syscall.SIGKILL) }

// Restart stops and starts the process.
func (b *Broker) Restart() {
	b.t.Helper()
	b.Stop()
	b.Start()
}

// Pause stops the process without ending its connections: it hangs.
func (b *Broker) Pause() { b.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (b *Broker) Resume() { b.signal(syscall.SIGCONT) }

func (b *Broker) signal(s syscall.Signal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cmd != nil {
		_ = b.cmd.Process.Signal(s)
	}
}

func (b *Broker) end(s syscall.Signal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Signal(s)
	_ = b.cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-b.exited:
	case <-time.After(waitTime):
		_ = b.cmd.Process.Kill()
		<-b.exited
	}
	b.cmd = nil
}

// URL returns the broker's URL with the given scheme.
func (b *Broker) URL(scheme string) string { return fmt.Sprintf("%s://%s", scheme, b.Addr) }
