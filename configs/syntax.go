package configs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"millrace/protocols"
)

// maxYAML is the size up to which a YAML file is read. 20,000 tags written
// into it take 3 MB.
const maxYAML = 32 << 20

// parseYAML returns the file's only document as nodes, or nil if there is
// none; then it has reported why.
func (l *loader) parseYAML(data []byte) *node {
	data, ok := l.cleanYAML(data)
	if !ok {
		return nil
	}
	file, err := parseAST(data)
	if err != nil {
		l.syntaxProblem(data, err)
		return nil
	}
	body := l.onlyDocument(file)
	if body == nil {
		return nil
	}
	c := converter{l: l, anchors: map[string]*node{}}
	return c.node(body)
}

// cleanYAML brings the text into the form in which goccy counts lines right,
// and finds what would confuse it.
func (l *loader) cleanYAML(data []byte) ([]byte, bool) {
	if len(data) > maxYAML {
		l.problem(l.top(), "the file is larger than %d MiB; is it the right one?", maxYAML>>20)
		return nil, false
	}
	// goccy takes a byte order mark as part of the first key, and counts a
	// CR LF within quotes as two lines.
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	text := string(data)
	tabs, tabPos := 0, protocols.Position{}
	for i, s := range strings.Split(text, "\n") {
		if !utf8.ValidString(s) {
			l.problem(l.pos(i+1, 1), "this line is not UTF-8 text: save the file as UTF-8")
			return nil, false
		}
		if strings.Contains(s, "\x00") {
			l.problem(l.pos(i+1, 1), "this line has a zero byte: is this a text file?")
			return nil, false
		}
		indent := s[:len(s)-len(strings.TrimLeft(s, " \t"))]
		if j := strings.IndexByte(indent, '\t'); j >= 0 && len(indent) < len(s) && s[len(indent)] != '#' {
			if tabs == 0 {
				tabPos = l.pos(i+1, j+1)
			}
			tabs++
		}
	}
	if tabs > 0 {
		l.problem(tabPos, "a tab at the beginning of the line: YAML wants spaces, not tabs; replace it by spaces%s", more(tabs-1))
		return nil, false
	}
	return data, true
}

func more(lines int) string {
	switch lines {
	case 0:
		return ""
	case 1:
		return " (and one more line)"
	}
	return fmt.Sprintf(" (and %d more lines)", lines)
}

// parseAST runs goccy's parser, whose panics on odd input become errors.
func parseAST(data []byte) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("this is not YAML that can be read")
		}
	}()
	// Duplicate keys are found by the converter, which can say where the
	// first one stands.
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

// onlyDocument returns the body of the file's one document.
func (l *loader) onlyDocument(file *ast.File) ast.Node {
	var body ast.Node
	for _, doc := range file.Docs {
		switch doc.Body.(type) {
		case nil, *ast.DirectiveNode, *ast.CommentGroupNode, *ast.CommentNode:
			continue
		}
		if body != nil {
			l.problem(l.start(doc.Body),
				`a second YAML document begins here: a configuration is one document; remove the line "---"`)
			return nil
		}
		body = doc.Body
	}
	if body == nil {
		l.problem(l.top(), "the file is empty: at the least it needs gateway.id and devices (see configs/examples/minimal.yaml)")
	}
	return body
}

// syntaxProblem reports what the YAML parser could not read, in plain words
// where we know which mistake makes it say that.
func (l *loader) syntaxProblem(data []byte, err error) {
	var se *yaml.SyntaxError
	if !errors.As(err, &se) || se.Token == nil {
		l.problem(l.top(), "this is not YAML: %v", err)
		return
	}
	pos := l.tokenPos(se.Token)
	lines := strings.Split(string(data), "\n")
	text := ""
	if pos.Line >= 1 && pos.Line <= len(lines) {
		text = lines[pos.Line-1]
	}
	l.problem(pos, "this is not YAML: %s", plainSyntax(se.Message, text))
}

func plainSyntax(message, text string) string {
	has := func(s string) bool { return strings.Contains(message, s) }
	switch {
	case strings.Contains(text, "${") && (has("must be specified") || has("not found")):
		return `inside { } and [ ] a reference must be in quotes: "${…}"`
	case has("could not find end character"):
		return "this quote is never closed"
	case has("must be specified"), has("end token"):
		return message + "; is a bracket, a brace or a comma missing?"
	case has("reserved character"):
		return message + "; put the value in quotes"
	case has("mapping value is not allowed"):
		return `": " inside a value; put the value in quotes, or check the indentation of this line`
	case has("not allowed in this context"), has("unexpected key name"), has("could not find"):
		return message + "; check the indentation of this line and of the one above it"
	case has("escape"):
		return message + `; in double quotes write \\ for a backslash, or use single quotes`
	}
	return message
}

func (l *loader) top() protocols.Position { return protocols.Position{File: l.name} }

func (l *loader) pos(line, col int) protocols.Position {
	return protocols.Position{File: l.name, Line: line, Col: col}
}

