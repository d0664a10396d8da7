package modbus

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A pseudo terminal has no parity and no speed: what a port is told is looked
// at here.
func TestTermios(t *testing.T) {
	t.Parallel()
	const raw = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.BOTHER
	for _, c := range []struct {
		line  line
		cflag uint32
		iflag uint32
	}{
		{line{baud: 9600, parity: 'N', stop: 1}, raw, 0},
		{line{baud: 19200, parity: 'E', stop: 1}, raw | unix.PARENB, unix.INPCK},
		{line{baud: 115200, parity: 'O', stop: 1}, raw | unix.PARENB | unix.PARODD, unix.INPCK},
		{line{baud: 12345, parity: 'N', stop: 2}, raw | unix.CSTOPB, 0},
	} {
		before := unix.Termios{
			Iflag: unix.ICRNL | unix.IXON, Oflag: unix.OPOST, Lflag: unix.ECHO | unix.ICANON | unix.ISIG,
			Cflag: unix.CS7 | unix.CRTSCTS | unix.PARENB | unix.PARODD | unix.CSTOPB, Ispeed: 1, Ospeed: 2,
		}
		c.line.apply(&before)
		if before.Cflag != c.cflag || before.Iflag != c.iflag || before.Oflag != 0 || before.Lflag != 0 ||
			before.Ispeed != uint32(c.line.baud) || before.Ospeed != uint32(c.line.baud) || before.Cc[unix.VMIN] != 1 || before.Cc[unix.VTIME] != 0 {
			t.Errorf("%s becomes %+v", c.line, before)
		}
	}
}

func TestRS485(t *testing.T) {
	t.Parallel()
	if n := unsafe.Sizeof(serialRS485{}); n != 32 {
		t.Errorf("the kernel's structure has 32 bytes, this one %d", n)
	}
	// SER_RS485_ENABLED is 1, RTS_ON_SEND 2, RTS_AFTER_SEND 4 (linux/serial.h).
	for _, c := range []struct {
		set                  rs485
		flags, before, after uint32
	}{
		{rs485{on: true}, 3, 0, 0},
		{rs485{on: true, low: true}, 5, 0, 0},
		{rs485{on: true, before: 2e6, after: 3e6}, 3, 2, 3},
	} {
		if got := c.set.kernel(); got.flags != c.flags || got.before != c.before || got.after != c.after {
			t.Errorf("%+v becomes %+v", c.set, got)
		}
	}
}
