package pgherd_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// An opLog is an Observer that remembers what it was told.
type opLog struct {
	mu    sync.Mutex
	ops   []pgherd.Operation
	begun int
}

type opLogKey struct{}

func (l *opLog) Begin(ctx context.Context, _ *pgherd.Operation) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun++
	return context.WithValue(ctx, opLogKey{}, l.begun)
}

func (l *opLog) End(ctx context.Context, op *pgherd.Operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Value(opLogKey{}) == nil {
		panic("End got another context than Begin has made")
	}
	l.ops = append(l.ops, *op)
}

// take returns what was seen since the last call, each in a line.
func (l *opLog) take() (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.ops {
		op := &l.ops[i]
		line := fmt.Sprintf("%s %s on %s %q: %s, %d rows, %s", op.Kind, op.Summary(), op.Role, op.Server, op.Reason, op.Rows, op.Outcome())
		for _, a := range op.Failed {
			line += fmt.Sprintf(", after %s", a.Server)
		}
		lines = append(lines, line)
	}
	l.ops = nil
	return lines
}

func TestObserve(t *testing.T) {
	h := newMockHerd(t)
	l := new(opLog)
	stop := h.c.Observe(l)
	ctx := t.Context()

	h.r1.ExpectQuery("select n from orders where id = $1").WithArgs(7).WillReturnRows(one().AddRow(2))
	h.primary.ExpectExec("insert into orders values ($1)").WithArgs(8).WillReturnResult(driver.RowsAffected(3))
	h.r1.ExpectQuery("select n from v").WillReturnError(&pgconn.PgError{Code: "25006"})
	h.primary.ExpectQuery("select n from v").WillReturnRows(one())
	h.primary.ExpectBegin()
	h.primary.ExpectQuery("select 1").WillReturnRows(one())
	h.primary.ExpectCommit()
	h.primary.ExpectBegin()
	h.primary.ExpectRollback()
	h.primary.ExpectExec("delete from orders").WillReturnError(&pgconn.PgError{Code: "42501"})
	h.primary.ExpectPing()
	h.r1.ExpectPrepare("select 2").WillBeClosed()
	h.r1.ExpectQuery("select n from broken").WillReturnRows(one().RowError(0, &net.OpError{Op: "read", Err: errors.New("reset")}))

	rows, err := h.db.QueryContext(ctx, "select n from orders where id = $1", 7)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		if got := l.take(); got != nil {
			t.Fatalf("a query is over before its rows are closed: %q", got)
		}
	}
	if _, err := h.db.ExecContext(ctx, "insert into orders values ($1)", 8); err != nil {
		t.Fatal(err)
	}
	h.mustRead(t, ctx, "select n from v")
	for _, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
		tx, err := h.db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(l.ops) < 5 {
			var n int
			if err := tx.QueryRow("select 1").Scan(&n); err != nil {
				t.Fatal(err)
			}
		}
		if err := end(tx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.db.ExecContext(ctx, "delete from orders"); err == nil {
		t.Fatal("no error")
	}
	if err := h.db.PingContext(ctx); err != nil {
		t.Fatal(err)
	}
	st, err := h.db.PrepareContext(ctx, "select 2")
	if err != nil {
		t.Fatal(err)
	}
	st.Close()
	rows, err = h.db.QueryContext(ctx, "select n from broken")
	if err != nil {
		t.Fatal(err)
	}
	rows.Next()
	rows.Close()

	want := []string{
		`query SELECT orders on replica "r1": read, 2 rows, ok`,
		`exec INSERT orders on primary "primary": write, 3 rows, ok`,
		`query SELECT v on primary "primary": misroute, 1 rows, ok, after r1`,
		`begin begin on primary "primary": transaction-control, -1 rows, ok`,
		`query SELECT on primary "primary": transaction, 1 rows, ok`,
		`commit commit on primary "primary": transaction, -1 rows, ok`,
		`begin begin on primary "primary": transaction-control, -1 rows, ok`,
		`rollback rollback on primary "primary": transaction, -1 rows, ok`,
		`exec DELETE orders on primary "primary": write, -1 rows, error`,
		`ping ping on primary "primary": server-state, -1 rows, ok`,
		`prepare SELECT on replica "r1": read, -1 rows, ok`,
		`query SELECT broken on replica "r1": read, 0 rows, error`,
	}
	if got := l.take(); !slices.Equal(got, want) {
		t.Errorf("told of\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if l.begun != len(want) {
		t.Errorf("%d operations begun, %d ended", l.begun, len(want))
	}

	stop()
	h.r1.ExpectQuery("select 3").WillReturnRows(one())
	h.mustRead(t, ctx, "select 3")
	if got := l.take(); got != nil {
		t.Errorf("told of %q after stop", got)
	}
}

// Where there is no server, the error and its reason are told all the same.
func TestObserveNoServer(t *testing.T) {
	cfg := pgherd.NewConfig()
	cfg.FailoverTimeout = 0
	c, err := pgherd.NewConnector(cfg, pgherd.Member{Name: "r1", DB: newMockHerd(t).handles[1], Role: routing.Replica})
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close()
	l := new(opLog)
	c.Observe(l)
	if _, err := db.Exec("delete from t"); err == nil {
		t.Fatal("no error")
	}
	op := l.ops[0]
	if op.Server != "" || op.Role != routing.Unknown || op.Reason != routing.ReasonNoPrimary || op.ErrorClass() != "no-server" || op.Attempts() != 0 {
		t.Errorf("told of %+v, class %s", op, op.ErrorClass())
	}
}

func TestErrorClass(t *testing.T) {
	for _, tt := range []struct {
		err     error
		class   string
		outcome pgherd.Outcome
	}{
		{nil, "", pgherd.OutcomeOK},
		{context.Canceled, "canceled", pgherd.OutcomeCanceled},
		{fmt.Errorf("%w: %w", context.Canceled, &pgconn.PgError{Code: "57014"}), "canceled", pgherd.OutcomeCanceled},
		{context.DeadlineExceeded, "timeout", pgherd.OutcomeTimeout},
		{&pgherd.AcquireError{}, "acquire", pgherd.OutcomeTimeout},
		{&pgherd.RouteError{Causes: []error{&pgconn.PgError{Code: "57P03"}}}, "no-server", pgherd.OutcomeError},
		{&pgconn.PgError{Code: "23505"}, "23", pgherd.OutcomeError},
		{&pgconn.PgError{Code: "57014"}, "57", pgherd.OutcomeError},
		{&pgconn.PgError{Code: "U0001"}, "other", pgherd.OutcomeError},
		{&pgconn.PgError{Code: " "}, "other", pgherd.OutcomeError},
		{pgherd.ErrClosed, "closed", pgherd.OutcomeError},
		{driver.ErrBadConn, "connection", pgherd.OutcomeError},
		{&net.OpError{Op: "read", Err: errors.New("reset")}, "connection", pgherd.OutcomeError},
		{errors.New("cannot encode"), "other", pgherd.OutcomeError},
	} {
		op := pgherd.Operation{Err: tt.err}
		if got := op.ErrorClass(); got != tt.class {
			t.Errorf("%v is of class %q, want %q", tt.err, got, tt.class)
		}
		if got := op.Outcome(); got != tt.outcome {
			t.Errorf("%v is %v, want %v", tt.err, got, tt.outcome)
		}
	}
}
