package main

import (
	"errors"
	"fmt"
	"math"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus/modbustest"
	"millrace/protocols/opcua/opcuatest"
)

// plant is the demo's simulated machines: a hydraulic press and a compressor
// that speak Modbus TCP, and an injection moulder that speaks OPC UA. Their
// values are functions of time, so that they hang together: while the press
// moves, its oil warms and its stroke counter counts.
type plant struct {
	press, compressor *modbustest.Server
	moulder           *opcuatest.Server
}

func startPlant() (*plant, error) {
	p := &plant{press: modbustest.NewServer(), compressor: modbustest.NewServer()}
	p.press.Unit(1).SetIdentity(nameplate("Demo Presses", "HP-160", "V3.2", "Hydraulic press 160 t"))
	p.compressor.Unit(1).SetIdentity(nameplate("Demo Air", "C55", "1.7", "Compressor 55 kW"))
	err := errors.Join(pressRegisters(p.press.Unit(1)), compressorRegisters(p.compressor.Unit(1)))
	if err != nil {
		return nil, err
	}
	if p.moulder, err = opcuatest.NewServer(opcuatest.Options{Name: "Moulder", Nodes: moulderNodes()}); err != nil {
		return nil, fmt.Errorf("simulated moulder: %w", err)
	}
	if err = errors.Join(p.press.Listen(""), p.compressor.Listen("")); err != nil {
		p.close()
		return nil, fmt.Errorf("simulated PLC: %w", err)
	}
	return p, nil
}

// nameplate is what a simulated machine says of itself.
func nameplate(maker, code, version, model string) *modbustest.Identity {
	return &modbustest.Identity{Conformity: 2, Objects: map[byte]string{0: maker, 1: code, 2: version, 5: model}}
}

func (p *plant) close() {
	// The program ends anyway: what a simulator has to say of it is no matter.
	_ = errors.Join(p.press.Close(), p.compressor.Close(), p.moulder.Close())
}

// wave swings around mid by amplitude, once a period.
func wave(now time.Time, period time.Duration, mid, amplitude float64) float64 {
	return mid + amplitude*math.Sin(2*math.Pi*cyclePart(now, period))
}

// cyclePart is how much of the present cycle is over, 0 to 1.
func cyclePart(now time.Time, cycle time.Duration) float64 {
	return float64(now.UnixNano()%int64(cycle)) / float64(cycle)
}

// cycles is how many cycles are over since the day began.
func cycles(now time.Time, cycle time.Duration) int64 {
	return now.UnixNano() % int64(24*time.Hour) / int64(cycle)
}

const (
	pressCycle   = 6 * time.Second
	moulderCycle = 18 * time.Second
)

// pressForce is the force in kN: none while the slide comes down, a steep
// rise in the lowest part of the stroke, and a release.
func pressForce(now time.Time) float64 {
	part := cyclePart(now, pressCycle)
	if part < 0.40 || part > 0.62 {
		return 0
	}
	return 1600 * math.Sin(math.Pi*(part-0.40)/0.22)
}

func pressSlide(now time.Time) float64 {
	return 250 * (1 + math.Cos(2*math.Pi*cyclePart(now, pressCycle)))
}

func pressState(now time.Time) uint16 {
	switch part := cyclePart(now, pressCycle); {
	case part < 0.40:
		return 1
	case part <= 0.62:
		return 2
	case part < 0.95:
		return 3
	}
	return 0
}

