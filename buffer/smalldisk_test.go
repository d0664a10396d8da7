package buffer

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// smallVar holds the directory for the half of a test that runs on a small
// disk of its own.
const smallVar = "MILLRACE_BUFFER_FULL"

// onSmallDisk runs the calling test again, in a process of its own and in a
// mount namespace, with a tmpfs of that size mounted, and there fn with the
// directory. A test that dies there has failed.
func onSmallDisk(t *testing.T, size string, fn func(t *testing.T, dir string)) {
	t.Helper()
	if dir := os.Getenv(smallVar); dir != "" {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
			t.Fatal("mount a small disk:", err)
		}
		fn(t, dir)
		return
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), smallVar+"="+t.TempDir())
	cmd.SysProcAttr = ownMounts()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v (it needs user namespaces, or root)\n%s", err, out)
	}
	if testing.Verbose() {
		t.Logf("%s", out)
	}
}

// ownMounts has a process start in a mount namespace, where it may mount.
func ownMounts() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	} else {
		attr.Unshareflags = syscall.CLONE_NEWNS // and its mounts private
	}
	return attr
}

// ballast is what fills a disk beside the buffer.
type ballast struct{ path string }

// fill takes all the room that the disk has left, but for that many bytes.
func fill(tb tester, dir string, left int) ballast {
	tb.Helper()
	b := ballast{filepath.Join(dir, "ballast")}
	f, err := os.OpenFile(b.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, fileMode)
	if err != nil {
		tb.Fatal(err)
	}
	block := make([]byte, pageSize)
	for err == nil {
		_, err = f.Write(block)
	}
	info, serr := f.Stat()
	if !errors.Is(err, syscall.ENOSPC) || serr != nil {
		tb.Fatal(err, serr)
	}
	if err := errors.Join(f.Truncate(max(info.Size()-int64(left), 0)), f.Close()); err != nil {
		tb.Fatal(err)
	}
	return b
}

// remove makes room again.
func (b ballast) remove(tb tester) {
	tb.Helper()
	if err := os.Remove(b.path); err != nil {
		tb.Fatal(err)
	}
}
