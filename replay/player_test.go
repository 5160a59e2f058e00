package replay_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/pgherd/pgherd/internal/sqlconn"
	"github.com/pgherd/pgherd/replay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// fixture writes a fixture and returns its path.
func fixture(t testing.TB, units string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.replay.json")
	if err := os.WriteFile(path, []byte(`{"format": 1, "units": [`+units+`]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// open opens a fixture. The handle is not closed: that would complain of what is
// unused.
func open(t testing.TB, path string, opts ...replay.Option) *sql.DB {
	t.Helper()
	c, err := replay.NewConnector(path, append([]replay.Option{replay.WithMode(replay.Replay)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(struct{ driver.Connector }{c})
	t.Cleanup(func() { db.Close() })
	return db
}

// closes returns the error of closing a handle for c.
func closes(t testing.TB, db func(*sql.DB), path string, opts ...replay.Option) error {
	t.Helper()
	c, err := replay.NewConnector(path, append([]replay.Option{replay.WithMode(replay.Replay)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	h := sql.OpenDB(c)
	db(h)
	return h.Close()
}

func exec(t testing.TB, h interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}, query string, args ...any) {
	t.Helper()
	if _, err := h.ExecContext(ctx, query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func text(t testing.TB, h interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, query string, args ...any) string {
	t.Helper()
	var v any
	if err := h.QueryRowContext(ctx, query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return fmt.Sprint(v)
}

func mismatch(t testing.TB, err error, cause replay.Cause) {
	t.Helper()
	var m *replay.Mismatch
	if !errors.As(err, &m) {
		t.Fatalf("%v (%T) is no Mismatch", err, err)
	}
	if m.Cause != cause {
		t.Fatalf("cause %d, want %d:\n%v", m.Cause, cause, m)
	}
}

func query(sql, value string) string {
	return fmt.Sprintf(`{"calls": [{"sql": %q, "cols": ["v text"], "rows": [[%q]]}]}`, sql, value)
}

// Equal calls are answered in the order of the file; style does not count.
func TestServe(t *testing.T) {
	db := open(t, fixture(t, query("SELECT v FROM t", "one")+","+query("select 'x'", "x")+","+query("select v from t", "two")))
	for _, c := range []struct{ sql, want string }{
		{"select  V -- which\n from T", "one"},
		{"SELECT 'x';", "x"},
		{"select v /* again */ from t", "two"},
	} {
		if got := text(t, db, c.sql); got != c.want {
			t.Errorf("%s: %s, want %s", c.sql, got, c.want)
		}
	}
	_, err := db.Query("select v from t")
	mismatch(t, err, replay.UsedUp)
	_, err = db.Query("select 'X'")
	mismatch(t, err, replay.SQLDiffers)
	_, err = db.Exec("vacuum analyze")
	mismatch(t, err, replay.NotRecorded)
}

func TestMismatchIsFinal(t *testing.T) {
	db := open(t, fixture(t, query("select 1", "1")))
	_, err := db.Query("select 2")
	mismatch(t, err, replay.SQLDiffers)
	var timeout interface{ Timeout() bool }
	var temporary interface{ Temporary() bool }
	if errors.Is(err, driver.ErrBadConn) || pgconn.SafeToRetry(err) || errors.As(err, &timeout) || errors.As(err, &temporary) {
		t.Errorf("%v looks as if it could be tried again", err)
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		t.Errorf("%v is one of the server's", err)
	}
}

func TestTimes(t *testing.T) {
	path := fixture(t, `{"calls": [{"sql": "a", "times": 3}]}, {"calls": [{"sql": "b", "times": "*"}]}, {"calls": [{"sql": "c", "optional": true}]},
		{"unit": "tx", "calls": [{"do": "begin"}, {"sql": "d", "times": 2}, {"sql": "e", "optional": true}, {"sql": "f", "times": "*"}, {"do": "commit"}]}`)
	transaction := func(db *sql.DB, statements ...string) error {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		for _, s := range statements {
			if _, err := tx.Exec(s); err != nil {
				tx.Rollback()
				return err
			}
		}
		return tx.Commit()
	}
	for _, c := range []struct {
		name       string
		alone      string
		statements string
		unused     string // the statement that the error of closing names, or none
		mismatch   bool
	}{
		{"as little as possible", "aaa", "dd", "", false},
		{"much", "aaabbbbbbc", "ddeffff", "", false},
		{"too few alone", "aa", "dd", "a (made 2 times of 3)", false},
		{"too many alone", "aaaa", "", "", true},
		{"too few in a transaction", "aaa", "d", "", true},
		{"too many in a transaction", "aaa", "ddd", "", true},
		{"too many optional ones", "aaa", "ddee", "", true},
		{"no transaction", "aaa", "", "begin", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			failed := false
			err := closes(t, func(db *sql.DB) {
				for _, s := range strings.Split(c.alone, "") {
					_, err := db.Exec(s)
					failed = failed || err != nil
				}
				if c.statements != "" {
					failed = transaction(db, strings.Split(c.statements, "")...) != nil || failed
				}
			}, path)
			if failed != c.mismatch {
				t.Errorf("mismatch %t, want %t", failed, c.mismatch)
			}
			switch {
			case c.unused == "" && err != nil:
				t.Error(err)
			case c.unused != "" && (err == nil || !strings.Contains(err.Error(), c.unused)):
				t.Errorf("closing: %v, want an error about %q", err, c.unused)
			}
		})
	}
}

func TestOrder(t *testing.T) {
	path := fixture(t, query("select 'a'", "a")+`,
		{"unit": "tx", "calls": [{"do": "begin"}, {"sql": "b"}, {"sql": "c"}, {"do": "commit"}]},
		{"calls": [{"sql": "x", "times": "*"}]}, `+query("select 'd'", "d"))
	inOrder := func(db *sql.DB) error {
		text(t, db, "select 'a'")
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		exec(t, tx, "b")
		exec(t, tx, "c")
		if err := tx.Commit(); err != nil {
			return err
		}
		text(t, db, "select 'd'")
		return nil
	}
	for _, o := range []replay.Order{replay.ByUnit, replay.Strict, replay.AnyOrder} {
		if err := closes(t, func(db *sql.DB) {
			if err := inOrder(db); err != nil {
				t.Error(err)
			}
		}, path, replay.WithOrder(o)); err != nil {
			t.Errorf("order %d: %v", o, err)
		}
	}

	db := open(t, path, replay.WithOrder(replay.Strict))
	_, err := db.Query("select 'd'")
	mismatch(t, err, replay.Elsewhere)
	// It came in the place of the first, which holds up nothing any more.
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	exec(t, tx, "b")
	tx.Rollback()

	db = open(t, path)
	text(t, db, "select 'd'")
	tx, err = db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec("c")
	mismatch(t, err, replay.Elsewhere)
	if err := tx.Rollback(); err != nil {
		t.Errorf("a rollback of what failed: %v", err)
	}

	db = open(t, path, replay.WithOrder(replay.AnyOrder))
	tx, err = db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	exec(t, tx, "c")
	exec(t, db, "b")
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
	_, err = db.Exec("b")
	mismatch(t, err, replay.UsedUp)
}

// A transaction that has failed says what PostgreSQL says, whatever was recorded.
func TestAborted(t *testing.T) {
	db := open(t, fixture(t, `{"unit": "tx", "calls": [{"do": "begin"}, {"sql": "savepoint a"},
		{"do": "exec", "sql": "bad", "error": {"pg": {"severity": "ERROR", "code": "23505", "message": "twice"}}},
		{"sql": "rollback to a"}, {"sql": "good"},
		{"do": "exec", "sql": "bad", "error": {"pg": {"severity": "ERROR", "code": "23505", "message": "twice"}}}, {"do": "rollback"}]}`))
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	code := func(err error) string {
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) {
			return fmt.Sprint(err)
		}
		return pgErr.Code
	}
	exec(t, tx, "savepoint before_the_insert")
	for _, c := range []struct{ sql, code string }{
		{"bad", "23505"}, {"select 1", "25P02"}, {"rollback to before_the_insert", "<nil>"}, {"good", "<nil>"}, {"bad", "23505"}, {"good", "25P02"},
	} {
		if _, err := tx.Exec(c.sql); code(err) != c.code {
			t.Errorf("%s: %v, want %s", c.sql, err, c.code)
		}
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	if _, err := tx.Exec("good"); !errors.Is(err, sql.ErrTxDone) {
		t.Errorf("after the end: %v", err)
	}
}

// Names that a unit gives are its own affair.
func TestNames(t *testing.T) {
	path := fixture(t, `{"unit": "session", "calls": [{"sql": "savepoint sp1"}, {"sql": "SAVEPOINT sp2"}, {"sql": "release savepoint sp2"},
		{"sql": "rollback to sp1"}, {"sql": "declare cur1 cursor for select cur1 from t"}, {"sql": "fetch 10 from cur1"},
		{"sql": "update t set a = 1 where current of cur1"}, {"sql": "close cur1"},
		{"sql": "prepare stmt1 as select 1"}, {"sql": "execute stmt1(1)"}, {"sql": "deallocate stmt1"}]}`)
	err := closes(t, func(db *sql.DB) {
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, s := range []string{
			`SAVEPOINT sp0xc000123`, `savepoint "Two"`, `RELEASE SAVEPOINT "Two"`, `ROLLBACK TO SAVEPOINT SP0XC000123`,
			"DECLARE c CURSOR FOR SELECT cur1 FROM t", "FETCH 10 FROM c", "UPDATE t SET a = 1 WHERE CURRENT OF c", "CLOSE c",
			"PREPARE p AS SELECT 1", "EXECUTE p(1)", "DEALLOCATE p",
		} {
			s = strings.Replace(s, "ROLLBACK TO SAVEPOINT", "ROLLBACK TO", 1)
			exec(t, conn, s)
		}
	}, path)
	if err != nil {
		t.Error(err)
	}
	db := open(t, path)
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exec(t, conn, "savepoint a")
	exec(t, conn, "savepoint b")
	_, err = conn.ExecContext(ctx, "release savepoint a")
	mismatch(t, err, replay.SQLDiffers)
}

func TestContexts(t *testing.T) {
	path := fixture(t, `{"calls": [{"do": "exec", "sql": "slow", "error": {"context": "deadline", "text": "timeout: context deadline exceeded"}}]},
		{"calls": [{"do": "exec", "sql": "cut", "error": {"context": "canceled"}}]}, {"calls": [{"sql": "a"}]},
		{"calls": [{"do": "query", "sql": "rows", "cols": ["n int4"], "rows": [[1], [2]], "rows_error": {"context": "canceled"}}]}`)
	synctest.Test(t, func(t *testing.T) {
		db := open(t, path)
		begun := time.Now()
		timeout, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if _, err := db.ExecContext(timeout, "slow"); !errors.Is(err, context.DeadlineExceeded) || err.Error() != "timeout: context deadline exceeded" {
			t.Errorf("slow: %v", err)
		}
		if d := time.Since(begun); d != 3*time.Second {
			t.Errorf("the deadline came after %v", d)
		}

		cancelled, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Minute/10, cancel)
		if _, err := db.ExecContext(cancelled, "cut"); err != context.Canceled {
			t.Errorf("cut: %v", err)
		}
		if d := time.Since(begun); d != 9*time.Second {
			t.Errorf("the cancellation came after %v", d)
		}
		if _, err := db.ExecContext(cancelled, "a"); err != context.Canceled {
			t.Errorf("too late: %v", err)
		}
		exec(t, db, "a") // is still there

		cancelled, cancel = context.WithCancel(ctx)
		rows, err := db.QueryContext(cancelled, "rows")
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, cancel)
		n := 0
		for rows.Next() {
			n++
		}
		if err := rows.Err(); n != 2 || err != context.Canceled {
			t.Errorf("%d rows, %v", n, err)
		}
		if d := time.Since(begun); d != 10*time.Second {
			t.Errorf("the rows ended after %v", d)
		}
		db.Close()
	})
}

// A call that ends with its context may or may not have got as far as the driver.
func TestContextOptional(t *testing.T) {
	err := closes(t, func(db *sql.DB) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := db.ExecContext(ctx, "cut"); err != context.Canceled {
			t.Error(err)
		}
	}, fixture(t, `{"calls": [{"do": "exec", "sql": "cut", "error": {"context": "canceled"}}]}`))
	if err != nil {
		t.Error(err)
	}
}

// Nobody waits for ever for the end of a context that does not come any more.
func TestPatience(t *testing.T) {
	path := fixture(t, `{"calls": [{"do": "exec", "sql": "cut", "error": {"context": "canceled"}}]}`)
	synctest.Test(t, func(t *testing.T) {
		db := open(t, path)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if _, err := db.ExecContext(ctx, "cut"); err != context.Canceled {
			t.Error(err)
		}
		db.Close()
	})
}

func TestResultSets(t *testing.T) {
	db := open(t, fixture(t, `{"calls": [{"do": "query", "sql": "two", "results": [
		{"cols": ["a int4", "b varchar(10)"], "rows": [[1, "x"], [2, null]]},
		{"cols": ["n numeric(12,2)"], "rows": [["1.50"]], "rows_error": {"pg": {"severity": "ERROR", "code": "22012", "message": "division by zero"}}}]}]}`))
	rows, err := db.Query("two")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var seen []string
	for {
		types, err := rows.ColumnTypes()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range types {
			length, hasLength := c.Length()
			precision, scale, hasScale := c.DecimalSize()
			seen = append(seen, fmt.Sprint(c.Name(), " ", c.DatabaseTypeName(), " ", c.ScanType(), " ", length, hasLength, " ", precision, scale, hasScale))
		}
		for rows.Next() {
			values := make([]any, len(types))
			into := make([]any, len(types))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				t.Fatal(err)
			}
			seen = append(seen, fmt.Sprint(values...))
		}
		if !rows.NextResultSet() {
			break
		}
	}
	seen = append(seen, fmt.Sprint(rows.Err()))
	want := []string{
		"a INT4 int32 0 false 0 0 false", "b VARCHAR string 10 true 0 0 false", "1x", "2 <nil>",
		"n NUMERIC float64 0 false 12 2 true", "1.50", "ERROR: division by zero (SQLSTATE 22012)",
	}
	if !slices.Equal(seen, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
	}
}

// What was not read when it was recorded is not made up.
func TestNotRead(t *testing.T) {
	path := fixture(t, `{"calls": [{"sql": "many", "cols": ["n int4"], "rows": [[1]], "left": true, "times": 2}]}`)
	db := open(t, path)
	if got := text(t, db, "many"); got != "1" {
		t.Error(got)
	}
	rows, err := db.Query("many")
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
	}
	mismatch(t, rows.Err(), replay.NotRead)
}

// What a program does to what it got is its own affair.
func TestValuesNotShared(t *testing.T) {
	db := open(t, fixture(t, `{"calls": [{"sql": "b", "cols": ["b bytea"], "rows": [["\\x616263"]], "times": 2}]}`))
	for range 2 {
		rows, err := db.Query("b")
		if err != nil {
			t.Fatal(err)
		}
		var raw sql.RawBytes
		if !rows.Next() || rows.Scan(&raw) != nil || string(raw) != "abc" {
			t.Fatalf("%q", raw)
		}
		copy(raw, "XXX")
		rows.Close()
	}
}

func TestBind(t *testing.T) {
	db := open(t, fixture(t, `{"calls": [{"sql": "insert", "args": [{"bind": "id", "was": "old"}]}]},
		{"calls": [{"sql": "select", "args": [{"bind": "id", "was": "old"}], "cols": ["id text", "x text"], "rows": [["old", "older"]], "times": 2}]}`))
	exec(t, db, "insert", "new")
	_, err := db.Query("select", "newer")
	mismatch(t, err, replay.ArgumentsDiffer)
	var id, x string
	if err := db.QueryRow("select", "new").Scan(&id, &x); err != nil || id != "new" || x != "older" {
		t.Errorf("%s %s, %v", id, x, err)
	}
}

func TestPrepare(t *testing.T) {
	db := open(t, fixture(t, `{"calls": [{"do": "prepare", "sql": "select nothing", "error": {"pg": {"severity": "ERROR", "code": "42703", "message": "no column"}}}]},
		{"calls": [{"sql": "select $1, $2", "args": [1, 2], "cols": ["n int4"], "rows": [[3]], "times": 2}]}, `+query("select nothing", "something")))
	_, err := db.Prepare("select nothing")
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "42703" {
		t.Errorf("prepare: %v", err)
	}
	stmt, err := db.Prepare("select nothing")
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Close()
	if _, err := stmt.Query(1); err == nil || err.Error() != "sql: expected 0 arguments, got 1" {
		t.Error(err)
	}
	var s string
	if err := stmt.QueryRow().Scan(&s); err != nil || s != "something" {
		t.Error(s, err)
	}
	stmt, err = db.Prepare("select $1, $2")
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Close()
	if got := fmt.Sprint(stmt.QueryRow(1).Scan(new(int))); got != "sql: expected 2 arguments, got 1" {
		t.Error(got)
	}
	for range 2 {
		if err := stmt.QueryRow(1, 2).Scan(new(int)); err != nil {
			t.Error(err)
		}
	}
}

// Goroutines with transactions of their own, on a pool of whatever size.
func TestGoroutines(t *testing.T) {
	var units []string
	for i := range 20 {
		units = append(units, fmt.Sprintf(`{"unit": "tx", "calls": [{"do": "begin"}, {"sql": "common"}, {"sql": "own", "args": [%d]},
			{"sql": "select", "cols": ["n int8"], "rows": [[%[1]d]]}, {"do": "commit"}]}`, i))
	}
	path := fixture(t, strings.Join(units, ","))
	for size := range 8 {
		err := closes(t, func(db *sql.DB) {
			db.SetMaxOpenConns(size)
			db.SetMaxIdleConns(size / 2)
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					tx, err := db.BeginTx(ctx, nil)
					if err != nil {
						t.Error(err)
						return
					}
					defer tx.Rollback()
					var n int
					_, err1 := tx.Exec("common")
					_, err2 := tx.Exec("own", i)
					err3 := tx.QueryRow("select").Scan(&n)
					if err := errors.Join(err1, err2, err3, tx.Commit()); err != nil || n != i {
						t.Errorf("%d, want %d; %v", n, i, err)
					}
				})
			}
			wg.Wait()
		}, path)
		if err != nil {
			t.Errorf("%d connections: %v", size, err)
		}
	}
}

// A rawCall gets at the connection, as pgherd.Raw does.
type rawCall struct {
	fn  func(sqlconn.Raw) error
	err error
}

func (r *rawCall) CallRaw(c sqlconn.Raw) error { r.err = r.fn(c); return r.err }

func raw(t testing.TB, h interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}, fn func(sqlconn.Raw) error) error {
	t.Helper()
	r := &rawCall{fn: fn}
	if _, err := h.ExecContext(ctx, "raw", r); err != nil {
		t.Fatal(err)
	}
	return r.err
}

func TestCopy(t *testing.T) {
	path := fixture(t, `{"calls": [{"do": "copy in", "sql": "copy t from stdin", "copied": ["a", "b", "c"], "affected": 3}]},
		{"calls": [{"do": "copy in", "sql": "copy t from stdin", "copied": ["x"], "affected": 1}]},
		{"calls": [{"do": "copy in", "sql": "copy nowhere from stdin", "error": {"pg": {"severity": "ERROR", "code": "42P01", "message": "no table"}}}]},
		{"calls": [{"do": "copy out", "sql": "copy t to stdout", "copied": ["a", "b"], "affected": 2}]}`)
	in := func(db *sql.DB, sql string, src io.Reader) (n int64, err error) {
		err = raw(t, db, func(r sqlconn.Raw) error {
			n, err = r.CopyIn(ctx, sql, src)
			return err
		})
		return n, err
	}
	db := open(t, path)
	if n, err := in(db, "COPY t FROM STDIN", strings.NewReader("x\n")); n != 1 || err != nil {
		t.Error(n, err)
	}
	if n, err := in(db, "COPY t FROM STDIN", strings.NewReader("a\nb\nc\n")); n != 3 || err != nil {
		t.Error(n, err)
	}
	src := strings.NewReader("unread")
	if _, err := in(db, "copy nowhere from stdin", src); !strings.Contains(fmt.Sprint(err), "42P01") || src.Len() != 6 {
		t.Error(err, src.Len())
	}
	var out strings.Builder
	err := raw(t, db, func(r sqlconn.Raw) error {
		n, err := r.CopyOut(ctx, "copy t to stdout", &out)
		if n != 2 {
			t.Errorf("%d rows", n)
		}
		return err
	})
	if out.String() != "a\nb\n" || err != nil {
		t.Errorf("%q, %v", out.String(), err)
	}

	db = open(t, path)
	_, err = in(db, "copy t from stdin", strings.NewReader("a\nB\nc\n"))
	mismatch(t, err, replay.ArgumentsDiffer)
	if want := "line 2 of what was sent, -recorded +got\n     - \"b\\n\"\n     + \"B\\n\"\n"; !strings.Contains(err.Error(), want) {
		t.Errorf("%v\ndoes not contain\n%s", err, want)
	}
	_, err = in(db, "copy t from stdin", io.MultiReader(strings.NewReader("a\n"), errReader{}))
	mismatch(t, err, replay.ArgumentsDiffer)
}

type errReader struct{}

var errSource = errors.New("the source is dry")

func (errReader) Read([]byte) (int, error) { return 0, errSource }

// A source that fails is why the COPY did.
func TestCopySourceFails(t *testing.T) {
	db := open(t, fixture(t, `{"calls": [{"do": "copy in", "sql": "copy t from stdin", "copied": ["a"], "error": {"text": "COPY: dry"}}]}`))
	err := raw(t, db, func(r sqlconn.Raw) error {
		_, err := r.CopyIn(ctx, "copy t from stdin", io.MultiReader(strings.NewReader("a\n"), errReader{}))
		return err
	})
	if !errors.Is(err, errSource) {
		t.Error(err)
	}
}

func TestNotifications(t *testing.T) {
	path := fixture(t, `{"unit": "session", "calls": [{"do": "listen", "channel": "c"},
		{"do": "wait", "notification": {"channel": "c", "payload": "1"}}, {"sql": "between"},
		{"do": "wait", "notification": {"channel": "c", "payload": "2"}}]}`)
	synctest.Test(t, func(t *testing.T) {
		db := open(t, path)
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		defer conn.Close()
		var seen []string
		wait := func(r sqlconn.Raw) {
			begun := time.Now()
			timeout, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			n, err := r.WaitForNotification(timeout)
			if n == nil {
				n = new(pgconn.Notification)
			}
			seen = append(seen, fmt.Sprint(n.Channel, n.Payload, " ", err, " ", time.Since(begun)))
		}
		err = raw(t, conn, func(r sqlconn.Raw) error {
			if err := r.Listen(ctx, "c"); err != nil {
				return err
			}
			wait(r)
			wait(r)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		exec(t, conn, "between")
		raw(t, conn, func(r sqlconn.Raw) error { wait(r); wait(r); return nil })
		want := []string{"c1 <nil> 0s", " context deadline exceeded 1h0m0s", "c2 <nil> 0s", " context deadline exceeded 1h0m0s"}
		if !reflect.DeepEqual(seen, want) {
			t.Errorf("%q, want %q", seen, want)
		}
		err = raw(t, conn, func(r sqlconn.Raw) error { _, err := r.WaitForNotification(ctx); return err })
		mismatch(t, err, replay.UsedUp)
	})
}

// A Served is given to whoever wants to know what ran where.
func TestOnCall(t *testing.T) {
	path := fixture(t, `{"role": "replica", "reason": "read", "calls": [{"sql": "select 1", "lag": "2s"}]}, {"role": "primary", "reason": "write", "calls": [{"sql": "insert"}]}`)
	var seen []string
	db := open(t, path, replay.OnCall(func(c *replay.Call) {
		seen = append(seen, fmt.Sprint(c.SQL, " ", c.Served))
	}))
	exec(t, db, "insert")
	exec(t, db, "select 1")
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if want := []string{"insert {primary write 0s}", "select 1 {replica read 2s}"}; !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
}
