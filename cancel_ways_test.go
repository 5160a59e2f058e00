package pgherd_test

import (
	"context"
	"crypto/x509"
	"database/sql"
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/pgherdtest"
)

// A statement is cancelled, and its connection kept, whatever the connection goes
// through, and whatever the statement waits for.
func TestCancelGoesEveryWay(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(0), pgherdtest.Settings(map[string]string{"unix_socket_directories": "."}))
	side, err := pgx.Connect(t.Context(), h.Primary().DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer side.Close(context.Background())
	var data string
	if err := side.QueryRow(t.Context(), "show data_directory").Scan(&data); err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t, "ca")
	ca.issue(t, certificate{names: []string{"herd.test"}}).install(t, h.Primary())
	root := ca.file(t)
	direct, err := pgconn.ParseConfig(h.Primary().DirectDSN())
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(int(direct.Port))
	if _, err := side.Exec(t.Context(), "create table locked (n int)"); err != nil {
		t.Fatal(err)
	}
	observer, err := sql.Open("pgx", h.Primary().DSN()) // a transaction sees no changes in pg_stat_activity
	if err != nil {
		t.Fatal(err)
	}
	defer observer.Close()
	lock, err := side.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Rollback(context.Background())
	if _, err := lock.Exec(t.Context(), "lock table locked"); err != nil {
		t.Fatal(err)
	}

	r := newRecords()
	r.setAddresses("herd.test", net.JoinHostPort(direct.Host, port))
	verified := "postgres://postgres@herd.test/postgres?sslmode=verify-full&sslrootcert=" + root
	overTLS, _ := openFound(t, verified+"&pool_max_conns=1", r)
	overSocket := openDB(t, "postgres://postgres@/postgres?pool_max_conns=1&port="+port+"&host="+data)
	for name, db := range map[string]execQueryer{"TLS": overTLS, "a Unix socket": overSocket} {
		const how = `select case when ssl then 'TLS' when client_addr is null then 'a Unix socket' else 'plain TCP' end
			from pg_stat_activity join pg_stat_ssl using (pid) where pid = pg_backend_pid()`
		if got := get[string](t, db, how); got != name {
			t.Errorf("the connection goes over %s, want %s", got, name)
		}
		for _, query := range []string{"select pg_sleep(60)", "insert into locked values (1)", "select count(*) from locked"} {
			// A machine that is busy may take longer to cancel than the herd waits.
			kept := false
			for attempt := 0; !kept && attempt < 20; attempt++ {
				kept = cancelKeepsBackend(t, db, observer, query)
			}
			if !kept {
				t.Errorf("%s over %s costs its connection each time", query, name)
			}
		}
	}

	// The address of a server is no name that its certificate holds.
	wrong := openDB(t, strings.Replace(verified, "herd.test", net.JoinHostPort(direct.Host, port), 1))
	var unverified x509.HostnameError
	if err := wrong.Ping(); !errors.As(err, &unverified) {
		t.Errorf("under its address: %v", err)
	}
}

// cancelKeepsBackend runs a query that waits, cancels it, and reports whether the
// server answered and the backend is there still. observer leads to the primary.
func cancelKeepsBackend(t *testing.T, db execQueryer, observer *sql.DB, query string) bool {
	t.Helper()
	const backend = "/* pgherd: primary */ select pg_backend_pid()"
	pid := get[int](t, db, backend)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := db.ExecContext(ctx, query)
		done <- err
	}()
	eventually(t, "the statement waits", func() bool {
		const q = "select count(*) from pg_stat_activity where pid = $1 and wait_event_type in ('Timeout', 'Lock')"
		return get[int](t, observer, q, pid) == 1
	})
	cancel()
	err := <-done
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%s: %v, want the caller's cancellation", query, err)
	}
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.Code == "57014" && get[int](t, db, backend) == pid
}

type execQueryer interface {
	execer
	queryer
}

// Where no request to cancel arrives, the caller is kept no longer than by a
// server that is frozen, and the connection is given up.
func TestCancelDuringPartition(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(0))
	db := openDB(t, h.DSN())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tx, err := db.BeginTx(t.Context(), nil) // its connection is cut by nobody else
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	side, err := pgx.Connect(t.Context(), h.Primary().DirectDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer side.Close(context.Background())
	sleeping := func() (n int) {
		const q = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
		if err := side.QueryRow(t.Context(), q).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	done := make(chan error, 1)
	go func() {
		_, err := tx.ExecContext(ctx, "select pg_sleep(3600)")
		done <- err
	}()
	eventually(t, "the statement runs", func() bool { return sleeping() == 1 })
	if err := h.Primary().Partition(); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v, want the caller's", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the call does not return")
	}
	if err := h.Primary().Heal(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server is back", func() bool { return db.Ping() == nil })
	get[int](t, db, "select 1")
}
