//go:build unix

package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	lockName  = "lock"
	lockTries = 20
	lockPause = 50 * time.Millisecond
)

// lockDir takes the directory for this process, or fails with ErrInUse after
// a second. The system frees it when the process ends, however it does.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, err
	}
	for range lockTries {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		<-time.After(lockPause)
	}
	if err == nil {
		// Who has it is for the error message of the next one; it may fail.
		_ = f.Truncate(0)
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
		return f, nil
	}
	holder, _ := os.ReadFile(f.Name())
	_ = f.Close()
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil, fmt.Errorf("%w: %s is held by process %s; stop it, or give this agent a buffer path of its own",
		ErrInUse, dir, strings.TrimSpace(string(holder)))
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

func isReadOnlySystem(err error) bool { return errors.Is(err, syscall.EROFS) }
