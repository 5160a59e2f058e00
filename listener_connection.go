package pgherd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/routing"
)

// A listenerConn is one connection of a listener. One goroutine owns it, which
// waits for notifications and is interrupted for everything else.
type listenerConn struct {
	l      *Listener
	server *server
	config *pgconn.Config
	conn   *pgconn.PgConn

	probe  string // a channel of its own, to see that LISTEN works
	probed *pgconn.Notification
	up     time.Time // when LISTEN was in force; zero before

	// early are notifications that came before that: a Gap precedes them.
	early []*pgconn.Notification

	// covered is when the last question was sent that was answered. The server
	// delivers, before it answers, what was committed before it was asked.
	covered time.Time

	silence  *time.Timer   // runs out when the server is silent for too long; nil while nothing was asked
	patience time.Duration // of silence
}

// A movedError is why a listener leaves a server that still answers.
type movedError struct{ primary string }

func (e *movedError) Error() string { return "the primary is " + e.primary + " now" }

// connection listens through a connection to s until that ends. It returns how
// long LISTEN was in force.
func (l *Listener) connection(s *server) time.Duration {
	ctx, end := context.WithCancelCause(l.ctx)
	var follower sync.WaitGroup
	follower.Go(func() { l.follow(ctx, s, end) })

	lc := &listenerConn{l: l, server: s, probe: "pgherd_" + rand.Text()}
	err := lc.run(ctx)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	end(nil)
	follower.Wait()
	l.failed(fmt.Errorf("pgherd: listen on %s: %w", s.name, err), lc.covered)
	if lc.up.IsZero() {
		return 0
	}
	return time.Since(lc.up)
}

