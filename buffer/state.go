package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
)

const (
	stateName    = "state.db"
	stateVersion = 1

	bucketStreams  = "streams"  // ordinal → id
	bucketCursors  = "cursors"  // uplink → cursor
	bucketGaps     = "gaps"     // uplink → bucket of gaps to be announced
	bucketSegments = "segments" // ordinal, first → summary
	bucketValues   = "values"   // small values of others

	recordVersion = 1

	stateMap  = 256 << 10     // mapped at first: no remapping in the usual life
	stateStep = 16 * pageSize // by which the file grows
)

// stateFile is state.db: what must outlive the agent beside the records. It
// is small, and written at most about once a second.
type stateFile struct {
	db     *bolt.DB
	broken atomic.Bool // bbolt broke on it: its locks may be held for ever
}

// update is the package's update, but for a file that is broken.
func (f *stateFile) update(fn func(tx *bolt.Tx) error) (int64, error) {
	if f.broken.Load() {
		return 0, fmt.Errorf("%s: %w; the next start makes a new one", stateName, errBroken)
	}
	written, err := update(f.db, fn)
	if errors.Is(err, errBroken) {
		f.broken.Store(true)
	}
	return written, err
}

func (f *stateFile) close() error {
	if f.broken.Load() {
		return nil
	}
	return closeBolt(f.db)
}

// stateImage is what state.db holds.
type stateImage struct {
	streams  map[uint64]string
	cursors  map[string]cursor
	gaps     map[string][]*pendingGap
	segments map[place]summary
}

type cursor struct {
	at    place
	acked uint64 // records acknowledged, all told
}

// summary spares the opening of a segment that is complete.
type summary struct {
	last           uint64
	oldest, newest int64
	readings       uint64
}

// openStateFile opens state.db, or creates it under another name first: a power
// cut during bbolt's initialisation leaves a file that does not open.
func openStateFile(dir string) (*stateFile, error) {
	path := filepath.Join(dir, stateName)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := createStateFile(path); err != nil {
			return nil, fmt.Errorf("create %s: %w", path, err)
		}
	}
	db, err := openBolt(path, false, stateMap)
	if err != nil {
		return nil, err
	}
	db.AllocSize = stateStep
	err = view(db, func(tx *bolt.Tx) error {
		meta := tx.Bucket([]byte(bucketMeta))
		if meta == nil {
			return fmt.Errorf("%w: %s has no version", errFormat, path)
		}
		if v := meta.Get([]byte(keyVersion)); len(v) != 1 || v[0] != stateVersion {
			return fmt.Errorf("%w: %s is of version %v", errFormat, path, v)
		}
		for _, name := range stateBuckets() {
			if tx.Bucket([]byte(name)) == nil {
				return fmt.Errorf("%w: %s has no %s", errFormat, path, name)
			}
		}
		return nil
	})
	if err != nil {
		if !errors.Is(err, errBroken) {
			_ = closeBolt(db) // the first error says more
		}
		return nil, err
	}
	return &stateFile{db: db}, nil
}

func stateBuckets() []string {
	return []string{bucketStreams, bucketCursors, bucketGaps, bucketSegments, bucketValues}
}

