package pgherd_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/internal/sqlconn"
	"github.com/pgherd/pgherd/routing"
)

// A between is a connector that stands above another one, as a recorder does, and
// notes what passes to connections.
type between struct {
	driver.Connector

	mu    sync.Mutex
	calls []string // guarded by mu
}

func (b *between) note(call string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, call)
}

// take returns the calls since it was last called.
func (b *between) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	calls := b.calls
	b.calls = nil
	return calls
}

func (b *between) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := b.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &betweenConn{c.(*pgherd.Conn), b}, nil
}

// A betweenConn is one of its connections. It is no *pgherd.Conn.
type betweenConn struct {
	herdConn
	b *between
}

type herdConn interface {
	sqlconn.Conn
	sqlconn.Raw
	sqlconn.Router
	driver.SessionResetter
	driver.Validator
}

func (c *betweenConn) Unwrap() driver.Conn { return c.herdConn }

func (c *betweenConn) enterRaw(args []driver.NamedValue) (driver.Result, error) {
	args[0].Value.(sqlconn.RawCaller).CallRaw(c)
	return driver.ResultNoRows, nil
}

func (c *betweenConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if query == sqlconn.RawText {
		return c.enterRaw(args)
	}
	c.b.note(query)
	return c.herdConn.ExecContext(ctx, query, args)
}

func (c *betweenConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.b.note(query)
	return c.herdConn.QueryContext(ctx, query, args)
}

func (c *betweenConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if query == sqlconn.RawText {
		return betweenStmt{c}, nil
	}
	return c.herdConn.PrepareContext(ctx, query)
}

type betweenStmt struct{ c *betweenConn }

func (s betweenStmt) Close() error                               { return nil }
func (s betweenStmt) NumInput() int                              { return 1 }
func (s betweenStmt) Exec([]driver.Value) (driver.Result, error) { return nil, driver.ErrSkip }
func (s betweenStmt) Query([]driver.Value) (driver.Rows, error)  { return nil, driver.ErrSkip }
func (s betweenStmt) ExecContext(_ context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.c.enterRaw(args)
}

func (c *betweenConn) CopyIn(ctx context.Context, sql string, src io.Reader) (int64, error) {
	var data strings.Builder
	n, err := c.herdConn.CopyIn(ctx, sql, io.TeeReader(src, &data))
	c.b.note(sql + "\n" + data.String())
	return n, err
}

func (c *betweenConn) CopyOut(ctx context.Context, sql string, dst io.Writer) (int64, error) {
	c.b.note(sql)
	return c.herdConn.CopyOut(ctx, sql, dst)
}

func (c *betweenConn) Listen(ctx context.Context, channel string) error {
	c.b.note("listen " + channel)
	return c.herdConn.Listen(ctx, channel)
}

func (c *betweenConn) Unlisten(ctx context.Context, channel string) error {
	c.b.note("unlisten " + channel)
	return c.herdConn.Unlisten(ctx, channel)
}

func (c *betweenConn) WaitForNotification(ctx context.Context) (*pgconn.Notification, error) {
	c.b.note("wait")
	return c.herdConn.WaitForNotification(ctx)
}

