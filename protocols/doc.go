// Package protocols is the vocabulary that all parts of Millrace share, and
// the contract with the field: what a device, a tag, a value and a quality
// are, what a driver must do, which kinds of error there are, and how one
// batch of readings is laid down as bytes.
//
// It does no I/O and imports only the standard library.
package protocols
