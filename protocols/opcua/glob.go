package opcua

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Glob selects nodes by their browse paths, such as
// /Objects/Line*/**/Temperature. Within a name, * stands for any characters,
// ? for one, [a-z] for one of a range ([!a-z]: none of it) and {a,b} for one
// of several texts; ** as a whole name stands for any number of names, none
// included. A name is compared without its namespace unless it is written
// with one (2:Name). An & takes the meaning off the character behind it.
type Glob struct {
	text string
	segs []globSegment
}

// globSegment is one name of a Glob.
type globSegment struct {
	deep bool // **
	ns   int32
	alts []wildcard // any of them
}

// wildcard is what one name is compared with.
type wildcard []globToken

type globToken struct {
	kind  globKind
	r     rune   // of a literal
	class []rune // pairs, from and to
	not   bool   // of a class: none of it
}

type globKind uint8

const (
	globLiteral globKind = iota
	globOne
	globMany
	globClass
)

const (
	exampleGlob = "write it like /Objects/Line*/**/Temperature"
	// maxAlternatives is how many texts the braces of one name may stand for.
	maxAlternatives = 256
)

// ParseGlob reads a glob.
func ParseGlob(s string) (*Glob, error) {
	if s != "" && !strings.HasPrefix(s, "/") {
		return nil, fmt.Errorf("%q does not begin with /; for every node of that name write %q", s, "/**/"+s)
	}
	parts, err := splitPath(s)
	if err != nil {
		return nil, fmt.Errorf("%q: %w; %s", s, err, exampleGlob)
	}
	g := &Glob{text: s}
	for _, part := range parts {
		seg, err := parseGlobSegment(part)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		if n := len(g.segs); seg.deep && n > 0 && g.segs[n-1].deep {
			continue // **/** is **
		}
		g.segs = append(g.segs, seg)
	}
	return g, nil
}

// String returns the glob as it was written.
func (g *Glob) String() string { return g.text }

// names says that the glob's n-th name can only be the given one: whoever
// writes it out asks for it.
func (g *Glob) names(n int, name string) bool {
	if n >= len(g.segs) || len(g.segs[n].alts) != 1 {
		return false
	}
	alt := g.segs[n].alts[0]
	return !slices.ContainsFunc(alt, func(t globToken) bool { return t.kind != globLiteral }) && alt.matches(name)
}

func parseGlobSegment(part []pathRune) (globSegment, error) {
	if len(part) == 2 && plain(part) == "**" && !part[0].escaped && !part[1].escaped {
		return globSegment{deep: true}, nil
	}
	ns, name, err := cutNamespace(part)
	if err != nil {
		return globSegment{}, err
	}
	texts, err := expandBraces(name)
	if err != nil {
		return globSegment{}, err
	}
	seg := globSegment{ns: ns}
	for _, text := range texts {
		alt, err := parseWildcard(text)
		if err != nil {
			return seg, err
		}
		seg.alts = append(seg.alts, alt)
	}
	return seg, nil
}

// expandBraces returns the texts that a name with {a,b} stands for.
func expandBraces(name []pathRune) ([][]pathRune, error) {
	out := [][]pathRune{nil}
	for len(name) > 0 {
		c := name[0]
		if c.escaped || c.r != '{' {
			for i := range out {
				out[i] = append(out[i], c)
			}
			name = name[1:]
			continue
		}
		end := indexRune(name, '}')
		if end < 0 {
			return nil, errors.New("a { has no }; write &{ for the character itself")
		}
		inner := name[1:end]
		if indexRune(inner, '{') >= 0 {
			return nil, errors.New("braces within braces are not understood; write the cases one by one")
		}
		var longer [][]pathRune
		for _, choice := range splitRunes(inner, ',') {
			for _, head := range out {
				longer = append(longer, slices.Concat(head, choice))
			}
		}
		if len(longer) > maxAlternatives {
			return nil, fmt.Errorf("the braces of one name stand for more than %d texts", maxAlternatives)
		}
		out, name = longer, name[end+1:]
	}
	return out, nil
}

// indexRune returns where r stands, not escaped, or -1.
func indexRune(s []pathRune, r rune) int {
	return slices.IndexFunc(s, func(c pathRune) bool { return c.r == r && !c.escaped })
}

func splitRunes(s []pathRune, sep rune) [][]pathRune {
	var out [][]pathRune
	for {
		i := indexRune(s, sep)
		if i < 0 {
			return append(out, s)
		}
		out, s = append(out, s[:i]), s[i+1:]
	}
}

func parseWildcard(text []pathRune) (wildcard, error) {
	var w wildcard
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c.escaped:
			w = append(w, globToken{r: c.r})
		case c.r == '*':
			if n := len(w); n == 0 || w[n-1].kind != globMany {
				w = append(w, globToken{kind: globMany})
			}
		case c.r == '?':
			w = append(w, globToken{kind: globOne})
		case c.r == '[':
			end := indexRune(text[i+1:], ']')
			if end <= 0 {
				return nil, errors.New("a [ has no ] or nothing before it; write &[ for the character itself")
			}
			class, err := parseClass(text[i+1 : i+1+end])
			if err != nil {
				return nil, err
			}
			w = append(w, class)
			i += end + 1
		default:
			w = append(w, globToken{r: c.r})
		}
	}
	return w, nil
}

