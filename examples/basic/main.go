// Command basic runs queries: those of database/sql, and those that return
// structs and single values.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/examples/internal/example"
)

func main() { example.Main(run) }

// An order is a row. Its fields are columns by the names that sqlx would give
// them.
type order struct {
	ID    int64
	Item  string
	Price sql.Null[float64]
}

func run(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, "create table orders (id bigint generated always as identity, item text not null, price float8)"); err != nil {
		return err
	}
	// Values are arguments, never a part of the text.
	res, err := db.ExecContext(ctx, "insert into orders (item, price) values ($1, $2), ($3, $4)", "hay", 12.5, "bell", nil)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	fmt.Println("inserted:", n)

	// Plain database/sql.
	rows, err := db.QueryContext(ctx, "select item from orders order by id")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var item string
		if err := rows.Scan(&item); err != nil {
			return err
		}
		fmt.Println("item:", item)
	}
	if err := rows.Err(); err != nil {
		return err
	}

	// One row, which must be there.
	o, err := pgherd.One[order](ctx, db, "select * from orders where item = $1", "hay")
	if err != nil {
		return err
	}
	fmt.Println("one:", o.ID, o.Item, o.Price.V)
	_, err = pgherd.One[order](ctx, db, "select * from orders where item = $1", "rope")
	fmt.Println("none:", errors.Is(err, sql.ErrNoRows))

	// One that may be there.
	o, ok, err := pgherd.Optional[order](ctx, db, "select * from orders where item = $1", "bell")
	if err != nil {
		return err
	}
	fmt.Println("optional:", ok, o.Item, "has a price:", o.Price.Valid)

	// A single value, a yes or no, and all rows.
	total, err := pgherd.Scalar[float64](ctx, db, "select sum(price) from orders")
	if err != nil {
		return err
	}
	exists, err := pgherd.Exists(ctx, db, "select from orders where price > $1", 100)
	if err != nil {
		return err
	}
	all, err := pgherd.Collect[order](ctx, db, "select * from orders order by item")
	if err != nil {
		return err
	}
	fmt.Println("total:", total, "expensive ones:", exists, "first of", len(all), "by item:", all[0].Item)
	return nil
}
