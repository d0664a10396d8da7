package modbus

import (
	"strings"
	"testing"
	"time"

	"millrace/protocols"
)

func TestCheckEndpoint(t *testing.T) {
	t.Parallel()
	const (
		tcp    = "tcp://plc-7"
		serial = "rtu:///dev/ttyUSB0?baud=19200"
		server = "rtu+tcp://moxa:4001"
	)
	tests := []struct {
		endpoint string
		o        protocols.ModbusOptions
		field    string // empty: it is in order
		text     string
	}{
		{tcp, protocols.ModbusOptions{Unit: 0, MaxInflight: 16}, "", ""},
		{tcp, protocols.ModbusOptions{Unit: 255, MaxInflight: protocols.InflightAuto}, "", ""},
		{serial, protocols.ModbusOptions{Unit: 1, MaxInflight: 1}, "", ""},
		{server, protocols.ModbusOptions{Unit: 247}, "", ""},
		{serial, protocols.ModbusOptions{Unit: 0}, "unit", "which nobody answers: on a serial line units are 1 to 247"},
		{server, protocols.ModbusOptions{Unit: 248}, "unit", "248 is reserved"},
		{serial, protocols.ModbusOptions{Unit: 255}, "unit", "255 is reserved"},
		{serial, protocols.ModbusOptions{Unit: 1, MaxInflight: 2}, "max_inflight", "one request at a time on a serial line"},
		{server, protocols.ModbusOptions{Unit: 1, MaxInflight: protocols.InflightAuto}, "max_inflight", "one request at a time on a serial line"},

		{tcp, protocols.ModbusOptions{Fallback: "tcp://plc-7b"}, "", ""},
		{tcp, protocols.ModbusOptions{Fallback: "tcp://plc-7:503"}, "", ""},
		{server, protocols.ModbusOptions{Unit: 1, Fallback: "rtu+tcp://moxa-b:4001"}, "", ""},
		{serial, protocols.ModbusOptions{Unit: 1, Fallback: "rtu:///dev/ttyUSB1?baud=19200"}, "", ""},
		{tcp, protocols.ModbusOptions{Fallback: "tcp://PLC-7:502"}, "fallback", "the same as the endpoint"},
		{serial, protocols.ModbusOptions{Unit: 1, Fallback: "rtu:///dev/ttyUSB0?baud=9600"}, "fallback", "the same as the endpoint"},
		{tcp, protocols.ModbusOptions{Fallback: "rtu+tcp://moxa:4001"}, "fallback", "begins with rtu+tcp://, but the endpoint with tcp://"},
		{tcp, protocols.ModbusOptions{Fallback: "tcp://plc-7b/x"}, "fallback", "more than a host and a port"},
	}
	for _, tc := range tests {
		got := New(Options{}).Check(&protocols.Device{Endpoint: tc.endpoint, Modbus: tc.o})
		switch {
		case tc.field == "" && len(got) > 0:
			t.Errorf("%s %+v: %v", tc.endpoint, tc.o, got)
		case tc.field != "" && (len(got) != 1 || got[0].Tag != -1 || got[0].Field != tc.field || !strings.Contains(got[0].Text, tc.text)):
			t.Errorf("%s %+v: %v, want one of %s with %q", tc.endpoint, tc.o, got, tc.field, tc.text)
		}
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]protocols.Line{
		"tcp://PLC":           {Name: "tcp://plc:502"},
		"rtu+tcp://moxa:4001": {Name: "rtu+tcp://moxa:4001", Serial: true},
		"rtu:///dev/ttyUSB0?baud=38400&parity=even": {
			Name: "rtu:///dev/ttyUSB0", Settings: "38400 8E1", Baud: 38400, Serial: true, Silence: 1750 * time.Microsecond,
		},
		"nonsense": {},
	} {
		if got := New(Options{}).Line(&protocols.Device{Endpoint: endpoint}); got != want {
			t.Errorf("%s: %+v, want %+v", endpoint, got, want)
		}
	}
}
