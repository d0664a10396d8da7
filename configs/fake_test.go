package configs_test

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"millrace/configs"
	"millrace/protocols"
)

// drivers are stand-ins for the real drivers: they check just enough to have
// something to say about every kind of field.
func drivers() map[string]configs.Checker {
	return map[string]configs.Checker{"modbus": fakeModbus{}, "opcua": fakeOPCUA{}}
}

type fakeModbus struct{}

func (fakeModbus) BusKey(d *protocols.Device) string {
	key, _, _ := strings.Cut(d.Endpoint, "?")
	return key
}

func (f fakeModbus) Line(d *protocols.Device) protocols.Line {
	_, settings, _ := strings.Cut(d.Endpoint, "?")
	return protocols.Line{Name: f.BusKey(d), Settings: settings}
}

func (fakeModbus) Check(d *protocols.Device) []*protocols.FieldError {
	out := checkEndpoint(d, "tcp", "rtu+tcp", "rtu")
	address := regexp.MustCompile(`^(holding|input|coil|discrete):([0-9]+)(\.[0-9]+)?$|^[0-9]{5}$`)
	types := []string{"", "bool", "int16", "uint16", "int32", "uint32", "float32", "float64", "string(16)"}
	for i := range d.Tags {
		t := &d.Tags[i]
		m := address.FindStringSubmatch(t.Address)
		if m == nil {
			out = append(out, &protocols.FieldError{Tag: i, Field: "address", Text: fmt.Sprintf("expected an address such as holding:100, got %q", t.Address)})
		} else if n, _ := strconv.Atoi(m[2]); n > 65535 {
			out = append(out, &protocols.FieldError{Tag: i, Field: "address", Text: fmt.Sprintf("%s is out of range: registers are numbered from 0 to 65535", t.Address)})
		}
		if !strings.Contains(strings.Join(types, " ")+" ", t.Type+" ") {
			out = append(out, &protocols.FieldError{Tag: i, Field: "type", Text: fmt.Sprintf("there is no type %q; did you mean \"float32\"?", t.Type)})
		}
	}
	return out
}

type fakeOPCUA struct{}

func (fakeOPCUA) BusKey(d *protocols.Device) string { return d.Endpoint + " " + d.OPCUA.Username }

func (fakeOPCUA) Check(d *protocols.Device) []*protocols.FieldError {
	out := checkEndpoint(d, "opc.tcp")
	for i := range d.Tags {
		if a := d.Tags[i].Address; !strings.HasPrefix(a, "ns") && !strings.HasPrefix(a, "i=") && !strings.HasPrefix(a, "/") {
			out = append(out, &protocols.FieldError{Tag: i, Field: "address", Text: fmt.Sprintf("expected a NodeId such as ns=2;s=Name, got %q", a)})
		}
	}
	return out
}

func checkEndpoint(d *protocols.Device, schemes ...string) []*protocols.FieldError {
	u, err := url.Parse(d.Endpoint)
	if err == nil && slices.Contains(schemes, u.Scheme) && u.Hostname()+u.Path != "" {
		return nil
	}
	return []*protocols.FieldError{{Tag: -1, Field: "endpoint", Text: fmt.Sprintf("expected %s://host:port, got %q", schemes[0], d.Endpoint)}}
}
