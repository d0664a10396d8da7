package configs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// key is one key of a mapping, or one column of a tag map, that is read into
// a T.
type key[T any] struct {
	name     string
	doc      string // one or two sentences for editors; what it means and its unit
	def      string // the default, as a user would write it; empty: none
	required bool
	only     string // the driver whose devices have this key; empty: all
	val      value[T]
}

// value is how the value of a key gets into its place in a T.
type value[T any] interface {
	// read puts n into t, or reports what is wrong with it.
	read(l *loader, name string, n *node, t *T)
	// schema describes what read takes.
	schema() schema
}

// table is the keys of one kind of mapping.
type table[T any] struct {
	where string // such as "a device", for messages
	keys  []key[T]
}

// read reads the mapping n into t by the table's keys, those without a value
// by their defaults. driver is the driver of the device that n describes, if
// it is one.
func (tb *table[T]) read(l *loader, n *node, t *T, driver string) {
	for i := range tb.keys {
		k := &tb.keys[i]
		if k.def != "" && n.get(k.name) == nil && k.belongs(driver) {
			k.val.read(l, k.name, &node{kind: textNode, text: k.def, raw: k.def, pos: n.pos}, t)
		}
	}
	var meant []string // by the keys that are written wrong
	for _, e := range n.entries {
		i := slices.IndexFunc(tb.keys, func(k key[T]) bool { return k.name == e.name })
		if i < 0 {
			meant = append(meant, l.unknownKey(e, tb.where, tb.names()))
			continue
		}
		tb.keys[i].readEntry(l, e, t, driver)
	}
	for i := range tb.keys {
		k := &tb.keys[i]
		if k.required && n.get(k.name) == nil && k.belongs(driver) && !slices.Contains(meant, k.name) {
			l.problem(n.pos, "%s has no %q: %s", tb.where, k.name, k.howTo())
		}
	}
}

// howTo says what to write for a key that is missing.
func (k *key[T]) howTo() string {
	if o, ok := k.val.(interface{ howTo() string }); ok {
		return o.howTo()
	}
	s, _, _ := strings.Cut(k.doc, ". ")
	s = strings.TrimSuffix(s, ".")
	return "add it (" + strings.ToLower(s[:1]) + s[1:] + ")"
}

func (k *key[T]) belongs(driver string) bool { return k.only == "" || k.only == driver }

func (k *key[T]) readEntry(l *loader, e entry, t *T, driver string) {
	switch {
	case e.value.bad:
	case k.only != "" && driver != "" && k.only != driver:
		l.problem(e.pos, "%s is a key of %s devices, but this device's driver is %s: remove it", e.name, k.only, driver)
	case e.value.kind == nullNode:
		e.value.bad = true
		l.problem(e.pos, "%s has no value: write one after the colon, or remove the key", e.name)
	default:
		k.val.read(l, e.name, e.value, t)
	}
}

// names returns the keys.
func (tb *table[T]) names() []string {
	var names []string
	for i := range tb.keys {
		names = append(names, tb.keys[i].name)
	}
	return names
}

// unknownKey reports a key that its mapping does not have: a slip of the
// pen, or the key of another mapping. It returns which key of its own mapping
// was meant, if that is what it is.
func (l *loader) unknownKey(e entry, where string, own []string) string {
	if c := nearest(e.name, own); c != "" {
		l.problem(e.pos, "%s has no key %q; did you mean %q?", where, e.name, c)
		return c
	}
	for _, other := range l.levels {
		if other.where != where && slices.Contains(other.names, e.name) {
			l.problem(e.pos, "%s has no key %q, but %s has: check the indentation", where, e.name, other.where)
			return ""
		}
	}
	for _, other := range l.levels {
		if c := nearest(e.name, other.names); c != "" && other.where != where {
			l.problem(e.pos, "%s has no key %q; did you mean %q, which is a key of %s?", where, e.name, c, other.where)
			return ""
		}
	}
	l.problem(e.pos, "%s has no key %q; it has: %s", where, e.name, strings.Join(own, ", "))
	return ""
}

// scalar is a value that is written as one word, number or text.
type scalar[T, V any] struct {
	form form[V]
	put  func(*T, V)
}

// as makes a value of a form and of the place where it goes.
func as[T, V any](f form[V], put func(*T, V)) scalar[T, V] { return scalar[T, V]{form: f, put: put} }

func (s scalar[T, V]) read(l *loader, name string, n *node, t *T) {
	v, err := s.form.parseNode(n)
	if err == nil {
		s.put(t, v)
		return
	}
	if n.bad {
		return
	}
	n.bad = true
	text := s.form.explain(n, err)
	if n.pos.Name == "" { // a tag map's position names the column already
		text = name + ": " + text
	}
	l.problem(n.pos, "%s", text)
}

func (s scalar[T, V]) schema() schema { return s.form.schema() }