// openBetween returns a handle that stands above db, whose herd it uses.
func openBetween(t testing.TB, db *sql.DB) (*sql.DB, *between) {
	t.Helper()
	herd, err := pgherd.FromDB(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	b := &between{Connector: herd}
	over := sql.OpenDB(b)
	t.Cleanup(func() { over.Close() })
	return over, b
}

// overBoth runs a test on a handle of the herd, and on one that stands above it.
func overBoth(t *testing.T, open func(testing.TB) *sql.DB, test func(*testing.T, *sql.DB)) {
	t.Run("herd", func(t *testing.T) { test(t, open(t)) })
	t.Run("between", func(t *testing.T) {
		db, _ := openBetween(t, open(t))
		test(t, db)
	})
}

// TestWhatIsRecorded shows what a driver that stands above the herd sees of what
// database/sql has no call for.
func TestWhatIsRecorded(t *testing.T) {
	below := copyDB(t)
	mustExec(t, below, "alter table sheep add primary key (id), add mark int generated always as (7) stored")
	db, b := openBetween(t, below)
	ctx := t.Context()
	sheep := pgx.Identifier{"sheep"}
	born := time.Date(2024, 2, 29, 23, 30, 0, 0, time.FixedZone("farm", 2*60*60))
	type row struct {
		ID   int64
		Name *string
		Born time.Time
	}
	name := "a\tb"
	rows := []row{{1, &name, born}, {2, nil, born}}

	for _, c := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"CopyRows", func() error {
			_, err := pgherd.CopyRows[row](ctx, db, sheep, nil, rows)
			return err
		}, []string{
			`SELECT "id", "name", "born" FROM "sheep" WHERE false`,
			`COPY "sheep" ("id", "name", "born") FROM STDIN` + "\n" + `1	a\tb	2024-02-29 21:30:00Z` + "\n" + `2	\N	2024-02-29 21:30:00Z` + "\n",
		}},
		{"CopyWrite to all columns", func() error {
			_, err := pgherd.CopyWrite(ctx, db, sheep, nil, func(w *pgherd.RowWriter) error {
				w.Int8(3)
				w.Text("c")
				w.Float8(0.5)
				w.Null()
				return w.EndRow()
			})
			return err
		}, []string{
			`SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = $1::text::pg_catalog.regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum`,
			`SELECT "id", "name", "wool", "born" FROM "sheep" WHERE false`,
			`COPY "sheep" FROM STDIN` + "\n" + `3	c	0.5	\N` + "\n",
		}},
		{"BatchInsertReturning", func() error {
			ids, err := pgherd.BatchInsertReturning[row, int64](ctx, db, sheep, []string{"id"}, rows, &pgherd.Batch{Conflict: &pgherd.Conflict{}})
			if len(ids) != 0 {
				t.Errorf("inserted %v, which are there", ids)
			}
			return err
		}, []string{
			`SELECT "id", "name", "born" FROM "sheep" WHERE false`,
			`CREATE TEMPORARY TABLE pgherd_batch AS SELECT "id", "name", "born" FROM "sheep" WHERE false`,
			`COPY pg_temp."pgherd_batch" ("id", "name", "born") FROM STDIN` + "\n" + `1	a\tb	2024-02-29 21:30:00Z` + "\n" + `2	\N	2024-02-29 21:30:00Z` + "\n",
			`INSERT INTO "sheep" ("id", "name", "born") SELECT "id", "name", "born" FROM (SELECT "id", "name", "born" FROM pg_temp."pgherd_batch") AS r ("id", "name", "born") ON CONFLICT DO NOTHING RETURNING "id"`,
			`DROP TABLE pg_temp."pgherd_batch"`,
		}},
		{"CopyOut", func() error {
			var out strings.Builder
			_, err := pgherd.CopyOut(ctx, db, "copy (select 1) to stdout", &out)
			if out.String() != "1\n" {
				t.Errorf("got %q", out.String())
			}
			return err
		}, []string{"copy (select 1) to stdout"}},
		{"Listen", func() error {
			return pgherd.Raw(ctx, db, func(cn *pgherd.Conn) error {
				if err := cn.Listen(ctx, "News"); err != nil {
					return err
				}
				if _, err := cn.ExecContext(ctx, "select pg_notify('News', 'x')", nil); err != nil {
					return err
				}
				n, err := cn.WaitForNotification(ctx)
				if err == nil && (n.Channel != "News" || n.Payload != "x") {
					t.Errorf("got %+v", n)
				}
				if route, ok := cn.LastRoute(); !ok || route.Role != "primary" || route.Reason != "pinned" {
					t.Errorf("waited on %+v", route)
				}
				return errors.Join(err, cn.Unlisten(ctx, "News"))
			})
		}, []string{"listen News", "select pg_notify('News', 'x')", "wait", "unlisten News"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.take()
			if err := c.do(); err != nil {
				t.Error(err)
			}
			if got := b.take(); !slices.Equal(got, c.want) {
				t.Errorf("got:\n%q\nwant:\n%q", got, c.want)
			}
		})
	}
}

