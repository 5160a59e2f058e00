package pgherd

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
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
	gone    atomic.Bool // its pool closed it
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
	return p.Conn.ResetSession(ctx)
}

// confirm returns nil if the standby has replayed the log up to lsn, which it
// had when it was asked. A connection that is newer than that answer may be to
// a server that has crashed since and has its way still to go. On a connection
// that is older there is no such doubt: a crash would have ended it.
func (p *physical) confirm(ctx context.Context, lsn uint64) error {
	if lsn == 0 {
		return nil
	}
	var replayed sql.NullInt64
	err := p.Conn.Conn().QueryRow(ctx, "SELECT (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint", pgx.QueryExecModeSimpleProtocol).Scan(&replayed)
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused) && !isShutdown(refused):
		return nil // what was asked of it before was not the position either
	case err != nil:
		return err
	case replayed.Valid && uint64(replayed.Int64) < lsn:
		return errBehind
	}
	return nil // a server that was promoted has no such position
}

// endTx ends the transaction, or else the connection: what follows must not run
// in a transaction that its caller takes for ended.
func (p *physical) endTx(ctx context.Context, sql string) (pgconn.CommandTag, error) {
	c := p.Conn.Conn()
	tag, err := c.Exec(ctx, sql)
	if err != nil && c.PgConn().TxStatus() != 'I' {
		over, cancel := context.WithCancel(withPatience(context.Background(), 0))
		cancel()
		c.Close(over)
	}
	return tag, err
}

// discardState makes the server forget the session.
// https://www.postgresql.org/docs/current/sql-discard.html
func (p *physical) discardState(ctx context.Context) error {
	c := p.Conn.Conn()
	if _, err := c.Exec(ctx, "DISCARD ALL"); err != nil {
		return err
	}
	// DISCARD ALL took the prepared statements that pgx believes are there.
	return c.DeallocateAll(ctx)
}

// A physicalConnector makes the connections of one server's pool.
type physicalConnector struct {
	driver.Connector
	lifetime, jitter time.Duration
}

func (pc *physicalConnector) Connect(ctx context.Context) (driver.Conn, error) {
	dc, err := pc.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	p := &physical{Conn: dc.(*stdlib.Conn), isNew: true}
	p.socket = socketOf(p.Conn.Conn().PgConn().Conn())
	p.socket.endRead()
	if pc.lifetime > 0 {
		life := pc.lifetime
		if pc.jitter > 0 {
			life += rand.N(pc.jitter)
		}
		p.expires = time.Now().Add(life)
	}
	return p, nil
}
