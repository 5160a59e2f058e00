package pgherd_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/pgherd/pgherd"
)

// TestLastRoute asks a connection where its calls ran.
func TestLastRoute(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "consistency=eventual", "max_lag=1h")
	mustExec(t, db, "create table t (id int primary key)")
	ctx := t.Context()
	if err := h.WaitSync(ctx); err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var tx *sql.Tx
	run := func(ctx context.Context, query string) func() error {
		return func() error {
			if tx != nil {
				_, err := tx.ExecContext(ctx, query)
				return err
			}
			_, err := conn.ExecContext(ctx, query)
			return err
		}
	}
	begin := func(opts *sql.TxOptions) func() error {
		return func() (err error) {
			tx, err = conn.BeginTx(ctx, opts)
			return err
		}
	}
	end := func() error { defer func() { tx = nil }(); return tx.Commit() }
	for _, step := range []struct {
		name         string
		do           func() error
		role, reason string // none if role is empty
		fails        bool
	}{
		{"nothing", func() error { return nil }, "", "", false},
		{"a read", run(ctx, "select 1"), "replica", "read", false},
		{"a hint", run(pgherd.WithPrimary(ctx), "select 1"), "primary", "hint", false},
		{"a read-only transaction", begin(&sql.TxOptions{ReadOnly: true}), "replica", "read-only-transaction", false},
		{"a read in it", run(ctx, "select 1"), "replica", "transaction", false},
		{"its end", end, "replica", "transaction", false},
		{"a transaction", begin(nil), "primary", "transaction-control", false},
		{"a write in it", run(ctx, "insert into t values (1)"), "primary", "transaction", false},
		{"its end", end, "primary", "transaction", false},
		{"a write that fails", run(ctx, "insert into t values (1)"), "primary", "pinned", true},
		{"a read after it", run(ctx, "select 1"), "primary", "pinned", false},
	} {
		if err := step.do(); (err != nil) != step.fails {
			t.Fatalf("%s: %v", step.name, err)
		}
		conn.Raw(func(dc any) error {
			r, ok := dc.(*pgherd.Conn).LastRoute()
			switch {
			case ok != (step.role != ""), r.Role != step.role, r.Reason != step.reason:
				t.Errorf("%s: %+v, %v, want %s, %s", step.name, r, ok, step.role, step.reason)
			case ok && (r.Server == "" || r.Lag < 0):
				t.Errorf("%s: %+v has no server, or no lag", step.name, r)
			}
			return nil
		})
	}
}
