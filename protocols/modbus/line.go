package modbus

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// line is the settings of a serial line.
type line struct {
	baud   int
	parity byte // 'N', 'E' or 'O'
	stop   int  // stop bits
	rs485  rs485
}

// rs485 is how the kernel drives the direction of a half-duplex line, where
// the adapter does not do so by itself.
type rs485 struct {
	on            bool
	low           bool          // RTS is low while sending
	before, after time.Duration // between RTS and the first bit, and the last bit and RTS
}

// The settings of a line that says none: what most devices are shipped with.
// (The standard's own default, 19200 baud with even parity, is rare.)
const (
	defaultBaud   = 9600
	defaultParity = 'N'
	defaultStop   = 1
)

// Bounds of what is accepted. Devices of less than 300 baud are not made any
// more; UARTs end at 4 Mbaud.
const (
	minBaud = 300
	maxBaud = 4_000_000
	maxRTS  = 100 // ms
)

// parseLine reads the settings of an rtu:// endpoint. The error is in words
// for the user.
func parseLine(settings map[string][]string) (line, error) {
	l := line{baud: defaultBaud, parity: defaultParity, stop: defaultStop}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		values := settings[name]
		if len(values) != 1 {
			return l, fmt.Errorf("%s is there %d times: remove all but one", name, len(values))
		}
		if err := l.set(name, values[0]); err != nil {
			return l, err
		}
	}
	for _, name := range []string{"rts", "rts_before", "rts_after"} {
		if _, there := settings[name]; there && !l.rs485.on {
			return l, fmt.Errorf("%s is for rs485=on: add that, or remove it", name)
		}
	}
	return l, nil
}

// lineSettings are the names that an rtu:// endpoint may set.
func lineSettings() []string {
	return []string{"baud", "parity", "stop", "data", "rs485", "rts", "rts_before", "rts_after"}
}

func (l *line) set(name, value string) (err error) {
	lower := strings.ToLower(value)
	switch name {
	case "baud":
		l.baud, err = strconv.Atoi(value)
		if err != nil || l.baud < minBaud || l.baud > maxBaud {
			return fmt.Errorf("baud=%s: expected a number from %d to %d, such as 9600 or 19200", value, minBaud, maxBaud)
		}
	case "parity":
		parities := map[string]byte{"none": 'N', "even": 'E', "odd": 'O', "n": 'N', "e": 'E', "o": 'O'}
		if l.parity = parities[lower]; l.parity == 0 {
			return fmt.Errorf("parity=%s: expected none, even or odd", value)
		}
	case "stop":
		l.stop, err = strconv.Atoi(value)
		if err != nil || l.stop < 1 || l.stop > 2 {
			return fmt.Errorf("stop=%s: expected 1 or 2 stop bits", value)
		}
	case "data":
		if value != "8" {
			return fmt.Errorf("data=%s: Modbus RTU has 8 data bits always (7 is for Modbus ASCII, which Millrace does not speak)", value)
		}
	default:
		return l.setRS485(name, value, lower)
	}
	return nil
}

func (l *line) setRS485(name, value, lower string) error {
	switch name {
	case "rs485":
		if lower != "on" && lower != "off" {
			return fmt.Errorf("rs485=%s: expected on (the kernel switches the direction with RTS) or off (the adapter does it)", value)
		}
		l.rs485.on = lower == "on"
	case "rts":
		if lower != "high" && lower != "low" {
			return fmt.Errorf("rts=%s: expected high or low, the level while sending", value)
		}
		l.rs485.low = lower == "low"
	case "rts_before", "rts_after":
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > maxRTS {
			return fmt.Errorf("%s=%s: expected milliseconds from 0 to %d", name, value, maxRTS)
		}
		d := time.Duration(n) * time.Millisecond
		if name == "rts_before" {
			l.rs485.before = d
		} else {
			l.rs485.after = d
		}
	default:
		best, distance := "", 4
		for _, known := range lineSettings() {
			if d := editDistance(strings.ToLower(name), known); d < distance {
				best, distance = known, d
			}
		}
		if strings.HasPrefix(strings.ToLower(name), "baud") {
			best = "baud"
		}
		if best != "" {
			return fmt.Errorf("there is no setting %s: did you mean %s=%s?", name, best, value)
		}
		return fmt.Errorf("there is no setting %s: they are %s", name, strings.Join(lineSettings(), ", "))
	}
	return nil
}

// String is the settings as people write them: 9600 8N1. Two lines that are
// not the same differ in it.
func (l line) String() string {
	s := fmt.Sprintf("%d 8%c%d", l.baud, l.parity, l.stop)
	if !l.rs485.on {
		return s
	}
	s += " RS-485"
	if l.rs485.low {
		s += ", RTS low"
	}
	if l.rs485.before > 0 || l.rs485.after > 0 {
		s += fmt.Sprintf(", RTS %v before and %v after", l.rs485.before, l.rs485.after)
	}
	return s
}

// char is how long a character takes: start bit, 8 data bits, parity and
// stop bits.
func (l line) char() time.Duration {
	n := 1 + 8 + l.stop
	if l.parity != 'N' {
		n++
	}
	return time.Duration(n) * time.Second / time.Duration(max(l.baud, 1))
}

// silence is how long the line must be silent between two frames: 3.5
// characters, and 1.75 ms above 19,200 baud (MODBUS over Serial Line
// V1.02, 2.5.1.1).
func (l line) silence() time.Duration {
	if l.baud > 19200 {
		return 1750 * time.Microsecond
	}
	return 7 * l.char() / 2
}
