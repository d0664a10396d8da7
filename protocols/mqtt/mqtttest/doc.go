// Package mqtttest has what is needed to try MQTT uplinks: an embedded
// broker (also the demo's), Mosquitto as a process, a receiver that keeps
// and checks what arrives, a TCP proxy that spoils connections, and a broker
// that misbehaves.
//
// It imports no testing package, so that programs may use it.
package mqtttest

import (
	"context"
	"time"
)

// TB is what the helpers need of testing.TB.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(f func())
	TempDir() string
	Context() context.Context
}

// waitTime is how long the helpers wait for what should happen at once.
const waitTime = 20 * time.Second

// pollTime is how often a condition is looked at.
const pollTime = 2 * time.Millisecond

// WaitFor waits until ok returns true, and fails the test if that takes
// longer than 20 s; what says what was waited for.
func WaitFor(t TB, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(pollTime)
	defer ticker.Stop()
	late := time.After(waitTime)
	for !ok() {
		select {
		case <-ticker.C:
		case <-late:
			t.Fatalf("waited %v in vain for: %s", waitTime, what)
			return
		}
	}
}
