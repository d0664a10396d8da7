package opcua

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// defaultPort is OPC UA's, registered with IANA.
const defaultPort = "4840"

// policies are the security policies that can be asked for, the strongest
// first. The last two are deprecated (Part 7, 6.6.163 ff.): they rest on SHA-1.
func policies() []string {
	return []string{"Aes256_Sha256_RsaPss", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Basic256", "Basic128Rsa15"}
}

// deprecated says that a policy is used only where a server has no better.
func deprecated(policy string) bool { return policy == "Basic256" || policy == "Basic128Rsa15" }

// policyName cuts what all names of policies begin with off a URI.
func policyName(uri string) string { return strings.TrimPrefix(uri, ua.SecurityPolicyURIPrefix) }

const (
	policyNone = "None"
	policyAuto = "auto"
)

// security is what a device's configuration asks for.
type security struct {
	policy string // policyNone, policyAuto or one of policies
	mode   ua.MessageSecurityMode
}

// parseSecurity reads the keys of a device. Nothing said is auto: a
// connection without security must be asked for.
func parseSecurity(o *protocols.OPCUAOptions) (security, *protocols.FieldError) {
	s := security{policy: o.SecurityPolicy}
	switch {
	case s.policy == "" || strings.EqualFold(s.policy, policyAuto):
		s.policy = policyAuto
	case strings.EqualFold(s.policy, policyNone):
		s.policy = policyNone
	default:
		i := slices.IndexFunc(policies(), func(p string) bool { return sameName(p, s.policy) })
		if i < 0 {
			return s, &protocols.FieldError{Tag: -1, Field: "security.policy", Text: fmt.Sprintf(
				"%q is not a security policy that can be used; take one of auto, None, %s", o.SecurityPolicy, strings.Join(policies(), ", "))}
		}
		s.policy = policies()[i]
	}
	switch o.SecurityMode {
	case "":
		s.mode = ua.MessageSecurityModeInvalid
	case "None":
		s.mode = ua.MessageSecurityModeNone
	case "Sign":
		s.mode = ua.MessageSecurityModeSign
	case "SignAndEncrypt":
		s.mode = ua.MessageSecurityModeSignAndEncrypt
	default:
		return s, &protocols.FieldError{Tag: -1, Field: "security.mode", Text: fmt.Sprintf(
			"%q is not a security mode; take one of None, Sign, SignAndEncrypt", o.SecurityMode)}
	}
	return s, s.fits()
}

// fits says where policy and mode contradict each other.
func (s security) fits() *protocols.FieldError {
	modeNone := s.mode == ua.MessageSecurityModeNone
	if s.policy == policyNone && !modeNone && s.mode != ua.MessageSecurityModeInvalid {
		return &protocols.FieldError{Tag: -1, Field: "security.mode", Text: "with policy None nothing is signed or encrypted; leave mode out, or take policy Basic256Sha256"}
	}
	if s.policy != policyNone && modeNone {
		return &protocols.FieldError{Tag: -1, Field: "security.mode", Text: fmt.Sprintf("with policy %s the mode is Sign or SignAndEncrypt; for no security say policy: None", s.policy)}
	}
	return nil
}

// sameName compares names as people write them: Aes256-Sha256-RsaPss, in any case.
func sameName(a, b string) bool {
	strip := strings.NewReplacer("_", "", "-", "")
	return strings.EqualFold(strip.Replace(a), strip.Replace(b))
}

// parseEndpoint reads a device's endpoint, and returns it with its port.
func parseEndpoint(endpoint string) (*url.URL, error) {
	const want = "write it like opc.tcp://192.0.2.9:4840"
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("%q is no URL; %s", endpoint, want)
	}
	if u.Scheme != "opc.tcp" {
		return nil, fmt.Errorf("%q does not begin with opc.tcp://; %s", endpoint, want)
	}
	if u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("%q wants a host and nothing like user@ or #; %s (user and password belong under auth)", u.Redacted(), want)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), defaultPort)
	}
	return u, nil
}

// errNotOffered is behind every choice that came to nothing.
var errNotOffered = errors.New("the server does not offer")

// choose picks, from what the server offers, the endpoint to connect to.
func (s security) choose(offered []*ua.EndpointDescription, at *url.URL) (*ua.EndpointDescription, error) {
	var best *ua.EndpointDescription
	bestRank := -1
	for _, e := range offered {
		if e == nil || !strings.Contains(e.TransportProfileURI, "uatcp-uasc-uabinary") && e.TransportProfileURI != "" {
			continue
		}
		if rank := s.rank(e, at); rank > bestRank {
			best, bestRank = e, rank
		}
	}
	if best == nil {
		what := "security policy " + s.policy
		if s.policy == policyAuto {
			what = "a security policy that can be used" // auto is never None
		}
		return nil, fmt.Errorf("%w %s%s; it offers: %s; name one of these in security.policy, or have the server offer another", errNotOffered, what, s.modeText(), offers(offered))
	}
	return best, nil
}

// rank is how well an endpoint fits; -1: not at all. What is deprecated comes
// last, encrypting before signing alone, then the policies by our own order:
// the list comes unauthenticated, and so does its SecurityLevel. Last counts
// whether the address is ours, for servers that list one endpoint per network
// card.
func (s security) rank(e *ua.EndpointDescription, at *url.URL) int {
	policy := policyName(e.SecurityPolicyURI)
	strength := 0
	switch {
	case policy == policyNone:
		if s.policy != policyNone || e.SecurityMode != ua.MessageSecurityModeNone {
			return -1
		}
	case s.policy != policyAuto && policy != s.policy:
		return -1
	default:
		i := slices.Index(policies(), policy)
		if i < 0 {
			return -1
		}
		strength = len(policies()) - i
		if !deprecated(policy) {
			strength += 100
		}
		if e.SecurityMode == ua.MessageSecurityModeSignAndEncrypt {
			strength += 10
		}
		if e.SecurityMode != ua.MessageSecurityModeSign && e.SecurityMode != ua.MessageSecurityModeSignAndEncrypt {
			return -1 // a policy that neither signs nor encrypts: some tool's mistake
		}
	}
	if s.mode != ua.MessageSecurityModeInvalid && e.SecurityMode != s.mode {
		return -1
	}
	// Only the last digit is the address's.
	rank := strength * 10
	if u, err := url.Parse(e.EndpointURL); err == nil {
		if u.Host == at.Host {
			rank += 4
		}
		if strings.Trim(u.Path, "/") == strings.Trim(at.Path, "/") {
			rank += 2
		}
	}
	return rank
}

// strength compares the security of endpoints that fit.
func (s security) strength(e *ua.EndpointDescription) int { return s.rank(e, &url.URL{}) / 10 }

func (s security) modeText() string {
	if s.mode == ua.MessageSecurityModeInvalid {
		return ""
	}
	return " with mode " + modeName(s.mode)
}

func modeName(m ua.MessageSecurityMode) string {
	return strings.TrimPrefix(m.String(), "MessageSecurityMode")
}

// offers lists what a server offers, for messages.
func offers(list []*ua.EndpointDescription) string {
	var names []string
	for _, e := range list {
		if e == nil {
			continue
		}
		policy := harmless(policyName(e.SecurityPolicyURI), 100)
		if e.SecurityMode != ua.MessageSecurityModeNone {
			policy += "/" + modeName(e.SecurityMode)
		}
		names = append(names, policy)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names[:min(len(names), 20)], ", ")
}
