package pgherd

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/internal/sqlconn"
	"github.com/pgherd/pgherd/routing"
)

// Raw calls fn with a [Conn], for what database/sql has no call for: COPY,
// notifications, pgx. The target is whatever executes statements: a *sql.DB, a
// *sql.Conn, a *sql.Tx, those of sqlx, the Statement.ConnPool of a *gorm.DB, or
// a *Conn. In a transaction, which database/sql gives no Raw, fn thus works on
// the connection of the transaction, and what it does is rolled back with it.
//
// The Conn must not be used after fn has returned, nor the target within fn,
// which would wait for itself; another handle may be. Raw returns what fn
// returned, [driver.ErrBadConn] included, without database/sql acting on it. It
// is [ErrNotHerd] if target is none of a herd; nothing has happened then.
func Raw(ctx context.Context, target any, fn func(*Conn) error) error {
	if cn, ok := target.(*Conn); ok {
		return fn(cn)
	}
	h, ok := target.(Execer)
	if !ok {
		return fmt.Errorf("%w: a %T executes no statements", ErrNotHerd, target)
	}
	r := &rawCall{fn: fn}
	_, err := h.ExecContext(ctx, sqlconn.RawText, r)
	switch {
	case r.entered:
		return r.err
	case err == nil:
		return fmt.Errorf("%w: %T", ErrNotHerd, target)
	case isCallers(err), errors.Is(err, sql.ErrTxDone), errors.Is(err, sql.ErrConnDone), errors.Is(err, ErrClosed):
		return err
	}
	return fmt.Errorf("%w, or it has no connection: %T: %w", ErrNotHerd, target, err)
}

// A rawCall is the [sqlconn.RawCaller] of one call of Raw.
type rawCall struct {
	fn      func(*Conn) error
	entered bool
	err     error // what fn returned
}

var errNoRawCall = errors.New("pgherd: Raw: the handle changes the arguments of statements on their way: use the *sql.DB, *sql.Conn or *sql.Tx below it")

// enterRaw runs a rawCall. What it returns goes to database/sql, which must not
// learn of a lost connection: it would close one that a transaction is on, and
// wait for the transaction, which waits for it.
func (cn *Conn) enterRaw(args []driver.NamedValue) (driver.Result, error) {
	if len(args) == 1 {
		if r, ok := args[0].Value.(sqlconn.RawCaller); ok {
			r.CallRaw(cn) // its error goes back in r
			return driver.ResultNoRows, nil
		}
	}
	return nil, errNoRawCall
}

// A rawStmt is what becomes of sqlconn.RawText with handles that prepare all they
// execute.
type rawStmt struct{ cn *Conn }

var _ driver.StmtExecContext = rawStmt{}

func (s rawStmt) Close() error  { return nil }
func (s rawStmt) NumInput() int { return 1 }

func (s rawStmt) ExecContext(_ context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.cn.enterRaw(args)
}

func (s rawStmt) Exec([]driver.Value) (driver.Result, error) { return nil, errStmtContext }
func (s rawStmt) Query([]driver.Value) (driver.Rows, error)  { return nil, errStmtContext }

// PgxConn calls fn with a connection of pgx, for all that pgx can do and
// database/sql cannot: batches, its own scanning, large objects. For
// routing.Primary it is one of the primary; for routing.Replica one that a read
// would run on now, under the hints and bounds of ctx, which is the primary if no
// replica is suitable. Where a transaction or session state lives on a connection
// it is that one, whatever the role; a transaction on a replica cannot give one
// of the primary, which is an error.
//
// fn has the connection to itself until it returns, and must not keep it. It is
// called once, or not at all. pgherd does not see what fn does, and so takes it
// for a write where it could be one, and for a change of the session's state: a
// connection of the primary stays with cn to the end of its checkout, as after a
// SET. Then, or at once for a replica's, its session is reset (DISCARD ALL). One on
// which fn has left a transaction open, or which it closed, does not go back to its
// pool, and one on which fn panics is closed.
func (cn *Conn) PgxConn(ctx context.Context, role routing.Role, fn func(*pgx.Conn) error) error {
	if cn.via != nil {
		return fmt.Errorf("pgherd: PgxConn: what is done with a connection of pgx can be neither recorded nor replayed, as this connection (%T) would have it", cn.via)
	}
	k := call{op: opExec, st: &pgxOnPrimary}
	switch role {
	case routing.Primary:
	case routing.Replica:
		k.st = &pgxOnReplica
		ctx = WithReplica(ctx)
	default:
		return fmt.Errorf("pgherd: PgxConn: no connection to a server in the role %d", role)
	}
	var err error // of fn
	k.work = func(_ context.Context, c *pgx.Conn) error {
		switch {
		case !k.l.onStandby() && !(k.l.pg == nil && cn.c.view.Load().role(k.l.owner) == routing.Replica):
			k.st = &pgxOnPrimary
		case role == routing.Primary:
			return errOnReplica
		}
		k.deliver()
		if k.l.pg != nil {
			k.l.pg.touched = true
		}
		err = fn(c)
		return nil
	}
	if runErr := cn.lend(ctx, &k); runErr != nil {
		return runErr
	}
	return err
}

