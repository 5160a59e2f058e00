package pgherd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/internal/racedetector"
)

var copyRows = flag.Int("copy.rows", 20_000, "how many rows TestCopyFormats copies in each format")

// copyDB returns a database with a table of sheep for what COPY does, and a handle
// with a single physical connection on each server: that it is kept shows at
// once.
func copyDB(t testing.TB, params ...string) *sql.DB {
	t.Helper()
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN(), append(params, "pool_max_conns=1")...)
	mustExec(t, db, `create table sheep (id bigint, name text, wool float8, born timestamptz)`)
	return db
}

// sheepCSV returns n lines of sheep.
func sheepCSV(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "%d,\"sheep, %d\",%d.25,2024-02-29 12:00:00.%06d+00\n", i, i, i%100, i)
	}
	return b.Bytes()
}

// backend is the process that serves db's primary connection.
func backend(t testing.TB, db queryer) int {
	t.Helper()
	var pid int
	if err := db.QueryRowContext(pgherd.WithPrimary(t.Context()), "select pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestCopyFormats copies rows in and out in every format; what comes out of the
// copy of a copy must be what went in, to the byte.
func TestCopyFormats(t *testing.T) {
	n := int64(*copyRows)
	db := copyDB(t)
	ctx := t.Context()
	checksum := "select md5(string_agg(sheep::text, ',' order by id)) from sheep"
	if rows, err := pgherd.CopyIn(ctx, db, "copy sheep from stdin (format csv)", bytes.NewReader(sheepCSV(*copyRows))); err != nil || rows != n {
		t.Fatalf("%d rows, err %v", rows, err)
	}
	want := get[string](t, db, checksum)
	for _, format := range []string{"text", "csv", "binary"} {
		t.Run(format, func(t *testing.T) {
			var first bytes.Buffer
			out := fmt.Sprintf("copy (select * from sheep order by id) to stdout (format %s)", format)
			if rows, err := pgherd.CopyOut(ctx, db, out, &first); err != nil || rows != n {
				t.Fatalf("%d rows, err %v", rows, err)
			}
			mustExec(t, db, "truncate sheep")
			in := fmt.Sprintf("copy sheep from stdin (format %s)", format)
			// A reader that gives little at a time, and no EOF with the last of it.
			src := io.LimitReader(bytes.NewReader(first.Bytes()), int64(first.Len()))
			if rows, err := pgherd.CopyIn(ctx, db, in, src); err != nil || rows != n {
				t.Fatalf("%d rows, err %v", rows, err)
			}
			if got := get[string](t, db, checksum); got != want {
				t.Errorf("the table has changed on its way: %s, want %s", got, want)
			}
			second := sha256.New()
			if _, err := pgherd.CopyOut(ctx, db, out, second); err != nil {
				t.Fatal(err)
			}
			if want := sha256.Sum256(first.Bytes()); !bytes.Equal(second.Sum(nil), want[:]) {
				t.Error("the second copy out differs from the first")
			}
		})
	}
}

// failing fails after some data.
type failing struct {
	io.Reader
	err error
}

func (r *failing) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		err = r.err
	}
	return n, err
}

var errSource = errors.New("the source is dry")

// blocking returns a reader that gives some lines, calls when, and then blocks
// until the end of the test.
func blocking(t testing.TB, lines int, when func()) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { r.Close() })
	go func() {
		w.Write(sheepCSV(lines))
		when()
	}()
	return r
}

type panicking struct{ io.Reader }

func (r panicking) Read(p []byte) (int, error) {
	if n, err := r.Reader.Read(p); err != io.EOF {
		return n, err
	}
	panic(errSource)
}

