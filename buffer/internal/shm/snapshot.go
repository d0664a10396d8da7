package shm

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// ErrForeign says that there is a file, but not one to be trusted or touched.
var ErrForeign = errors.New("not our shared memory")

// Snapshot is what a process left in its region.
type Snapshot struct {
	Stream  string
	Ordinal uint64
	Low     uint64   // the records from Low on and before High were in memory
	High    uint64   //
	Written uint64   // up to here all that was needed was on the disk
	Cells   [][]byte // what they held
	Notes   []byte   // nil: unknown
	Schemas []byte   // as they were added, in a row
	Records []Ref    // by seq, each once; those in memory that are whole

	file io.ReaderAt
	tag  uint32
	done func() error // closes the file
}

// Ref says where a record stands.
type Ref struct {
	Seq      uint64
	Time     int64
	Mono     int64
	Schema   uint64
	Readings int
	off      int64
	size     int
}

// Open reads the region that an earlier process left at path. It fails with
// os.ErrNotExist if there is none, ErrForeign if it is not to be touched, or
// ErrDamaged. Close must follow.
func Open(path string) (*Snapshot, error) {
	f, err := openOwn(path)
	if err != nil {
		return nil, err
	}
	return open(f, path)
}

// Peek is Open for a look only, of the buffer in dir: it takes nothing away
// from a process that starts meanwhile, and does not know whether one lives.
func Peek(path, dir string) (*Snapshot, error) {
	f, err := openOf(path, dir)
	if err != nil {
		return nil, err
	}
	return open(f, path)
}

func open(f *os.File, path string) (*Snapshot, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s, err := read(f, info.Size())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	s.done = f.Close
	return s, nil
}

// Close ends the reading; the file stays.
func (s *Snapshot) Close() error { return s.done() }

// read makes a snapshot of a file of size bytes. It trusts none of them.
func read(f io.ReaderAt, size int64) (*Snapshot, error) {
	head := make([]byte, headerSize)
	if n, err := f.ReadAt(head, 0); n < len(head) {
		return nil, fmt.Errorf("%w: no header: %w", ErrDamaged, err)
	}
	fx, err := parseFixed(head)
	if err != nil {
		return nil, err
	}
	at := fx.layout
	if size != int64(at.size()) {
		return nil, fmt.Errorf("%w: %d bytes of %d", ErrDamaged, size, at.size())
	}
	word := func(off int) uint64 { return binary.NativeEndian.Uint64(head[off:]) }
	s := &Snapshot{
		Stream: fx.stream, Ordinal: fx.ordinal, file: f, tag: streamTag(fx.stream),
		Low: word(wordLow), High: word(wordHigh), Written: word(wordWritten),
	}
	if s.Low == 0 || s.Low > s.High || s.Written >= s.High {
		return nil, fmt.Errorf("%w: records %d to %d, %d written", ErrDamaged, s.Low, s.High, s.Written)
	}
	for i := range cellCount {
		if b := s.cell(at.cells()+i*2*cellHalf, cellHalf); b != nil {
			s.Cells = append(s.Cells, b)
		}
	}
	s.Notes = s.cell(at.notes(), noteHalf)
	s.Schemas = s.bytes(int64(at.schemas()), word(wordSchemas), schemasSpace)
	if err := s.walk(at); err != nil {
		return nil, err
	}
	return s, nil
}

// bytes reads n bytes at off; nil if they are more than limit or not there.
func (s *Snapshot) bytes(off int64, n uint64, limit int) []byte {
	if n > uint64(limit) {
		return nil
	}
	b := make([]byte, n)
	if k, _ := s.file.ReadAt(b, off); k < len(b) { // what is there is all that counts
		return nil
	}
	return b
}

// cell returns the newer good half of a cell; nil if there is none.
func (s *Snapshot) cell(off, half int) (content []byte) {
	newest := uint64(0)
	for i := range 2 {
		at := int64(off + i*half)
		head := s.bytes(at, cellHeader, cellHeader)
		if head == nil {
			continue
		}
		turn, n := binary.LittleEndian.Uint64(head), binary.LittleEndian.Uint32(head[8:])
		if turn <= newest || int64(n) > int64(half-cellHeader) {
			continue
		}
		b := s.bytes(at, uint64(cellHeader)+uint64(n), half)
		if b != nil && cellSum(b, s.tag) == binary.LittleEndian.Uint32(b[12:]) {
			newest, content = turn, b[cellHeader:]
		}
	}
	return content
}

// walk finds the records.
func (s *Snapshot) walk(at layout) error {
	dir := s.bytes(int64(at.directory()), uint64(8*at.slots), 8*maxSlots)
	if dir == nil {
		return fmt.Errorf("%w: no directory", ErrDamaged)
	}
	var buf []byte
	for i := 0; i < at.slots; {
		slots, used := splitEntry(binary.NativeEndian.Uint64(dir[8*i:]))
		if used == 0 || slots == 0 || slots > at.slots-i || used > slots*slotSize {
			i++
			continue
		}
		buf = slices.Grow(buf[:0], used)[:used]
		off := int64(at.slot(i))
		if n, err := s.file.ReadAt(buf, off); n < used {
			return fmt.Errorf("%w: slot %d: %w", ErrDamaged, i, err)
		}
		s.frames(buf, off)
		i += slots
	}
	slices.SortStableFunc(s.Records, func(x, y Ref) int { return cmp.Compare(x.Seq, y.Seq) })
	s.Records = slices.CompactFunc(s.Records, func(x, y Ref) bool { return x.Seq == y.Seq })
	return nil
}

// frames notes the whole records in b, which stands at off. Behind one that
// is not whole there is nothing to go by.
func (s *Snapshot) frames(b []byte, off int64) {
	for len(b) > 0 {
		r, err := parseFrame(b, s.tag)
		if err != nil {
			return
		}
		n := min(FrameSize(len(r.Data)), len(b))
		if r.Seq >= s.Low && r.Seq < s.High {
			s.Records = append(s.Records, Ref{
				Seq: r.Seq, Time: r.Time, Mono: r.Mono, Schema: r.Schema, Readings: r.Readings, off: off, size: n,
			})
		}
		b, off = b[n:], off+int64(n)
	}
}

// Record reads one record. Its data is in buf, which is made larger if need
// be and returned.
func (s *Snapshot) Record(ref *Ref, buf []byte) (Record, []byte, error) {
	buf = slices.Grow(buf[:0], ref.size)[:ref.size]
	if n, err := s.file.ReadAt(buf, ref.off); n < len(buf) {
		return Record{}, buf, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	r, err := parseFrame(buf, s.tag)
	return r, buf, err
}
