package mqtt

import (
	"bytes"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"pgregory.net/rapid"
)

// Of a stream of any packets, cut anywhere, the answers to pings are counted.
func TestFrames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var stream bytes.Buffer
		want := 0
		for range rapid.IntRange(0, 20).Draw(t, "packets") {
			var p packets.ControlPacket
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				p = packets.NewControlPacket(packets.Pingresp)
				want++
			case 1:
				a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
				a.MessageID = 0xd000
				p = a
			default:
				m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
				m.TopicName = "t"
				m.Payload = bytes.Repeat([]byte{pingResponse, 0}, rapid.IntRange(0, 10_000).Draw(t, "size"))
				p = m
			}
			if err := p.Write(&stream); err != nil {
				t.Fatal(err)
			}
		}
		var f frames
		got := 0
		for data := stream.Bytes(); len(data) > 0; {
			n := rapid.IntRange(1, len(data)).Draw(t, "cut")
			got += f.pongs(data[:n])
			data = data[n:]
		}
		if got != want {
			t.Fatalf("%d answers to pings, want %d", got, want)
		}
	})
}