// TestFailedCopyIn checks for each way in which a COPY fails that the error says
// why, that nothing is in the table, and that the connection is as good as before.
func TestFailedCopyIn(t *testing.T) {
	db := copyDB(t)
	pid := backend(t, db)
	const into = "copy sheep from stdin (format csv)"
	many := func(more string) io.Reader {
		return io.MultiReader(bytes.NewReader(sheepCSV(10_000)), strings.NewReader(more))
	}
	for _, c := range []struct {
		name  string
		sql   string
		src   func(t *testing.T, end func()) io.Reader // end ends the context
		check func(t *testing.T, err error)
		reads bool // the source is read
	}{
		{"the source fails", into, func(*testing.T, func()) io.Reader { return &failing{many(""), errSource} }, func(t *testing.T, err error) {
			var ce *pgherd.CopyError
			if !errors.Is(err, errSource) || !errors.As(err, &ce) {
				t.Errorf("err %v", err)
			}
		}, true},
		{"the source is cut short", into, func(*testing.T, func()) io.Reader { return &failing{many(""), io.ErrUnexpectedEOF} }, func(t *testing.T, err error) {
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("err %v", err)
			}
		}, true},
		{"the source blocks until the end of the context", into, func(t *testing.T, end func()) io.Reader { return blocking(t, 10, end) }, func(t *testing.T, err error) {
			var pgErr *pgconn.PgError
			if !errors.Is(err, context.Canceled) || !errors.As(err, &pgErr) {
				t.Errorf("err %v", err)
			}
		}, true},
		{"the server refuses while the source blocks", into, func(t *testing.T, _ func()) io.Reader {
			return io.MultiReader(strings.NewReader(strings.Repeat("1,a,1,2024-02-29\n", 4000)+"x,b,1,2024-02-29\n"+strings.Repeat("1,a,1,2024-02-29\n", 4000)), blocking(t, 0, func() {}))
		}, func(t *testing.T, err error) {
			var ce *pgherd.CopyError
			if !errors.As(err, &ce) || ce.Line != 4001 || ce.Column != "id" {
				t.Errorf("err %v, want one of line 4001, column id", err)
			}
		}, true},
		{"a value does not fit", into, func(*testing.T, func()) io.Reader { return many("10001,late,much,2024-02-29\n") }, func(t *testing.T, err error) {
			var ce *pgherd.CopyError
			var pgErr *pgconn.PgError
			if !errors.As(err, &ce) || ce.Line != 10001 || ce.Column != "wool" || !errors.As(err, &pgErr) || pgErr.Code != "22P02" {
				t.Errorf("err %v, want 22P02 of line 10001, column wool", err)
			}
		}, true},
		{"a row is too short", into, func(*testing.T, func()) io.Reader { return many("10001,late\n") }, func(t *testing.T, err error) {
			var ce *pgherd.CopyError
			if !errors.As(err, &ce) || ce.Line != 10001 || !strings.Contains(err.Error(), `missing data for column "wool"`) {
				t.Errorf("err %v, want one of line 10001", err)
			}
		}, true},
		{"there is no such table", "copy goats from stdin", func(t *testing.T, _ func()) io.Reader { return unread{t} }, func(t *testing.T, err error) {
			var pgErr *pgconn.PgError
			if !errors.As(err, &pgErr) || pgErr.Code != "42P01" {
				t.Errorf("err %v, want 42P01", err)
			}
		}, false},
		{"the text is a query", "select 1", func(t *testing.T, _ func()) io.Reader { return unread{t} }, func(t *testing.T, err error) {
			if err == nil || !strings.Contains(err.Error(), "COPY") {
				t.Errorf("err %v", err)
			}
		}, false},
		{"the text is a COPY out", "copy sheep to stdout", func(t *testing.T, _ func()) io.Reader { return unread{t} }, func(t *testing.T, err error) {
			if err == nil || !strings.Contains(err.Error(), "COPY") {
				t.Errorf("err %v", err)
			}
		}, false},
		{"the text is two statements", "copy sheep from stdin; truncate sheep", func(t *testing.T, _ func()) io.Reader { return unread{t} }, func(t *testing.T, err error) {
			if err == nil || !strings.Contains(err.Error(), "COPY") {
				t.Errorf("err %v", err)
			}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			rows, err := pgherd.CopyIn(ctx, db, c.sql, c.src(t, cancel))
			if rows != 0 {
				t.Errorf("%d rows are said to be stored", rows)
			}
			c.check(t, err)
			if errors.Is(err, driver.ErrBadConn) {
				t.Errorf("database/sql would act on err %v", err)
			}
			if n := get[int](t, db, "select count(*) from sheep"); n != 0 {
				t.Errorf("%d rows are in the table", n)
			}
			if now := backend(t, db); now != pid {
				t.Errorf("the connection was lost")
			}
		})
	}
}

