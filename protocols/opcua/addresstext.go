package opcua

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gopcua/opcua/ua"
)

// addressOf writes a NodeId as a tag's address: with the URI of its namespace,
// which stays when a server renumbers them, or with the index. False: there
// is no text that parseAddress reads as this node.
func addressOf(n *ua.NodeID, namespaces []string, byIndex bool) (string, bool) {
	text := nodeIDText(n)
	if ns := n.Namespace(); ns != 0 && !byIndex && int(ns) < len(namespaces) {
		uri := namespaces[ns]
		// Of two namespaces with one URI only the first can be named by it.
		if uri != "" && isPlain(uri) && strings.TrimSpace(uri) == uri && indexOf(namespaces, uri) == int(ns) {
			_, identifier, _ := strings.Cut(text, ";")
			text = "nsu=" + uriEscaper().Replace(uri) + ";" + identifier
		}
	}
	if !isPlain(text) {
		return "", false
	}
	// The empty range keeps brackets and spaces at the end what they are.
	for _, end := range []string{"", "[]"} {
		if s := text + end; s == strings.TrimSpace(s) && leadsTo(s, n, namespaces) {
			return s, true
		}
	}
	return "", false
}

// leadsTo says that an address is read as the node n, all of it.
func leadsTo(address string, n *ua.NodeID, namespaces []string) bool {
	a, err := parseAddress(address)
	if err != nil || a.rng != "" {
		return false
	}
	back, ok := a.nodeID(namespaces)
	return ok && nodeIDText(back) == nodeIDText(n)
}

// uriEscaper does what Part 6, 5.3.1.11 wants done to a URI in a NodeId.
func uriEscaper() *strings.Replacer { return strings.NewReplacer(";", "%3B", "%", "%25") }

// isPlain says that s is text that a line of a file can hold.
func isPlain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// shortName is a namespace's index and a name, as in 2:Line1.
func shortName(ns uint16, name string) string { return strconv.Itoa(int(ns)) + ":" + name }
