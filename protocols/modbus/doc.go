// Package modbus reads devices that speak Modbus: TCP, RTU on a serial line,
// and RTU over TCP.
//
// A [Driver] turns the tags of a device into a read plan (plan.go): as few
// requests as the protocol's limits, the device's options and what was learnt
// of the unit (learn.go) allow. A bus (bus.go) holds the one connection that
// all units behind an endpoint share; its transport (tcp.go, rtu.go) carries
// the requests, and takes for an answer only what cannot be another one,
// whatever comes back late, cut or glued. A scan (scan.go) runs the plan and
// decodes the answers (decode.go) straight into the readings.
//
// Of github.com/goburrow/modbus it uses the packagers, which make the frames.
// The library's client and transports are not used: they never recover from a
// time-out or a closed connection, and know no contexts.
package modbus
