package pgherd

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/internal/sqlconn"
)

// A physical is a connection to a server, as pgx's stdlib makes it. Beyond
// that it tells its pool when it is no longer fit for use. It is used by one
// goroutine at a time, but for gone.
type physical struct {
	*stdlib.Conn
	socket  *socket     // what it talks through; nil if that is not known
	expires time.Time   // zero: never
	isNew   bool        // not handed out before
	made    time.Time   // when it was there
	types   *typeLoader // of its herd
	taught  uint64      // what teach returned
	touched bool        // it was used past database/sql: its session may be in any state
	gone    atomic.Bool // its pool closed it

	waitCancelled *pgconn.PgError // what the server said of the last call: see notReplicated
}

var (
	_ sqlconn.Conn           = (*physical)(nil)
	_ driver.SessionResetter = (*physical)(nil)
	_ driver.Validator       = (*physical)(nil)
)

// IsValid keeps connections that broke, or that were left in a transaction,
// from going back to the pool. Plain pgx finds them at their next use.
func (p *physical) IsValid() bool {
	c := p.Conn.Conn()
	return !c.IsClosed() && c.PgConn().TxStatus() == 'I'
}

// Close is called by the pool.
func (p *physical) Close() error {
	p.gone.Store(true)
	return p.Conn.Close()
}

// ResetSession is called when the pool hands the connection out again.
func (p *physical) ResetSession(ctx context.Context) error {
	p.isNew = false
	if !p.expires.IsZero() && time.Until(p.expires) < 0 {
		return driver.ErrBadConn
	}
	p.socket.beginRead() // pgx may ping
	defer p.socket.endRead()
	if err := p.Conn.ResetSession(ctx); err != nil {
		return err
	}
	var err error
	if p.taught, err = p.types.teach(ctx, p.Conn.Conn(), p.taught); err != nil && p.Conn.Conn().IsClosed() {
		return driver.ErrBadConn // nothing of the statement was sent
	}
	return nil // what it did not learn it learns when it is handed out again
}

// confirm returns nil if the server is a standby and has replayed the log up to lsn,
// which it had when it was asked; 0 if nobody knows what it had.
func (p *physical) confirm(ctx context.Context, lsn uint64) error {
	var standby bool
	var replayed sql.NullInt64
	err := p.Conn.Conn().QueryRow(ctx, "SELECT pg_is_in_recovery(), (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint",
		pgx.QueryExecModeSimpleProtocol).Scan(&standby, &replayed)
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused) && !isShutdown(refused):
		return nil // what was asked of it before was not the position either
	case err != nil:
		return err
	case !standby:
		return errPromoted
	case replayed.Valid && uint64(replayed.Int64) < lsn:
		return errBehind
	}
	return nil
}

// endTx ends the transaction, or else the connection: what follows must not run
// in a transaction that its caller takes for ended.
func (p *physical) endTx(ctx context.Context, sql string) (pgconn.CommandTag, error) {
	c := p.Conn.Conn()
	open := !c.IsClosed()
	tag, err := c.Exec(ctx, sql)
	if open && err != nil && pgconn.SafeToRetry(err) && c.IsClosed() {
		err = errBroke
	}
	if err != nil && c.PgConn().TxStatus() != 'I' {
		hangUp(c.PgConn())
	}
	return tag, err
}

// hangUp closes a connection without waiting for its server.
func hangUp(c *pgconn.PgConn) {
	over, cancel := context.WithCancel(withPatience(context.Background(), 0))
	cancel()
	c.Close(over)
}

// discardState makes the server forget the session.
// https://www.postgresql.org/docs/current/sql-discard.html
func (p *physical) discardState(ctx context.Context) error {
	c := p.Conn.Conn()
	if _, err := c.Exec(ctx, "DISCARD ALL"); err != nil {
		return err
	}
	p.dropNotifications()
	p.touched = false
	// DISCARD ALL took the prepared statements that pgx believes are there.
	return c.DeallocateAll(ctx)
}

// dropNotifications forgets the notifications that nobody has waited for. pgx
// would keep them for the connection's next user, or for ever.
func (p *physical) dropNotifications() {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		if n, _ := p.Conn.Conn().WaitForNotification(over); n == nil {
			return
		}
	}
}

// A physicalConnector makes the connections of one server's pool.
type physicalConnector struct {
	driver.Connector
	name             string // the server's
	types            *typeLoader
	lifetime, jitter time.Duration
	connects         *connects // the server's
}

func (pc *physicalConnector) Connect(ctx context.Context) (driver.Conn, error) {
	begun := time.Now()
	p, err := pc.connect(ctx)
	if err != nil {
		pc.connects.failures.Add(1)
		return nil, err
	}
	pc.connects.took.Observe(time.Since(begun))
	version := p.Conn.Conn().PgConn().ParameterStatus("server_version")
	pc.connects.version.Store(&version)
	return p, nil
}

func (pc *physicalConnector) connect(ctx context.Context) (*physical, error) {
	var used Credentials
	dc, err := pc.Connector.Connect(context.WithValue(ctx, usedKey{}, &used))
	if err != nil {
		return nil, err
	}
	p := &physical{Conn: dc.(*stdlib.Conn), isNew: true, made: time.Now(), types: pc.types}
	p.Conn.Conn().PgConn().CustomData()[physicalKey] = p
	p.socket = socketOf(p.Conn.Conn().PgConn().Conn())
	defer p.socket.endRead()
	if p.taught, err = p.types.teach(ctx, p.Conn.Conn(), 0); err != nil {
		p.Close()
		return nil, fmt.Errorf("pgherd: connect to %s: %w", pc.name, err)
	}
	if pc.lifetime > 0 {
		life := pc.lifetime
		if pc.jitter > 0 {
			life += rand.N(pc.jitter)
		}
		p.expires = time.Now().Add(life)
	}
	if end := used.end(); !end.IsZero() && (p.expires.IsZero() || end.Before(p.expires)) {
		p.expires = end
	}
	return p, nil
}
