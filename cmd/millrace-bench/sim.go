package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"millrace/protocols/modbus/modbustest"
)

// runSim serves the given number of PLCs, prints their addresses, one a
// line, and ends with its standard input.
func runSim(ctx context.Context, args []string) error {
	var devices, registers int
	if err := numbers(args, &devices, &registers); err != nil {
		return err
	}
	units := make([]*modbustest.Unit, devices)
	var addrs []string
	var servers []*modbustest.Server
	defer func() {
		for _, s := range servers {
			_ = s.Close() // the program ends
		}
	}()
	for i := range units {
		s := modbustest.NewServer()
		units[i] = s.Unit(1)
		if err := s.Listen(""); err != nil { //nolint:contextcheck // closed below
			return err
		}
		servers = append(servers, s)
		addrs = append(addrs, s.Addr())
	}
	fmt.Println(strings.Join(addrs, "\n"))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = bufio.NewReader(os.Stdin).ReadByte() // ends with the parent
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	values := make([]uint16, registers)
	for n := uint16(0); ; n++ {
		for i, u := range units {
			for j := range values {
				values[j] = n + uint16(i*251+j*37)
			}
			u.Holding.Set(0, values...)
		}
		select {
		case <-tick.C:
		case <-ended:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}
