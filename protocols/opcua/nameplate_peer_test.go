package opcua_test

import (
	"context"
	"testing"

	"millrace/protocols"
	"millrace/protocols/opcua/opcuatest/nodeopcua"
)

// identify asks a server who the device is whose tags have these addresses,
// while a subscription to one of its variables goes on.
func identify(t *testing.T, s *nodeopcua.Server, addresses ...string) protocols.Identity {
	t.Helper()
	for i, a := range addresses {
		addresses[i] = "nsu=" + nodeopcua.Namespace + ";" + a
	}
	d := device(s.Endpoint(), addresses...)
	d.Timeout = patience
	b := open(t, driver(t), d)
	if err := b.Connect(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := b.Subscribe(context.Background(), d, allTags(d)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	who, err := b.(protocols.Identifier).Identify(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	for got := 0; got < len(addresses); {
		r := next(t, b, patience)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		got += len(r.Readings)
	}
	if err := b.Close(); err != nil { // the server takes a dozen clients
		t.Error(err)
	}
	return who
}

// The nameplates of a server with the nodesets that define them, of other
// makers than ours.
func TestNameplates(t *testing.T) {
	t.Parallel()
	s := startPeer(t, 0, "machines")
	const software = "Server Works UA 4.5.6"
	want := func(what string, who, want protocols.Identity) {
		t.Helper()
		if want.Software = software; who != want {
			t.Errorf("%s: %+v, want %+v", what, who, want)
		}
	}
	want("no machines", identify(t, s, "s=Int16"), protocols.Identity{})
	command(t, s, "device Drive1 D-1")
	want("one device", identify(t, s, "s=Int16"), protocols.Identity{Maker: "Drive Works", Product: "DW-1", Serial: "D-1", Version: "C"})
	command(t, s, "device Drive2 D-2")
	want("two devices", identify(t, s, "s=Int16"), protocols.Identity{})
	machine := func(serial string) protocols.Identity {
		return protocols.Identity{Maker: "Acme 机床", Model: "M 500", Product: "AC-500", Serial: serial, Version: "2.1"}
	}
	command(t, s, "machine Mill M-1")
	want("one machine, two devices", identify(t, s, "s=Int16"), machine("M-1"))
	command(t, s, "machine Saw M-2")
	want("two machines", identify(t, s, "s=Int16"), protocols.Identity{})
	want("the first of them", identify(t, s, "s=Mill.Speed"), machine("M-1"))
	want("the second of them", identify(t, s, "s=Saw.Speed"), machine("M-2"))
	want("one of them, and something else", identify(t, s, "s=Saw.Speed", "s=Int16"), protocols.Identity{})
	want("both", identify(t, s, "s=Saw.Speed", "s=Mill.Speed"), protocols.Identity{})
	command(t, s, "mute Saw")
	want("one that says nothing", identify(t, s, "s=Saw.Speed"), protocols.Identity{})
	for i := range 70 {
		command(t, s, "machine More"+string(rune('A'+i%26))+string(rune('A'+i/26))+" X")
	}
	want("many", identify(t, s, "s=Mill.Speed"), machine("M-1"))
	want("none of many", identify(t, s, "s=Int16"), protocols.Identity{})
}

// Machines and devices as they are made of the specifications' own types.
func TestTypedNameplates(t *testing.T) {
	t.Parallel()
	s := startPeer(t, 0, "machines")
	machine := protocols.Identity{Maker: "Acme 机床", Model: "M 500", Product: "AC-500", Serial: "M-1", Version: "2.1", Software: "Server Works UA 4.5.6"}
	device := protocols.Identity{Maker: "Control Works", Model: "C 7", Serial: "P-M-1", Version: "V2.9", Software: "Server Works UA 4.5.6"}
	command(t, s, "typed Mill M-1")
	if who := identify(t, s, "s=Int16"); who != machine {
		t.Errorf("one machine: %+v", who)
	}
	command(t, s, "typed Saw M-2")
	if who := identify(t, s, "s=Mill.Speed"); who != machine {
		t.Errorf("one of two: %+v", who)
	}
	// A control is no machine: of two machines it is not known whose it is.
	if who := identify(t, s, "s=MillPLC.Speed"); who != (protocols.Identity{Software: machine.Software}) {
		t.Errorf("the control of one of two: %+v", who)
	}
	command(t, s, "gone Mill")
	command(t, s, "gone Saw")
	if who := identify(t, s, "s=MillPLC.Speed"); who != device {
		t.Errorf("the control of one, without machines: %+v", who)
	}
}
