// Package mqtt forwards batches of readings to an MQTT broker: one session
// at a time, with QoS 1, an in-flight window, a last will, and the JSON
// messages of docs/contract.md.
//
// An [Uplink] keeps nothing that must not be lost. What it was given and has
// not reported as acknowledged when a session ends is to be given to it
// again in the next one; whoever calls it (the buffer's forwarder) does so.
// It also never reconnects by itself: when a session ends it says so, and
// Connect starts the next one.
//
// The library beneath is paho.mqtt.golang 1.5. Its faults that this package
// works around are named where that is done.
package mqtt
