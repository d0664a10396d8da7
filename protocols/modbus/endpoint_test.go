package modbus

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
)

func TestParseSerialEndpoint(t *testing.T) {
	t.Parallel()
	plain := line{baud: 9600, parity: 'N', stop: 1}
	tests := []struct {
		text string
		want endpoint
		name string // as messages name it
	}{
		{"rtu:///dev/ttyUSB0", endpoint{linkSerial, "/dev/ttyUSB0", plain}, "rtu:///dev/ttyUSB0 (9600 8N1)"},
		{"RTU:///dev//./ttyS1?", endpoint{linkSerial, "/dev/ttyS1", plain}, "rtu:///dev/ttyS1 (9600 8N1)"},
		{
			"rtu:///dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0?baud=19200&parity=even&stop=1&data=8",
			endpoint{linkSerial, "/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0", line{baud: 19200, parity: 'E', stop: 1}},
			"rtu:///dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0 (19200 8E1)",
		},
		{
			"rtu:///dev/serial/by-path/platform-soc@1-pci-0000:01:00.0-usb-0:1.2:1.0-port0?parity=O&stop=2",
			endpoint{linkSerial, "/dev/serial/by-path/platform-soc@1-pci-0000:01:00.0-usb-0:1.2:1.0-port0", line{baud: 9600, parity: 'O', stop: 2}},
			"rtu:///dev/serial/by-path/platform-soc@1-pci-0000:01:00.0-usb-0:1.2:1.0-port0 (9600 8O2)",
		},
		{
			"rtu:///dev/ttyS2?rs485=on&rts=low&rts_before=1&rts_after=20",
			endpoint{linkSerial, "/dev/ttyS2", line{
				baud: 9600, parity: 'N', stop: 1,
				rs485: rs485{on: true, low: true, before: time.Millisecond, after: 20 * time.Millisecond},
			}},
			"rtu:///dev/ttyS2 (9600 8N1 RS-485, RTS low, RTS 1ms before and 20ms after)",
		},
		{"rtu:///dev/ttyS2?rs485=off", endpoint{linkSerial, "/dev/ttyS2", plain}, "rtu:///dev/ttyS2 (9600 8N1)"},
		{"rtu+tcp://Moxa-1:4001", endpoint{kind: linkRTUTCP, addr: "moxa-1:4001"}, "rtu+tcp://moxa-1:4001"},
		{"rtu+tcp://[2001:DB8:0::1]:26", endpoint{kind: linkRTUTCP, addr: "[2001:db8::1]:26"}, "rtu+tcp://[2001:db8::1]:26"},
	}
	for _, tc := range tests {
		got, err := parseEndpoint(tc.text)
		if err != nil || got != tc.want || got.String() != tc.name {
			t.Errorf("%s is %+v (%s), %v\nwant %+v (%s)", tc.text, got, got, err, tc.want, tc.name)
		}
	}
}

