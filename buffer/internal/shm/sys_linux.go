package shm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Path returns the file for the buffer in dir, below the directory base. It
// is named by what dir is, not by what it is called. An error says that base
// is none whose files live in memory.
func Path(base, dir string) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(base, &fs); err != nil {
		return "", fmt.Errorf("%s: %w", base, err)
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return "", fmt.Errorf("%s is not on a tmpfs", base)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s: no inode: %w", dir, errors.ErrUnsupported)
	}
	return filepath.Join(base, fmt.Sprintf("millrace-%x-%x", uint64(st.Dev), st.Ino)), nil //nolint:unconvert // 32 bits on some machines
}

const openFlags = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC

// createMapped makes a file of size bytes that nobody else can have, maps it,
// and allocates its first bytes.
func createMapped(path string, size, first int) (*os.File, []byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|openFlags, 0o600)
	if err != nil {
		return nil, nil, err
	}
	mem, err := mapFile(f, size, first)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return f, mem, nil
}

func mapFile(f *os.File, size, first int) ([]byte, error) {
	if err := lock(f); err != nil {
		return nil, err
	}
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	if err := allocate(f, 0, first); err != nil {
		return nil, err
	}
	return unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func unmap(mem []byte) error { return unix.Munmap(mem) }

// openOwn opens a region for reading, if it is a plain file that only we can
// have made: in /dev/shm everybody may make files.
func openOwn(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openFlags, 0)
	if err != nil {
		if errors.Is(err, unix.ELOOP) {
			return nil, fmt.Errorf("%w: %s is a symbolic link", ErrForeign, path)
		}
		return nil, err
	}
	if err := checkOwn(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// openOf opens a region for a look at it: one that belongs to us, or to the
// owner of the buffer's directory. It takes no lock, as it keeps nobody away.
func openOf(path, dir string) (*os.File, error) {
	of, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	st, ok1 := info.Sys().(*syscall.Stat_t)
	owner, ok2 := of.Sys().(*syscall.Stat_t)
	if !ok1 || !ok2 || !info.Mode().IsRegular() || int(st.Uid) != os.Geteuid() && st.Uid != owner.Uid {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrForeign, path), f.Close())
	}
	return f, nil
}

func checkOwn(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok, !info.Mode().IsRegular(), st.Nlink != 1:
		return fmt.Errorf("%w: %s is no plain file", ErrForeign, f.Name())
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%w: %s belongs to the user %d", ErrForeign, f.Name(), st.Uid)
	}
	return lock(f)
}

// lock makes sure that no living process has the region. The system frees it
// when the process ends, however it does.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: another process has %s", ErrForeign, f.Name())
	}
	return err
}

// allocate gives n bytes from off on pages of their own, or fails.
func allocate(f *os.File, off, n int) error {
	return ignoringEINTR(func() error { return unix.Fallocate(int(f.Fd()), 0, int64(off), int64(n)) })
}

// punch takes the pages from n bytes from off on.
func punch(f *os.File, off, n int) error {
	return ignoringEINTR(func() error {
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n))
	})
}

func ignoringEINTR(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
