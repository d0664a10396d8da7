package shm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type tester interface {
	Helper()
	Fatal(args ...any)
	Cleanup(f func())
}

// sharedDir is a directory of the test's own in /dev/shm.
func sharedDir(t tester) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "millrace-test-")
	if err != nil {
		t.Fatal("a tmpfs at /dev/shm is needed:", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func create(t tester, path string, memory int64) *Region {
	t.Helper()
	r, err := Create(path, Options{Stream: "S1", Ordinal: 7, Memory: memory})
	if err != nil {
		t.Fatal(err)
	}
	r.SetRange(1, 1)
	if err := r.Publish(); err != nil {
		t.Fatal(err)
	}
	return r
}

// left returns what a process that died now would leave.
func left(t tester, r *Region) *Snapshot {
	t.Helper()
	f, err := os.Open(r.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	s, err := read(f, int64(r.at.size()))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func record(seq uint64, size int) *Record {
	return &Record{
		Seq: seq, Time: int64(seq) * 3, Mono: -int64(seq), Schema: seq % 5, Readings: int(seq % 9),
		Data: bytes.Repeat([]byte{byte(seq)}, size),
	}
}

func same(x, y *Record) bool {
	return x.Seq == y.Seq && x.Time == y.Time && x.Mono == y.Mono && x.Schema == y.Schema && x.Readings == y.Readings &&
		bytes.Equal(x.Data, y.Data)
}

// pages counts what the file takes.
func allocated(t tester, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestRegion does what a buffer does, in any order, and looks at any moment
// at what the next process would find.
func TestRegion(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := create(t, filepath.Join(sharedDir(t), "r"), 1<<20)
		defer r.Remove()
		type kept struct {
			slab *Slab
			last uint64
		}
		var (
			slabs     []kept
			low, next = uint64(1), uint64(1)
			records   = map[uint64]*Record{}
			cells     []*Cell
			contents  [][]byte
			notes     []byte
			schemas   []byte
		)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				rec := record(next, rapid.OneOf(rapid.IntRange(0, 3000), rapid.IntRange(0, 3*SlabSize)).Draw(t, "size"))
				ok := false
				if n := len(slabs); n > 0 {
					_, ok = slabs[n-1].slab.Put(rec)
				}
				if !ok {
					s := r.NewSlab(len(rec.Data))
					if s == nil {
						return // the region is full
					}
					slabs = append(slabs, kept{slab: s})
					if _, ok := s.Put(rec); !ok {
						t.Fatal("a new slab does not take its record")
					}
				}
				slabs[len(slabs)-1].last = next
				records[next] = rec
				next++
				r.SetHigh(next)
			},
			"pop": func(t *rapid.T) {
				low = rapid.Uint64Range(low, next).Draw(t, "low")
				r.SetLow(low)
				for len(slabs) > 0 && slabs[0].last < low {
					slabs[0].slab.Free()
					slabs = slabs[1:]
				}
			},
			"cell": func(t *rapid.T) {
				if c := r.NewCell(); c != nil {
					cells, contents = append(cells, c), append(contents, nil)
				}
				i := rapid.IntRange(0, len(cells)-1).Draw(t, "i")
				b := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "content")
				if !cells[i].Write(b) {
					t.Fatal("a small cell was not written")
				}
				contents[i] = b
			},
			"notes": func(t *rapid.T) {
				notes = rapid.SliceOfN(rapid.Byte(), 0, 9000).Draw(t, "notes")
				if !r.Notes().Write(notes) {
					t.Fatal("the notes were not written")
				}
			},
			"schema": func(t *rapid.T) {
				b := rapid.SliceOfN(rapid.Byte(), 0, 9000).Draw(t, "schema")
				if !r.AddSchema(b) {
					t.Fatal("no room for a schema")
				}
				schemas = append(schemas, b...)
			},
			"": func(t *rapid.T) {
				s := left(t, r)
				if s.Stream != "S1" || s.Ordinal != 7 || s.Low != low || s.High != next {
					t.Fatalf("found %+v, want %d to %d", s, low, next)
				}
				if len(s.Records) != int(next-low) {
					t.Fatalf("found %d records, want %d", len(s.Records), next-low)
				}
				var buf []byte
				for i := range s.Records {
					var rec Record
					var err error
					rec, buf, err = s.Record(&s.Records[i], buf)
					if err != nil || rec.Seq != low+uint64(i) || !same(&rec, records[rec.Seq]) {
						t.Fatalf("record %d: %v", low+uint64(i), err)
					}
				}
				if !bytes.Equal(s.Notes, notes) || !bytes.Equal(s.Schemas, schemas) {
					t.Fatal("the notes or the schemas are not what was written")
				}
				found := 0
				for _, want := range contents {
					if want != nil && !bytes.Equal(s.Cells[found], want) {
						t.Fatal("a cell is not what was written")
					}
					if want != nil {
						found++
					}
				}
			},
		})
	})
}

