package opcua

import (
	"fmt"
	"strings"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// noValue is the reason of a reading whose status is good but which came
// without a value: Part 6's null Variant, a null array, or a DateTime of 0. The
// name follows OPC UA's own BadNoData; a program can tell the two apart.
const noValue protocols.Reason = "BadNoValue"

// The parts of a status code (Part 4, 7.39).
const (
	severityMask  = 0xC000_0000
	severityBad   = 0x8000_0000
	symbolMask    = 0xFFFF_0000 // severity and sub code; the rest are flags
	infoTypeMask  = 0x0000_0C00
	infoDataValue = 0x0000_0400
	infoOverflow  = 0x0000_0080 // with infoDataValue: the item's queue overflowed
)

// symbols are OPC UA's names of the status codes, as protocols.Reasons.
type symbols map[ua.StatusCode]protocols.Reason

// newSymbols makes the table from gopcua's, whose names differ from the
// standard's in the spelling of initials: BadNodeIDUnknown for BadNodeIdUnknown.
func newSymbols() symbols {
	spell := strings.NewReplacer("URI", "Uri", "URL", "Url", "TCP", "Tcp", "ID", "Id")
	table := make(symbols, len(ua.StatusCodes))
	for code, d := range ua.StatusCodes {
		name := spell.Replace(strings.TrimPrefix(d.Name, "Status"))
		table[code&symbolMask] = protocols.Reason(name)
	}
	table[0], table[0x4000_0000], table[0x8000_0000] = "Good", "Uncertain", "Bad"
	return table
}

// symbol returns the name of a status code, or its number where it has none.
func (t symbols) symbol(code ua.StatusCode) protocols.Reason {
	if s, ok := t[code&symbolMask]; ok {
		return s
	}
	return protocols.Reason(fmt.Sprintf("0x%08X", uint32(code&symbolMask)))
}

// reason returns what a tag is given that a status code made bad.
func (t symbols) reason(code ua.StatusCode) protocols.Reason {
	switch code & symbolMask {
	case ua.StatusBadNodeIDUnknown:
		return protocols.NoSuchNode
	case ua.StatusBadNotReadable, ua.StatusBadUserAccessDenied, ua.StatusBadAttributeIDInvalid:
		// A node without the attribute Value is no variable: nothing to read.
		return protocols.NotReadable
	case ua.StatusBadTimeout:
		return protocols.Timeout
	}
	return t.symbol(code)
}

func isBad(code ua.StatusCode) bool  { return code&severityMask >= severityBad }
func isGood(code ua.StatusCode) bool { return code&severityMask == 0 }

// overflowed says that the server had to drop older values of this item.
func overflowed(code ua.StatusCode) bool {
	return code&infoTypeMask == infoDataValue && code&infoOverflow != 0
}

// statusText is a status code in words, for messages.
func (t symbols) statusText(code ua.StatusCode) string {
	if d, ok := ua.StatusCodes[code&symbolMask]; ok && d.Text != "" {
		return string(t.symbol(code)) + " (" + strings.TrimSuffix(d.Text, ".") + ")"
	}
	return string(t.symbol(code))
}
