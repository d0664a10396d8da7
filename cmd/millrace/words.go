package main

import (
	"fmt"
	"strings"
	"syscall"

	"millrace/buffer"
)

// diskWords says for those who look after a gateway why the buffer cannot
// write to dir, and what to do. detail is the error; its end, the system's own
// words, is enough where the kind of trouble is known. The log has all of it.
func diskWords(trouble buffer.Trouble, dir, detail string) string {
	text := ""
	switch trouble {
	case buffer.TroubleNone:
		return ""
	case buffer.TroubleFull:
		text = "the disk is full: make room on the disk of " + dir + ", or set a smaller buffer.max_size"
	case buffer.TroubleReadOnly:
		text = "the disk of " + dir + " is read-only: after a fault the system mounts a card so; check it and mount it writable again, and replace it if it is worn out; the agent goes on with it by itself"
	case buffer.TroubleRights:
		text = "the agent may not write to " + dir + ": make the directory belong to the user that the agent runs as"
	case buffer.TroubleMissing:
		text = dir + " is not there: mount its disk, or check buffer.path"
		if strings.HasSuffix(detail, syscall.ENOTDIR.Error()) {
			text = dir + " is no directory: a file stands there, or on the way to it; check buffer.path"
		}
	case buffer.TroubleDevice:
		text = "the disk of " + dir + " reports faults: check its seat and cable, and replace it if they go on"
	case buffer.TroubleOther:
		return fmt.Sprintf("writing to %s fails: %s", dir, detail)
	}
	if i := strings.LastIndex(detail, ": "); i >= 0 {
		detail = detail[i+2:]
	}
	return fmt.Sprintf("%s (%s)", text, detail)
}
