package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"reflect"
	"testing"

	"github.com/pgherd/pgherd/integration/sqlcdemo/tutorial"
)

// https://docs.sqlc.dev/en/stable/tutorials/getting-started-postgresql.html, and from
// the how-to guides transactions and slices as parameters, which the generated code
// passes as lib/pq's arrays.
func sqlcQuickStart(t *testing.T, db *sql.DB) func(context.Context) error {
	ctx := t.Context()
	schema, err := os.ReadFile("sqlcdemo/schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(ctx, string(schema)); err != nil {
		t.Fatal(err)
	}
	queries := tutorial.New(db)

	authors, err := queries.ListAuthors(ctx)
	if err != nil || len(authors) != 0 {
		t.Fatal(authors, err)
	}
	inserted, err := queries.CreateAuthor(ctx, tutorial.CreateAuthorParams{
		Name: "Brian Kernighan",
		Bio:  sql.NullString{String: "Co-author of The C Programming Language and The Go Programming Language", Valid: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	fetched, err := queries.GetAuthor(ctx, inserted.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(inserted, fetched) {
		t.Errorf("inserted %v, fetched %v", inserted, fetched)
	}

	// https://docs.sqlc.dev/en/stable/howto/transactions.html
	rename := func(end error) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		q := queries.WithTx(tx)
		if _, err := q.CreateAuthor(ctx, tutorial.CreateAuthorParams{Name: "Dennis"}); err != nil {
			return err
		}
		if n, err := q.RenameAuthors(ctx, tutorial.RenameAuthorsParams{Name: "Dennis Ritchie", Name_2: "Dennis"}); err != nil || n != 1 {
			return fmt.Errorf("renamed %d, %w", n, err)
		}
		if n, err := q.CountAuthors(ctx); err != nil || n != 2 {
			t.Errorf("in the transaction there are %d authors, %v", n, err)
		}
		if end != nil {
			return end
		}
		return tx.Commit()
	}
	if err := rename(errRollBack); err != errRollBack {
		t.Fatal(err)
	}
	if n, err := queries.CountAuthors(ctx); err != nil || n != 1 {
		t.Errorf("after ROLLBACK there are %d authors, %v", n, err)
	}
	if err := rename(nil); err != nil {
		t.Fatal(err)
	}
	authors, err = queries.ListAuthors(ctx)
	if err != nil || len(authors) != 2 || authors[1].Name != "Dennis Ritchie" {
		t.Fatal(authors, err)
	}
	if err := queries.UpdateAuthor(ctx, tutorial.UpdateAuthorParams{ID: inserted.ID, Name: "Brian"}); err != nil {
		t.Fatal(err)
	}
	if err := queries.DeleteAuthor(ctx, authors[1].ID); err != nil {
		t.Fatal(err)
	}
	if _, err := queries.GetAuthor(ctx, authors[1].ID); !errors.Is(err, sql.ErrNoRows) {
		t.Errorf("a deleted author is %v", err)
	}

	return func(ctx context.Context) error {
		brian, err := queries.GetAuthor(ctx, inserted.ID)
		if err != nil || brian.Name != "Brian" || brian.Bio.Valid {
			return fmt.Errorf("%v, %w", brian, err)
		}
		for _, list := range []func(context.Context) ([]tutorial.Author, error){
			queries.ListAuthors,
			func(ctx context.Context) ([]tutorial.Author, error) {
				return queries.ListAuthorsByIDs(ctx, []int64{inserted.ID, authors[1].ID})
			},
		} {
			if all, err := list(ctx); err != nil || !reflect.DeepEqual(all, []tutorial.Author{brian}) {
				return fmt.Errorf("%v, %w", all, err)
			}
		}
		return nil
	}
}

// With emit_prepared_queries sqlc prepares its queries once, for all connections.
// What it makes then calls *sql.DB.PrepareContext and *sql.Tx.StmtContext, as here.
func TestSQLCPrepared(t *testing.T) {
	db := openHerd(t)
	ctx := t.Context()
	sqlcQuickStart(t, db)
	stmt, err := db.PrepareContext(ctx, "-- name: CountAuthors :one\nSELECT count(*) FROM authors")
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tutorial.New(db).WithTx(tx).CreateAuthor(ctx, tutorial.CreateAuthorParams{Name: "Rob Pike"}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		stmt *sql.Stmt
		want int
	}{{stmt, 1}, {tx.StmtContext(ctx, stmt), 2}} {
		var n int
		if err := s.stmt.QueryRowContext(ctx).Scan(&n); err != nil || n != s.want {
			t.Errorf("%d authors, %v, want %d", n, err, s.want)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	onReplicas(t, db, func(ctx context.Context) error {
		var n int
		if err := stmt.QueryRowContext(ctx).Scan(&n); err != nil || n != 2 {
			return fmt.Errorf("%d authors, %w", n, err)
		}
		return nil
	})
}
