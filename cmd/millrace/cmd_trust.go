package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"millrace/protocols"
	"millrace/protocols/opcua"
)

const trustHelp = `Shows the certificate of a device's OPC UA server, and trusts it if you say so.

Use: millrace trust DEVICE -c FILE [--yes]           asks the device's server for its certificate
     millrace trust -c FILE                          which devices' servers are trusted
     millrace trust opc.tcp://HOST:PORT [--pki DIR]  a server that is in no configuration

Compare the fingerprint with the one that the server's own tool shows before you say yes.
Exit codes: 0 it is trusted (or all were listed), 1 it is not, 2 wrong usage or configuration.
`

func cmdTrust(ctx context.Context, t terminal, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	return trust(ctx, t, args, time.Now, askAt(os.Stdin, t.out))
}

// asker puts a question to whoever sits at the terminal; asked is false if
// there is nobody.
type asker func(question string) (yes, asked bool)

// askAt asks on a terminal, and nobody if that is not one.
func askAt(in *os.File, out io.Writer) asker {
	return func(question string) (yes, asked bool) {
		if info, err := in.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
			return false, false
		}
		fmt.Fprintf(out, "%s [y/N] ", question)
		line, err := bufio.NewReader(in).ReadString('\n')
		if err != nil && line == "" {
			fmt.Fprintln(out)
			return false, false // such as the null device
		}
		answer := strings.ToLower(strings.TrimSpace(line))
		return answer == "y" || answer == "yes", true
	}
}

// trustJob is what the command line of trust asks for.
type trustJob struct {
	what   string // a device, an endpoint, or empty: all devices
	file   string // the configuration
	pki    string
	yes    bool
	asJSON bool
}

func trust(ctx context.Context, t terminal, args []string, now func() time.Time, ask asker) int {
	var job trustJob
	fs := flags(t, "trust", "trust DEVICE -c FILE [--yes] [--json] | trust -c FILE | trust opc.tcp://HOST:PORT [--pki DIR]", strings.SplitN(trustHelp, "\n", 2)[0])
	fs.StringVar(&job.file, "c", "", "the configuration `file`")
	fs.StringVar(&job.pki, "pki", "", "the directory of certificates, for an endpoint; default: pki, beside the configuration if there is one")
	fs.BoolVar(&job.yes, "yes", false, "trust it without asking")
	fs.BoolVar(&job.asJSON, "json", false, "for programs; never asks")
	if code, ok := parseSome(t, fs, args); !ok {
		return code
	}
	if fs.NArg() > 0 {
		job.what = fs.Arg(0)
		if code, ok := parse(t, fs, fs.Args()[1:]); !ok {
			return code
		}
	}
	if job.what == "" && job.file == "" {
		t.errorf("%s", trustHelp)
		return exitUsage
	}
	devices, code := job.devices(t)
	if devices == nil {
		return code
	}
	driver := opcua.New(opcua.Options{Log: slog.New(slog.DiscardHandler), PKIDir: job.pki, Now: now})
	if job.what == "" {
		return job.list(ctx, t, driver, devices)
	}
	return job.one(ctx, t, driver, devices[0], ask)
}

// trustTimeout is how long a server that is in no configuration may take.
const trustTimeout = 5 * time.Second

