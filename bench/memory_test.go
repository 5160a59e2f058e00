//go:build unix

package bench

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"io"
)

// openMemory returns a handle on a server that answers at once: to a query with
// as many rows as its one argument says, to all else with nothing. The rows
// have one column, which is 7.
func openMemory() *sql.DB {
	db := sql.OpenDB(memory{})
	db.SetMaxIdleConns(poolSize)
	return db
}

type memory struct{}

func (m memory) Open(string) (driver.Conn, error)             { return memoryConn{}, nil }
func (m memory) Connect(context.Context) (driver.Conn, error) { return memoryConn{}, nil }
func (m memory) Driver() driver.Driver                        { return m }

// A memoryConn has every optional interface that pgx's has, so that
// database/sql and pgherd call it straight.
type memoryConn struct{}

func (c memoryConn) Prepare(string) (driver.Stmt, error) { return memoryStmt{}, nil }
func (c memoryConn) PrepareContext(context.Context, string) (driver.Stmt, error) {
	return memoryStmt{}, nil
}
func (c memoryConn) Begin() (driver.Tx, error) { return memoryTx{}, nil }
func (c memoryConn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) {
	return memoryTx{}, nil
}
func (c memoryConn) Close() error                             { return nil }
func (c memoryConn) Ping(context.Context) error               { return nil }
func (c memoryConn) ResetSession(context.Context) error       { return nil }
func (c memoryConn) IsValid() bool                            { return true }
func (c memoryConn) CheckNamedValue(*driver.NamedValue) error { return nil }

func (c memoryConn) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), nil
}

func (c memoryConn) QueryContext(_ context.Context, _ string, args []driver.NamedValue) (driver.Rows, error) {
	return &memoryRows{left: args[0].Value.(int)}, nil
}

type memoryStmt struct{}

func (s memoryStmt) Close() error                               { return nil }
func (s memoryStmt) NumInput() int                              { return 1 }
func (s memoryStmt) Exec([]driver.Value) (driver.Result, error) { return driver.RowsAffected(1), nil }
func (s memoryStmt) Query([]driver.Value) (driver.Rows, error)  { return &memoryRows{left: 1}, nil }
func (s memoryStmt) CheckNamedValue(*driver.NamedValue) error   { return nil }
func (s memoryStmt) ExecContext(context.Context, []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), nil
}

func (s memoryStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return memoryConn{}.QueryContext(ctx, "", args)
}

type memoryTx struct{}

func (memoryTx) Commit() error   { return nil }
func (memoryTx) Rollback() error { return nil }

type memoryRows struct{ left int }

var memoryColumns = []string{"n"}

func (r *memoryRows) Columns() []string { return memoryColumns }
func (r *memoryRows) Close() error      { return nil }

func (r *memoryRows) Next(dest []driver.Value) error {
	if r.left == 0 {
		return io.EOF
	}
	r.left--
	dest[0] = int64(7)
	return nil
}