var (
	pgxOnPrimary = routing.Statement{Class: routing.Write, Reason: routing.ReasonWrite, Pins: true}
	pgxOnReplica = routing.Statement{Class: routing.Read, Reason: routing.ReasonRead}

	errOnReplica = errors.New("pgherd: the transaction runs on a replica: begin it under WithPrimary")
)

// lend runs k, whose work is done with a connection of pgx, and settles what
// becomes of the connection.
func (cn *Conn) lend(ctx context.Context, k *call) error {
	returned := false
	ctx = cn.c.observe(ctx, k)
	defer func() {
		if !returned {
			k.ob.end(errPanicked, -1)
		}
		if returned || k.l.conn == nil {
			return
		}
		// The work has panicked, or has ended its goroutine.
		if c := k.l.pgx(); c != nil {
			hangUp(c.PgConn())
		}
		cn.settle(&k.l)
	}()
	err := cn.run(ctx, k)
	returned = true
	k.ob.end(err, k.changed())
	if err != nil {
		var p *sourcePanic
		if errors.As(err, &p) {
			panic(p.value)
		}
		switch {
		case !errors.Is(err, driver.ErrBadConn):
			return err
		case k.delivered: // a source's, that of another database
			return errors.New(err.Error())
		}
		return errLost
	}
	cn.settle(&k.l)
	return nil
}

// errPanicked is what observers are told of work that has panicked, or has ended
// its goroutine.
var errPanicked = errors.New("pgherd: what was done with the connection did not return")

// errLost stands for [driver.ErrBadConn], on which database/sql acts: see
// enterRaw.
var errLost = errors.New("pgherd: the connection is lost; nothing was sent on it")

// clean makes the server forget the session of a connection that was used past
// database/sql, or else closes the connection.
func (p *physical) clean() {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	if p.discardState(ctx) != nil {
		hangUp(p.Conn.Conn().PgConn())
	}
}

// cleanTimeout is how long a server has to forget a session's state, before the
// connection is given up.
const cleanTimeout = 5 * time.Second

// pgx returns the connection of pgx, or nil if the server is a handle of another
// driver.
func (l *lease) pgx() *pgx.Conn {
	if l.pg != nil {
		return l.pg.Conn.Conn()
	}
	if c, ok := l.dc.(*stdlib.Conn); ok {
		return c.Conn()
	}
	return nil
}

// doWork does the work of k.
func (k *call) doWork(ctx context.Context) error {
	c := k.l.pgx()
	switch {
	case c == nil:
		return fmt.Errorf("pgherd: the server %s is a handle of another driver than pgx, whose connections (%T) can do nothing but run statements", k.l.owner.name, k.l.dc)
	case c.IsClosed():
		return driver.ErrBadConn
	case c.PgConn().IsBusy():
		return errBusy
	}
	return k.work(ctx, c)
}

var errBusy = errors.New("pgherd: the connection has rows open: close them first")

// deliver notes that from now on the caller's code takes part in k, which is not
// run again. To be called before that code is.
func (k *call) deliver() {
	k.delivered = true
	k.settleDown()
}

// settleDown ends what was begun for a k that can move to another server.
func (k *call) settleDown() {
	if k.movable {
		k.movable = false
		k.l.pg.socket.endRead()
	}
}

// Listen has the session notified of what is sent to channel, until Unlisten or
// the end of the checkout. It keeps a connection of the primary for itself. A
// [Listener] outlives connections and needs none of the pool.
// https://www.postgresql.org/docs/current/sql-listen.html
func (cn *Conn) Listen(ctx context.Context, channel string) error {
	return cn.listen(ctx, "LISTEN ", channel, true)
}

// Unlisten ends Listen. What was sent before can still be waited for.
func (cn *Conn) Unlisten(ctx context.Context, channel string) error {
	return cn.listen(ctx, "UNLISTEN ", channel, false)
}

func (cn *Conn) listen(ctx context.Context, verb, channel string, listens bool) error {
	if err := checkChannel(channel); err != nil {
		return fmt.Errorf("pgherd: %w", err)
	}
	if cn.via != nil {
		return cn.viaListen(ctx, channel, listens)
	}
	k := call{op: opExec, sql: verb + pgx.Identifier{channel}.Sanitize()}
	k.st = cn.c.classify(k.sql)
	k.work = func(ctx context.Context, c *pgx.Conn) error {
		if listens && k.l.pg != nil {
			k.l.pg.touched = true
		}
		_, err := c.Exec(ctx, k.sql)
		return err
	}
	return cn.lend(ctx, &k)
}

// WaitForNotification returns the next notification of the channels that Listen
// was called for. The end of ctx does not harm the connection, and no
// notification is lost by it.
func (cn *Conn) WaitForNotification(ctx context.Context) (*pgconn.Notification, error) {
	if cn.via != nil {
		return cn.via.WaitForNotification(ctx)
	}
	if !cn.holds() || cn.held.pg == nil || !cn.held.pg.touched {
		return nil, errors.New("pgherd: WaitForNotification: the connection listens to nothing")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cn.ranHeld(routing.ReasonPinned)
	n, err := cn.held.pg.Conn.Conn().WaitForNotification(withPatience(ctx, 0))
	if n != nil {
		return n, nil
	}
	if over := ended(ctx); over != nil {
		return nil, over
	}
	return nil, fmt.Errorf("pgherd: WaitForNotification: %w", err)
}
