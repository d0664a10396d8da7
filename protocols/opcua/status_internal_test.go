package opcua

import (
	"encoding/csv"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// TestSymbols compares the names with the OPC Foundation's table, which
// gopcua's module carries.
func TestSymbols(t *testing.T) {
	t.Parallel()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/gopcua/opcua").Output()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "schema", "StatusCode.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	table := newSymbols()
	for _, row := range rows {
		code, err := strconv.ParseUint(row[1], 0, 32)
		if err != nil {
			t.Fatal(err)
		}
		if got := table.symbol(ua.StatusCode(code)); string(got) != row[0] {
			t.Errorf("0x%08X: %s, want %s", code, got, row[0])
		}
	}
	if len(rows) < 200 {
		t.Errorf("only %d rows", len(rows))
	}
	if got := table.symbol(0x80FE0000); got != "0x80FE0000" {
		t.Errorf("a code without a name: %s", got)
	}
	if got := table.symbol(ua.StatusUncertainLastUsableValue | 0x480); got != "UncertainLastUsableValue" {
		t.Errorf("with info bits: %s", got)
	}
}

func TestFillTimes(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 1, 2, 3, 456789100, time.UTC)
	// What Buffer.ReadTime makes of 9999-12-31T23:59:59Z.
	ticks := uint64(2650467743990000000 - 116444736000000000)
	never := time.Unix(0, int64(ticks*100)).UTC()
	table := newSymbols()
	for name, c := range map[string]struct {
		dv     ua.DataValue
		source int64
	}{
		"none":        {ua.DataValue{}, 0},
		"source":      {ua.DataValue{SourceTimestamp: at, ServerTimestamp: at.Add(time.Hour)}, at.UnixNano()},
		"server":      {ua.DataValue{ServerTimestamp: at}, at.UnixNano()},
		"picoseconds": {ua.DataValue{SourceTimestamp: at, SourcePicoseconds: 1234}, at.UnixNano() + 12},
		"never":       {ua.DataValue{SourceTimestamp: never}, 0},
	} {
		c.dv.Value = ua.MustVariant(int32(1))
		r := protocols.Reading{Tag: 3, Source: 99}
		table.fill(&r, &c.dv, new(address))
		if r.Source != c.source || r.Tag != 3 || r.Quality != protocols.Good {
			t.Errorf("%s: %+v, want %d", name, r, c.source)
		}
	}
	for name, c := range map[string]struct {
		v    any
		want protocols.Reason
	}{
		"never":             {never, protocols.Overflow},
		"null time":         {time.Time{}, noValue},
		"invalid text":      {"\xff", protocols.Malformed},
		"nan in array":      {[]float64{1, math.NaN()}, protocols.NotANumber},
		"nan in a matrix":   {[][]float64{{1}, {math.NaN()}}, protocols.NotANumber},
		"nan in a variant":  {[]*ua.Variant{ua.MustVariant(math.NaN())}, protocols.NotANumber},
		"unknown structure": {&ua.ExtensionObject{EncodingMask: ua.ExtensionObjectBinary, TypeID: ua.NewNumericExpandedNodeID(9, 9)}, protocols.UnsupportedType},
		"no structure":      {&ua.ExtensionObject{TypeID: ua.NewTwoByteExpandedNodeID(0)}, noValue},
		"structure in XML":  {ua.NewExtensionObject(new(ua.XMLElement)), protocols.UnsupportedType},
		"number of no name": {ua.NewExtensionObject(&ua.ServerStatusDataType{State: 99}), protocols.OutOfRange},
	} {
		var r protocols.Reading
		table.fill(&r, &ua.DataValue{Value: ua.MustVariant(c.v)}, new(address))
		if r.Reason != c.want || r.Quality != protocols.Bad {
			t.Errorf("%s: %+v, want %s", name, r, c.want)
		}
	}
}

func TestFillCompound(t *testing.T) {
	t.Parallel()
	table := newSymbols()
	at := time.Unix(1795462800, 123456700)
	for name, c := range map[string]struct {
		v    any
		want string
	}{
		"matrix":      {[][]int32{{1, 2}, {3, 4}}, "[[1,2],[3,4]]"},
		"cube":        {[][][]string{{{"a"}, {"b"}}}, `[[["a"],["b"]]]`},
		"byte matrix": {[][][]byte{{{1}, {2}}}, "[[01,02]]"},
		"variants":    {[]*ua.Variant{ua.MustVariant(true), ua.MustVariant([]int8{-1})}, "[true,[-1]]"},
		"range":       {ua.NewExtensionObject(&ua.Range{Low: -1, High: 1.5}), "{Low:-1,High:1.5}"},
		"structures":  {[]*ua.ExtensionObject{ua.NewExtensionObject(&ua.Range{}), {TypeID: ua.NewTwoByteExpandedNodeID(0)}}, "[{Low:0,High:0},null]"},
		"unit": {
			ua.NewExtensionObject(&ua.EUInformation{NamespaceURI: "u", UnitID: -1, DisplayName: ua.NewLocalizedText("°C"), Description: ua.NewLocalizedText("摄氏度")}),
			`{NamespaceUri:"u",UnitId:-1,DisplayName:"°C",Description:"摄氏度"}`,
		},
		"status": {
			ua.NewExtensionObject(&ua.ServerStatusDataType{StartTime: at, State: ua.ServerStateRunning, BuildInfo: &ua.BuildInfo{ProductURI: "p", BuildDate: at}, SecondsTillShutdown: 3}),
			`{StartTime:2026-11-23T19:40:00.1234567Z,CurrentTime:null,State:"Running",BuildInfo:{ProductUri:"p",ManufacturerName:"",ProductName:"",SoftwareVersion:"",BuildNumber:"",BuildDate:2026-11-23T19:40:00.1234567Z},SecondsTillShutdown:3,ShutdownReason:null}`,
		},
	} {
		var r protocols.Reading
		table.fill(&r, &ua.DataValue{Value: ua.MustVariant(c.v)}, new(address))
		if got := asText(r.Value); got != c.want || r.Quality != protocols.Good {
			t.Errorf("%s: %s %s, want %s", name, got, r.Reason, c.want)
		}
	}
}