// TestCellTorn cuts the writing of a cell short at every byte: what was there
// before is there still.
func TestCellTorn(t *testing.T) {
	t.Parallel()
	r := create(t, filepath.Join(sharedDir(t), "r"), 1<<20)
	defer r.Remove()
	c := r.NewCell()
	for i := range 3 {
		c.Write(fmt.Appendf(nil, "content %d", i))
	}
	half := c.halves[(c.turn+1)&1]
	before := bytes.Clone(r.mem[half.off : half.off+64])
	c.Write([]byte("the new content"))
	after := bytes.Clone(r.mem[half.off : half.off+64])
	for n := range after {
		copy(r.mem[half.off:], before)
		copy(r.mem[half.off:], after[:n])
		got := string(left(t, r).Cells[0])
		if got != "content 2" && (got != "the new content" || n < cellHeader) {
			t.Fatalf("after %d bytes: %q", n, got)
		}
	}
}

// TestCellTooLarge: a cell that cannot hold what it should is empty, not old.
func TestCellTooLarge(t *testing.T) {
	t.Parallel()
	r := create(t, filepath.Join(sharedDir(t), "r"), 1<<20)
	defer r.Remove()
	c := r.NewCell()
	c.Write([]byte("old"))
	if c.Write(make([]byte, cellHalf)) {
		t.Error("too much was taken")
	}
	if s := left(t, r); len(s.Cells) != 0 {
		t.Errorf("the cell holds %q", s.Cells)
	}
	if !c.Write([]byte("new")) || string(left(t, r).Cells[0]) != "new" {
		t.Error("the cell does not recover")
	}
	c.Free()
	if s := left(t, r); len(s.Cells) != 0 {
		t.Errorf("the free cell holds %q", s.Cells)
	}
}

// TestMemoryComesBack: free slabs take nothing.
func TestMemoryComesBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(sharedDir(t), "r")
	r := create(t, path, 8<<20)
	defer r.Remove()
	before := allocated(t, path)
	if before > 64<<10 {
		t.Errorf("an empty region takes %d bytes", before)
	}
	var slabs []*Slab
	for s := r.NewSlab(1); s != nil; s = r.NewSlab(1) {
		slabs = append(slabs, s)
	}
	if got := allocated(t, path); got < 8<<20 {
		t.Errorf("all slabs take %d bytes", got)
	}
	for _, s := range slabs {
		s.Free()
	}
	if got := allocated(t, path); got != before {
		t.Errorf("no slab takes %d bytes, before it was %d", got, before)
	}
}

// TestOpenRefuses: /dev/shm is everybody's.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, path string){
		"a living process's": func(*testing.T, string) {},
		"a symbolic link": func(t *testing.T, path string) {
			t.Helper()
			if err := errors.Join(os.Rename(path, path+"-moved"), os.Symlink(path+"-moved", path)); err != nil {
				t.Fatal(err)
			}
		},
		"a file with two names": func(t *testing.T, path string) {
			t.Helper()
			if err := os.Link(path, path+"-too"); err != nil {
				t.Fatal(err)
			}
		},
		"a pipe": func(t *testing.T, path string) {
			t.Helper()
			if err := errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)); err != nil {
				t.Fatal(err)
			}
		},
		"another user's": func(t *testing.T, path string) {
			t.Helper()
			var err error
			if os.Getuid() == 0 {
				err = os.Chown(path, 65534, 65534)
			} else { // only root gives files away: one that is root's, then
				err = errors.Join(os.Remove(path), os.Symlink("/etc/passwd", path))
				if _, open := Open("/etc/passwd"); !errors.Is(open, ErrForeign) {
					t.Errorf("Open says %v of a file of root's", open)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(sharedDir(t), "r")
			r := create(t, path, 1<<20)
			if name != "a living process's" {
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
			} else {
				defer r.Close()
			}
			prepare(t, path)
			if _, err := Open(path); !errors.Is(err, ErrForeign) {
				t.Errorf("Open says %v", err)
			}
		})
	}
}

