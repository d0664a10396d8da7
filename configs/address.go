package configs

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// brokerURL is a broker's address. Its value has a port always.
func brokerURL() form[string] {
	return form[string]{
		want:   "a broker's address such as mqtt://192.0.2.1:1883 (mqtt, mqtts, ws or wss)",
		quotes: onlyText,
		parse:  parseBroker,
		spec:   schema{"type": "string", "pattern": "^(mqtt|mqtts|ws|wss)://[^@]+$"},
	}
}

func parseBroker(s string) (string, error) {
	if strings.Contains(s, "@") {
		return "", sentence("a user name and a password have no place in the address: use the keys username and password")
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return "", hint("write mqtt://" + s)
	}
	ports := map[string]string{"mqtt": "1883", "mqtts": "8883", "ws": "80", "wss": "443"}
	port, ok := ports[scheme]
	if !ok {
		return "", brokerScheme(scheme, rest)
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return "", addressHint(rest)
	}
	if strings.HasPrefix(scheme, "mqtt") && strings.Trim(u.Path, "/") != "" {
		return "", hint("mqtt and mqtts have no path; the topic goes into the key topic")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", hint("a port is a number from 1 to 65535")
	}
	out := scheme + "://" + net.JoinHostPort(u.Hostname(), port)
	if strings.HasPrefix(scheme, "ws") {
		out += u.EscapedPath()
	}
	return out, nil
}

func brokerScheme(scheme, rest string) error {
	switch scheme {
	case "tcp":
		return hint("write mqtt://" + rest)
	case "ssl", "tls", "mqtt+ssl", "mqtt+tls":
		return hint("write mqtts://" + rest)
	case "http":
		return hint("write ws://" + rest)
	case "https":
		return hint("write wss://" + rest)
	}
	if c := nearest(scheme, []string{"mqtt", "mqtts", "ws", "wss"}); c != "" {
		return hint(fmt.Sprintf("did you mean %s://%s?", c, rest))
	}
	return errForm
}

func addressHint(rest string) error {
	switch {
	case rest == "" || strings.HasPrefix(rest, ":") || strings.HasPrefix(rest, "/"):
		return hint("the host is missing after ://")
	case strings.ContainsAny(rest, " \t"):
		return hint("remove the spaces")
	}
	return hint("a port is a number from 1 to 65535, and an IPv6 address stands in [ ]")
}

// topic is the first level or levels of an uplink's topics.
func topic() form[string] {
	return form[string]{
		want:   `one or more topic levels such as millrace or plants/munich`,
		quotes: onlyText,
		parse: func(s string) (string, error) {
			switch {
			case strings.ContainsAny(s, "+#"):
				return "", hint(`"+" and "#" are for subscriptions`)
			case strings.HasPrefix(s, "$"):
				return "", hint(`topics that begin with "$" are the broker's own`)
			case strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/") || strings.Contains(s, "//"):
				return "", hint(`remove the "/" at its beginning or end, and double ones`)
			case s == "" || len(s) > 512 || strings.ContainsFunc(s, unicode.IsControl):
				return "", errForm
			}
			return s, nil
		},
		spec: schema{"type": "string", "pattern": "^[^$/+#][^+#]*$", "maxLength": 512},
	}
}

// endpointURL is a device's address. Its driver checks what is in it.
func endpointURL() form[string] {
	return form[string]{
		want:   "an address such as tcp://192.0.2.5:502, rtu:///dev/ttyUSB0?baud=9600 or opc.tcp://192.0.2.9:4840",
		quotes: onlyText,
		parse:  func(s string) (string, error) { return parseEndpoint(s, "tcp:// (Modbus TCP) or opc.tcp:// (OPC UA)") },
		spec:   schema{"type": "string", "pattern": `^((tcp|rtu\+tcp|opc\.tcp)://[^@]+|rtu:///.+)$`},
	}
}

// modbusURL is an address that only modbus devices have.
func modbusURL() form[string] {
	return form[string]{
		want:   "an address such as tcp://192.0.2.5:502, rtu+tcp://192.0.2.6:4001 or rtu:///dev/ttyUSB0?baud=9600",
		quotes: onlyText,
		parse:  func(s string) (string, error) { return parseEndpoint(s, "tcp://") },
		spec:   schema{"type": "string", "pattern": `^((tcp|rtu\+tcp)://[^@]+|rtu:///.+)$`},
	}
}

// parseEndpoint refuses what no driver can understand. schemes is what may
// stand before a host.
func parseEndpoint(s, schemes string) (string, error) {
	switch scheme, _, ok := strings.Cut(s, "://"); {
	case scheme == "rtu": // a path may have an @ in it
	case strings.Contains(s, "@"):
		return "", sentence("a user name and a password have no place in the address: use the key auth")
	case ok:
	case strings.HasPrefix(s, "/dev/"):
		return "", hint("write rtu://" + s)
	case strings.HasPrefix(strings.ToLower(s), "com"), strings.HasPrefix(s, "tty"):
		return "", hint("a serial port is written rtu:///dev/ttyUSB0, or by the name that ls /dev/serial/by-id shows")
	case !strings.ContainsAny(s, "/ "):
		return "", hint("write " + schemes + " before it")
	default:
		return "", errForm
	}
	return s, nil
}

// listenAddress is host:port, or empty.
func listenAddress() form[string] {
	return form[string]{
		want: `an address and a port such as 127.0.0.1:8080, or ""`,
		parse: func(s string) (string, error) {
			if s == "" {
				return "", nil
			}
			if n, err := strconv.Atoi(s); err == nil {
				return "", hint(fmt.Sprintf("write 127.0.0.1:%d", n))
			}
			if strings.Contains(s, "://") {
				return "", hint("write it without http://")
			}
			_, port, err := net.SplitHostPort(s)
			if err != nil {
				return "", errForm
			}
			if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
				return "", hint("a port is a number from 1 to 65535")
			}
			return s, nil
		},
		spec: schema{"type": "string", "pattern": `^$|:[0-9]+$`},
	}
}

// driverName is checked against the drivers that there are elsewhere.
func driverName() form[string] {
	f := filled("a driver: modbus or opcua")
	f.spec = schema{"type": "string", "enum": []string{modbusDriver, opcuaDriver}}
	f.free = false
	return f
}
