package buffer

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childVar makes the test binary run as a child process: see child_test.go.
const childVar = "MILLRACE_BUFFER_CHILD"

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
	goleak.VerifyTestMain(m)
}
