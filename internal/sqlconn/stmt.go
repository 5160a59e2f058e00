package sqlconn

import (
	"context"
	"database/sql/driver"
)

// A Stmt is a prepared statement that has all that executing it may need.
//
// The arguments of ExecContext and QueryContext must have been through [Args]
// for that statement, as those that database/sql passes have.
type Stmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
	driver.NamedValueChecker
}

// FullStmt returns st itself if it is whole, else a Stmt around it. c is the
// connection that prepared st, not one that Full has put around it: it checks
// the arguments that st has no checker for.
func FullStmt(c driver.Conn, st driver.Stmt) Stmt {
	if st, ok := st.(Stmt); ok {
		return st
	}
	return &stmt{st, c}
}

type stmt struct {
	driver.Stmt
	conn driver.Conn
}

func (st *stmt) CheckNamedValue(arg *driver.NamedValue) error {
	check := newChecker(st.conn, st.Stmt)
	return check.check(arg)
}

func (st *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return execStmt(ctx, st.Stmt, args)
}

func (st *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return queryStmt(ctx, st.Stmt, args)
}

func execStmt(ctx context.Context, st driver.Stmt, args []driver.NamedValue) (driver.Result, error) {
	if st, ok := st.(driver.StmtExecContext); ok {
		return st.ExecContext(ctx, args)
	}
	values, err := legacy(ctx, args)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 what a driver without StmtExecContext has
	return st.Exec(values)
}

func queryStmt(ctx context.Context, st driver.Stmt, args []driver.NamedValue) (driver.Rows, error) {
	if st, ok := st.(driver.StmtQueryContext); ok {
		return st.QueryContext(ctx, args)
	}
	values, err := legacy(ctx, args)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 what a driver without StmtQueryContext has
	return st.Query(values)
}
