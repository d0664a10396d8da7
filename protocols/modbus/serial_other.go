//go:build !linux

package modbus

import "errors"

// serialError is why a serial port cannot be used, in words for people.
type serialError struct {
	text string
	err  error
}

func (e *serialError) Error() string { return e.text }

func (e *serialError) Unwrap() error { return e.err }

func openPort(string, line) (port, error) {
	return nil, &serialError{text: "serial lines need Linux", err: errors.ErrUnsupported}
}
