package bench

import (
	"context"
	"database/sql"
	"log"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	_ "github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// conns is the size of every pool.
const conns = 16

// handles are the ways to the same servers.
var handles []handle

type handle struct {
	name string
	db   *sql.DB
}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	herd, err := pgherdtest.Open(ctx, pgherdtest.Replicas(2))
	if err != nil {
		log.Print(err)
		if os.Getenv("PGHERD_TEST_REQUIRE") != "" {
			return 1
		}
		return 0
	}
	defer herd.Close()
	primary := herd.Primary().DirectDSN()
	for _, h := range []struct{ name, driver, dsn string }{
		{"pgx", "pgx", primary},
		{"pgherd-primary", "pgherd", primary + "&pool_max_conns=16"},
		{"pgherd", "pgherd", primary + "&pool_max_conns=16&replica_hosts=" + directAddrs(herd)},
	} {
		db, err := sql.Open(h.driver, h.dsn)
		if err != nil {
			log.Print(err)
			return 1
		}
		defer db.Close()
		db.SetMaxIdleConns(conns)
		if h.driver == "pgx" {
			db.SetMaxOpenConns(conns)
		}
		handles = append(handles, handle{h.name, db})
	}
	if _, err := handles[0].db.Exec("CREATE TABLE accounts AS SELECT id, 0 AS balance FROM generate_series(1, 1000) id; ALTER TABLE accounts ADD PRIMARY KEY (id)"); err != nil {
		log.Print(err)
		return 1
	}
	if err := herd.WaitSync(ctx); err != nil {
		log.Print(err)
		return 1
	}
	return m.Run()
}

// directAddrs lists the replicas' addresses behind pgherdtest's proxies, which
// would cost more than what is measured here.
func directAddrs(herd *pgherdtest.Herd) string {
	var addrs []string
	for _, s := range herd.Servers()[1:] {
		u, err := url.Parse(s.DirectDSN())
		if err != nil {
			panic(err)
		}
		addrs = append(addrs, u.Host)
	}
	return strings.Join(addrs, ",")
}

// run runs f with each handle, one call after the other, and many at once.
func run(b *testing.B, f func(ctx context.Context, db *sql.DB) error) {
	ctx := context.Background()
	for _, h := range handles {
		b.Run(h.name+"/serial", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := f(ctx, h.db); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(h.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(4) // so that pools are used, but not exhausted, on two processors
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := f(ctx, h.db); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkRead(b *testing.B) {
	run(b, func(ctx context.Context, db *sql.DB) error {
		var balance int
		return db.QueryRowContext(ctx, "SELECT balance FROM accounts WHERE id = $1", 7).Scan(&balance)
	})
}

func BenchmarkReadManyRows(b *testing.B) {
	run(b, func(ctx context.Context, db *sql.DB) error {
		rows, err := db.QueryContext(ctx, "SELECT id, balance FROM accounts")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id, balance int
			if err := rows.Scan(&id, &balance); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}

func BenchmarkWrite(b *testing.B) {
	run(b, func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "UPDATE accounts SET balance = balance + 1 WHERE id = 1 + floor(random() * 1000)::int")
		return err
	})
}

func BenchmarkTransaction(b *testing.B) {
	run(b, func(ctx context.Context, db *sql.DB) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		var balance int
		if err := tx.QueryRowContext(ctx, "SELECT balance FROM accounts WHERE id = $1", 7).Scan(&balance); err != nil {
			return err
		}
		return tx.Commit()
	})
}
