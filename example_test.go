package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jackc/pgx/v5"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// A herd is used as any database is.
func Example() {
	db, err := sql.Open("pgherd", "postgres://app@pg1/shop?replica_hosts=pg2,pg3&max_lag=2s")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	// On the primary.
	if _, err := db.Exec("insert into orders (item) values ($1)", "hay"); err != nil {
		log.Fatal(err)
	}
	// On a replica that has the order, or on the primary.
	var n int
	if err := db.QueryRow("select count(*) from orders").Scan(&n); err != nil {
		log.Fatal(err)
	}
	// On a replica that is at most a minute old, whatever the DSN prefers.
	ctx := pgherd.WithMaxLag(pgherd.WithReplica(context.Background()), time.Minute)
	if err := db.QueryRowContext(ctx, "select count(*) from orders").Scan(&n); err != nil {
		log.Fatal(err)
	}
	// Several reads on one replica, at one time.
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Rollback()
	fmt.Println(n, "orders")
}

// Rows of structs go into a transaction by COPY; what the program has from
// elsewhere goes in as it is, and queries come out as files.
func ExampleCopyRows() {
	type reading struct {
		Sensor string    `db:"sensor"`
		At     time.Time `db:"at"`
		Value  *float64  `db:"value"`
	}
	ctx := context.Background()
	db, err := sql.Open("pgherd", "postgres://app@pg1/plant?replica_hosts=pg2,pg3")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Rollback()

	readings := []reading{{"boiler", time.Now(), nil}}
	if _, err := pgherd.CopyRows[reading](ctx, tx, pgx.Identifier{"readings"}, nil, readings); err != nil {
		log.Fatal(err)
	}
	if _, err := pgherd.CopyIn(ctx, tx, "copy readings from stdin (format csv)", os.Stdin); err != nil {
		log.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		log.Fatal(err)
	}
	n, err := pgherd.CopyOut(ctx, db, "copy (select * from readings where value > 90) to stdout (format csv, header)", os.Stdout)
	if err != nil {
		log.Fatal(err)
	}
	log.Print(n, " readings are too high")
}

// A batch updates what is there already.
func ExampleBatchInsert() {
	type stock struct {
		Item   string
		Amount int
	}
	db, err := sql.Open("pgherd", "postgres://app@pg1/shop?replica_hosts=pg2,pg3")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	delivered := []stock{{"hay", 12}, {"oats", 7}}
	n, err := pgherd.BatchInsert[stock](context.Background(), db, pgx.Identifier{"stock"}, delivered, &pgherd.Batch{
		Conflict: &pgherd.Conflict{Columns: []string{"item"}, Update: []string{"amount"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(n, "items")
}

// Explain tells what would become of a text, and why.
func ExampleConnector_Explain() {
	cfg, err := pgherd.ParseDSN("postgres://app@pg1/shop?replica_hosts=pg2")
	if err != nil {
		log.Fatal(err)
	}
	c, err := pgherd.NewConnector(cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for _, text := range []string{
		"select * from orders",
		"select * from orders for update skip locked",
		"select nextval('orders_id_seq')",
	} {
		e := c.Explain(context.Background(), text)
		fmt.Println(e.Class, e.Reason)
	}
	// Output:
	// read read
	// write locking-read
	// write function
}

// Handles of any driver can be the servers of a herd: here go-sqlmock's, which
// shows what reaches which server.
func ExampleNewConnector_members() {
	primary, onPrimary, err := sqlmock.New()
	if err != nil {
		log.Fatal(err)
	}
	replica, onReplica, err := sqlmock.New()
	if err != nil {
		log.Fatal(err)
	}
	c, err := pgherd.NewConnector(nil,
		pgherd.Member{Name: "pg1", DB: primary, Role: routing.Primary},
		pgherd.Member{Name: "pg2", DB: replica, Role: routing.Replica},
	)
	if err != nil {
		log.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close()

	onReplica.ExpectQuery("select item").WillReturnRows(sqlmock.NewRows([]string{"item"}).AddRow("hay"))
	onPrimary.ExpectExec("delete").WillReturnResult(sqlmock.NewResult(0, 1))

	var item string
	if err := db.QueryRow("select item from orders").Scan(&item); err != nil {
		log.Fatal(err)
	}
	if _, err := db.Exec("delete from orders"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(item, errors.Join(onPrimary.ExpectationsWereMet(), onReplica.ExpectationsWereMet()))
	onPrimary.ExpectClose()
	onReplica.ExpectClose()
	primary.Close()
	replica.Close()
	// Output: hay <nil>
}
