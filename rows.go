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
	if err == nil || err == io.EOF || r.end.cn == nil {
		return err
	}
	return asCancelled(r.end.ctx, err)
}

// Close closes the rows and gives their connection back.
func (r *pgxRows) Close() error {
	err := r.Rows.Close()
	r.end.reached(err)
	return err
}

// otherRows are rows of any other driver.
type otherRows struct {
	sqlconn.Rows
	end rowsEnd
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
		if isEvidence(&e.l, err) && !isCallers(err) {
			cn.c.suspect(e.l.owner)
		}
		cn.c.learnLate(context.Background(), e.sql, e.st, &e.l, err)
	}
	// INSERT … RETURNING commits only after its last row. Statements of other
	// sessions may have run on the connection by then.
	later := cn.past
	cn.past = e.past
	cn.noteWrite(e.st, &e.l)
	cn.past = later
	cn.settle(&e.l)
}

// wrapRows makes the rows of k settle its lease when they are closed.
func (cn *Conn) wrapRows(ctx context.Context, k *call, cancel context.CancelFunc) driver.Rows {
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
		r.end = rowsEnd{cn: cn, past: cn.past, l: k.l, sql: k.sql, st: k.st, ctx: ctx, stmt: k.stmt, cancel: cancel}
		return r
	}
	r := &cn.otherRows
	if !first {
		r = new(otherRows)
	}
	r.Rows.Rows = k.rows
	r.end = rowsEnd{cn: cn, past: cn.past, l: k.l, sql: k.sql, st: k.st, ctx: ctx, stmt: k.stmt, cancel: cancel}
	return r
}
