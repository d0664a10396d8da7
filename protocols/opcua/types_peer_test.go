package opcua_test

import (
	"context"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/opcua/opcuatest/nodeopcua"
)

// typedValues are the variables of types.js and what they must read as.
var typedValues = []struct{ address, want string }{
	{"s=State", "Running"},
	{"s=Fault", "故障"},
	{"s=Unlisted", "out_of_range"},
	{"s=States", "[Stopped 故障]"},
	{"s=States[1:1]", "故障"},
	{"s=Point", "{X:1.5 Y:-2}"},
	{"s=Point3", "{X:1 Y:2 Z:0.1f}"},
	{"s=NaNPoint", "not_a_number"},
	{"s=Points", "[{X:1 Y:2} {X:3 Y:4}]"},
	{"s=Points[1:1]", "{X:3 Y:4}"},
	{"s=Axis", "{Name:轴一 Position:{X:0.1 Y:1e+300} Targets:[{X:1 Y:2} {X:3 Y:4}] State:故障 States:[Stopped Running]" +
		" Signed:-9223372036854775808 Unsigned:18446744073709551615u When:2026-11-23T12:34:56.789Z Never:none" +
		" Id:72962b91-fa75-4ae6-8d28-b404dc7daf63 Raw:00ff Text:läuft Tag:1:Axis Node:ns=1;s=Motor Status:BadDeviceFailure Any:[1u 4294967295u] Cycle:12.5 Flags:[true false]" +
		" Range:{Low:-1 High:1} Unit:{NamespaceUri:http://www.opcfoundation.org/UA/units/un/cefact UnitId:4408652 DisplayName:°C Description:degree Celsius}}"},
	{"s=Order", "{Number:17 Customer:客户}"},
	{"s=Bare", "{Number:18}"},
	{"s=Measured", "{Measured:2.5}"},
	{"s=Failure", "{Failure:too hot}"},
	{"s=NoStructure", "BadNoValue"},
	{"s=Anything", "{X:7 Y:8 Z:9f}"},
	{"s=Cube", "[[[1 2 3]] [[4 5 6]]]"},
	{"s=Matrix[1:1,0:0]", "3"},
	{"s=Matrix[0:1,1:1]", "[[2] [4]]"},
	{"s=Texts", "[[a b] [c d]]"},
	{"s=Structure", "{ProductUri: ManufacturerName: ProductName:x SoftwareVersion: BuildNumber: BuildDate:none}"},
	{"s=Int32", "-2147483648"},
}

func TestPeerStructures(t *testing.T) {
	t.Parallel()
	srv := startPeer(t, 0, "types")
	addresses := make([]string, len(typedValues))
	for i, v := range typedValues {
		addresses[i] = "nsu=" + nodeopcua.Namespace + ";" + v.address
	}
	d := device(srv.Endpoint(), addresses...)
	d.Interval = 100 * time.Millisecond
	b := open(t, driver(t), d)
	connect(t, b)

	out, _ := read(t, b, d)
	for i, v := range typedValues {
		if got := show(out[i]); got != v.want {
			t.Errorf("poll %s:\n%s, want\n%s", v.address, got, v.want)
		}
	}
	if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
		t.Fatal(err)
	}
	got := make(map[int32]string)
	for len(got) < len(typedValues) {
		r := next(t, b, patience)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		for _, x := range r.Readings {
			got[x.Tag] = show(x)
		}
	}
	for i, v := range typedValues {
		if got[int32(i)] != v.want {
			t.Errorf("subscribe %s:\n%s, want\n%s", v.address, got[int32(i)], v.want)
		}
	}
	for _, s := range b.(protocols.Adviser).Advice(d) {
		t.Log(s)
	}
}
