package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"millrace/cmd/millrace/tail"
	"millrace/configs"
	"millrace/protocols/mqtt"
	"millrace/protocols/sparkplug"
)

const tailHelp = `Shows what arrives at a broker, decoded: the format json, and Sparkplug B.

Use: millrace tail mqtt://HOST:1883 [options]       mqtts, ws and wss as well
     millrace tail -c FILE [--uplink NAME]          an uplink of a configuration: what its gateway sends there
     millrace tail mqtt://HOST -c FILE              the same at another broker, such as its fallback

Globs: * stands for any text, ? for any character. Write them in quotes.
The password comes from --password-file, or from the variable MILLRACE_MQTT_PASSWORD; the user name from --username or MILLRACE_MQTT_USERNAME.
Where the births of a Sparkplug node were not seen it is asked for them, at most once a minute: aliases have no names without. --no-rebirth leaves it alone.
Ctrl-C ends it, with a summary. What is shown, and what --json prints, is in docs/tail.md.
Exit codes: 0 done, 1 no connection at the start, or fewer than --count messages in the time of --for; 2 wrong usage or configuration.
`

func cmdTail(ctx context.Context, t terminal, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	return tailBroker(ctx, t, args, os.Getenv)
}

// tailJob is what the command line of tail asks for.
type tailJob struct {
	listen    mqtt.ListenOptions
	filter    tail.Filter
	file      string // the configuration
	uplink    string
	root      string // of the topics of the format json
	password  string // the file that it is in
	format    string
	all       bool
	asJSON    bool
	noRebirth bool
	partial   bool // the uplink sends only a part of its gateway's batches
	count     uint64
	duration  time.Duration
	unit      func(gateway, device, tag string) string
}

func (job *tailJob) flags(t terminal) *flag.FlagSet {
	fs := flags(t, "tail", "tail BROKER [options] | tail [BROKER] -c FILE [--uplink NAME] [options]", strings.SplitN(tailHelp, "\n\n", 3)[2]+"\nOptions:")
	fs.StringVar(&job.file, "c", "", "take broker, credentials and TLS from an uplink of the configuration `file`, and units from its tag maps")
	fs.StringVar(&job.uplink, "uplink", "", "which uplink of it, by its `name`, where there are several")
	fs.Var((*listFlag)(&job.listen.Topics), "topic", "subscribe to this `filter` instead of what the other options make; may be given several times")
	fs.StringVar(&job.filter.Group, "group", "", "only this `group`")
	fs.StringVar(&job.filter.Gateway, "gateway", "", "only gateways that the `glob` matches")
	fs.StringVar(&job.filter.Device, "device", "", "only devices that the `glob` matches, and what concerns whole gateways")
	fs.StringVar(&job.filter.Tag, "tag", "", "only tags that the `glob` matches")
	fs.StringVar(&job.format, "format", "", "`json`, sparkplug or all (default all; with -c that of the uplink)")
	fs.BoolVar(&job.asJSON, "json", false, "for programs: one JSON object a line")
	fs.BoolVar(&job.all, "all", false, "do not cut long batches and long values")
	fs.StringVar(&job.listen.Username, "username", "", "the user `name` at the broker")
	fs.StringVar(&job.password, "password-file", "", "the `file` that holds the password")
	fs.StringVar(&job.listen.TLS.CA, "ca", "", "PEM `file` of who may have issued the broker's certificate (default: the system's)")
	fs.StringVar(&job.listen.TLS.Cert, "cert", "", "PEM `file` of our certificate, if the broker wants one")
	fs.StringVar(&job.listen.TLS.Key, "key", "", "PEM `file` of its key")
	fs.StringVar(&job.listen.TLS.ServerName, "server-name", "", "the `host` that the broker's certificate is made out to, if it is not the broker's")
	fs.Uint64Var(&job.count, "count", 0, "end after so many messages were shown (0: never)")
	fs.DurationVar(&job.duration, "for", 0, "end after this time, such as 30s (0: never)")
	fs.BoolVar(&job.noRebirth, "no-rebirth", false, "ask no Sparkplug node for its births")
	return fs
}

func tailBroker(ctx context.Context, t terminal, args []string, getenv func(string) string) int {
	var job tailJob
	fs := job.flags(t)
	if code, ok := parseSome(t, fs, args); !ok {
		return code
	}
	broker := ""
	if fs.NArg() > 0 {
		broker = fs.Arg(0)
		if code, ok := parse(t, fs, fs.Args()[1:]); !ok {
			return code
		}
	}
	if broker == "" && job.file == "" {
		t.errorf("%s", tailHelp)
		return exitUsage
	}
	if code := job.source(t, broker, getenv); code != exitDone {
		return code
	}
	if err := job.check(); err != nil {
		t.errorf("millrace tail: %v\n", err)
		return exitUsage
	}
	f, err := newTailer(t, &job)
	if err != nil {
		t.errorf("millrace tail: %s\n", job.words(err))
		return exitUsage
	}
	return f.run(ctx)
}

