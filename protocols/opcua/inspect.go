package opcua

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// Inspection is what a server shows of itself before there is a session, and
// what this gateway makes of it: for a person who decides whether to trust it.
type Inspection struct {
	Endpoint string // with its port
	// Policy and Mode are what a session would use; empty: the server did not
	// answer.
	Policy, Mode string
	// Unchecked says that the device's policy is None: nobody looks at the
	// certificate, which need not even be there.
	Unchecked bool
	// Silent is why the server did not answer, an *protocols.Error; the
	// certificate is then one that was refused earlier. Nil: it answered.
	Silent error

	Certificate  []byte // the server's own, DER; nil: there is none
	Subject      string
	Issuer       string
	From, Until  time.Time // its validity
	Hosts        []string  // the names and addresses that it is for
	Application  string    // its application URI
	KeyBits      int
	SignedWith   string
	SHA1, SHA256 string // fingerprints, in hex

	// TrustedBy is the file that has the certificate accepted: itself, or an
	// authority's. Empty: it is not trusted.
	TrustedBy string
	// Why is what keeps it from being trusted beyond that nobody said so; may
	// be empty.
	Why string
	// Faults are why it is refused even if it is trusted, each a sentence that
	// says what to do.
	Faults []string
	// Tolerated are faults that the configuration lets pass.
	Tolerated []string
	// Notes are worth knowing and no reason to refuse.
	Notes []string
}

// Trusted says that a connection would get past the certificate.
func (i *Inspection) Trusted() bool { return i.TrustedBy != "" && len(i.Faults) == 0 }

// Inspect asks the server of a device for its certificate, without a session
// and without giving anything away, and says what would be said of it at a
// connection. If the server does not answer, it looks for the certificate
// among the rejected ones. It changes no file. The error is an
// *protocols.Error.
func (d *Driver) Inspect(ctx context.Context, dev *protocols.Device) (*Inspection, error) {
	conf, err := d.connConf([]*protocols.Device{dev})
	if err != nil {
		return nil, err
	}
	out := &Inspection{Endpoint: conf.url.String()}
	if conf.security.policy == policyNone {
		out.Unchecked = true
		conf.security = security{policy: policyAuto}
	}
	b := newBus(d, conf)
	ctx, cancel := context.WithTimeout(ctx, conf.timeout)
	defer cancel()
	e, sent, err := d.look(ctx, conf)
	switch {
	case err == nil:
		out.Policy, out.Mode = policyName(e.SecurityPolicyURI), modeName(e.SecurityMode)
	case errors.Is(err, errNotOffered) && out.Unchecked:
		out.Policy = policyNone
		return out, nil
	case errors.Is(err, errNotOffered):
		return nil, b.explain("asking for the certificate", err)
	default:
		out.Silent = b.explain("asking for the certificate", err)
		if e, sent = conf.trust.earlier(conf.url.Hostname()); sent == nil {
			return nil, out.Silent
		}
	}
	want := d.demand(e, conf)
	if out.Silent != nil {
		want.policy = conf.security.policy
	}
	v, err := conf.trust.judge(sent, want)
	if err != nil {
		return nil, b.explain("looking at the certificate", &certError{text: err.Error()})
	}
	out.fill(v, conf.tolerate)
	return out, nil
}

// look asks for the endpoints and returns the one that a session would use.
func (d *Driver) look(ctx context.Context, conf *connConf) (*ua.EndpointDescription, []byte, error) {
	ch, err := openChannel(ctx, conf.url, plainConfig(), conf.timeout, conf.lifetime)
	if err != nil {
		return nil, nil, err
	}
	defer ch.close()
	e, err := discover(ctx, ch, conf)
	if err != nil {
		return nil, nil, err
	}
	return e, e.ServerCertificate, nil
}

// earlier returns the one refused certificate that may be that host's. There
// is nothing but its own word for the application that it is for.
func (t trustList) earlier(host string) (*ua.EndpointDescription, []byte) {
	all, err := (&store{}).certs(t.rejected)
	if err != nil {
		return nil, nil
	}
	fitting := slices.DeleteFunc(slices.Clone(all), func(h held) bool {
		return !slices.ContainsFunc(hostNames(h.Certificate), func(n string) bool { return sameHost(n, host) })
	})
	if len(fitting) == 0 {
		fitting = all
	}
	if len(fitting) != 1 {
		return nil, nil
	}
	e := &ua.EndpointDescription{Server: &ua.ApplicationDescription{}}
	if uris := uriNames(fitting[0].Certificate); len(uris) > 0 {
		e.Server.ApplicationURI = uris[0]
	}
	return e, fitting[0].Raw
}

func (i *Inspection) fill(v *verdict, tolerate []string) {
	c := v.leaf
	i.Certificate = c.Raw
	i.Subject, i.Issuer = c.Subject.String(), c.Issuer.String()
	i.From, i.Until = c.NotBefore.UTC(), c.NotAfter.UTC()
	i.Hosts = hostNames(c)
	if uris := uriNames(c); len(uris) > 0 {
		i.Application = uris[0]
	}
	if key, ok := c.PublicKey.(*rsa.PublicKey); ok {
		i.KeyBits = key.N.BitLen()
	}
	i.SignedWith = c.SignatureAlgorithm.String()
	i.SHA1, i.SHA256 = fingerprints(c.Raw)
	i.TrustedBy = v.by
	if v.known != nil {
		i.Why = v.known.Error()
	}
	for _, f := range v.faults {
		if f.word != "" && slices.Contains(tolerate, f.word) {
			i.Tolerated = append(i.Tolerated, f.text)
		} else {
			i.Faults = append(i.Faults, f.text)
		}
	}
	i.Notes = v.notes
}

// Trust puts a certificate (DER) among those that are accepted as the
// device's server's, and takes it out of the rejected ones. It returns the
// file that it is in.
func (d *Driver) Trust(dev *protocols.Device, certificate []byte) (string, error) {
	conf, err := d.connConf([]*protocols.Device{dev})
	if err != nil {
		return "", err
	}
	leaf, err := x509.ParseCertificate(certificate)
	if err != nil {
		return "", fmt.Errorf("opcua: %w", err)
	}
	path, err := conf.trust.accept(leaf)
	if err != nil {
		return "", fmt.Errorf("putting the certificate into %s: %w", filepath.Clean(conf.trust.trusted), err)
	}
	return path, nil
}
