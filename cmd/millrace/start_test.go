package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"millrace/protocols/mqtt/mqtttest"
)

// startVar holds the directory for the half of TestStartWords that runs in a
// mount namespace of its own.
const startVar = "MILLRACE_START_WORDS"

// TestStartWords: what `millrace run` says, word for word, where the buffer's
// directory cannot be used, on real file systems.
func TestStartWords(t *testing.T) {
	if dir := os.Getenv(startVar); dir != "" {
		startWords(t, dir)
		return
	}
	t.Parallel()
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		attr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		}
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStartWords$", "-test.v", fmt.Sprintf("-update=%v", *update))
	cmd.Env = append(os.Environ(), startVar+"="+t.TempDir())
	cmd.SysProcAttr = attr
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v (it needs user namespaces, or root)\n%s", err, out)
	}
}

func startWords(t *testing.T, dir string) {
	t.Helper()
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, path string)
	}{
		{"read-only", func(t *testing.T, path string) {
			t.Helper()
			mkdir(t, path)
			mount(t, path, path, "", syscall.MS_BIND, "")
			mount(t, "", path, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
		}},
		{"read-only, with a backlog", func(t *testing.T, path string) {
			t.Helper()
			filled(t, path, "S1", 10)
			mount(t, path, path, "", syscall.MS_BIND, "")
			mount(t, "", path, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
		}},
		{"a file", func(t *testing.T, path string) {
			t.Helper()
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"below a file", func(t *testing.T, path string) {
			t.Helper()
			if err := os.WriteFile(filepath.Dir(path), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"full", func(t *testing.T, path string) {
			t.Helper()
			mkdir(t, path)
			mount(t, "tmpfs", path, "tmpfs", 0, "size=1m")
			err := os.WriteFile(filepath.Join(path, "ballast"), make([]byte, 2<<20), 0o600)
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
		}},
		{"in use", func(t *testing.T, path string) {
			t.Helper()
			mkdir(t, path)
			f, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Close() }) // only a lock
			if _, err := f.WriteString("4711"); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := strings.NewReplacer(" ", "-", ",", "").Replace(c.name)
			path := filepath.Join(dir, name, "buffer")
			if c.name != "below a file" {
				mkdir(t, filepath.Dir(path))
			}
			c.prepare(t, path)
			golden(t, filepath.Join("testdata", "start", name+".txt"), startOn(t, path, dir))
		})
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

// mount mounts something until the end of the test's part.
func mount(t *testing.T, source, target, kind string, how uintptr, data string) {
	t.Helper()
	if err := syscall.Mount(source, target, kind, how, data); err != nil {
		t.Fatal("mount:", err)
	}
	if how&syscall.MS_REMOUNT == 0 {
		t.Cleanup(func() { _ = syscall.Unmount(target, syscall.MNT_DETACH) }) // the namespace ends with the process
	}
}

// startOn runs the agent with its buffer at path and returns what it says of
// that: its log, what /readyz answers, and its exit code.
func startOn(t *testing.T, path, dir string) string {
	t.Helper()
	a := newAgent(t, "gateway: {id: gw-1, group: plant}\nconsole: {listen: CONSOLE}\nbuffer: {path: "+path+"}\n"+
		"uplinks: [{name: platform, broker: \"mqtt://127.0.0.1:1\"}]\n"+
		"devices: [{id: plc-1, driver: modbus, endpoint: \"tcp://127.0.0.1:1\", tags: [{name: count, address: \"holding:0\", type: uint64}]}]\n")
	var out strings.Builder
	runs := func() bool {
		said := a.output.String()
		return strings.Contains(said, "millrace runs") && strings.Contains(said, "readings stay in memory")
	}
	mqtttest.WaitFor(t, "the agent to run, or to end", func() bool {
		select {
		case <-a.exited:
			return true
		default:
		}
		return runs()
	})
	if runs() {
		code := 0
		var body string
		mqtttest.WaitFor(t, "the page", func() bool { body, code = a.get("/readyz"); return code != 0 })
		fmt.Fprintf(&out, "/readyz: %d %s", code, body)
		if code == http.StatusOK {
			t.Error("it calls itself ready")
		}
		a.stop()
	}
	<-a.exited
	fmt.Fprintf(&out, "exit code: %d\n", a.code)
	for line := range strings.Lines(a.output.String()) {
		for _, ours := range []string{"the buffer's directory cannot be used", "readings stay in memory", "millrace: "} {
			if strings.Contains(line, ours) {
				out.WriteString(line)
			}
		}
	}
	text := regexp.MustCompile(`time=\S+ `).ReplaceAllString(out.String(), "")
	return strings.ReplaceAll(text, dir, "/data")
}
