package pgherd

import (
	"context"
	"database/sql/driver"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/internal/sqlconn"
	"github.com/pgherd/pgherd/routing"
)

// pgxRows are rows of a query that pgx answered. It embeds the concrete type,
// so that every optional interface of it is promoted, those of later Go
// versions (driver.RowsColumnScanner) included. Nothing is added per row.
type pgxRows struct {
	*stdlib.Rows
	end rowsEnd
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
	l      lease
	st     *routing.Statement
	stmt   driver.Stmt        // closed after the rows, if not nil
	cancel context.CancelFunc // of query_timeout; nil for none
}

func (e *rowsEnd) reached(err error) {
	cn := e.cn
	if cn == nil {
		return
	}
	l, st, stmt, cancel := e.l, e.st, e.stmt, e.cancel
	*e = rowsEnd{}
	if stmt != nil {
		stmt.Close()
	}
	if cancel != nil {
		cancel()
	}
	if err != nil && isEvidence(&l, err) && !isCallers(err) {
		cn.c.suspect(l.srv)
	}
	// INSERT … RETURNING commits only after its last row.
	cn.noteWrite(st, &l)
	cn.settle(l)
}

// wrapRows makes the rows of k give back l when they are closed.
func (cn *Conn) wrapRows(l lease, k *call, cancel context.CancelFunc) driver.Rows {
	if cn.inTx || cn.pinned || cn.stays || cn.holds() {
		cn.held = l
	}
	end := rowsEnd{cn: cn, l: l, st: k.st, stmt: k.stmt, cancel: cancel}
	pr, ok := k.rows.(*stdlib.Rows)
	first := !cn.rowsUsed
	cn.rowsUsed = true
	switch {
	case ok && first:
		cn.pgxRows = pgxRows{Rows: pr, end: end}
		return &cn.pgxRows
	case ok:
		return &pgxRows{Rows: pr, end: end}
	case first:
		cn.otherRows = otherRows{Rows: sqlconn.Rows{Rows: k.rows}, end: end}
		return &cn.otherRows
	}
	return &otherRows{Rows: sqlconn.Rows{Rows: k.rows}, end: end}
}
