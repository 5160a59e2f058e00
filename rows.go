package pgherd

import (
	"context"
	"database/sql/driver"
	"io"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/internal/sqlconn"
	"github.com/pgherd/pgherd/routing"
)

// pgxRows are rows of a query that pgx answered. It embeds the concrete type,
// so that every optional interface of it is promoted, those of later Go
// versions (driver.RowsColumnScanner) included. Nothing is added per row but a
// look at its error.
type pgxRows struct {
	*stdlib.Rows
	end rowsEnd
}

// Next reads a row. An error that the end of the statement's context has caused
// says so.
func (r *pgxRows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	if err == nil {
		r.end.n++
		return nil
	}
	r.end.stops = false
	switch {
	case r.end.cn == nil:
		return err
	case err != io.EOF:
		return asCancelled(r.end.ctx, err)
	}
	if err := r.end.l.pg.notReplicated(r.end.ctx); err != nil {
		return err
	}
	return io.EOF
}

// Close closes the rows and gives their connection back.
func (r *pgxRows) Close() error {
	var err error
	if r.end.stops && r.end.mayStop() {
		err = r.stop()
	} else {
		err = r.Rows.Close()
	}
	if err == nil && r.end.cn != nil {
		err = r.end.l.pg.notReplicated(r.end.ctx)
	}
	r.end.reached(err)
	return err
}

// otherRows are rows of any other driver.
type otherRows struct {
	sqlconn.Rows
	end rowsEnd
}

// Next reads a row. Nothing is done with its error but to tell of it.
func (r *otherRows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	switch {
	case err == nil:
		r.end.n++
	case err != io.EOF && r.end.failed == nil:
		r.end.failed = err
	}
	return err
}

// Close closes the rows and gives their connection back.
func (r *otherRows) Close() error {
	err := r.Rows.Close()
	r.end.reached(err)
	return err
}

// rowsEnd is what is due when rows are closed.
type rowsEnd struct {
	cn     *Conn // nil once done
	past   *past // of the session that the statement ran in; nil for none
	l      lease
	sql    string
	st     *routing.Statement
	ctx    context.Context    // of the statement
	stmt   driver.Stmt        // closed after the rows, if not nil
	cancel context.CancelFunc // of query_timeout; nil for none
	stops  bool               // Close had better not read the rest; pgxRows only
	ob     *observation       // of the statement; nil where nobody wants to know
	n      int64              // rows that were read
	failed error              // what ended the rows; otherRows only
}

func (e *rowsEnd) reached(err error) {
	cn := e.cn
	if cn == nil {
		return
	}
	e.cn, e.ctx = nil, nil
	if e.stmt != nil {
		e.stmt.Close()
	}
	if e.cancel != nil {
		e.cancel()
	}
	if err != nil {
		if isEvidence(&e.l, routing.Unknown, err) && !isCallers(err) {
			cn.c.suspect(e.l.owner)
		}
		cn.try.noteError(err)
		cn.c.learnLate(context.Background(), e.sql, e.st, &e.l, err)
	}
	// INSERT … RETURNING commits only after its last row. Statements of other
	// sessions may have run on the connection by then.
	later := cn.past
	cn.past = e.past
	cn.noteWrite(e.st, &e.l)
	cn.past = later
	cn.settle(&e.l)
	if err == nil {
		err = e.failed
	}
	ob := e.ob
	e.ob = nil
	ob.end(err, e.n)
}

// wrapRows makes the rows of k settle its lease when they are closed.
func (cn *Conn) wrapRows(ctx context.Context, k *call, cancel context.CancelFunc) driver.Rows {
	stops := hintsOf(ctx).stops
	if cn.keeps() || cn.holds() {
		cn.held = k.l
	}
	first := !cn.rowsUsed
	cn.rowsUsed = true
	if rows, ok := k.rows.(*stdlib.Rows); ok {
		r := &cn.pgxRows
		if !first {
			r = new(pgxRows)
		}
		r.Rows = rows
		r.end = rowsEnd{cn: cn, past: cn.past, l: k.l, sql: k.sql, st: k.st, ctx: ctx, stmt: k.stmt, cancel: cancel, stops: stops, ob: k.ob}
		return r
	}
	r := &cn.otherRows
	if !first {
		r = new(otherRows)
	}
	r.Rows.Rows = k.rows
	r.end = rowsEnd{cn: cn, past: cn.past, l: k.l, sql: k.sql, st: k.st, ctx: ctx, stmt: k.stmt, cancel: cancel, ob: k.ob}
	return r
}
