package sparkplug

import (
	"encoding/json"
	"errors"
	"fmt"
)

// State is what a host application says of itself on its STATE topic
// (Sparkplug 3.0, 6.4.24).
type State struct {
	Online    bool
	Timestamp int64 // ms since 1970 UTC
}

// ParseState reads the payload of a STATE. Both fields must be there, and of
// their types.
func ParseState(payload []byte) (State, error) {
	// Into a map: encoding/json takes "Online" for "online" in a struct.
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(payload, &fields); err != nil {
		return State{}, fmt.Errorf("not a state of a host application: %w", err)
	}
	var online *bool
	var timestamp *int64
	if err := errors.Join(json.Unmarshal(orNull(fields["online"]), &online), json.Unmarshal(orNull(fields["timestamp"]), &timestamp)); err != nil {
		return State{}, fmt.Errorf("not a state of a host application: %w", err)
	}
	if online == nil || timestamp == nil {
		return State{}, errors.New("not a state of a host application: online or timestamp is missing")
	}
	return State{Online: *online, Timestamp: *timestamp}, nil
}

func orNull(m json.RawMessage) json.RawMessage {
	if m == nil {
		return json.RawMessage("null")
	}
	return m
}

// Host follows the primary host application, on one broker and over one
// connection after the other.
type Host struct {
	seen   bool
	last   int64 // the newest timestamp that was taken
	online bool
}

// Take takes in a state. One that is older than what was taken before is a
// late word of an earlier session of the host, and passed over: then it is
// false.
func (h *Host) Take(s State) bool {
	if h.seen && s.Timestamp < h.last {
		return false
	}
	h.seen, h.last, h.online = true, s.Timestamp, s.Online
	return true
}

// Online says that the host is known to be online.
func (h *Host) Online() bool { return h.online }

// Known says that the host has said something.
func (h *Host) Known() bool { return h.seen }
