package configs

import (
	"fmt"

	"millrace/protocols"
)

// checkBuses refuses modbus devices that cannot share the connection that
// their endpoint gives them.
func (l *loader) checkBuses(devices []*deviceDraft) {
	first := map[string]*deviceDraft{} // by the bus
	second := map[string]*deviceDraft{}
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
