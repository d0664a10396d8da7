package buffer

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childVar makes the test binary run as a child process: see child_test.go.
const childVar = "MILLRACE_BUFFER_CHILD"

// sharedVar holds the directory in /dev/shm that the tests, and what they
// start, use as their shared memory.
const sharedVar = "MILLRACE_BUFFER_SHARED"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childVar); mode != "" {
		os.Exit(runChild(mode))
	}
	if spec := os.Getenv(powerVar); spec != "" {
		os.Exit(runPower(spec))
	}
	if spec := os.Getenv(recoverVar); spec != "" {
		os.Exit(runRecovery(spec))
	}
	if spec := os.Getenv(faultVar); spec != "" {
		os.Exit(runFault(spec))
	}
	if os.Getenv(sharedVar) != "" {
		goleak.VerifyTestMain(m)
		return
	}
	dir, err := os.MkdirTemp("/dev/shm", "millrace-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "the tests need a tmpfs at /dev/shm:", err)
		os.Exit(1)
	}
	if err := os.Setenv(sharedVar, dir); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		left, err := os.ReadDir(dir)
		if err == nil && len(left) > 0 {
			fmt.Fprintln(os.Stderr, "buffers that were closed left their shared memory:", left)
			code = max(code, 1)
		}
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}