func pressRegisters(u *modbustest.Unit) error {
	f32 := func(addr int, order protocols.Order, f func(now time.Time) float64) error {
		return u.Holding.SetValueFunc(addr, "float32", order, func(now time.Time) protocols.Value { return protocols.Float32(float32(f(now))) })
	}
	u.Holding.SetFunc(4, pressState)
	u.Holding.SetFunc(5, func(now time.Time) uint16 { return uint16(wave(now, 7*time.Minute, 463, 18)) }) // oil, 0.1 °C
	u.Holding.SetFunc(6, func(now time.Time) uint16 { return uint16(wave(now, 3*time.Minute, 1180, 35)) })
	u.Coils.SetFunc(0, func(time.Time) bool { return true })
	u.Coils.SetFunc(1, func(now time.Time) bool { return cycles(now, time.Minute)%15 == 7 }) // door
	return errors.Join(
		u.Holding.SetValueFunc(0, "uint32", protocols.CDAB, func(now time.Time) protocols.Value { return protocols.Uint(uint64(184_000 + cycles(now, pressCycle))) }),
		f32(2, protocols.ABCD, pressForce),
		f32(8, protocols.CDAB, pressSlide),
		u.Holding.SetValue(16, "string(12)", protocols.ABCD, protocols.String("A-1742")),
	)
}

func compressorRegisters(u *modbustest.Unit) error {
	load := func(now time.Time) float64 { return wave(now, 40*time.Second, 72, 21) }
	u.Input.SetFunc(0, func(now time.Time) uint16 { return uint16(wave(now, 25*time.Second, 742, 28)) }) // 0.01 bar
	u.Input.SetFunc(1, func(now time.Time) uint16 { return uint16(wave(now, 4*time.Minute, 836, 22)) })  // 0.1 °C
	u.Input.SetFunc(2, func(now time.Time) uint16 { return uint16(load(now) * 10) })
	u.Input.SetFunc(3, func(now time.Time) uint16 { return uint16(int16(wave(now, 9*time.Minute, 31, 9))) }) // dew point, 0.1 °C
	u.Discrete.SetFunc(0, func(time.Time) bool { return true })
	u.Discrete.SetFunc(1, func(time.Time) bool { return false })
	return errors.Join(
		u.Input.SetValueFunc(10, "float32", protocols.ABCD, func(now time.Time) protocols.Value { return protocols.Float32(float32(load(now) * 0.55)) }),
		u.Input.SetValueFunc(12, "uint64", protocols.ABCD, func(now time.Time) protocols.Value {
			return protocols.Uint(uint64(912_400_000 + cycles(now, 90*time.Millisecond)))
		}),
		u.Input.SetValueFunc(16, "uint32", protocols.ABCD, func(now time.Time) protocols.Value { return protocols.Uint(uint64(23_118 + now.UTC().Hour())) }),
	)
}

func moulderNodes() []opcuatest.Node {
	number := func(f func(now time.Time) float64) func(time.Time) any {
		// To a tenth, as a transmitter gives it: otherwise every sample differs.
		return func(now time.Time) any { return math.Round(f(now)*10) / 10 }
	}
	zone := func(i int, set float64) opcuatest.Node {
		return opcuatest.Node{Name: fmt.Sprintf("Zone%d", i), NodeID: fmt.Sprintf("ns=2;s=Barrel.Zone%d.Temperature", i), Value: number(func(now time.Time) float64 {
			return wave(now, time.Duration(50+7*i)*time.Second, set, 1.8)
		})}
	}
	return []opcuatest.Node{
		zone(1, 245), zone(2, 258), zone(3, 265),
		{Name: "InjectionPressure", NodeID: "ns=2;s=Injection.Pressure", Value: number(func(now time.Time) float64 {
			if part := cyclePart(now, moulderCycle); part < 0.15 {
				return 900 * math.Sin(math.Pi*part/0.15)
			}
			return 0
		})},
		{Name: "ScrewPosition", NodeID: "ns=2;s=Injection.ScrewPosition", Value: number(func(now time.Time) float64 {
			part := cyclePart(now, moulderCycle)
			if part < 0.15 {
				return 120 * (1 - part/0.15)
			}
			return 120 * math.Min(1, (part-0.15)/0.5)
		})},
		{Name: "ShotCount", NodeID: "ns=2;s=Production.ShotCount", Value: func(now time.Time) any { return uint32(77_000 + cycles(now, moulderCycle)) }},
		{Name: "CycleTime", NodeID: "ns=2;s=Production.CycleTime", Value: number(func(now time.Time) float64 { return wave(now, time.Minute, 18, 0.4) })},
		{Name: "State", NodeID: "ns=2;s=Production.State", Value: func(now time.Time) any {
			if cyclePart(now, moulderCycle) < 0.15 {
				return int32(2)
			}
			return int32(1)
		}},
		{Name: "Material", NodeID: "ns=2;s=Production.Material", Value: func(time.Time) any { return "PA66-GF30" }},
		{Name: "MouldClosed", NodeID: "ns=2;s=Mould.Closed", Value: func(now time.Time) any { return cyclePart(now, moulderCycle) < 0.8 }},
	}
}

