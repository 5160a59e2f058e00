package pgherd_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// A mockHerd is a herd of go-sqlmock handles. Each mock fails the test for a
// call that it does not expect, and at the end for one that did not come: so
// the expectations of a test are the exact conversation with each server.
type mockHerd struct {
	db            *sql.DB
	c             *pgherd.Connector
	primary, r1   sqlmock.Sqlmock
	handles       []*sql.DB
	primaryHandle *sql.DB
}

func newMockHerd(t *testing.T, change ...func(*pgherd.Config)) *mockHerd {
	t.Helper()
	h := new(mockHerd)
	open := func() (*sql.DB, sqlmock.Sqlmock) {
		db, mock, err := sqlmock.New(sqlmock.QueryMatcherOption(sqlmock.QueryMatcherEqual), sqlmock.MonitorPingsOption(true))
		if err != nil {
			t.Fatal(err)
		}
		h.handles = append(h.handles, db)
		t.Cleanup(func() {
			if err := mock.ExpectationsWereMet(); err != nil {
				t.Error(err)
			}
			mock.ExpectClose()
			db.Close()
		})
		return db, mock
	}
	var p, r *sql.DB
	p, h.primary = open()
	r, h.r1 = open()
	h.primaryHandle = p
	cfg := pgherd.NewConfig()
	for _, f := range change {
		f(cfg)
	}
	var err error
	h.c, err = pgherd.NewConnector(cfg,
		pgherd.Member{Name: "primary", DB: p, Role: routing.Primary},
		pgherd.Member{Name: "r1", DB: r, Role: routing.Replica},
	)
	if err != nil {
		t.Fatal(err)
	}
	h.db = sql.OpenDB(h.c)
	t.Cleanup(func() { h.db.Close() })
	return h
}

func one() *sqlmock.Rows { return sqlmock.NewRows([]string{"n"}).AddRow(1) }

