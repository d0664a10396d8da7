// Package sparkplug makes and reads the messages of Sparkplug B 3.0 (Eclipse
// Sparkplug Specification, version 3.0.0), as an edge node with devices. It is
// pure: no network, no clock, no lock. What is sent, and when, is decided by
// its caller; what a message holds, and which messages must come before it,
// is decided here.
//
//   - Payload and its parts are the wire format, both ways (payload.go,
//     decode.go). Presence counts: a zero that is meant is written.
//   - Node is one edge node: its names, aliases, data types, template
//     definitions and sequence number (node.go), its births (birth.go) and its
//     data (data.go).
//   - Command and Host read what hosts send (command.go, host.go).
package sparkplug
