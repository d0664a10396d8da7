package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"

	"github.com/klauspost/compress/zstd"
)

// A file of the ledger is a row of frames, each with a checksum; it is only
// ever appended to. In a month's file a filed frame, which is empty, says that
// all that was to be filed together is there; what follows the last of them is
// what a crash left, and is cut off. A frame that is damaged is passed over.
//
//	header, little endian: magic, kind, 0, number of columns of a row (uint16),
//	    journal (uint32), before, first and last hour (int32 each, since 1970),
//	    length of the body, its length unpacked, CRC-32C of all of it but itself
//	body, zstd
//
// The body of a names frame is the ids of devices that rows of this file
// refer to from now on by their number: the first number, and of each id its
// length and its text. The body of a rows frame is
//
//	the number of rows
//	each column of all rows, as the difference to the row before (signed varint):
//	    device, hour less the first one, and the columns
//	the answer times of each row: how many buckets are not 0, and of each of
//	    these its distance to the one before and its number
//
// and of an events or a state frame it is JSON.
const (
	frameMagic = 0x314c4d4d // MML1
	headerSize = 4 + 4 + 4 + 3*4 + 3*4

	maxBody  = 64 << 20
	maxNames = 1 << 20
)

type frameKind uint8

const (
	frameNames frameKind = iota + 1
	frameRows
	frameEvents
	frameState
	frameFiled
)

// frameHeader is what can be known of a frame without unpacking it.
type frameHeader struct {
	kind    frameKind
	columns int
	// journal is the number of the journal that the rows come from, or are in;
	// before is the hour before which all rows of that journal have been filed.
	journal     uint32
	before      int32
	first, last int32 // hours
	size        int   // of the body
	raw         int   // unpacked
	sum         uint32
}

// errTorn: there is no whole frame here.
var errTorn = errors.New("not a whole frame")

// checksum is the CRC-32C of a header, without its checksum, and a body.
func checksum(header, packed []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(header, table), table, packed)
}

func (h *frameHeader) append(dst []byte) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, frameMagic)
	dst = append(dst, byte(h.kind), 0)
	dst = le.AppendUint16(dst, uint16(h.columns))
	dst = le.AppendUint32(dst, h.journal)
	dst = le.AppendUint32(dst, uint32(h.before))
	dst = le.AppendUint32(dst, uint32(h.first))
	dst = le.AppendUint32(dst, uint32(h.last))
	dst = le.AppendUint32(dst, uint32(h.size))
	return le.AppendUint32(dst, uint32(h.raw))
}

func parseHeader(data []byte) (h frameHeader, err error) {
	le := binary.LittleEndian
	if len(data) < headerSize || le.Uint32(data) != frameMagic {
		return h, errTorn
	}
	h = frameHeader{
		kind: frameKind(data[4]), columns: int(le.Uint16(data[6:])), journal: le.Uint32(data[8:]),
		before: int32(le.Uint32(data[12:])), first: int32(le.Uint32(data[16:])), last: int32(le.Uint32(data[20:])),
		size: int(le.Uint32(data[24:])), raw: int(le.Uint32(data[28:])), sum: le.Uint32(data[32:]),
	}
	if h.size > maxBody || h.raw > maxBody {
		return h, errTorn
	}
	return h, nil
}

// encoder makes frames.
type encoder struct {
	z    *zstd.Encoder
	body []byte
}

func newEncoder() (*encoder, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(64<<10), zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("connectivity ledger: %w", err)
	}
	return &encoder{z: z}, nil
}

// append appends a frame with the body.
func (e *encoder) append(dst []byte, h frameHeader, body []byte) []byte {
	start := len(dst)
	packed := e.z.EncodeAll(body, nil)
	h.size, h.raw = len(packed), len(body)
	dst = h.append(dst)
	dst = binary.LittleEndian.AppendUint32(dst, checksum(dst[start:], packed))
	return append(dst, packed...)
}

// row is the counts of a device, by its number in the file, in an hour.
type row struct {
	device int
	hour   int32
	counts *Counts
}

// appendRows appends a frame of rows.
func (e *encoder) appendRows(dst []byte, h frameHeader, rows []row) []byte {
	h.kind, h.columns = frameRows, len(columns{})
	h.first, h.last = math.MaxInt32, math.MinInt32
	for _, r := range rows {
		h.first, h.last = min(h.first, r.hour), max(h.last, r.hour)
	}
	b := binary.AppendUvarint(e.body[:0], uint64(len(rows)))
	column := func(get func(i int) int64) {
		last := int64(0)
		for i := range rows {
			v := get(i)
			b = binary.AppendVarint(b, v-last)
			last = v
		}
	}
	column(func(i int) int64 { return int64(rows[i].device) })
	column(func(i int) int64 { return int64(rows[i].hour - h.first) })
	values := make([]columns, len(rows))
	for i := range rows {
		values[i].of(rows[i].counts)
	}
	for c := range (columns{}) {
		column(func(i int) int64 { return values[i][c] })
	}
	for _, r := range rows {
		b = appendAnswers(b, &r.counts.Answers)
	}
	e.body = b
	return e.append(dst, h, b)
}