// source finds out where to listen.
func (job *tailJob) source(t terminal, broker string, getenv func(string) string) int {
	if broker != "" && !strings.Contains(broker, "://") {
		broker = "mqtt://" + broker
	}
	job.listen.Broker = broker
	switch {
	case job.file == "" && job.uplink != "":
		t.errorf("millrace tail: --uplink needs -c FILE, the configuration that it is in\n")
		return exitUsage
	case job.file != "":
		return job.fromConfig(t)
	}
	job.root = "millrace"
	job.listen.Username = cmp.Or(job.listen.Username, getenv("MILLRACE_MQTT_USERNAME"))
	job.listen.Password = getenv("MILLRACE_MQTT_PASSWORD")
	return job.readPassword(t)
}

func (job *tailJob) readPassword(t terminal) int {
	if job.password == "" {
		return exitDone
	}
	data, err := os.ReadFile(job.password)
	if err != nil {
		t.errorf("millrace tail: the password: %v\n", err)
		return exitUsage
	}
	job.listen.Password = strings.TrimRight(string(data), "\r\n")
	return exitDone
}

// fromConfig takes what an uplink has; options on the command line go before
// it.
func (job *tailJob) fromConfig(t terminal) int {
	cfg, code := loadConfig(t, "tail", job.file)
	if cfg == nil {
		return code
	}
	u, err := findUplink(cfg, job.uplink)
	if err != nil {
		t.errorf("millrace tail: %s %v\n", job.file, err)
		return exitUsage
	}
	l := &job.listen
	l.Broker, job.root = cmp.Or(l.Broker, u.Broker), u.Topic
	job.partial = len(u.Devices) > 0 || len(u.Tags) > 0
	if l.Username == "" {
		l.Username, l.Password = u.Username, string(u.Password)
	}
	l.TLS = mqtt.TLS{CA: cmp.Or(l.TLS.CA, u.TLS.CA), Cert: cmp.Or(l.TLS.Cert, u.TLS.Cert), Key: cmp.Or(l.TLS.Key, u.TLS.Key), ServerName: cmp.Or(l.TLS.ServerName, u.TLS.ServerName)}
	if len(l.Topics) == 0 && job.filter.Group == "" && job.filter.Gateway == "" {
		job.filter.Group, job.filter.Gateway = cfg.Gateway.Group, cfg.Gateway.ID
	}
	job.format = cmp.Or(job.format, u.Format)
	units := map[[2]string]string{}
	for _, d := range cfg.Devices {
		for i := range d.Tags {
			if d.Tags[i].Unit != "" {
				units[[2]string{d.ID, d.Tags[i].Name}] = d.Tags[i].Unit
			}
		}
	}
	job.unit = func(gateway, device, tag string) string {
		if gateway != cfg.Gateway.ID {
			return ""
		}
		return units[[2]string{device, tag}]
	}
	return job.readPassword(t)
}

// findUplink returns the uplink with a name, or the only one.
func findUplink(cfg *configs.Config, name string) (*configs.Uplink, error) {
	names := strings.Join(uplinkNames(cfg), ", ")
	switch {
	case len(cfg.Uplinks) == 0:
		return nil, errors.New("has no uplinks; give the broker instead: millrace tail mqtt://HOST:1883")
	case name == "" && len(cfg.Uplinks) == 1:
		return &cfg.Uplinks[0], nil
	case name == "":
		return nil, fmt.Errorf("has several uplinks; say which with --uplink: %s", names)
	}
	for i := range cfg.Uplinks {
		if cfg.Uplinks[i].Name == name {
			return &cfg.Uplinks[i], nil
		}
	}
	return nil, fmt.Errorf("has no uplink %q; there are: %s", name, names)
}

// check finds what is wrong with the options, and fills in what was left out.
func (job *tailJob) check() error {
	switch job.format {
	case "", "all":
	case tail.FormatJSON, tail.FormatSparkplug:
		job.filter.Format = job.format
	default:
		return fmt.Errorf("there is no format %q: json, sparkplug or all", job.format)
	}
	for _, id := range []struct{ option, text string }{{"group", job.filter.Group}, {"gateway", job.filter.Gateway}} {
		if id.text == "" {
			continue
		}
		if err := sparkplug.CheckID(id.text); err != nil {
			return fmt.Errorf("--%s %w", id.option, err)
		}
	}
	if job.duration < 0 {
		return errors.New("--for needs a time above 0, such as 30s")
	}
	if len(job.listen.Topics) == 0 {
		job.listen.Topics = job.filter.Topics(job.root)
	}
	// Another client with the same id would be thrown out, and the gateway's
	// is known to all.
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	job.listen.ClientID = "millrace-tail-" + hex.EncodeToString(id[:])
	return nil
}

// words are those of err, with the options instead of a configuration's keys.
func (job *tailJob) words(err error) string {
	if job.file != "" {
		return err.Error()
	}
	return strings.NewReplacer(
		"tls.cert and tls.key", "--cert and --key", "tls.ca", "--ca", "tls.cert", "--cert", "tls.key", "--key",
		"username and password", "--username and --password-file",
	).Replace(err.Error())
}
