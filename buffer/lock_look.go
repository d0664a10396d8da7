//go:build unix

package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lockIsFree returns ErrInUse while a process uses the directory. It takes
// the lock shared, and only to look: an agent that starts at that very moment
// tries again until it is free.
func lockIsFree(dir string) error {
	f, err := os.Open(filepath.Join(dir, lockName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // closing frees the lock, whatever it says
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		holder, _ := os.ReadFile(f.Name())
		return fmt.Errorf("%w: %s is held by process %s", ErrInUse, dir, strings.TrimSpace(string(holder)))
	case err != nil:
		return fmt.Errorf("look at the lock %s: %w", f.Name(), err)
	}
	return nil
}
