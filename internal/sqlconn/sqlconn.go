// Package sqlconn makes any driver connection whole.
//
// A connection may lack most of the interfaces of [database/sql/driver];
// package database/sql then does what they would have done. Code that stands
// between the two must do the same, and can be simple if it need not ask each
// time. [Full], [FullStmt] and [FullRows] fill in what is absent, in such a way
// that a *sql.DB over a filled-in connection answers and fails as one over the
// bare connection does:
//
//	driver.Conn  ── Full ──▶      Conn   prepare, begin, exec, query, ping, check arguments
//	driver.Stmt  ── FullStmt ──▶  Stmt   exec, query, check arguments
//	driver.Rows  ── FullRows ──▶  *Rows  result sets, types of columns
//
// The rules are those of database/sql's ctxutil.go, convert.go and sql.go.
// driver.SessionResetter and driver.Validator are left out on purpose: they
// speak to the pool that owns the connection, and having both of them changes
// what a rollback does (keepConnOnRollback in sql.go).
//
// One difference is left: database/sql refuses an argument whose name does not
// begin with a letter before it calls a connection that can execute, and after
// it has prepared on one that cannot. A Conn can execute.
//
// Nothing here is safe for concurrent use, as no driver connection is.
package sqlconn

import (
	"context"
	"database/sql/driver"
	"errors"
)

// A Conn is a connection that has all that a statement may need.
//
// The arguments of ExecContext and QueryContext must have been through [Args]
// for that connection, as those that database/sql passes have.
type Conn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.NamedValueChecker
}

// Full returns c itself if it is whole, else a Conn around it. Its ExecContext
// and QueryContext do not return [driver.ErrSkip], and its statements are whole.
//
// CheckNamedValue of a Conn around c accepts everything. Which conversion is
// due depends on whether the statement must be prepared, and that comes out
// only when it is executed.
func Full(c driver.Conn) Conn {
	if c, ok := c.(Conn); ok {
		return c
	}
	return &conn{c}
}

type conn struct{ driver.Conn }

func (c *conn) Ping(ctx context.Context) error {
	if p, ok := c.Conn.(driver.Pinger); ok {
		return p.Ping(ctx)
	}
	return nil
}

func (c *conn) CheckNamedValue(*driver.NamedValue) error { return nil }

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	st, err := prepare(ctx, c.Conn, query)
	if err != nil {
		return nil, err
	}
	return FullStmt(c.Conn, st), nil
}

func prepare(ctx context.Context, c driver.Conn, query string) (driver.Stmt, error) {
	if c, ok := c.(driver.ConnPrepareContext); ok {
		return c.PrepareContext(ctx, query)
	}
	st, err := c.Prepare(query)
	if err == nil && ctx.Err() != nil {
		st.Close()
		return nil, ctx.Err()
	}
	return st, err
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if c, ok := c.Conn.(driver.ConnBeginTx); ok {
		return c.BeginTx(ctx, opts)
	}
	// Begin without a word about the level or read-only would be a lie.
	if opts.Isolation != 0 {
		return nil, errors.New("sql: driver does not support non-default isolation level")
	}
	if opts.ReadOnly {
		return nil, errors.New("sql: driver does not support read-only transactions")
	}
	//lint:ignore SA1019 what a driver without BeginTx has
	tx, err := c.Conn.Begin()
	if err == nil && ctx.Err() != nil {
		tx.Rollback()
		return nil, ctx.Err()
	}
	return tx, err
}

// The deprecated interfaces of package driver.
type (
	execer interface {
		Exec(query string, args []driver.Value) (driver.Result, error)
	}
	queryer interface {
		Query(query string, args []driver.Value) (driver.Rows, error)
	}
)

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	res, err := c.exec(ctx, query, args)
	// The identity, as database/sql has it: a wrapped ErrSkip is an error.
	if err != driver.ErrSkip {
		return res, err
	}
	st, err := prepare(ctx, c.Conn, query)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	args, err = Args(nil, c.Conn, st, args)
	if err != nil {
		return nil, err
	}
	return execStmt(ctx, st, args)
}

// exec runs the query without preparing it, or returns ErrSkip. It does not
// change args: they are needed once more after ErrSkip.
func (c *conn) exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	withCtx, ok := c.Conn.(driver.ExecerContext)
	without, old := c.Conn.(execer)
	if !ok && !old {
		return nil, driver.ErrSkip
	}
	args, err := Args(nil, c.Conn, nil, args)
	if err != nil {
		return nil, err
	}
	if ok {
		return withCtx.ExecContext(ctx, query, args)
	}
	values, err := legacy(ctx, args)
	if err != nil {
		return nil, err
	}
	return without.Exec(query, values)
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.query(ctx, query, args)
	if err != driver.ErrSkip {
		return rows, err
	}
	st, err := prepare(ctx, c.Conn, query)
	if err != nil {
		return nil, err
	}
	args, err = Args(nil, c.Conn, st, args)
	if err == nil {
		rows, err = queryStmt(ctx, st, args)
	}
	if err != nil {
		st.Close()
		return nil, err
	}
	full := FullRows(rows)
	full.stmt = st
	return full, nil
}

// query is to QueryContext what exec is to ExecContext.
func (c *conn) query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	withCtx, ok := c.Conn.(driver.QueryerContext)
	without, old := c.Conn.(queryer)
	if !ok && !old {
		return nil, driver.ErrSkip
	}
	args, err := Args(nil, c.Conn, nil, args)
	if err != nil {
		return nil, err
	}
	if ok {
		return withCtx.QueryContext(ctx, query, args)
	}
	values, err := legacy(ctx, args)
	if err != nil {
		return nil, err
	}
	return without.Query(query, values)
}

// legacy returns args as the interfaces without a context take them, unless
// they are named or it is too late to start.
func legacy(ctx context.Context, args []driver.NamedValue) ([]driver.Value, error) {
	values := make([]driver.Value, len(args))
	for i, arg := range args {
		if arg.Name != "" {
			return nil, errors.New("sql: driver does not support the use of Named Parameters")
		}
		values[i] = arg.Value
	}
	return values, ctx.Err()
}
