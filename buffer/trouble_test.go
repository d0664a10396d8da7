package buffer

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
)

func TestTroubleOf(t *testing.T) {
	t.Parallel()
	for want, errs := range map[Trouble][]error{
		TroubleNone:     {nil},
		TroubleFull:     {syscall.ENOSPC, syscall.EDQUOT, fmt.Errorf("commit: %w", &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})},
		TroubleReadOnly: {syscall.EROFS},
		TroubleRights:   {syscall.EACCES, syscall.EPERM},
		TroubleMissing:  {syscall.ENOENT, syscall.ENOTDIR},
		TroubleDevice:   {syscall.EIO, syscall.ENODEV},
		TroubleOther:    {errBroken, errors.New("something else")},
	} {
		for _, err := range errs {
			if got := troubleOf(err); got != want {
				t.Errorf("%v is %q, want %q", err, got, want)
			}
		}
	}
}
