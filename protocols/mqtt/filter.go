package mqtt

import (
	"errors"
	"slices"

	"millrace/protocols"
)

// Filter says what of all readings an uplink gets. The zero Filter is
// everything.
type Filter struct {
	Devices []string // globs of device ids; empty: all
	Tags    []string // globs of tags' names, or of DEVICE/NAME; empty: all
}

// errNothing says that an uplink gets nothing of a batch.
var errNothing = errors.New("nothing of it passes the filter")

// Device says whether an uplink gets anything of a device.
func (f *Filter) Device(id string) bool {
	return len(f.Devices) == 0 || slices.ContainsFunc(f.Devices, func(g string) bool { return protocols.MatchGlob(g, id) })
}

// Tag says whether an uplink gets a tag of a device, which it gets something
// of.
func (f *Filter) Tag(device, name string) bool {
	return len(f.Tags) == 0 || slices.ContainsFunc(f.Tags, func(g string) bool {
		return protocols.MatchGlob(g, name) || protocols.MatchGlob(g, device+"/"+name)
	})
}

// filtered is a schema as an uplink gets it.
type filtered struct {
	schema *protocols.Schema // of the tags that pass
	index  []int32           // of each tag of the whole schema among them; -1: it does not pass. nil: all do
}

// schema applies the filter to s.
func (f *Filter) schema(s *protocols.Schema) filtered {
	if !f.Device(s.Device) {
		return filtered{schema: &protocols.Schema{Device: s.Device}, index: slices.Repeat([]int32{-1}, len(s.Tags))}
	}
	out := filtered{schema: &protocols.Schema{Device: s.Device}, index: make([]int32, len(s.Tags))}
	for i, t := range s.Tags {
		out.index[i] = -1
		if f.Tag(s.Device, t.Name) {
			out.index[i] = int32(len(out.schema.Tags))
			out.schema.Tags = append(out.schema.Tags, t)
		}
	}
	if len(out.schema.Tags) == len(s.Tags) {
		return filtered{schema: s}
	}
	return out
}

// nothing says that no tag passes, so that a batch need not be decoded.
func (f *filtered) nothing() bool { return f.index != nil && len(f.schema.Tags) == 0 }

// apply leaves of a batch, which was decoded with the whole schema, what
// passes. It is false if that is nothing.
func (f *filtered) apply(b *protocols.Batch) bool {
	if f.index == nil {
		return true
	}
	kept := b.Readings[:0]
	for i := range b.Readings {
		r := &b.Readings[i]
		if to := f.index[r.Tag]; to >= 0 {
			r.Tag = to
			kept = append(kept, *r)
		}
	}
	b.Readings, b.Schema = kept, f.schema
	return len(kept) > 0
}

// Good says how many good readings of a record pass the filter, and how many
// do not.
func (f *Filter) Good(s *protocols.Schema, record []byte) (pass, rest int) {
	all := protocols.GoodReadings(record)
	passes := f.schema(s)
	if passes.index == nil {
		return all, 0
	}
	var b protocols.Batch
	if passes.nothing() || protocols.DecodeBatch(&b, record, s) != nil {
		return 0, all
	}
	_, n := passes.applyCounted(&b)
	return n.sent, n.filtered
}

// applyCounted is apply, and says how many good readings pass.
func (f *filtered) applyCounted(b *protocols.Batch) (some bool, n passed) {
	all := b.Good()
	if f.index == nil {
		return true, passed{sent: all}
	}
	some = f.apply(b)
	n.sent = b.Good()
	n.filtered = all - n.sent
	return some, n
}
