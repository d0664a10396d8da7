package opcua

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// publishBody is a PublishResponse as a server sends it.
func publishBody(tb testing.TB, data ...any) []byte {
	tb.Helper()
	res := &ua.PublishResponse{
		ResponseHeader: &ua.ResponseHeader{
			Timestamp: time.Unix(1795462800, 100).UTC(), RequestHandle: 7, ServiceDiagnostics: &ua.DiagnosticInfo{},
			StringTable: []string{"a"}, AdditionalHeader: ua.NewExtensionObject(nil),
		},
		SubscriptionID: 3, AvailableSequenceNumbers: []uint32{4, 5}, MoreNotifications: true,
		NotificationMessage: &ua.NotificationMessage{SequenceNumber: 6, PublishTime: time.Unix(1795462800, 0).UTC(), NotificationData: []*ua.ExtensionObject{}},
		Results:             []ua.StatusCode{0, ua.StatusBadSequenceNumberUnknown}, DiagnosticInfos: []*ua.DiagnosticInfo{{EncodingMask: 1, SymbolicID: 2}},
	}
	for _, d := range data {
		res.NotificationMessage.NotificationData = append(res.NotificationMessage.NotificationData, ua.NewExtensionObject(d))
	}
	body, err := ua.Encode(res)
	if err != nil {
		tb.Fatal(err)
	}
	return append(publishResponseID(), body...)
}

func publishResponseID() []byte {
	return binary.LittleEndian.AppendUint16([]byte{1, 0}, id.PublishResponse_Encoding_DefaultBinary)
}

func changes(values ...any) *ua.DataChangeNotification {
	n := &ua.DataChangeNotification{DiagnosticInfos: []*ua.DiagnosticInfo{}}
	for i, v := range values {
		dv := &ua.DataValue{Value: ua.MustVariant(v), SourceTimestamp: time.Unix(1795462800, 100*int64(i+1)).UTC(), ServerTimestamp: time.Unix(1795462801, 0).UTC()}
		dv.UpdateMask()
		if i%2 == 1 {
			dv.EncodingMask |= ua.DataValueStatusCode | ua.DataValueSourcePicoseconds | ua.DataValueServerPicoseconds
			dv.Status, dv.SourcePicoseconds, dv.ServerPicoseconds = ua.StatusUncertainLastUsableValue, 17, 18
		}
		n.MonitoredItems = append(n.MonitoredItems, &ua.MonitoredItemNotification{ClientHandle: uint32(i), Value: dv})
	}
	return n
}

// plainTypes has values that hold none of the message's bytes.
func plainTypes() []any {
	return []any{
		true, int8(-1), uint8(255), int16(-2), uint16(3), int32(-4), uint32(5), int64(math.MinInt64), uint64(math.MaxUint64), float32(0.1), 1e300,
		"注塑机", time.Unix(1, 0).UTC(), ua.StatusBadDeviceFailure,
		[]float64{1, 2},
		[]string{"a", ""},
		[][]int32{{1, 2}, {3, 4}},
		ua.ByteArray{1, 2},
	}
}

// everyType has a value of each kind that a notification may bring.
func everyType() []any {
	return append(plainTypes(), []byte{1, 2}, ua.XMLElement("<a/>"), ua.NewStringNodeID(2, "x"),
		&ua.QualifiedName{NamespaceIndex: 1, Name: "q"}, ua.NewLocalizedText("läuft"), ua.NewExtensionObject(&ua.Range{Low: 1, High: 2}))
}

