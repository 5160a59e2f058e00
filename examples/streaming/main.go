// Command streaming reads a million rows without holding them: all of them, then
// the first few, and through a cursor of a transaction. It shows how far it is.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/examples/internal/example"
)

func main() { example.Main(run) }

type reading struct {
	ID    int64
	Value float64
}

const query = "select n as id, n / 2.0::float8 as value from generate_series(1, 1000000) n"

func run(ctx context.Context, db *sql.DB) error {
	var sum float64
	n := 0
	for r, err := range pgherd.Stream[reading](ctx, db, query) {
		if err != nil {
			return err
		}
		sum += r.Value
		if n++; n%200_000 == 0 {
			fmt.Fprintln(os.Stderr, "read", n)
		}
	}
	fmt.Println("all:", n, "rows, sum", int64(sum))

	// A loop that is left neither reads the rest nor costs the connection.
	n = 0
	for r, err := range pgherd.Stream[reading](ctx, db, query) {
		if err != nil {
			return err
		}
		if n++; r.Value >= 50 {
			break
		}
	}
	fmt.Println("until 50:", n, "rows")

	// Within a transaction, where a statement that is cancelled would fail it, a
	// cursor stops as soon. It fetches so many rows at a time, one batch ahead.
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	n = 0
	for _, err := range pgherd.Cursor[reading](ctx, tx, 10_000, query) {
		if err != nil {
			return err
		}
		if n++; n == 25_000 {
			break
		}
	}
	left, err := pgherd.Scalar[int](ctx, tx, "select count(*) from pg_cursors where name <> ''")
	if err != nil {
		return err
	}
	fmt.Println("by a cursor:", n, "rows; cursors left open:", left)
	return tx.Commit()
}
