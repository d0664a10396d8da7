package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a child that ends with the measurement.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) stop() {
	_ = p.stdin.Close()
	_ = p.cmd.Process.Signal(os.Interrupt)
	_ = p.cmd.Wait() // how it ended is seen in what it delivered
}

func (b *bench) spawn(ctx context.Context, log, name string, args ...string) (*process, *bufio.Reader, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // the bench's own programs
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	errFile, err := os.Create(filepath.Join(b.dir, log+".log"))
	if err != nil {
		return nil, nil, err
	}
	defer errFile.Close() //nolint:errcheck // the child has its own
	cmd.Stderr = errFile
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return &process{cmd, in}, bufio.NewReader(out), nil
}

// startSim starts the simulated PLCs and returns their addresses.
func (b *bench) startSim(ctx context.Context) (*process, []string, error) {
	p, out, err := b.spawn(ctx, "sim", os.Args[0], roleSim, strconv.Itoa(b.devices), strconv.Itoa(b.registers))
	if err != nil {
		return nil, nil, err
	}
	addrs := make([]string, b.devices)
	for i := range addrs {
		line, err := out.ReadString('\n')
		if err != nil {
			p.stop()
			return nil, nil, fmt.Errorf("the simulator: %w", err)
		}
		addrs[i] = strings.TrimSpace(line)
	}
	return p, addrs, nil
}

// startMosquitto starts a Mosquitto at addr, or on a free port.
func (b *bench) startMosquitto(ctx context.Context, addr string) (*process, string, error) {
	if addr == "" {
		addr = freePort(ctx)
	}
	_, port, _ := net.SplitHostPort(addr)
	conf := filepath.Join(b.dir, "mosquitto.conf")
	text := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type error\nmax_inflight_messages 1000\nmax_queued_messages 100000\n", port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, "", err
	}
	p, _, err := b.spawn(ctx, "mosquitto", mosquitto(), "-c", conf)
	if err != nil {
		return nil, "", fmt.Errorf("%w; make deps installs it", err)
	}
	return p, addr, waitFor(ctx, 5*time.Second, func() bool {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func mosquitto() string {
	if path, err := exec.LookPath("mosquitto"); err == nil {
		return path
	}
	return "/usr/sbin/mosquitto" // not in every user's path
}

// waitFor waits until the condition holds.
func waitFor(ctx context.Context, limit time.Duration, cond func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	over := time.NewTimer(limit)
	defer over.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-over.C:
			return fmt.Errorf("waited %v in vain", limit)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// clockTick is how finely Linux tells a process's CPU time (USER_HZ).
const clockTick = 10 * time.Millisecond

// cpuTime is what a process has used, user and system.
func cpuTime(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may contain spaces; what follows does not.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * clockTick
}

// fineCPU is cpuTime to the nanosecond, where the kernel has a clock for it:
// a process that does little is else measured by a handful of ticks.
func fineCPU(pid int) time.Duration {
	const schedClock = 2 // CPUCLOCK_SCHED of linux/posix-timers.h
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|schedClock, &ts); err != nil {
		return cpuTime(pid)
	}
	return time.Duration(ts.Nano())
}

// peakKB is the most memory a process has had, in kB.
func peakKB(pid int) int { return procNumber(fmt.Sprintf("/proc/%d/status", pid), "VmHWM") }

// residentKB is the memory a process has now, in kB.
func residentKB(pid int) int { return procNumber(fmt.Sprintf("/proc/%d/status", pid), "VmRSS") }

// written is how many bytes a process caused to be written to disk.
func written(pid int) int { return procNumber(fmt.Sprintf("/proc/%d/io", pid), "write_bytes") }

func procNumber(file, name string) int {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n
		}
	}
	return 0
}