func createStateFile(path string) error {
	tmp := path + tmpSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var db *bolt.DB
	err := guard(func() (err error) {
		db, err = bolt.Open(tmp, fileMode, boltOptions(false, stateMap))
		return err
	})
	if err != nil {
		return err
	}
	db.AllocSize = stateStep
	_, err = update(db, func(tx *bolt.Tx) error {
		for _, name := range append(stateBuckets(), bucketMeta) {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(bucketMeta)).Put([]byte(keyVersion), []byte{stateVersion})
	})
	if errors.Is(err, errBroken) {
		return err
	}
	if cerr := closeBolt(db); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// read returns all that the file holds. Entries that make no sense are left
// out: what they said is found again from the segments.
func (f *stateFile) read() (*stateImage, error) {
	im := &stateImage{
		streams: make(map[uint64]string), cursors: make(map[string]cursor),
		gaps: make(map[string][]*pendingGap), segments: make(map[place]summary),
	}
	err := view(f.db, func(tx *bolt.Tx) error {
		return errors.Join(
			tx.Bucket([]byte(bucketStreams)).ForEach(func(k, v []byte) error {
				if len(k) == 8 {
					im.streams[binary.BigEndian.Uint64(k)] = string(v)
				}
				return nil
			}),
			tx.Bucket([]byte(bucketCursors)).ForEach(func(k, v []byte) error {
				if c, ok := parseCursor(v); ok {
					im.cursors[string(k)] = c
				}
				return nil
			}),
			tx.Bucket([]byte(bucketSegments)).ForEach(func(k, v []byte) error {
				if s, ok := parseSummary(v); ok && len(k) == 16 {
					im.segments[parsePlace(k)] = s
				}
				return nil
			}),
			readGaps(tx.Bucket([]byte(bucketGaps)), im.gaps))
	})
	return im, err
}

func readGaps(all *bolt.Bucket, into map[string][]*pendingGap) error {
	return all.ForEachBucket(func(name []byte) error {
		return all.Bucket(name).ForEach(func(k, v []byte) error {
			if g, ok := parseGap(v); ok && len(k) == 16 {
				g.ord = parsePlace(k).ord
				into[string(name)] = append(into[string(name)], g)
			}
			return nil
		})
	})
}

// change is what one transaction writes into state.db.
type change struct {
	stream  *streamRow
	cursors map[string]cursor
	removed []string                 // uplinks to forget
	gaps    map[string][]*pendingGap // all that are pending, for uplinks where they changed
	sealed  map[place]summary
	deleted []place // segments
	pruned  []uint64
}

type streamRow struct {
	ord uint64
	id  string
}

func (f *stateFile) write(c *change) (int64, error) {
	return f.update(func(tx *bolt.Tx) error {
		if c.stream != nil {
			if err := tx.Bucket([]byte(bucketStreams)).Put(seqKey(c.stream.ord), []byte(c.stream.id)); err != nil {
				return err
			}
		}
		if err := writeUplinks(tx, c); err != nil {
			return err
		}
		segments := tx.Bucket([]byte(bucketSegments))
		for p, s := range c.sealed {
			if err := segments.Put(placeKey(p), s.encode()); err != nil {
				return err
			}
		}
		for _, p := range c.deleted {
			if err := segments.Delete(placeKey(p)); err != nil {
				return err
			}
		}
		for _, ord := range c.pruned {
			if err := tx.Bucket([]byte(bucketStreams)).Delete(seqKey(ord)); err != nil {
				return err
			}
		}
		return nil
	})
}

func writeUplinks(tx *bolt.Tx, c *change) error {
	cursors, gaps := tx.Bucket([]byte(bucketCursors)), tx.Bucket([]byte(bucketGaps))
	for name, at := range c.cursors {
		if err := cursors.Put([]byte(name), at.encode()); err != nil {
			return err
		}
	}
	for name, pending := range c.gaps {
		if err := dropBucket(gaps, name); err != nil {
			return err
		}
		b, err := gaps.CreateBucket([]byte(name))
		if err != nil {
			return err
		}
		for _, g := range pending {
			if err := b.Put(placeKey(place{g.ord, g.From}), g.encode()); err != nil {
				return err
			}
		}
	}
	for _, name := range c.removed {
		if err := errors.Join(cursors.Delete([]byte(name)), dropBucket(gaps, name)); err != nil {
			return err
		}
	}
	return nil
}

func dropBucket(parent *bolt.Bucket, name string) error {
	if parent.Bucket([]byte(name)) == nil {
		return nil
	}
	return parent.DeleteBucket([]byte(name))
}

func placeKey(p place) []byte {
	return binary.BigEndian.AppendUint64(seqKey(p.ord), p.seq)
}

func parsePlace(k []byte) place {
	return place{binary.BigEndian.Uint64(k), binary.BigEndian.Uint64(k[8:])}
}

func (c cursor) encode() []byte { return c.appendTo(nil) }

func (c cursor) appendTo(b []byte) []byte {
	b = append(b, recordVersion)
	b = binary.BigEndian.AppendUint64(b, c.at.ord)
	b = binary.BigEndian.AppendUint64(b, c.at.seq)
	return binary.BigEndian.AppendUint64(b, c.acked)
}

func parseCursor(b []byte) (cursor, bool) {
	if len(b) != 25 || b[0] != recordVersion {
		return cursor{}, false
	}
	return cursor{at: parsePlace(b[1:]), acked: binary.BigEndian.Uint64(b[17:])}, true
}

func (s summary) encode() []byte {
	b := []byte{recordVersion}
	for _, v := range []uint64{s.last, uint64(s.oldest), uint64(s.newest), s.readings} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func parseSummary(b []byte) (summary, bool) {
	if len(b) != 33 || b[0] != recordVersion {
		return summary{}, false
	}
	v := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	return summary{last: v(0), oldest: int64(v(1)), newest: int64(v(2)), readings: v(3)}, true
}

func (g *pendingGap) encode() []byte { return g.appendTo(nil) }

func (g *pendingGap) appendTo(b []byte) []byte {
	b = append(b, recordVersion)
	for _, v := range [...]uint64{g.From, g.To, g.Readings, uint64(g.Oldest), uint64(g.Newest)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = append(b, byte(len(g.Reason)))
	b = append(b, g.Reason...)
	return append(b, g.Stream...)
}

func parseGap(b []byte) (*pendingGap, bool) {
	if len(b) < 42 || b[0] != recordVersion || len(b) < 42+int(b[41]) {
		return nil, false
	}
	v := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	reason, stream := b[42:42+int(b[41])], b[42+int(b[41]):]
	g := &pendingGap{Gap: Gap{
		Stream: string(stream), From: v(0), To: v(1), Readings: v(2), Reason: string(reason),
		Oldest: int64(v(3)), Newest: int64(v(4)),
	}}
	return g, g.From > 0 && g.From <= g.To
}

// values returns the small values of others.
func (f *stateFile) values() (map[string][]byte, error) {
	values := make(map[string][]byte)
	err := view(f.db, func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketValues)).ForEach(func(k, v []byte) error {
			values[string(k)] = append([]byte(nil), v...)
			return nil
		})
	})
	return values, err
}

func (f *stateFile) putValue(key string, v []byte) error {
	_, err := f.update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketValues)).Put([]byte(key), v)
	})
	return err
}
