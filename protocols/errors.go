package protocols

import "errors"

// ErrorKind is what a failure on the way to a device means for the one who
// has to go on. It is decided once, where the wire is known.
type ErrorKind uint8

// The kinds of failure.
const (
	// KindNotConnected: there is no connection, or it broke. The bus must be
	// closed and connected again.
	KindNotConnected ErrorKind = iota + 1
	// KindTimeout: no answer in time. The connection can be used further.
	KindTimeout
	// KindRefused: the device answered, and said no (a Modbus exception, an
	// OPC UA status code).
	KindRefused
	// KindMalformed: an answer that breaks the protocol.
	KindMalformed
	// KindBadAddress: the request cannot be made: the configuration is wrong.
	KindBadAddress
	// KindUntrusted: the other side's identity could not be verified, or it
	// refused ours (certificate, user, password). Trying again soon is useless.
	KindUntrusted
)

// Error is a failure on the way to a device, in words for people: Error()
// names the endpoint, what was asked, what came back, and the next thing to
// check.
type Error struct {
	Kind   ErrorKind
	Reason Reason // for the tags that it made bad
	Text   string // what happened and what to check; no secrets
	Err    error  // the cause, if there is one
	// Alike is what happened, without what was asked for: where a device does
	// not answer at all, failures with the same are one. Empty: the Text is
	// compared.
	Alike string
}

func (e *Error) Error() string { return e.Text }

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of err, or 0 where it has none.
func KindOf(err error) ErrorKind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return 0
}

// ReasonOf returns the reason that err gives for the tags it made bad.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok && e.Reason != "" {
		return e.Reason
	}
	return Offline
}

// AlikeOf returns what err has in common with the other failures of a device
// that does not answer at all.
func AlikeOf(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Alike != "" {
		return e.Alike
	}
	return err.Error()
}

// FieldError is a mistake in the configuration of one device or tag.
type FieldError struct {
	Tag   int    // index into Device.Tags; -1: the device itself
	Field string // the key or column that is wrong, such as "address"
	Text  string // what was expected, and a suggestion
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Text }