func TestPath(t *testing.T) {
	t.Parallel()
	if _, err := Path(t.TempDir(), t.TempDir()); err == nil {
		t.Error("a directory on a disk was taken for memory")
	}
	base, dir := sharedDir(t), t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	one, err1 := Path(base, dir)
	two, err2 := Path(base, link)
	other, err3 := Path(base, t.TempDir())
	if err := errors.Join(err1, err2, err3); err != nil || one != two || one == other {
		t.Errorf("%v: %s, %s, %s", err, one, two, other)
	}
}

// FuzzRead changes a region at any place: reading it never panics, and never
// yields a record that was not written.
func FuzzRead(f *testing.F) {
	dir, err := os.MkdirTemp("/dev/shm", "millrace-test-")
	if err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(dir, "r")
	r := create(f, path, 0)
	records := map[uint64]*Record{}
	slab := r.NewSlab(1)
	for seq := uint64(1); seq <= 30; seq++ {
		records[seq] = record(seq, int(seq)*40)
		slab.Put(records[seq])
		r.SetHigh(seq + 1)
	}
	big := record(31, 2*SlabSize)
	records[31] = big
	r.NewSlab(len(big.Data)).Put(big)
	r.SetHigh(32)
	r.NewCell().Write([]byte("a place"))
	r.Notes().Write([]byte("gaps"))
	r.AddSchema([]byte("a schema"))
	at := r.at
	image, err := os.ReadFile(path)
	if err := errors.Join(err, r.Close(), os.RemoveAll(dir)); err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte{})
	f.Add(uint32(at.slotWord(0)), []byte{255, 255, 255, 127, 9})
	f.Add(uint32(wordLow), []byte{5, 0, 0, 0, 0, 0, 0, 0, 200, 0})
	f.Add(uint32(at.slot(0)+4), []byte{255, 255})
	f.Add(uint32(24), []byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, off uint32, patch []byte) {
		s, err := read(patchedFile(image, int(off), patch), int64(len(image)))
		if err != nil {
			return
		}
		var buf []byte
		for i := range s.Records {
			var rec Record
			rec, buf, err = s.Record(&s.Records[i], buf)
			if err == nil && (records[rec.Seq] == nil || !same(&rec, records[rec.Seq])) {
				t.Fatalf("record %d was never written", rec.Seq)
			}
		}
	})
}

// patched is a file in which some bytes were changed.
type patched struct {
	*bytes.Reader
	head []byte
	off  int64
	with []byte
}

// patchedFile changes image. The fixed part of the header has a checksum that
// no fuzzer finds: it is made to fit.
func patchedFile(image []byte, off int, with []byte) *patched {
	head := bytes.Clone(image[:fixedSize])
	if off < fixedSize {
		copy(head[off:], with)
		binary.LittleEndian.PutUint32(head[fixedSum:], crc32.Checksum(head[:fixedSum], crcTable()))
	}
	return &patched{Reader: bytes.NewReader(image), head: head, off: int64(off), with: with}
}

func (p *patched) ReadAt(b []byte, at int64) (int, error) {
	n, err := p.Reader.ReadAt(b, at)
	overlay(b[:n], at, p.with, p.off)
	overlay(b[:n], at, p.head, 0)
	return n, err
}

// overlay puts what of x, which stands at off, falls into b, which stands at at.
func overlay(b []byte, at int64, x []byte, off int64) {
	from, to := max(at, off), min(at+int64(len(b)), off+int64(len(x)))
	if from < to {
		copy(b[from-at:to-at], x[from-off:])
	}
}
