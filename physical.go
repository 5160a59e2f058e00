package pgherd

import (
	"context"
	"database/sql/driver"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/internal/sqlconn"
)

// A physical is a connection to a server, as pgx's stdlib makes it. Beyond
// that it tells its pool when it is no longer fit for use. It is used by one
// goroutine at a time, but for gone.
type physical struct {
	*stdlib.Conn
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
	return p.Conn.ResetSession(ctx)
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
	if pc.lifetime > 0 {
		life := pc.lifetime
		if pc.jitter > 0 {
			life += rand.N(pc.jitter)
		}
		p.expires = time.Now().Add(life)
	}
	return p, nil
}
