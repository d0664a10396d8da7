package mqtt

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestFiguresRest: the first session that ends over them may be the line's
// fault, the second is not.
func TestFiguresRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		var w withheld
		for i, want := range []time.Duration{withheldFirst, withheldLong, withheldLong} {
			w.cut("platform", slog.New(slog.NewTextHandler(&log, nil)))
			if rest := time.Until(w.until); rest != want || w.cuts != i+1 {
				t.Errorf("after %d they rest for %s", i+1, rest)
			}
			if told := strings.Count(log.String(), "WARN"); told != i {
				t.Errorf("after %d it was told %d times", i+1, told)
			}
		}
		if !strings.Contains(log.String(), "message size limit") || !strings.Contains(log.String(), "platform") {
			t.Error(log.String())
		}
	})
}
