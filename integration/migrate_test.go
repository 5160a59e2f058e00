package integration

import (
	"database/sql"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/golang-migrate/migrate/v4"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Tools for migrations take a session's advisory lock on one sql.Conn, which
// looks like a read (SELECT pg_try_advisory_lock), and rely on it: of several
// that start at once, one migrates and the others find its work done.
func TestGoose(t *testing.T) {
	db := openHerd(t)
	files := fstest.MapFS{
		"00001_accounts.sql": {Data: []byte("-- +goose Up\ncreate table accounts (id int primary key);\ninsert into accounts values (1), (2);\n-- +goose Down\ndrop table accounts;\n")},
		"00002_function.sql": {Data: []byte("-- +goose Up\n-- +goose StatementBegin\ncreate function f() returns int language plpgsql as $$ begin return 1; end $$;\n-- +goose StatementEnd\n-- +goose Down\ndrop function f();\n")},
		"00003_index.sql":    {Data: []byte("-- +goose NO TRANSACTION\n-- +goose Up\ncreate index concurrently on accounts (id);\nalter table accounts add column name text;\n-- +goose Down\nalter table accounts drop column name;\n")},
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	applied := 0 // guarded by mu
	for range 3 {
		wg.Go(func() {
			locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60))
			if err != nil {
				t.Error(err)
				return
			}
			p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker))
			if err != nil {
				t.Error(err)
				return
			}
			results, err := p.Up(t.Context())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			applied += len(results)
		})
	}
	wg.Wait()
	if applied != len(files) {
		t.Errorf("%d migrations were applied, want each of %d once", applied, len(files))
	}
	var n int
	if err := db.QueryRow("select count(*) from accounts where name is null").Scan(&n); err != nil || n != 2 {
		t.Errorf("%d accounts, %v", n, err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := p.GetDBVersion(t.Context()); err != nil || v != 3 {
		t.Errorf("version %d, %v", v, err)
	}
	if _, err := p.DownTo(t.Context(), 0); err != nil {
		t.Error(err)
	}
	noLocksLeft(t, db)
}

func TestMigrate(t *testing.T) {
	files := fstest.MapFS{
		"1_accounts.up.sql":   {Data: []byte("begin; create table accounts (id int primary key); insert into accounts values (1), (2); commit;")},
		"1_accounts.down.sql": {Data: []byte("drop table accounts")},
		"2_name.up.sql":       {Data: []byte("alter table accounts add column name text; update accounts set name = 'x'")},
		"2_name.down.sql":     {Data: []byte("alter table accounts drop column name")},
		"3_broken.up.sql":     {Data: []byte("insert into accounts values (1)")},
	}
	dsn := herdDatabase(t).DSN()
	open := func() (*migrate.Migrate, error) {
		db, err := sql.Open("pgherd", dsn)
		if err != nil {
			return nil, err
		}
		driver, err := migratepgx.WithInstance(db, &migratepgx.Config{})
		if err != nil {
			return nil, errors.Join(err, db.Close())
		}
		source, err := iofs.New(files, ".")
		if err != nil {
			return nil, err
		}
		return migrate.NewWithInstance("iofs", source, "herd", driver)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			m, err := open()
			if err != nil {
				t.Error(err)
				return
			}
			defer m.Close()
			if err := m.Migrate(2); err != nil && !errors.Is(err, migrate.ErrNoChange) {
				t.Error(err)
			}
		})
	}
	wg.Wait()

	m, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if v, dirty, err := m.Version(); v != 2 || dirty || err != nil {
		t.Errorf("version %d, dirty %t, %v", v, dirty, err)
	}
	// It type-asserts *pgconn.PgError to tell the line of an error.
	err = m.Up()
	if err == nil {
		t.Fatal("a migration that breaks a constraint succeeded")
	}
	if want := `duplicate key value violates unique constraint "accounts_pkey"`; !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Key (id)=(1) already exists.") {
		t.Errorf("err = %v, want %q and its detail", err, want)
	}
	if _, dirty, _ := m.Version(); !dirty {
		t.Error("a failed migration does not count as dirty")
	}
	if err := m.Force(2); err != nil {
		t.Error(err)
	}
	if err := m.Down(); err != nil {
		t.Error(err)
	}
	if err := m.Drop(); err != nil {
		t.Error(err)
	}
	db, err := sql.Open("pgherd", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	noLocksLeft(t, db)
}

// noLocksLeft checks that no session kept an advisory lock.
func noLocksLeft(t *testing.T, db *sql.DB) {
	t.Helper()
	var n int
	query := "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"
	if err := db.QueryRow("/* pgherd: primary */ " + query).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d advisory locks are left, %v", n, err)
	}
}
