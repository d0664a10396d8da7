// Package modbus reads devices that speak Modbus TCP.
//
// A [Driver] turns the tags of a device into a read plan (plan.go): as few
// requests as the protocol's limits and the device's options allow. A bus
// (bus.go) holds the one connection that all units behind an endpoint share;
// its transport (tcp.go) sends one request at a time and stays in step with
// the device whatever comes back late, cut or glued. A scan (scan.go) runs
// the plan and decodes the answers (decode.go) straight into the readings.
//
// It is built on github.com/goburrow/modbus: its client and packager, with a
// transport of our own, because the library's own one never recovers from a
// time-out or a closed connection and knows no contexts.
package modbus
