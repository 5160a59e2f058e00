package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	migratepq "github.com/golang-migrate/migrate/v4/database/postgres"
	_ "github.com/golang-migrate/migrate/v4/source/file"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	bunmigrate "github.com/uptrace/bun/migrate"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// https://github.com/pressly/goose#embedded-sql-migrations and its
// examples/sql-migrations and go-migrations.
func gooseQuickStart(t *testing.T, db *sql.DB) func(context.Context) error {
	goose.SetBaseFS(fstest.MapFS{
		"migrations/00001_create_users_table.sql": {Data: []byte(`-- +goose Up
CREATE TABLE users (id int NOT NULL PRIMARY KEY, username text, name text, surname text);
INSERT INTO users VALUES (0, 'root', '', ''), (1, 'vojtechvitek', 'Vojtech', 'Vitek');
-- +goose Down
DROP TABLE users;
`)},
		"migrations/00003_no_transaction.sql": {Data: []byte(`-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX CONCURRENTLY users_username ON users (username);
VACUUM users;
-- +goose Down
DROP INDEX CONCURRENTLY users_username;
`)},
	})
	goose.SetLogger(goose.NopLogger())
	goose.AddNamedMigrationContext("00002_rename_root.go",
		func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "UPDATE users SET username='admin' WHERE username='root'")
			return err
		},
		func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "UPDATE users SET username='root' WHERE username='admin'")
			return err
		})
	goose.AddNamedMigrationNoTxContext("00004_by_hand.go", func(ctx context.Context, db *sql.DB) error {
		var n int
		if err := db.QueryRowContext(ctx, "SELECT count(*) FROM users WHERE username = 'admin'").Scan(&n); err != nil || n != 1 {
			return fmt.Errorf("migration 2 renamed %d, %w", n, err)
		}
		_, err := db.ExecContext(ctx, "INSERT INTO users VALUES (2, 'goose')")
		return err
	}, nil)
	t.Cleanup(goose.ResetGlobalMigrations)

	if err := goose.SetDialect("postgres"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := goose.Up(db, "migrations"); err != nil {
			t.Fatal(err)
		}
	}
	usernames := func(ctx context.Context, want string) error {
		var names string
		err := db.QueryRowContext(ctx, "SELECT string_agg(username, ' ' ORDER BY id) FROM users").Scan(&names)
		if err != nil || names != want {
			return fmt.Errorf("users are %q, %w", names, err)
		}
		return nil
	}
	if err := usernames(t.Context(), "admin vojtechvitek goose"); err != nil {
		t.Error(err)
	}
	if err := goose.DownTo(db, "migrations", 1); err != nil {
		t.Fatal(err)
	}
	if err := usernames(t.Context(), "root vojtechvitek goose"); err != nil {
		t.Error(err)
	}
	if err := goose.UpTo(db, "migrations", 3); err != nil {
		t.Fatal(err)
	}
	if err := goose.Status(db, "migrations"); err != nil {
		t.Error(err)
	}
	return func(ctx context.Context) error {
		if v, err := goose.GetDBVersionContext(ctx, db); err != nil || v != 3 {
			return fmt.Errorf("version %d, %w", v, err)
		}
		return usernames(ctx, "admin vojtechvitek goose")
	}
}

