package modbus

import (
	"slices"
	"testing"
	"time"

	"millrace/protocols"
)

func TestCost(t *testing.T) {
	t.Parallel()
	tags := []protocols.Tag{
		{Address: "holding:0", Type: "uint16[10]"},
		{Address: "coil:0", Type: "bool[9]"},
	}
	tests := []struct {
		endpoint string
		want     []protocols.Request
	}{
		{"tcp://plc", []protocols.Request{
			{What: "holding 0..9", Tags: 1, ReqBytes: 12, AnsBytes: 29},
			{What: "coil 0..8", Tags: 1, ReqBytes: 12, AnsBytes: 11},
		}},
		{"rtu+tcp://moxa:4001", []protocols.Request{
			{What: "holding 0..9", Tags: 1, ReqBytes: 8, AnsBytes: 25},
			{What: "coil 0..8", Tags: 1, ReqBytes: 8, AnsBytes: 7},
		}},
		{"rtu:///dev/ttyUSB0?baud=9600", []protocols.Request{
			// 33 characters of 10 bits and twice 3.5: 400 bits.
			{What: "holding 0..9", Tags: 1, ReqBytes: 8, AnsBytes: 25, Line: 41667 * time.Microsecond},
			// 15 and 7: 220 bits.
			{What: "coil 0..8", Tags: 1, ReqBytes: 8, AnsBytes: 7, Line: 22917 * time.Microsecond},
		}},
		{"rtu:///dev/ttyUSB0?baud=115200&parity=even", []protocols.Request{
			// 33 characters of 11 bits, and twice 1.75 ms.
			{What: "holding 0..9", Tags: 1, ReqBytes: 8, AnsBytes: 25, Line: 6651 * time.Microsecond},
			{What: "coil 0..8", Tags: 1, ReqBytes: 8, AnsBytes: 7, Line: 4932 * time.Microsecond},
		}},
	}
	for _, tc := range tests {
		d := &protocols.Device{Endpoint: tc.endpoint, Tags: tags, Modbus: protocols.ModbusOptions{Unit: 1}}
		got := New(Options{}).Requests(d, allTags(d))
		for i := range got {
			got[i].Line = got[i].Line.Round(time.Microsecond)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got  %+v\nwant %+v", tc.endpoint, got, tc.want)
		}
	}
}
