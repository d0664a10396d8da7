package opcua

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// ambiguousPath is the reason of a tag whose browse path leads to several
// nodes: none is taken.
const ambiguousPath protocols.Reason = "ambiguous_path"

// pathRetry is how long a path that led nowhere is left alone.
const pathRetry = 10 * time.Second

// pathBook holds what browse paths lead to in a session. It may be used by
// several goroutines.
type pathBook struct {
	mu    sync.Mutex
	known map[string]*pathEnd // by the paths' text
}

// pathEnd is where a path leads: to a node, or nowhere.
type pathEnd struct {
	path   []pathSegment
	node   *ua.NodeID // nil: nowhere
	reason protocols.Reason
	text   string    // why, for people
	tried  time.Time // when that was found out
}

func (e *pathEnd) fail(reason protocols.Reason, format string, args ...any) {
	e.node, e.reason, e.text = nil, reason, fmt.Sprintf(format, args...)
}

// get returns what is known of an address that is a path; nil: nothing.
func (p *pathBook) get(a *address) *pathEnd {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[a.text]
}

// wanted returns the paths among addrs that are to be resolved: those not
// known, and those that led nowhere some time ago.
func (p *pathBook) wanted(addrs []address, now time.Time) []*pathEnd {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ends []*pathEnd
	mine := make(map[string]bool)
	for i := range addrs {
		a := &addrs[i]
		if a.kind != pathKind || mine[a.text] {
			continue
		}
		if e := p.known[a.text]; e == nil || e.node == nil && now.Sub(e.tried) >= pathRetry {
			mine[a.text] = true
			ends = append(ends, &pathEnd{path: a.path, tried: now})
		}
	}
	return ends
}

func (p *pathBook) keep(ends []*pathEnd) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = make(map[string]*pathEnd)
	}
	for _, e := range ends {
		p.known[pathText(e.path)] = e
	}
}

// forget is told of a path whose node is gone: it is resolved again, as if it
// had led nowhere.
func (p *pathBook) forget(a *address, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.known[a.text]; e != nil && e.node != nil {
		gone := &pathEnd{path: e.path, tried: now}
		gone.fail(protocols.NoSuchNode, "the node that it led to is gone")
		p.known[a.text] = gone
	}
}

// whyNoNode says why an address has no NodeId in this session.
func (b *bus) whyNoNode(s *session, a *address) *protocols.Error {
	if a.kind != pathKind {
		return b.errNoNamespace(a.uri)
	}
	reason, text := protocols.NoSuchNode, "not found"
	if e := s.paths.get(a); e != nil && e.node == nil {
		reason, text = e.reason, e.text
	}
	return &protocols.Error{Kind: protocols.KindBadAddress, Reason: reason, Text: fmt.Sprintf("%s: %s: %s", b.conf.url.Host, a.text, text)}
}

// resolvePaths finds out what the browse paths among addrs lead to, as far as
// that is not known; for one that led nowhere, again after a while. It must be
// called in each session before their NodeIds are used. Its error says that
// the connection, not a path, is at fault.
func (b *bus) resolvePaths(ctx context.Context, s *session, addrs []address) error {
	if ends := s.paths.wanted(addrs, time.Now()); len(ends) > 0 {
		if err := b.resolveEnds(ctx, s, ends); err != nil {
			return err
		}
	}
	for i := range addrs {
		if a := &addrs[i]; a.kind == pathKind {
			a.found = s.paths.get(a).node
		}
	}
	return nil
}

func (b *bus) resolveEnds(ctx context.Context, s *session, ends []*pathEnd) error {
	r := &resolver{bus: b, session: s}
	rest, err := r.translate(ctx, ends)
	if err != nil {
		return err
	}
	if err := r.browse(ctx, rest); err != nil {
		return err
	}
	s.paths.keep(ends)
	b.tellPaths(ends)
	return nil
}

// tellPaths logs the paths that lead nowhere.
func (b *bus) tellPaths(ends []*pathEnd) {
	const most = 10
	failed := 0
	for _, e := range ends {
		if e.node != nil {
			continue
		}
		failed++
		if failed <= most {
			b.log.Warn("a tag's browse path leads to no node", slog.String("path", pathText(e.path)), slog.String("because", e.text))
		}
	}
	if failed > most {
		b.log.Warn("more browse paths lead to no node", slog.Int("more", failed-most))
	}
}

// resolver resolves the paths of one call.
type resolver struct {
	bus     *bus
	session *session
}

// hasNamespaces says that each name of a path is given in full.
func (e *pathEnd) hasNamespaces() bool {
	return !slices.ContainsFunc(e.path, func(s pathSegment) bool { return s.ns == anyNamespace })
}

