package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

func demo(std stdio, args []string) (err error) {
	fs := newFlags(std, "demo", `Starts a PostgreSQL primary and two replicas on this machine, runs the
statements of a small shop on them through one sql.DB, freezes one replica,
kills the other, and tells what the shop noticed. The exit status is 1 if any of
its statements failed, or if one of the replicas was never read. Nothing is left
behind.`)
	duration := fs.Duration("duration", 30*time.Second, "how long the shop is open")
	if err := parse(fs, args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second one ends us at once
	// That nobody reads our output any more must not keep us from cleaning up.
	signal.Ignore(syscall.SIGPIPE)
	out := &output{std.out, stop}

	servers, err := pgherdtest.Open(ctx, pgherdtest.Replicas(2))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, servers.Close()) }()
	db, err := sql.Open("pgherd", servers.DSN())
	if err != nil {
		return err
	}
	defer db.Close()
	herd, err := pgherd.FromDB(ctx, db)
	if err != nil {
		return err
	}
	sh, err := newShop(ctx, db)
	if err != nil {
		return err
	}
	d := &demonstration{
		servers: servers,
		herd:    herd,
		shop:    sh,
		screen:  newScreen(out, isTerminal(std.out)),
		ports:   make(map[string]string),
	}
	d.learnPorts()
	return d.run(ctx, *duration)
}

// An output is a writer that calls failed when it fails.
type output struct {
	io.Writer
	failed func()
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil {
		o.failed()
	}
	return n, err
}

// isTerminal reports whether w understands what moves the cursor.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// A demonstration is a herd, a shop that works with it, and somebody who tells
// what happens.
type demonstration struct {
	servers *pgherdtest.Herd
	herd    *pgherd.Connector
	shop    *shop
	screen  *screen
	began   time.Time

	ports map[string]string // name of the server by the port that it says it has
	told  int               // failures
}

// A step is something that happens to the servers.
type step struct {
	at   float64 // as a part of the demonstration's duration
	text string
	do   func() error
}

func (d *demonstration) story() []step {
	replica1, replica2 := d.servers.Replica(1), d.servers.Replica(2)
	return []step{
		{0.00, "All is well: the replicas serve reads, the primary writes, and what the shop reads at once after it wrote.", nil},
		{0.20, "replica1 is frozen (SIGSTOP): its connections stay open, and it answers nothing.", replica1.Freeze},
		{0.42, "replica1 goes on (SIGCONT).", replica1.Thaw},
		{0.58, "replica2 is killed (SIGKILL).", replica2.Kill},
		{0.80, "replica2 is started again.", replica2.Start},
	}
}

// run runs the story, and fails if the shop noticed it.
func (d *demonstration) run(ctx context.Context, duration time.Duration) error {
	d.began = time.Now()
	d.say("One primary, two replicas, one handle: sql.Open(\"pgherd\", %q)", d.servers.DSN())
	closeShop := d.shop.open(ctx)
	err := d.tell(ctx, duration)
	closeShop()
	d.show()

	n := d.shop.counts()
	var unread []string
	for _, s := range d.servers.Servers()[1:] {
		if d.reads(n, s) == 0 {
			unread = append(unread, s.Name())
			d.say("%s got no reads.", s.Name())
		}
	}
	if ctx.Err() != nil {
		d.say("Interrupted.")
	}
	d.screen.last(fmt.Sprintf("demo: reads %d (replicas %d, primary %d), writes %d, failed reads %d, failed writes %d",
		n.reads(), n.onReplicas, n.onPrimary, n.writes, n.failedReads, n.failedWrites))
	switch {
	case err != nil && ctx.Err() == nil:
		return err
	case ctx.Err() != nil || len(unread) > 0 || n.failedReads > 0 || n.failedWrites > 0:
		return errFailed
	}
	return nil
}

// tell does the steps of the story when it is their time, and shows how things
// are in between.
func (d *demonstration) tell(ctx context.Context, duration time.Duration) error {
	redraw := time.NewTicker(d.screen.interval())
	defer redraw.Stop()
	for _, s := range d.story() {
		if !d.showUntil(ctx, d.began.Add(time.Duration(s.at*float64(duration))), redraw.C) {
			return ctx.Err()
		}
		d.say("%s", s.text)
		if s.do == nil {
			continue
		}
		// It may take seconds, and things are to be seen then too.
		done := make(chan error, 1)
		go func() { done <- s.do() }()
		if err := d.showWhile(done, redraw.C); err != nil {
			return err
		}
		d.learnPorts()
	}
	d.showUntil(ctx, d.began.Add(duration), redraw.C)
	return ctx.Err()
}

func (d *demonstration) showUntil(ctx context.Context, end time.Time, redraw <-chan time.Time) bool {
	timer := time.NewTimer(time.Until(end))
	defer timer.Stop()
	for {
		select {
		case <-redraw:
			d.show()
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

func (d *demonstration) showWhile(done <-chan error, redraw <-chan time.Time) error {
	for {
		select {
		case <-redraw:
			d.show()
		case err := <-done:
			return err
		}
	}
}

// learnPorts learns where the servers listen behind their public addresses. A
// server that starts again may do so elsewhere.
func (d *demonstration) learnPorts() {
	for _, s := range d.servers.Servers() {
		if u, err := url.Parse(s.DirectDSN()); err == nil {
			d.ports[u.Port()] = s.Name()
		}
	}
}

// reads returns how many reads a server ran, as it says itself.
func (d *demonstration) reads(n counts, s *pgherdtest.Server) int {
	sum := 0
	for port, reads := range n.byPort {
		if d.ports[port] == s.Name() {
			sum += reads
		}
	}
	return sum
}

func (d *demonstration) say(format string, args ...any) {
	d.screen.say(time.Since(d.began), fmt.Sprintf(format, args...))
}

// show shows how things are, and what went wrong since it was last shown.
func (d *demonstration) show() {
	for _, err := range d.shop.newErrors() {
		if d.told++; d.told <= 10 { // the counts tell of the others
			d.say("The shop noticed: %v", err)
		}
	}
	health, stats, n := d.herd.Health(), d.herd.Stats(), d.shop.counts()
	p := picture{at: time.Since(d.began), counts: n, slowest: d.shop.slowestRead()}
	for i, h := range health.Servers {
		server := d.servers.Servers()[i] // the order is that of the DSN
		p.servers = append(p.servers, serverPicture{
			name:       server.Name(),
			role:       h.Role.String(),
			up:         h.Up,
			lag:        h.Lag,
			lagKnown:   h.LagKnown,
			statements: stats.Servers[i].Total(),
			reads:      d.reads(n, server),
		})
	}
	d.screen.show(p)
}
