package configs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"millrace/protocols"
)

// checkDevices completes the devices and checks what concerns several keys,
// several devices, or their drivers.
func (l *loader) checkDevices(d *draft) {
	ids := map[string]protocols.Position{}
	for _, dev := range d.devices {
		l.unique(ids, "device id", dev.ID, dev.node.get("id"))
		l.checkSecurity(dev)
		l.checkAuth(dev)
		dev.OPCUA.Trust = l.trustDir(dev)
		dev.completeTimeout()
		l.checkTags(dev)
		l.checkWithDriver(dev)
	}
	l.checkUnits(d.devices)
	l.checkBuses(d.devices)
	l.checkLogins(d.devices)
}

// opcuaTimeout is the default time-out of OPC UA devices: small PLCs take
// seconds to make a secure session.
const opcuaTimeout = 5 * time.Second

func (dev *deviceDraft) completeTimeout() {
	if dev.Driver == opcuaDriver && dev.node.get("timeout") == nil {
		dev.Timeout = opcuaTimeout
	}
}

func (l *loader) trustDir(dev *deviceDraft) string {
	if dev.OPCUA.Trust == "" {
		return ""
	}
	return l.abs(dev.OPCUA.Trust)
}

// checkSecurity completes the security of an OPC UA device.
func (l *loader) checkSecurity(dev *deviceDraft) {
	n := dev.node.get("security")
	if n == nil || n.kind != mapNode || dev.Driver != opcuaDriver || dev.security.policy == "" {
		return
	}
	policy, mode := dev.security.policy, dev.security.mode
	switch {
	case policy == "None" && mode == "":
		mode = "None"
	case policy == "None" && mode != "None":
		l.problem(n.at("mode"), "mode: policy None neither signs nor encrypts: write policy: Basic256Sha256, or remove mode")
	case policy == "auto" && mode == "":
		// The strongest that is offered.
	case policy != "None" && mode == "":
		mode = "SignAndEncrypt"
	case policy != "None" && mode == "None":
		l.problem(n.at("mode"), "mode: policy %s signs at the least: write SignAndEncrypt or Sign, or policy: None", policy)
	}
	dev.OPCUA.SecurityPolicy, dev.OPCUA.SecurityMode = policy, mode
	dev.OPCUA.Tolerate = dev.security.tolerate
	if t := n.get("tolerate"); policy == "None" && t != nil {
		l.problem(t.pos, "tolerate: with policy None nobody looks at the server's certificate: remove it")
	}
}

// checkAuth completes the user of an OPC UA device: one with a name, or one
// with a certificate.
func (l *loader) checkAuth(dev *deviceDraft) {
	n := dev.node.get("auth")
	if n == nil || n.kind != mapNode || dev.Driver != opcuaDriver {
		return
	}
	has := func(key string) bool { return n.get(key) != nil }
	switch {
	case has("cert") && has("username"), has("cert") && has("password"), has("key") && has("username"):
		l.problem(n.pos, "auth: log in with a name or with a certificate: remove username and password, or cert and key")
	case has("username") && !has("password"):
		l.problem(n.pos, "auth has no %q: add it (the password; better as ${file:PATH} or ${env:NAME} than in this file)", "password")
	case has("password") && !has("username"):
		l.problem(n.at("password"), "password: a password needs a user name: add username")
	case has("cert") && !has("key"):
		l.problem(n.at("cert"), "cert: a certificate needs its key: add key")
	case has("key") && !has("cert"):
		l.problem(n.at("key"), "key: a key needs its certificate: add cert")
	case !has("username") && !has("cert") && len(n.entries) == 0:
		l.problem(n.pos, "auth is empty: write username and password, or cert and key, or remove it for an anonymous session")
	}
	o := &dev.OPCUA
	o.Username, o.Password = dev.auth.username, dev.auth.password
	o.UserCert, o.UserKey = dev.auth.cert, dev.auth.key
	l.pemFile(&o.UserCert, "cert", n)
	l.pemFile(&o.UserKey, "key", n)
}

// checkTags completes the tags of a device and checks what concerns several
// columns or rows.
func (l *loader) checkTags(dev *deviceDraft) {
	first := make(map[string]int, len(dev.Tags))
	for i := range dev.Tags {
		t := &dev.Tags[i]
		if t.Order == orderNotGiven {
			t.Order = dev.Modbus.Order
		}
		if t.Interval == 0 {
			t.Interval = dev.Interval
		}
		if t.Min != nil && t.Max != nil && *t.Min > *t.Max {
			l.tagProblem(dev, i, "max", "max: it is less than min: exchange the two")
		}
		if t.Name == "" {
			continue
		}
		if j, ok := first[t.Name]; ok {
			l.tagProblem(dev, i, "name", fmt.Sprintf("name: the tag %s is there already, in %s: give this one another name",
				l.showTag(dev, i), line(dev.Tags[j].Source)))
			continue
		}
		first[t.Name] = i
	}
}

