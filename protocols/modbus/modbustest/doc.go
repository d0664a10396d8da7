// Package modbustest is simulated Modbus devices, for the demo, the
// benchmarks and tests: as many units as are wanted, behind a port of Modbus
// TCP, a port that carries RTU frames, and serial lines with the pace of real
// ones.
//
// Registers hold memory or functions of time. Every answer can be spoilt in
// the ways that real devices, lines and gateways spoil them: see [Fault],
// [Limits] and [LineOptions].
package modbustest