func (h *mockHerd) mustRead(t *testing.T, ctx context.Context, query string, args ...any) {
	t.Helper()
	var n int
	if err := h.db.QueryRowContext(ctx, query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func TestMockReadsAndWrites(t *testing.T) {
	h := newMockHerd(t)
	ctx := t.Context()
	h.r1.ExpectQuery("select n from t where id = $1").WithArgs(7).WillReturnRows(one())
	h.primary.ExpectExec("insert into t values ($1)").WithArgs(8).WillReturnResult(driver.RowsAffected(1))
	h.primary.ExpectQuery("insert into t values (9) returning n").WillReturnRows(one())
	h.primary.ExpectQuery("select n from t for update").WillReturnRows(one())
	h.primary.ExpectQuery("select my_function()").WillReturnRows(one())

	h.mustRead(t, ctx, "select n from t where id = $1", 7)
	res, err := h.db.ExecContext(ctx, "insert into t values ($1)", 8)
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := res.RowsAffected(); n != 1 {
		t.Errorf("RowsAffected = %d, want 1", n)
	}
	h.mustRead(t, ctx, "insert into t values (9) returning n")
	h.mustRead(t, ctx, "select n from t for update")
	h.mustRead(t, ctx, "select my_function()")
}

func TestMockHints(t *testing.T) {
	h := newMockHerd(t, func(c *pgherd.Config) { c.ReadPreference = routing.OnlyPrimary })
	h.primary.ExpectQuery("select 1").WillReturnRows(one())
	h.r1.ExpectQuery("select 2").WillReturnRows(one())
	h.primary.ExpectExec("delete from t").WillReturnResult(driver.RowsAffected(0))

	h.mustRead(t, t.Context(), "select 1")
	h.mustRead(t, pgherd.WithReplica(t.Context()), "select 2")
	if _, err := h.db.ExecContext(pgherd.WithReplica(t.Context()), "delete from t"); err != nil {
		t.Fatal(err)
	}
}

func TestMockPrimaryHints(t *testing.T) {
	h := newMockHerd(t)
	h.primary.ExpectQuery("select 1").WillReturnRows(one())
	h.primary.ExpectQuery("/* pgherd: primary */ select 2").WillReturnRows(one())
	h.r1.ExpectQuery("select 3").WillReturnRows(one())

	h.mustRead(t, pgherd.WithPrimary(t.Context()), "select 1")
	h.mustRead(t, t.Context(), "/* pgherd: primary */ select 2")
	h.mustRead(t, t.Context(), "select 3")
}

func TestMockTransaction(t *testing.T) {
	h := newMockHerd(t)
	h.primary.ExpectBegin()
	h.primary.ExpectQuery("select 1").WillReturnRows(one())
	h.primary.ExpectExec("update t set n = 2").WillReturnResult(driver.RowsAffected(1))
	h.primary.ExpectCommit()
	h.r1.ExpectQuery("select 2").WillReturnRows(one())

	tx, err := h.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := tx.QueryRow("select 1").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("update t set n = 2"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	h.mustRead(t, t.Context(), "select 2")
	wantNothingInUse(t, h)
}

func TestMockReadOnlyTransaction(t *testing.T) {
	h := newMockHerd(t)
	h.r1.ExpectBegin()
	h.r1.ExpectQuery("select 1").WillReturnRows(one())
	h.r1.ExpectRollback()
	h.primary.ExpectBegin()
	h.primary.ExpectRollback()

	for _, o := range []sql.TxOptions{{ReadOnly: true}, {ReadOnly: true, Isolation: sql.LevelSerializable}} {
		tx, err := h.db.BeginTx(t.Context(), &o)
		if err != nil {
			t.Fatal(err)
		}
		if o.Isolation == sql.LevelDefault {
			var n int
			if err := tx.QueryRow("select 1").Scan(&n); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
	}
	wantNothingInUse(t, h)
}

// On one sql.Conn, a read after a write must see it: with replicas whose
// freshness is only believed, that is still a replica's to give.
func TestMockSessionStatePins(t *testing.T) {
	h := newMockHerd(t)
	h.primary.ExpectExec("set work_mem = '8MB'").WillReturnResult(driver.RowsAffected(0))
	h.primary.ExpectQuery("select 1").WillReturnRows(one())
	h.r1.ExpectQuery("select 2").WillReturnRows(one())

	conn, err := h.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "set work_mem = '8MB'"); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := conn.QueryRowContext(t.Context(), "select 1").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	h.mustRead(t, t.Context(), "select 2")
	wantNothingInUse(t, h)
}

func TestMockPrepared(t *testing.T) {
	h := newMockHerd(t)
	// A handle of a driver that is not pgx has no statement cache: each
	// execution prepares on the connection that it runs on.
	h.r1.ExpectPrepare("select n from t where id = $1").WillBeClosed()
	h.r1.ExpectPrepare("select n from t where id = $1").WillBeClosed().ExpectQuery().WithArgs(1).WillReturnRows(one())

	st, err := h.db.Prepare("select n from t where id = $1")
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := st.QueryRow(1).Scan(&n); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	wantNothingInUse(t, h)
}

// A read that a replica fails before its first row is asked of the primary.
func TestMockReplicaFailsQuery(t *testing.T) {
	for name, err := range map[string]error{
		"connection reset":   &net.OpError{Op: "read", Err: errors.New("connection reset by peer")},
		"eof":                io.ErrUnexpectedEOF,
		"shutdown":           &pgconn.PgError{Code: "57P01", Message: "terminating connection due to administrator command"},
		"recovery conflict":  &pgconn.PgError{Code: "40001", Message: "canceling statement due to conflict with recovery"},
		"ddl not replayed":   &pgconn.PgError{Code: "42P01", Message: `relation "t" does not exist`},
		"refused by standby": &pgconn.PgError{Code: "25006", Message: "cannot execute nextval() in a read-only transaction"},
		"unlogged table":     &pgconn.PgError{Code: "0A000", Message: "cannot access temporary or unlogged relations during recovery"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newMockHerd(t)
			h.r1.ExpectQuery("select n from t").WillReturnError(err)
			h.primary.ExpectQuery("select n from t").WillReturnRows(one())
			h.mustRead(t, t.Context(), "select n from t")
			wantNothingInUse(t, h)
		})
	}
}

// What a statement does wrong by itself is the caller's, from the first server.
func TestMockReplicaReportsError(t *testing.T) {
	for name, want := range map[string]error{
		"division by zero": &pgconn.PgError{Code: "22012", Message: "division by zero"},
		"syntax error":     &pgconn.PgError{Code: "42601", Message: "syntax error"},
		"encoding":         errors.New("failed to encode args[0]"),
	} {
		t.Run(name, func(t *testing.T) {
			h := newMockHerd(t)
			h.r1.ExpectQuery("select n from t").WillReturnError(want)
			_, err := h.db.QueryContext(t.Context(), "select n from t")
			if err != want {
				t.Errorf("err = %v, want %v itself", err, want)
			}
			wantNothingInUse(t, h)
		})
	}
}

// A standby's refusal is remembered: the second time the text goes straight to
// the primary.
func TestMockMisrouteIsRemembered(t *testing.T) {
	h := newMockHerd(t)
	refused := &pgconn.PgError{Code: "25006", Message: "cannot execute nextval() in a read-only transaction"}
	h.r1.ExpectQuery("select n from v").WillReturnError(refused)
	h.primary.ExpectQuery("select n from v").WillReturnRows(one())
	h.primary.ExpectQuery("select n from v").WillReturnRows(one())
	h.mustRead(t, t.Context(), "select n from v")
	h.mustRead(t, t.Context(), "select n from v")
	if st := h.c.Stats(); st.Misroutes != 1 {
		t.Errorf("Misroutes = %d, want 1", st.Misroutes)
	}
}

// In a read-only transaction on a replica, the refusal is the caller's.
func TestMockMisrouteInTransaction(t *testing.T) {
	h := newMockHerd(t)
	refused := &pgconn.PgError{Code: "25006", Message: "cannot execute nextval() in a read-only transaction"}
	h.r1.ExpectBegin()
	h.r1.ExpectQuery("select nextval('s')").WillReturnError(refused)
	h.r1.ExpectRollback()
	tx, err := h.db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Query("select nextval('s')"); err != error(refused) {
		t.Errorf("err = %v, want the standby's", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
}

// Once rows were delivered, an error can no longer be hidden.
func TestMockReplicaFailsMidRows(t *testing.T) {
	h := newMockHerd(t)
	broken := &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}
	h.r1.ExpectQuery("select n from t").WillReturnRows(one().AddRow(2).RowError(1, broken))
	rows, err := h.db.QueryContext(t.Context(), "select n from t")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for rows.Next() {
		n++
	}
	if n != 1 || rows.Err() != error(broken) {
		t.Errorf("read %d rows, err %v; want 1 row and the error of the connection", n, rows.Err())
	}
	wantNothingInUse(t, h)
}

// A write that broke is never sent again, neither here nor by database/sql,
// whatever the error; only the server's word that nothing was sent allows it.
func TestWriteIsNeverRepeated(t *testing.T) {
	for name, broken := range map[string]error{
		"connection reset": &net.OpError{Op: "read", Err: errors.New("connection reset by peer")},
		"eof":              io.ErrUnexpectedEOF,
		"shutdown":         &pgconn.PgError{Code: "57P01", Message: "terminating connection due to administrator command"},
		"crash":            &pgconn.PgError{Code: "57P02", Message: "terminating connection because of crash of another server process"},
		"serialization":    &pgconn.PgError{Code: "40001", Message: "could not serialize access"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newMockHerd(t)
			h.primary.ExpectExec("insert into t values (1)").WillReturnError(broken)
			if _, err := h.db.ExecContext(t.Context(), "insert into t values (1)"); err != broken {
				t.Errorf("Exec: err = %v, want %v itself", err, broken)
			}
			h.primary.ExpectQuery("insert into t values (1) returning n").WillReturnError(broken)
			if _, err := h.db.QueryContext(t.Context(), "insert into t values (1) returning n"); err != broken {
				t.Errorf("Query: err = %v, want %v itself", err, broken)
			}
			wantNothingInUse(t, h)
		})
	}
}

// ErrBadConn is the driver's word that not a byte was sent: the next attempt
// is ours to make.
func TestMockNothingWasSent(t *testing.T) {
	h := newMockHerd(t)
	h.primary.ExpectExec("insert into t values (1)").WillReturnError(driver.ErrBadConn)
	h.primary.ExpectExec("insert into t values (1)").WillReturnResult(driver.RowsAffected(1))
	if _, err := h.db.ExecContext(t.Context(), "insert into t values (1)"); err != nil {
		t.Error(err)
	}
	wantNothingInUse(t, h)
}

// A replica whose pool cannot even give a connection is passed over.
func TestMockReplicaFailsAcquire(t *testing.T) {
	h := newMockHerd(t)
	h.r1.ExpectClose()
	h.handles[1].Close()
	h.primary.ExpectQuery("select 1").WillReturnRows(one())
	h.mustRead(t, t.Context(), "select 1")
	wantNothingInUse(t, h)
}

func TestMockPing(t *testing.T) {
	h := newMockHerd(t)
	h.primary.ExpectPing()
	if err := h.db.PingContext(t.Context()); err != nil {
		t.Error(err)
	}
}

// sqlmock converts with the default converter, which calls Valuers and refuses
// slices: handles of a driver keep that driver's conversion.
func TestMockConversionIsTheDrivers(t *testing.T) {
	h := newMockHerd(t)
	h.r1.ExpectQuery("select $1").WithArgs("v").WillReturnRows(one())
	h.mustRead(t, t.Context(), "select $1", sql.NullString{String: "v", Valid: true})
	if _, err := h.db.QueryContext(t.Context(), "select $1", []int{1}); err == nil {
		t.Error("a slice passed a driver that cannot take it")
	}
	wantNothingInUse(t, h)
}

// wantNothingInUse checks that no lease was lost.
func wantNothingInUse(t *testing.T, h *mockHerd) {
	t.Helper()
	for _, s := range h.c.Stats().Servers {
		if s.InFlight != 0 || s.Pool.InUse != 0 {
			t.Errorf("%s: %d leases and %d connections in use after all was closed", s.Name, s.InFlight, s.Pool.InUse)
		}
	}
}
