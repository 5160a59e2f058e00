package pgherd

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5"
)

// An Execer runs statements: a transaction of database/sql, sqlx, bun or GORM
// (its ConnPool), and connections and handles.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Savepoint runs fn as a part of the transaction tx that can fail by itself: if fn
// returns an error or panics, what it did is rolled back, and tx goes on as if it
// had not been. The error of fn is returned as it is.
//
//	err := pgherd.Savepoint(ctx, tx, func() error {
//		_, err := tx.ExecContext(ctx, "insert into seen (id) values ($1)", id)
//		return err // a duplicate does not cost the transaction
//	})
//
// Savepoints nest. A serialization failure or a deadlock within one is not tried
// again there, which could not succeed under the same snapshot: return it to
// [InTx]. If fn swallows the error of a statement, after which the server refuses
// all others, Savepoint returns the server's, and rolls back.
func Savepoint(ctx context.Context, tx Execer, fn func() error) error {
	return NamedSavepoint(ctx, tx, "pgherd", fn)
}

// NamedSavepoint is [Savepoint] with a name for statements such as ROLLBACK TO
// SAVEPOINT in fn. Savepoint itself needs none: an inner savepoint hides an outer
// one of the same name until it ends.
// https://www.postgresql.org/docs/current/sql-savepoint.html
func NamedSavepoint(ctx context.Context, tx Execer, name string, fn func() error) error {
	quoted := pgx.Identifier{name}.Sanitize()
	if _, err := tx.ExecContext(ctx, "SAVEPOINT "+quoted); err != nil {
		return err
	}
	released := false
	rollback := func() error {
		// With a time of its own, as the end of ctx may be what fn failed by.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		_, err := tx.ExecContext(ctx, "ROLLBACK TO SAVEPOINT "+quoted+"; RELEASE SAVEPOINT "+quoted)
		return err
	}
	defer func() {
		if !released { // fn panics, or has ended its goroutine
			rollback()
		}
	}()
	err := fn()
	if err == nil {
		_, err = tx.ExecContext(ctx, "RELEASE SAVEPOINT "+quoted)
	}
	released = true
	if err != nil {
		if failed := rollback(); failed != nil && !errors.Is(failed, sql.ErrTxDone) {
			err = errors.Join(err, failed)
		}
	}
	return err
}
