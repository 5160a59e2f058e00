package sqlconn_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"regexp"
	"testing"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/internal/sqlconn"
)

// Connections of pgx, which nearly all are, are never wrapped.
var _ sqlconn.Conn = (*stdlib.Conn)(nil)

var conns = []struct {
	name string
	conn func(*fake) driver.Conn
}{
	{"bare", func(f *fake) driver.Conn { return baseConn{f} }},
	{"legacy", func(f *fake) driver.Conn {
		return struct {
			baseConn
			execer
			queryer
		}{baseConn{f}, execer{f}, queryer{f}}
	}},
	{"legacy+checker", func(f *fake) driver.Conn {
		return struct {
			baseConn
			execer
			queryer
			connChecker
		}{baseConn{f}, execer{f}, queryer{f}, connChecker{f}}
	}},
	{"exec only", func(f *fake) driver.Conn {
		return struct {
			baseConn
			execerContext
		}{baseConn{f}, execerContext{f}}
	}},
	{"query only", func(f *fake) driver.Conn {
		return struct {
			baseConn
			queryerContext
		}{baseConn{f}, queryerContext{f}}
	}},
	{"exec with context and without", func(f *fake) driver.Conn {
		return struct {
			baseConn
			execerContext
			execer
			queryerContext
			queryer
		}{baseConn{f}, execerContext{f}, execer{f}, queryerContext{f}, queryer{f}}
	}},
	{"checker", func(f *fake) driver.Conn {
		return struct {
			baseConn
			connChecker
		}{baseConn{f}, connChecker{f}}
	}},
	{"contexts", func(f *fake) driver.Conn {
		return struct {
			baseConn
			prepareContext
			beginTx
		}{baseConn{f}, prepareContext{f}, beginTx{f}}
	}},
	{"pinger", func(f *fake) driver.Conn {
		return struct {
			baseConn
			pinger
		}{baseConn{f}, pinger{f}}
	}},
	{"all but ping", func(f *fake) driver.Conn {
		return struct {
			baseConn
			prepareContext
			beginTx
			execerContext
			queryerContext
			connChecker
		}{baseConn{f}, prepareContext{f}, beginTx{f}, execerContext{f}, queryerContext{f}, connChecker{f}}
	}},
	{"all but checker", func(f *fake) driver.Conn {
		return struct {
			baseConn
			prepareContext
			beginTx
			execerContext
			queryerContext
			pinger
		}{baseConn{f}, prepareContext{f}, beginTx{f}, execerContext{f}, queryerContext{f}, pinger{f}}
	}},
	{"whole", wholeConn},
}

func wholeConn(f *fake) driver.Conn {
	return &struct {
		baseConn
		prepareContext
		beginTx
		execerContext
		queryerContext
		connChecker
		pinger
	}{baseConn{f}, prepareContext{f}, beginTx{f}, execerContext{f}, queryerContext{f}, connChecker{f}, pinger{f}}
}

// A named base keeps the methods of the parts that embed it from being ambiguous.
type plain = baseStmt

var stmts = []struct {
	name string
	stmt func(*fake, string) driver.Stmt
}{
	{"bare", func(f *fake, q string) driver.Stmt { return baseStmt{f, q} }},
	{"exec only", func(f *fake, q string) driver.Stmt { return stmtExec{baseStmt{f, q}} }},
	{"contexts", func(f *fake, q string) driver.Stmt {
		b := baseStmt{f, q}
		return struct {
			plain
			driver.StmtExecContext
			driver.StmtQueryContext
		}{b, stmtExec{b}, stmtQuery{b}}
	}},
	{"checker", func(f *fake, q string) driver.Stmt {
		return struct {
			plain
			stmtChecker
		}{baseStmt{f, q}, stmtChecker{f}}
	}},
	{"columns", func(f *fake, q string) driver.Stmt {
		return struct {
			plain
			columns
		}{baseStmt{f, q}, columns{f}}
	}},
	{"checker+columns", func(f *fake, q string) driver.Stmt {
		return struct {
			plain
			stmtChecker
			columns
		}{baseStmt{f, q}, stmtChecker{f}, columns{f}}
	}},
	{"whole", wholeStmt},
}

func wholeStmt(f *fake, q string) driver.Stmt {
	b := baseStmt{f, q}
	return &struct {
		plain
		driver.StmtExecContext
		driver.StmtQueryContext
		stmtChecker
	}{b, stmtExec{b}, stmtQuery{b}, stmtChecker{f}}
}

