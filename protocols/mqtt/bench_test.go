package mqtt_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"millrace/protocols"
	"millrace/protocols/mqtt"
	"millrace/protocols/mqtt/mqtttest"
	"millrace/protocols/sparkplug"
)

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// scan is a batch of 500 registers, and its schema.
func scan() (*protocols.Schema, mqtt.Record) {
	s := &protocols.Schema{Device: "press-1"}
	b := &protocols.Batch{Schema: s}
	for i := range 500 {
		s.Tags = append(s.Tags, protocols.SchemaTag{Name: fmt.Sprintf("tag%03d", i)})
		r := protocols.Reading{Tag: int32(i)}
		r.SetGood(protocols.Uint(uint64(i*131) & 0xffff))
		b.Readings = append(b.Readings, r)
	}
	return s, mqtt.Record{Stream: "01KA0000000000000000000000", Seq: 1, Time: time.Now().UnixMilli(), Schema: s.ID(), Readings: 500, Data: protocols.EncodeBatch(nil, b)}
}

// BenchmarkUplink sends scans of 500 registers to Mosquitto, in both formats,
// and counts them for the completeness ledger or does not; its yardstick is
// BenchmarkBarePublisher.
func BenchmarkUplink(b *testing.B) {
	for _, format := range []string{mqtt.FormatJSON, mqtt.FormatSparkplug} {
		b.Run(format+"/counted", func(b *testing.B) { benchmarkUplink(b, format, true) })
		b.Run(format+"/plain", func(b *testing.B) { benchmarkUplink(b, format, false) })
	}
}

func benchmarkUplink(b *testing.B, format string, counted bool) {
	b.Helper()
	broker := mqtttest.StartMosquitto(b, mqtttest.MosquittoOptions{})
	s := make(schemas)
	schema, r := scan()
	s.add(schema)
	p := newPlant("press-1")
	p.devices[0].Metrics = nil
	for _, t := range schema.Tags {
		p.devices[0].Metrics = append(p.devices[0].Metrics, sparkplug.Definition{Name: t.Name, Type: sparkplug.UInt16})
	}
	o := options("gw-1", broker.URL("mqtt"), s)
	o.Format, o.Sparkplug = format, p.options()
	sent := 0
	if counted {
		o.Handed = func(_ uint64, h mqtt.Handed) { sent += h.Sent }
	}
	u, err := mqtt.New(o)
	if err != nil {
		b.Fatal(err)
	}
	defer u.Disconnect()
	last := make(chan struct{})
	if _, err := u.Connect(b.Context(), func(token uint64) {
		if token == uint64(b.N) {
			close(last)
		}
	}); err != nil {
		b.Fatal(err)
	}
	before := cpuTime()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		r.Time = time.Now().UnixMilli()
		if err := u.Send(b.Context(), uint64(i+1), r); err != nil {
			b.Fatal(err)
		}
	}
	<-last
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-µs/msg")
}

// BenchmarkBarePublisher publishes ready messages of the same size by paho
// alone, with the same window.
func BenchmarkBarePublisher(b *testing.B) {
	broker := mqtttest.StartMosquitto(b, mqtttest.MosquittoOptions{})
	o := paho.NewClientOptions().AddBroker(broker.URL("mqtt")).SetClientID("bare").SetAutoReconnect(false)
	c := paho.NewClient(o)
	if t := c.Connect(); t.Wait() && t.Error() != nil {
		b.Fatal(t.Error())
	}
	defer c.Disconnect(250)
	flight := make(chan paho.Token, mqtt.DefaultMaxInflight)
	done := make(chan error, 1)
	go func() {
		for t := range flight {
			if t.Wait() && t.Error() != nil {
				done <- t.Error()
				return
			}
		}
		done <- nil
	}()
	body := make([]byte, 6_700) // of the message that BenchmarkUplink sends
	before := cpuTime()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		flight <- c.Publish("millrace/plant/gw-1/press-1/data", 1, false, body)
	}
	close(flight)
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-µs/msg")
}
