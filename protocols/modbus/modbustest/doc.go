// Package modbustest is a simulated Modbus TCP device, with as many units as
// are wanted behind one address, for the demo, the benchmarks and tests.
//
// Registers hold memory or functions of time. Every answer can be spoilt in
// the ways that real devices and gateways spoil them: see [Fault].
package modbustest