func appendAnswers(b []byte, answers *[buckets]uint32) []byte {
	n := 0
	for _, c := range answers {
		if c > 0 {
			n++
		}
	}
	b = binary.AppendUvarint(b, uint64(n))
	last := 0
	for i, c := range answers {
		if c > 0 {
			b = binary.AppendUvarint(b, uint64(i-last))
			b = binary.AppendUvarint(b, uint64(c))
			last = i
		}
	}
	return b
}

// decoder takes frames apart.
type decoder struct {
	z    *zstd.Decoder
	body []byte
}

func newDecoder() (*decoder, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxBody))
	if err != nil {
		return nil, fmt.Errorf("connectivity ledger: %w", err)
	}
	return &decoder{z: z}, nil
}

func (d *decoder) close() { d.z.Close() }

// unpack returns the body of a frame, until the next call.
func (d *decoder) unpack(h *frameHeader, header, packed []byte) ([]byte, error) {
	if checksum(header[:headerSize-4], packed) != h.sum {
		return nil, errTorn
	}
	body, err := d.z.DecodeAll(packed, d.body[:0])
	if err != nil || len(body) != h.raw {
		return nil, errTorn
	}
	d.body = body
	return body, nil
}

// frameReader reads the numbers of a body. After the first error all that it
// returns is zero.
type frameReader struct {
	data []byte
	bad  bool
}

func (r *frameReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.bad, r.data = true, nil
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *frameReader) varint() int64 {
	v, n := binary.Varint(r.data)
	if n <= 0 {
		r.bad, r.data = true, nil
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *frameReader) text() string {
	n := r.uvarint()
	if n > uint64(len(r.data)) {
		r.bad, r.data = true, nil
		return ""
	}
	s := string(r.data[:n])
	r.data = r.data[n:]
	return s
}

// rows calls visit with each row of a body. The counts are valid during the
// call.
func (r *frameReader) rows(h *frameHeader, visit func(device int, hour int32, c *Counts)) error {
	n := r.uvarint()
	if r.bad || n > uint64(len(r.data)) || h.columns > len(r.data) {
		return errTorn
	}
	width := 2 + h.columns
	values := make([]int64, int(n)*width)
	for c := range width {
		last := int64(0)
		for i := range int(n) {
			last += r.varint()
			values[i*width+c] = last
		}
	}
	for i := range int(n) {
		v := values[i*width : (i+1)*width]
		var cols columns
		copy(cols[:], v[2:])
		var c Counts
		cols.to(&c)
		at := uint64(0)
		for j := range r.uvarint() {
			step := r.uvarint()
			if at += step; at >= buckets || j > buckets {
				return errTorn
			}
			c.Answers[at] = uint32(r.uvarint())
		}
		if r.bad {
			return errTorn
		}
		visit(int(v[0]), h.first+int32(v[1]), &c)
	}
	return nil
}

// frameFile reads the frames of a file, one after the other.
type frameFile struct {
	r      io.ReaderAt
	size   int64
	at     int64 // where the next frame begins
	header [headerSize]byte
	packed []byte
}

func newFrameFile(file *os.File) (*frameFile, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	return &frameFile{r: file, size: info.Size()}, nil
}

// next returns the header of the next whole frame; false: there is none.
func (f *frameFile) next() (frameHeader, bool) {
	for f.at+headerSize <= f.size {
		if n, _ := f.r.ReadAt(f.header[:], f.at); n < headerSize {
			return frameHeader{}, false
		}
		h, err := parseHeader(f.header[:])
		// The size is not to be believed before the checksum is right: it would
		// lead past frames that are whole.
		if err == nil && f.at+headerSize+int64(h.size) <= f.size && f.sound(&h) {
			return h, true
		}
		f.search()
	}
	return frameHeader{}, false
}

func (f *frameFile) sound(h *frameHeader) bool {
	packed, err := f.body(h)
	return err == nil && checksum(f.header[:headerSize-4], packed) == h.sum
}

// search goes on to where the next frame may begin.
func (f *frameFile) search() {
	magic := binary.LittleEndian.AppendUint32(nil, frameMagic)
	block := make([]byte, 64<<10)
	for f.at++; f.at+headerSize <= f.size; f.at += int64(len(block)) - headerSize {
		n, _ := f.r.ReadAt(block, f.at)
		if i := bytes.Index(block[:n], magic); i >= 0 {
			f.at += int64(i)
			return
		}
		if n < len(block) {
			break
		}
	}
	f.at = f.size
}

// skip goes on behind the frame that next has found.
func (f *frameFile) skip(h *frameHeader) { f.at += headerSize + int64(h.size) }

// body returns the packed body of the frame that next has found.
func (f *frameFile) body(h *frameHeader) ([]byte, error) {
	if cap(f.packed) < h.size {
		f.packed = make([]byte, h.size)
	}
	f.packed = f.packed[:h.size]
	if n, _ := f.r.ReadAt(f.packed, f.at+headerSize); n < h.size {
		return nil, errTorn
	}
	return f.packed, nil
}
