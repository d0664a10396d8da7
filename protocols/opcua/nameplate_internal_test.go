package opcua

import (
	"strings"
	"testing"

	"github.com/gopcua/opcua/ua"
)

func TestPlateText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		value any
		want  string
	}{
		{"Manufacturer", "Acme", "Acme"},
		{"Manufacturer", ua.NewLocalizedText("  机床 \t 厂\n"), "机床 厂"},
		{"Manufacturer", "Ac\xffme\u202e\x1b[31m\ufffd", "Acme[31m"},
		{"Manufacturer", strings.Repeat("厂", 100), strings.Repeat("厂", 65) + "…"},
		{"Manufacturer", "Manufacturer", ""},
		{"Manufacturer", "Manufacturer of presses", "Manufacturer of presses"},
		{"Manufacturer", "[manufacturer]", ""},
		{"Manufacturer", "\"unknown\"", ""},
		{"Manufacturer", "(null)", ""},
		{"Manufacturer", "Unknown Worlds", "Unknown Worlds"},
		{"Manufacturer", "未知", ""},
		{"Model", "X", "X"},
		{"Model", "XX", "XX"},
		{"Model", "xxx", ""},
		{"Model", "12345", "12345"},
		{"Model", "0815", "0815"},
		{"Model", "?", ""},
		{"SoftwareRevision", "0.0.0", ""},
		{"SoftwareRevision", "0.0.1", "0.0.1"},
		{"SoftwareRevision", uint16(3), "3"},
		{"HardwareRevision", int32(-1), ""},
		{"HardwareRevision", int32(0), ""},
		{"SerialNumber", "00-00-00", ""},
		{"SerialNumber", "0012", "0012"},
		{"SerialNumber", "12345", ""},
		{"SerialNumber", "123456789", ""},
		{"SerialNumber", "01234567", ""},
		{"SerialNumber", "1234", "1234"},
		{"SerialNumber", "23456", "23456"},
		{"SerialNumber", "1234567891", "1234567891"},
		{"SerialNumber", "serial number", ""},
		{"SerialNumber", []string{"1"}, ""},
		{"SerialNumber", 1.5, ""},
		{"SerialNumber", true, ""},
	} {
		dv := &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(c.value)}
		if got := plateText(c.name, dv); got != c.want || len(got) > 200 {
			t.Errorf("%s %q: %q, want %q", c.name, c.value, got, c.want)
		}
		dv.Status = ua.StatusBadUserAccessDenied
		if got := plateText(c.name, dv); got != "" {
			t.Errorf("%s %q, bad: %q", c.name, c.value, got)
		}
	}
	if got := plateText("Model", nil); got != "" {
		t.Errorf("nothing: %q", got)
	}
}

func TestSoftwareText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ maker, product, version, want string }{
		{"Unified Automation GmbH", "UaServerCpp", "1.7.6", "Unified Automation GmbH UaServerCpp 1.7.6"},
		{"open62541", "open62541 OPC UA Server", "1.3.5", "open62541 OPC UA Server 1.3.5"},
		{"Siemens AG", "Siemens AG", "V3.1", "Siemens AG V3.1"},
		{"Acme", "Server 4000", "4", "Acme Server 4000 4"},
		{"Acme", "Server 4.0", "4.0", "Acme Server 4.0"},
		{"Acme", "", "4.0", "Acme 4.0"},
		{"", "Server", "", "Server"},
		{"Acme", "", "", "Acme"},
		{"", "", "", ""},
		{"", "", "1.0", ""},
	} {
		if got := softwareText(c.maker, c.product, c.version); got != c.want {
			t.Errorf("%q, %q, %q: %q, want %q", c.maker, c.product, c.version, got, c.want)
		}
	}
}
