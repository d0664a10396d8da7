package modbus

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"unicode"
)

// defaultPort is the port that IANA assigned to Modbus TCP.
const defaultPort = "502"

// linkKind is what carries the frames.
type linkKind uint8

const (
	linkTCP    linkKind = iota // Modbus TCP
	linkSerial                 // RTU on a serial line
	linkRTUTCP                 // RTU frames over TCP, to a serial device server
)

func (k linkKind) scheme() string { return [...]string{"tcp", "rtu", "rtu+tcp"}[k] }

// endpoint is where a device is: what the URL in the configuration says.
type endpoint struct {
	kind linkKind
	addr string // host:port, or the serial port's path
	line line   // of a serial line
}

// key is what two endpoints have in common that are one connection.
func (e endpoint) key() string { return e.kind.scheme() + "://" + e.addr }

// String is the endpoint as messages name it.
func (e endpoint) String() string {
	if e.kind == linkSerial {
		return e.key() + " (" + e.line.String() + ")"
	}
	return e.key()
}

// parseEndpoint returns what an endpoint's URL says, normalised: two ways to
// write the same endpoint have the same key. The error is in words for the
// user.
func parseEndpoint(s string) (endpoint, error) {
	const want = "expected tcp://HOST:PORT, rtu+tcp://HOST:PORT or rtu:///dev/PORT?baud=9600&parity=none&stop=1"
	if strings.TrimSpace(s) != s || s == "" {
		return endpoint{}, fmt.Errorf("%q is empty or has spaces around it: %s", s, want)
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Host == "" && u.Opaque != "" {
		return endpoint{}, fmt.Errorf("%q is not a URL: %s", s, want)
	}
	switch strings.ToLower(u.Scheme) {
	case "tcp":
		addr, err := parseHostPort(u, "tcp://HOST:PORT, such as tcp://192.0.2.5:502")
		return endpoint{kind: linkTCP, addr: addr}, err
	case "rtu+tcp":
		addr, err := parseHostPort(u, "rtu+tcp://HOST:PORT, such as rtu+tcp://192.0.2.5:4001")
		return endpoint{kind: linkRTUTCP, addr: addr}, err
	case "rtu":
		return parseSerial(u)
	}
	return endpoint{}, fmt.Errorf("the driver modbus does not know %s://: %s", u.Scheme, want)
}

func parseHostPort(u *url.URL, want string) (string, error) {
	want = "expected " + want
	switch {
	case u.Hostname() == "":
		return "", fmt.Errorf("%q names no host: %s", u.Redacted(), want)
	case !validHost(u.Hostname()):
		return "", fmt.Errorf("%q is neither a host name nor an IP address: %s", u.Hostname(), want)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/":
		return "", fmt.Errorf("%q has more than a host and a port: %s", u.Redacted(), want)
	}
	port := u.Port()
	switch {
	case port != "":
	case strings.HasPrefix(want, "expected rtu+tcp"):
		return "", fmt.Errorf("%q names no port: device servers have no usual one, look it up on its page; %s", u.Redacted(), want)
	default:
		port = defaultPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("port %q is not a number from 1 to 65535: %s", port, want)
	}
	host := strings.ToLower(u.Hostname())
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String() // [::1] and [0:0:0:0:0:0:0:1] are one
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
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

// windowsPort says that s is such as COM3.
func windowsPort(s string) bool {
	const com = "COM"
	if len(s) <= len(com) || !strings.EqualFold(s[:len(com)], com) {
		return false
	}
	_, err := strconv.ParseUint(s[len(com):], 10, 8)
	return err == nil
}

func parseSerial(u *url.URL) (endpoint, error) {
	const want = "expected rtu:///dev/PORT, such as rtu:///dev/ttyUSB0?baud=9600&parity=none&stop=1"
	switch {
	case windowsPort(u.Host), windowsPort(strings.Trim(u.Path, "/")):
		return endpoint{}, fmt.Errorf("%q is a name of Windows: here serial ports are files, listed by ls /dev/serial/by-id /dev/tty[SU]*: %s", u.Redacted(), want)
	case u.Host != "":
		three := url.URL{Scheme: "rtu", Path: "/" + u.Host + u.Path, RawQuery: u.RawQuery}
		if u.Path == "" { // a name alone
			three.Path = "/dev/" + u.Host
		}
		return endpoint{}, fmt.Errorf("%q has two slashes before the port's path: write three, %s", u.Redacted(), three.String())
	case u.User != nil || u.Fragment != "":
		return endpoint{}, fmt.Errorf("%q has more than a path and settings: %s", u.Redacted(), want)
	case u.Path == "" || strings.HasSuffix(u.Path, "/") || path.Clean(u.Path) == "/":
		return endpoint{}, fmt.Errorf("%q names no serial port: %s", u.Redacted(), want)
	case strings.ContainsFunc(u.Path, unicode.IsControl):
		return endpoint{}, fmt.Errorf("%q has a control character in the port's path: %s", u.Redacted(), want)
	}
	settings, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return endpoint{}, fmt.Errorf("the settings %q are not NAME=VALUE&NAME=VALUE: %s", u.RawQuery, want)
	}
	l, err := parseLine(settings)
	return endpoint{kind: linkSerial, addr: path.Clean(u.Path), line: l}, err
}
