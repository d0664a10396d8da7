package opcua

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// explain turns what went wrong into an error of the driver's contract.
// doing is what was tried, such as "connecting".
func (b *bus) explain(doing string, err error) *protocols.Error {
	if known, ok := errors.AsType[*protocols.Error](err); ok {
		return known
	}
	kind, reason, text := b.classify(err)
	return &protocols.Error{Kind: kind, Reason: reason, Text: b.conf.url.Host + ": " + doing + ": " + harmless(text, maxErrorText), Err: err}
}

// maxErrorText is how much is said of an error: a server may have chosen it.
const maxErrorText = 4000

func (b *bus) classify(err error) (protocols.ErrorKind, protocols.Reason, string) {
	var (
		status    ua.StatusCode
		untrusted *untrustedError
		cert      *certError
		user      *userError
		dns       *net.DNSError
		netErr    net.Error
		timeout   = fmt.Sprintf("no answer within %s; check the address and the network, or raise the device's timeout", b.conf.timeout)
	)
	switch {
	case errors.As(err, &untrusted), errors.As(err, &cert), errors.As(err, &user), isRefusal(err):
		return protocols.KindUntrusted, protocols.Offline, err.Error()
	case errors.Is(err, errBroken), errors.Is(err, errPanicked):
		return protocols.KindNotConnected, protocols.Malformed, err.Error()
	case errors.Is(err, errShutOut):
		return protocols.KindUntrusted, protocols.Offline, fmt.Sprintf("the server closed the connection when the secure channel was opened; it may not trust this gateway: on the server, mark its certificate as trusted: %s", b.driver.ownText())
	case errors.Is(err, context.Canceled):
		return protocols.KindNotConnected, protocols.Offline, "stopped"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return protocols.KindTimeout, protocols.Timeout, timeout
	case errors.As(err, &status):
		return b.classifyStatus(status, timeout)
	case errors.As(err, &dns):
		return protocols.KindNotConnected, protocols.Offline, fmt.Sprintf("the name %q is not known; check the endpoint, or give the server's IP address", dns.Name)
	case errors.Is(err, syscall.ECONNREFUSED):
		return protocols.KindNotConnected, protocols.Offline, "nothing listens there; check host and port, and that the OPC UA server runs"
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return protocols.KindNotConnected, protocols.Offline, "the connection broke"
	case errors.As(err, &netErr):
		return protocols.KindNotConnected, protocols.Offline, netErr.Error()
	}
	return protocols.KindMalformed, protocols.Malformed, err.Error()
}

// isRefusal says that we ourselves would not go on.
func isRefusal(err error) bool {
	for _, known := range []error{errNotOffered, errNoAnonymous, errNoUsername, errNoUserCert, errClearText, errUnsigned, errUnproven, errDowngraded} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// refused says that the server does not let the user in.
func (u user) refused(symbol string) string {
	switch {
	case u.cert != "":
		s1 := ""
		if leaf, _, err := loadUser(u.cert, u.key); err == nil {
			s1, _ = fingerprints(leaf.Raw)
			s1 = ", SHA-1 " + s1
		}
		return fmt.Sprintf("the server refuses the user's certificate %s%s (%s); on the server, mark it as trusted for users, and check the user's rights", u.cert, s1, symbol)
	case u.name != "":
		return fmt.Sprintf("the server refuses user %q (%s); check auth.username and auth.password, and the user's rights on the server", u.name, symbol)
	}
	return fmt.Sprintf("the server refuses an anonymous session (%s); give auth: {username: …, password: …} or auth: {cert: …, key: …}, or have the server allow it", symbol)
}

func (b *bus) classifyStatus(status ua.StatusCode, timeout string) (protocols.ErrorKind, protocols.Reason, string) {
	t := b.driver.symbols
	said := "the server answered " + t.statusText(status)
	switch status & symbolMask {
	case ua.StatusBadTimeout:
		return protocols.KindTimeout, protocols.Timeout, timeout
	case ua.StatusBadUserAccessDenied, ua.StatusBadIdentityTokenRejected, ua.StatusBadIdentityTokenInvalid, ua.StatusBadUserSignatureInvalid:
		return protocols.KindUntrusted, protocols.Offline, b.conf.user.refused(string(t.symbol(status)))
	case ua.StatusBadSecurityChecksFailed, ua.StatusBadCertificateUntrusted, ua.StatusBadCertificateInvalid, ua.StatusBadCertificateTimeInvalid,
		ua.StatusBadCertificateURIInvalid, ua.StatusBadCertificateUseNotAllowed, ua.StatusBadCertificateHostNameInvalid,
		ua.StatusBadCertificateChainIncomplete, ua.StatusBadCertificateRevoked, ua.StatusBadCertificateIssuerRevoked:
		return protocols.KindUntrusted, protocols.Offline, fmt.Sprintf("the server does not accept this gateway's certificate (%s); on the server, mark it as trusted: %s", t.symbol(status), b.driver.ownText())
	case ua.StatusBadTooManySessions:
		return protocols.KindNotConnected, protocols.Offline, fmt.Sprintf("the server has no session left (%s): close other clients of it, wait a minute for sessions that were not closed, or raise its limit of sessions", t.symbol(status))
	case ua.StatusBadTooManySubscriptions:
		return protocols.KindRefused, t.reason(status), fmt.Sprintf("the server has no subscription left (%s): give more tags the same interval, close other clients of it, or take mode: poll for some devices", t.symbol(status))
	case ua.StatusBadSessionIDInvalid, ua.StatusBadSessionClosed, ua.StatusBadSessionNotActivated,
		ua.StatusBadSecureChannelIDInvalid, ua.StatusBadSecureChannelClosed, ua.StatusBadSecureChannelTokenUnknown, ua.StatusBadTCPSecureChannelUnknown,
		ua.StatusBadConnectionClosed, ua.StatusBadConnectionRejected, ua.StatusBadNotConnected, ua.StatusBadServerNotConnected,
		ua.StatusBadShutdown, ua.StatusBadServerHalted, ua.StatusBadCommunicationError, ua.StatusBadNoSubscription, ua.StatusBadSubscriptionIDInvalid,
		ua.StatusBadTCPServerTooBusy, ua.StatusBadTCPNotEnoughResources:
		return protocols.KindNotConnected, protocols.Offline, said
	case ua.StatusBadDecodingError, ua.StatusBadEncodingLimitsExceeded:
		return protocols.KindMalformed, protocols.Malformed, said
	}
	return protocols.KindRefused, t.reason(status), said
}

// wantsFewer says that a request asked for more than the server takes at once.
func wantsFewer(err error) bool {
	var status ua.StatusCode
	if !errors.As(err, &status) {
		return false
	}
	switch status & symbolMask {
	case ua.StatusBadTooManyOperations, ua.StatusBadRequestTooLarge, ua.StatusBadResponseTooLarge,
		ua.StatusBadEncodingLimitsExceeded, ua.StatusBadTCPMessageTooLarge:
		return true
	}
	return false
}
