package sqlconn_test

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
)

// A fake is a driver that writes down how it is used. Which interfaces its
// connections, statements and rows have is put together from parts, each of
// which is a struct with the methods of one interface.
//
// A query is a list of words that say what happens: n=2 takes two arguments,
// skip makes Exec and Query of the connection return ErrSkip, fail=PLACE and
// bad=PLACE return an error there, cancel=PLACE cancels the caller's context
// (PLACE context is any method that has one).
type fake struct {
	conn func(*fake) driver.Conn
	stmt func(*fake, string) driver.Stmt
	rows func(*fake, string) driver.Rows
	wrap func(driver.Conn) driver.Conn

	log    []string
	cancel context.CancelFunc
}

var errFake = errors.New("fake failure")

func (f *fake) logf(format string, args ...any) {
	f.log = append(f.log, fmt.Sprintf(format, args...))
}

func (f *fake) Connect(context.Context) (driver.Conn, error) {
	f.logf("connect")
	return f.wrap(f.conn(f)), nil
}

func (f *fake) Driver() driver.Driver { return nil }

// at does what the query says of a place.
func (f *fake) at(place, query string) error {
	for word := range strings.FieldsSeq(query) {
		switch key, value, _ := strings.Cut(word, "="); {
		case value != place:
		case key == "cancel":
			f.cancel()
		case key == "bad":
			return driver.ErrBadConn
		case key == "fail":
			return errFake
		}
	}
	return nil
}

// in is at for a method that watches its context. Rows are never returned under
// a cancelled one: database/sql would close them in its own good time.
func (f *fake) in(ctx context.Context, place, query string) error {
	return cmp.Or(f.at(place, query), f.at("context", query), ctx.Err())
}

func (f *fake) prepare(query string) driver.Stmt { return f.stmt(f, query) }

// Parts of a connection.
type (
	baseConn       struct{ *fake }
	prepareContext struct{ f *fake }
	beginTx        struct{ f *fake }
	pinger         struct{ f *fake }
	execer         struct{ f *fake }
	queryer        struct{ f *fake }
	execerContext  struct{ f *fake }
	queryerContext struct{ f *fake }
	connChecker    struct{ f *fake }
)

func (c baseConn) Close() error { c.logf("conn close"); return nil }

func (c baseConn) Prepare(query string) (driver.Stmt, error) {
	c.logf("prepare %s", query)
	if err := c.at("prepare", query); err != nil {
		return nil, err
	}
	return c.prepare(query), nil
}

func (c baseConn) Begin() (driver.Tx, error) {
	c.logf("begin")
	if c.cancel != nil {
		c.cancel()
	}
	return tx{c.fake}, nil
}

func (c prepareContext) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	c.f.logf("prepare %s with context", query)
	if err := c.f.in(ctx, "prepare", query); err != nil {
		return nil, err
	}
	return c.f.prepare(query), nil
}

func (c beginTx) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	c.f.logf("begin %+v", opts)
	if c.f.cancel != nil {
		c.f.cancel()
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return tx(c), nil
}

func (c pinger) Ping(context.Context) error { c.f.logf("ping"); return errFake }

func skips(query string) bool { return strings.HasPrefix(query, "skip") }

func (c execer) Exec(query string, args []driver.Value) (driver.Result, error) {
	c.f.logf("conn exec %s %#v", query, args)
	if skips(query) {
		return nil, driver.ErrSkip
	}
	return driver.RowsAffected(1), c.f.at("run", query)
}

func (c queryer) Query(query string, args []driver.Value) (driver.Rows, error) {
	c.f.logf("conn query %s %#v", query, args)
	if skips(query) {
		return nil, driver.ErrSkip
	}
	return c.f.rows(c.f, query), c.f.at("run", query)
}

func (c execerContext) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.f.logf("conn exec %s %#v with context", query, args)
	if skips(query) {
		return nil, driver.ErrSkip
	}
	return driver.RowsAffected(2), c.f.in(ctx, "run", query)
}

func (c queryerContext) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.f.logf("conn query %s %#v with context", query, args)
	if skips(query) {
		return nil, driver.ErrSkip
	}
	return c.f.rows(c.f, query), c.f.in(ctx, "run", query)
}

func (c connChecker) CheckNamedValue(nv *driver.NamedValue) error {
	c.f.logf("conn check %#v", *nv)
	return c.f.check(nv, "conn")
}

type tx struct{ f *fake }

func (t tx) Commit() error   { t.f.logf("commit"); return nil }
func (t tx) Rollback() error { t.f.logf("rollback"); return errFake }

