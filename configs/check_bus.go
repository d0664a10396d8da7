package configs

import (
	"fmt"
	"strings"

	"millrace/protocols"
)

// checkBuses refuses modbus devices that cannot share the connection that
// their endpoint gives them.
func (l *loader) checkBuses(devices []*deviceDraft) {
	first := map[string]*deviceDraft{} // by the bus
	second := map[string]*deviceDraft{}
	places := map[string]*deviceDraft{} // by the bus without its scheme
	for _, dev := range devices {
		driver, ok := l.drivers[dev.Driver]
		if !ok || dev.Driver != modbusDriver || !dev.Enabled || dev.Endpoint == "" {
			continue
		}
		bus := driver.BusKey(&dev.Device)
		if other, shared := first[bus]; shared {
			l.checkLine(driver, other, dev)
		} else {
			first[bus] = dev
			_, place, _ := strings.Cut(bus, "://")
			if other := places[place]; other != nil {
				l.checkScheme(other, dev)
			}
			places[place] = dev
		}
		if dev.Modbus.Fallback == "" {
			continue
		}
		if other, shared := second[bus]; shared {
			l.checkFallback(driver, other, dev)
		} else {
			second[bus] = dev
		}
	}
	l.checkPlaces(devices, first)
}

// checkScheme refuses two ways to speak to one place: they would be two
// masters on one line.
func (l *loader) checkScheme(other, dev *deviceDraft) {
	if n := dev.node.get("endpoint"); n != nil && !n.bad {
		l.problem(n.pos, "endpoint: %s (line %d) has the same address with another scheme: one of the two is wrong (tcp:// for Modbus TCP, rtu+tcp:// for a device server that passes bytes on)",
			showID(other), other.node.pos.Line)
	}
}

// checkPlaces refuses a fallback that is another device's endpoint: each
// would have a connection of its own to it.
func (l *loader) checkPlaces(devices []*deviceDraft, first map[string]*deviceDraft) {
	for _, dev := range devices {
		driver, ok := l.drivers[dev.Driver]
		n := dev.node.get("fallback")
		if !ok || dev.Driver != modbusDriver || !dev.Enabled || dev.Modbus.Fallback == "" || n == nil || n.bad {
			continue
		}
		there := dev.Device
		there.Endpoint = dev.Modbus.Fallback
		if other := first[driver.BusKey(&there)]; other != nil && driver.BusKey(&there) != driver.BusKey(&dev.Device) {
			l.problem(n.pos, "fallback: it is the endpoint of %s (line %d): an address belongs to one device; write both devices with the same endpoint and the same fallback if they are the same PLC or gateway",
				showID(other), other.node.pos.Line)
		}
	}
}

// checkLine refuses two settings of one serial port.
func (l *loader) checkLine(driver Checker, other, dev *deviceDraft) {
	liner, ok := driver.(protocols.Liner)
	if !ok {
		return
	}
	here, there := liner.Line(&dev.Device), liner.Line(&other.Device)
	n := dev.node.get("endpoint")
	if here.Settings == there.Settings || n == nil || n.bad {
		return
	}
	settings := l.redact(fmt.Sprintf("it is set to %s there, and to %s here", there.Settings, here.Settings), n)
	l.problem(n.pos, "endpoint: %s (line %d) has the same serial port, but %s: write the same settings for all devices of a line",
		showID(other), other.node.pos.Line, settings)
}

// checkFallback refuses two second addresses of one endpoint.
func (l *loader) checkFallback(driver Checker, other, dev *deviceDraft) {
	at := func(d *deviceDraft) string {
		there := d.Device
		there.Endpoint = d.Modbus.Fallback
		return driver.BusKey(&there)
	}
	n := dev.node.get("fallback")
	if n == nil || n.bad || at(other) == at(dev) {
		return
	}
	l.problem(n.pos, "fallback: %s (line %d) has the same endpoint with another fallback: they share one connection, write the same for both, or only one of them",
		showID(other), other.node.pos.Line)
}
