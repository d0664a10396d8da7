//go:build !linux

package modbustest

import (
	"errors"
	"os"
	"time"
)

func openPty() (*os.File, string, error) {
	return nil, "", errors.New("simulated serial lines are made on Linux only")
}

func dropUnread(string) {}

func put(*os.File, []byte) bool { return false }

func nap(d time.Duration) { <-time.After(d) }
