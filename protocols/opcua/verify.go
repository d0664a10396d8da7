package opcua

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // old authorities sign with it; where that is accepted is said below
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"millrace/protocols"
)

// demand is what a server's certificate is held against.
type demand struct {
	host     string   // of the endpoint, as configured
	uri      string   // the application that the server says it is
	policy   string   // the security policy, without its prefix
	tolerate []string // faults that may pass: protocols.TolerateHostName and its like
	now      time.Time
}

// fault is one thing that is wrong with a certificate.
type fault struct {
	word string // the word of security.tolerate that lets it pass; empty: nothing does
	text string // what is wrong, and what to do
	cuts bool   // a connection that stands already is to end
}

// verdict is what the checks of Part 4, 6.1.3 come to.
type verdict struct {
	leaf   *x509.Certificate
	chain  []*x509.Certificate // the leaf and its issuers, as far as they are known
	by     string              // the file in trusted that accepts it; empty: it is not trusted
	pinned bool                // that file holds the leaf itself, not an authority
	known  error               // why by is empty, where there is more to say
	faults []fault
	notes  []string // nothing wrong, but worth saying: sentences
}

// alone says that the certificate is or can be trusted by itself, whoever
// issued it.
func (v *verdict) alone() bool { return v.pinned || v.by == "" }

// clockSet is the time before which a gateway's clock cannot be right: it has
// no battery, and nobody has set it yet.
func clockSet(now time.Time) bool { return now.Year() >= 2020 }

// maxServerCerts is how large a server's certificate may be, with its chain:
// they have a few kilobytes each. What is refused is kept on the disk.
const maxServerCerts = 256 << 10

var errNoCertificate = errors.New("it sent none")

// judge holds the certificate that a server sent (or several: a chain) against
// the trust list and the demand. An error means that there is nothing to judge.
func (t trustList) judge(sent []byte, want demand) (*verdict, error) {
	if len(sent) > maxServerCerts {
		return nil, fmt.Errorf("the server's certificate and its chain are more than %d KiB; have a new one made on the server", maxServerCerts>>10)
	}
	certs, err := x509.ParseCertificates(sent)
	if err == nil && len(certs) == 0 {
		err = errNoCertificate
	}
	if err != nil {
		return nil, fmt.Errorf("the server's certificate cannot be read: %w; have a new one made on the server", err)
	}
	leaf := certs[0]
	if _, ok := leaf.PublicKey.(*rsa.PublicKey); !ok {
		return nil, fmt.Errorf("the server's certificate has a %s key; OPC UA's policies here want RSA: have one with an RSA key made on the server", leaf.PublicKeyAlgorithm)
	}
	s, err := t.read()
	if err != nil {
		return nil, err
	}
	v := &verdict{leaf: leaf}
	b := chainBuilder{store: s, sent: certs[1:min(len(certs), maxChain)], modern: !deprecated(want.policy)}
	b.build(leaf)
	v.chain = b.best
	v.by = s.holds(leaf.Raw)
	v.pinned = v.by != ""
	if !v.pinned && b.anchor != "" {
		v.by = b.anchor
	}
	if v.by == "" {
		v.known = b.why(s)
	}
	v.checkKey(want)
	v.checkRevocation(s, want)
	v.checkTime(want)
	v.checkHost(want)
	v.checkURI(want)
	v.checkUsage()
	return v, nil
}

// refusal is the faults that nothing tolerates, in one line; nil: there are none.
func (v *verdict) refusal(tolerate []string) error {
	var texts []string
	for _, f := range v.faults {
		if f.word == "" || !slices.Contains(tolerate, f.word) {
			texts = append(texts, f.text)
		}
	}
	if len(texts) == 0 {
		return nil
	}
	s1, _ := fingerprints(v.leaf.Raw)
	return &certError{text: fmt.Sprintf("the server's certificate %s, SHA-1 %s, is refused: %s", nameOf(v.leaf), s1, strings.Join(texts, "; "))}
}

// certError says what is wrong with a certificate that may well be the
// server's.
type certError struct{ text string }

func (e *certError) Error() string { return e.text }

func (v *verdict) wrong(word, format string, args ...any) {
	v.faults = append(v.faults, fault{word: word, text: fmt.Sprintf(format, args...)})
}

// orTolerate is the second way out of a fault.
func orTolerate(word string) string { return "security: {tolerate: [" + word + "]}" }

// keyLimits are how long keys may be (Part 7, 6.6: the profiles' limits).
func keyLimits(policy string) (least, most int) {
	if deprecated(policy) {
		return 1024, 2048
	}
	return 2048, 4096
}

// keyFault says why a key cannot be used with a policy; empty: it can.
func keyFault(key *rsa.PublicKey, policy string) string {
	least, most := keyLimits(policy)
	if bits := key.N.BitLen(); bits < least || bits > most {
		return fmt.Sprintf("its key has %d bits, and policy %s wants %d to %d", bits, policy, least, most)
	}
	return ""
}