// TestFailedCopyAbove holds the errors of a COPY to what they are without the
// driver above.
func TestFailedCopyAbove(t *testing.T) {
	db, _ := openBetween(t, copyDB(t))
	ctx := t.Context()
	var ce *pgherd.CopyError
	_, err := pgherd.CopyIn(ctx, db, "copy sheep from stdin (format csv)", &failing{strings.NewReader("1,a,1,2024-01-01\n"), errSource})
	if !errors.As(err, &ce) || !errors.Is(err, errSource) {
		t.Errorf("a source that fails: %v", err)
	}
	_, err = pgherd.CopyIn(ctx, db, "copy sheep from stdin (format csv)", strings.NewReader("1,a,1,2024-01-01\nx,b,1,2024-01-01\n"))
	if !errors.As(err, &ce) || ce.Line != 2 || ce.Column != "id" {
		t.Errorf("a line that is none: %v", err)
	}
	_, err = pgherd.CopyIn(ctx, db, "copy wolves from stdin", strings.NewReader("1\n"))
	if err == nil || errors.As(err, &ce) {
		t.Errorf("no such table: %v", err)
	}
	_, err = pgherd.CopyOut(ctx, db, "copy (select 1) to stdout", &failingWriter{errSource})
	if !errors.As(err, &ce) || !errors.Is(err, errSource) {
		t.Errorf("a receiver that fails: %v", err)
	}
	_, err = pgherd.CopyRows[int64](ctx, db, pgx.Identifier{"sheep"}, []string{"name"}, []int64{1})
	if !errors.As(err, &ce) || ce.Row != 1 || ce.Column != "name" {
		t.Errorf("a number as a name: %v", err)
	}
	func() {
		defer func() {
			if v := recover(); v != "no more" {
				t.Errorf("recovered %v", v)
			}
		}()
		pgherd.CopyWrite(ctx, db, pgx.Identifier{"sheep"}, nil, func(*pgherd.RowWriter) error { panic("no more") })
	}()
	if n := get[int](t, db, "select count(*) from sheep"); n != 0 {
		t.Errorf("%d rows are stored", n)
	}
}

type failingWriter struct{ err error }

func (w *failingWriter) Write([]byte) (int, error) { return 0, w.err }

// An answering is a connection that is of no herd, and knows one answer.
type answering struct {
	herdConn // none
	err      error
}

func (a answering) CopyIn(_ context.Context, _ string, src io.Reader) (int64, error) {
	n, _ := io.Copy(io.Discard, src)
	return n, a.err
}

// raw calls fn as a driver does in whose place a is.
func (a answering) raw(t *testing.T, fn func(*pgherd.Conn) error) error {
	t.Helper()
	return pgherd.Raw(t.Context(), answeringHandle{a}, fn)
}

type answeringHandle struct{ c answering }

func (h answeringHandle) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	if query != sqlconn.RawText {
		return nil, errors.New("not asked for")
	}
	args[0].(sqlconn.RawCaller).CallRaw(h.c)
	return driver.ResultNoRows, nil
}

// TestRawWithoutHerd has a driver answer that has no server: an error that was
// recorded comes back as it was.
func TestRawWithoutHerd(t *testing.T) {
	refused := &pgconn.PgError{Severity: "ERROR", Code: "22P02", Message: "invalid", Where: "COPY sheep, line 2, column id: \"x\""}
	copyIn := func(a answering, src io.Reader) error {
		return a.raw(t, func(cn *pgherd.Conn) error {
			_, err := cn.CopyIn(t.Context(), "copy sheep from stdin", src)
			return err
		})
	}
	var ce *pgherd.CopyError
	if err := copyIn(answering{err: refused}, strings.NewReader("1\nx\n")); !errors.As(err, &ce) || ce.Line != 2 || ce.Column != "id" || !errors.Is(err, refused) {
		t.Errorf("a line that was refused: %v", err)
	}
	told := &pgconn.PgError{Severity: "ERROR", Code: "57014", Message: "COPY from stdin failed"}
	if err := copyIn(answering{err: told}, &failing{strings.NewReader("1\n"), errSource}); !errors.As(err, &ce) || !errors.Is(err, errSource) {
		t.Errorf("a source that failed: %v", err)
	}
	mismatch := errors.New("no recording")
	if err := copyIn(answering{err: mismatch}, strings.NewReader("1\n")); err != mismatch {
		t.Errorf("a call that was not recorded: %v", err)
	}
	err := answering{}.raw(t, func(cn *pgherd.Conn) error {
		return cn.PgxConn(t.Context(), routing.Primary, func(*pgx.Conn) error {
			t.Error("called")
			return nil
		})
	})
	if err == nil || !strings.Contains(err.Error(), "neither recorded nor replayed") {
		t.Errorf("PgxConn: %v", err)
	}
}

// TestListenerIsNotRecorded has Listen refuse what it would get past a recorder.
func TestListenerIsNotRecorded(t *testing.T) {
	db, _ := openBetween(t, openDB(t, sharedHerd(t).CreateDatabase(t).DSN()))
	_, err := pgherd.Listen(t.Context(), db, pgherd.ListenerOptions{})
	if err == nil || !strings.Contains(err.Error(), "use Conn.Listen") {
		t.Errorf("err %v", err)
	}
	if _, err := pgherd.FromDB(t.Context(), db); err != nil {
		t.Errorf("FromDB: %v", err)
	}
}