var rowses = []struct {
	name string
	rows func(*fake, string) driver.Rows
}{
	{"bare", func(f *fake, q string) driver.Rows { return newRows(f, q) }},
	{"result sets", func(f *fake, q string) driver.Rows { return resultSets{newRows(f, q)} }},
	{"scan type", func(f *fake, q string) driver.Rows {
		return struct {
			baseRows
			scanType
		}{newRows(f, q), scanType{}}
	}},
	{"whole", func(f *fake, q string) driver.Rows {
		return struct {
			resultSets
			scanType
			typeName
			length
			nullable
			precisionScale
		}{resultSets: resultSets{newRows(f, q)}}
	}},
}

// TestSameAsDatabaseSQL drives each kind of connection through a *sql.DB, bare
// and filled in, with rows and statements filled in as well. What the caller
// sees must be the same, and what the driver sees.
func TestSameAsDatabaseSQL(t *testing.T) {
	bare := func(c driver.Conn) driver.Conn { return c }
	full := func(c driver.Conn) driver.Conn { return sqlconn.Full(c) }
	for i, c := range conns {
		for j, st := range stmts {
			r := rowses[(i+j)%len(rowses)]
			t.Run(fmt.Sprintf("conn=%s/stmt=%s/rows=%s", c.name, st.name, r.name), func(t *testing.T) {
				want := drive(&fake{conn: c.conn, stmt: st.stmt, rows: r.rows, wrap: bare})
				fullRows := func(f *fake, q string) driver.Rows { return sqlconn.FullRows(r.rows(f, q)) }
				got := drive(&fake{conn: c.conn, stmt: st.stmt, rows: fullRows, wrap: full})
				for i := range max(len(got), len(want)) {
					if i >= len(got) || i >= len(want) || got[i] != want[i] {
						t.Fatalf("step %d differs\ngot  %q\nwant %q", i, tail(got, i), tail(want, i))
					}
				}
			})
		}
	}
}

// tail returns a few steps up to the one that differs.
func tail(log []string, i int) []string { return log[max(0, min(i-3, len(log))):min(i+1, len(log))] }

// three is one value for all drivers: their logs show its address.
var three = &valuer{v: int64(3)}

// troubled matches the queries that go wrong, whatever the arguments.
var troubled = regexp.MustCompile(`(fail|bad|cancel)=`)

