package tail

import (
	"strings"

	"millrace/protocols"
)

// Filter says what is shown. Empty fields let everything through.
type Filter struct {
	Group                string // one group, by its name
	Gateway, Device, Tag string // globs: * is any text, ? any character
	Format               string // FormatJSON or FormatSparkplug; empty: both
}

// glob is a glob of an option; empty: everything matches.
func glob(pattern, text string) bool { return pattern == "" || protocols.MatchGlob(pattern, text) }

// node says whether a gateway is wanted.
func (f *Filter) node(group, gateway string) bool {
	return (f.Group == "" || f.Group == group) && glob(f.Gateway, gateway)
}

// event says whether e is shown, and takes the readings out that are not
// wanted.
func (f *Filter) event(e *Event) bool {
	switch {
	case f.Format != "" && e.Format != f.Format:
		return false
	case e.Kind == KindHost:
		return f.Tag == ""
	case e.Gateway == "":
		return f.Group == "" && f.Gateway == "" && f.Device == "" && f.Tag == ""
	case !f.node(e.Group, e.Gateway), e.Device != "" && !glob(f.Device, e.Device):
		return false
	case f.Tag == "":
		return true
	}
	all := e.Readings
	e.Readings = nil
	for i := range all {
		if glob(f.Tag, all[i].Tag) {
			e.Readings = append(e.Readings, all[i])
		}
	}
	e.dropped = len(all) - len(e.Readings)
	return len(e.Readings) > 0
}

// Topics returns the filters to subscribe to so that what f shows arrives, and
// all that is needed to see what is missing of it. Root is the first level or
// levels of the format json.
func (f Filter) Topics(root string) []string {
	group, gateway := "+", "+"
	if f.Group != "" {
		group = f.Group
	}
	if f.Gateway != "" && !strings.ContainsAny(f.Gateway, "*?") {
		gateway = f.Gateway
	}
	var all []string
	if f.Format != FormatSparkplug {
		all = append(all, shorten(root+"/"+group+"/"+gateway))
	}
	if f.Format != FormatJSON {
		if group == "+" && gateway == "+" {
			return append(all, "spBv1.0/#")
		}
		all = append(all, shorten("spBv1.0/"+group+"/+/"+gateway), "spBv1.0/STATE/+")
	}
	return all
}

// shorten makes a filter of a path below which everything is wanted.
func shorten(path string) string {
	for strings.HasSuffix(path, "/+") {
		path = strings.TrimSuffix(path, "/+")
	}
	return path + "/#"
}

// covered says that the filters let everything below a topic through. A level
// "*" stands for any level.
func covered(filters, levels []string) bool {
	for _, f := range filters {
		if covers(strings.Split(f, "/"), levels) {
			return true
		}
	}
	return false
}

func covers(filter, levels []string) bool {
	for i, want := range filter {
		switch {
		case want == "#":
			return true
		case i >= len(levels):
			return false
		case want != "+" && want != levels[i]:
			return false
		}
	}
	return false
}
