package sparkplug

import (
	"slices"

	"millrace/protocols"
)

// slot is where a value goes: a metric of a device, or a member of a
// template.
type slot struct {
	typ      DataType  // Unknown: there was no value yet
	json     bool      // typ is String: values that are none go out as JSON
	template *template // of a TemplateType
}

// declared is the type that births say. A metric without a value yet has to
// have one as well.
func (s *slot) declared() DataType {
	if s.typ == Unknown {
		return String
	}
	return s.typ
}

// template is the definition of a structure.
type template struct {
	name    string
	alias   uint64
	members []*member
}

// member is one member of a template.
type member struct {
	name string
	slot
}

// widen makes s one that v fits. path is what a definition is named by.
func (n *Node) widen(s *slot, v protocols.Value, path string) {
	nat := natural(v)
	switch {
	case s.json:
		return
	case s.typ == TemplateType && nat == TemplateType:
		n.grow(s.template, v)
		return
	case s.typ == Unknown:
		s.typ = nat
	default:
		was := s.typ
		if s.typ = join(was, nat, v); s.typ == was {
			s.typ = Unknown // it does not fit all the same: a text with a zero in an array
		}
	}
	s.template = nil
	switch s.typ {
	case Unknown:
		s.typ, s.json = String, true
	case TemplateType:
		s.template = n.addTemplate(path)
		n.grow(s.template, v)
	}
}

// addTemplate returns the definition of that name, without members.
func (n *Node) addTemplate(path string) *template {
	name := typesFolder + path
	n.stale = true
	if i := slices.IndexFunc(n.types, func(t *template) bool { return t.name == name }); i >= 0 {
		n.types[i].members = nil
		return n.types[i]
	}
	t := &template{name: name, alias: n.alias()}
	n.types = append(n.types, t)
	return t
}

// grow makes t a definition that the object v is an instance of.
func (n *Node) grow(t *template, v protocols.Value) {
	for i := range v.Len() {
		name, value := v.Field(i)
		m := t.member(i, name)
		if m == nil {
			m = &member{name: name}
			t.members = append(t.members, m)
			n.stale = true
		}
		if value.Kind() == protocols.KindNone {
			continue
		}
		if _, ok := n.appendSlot(n.text[:0], &m.slot, value, false); !ok {
			n.widen(&m.slot, value, t.name[len(typesFolder):]+"/"+name)
			n.stale = true
		}
	}
}

// member returns the member with a name, which is likely the i-th.
func (t *template) member(i int, name string) *member {
	if i < len(t.members) && t.members[i].name == name {
		return t.members[i]
	}
	for _, m := range t.members {
		if m.name == name {
			return m
		}
	}
	return nil
}

// dropTypes forgets the definitions that no metric needs any more.
func (n *Node) dropTypes() {
	used := map[*template]bool{}
	var mark func(t *template)
	mark = func(t *template) {
		if t == nil || used[t] {
			return
		}
		used[t] = true
		for _, m := range t.members {
			mark(m.template)
		}
	}
	for _, d := range n.devices {
		for _, m := range d.metrics {
			mark(m.template)
		}
	}
	n.types = slices.DeleteFunc(n.types, func(t *template) bool { return !used[t] })
}

// appendSlot appends v as the value field of s. It is false, and nothing is
// appended, if it does not fit. In births, instances have all members, and
// their types.
func (n *Node) appendSlot(dst []byte, s *slot, v protocols.Value, birth bool) ([]byte, bool) {
	switch {
	case s.json && v.Kind() != protocols.KindString:
		begin := len(dst)
		dst, at := open(dst, keyString)
		dst = n.o.AppendJSON(dst, v)
		if !v.Finite() {
			return dst[:begin], false
		}
		return seal(dst, at), true
	case s.typ == TemplateType:
		if v.Kind() != protocols.KindObject {
			return dst, false
		}
		return n.appendInstance(dst, s.template, v, birth)
	}
	return appendScalar(dst, s.typ, v)
}

func (n *Node) appendInstance(dst []byte, t *template, v protocols.Value, birth bool) ([]byte, bool) {
	begin := len(dst)
	dst, at := open(dst, keyTemplate...)
	for i := range v.Len() {
		name, value := v.Field(i)
		m := t.member(i, name)
		if m == nil {
			return dst[:begin], false
		}
		var ok bool
		if dst, ok = n.appendMember(dst, m, value, birth); !ok {
			return dst[:begin], false
		}
	}
	if birth && v.Len() < len(t.members) {
		for _, m := range t.members {
			if !hasField(v, m.name) {
				dst, _ = n.appendMember(dst, m, protocols.Value{}, true)
			}
		}
	}
	dst = appendText(dst, keyTemplateRef, t.name)
	return seal(appendBool(dst, keyDefinition, false), at), true
}

func hasField(v protocols.Value, name string) bool {
	for i := range v.Len() {
		if have, _ := v.Field(i); have == name {
			return true
		}
	}
	return false
}

func (n *Node) appendMember(dst []byte, m *member, v protocols.Value, birth bool) ([]byte, bool) {
	dst, at := open(dst, keyMember)
	dst = appendText(dst, keyName, m.name)
	if birth {
		dst = appendVarint(dst, keyDataType, uint64(m.declared()))
	}
	ok := true
	if v.Kind() == protocols.KindNone {
		dst = appendBool(dst, keyNull, true)
	} else {
		dst, ok = n.appendSlot(dst, &m.slot, v, birth)
	}
	return seal(dst, at), ok
}

// appendDefinition appends the metric that defines t.
func (n *Node) appendDefinition(dst []byte, t *template, ms int64) []byte {
	dst, at := open(dst, keyMetric)
	dst = appendText(dst, keyName, t.name)
	dst = appendVarint(dst, keyAlias, t.alias)
	dst = appendVarint(dst, keyMetricTime, uint64(ms))
	dst = appendVarint(dst, keyDataType, uint64(TemplateType))
	dst, inner := open(dst, keyTemplate...)
	for _, m := range t.members {
		if m.template == nil {
			dst, _ = n.appendMember(dst, m, protocols.Value{}, true) // a null fits
			continue
		}
		// Which definition a member follows stands in an instance.
		dst, _ = n.appendMember(dst, m, protocols.ObjectOf(nil), true)
	}
	dst = seal(appendBool(dst, keyDefinition, true), inner)
	return seal(dst, at)
}
