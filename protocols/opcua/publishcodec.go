package opcua

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// fourByteID is how long a NodeId is in its four byte form (Part 6, 5.2.2.9),
// which is how servers send those of the encodings here.
const fourByteID = 4

// startsWith says that b begins with the standard's NodeId n.
func startsWith(b []byte, n uint16) bool {
	return len(b) >= fourByteID && b[0] == 1 && b[1] == 0 && binary.LittleEndian.Uint16(b[2:]) == n
}

// decodeService decodes the body of a message. Kept says that what it returns
// refers to b; otherwise b may be used again.
//
// It is gopcua's DecodeService but for the messages that bring the values:
// those it decodes by reflection, with a formatted name for each element, in
// some 20 allocations and well over a microsecond a value, which is more than
// everything else that is done with it.
func decodeService(b []byte) (v any, kept bool, err error) {
	if startsWith(b, id.PublishResponse_Encoding_DefaultBinary) {
		d := publishDecoder{data: b[fourByteID:]}
		res := d.response()
		if d.err != nil {
			return nil, true, fmt.Errorf("%w: a PublishResponse: %w", errMalformed, d.err)
		}
		return res, d.kept, nil
	}
	_, v, err = ua.DecodeService(b)
	return v, true, err
}

// publishDecoder takes a PublishResponse apart. After the first error all that
// it returns is zero.
type publishDecoder struct {
	data []byte
	err  error
	kept bool
}

// response reads what Part 4, 5.14.5.2 says.
func (d *publishDecoder) response() *ua.PublishResponse {
	res := &ua.PublishResponse{ResponseHeader: new(ua.ResponseHeader)}
	d.other(res.ResponseHeader)
	if h := res.ResponseHeader.AdditionalHeader; h != nil && h.Value != nil {
		d.kept = true
	}
	res.SubscriptionID = d.uint32()
	for range d.count(4) {
		res.AvailableSequenceNumbers = append(res.AvailableSequenceNumbers, d.uint32())
	}
	res.MoreNotifications = d.byte() != 0
	msg := &ua.NotificationMessage{SequenceNumber: d.uint32(), PublishTime: d.time()}
	for range d.count(3) {
		msg.NotificationData = append(msg.NotificationData, d.notification())
	}
	res.NotificationMessage = msg
	for range d.count(4) {
		res.Results = append(res.Results, ua.StatusCode(d.uint32()))
	}
	res.DiagnosticInfos = d.diagnostics()
	return res
}

// notification reads one of the message's structures.
func (d *publishDecoder) notification() *ua.ExtensionObject {
	o := new(ua.ExtensionObject)
	known := startsWith(d.data, id.DataChangeNotification_Encoding_DefaultBinary)
	if !known || len(d.data) == fourByteID || d.data[fourByteID] != ua.ExtensionObjectBinary {
		d.other(o)
		d.kept = true
		return o
	}
	d.take(fourByteID + 1)
	size := d.uint32()
	body := publishDecoder{data: d.take(int(min(size, math.MaxInt32)))}
	o.EncodingMask = ua.ExtensionObjectBinary
	o.TypeID = ua.NewFourByteExpandedNodeID(0, id.DataChangeNotification_Encoding_DefaultBinary)
	o.Value = body.dataChange()
	d.kept = d.kept || body.kept
	if d.err == nil {
		d.err = body.err
	}
	return o
}

// dataChange reads what Part 4, 7.25.2 says. What it returns lies side by
// side: an allocation for all values, not for each.
func (d *publishDecoder) dataChange() *ua.DataChangeNotification {
	n := d.count(5) // a handle, and a value's mask
	type item struct {
		note    ua.MonitoredItemNotification
		value   ua.DataValue
		variant ua.Variant
	}
	items := make([]item, n)
	list := make([]*ua.MonitoredItemNotification, n)
	for i := range items {
		it := &items[i]
		it.note.ClientHandle = d.uint32()
		it.note.Value, it.value.Value = &it.value, &it.variant
		d.dataValue(&it.value)
		list[i] = &it.note
	}
	if d.err != nil {
		return nil
	}
	change := &ua.DataChangeNotification{MonitoredItems: list}
	if len(d.data) > 0 { // some servers leave them out
		change.DiagnosticInfos = d.diagnostics()
	}
	return change
}

