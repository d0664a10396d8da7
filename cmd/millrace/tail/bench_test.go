package tail_test

import (
	"fmt"
	"testing"
	"time"

	"millrace/cmd/millrace/tail"
)

// BenchmarkTake is one batch of 20 values, from the message to the lines.
func BenchmarkTake(b *testing.B) {
	values := ""
	for i := range 20 {
		values += fmt.Sprintf(`,"register_%02d":%d.5`, i, i*i)
	}
	tl, p := tail.New(tail.Options{Topics: topics}), tail.Printer{Zone: time.UTC}
	n := 0
	for b.Loop() {
		n++
		if p.Text(tl.Take(batch("press-1", n, `,"values":{`+values[1:]+"}"))) == "" {
			b.Fatal("nothing is shown")
		}
	}
}
