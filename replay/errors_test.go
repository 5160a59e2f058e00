package replay

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/pgherdtest"
)

// throughFile records err, writes it, reads it and returns what a program gets.
func throughFile(t *testing.T, err error) (file string, _ error) {
	t.Helper()
	f := &Fixture{Units: []*Unit{{Calls: []*Call{{Op: OpPing, Error: recordError(err)}}}}}
	data, _, ferr := f.Format()
	if ferr != nil {
		t.Fatal(ferr)
	}
	again, ferr := Parse(data, nil)
	if ferr != nil {
		t.Fatalf("%v\n%s", ferr, data)
	}
	return string(data), again.Units[0].Calls[0].Error.err()
}

// sameError checks that a program cannot tell got from want, but for the names that
// are replaced in it.
func sameError(t *testing.T, got, want error) {
	t.Helper()
	for _, target := range []error{context.Canceled, context.DeadlineExceeded, driver.ErrBadConn, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed,
		sql.ErrTxDone, sql.ErrConnDone, pgconn.ErrConnClosed, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE} {
		if is := errors.Is(got, target); is != errors.Is(want, target) {
			t.Errorf("%q is %v: %t", got, target, is)
		}
	}
	var a, b *pgconn.PgError
	switch isA, isB := errors.As(got, &a), errors.As(want, &b); {
	case isA != isB:
		t.Errorf("%q is an error of the server: %t", got, isA)
	case isA:
		want := *b
		want.File, want.Line, want.Routine = "", 0, ""
		if *a != want {
			t.Errorf("got  %+v\nwant %+v", *a, want)
		}
	}
	var netA, netB net.Error
	if timeoutA, timeoutB := errors.As(got, &netA) && netA.Timeout(), errors.As(want, &netB) && netB.Timeout(); timeoutA != timeoutB {
		t.Errorf("%q timed out: %t", got, timeoutA)
	}
	if safe := pgconn.SafeToRetry(got); safe != pgconn.SafeToRetry(want) {
		t.Errorf("%q is safe to retry: %t", got, safe)
	}
}

// unsent is an error before anything was sent, as pgconn marks it.
type unsent struct{ error }

func (unsent) SafeToRetry() bool { return true }

func TestErrors(t *testing.T) {
	pgErr := &pgconn.PgError{
		Severity: "FEHLER", SeverityUnlocalized: "ERROR", Code: "23505", Message: "no 10.0.0.1:5432", Detail: "Key (ip)=(10.0.0.1) exists", Hint: "h",
		Position: 1, InternalPosition: 2, InternalQuery: "q", Where: "w", SchemaName: "s", TableName: "t", ColumnName: "c", DataTypeName: "d", ConstraintName: "k",
		File: "f.c", Line: 3, Routine: "r",
	}
	for _, err := range []error{
		pgErr,
		fmt.Errorf("pgherd: read on replica1: %w", pgErr),
		fmt.Errorf("a: %w", fmt.Errorf("b: %w; %w", pgErr, context.Canceled)),
		context.Canceled, context.DeadlineExceeded, driver.ErrBadConn, io.ErrUnexpectedEOF, sql.ErrTxDone,
		fmt.Errorf("timeout: %w", context.DeadlineExceeded),
		fmt.Errorf("broke: %w", driver.ErrBadConn),
		errors.New("any other"), errors.New(""), errors.New("not \xff UTF-8"),
		fmt.Errorf("read failed: %w", syscall.ECONNRESET),
		errors.Join(io.EOF, pgconn.ErrConnClosed),
		unsent{errors.New("not sent")},
		&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded},
	} {
		_, got := throughFile(t, err)
		if got.Error() != err.Error() {
			t.Errorf("got %q, want %q", got, err)
		}
		sameError(t, got, err)
	}
	// The very same, for those who compare.
	for _, err := range []error{context.Canceled, context.DeadlineExceeded, driver.ErrBadConn, io.EOF} {
		if _, got := throughFile(t, err); got != err {
			t.Errorf("got %#v, want %#v itself", got, err)
		}
	}
	if file, got := throughFile(t, pgErr); strings.Contains(file, "f.c") {
		t.Errorf("the file tells where in the server:\n%s", file)
	} else if _, ok := got.(*pgconn.PgError); !ok {
		t.Errorf("got a %T, which no type assertion finds", got)
	}
	if recordError(nil) != nil || (*Error)(nil).err() != nil {
		t.Error("no error is one")
	}
	e := recordError(pgErr)
	e.err().(*pgconn.PgError).Message = "changed"
	if e.err().Error() != pgErr.Error() {
		t.Error("a program has changed the recording")
	}
}

