package buffer

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestDifferences(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SliceOf(rapid.Byte()).Draw(t, "a")
		b := rapid.SliceOfN(rapid.Byte(), len(a), len(a)).Draw(t, "b")
		diff := bytes.Clone(a)
		subtract(diff, b)
		for i := range a {
			if diff[i] != a[i]-b[i] {
				t.Fatalf("byte %d: %d - %d = %d", i, a[i], b[i], diff[i])
			}
		}
		add(diff, b)
		if !bytes.Equal(diff, a) {
			t.Fatalf("%x and back is %x", a, diff)
		}
	})
}

// TestChunkOfMixedRecords: what is stored as differences comes out as it went
// in, whatever schemas and lengths follow each other.
func TestChunkOfMixedRecords(t *testing.T) {
	t.Parallel()
	enc, err := newChunkEncoder("S")
	if err != nil {
		t.Fatal(err)
	}
	dec, err := newChunkDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer dec.close()
	rapid.Check(t, func(t *rapid.T) {
		enc.reset(1, 0, 0)
		var want []Record
		for range rapid.IntRange(1, 40).Draw(t, "records") {
			r := Record{
				Time: rapid.Int64Range(0, 1<<40).Draw(t, "time"), Schema: rapid.Uint64Range(1, 3).Draw(t, "schema"),
				Readings: rapid.IntRange(0, 100).Draw(t, "readings"),
				Data:     rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "data"),
			}
			enc.add(&r)
			want = append(want, r)
		}
		h, body, err := parseChunk(enc.appendTo(nil), streamTag("S"))
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := dec.decode(&h, body, nil, nil)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d of %d records: %v", len(got), len(want), err)
		}
		for i := range want {
			w, g := want[i], got[i]
			if g.Time != w.Time || g.Schema != w.Schema || g.Readings != w.Readings || !bytes.Equal(g.Data, w.Data) {
				t.Fatalf("record %d: %+v, want %+v", i, g, w)
			}
		}
	})
}
