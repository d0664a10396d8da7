package modbus

import (
	"strings"
	"testing"

	"millrace/protocols"
)

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]address{
		"holding:100":   {holding, 100, -1, -1, named},
		"HOLDING:0":     {holding, 0, -1, -1, named},
		"hr:65535":      {holding, 65535, -1, -1, named},
		"input:7":       {input, 7, -1, -1, named},
		"ir:7.15":       {input, 7, 15, -1, named},
		"coil:3":        {coil, 3, -1, -1, named},
		"Co:3":          {coil, 3, -1, -1, named},
		"discrete:12":   {discrete, 12, -1, -1, named},
		"di:12":         {discrete, 12, -1, -1, named},
		" holding:100 ": {holding, 100, -1, -1, named},
		"holding:100.3": {holding, 100, 3, -1, named},
		"hr:100.4-7":    {holding, 100, 4, 7, named},
		"ir:100.0-63":   {input, 100, 0, 63, named},
		"40101.8-8":     {holding, 100, 8, 8, modicon5},
		"400101.12-19":  {holding, 100, 12, 19, modicon6},
		"40001":         {holding, 0, -1, -1, modicon5},
		"49999":         {holding, 9998, -1, -1, modicon5},
		"40101.0":       {holding, 100, 0, -1, modicon5},
		"400001":        {holding, 0, -1, -1, modicon6},
		"465536":        {holding, 65535, -1, -1, modicon6},
		"30001":         {input, 0, -1, -1, modicon5},
		"300002":        {input, 1, -1, -1, modicon6},
		"10001":         {discrete, 0, -1, -1, modicon5},
		"00001":         {coil, 0, -1, -1, modicon5},
		"000010":        {coil, 9, -1, -1, modicon6},
	} {
		got, err := parseAddress(text)
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v; want %+v", text, got, err, want)
		}
	}
}

