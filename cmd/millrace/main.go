// Command millrace is the agent: it polls PLCs, keeps every reading in a
// buffer until it is delivered, and forwards them over MQTT. Each verb of the command line
// has a file of its own, cmd_VERB.go; agent.go puts the parts together.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Set when linking; see the Makefile.
var (
	version = "dev"
	commit  = "unknown" //nolint:gochecknoglobals // stamped by the linker
)

// Exit codes, as the help and the documentation state them.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // wrong usage or configuration
)

// terminal is where a verb talks to the one who called it.
type terminal struct {
	out, err io.Writer
}

func (t terminal) printf(format string, args ...any) { fmt.Fprintf(t.out, format, args...) }

func (t terminal) errorf(format string, args ...any) { fmt.Fprintf(t.err, format, args...) }

// verb is one word of the command line and what it does.
type verb struct {
	name, help string
	run        func(ctx context.Context, t terminal, args []string) int
}

func verbs() []verb {
	return []verb{
		{"run", "the agent: polls the devices of a configuration and forwards their data", cmdRun},
		{"check", "looks for mistakes in a configuration, and shows what will be read", cmdCheck},
		{"demo", "shows it all at work: simulated PLCs, a broker, the agent, its page", cmdDemo},
		{"scan", "browses an OPC UA server and writes a tag map", cmdScan},
		{"tail", "shows what arrives at a broker, decoded", cmdTail},
		{"buffer", "looks into a buffer: what waits in it, is it whole, its batches as a file", cmdBuffer},
		{"report", "the connectivity report: how much of the equipment is networked, with the evidence", cmdReport},
		{"trust", "shows the certificate of an OPC UA server, and trusts it if you say so", cmdTrust},
		{"version", "says which version this is", cmdVersion},
	}
}

// laterVerbs are in the contract and not yet in the program.
func laterVerbs() []string {
	return []string{"simulate", "read", "import"}
}

func main() {
	os.Exit(execute(context.Background(), terminal{os.Stdout, os.Stderr}, os.Args[1:]))
}

// execute runs the verb that args name and returns the exit code.
func execute(ctx context.Context, t terminal, args []string) int {
	if len(args) == 0 {
		t.errorf("%s", usage())
		return exitUsage
	}
	name := args[0]
	switch name {
	case "help", "-h", "-help", "--help":
		t.printf("%s", usage())
		return exitDone
	case "-v", "-version", "--version":
		name = "version"
	}
	for _, v := range verbs() {
		if v.name == name {
			return v.run(ctx, t, args[1:])
		}
	}
	if slices.Contains(laterVerbs(), name) {
		t.errorf("millrace: %q is not in this version of Millrace (%s). What there is: millrace help\n", name, version)
		return exitUsage
	}
	t.errorf("millrace: there is no verb %q. What there is:\n\n%s", name, usage())
	return exitUsage
}

func usage() string {
	var b strings.Builder
	b.WriteString("Millrace polls PLCs, keeps every reading until it is delivered, and forwards them over MQTT.\n\nUse: millrace VERB [options]\n\n")
	for _, v := range verbs() {
		fmt.Fprintf(&b, "  %-9s %s\n", v.name, v.help)
	}
	b.WriteString("\nmillrace VERB -h shows a verb's options.\nExit codes: 0 done, 1 failed, 2 wrong usage or configuration.\n")
	return b.String()
}

// flags makes the set of options of a verb. Its use line says what to type.
func flags(t terminal, name, use, help string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(t.err)
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "Use: millrace %s\n%s\n", use, help)
		fs.PrintDefaults()
	}
	return fs
}

// parse reads the options of a verb that takes no further words. If it
// returns false, the verb ends with the code.
func parse(t terminal, fs *flag.FlagSet, args []string) (code int, ok bool) {
	if code, ok := parseSome(t, fs, args); !ok {
		return code, false
	}
	if fs.NArg() > 0 {
		t.errorf("millrace %s: %q is too much. See millrace %s -h\n", fs.Name(), fs.Arg(0), fs.Name())
		return exitUsage, false
	}
	return exitDone, true
}

// parseSome reads options up to the first word that is none.
func parseSome(t terminal, fs *flag.FlagSet, args []string) (code int, ok bool) {
	usage := fs.Usage
	fs.Usage = func() {}
	fs.SetOutput(io.Discard) // what it says of mistakes is for programmers
	err := fs.Parse(args)
	fs.SetOutput(t.out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage()
		return exitDone, false
	case err != nil:
		t.errorf("millrace %s: %s. See millrace %s -h\n", fs.Name(), plainFlagError(err.Error()), fs.Name())
		return exitUsage, false
	}
	fs.Usage = usage // for the options that follow
	return exitDone, true
}

// plainFlagError is what package flag says of a mistake, in words for those
// who type commands.
func plainFlagError(text string) string {
	if name, found := strings.CutPrefix(text, "flag provided but not defined: -"); found {
		return "there is no option --" + name
	}
	if name, found := strings.CutPrefix(text, "flag needs an argument: -"); found {
		return "the option --" + name + " needs a value"
	}
	return text
}
