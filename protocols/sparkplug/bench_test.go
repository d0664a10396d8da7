package sparkplug

import (
	"fmt"
	"testing"

	"millrace/protocols"
)

// benchNode is a node with one device of n UInt16 tags that was born.
func benchNode(b *testing.B, n int) (*Node, *protocols.Batch) {
	b.Helper()
	node, err := New(Options{Group: "g", ID: "n", AppendJSON: appendTestJSON})
	if err != nil {
		b.Fatal(err)
	}
	s := &protocols.Schema{Device: "d"}
	var defs []Definition
	batch := &protocols.Batch{Schema: s}
	for i := range n {
		name := fmt.Sprintf("tag%d", i)
		s.Tags = append(s.Tags, protocols.SchemaTag{Name: name})
		defs = append(defs, Definition{Name: name, Type: UInt16})
		batch.Readings = append(batch.Readings, protocols.Reading{Tag: int32(i), Value: protocols.Uint(uint64(i*631%65536) | 0x4000)})
	}
	if _, err := node.SetDevices([]Device{{ID: "d", Metrics: defs}}); err != nil {
		b.Fatal(err)
	}
	node.Begin(0)
	node.Birth(1)
	node.DeviceBirth("d", nil, 1)
	return node, batch
}

// A batch of 100 changing 16-bit tags. Beside the time per reading, how many
// bytes each takes on the wire.
func BenchmarkData(b *testing.B) {
	for _, historical := range []bool{false, true} {
		b.Run(fmt.Sprintf("historical=%v", historical), func(b *testing.B) {
			node, batch := benchNode(b, 100)
			var dst []byte
			b.ReportAllocs()
			for b.Loop() {
				var need Need
				if _, dst, need = node.Data(dst[:0], batch, 1700000000000, 1700000000001, historical); need != NeedNothing {
					b.Fatal(need)
				}
			}
			n := float64(len(batch.Readings))
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/reading")
			b.ReportMetric(float64(len(dst))/n, "B/reading")
		})
	}
}
