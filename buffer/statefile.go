package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// stateRoom is what state.db is made larger than it needs to be, and really
// so, block by block: on a disk that is full, what a stop cannot bring to it
// has to be announced by the next run all the same.
const stateRoom = 128 << 10

// errGone: a file or the directory is not the one any more that was opened.
var errGone = errors.New("removed or replaced while the agent runs")

// stateFile is state.db: what must outlive the agent beside the records. It
// is small, and written at most about once a second. Its methods may be
// called by several goroutines at once.
type stateFile struct {
	path string

	mu     sync.Mutex
	db     *bolt.DB
	info   os.FileInfo // which file db is
	broken bool        // bbolt broke on it: its locks may be held for ever
}

// openStateFile opens the state.db in dir for writing. mark is told before
// bbolt touches the file, and its result is called afterwards.
func openStateFile(dir string, mark func(name string) (done func(), err error)) (*stateFile, error) {
	path := filepath.Join(dir, stateName)
	db, err := openMarked(path, false, stateMap, mark)
	if err != nil {
		return nil, err
	}
	db.AllocSize = stateStep
	info, err := os.Stat(path)
	if err != nil {
		return nil, errors.Join(err, closeBolt(db))
	}
	return &stateFile{path: path, db: db, info: info}, nil
}

// write commits a change.
func (f *stateFile) write(c *change) (int64, error) { return f.update(c.put) }

// putValue commits one of the small values of others.
func (f *stateFile) putValue(key string, v []byte) error {
	_, err := f.update((&change{values: map[string][]byte{key: v}}).put)
	return err
}

// update commits what fn does. The file is looked through before: bbolt would
// not survive each kind of damage. With an error that isBroken the file is of
// no use any more.
func (f *stateFile) update(fn func(tx *bolt.Tx) error) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return 0, fmt.Errorf("%s: %w", f.path, errBroken)
	}
	if err := f.same(); err != nil {
		return 0, err
	}
	if err := checkBolt(f.path); err != nil {
		return 0, err
	}
	written, err := update(f.db, func(tx *bolt.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return putSum(tx)
	})
	if errors.Is(err, errBroken) {
		f.broken = true
	}
	if err == nil {
		err = f.same()
	}
	return written, err
}

// same fails if another file, or none, stands under state.db's name.
func (f *stateFile) same() error { return sameFile(f.path, f.info) }

// sameFile fails with errGone if path does not name the file that was opened.
func sameFile(path string, was os.FileInfo) error {
	info, err := os.Stat(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err != nil || !os.SameFile(info, was) {
		return fmt.Errorf("%s was %w", path, errGone)
	}
	return nil
}

// swap goes on with another file.
func (f *stateFile) swap(next *stateFile) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.broken {
		_ = closeBolt(f.db) // nothing in it is needed any more
	}
	f.db, f.info, f.broken = next.db, next.info, false
}

func (f *stateFile) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return nil
	}
	return closeBolt(f.db)
}

func stateBuckets() []string {
	return []string{bucketStreams, bucketBoots, bucketClocks, bucketCursors, bucketGaps, bucketSegments, bucketValues}
}

// createStateFile makes a state.db at path with all that c says in it. The
// caller gives it its name when it is whole: a power cut during bbolt's
// initialisation leaves a file that does not open.
func createStateFile(path string, c *change) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var db *bolt.DB
	err := guard(func() (err error) {
		db, err = bolt.Open(path, fileMode, boltOptions(false, stateMap))
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
		if err := tx.Bucket([]byte(bucketMeta)).Put([]byte(keyVersion), []byte{stateVersion}); err != nil {
			return err
		}
		return errors.Join(c.put(tx), putSum(tx))
	})
	if errors.Is(err, errBroken) {
		return err
	}
	return errors.Join(err, closeBolt(db), fillUp(path, stateRoom))
}

// fillUp writes zeroes behind the end of a file: room that is really there.
func fillUp(path string, room int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, room))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// installState makes a new state.db with all that c says and puts it in the
// place of the one that is there, which is kept beside under the name aside
// ("": there is none). A crash at any moment finds the one or the other.
func installState(dir, aside string, c *change) error {
	path := filepath.Join(dir, stateName)
	tmp := path + tmpSuffix
	if err := createStateFile(tmp, c); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("create %s: %w", path, err)
	}
	if aside != "" {
		if err := os.Link(path, aside); err != nil && !errors.Is(err, os.ErrNotExist) {
			// A file system without links: then there is a moment without state.db.
			if err := os.Rename(path, aside); err != nil {
				return fmt.Errorf("set %s aside: %w", path, err)
			}
		}
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return syncDir(dir)
}
