package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"millrace/protocols"
)

// child starts this program in a role, on the given number of cores (0: all),
// and decodes what it prints.
func (b *bench) child(ctx context.Context, cores int, out any, args ...string) error {
	cmd := exec.CommandContext(ctx, os.Args[0], args...) //nolint:gosec // this program
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "TMPDIR="+b.dir)
	if cores > 0 {
		cmd.Env = append(cmd.Env, "GOMAXPROCS="+strconv.Itoa(cores))
	}
	data, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return json.Unmarshal(data, out)
}

// tell prints what a child measured.
func tell(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

// numbers reads a role's arguments.
func numbers(args []string, into ...*int) error {
	if len(args) < len(into) {
		return fmt.Errorf("want %d numbers, got %v", len(into), args)
	}
	var errs []error
	for i, p := range into {
		n, err := strconv.Atoi(args[i])
		*p = n
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Kinds of values.
const (
	slowUint16   = "slow"   // at each scan every second one moves by one, or stays
	randomUint16 = "random" // do not compress
	randomFloat  = "float"  // random float32
)

// plc is a device whose scans are made up: records as the collector makes
// them.
type plc struct {
	id     uint64
	schema []byte
	batch  protocols.Batch
	kind   string
	rand   *rand.Rand
	record []byte
}

func newPLC(number, tags int, kind string) *plc {
	s := &protocols.Schema{Device: fmt.Sprintf("plc-%03d", number)}
	p := &plc{kind: kind, rand: rand.New(rand.NewPCG(1, uint64(number)))} //nolint:gosec // the same values in each run
	for i := range tags {
		s.Tags = append(s.Tags, protocols.SchemaTag{Name: fmt.Sprintf("r%03d", i)})
		p.batch.Readings = append(p.batch.Readings, protocols.Reading{Tag: int32(i), Value: protocols.Uint(p.rand.Uint64N(4000))})
	}
	p.batch.Schema, p.id, p.schema = s, s.ID(), protocols.AppendSchema(nil, s)
	return p
}

func plcs(devices, tags int, kind string) []*plc {
	all := make([]*plc, devices)
	for i := range all {
		all[i] = newPLC(i, tags, kind)
	}
	return all
}

// scan returns the record of the next scan; it is good until the one after.
func (p *plc) scan() []byte {
	for i := range p.batch.Readings {
		v := &p.batch.Readings[i].Value
		*v = p.next(*v)
	}
	p.record = protocols.EncodeBatch(p.record[:0], &p.batch)
	return p.record
}

func (p *plc) next(v protocols.Value) protocols.Value {
	switch p.kind {
	case randomUint16:
		return protocols.Uint(p.rand.Uint64N(1 << 16))
	case randomFloat:
		for {
			f := math.Float32frombits(p.rand.Uint32())
			if !math.IsNaN(float64(f)) && !math.IsInf(float64(f), 0) {
				return protocols.Float32(f)
			}
		}
	}
	if p.rand.IntN(2) == 0 {
		return v
	}
	return protocols.Uint((v.AsUint() + p.rand.Uint64N(3) - 1) & 0xFFFF)
}

// ownCPU is what this process has used, user and system.
func ownCPU() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// ownWrites is how many bytes this process has passed to write calls.
func ownWrites() int { return procNumber("/proc/self/io", "wchar") }
