package main

import (
	"strconv"

	"millrace/configs"
	"millrace/protocols"
	"millrace/protocols/mqtt"
	"millrace/protocols/sparkplug"
)

// sparkplugOptions are what an uplink needs whose format is Sparkplug.
func (a *agent) sparkplugOptions(u *configs.Uplink) mqtt.SparkplugOptions {
	return mqtt.SparkplugOptions{
		PrimaryHost: u.PrimaryHost,
		Devices:     a.sparkplugDevices,
		Current:     a.sparkplugCurrent,
		NextBdSeq:   func() byte { return a.nextBdSeq(u.Name) },
	}
}

// sparkplugDevices are the configured devices as births describe them.
func (a *agent) sparkplugDevices() []sparkplug.Device {
	cfg := a.config()
	known := drivers(a.log, "", "", nil, nil)
	var all []sparkplug.Device
	for _, d := range cfg.Devices {
		device := sparkplug.Device{ID: d.ID}
		for i := range d.Tags {
			t := &d.Tags[i]
			def := sparkplug.Definition{Name: t.Name, Unit: t.Unit, Low: t.Min, High: t.Max, Documentation: t.Description}
			if typer, ok := known[d.Driver].(protocols.Typer); ok {
				def.Type = sparkplug.TypeOf(typer.ValueType(d, t).AfterTransform(t))
			}
			device.Metrics = append(device.Metrics, def)
		}
		all = append(all, device)
	}
	return all
}

// sparkplugCurrent are the newest readings of a device, in the order of its
// tags.
func (a *agent) sparkplugCurrent(id string) []sparkplug.Current {
	values := a.coll.Values(id)
	all := make([]sparkplug.Current, len(values))
	for i, v := range values {
		all[i] = sparkplug.Current{Name: v.Tag.Name, Reading: v.Reading, Time: v.Time}
	}
	return all
}

// nextBdSeq returns the number of an uplink's next session with its broker,
// and keeps it: hosts tell by it which death ends which birth, also over a
// restart.
func (a *agent) nextBdSeq(uplink string) byte {
	key := "bdseq/" + uplink
	next := byte(0)
	if last, err := strconv.ParseUint(string(a.buf.StateGet(key)), 10, 8); err == nil {
		next = byte(last) + 1
	}
	if err := a.buf.StatePut(key, strconv.AppendUint(nil, uint64(next), 10)); err != nil {
		a.log.Debug("the number of the session could not be saved", "uplink", uplink, "error", err)
	}
	return next
}