// translate has the server resolve the paths that are given in full, and
// returns those that are left: the others, and what it did not find, so that
// it can be said where they end.
func (r *resolver) translate(ctx context.Context, ends []*pathEnd) (rest []*pathEnd, err error) {
	var full []*pathEnd
	for _, e := range ends {
		if e.hasNamespaces() {
			full = append(full, e)
		} else {
			rest = append(rest, e)
		}
	}
	for lo := 0; lo < len(full); {
		hi := min(lo+r.session.limits.perTranslate, len(full))
		res, err := call[*ua.TranslateBrowsePathsToNodeIDsResponse](ctx, r.session, translation(full[lo:hi]))
		if err == nil && len(res.Results) != hi-lo {
			err = fmt.Errorf("%w: %d results for %d paths", errMalformed, len(res.Results), hi-lo)
		}
		if err != nil {
			e := r.bus.explain(fmt.Sprintf("resolving %d browse paths", hi-lo), err)
			if ctx.Err() != nil || e.Kind == protocols.KindNotConnected || e.Kind == protocols.KindTimeout {
				return nil, e
			}
			if wantsFewer(err) && hi-lo > 1 {
				r.session.limits.perTranslate = max(1, (hi-lo)/2)
				continue
			}
			return append(rest, full[lo:]...), nil // a server without this service
		}
		for i, one := range res.Results {
			if full[lo+i].node = r.target(one); full[lo+i].node == nil {
				rest = append(rest, full[lo+i])
			}
		}
		lo = hi
	}
	return rest, nil
}

// target returns the node that a path was translated to, if it is one alone.
func (r *resolver) target(one *ua.BrowsePathResult) *ua.NodeID {
	if one == nil || !isGood(one.StatusCode) || len(one.Targets) != 1 || one.Targets[0] == nil {
		return nil
	}
	const wholePath = 0xFFFF_FFFF // Part 4, 5.9.4.2
	if t := one.Targets[0]; t.RemainingPathIndex == wholePath {
		return r.session.localNode(t.TargetID)
	}
	return nil
}

// translation is the request for some paths.
func translation(ends []*pathEnd) *ua.TranslateBrowsePathsToNodeIDsRequest {
	req := &ua.TranslateBrowsePathsToNodeIDsRequest{}
	hierarchical := ua.NewNumericNodeID(0, id.HierarchicalReferences)
	for _, e := range ends {
		one := &ua.BrowsePath{StartingNode: ua.NewNumericNodeID(0, roots()[e.path[0].name]), RelativePath: &ua.RelativePath{}}
		for _, s := range e.path[1:] {
			one.RelativePath.Elements = append(one.RelativePath.Elements, &ua.RelativePathElement{
				ReferenceTypeID: hierarchical, IncludeSubtypes: true,
				TargetName: &ua.QualifiedName{NamespaceIndex: uint16(s.ns), Name: s.name},
			})
		}
		req.BrowsePaths = append(req.BrowsePaths, one)
	}
	return req
}

// branch is a name of one or more paths, in the tree of them: each parent is
// browsed once for all that is below it.
type branch struct {
	at      pathSegment
	path    []pathSegment // up to this name
	kids    map[pathSegment]*branch
	order   []*branch // the same
	ends    []*pathEnd
	nodes   []*ua.NodeID // that it may be; one, if all is well
	spaces  []uint16     // their namespaces
	refusal ua.StatusCode
	near    string // the most similar of the names in its place
	far     int    // how similar; 0: not at all
}

func (t *branch) kid(s pathSegment) *branch {
	k := t.kids[s]
	if k == nil {
		if t.kids == nil {
			t.kids = make(map[pathSegment]*branch)
		}
		k = &branch{at: s, path: append(slices.Clip(t.path), s)}
		t.kids[s] = k
		t.order = append(t.order, k)
	}
	return k
}

// browse resolves paths from the top down, one level of all of them at a time.
func (r *resolver) browse(ctx context.Context, ends []*pathEnd) error {
	root := &branch{}
	for _, e := range ends {
		t := root
		for _, s := range e.path {
			t = t.kid(s)
		}
		t.ends = append(t.ends, e)
	}
	level := root.order
	for _, t := range level {
		t.nodes = []*ua.NodeID{ua.NewNumericNodeID(0, roots()[t.at.name])}
	}
	for len(level) > 0 {
		level = slices.DeleteFunc(level, func(t *branch) bool { return len(t.order) == 0 })
		if err := r.look(ctx, level, (*levelSink).match); err != nil {
			return err
		}
		if err := r.lookForNames(ctx, level); err != nil {
			return err
		}
		var below []*branch
		for _, t := range level {
			for _, k := range t.order {
				if r.settle(t, k) {
					below = append(below, k)
				}
			}
		}
		level = below
	}
	return nil
}

// look browses the nodes of branches.
func (r *resolver) look(ctx context.Context, level []*branch, each func(*levelSink, *branch, *ua.ReferenceDescription)) error {
	if len(level) == 0 {
		return nil
	}
	nodes := make([]*ua.NodeID, len(level))
	for i, t := range level {
		nodes[i] = t.nodes[0]
	}
	return newBrowser(r.bus, r.session, 0).browse(ctx, nodes, &levelSink{r.session, level, each})
}

