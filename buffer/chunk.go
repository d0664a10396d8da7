package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/klauspost/compress/zstd"
)

// A chunk is the value in a segment: some consecutive records of one stream,
// in columns, compressed. Its header stands for itself (magic, lengths,
// checksum), so that a scan of the raw file finds it without bbolt's tree.
//
//	 0  magic "MRCK"
//	 4  version, 1 byte
//	 5  codec, 1 byte
//	 6  0, 2 bytes
//	 8  count of records, uint32
//	12  length of the body before compression, uint32
//	16  length of the body as stored, uint32
//	20  CRC32C of the stream's id, the header (but for this field) and the
//	    stored body, uint32: a stray chunk of another stream is not taken
//	24  seq of the first record, uint64
//	32  prev, uint64: the last seq that was written before this chunk, 0 if
//	    none was. What is missing up to it was lost; what is missing between
//	    it and the first record was never written, because every uplink had
//	    acknowledged it or been told that it will not come
//	40  time of the oldest record, Unix ms, int64
//	48  time of the newest record, int64
//	56  readings, uint64
//	64  clock, int64: wall clock minus the monotonic clock of the machine's
//	    boot when the first record was appended, in ms
//	72  body
//
// All numbers are little-endian. The body: per record the varint of its
// time minus the oldest; per record the uvarint of its schema; of its
// readings; of its length; then all data. Where the codec is codecDelta, what
// stands for the data of a record are the differences, byte by byte, to the
// last record before it of the same schema, if there is one in the chunk and
// it is as long: batches of one device are alike, and what is left of them is
// mostly zeroes.
const (
	chunkMagic      = "MRCK"
	chunkVersion    = 2
	chunkHeaderSize = 72

	codecRaw   = 0
	codecZstd  = 1
	codecDelta = 2 // and zstd

	// maxRecordSize bounds one record, and so, with maxChunkBody, what a
	// damaged length field can make us allocate.
	maxRecordSize = 4 << 20
	maxChunkBody  = maxRecordSize + 64<<10
	maxChunkCount = 1 << 16
)

var (
	errChunkDamaged = errors.New("damaged chunk")
	errChunkVersion = errors.New("chunk of another version")
)

// crcTable is a function because the standard library caches the table.
func crcTable() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

type chunkHeader struct {
	codec          byte
	count          uint32
	rawLen, length uint32
	first, prev    uint64
	oldest, newest int64
	readings       uint64
	clock          int64
}

func (h *chunkHeader) last() uint64 { return h.first + uint64(h.count) - 1 }

// parseChunk reads and verifies the chunk at the start of b, which may be
// longer, and returns its stored body. tag is that of its stream.
func parseChunk(b []byte, tag uint32) (h chunkHeader, body []byte, err error) {
	h, err = parseChunkHeader(b)
	if err != nil {
		return h, nil, err
	}
	end := chunkHeaderSize + int(h.length)
	if len(b) < end {
		return h, nil, fmt.Errorf("%w: %d bytes of %d", errChunkDamaged, len(b), end)
	}
	if chunkSum(b[:end], tag) != binary.LittleEndian.Uint32(b[20:]) {
		return h, nil, fmt.Errorf("%w: wrong checksum", errChunkDamaged)
	}
	return h, b[chunkHeaderSize:end], nil
}

// parseChunkHeader reads a header without verifying its checksum.
func parseChunkHeader(b []byte) (chunkHeader, error) {
	var h chunkHeader
	if len(b) < chunkHeaderSize || string(b[:4]) != chunkMagic {
		return h, fmt.Errorf("%w: no header", errChunkDamaged)
	}
	if b[4] != chunkVersion {
		return h, fmt.Errorf("%w: %d", errChunkVersion, b[4])
	}
	le := binary.LittleEndian
	h = chunkHeader{
		codec: b[5],
		count: le.Uint32(b[8:]), rawLen: le.Uint32(b[12:]), length: le.Uint32(b[16:]),
		first: le.Uint64(b[24:]), prev: le.Uint64(b[32:]),
		oldest: int64(le.Uint64(b[40:])), newest: int64(le.Uint64(b[48:])),
		readings: le.Uint64(b[56:]), clock: int64(le.Uint64(b[64:])),
	}
	switch {
	case h.codec > codecDelta,
		h.count == 0 || h.count > maxChunkCount,
		h.rawLen > maxChunkBody || h.length > maxChunkBody,
		h.codec == codecRaw && h.rawLen != h.length,
		h.first == 0 || h.first > math.MaxUint64-maxChunkCount:
		return h, fmt.Errorf("%w: senseless header", errChunkDamaged)
	}
	return h, nil
}

