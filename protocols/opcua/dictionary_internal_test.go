package opcua

import (
	"testing"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

const testDictionary = `<?xml version="1.0" encoding="utf-8"?>
<opc:TypeDictionary xmlns:opc="http://opcfoundation.org/BinarySchema/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:ua="http://opcfoundation.org/UA/" xmlns:tns="urn:plc" xmlns:o="urn:other"
  DefaultByteOrder="LittleEndian" TargetNamespace="urn:plc">
 <opc:Import Namespace="http://opcfoundation.org/UA/" Location="Opc.Ua.BinarySchema.bsd"/>
 <opc:EnumeratedType LengthInBits="32" Name="State"><opc:EnumeratedValue Name="Off" Value="0"/><opc:EnumeratedValue Name="运行" Value="1"/></opc:EnumeratedType>
 <opc:StructuredType BaseType="ua:ExtensionObject" Name="Point"><opc:Field TypeName="opc:Double" Name="X"/><opc:Field TypeName="opc:Double" Name="Y"/></opc:StructuredType>
 <opc:StructuredType BaseType="ua:ExtensionObject" Name="&quot;UDT 1&quot;">
  <opc:Field TypeName="opc:CharArray" Name="Name"/>
  <opc:Field TypeName="tns:State" Name="State"/>
  <opc:Field TypeName="opc:Int32" Name="NoOfPoints"/>
  <opc:Field TypeName="tns:Point" Name="Points" LengthField="NoOfPoints"/>
  <opc:Field TypeName="ua:LocalizedText" Name="Text"/>
  <opc:Field TypeName="ua:Range" Name="Limits"/>
  <opc:Field TypeName="opc:Byte" Name="Raw" Length="3"/>
 </opc:StructuredType>
 <opc:StructuredType BaseType="ua:ExtensionObject" Name="Optional">
  <opc:Field TypeName="opc:Bit" Name="WeightSpecified"/><opc:Field TypeName="opc:Bit" Name="CustomerSpecified"/><opc:Field TypeName="opc:Bit" Length="30" Name="Reserved1"/>
  <opc:Field TypeName="opc:Int32" Name="Number"/>
  <opc:Field TypeName="opc:Double" Name="Weight" SwitchField="WeightSpecified"/>
  <opc:Field TypeName="opc:String" Name="Customer" SwitchField="CustomerSpecified"/>
 </opc:StructuredType>
 <opc:StructuredType BaseType="ua:Union" Name="Union">
  <opc:Field TypeName="opc:UInt32" Name="SwitchField"/>
  <opc:Field TypeName="opc:Double" Name="Measured" SwitchField="SwitchField" SwitchValue="1"/>
  <opc:Field TypeName="opc:String" Name="Failure" SwitchField="SwitchField" SwitchValue="2"/>
 </opc:StructuredType>
 <opc:StructuredType Name="Bits"><opc:Field TypeName="opc:Bit" Name="a"/><opc:Field TypeName="opc:Bit" Name="b" Length="3"/><opc:Field TypeName="opc:Bit" Name="Reserved" Length="4"/></opc:StructuredType>
 <opc:StructuredType Name="Far"><opc:Field TypeName="o:Thing" Name="a"/></opc:StructuredType>
 <opc:StructuredType Name="Lost"><opc:Field TypeName="tns:Nothing" Name="a"/></opc:StructuredType>
 <opc:StructuredType Name="Sized"><opc:Field TypeName="opc:Int32" Name="n"/><opc:Field TypeName="opc:Char" Name="text" LengthField="n"/></opc:StructuredType>
</opc:TypeDictionary>` + "\x00"

const otherDictionary = `<opc:TypeDictionary xmlns:opc="http://opcfoundation.org/BinarySchema/" DefaultByteOrder="LittleEndian" TargetNamespace="urn:other">
 <opc:StructuredType Name="Thing"><opc:Field TypeName="opc:Int16" Name="n"/></opc:StructuredType></opc:TypeDictionary>`

func TestDictionary(t *testing.T) {
	t.Parallel()
	ds := newDictionaries()
	if space, err := ds.add([]byte(testDictionary)); err != nil || space != "urn:plc" {
		t.Fatal(space, err)
	}
	far := map[*dataType]bsdName{nil: {"urn:plc", "Far"}}
	if !ds.lacks(far) || ds.lacks(map[*dataType]bsdName{nil: {"urn:plc", `"UDT 1"`}}) {
		t.Error("it is not clear what is missing")
	}
	if _, err := ds.add([]byte(otherDictionary)); err != nil || ds.lacks(far) {
		t.Fatal(err)
	}
	b := testBook()
	for _, c := range []struct {
		name string
		in   []byte
		want string
	}{
		{"Point", body(1.0, 2.0), "{X:1,Y:2}"},
		{`"UDT 1"`, body("压机", 1, 2, 1.0, 2.0, 3.0, 4.0, ua.NewLocalizedText("t"), 0.5, 9.5, []byte{7, 8, 9}), `{Name:"压机",State:"运行",Points:[{X:1,Y:2},{X:3,Y:4}],Text:"t",Limits:{Low:0.5,High:9.5},Raw:[7,8,9]}`},
		{`"UDT 1"`, body("压机", 7), "out_of_range"},
		{`"UDT 1"`, body("压机", 1, 1<<30), "malformed"},
		{"Optional", body(2, 17, "x"), `{Number:17,Customer:"x"}`},
		{"Optional", body(0, 17), "{Number:17}"},
		{"Union", body(1, 2.5), "{Measured:2.5}"},
		{"Union", body(2, "hot"), `{Failure:"hot"}`},
		{"Bits", body(byte(0x0B)), "{a:true,b:5}"},
		{"Bits", nil, "malformed"},
		{"Far", body(byte(1), byte(0)), "{a:{n:1}}"},
		{"Lost", body(1), "unsupported_type"},
		{"Sized", body("ab\x00"), `{text:"ab"}`},
		{"Sized", body(-1), `{text:null}`},
	} {
		s := ds.shape(bsdName{"urn:plc", c.name})
		if s == nil {
			t.Fatal(c.name)
		}
		budget := maxArrayLength
		v, why, words := b.decodeBody(s, c.in, 0, &budget)
		got := asText(v)
		if why != "" {
			got = string(why)
		}
		if got != c.want {
			t.Errorf("%s: %s (%s), want %s", c.name, got, words, c.want)
		}
	}
}

// FuzzDictionary reads arbitrary dictionaries, and decodes arbitrary bodies by
// all that is in them.
func FuzzDictionary(f *testing.F) {
	f.Add([]byte(testDictionary), body("x", 1, 0, 1.0))
	f.Add([]byte(otherDictionary), []byte{1, 0})
	b := testBook()
	f.Fuzz(func(t *testing.T, text, data []byte) {
		ds := newDictionaries()
		if _, err := ds.add(text); err != nil {
			return
		}
		for n := range ds.types {
			ds.lacks(map[*dataType]bsdName{nil: n})
			s := ds.shape(n)
			if s == nil {
				continue
			}
			budget := 1 << 16
			v, why, _ := b.decodeBody(s, data, 0, &budget)
			if why == "" && !v.Finite() {
				t.Fatal("a NaN")
			}
			_ = v.Equal(protocols.Value{})
		}
	})
}