// devices returns the devices that are meant, nil if there are none: then
// code says why.
func (job *trustJob) devices(t terminal) (found []*protocols.Device, code int) {
	dir := ""
	var all []*protocols.Device
	if job.file != "" {
		cfg, code := loadConfig(t, "trust", job.file)
		if cfg == nil {
			return nil, code
		}
		dir, all = cfg.Dir, cfg.Devices
	}
	if job.pki == "" {
		job.pki = filepath.Join(dir, "pki")
	}
	if strings.HasPrefix(job.what, "opc.tcp://") {
		dev := &protocols.Device{Driver: "opcua", Endpoint: job.what, Timeout: trustTimeout, OPCUA: protocols.OPCUAOptions{SecurityPolicy: "auto", Trust: filepath.Join(job.pki, "trusted")}}
		for _, wrong := range opcua.New(opcua.Options{}).Check(dev) {
			t.errorf("millrace trust: %s\n", wrong.Text)
			return nil, exitUsage
		}
		return []*protocols.Device{dev}, exitDone
	}
	var ids []string
	for _, d := range all {
		if d.Driver == "opcua" {
			ids = append(ids, d.ID)
			if job.what == "" || job.what == d.ID {
				found = append(found, d)
			}
		} else if d.ID == job.what {
			t.errorf("millrace trust: %s is a %s device: only OPC UA servers have certificates to trust\n", d.ID, d.Driver)
			return nil, exitUsage
		}
	}
	switch {
	case found != nil:
		return found, exitDone
	case job.file == "":
		t.errorf("millrace trust: say which configuration %s is in: millrace trust %s -c FILE; or give the server's endpoint, such as opc.tcp://192.0.2.9:4840\n", job.what, job.what)
	case len(ids) == 0:
		t.errorf("millrace trust: %s has no OPC UA devices\n", job.file)
	default:
		t.errorf("millrace trust: %s has no device %q; its OPC UA devices are: %s\n", job.file, job.what, strings.Join(ids, ", "))
	}
	return nil, exitUsage
}

// one shows one server's certificate and trusts it, if that is wanted.
func (job *trustJob) one(ctx context.Context, t terminal, driver *opcua.Driver, dev *protocols.Device, ask asker) int {
	seen, err := driver.Inspect(ctx, dev)
	if err != nil {
		t.errorf("millrace trust: %s\n", printable(err.Error()))
		return exitFailed
	}
	if !job.asJSON {
		t.printf("%s", inspectionText(dev.ID, seen))
	}
	trusted, moved := seen.TrustedBy != "" || seen.Certificate == nil, ""
	if !trusted && job.agreed(t, dev, ask) {
		if moved, err = driver.Trust(dev, seen.Certificate); err != nil {
			t.errorf("millrace trust: %v\n", err)
			return exitFailed
		}
		trusted = true
		if !job.asJSON {
			t.printf("It is trusted now: %s. A running agent takes it at its next attempt, within a minute.\n", moved)
		}
	}
	code := exitDone
	if job.asJSON {
		answer := trustAnswerOf(dev.ID, seen)
		answer.MovedTo, answer.Trusted = moved, trusted
		code = printJSON(t, "trust", answer)
	}
	if !trusted {
		return exitFailed
	}
	return code
}

// agreed says whether the certificate is to be trusted.
func (job *trustJob) agreed(t terminal, dev *protocols.Device, ask asker) bool {
	if job.yes || job.asJSON {
		return job.yes
	}
	yes, asked := ask("Is this the server's fingerprint, and do you trust it?")
	if !asked {
		t.printf("To trust it, say: millrace trust %s --yes\n", job.again(dev))
	} else if !yes {
		t.printf("Nothing was changed.\n")
	}
	return yes
}

// again is the command's words, to be typed once more.
func (job *trustJob) again(dev *protocols.Device) string {
	if dev.ID == "" {
		return dev.Endpoint + " --pki " + job.pki
	}
	return dev.ID + " -c " + job.file
}

// trustAtOnce is how many servers are asked at the same time.
const trustAtOnce = 8

// list says of each device whether its server is trusted.
func (job *trustJob) list(ctx context.Context, t terminal, driver *opcua.Driver, devices []*protocols.Device) int {
	answers := make([]trustAnswer, len(devices))
	var wg sync.WaitGroup
	room := make(chan struct{}, trustAtOnce)
	for i, dev := range devices {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			seen, err := driver.Inspect(ctx, dev)
			if err != nil {
				answers[i] = trustAnswer{Device: dev.ID, Endpoint: dev.Endpoint, State: stateSilent, Silent: err.Error()}
				return
			}
			answers[i] = trustAnswerOf(dev.ID, seen)
		})
	}
	wg.Wait()
	if job.asJSON {
		return printJSON(t, "trust", answers)
	}
	t.printf("%s", trustListText(answers))
	for i := range answers {
		if answers[i].State == stateUntrusted {
			t.printf("\nTo look at one that is not trusted, say: millrace trust %s -c %s\n", answers[i].Device, job.file)
			break
		}
	}
	return exitDone
}
