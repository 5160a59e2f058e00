package integration

import (
	"context"
	"database/sql"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/integration/herds"
)

// silentStatements are the statements of the golden file of package routing, so
// that what is said of a text there is proven here.
func silentStatements(t *testing.T) (statements []string) {
	t.Helper()
	text, err := os.ReadFile("../routing/testdata/classify/silent.txt")
	if err != nil {
		t.Fatal(err)
	}
	for c := range strings.SplitSeq(string(text), "\n\n") {
		sql, answer, ok := strings.Cut(c, "\n----\n")
		for strings.HasPrefix(sql, "# ") {
			_, sql, _ = strings.Cut(sql, "\n")
		}
		if strings.HasPrefix(answer, "read") {
			t.Errorf("%s: a read is not for this file", sql)
		}
		if ok {
			statements = append(statements, strings.TrimSpace(sql))
		}
	}
	return statements
}

const silentSchema = `
	CREATE TABLE t (id int PRIMARY KEY);
	INSERT INTO t SELECT generate_series(1, 10);
	CREATE SEQUENCE s;
	SELECT nextval('s');
	SELECT lo_from_bytea(4242, 'abc')`

// silentHerd starts a herd of its own, since the statements change servers,
// and waits until its replica has the schema.
func silentHerd(t *testing.T) herds.Herd {
	t.Helper()
	herd := startHerd(t, herds.Options{Replicas: 1, Settings: map[string]string{"log_statement": "all"}})
	primary := openServer(t, herd.Primary())
	if _, err := primary.ExecContext(t.Context(), silentSchema, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := herd.WaitSync(ctx); err != nil {
		t.Fatal(err)
	}
	return herd
}

// openServer opens one server of a herd by itself, as one session.
func openServer(t *testing.T, s interface{ DSN() string }) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

// TestSilentStatements runs, through the driver and in a session of its own
// each, all that a standby would do without complaint and do wrong. The logs of
// the servers tell where it ran; whether it succeeds there is of no interest.
func TestSilentStatements(t *testing.T) {
	statements := silentStatements(t)
	if len(statements) < 120 {
		t.Fatalf("found %d statements only", len(statements))
	}
	for _, catalog := range []string{"off", "on"} {
		t.Run("catalog="+catalog, func(t *testing.T) {
			herd := silentHerd(t)
			db, err := sql.Open("pgherd", herd.DSN()+"&session_reset=discard&consistency=eventual&catalog="+catalog)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			db.SetMaxIdleConns(-1) // a connection that wrote would read from the primary
			connector, err := pgherd.FromDB(t.Context(), db)
			if err != nil {
				t.Fatal(err)
			}
			if err := connector.ReadCatalog(t.Context(), plain); err != nil {
				t.Fatal(err)
			}
			for _, statement := range statements {
				runInSession(t, db, statement)
			}
			primary, replica := statementsIn(herd.Primary()), statementsIn(herd.Replica(1))
			for _, statement := range statements {
				if !strings.Contains(primary, " "+statement+"\n") {
					t.Errorf("%s did not run on the primary", statement)
				}
				if strings.Contains(replica, " "+statement+"\n") {
					t.Errorf("%s ran on the replica", statement)
				}
			}
		})
	}
}

// statementsIn is the log of a server, which has each statement at the end of
// a line.
func statementsIn(s herds.Server) string { return s.LogTail(1<<20) + "\n" }

// plain is a read of which the answer tells where it ran.
const plain = "SELECT pg_is_in_recovery() FROM t LIMIT 1"

// runInSession runs a statement in a session that could read from the replica,
// as it shows first.
func runInSession(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var recovery bool
	if err := conn.QueryRowContext(ctx, plain).Scan(&recovery); err != nil {
		t.Fatal(err)
	}
	if !recovery {
		t.Fatalf("before %s, a plain read ran on the primary", statement)
	}
	rows, err := conn.QueryContext(ctx, statement)
	if err != nil {
		if ctx.Err() != nil {
			t.Errorf("%s: %v", statement, err)
		}
		return
	}
	for rows.Next() {
	}
	rows.Close()
}

// TestSilentEffects shows the effects themselves where they belong.
func TestSilentEffects(t *testing.T) {
	herd := silentHerd(t)
	primary := openServer(t, herd.Primary())
	db, err := sql.Open("pgherd", herd.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := t.Context()
	session := func(t *testing.T) *sql.Conn {
		t.Helper()
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	scan := func(t *testing.T, q interface {
		QueryRowContext(context.Context, string, ...any) *sql.Row
	}, query string, to any) {
		t.Helper()
		if err := q.QueryRowContext(ctx, query).Scan(to); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}

	t.Run("an advisory lock excludes a session on the primary", func(t *testing.T) {
		conn := session(t)
		var ok bool
		scan(t, conn, "SELECT pg_try_advisory_lock(100)", &ok)
		if !ok {
			t.Fatal("not taken")
		}
		scan(t, primary, "SELECT pg_try_advisory_lock(100)", &ok)
		if ok {
			t.Error("taken twice")
		}
		scan(t, conn, "SELECT pg_advisory_unlock(100)", &ok)
		if !ok {
			t.Error("released in another session")
		}
	})
	t.Run("a sequence is where the primary has it", func(t *testing.T) {
		var want, got int64
		scan(t, primary, "SELECT last_value FROM s", &want)
		scan(t, db, "SELECT last_value FROM s", &got)
		if got != want {
			t.Errorf("last_value is %d, want %d", got, want)
		}
		scan(t, db, "SELECT pg_sequence_last_value('s')", &got)
		if got != want {
			t.Errorf("pg_sequence_last_value is %d, want %d", got, want)
		}
	})
	t.Run("a setting stays in the session", func(t *testing.T) {
		conn := session(t)
		var got string
		scan(t, conn, "SELECT set_config('work_mem', '7MB', false)", &got)
		scan(t, conn, "SELECT setting || ' ' || pg_is_in_recovery() FROM pg_settings WHERE name = 'work_mem'", &got)
		if got != "7168 false" {
			t.Errorf("work_mem in recovery is %s", got)
		}
	})
	t.Run("a table's lock keeps a writer on the primary away", func(t *testing.T) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, "LOCK TABLE t IN SHARE ROW EXCLUSIVE MODE"); err != nil {
			t.Fatal(err)
		}
		if _, err := primary.ExecContext(ctx, "LOCK TABLE t IN ROW EXCLUSIVE MODE NOWAIT"); err == nil {
			t.Error("a second lock was granted")
		}
		var n int
		scan(t, primary, "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'ShareRowExclusiveLock'", &n)
		if n != 1 {
			t.Errorf("the primary has %d such locks", n)
		}
	})
	t.Run("a snapshot can be imported on the primary", func(t *testing.T) {
		tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		var id string
		scan(t, tx, "SELECT pg_export_snapshot()", &id)
		if _, err := primary.ExecContext(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '"+id+"'; COMMIT", pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Error(err)
		}
	})
	t.Run("ALTER SYSTEM changes the primary", func(t *testing.T) {
		if _, err := db.ExecContext(ctx, "ALTER SYSTEM SET work_mem = '9MB'"); err != nil {
			t.Fatal(err)
		}
		var n int
		const files = "SELECT count(*) FROM pg_file_settings WHERE name = 'work_mem' AND setting = '9MB'"
		scan(t, primary, files, &n)
		if n != 1 {
			t.Error("the primary has no such setting")
		}
		scan(t, openServer(t, herd.Replica(1)), files, &n)
		if n != 0 {
			t.Error("the replica has the setting")
		}
	})
}