// TestDecodePublish compares with gopcua's own decoder.
func TestDecodePublish(t *testing.T) {
	t.Parallel()
	bad := &ua.DataChangeNotification{MonitoredItems: []*ua.MonitoredItemNotification{
		{ClientHandle: 1, Value: &ua.DataValue{EncodingMask: ua.DataValueStatusCode, Status: ua.StatusBadNodeIDUnknown}},
		{ClientHandle: 2, Value: &ua.DataValue{EncodingMask: ua.DataValueValue, Value: &ua.Variant{}}},
	}, DiagnosticInfos: []*ua.DiagnosticInfo{{EncodingMask: 1, SymbolicID: 9}}}
	for name, c := range map[string]struct {
		data []any
		kept bool
	}{
		"keep-alive":     {nil, false},
		"numbers":        {[]any{changes(1.5, int32(2), "three")}, false},
		"plain types":    {[]any{changes(plainTypes()...)}, false},
		"every type":     {[]any{changes(everyType()...)}, true},
		"no values":      {[]any{bad}, false},
		"status":         {[]any{&ua.StatusChangeNotification{Status: ua.StatusBadTimeout, DiagnosticInfo: &ua.DiagnosticInfo{}}}, true},
		"several":        {[]any{changes(1.0), changes(uint8(2))}, false},
		"no structure":   {[]any{nil}, true},
		"event and data": {[]any{&ua.EventNotificationList{Events: []*ua.EventFieldList{}}, changes(1.0)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := publishBody(t, c.data...)
			_, want, err := ua.DecodeService(bytes.Clone(body))
			if err != nil {
				t.Fatal(err)
			}
			got, kept, err := decodeService(body)
			if err != nil || kept != c.kept {
				t.Errorf("kept %v, %v", kept, err)
			}
			if !kept {
				clear(body) // whoever has it next
			}
			if differs(t, got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// differs compares two responses as they would be sent again.
func differs(t *testing.T, a, b any) bool {
	t.Helper()
	x, err1 := ua.Encode(withoutNull(a))
	y, err2 := ua.Encode(withoutNull(b))
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return !bytes.Equal(x, y)
}

// withoutNull makes null lists empty: we do not tell the two apart.
func withoutNull(v any) any {
	res, ok := v.(*ua.PublishResponse)
	if !ok {
		return v
	}
	m := res.NotificationMessage
	m.NotificationData = slices.Concat([]*ua.ExtensionObject{}, m.NotificationData)
	for _, o := range m.NotificationData {
		if change, ok := o.Value.(*ua.DataChangeNotification); ok {
			change.DiagnosticInfos = slices.Concat([]*ua.DiagnosticInfo{}, change.DiagnosticInfos)
		}
	}
	return res
}

// FuzzDecodePublish: what gopcua decodes is decoded to the same, and nothing
// panics.
func FuzzDecodePublish(f *testing.F) {
	f.Add(publishBody(f))
	f.Add(publishBody(f, changes(everyType()...)))
	f.Add(publishBody(f, changes(1.0), &ua.StatusChangeNotification{DiagnosticInfo: &ua.DiagnosticInfo{}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !bytes.HasPrefix(b, publishResponseID()) {
			return
		}
		got, _, err := guardedDecode(decodeService, b)
		_, _, err2 := guardedDecode(func(b []byte) (any, bool, error) {
			_, v, err := ua.DecodeService(b)
			return v, false, err
		}, bytes.Clone(b))
		if err == nil && err2 == nil && got == nil {
			t.Error("neither a value nor an error")
		}
	})
}

// guardedDecode lets gopcua's own panics, which channel.request catches, pass.
func guardedDecode(decode func([]byte) (any, bool, error), b []byte) (v any, kept bool, err error) {
	defer func() {
		if recover() != nil {
			err = errMalformed
		}
	}()
	return decode(b)
}

func BenchmarkDecodePublish(b *testing.B) {
	values := make([]any, 1000)
	for i := range values {
		values[i] = float64(i)
	}
	body := publishBody(b, changes(values...))
	for name, decode := range map[string]func([]byte) (any, bool, error){
		"ours": decodeService,
		"gopcua": func(b []byte) (any, bool, error) {
			_, v, err := ua.DecodeService(b)
			return v, false, err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := decode(body); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(values)), "ns/value")
		})
	}
}
