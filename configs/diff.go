package configs

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"

	"millrace/protocols"
)

// Changes is how a configuration differs from the one before it.
type Changes struct {
	Devices Names // by id
	Uplinks Names // by name

	Gateway bool
	Buffer  bool
	Console bool
}

// Names sorts the names of one kind of part by what happened to them. The
// order is that of the new configuration; of Removed, that of the old one.
type Names struct {
	Added, Removed, Changed, Same []string
}

// None says that the parts of this kind are as they were.
func (n Names) None() bool { return len(n.Added)+len(n.Removed)+len(n.Changed) == 0 }

// None says that nothing changed.
func (c Changes) None() bool {
	return c.Devices.None() && c.Uplinks.None() && !c.Gateway && !c.Buffer && !c.Console
}

// Diff compares two configurations. A device or uplink whose meaning is the
// same is Same, wherever it stands in the file and however it is written.
func Diff(before, after *Config) Changes {
	return Changes{
		Devices: diffNames(deviceHashes(before), deviceHashes(after)),
		Uplinks: diffNames(uplinkHashes(before), uplinkHashes(after)),
		Gateway: before.Gateway.ID != after.Gateway.ID || before.Gateway.Group != after.Gateway.Group ||
			!maps.Equal(before.Gateway.Labels, after.Gateway.Labels),
		Buffer:  before.Buffer != after.Buffer,
		Console: before.Console != after.Console,
	}
}

// named is the name of a part and something that differs if the part does.
type named[T comparable] struct {
	name string
	what T
}

func deviceHashes(c *Config) []named[string] {
	out := make([]named[string], 0, len(c.Devices))
	for _, d := range c.Devices {
		out = append(out, named[string]{d.ID, Hash(d)})
	}
	return out
}

func uplinkHashes(c *Config) []named[Uplink] {
	out := make([]named[Uplink], 0, len(c.Uplinks))
	for _, u := range c.Uplinks {
		out = append(out, named[Uplink]{u.Name, u})
	}
	return out
}

func diffNames[T comparable](before, after []named[T]) Names {
	old := make(map[string]T, len(before))
	for _, b := range before {
		old[b.name] = b.what
	}
	var n Names
	for _, a := range after {
		what, ok := old[a.name]
		switch {
		case !ok:
			n.Added = append(n.Added, a.name)
		case what != a.what:
			n.Changed = append(n.Changed, a.name)
		default:
			n.Same = append(n.Same, a.name)
		}
		delete(old, a.name)
	}
	for _, b := range before {
		if _, left := old[b.name]; left {
			n.Removed = append(n.Removed, b.name)
		}
	}
	return n
}

// Hash returns a text that differs between two devices if anything differs
// that matters to reading them: their keys and their tags, in order, but not
// where in the files these stand. It is for comparing, within one version of
// Millrace.
func Hash(d *protocols.Device) string {
	h := sha256.New()
	enc := json.NewEncoder(h)
	device := *d
	device.Tags = nil
	err := enc.Encode(device)
	for i := range d.Tags {
		t := d.Tags[i]
		t.Source = protocols.Position{}
		if err == nil {
			err = enc.Encode(t)
		}
	}
	if err != nil {
		// Only a NaN or an infinity cannot be encoded, and a configuration
		// holds neither. Such a device counts as changed.
		return "not comparable: " + err.Error()
	}
	return hex.EncodeToString(h.Sum(nil))
}
