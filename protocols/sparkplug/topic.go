package sparkplug

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Namespace is the first level of all topics.
const Namespace = "spBv1.0"

// The types of messages, as they stand in topics (Sparkplug 3.0, 4.1.3).
const (
	NBIRTH = "NBIRTH"
	NDEATH = "NDEATH"
	NDATA  = "NDATA"
	NCMD   = "NCMD"
	DBIRTH = "DBIRTH"
	DDEATH = "DDEATH"
	DDATA  = "DDATA"
	DCMD   = "DCMD"
	STATE  = "STATE"
)

// Topic is a topic of Sparkplug, taken apart. A STATE has a Host alone.
type Topic struct {
	Type, Group, Node, Device, Host string
}

// ParseTopic takes a topic apart. It is false if that is none of Sparkplug B's.
func ParseTopic(topic string) (Topic, bool) {
	levels := strings.Split(topic, "/")
	if slices.Contains(levels, "") || len(levels) < 3 || levels[0] != Namespace {
		return Topic{}, false
	}
	if levels[1] == STATE && len(levels) == 3 {
		return Topic{Type: STATE, Host: levels[2]}, true
	}
	if len(levels) < 4 {
		return Topic{}, false
	}
	t := Topic{Group: levels[1], Type: levels[2], Node: levels[3]}
	switch t.Type {
	case NBIRTH, NDEATH, NDATA, NCMD:
		return t, len(levels) == 4
	case DBIRTH, DDEATH, DDATA, DCMD:
		if len(levels) != 5 {
			return Topic{}, false
		}
		t.Device = levels[4]
		return t, true
	}
	return Topic{}, false
}

func (t Topic) String() string {
	if t.Type == STATE {
		return Namespace + "/" + STATE + "/" + t.Host
	}
	s := Namespace + "/" + t.Group + "/" + t.Type + "/" + t.Node
	if t.Device != "" {
		s += "/" + t.Device
	}
	return s
}

// CheckID says what is wrong with the id of a group, a node, a device or a
// host (Sparkplug 3.0, 4.1.1 and 4.1.4).
func CheckID(id string) error {
	switch {
	case id == "":
		return errors.New("is empty")
	case !utf8.ValidString(id):
		return errors.New("is not UTF-8")
	case strings.ContainsAny(id, "+/#\x00"):
		return fmt.Errorf("%q holds one of the characters + / #, which Sparkplug and MQTT do not allow", id)
	}
	return nil
}