// streamTag is what the checksums of a stream's chunks begin with.
func streamTag(stream string) uint32 { return crc32.Checksum([]byte(stream), crcTable()) }

func chunkSum(b []byte, tag uint32) uint32 {
	sum := crc32.Update(tag, crcTable(), b[:20])
	return crc32.Update(sum, crcTable(), b[24:])
}

// chunkEncoder packs consecutive records. It is used by one goroutine.
type chunkEncoder struct {
	zstd *zstd.Encoder
	tag  uint32
	head chunkHeader
	recs []chunkRec
	data []byte // the data of all records, in a row
	body []byte
	like alike
}

type chunkRec struct {
	time     int64
	schema   uint64
	readings uint64
	length   int
}

func newChunkEncoder(stream string) (*chunkEncoder, error) {
	// One goroutine, no checksum of its own (the chunk has one), and a window
	// no larger than a chunk.
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(chunkSize))
	if err != nil {
		return nil, fmt.Errorf("make the compressor: %w", err)
	}
	return &chunkEncoder{zstd: z, tag: streamTag(stream)}, nil
}

// reset begins a chunk whose first record is first; prev is the last one that
// was written before it.
func (e *chunkEncoder) reset(first, prev uint64, clock int64) {
	e.head = chunkHeader{first: first, prev: prev, clock: clock, oldest: math.MaxInt64, newest: math.MinInt64}
	e.recs, e.data = e.recs[:0], e.data[:0]
}

func (e *chunkEncoder) add(r *Record) {
	e.recs = append(e.recs, chunkRec{time: r.Time, schema: r.Schema, readings: uint64(r.Readings), length: len(r.Data)})
	e.data = append(e.data, r.Data...)
	e.head.oldest = min(e.head.oldest, r.Time)
	e.head.newest = max(e.head.newest, r.Time)
	e.head.readings += uint64(r.Readings)
}

// appendTo appends the chunk to dst.
func (e *chunkEncoder) appendTo(dst []byte) []byte {
	body := e.body[:0]
	for i := range e.recs {
		body = binary.AppendUvarint(body, uint64(e.recs[i].time-e.head.oldest))
	}
	for i := range e.recs {
		body = binary.AppendUvarint(body, e.recs[i].schema)
	}
	for i := range e.recs {
		body = binary.AppendUvarint(body, e.recs[i].readings)
	}
	for i := range e.recs {
		body = binary.AppendUvarint(body, uint64(e.recs[i].length))
	}
	columns := len(body)
	body = append(body, e.data...)
	e.differences(body[columns:])
	e.body = body

	start := len(dst)
	dst = append(dst, make([]byte, chunkHeaderSize)...)
	e.head.codec = codecDelta
	dst = e.zstd.EncodeAll(body, dst)
	if len(dst)-start-chunkHeaderSize >= len(body) {
		e.head.codec = codecRaw
		dst = append(dst[:start+chunkHeaderSize], body[:columns]...)
		dst = append(dst, e.data...)
	}
	e.head.count = uint32(len(e.recs))
	e.head.rawLen = uint32(len(body))
	e.head.length = uint32(len(dst) - start - chunkHeaderSize)
	putChunkHeader(dst[start:], &e.head, e.tag)
	return dst
}

// putChunkHeader writes h and the checksum of it and the body behind it.
func putChunkHeader(b []byte, h *chunkHeader, tag uint32) {
	le := binary.LittleEndian
	copy(b, chunkMagic)
	b[4], b[5], b[6], b[7] = chunkVersion, h.codec, 0, 0
	le.PutUint32(b[8:], h.count)
	le.PutUint32(b[12:], h.rawLen)
	le.PutUint32(b[16:], h.length)
	le.PutUint64(b[24:], h.first)
	le.PutUint64(b[32:], h.prev)
	le.PutUint64(b[40:], uint64(h.oldest))
	le.PutUint64(b[48:], uint64(h.newest))
	le.PutUint64(b[56:], h.readings)
	le.PutUint64(b[64:], uint64(h.clock))
	le.PutUint32(b[20:], chunkSum(b, tag))
}