// unread must not be read.
type unread struct{ t *testing.T }

func (r unread) Read([]byte) (int, error) {
	r.t.Error("the source was read")
	return 0, io.EOF
}

// TestCopyPanics checks that a panic of the source reaches the caller once the
// server has undone the COPY.
func TestCopyPanics(t *testing.T) {
	db := copyDB(t)
	pid := backend(t, db)
	func() {
		defer func() {
			if v := recover(); v != errSource {
				t.Errorf("recovered %v", v)
			}
		}()
		pgherd.CopyIn(t.Context(), db, "copy sheep from stdin (format csv)", panicking{bytes.NewReader(sheepCSV(100))})
	}()
	if n := get[int](t, db, "select count(*) from sheep"); n != 0 {
		t.Errorf("%d rows are in the table", n)
	}
	if now := backend(t, db); now != pid {
		t.Error("the connection was lost")
	}
}

// refusing takes so much and no more.
type refusing struct{ left int }

func (w *refusing) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errSource
	}
	return len(p), nil
}

// rounds is n, a half of it where the race detector makes them slow, or what the
// environment says for a thorough look.
func rounds(n int) int {
	if more, err := strconv.Atoi(os.Getenv("PGHERD_TEST_ROUNDS")); err == nil {
		return more
	}
	if racedetector.Enabled {
		return n / 2
	}
	return n
}

// TestRefusedCopyOut stops a large COPY many times, and looks at the connection
// after each: it is the same, unless the machine is too busy for an answer in
// time, and no cancellation is left for what runs next.
func TestRefusedCopyOut(t *testing.T) {
	db := copyDB(t)
	ctx := pgherd.WithPrimary(t.Context())
	pid := backend(t, db)
	all, lost := rounds(50), 0
	for i := range all {
		n := 300_000
		if i%4 == 3 {
			n = 20_000 // it may be complete before it can be cancelled
		}
		_, err := pgherd.CopyOut(ctx, db, fmt.Sprintf("copy (select generate_series(1, %d), 'some text') to stdout", n), &refusing{i % 200 * 1000})
		var ce *pgherd.CopyError
		if !errors.Is(err, errSource) || !errors.As(err, &ce) {
			t.Fatalf("round %d: err %v", i, err)
		}
		if now := backend(t, db); now != pid {
			pid = now
			lost++
		}
	}
	if lost > all/5 {
		t.Errorf("%d of %d refusals cost a connection", lost, all)
	}
}

// TestCancelledCopies ends contexts at all times of a COPY. Either it fails and
// nothing is stored, or all is.
func TestCancelledCopies(t *testing.T) {
	db := copyDB(t)
	pid := backend(t, db)
	const n = 2000
	data := sheepCSV(n)
	done, lost := 0, 0
	all := rounds(50)
	for i := range all {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Duration(i%20) * 300 * time.Microsecond)
			cancel()
		}()
		rows, err := pgherd.CopyIn(ctx, db, "copy sheep from stdin (format csv)", bytes.NewReader(data))
		cancel()
		if err == nil {
			done++
		} else if !errors.Is(err, context.Canceled) {
			t.Fatalf("round %d: err %v", i, err)
		}
		if (err == nil) != (rows == n) {
			t.Fatalf("round %d: %d rows, err %v", i, rows, err)
		}
		if stored := get[int](t, db, "select count(*) from sheep"); stored != done*n {
			t.Fatalf("round %d: %d rows are in the table after %d copies of %d, the last with err %v", i, stored, done, n, err)
		}
		if now := backend(t, db); now != pid {
			pid = now
			lost++
		}
	}
	t.Logf("%d of %d were complete; %d cost a connection", done, all, lost)
	if lost > all/5 { // a busy machine may not answer a cancellation in time
		t.Error("cancellations cost connections")
	}
}
