// Command transactions moves money between accounts from many goroutines at a
// time. Serializable transactions conflict, and InTx tries them again until all
// have been committed; a savepoint lets a part of one fail.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/examples/internal/example"
)

func main() { example.Main(run) }

var errInsufficient = errors.New("insufficient funds")

func run(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, `create table accounts (id int primary key, balance int not null);
		create table notes (id int primary key);
		insert into accounts select n, 100 from generate_series(1, 10) n`)
	if err != nil {
		return err
	}

	// Every goroutine takes from one account what it gives to the next.
	var group errgroup.Group
	for i := range 100 {
		group.Go(func() error { return transfer(ctx, db, 1+i%10, 1+(i+1)%10, 5) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	fmt.Println("too much:", transfer(ctx, db, 1, 2, 1000))

	var total, least int
	if err := db.QueryRowContext(ctx, "select sum(balance), min(balance) from accounts").Scan(&total, &least); err != nil {
		return err
	}
	fmt.Println("in all accounts:", total, "in the poorest:", least)

	// The second note is there already. That costs the savepoint, not the
	// transaction.
	err = pgherd.InTx(ctx, db, nil, func(tx *sql.Tx) error {
		for _, id := range []int{1, 1, 2} {
			err := pgherd.Savepoint(ctx, tx, func() error {
				_, err := tx.ExecContext(ctx, "insert into notes values ($1)", id)
				return err
			})
			fmt.Println("note", id, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var notes int
	err = db.QueryRowContext(ctx, "select count(*) from notes").Scan(&notes)
	fmt.Println("notes:", notes)
	return err
}

// transfer is called again when it conflicts with another: it must do nothing
// outside of its transaction.
func transfer(ctx context.Context, db *sql.DB, from, to, amount int) error {
	opts := &pgherd.TxOptions{Isolation: sql.LevelSerializable}
	return pgherd.InTx(ctx, db, opts, func(tx *sql.Tx) error {
		var balance int
		if err := tx.QueryRowContext(ctx, "select balance from accounts where id = $1", from).Scan(&balance); err != nil {
			return err
		}
		if balance < amount {
			return errInsufficient // rolls back
		}
		_, err := tx.ExecContext(ctx, `update accounts
			set balance = balance + case id when $1 then -$3::int else $3 end where id in ($1, $2)`, from, to, amount)
		return err
	})
}