// differences turns a copy of the records' data into what codecDelta stores.
func (e *chunkEncoder) differences(data []byte) {
	e.like.reset()
	at := 0
	for i := range e.recs {
		r := &e.recs[i]
		if before, ok := e.like.last(r.schema, at, r.length); ok {
			subtract(data[at:at+r.length], e.data[before:before+r.length])
		}
		at += r.length
	}
}

// pack compresses a schema: with many devices, all of theirs are a good part
// of a segment.
func (e *chunkEncoder) pack(schema []byte) []byte { return e.zstd.EncodeAll(schema, nil) }

// unpackSchema is the reverse of pack. It is for the few schemas of earlier
// runs, and keeps no decompressor.
func unpackSchema(packed []byte) ([]byte, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxSchemaSize))
	if err != nil {
		return nil, fmt.Errorf("make the decompressor: %w", err)
	}
	defer z.Close()
	schema, err := z.DecodeAll(packed, []byte{})
	if err != nil {
		return nil, fmt.Errorf("%w: a schema: %w", errChunkDamaged, err)
	}
	return schema, nil
}

// chunkDecoder unpacks chunks. It is used by one goroutine.
type chunkDecoder struct {
	zstd *zstd.Decoder
	like alike
}

func newChunkDecoder() (*chunkDecoder, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxChunkBody), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make the decompressor: %w", err)
	}
	return &chunkDecoder{zstd: z}, nil
}

func (d *chunkDecoder) close() { d.zstd.Close() }

// decode appends the records of a chunk (as parseChunk returned it) to recs,
// and their bytes to arena. The records' Data point into the arena that it
// returns, which has been enlarged only if its capacity did not suffice.
func (d *chunkDecoder) decode(h *chunkHeader, stored []byte, recs []Record, arena []byte) ([]Record, []byte, error) {
	start := len(arena)
	if cap(arena)-start < int(h.rawLen) {
		// Earlier records keep pointing into the old array.
		arena = make([]byte, 0, int(h.rawLen))
		start = 0
	}
	if h.codec == codecRaw {
		arena = append(arena, stored...)
	} else {
		dst, err := d.zstd.DecodeAll(stored, arena[start:start:start+int(h.rawLen)])
		if err != nil {
			return recs, arena, fmt.Errorf("%w: %w", errChunkDamaged, err)
		}
		if len(dst) != int(h.rawLen) {
			return recs, arena, fmt.Errorf("%w: %d bytes of %d unpacked", errChunkDamaged, len(dst), h.rawLen)
		}
		arena = arena[:start+len(dst)]
	}
	first := len(recs)
	recs, err := splitChunk(h, arena[start:], recs)
	if err == nil && h.codec == codecDelta {
		d.sums(recs[first:])
	}
	return recs, arena, err
}

// sums undoes differences.
func (d *chunkDecoder) sums(recs []Record) {
	d.like.reset()
	for i := range recs {
		r := &recs[i]
		if before, ok := d.like.last(r.Schema, i, len(r.Data)); ok {
			add(r.Data, recs[before].Data)
		}
	}
}

// splitChunk appends the records in a chunk's unpacked body to recs.
func splitChunk(h *chunkHeader, body []byte, recs []Record) ([]Record, error) {
	start, n := len(recs), int(h.count)
	if n > len(body) {
		return recs, fmt.Errorf("%w: %d records in %d bytes", errChunkDamaged, n, len(body))
	}
	for i := range n {
		recs = append(recs, Record{Seq: h.first + uint64(i)})
	}
	out := recs[start:]
	bad := false
	column := func(set func(r *Record, v uint64)) {
		for i := range out {
			v, k := binary.Uvarint(body)
			if k <= 0 {
				bad = true
				return
			}
			body = body[k:]
			set(&out[i], v)
		}
	}
	total := uint64(0)
	lengths := make([]uint32, 0, 64) // stays on the stack for the usual chunk
	column(func(r *Record, v uint64) { r.Time = h.oldest + int64(v) })
	column(func(r *Record, v uint64) { r.Schema = v })
	column(func(r *Record, v uint64) { r.Readings = int(v & math.MaxInt32) })
	column(func(_ *Record, v uint64) {
		v = min(v, math.MaxUint32)
		total += v
		lengths = append(lengths, uint32(v))
	})
	if bad || total != uint64(len(body)) {
		return recs[:start], fmt.Errorf("%w: its columns do not fit", errChunkDamaged)
	}
	for i := range out {
		out[i].Data = body[:lengths[i]:lengths[i]]
		body = body[lengths[i]:]
	}
	return recs, nil
}
