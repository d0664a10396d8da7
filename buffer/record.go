package buffer

import (
	"context"
	"errors"
)

// Record is one batch of readings, as the buffer sees it.
type Record struct {
	Stream   string // id of the agent's run; set by the buffer
	Seq      uint64 // 1, 2, 3… without holes in its stream; set by Append
	Time     int64  // Unix ms when the readings arrived; corrected by what became known of the clock since
	Schema   uint64 // what PutSchema was called with
	Readings int    // how many readings Data holds
	Data     []byte // opaque; valid only during the call that hands it over

	// ClockUnset: the clock was never set in the boot that the record is of,
	// so that Time is not to be trusted. Set by the buffer.
	ClockUnset bool
}

// Gap says that the records From to To of a stream will never come.
type Gap struct {
	Stream   string `json:"stream"`
	From     uint64 `json:"from"`     // the first seq that is missing
	To       uint64 `json:"to"`       // the last
	Readings uint64 `json:"readings"` // how many they held; with ReasonDamaged taken from what is beside them where the file does not tell; 0: not known
	Reason   string `json:"reason"`   // one of the Reason constants
	Oldest   int64  `json:"oldest"`   // Unix ms of the oldest missing record; 0: not known
	Newest   int64  `json:"newest"`   // Unix ms of the newest missing record; 0: not known
}

// Why records were given up: the reasons of a Gap.
const (
	// ReasonFull: the files reached Options.MaxSize.
	ReasonFull = "buffer_full"
	// ReasonOld: the records were older than Options.MaxAge.
	ReasonOld = "too_old"
	// ReasonDamaged: the file that held them could not be read any more.
	ReasonDamaged = "damaged"
	// ReasonDisk: the disk did not take them in time, and the memory was full.
	ReasonDisk = "disk_error"
	// ReasonCrash: only memory held them when the agent died, and they were
	// not found there.
	ReasonCrash = "crash"
)

// Errors of the buffer's methods.
var (
	// ErrClosed: the buffer was closed.
	ErrClosed = errors.New("the buffer is closed")
	// ErrUnknownSchema: a record names a schema that PutSchema never got.
	ErrUnknownSchema = errors.New("unknown schema")
	// ErrUnknownUplink: the uplink is not one of those the buffer was told of.
	ErrUnknownUplink = errors.New("unknown uplink")
	// ErrTooLarge: a record or a schema is larger than the buffer takes.
	ErrTooLarge = errors.New("too large for the buffer")
	// ErrStreamUsed: Options.Stream is the id of an earlier run.
	ErrStreamUsed = errors.New("every run needs a stream id of its own")
	// ErrInUse: another process uses the directory.
	ErrInUse = errors.New("another millrace is using this buffer")
)

// Publisher is the far side of an uplink. Its methods are called by one
// goroutine.
type Publisher interface {
	// Connect makes a session. acked is called, in order, from one goroutine,
	// with the token of every item that was taken for good by the far side
	// (an acknowledgement of a token acknowledges all before it). lost is
	// closed when the session ends. ctx is for the making of the session, not
	// for its life.
	Connect(ctx context.Context, acked func(token uint64)) (lost <-chan struct{}, err error)
	// Send hands over one record. It blocks while the in-flight window is
	// full, and fails only if the session is gone or ctx ended.
	Send(ctx context.Context, token uint64, r Record) error
	// SendGap hands over a gap notice, under the same conditions as Send.
	SendGap(ctx context.Context, token uint64, g Gap) error
	// Disconnect ends the session; what is not acknowledged will be sent
	// again. It is called after every Connect that succeeded, also when lost
	// is closed.
	Disconnect()
}

// place is a place in the order of all records: streams by their ordinal,
// records by their seq in it.
type place struct {
	ord uint64
	seq uint64
}

func (p place) before(q place) bool {
	return p.ord < q.ord || p.ord == q.ord && p.seq < q.seq
}
