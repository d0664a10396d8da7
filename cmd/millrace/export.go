package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"millrace/buffer"
	"millrace/protocols"
	"millrace/protocols/mqtt"
)

// The formats of an export.
const (
	formatNDJSON = "ndjson"
	formatCSV    = "csv"
)

// exportWriter writes the batches of an export in its format.
type exportWriter struct {
	out     *bufio.Writer
	csv     bool
	enc     *mqtt.Encoder
	schemas map[uint64]*protocols.Schema // nil: it cannot be read
	line    []byte
	unknown uint64 // batches that could not be written: the names of their tags are lost, or they cannot be decoded
	unread  uint64 // readings in them
}

// csvHeader names the columns of an export; the order is a promise.
const csvHeader = "stream,seq,ts,time,device,tag,value,unit,quality,reason,source_ts"

func newExportWriter(w io.Writer, format, gateway string) *exportWriter {
	x := &exportWriter{
		out: bufio.NewWriterSize(w, 64<<10), csv: format == formatCSV, enc: mqtt.NewEncoder(gateway), schemas: make(map[uint64]*protocols.Schema),
	}
	if x.csv {
		_, _ = x.out.WriteString(csvHeader + "\r\n") // the writer keeps its first error
	}
	return x
}

// put is a buffer.Put.
func (x *exportWriter) put(r *buffer.Record, blob []byte) error {
	s, ok := x.schemas[r.Schema]
	if !ok {
		s, _ = protocols.DecodeSchema(blob) // nil: the names are lost
		if blob == nil {
			s = nil
		}
		x.schemas[r.Schema] = s
	}
	if s == nil {
		x.skip(r.Readings)
		return nil
	}
	if x.csv {
		return x.putRows(mqtt.Record(*r), s)
	}
	var err error
	if x.line, err = x.enc.AppendJSON(x.line[:0], mqtt.Record(*r), s); err != nil {
		x.skip(r.Readings)
		return nil //nolint:nilerr // it is counted
	}
	x.line = append(x.line, '\n')
	_, err = x.out.Write(x.line)
	return err
}

// skip counts a batch that cannot be written.
func (x *exportWriter) skip(readings int) {
	x.unknown++
	x.unread += uint64(readings)
}

// putRows writes a row for each reading.
func (x *exportWriter) putRows(r mqtt.Record, s *protocols.Schema) error {
	readings, err := x.enc.Readings(r, s)
	if err != nil {
		x.skip(r.Readings)
		return nil //nolint:nilerr // it is counted
	}
	x.line = x.line[:0]
	for i := range readings {
		x.line = appendRow(x.line, &r, s, &readings[i])
	}
	_, err = x.out.Write(x.line)
	return err
}

// appendRow appends the row of one reading.
func appendRow(dst []byte, r *mqtt.Record, s *protocols.Schema, reading *protocols.Reading) []byte {
	tag := &s.Tags[reading.Tag]
	given, quality, why := mqtt.Told(reading)
	dst = append(appendField(dst, r.Stream), ',')
	dst = append(strconv.AppendUint(dst, r.Seq, 10), ',')
	dst = append(strconv.AppendInt(dst, r.Time, 10), ',')
	dst = append(time.UnixMilli(r.Time).UTC().AppendFormat(dst, timeForm), ',')
	dst = append(appendField(dst, s.Device), ',')
	dst = append(appendField(dst, tag.Name), ',')
	if given {
		dst = appendCSVValue(dst, reading.Value)
	}
	dst = append(dst, ',')
	dst = append(appendField(dst, tag.Unit), ',')
	dst = append(append(dst, qualityText(quality)...), ',')
	dst = append(appendField(dst, string(why)), ',')
	if reading.Source != 0 {
		dst = mqtt.AppendMillis(dst, reading.Source)
	}
	return append(dst, "\r\n"...)
}

// timeForm is a time in UTC as people and spreadsheets read it.
const timeForm = "2006-01-02T15:04:05.000Z"

// appendField appends text as a field of a CSV file (RFC 4180). What is no
// UTF-8 in it is replaced, as in a message.
func appendField(dst []byte, text string) []byte {
	text = strings.ToValidUTF8(text, "\ufffd")
	if !strings.ContainsAny(text, ",\"\r\n") && (text == "" || text[0] != ' ') {
		return append(dst, text...)
	}
	dst = append(dst, '"')
	dst = append(dst, strings.ReplaceAll(text, `"`, `""`)...)
	return append(dst, '"')
}

// appendCSVValue appends a value as it stands in a message, but for the
// quotes of JSON.
func appendCSVValue(dst []byte, v protocols.Value) []byte {
	switch v.Kind() {
	case protocols.KindString:
		return appendField(dst, v.AsString())
	case protocols.KindBytes:
		return base64.StdEncoding.AppendEncode(dst, []byte(v.AsString()))
	case protocols.KindTime:
		return v.AsTime().AppendFormat(dst, time.RFC3339Nano)
	case protocols.KindArray, protocols.KindObject:
		return appendField(dst, string(mqtt.AppendJSONValue(nil, v)))
	case protocols.KindNone, protocols.KindBool, protocols.KindInt, protocols.KindUint, protocols.KindFloat32, protocols.KindFloat64:
	}
	return mqtt.AppendJSONValue(dst, v)
}

func qualityText(q protocols.Quality) string {
	switch q {
	case protocols.Good:
		return "good"
	case protocols.Uncertain:
		return "uncertain"
	case protocols.Bad:
	}
	return "bad"
}

// flush writes what is left.
func (x *exportWriter) flush() error { return x.out.Flush() }

// exportOutcome is how an export ended, for the one who asked for it.
type exportOutcome struct {
	buffer.ExportResult
	Unknown uint64 `json:"unknown,omitempty"` // batches that could not be written
	Error   string `json:"error,omitempty"`   // why it ended too early
}

// whole tells whether all that was asked for came.
func (o *exportOutcome) whole() bool {
	return o.Error == "" && o.Unknown == 0 && o.ExportResult.Whole()
}

// problems says in words what did not come.
func (o *exportOutcome) problems() (lines []string) {
	for _, f := range o.Skipped {
		lines = append(lines, fmt.Sprintf("%s was left out: %s", f.Name, f.Fault))
	}
	if o.Damaged > 0 {
		lines = append(lines, amount(uint64(o.Damaged), "damaged part of a file", "damaged parts of files")+" could not be read")
	}
	if o.Unknown > 0 {
		lines = append(lines, amount(o.Unknown, "batch", "batches")+" could not be written: the names of the tags are lost, or the content makes no sense")
	}
	return append(lines, missingLines(o.Missing)...)
}

// missingLines says which batches should be in the files and did not come.
func missingLines(all []buffer.Lost) (lines []string) {
	for i, l := range all {
		if i == maxShown && len(all) > maxShown+1 {
			return append(lines, fmt.Sprintf("MISSING: … and in %d more places", len(all)-i))
		}
		lines = append(lines, fmt.Sprintf("MISSING: batches %d to %d of %s should be there and did not come", l.From, l.To, l.Stream))
	}
	return lines
}