func (v *verdict) checkKey(want demand) {
	key, _ := v.leaf.PublicKey.(*rsa.PublicKey)
	if text := keyFault(key, want.policy); text != "" {
		v.wrong("", "%s (have a new certificate made on the server, or name another security.policy)", text)
	}
	// The signature of a certificate that is trusted by itself proves nothing:
	// its bytes were compared. In chains the builder wants SHA-2.
	if v.alone() && !deprecated(want.policy) && weakSignature(v.leaf.SignatureAlgorithm) {
		v.notes = append(v.notes, fmt.Sprintf("the server's certificate %s is signed with %s, which is no longer thought safe; have a new one made when you can", nameOf(v.leaf), v.leaf.SignatureAlgorithm))
	}
}

func weakSignature(a x509.SignatureAlgorithm) bool {
	return a == x509.SHA1WithRSA || a == x509.ECDSAWithSHA1 || a == x509.MD5WithRSA || a == x509.MD2WithRSA
}

func (v *verdict) checkTime(want demand) {
	if !clockSet(want.now) {
		v.notes = append(v.notes, "the gateway's clock is not set ("+day(want.now)+"), so whether the server's certificate is out of date was not checked; have the gateway get the time (NTP)")
		return
	}
	for i, c := range v.chain {
		whose := "it"
		if i > 0 {
			if v.alone() {
				break
			}
			whose = "the certificate of its issuer " + nameOf(c)
		}
		switch {
		case want.now.After(c.NotAfter):
			v.wrong(protocols.TolerateExpired, "%s expired on %s (have it renewed, or %s)", whose, day(c.NotAfter), orTolerate(protocols.TolerateExpired))
		case want.now.Before(c.NotBefore):
			v.wrong(protocols.TolerateExpired, "%s is valid from %s on, and the gateway's clock says %s (set whichever clock is wrong, or %s)",
				whose, minute(c.NotBefore), minute(want.now), orTolerate(protocols.TolerateExpired))
		}
	}
}

func day(t time.Time) string    { return t.UTC().Format(time.DateOnly) }
func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// checkHost compares the endpoint's host with the names in the certificate.
// That is done for certificates that are trusted by themselves too: two
// machines of one kind often have each other's, copied with the disk.
func (v *verdict) checkHost(want demand) {
	names := hostNames(v.leaf)
	if slices.ContainsFunc(names, func(n string) bool { return sameHost(n, want.host) }) || v.leaf.VerifyHostname(want.host) == nil {
		return
	}
	// Loopback leads to this machine whatever its name.
	if own, err := os.Hostname(); err == nil && isLoopback(want.host) &&
		slices.ContainsFunc(names, func(n string) bool { return sameHost(n, own) || isLoopback(n) }) {
		return
	}
	said, use := "names no host", "have one made that does"
	if len(names) > 0 {
		said, use = "is for "+quoted(names), "write that name into the endpoint"
	}
	v.wrong(protocols.TolerateHostName, "it %s, and the endpoint says %q (%s, or %s)", said, want.host, use, orTolerate(protocols.TolerateHostName))
}

// hostNames are the hosts that a certificate is for: those it lists, or the
// common name where it lists none.
func hostNames(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 && c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	return names
}

// sameHost compares host names as people and PLCs write them: in any case,
// addresses in any form, and addresses that stand where names should.
func sameHost(a, b string) bool {
	if ia, ib := net.ParseIP(a), net.ParseIP(b); ia != nil || ib != nil {
		return ia.Equal(ib)
	}
	return a != "" && strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return ip.IsLoopback() || strings.EqualFold(host, "localhost")
}

func quoted(list []string) string {
	out := make([]string, 0, 5)
	for i, s := range list {
		if i == 4 && len(list) > 5 {
			out = append(out, fmt.Sprintf("and %d more", len(list)-i))
			break
		}
		out = append(out, fmt.Sprintf("%.100q", s))
	}
	return strings.Join(out, ", ")
}

// checkURI compares the application in the certificate (its only URI) with
// the one that the server's endpoint names.
func (v *verdict) checkURI(want demand) {
	uris := uriNames(v.leaf)
	switch {
	case slices.Contains(uris, want.uri) && want.uri != "":
	case len(uris) == 0:
		v.wrong(protocols.TolerateApplicationURI, "it names no application, and the server says that it is %.200q (have a new one made on the server, or %s)",
			want.uri, orTolerate(protocols.TolerateApplicationURI))
	default:
		v.wrong(protocols.TolerateApplicationURI, "it is for the application %s, and the server says that it is %.200q (have a new one made on the server, or %s)",
			quoted(uris), want.uri, orTolerate(protocols.TolerateApplicationURI))
	}
}

func uriNames(c *x509.Certificate) []string {
	var out []string
	for _, u := range c.URIs {
		out = append(out, u.String())
	}
	return out
}