func TestParseAddressMistakes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":               "such as holding:100",
		"holding":        "such as holding:100",
		"holding:":       "not a number",
		"holding: 5":     "without spaces",
		"holding:+5":     "not a number",
		"holding:0x10":   "not a number",
		"holding:65536":  "from 0 to 65535",
		"holding:1.16":   "0 to 15",
		"holding:1.":     "0 to 15",
		"coil:1.2":       "leave out .2",
		"coil:1.2-3":     "leave out .2-3",
		"holding:1.7-4":  "write 4-7",
		"holding:1.4-":   "such as 4-7",
		"holding:1.-4":   "such as 4-7",
		"holding:1.4-64": "from 0 to 63",
		"40001.4..7":     "0 to 15",
		"holdings:1":     "did you mean holding?",
		"holing:1":       "did you mean holding?",
		"coils:1":        "did you mean coil?",
		"memory:1":       "expected holding, input, coil or discrete",
		"100":            "holding:100",
		"40000":          "the first is 40001",
		"20001":          "begin with 0",
		"465537":         "the last one is 465536",
		"4000x":          "not an address",
		"10001.1":        "leave out .1",
	} {
		got, err := parseAddress(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %+v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestParseTypeMistakes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"float":      "float32 or float64?",
		"unit16":     "did you mean uint16?",
		"flaot32":    "did you mean float32?",
		"REAL":       "did you mean float32?",
		"string":     "string(16)",
		"string()":   "length in bytes",
		"string(0)":  "length in bytes",
		"uint16(2)":  "uint16[2]",
		"uint16[0]":  "array's length",
		"uint16[2":   "array's length",
		"uint16[2]x": "array's length",
		"unit32":     "did you mean uint32?",
		"unix":       "unix32, unix64 or unix64ms?",
		"unix46":     "did you mean unix64?",
		"uint8":      "holding:100.8-15",
		"int8":       "int16 with a range of bits",
		"byte":       "or bytes(N)?",
		"half":       "did you mean float16?",
		"bcd":        "bcd16, bcd32 or bcd64?",
		"datetime":   "ymdhms8",
		"ymdhms[0]":  "array's length",
		"iec870(8)":  "iec870 has no length",
		"complex":    "expected bool, int16",
	} {
		got, err := parseType(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %+v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestParseEndpoint(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"tcp://192.0.2.5:502": "192.0.2.5:502",
		"tcp://192.0.2.5":     "192.0.2.5:502",
		"tcp://PLC-7:0502/":   "plc-7:502",
		"tcp://[2001:db8::1]": "[2001:db8::1]:502",
	} {
		if got, err := parseEndpoint(text); err != nil || got.addr != want {
			t.Errorf("%q is %v, %v; want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                       "expected tcp://",
		"192.0.2.5:502":          "expected tcp://",
		"plc-7:502":              "expected tcp://",
		"http://plc":             "does not know http://",
		"rtu://dev/ttyUSB0":      "rtu:///dev/ttyUSB0",
		"tcp://":                 "names no host",
		"tcp://::":               "neither a host name",
		"tcp://plc:70000":        "1 to 65535",
		"tcp://plc:0":            "1 to 65535",
		"tcp://plc:502/path":     "more than a host",
		"tcp://u:secret@plc:502": "more than a host",
	} {
		got, err := parseEndpoint(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q is %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	d := &protocols.Device{Endpoint: "tcp://plc", Modbus: protocols.ModbusOptions{MaxRegisters: 50}, Tags: []protocols.Tag{
		{Address: "holding:1"},
		{Address: "holing:1"},
		{Address: "holding:1", Type: "float"},
		{Address: "coil:1", Type: "uint16"},
		{Address: "holding:1.2", Type: "uint16"},
		{Address: "holding:1", Type: "bool"},
		{Address: "holding:65535", Type: "float32"},
		{Address: "holding:0", Type: "uint16[51]"},
		{Address: "holding:0", Type: "uint16[126]"},
		{Address: "coil:0", Type: "bool[801]"},
		{Address: "coil:0", Type: "bool[800]"},
		{Address: "holding:65533", Type: "float64"},
		{Address: "holding:65532", Type: "float64"},
		{Address: "holding:1.4-7"},
		{Address: "holding:1.12-19", Type: "int32"},
		{Address: "holding:1.12-19"},
		{Address: "holding:1.12-19", Type: "int16"},
		{Address: "holding:1.12-40", Type: "int32"},
		{Address: "40002.4-7", Type: "bool"},
		{Address: "holding:1.20-23", Type: "bool[4]"},
		{Address: "holding:1.4-7", Type: "float32"},
		{Address: "holding:1.4-7", Type: "uint16[2]"},
		{Address: "holding:1.4-7", Type: "uint8"},
		{Address: "holding:65535.4-7", Type: "uint32"},
		{Address: "holding:1", Type: "unix32"},
		{Address: "holding:1", Type: "iec870"},
		{Address: "holding:1", Type: "ymdhms8[2]"},
		{Address: "coil:1", Type: "unix32"},
		{Address: "holding:1.2", Type: "unix32"},
		{Address: "holding:1", Type: "unix32[26]"},
	}}
	want := []struct {
		tag         int
		field, text string
	}{
		{1, "address", "did you mean holding?"},
		{2, "type", "float32 or float64?"},
		{3, "type", "expected bool or bool[n], not uint16"},
		{4, "type", "leave out the .2"},
		{5, "address", "holding:1.0"},
		{6, "address", "beyond the last address 65535"},
		{7, "type", "raise max_registers"},
		{8, "type", "at most 50: split the tag"},
		{9, "type", "at most 800: split the tag"},
		{11, "address", "ends at 65536"},
		{15, "type", "uint16 has the bits 0 to 15, but holding:1.12-19 goes up to bit 19: write uint32"},
		{16, "type", "write int32"},
		{17, "type", "write int64"},
		{18, "type", "did you mean bool[4] at 40002.4?"},
		{19, "type", "such as uint32, not bool[4]"},
		{20, "type", "expected int16, uint16, int32, uint32, int64 or uint64, not float32"},
		{21, "type", "write a tag for each"},
		{22, "type", "unknown type"},
		{23, "address", "ends at 65536"},
		{25, "type", "iec870 says no time zone: give the device time_zone"},
		{26, "type", "ymdhms8[2] says no time zone"},
		{27, "type", "not unix32"},
		{28, "type", "leave out the .2"},
		{29, "type", "at most 50"},
	}
	got := New(Options{}).Check(d)
	if len(got) != len(want) {
		t.Fatalf("%d errors, want %d: %v", len(got), len(want), got)
	}
	for i, w := range want {
		if g := got[i]; g.Tag != w.tag || g.Field != w.field || !strings.Contains(g.Text, w.text) {
			t.Errorf("error %d is %d %v, want %+v", i, g.Tag, g, w)
		}
	}
}

func FuzzParseTag(f *testing.F) {
	for _, s := range [][2]string{{"holding:100.3", "bool[4]"}, {"400001", "string(7)[3]"}, {"di:1", ""}, {"465536", "float64"}, {"hr:1.4-19", "int32"}, {"40001", "iec870[2]"}} {
		f.Add(s[0], s[1])
	}
	lim := testLimits()
	f.Fuzz(func(t *testing.T, address, typ string) {
		fd, err := parseTag(&protocols.Tag{Address: address, Type: typ}, lim)
		switch {
		case err != nil && (err.Text == "" || err.Field != "address" && err.Field != "type"):
			t.Errorf("%q %q: an error without words: %+v", address, typ, err)
		case err == nil && (fd.span < 1 || fd.span > lim.size(fd.table) || fd.end() > addresses):
			t.Errorf("%q %q: %+v does not fit", address, typ, fd)
		}
	})
}

func FuzzParseEndpoint(f *testing.F) {
	f.Add("tcp://plc:502")
	f.Add("tcp://[::1]/")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := parseEndpoint(s)
		if err != nil || strings.Contains(e.addr, "%") || e.kind == linkSerial { // a zone is written %25 in a URL
			return
		}
		if again, err := parseEndpoint(e.key()); err != nil || again != e {
			t.Errorf("%q is %v, which is %v, %v", s, e, again, err)
		}
	})
}

func TestColumnsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	one := 1.0
	tests := []struct {
		tag  protocols.Tag
		want string // the column; empty: it is in order
	}{
		{protocols.Tag{Address: "holding:1", Type: "string(4)", HasScale: true, Scale: 0.1}, "scale"},
		{protocols.Tag{Address: "holding:1", Type: "string(4)", HasScale: true, Scale: 1, Offset: 2}, "offset"},
		{protocols.Tag{Address: "holding:1", Type: "bytes(3)", Enum: map[int64]string{1: "x"}}, "enum"},
		{protocols.Tag{Address: "coil:1", Deadband: protocols.Deadband{Size: 1}}, "deadband"},
		{protocols.Tag{Address: "coil:1", Min: &one}, "min"},
		{protocols.Tag{Address: "holding:1.3", Max: &one}, "max"},
		{protocols.Tag{Address: "coil:1", Enum: map[int64]string{1: "x"}}, ""},
		{protocols.Tag{Address: "holding:1", Type: "uint16[2]", Enum: map[int64]string{1: "x"}}, "enum"},
		{protocols.Tag{Address: "holding:1", Type: "uint16[2]", HasScale: true, Scale: 0.1, Min: &one}, ""},
		{protocols.Tag{Address: "holding:1", Type: "unix32", HasScale: true, Scale: 0.001}, "scale"},
		{protocols.Tag{Address: "holding:1", Type: "unix32", HasScale: true, Scale: 1, Offset: 3600}, "offset"},
		{protocols.Tag{Address: "holding:1", Type: "unix64", Deadband: protocols.Deadband{Size: 1}}, "deadband"},
		{protocols.Tag{Address: "holding:1", Type: "unix64ms", Min: &one}, "min"},
		{protocols.Tag{Address: "holding:1", Type: "iec870", Max: &one}, "max"},
		{protocols.Tag{Address: "holding:1", Type: "mdyhms", Enum: map[int64]string{1: "x"}}, "enum"},
		{protocols.Tag{Address: "holding:1", Type: "bcdtime", OnChange: true}, ""},
		{protocols.Tag{Address: "holding:1.4-7", HasScale: true, Scale: 0.1, Min: &one, Max: &one, Deadband: protocols.Deadband{Size: 1}}, ""},
		{protocols.Tag{Address: "holding:1.4-7", Enum: map[int64]string{1: "x"}}, ""},
		{protocols.Tag{Address: "holding:1", HasScale: true, Scale: 0.1, Min: &one, Max: &one, Deadband: protocols.Deadband{Size: 1}}, ""},
	}
	for _, tc := range tests {
		_, err := parseTag(&tc.tag, testLimits())
		got := ""
		if err != nil {
			got = err.Field
		}
		if got != tc.want {
			t.Errorf("%+v: refused because of %q (%v), want %q", tc.tag, got, err, tc.want)
		}
	}
}

func TestParseZone(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int32{"+08:00": 8 * 3600, "-03:30": -12600, "+00:00": 0, "Z": 0, "+05:45": 20700} {
		if got, ok := parseZone(text); !ok || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "+8", "08:00", "+08:00 ", "UTC", "Asia/Shanghai", "+25:00"} {
		if got, ok := parseZone(text); ok {
			t.Errorf("%q is %d", text, got)
		}
	}
}
