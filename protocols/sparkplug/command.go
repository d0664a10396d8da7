package sparkplug

import (
	"fmt"
	"math"

	"millrace/protocols"
)

// Command is one metric of a command that a host has sent to the node or to
// one of its devices.
type Command struct {
	Device string // empty: the node itself
	Metric string // its name, or what is known of it
	// Rebirth: the host asks for all births.
	Rebirth bool
	// Refused says why nothing is done, in words for people; empty: it is done,
	// or there is nothing to do.
	Refused string
}

// maxCommands bounds how many metrics of one message are looked at.
const maxCommands = 1000

// Commands reads a command (NCMD or DCMD). No metric is writable in this
// version: but for a rebirth, everything is refused. The error says that
// payload is none of Sparkplug's, or topic not the node's.
func (n *Node) Commands(topic string, payload []byte) ([]Command, error) {
	t, ok := ParseTopic(topic)
	if !ok || t.Type != NCMD && t.Type != DCMD || t.Group != n.o.Group || t.Node != n.o.ID {
		return nil, fmt.Errorf("%q is not a topic for commands to this edge node", topic)
	}
	p, err := Decode(payload)
	if err != nil {
		return nil, err
	}
	var all []Command
	for i := range p.Metrics[:min(len(p.Metrics), maxCommands)] {
		all = append(all, n.command(t.Device, &p.Metrics[i]))
	}
	return all, nil
}

func (n *Node) command(device string, m *Metric) Command {
	c := Command{Device: device, Metric: m.Name}
	if device == "" {
		if m.Name == Rebirth {
			if m.Null || !m.Value.truth() {
				return c // nobody asks for anything
			}
			c.Rebirth = true
			return c
		}
		for _, own := range n.own {
			if own.name == m.Name || m.Name == "" && m.HasAlias && own.alias == m.Alias {
				c.Metric, c.Refused = own.name, "it cannot be written"
				return c
			}
		}
		return c.unknown(m)
	}
	d := n.devices[device]
	if d == nil {
		c.Refused = "there is no such device"
		return c
	}
	for _, known := range d.metrics {
		if known.Name == m.Name || m.Name == "" && m.HasAlias && known.alias == m.Alias {
			c.Metric, c.Refused = known.Name, "it cannot be written: this version only reads"
			return c
		}
	}
	return c.unknown(m)
}

func (c Command) unknown(m *Metric) Command {
	c.Refused = "there is no such metric"
	if c.Metric == "" {
		c.Metric = fmt.Sprintf("alias %d", m.Alias)
	}
	return c
}

// truth says that v means true, whatever field a host put it in.
func (v Value) truth() bool {
	switch v.Field {
	case FieldBoolean, FieldInt, FieldLong:
		return v.Num != 0
	case FieldFloat, FieldDouble:
		f := v.float64()
		return f != 0 && !math.IsNaN(f)
	case FieldString:
		return v.Text == "true" || v.Text == "True" || v.Text == "TRUE" || v.Text == "1"
	case FieldNone, FieldBytes, FieldDataSet, FieldTemplate, FieldOther:
	}
	return false
}

// RebirthCommand returns the payload with which a host asks a node for all
// births.
func RebirthCommand(ms int64) []byte {
	body := appendVarint(nil, keyTimestamp, uint64(ms))
	body, at := open(body, keyMetric)
	body = appendText(body, keyName, Rebirth)
	body = appendVarint(body, keyMetricTime, uint64(ms))
	body, _ = appendScalar(body, Boolean, protocols.Bool(true)) // it fits
	return seal(body, at)
}
