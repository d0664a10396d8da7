package modbus

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// defaultPort is the port that IANA assigned to Modbus TCP.
const defaultPort = "502"

// parseEndpoint returns the host:port of an endpoint, normalised: two ways
// to write the same endpoint give the same text. The error is in words for
// the user.
func parseEndpoint(s string) (string, error) {
	const want = "expected tcp://HOST:PORT, such as tcp://192.0.2.5:502"
	if strings.TrimSpace(s) != s || s == "" {
		return "", fmt.Errorf("%q is empty or has spaces around it: %s", s, want)
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Host == "" && u.Opaque != "" {
		return "", fmt.Errorf("%q is not a URL: %s", s, want)
	}
	switch strings.ToLower(u.Scheme) {
	case "tcp":
	case "rtu", "rtu+tcp":
		return "", fmt.Errorf("%s:// is not in this version of Millrace: only Modbus TCP is; %s", u.Scheme, want)
	default:
		return "", fmt.Errorf("the driver modbus does not know %s://: %s", u.Scheme, want)
	}
	switch {
	case u.Hostname() == "":
		return "", fmt.Errorf("%q names no host: %s", s, want)
	case !validHost(u.Hostname()):
		return "", fmt.Errorf("%q is neither a host name nor an IP address: %s", u.Hostname(), want)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/":
		return "", fmt.Errorf("%q has more than a host and a port: %s", u.Redacted(), want)
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("port %q is not a number from 1 to 65535: %s", port, want)
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), strconv.FormatUint(n, 10)), nil
}

// validHost says that s may be an IP address or a name.
func validHost(s string) bool {
	if strings.Contains(s, ":") {
		_, err := netip.ParseAddr(s)
		return err == nil
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune(`%[]/\?#@<>"`, r)
	})
}
