package expect

import (
	"context"
	"database/sql/driver"
	"errors"

	"github.com/pgherd/pgherd/internal/sqlconn"
	"github.com/pgherd/pgherd/replay"
)

// A connector is that of the handle of a Mock.
type connector struct{ m *Mock }

func (c *connector) Connect(context.Context) (driver.Conn, error) { return &conn{m: c.m}, nil }
func (c *connector) Driver() driver.Driver                        { return mockDriver{} }

// Close is called by that of the handle.
func (c *connector) Close() error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.closed = true
	if c.m.closing != nil {
		return c.m.closing.err
	}
	return nil
}

type mockDriver struct{}

func (mockDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("expect: handles are made by New")
}

// A conn is a connection to what a Mock serves at the time of a call. Outside of a
// transaction each call is one by itself, whatever connection it is made on.
type conn struct {
	m     *Mock
	from  *replay.Connector
	inner player
	inTx  bool
}

// A player is a connection of a replay.Connector.
type player interface {
	sqlconn.Conn
	driver.SessionResetter
	driver.Validator
}

var _ interface {
	sqlconn.Conn
	driver.SessionResetter
	driver.Validator
} = (*conn)(nil)

// on returns the connection that the next call is for.
func (c *conn) on(ctx context.Context) (player, error) {
	if c.inTx {
		return c.inner, nil
	}
	if now := c.m.current(); now != c.from {
		dc, err := now.Connect(ctx)
		if err != nil {
			return nil, err
		}
		c.Close()
		c.from, c.inner = now, dc.(player)
		return c.inner, nil
	}
	return c.inner, c.inner.ResetSession(ctx)
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	p, err := c.on(ctx)
	if err != nil {
		return nil, err
	}
	return p.QueryContext(ctx, query, args)
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	p, err := c.on(ctx)
	if err != nil {
		return nil, err
	}
	return p.ExecContext(ctx, query, args)
}

func (c *conn) Ping(ctx context.Context) error {
	p, err := c.on(ctx)
	if err != nil {
		return err
	}
	return p.Ping(ctx)
}

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	p, err := c.on(ctx)
	if err != nil {
		return nil, err
	}
	st, err := p.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return &stmt{c, query, st.NumInput()}, st.Close()
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	p, err := c.on(ctx)
	if err != nil {
		return nil, err
	}
	inner, err := p.BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	c.inTx = true
	return &tx{inner, c}, nil
}

// CheckNamedValue takes everything, as pgx does.
func (c *conn) CheckNamedValue(*driver.NamedValue) error { return nil }

func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

func (c *conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *conn) ResetSession(context.Context) error { return nil }

func (c *conn) IsValid() bool {
	if c.inner != nil {
		c.inner.IsValid()
	}
	return true
}

func (c *conn) Close() error {
	if c.inner == nil {
		return nil
	}
	return c.inner.Close()
}

type tx struct {
	driver.Tx
	c *conn
}

func (t *tx) Commit() error   { t.c.inTx = false; return t.Tx.Commit() }
func (t *tx) Rollback() error { t.c.inTx = false; return t.Tx.Rollback() }

// A stmt is a prepared statement, which is no more than its text.
type stmt struct {
	c     *conn
	query string
	n     int
}

func (s *stmt) Close() error  { return nil }
func (s *stmt) NumInput() int { return s.n }

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.c.ExecContext(ctx, s.query, args)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.c.QueryContext(ctx, s.query, args)
}

var errNoContext = errors.New("expect: statements run with a context only")

func (s *stmt) Exec([]driver.Value) (driver.Result, error) { return nil, errNoContext }
func (s *stmt) Query([]driver.Value) (driver.Rows, error)  { return nil, errNoContext }
