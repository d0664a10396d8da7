package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// LinkError is why there is no session with a broker, in words for people:
// which uplink, which broker, what happened, and what to check. It never
// holds a password.
type LinkError struct {
	Text string
	Err  error // the cause

	refused bool
}

// Refusal says that the broker answered, and said no: it will hardly say
// something else soon.
func (e *LinkError) Refusal() bool { return e.refused }

func (e *LinkError) Error() string { return e.Text }

func (e *LinkError) Unwrap() error { return e.Err }

var (
	errSessionOver  = errors.New("the session with the broker has ended")
	errNotConnected = errors.New("not connected to the broker")
	errNoAck        = errors.New("the broker acknowledged nothing in time")
	errNoFarewell   = errors.New("the broker did not take the last messages before the stop; they are kept and sent again")
	errSilent       = errors.New("the broker says nothing any more")
	errStopped      = errors.New("stopped")
)

// refused explains why no session could be had.
func (u *Uplink) refused(broker *url.URL, err error) *LinkError {
	return &LinkError{Err: err, Text: fmt.Sprintf("uplink %s: no connection to %s: %s", u.o.Name, broker, u.explain(broker, err)), refused: u.explainRefusal(err) != ""}
}

// explain puts the failure of an attempt to connect into words.
func (u *Uplink) explain(broker *url.URL, err error) string {
	if text := u.explainRefusal(err); text != "" {
		return text
	}
	if text := u.explainTLS(broker, err); text != "" {
		return text
	}
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled):
		return "connecting was stopped"
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("the name %s is unknown; check it, or the gateway's name servers", dns.Name)
	case errors.As(err, &dns):
		return fmt.Sprintf("the name server did not answer for %s (%v); check the gateway's network", dns.Name, dns.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there (connection refused); check that the broker runs, and host and port"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no route to it; check the address, cable and gateway settings"
	case isTimeout(err):
		return fmt.Sprintf("no answer within %v; check the address, and firewalls on the way", u.o.ConnectTimeout)
	case strings.Contains(err.Error(), "websocket: bad handshake"):
		return fmt.Sprintf("there is a web server, but no WebSocket at %s; check the path", broker.Path)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the other side closed the connection before it signed us on; check that this port speaks " + broker.Scheme + hint(isSecure(broker), " and whether the broker wants a client certificate", " (with TLS it would be mqtts)")
	}
	return bare(err)
}

func hint(choose bool, yes, no string) string {
	if choose {
		return yes
	}
	return no
}

// explainRefusal is for a broker that answered, and said no.
func (u *Uplink) explainRefusal(err error) string {
	switch {
	case errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword):
		return "the broker refused user name or password; check username and password"
	case errors.Is(err, packets.ErrorRefusedNotAuthorised):
		if u.o.Username == "" {
			return "the broker lets nobody in without a user name; set username and password"
		}
		return fmt.Sprintf("the broker does not let user %s in; check username and password, and its rights at the broker", u.o.Username)
	case errors.Is(err, packets.ErrorRefusedIDRejected):
		return fmt.Sprintf("the broker refused the client id %q; set another client_id, or allow it at the broker", u.o.ClientID)
	case errors.Is(err, packets.ErrorRefusedServerUnavailable):
		return "the broker says it is not available just now (it may be starting, or full)"
	case errors.Is(err, packets.ErrorRefusedBadProtocolVersion):
		return "the broker does not speak MQTT 3.1.1"
	}
	return ""
}

func (u *Uplink) explainTLS(broker *url.URL, err error) string {
	var (
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		name    x509.HostnameError
		noTLS   tls.RecordHeaderError
	)
	text := err.Error()
	switch {
	case errors.As(err, &unknown):
		return "its certificate was issued by nobody we trust; set tls.ca to the certificate of its issuer"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("its certificate is not valid today (%s); renew it, or check the gateway's clock", invalid.Detail)
	case errors.As(err, &invalid):
		return fmt.Sprintf("its certificate is not valid: %v", invalid)
	case errors.As(err, &name):
		return fmt.Sprintf("its certificate is for another name (%v); use a name that the certificate holds in the broker's URL", name)
	case errors.As(err, &noTLS):
		return "this port does not speak TLS; check the port, or use " + strings.TrimSuffix(broker.Scheme, "s") + "://"
	case strings.Contains(text, "tls: certificate required"):
		return "the broker wants a client certificate; set tls.cert and tls.key"
	case strings.Contains(text, "remote error: tls:"):
		if u.o.TLS.Cert == "" {
			return fmt.Sprintf("the broker broke off the TLS handshake (%s); it may want a client certificate: set tls.cert and tls.key", afterLast(text, "tls: "))
		}
		return fmt.Sprintf("the broker did not accept our certificate %s (%s); check that its issuer is known to the broker", u.o.TLS.Cert, afterLast(text, "tls: "))
	case strings.Contains(text, "tls: protocol version not supported"), strings.Contains(text, "tls: server selected unsupported protocol version"):
		return "the broker speaks only TLS older than 1.2, which is not secure"
	}
	return ""
}

// lostWords explains why a session ended.
func (u *Uplink) lostWords(broker *url.URL, err error) string {
	if errors.Is(err, errReturn) {
		return fmt.Sprintf("uplink %s: leaving %s, because the first broker answers again", u.o.Name, broker)
	}
	return fmt.Sprintf("uplink %s: connection to %s lost: %s", u.o.Name, broker, u.lostWhy(err))
}

// lostWhy is why, without the names.
func (u *Uplink) lostWhy(err error) string {
	what := bare(err)
	switch {
	case errors.Is(err, errNoAck):
		what = fmt.Sprintf("the broker acknowledged nothing for %v; the network or the broker hangs", u.o.AckTimeout)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		what = "the broker closed it"
	case errors.Is(err, errHostOffline):
		what = fmt.Sprintf("the primary host %s is offline; the data waits in the buffer", u.o.Sparkplug.PrimaryHost)
	case errors.Is(err, errSilent):
		what = "the broker no longer answers; the network or the broker hangs"
	case isTimeout(err):
		what = "sending took too long; the network or the broker hangs"
	}
	return what
}

// bare returns the text of err without what paho puts before it.
func bare(err error) string {
	return strings.TrimPrefix(err.Error(), packets.ErrorNetworkError.Error()+" : ")
}

func afterLast(s, sep string) string {
	return s[strings.LastIndex(s, sep)+len(sep):]
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}
