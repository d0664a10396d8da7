package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	bolt "go.etcd.io/bbolt"
)

const (
	segmentVersion = 3
	segmentSuffix  = ".seg"
	tmpSuffix      = ".tmp"
	rawSuffix      = ".raw"

	bucketMeta    = "meta"
	bucketSchemas = "schemas"
	bucketChunks  = "chunks" // first seq of a commit → bucket of its chunks

	keyVersion = "version"
	keyStream  = "stream"
	keyOrdinal = "ordinal"
	keyBoot    = "boot"
	keyClock   = "clock"

	schemaMagic      = "MRSZ"
	schemaHeaderSize = 20
	maxSchemaSize    = 16 << 20
)

var (
	errFormat  = errors.New("not a file of a buffer")
	streamForm = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)
)

// segment is one file of records of one stream. Its fields, but for the open
// file (openFiles), are covered by the buffer's lock.
type segment struct {
	path   string
	ord    uint64
	stream string
	first  uint64 // the seq its name says
	last   uint64 // the seq up to which it is answerable
	active bool   // records are still appended to it
	sealed bool   // its summary is in state.db
	raw    bool   // it is damaged: its chunks are looked for without bbolt

	oldest, newest int64 // plain time: see clocks
	readings       uint64
	size           int64
	holesTo        uint64 // up to here, holes were counted as dropped

	boot  string // which boot it is of, for its meta
	clock []byte // what is known of that boot's clock when the file is made

	open openState
}

func (s *segment) name() string  { return filepath.Base(s.path) }
func (s *segment) end() place    { return place{s.ord, s.last} }
func (s *segment) start() place  { return place{s.ord, s.first} }
func (s *segment) count() uint64 { return s.last - s.first + 1 }

// typical returns how many readings n records of the segment usually hold.
func (s *segment) typical(n uint64) uint64 {
	if s.last < s.first {
		return 0
	}
	return uint64(float64(s.readings) / float64(s.count()) * float64(n))
}

// cover notes a chunk in s; stepped is by how much the clock had been set.
func (s *segment) cover(h *chunkHeader, stepped int64) {
	s.last = max(s.last, h.last())
	s.oldest, s.newest = min(s.oldest, h.oldest-stepped), max(s.newest, h.newest-stepped)
	s.readings += h.readings
}

// newSegment returns the description of a segment that holds nothing yet.
func newSegment(dir string, ord uint64, stream string, first uint64) *segment {
	name := fmt.Sprintf("%08x-%016x-%s%s", ord, first, stream, segmentSuffix)
	return &segment{
		path: filepath.Join(dir, name), ord: ord, stream: stream, first: first, last: first - 1,
		oldest: math.MaxInt64, newest: math.MinInt64,
	}
}

// parseSegmentName is the reverse of newSegment's naming.
func parseSegmentName(path string) (*segment, bool) {
	name := filepath.Base(path)
	ext := filepath.Ext(name)
	if len(name) < 27 || name[8] != '-' || name[25] != '-' || ext != segmentSuffix && ext != rawSuffix {
		return nil, false
	}
	ord, err1 := strconv.ParseUint(name[:8], 16, 64)
	first, err2 := strconv.ParseUint(name[9:25], 16, 64)
	stream := name[26 : len(name)-len(ext)]
	if err1 != nil || err2 != nil || first == 0 || !streamForm.MatchString(stream) {
		return nil, false
	}
	s := newSegment(filepath.Dir(path), ord, stream, first)
	s.path, s.raw = path, ext == rawSuffix
	return s, true
}

// load is what one transaction puts into a segment.
type load struct {
	heads   []chunkHeader
	ends    []int // where each chunk ends in data
	data    []byte
	schemas map[uint64][]byte // those that the segment does not hold yet, packed
}

func (l *load) reset() {
	l.heads, l.ends, l.data = l.heads[:0], l.ends[:0], l.data[:0]
	clear(l.schemas)
}

// add adds what is in the encoder.
func (l *load) add(enc *chunkEncoder) {
	l.data = enc.appendTo(l.data)
	l.ends = append(l.ends, len(l.data))
	l.heads = append(l.heads, enc.head)
}

// packSchemas compresses the schemas, which were put in as they are.
func (l *load) packSchemas(enc *chunkEncoder) {
	for id, blob := range l.schemas {
		l.schemas[id] = enc.pack(blob)
	}
}

// room returns how much the file may grow by the load: each value ends with a
// page that is not full, and what is rewritten of the tree takes pages, too.
func (l *load) room() int64 {
	size := int64(len(l.data)) + int64(len(l.heads)+len(l.schemas)+8)*pageSize
	for _, blob := range l.schemas {
		size += int64(len(blob)) + schemaHeaderSize
	}
	return size
}

func (l *load) chunk(i int) []byte {
	start := 0
	if i > 0 {
		start = l.ends[i-1]
	}
	return l.data[start:l.ends[i]]
}

