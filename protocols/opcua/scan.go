package opcua

import (
	"context"
	"errors"
	"fmt"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// scan polls a fixed set of tags.
type scan struct {
	bus   *bus
	dev   *protocols.Device
	addrs []address

	generation uint64            // of the session that nodes was made for
	nodes      []*ua.ReadValueID // those that can be asked for
	pos        []int             // which tag nodes[i] is for
}

// Plan prepares a poll of the given tags.
func (b *bus) Plan(d *protocols.Device, tags []int) (protocols.Scan, error) {
	addrs, err := parseTags(d, tags)
	if err != nil {
		return nil, err
	}
	return &scan{bus: b, dev: d, addrs: addrs}, nil
}

// resolve makes the NodeIds for this session: the index of a namespace may
// change when a server restarts.
func (s *scan) resolve(namespaces []string) {
	s.nodes, s.pos = s.nodes[:0], s.pos[:0]
	for i := range s.addrs {
		if node, ok := s.addrs[i].nodeID(namespaces); ok {
			s.nodes = append(s.nodes, valueOfNode(node, s.addrs[i].rng))
			s.pos = append(s.pos, i)
		}
	}
	s.generation = s.bus.generation
}

// progress is one Read on its way.
type progress struct {
	out []protocols.Reading
	res protocols.ScanResult
}

// Read polls all tags.
func (s *scan) Read(ctx context.Context, out []protocols.Reading) protocols.ScanResult {
	if s.bus.session == nil {
		err := s.bus.errNotConnected()
		for i := range out {
			out[i].Source = 0
			out[i].SetBad(err.Reason)
		}
		return protocols.ScanResult{Requests: 1, Err: err}
	}
	if s.generation != s.bus.generation {
		s.resolve(s.bus.session.namespaces)
	}
	p := &progress{out: out}
	if len(s.nodes) < len(s.addrs) {
		s.markUnresolved(p)
	}
	for lo := 0; lo < len(s.nodes); {
		hi := min(lo+s.bus.session.limits.perRead, len(s.nodes))
		if err := s.readRange(ctx, p, lo, hi); err != nil {
			// The server is silent or gone: the rest would only wait again.
			rest := s.fail(p, hi, len(s.nodes), err)
			p.res.Requests += (rest + s.bus.session.limits.perRead - 1) / s.bus.session.limits.perRead
			break
		}
		lo = hi
	}
	return p.res
}

// markUnresolved makes the tags bad whose namespace the server does not have.
func (s *scan) markUnresolved(p *progress) {
	for i := range s.addrs {
		a := &s.addrs[i]
		if a.uri == "" || indexOf(s.bus.session.namespaces, a.uri) >= 0 {
			continue
		}
		p.out[i].Source = 0
		p.out[i].SetBad(protocols.NoSuchNode)
		if p.res.Err == nil {
			p.res.Err = s.bus.errNoNamespace(a.uri)
		}
	}
}

func (b *bus) errNoNamespace(uri string) *protocols.Error {
	return &protocols.Error{Kind: protocols.KindBadAddress, Reason: protocols.NoSuchNode, Text: fmt.Sprintf(
		"%s: the server has no namespace %q; check the URI behind nsu=, or use ns= with its number", b.conf.url.Host, uri)}
}

// readRange reads nodes[lo:hi], in smaller pieces where the server, or one
// value that cannot be decoded, wants that. An error means that going on is
// useless.
func (s *scan) readRange(ctx context.Context, p *progress, lo, hi int) error {
	p.res.Requests++
	res, err := call[*ua.ReadResponse](ctx, s.bus.session, &ua.ReadRequest{
		TimestampsToReturn: ua.TimestampsToReturnBoth, NodesToRead: s.nodes[lo:hi],
	})
	if err == nil && len(res.Results) != hi-lo {
		err = fmt.Errorf("%w: %d results for %d nodes", errMalformed, len(res.Results), hi-lo)
	}
	if err == nil {
		p.res.Answers++
		p.res.Time = s.bus.driver.o.Now()
		for i, dv := range res.Results {
			s.take(p, lo+i, dv)
		}
		return nil
	}
	e := s.bus.explain(fmt.Sprintf("reading %d nodes", hi-lo), err)
	if e.Kind == protocols.KindNotConnected || e.Kind == protocols.KindTimeout || ctx.Err() != nil {
		s.fail(p, lo, hi, e)
		return e
	}
	p.res.Answers++
	p.res.Time = s.bus.driver.o.Now()
	if hi-lo > 1 && (wantsFewer(err) || e.Kind == protocols.KindMalformed) {
		mid := lo + (hi-lo)/2
		if wantsFewer(err) {
			s.bus.session.limits.perRead = max(1, min(s.bus.session.limits.perRead, mid-lo))
		}
		return s.readHalves(ctx, p, lo, mid, hi)
	}
	s.fail(p, lo, hi, e)
	return nil
}

func (s *scan) readHalves(ctx context.Context, p *progress, lo, mid, hi int) error {
	if err := s.readRange(ctx, p, lo, mid); err != nil {
		s.fail(p, mid, hi, err)
		return err
	}
	return s.readRange(ctx, p, mid, hi)
}

// take makes a reading of the result for nodes[n].
func (s *scan) take(p *progress, n int, dv *ua.DataValue) {
	i := s.pos[n]
	r := &p.out[i]
	s.bus.driver.symbols.fill(r, dv, s.addrs[i].one)
	if r.Quality == protocols.Bad && p.res.Err == nil {
		text := string(r.Reason)
		if dv != nil && isBad(dv.Status) {
			text = s.bus.driver.symbols.statusText(dv.Status)
		}
		p.res.Err = &protocols.Error{
			Kind: protocols.KindRefused, Reason: r.Reason,
			Text: fmt.Sprintf("%s: %s cannot be read: %s", s.bus.conf.url.Host, nodeIDText(s.nodes[n].NodeID), text),
		}
	}
}

// fail makes nodes[lo:hi] bad, and returns how many they are.
func (s *scan) fail(p *progress, lo, hi int, err error) int {
	var e *protocols.Error
	if !errors.As(err, &e) {
		e = s.bus.explain("reading", err)
	}
	for _, i := range s.pos[lo:hi] {
		p.out[i].Source = 0
		p.out[i].SetBad(e.Reason)
	}
	if p.res.Err == nil || protocols.KindOf(p.res.Err) == protocols.KindRefused {
		p.res.Err = e
	}
	return hi - lo
}
