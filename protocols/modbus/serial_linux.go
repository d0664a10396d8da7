package modbus

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// serialError is why a serial port cannot be used, in words for people.
type serialError struct {
	text string
	err  error
}

func (e *serialError) Error() string { return e.text }

func (e *serialError) Unwrap() error { return e.err }

// byID is where the kernel's device manager names serial ports by what they
// are, not by the order in which they were found.
const byID = "/dev/serial/by-id"

// openPort opens the serial port at path with the settings l. It is opened
// for the runtime's poller, so that its deadlines work: goburrow/serial
// waits in select, which fails from 1,024 descriptors on and spins on a port
// that was pulled out; go.bug.st/serial knows no deadlines and no RS-485.
func openPort(path string, l line) (port, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	if err := setUp(fd, l); err != nil {
		_ = unix.Close(fd)
		if e, ok := errors.AsType[*serialError](err); ok {
			return nil, e
		}
		if errors.Is(err, unix.ENOTTY) {
			return nil, &serialError{text: fmt.Sprintf("%s is no serial port: is the path right?%s", path, otherPorts()), err: err}
		}
		return nil, &serialError{text: fmt.Sprintf("%s cannot be set to %s: %v: is it a serial port?", path, l, err), err: err}
	}
	return &serialPort{os.NewFile(uintptr(fd), path)}, nil
}

// serialPort is an open serial port.
type serialPort struct{ *os.File }

// Close gives up the locks by itself: a process that is being started holds
// the descriptor a little longer.
func (p *serialPort) Close() error {
	if c, err := p.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) {
			_ = unix.IoctlSetInt(int(fd), unix.TIOCNXCL, 0) // closing it does the same
			_ = unix.Flock(int(fd), unix.LOCK_UN)
		})
	}
	return p.File.Close()
}

func setUp(fd int, l line) error {
	// Two programs on one line would hear each other's answers. The lock is
	// for those that lock as well; the other keeps out all but root's.
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return &serialError{text: inUse("the port"), err: err}
	}
	_ = unix.IoctlSetInt(fd, unix.TIOCEXCL, 0) // not every driver can
	if err := setTermios(fd, l); err != nil {
		return err
	}
	if l.rs485.on {
		if err := setRS485(fd, l.rs485); err != nil {
			return &serialError{text: "the kernel cannot switch the direction of this port: remove rs485=on (most adapters do it by themselves)", err: err}
		}
	}
	setLowLatency(fd)
	return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH)
}

// setTermios makes the line raw, with 8 data bits. The speed is given as a
// number (BOTHER), so that unusual ones work as well.
func setTermios(fd int, l line) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		return err
	}
	l.apply(t)
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, t); err != nil {
		return err
	}
	got, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		return err
	}
	// UARTs tolerate some 2 % in all; a driver that cannot do a speed leaves
	// the one before.
	if off := int(got.Ospeed) - l.baud; off*50 > l.baud || -off*50 > l.baud {
		return &serialError{text: fmt.Sprintf("the port cannot do %d baud, only %d", l.baud, got.Ospeed)}
	}
	return nil
}

// apply writes the settings l to t.
func (l line) apply(t *unix.Termios) {
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.BOTHER
	if l.parity != 'N' {
		t.Cflag |= unix.PARENB
		t.Iflag |= unix.INPCK // a character with a wrong parity is read as 0; the checksum finds it
	}
	if l.parity == 'O' {
		t.Cflag |= unix.PARODD
	}
	if l.stop == 2 {
		t.Cflag |= unix.CSTOPB
	}
	t.Ispeed, t.Ospeed = uint32(l.baud), uint32(l.baud)
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0 // 0 would read as the end of the file
}

// serialRS485 is the kernel's struct serial_rs485 (linux/serial.h).
type serialRS485 struct {
	flags, before, after uint32 // delays in ms
	_                    [5]uint32
}

const (
	rs485Enabled      = 1 << 0
	rs485RTSOnSend    = 1 << 1
	rs485RTSAfterSend = 1 << 2
)

func setRS485(fd int, r rs485) error {
	s := r.kernel()
	return ioctl(fd, unix.TIOCSRS485, unsafe.Pointer(&s)) //nolint:gosec // the kernel writes to it during the call
}

// kernel is r as the kernel wants it.
func (r rs485) kernel() serialRS485 {
	s := serialRS485{
		flags:  rs485Enabled | rs485RTSOnSend,
		before: uint32(r.before / time.Millisecond),
		after:  uint32(r.after / time.Millisecond),
	}
	if r.low {
		s.flags = rs485Enabled | rs485RTSAfterSend
	}
	return s
}

// setLowLatency asks the driver to hand on at once what has arrived: FTDI
// adapters keep it for up to 16 ms otherwise. Not every driver can.
func setLowLatency(fd int) {
	const (
		flagsAt    = 4 // the fifth int of struct serial_struct
		lowLatency = 1 << 13
	)
	var s [64]int32          // larger than the struct on any machine
	at := unsafe.Pointer(&s) //nolint:gosec // the kernel writes to it during the calls
	if ioctl(fd, unix.TIOCGSERIAL, at) == nil && s[flagsAt]&lowLatency == 0 {
		s[flagsAt] |= lowLatency
		_ = ioctl(fd, unix.TIOCSSERIAL, at) // it works without, too
	}
}

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// openError says why path cannot be opened and what there is instead.
func openError(path string, err error) error {
	var text string
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		text = fmt.Sprintf("there is no serial port %s: is the adapter plugged in?%s", path, otherPorts())
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		text = fmt.Sprintf("%s may not be opened by this user%s: add the user to its group (on Debian: usermod -aG dialout USER), and start the agent anew", path, ownerOf(path))
	case errors.Is(err, unix.EBUSY):
		text = inUse(path)
	default:
		text = fmt.Sprintf("%s cannot be opened: %v", path, err)
	}
	return &serialError{text: text, err: err}
}

// inUse says that somebody has the port open: it may be us.
func inUse(port string) string {
	return "another program uses " + port + ", or another device of this configuration by another name of it: stop it, or write the same name"
}

// ownerOf says whose path is, for those who may not open it.
func ownerOf(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	group := strconv.Itoa(int(sys.Gid))
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return fmt.Sprintf(" (it belongs to the group %s, with the rights %s)", group, st.Mode().Perm())
}

// otherPorts names the serial ports that are plugged in, by the names that
// stay if there are such.
func otherPorts() string {
	found, err := filepath.Glob(byID + "/*")
	if err != nil || len(found) == 0 {
		for _, pattern := range []string{"/dev/ttyUSB*", "/dev/ttyACM*", "/dev/ttyAMA*"} {
			if more, err := filepath.Glob(pattern); err == nil {
				found = append(found, more...)
			}
		}
	}
	if len(found) == 0 {
		return " No adapter is to be seen on this machine (a systemd service sees none with PrivateDevices=yes)"
	}
	const most = 4
	more := ""
	if len(found) > most {
		found, more = found[:most], ", …"
	}
	return " There are: " + strings.Join(found, ", ") + more
}
