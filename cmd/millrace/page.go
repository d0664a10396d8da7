package main

import (
	"context"
	"time"

	"millrace/cmd/millrace/console"
)

// pageRetry is how often a port that was taken is tried again.
const pageRetry = 5 * time.Second

// page is the console and the goroutine that serves it.
type page struct {
	addr   string // where it listens; empty while the port is taken
	cancel context.CancelFunc
	done   chan struct{}
}

// openPage starts the console; listen may be empty. A port that is taken does
// not keep the data from flowing: it is tried again until it is free.
func (a *agent) openPage(listen string) {
	if listen == "" {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &page{cancel: cancel, done: make(chan struct{})}
	c, err := a.newConsole(ctx, listen)
	if err != nil {
		a.log.Error("the console cannot start; it is tried again", "error", err)
	} else {
		p.addr = c.Addr()
	}
	a.mu.Lock()
	a.page = p
	a.mu.Unlock()
	go func() {
		defer close(p.done)
		a.servePage(ctx, listen, c)
	}()
}

func (a *agent) newConsole(ctx context.Context, listen string) (*console.Console, error) {
	return console.New(ctx, console.Options{Listen: listen, Source: (*source)(a), Log: a.log})
}

// servePage serves c, or, if that is nil, first tries until there is one.
func (a *agent) servePage(ctx context.Context, listen string, c *console.Console) {
	for c == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pageRetry):
		}
		c, _ = a.newConsole(ctx, listen) // why not was logged at the first attempt
	}
	a.log.Info("console", "url", "http://"+c.Addr()+"/")
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() { //nolint:contextcheck // ctx is over then
		defer close(closed)
		c.Close()
	})
	if err := c.Serve(); err != nil {
		a.log.Error("the console has stopped", "error", err)
		return
	}
	<-closed
}

// closePage ends the console, if there is one.
func (a *agent) closePage() {
	a.mu.Lock()
	p := a.page
	a.page = nil
	a.mu.Unlock()
	if p != nil {
		p.cancel()
		<-p.done
	}
}
