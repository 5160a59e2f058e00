package replay_test

import (
	"database/sql"
	"database/sql/driver"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/pgherd/pgherd/replay"
)

const benchStatements = 1000

// BenchmarkReplay replays a test with 1,000 statements, half of them queries of a row,
// from opening the file to checking that all were made. Beside it is the same with
// go-sqlmock, whose expectations are set up each time, as in a test.
func BenchmarkReplay(b *testing.B) {
	b.Run("replay", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "x.replay.json")
		live := connector(func() driver.Conn {
			return bothConn{&fakeConn{f: &fakeDB{answer: rowsOf(int64(1))}}}
		})
		c, err := replay.NewConnector(path, replay.WithMode(replay.Record), replay.WithLive(func() (driver.Connector, error) { return live, nil }))
		if err != nil {
			b.Fatal(err)
		}
		db := sql.OpenDB(c)
		runStatements(b, db)
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			c, err := replay.NewConnector(path, replay.WithMode(replay.Replay))
			if err != nil {
				b.Fatal(err)
			}
			db := sql.OpenDB(c)
			runStatements(b, db)
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("sqlmock", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			db, mock, err := sqlmock.New(sqlmock.QueryMatcherOption(sqlmock.QueryMatcherEqual))
			if err != nil {
				b.Fatal(err)
			}
			for i := range benchStatements / 2 {
				mock.ExpectQuery(benchQuery(i)).WithArgs(i).WillReturnRows(sqlmock.NewRows([]string{"v"}).AddRow(int64(1)))
				mock.ExpectExec("UPDATE orders SET state = $1 WHERE id = $2").WithArgs("paid", i).WillReturnResult(sqlmock.NewResult(0, 1))
			}
			runStatements(b, db)
			if err := mock.ExpectationsWereMet(); err != nil {
				b.Fatal(err)
			}
			mock.ExpectClose()
			db.Close()
		}
	})
}

func benchQuery(i int) string {
	return fmt.Sprintf("SELECT id FROM orders WHERE number = $1 AND kind = %d FOR UPDATE", i%10)
}

func runStatements(b *testing.B, db *sql.DB) {
	for i := range benchStatements / 2 {
		var n int
		if err := db.QueryRow(benchQuery(i), i).Scan(&n); err != nil {
			b.Fatal(err)
		}
		if _, err := db.Exec("UPDATE orders SET state = $1 WHERE id = $2", "paid", i); err != nil {
			b.Fatal(err)
		}
	}
}
