package buffer

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func sampleChunk(tb testing.TB, n, size int) []byte {
	tb.Helper()
	e, err := newChunkEncoder("S1")
	if err != nil {
		tb.Fatal(err)
	}
	e.reset(100, 42, -7)
	for i := range n {
		e.add(&Record{Time: int64(1000 - i), Schema: uint64(i % 3), Readings: i, Data: payload(uint64(i), size)})
	}
	return e.appendTo(nil)
}

func TestChunkRoundTrip(t *testing.T) {
	t.Parallel()
	d, err := newChunkDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for _, c := range []struct{ n, size int }{{1, 0}, {1, 1 << 20}, {7, 100}, {500, 3}} {
		chunk := sampleChunk(t, c.n, c.size)
		h, body, err := parseChunk(append(chunk, 1, 2, 3), streamTag("S1"))
		if err != nil {
			t.Fatal(err)
		}
		recs, _, err := d.decode(&h, body, nil, nil)
		if err != nil || len(recs) != c.n || h.first != 100 || h.prev != 42 || h.clock != -7 || h.last() != 99+uint64(c.n) {
			t.Fatalf("%d records, %+v, %v", len(recs), h, err)
		}
		for i, r := range recs {
			if r.Seq != 100+uint64(i) || r.Time != int64(1000-i) || r.Schema != uint64(i%3) || r.Readings != i ||
				!bytes.Equal(r.Data, payload(uint64(i), c.size)) {
				t.Fatalf("record %d: %+v", i, r)
			}
		}
		if _, _, err := parseChunk(chunk, streamTag("S2")); err == nil {
			t.Error("a chunk of another stream was taken")
		}
		for i := range min(len(chunk), 300) {
			chunk[i] ^= 0x10
			if _, _, err := parseChunk(chunk, streamTag("S1")); err == nil && i != 6 && i != 7 {
				t.Fatalf("a flipped bit in byte %d went unnoticed", i)
			}
			chunk[i] ^= 0x10
		}
	}
}

// FuzzChunk: whatever the bytes, no panic, and no records out of bounds. The
// checksum is mended, so that the decoder is reached.
func FuzzChunk(f *testing.F) {
	f.Add(sampleChunk(f, 3, 50), true)
	f.Add(sampleChunk(f, 1, 0), true)
	f.Add(sampleChunk(f, 40, 9), false)
	f.Add([]byte(chunkMagic), false)
	d, err := newChunkDecoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(d.close)
	tag := streamTag("S1")
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if h, err := parseChunkHeader(b); mend && err == nil && len(b) >= chunkHeaderSize+int(h.length) {
			putChunkHeader(b[:chunkHeaderSize+int(h.length)], &h, tag)
		}
		h, body, err := parseChunk(b, tag)
		if err != nil {
			return
		}
		recs, _, err := d.decode(&h, body, nil, nil)
		if err != nil {
			return
		}
		size := 0
		for i, r := range recs {
			size += len(r.Data)
			if r.Seq != h.first+uint64(i) {
				t.Fatal("wrong seq", r.Seq)
			}
		}
		if len(recs) != int(h.count) || size > int(h.rawLen) {
			t.Fatal(len(recs), "records of", h.count, "-", size, "bytes of", h.rawLen)
		}
	})
}

// FuzzSchema: whatever the bytes, no panic, and what is framed comes back.
func FuzzSchema(f *testing.F) {
	f.Add(uint64(1), []byte("schema"))
	f.Add(uint64(2), []byte{})
	enc, err := newChunkEncoder("S")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, id uint64, blob []byte) {
		_, _, _ = parseSchema(blob) // must not panic
		_, _ = unpackSchema(blob)   // nor this
		if back, err := unpackSchema(enc.pack(blob)); err != nil || back == nil || !bytes.Equal(back, blob) {
			t.Fatalf("%x comes back as %x: %v", blob, back, err)
		}
		got, b, err := parseSchema(append(frameSchema(id, blob), 9))
		if err != nil || got != id || !bytes.Equal(b, blob) {
			t.Fatal(got, b, err)
		}
	})
}

// FuzzState: entries of state.db make sense or are refused.
func FuzzState(f *testing.F) {
	g := pendingGap{Gap: Gap{Stream: "S", From: 1, To: 2, Readings: 3, Reason: ReasonFull, Oldest: 4, Newest: 5}}
	f.Add(g.encode())
	f.Add(cursor{at: place{1, 2}, acked: 3}.encode())
	f.Add(summary{1, 2, 3, 4}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, ok := parseGap(b); ok && !bytes.Equal(g.encode(), b) {
			t.Fatal("gap", g)
		}
		if c, ok := parseCursor(b); ok && !bytes.Equal(c.encode(), b) {
			t.Fatal("cursor", c)
		}
		if s, ok := parseSummary(b); ok && !bytes.Equal(s.encode(), b) {
			t.Fatal("summary", s)
		}
	})
}

// FuzzCheck changes bytes of a bbolt file. What checkBolt lets pass, bbolt
// reads without dying.
func FuzzCheck(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed")
	s := newSegment(filepath.Dir(path), 1, "S1", 1)
	l := &load{schemas: map[uint64][]byte{1: []byte("x")}}
	for i := range 40 {
		l.data = append(l.data, sampleChunk(f, 20, 60)...)
		l.ends = append(l.ends, len(l.data))
		l.heads = append(l.heads, chunkHeader{first: uint64(1 + i*20), count: 20})
	}
	db, _, err := fillSegment(path, s, l, 64<<10)
	if err != nil {
		f.Fatal(err)
	}
	if err := closeBolt(db); err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte{1}, uint32(5), uint32(0))
	f.Add(uint32(4096*3+8), []byte{4, 1}, uint32(4096*4), uint32(100))
	f.Add(uint32(4096*2+16), []byte{1, 2, 3, 4, 5, 6, 7, 8}, uint32(4096+20), uint32(4096*5))
	f.Fuzz(func(t *testing.T, at uint32, change []byte, at2, cut uint32) {
		data := bytes.Clone(seed)
		for i, c := range change {
			data[(int(at)+i)%len(data)] ^= c
			data[(int(at2)+i*3)%len(data)] ^= c
		}
		data = data[:len(data)-int(cut)%len(data)]
		path := filepath.Join(t.TempDir(), "db")
		if err := os.WriteFile(path, data, fileMode); err != nil {
			t.Fatal(err)
		}
		db, err := openBolt(path, true, 0)
		if err != nil {
			return
		}
		err = view(db, func(tx *bolt.Tx) error {
			chunks, err := chunkBucket(tx, s)
			if err != nil {
				return nil //nolint:nilerr // damage that was noticed
			}
			return chunks.forEach(func(v []byte) error {
				_, _, _ = parseChunk(v, 0) // must not panic
				return nil
			})
		})
		if err != nil {
			t.Fatal("checkBolt let it pass:", err)
		}
		if err := closeBolt(db); err != nil {
			t.Fatal(err)
		}
	})
}