// drive does with a driver all that a program may do, and returns what the
// driver and the program saw.
func drive(f *fake) []string {
	db := sql.OpenDB(f)
	db.SetMaxOpenConns(1)
	saw := func(what string, err error) {
		f.logf("caller: %s: %v (fake %t, skip %t, canceled %t)", what, err,
			errors.Is(err, errFake), errors.Is(err, driver.ErrSkip), errors.Is(err, context.Canceled))
	}
	saw("ping", db.Ping())

	for _, level := range []sql.IsolationLevel{sql.LevelDefault, sql.LevelSerializable} {
		for _, readOnly := range []bool{false, true} {
			tx, err := db.BeginTx(context.Background(), &sql.TxOptions{Isolation: level, ReadOnly: readOnly})
			saw("begin", err)
			if err == nil {
				saw("commit", tx.Commit())
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	_, err := db.BeginTx(ctx, nil)
	saw("begin, cancelled within", err)

	var null *valuer
	for _, query := range []string{
		"n=0", "n=1", "n=2", "any", "skip n=1", "skip any",
		"n=1 fail=prepare", "n=1 fail=run", "skip n=1 fail=run", "n=1 fail=next", "n=1 fail=close", "n=1 fail=set",
		"n=1 bad=prepare", "n=1 bad=run",
		"n=1 cancel=prepare", "n=1 cancel=context", "skip n=1 cancel=context",
	} {
		for i, args := range [][]any{
			{}, {1}, {"1"}, {"text"}, {nil}, {1, 2}, {1, "b", int8(3)}, {1, removed{}}, {removed{}, 2}, {1, 2, 3, 4},
			{mapped{"m"}}, {kept{"k"}}, {refused{}}, {swapped{}}, {1, refused{}},
			{valuer{v: "7"}}, {valuer{err: errFake}}, {valuer{v: kept{}}}, {null}, {three},
			{sql.Named("x", 1)}, {sql.Named("x", refused{})}, {[]int{1}}, {uint64(1) << 63},
		} {
			if i > 2 && troubled.MatchString(query) {
				break // the arguments are not what matters
			}
			// A context is used up by the query that cancels it.
			call := func(what string, do func(ctx context.Context) error) {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				f.cancel = cancel
				saw(fmt.Sprintf("%s %s, arguments %d", what, query, i), do(ctx))
			}
			call("exec", func(ctx context.Context) error { return showResult(f)(db.ExecContext(ctx, query, args...)) })
			call("query", func(ctx context.Context) error { return showRows(f)(db.QueryContext(ctx, query, args...)) })
			call("skip rows", func(ctx context.Context) error {
				rows, err := db.QueryContext(ctx, query, args...)
				if err != nil {
					return err
				}
				f.logf("caller: more result sets: %t", rows.NextResultSet())
				return errors.Join(rows.Err(), rows.Close())
			})
			call("prepare", func(ctx context.Context) error {
				st, err := db.PrepareContext(ctx, query)
				if err != nil {
					return err
				}
				err = errors.Join(showResult(f)(st.ExecContext(ctx, args...)), showRows(f)(st.QueryContext(ctx, args...)))
				return errors.Join(err, st.Close())
			})
		}
	}
	saw("close", db.Close())
	return f.log
}

func showResult(f *fake) func(sql.Result, error) error {
	return func(res sql.Result, err error) error {
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		f.logf("caller: %d rows, %v", n, err)
		_, err = res.LastInsertId()
		return err
	}
}

func showRows(f *fake) func(*sql.Rows, error) error {
	return func(rows *sql.Rows, err error) error {
		if err != nil {
			return err
		}
		types, err := rows.ColumnTypes()
		for _, c := range types {
			f.logf("caller: column %+v, %v", *c, err)
		}
		for more := true; more; more = rows.NextResultSet() {
			for rows.Next() {
				var a, b any
				err := rows.Scan(&a, &b)
				f.logf("caller: row %v %v %v", a, b, err)
			}
		}
		return errors.Join(rows.Err(), rows.Close())
	}
}

func TestFullReturnsWhatIsWhole(t *testing.T) {
	f := &fake{}
	c, st := wholeConn(f), wholeStmt(f, "")
	if got := sqlconn.Full(c); got != c {
		t.Errorf("Full wraps a whole connection in a %T", got)
	}
	if got := sqlconn.FullStmt(c, st); got != st {
		t.Errorf("FullStmt wraps a whole statement in a %T", got)
	}
	if n := testing.AllocsPerRun(10, func() { sqlconn.FullStmt(sqlconn.Full(c), st) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestArgs holds that code which calls Args and then the driver does what
// database/sql does.
func TestArgs(t *testing.T) {
	f := &fake{conn: wholeConn}
	c := wholeConn(f)
	raw := []driver.NamedValue{
		{Ordinal: 1, Value: removed{}}, {Ordinal: 2, Value: mapped{"m"}}, {Ordinal: 3, Name: "n", Value: int8(3)},
	}
	got, err := sqlconn.Args(nil, c, baseStmt{f, "n=2"}, raw)
	want := []driver.NamedValue{{Ordinal: 1, Value: "m mapped by conn"}, {Ordinal: 2, Name: "n", Value: int64(3)}}
	if err != nil || fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
		t.Errorf("got %#v, %v, want %#v", got, err, want)
	}
	if raw[1].Value != (mapped{"m"}) {
		t.Errorf("the caller's arguments were changed to %#v", raw)
	}

	for _, tt := range []struct {
		st   driver.Stmt
		args []driver.NamedValue
		want string
	}{
		{baseStmt{f, "n=2"}, raw[1:2], "sql: expected 2 arguments, got 1"},
		{nil, []driver.NamedValue{{Ordinal: 1, Value: refused{}}}, "sql: converting argument $1 type: conn: fake failure"},
		{nil, []driver.NamedValue{{Name: "x", Value: []int{}}}, `sql: converting argument with name "x" type: unsupported type []int, a slice of int`},
	} {
		if _, err := sqlconn.Args(nil, c, tt.st, tt.args); err == nil || err.Error() != tt.want {
			t.Errorf("Args(%#v) fails with %v, want %s", tt.args, err, tt.want)
		}
	}
}