// dataValue reads what Part 6, 5.2.2.17 says into v, which has an empty Value.
func (d *publishDecoder) dataValue(v *ua.DataValue) {
	mask := d.byte()
	v.EncodingMask = mask
	if mask&ua.DataValueValue != 0 {
		d.variant(v.Value)
	}
	if mask&ua.DataValueStatusCode != 0 {
		v.Status = ua.StatusCode(d.uint32())
	}
	if mask&ua.DataValueSourceTimestamp != 0 {
		v.SourceTimestamp = d.time()
	}
	if mask&ua.DataValueSourcePicoseconds != 0 {
		v.SourcePicoseconds = d.uint16()
	}
	if mask&ua.DataValueServerTimestamp != 0 {
		v.ServerTimestamp = d.time()
	}
	if mask&ua.DataValueServerPicoseconds != 0 {
		v.ServerPicoseconds = d.uint16()
	}
}

// variant has gopcua decode it: only that can make one.
func (d *publishDecoder) variant(v *ua.Variant) {
	if d.err != nil {
		return
	}
	n, err := v.Decode(d.data)
	if err != nil {
		d.err = err
		return
	}
	d.data = d.data[n:]
	switch v.Type() { // these hold no bytes of the message
	case ua.TypeIDNull, ua.TypeIDBoolean, ua.TypeIDSByte, ua.TypeIDInt16, ua.TypeIDUint16, ua.TypeIDInt32, ua.TypeIDUint32,
		ua.TypeIDInt64, ua.TypeIDUint64, ua.TypeIDFloat, ua.TypeIDDouble, ua.TypeIDString, ua.TypeIDDateTime, ua.TypeIDStatusCode, ua.TypeIDByte:
	default:
		d.kept = true
	}
}

// diagnostics reads an array that is nearly always empty.
func (d *publishDecoder) diagnostics() (list []*ua.DiagnosticInfo) {
	for range d.count(1) {
		i := new(ua.DiagnosticInfo)
		d.other(i)
		list = append(list, i)
	}
	return list
}

// other has gopcua decode something.
func (d *publishDecoder) other(v any) {
	if d.err != nil {
		return
	}
	buf := ua.NewBuffer(d.data)
	buf.ReadStruct(v)
	if d.err = buf.Error(); d.err == nil {
		d.data = d.data[buf.Pos():]
	}
}

// count reads the length of an array whose elements take so many bytes at the
// least; an array that is null has 0.
func (d *publishDecoder) count(size int) int {
	n := int32(d.uint32())
	if n <= 0 || d.err != nil {
		return 0
	}
	if int(n) > len(d.data)/size {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *publishDecoder) fail() {
	if d.err == nil {
		d.err = io.ErrUnexpectedEOF
	}
	d.data = nil
}

// take cuts n bytes off; nil if there are not so many.
func (d *publishDecoder) take(n int) []byte {
	if d.err != nil || n > len(d.data) {
		d.fail()
		return nil
	}
	b := d.data[:n:n]
	d.data = d.data[n:]
	return b
}

func (d *publishDecoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *publishDecoder) uint16() uint16 {
	if b := d.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (d *publishDecoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// time reads a DateTime as gopcua does, with its overflow, which
// sourceTime knows.
func (d *publishDecoder) time() time.Time {
	b := d.take(8)
	if b == nil {
		return time.Time{}
	}
	const epoch = 116444736000000000 // 1970, in ticks from 1601
	ticks := binary.LittleEndian.Uint64(b)
	if ticks == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64((ticks-epoch)*100)).UTC()
}
