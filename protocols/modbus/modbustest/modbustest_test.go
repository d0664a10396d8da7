package modbustest

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"testing"
	"time"

	gomodbus "github.com/goburrow/modbus"

	"millrace/protocols"
)

func TestEncodeVectors(t *testing.T) {
	t.Parallel()
	for _, v := range Vectors() {
		if v.Value.Kind() == protocols.KindNone || v.DecodeOnly {
			continue
		}
		raw, err := v.Layout().Encode(v.Value)
		var got []uint16
		for i := 0; i+1 < len(raw); i += 2 {
			got = append(got, binary.BigEndian.Uint16(raw[i:]))
		}
		if err != nil || !slices.Equal(got, v.Registers) {
			t.Errorf("%+v of %+v is %04x, %v; want %04x", v.Layout(), v.Value, got, err, v.Registers)
		}
	}
}

// client returns a server, and goburrow's own client for its unit 1.
func client(t *testing.T) (*Server, gomodbus.Client) {
	t.Helper()
	s := NewServer()
	if err := s.Listen(""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	h := gomodbus.NewTCPClientHandler(s.Addr())
	h.SlaveId = 1
	h.Timeout = 5 * time.Second
	h.IdleTimeout = 0
	if err := h.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return s, gomodbus.NewClient(h)
}

func TestFunctionsOfTime(t *testing.T) {
	t.Parallel()
	s, c := client(t)
	u := s.Unit(1)
	u.Holding.Set(255, 1, 2, 3, 4) // over the edge of a page
	u.Holding.SetFunc(256, func(time.Time) uint16 { return 7 })
	if err := u.Holding.SetValueFunc(300, "uint32", protocols.ABCD, func(time.Time) protocols.Value { return protocols.Uint(0x00010002) }); err != nil {
		t.Fatal(err)
	}
	u.Coils.SetFunc(9, func(now time.Time) bool { return !now.IsZero() })
	for _, want := range []struct {
		addr, n uint16
		bytes   string
	}{
		{255, 4, "0001000700030004"},
		{299, 4, "0000000100020000"},
		{299, 2, "00000001"}, // a part of a value
		{301, 2, "00020000"},
	} {
		got, err := c.ReadHoldingRegisters(want.addr, want.n)
		if err != nil || hex.EncodeToString(got) != want.bytes {
			t.Errorf("%d from %d are %x, %v; want %s", want.n, want.addr, got, err, want.bytes)
		}
	}
	if got, err := c.ReadCoils(0, 10); err != nil || hex.EncodeToString(got) != "0002" {
		t.Errorf("coils are %x, %v", got, err)
	}
	if got := u.Holding.Get(255); got != 1 {
		t.Errorf("register 255 is %d", got)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s, c := client(t)
	u := s.Unit(1)
	u.Input.Refuse(10, 2)
	u.Discrete.Refuse(10, 2)
	for _, r := range []struct {
		addr, n uint16
		code    byte
	}{{8, 2, 0}, {8, 3, 2}, {11, 1, 2}, {12, 1, 0}, {65535, 1, 0}, {65535, 2, 2}} {
		_, err := c.ReadInputRegisters(r.addr, r.n)
		_, bitErr := c.ReadDiscreteInputs(r.addr, r.n)
		for _, err := range []error{err, bitErr} {
			code := byte(0)
			if e, ok := err.(*gomodbus.ModbusError); ok { //nolint:errorlint // goburrow returns it as it is
				code = e.ExceptionCode
			}
			if code != r.code {
				t.Errorf("%d from %d: %v, want exception %d", r.n, r.addr, err, r.code)
			}
		}
	}
	u.Limit(5)
	if _, err := c.ReadHoldingRegisters(0, 6); err == nil {
		t.Error("6 registers are given, beyond the limit of 5")
	}
	if _, err := c.WriteSingleCoil(0, 0xff00); err == nil {
		t.Error("a function that is not there is answered")
	}
	if n := u.Requests(); n != 14 {
		t.Errorf("%d requests", n)
	}
}

func TestListenAgain(t *testing.T) {
	t.Parallel()
	s := NewServer()
	if err := s.Listen(""); err != nil {
		t.Fatal(err)
	}
	addr := s.Addr()
	if s.Listen("") == nil {
		t.Error("it listens twice")
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if s.Addr() != "" {
		t.Error("it has an address after Close")
	}
	if err := s.Listen(addr); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
