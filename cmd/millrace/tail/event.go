package tail

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Kind says what a message is.
type Kind string

// The kinds of messages; they stand in the output for programs.
const (
	KindData         Kind = "data"
	KindState        Kind = "state"        // a device's, of the format json
	KindStatus       Kind = "status"       // a gateway's, of the format json
	KindGap          Kind = "gap"          // a gap notice, of the format json
	KindConnectivity Kind = "connectivity" // of the format json
	KindBirth        Kind = "birth"        // of Sparkplug, as all that follow
	KindDeath        Kind = "death"
	KindCommand      Kind = "command"
	KindHost         Kind = "host" // the STATE of a host application
	KindUnknown      Kind = "unknown"
)

// The formats of messages.
const (
	FormatJSON      = "json"
	FormatSparkplug = "sparkplug"
)

// The qualities of a reading. Stale is Sparkplug's alone.
const (
	Good      = "good"
	Uncertain = "uncertain"
	Bad       = "bad"
	Stale     = "stale"
)

// Event is what one message says. Its fields are the output for programs,
// which docs/tail.md describes.
type Event struct {
	Kind     Kind   `json:"kind"`
	Format   string `json:"format,omitempty"`
	Message  string `json:"message,omitempty"` // of Sparkplug: NBIRTH and so on
	Received int64  `json:"received"`          // ms since 1970 UTC, by our clock
	Topic    string `json:"topic"`
	Group    string `json:"group,omitempty"`
	Gateway  string `json:"gateway,omitempty"`
	Device   string `json:"device,omitempty"`
	Host     string `json:"host,omitempty"`
	Retained bool   `json:"retained,omitempty"`

	Stream     string          `json:"stream,omitempty"`
	Seq        *uint64         `json:"seq,omitempty"`
	TS         json.RawMessage `json:"ts,omitempty"` // ms since 1970 UTC, as it was sent
	Historical bool            `json:"historical,omitempty"`
	Clock      string          `json:"clock,omitempty"`
	Repeat     bool            `json:"repeat,omitempty"`
	Late       bool            `json:"late,omitempty"` // its number was counted as missing before
	BdSeq      *uint64         `json:"bdseq,omitempty"`
	Readings   []Reading       `json:"readings,omitempty"`

	State   string          `json:"state,omitempty"`
	Since   json.RawMessage `json:"since,omitempty"`
	Reason  string          `json:"reason,omitempty"`
	Online  *bool           `json:"online,omitempty"`
	Version string          `json:"version,omitempty"`
	Cleared bool            `json:"cleared,omitempty"`
	Gap     *Gap            `json:"gap,omitempty"`

	Body  json.RawMessage `json:"body,omitempty"` // of what is JSON and has no form of its own
	Text  string          `json:"text,omitempty"` // of what is a text and no JSON
	Hex   string          `json:"hex,omitempty"`  // the first bytes of anything else
	Size  int             `json:"size"`           // of the body, in bytes
	Fault string          `json:"fault,omitempty"`
	Notes []string        `json:"notes,omitempty"`

	dropped int // readings that the filter hid
}

// Reading is one tag's value.
type Reading struct {
	Tag        string          `json:"tag"`
	Value      json.RawMessage `json:"value,omitempty"` // missing: there is none
	Quality    string          `json:"quality"`
	Reason     string          `json:"reason,omitempty"`
	Unit       string          `json:"unit,omitempty"`
	Type       string          `json:"type,omitempty"`
	TS         json.RawMessage `json:"ts,omitempty"` // ms since 1970 UTC, if it has a time of its own
	Historical bool            `json:"historical,omitempty"`
}

// Gap is what a gap notice says.
type Gap struct {
	From     uint64 `json:"from"`
	To       uint64 `json:"to"`
	Readings uint64 `json:"readings"`
	Reason   string `json:"reason"`
	Oldest   int64  `json:"oldest"`
	Newest   int64  `json:"newest"`
}

func (e *Event) note(text string) { e.Notes = append(e.Notes, text) }

// AppendJSON appends e as one line of JSON. What a terminal could obey is
// escaped in it.
func (e *Event) AppendJSON(dst []byte) ([]byte, error) { return appendJSONLine(dst, e) }

func appendJSONLine(dst []byte, v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return dst, err
	}
	return append(appendEscaped(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))), '\n'), nil
}

// appendEscaped appends JSON with all runes escaped that are not printable:
// they can stand in its strings alone.
func appendEscaped(dst, text []byte) []byte {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(dst, `\ufffd`...)
		case unicode.IsPrint(r):
			dst = append(dst, text[:size]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			dst = appendUnit(appendUnit(dst, high), low)
		default:
			dst = appendUnit(dst, r)
		}
		text = text[size:]
	}
	return dst
}

// appendUnit appends a unit of UTF-16 as JSON escapes it.
func appendUnit(dst []byte, r rune) []byte {
	dst = append(dst, `\u`...)
	for shift := 12; shift >= 0; shift -= 4 {
		dst = append(dst, "0123456789abcdef"[r>>shift&0xf])
	}
	return dst
}

// millis is a time in ms as it stands in JSON.
func millis(ms int64) json.RawMessage { return strconv.AppendInt(nil, ms, 10) }
