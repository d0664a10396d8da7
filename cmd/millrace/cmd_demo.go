package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"millrace/configs"
	"millrace/protocols/mqtt/mqtttest"
)

const demoHelp = `Runs simulated PLCs, an MQTT broker, the agent and its page in one process. Nothing is installed, and nothing stays behind.
The PLCs listen on free ports of 127.0.0.1, which the screen shows: other programs may read them, too.`

func cmdDemo(ctx context.Context, t terminal, args []string) int {
	fs := flags(t, "demo", "demo", demoHelp)
	consoleAddr := fs.String("console", "127.0.0.1:8080", "where the page listens (`host:port`); if it is taken, on a free port")
	brokerAddr := fs.String("broker", "127.0.0.1:1883", "where the broker listens (`host:port`); if it is taken, on a free port")
	verbose := fs.Bool("v", false, "show the agent's log")
	if code, ok := parse(t, fs, args); !ok {
		return code
	}
	for _, addr := range []*string{consoleAddr, brokerAddr} {
		ok := false
		if *addr, ok = demoAddr(*addr); !ok {
			t.errorf("millrace demo: %q is no address: write host:port, such as 127.0.0.1:8090\n", *addr)
			return exitUsage
		}
	}
	stop, cancel := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer cancel()
	if err := demo(stop, t, *consoleAddr, *brokerAddr, *verbose); err != nil {
		t.errorf("millrace demo: %v\n", err)
		return exitFailed
	}
	return exitDone
}

// demoAddr checks an address. Without a host it is the loopback's: a demo is
// not for the whole network.
func demoAddr(addr string) (string, bool) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, false
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return addr, false
	}
	return net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port), true
}

func demo(ctx context.Context, t terminal, consoleAddr, brokerAddr string, verbose bool) error {
	dir, err := os.MkdirTemp("", "millrace-demo-")
	if err != nil {
		return fmt.Errorf("a directory for the buffer: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory

	plant, err := startPlant()
	if err != nil {
		return err
	}
	defer plant.close()

	broker, err := startBroker(ctx, brokerAddr, newSampler(t))
	if err != nil {
		return err
	}
	defer broker.Close() //nolint:errcheck // the program ends

	cfg, err := configs.Parse("demo.yaml", []byte(demoConfig(plant, broker.Addr(), freeAddr(ctx, consoleAddr), dir)), dir, checkers())
	if err != nil {
		return err
	}
	logTo := io.Discard
	if verbose {
		logTo = t.err
	}
	a, err := startAgent(cfg, newLogger(logTo, false), time.Now)
	if err != nil {
		return err
	}
	defer a.stop()

	for asked, got := range map[string]string{consoleAddr: a.page.addr, brokerAddr: broker.Addr()} {
		if asked != got && !strings.HasSuffix(asked, ":0") {
			t.printf("%s is taken by another program; %s is used instead.\n", asked, got)
		}
	}
	t.printf("%s", demoText(a.page.addr, broker.Addr(), plant.press.Addr(), plant.compressor.Addr(), plant.moulder.Addr()))
	<-ctx.Done()
	t.printf("\nStopping …\n")
	return nil
}

// demoText is what the screen says when all runs.
func demoText(page, broker, press, compressor, moulder string) string {
	host, port, _ := net.SplitHostPort(broker)
	return fmt.Sprintf(`Millrace %s: a press and a compressor (Modbus TCP), an injection moulder (OPC UA), a broker and the agent are running.

  Open the page:        http://%s/
  See what arrives:     millrace tail mqtt://%s
                        or, as it is: mosquitto_sub -h %s -p %s -t 'millrace/#' -v
  Read a PLC yourself:  press-1       tcp://%s unit 1
                        compressor-1  tcp://%s unit 1
                        moulder-1     opc.tcp://%s, without security
  Stop:                 Ctrl-C

What the broker got first:
`, version, page, broker, host, port, press, compressor, moulder)
}

// freeAddr returns addr, or a free port of the same host if it is taken.
func freeAddr(ctx context.Context, addr string) string {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		host, _, splitErr := net.SplitHostPort(addr)
		if splitErr != nil {
			return addr // its user will be told by whoever listens there
		}
		if l, err = lc.Listen(ctx, "tcp", net.JoinHostPort(host, "0")); err != nil {
			return addr
		}
	}
	defer l.Close()
	return l.Addr().String()
}

// startBroker starts the embedded broker, and shows the first messages.
func startBroker(ctx context.Context, addr string, s *sampler) (*mqtttest.Embedded, error) {
	b, err := mqtttest.StartEmbedded(freeAddr(ctx, addr), false, nil)
	if err != nil {
		return nil, err
	}
	if err := b.Subscribe("millrace/#", s.message); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// sampler shows the first message of each topic in the terminal.
type sampler struct {
	t    terminal
	mu   sync.Mutex
	seen map[string]bool
}

func newSampler(t terminal) *sampler { return &sampler{t: t, seen: map[string]bool{}} }

func (s *sampler) message(topic string, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[topic] || !strings.HasSuffix(topic, "/data") {
		return
	}
	s.seen[topic] = true
	s.t.printf("  %s\n    %s\n", topic, body)
}