// lookForNames looks at the parents of what was not found once more, for the
// names that come close. There are few of them as a rule; of many, the first
// are enough to understand the mistake.
func (r *resolver) lookForNames(ctx context.Context, level []*branch) error {
	const most = 20
	var missing []*branch
	for _, t := range level {
		if len(missing) < most && slices.ContainsFunc(t.order, func(k *branch) bool { return len(k.nodes) == 0 }) && t.refusal == 0 {
			missing = append(missing, t)
		}
	}
	return r.look(ctx, missing, (*levelSink).compare)
}

// settle says whether the kid k of t is one node; if not, all paths through
// it fail.
func (r *resolver) settle(t, k *branch) bool {
	where := pathText(t.path)
	switch {
	case t.refusal != 0: // also if one was found: there may be another
		k.failAll(r.bus.driver.symbols.reason(t.refusal), "the server does not let us look into %s: %s", where, r.bus.driver.symbols.statusText(t.refusal))
	case len(k.nodes) == 1:
		for _, e := range k.ends {
			e.node = k.nodes[0]
		}
		return true
	case len(k.nodes) > 1:
		k.failAll(ambiguousPath, "%s has %d nodes named %q%s", where, len(k.nodes), k.at.name, k.choices())
	case k.near != "":
		k.failAll(protocols.NoSuchNode, "%s has no %q; did you mean %q?", where, nameText(k.at), k.near)
	default:
		k.failAll(protocols.NoSuchNode, "%s has no %q; millrace scan shows what it has", where, nameText(k.at))
	}
	return false
}

// choices says how to tell nodes of one name apart.
func (t *branch) choices() string {
	spaces := slices.Compact(slices.Sorted(slices.Values(t.spaces)))
	if len(spaces) < 2 {
		return "; give the tag's NodeId instead"
	}
	var all []string
	for _, ns := range spaces[:min(len(spaces), 5)] {
		all = append(all, shortName(ns, t.at.name))
	}
	return "; write it with its namespace: " + strings.Join(all, " or ")
}

func nameText(s pathSegment) string {
	if s.ns == anyNamespace {
		return s.name
	}
	return shortName(uint16(s.ns), s.name)
}

// failAll fails the paths that go through t.
func (t *branch) failAll(reason protocols.Reason, format string, args ...any) {
	for _, e := range t.ends {
		e.fail(reason, format, args...)
	}
	for _, k := range t.order {
		k.failAll(reason, format, args...)
	}
}

// levelSink is a browseSink for the branches of a level.
type levelSink struct {
	session *session
	level   []*branch
	each    func(*levelSink, *branch, *ua.ReferenceDescription)
}

func (s *levelSink) reference(i int, r *ua.ReferenceDescription) { s.each(s, s.level[i], r) }

func (s *levelSink) refused(i int, status ua.StatusCode) { s.level[i].refusal = status }

func (*levelSink) enough(int) bool { return false }

// match puts a node to the names that it has.
func (s *levelSink) match(t *branch, r *ua.ReferenceDescription) {
	for _, ns := range [...]int32{int32(r.BrowseName.NamespaceIndex), anyNamespace} {
		k := t.kids[pathSegment{ns, r.BrowseName.Name}]
		if k == nil {
			continue
		}
		node := s.session.localNode(r.NodeID)
		if node == nil || slices.ContainsFunc(k.nodes, func(n *ua.NodeID) bool { return nodeIDText(n) == nodeIDText(node) }) {
			continue // the same by another kind of reference
		}
		const most = 10 // more do not change that it is none
		if len(k.nodes) < most {
			k.nodes, k.spaces = append(k.nodes, node), append(k.spaces, r.BrowseName.NamespaceIndex)
		}
	}
}

// compare looks for the nearest name for what was not found.
func (s *levelSink) compare(t *branch, r *ua.ReferenceDescription) {
	for _, k := range t.order[:min(len(t.order), 100)] {
		if len(k.nodes) > 0 {
			continue
		}
		likeness := similar(k.at.name, r.BrowseName.Name)
		if likeness <= k.far {
			continue
		}
		k.far, k.near = likeness, r.BrowseName.Name
		if k.at.ns != anyNamespace {
			k.near = shortName(r.BrowseName.NamespaceIndex, r.BrowseName.Name)
		}
	}
}

// similar says how like two names are, from 0, not at all, to 100.
func similar(a, b string) int {
	if a == b {
		return 100
	}
	if strings.EqualFold(a, b) {
		return 99
	}
	x, y := []rune(strings.ToLower(a)), []rune(strings.ToLower(b))
	const longest = 64
	if len(x) > longest || len(y) > longest {
		return 0
	}
	d := distance(x, y)
	if longer := max(len(x), len(y)); 3*d <= longer {
		return 98 - 98*d/longer
	}
	return 0
}

// distance is the number of letters that differ (Levenshtein).
func distance(a, b []rune) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		left := row[0]
		row[0] = i + 1
		for j := range b {
			cost := left
			if a[i] != b[j] {
				cost = 1 + min(left, row[j], row[j+1])
			}
			left, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
