package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// TestEveryVariable shows on real servers what each variable that ConfigFromEnv reads
// changes: what is seen without it, and with it.
func TestEveryVariable(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	ca := newAuthority(t, "ca")
	for _, s := range h.Servers() {
		asAdmin(t, s, place("root.crt", string(ca.pem)), "alter system set ssl_ca_file = 'root.crt'",
			place("pg_hba.conf", "host all secret all scram-sha-256\nhostssl all bearer all cert\nhost all all all trust\nhost replication all all trust"))
		ca.issue(t, certificate{names: []string{"herd.test"}}).install(t, s)
	}
	asAdmin(t, h.Primary(), "create user other", "create user bearer", "create user secret password 'hunter2'", "create database elsewhere")
	client := ca.issue(t, certificate{user: "bearer"})
	cert, key := tempFile(t, "client.crt", client.cert), tempFile(t, "client.key", client.key)
	replica := h.Replica(1).Addr()
	recording := filepath.Join(t.TempDir(), "recording.json")

	type row struct {
		beside        []string // what else is set, with and without the variable
		value         string
		see           func(t *testing.T, db *sql.DB, want string) string
		without, with string
	}
	answer := func(query string) func(*testing.T, *sql.DB, string) string {
		return func(t *testing.T, db *sql.DB, _ string) (s string) {
			if err := db.QueryRow("/* pgherd: primary */ " + query).Scan(&s); err != nil {
				return told(err)
			}
			return s
		}
	}
	rows := map[string]row{
		"PG_HOST":          {[]string{"PGHOST=127.0.0.77"}, h.Primary().Host(), answer("select current_setting('cluster_name')"), "connection", "primary"},
		"PG_PORT":          {[]string{"PGPORT=1"}, strconv.Itoa(h.Primary().Port()), answer("select current_setting('cluster_name')"), "connection", "primary"},
		"PG_DATABASE":      {nil, "elsewhere", answer("select current_database()"), "postgres", "elsewhere"},
		"PG_USERNAME":      {nil, "other", answer("select current_user"), "postgres", "other"},
		"PG_PASSWORD":      {[]string{"PGUSER=secret"}, "hunter2", answer("select current_user"), "28P01", "secret"},
		"PG_PASSWORD_FILE": {[]string{"PGUSER=secret"}, tempFile(t, "password", []byte("hunter2\n")), answer("select current_user"), "28P01", "secret"},
		"PG_SSLMODE":       {nil, "disable", answer("select ssl from pg_stat_ssl where pid = pg_backend_pid()"), "true", "false"},
		"PG_SSLROOTCERT":   {[]string{"PGSSLMODE=verify-ca"}, ca.file(t), answer("select ssl from pg_stat_ssl where pid = pg_backend_pid()"), "x509", "true"},
		"PG_SSLCERT":       {[]string{"PGUSER=bearer", "PGSSLMODE=require", "PG_SSLKEY=" + key}, cert, answer("select current_user"), "pgx", "bearer"},
		"PG_SSLKEY":        {[]string{"PGUSER=bearer", "PGSSLMODE=require", "PG_SSLCERT=" + cert}, key, answer("select current_user"), "pgx", "bearer"},
		"PG_REPLICA_HOSTS": {nil, replica, seeReplica, "false", "true"},
		"PG_POOL_MIN":      {nil, "7", seeWarm, "5", "7"},
		"PG_POOL_MAX":      {[]string{"PG_ACQUIRE_TIMEOUT=20ms", "PG_POOL_MIN=0"}, "3", seeRoom, "20", "3"},
		"PG_ACQUIRE_TIMEOUT": {[]string{"PG_POOL_MAX=1", "PG_POOL_MIN=0"}, "20ms", func(t *testing.T, db *sql.DB, _ string) string {
			tx, err := db.Begin()
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			_, err = db.BeginTx(ctx, nil)
			return told(err)
		}, "deadline", "acquire"},
		"PG_QUERY_TIMEOUT":   {nil, "50ms", answer("select pg_sleep(0.5)"), "", "deadline"},
		"PG_SIMULATION_MODE": {[]string{"PG_SIMULATION_FILE=" + recording}, "record!", seeFile(recording), "none", "recorded"},
		"PG_SIMULATION_FILE": {[]string{"PG_SIMULATION_MODE=record!"}, recording, seeFile(recording), "simulation_file", "recorded"},
	}

	code := make(map[string]bool)
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`"(PG_[A-Z_]+)"`).FindAllSubmatch(text, -1) {
			code[string(name[1])] = true
		}
	}
	known := slices.Sorted(maps.Keys(code))
	if shown := slices.Sorted(maps.Keys(rows)); !slices.Equal(shown, known) {
		t.Errorf("the effect of\n%q\nis shown, and the code reads\n%q", shown, known)
	}

	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			for _, v := range os.Environ() {
				if old, _, _ := strings.Cut(v, "="); strings.HasPrefix(old, "PG") && !strings.HasPrefix(old, "PGHERD_") {
					t.Setenv(old, "") // so that it comes back
					os.Unsetenv(old)
				}
			}
			t.Setenv("HOME", t.TempDir())
			for _, v := range append([]string{"PGHOST=" + h.Primary().Host(), "PGPORT=" + strconv.Itoa(h.Primary().Port()), "PGUSER=postgres", "PGDATABASE=postgres"}, r.beside...) {
				name, value, _ := strings.Cut(v, "=")
				t.Setenv(name, value)
			}
			for _, set := range []bool{false, true} {
				want := r.without
				if set {
					t.Setenv(name, r.value)
					want = r.with
				}
				os.Remove(recording)
				db, err := openEnv()
				if err != nil {
					if got := told(err); got != want {
						t.Errorf("set %v: %s, want %q: %v", set, got, want, err)
					}
					continue
				}
				if got := r.see(t, db, want); got != want {
					t.Errorf("set %v: seen is %q, want %q", set, got, want)
				}
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func openEnv() (*sql.DB, error) {
	cfg, err := pgherd.ConfigFromEnv()
	if err != nil {
		return nil, err
	}
	cfg.PoolHealthCheckPeriod = 100 * time.Millisecond // of a minute nobody waits for the end
	return pgherd.OpenDB(cfg)
}

// told names an error in a word.
func told(err error) string {
	var (
		server  *pgconn.PgError
		acquire *pgherd.AcquireError
		refused *net.OpError
	)
	switch {
	case err == nil:
		return "no error"
	case errors.As(err, &server) && server.Code != "57014":
		return server.Code
	case errors.As(err, &acquire):
		return "acquire"
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline"
	case strings.Contains(err.Error(), "x509: "):
		return "x509"
	case errors.As(err, &refused):
		return "connection"
	case strings.Contains(err.Error(), "pgx does not accept these settings"):
		return "pgx"
	case strings.Contains(err.Error(), "simulation_file"):
		return "simulation_file"
	}
	return err.Error()
}

// seeReplica tells whether a replica comes to serve a read.
func seeReplica(t *testing.T, db *sql.DB, want string) string {
	var s string
	eventually(t, "a read is where it should be", func() bool {
		s = get[string](t, db, "select pg_is_in_recovery()::text")
		return s == want
	})
	return s
}

// seeWarm tells how many connections are kept open that nobody uses.
func seeWarm(t *testing.T, db *sql.DB, want string) string {
	c := herdOf(t, db)
	var n int
	eventually(t, want+" connections are open", func() bool {
		n = c.Stats().Servers[0].Pool.Idle
		return strconv.Itoa(n) == want
	})
	return strconv.Itoa(n)
}

// seeRoom tells how many transactions can run at a time.
func seeRoom(t *testing.T, db *sql.DB, _ string) string {
	var open []*sql.Tx
	defer func() {
		for _, tx := range open {
			tx.Rollback()
		}
	}()
	for len(open) < 100 {
		tx, err := db.Begin()
		if err != nil {
			if told(err) != "acquire" {
				return told(err)
			}
			break
		}
		open = append(open, tx)
	}
	return strconv.Itoa(len(open))
}

// seeFile tells whether what is run is recorded in a file.
func seeFile(path string) func(*testing.T, *sql.DB, string) string {
	return func(t *testing.T, db *sql.DB, _ string) string {
		get[int](t, db, "select 1")
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err != nil {
			return "none"
		}
		return "recorded"
	}
}
