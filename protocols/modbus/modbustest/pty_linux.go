package modbustest

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// openPty opens a pseudo terminal that changes no byte, and returns its
// master and the path of its slave.
func openPty() (*os.File, string, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", fmt.Errorf("/dev/ptmx: %w", err)
	}
	path, err := preparePty(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), "/dev/ptmx"), path, nil
}

func preparePty(fd int) (string, error) {
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return "", fmt.Errorf("unlocking a pseudo terminal: %w", err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		return "", fmt.Errorf("the number of a pseudo terminal: %w", err)
	}
	path := fmt.Sprintf("/dev/pts/%d", n)
	// Both sides have their own settings; the slave's last as long as the
	// master is open.
	if err := makeRaw(fd); err != nil {
		return "", err
	}
	slave, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	// Only a slave that was open once, and is not now, makes the master's
	// reads fail: so it is known from the beginning whether anybody listens.
	defer func() { _ = unix.Close(slave) }()
	return path, makeRaw(slave)
}

func makeRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("the settings of a pseudo terminal: %w", err)
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag &^= unix.CSIZE | unix.PARENB
	t.Cflag |= unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return fmt.Errorf("setting a pseudo terminal: %w", err)
	}
	return nil
}

// dropUnread throws away what was sent to a slave that is closed: a closed
// serial port hears nothing.
func dropUnread(path string) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return // opened by somebody who wants it alone
	}
	_ = unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) // best effort
	_ = unix.Close(fd)
}

// put gives bytes to whoever has the slave open, if there is anybody. What
// does not fit into the kernel's buffer is lost, as with a real port that
// nobody reads. It is false if nothing was given.
func put(master *os.File, p []byte) bool {
	c, err := master.SyscallConn()
	if err != nil {
		return false
	}
	given := 0
	err = c.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if _, err := unix.Poll(fds, 0); err == nil && fds[0].Revents&unix.POLLHUP != 0 {
			return
		}
		given, _ = unix.Write(int(fd), p) // an error gives nothing, too
	})
	return err == nil && given > 0
}

// nap waits for d or less, far more exactly than the runtime's timers, whose
// idle threads wake up by the millisecond. It is for short waits: it cannot
// be ended.
func nap(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&ts, nil) // a signal ends it early; the caller looks at the clock
}
