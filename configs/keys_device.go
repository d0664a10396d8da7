package configs

import (
	"time"

	"millrace/protocols"
)

// The drivers that have keys of their own.
const (
	modbusDriver = "modbus"
	opcuaDriver  = "opcua"
)

type deviceDraft struct {
	protocols.Device

	node     *node
	security securityDraft
	auth     authDraft
	tagNodes []*node // one for each tag; nil: its tags are in a tag map
	badCells map[cell]bool
	// sharedUnit: the same unit may be another device's, too.
	sharedUnit bool
}

// cell is one key of one tag.
type cell struct {
	tag  int // its index in the device
	name string
}

type securityDraft struct {
	policy, mode string
	tolerate     []string
}

type authDraft struct{ username, password, cert, key string }

// driverOf returns the driver that a device's mapping names, if there is
// such a driver.
func driverOf(l *loader, n *node) string {
	d := n.get("driver")
	if d == nil {
		return ""
	}
	if _, ok := l.drivers[d.text]; !ok {
		return ""
	}
	return d.text
}

// deviceTable is one device. Which drivers there are is checked later: they
// are handed in.
func deviceTable() table[deviceDraft] {
	keys := commonDeviceKeys()
	keys = append(keys, modbusKeys()...)
	keys = append(keys, modbusLinkKeys()...)
	keys = append(keys, opcuaKeys()...)
	keys = append(keys, opcuaReadKeys()...)
	keys = append(keys, key[deviceDraft]{
		name: "tags", required: true,
		doc: "What is read from the device. A tag map's path (.csv or .xlsx, relative to this file), or a list of tags right here.",
		val: tagsValue{},
	})
	return table[deviceDraft]{where: "a device", keys: keys}
}

func commonDeviceKeys() []key[deviceDraft] {
	return append([]key[deviceDraft]{
		{
			name: "id", required: true,
			doc: "The device's name, unique in this file. Letters, digits, '-', '_' and '.'; 1 to 64.",
			val: as(id(), func(d *deviceDraft, v string) { d.ID = v }),
		},
		{
			name: "driver", required: true,
			doc: "The protocol that the device speaks: modbus or opcua.",
			val: as(driverName(), func(d *deviceDraft, v string) { d.Driver = v }),
		},
		{
			name: "endpoint", required: true,
			doc: "Where the device is, such as tcp://192.0.2.5:502 (Modbus TCP) or opc.tcp://192.0.2.9:4840 (OPC UA). " +
				"Serial lines: rtu:///dev/ttyUSB0?baud=9600&parity=none&stop=1; serial device servers: rtu+tcp://192.0.2.6:4001. " +
				"Devices with the same endpoint share one connection.",
			val: as(endpointURL(), func(d *deviceDraft, v string) { d.Endpoint = v }),
		},
		{
			name: "enabled", def: "true",
			doc: "false: the device is not read, and its state is disabled.",
			val: as(boolean(), func(d *deviceDraft, v bool) { d.Enabled = v }),
		},
		{
			name: "critical", def: "false",
			doc: "Key equipment, for the connectivity figures.",
			val: as(boolean(), func(d *deviceDraft, v bool) { d.Critical = v }),
		},
		{
			// A device that does not know the question refuses it, or is silent
			// for one time-out; then it is not asked again for a month.
			name: "identify", def: "true",
			doc: "The device is asked, once it answers, for its maker, model and serial number (Modbus function 43/14; OPC UA: its nameplate). false: never.",
			val: as(boolean(), func(d *deviceDraft, v bool) { d.Identify = v }),
		},
		{
			name: "labels",
			doc:  "Any names and texts. They go out with the connectivity data.",
			val:  labels[deviceDraft]{put: func(d *deviceDraft, m map[string]string) { d.Labels = m }},
		},
	}, timeKeys()...)
}

func timeKeys() []key[deviceDraft] {
	return []key[deviceDraft]{
		{
			name: "interval", def: "1s",
			doc: "How often its tags are read, unless a tag says otherwise. OPC UA subscriptions: the sampling and publishing interval.",
			val: as(interval(), func(d *deviceDraft, v time.Duration) { d.Interval = v }),
		},
		{
			// A PLC answers within its cycle, 1 to 200 ms; a radio link adds
			// some hundred. Longer holds up the neighbours on a shared bus.
			name: "timeout", def: "1s",
			doc: "How long one request waits for its answer. OPC UA devices: 5s, if it is left out.",
			val: as(duration(10*time.Millisecond, time.Minute, false), func(d *deviceDraft, v time.Duration) { d.Timeout = v }),
		},
		{
			name: "snapshot", def: "10m",
			doc: "How often tags with a deadband or on_change go out although they have not changed.",
			val: as(duration(time.Second, 24*time.Hour, false), func(d *deviceDraft, v time.Duration) { d.Snapshot = v }),
		},
		{
			// Longer than a switch takes to come back after a reboot of its
			// neighbour's port: shorter silences are degraded, not offline.
			name: "offline_after", def: "5s",
			doc: "How long the device may not answer before it counts as offline. It is also at least three scans.",
			val: as(duration(100*time.Millisecond, 24*time.Hour, true), func(d *deviceDraft, v time.Duration) { d.OfflineAfter = v }),
		},
	}
}

// interval is how often something is read. Below 10 ms no PLC has new
// values; down to 1 ms is for benches.
func interval() form[time.Duration] { return duration(time.Millisecond, 24*time.Hour, false) }

func modbusKeys() []key[deviceDraft] {
	return []key[deviceDraft]{
		{
			name: "unit", def: "1", only: modbusDriver,
			doc: "The Modbus unit (slave) number. Devices that are alone at their TCP endpoint often want 1, 255 or 0; on serial lines 1 to 247.",
			val: as(integer(0, 255), func(d *deviceDraft, v int) { d.Modbus.Unit = uint8(v) }),
		},
		{
			name: "order", def: "ABCD", only: modbusDriver,
			doc: "The order of the bytes in values of two or four registers, unless a tag says otherwise; A is the most significant byte.",
			val: as(order(), func(d *deviceDraft, v protocols.Order) { d.Modbus.Order = v }),
		},
		{
			// Another request costs 24 bytes of headers and a round trip; 16
			// registers read for nothing cost 32 bytes and no round trip.
			name: "max_gap", def: "16", only: modbusDriver,
			doc: "How many registers may be read for nothing to merge two tags into one request.",
			val: as(integer(0, 125), func(d *deviceDraft, v int) { d.Modbus.MaxGap = v }),
		},
		{
			// 125 registers are 250 bytes: the most that an answer can hold.
			name: "max_registers", def: "125", only: modbusDriver,
			doc: "How many registers one request may ask for. Some devices allow fewer than the protocol's 125.",
			val: as(integer(1, 125), func(d *deviceDraft, v int) { d.Modbus.MaxRegisters = v }),
		},
	}
}