func parseClass(text []pathRune) (globToken, error) {
	t := globToken{kind: globClass}
	if first := text[0]; !first.escaped && (first.r == '!' || first.r == '^') && len(text) > 1 {
		t.not, text = true, text[1:]
	}
	for i := 0; i < len(text); i++ {
		from, to := text[i].r, text[i].r
		if i+2 < len(text) && text[i+1].r == '-' && !text[i+1].escaped {
			to = text[i+2].r
			i += 2
		}
		if to < from {
			return t, fmt.Errorf("[%c-%c] is empty: write the smaller one first", from, to)
		}
		t.class = append(t.class, from, to)
	}
	return t, nil
}

func (s *globSegment) matches(ns uint16, name string) bool {
	if s.ns != anyNamespace && s.ns != int32(ns) {
		return false
	}
	return slices.ContainsFunc(s.alts, func(w wildcard) bool { return w.matches(name) })
}

// matches compares a name. Only the last * is ever tried again, at the next
// character: the time is the product of the two lengths at the most.
func (w wildcard) matches(name string) bool {
	at, star, tried := 0, -1, name
	for name != "" {
		r, size := utf8.DecodeRuneInString(name)
		switch {
		case at < len(w) && w[at].kind == globMany:
			star, tried = at, name
			at++
			continue
		case at < len(w) && w[at].takes(r):
			at++
			name = name[size:]
			continue
		case star < 0:
			return false
		}
		_, size = utf8.DecodeRuneInString(tried)
		tried = tried[size:]
		at, name = star+1, tried
	}
	for at < len(w) && w[at].kind == globMany {
		at++
	}
	return at == len(w)
}

func (t *globToken) takes(r rune) bool {
	switch t.kind {
	case globOne:
		return true
	case globClass:
		in := false
		for i := 0; i < len(t.class); i += 2 {
			in = in || t.class[i] <= r && r <= t.class[i+1]
		}
		return in != t.not
	case globLiteral, globMany:
	}
	return t.kind == globLiteral && t.r == r
}

// selector follows all globs at once along the paths of a walk.
type selector struct {
	globs  []*Glob
	wanted int   // how many of globs select; the others exclude
	base   []int // the first bit of each glob in a state; one for each of its names, and one more
	bits   int
	states map[string]*selection
}

// selection is how far the globs are met at a node: a set of places in them.
type selection struct {
	number int
	set    []uint64
	hit    bool // the node is selected
	alive  bool // nodes below it may be
	out    bool // it is excluded, with all that is below it
}

func newSelector(include, exclude []*Glob) *selector {
	s := &selector{globs: slices.Concat(include, exclude), wanted: len(include), states: make(map[string]*selection)}
	for _, g := range s.globs {
		s.base = append(s.base, s.bits)
		s.bits += len(g.segs) + 1
	}
	return s
}

// start is the selection at the root of the address space.
func (s *selector) start() *selection {
	set := make([]uint64, s.bits/64+1)
	for i := range s.globs {
		s.enter(set, i, 0)
	}
	return s.state(set)
}

// enter adds a place, and those behind a ** that stands there: it may be for nothing.
func (s *selector) enter(set []uint64, glob, place int) {
	for segs := s.globs[glob].segs; ; place++ {
		bit := s.base[glob] + place
		set[bit/64] |= 1 << (bit % 64)
		if place >= len(segs) || !segs[place].deep {
			return
		}
	}
}

func (st *selection) has(bit int) bool { return st.set[bit/64]&(1<<(bit%64)) != 0 }

// step returns the selection of a node of the given name below one with st.
func (s *selector) step(st *selection, ns uint16, name string) *selection {
	if st.out {
		return st
	}
	set := make([]uint64, len(st.set))
	for i, g := range s.globs {
		for place := range g.segs {
			if !st.has(s.base[i] + place) {
				continue
			}
			switch seg := &g.segs[place]; {
			case seg.deep:
				s.enter(set, i, place)
			case seg.matches(ns, name):
				s.enter(set, i, place+1)
			}
		}
	}
	return s.state(set)
}

// state returns the one selection with a set.
func (s *selector) state(set []uint64) *selection {
	key := make([]byte, 0, 8*len(set))
	for _, w := range set {
		for i := range 8 {
			key = append(key, byte(w>>(8*i)))
		}
	}
	if st, ok := s.states[string(key)]; ok {
		return st
	}
	st := &selection{number: len(s.states), set: set}
	for i, g := range s.globs {
		end := st.has(s.base[i] + len(g.segs))
		if i >= s.wanted {
			st.out = st.out || end
			continue
		}
		st.hit = st.hit || end
		for place := range g.segs {
			st.alive = st.alive || st.has(s.base[i]+place)
		}
	}
	if st.out {
		st.hit, st.alive = false, false
	}
	s.states[string(key)] = st
	return st
}