// put writes the load in tx: its chunks in a bucket of their own. bbolt keeps
// at least two values in a leaf, so that in one bucket each commit would write
// the two to four chunks before it once more.
func (l *load) put(tx *bolt.Tx) error {
	schemas, chunks := tx.Bucket([]byte(bucketSchemas)), tx.Bucket([]byte(bucketChunks))
	if schemas == nil || chunks == nil {
		return errFormat
	}
	for id, blob := range l.schemas {
		if err := schemas.Put(seqKey(id), frameSchema(id, blob)); err != nil {
			return err
		}
	}
	chunks.FillPercent = 0.95 // append only: leaves can be full
	group, err := chunks.CreateBucket(seqKey(l.heads[0].first))
	if err != nil {
		return err
	}
	group.FillPercent = 0.95
	for i := range l.heads {
		if err := group.Put(seqKey(l.heads[i].first), l.chunk(i)); err != nil {
			return err
		}
	}
	return nil
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// createSegment makes the file with its first load in it, under another name
// until all of it is durable: a segment that can be seen is whole.
func createSegment(s *segment, l *load, segmentSize int64) (*bolt.DB, int64, error) {
	tmp := s.path + tmpSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, 0, err
	}
	db, written, err := fillSegment(tmp, s, l, segmentSize)
	if err == nil {
		err = os.Rename(tmp, s.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(s.path))
	}
	if err != nil {
		if !errors.Is(err, errBroken) {
			_ = closeBolt(db) // the first error says more
		}
		_ = os.Remove(tmp)
		_ = os.Remove(s.path)
		return nil, 0, fmt.Errorf("create the segment %s: %w", s.name(), err)
	}
	return db, written, nil
}

func fillSegment(path string, s *segment, l *load, segmentSize int64) (db *bolt.DB, written int64, err error) {
	err = guard(func() error {
		o := boltOptions(false, segmentSize+segmentSize/4)
		// Nobody opens the file for writing again, so that nobody needs to
		// know its free pages.
		o.NoFreelistSync = true
		o.Logger = &fence{}
		db, err = bolt.Open(path, fileMode, o)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	db.AllocSize = int(max(segmentSize/32, 16*pageSize)) // the default grows files in steps of 16 MiB
	written, err = update(db, func(tx *bolt.Tx) error {
		for _, name := range []string{bucketMeta, bucketSchemas, bucketChunks} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		meta := tx.Bucket([]byte(bucketMeta))
		err := errors.Join(
			meta.Put([]byte(keyVersion), []byte{segmentVersion}),
			meta.Put([]byte(keyStream), []byte(s.stream)),
			meta.Put([]byte(keyOrdinal), seqKey(s.ord)),
			meta.Put([]byte(keyBoot), []byte(s.boot)),
			meta.Put([]byte(keyClock), s.clock))
		if err != nil {
			return err
		}
		return l.put(tx)
	})
	return db, written, err
}

// chunkBucket verifies that the segment is ours and returns its chunks.
func chunkBucket(tx *bolt.Tx, s *segment) (*chunkTree, error) {
	meta, chunks := tx.Bucket([]byte(bucketMeta)), tx.Bucket([]byte(bucketChunks))
	if meta == nil || chunks == nil {
		return nil, fmt.Errorf("%w: no buckets", errFormat)
	}
	if err := checkVersion(meta.Get([]byte(keyVersion)), segmentVersion); err != nil {
		return nil, err
	}
	if !bytes.Equal(meta.Get([]byte(keyStream)), []byte(s.stream)) {
		return nil, fmt.Errorf("%w: it holds another stream than its name says", errFormat)
	}
	return &chunkTree{groups: chunks}, nil
}

// inspect learns from the chunks' headers what s holds, and what was written
// of its boot's clock.
func inspect(src segmentFile, s *segment, c *clocks) error {
	h, err := src.history(c)
	if err != nil {
		return err
	}
	return src.each(s.first, func(v []byte) bool {
		// What a damaged chunk held is found missing when it is read.
		if head, err := parseChunkHeader(v); err == nil {
			c.learn(s.ord, head.oldest, head.oldest-head.clock)
			s.cover(&head, stepped(h, &head))
		}
		return true
	})
}

// frameSchema makes a packed schema findable and verifiable without bbolt's tree.
func frameSchema(id uint64, blob []byte) []byte {
	b := make([]byte, schemaHeaderSize, schemaHeaderSize+len(blob))
	copy(b, schemaMagic)
	binary.LittleEndian.PutUint64(b[4:], id)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(blob)))
	b = append(b, blob...)
	binary.LittleEndian.PutUint32(b[16:], schemaSum(b))
	return b
}

func schemaSum(b []byte) uint32 {
	return crc32.Update(crc32.Update(0, crcTable(), b[:16]), crcTable(), b[schemaHeaderSize:])
}

// parseSchema reads the framed schema at the start of b, which may be longer,
// and returns it packed.
func parseSchema(b []byte) (id uint64, blob []byte, err error) {
	if len(b) < schemaHeaderSize || string(b[:4]) != schemaMagic {
		return 0, nil, fmt.Errorf("%w: no schema", errChunkDamaged)
	}
	n := binary.LittleEndian.Uint32(b[12:])
	if n > maxSchemaSize || int(n) > len(b)-schemaHeaderSize {
		return 0, nil, fmt.Errorf("%w: a schema of %d bytes", errChunkDamaged, n)
	}
	b = b[:schemaHeaderSize+int(n)]
	if schemaSum(b) != binary.LittleEndian.Uint32(b[16:]) {
		return 0, nil, fmt.Errorf("%w: a schema's checksum is wrong", errChunkDamaged)
	}
	return binary.LittleEndian.Uint64(b[4:]), b[schemaHeaderSize:], nil
}

// schemaSize returns the length that a schema's header says.
func schemaSize(head []byte) int { return int(binary.LittleEndian.Uint32(head[12:])) }

// readSchema returns a copy of the schema as s holds it, or nil.
func readSchema(db *bolt.DB, id uint64) (blob []byte, err error) {
	err = view(db, func(tx *bolt.Tx) error {
		schemas := tx.Bucket([]byte(bucketSchemas))
		if schemas == nil {
			return errFormat
		}
		framed := schemas.Get(seqKey(id))
		if framed == nil {
			return nil
		}
		got, data, err := parseSchema(framed)
		if err == nil && got == id {
			blob, err = unpackSchema(data)
		}
		return err
	})
	return blob, err
}
