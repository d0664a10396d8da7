package buffer

import (
	"time"

	"golang.org/x/sys/unix"
)

// monotonic returns the clock that runs from the machine's boot on and that
// nobody sets.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // it cannot fail on Linux; without it, steps of the clock before a restart go unseen
	}
	return time.Duration(ts.Nano())
}
