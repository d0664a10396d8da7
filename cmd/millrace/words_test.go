package main

import (
	"strings"
	"testing"

	"millrace/buffer"
)

func TestDiskWords(t *testing.T) {
	t.Parallel()
	const dir, detail = "/data/buffer", "write /data/buffer/x.seg: the system's words"
	for trouble, want := range map[buffer.Trouble]string{
		buffer.TroubleFull:     "make room",
		buffer.TroubleReadOnly: "read-only",
		buffer.TroubleRights:   "belong to the user",
		buffer.TroubleMissing:  "mount its disk",
		buffer.TroubleDevice:   "reports faults",
		buffer.TroubleOther:    "writing to",
	} {
		got := diskWords(trouble, dir, detail)
		for _, w := range []string{want, dir, "the system's words"} {
			if !strings.Contains(got, w) {
				t.Errorf("%s: %q does not say %q", trouble, got, w)
			}
		}
		if trouble != buffer.TroubleOther && strings.Contains(got, "x.seg") {
			t.Errorf("%s: %q is more than a person needs", trouble, got)
		}
	}
	if got := diskWords(buffer.TroubleMissing, dir, "mkdir /data/buffer: not a directory"); !strings.Contains(got, "a file stands there") || strings.Contains(got, "mount") {
		t.Errorf("a file in its place: %q", got)
	}
	if got := diskWords(buffer.TroubleNone, dir, ""); got != "" {
		t.Errorf("no trouble: %q", got)
	}
}
