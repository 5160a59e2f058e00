// Command replica shows which server runs what: writes and what belongs to them
// on the primary, other reads on replicas, and how to ask for something else.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/examples/internal/example"
)

func main() { example.Main(run) }

func run(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, "create table orders (id serial, item text)"); err != nil {
		return err
	}
	var onReplica bool
	err := db.QueryRowContext(ctx, "insert into orders (item) values ('hay') returning pg_is_in_recovery()").Scan(&onReplica)
	if err != nil {
		return err
	}
	fmt.Println("a write runs on a replica:", onReplica)

	// A read that comes at once sees the write, wherever it runs: on the primary,
	// until a replica is known to have it.
	const read = "select count(*), pg_is_in_recovery() from orders"
	var n int
	if err := db.QueryRowContext(ctx, read).Scan(&n, &onReplica); err != nil {
		return err
	}
	fmt.Println("orders at once:", n)
	for !onReplica {
		if err := db.QueryRowContext(ctx, read).Scan(&n, &onReplica); err != nil {
			return err
		}
	}
	fmt.Println("orders on a replica:", n)

	// Hints are for one call.
	if err := db.QueryRowContext(pgherd.WithPrimary(ctx), read).Scan(&n, &onReplica); err != nil {
		return err
	}
	fmt.Println("a hint keeps it on the primary:", !onReplica)
	fresh := pgherd.WithMaxLag(ctx, 500*time.Millisecond)
	if err := db.QueryRowContext(fresh, read).Scan(&n, &onReplica); err != nil {
		return err
	}
	fmt.Println("orders, at most half a second old:", n)

	// What belongs together reads one state of one replica.
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := tx.QueryRowContext(ctx, read).Scan(&n, &onReplica); err != nil {
		return err
	}
	fmt.Println("a read-only transaction runs on a replica:", onReplica)

	herd, err := pgherd.FromDB(ctx, db)
	if err != nil {
		return err
	}
	for _, text := range []string{
		"select * from orders",
		"select * from orders for update",
		"select nextval('orders_id_seq')",
		"with new as (insert into orders values (default) returning id) select * from new",
	} {
		e := herd.Explain(ctx, text)
		fmt.Printf("%s: %s (%s)\n", text, e.Class, e.Reason)
	}
	return nil
}
