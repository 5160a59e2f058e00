package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/pgherd/pgherd"
)

func TestSavepoint(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	mustExec(t, db, "create table t (n int primary key)")
	ctx := t.Context()
	errWolf := errors.New("wolf")
	insert := func(tx *sql.Tx, n int) error {
		_, err := tx.ExecContext(ctx, "insert into t values ($1)", n)
		return err
	}
	for _, tt := range []struct {
		name string
		fn   func(t *testing.T, tx *sql.Tx) // after 1 was inserted
		want string
	}{
		{"kept", func(t *testing.T, tx *sql.Tx) {
			if err := pgherd.Savepoint(ctx, tx, func() error { return insert(tx, 2) }); err != nil {
				t.Error(err)
			}
		}, "1,2"},
		{"rolled back", func(t *testing.T, tx *sql.Tx) {
			err := pgherd.Savepoint(ctx, tx, func() error { return errors.Join(insert(tx, 2), errWolf) })
			if !errors.Is(err, errWolf) {
				t.Error(err)
			}
		}, "1"},
		{"after an error of the server", func(t *testing.T, tx *sql.Tx) {
			if err := pgherd.Savepoint(ctx, tx, func() error { return insert(tx, 1) }); sqlState(err) != "23505" {
				t.Error(err)
			}
			if err := insert(tx, 3); err != nil {
				t.Error(err)
			}
		}, "1,3"},
		{"error swallowed", func(t *testing.T, tx *sql.Tx) {
			err := pgherd.Savepoint(ctx, tx, func() error { insert(tx, 2); insert(tx, 1); return nil })
			if sqlState(err) != "25P02" {
				t.Error(err)
			}
		}, "1"},
		{"nested", func(t *testing.T, tx *sql.Tx) {
			err := pgherd.Savepoint(ctx, tx, func() error {
				if err := insert(tx, 2); err != nil {
					return err
				}
				if err := pgherd.Savepoint(ctx, tx, func() error { insert(tx, 3); return errWolf }); err != errWolf {
					t.Error(err)
				}
				return pgherd.Savepoint(ctx, tx, func() error { return insert(tx, 4) })
			})
			if err != nil {
				t.Error(err)
			}
		}, "1,2,4"},
		{"inner kept, outer rolled back", func(t *testing.T, tx *sql.Tx) {
			err := pgherd.Savepoint(ctx, tx, func() error {
				if err := pgherd.Savepoint(ctx, tx, func() error { return insert(tx, 2) }); err != nil {
					t.Error(err)
				}
				return errWolf
			})
			if err != errWolf {
				t.Error(err)
			}
		}, "1"},
		{"named", func(t *testing.T, tx *sql.Tx) {
			err := pgherd.NamedSavepoint(ctx, tx, `a "b"; c`, func() error {
				if err := insert(tx, 2); err != nil {
					return err
				}
				_, err := tx.ExecContext(ctx, `rollback to savepoint "a ""b""; c"`)
				return errors.Join(err, insert(tx, 3))
			})
			if err != nil {
				t.Error(err)
			}
		}, "1,3"},
		{"panic", func(t *testing.T, tx *sql.Tx) {
			func() {
				defer func() {
					if r := recover(); r != "wolf" {
						t.Errorf("recovered %v", r)
					}
				}()
				pgherd.Savepoint(ctx, tx, func() error { insert(tx, 2); panic("wolf") })
			}()
		}, "1"},
		{"context of its own", func(t *testing.T, tx *sql.Tx) {
			inner, cancel := context.WithCancel(ctx)
			err := pgherd.Savepoint(inner, tx, func() error { cancel(); return errors.Join(insert(tx, 2), inner.Err()) })
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}, "1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mustExec(t, db, "truncate t")
			err := pgherd.InTx(ctx, db, nil, func(tx *sql.Tx) error {
				if err := insert(tx, 1); err != nil {
					return err
				}
				tt.fn(t, tx)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if got := get[string](t, db, "select string_agg(n::text, ',' order by n) from t"); got != tt.want {
				t.Errorf("rows %s, want %s", got, tt.want)
			}
		})
	}
}