func (l *loader) tokenPos(t *token.Token) protocols.Position {
	if t == nil || t.Position == nil {
		return l.top()
	}
	return l.pos(max(1, t.Position.Line), max(1, t.Position.Column))
}

// start returns where a node begins. For goccy a block mapping begins at its
// first colon.
func (l *loader) start(n ast.Node) protocols.Position {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return l.tokenPos(m.Values[0].Key.GetToken())
	}
	return l.tokenPos(n.GetToken())
}

// converter makes nodes of goccy's tree. What an anchor names becomes one
// node that all its aliases share, so aliases cannot multiply the memory.
type converter struct {
	l       *loader
	anchors map[string]*node
}

func (c *converter) node(n ast.Node) *node {
	switch v := n.(type) {
	case *ast.MappingNode:
		return c.mapping(v)
	case *ast.MappingValueNode:
		return c.mapping(&ast.MappingNode{Start: v.Start, Values: []*ast.MappingValueNode{v}})
	case *ast.SequenceNode:
		out := &node{kind: listNode, pos: c.l.tokenPos(v.GetToken())}
		for _, item := range v.Values {
			out.items = append(out.items, c.node(item))
		}
		return out
	case *ast.AnchorNode:
		out := c.node(v.Value)
		c.anchors[v.Name.GetToken().Value] = out
		return out
	case *ast.AliasNode:
		return c.alias(v)
	case *ast.LiteralNode:
		return c.scalar(v.GetToken(), textNode, v.Value.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return c.scalar(n.GetToken(), numberNode, n.GetToken().Value)
	case *ast.BoolNode:
		return c.scalar(v.GetToken(), boolNode, v.GetToken().Value)
	case *ast.StringNode:
		return c.scalar(v.GetToken(), textNode, v.Value)
	case *ast.NullNode:
		return &node{kind: nullNode, pos: c.l.tokenPos(v.GetToken())}
	}
	return c.foreign(n)
}

// foreign refuses YAML that a configuration has no use for.
func (c *converter) foreign(n ast.Node) *node {
	out := &node{kind: nullNode, bad: true, pos: c.l.top()}
	if n != nil {
		out.pos = c.l.tokenPos(n.GetToken())
	}
	if tag, ok := n.(*ast.TagNode); ok {
		c.l.problem(out.pos, "a YAML type tag (%s) has no use here: remove it, and put text in quotes", tag.Start.Value)
		return out
	}
	c.l.problem(out.pos, "this kind of YAML has no use here: write keys with values, lists, text or numbers")
	return out
}

func (c *converter) scalar(t *token.Token, kind nodeKind, text string) *node {
	out := &node{kind: kind, pos: c.l.tokenPos(t), text: text}
	out.quoted = t.Type == token.SingleQuoteType || t.Type == token.DoubleQuoteType
	c.l.resolve(out)
	return out
}

func (c *converter) alias(v *ast.AliasNode) *node {
	name := v.Value.GetToken().Value
	if n, ok := c.anchors[name]; ok {
		return n
	}
	out := &node{kind: nullNode, bad: true, pos: c.l.tokenPos(v.GetToken())}
	c.l.problem(out.pos, "*%s refers to an anchor that does not stand above it: write &%s before the value that it means", name, name)
	return out
}

func (c *converter) mapping(m *ast.MappingNode) *node {
	out := &node{kind: mapNode, pos: c.l.start(m)}
	var merged []*node
	for _, e := range m.Values {
		pos := c.l.tokenPos(e.Key.GetToken())
		if e.Key.IsMergeKey() {
			merged = append(merged, c.merge(e.Value, pos)...)
			continue
		}
		if _, ok := e.Key.(*ast.MappingKeyNode); ok {
			c.l.problem(pos, `a key that begins with "? " has no use here: write it as "key: value"`)
			continue
		}
		name, value := e.Key.GetToken().Value, c.node(e.Value)
		if first := out.entry(name); first != nil {
			c.l.problem(pos, "the key %q stands here twice; the first one is in line %d: remove one of them", name, first.pos.Line)
			continue
		}
		out.entries = append(out.entries, entry{name: name, pos: pos, value: value})
	}
	for _, from := range merged {
		for _, e := range from.entries {
			if out.entry(e.name) == nil {
				out.entries = append(out.entries, e)
			}
		}
	}
	return out
}

func (n *node) entry(name string) *entry {
	for i := range n.entries {
		if n.entries[i].name == name {
			return &n.entries[i]
		}
	}
	return nil
}

// merge returns the mappings that a merge key (<<) names.
func (c *converter) merge(value ast.Node, pos protocols.Position) []*node {
	n := c.node(value)
	from := []*node{n}
	if n.kind == listNode {
		from = n.items
	}
	for _, m := range from {
		if m.kind != mapNode {
			if !m.bad {
				c.l.problem(pos, "<< takes in the keys of another mapping: write <<: *name, where &name stands before that mapping")
			}
			return nil
		}
	}
	return from
}
