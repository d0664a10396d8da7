// Package mqtt forwards batches of readings to an MQTT broker: one session
// at a time, with an in-flight window, a last will, and the messages of one of
// two formats: JSON (docs/platform.md) at QoS 1, and Sparkplug B
// (docs/sparkplug.md) as an edge node, at QoS 0, where pings confirm what has
// arrived (barrier). Of several brokers the first that takes us on is used.
//
// An [Uplink] keeps nothing that must not be lost. What it was given and has
// not reported as acknowledged when a session ends is to be given to it
// again in the next one; whoever calls it (the buffer's forwarder) does so.
// It also never reconnects by itself: when a session ends it says so, and
// Connect starts the next one.
//
// In the JSON messages, integers keep all their digits, and floats have the
// fewest that give the same float32 or float64 when read back (21, 21.5,
// 1e-7). Bytes that are not UTF-8 become U+FFFD in strings. A bytes value is
// a string in standard base64, a time one in RFC 3339 with nanoseconds, in
// UTC. An array with one NaN in it is bad as a whole.
//
// The library beneath is paho.mqtt.golang 1.5. Its faults that this package
// works around are named where that is done.
package mqtt