// Arguments that a checker treats in its own way. None is a driver.Value.
type (
	mapped  struct{ S string } // becomes a string, if there is a checker
	kept    struct{ S string } // is left as it is, if there is a checker
	removed struct{}           // leaves the list, if there is a checker
	refused struct{}           // never passes
	swapped struct{}           // cancels the caller's context, then as kept
)

func (f *fake) check(nv *driver.NamedValue, who string) error {
	switch v := nv.Value.(type) {
	case mapped:
		nv.Value = v.S + " mapped by " + who
		return nil
	case kept:
		return nil
	case removed:
		return driver.ErrRemoveArgument
	case refused:
		return fmt.Errorf("%s: %w", who, errFake)
	case swapped:
		f.cancel()
		return nil
	}
	return driver.ErrSkip
}

// valuer has its method on the value, so that a nil pointer to it would panic.
type valuer struct {
	v   driver.Value
	err error
}

func (v valuer) Value() (driver.Value, error) { return v.v, v.err }

// Parts of a statement.
type (
	baseStmt struct {
		*fake
		query string
	}
	stmtExec    struct{ baseStmt }
	stmtQuery   struct{ baseStmt }
	stmtChecker struct{ f *fake }
	columns     struct{ f *fake }
)

func (s baseStmt) Close() error { s.logf("stmt close"); return errFake }

func (s baseStmt) NumInput() int {
	_, n, _ := strings.Cut(s.query, "n=")
	if n, err := strconv.Atoi(strings.Fields(n + " ?")[0]); err == nil {
		return n
	}
	return -1
}

func (s baseStmt) Exec(args []driver.Value) (driver.Result, error) {
	s.logf("stmt exec %#v", args)
	return driver.RowsAffected(3), s.at("run", s.query)
}

func (s baseStmt) Query(args []driver.Value) (driver.Rows, error) {
	s.logf("stmt query %#v", args)
	return s.rows(s.fake, s.query), s.at("run", s.query)
}

func (s stmtExec) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	s.logf("stmt exec %#v with context", args)
	return driver.RowsAffected(4), s.in(ctx, "run", s.query)
}

func (s stmtQuery) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	s.logf("stmt query %#v with context", args)
	return s.rows(s.fake, s.query), s.in(ctx, "run", s.query)
}

func (s stmtChecker) CheckNamedValue(nv *driver.NamedValue) error {
	s.f.logf("stmt check %#v", *nv)
	return s.f.check(nv, "stmt")
}

func (s columns) ColumnConverter(i int) driver.ValueConverter {
	s.f.logf("converter of column %d", i)
	switch i {
	case 0:
		return driver.NotNull{Converter: driver.Int32}
	case 1:
		return converter(func(v any) (driver.Value, error) { return driver.RowsAffected(1), nil })
	case 2:
		return converter(func(v any) (driver.Value, error) { return v, driver.ErrSkip })
	}
	return driver.String
}

type converter func(any) (driver.Value, error)

func (c converter) ConvertValue(v any) (driver.Value, error) { return c(v) }

// Parts of rows.
type (
	baseRows struct {
		*fake
		query string
		left  *int // rows of the present result set
		sets  *int // further result sets
	}
	resultSets     struct{ baseRows }
	scanType       struct{}
	typeName       struct{}
	length         struct{}
	nullable       struct{}
	precisionScale struct{}
)

func newRows(f *fake, query string) baseRows {
	left, sets := 2, 1
	return baseRows{f, query, &left, &sets}
}

func (r baseRows) Columns() []string { return []string{"a", "b"} }

func (r baseRows) Close() error {
	r.logf("rows close")
	return r.at("close", r.query)
}

func (r baseRows) Next(dest []driver.Value) error {
	if *r.left == 0 {
		return io.EOF
	}
	*r.left--
	dest[0], dest[1] = int64(*r.left), "x"
	return r.at("next", r.query)
}

func (r resultSets) HasNextResultSet() bool { return *r.sets > 0 }

func (r resultSets) NextResultSet() error {
	r.logf("next result set")
	if *r.sets == 0 {
		return io.EOF
	}
	*r.sets--
	*r.left = 1
	return r.at("set", r.query)
}

func (scanType) ColumnTypeScanType(int) reflect.Type                     { return reflect.TypeFor[sql.NullInt64]() }
func (typeName) ColumnTypeDatabaseTypeName(int) string                   { return "NUMERIC" }
func (length) ColumnTypeLength(i int) (int64, bool)                      { return 7, i == 0 }
func (nullable) ColumnTypeNullable(i int) (bool, bool)                   { return i == 0, true }
func (precisionScale) ColumnTypePrecisionScale(int) (int64, int64, bool) { return 9, 2, true }
