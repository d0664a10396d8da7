package buffer

import (
	"fmt"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
)

// fence keeps bbolt away from a file after a commit to it failed. Without a
// synced list of free pages bbolt 1.5 then looks through the whole file for
// them, in a goroutine of its own: one damaged page, or one that the disk
// cannot read any more, and the process dies, whatever we recover from. But
// before it does that it logs what failed. So the fence is the logger of the
// segment that is written, and ends the commit from there; the transaction is
// then rolled back the other way, which does not touch the file. Nothing is
// written to it any more after that.
type fence struct {
	up atomic.Bool // a commit is under way
}

// commitFault is what the fence panics with.
type commitFault struct{ err error }

// commit commits tx.
func (f *fence) commit(tx *bolt.Tx) (err error) {
	defer func() {
		f.up.Store(false)
		fault := recover()
		if stopped, ok := fault.(commitFault); ok {
			_ = tx.Rollback() // it frees the locks
			err = stopped.err
		} else if fault != nil {
			panic(fault) //nolint:forbidigo // it is not ours: guard takes it
		}
	}()
	f.up.Store(true)
	return tx.Commit()
}

// Errorf is called by bbolt before it acts on an error.
func (f *fence) Errorf(format string, v ...any) {
	if !f.up.Load() {
		return
	}
	for _, value := range v {
		if err, ok := value.(error); ok {
			panic(commitFault{err}) //nolint:forbidigo // commit recovers from it
		}
	}
	panic(commitFault{fmt.Errorf(format, v...)}) //nolint:forbidigo // the same
}

// Error is the same, of an error without a format.
func (f *fence) Error(v ...any) { f.Errorf("%s", fmt.Sprint(v...)) }

// The rest is not worth a line.

// Debug does nothing.
func (*fence) Debug(...any) {}

// Debugf does nothing.
func (*fence) Debugf(string, ...any) {}

// Info does nothing.
func (*fence) Info(...any) {}

// Infof does nothing.
func (*fence) Infof(string, ...any) {}

// Warning does nothing.
func (*fence) Warning(...any) {}

// Warningf does nothing.
func (*fence) Warningf(string, ...any) {}

// Fatal panics, for guard: bbolt does not end our process.
func (*fence) Fatal(v ...any) { panic(fmt.Sprint(v...)) } //nolint:forbidigo // see above

// Fatalf is Fatal.
func (*fence) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) } //nolint:forbidigo // see above

// Panic is Fatal.
func (*fence) Panic(v ...any) { panic(fmt.Sprint(v...)) } //nolint:forbidigo // see above

// Panicf is Fatal.
func (*fence) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) } //nolint:forbidigo // see above