// demoConfig is the configuration that the demo runs, as a user would write
// it.
func demoConfig(p *plant, broker, console, buffer string) string {
	return fmt.Sprintf(`gateway:
  id: demo-gateway
  group: demo-plant
buffer:
  path: %q
  max_size: 64MiB
uplinks:
  - name: platform
    broker: mqtt://%s
console:
  listen: %q
devices:
  - id: press-1
    driver: modbus
    endpoint: tcp://%s
    interval: 1s
    critical: true
    tags:
      - {name: stroke_count, address: "holding:0", type: uint32, order: CDAB}
      - {name: force, address: "holding:2", type: float32, unit: kN, min: 0, max: 2000}
      - {name: state, address: "holding:4", enum: "0=top;1=closing;2=pressing;3=opening"}
      - {name: oil_temperature, address: "holding:5", type: int16, scale: 0.1, unit: "°C", deadband: 0.2}
      - {name: oil_pressure, address: "holding:6", scale: 0.1, unit: bar}
      - {name: slide_position, address: "holding:8", type: float32, order: CDAB, unit: mm}
      - {name: order, address: "holding:16", type: string(12), on_change: true}
      - {name: running, address: "coil:0"}
      - {name: door_open, address: "coil:1", on_change: true}
  - id: moulder-1
    driver: opcua
    endpoint: opc.tcp://%s
    interval: 500ms
    security: {policy: None}
    tags:
      - {name: zone_1, address: "ns=2;s=Barrel.Zone1.Temperature", unit: "°C"}
      - {name: zone_2, address: "ns=2;s=Barrel.Zone2.Temperature", unit: "°C"}
      - {name: zone_3, address: "ns=2;s=Barrel.Zone3.Temperature", unit: "°C"}
      - {name: injection_pressure, address: "ns=2;s=Injection.Pressure", unit: bar, deadband: 5}
      - {name: screw_position, address: "ns=2;s=Injection.ScrewPosition", unit: mm, deadband: 1}
      - {name: shot_count, address: "ns=2;s=Production.ShotCount"}
      - {name: cycle_time, address: "ns=2;s=Production.CycleTime", unit: s}
      - {name: state, address: "ns=2;s=Production.State", enum: "1=automatic;2=injecting"}
      - {name: material, address: "ns=2;s=Production.Material"}
      - {name: mould_closed, address: "ns=2;s=Mould.Closed"}
  - id: compressor-1
    driver: modbus
    endpoint: tcp://%s
    interval: 2s
    tags:
      - {name: pressure, address: "input:0", scale: 0.01, unit: bar, min: 0, max: 16}
      - {name: outlet_temperature, address: "input:1", scale: 0.1, unit: "°C"}
      - {name: load, address: "input:2", scale: 0.1, unit: "%%"}
      - {name: dew_point, address: "input:3", type: int16, scale: 0.1, unit: "°C"}
      - {name: power, address: "input:10", type: float32, unit: kW, deadband: 2%%}
      - {name: energy, address: "input:12", type: uint64, unit: Wh}
      - {name: hours, address: "input:16", type: uint32, unit: h, on_change: true}
      - {name: running, address: "discrete:0"}
      - {name: fault, address: "discrete:1", on_change: true}
`, buffer, broker, console, p.press.Addr(), p.moulder.Addr(), p.compressor.Addr())
}