// object is a mapping within a mapping.
type object[T, U any] struct {
	table table[U]
	hint  string // how it is written, for those who wrote something else
	at    func(t *T, n *node) *U
}

func (o object[T, U]) read(l *loader, name string, n *node, t *T) {
	if n.kind != mapNode {
		hint := o.hint
		if n.kind == textNode && strings.Contains(n.raw, ":") && !n.quoted {
			hint = "a space must follow the colon"
		}
		l.problem(n.pos, "%s: expected keys with values, got %s; %s", name, n.describe(), hint)
		return
	}
	o.table.read(l, n, o.at(t, n), "")
}

func (o object[T, U]) howTo() string { return o.hint }

func (o object[T, U]) schema() schema { return o.table.schema() }

// list is a list of mappings.
type list[T, U any] struct {
	table  table[U]
	hint   string
	add    func(t *T, n *node) *U
	driver func(l *loader, n *node) string // nil: not devices
}

func (ls list[T, U]) read(l *loader, name string, n *node, t *T) {
	if n.kind != listNode {
		l.problem(n.pos, "%s: expected a list, got %s; %s", name, n.describe(), ls.hint)
		return
	}
	for _, item := range n.items {
		if item.kind != mapNode {
			if !item.bad {
				l.problem(item.pos, "%s: expected keys with values after the dash, got %s; %s", name, item.describe(), ls.hint)
			}
			continue
		}
		driver := ""
		if ls.driver != nil {
			driver = ls.driver(l, item)
		}
		ls.table.read(l, item, ls.add(t, item), driver)
	}
}

func (ls list[T, U]) howTo() string { return "add it; " + ls.hint }

func (ls list[T, U]) schema() schema {
	return schema{"type": "array", "items": ls.table.schema()}
}

// labels is a mapping with any keys and texts as values.
type labels[T any] struct {
	put func(t *T, m map[string]string)
}

func (v labels[T]) read(l *loader, name string, n *node, t *T) {
	if n.kind != mapNode {
		l.problem(n.pos, "%s: expected keys with values, got %s; write for example {line: \"3\", maker: \"ACME\"}", name, n.describe())
		return
	}
	m := make(map[string]string, len(n.entries))
	one := as(anyText(), func(s *string, v string) { *s = v })
	for _, e := range n.entries {
		if e.value.kind == nullNode {
			continue // a label without a value is no label
		}
		var s string
		one.read(l, name+"."+e.name, e.value, &s)
		m[e.name] = s
	}
	v.put(t, m)
}

func (labels[T]) schema() schema {
	return schema{"type": "object", "additionalProperties": schema{"type": []string{"string", "number", "boolean", "null"}}}
}

// quotes says which scalars a form takes.
type quotes uint8

const (
	anyScalar quotes = iota
	onlyText         // text; a bare number or true must be put in quotes
	onlyBare         // a number, true or false; not in quotes
)

// form is the grammar of a scalar, whatever key it belongs to.
type form[V any] struct {
	want   string // what was expected, such as "a whole number from 1 to 10"
	quotes quotes
	// parse reads the text. Its error is errForm, a hint or a sentence.
	parse func(text string) (V, error)
	spec  schema
	free  bool // spec takes every text, so references too
}

// errForm: the text is not of the form, and there is nothing to add.
var errForm = errors.New("not of the form")

// hint is what to write instead. It is shown only where the text itself may be.
type hint string

func (h hint) Error() string { return string(h) }

// sentence says what is wrong in words of its own, which must not contain
// the text.
type sentence string

func (s sentence) Error() string { return string(s) }

func (f form[V]) parseNode(n *node) (V, error) {
	var zero V
	switch {
	case n.kind == mapNode || n.kind == listNode || n.kind == nullNode:
		return zero, errForm
	case f.quotes == onlyText && (n.kind == numberNode || n.kind == boolNode):
		if _, err := f.parse(n.text); err != nil {
			return zero, err
		}
		return zero, hint("put it in quotes")
	case f.quotes == onlyBare && n.quoted && !n.referred():
		if _, err := f.parse(n.text); err == nil {
			return zero, hint("remove the quotes")
		}
	}
	return f.parse(n.text)
}

// explain returns the message for a value that parseNode refused.
func (f form[V]) explain(n *node, err error) string {
	if s, ok := errors.AsType[sentence](err); ok {
		return string(s)
	}
	text := fmt.Sprintf("expected %s, got %s", f.want, n.describe())
	if n.referred() {
		return text + ", which stands for something else"
	}
	if h, ok := errors.AsType[hint](err); ok {
		text += "; " + string(h)
	}
	return text
}

// schema returns what the form takes; where that is narrower than any text,
// also a reference.
func (f form[V]) schema() schema {
	if f.free {
		return f.spec
	}
	return schema{"anyOf": []schema{f.spec, {"$ref": "#/$defs/reference"}}}
}