// checkUsage looks whether an authority meant the certificate for a server.
// PLCs that make their own often say nonsense there: where the certificate is
// trusted by itself, that is no more than a note.
func (v *verdict) checkUsage() {
	var text string
	c := v.leaf
	canSign := c.KeyUsage == 0 || c.KeyUsage&x509.KeyUsageDigitalSignature != 0
	canWrap := c.KeyUsage == 0 || c.KeyUsage&(x509.KeyUsageKeyEncipherment|x509.KeyUsageDataEncipherment) != 0
	server := len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 ||
		slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
	switch {
	case !canSign || !canWrap:
		text = "its key usage does not allow signing and encrypting"
	case !server:
		text = "its issuer did not make it for a server (extended key usage)"
	default:
		return
	}
	if v.alone() {
		v.notes = append(v.notes, "the server's certificate "+nameOf(c)+" is odd: "+text)
		return
	}
	v.wrong("", "%s (have the right kind issued, or trust this one by itself: millrace trust)", text)
}

// checkRevocation looks whether an issuer has taken back a certificate of the
// chain. A plant with an authority of its own seldom hands out revocation
// lists, so an issuer without one is accepted, with a note. A list that was
// put there is meant: if it is out of date, nobody knows what was revoked
// since, and the connection is refused until there is a new one or the
// configuration tolerates it. The same holds for one that cannot be read:
// nobody knows whose it is, and whom it takes back.
func (v *verdict) checkRevocation(s *store, want demand) {
	if len(v.chain) > 1 && len(s.unreadableLists) > 0 {
		v.wrong(protocols.TolerateRevocation, "%s (put a whole one there, or %s)", s.unreadableLists[0], orTolerate(protocols.TolerateRevocation))
	}
	for i := range v.chain[:len(v.chain)-1] {
		child, issuer := v.chain[i], v.chain[i+1]
		list, named := newestList(s.lists, issuer, !deprecated(want.policy))
		switch {
		case list == nil && named:
			v.wrong(protocols.TolerateRevocation, "the revocation list of %s is not signed by it (fetch the right one into crl, or %s)", nameOf(issuer), orTolerate(protocols.TolerateRevocation))
		case list == nil:
			if !v.alone() {
				v.notes = append(v.notes, fmt.Sprintf("there is no revocation list of %s: a certificate that it takes back stays accepted; put its list into the folder crl of trusted or issuers", nameOf(issuer)))
			}
		case revoked(list, child):
			whose := "it was revoked"
			if i > 0 {
				whose = "the certificate of its issuer " + nameOf(child) + " was revoked"
			}
			v.faults = append(v.faults, fault{text: fmt.Sprintf("%s by %s (have a new one issued)", whose, nameOf(issuer)), cuts: true})
		case clockSet(want.now) && !list.NextUpdate.IsZero() && want.now.After(list.NextUpdate):
			v.wrong(protocols.TolerateRevocation, "the revocation list of %s was good until %s (put its new one into crl, or %s)",
				nameOf(issuer), day(list.NextUpdate), orTolerate(protocols.TolerateRevocation))
		case clockSet(want.now) && !list.NextUpdate.IsZero() && want.now.After(list.NextUpdate.Add(-listWarning)):
			v.notes = append(v.notes, fmt.Sprintf("the revocation list of %s is good only until %s: put its new one into crl before that", nameOf(issuer), day(list.NextUpdate)))
		}
		if v.alone() {
			break // who may sign its issuer is of no interest
		}
	}
}

// listWarning is how long before its end a revocation list is missed.
const listWarning = 7 * 24 * time.Hour

// newestList returns the newest revocation list that the issuer has signed;
// named says that there is one in its name.
func newestList(lists []*x509.RevocationList, issuer *x509.Certificate, modern bool) (newest *x509.RevocationList, named bool) {
	for _, l := range lists {
		if !bytes.Equal(l.RawIssuer, issuer.RawSubject) || isDelta(l) {
			continue
		}
		named = true
		if checkSignature(issuer, l.SignatureAlgorithm, l.RawTBSRevocationList, l.Signature, modern) != nil {
			continue
		}
		if newest == nil || l.ThisUpdate.After(newest.ThisUpdate) {
			newest = l
		}
	}
	return newest, named
}

// isDelta says that a list has only what came to another one (RFC 5280, 5.2.4).
func isDelta(l *x509.RevocationList) bool {
	for _, e := range l.Extensions {
		if e.Id.Equal([]int{2, 5, 29, 27}) {
			return true
		}
	}
	return false
}

func revoked(l *x509.RevocationList, c *x509.Certificate) bool {
	return slices.ContainsFunc(l.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool {
		// removeFromCRL (8) takes a revocation back.
		return e.SerialNumber != nil && e.SerialNumber.Cmp(c.SerialNumber) == 0 && e.ReasonCode != 8
	})
}

var errWeakSignature = errors.New("signed with an algorithm that can be forged")

// checkSignature is x509's, with SHA-1 where an old policy allows it: x509
// itself refuses that always.
func checkSignature(issuer *x509.Certificate, alg x509.SignatureAlgorithm, signed, signature []byte, modern bool) error {
	if alg != x509.SHA1WithRSA {
		return issuer.CheckSignature(alg, signed, signature)
	}
	key, ok := issuer.PublicKey.(*rsa.PublicKey)
	if modern || !ok {
		return errWeakSignature
	}
	sum := sha1.Sum(signed) //nolint:gosec // see the import
	return rsa.VerifyPKCS1v15(key, crypto.SHA1, sum[:], signature)
}
