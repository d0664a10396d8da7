package configs

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"millrace/protocols"
)

// nodeKind says what a node is.
type nodeKind uint8

const (
	nullNode   nodeKind = iota // a key without a value
	textNode                   // text, or a cell of a tag map, which may be anything
	numberNode                 // a number that is not in quotes
	boolNode                   // true or false, not in quotes
	mapNode
	listNode
)

func (k nodeKind) String() string {
	return [...]string{"nothing", "the text", "the number", "the word", "keys with values", "a list"}[k]
}

// node is one value of the configuration as it was written, with its place.
// YAML files and tag maps both become nodes, so one decoder reads both.
type node struct {
	pos     protocols.Position
	text    string  // of a scalar, with its references resolved
	raw     string  // of a scalar, as it was written: the only form that may be shown
	pieces  []piece // what was put in place of references
	entries []entry // of a mapNode, in file order; merged ones last
	items   []*node // of a listNode
	kind    nodeKind
	quoted  bool
	bad     bool // a problem was reported; reading it would only add another
}

// entry is one key of a mapNode.
type entry struct {
	name  string
	pos   protocols.Position
	value *node
}

// piece is one resolved reference.
type piece struct {
	value string
	raw   string // such as ${env:NAME}
}

// get returns the value of a key of a mapNode, or nil.
func (n *node) get(name string) *node {
	for i := range n.entries {
		if n.entries[i].name == name {
			return n.entries[i].value
		}
	}
	return nil
}

// at returns where the value of a key stands, or the node itself if it does
// not have the key.
func (n *node) at(name string) protocols.Position { return n.find(name).pos }

// find returns the value at a path of keys such as security.mode, or as much
// of the way to it as there is.
func (n *node) find(path string) *node {
	for name := range strings.SplitSeq(path, ".") {
		v := n.get(name)
		if v == nil {
			return n
		}
		n = v
	}
	return n
}

// referred says that the text came, in part at least, from a reference and
// must not be shown.
func (n *node) referred() bool { return n.pieces != nil }

// show returns the text as it may be shown: as it was written, and not more
// of it than fits into a line.
func (n *node) show() string {
	const most = 60
	s := n.raw
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return strconv.Quote(s)
}

// describe says what the node is, for a message that expected something else.
func (n *node) describe() string {
	switch n.kind {
	case textNode, numberNode, boolNode:
		return n.kind.String() + " " + n.show()
	case nullNode, mapNode, listNode:
	}
	return n.kind.String()
}
