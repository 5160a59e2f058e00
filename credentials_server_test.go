package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// A vault makes users that live for a time, as the administrator of a real primary.
type vault struct {
	admin *pgx.Conn
	life  time.Duration

	mu    sync.Mutex
	n     int
	users []string // guarded by mu
}

// Credentials makes a user.
func (v *vault) Credentials(ctx context.Context, login pgherd.Login) (pgherd.Credentials, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.n++
	user, password := fmt.Sprintf("app_%d", v.n), fmt.Sprintf("secret-%d", v.n)
	expires := time.Now().Add(v.life)
	sql := fmt.Sprintf("create role %s login password '%s' in role app", user, password)
	if _, err := v.admin.Exec(ctx, sql); err != nil {
		return pgherd.Credentials{}, err
	}
	// A replica is to know the user, too.
	for range 100 {
		var behind bool
		if err := v.admin.QueryRow(ctx, "select exists (select from pg_stat_replication where replay_lsn < pg_current_wal_flush_lsn())").Scan(&behind); err != nil {
			return pgherd.Credentials{}, err
		}
		if !behind {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	v.users = append(v.users, user)
	return pgherd.Credentials{User: user, Password: pgherd.Secret(password), Expires: expires}, nil
}

// revoke ends all users but the last few, and their sessions, as a vault does.
func (v *vault) revoke(ctx context.Context, keep int) (ended int, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for len(v.users) > keep {
		user := v.users[0]
		v.users = v.users[1:]
		if _, err := v.admin.Exec(ctx, "alter role "+user+" nologin"); err != nil {
			return ended, err
		}
		var n int
		if err := v.admin.QueryRow(ctx, "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = $1", user).Scan(&n); err != nil {
			return ended, err
		}
		ended += n
	}
	return ended, nil
}

// requirePasswords has all servers of a herd ask everybody but the administrator for
// a password.
func requirePasswords(t *testing.T, h *pgherdtest.Herd) {
	t.Helper()
	for _, s := range h.Servers() {
		asAdmin(t, s, place("pg_hba.conf", "local all postgres trust\nhost all postgres all trust\nhost replication postgres all trust\nhost all all all scram-sha-256"), "select pg_reload_conf()")
	}
}

// Users and passwords that live for seconds change under load, on a primary and a
// replica, and nothing fails.
func TestCredentialsRotateUnderLoad(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	requirePasswords(t, h)
	asAdmin(t, h.Primary(), "create role app", "create table sheep (n int)", "grant all on sheep to app")
	admin, err := pgx.Connect(t.Context(), h.Primary().DirectDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	v := &vault{admin: admin, life: 2 * time.Second}
	cfg, err := pgherd.ParseDSN(h.DSN())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Credentials = v
	c, err := pgherd.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close()
	var wg sync.WaitGroup
	var reads, writes atomic.Int64
	users := new(sync.Map)
	ctx, stop := context.WithCancel(t.Context())
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := db.Exec("insert into sheep values (1)"); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				writes.Add(1)
				var user string
				if err := db.QueryRow("select current_user").Scan(&user); err != nil {
					t.Errorf("read: %v", err)
					return
				}
				users.Store(user, true)
				reads.Add(1)
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	seen := func() (n int) {
		users.Range(func(any, any) bool { n++; return true })
		return n
	}
	eventually(t, "six users were seen", func() bool { return seen() >= 6 || t.Failed() })
	stop()
	wg.Wait()
	if n := get[int](t, db, "/* pgherd: primary */ select count(*) from sheep"); n != int(writes.Load()) {
		t.Errorf("%d rows of %d writes", n, writes.Load())
	}
	t.Logf("%d reads and %d writes by %d users", reads.Load(), writes.Load(), seen())
	if t.Failed() {
		return
	}

	// A connection does not outlive what it was opened with.
	eventually(t, "the sessions of users that have expired are over", func() bool {
		get[int](t, db, "select 1")
		ended, err := v.revoke(t.Context(), 6)
		if err != nil {
			t.Fatal(err)
		}
		return ended == 0
	})
}

// A password that was changed on the server, and then where it is kept, is found with
// the first refusal.
func TestChangedPasswordIsAskedForAgain(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(0))
	requirePasswords(t, h)
	asAdmin(t, h.Primary(), "create role app login password 'first'")
	var now atomic.Pointer[string]
	now.Store(ptr("first"))
	calls := 0
	cfg, err := pgherd.ParseDSN(strings.Replace(h.DSN(), "postgres@", "app@", 1))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Credentials = pgherd.CredentialFunc(func(context.Context, pgherd.Login) (pgherd.Credentials, error) {
		calls++
		return pgherd.Credentials{Password: pgherd.Secret(*now.Load()), Expires: time.Now().Add(time.Hour)}, nil
	})
	c, err := pgherd.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close()
	get[int](t, db, "select 1")
	now.Store(ptr("second"))
	asAdmin(t, h.Primary(), "alter role app password 'second'", "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'")
	eventually(t, "there is a connection", func() bool { return db.Ping() == nil })
	if calls != 2 {
		t.Errorf("the provider was asked %d times, want 2", calls)
	}

	now.Store(ptr("wrong"))
	asAdmin(t, h.Primary(), "alter role app password 'third'", "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'")
	var refused *pgconn.PgError
	eventually(t, "the refusal is the caller's", func() bool { return errors.As(db.Ping(), &refused) && refused.Code == "28P01" })
}

// Secrets that are mounted as files are read for each new connection.
func TestFileCredentials(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(0))
	requirePasswords(t, h)
	dir := t.TempDir()
	user, password := filepath.Join(dir, "user"), filepath.Join(dir, "password")
	rotate := func(u, p string) {
		t.Helper()
		asAdmin(t, h.Primary(), "create role "+u+" login password '"+p+"'")
		for path, text := range map[string]string{user: u, password: p} {
			if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	rotate("one", "first")
	t.Setenv("PGUSER", "two")
	t.Setenv("PG_PASSWORD_FILE", password)
	fromEnv, err := pgherd.ConfigFromEnv()
	if err != nil {
		t.Fatal(err)
	}
	var dbs []*sql.DB
	for i, params := range []string{"", "&pool_min_conns=0"} {
		cfg, err := pgherd.ParseDSN(h.DSN() + params)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			cfg.Credentials = pgherd.FileCredentials(user, password)
		} else {
			hosts := cfg.Hosts
			cfg = fromEnv
			cfg.Hosts, cfg.Database = hosts, "postgres"
		}
		c, err := pgherd.NewConnector(cfg)
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(c)
		defer db.Close()
		dbs = append(dbs, db)
	}
	if got := get[string](t, dbs[0], "select current_user"); got != "one" {
		t.Errorf("logged in as %s", got)
	}
	rotate("two", "second")
	asAdmin(t, h.Primary(), "alter role one nologin", "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'one'")
	for _, db := range dbs {
		eventually(t, "the new user is logged in", func() bool {
			var got string
			return db.QueryRow("select current_user").Scan(&got) == nil && got == "two"
		})
	}
}