// https://github.com/golang-migrate/migrate/blob/master/database/postgres/TUTORIAL.md.
// migrate.New knows databases by the schemes of URLs, so that one opens the database,
// as the tutorial's last chapter does. It is migrate's then, to be closed by it.
func TestMigrateQuickStart(t *testing.T) {
	dsn := herdDatabase(t).DSN()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"000001_create_users_table.up.sql":   "CREATE TABLE IF NOT EXISTS users (user_id serial PRIMARY KEY, username VARCHAR (50) UNIQUE NOT NULL);",
		"000001_create_users_table.down.sql": "DROP TABLE IF EXISTS users;",
		"000002_add_mood_to_users.up.sql":    "BEGIN; CREATE TYPE enum_mood AS ENUM ('happy', 'sad', 'neutral'); ALTER TABLE users ADD COLUMN mood enum_mood; COMMIT;",
		"000002_add_mood_to_users.down.sql":  "BEGIN; ALTER TABLE users DROP COLUMN mood; DROP TYPE enum_mood; COMMIT;",
		"000003_index.up.sql":                "CREATE INDEX CONCURRENTLY users_mood ON users (mood)",
		"000003_index.down.sql":              "DROP INDEX CONCURRENTLY users_mood",
		"000004_broken.up.sql":               "INSERT INTO users (username, mood) VALUES ('Ann', 'happy'),\n('Bob', 'angry')",
		"000004_broken.down.sql":             "DELETE FROM users",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	db, err := sql.Open("pgherd", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	driver, err := migratepq.WithInstance(db, &migratepq.Config{})
	if err != nil {
		t.Fatal(err)
	}
	// So that the table of versions stays where it is when a schema "$user" comes.
	if err := driver.Run(strings.NewReader("SET search_path TO public;")); err != nil {
		t.Fatal(err)
	}
	m, err := migrate.NewWithDatabaseInstance("file://"+dir, "postgres", driver)
	if err != nil {
		t.Fatal(err)
	}
	steps := func(n int, version uint) {
		t.Helper()
		if err := m.Steps(n); err != nil {
			t.Fatal(err)
		}
		if v, dirty, err := m.Version(); v != version || dirty || err != nil {
			t.Errorf("version %d, dirty %t, %v", v, dirty, err)
		}
	}
	steps(1, 1)
	steps(2, 3)
	if err := m.Up(); err == nil || !strings.Contains(err.Error(), `invalid input value for enum enum_mood: "angry"`) {
		t.Errorf("a broken migration: %v", err)
	}
	var dirty migrate.ErrDirty
	if err := m.Up(); !errors.As(err, &dirty) || dirty.Version != 4 {
		t.Errorf("after a broken migration: %v", err)
	}
	if err := m.Force(3); err != nil {
		t.Fatal(err)
	}
	if err := m.Down(); err != nil {
		t.Fatal(err)
	}
	if err := m.Migrate(3); err != nil {
		t.Fatal(err)
	}
	c, err := pgherd.FromDB(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	if n := c.Stats().Misroutes; n != 0 {
		t.Errorf("%d statements were refused by replicas", n)
	}
	if sourceErr, err := m.Close(); sourceErr != nil || err != nil {
		t.Error(sourceErr, err)
	}

	app, err := sql.Open("pgherd", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	insert := "INSERT INTO users (username, mood) VALUES ('Cleo', 'sad') RETURNING user_id"
	if err := app.QueryRowContext(t.Context(), insert).Scan(new(int)); err != nil {
		t.Fatal(err)
	}
	onReplicas(t, app, func(ctx context.Context) error {
		var mood string
		if err := app.QueryRowContext(ctx, "SELECT mood FROM users WHERE username = $1", "Cleo").Scan(&mood); err != nil || mood != "sad" {
			return fmt.Errorf("mood %q, %w", mood, err)
		}
		return nil
	})
}

// A migrator brings a database to version 1, or to 2, which adds a row.
type migrator struct {
	name string
	up   func(ctx context.Context, db *sql.DB, version int) error
}

var migrations = fstest.MapFS{
	"goose/1_accounts.sql":    {Data: []byte("-- +goose Up\ncreate table accounts (id int);\n")},
	"goose/2_account.sql":     {Data: []byte("-- +goose Up\ninsert into accounts values (1);\n")},
	"migrate/1_first.up.sql":  {Data: []byte("create table accounts (id int)")},
	"migrate/2_second.up.sql": {Data: []byte("insert into accounts values (1)")},
	"bun/1_first.tx.up.sql":   {Data: []byte("create table accounts (id int)")},
	"bun/2_second.tx.up.sql":  {Data: []byte("insert into accounts values (1)")},
}

// The ways to migrate when several processes start at once: each takes a lock
// first, on a connection of its own or in a table.
var migrators = []migrator{
	{"goose, session lock", func(ctx context.Context, db *sql.DB, version int) error {
		l, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60))
		if err != nil {
			return err
		}
		return gooseUp(ctx, db, version, goose.WithSessionLocker(l))
	}},
	{"goose, lock table", func(ctx context.Context, db *sql.DB, version int) error {
		l, err := lock.NewPostgresTableLocker(lock.WithTableLockTimeout(50*time.Millisecond, 1000))
		if err != nil {
			return err
		}
		return gooseUp(ctx, db, version, goose.WithLocker(l))
	}},
	{"goose, lock by hand", byHand(func(ctx context.Context, db *sql.DB, version int) error {
		return gooseUp(ctx, db, version)
	})},
	{"migrate, pgx", func(ctx context.Context, db *sql.DB, version int) error {
		return migrateTo(ctx, db, version, func(db *sql.DB) (database.Driver, error) {
			return migratepgx.WithInstance(db, new(migratepgx.Config))
		})
	}},
	{"migrate, pq", func(ctx context.Context, db *sql.DB, version int) error {
		return migrateTo(ctx, db, version, func(db *sql.DB) (database.Driver, error) {
			return migratepq.WithInstance(db, new(migratepq.Config))
		})
	}},
	{"bun", func(ctx context.Context, sqldb *sql.DB, version int) error {
		all := bunmigrate.NewMigrations()
		if err := all.Discover(migrations); err != nil {
			return err
		}
		some := bunmigrate.NewMigrations()
		for _, m := range all.Sorted()[:version] {
			some.Add(m)
		}
		m := bunmigrate.NewMigrator(bun.NewDB(sqldb, pgdialect.New()), some)
		if version == 1 {
			if err := m.Init(ctx); err != nil {
				return err
			}
		}
		for m.Lock(ctx) != nil { // its unique index makes it wait
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		_, err := m.Migrate(ctx)
		return errors.Join(err, m.Unlock(ctx))
	}},
	{"ent, lock by hand", byHand(func(ctx context.Context, db *sql.DB, version int) error {
		if version == 1 {
			_, err := db.ExecContext(ctx, "create table accounts (id int)")
			return err
		}
		if err := entClient(db).Schema.Create(ctx); err != nil {
			return err
		}
		_, err := db.ExecContext(ctx, "insert into accounts select 1 where not exists (select from accounts)")
		return err
	})},
	{"GORM, lock by hand", byHand(func(ctx context.Context, db *sql.DB, version int) error {
		g, err := gorm.Open(postgres.New(postgres.Config{Conn: db}), &gorm.Config{Logger: logger.Discard})
		if err != nil {
			return err
		}
		g = g.WithContext(ctx)
		if version == 1 {
			return g.Exec("create table accounts (id int)").Error
		}
		// A migration of one's own: no version table, and no transaction.
		var n int64
		if err := g.Table("accounts").Count(&n).Error; err != nil || n > 0 {
			return err
		}
		return errors.Join(g.AutoMigrate(&customer{}, &order{}), g.Exec("insert into accounts values (1)").Error)
	})},
}

// byHand has up run under an advisory lock that is held on a connection of its own,
// as is done with tools that take none.
func byHand(up func(context.Context, *sql.DB, int) error) func(context.Context, *sql.DB, int) error {
	return func(ctx context.Context, db *sql.DB, version int) error {
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.ExecContext(ctx, "select pg_advisory_lock($1)", 7); err != nil {
			return err
		}
		err = up(ctx, db, version)
		_, unlockErr := conn.ExecContext(ctx, "select pg_advisory_unlock($1)", 7)
		return errors.Join(err, unlockErr)
	}
}

func gooseUp(ctx context.Context, db *sql.DB, version int, opts ...goose.ProviderOption) error {
	sub, err := migrations.Sub("goose")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, sub, append(opts, goose.WithDisableGlobalRegistry(true))...)
	if err != nil {
		return err
	}
	_, err = p.UpTo(ctx, int64(version))
	return err
}

func migrateTo(ctx context.Context, db *sql.DB, version int, with func(*sql.DB) (database.Driver, error)) error {
	driver, err := with(db)
	if err != nil {
		return err
	}
	files, err := iofs.New(migrations, "migrate")
	if err != nil {
		return err
	}
	m, err := migrate.NewWithInstance("iofs", files, "herd", driver)
	if err != nil {
		return err
	}
	if err := m.Migrate(uint(version)); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return err
	}
	return ctx.Err()
}

// Of several processes that migrate at once one does, and the others find its work
// done, although the replicas show none of it and may be as late as they are.
func TestMigratorsOnLateReplicas(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(2))
	const done = "select count(*) from accounts"
	for _, m := range migrators {
		t.Run(m.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			l := openLate(t, h, 3, done, func(db *sql.DB) error { return m.up(ctx, db, 1) })
			var wg sync.WaitGroup
			for _, db := range l.dbs {
				wg.Go(func() {
					if err := m.up(ctx, db, 2); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			primary, err := sql.Open("pgx", l.ServerDSN(h.Primary()))
			if err != nil {
				t.Fatal(err)
			}
			defer primary.Close()
			var n int
			if err := primary.QueryRow(done).Scan(&n); err != nil || n != 1 {
				t.Errorf("migration 2 ran %d times, %v", n, err)
			}
			noLocksLeft(t, primary)
		})
	}
}
