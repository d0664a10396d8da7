package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

const (
	pageSize = 4096 // fixed, so that a card opens on a machine with larger pages
	fileMode = 0o600
	dirMode  = 0o700
)

// errBroken: bbolt panicked or faulted on a file. Its locks may be held for
// ever, so that the bolt.DB must be left alone from then on: not even closed.
var errBroken = errors.New("bbolt broke on a damaged file")

// guard calls fn and turns a panic in it, or a fault on a mapped page that
// cannot be read (a short file, a bad block), into an error.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errBroken, r)
		}
	}()
	return fn()
}

// boltOptions of state.db and of reading. The freelist is synced: without it,
// opening a file for writing has bbolt check the tree in a goroutine of its
// own, whose panic nobody can catch. Segments, which are never opened for
// writing again, go without (fillSegment).
func boltOptions(readOnly bool, mapSize int64) *bolt.Options {
	return &bolt.Options{
		Timeout:         time.Second,
		FreelistType:    bolt.FreelistMapType,
		PageSize:        pageSize,
		InitialMmapSize: int(mapSize),
		ReadOnly:        readOnly,
		NoStatistics:    true,
	}
}

// openBolt verifies a file's structure and opens it.
func openBolt(path string, readOnly bool, mapSize int64) (*bolt.DB, error) {
	return openMarked(path, readOnly, mapSize, func(string) (func(), error) { return func() {}, nil })
}

// openMarked is openBolt with a mark that stands while bbolt looks at the
// file, and only then: a file that is found marked has passed checkBolt.
func openMarked(path string, readOnly bool, mapSize int64, mark func(name string) (done func(), err error)) (db *bolt.DB, err error) {
	if err := checkBolt(path); err != nil {
		return nil, err
	}
	done, err := mark(filepath.Base(path))
	if err != nil {
		return nil, err
	}
	defer done()
	err = guard(func() error {
		db, err = bolt.Open(path, fileMode, boltOptions(readOnly, mapSize))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

// closeBolt closes db, if there is one and no fault forbids it.
func closeBolt(db *bolt.DB) error {
	if db == nil {
		return nil
	}
	return guard(db.Close)
}

// update runs fn in a transaction and commits it. It returns how many bytes
// bbolt wrote.
func update(db *bolt.DB, fn func(tx *bolt.Tx) error) (written int64, err error) {
	err = guard(func() error {
		tx, err := db.Begin(true)
		if err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			_ = tx.Rollback() // err says more
			return err
		}
		if err := commit(tx); err != nil {
			return err
		}
		stats := tx.Stats()
		written = stats.GetPageAlloc() + pageSize // and the meta page
		return nil
	})
	return written, err
}

// commit commits tx, behind the fence if its file has one.
func commit(tx *bolt.Tx) error {
	if f, ok := tx.DB().Logger().(*fence); ok {
		return f.commit(tx)
	}
	return tx.Commit()
}

// inUse returns how many bytes of the file hold pages; the rest is room to
// grow.
func inUse(db *bolt.DB) (size int64) {
	_ = view(db, func(tx *bolt.Tx) error { // on an error: 0
		size = tx.Size()
		return nil
	})
	return size
}

// view runs fn in a read transaction.
func view(db *bolt.DB, fn func(tx *bolt.Tx) error) error {
	return guard(func() error { return db.View(fn) })
}

// makeDir makes the directory, if need be, and has its name outlive a power
// cut: what is synced in a directory that is gone is gone, too. The name is
// synced at each start, because the one that made it may have been killed
// before it was.
func makeDir(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	highest := dir // of those that are made
	for {
		if _, err := os.Stat(filepath.Dir(highest)); err == nil || filepath.Dir(highest) == highest {
			break
		}
		highest = filepath.Dir(highest)
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	for d := dir; ; d = filepath.Dir(d) {
		_ = syncDir(filepath.Dir(d)) // one that may not be opened is not ours: it was there before
		if d == highest {
			return nil
		}
	}
}

// syncDir makes what happened to the names in dir durable.
func syncDir(dir string) error { return syncFile(dir) }

// syncFile makes the content of a file durable, whoever wrote it.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// isMissing tells whether a file that should be there is not.
func isMissing(err error) bool { return errors.Is(err, os.ErrNotExist) }

// isDamage tells whether err says that a file's content is bad, rather than
// that the disk, the rights or the room are.
func isDamage(err error) bool {
	var pathError *os.PathError
	switch {
	case errors.Is(err, errBroken), errors.Is(err, errChunkDamaged), errors.Is(err, errChunkVersion),
		errors.Is(err, errStructure), errors.Is(err, errFormat), errors.Is(err, ErrVersion):
		return true
	case errors.As(err, &pathError):
		return false
	}
	return errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrChecksum) || errors.Is(err, berrors.ErrVersionMismatch)
}