// TestErrorsLive records what pgx and a server say, and finds no name in it.
func TestErrorsLive(t *testing.T) {
	herd := pgherdtest.Start(t, pgherdtest.Replicas(0))
	dsn := herd.Primary().DSN()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	config.Database = "postgres"
	db := stdlib.OpenDB(*config)
	defer db.Close()
	ctx := t.Context()
	exec := func(ctx context.Context, query string, args ...any) error {
		t.Helper()
		_, err := db.ExecContext(ctx, query, args...)
		if err == nil {
			t.Fatalf("%s: no error", query)
		}
		return err
	}
	dial := func(change func(*pgx.ConnConfig)) error {
		t.Helper()
		c := config.Copy()
		change(c)
		_, err := pgx.ConnectConfig(ctx, c)
		if err == nil {
			t.Fatal("connected")
		}
		return err
	}
	if _, err := db.ExecContext(ctx, "CREATE TABLE orders (id int CONSTRAINT orders_pkey PRIMARY KEY CHECK (id > 0)); INSERT INTO orders VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	late, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	lateDial := func() error {
		l, err := net.Listen("tcp", "127.0.0.1:0") // which says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return dial(func(c *pgx.ConnConfig) {
			c.Host, c.Port, c.ConnectTimeout, c.Fallbacks = "127.0.0.1", uint16(l.Addr().(*net.TCPAddr).Port), 50*time.Millisecond, nil
		})
	}
	for name, err := range map[string]error{
		"syntax":      exec(ctx, "SELEC 1"),
		"unique":      exec(ctx, "INSERT INTO orders VALUES (1)"),
		"check":       exec(ctx, "INSERT INTO orders VALUES ($1)", -1),
		"raise":       exec(ctx, "DO $$ BEGIN RAISE EXCEPTION 'x' USING HINT = 'h', DETAIL = 'd', COLUMN = 'c', DATATYPE = 'dt'; END $$"),
		"canceled":    exec(canceled, "SELECT 1"),
		"late":        exec(late, "SELECT pg_sleep(1)"),
		"terminated":  exec(ctx, "SELECT pg_terminate_backend(pg_backend_pid())"),
		"no role":     dial(func(c *pgx.ConnConfig) { c.User = "nosuchperson" }),
		"no database": dial(func(c *pgx.ConnConfig) { c.Database = "nosuchdatabase" }),
		"refused":     dial(func(c *pgx.ConnConfig) { c.Host, c.Port, c.Fallbacks = "127.0.0.1", 1, nil }),
		"no host":     dial(func(c *pgx.ConnConfig) { c.Host, c.Fallbacks = "nosuchhost.invalid", nil }),
		"no socket":   dial(func(c *pgx.ConnConfig) { c.Host, c.Fallbacks = "/nosuchfolder", nil }),
		"late dial":   lateDial(),
		"dsn":         func() error { _, err := pgx.ParseConfig("postgres://me:geheim@secrethost:x/db"); return err }(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Log(err)
			file, got := throughFile(t, err)
			t.Log(got)
			var connect *pgconn.ConnectError
			if !errors.As(err, &connect) && name != "dsn" {
				sameError(t, got, err)
				if got.Error() != err.Error() {
					t.Errorf("got %q, want %q", got, err)
				}
				return
			}
			var a, b *pgconn.PgError
			if errors.As(err, &a) && (!errors.As(got, &b) || a.Code != b.Code) {
				t.Errorf("%q is not %v", got, a)
			}
			for _, secret := range []string{"127.0.0.1", "nosuch", "user=" + config.User, config.Host, fmt.Sprint(config.Port), "secrethost", "geheim", "database=postgres"} {
				if strings.Contains(file, secret) {
					t.Errorf("the file tells %q:\n%s", secret, file)
				}
			}
		})
	}
}
