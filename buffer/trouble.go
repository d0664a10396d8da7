package buffer

import (
	"errors"
	"os"
	"syscall"
)

// Trouble is what kind of fault keeps the disk from taking records.
type Trouble string

// The kinds of trouble.
const (
	TroubleNone     Trouble = ""              // it takes them
	TroubleFull     Trouble = "full"          // no room, or a quota is used up
	TroubleReadOnly Trouble = "read_only"     // the file system is mounted read-only
	TroubleRights   Trouble = "no_permission" // we may not write there
	TroubleMissing  Trouble = "missing"       // the directory is gone, or its disk is not mounted
	TroubleDevice   Trouble = "device"        // the disk reports faults
	TroubleOther    Trouble = "other"
)

// troubleOf says what kind of fault err is.
func troubleOf(err error) Trouble {
	switch {
	case err == nil:
		return TroubleNone
	case isFull(err):
		return TroubleFull
	case isReadOnlySystem(err):
		return TroubleReadOnly
	case errors.Is(err, os.ErrPermission):
		return TroubleRights
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return TroubleMissing
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV):
		return TroubleDevice
	}
	return TroubleOther
}
