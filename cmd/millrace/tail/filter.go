package tail

import (
	"regexp"
	"strings"
)

// Filter says what is shown. Empty fields let everything through.
type Filter struct {
	Group                string // one group, by its name
	Gateway, Device, Tag string // globs: * is any text, ? any character
	Format               string // FormatJSON or FormatSparkplug; empty: both
}

// filter is a Filter, ready for use.
type filter struct {
	group, format        string
	gateway, device, tag *regexp.Regexp // nil: all
}

func (f Filter) compile() filter {
	return filter{f.Group, f.Format, glob(f.Gateway), glob(f.Device), glob(f.Tag)}
}

// glob returns what matches the whole of a text; nil: everything does.
func glob(pattern string) *regexp.Regexp {
	if pattern == "" || pattern == "*" {
		return nil
	}
	expr := regexp.QuoteMeta(strings.ToValidUTF8(pattern, "\ufffd"))
	expr = strings.ReplaceAll(strings.ReplaceAll(expr, `\*`, `.*`), `\?`, `.`)
	return regexp.MustCompile(`(?s)^(?:` + expr + `)$`)
}

func matches(r *regexp.Regexp, s string) bool { return r == nil || r.MatchString(s) }

// node says whether a gateway is wanted.
func (f *filter) node(group, gateway string) bool {
	return (f.group == "" || f.group == group) && matches(f.gateway, gateway)
}

// event says whether e is shown, and takes the readings out that are not
// wanted.
func (f *filter) event(e *Event) bool {
	switch {
	case f.format != "" && e.Format != f.format:
		return false
	case e.Kind == KindHost:
		return f.tag == nil
	case e.Gateway == "":
		return f.group == "" && f.gateway == nil && f.device == nil && f.tag == nil
	case !f.node(e.Group, e.Gateway), e.Device != "" && !matches(f.device, e.Device):
		return false
	case f.tag == nil:
		return true
	}
	all := e.Readings
	e.Readings = nil
	for i := range all {
		if f.tag.MatchString(all[i].Tag) {
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