// follow ends the connection to s when the primary is another server.
func (l *Listener) follow(ctx context.Context, s *server, end context.CancelCauseFunc) {
	for {
		p, changed, _ := l.herd.currentPrimary()
		if p != nil && p != s {
			end(&movedError{p.name})
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// run connects, listens, and delivers until there is an error or ctx ends.
func (lc *listenerConn) run(ctx context.Context) error {
	over, cut := context.WithCancel(context.Background())
	defer cut()
	var used Credentials
	config, err := lc.server.dialConfig(context.WithValue(ctx, usedKey{}, &used))
	if err != nil {
		return err
	}
	lc.config = config
	lc.config.DialFunc = endingWith(over, lc.config.DialFunc)
	listening := lc.config.Copy()
	listening.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) { lc.receive(n) }
	conn, err := pgconn.ConnectConfig(ctx, listening)
	if err != nil {
		lc.server.credentials.refuses(used, err) // the next attempt has others
		return lc.server.explained(err)
	}
	lc.conn = conn
	defer func() {
		bye, cancel := context.WithTimeout(context.Background(), farewell)
		defer cancel()
		conn.Close(bye)
		cut() // nothing that pgx does about a broken connection goes on
		<-conn.CleanupDone()
	}()
	if conn.ParameterStatus("in_hot_standby") == "on" {
		return errDemoted
	}
	if err := lc.listenAgain(ctx); err != nil {
		return err
	}
	for {
		if err := lc.catchUp(ctx); err != nil {
			return err
		}
		if time.Since(lc.covered) >= lc.l.options.PingInterval {
			if err := lc.ping(ctx); err != nil {
				return err
			}
		}
		if err := lc.wait(ctx); err != nil {
			return err
		}
	}
}

// errNotPgx is why there is no listening on a ready-made handle of another driver.
var errNotPgx = errors.New("its connections are not those of pgx's driver")

// dialConfig returns how connections to s are made. Of a ready-made handle one of
// its connections tells.
func (s *server) dialConfig(ctx context.Context) (*pgconn.Config, error) {
	if s.config != nil {
		pc := s.config.Copy()
		err := s.prepare(ctx, pc)
		return &pc.Config, err
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var config *pgconn.Config
	err = conn.Raw(func(dc any) error {
		c, ok := dc.(*stdlib.Conn)
		if !ok {
			return errNotPgx
		}
		config = &c.Conn().Config().Config
		return nil
	})
	return config, err
}

// farewell bounds how long it takes to say that a connection is closed.
const farewell = 100 * time.Millisecond

// endingWith returns a dial whose connections, and dialling, end when over does.
func endingWith(over context.Context, dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if err := over.Err(); err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(over, cancel)()
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(over, func() { nc.Close() })
		return nc, nil
	}
}

// listenAgain repeats LISTEN for all channels in one message and sees that it
// works.
func (lc *listenerConn) listenAgain(ctx context.Context) error {
	channels := lc.l.proven()
	sql := listenSQL("LISTEN", append(channels, &channel{name: lc.probe})) + "NOTIFY " + quoteName(lc.probe)
	// The server compares each name with all that came before: thousands take
	// their time.
	limit := lc.l.options.Timeout + time.Duration(len(channels))*time.Millisecond
	if _, err := lc.exec(ctx, sql, limit); err != nil {
		return err
	}
	if lc.probed == nil {
		return ErrListenLost
	}
	if lc.probed.PID != lc.conn.PID() {
		if err := lc.probePooler(ctx); err != nil {
			return err
		}
	}
	lc.up = time.Now()
	lc.l.established(lc.server, channels, lc.early)
	lc.early = nil
	return nil
}

// probePooler sees that notifications of others come through the pooler that is
// between, as the ID of the server's process tells. One that shares connections
// among transactions delivers a transaction's own, but later has nobody to give
// them to.
func (lc *listenerConn) probePooler(ctx context.Context) error {
	lc.probed = nil
	ctx, cancel := context.WithTimeout(ctx, lc.l.options.Timeout)
	defer cancel()
	other, err := pgconn.ConnectConfig(ctx, lc.config)
	if err != nil {
		return err
	}
	_, err = other.Exec(ctx, "NOTIFY "+quoteName(lc.probe)).ReadAll()
	other.Close(ctx)
	for err == nil && lc.probed == nil {
		err = lc.conn.WaitForNotification(ctx)
	}
	if ctx.Err() == context.DeadlineExceeded && !lc.conn.IsClosed() {
		return ErrListenLost
	}
	return err
}

// catchUp sends LISTEN and UNLISTEN for what has changed since.
func (lc *listenerConn) catchUp(ctx context.Context) error {
	for {
		listen, unlisten := lc.l.due()
		if len(listen) == 0 && len(unlisten) == 0 {
			return nil
		}
		if len(unlisten) > 0 {
			if _, err := lc.exec(ctx, listenSQL("UNLISTEN", unlisten), lc.l.options.Timeout); err != nil {
				return err
			}
		}
		if len(listen) > 0 {
			if err := lc.listen(ctx, listen); err != nil {
				return err
			}
		}
	}
}

// listen sends LISTEN for channels, one by one if together they are refused.
func (lc *listenerConn) listen(ctx context.Context, channels []*channel) error {
	limit := lc.l.options.Timeout + time.Duration(len(channels))*time.Millisecond
	_, err := lc.exec(ctx, listenSQL("LISTEN", channels), limit)
	var refused *pgconn.PgError
	switch {
	case err == nil:
		lc.l.inForce(channels)
	case lc.conn.IsClosed() || !errors.As(err, &refused):
		return err
	case len(channels) == 1:
		lc.l.refuse(channels[0], err)
	default:
		for _, ch := range channels {
			if err := lc.listen(ctx, []*channel{ch}); err != nil {
				return err
			}
		}
	}
	return nil
}

// ping sees that the server answers, and still knows that it is listened to.
func (lc *listenerConn) ping(ctx context.Context) error {
	results, err := lc.exec(ctx, "SELECT FROM pg_listening_channels() AS c WHERE c = '"+lc.probe+"'", lc.l.options.Timeout)
	if err != nil {
		return err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return ErrListenLost
	}
	return nil
}

// exec runs sql. It gives the connection up when the server says nothing for
// patience, notifications included, of which there may be many before the answer.
func (lc *listenerConn) exec(ctx context.Context, sql string, patience time.Duration) ([]*pgconn.Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := fmt.Errorf("the server was silent for %v", patience)
	lc.patience, lc.silence = patience, time.AfterFunc(patience, func() { cancel(silent) })
	defer func() { lc.silence.Stop(); lc.silence = nil }()

	asked := time.Now()
	results, err := lc.conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		if context.Cause(ctx) == silent {
			err = silent
		}
		return nil, err
	}
	lc.covered = asked
	return results, nil
}

// wait waits until it is time for something else than notifications. Its error
// is that of a connection that broke, or the cause of the end of ctx.
func (lc *listenerConn) wait(ctx context.Context) error {
	quiet, cancel := context.WithDeadline(ctx, lc.covered.Add(lc.l.options.PingInterval))
	defer cancel()
	if !lc.l.wakeBy(cancel) {
		return nil
	}
	for {
		switch err := lc.conn.WaitForNotification(quiet); {
		case lc.conn.IsClosed():
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case quiet.Err() != nil:
			return nil
		case err != nil:
			return err
		}
	}
}

// receive takes a notification, whatever the connection is doing.
func (lc *listenerConn) receive(n *pgconn.Notification) {
	if lc.silence != nil {
		lc.silence.Reset(lc.patience)
	}
	switch {
	case n.Channel == lc.probe:
		lc.probed = n
	case lc.up.IsZero():
		lc.early = append(lc.early, n)
	default:
		lc.l.dispatch(n)
	}
}

// listenSQL returns command for each channel.
func listenSQL(command string, channels []*channel) string {
	var b strings.Builder
	for _, ch := range channels {
		b.WriteString(command + " " + quoteName(ch.name) + ";")
	}
	return b.String()
}

func quoteName(name string) string { return pgx.Identifier{name}.Sanitize() }

// currentPrimary implements [primarySource].
func (c *Connector) currentPrimary() (*server, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.view.Load(); p.Primary >= 0 {
		return p.servers[p.Primary], c.mu.changed, nil
	}
	return nil, c.mu.changed, c.routeErrorLocked("listen", routing.ReasonNoPrimary)
}
