package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"

	"millrace/buffer/internal/clock"
)

// A row of state.db ends with a checksum of its bucket's name, its key and
// its value: bbolt has none, and a cursor with a flipped bit would pass over
// records in silence. keySum in the meta bucket is the sum of all rows'
// checksums: it tells that a row is missing, or that one of long ago is back.
const (
	rowSumSize = 4
	keySum     = "sum"
)

// row is a bucket of state.db in which every value carries its checksum.
type row struct {
	path string // the names of the buckets it is in and its own, with '/' between
	*bolt.Bucket
}

func (r row) put(key, value []byte) error {
	framed := append(make([]byte, 0, len(value)+rowSumSize), value...)
	return r.Put(key, binary.LittleEndian.AppendUint32(framed, rowSum(r.path, key, value)))
}

func rowSum(path string, key, value []byte) uint32 {
	sum := crc32.Update(0, crcTable(), []byte(path))
	sum = crc32.Update(sum, crcTable(), binary.LittleEndian.AppendUint32(nil, uint32(len(key))))
	return crc32.Update(crc32.Update(sum, crcTable(), key), crcTable(), value)
}

// openRow verifies a row and returns its value.
func openRow(path string, key, framed []byte) (value []byte, sum uint32, ok bool) {
	n := len(framed) - rowSumSize
	if n < 0 {
		return nil, 0, false
	}
	sum = binary.LittleEndian.Uint32(framed[n:])
	return framed[:n:n], sum, sum == rowSum(path, key, framed[:n])
}

// sumUp adds a row to the sum of all: their number in the upper bits, so that
// it cannot be made up for.
func sumUp(total uint64, sum uint32) uint64 { return total + 1<<40 + uint64(sum) }

// putSum brings the sum of all rows up to date in tx. state.db is small: a
// pass over it costs less than the page it is written in.
func putSum(tx *bolt.Tx) error {
	total := uint64(0)
	add := func(framed []byte) {
		if n := len(framed) - rowSumSize; n >= 0 {
			total = sumUp(total, binary.LittleEndian.Uint32(framed[n:]))
		}
	}
	for _, name := range stateBuckets() {
		b := tx.Bucket([]byte(name))
		if b == nil {
			return fmt.Errorf("%w: %s has no %s", errFormat, stateName, name)
		}
		err := b.ForEach(func(k, v []byte) error {
			if v != nil {
				add(v)
				return nil
			}
			return b.Bucket(k).ForEach(func(_, v []byte) error {
				add(v)
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	return tx.Bucket([]byte(bucketMeta)).Put([]byte(keySum), seqKey(total))
}

// stateReader takes the rows of a state.db apart.
type stateReader struct {
	im      *stateImage
	version []byte
	total   uint64 // as the rows say
	said    []byte // as the file says
	bad     int    // rows with a wrong checksum
}

// loadState reads the state.db in dir, without bbolt. With an error that is
// damage, the image holds what is intact all the same.
func loadState(dir string) (*stateImage, error) {
	path := filepath.Join(dir, stateName)
	f, size, err := openRegular(path)
	if err != nil {
		return newStateImage(), err
	}
	defer f.Close() //nolint:errcheck // only read
	im, err := readImage(f, size)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return im, err
}

func newStateImage() *stateImage {
	return &stateImage{
		streams: make(map[uint64]string), cursors: make(map[string]cursor),
		gaps: make(map[string][]*pendingGap), segments: make(map[place]summary), values: make(map[string][]byte),
		boots: make(map[uint64]string), clocks: make(map[string]*clock.History),
	}
}

// readImage reads a state.db of size bytes.
func readImage(file io.ReaderAt, size int64) (*stateImage, error) {
	r := &stateReader{im: newStateImage()}
	err := walkBolt(file, size, func(trail []string, key, value []byte, _ int64) error {
		r.take(trail, key, value)
		return nil
	})
	for _, gaps := range r.im.gaps { // a damaged branch may lead to the leaves in any order
		slices.SortFunc(gaps, func(x, y *pendingGap) int { return bytes.Compare(placeKey(x.start()), placeKey(y.start())) })
	}
	version := checkVersion(r.version, stateVersion)
	switch {
	case errors.Is(version, ErrVersion):
		err = version // before damage: what looks like that may be its way
	case err != nil:
	case version != nil:
		err = version
	case r.bad > 0:
		err = fmt.Errorf("%w: %d entries have a wrong checksum", errStructure, r.bad)
	case string(r.said) != string(seqKey(r.total)):
		err = fmt.Errorf("%w: it does not hold all that was written to it", errStructure)
	}
	return r.im, err
}

// take takes one key of the file.
func (r *stateReader) take(trail []string, key, framed []byte) {
	if len(trail) == 1 && trail[0] == bucketMeta {
		switch string(key) {
		case keyVersion:
			r.version = append([]byte{}, framed...)
		case keySum:
			r.said = append([]byte{}, framed...)
		}
		return
	}
	if len(trail) == 0 {
		return // bbolt's root holds buckets alone
	}
	value, sum, ok := openRow(strings.Join(trail, "/"), key, framed)
	r.total = sumUp(r.total, sum)
	if !ok || !r.im.take(trail, key, value) {
		r.bad++
	}
}

// take adds a row whose checksum is right to the image.
func (im *stateImage) take(trail []string, key, value []byte) bool {
	ok := len(trail) == 1
	switch trail[0] {
	case bucketStreams:
		if ok = ok && len(key) == 8; ok {
			im.streams[binary.BigEndian.Uint64(key)] = string(value)
		}
	case bucketBoots:
		if ok = ok && len(key) == 8; ok {
			im.boots[binary.BigEndian.Uint64(key)] = string(value)
		}
	case bucketClocks:
		h, parsed := clock.Parse(value)
		if ok = ok && parsed; ok {
			im.clocks[string(key)] = h
		}
	case bucketCursors:
		c, parsed := parseCursor(value)
		if ok = ok && parsed; ok {
			im.cursors[string(key)] = c
		}
	case bucketSegments:
		s, parsed := parseSummary(value)
		if ok = ok && parsed && len(key) == 16; ok {
			im.segments[parsePlace(key)] = s
		}
	case bucketValues:
		if ok {
			im.values[string(key)] = append([]byte{}, value...)
		}
	case bucketGaps:
		g, parsed := parseGap(value)
		if ok = len(trail) == 2 && parsed && len(key) == 16; ok {
			g.ord = parsePlace(key).ord
			im.gaps[trail[1]] = append(im.gaps[trail[1]], g)
		}
	default:
		ok = false
	}
	return ok
}

// all returns the change that brings the whole image into a new file.
func (im *stateImage) all() *change {
	return &change{streams: im.streams, cursors: im.cursors, gaps: im.gaps, sealed: im.segments, values: im.values, boots: im.boots, clocks: im.clocks}
}
