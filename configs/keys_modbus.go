package configs

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"millrace/protocols"
)

// modbusLinkKeys are what modbus devices have to say of how they are
// connected and how they bear being asked.
func modbusLinkKeys() []key[deviceDraft] {
	return []key[deviceDraft]{
		{
			name: "fallback", only: modbusDriver,
			doc: "A second address of the same device, of the same kind as the endpoint, for devices with two network ports. It is used when the first does not answer, and then until it fails itself.",
			val: as(modbusURL(), func(d *deviceDraft, v string) { d.Modbus.Fallback = v }),
		},
		{
			// More than one is against the habit of many PLCs: what they do not
			// take at once they may drop without a word.
			name: "max_inflight", def: "1", only: modbusDriver,
			doc: "How many requests may be under way at once, 1 to 16; auto: as many as the device turns out to bear. For tcp:// only.",
			val: as(inflight(), func(d *deviceDraft, v int) { d.Modbus.MaxInflight = v }),
		},
		{
			name: "pause", def: "0s", only: modbusDriver,
			doc: "How long the device is left alone, at the least, between an answer and the next request. For devices that lose requests which come too soon.",
			val: as(shortSpan(), func(d *deviceDraft, v time.Duration) { d.Modbus.Pause = v }),
		},
		{
			// The next scan asks again in any case; a repetition in the same one
			// costs the neighbours on the bus a time-out.
			name: "retries", def: "0", only: modbusDriver,
			doc: "How often a request that timed out is repeated in the same scan, while the device answers otherwise.",
			val: as(integer(0, 5), func(d *deviceDraft, v int) { d.Modbus.Retries = v }),
		},
		{
			name: "close_after_scan", def: "false", only: modbusDriver,
			doc: "true: the connection is closed after each scan, for devices that accept few connections and have several masters.",
			val: as(boolean(), func(d *deviceDraft, v bool) { d.Modbus.CloseAfterScan = v }),
		},
		{
			// Most PLCs answer between two cycles of their program.
			name: "turnaround", def: "5ms", only: modbusDriver,
			doc: "How long the device takes until it begins to answer. Only the predictions of millrace check use it.",
			val: as(shortSpan(), func(d *deviceDraft, v time.Duration) { d.Modbus.Turnaround = v }),
		},
		{
			name: "time_zone", only: modbusDriver,
			doc: "The offset from UTC of the device's clock, such as +08:00, for date-times that say none themselves.",
			val: as(timeZone(), func(d *deviceDraft, v string) { d.Modbus.TimeZone = v }),
		},
		{
			name: "shared_unit", def: "false", only: modbusDriver,
			doc: "true in each of them: several devices of this file are the same unit at the same endpoint, such as one PLC that controls two machines.",
			val: as(boolean(), func(d *deviceDraft, v bool) { d.sharedUnit = v }),
		},
	}
}

// shortSpan is a time for which a device on the field keeps a bus waiting.
func shortSpan() form[time.Duration] {
	f := duration(0, 10*time.Second, true)
	parse := f.parse
	f.want = "a duration from 0 to 10s such as 20ms"
	f.parse = func(s string) (time.Duration, error) {
		if n, err := strconv.Atoi(s); err == nil && n > 0 { // in the manuals these are in milliseconds
			return 0, hint(fmt.Sprintf("write %dms", n))
		}
		return parse(s)
	}
	return f
}

// inflight is a number of requests at once, or auto.
func inflight() form[int] {
	const auto = "auto"
	n := integer(1, 16)
	return form[int]{
		want: n.want + ", or " + auto,
		parse: func(s string) (int, error) {
			if s == auto {
				return protocols.InflightAuto, nil
			}
			if strings.EqualFold(s, auto) || nearest(s, []string{auto}) != "" {
				return 0, hint("write " + auto)
			}
			return n.parse(s)
		},
		spec: schema{"anyOf": []schema{n.spec, {"const": auto}}},
	}
}

const (
	timeZonePattern = `^([+-](0\d|1[0-3]):[0-5]\d|[+-]14:00|Z|UTC)$`
	noOffset        = "+00:00"
)

// timeZone is an offset from UTC. A PLC's clock knows no summer time, and a
// gateway may have no list of zones.
func timeZone() form[string] {
	pattern := regexp.MustCompile(timeZonePattern)
	return form[string]{
		want: "an offset from UTC such as +08:00 or -03:30",
		parse: func(s string) (string, error) {
			switch {
			case s == "Z" || s == "UTC" || s == "-00:00":
				return noOffset, nil
			case pattern.MatchString(s):
				return s, nil
			}
			return "", timeZoneHint(s)
		},
		spec: schema{"type": "string", "pattern": timeZonePattern},
	}
}

// timeZoneHint finds which offset was meant.
func timeZoneHint(s string) error {
	plain := strings.ToUpper(strings.TrimSpace(s))
	switch plain {
	case "Z", "UTC", "GMT", "0", "UTC+0", "GMT+0", "ETC/UTC":
		return hint("write UTC")
	case "ASIA/SHANGHAI", "ASIA/CHONGQING", "ASIA/HONG_KONG", "ASIA/TAIPEI", "PRC":
		return hint("write +08:00: a device's clock has an offset, no place")
	}
	plain = strings.TrimPrefix(strings.TrimPrefix(plain, "UTC"), "GMT")
	// 8, +8, +800, +08.00, 8:00 and the like.
	m := regexp.MustCompile(`^([+-]?)(\d{1,2})(?:[:.]?(\d{2}))?$`).FindStringSubmatch(plain)
	if m == nil {
		return hint("write its offset, such as +08:00: a device's clock has an offset, no place")
	}
	if m[1] == "" {
		m[1] = "+"
	}
	hours, _ := strconv.Atoi(m[2]) // two digits at most
	meant := fmt.Sprintf("%s%02d:%s", m[1], hours, m[3])
	if m[3] == "" {
		meant += "00"
	}
	if !regexp.MustCompile(timeZonePattern).MatchString(meant) {
		return errForm
	}
	return hint("write " + meant)
}
