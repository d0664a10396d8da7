// Package tail makes what arrives at an MQTT broker readable: the messages of
// the contract's format json, and those of Sparkplug B. It does no I/O and has
// no clock: Tail takes messages and returns what they say (Event), which is
// then shown to people (Printer) or to programs (Event.AppendJSON).
//
// Everything that it is given was written by strangers. Nothing of it reaches
// a terminal that a terminal would obey, nothing of it makes it panic, and
// what is kept is bounded.
package tail
