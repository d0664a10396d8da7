package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/goburrow/modbus"
)

// yardstick is the CPU of something that cannot be done with less.
type yardstick struct {
	Name          string  `json:"name"`
	Seconds       float64 `json:"seconds"`
	Readings      float64 `json:"readings_per_s"`
	CPUPerMillion float64 `json:"cpu_s_per_million_readings"`
}

// yardsticks measures the bare read loop and the bare publisher at the same
// pace as the agent.
func (b *bench) yardsticks(ctx context.Context, rep *report, interval time.Duration) error {
	sim, plcs, err := b.startSim(ctx)
	if err != nil {
		return err
	}
	defer sim.stop()
	read, err := b.yardstick(ctx, "bare goburrow read loop", roleReader, interval, strconv.Itoa(b.registers), strings.Join(plcs, ","))
	if err != nil {
		return err
	}
	broker, addr, err := b.startMosquitto(ctx, "")
	if err != nil {
		return err
	}
	defer broker.stop()
	publish, err := b.yardstick(ctx, "bare paho publisher, one QoS 1 message a scan", rolePublish, interval, addr, strconv.Itoa(b.devices), strconv.Itoa(b.scanLen))
	if err != nil {
		return err
	}
	rep.Yardsticks = []yardstick{*read, *publish}
	return nil
}

func (b *bench) yardstick(ctx context.Context, name, role string, interval time.Duration, args ...string) (*yardstick, error) {
	p, _, err := b.spawn(ctx, role, os.Args[0], append([]string{role, interval.String()}, args...)...)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if err := pause(ctx, time.Second); err != nil {
		return nil, err
	}
	start, cpu := time.Now(), cpuTime(p.pid())
	if err := pause(ctx, b.window/2); err != nil {
		return nil, err
	}
	y := &yardstick{Name: name, Seconds: time.Since(start).Seconds()}
	used := cpuTime(p.pid()) - cpu
	y.Readings = float64(b.devices*b.registers) / interval.Seconds()
	y.CPUPerMillion = used.Seconds() / (y.Readings * y.Seconds) * 1e6
	return y, nil
}

// runBareReader reads all PLCs at an interval, and throws the values away.
func runBareReader(ctx context.Context, args []string) error {
	interval, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	registers, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for addr := range strings.SplitSeq(args[2], ",") {
		wg.Go(func() {
			bareReader(ctx, addr, registers, interval, func() {})
		})
	}
	wg.Wait()
	return nil
}

// bareReader reads one PLC at an interval with goburrow's client, and throws
// the values away. It calls done after each scan.
func bareReader(ctx context.Context, addr string, registers int, interval time.Duration, done func()) {
	h := modbus.NewTCPClientHandler(addr)
	h.SlaveId = 1
	defer h.Close() //nolint:errcheck // the program ends
	c := modbus.NewClient(h)
	every(ctx, interval, func() error {
		for at := 0; at < registers; at += maxRequest {
			if _, err := c.ReadHoldingRegisters(uint16(at), uint16(min(maxRequest, registers-at))); err != nil {
				return err
			}
		}
		done()
		return nil
	})
}

// runBarePublisher publishes one message of a scan's size for each PLC at an
// interval.
func runBarePublisher(ctx context.Context, args []string) error {
	interval, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	devices, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	size, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	o := paho.NewClientOptions().AddBroker("tcp://" + args[1]).SetClientID("bare").SetAutoReconnect(false)
	c := paho.NewClient(o)
	if t := c.Connect(); t.Wait() && t.Error() != nil {
		return t.Error()
	}
	payload := bytes.Repeat([]byte{'x'}, size)
	var wg sync.WaitGroup
	for i := range devices {
		topic := fmt.Sprintf("bare/default/bench/plc-%02d/data", i)
		wg.Go(func() {
			every(ctx, interval, func() error {
				t := c.Publish(topic, 1, false, payload)
				<-t.Done()
				return t.Error()
			})
		})
	}
	wg.Wait()
	return nil
}

// every does f at an interval until it fails, ctx ends, or the parent goes.
func every(ctx context.Context, interval time.Duration, f func() error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := f(); err != nil {
			_, _ = io.WriteString(os.Stderr, err.Error()+"\n")
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