// showTag returns a tag's name as it may be shown.
func (l *loader) showTag(dev *deviceDraft, i int) string {
	if dev.tagNodes != nil {
		if n := dev.tagNodes[i].get("name"); n != nil {
			return n.show()
		}
	}
	return l.redact(fmt.Sprintf("%q", dev.Tags[i].Name), nil)
}

// tagProblem reports a problem of one column of a tag.
func (l *loader) tagProblem(dev *deviceDraft, i int, column, text string) {
	pos := dev.Tags[i].Source
	if dev.tagNodes != nil {
		pos = dev.tagNodes[i].at(column)
	} else {
		pos.Name = column
		text = withoutName(text, column)
	}
	l.problem(pos, "%s", text)
}

// withoutName cuts the column's name off a message whose position has it.
func withoutName(text, column string) string {
	if n := len(column) + 2; len(text) > n && text[:n] == column+": " {
		return text[n:]
	}
	return text
}

// checkWithDriver asks the device's driver.
func (l *loader) checkWithDriver(dev *deviceDraft) {
	n := dev.node.get("driver")
	if dev.Driver == "" || n == nil {
		return
	}
	driver, ok := l.drivers[dev.Driver]
	if !ok {
		names := slices.Sorted(maps.Keys(l.drivers))
		suggestion := didYouMean(n.raw, names)
		if n.referred() || suggestion == "" {
			suggestion = "; there are: " + oneOfAll(names)
		}
		l.problem(n.pos, "driver: there is no driver %s%s", n.show(), suggestion)
		return
	}
	for _, fe := range driver.Check(&dev.Device) {
		l.fieldError(dev, fe)
	}
}

func oneOfAll(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return oneOf(names)
}

// fieldError reports what a driver found, where nothing was found before:
// a driver cannot know that a value is empty because it was refused.
func (l *loader) fieldError(dev *deviceDraft, fe *protocols.FieldError) {
	// One mistake is told once: a time zone that was refused is not missing.
	if z := dev.node.get("time_zone"); z != nil && z.bad && strings.Contains(fe.Text, "time_zone") {
		return
	}
	if fe.Tag >= 0 && fe.Tag < len(dev.Tags) {
		if dev.badCells[cell{fe.Tag, fe.Field}] {
			return
		}
		var n *node
		if dev.tagNodes != nil {
			n = dev.tagNodes[fe.Tag].get(fe.Field)
		}
		l.tagProblem(dev, fe.Tag, fe.Field, fe.Field+": "+l.redact(fe.Text, n))
		return
	}
	n := dev.node.find(fe.Field)
	has := slices.ContainsFunc(l.problems, func(p Problem) bool { return p.Pos == n.pos })
	if !has && !n.bad {
		l.problem(n.pos, "%s: %s", fe.Field, l.redact(fe.Text, n))
	}
}

// checkUnits refuses two Modbus devices that would ask the same unit at the
// same endpoint, unless both say so: for one PLC that controls two machines
// there are many copies whose unit was forgotten.
func (l *loader) checkUnits(devices []*deviceDraft) {
	type unit struct {
		bus  string
		unit uint8
	}
	first := map[unit]*deviceDraft{}
	for _, dev := range devices {
		driver, ok := l.drivers[dev.Driver]
		if !ok || dev.Driver != modbusDriver || !dev.Enabled || dev.Endpoint == "" {
			continue
		}
		if n := dev.node.get("unit"); n != nil && n.bad {
			continue
		}
		u := unit{driver.BusKey(&dev.Device), dev.Modbus.Unit}
		other, ok := first[u]
		if !ok {
			first[u] = dev
			continue
		}
		if other.sharedUnit && dev.sharedUnit {
			continue
		}
		pos := dev.node.at("unit")
		if dev.node.get("unit") == nil {
			pos = dev.node.at("endpoint")
		}
		l.problem(pos, "this device has the same endpoint and unit as %s (line %d): give it its own unit, or put the tags into one device. If two devices are one unit indeed, write shared_unit: true in both",
			showID(other), other.node.pos.Line)
	}
}

// showID returns a device's id as it may be shown.
func showID(dev *deviceDraft) string {
	if n := dev.node.get("id"); n != nil {
		return n.show()
	}
	return "the device"
}

// checkLogins refuses devices that share a session but not its password: the
// session has one.
func (l *loader) checkLogins(devices []*deviceDraft) {
	first := map[string]*deviceDraft{}
	for _, dev := range devices {
		driver := l.drivers[dev.Driver]
		if dev.Driver != opcuaDriver || driver == nil || dev.OPCUA.Username == "" || !dev.Enabled {
			continue
		}
		key := driver.BusKey(&dev.Device)
		other, shared := first[key]
		if !shared {
			first[key] = dev
			continue
		}
		if other.OPCUA.Password != dev.OPCUA.Password {
			l.problem(dev.node.at("auth"), "auth: %s (line %d) has the same endpoint and user name, but another password: one of the two is wrong",
				showID(other), other.node.pos.Line)
		}
	}
}