func TestParseSerialEndpointMistakes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"rtu://dev/ttyUSB0?baud=9600": "write three, rtu:///dev/ttyUSB0?baud=9600",
		"rtu://":                      "names no serial port",
		"rtu:///":                     "names no serial port",
		"rtu:///dev/":                 "names no serial port",
		"rtu:///dev/..":               "names no serial port",
		"rtu:///dev/tty%00":           "control character",
		"rtu://COM3?baud=9600":        "a name of Windows",
		"rtu:///com12":                "a name of Windows",
		"rtu://combox/ttyS0":          "write three, rtu:///combox/ttyS0",
		"rtu:///dev/ttyUSB0#1":        "more than a path and settings",
		"rtu:///dev/ttyUSB0?baud=9600;parity=none": "not NAME=VALUE&NAME=VALUE",
		"rtu:///dev/ttyUSB0?baud=9600&baud=19200":  "baud is there 2 times",
		"rtu:///dev/ttyUSB0?speed=9600":            "there is no setting speed: they are baud, parity",
		"rtu:///dev/ttyUSB0?baudrate=9600":         "did you mean baud=9600?",
		"rtu:///dev/ttyUSB0?Parity=none":           "did you mean parity=none?",
		"rtu:///dev/ttyUSB0?baud=":                 "from 300 to 4000000",
		"rtu:///dev/ttyUSB0?baud=110":              "from 300 to 4000000",
		"rtu:///dev/ttyUSB0?parity=mark":           "none, even or odd",
		"rtu:///dev/ttyUSB0?stop=1.5":              "1 or 2 stop bits",
		"rtu:///dev/ttyUSB0?data=7":                "Modbus ASCII",
		"rtu:///dev/ttyUSB0?rs485=yes":             "on (the kernel",
		"rtu:///dev/ttyUSB0?rts=high":              "is for rs485=on",
		"rtu:///dev/ttyUSB0?rts_before=0":          "is for rs485=on",
		"rtu:///dev/ttyUSB0?rs485=off&rts_after=1": "is for rs485=on",
		"rtu:///dev/ttyUSB0?rs485=on&rts=up":       "high or low",
		"rtu:///dev/ttyUSB0?rs485=on&rts_after=1s": "milliseconds from 0 to 100",
		"rtu+tcp://":                    "names no host",
		"rtu+tcp://moxa:4001?baud=9600": "more than a host and a port",
		"rtu+tcp:///dev/ttyUSB0":        "names no host",
		"rtu-tcp://moxa:4001":           "does not know rtu-tcp://",
	} {
		got, err := parseEndpoint(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

// FuzzEndpointURL: what is understood can be written again, and is then
// understood as the same.
func FuzzEndpointURL(f *testing.F) {
	for _, s := range []string{
		"tcp://plc:502", "tcp://[fe80::1%25eth0]:502/", "rtu+tcp://moxa:4001", "rtu:///dev/ttyUSB0",
		"rtu:///dev/ttyS1?baud=19200&parity=e&stop=2&data=8&rs485=on&rts=low&rts_before=1&rts_after=2", "rtu:///dev/%61%2F%3f?baud=9600",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := parseEndpoint(s)
		if err != nil {
			if err.Error() == "" {
				t.Errorf("%q: an error without words", s)
			}
			return
		}
		again, err := parseEndpoint(urlOf(e))
		if err != nil || again != e || again.key() != e.key() {
			t.Errorf("%q is %+v, but %q is %+v, %v", s, e, urlOf(e), again, err)
		}
		if e.kind == linkSerial && (e.line.char() <= 0 || e.line.silence() <= 0 || !strings.HasPrefix(e.addr, "/")) {
			t.Errorf("%q: %+v", s, e)
		}
	})
}

// urlOf writes an endpoint as a user would.
func urlOf(e endpoint) string {
	if e.kind != linkSerial {
		return (&url.URL{Scheme: e.kind.scheme(), Host: e.addr}).String()
	}
	return (&url.URL{Scheme: "rtu", Path: e.addr, RawQuery: settingsOf(e.line)}).String()
}

// TestLinkKey: what a connection is opened with tells buses apart that have
// the same key.
func TestLinkKey(t *testing.T) {
	t.Parallel()
	dr := New(Options{})
	device := func(endpoint, fallback string) *protocols.Device {
		return &protocols.Device{Endpoint: endpoint, Modbus: protocols.ModbusOptions{Fallback: fallback}}
	}
	const serial, tcp, other = "rtu:///dev/ttyS0?baud=9600", "tcp://192.0.2.5", "tcp://192.0.2.6"
	tests := []struct {
		name          string
		before, after []*protocols.Device
		same          bool
	}{
		{"written differently", []*protocols.Device{device(serial, "")}, []*protocols.Device{device("rtu:///dev/ttyS0?parity=none&stop=1", "")}, true},
		{"another speed", []*protocols.Device{device(serial, "")}, []*protocols.Device{device("rtu:///dev/ttyS0?baud=19200", "")}, false},
		{"another parity", []*protocols.Device{device(serial, "")}, []*protocols.Device{device(serial+"&parity=even", "")}, false},
		{"RS-485", []*protocols.Device{device(serial, "")}, []*protocols.Device{device(serial+"&rs485=on", "")}, false},
		{"one device more", []*protocols.Device{device(tcp, other)}, []*protocols.Device{device(tcp, ""), device(tcp, other)}, true},
		{"a fallback more", []*protocols.Device{device(tcp, "")}, []*protocols.Device{device(tcp, ""), device(tcp, other)}, false},
		{"another fallback", []*protocols.Device{device(tcp, "tcp://192.0.2.7")}, []*protocols.Device{device(tcp, other)}, false},
	}
	for _, tc := range tests {
		if same := dr.LinkKey(tc.before) == dr.LinkKey(tc.after); same != tc.same || dr.BusKey(tc.before[0]) != dr.BusKey(tc.after[0]) {
			t.Errorf("%s: %q and %q", tc.name, dr.LinkKey(tc.before), dr.LinkKey(tc.after))
		}
	}
}
