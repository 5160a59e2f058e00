package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// openShop stands for sql.Open("pgherd", dsn): a herd of one primary that answers
// as the example expects.
func openShop() (db *sql.DB, mock sqlmock.Sqlmock, closeShop func()) {
	primary, mock, err := sqlmock.New(sqlmock.QueryMatcherOption(sqlmock.QueryMatcherRegexp))
	if err != nil {
		log.Fatal(err)
	}
	c, err := pgherd.NewConnector(nil, pgherd.Member{Name: "pg1", DB: primary, Role: routing.Primary})
	if err != nil {
		log.Fatal(err)
	}
	db = sql.OpenDB(c)
	return db, mock, func() {
		db.Close()
		mock.ExpectClose()
		primary.Close()
	}
}

type Order struct {
	ID   int64
	Item string
	Paid bool `db:"is_paid"`
}

func orders() *sqlmock.Rows {
	return sqlmock.NewRows([]string{"id", "item", "is_paid"}).AddRow(1, "hay", true).AddRow(2, "salt", false)
}

// Queries whose rows are few.
func ExampleOne() {
	db, mock, closeShop := openShop()
	defer closeShop()
	mock.ExpectQuery("where id").WithArgs(1).WillReturnRows(sqlmock.NewRows([]string{"id", "item"}).AddRow(1, "hay"))
	mock.ExpectQuery("where id").WithArgs(7).WillReturnRows(sqlmock.NewRows([]string{"id", "item"}))
	mock.ExpectQuery("count").WillReturnRows(sqlmock.NewRows([]string{"count"}).AddRow(2))
	mock.ExpectQuery("not is_paid").WillReturnRows(sqlmock.NewRows([]string{"id"}).AddRow(2))
	mock.ExpectQuery("order by id").WillReturnRows(orders())

	ctx := context.Background()
	order, err := pgherd.One[Order](ctx, db, "select id, item from orders where id = $1", 1)
	fmt.Println(order.Item, err)

	_, ok, err := pgherd.Optional[Order](ctx, db, "select id, item from orders where id = $1", 7)
	fmt.Println(ok, err)

	n, err := pgherd.Scalar[int](ctx, db, "select count(*) from orders")
	fmt.Println(n, err)

	due, err := pgherd.Exists(ctx, db, "select from orders where not is_paid")
	fmt.Println(due, err)

	all, err := pgherd.Collect[Order](ctx, db, "select * from orders order by id")
	fmt.Println(len(all), err)
	// Output:
	// hay <nil>
	// false <nil>
	// 2 <nil>
	// true <nil>
	// 2 <nil>
}

// A result of any size, one row at a time.
func ExampleStream() {
	db, mock, closeShop := openShop()
	defer closeShop()
	mock.ExpectQuery("select").WillReturnRows(orders())

	for order, err := range pgherd.Stream[Order](context.Background(), db, "select * from orders") {
		if err != nil {
			log.Fatal(err)
		}
		if !order.Paid {
			fmt.Println(order.ID, order.Item)
			break // the server stops, too
		}
	}
	// Output: 2 salt
}

// Jobs are taken from a queue until there is no time left, and are no jobs any
// more when the transaction commits.
func ExampleCursor() {
	db, mock, closeShop := openShop()
	defer closeShop()
	mock.ExpectBegin()
	mock.ExpectExec("DECLARE").WillReturnResult(sqlmock.NewResult(0, 0))
	mock.ExpectQuery("FETCH 2").WillReturnRows(sqlmock.NewRows([]string{"id"}).AddRow(1).AddRow(2))
	mock.ExpectExec("delete").WithArgs(1).WillReturnResult(sqlmock.NewResult(0, 1))
	mock.ExpectExec("CLOSE").WillReturnResult(sqlmock.NewResult(0, 0))
	mock.ExpectCommit()

	ctx, hurry := context.Background(), true
	err := pgherd.InTx(ctx, db, nil, func(tx *sql.Tx) error {
		for id, err := range pgherd.Cursor[int](ctx, tx, 2, "select id from jobs for update skip locked") {
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "delete from jobs where id = $1", id); err != nil {
				return err
			}
			fmt.Println("job", id)
			if hurry {
				break
			}
		}
		return nil
	})
	fmt.Println(err)
	// Output:
	// job 1
	// <nil>
}

// A transaction that meets another one is tried again.
func ExampleInTx() {
	db, mock, closeShop := openShop()
	defer closeShop()
	mock.ExpectBegin()
	mock.ExpectExec("update").WillReturnError(&pgconn.PgError{Code: "40001", Message: "could not serialize access"})
	mock.ExpectRollback()
	mock.ExpectBegin()
	mock.ExpectExec("update").WillReturnResult(sqlmock.NewResult(0, 1))
	mock.ExpectCommit()

	ctx := context.Background()
	opts := &pgherd.TxOptions{Isolation: sql.LevelSerializable}
	err := pgherd.InTx(ctx, db, opts, func(tx *sql.Tx) error {
		fmt.Println("transferring")
		_, err := tx.ExecContext(ctx, "update accounts set balance = balance - $1 where id = $2", 10, 1)
		return err
	})
	if errors.Is(err, pgherd.ErrUnknownOutcome) {
		// The server is gone with its answer to COMMIT: look before doing it again.
		log.Print(err)
	}
	fmt.Println(err)
	// Output:
	// transferring
	// transferring
	// <nil>
}

// What fails within a savepoint leaves the rest of the transaction alone.
func ExampleSavepoint() {
	db, mock, closeShop := openShop()
	defer closeShop()
	mock.ExpectBegin()
	mock.ExpectExec("SAVEPOINT").WillReturnResult(sqlmock.NewResult(0, 0))
	mock.ExpectExec("insert").WillReturnError(&pgconn.PgError{Severity: "ERROR", Code: "23505", Message: "duplicate key"})
	mock.ExpectExec("ROLLBACK TO SAVEPOINT").WillReturnResult(sqlmock.NewResult(0, 0))
	mock.ExpectCommit()

	ctx := context.Background()
	err := pgherd.InTx(ctx, db, nil, func(tx *sql.Tx) error {
		err := pgherd.Savepoint(ctx, tx, func() error {
			_, err := tx.ExecContext(ctx, "insert into seen (id) values ($1)", 1)
			return err
		})
		fmt.Println(err)
		return nil
	})
	fmt.Println(err)
	// Output:
	// ERROR: duplicate key (SQLSTATE 23505)
	// <nil>
}
