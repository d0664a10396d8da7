// Package opcuatest holds what the OPC UA driver is tried against: Server, a
// simulator for tests and the demo, and Relay, a connection that breaks on
// request.
//
// Server stands on gopcua's codec and secure channel only. gopcua's own server
// has races between setting and reading values, dead-locks when a subscriber
// goes, keeps only the last value of an item, takes ten seconds to close, and
// brings four megabytes of standard node set into the binary.
package opcuatest
