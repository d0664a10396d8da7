package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"millrace/configs"
)

func cmdRun(ctx context.Context, t terminal, args []string) int {
	fs := flags(t, "run", "run -c FILE", "Runs the agent until it is told to stop. SIGHUP reads the configuration again; SIGTERM and Ctrl-C stop it.")
	file := fs.String("c", "", "the configuration `file` (required)")
	verbose := fs.Bool("v", false, "log more")
	if code, ok := parse(t, fs, args); !ok {
		return code
	}
	// Before all else: a SIGHUP that nobody waits for ends a program.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	stop, cancel := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer cancel()
	cfg, code := loadConfig(t, "run", *file)
	if cfg == nil {
		return code
	}

	memory := newMemory()
	log := newLogger(t.err, *verbose)
	a, err := startAgent(cfg, log, time.Now)
	if err != nil {
		t.errorf("millrace: %v\n", err)
		return exitFailed
	}
	backlog := time.NewTicker(backlogLooks)
	defer backlog.Stop()
	for {
		select {
		case <-backlog.C:
			memory.look(a.waiting())
		case <-hup:
			reload(a, log, *file)
		case <-stop.Done():
			log.Info("stopping")
			a.stop()
			log.Info("stopped")
			return exitDone
		}
	}
}

// reload reads the configuration again; a wrong one changes nothing.
func reload(a *agent, log *slog.Logger, file string) {
	cfg, err := configs.Load(file, checkers())
	if err != nil {
		a.refuse(err)
		log.Error("the changed configuration was refused; the old one is in force", "error", err)
		return
	}
	if err := a.apply(cfg); err != nil {
		log.Error("the changed configuration was refused; the old one is in force", "error", err)
		return
	}
	log.Info("the configuration was reloaded", "devices", len(cfg.Devices), "uplinks", len(cfg.Uplinks))
}

// loadConfig reads a configuration, or says everything that is wrong with
// it; then cfg is nil.
func loadConfig(t terminal, verb, file string) (cfg *configs.Config, code int) {
	if file == "" {
		t.errorf("millrace %s: say which configuration: millrace %s -c FILE\n", verb, verb)
		return nil, exitUsage
	}
	cfg, err := configs.Load(file, checkers())
	if err != nil {
		t.errorf("%v\n", err)
		var ps configs.Problems
		if errors.As(err, &ps) && len(ps) > 1 {
			t.errorf("%d mistakes in all.\n", len(ps))
		}
		return nil, exitUsage
	}
	return cfg, exitDone
}

func newLogger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
