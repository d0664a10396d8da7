package opcua

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// maxChain is how many certificates a chain may have, and how many of those
// that a server sends are looked at.
const maxChain = 8

// maxSignatures bounds the work that somebody else's certificates can cause.
const maxSignatures = 100

// chainBuilder looks for the way from a certificate to an authority that is
// trusted (RFC 5280, 6.1, by hand: x509.Verify refuses SHA-1 and much that
// PLCs and small authorities do, and wants a root at the end).
type chainBuilder struct {
	store  *store
	sent   []*x509.Certificate // by the server, beside its own
	modern bool                // the policy wants SHA-2

	left   int // how many signatures may still be checked
	best   []*x509.Certificate
	anchor string // the file of the trusted authority at the end of best; empty: none was found
	odd    error  // why an issuer that was found could not be taken
}

func (b *chainBuilder) build(leaf *x509.Certificate) {
	b.left = maxSignatures
	b.best = []*x509.Certificate{leaf}
	b.climb([]*x509.Certificate{leaf})
}

// climb adds issuers to a chain until one is trusted. It keeps the longest
// chain that it saw.
func (b *chainBuilder) climb(chain []*x509.Certificate) bool {
	if len(chain) > len(b.best) {
		b.best = slices.Clone(chain)
	}
	last := chain[len(chain)-1]
	if len(chain) == maxChain || selfIssued(last) {
		return false
	}
	for _, c := range b.store.trusted {
		if b.signed(c.Certificate, chain) {
			b.best, b.anchor = append(slices.Clone(chain), c.Certificate), c.path
			return true
		}
	}
	others := slices.Clone(b.sent)
	for _, c := range b.store.issuers {
		others = append(others, c.Certificate)
	}
	for _, c := range others {
		known := slices.ContainsFunc(chain, func(o *x509.Certificate) bool { return bytes.Equal(o.Raw, c.Raw) })
		if !known && b.signed(c, chain) && b.climb(append(slices.Clone(chain), c)) {
			return true
		}
	}
	return false
}

func selfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

// signed says whether issuer signed the last certificate of a chain, and may.
func (b *chainBuilder) signed(issuer *x509.Certificate, chain []*x509.Certificate) bool {
	last := chain[len(chain)-1]
	if !bytes.Equal(issuer.RawSubject, last.RawIssuer) || b.left <= 0 {
		return false
	}
	b.left--
	err := mayIssue(issuer, len(chain)-1)
	if err == nil && len(last.UnhandledCriticalExtensions) > 0 {
		err = fmt.Errorf("%s has a critical extension that is not known here", nameOf(last))
	}
	if err == nil {
		if err = checkSignature(issuer, last.SignatureAlgorithm, last.RawTBSCertificate, last.Signature, b.modern); errors.Is(err, errWeakSignature) {
			err = fmt.Errorf("%s is signed with SHA-1, which can be forged", nameOf(last))
		} else if err != nil {
			return false // another authority of that name, perhaps
		}
	}
	if err != nil {
		b.odd = err
		return false
	}
	return true
}

// mayIssue says why a certificate is no authority's for a chain in which as
// many others stand between it and the leaf.
func mayIssue(c *x509.Certificate, between int) error {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA, c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("%s, which signed it, is no authority", nameOf(c))
	case len(c.URIs) > 0:
		// PLCs make certificates for themselves that call themselves authorities.
		// Who trusts such a PLC does not trust it to vouch for others.
		return fmt.Errorf("%s, which signed it, is the certificate of an application", nameOf(c))
	case c.MaxPathLen > 0 && between > c.MaxPathLen, c.MaxPathLenZero && between > 0:
		return fmt.Errorf("%s may not have so many authorities below it", nameOf(c))
	case len(c.UnhandledCriticalExtensions) > 0 || limitsNames(c):
		return fmt.Errorf("%s limits what it may sign in a way that is not checked here", nameOf(c))
	}
	return nil
}

// limitsNames says that an authority's certificate has name constraints.
func limitsNames(c *x509.Certificate) bool {
	return c.PermittedDNSDomainsCritical || len(c.PermittedDNSDomains)+len(c.ExcludedDNSDomains)+
		len(c.PermittedIPRanges)+len(c.ExcludedIPRanges)+len(c.PermittedURIDomains)+len(c.ExcludedURIDomains)+
		len(c.PermittedEmailAddresses)+len(c.ExcludedEmailAddresses) > 0
}

// why says what keeps the chain from being trusted, beyond that nobody has
// said so yet; nil: nothing.
func (b *chainBuilder) why(s *store) error {
	last := b.best[len(b.best)-1]
	switch {
	case b.odd != nil:
		return b.odd
	case len(s.unreadable) > 0:
		return errors.New(s.unreadable[0])
	case !selfIssued(last):
		return fmt.Errorf("the certificate of its issuer %.200q is not in trusted or issuers", last.Issuer.String())
	case len(b.best) > 1:
		return fmt.Errorf("its issuer %s is not among the trusted", nameOf(last))
	}
	return nil
}
