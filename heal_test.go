package pgherd_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

// healingDB opens a database in which texts look like reads and are none. No
// catalogue tells, so that a standby has to.
func healingDB(t *testing.T, params ...string) (*sql.DB, *pgherd.Connector) {
	t.Helper()
	return healingDBOf(t, sharedHerd(t), params...)
}

func healingDBOf(t *testing.T, h *pgherdtest.Herd, params ...string) (*sql.DB, *pgherd.Connector) {
	t.Helper()
	d := h.CreateDatabase(t)
	mustExec(t, openPrimary(t, h, d), `
		create sequence s;
		create table t (n bigint);
		create unlogged table u (n bigint);
		insert into u values (7);
		create function f_write() returns bigint language plpgsql as
			$$ declare got bigint; begin insert into t select nextval('s') returning n into got; return got; end $$;
		create function f_stable() returns bigint language plpgsql stable as
			$$ declare got bigint; begin select f_write() into got; return got; end $$;
		create function f_where_equal(int, int) returns int language plpgsql as
			$$ begin if $1 = $2 then perform f_write(); end if; return $1; end $$;
		create operator ### (leftarg = int, rightarg = int, function = f_where_equal);
		create view v_next as select nextval('s') as n;
		create view v_write as select f_write() as n;
		create view v_stable as select f_stable() as n`)
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	db := openDB(t, d.DSN(), append(params, "catalog=off")...)
	eventually(t, "replicas serve reads", func() bool { return onReplica(t, db) })
	return db, herdOf(t, db)
}

// openPrimary opens a database on the primary alone, with plain pgx.
func openPrimary(t *testing.T, h *pgherdtest.Herd, d *pgherdtest.Database) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", d.ServerDSN(h.Primary()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// onReplicas is how many statements replicas have run.
func onReplicas(c *pgherd.Connector) (n uint64) {
	for _, s := range c.Stats().Servers {
		if s.Role == routing.Replica {
			n += s.Total()
		}
	}
	return n
}

func onPrimary(c *pgherd.Connector, why routing.Reason) (n uint64) {
	for _, s := range c.Stats().Servers {
		if s.Role == routing.Primary {
			n += s.Decisions[why]
		}
	}
	return n
}

// TestMisrouteHeals: what a standby refuses is answered by the primary the first
// time, and goes straight there from then on, and has its effect once each time.
func TestMisrouteHeals(t *testing.T) {
	called := func(call int) int { return call }
	for _, tt := range []struct {
		query string
		want  func(call int) int
	}{
		{"select n from v_next", called},
		{"select n from v_write", called},
		{"select n from v_stable", called},
		{"select 1 ### 1", func(int) int { return 1 }},
		{"select n from u", func(int) int { return 7 }},
	} {
		t.Run(tt.query, func(t *testing.T) {
			db, c := healingDB(t, "consistency=eventual")
			read := onReplicas(c)
			for i := 1; i <= 5; i++ {
				// A text of its own each time, but for what does not matter.
				query := fmt.Sprintf("%s /* %d */ limit %d", tt.query, i, 10+i)
				if n := get[int](t, db, query); n != tt.want(i) {
					t.Errorf("call %d gave %d, want %d", i, n, tt.want(i))
				}
			}
			if n := onReplicas(c) - read; n != 0 {
				t.Errorf("replicas ran it %d times", n)
			}
			st := c.Stats()
			if st.Misroutes != 1 || st.Retries != 1 {
				t.Errorf("%d misroutes, %d retries, want 1 and 1", st.Misroutes, st.Retries)
			}
			if n := onPrimary(c, routing.ReasonMisroute); n != 5 {
				t.Errorf("the primary ran it %d times as a misroute, want 5", n)
			}
			if n := get[int](t, db, "select last_value from s"); n != 5 && tt.query != "select n from u" {
				t.Errorf("the sequence is at %d after 5 calls", n)
			}
		})
	}
}

// TestMisrouteHealsInEveryMode: pgx meets a refusal before its QueryContext
// returns, whichever way it sends a statement, if it comes before the first row.
func TestMisrouteHealsInEveryMode(t *testing.T) {
	calls := map[string]func(t *testing.T, db *sql.DB, query string) error{
		"query": func(t *testing.T, db *sql.DB, query string) error {
			rows, err := db.Query(query, 3)
			if err != nil {
				return err
			}
			defer rows.Close()
			n := 0
			for rows.Next() {
				n++
			}
			if n != 3 {
				t.Errorf("%d rows, want 3", n)
			}
			return rows.Err()
		},
		"row": func(_ *testing.T, db *sql.DB, query string) error {
			var n int
			return db.QueryRow(query, 3).Scan(&n)
		},
		"exec": func(_ *testing.T, db *sql.DB, query string) error {
			_, err := db.Exec(query, 3)
			return err
		},
		"conn": func(t *testing.T, db *sql.DB, query string) error {
			conn, err := db.Conn(t.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			var n int
			return conn.QueryRowContext(t.Context(), query, 3).Scan(&n)
		},
		"stmt": func(t *testing.T, db *sql.DB, query string) error {
			st, err := db.Prepare(query)
			if err != nil {
				return err
			}
			defer st.Close()
			var n int
			return st.QueryRow(3).Scan(&n)
		},
	}
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			db, c := healingDB(t, "consistency=eventual", "default_query_exec_mode="+mode)
			written := 0
			for name, call := range calls {
				query := "select n ### 1 as " + name + " from generate_series(1, $1::int) n"
				for i := range 2 {
					before := c.Stats().Misroutes
					if err := call(t, db, query); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					if n := c.Stats().Misroutes - before; n != uint64(1-i) {
						t.Errorf("%s, call %d: %d misroutes", name, i+1, n)
					}
					written++
				}
			}
			if n := get[int](t, db, "/* pgherd: primary */ select count(*) from t"); n != written {
				t.Errorf("%d rows were written by %d calls", n, written)
			}
		})
	}
}

// TestMisrouteAmongRows: once rows were delivered, a refusal is the caller's. It
// is the last one: the text is the primary's from then on.
func TestMisrouteAmongRows(t *testing.T) {
	db, c := healingDB(t, "consistency=eventual")
	for name, read := range map[string]func(query string) (int, error){
		"rows": func(query string) (n int, err error) {
			rows, err := db.Query(query)
			if err != nil {
				return 0, err
			}
			defer rows.Close()
			for rows.Next() {
				n++
			}
			return n, rows.Err()
		},
		"closed": func(query string) (n int, err error) {
			rows, err := db.Query(query)
			if err != nil {
				return 0, err
			}
			rows.Next()
			return 5, rows.Close()
		},
		"row": func(query string) (n int, err error) {
			return 5, db.QueryRow(query).Scan(&n)
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := c.Stats().Misroutes
			query := "select n ### 3 as " + name + " from generate_series(1, 5) n"
			var refused *pgconn.PgError
			if _, err := read(query); !errors.As(err, &refused) || refused.Code != "25006" {
				t.Errorf("the first time: %v, want the standby's refusal", err)
			}
			if n, err := read(query); n != 5 || err != nil {
				t.Errorf("the second time: %d rows, %v", n, err)
			}
			if n := c.Stats().Misroutes - before; n != 1 {
				t.Errorf("%d misroutes, want 1", n)
			}
		})
	}
	t.Run("exec", func(t *testing.T) { // delivers none
		mustExec(t, db, "select n ### 3 as exec from generate_series(1, 5) n")
	})
}

// TestMisrouteIsAWrite: what a healed statement wrote is seen by the reads that
// follow.
func TestMisrouteIsAWrite(t *testing.T) {
	h := sharedHerd(t)
	for i := 1; i <= 2; i++ {
		if err := h.Replica(i).ApplyDelay(t.Context(), 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		defer h.Replica(i).ApplyDelay(context.Background(), 0)
	}
	t.Run("handle", func(t *testing.T) {
		db, _ := healingDB(t)
		for i := 1; i <= 3; i++ {
			get[int](t, db, "select n from v_write")
			if n := get[int](t, db, "select count(*) from t"); n != i {
				t.Errorf("after %d calls a read sees %d rows", i, n)
			}
		}
	})
	t.Run("rows", func(t *testing.T) {
		db, _ := healingDB(t)
		rows, err := db.Query("select n from v_write")
		if err != nil {
			t.Fatal(err)
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
		if n := get[int](t, db, "select count(*) from t"); n != 1 {
			t.Errorf("a read sees %d rows, want 1", n)
		}
	})
	t.Run("conn", func(t *testing.T) {
		db, _ := healingDB(t, "consistency=eventual")
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		get[int](t, conn, "select n from v_write")
		if n := get[int](t, conn, "select count(*) from t"); n != 1 {
			t.Errorf("a read sees %d rows, want 1", n)
		}
		if n := get[int](t, conn, "select lastval()"); n != 1 {
			t.Errorf("lastval() is %d", n)
		}
	})
}

// TestMisrouteInTransaction: where a statement has no other place to go, the
// refusal is the caller's.
func TestMisrouteInTransaction(t *testing.T) {
	wantRefusal := func(t *testing.T, err error) {
		t.Helper()
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != "25006" {
			t.Errorf("err = %v, want the server's refusal", err)
		}
	}
	readOnly := &sql.TxOptions{ReadOnly: true}
	const query = "select n from v_next"
	for name, tt := range map[string]struct {
		run       func(t *testing.T, db *sql.DB)
		misroutes uint64
	}{
		"read-only transaction on a replica": {func(t *testing.T, db *sql.DB) {
			tx, err := db.BeginTx(t.Context(), readOnly)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			if !onReplica(t, tx) {
				t.Error("the transaction is not on a replica")
			}
			var n int
			wantRefusal(t, tx.QueryRow(query).Scan(&n))
		}, 1},
		"read-only transaction on the primary": {func(t *testing.T, db *sql.DB) {
			tx, err := db.BeginTx(pgherd.WithPrimary(t.Context()), readOnly)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			var n int
			wantRefusal(t, tx.QueryRow(query).Scan(&n))
		}, 0},
		"transaction begun by text": {func(t *testing.T, db *sql.DB) {
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			mustExec(t, conn, "begin read only")
			var n int
			wantRefusal(t, conn.QueryRowContext(t.Context(), query).Scan(&n))
			mustExec(t, conn, "rollback")
		}, 0},
		"session state on a replica": {func(t *testing.T, db *sql.DB) {
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			tx, err := conn.BeginTx(t.Context(), readOnly)
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, tx, "set work_mem = '5MB'")
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			if !onReplica(t, conn) {
				t.Error("the setting did not keep the connection on its replica")
			}
			var n int
			wantRefusal(t, conn.QueryRowContext(t.Context(), query).Scan(&n))
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			db, c := healingDB(t, "consistency=eventual")
			tt.run(t, db)
			if n := c.Stats().Misroutes; n != tt.misroutes {
				t.Errorf("%d misroutes, want %d", n, tt.misroutes)
			}
			db.SetMaxIdleConns(-1) // forgets the replica that has the setting
			if n := get[int](t, db, query); n != 1 {
				t.Errorf("outside it gave %d", n)
			}
			if n := c.Stats().Misroutes; n != 1 && tt.misroutes == 1 {
				t.Errorf("%d misroutes in all, want 1", n)
			}
		})
	}
}

// TestRefusals: what a standby refuses is known, however it says so.
func TestRefusals(t *testing.T) {
	for language, zero := range map[string]string{"en": "division by zero", "de": "durch Null"} {
		t.Run(language, func(t *testing.T) {
			// Any locale but C does to be spoken to in a language: those of the
			// languages themselves are not everywhere.
			t.Setenv("LANGUAGE", language)
			h := pgherdtest.Start(t)
			db, c := healingDBOf(t, h, "consistency=eventual", "lc_messages=C.UTF-8")
			if _, err := db.Exec("select 1 / 0"); err == nil || !strings.Contains(err.Error(), zero) {
				t.Fatalf("the servers do not speak the language: %v", err)
			}
			mustExec(t, db, `
				create function f_lock() returns int language plpgsql as $$ begin lock table t in share mode; return 1; end $$;
				create function f_wal() returns int language sql as $$ select length(pg_current_wal_lsn()::text) $$;
				create function f_subtransaction() returns int language plpgsql as
					$$ begin begin perform txid_current(); exception when division_by_zero then return 2; end; return 1; end $$;
				create function f_lo() returns int language sql as $$ select lo_unlink(lo_create(0)) $$;
				create view v_lock as select f_lock() as n;
				create view v_wal as select f_wal() as n;
				create view v_subtransaction as select f_subtransaction() as n;
				create view v_lo as select f_lo() as n`)
			if err := h.WaitSync(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, query := range []string{
				"select n from v_lock",
				"select n from v_wal",
				"select n from v_subtransaction",
				"select n from v_lo",
				"select n from u",
				"copy u to stdout",
				"copy (select n from u) to stdout",
				"explain select n from u",
				"explain analyze select n from v_next",
			} {
				before := c.Stats().Misroutes
				mustExec(t, db, query)
				if n := c.Stats().Misroutes - before; n != 1 {
					t.Errorf("%s: %d misroutes, want 1", query, n)
				}
			}
		})
	}
}

// What is not there yet is asked of the primary, and again of a replica the next
// time.
func TestUnknownIsNotRemembered(t *testing.T) {
	h := newMockHerd(t)
	for range 2 {
		h.r1.ExpectQuery("select n from t").WillReturnError(&pgconn.PgError{Code: "42P01", Message: `relation "t" does not exist`})
		h.primary.ExpectQuery("select n from t").WillReturnRows(one())
		h.mustRead(t, t.Context(), "select n from t")
	}
	if st := h.c.Stats(); st.Misroutes != 0 || st.Unknowns != 2 {
		t.Errorf("%d misroutes, %d unknowns, want 0 and 2", st.Misroutes, st.Unknowns)
	}
}

func refusal() error {
	return &pgconn.PgError{Code: "25006", Message: "cannot execute nextval() in a read-only transaction", Routine: "PreventCommandIfReadOnly"}
}

// Values, comments and white space do not make another text.
func TestMockMisrouteIsRememberedByShape(t *testing.T) {
	h := newMockHerd(t)
	h.r1.ExpectQuery("select n from v where id in (1, 2)").WillReturnError(refusal())
	h.primary.ExpectQuery("select n from v where id in (1, 2)").WillReturnRows(one())
	h.primary.ExpectQuery("SELECT n FROM v WHERE id IN ($1) -- again").WithArgs(7).WillReturnRows(one())
	h.r1.ExpectQuery("select n from v where id > 1").WillReturnRows(one())
	h.mustRead(t, t.Context(), "select n from v where id in (1, 2)")
	h.mustRead(t, t.Context(), "SELECT n FROM v WHERE id IN ($1) -- again", 7)
	h.mustRead(t, t.Context(), "select n from v where id > 1")
}

// A statement that was prepared before the refusal knows of it, too.
func TestMockMisrouteOfPrepared(t *testing.T) {
	h := newMockHerd(t)
	const query = "select n from v"
	h.r1.ExpectPrepare(query).WillBeClosed() // counts the parameters
	h.r1.ExpectPrepare(query).WillBeClosed().ExpectQuery().WillReturnError(refusal())
	h.primary.ExpectPrepare(query).WillBeClosed().ExpectQuery().WillReturnRows(one())
	h.primary.ExpectPrepare(query).WillBeClosed().ExpectQuery().WillReturnRows(one())
	st, err := h.db.Prepare(query)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for range 2 {
		var n int
		if err := st.QueryRow().Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
}

// What a replica refused may write: it is sent to the primary once.
func TestMockHealedIsNotRepeated(t *testing.T) {
	for name, broken := range map[string]error{
		"connection reset": &net.OpError{Op: "read", Err: errors.New("connection reset by peer")},
		"eof":              io.ErrUnexpectedEOF,
		"shutdown":         &pgconn.PgError{Code: "57P01", Message: "terminating connection due to administrator command"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newMockHerd(t)
			h.r1.ExpectQuery("select n from v").WillReturnError(refusal())
			h.primary.ExpectQuery("select n from v").WillReturnError(broken)
			if _, err := h.db.QueryContext(t.Context(), "select n from v"); err != broken {
				t.Errorf("err = %v, want %v itself", err, broken)
			}
			h.r1.ExpectExec("select n from w").WillReturnError(refusal())
			h.primary.ExpectExec("select n from w").WillReturnError(broken)
			if _, err := h.db.ExecContext(t.Context(), "select n from w"); err != broken {
				t.Errorf("err = %v, want %v itself", err, broken)
			}
			wantNothingInUse(t, h)
		})
	}
}

// The reads that follow a healed statement on one sql.Conn stay where it ran.
func TestMockHealedKeepsItsConnection(t *testing.T) {
	h := newMockHerd(t)
	h.r1.ExpectQuery("select n from v").WillReturnError(refusal())
	h.primary.ExpectQuery("select n from v").WillReturnRows(one())
	h.primary.ExpectQuery("select 2").WillReturnRows(one())
	h.r1.ExpectQuery("select 3").WillReturnRows(one())
	conn, err := h.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var n int
	for _, query := range []string{"select n from v", "select 2"} {
		if err := conn.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	h.mustRead(t, t.Context(), "select 3")
	wantNothingInUse(t, h)
}

// A primary that refuses as a standby does is no misroute: its answer stands.
func TestMockPrimaryRefuses(t *testing.T) {
	h := newMockHerd(t)
	again := refusal()
	h.r1.ExpectQuery("select n from v").WillReturnError(refusal())
	h.primary.ExpectQuery("select n from v").WillReturnError(again)
	if _, err := h.db.QueryContext(t.Context(), "select n from v"); err != again {
		t.Errorf("err = %v, want the primary's", err)
	}
	if n := h.c.Stats().Misroutes; n != 1 {
		t.Errorf("%d misroutes, want 1", n)
	}
}

func TestMockUnclassifiedIsCounted(t *testing.T) {
	h := newMockHerd(t)
	const query = "frobnicate the database"
	h.primary.ExpectExec(query).WillReturnResult(driver.RowsAffected(0))
	h.primary.ExpectExec(query).WillReturnError(&pgconn.PgError{Code: "42601", Message: "syntax error"})
	h.primary.ExpectBegin()
	h.primary.ExpectExec(query).WillReturnResult(driver.RowsAffected(0))
	h.primary.ExpectRollback()
	mustExec(t, h.db, query)
	if _, err := h.db.Exec(query); err == nil {
		t.Error("no error")
	}
	tx, err := h.db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, query)
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if n := h.c.Stats().Unclassified; n != 2 {
		t.Errorf("Unclassified = %d, want the two that ran", n)
	}
	if n := onPrimary(h.c, routing.ReasonUnclassified); n != 1 {
		t.Errorf("%d ran on the primary as unclassified, want 1 outside of the transaction", n)
	}
}

// logTo makes a herd log to the buffer that it returns, without the time.
func logTo() (*bytes.Buffer, func(*pgherd.Config)) {
	b := new(bytes.Buffer)
	h := slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	return b, func(c *pgherd.Config) { c.Logger = slog.New(h) }
}

// TestMisrouteIsLoggedOnce: with what it takes to find the statement, and
// without any value.
func TestMisrouteIsLoggedOnce(t *testing.T) {
	log, logger := logTo()
	h := newMockHerd(t, logger)
	for _, query := range []string{"select n from v where s = 's3cr3t' and n = $1", "select n from w"} {
		err := &pgconn.PgError{
			Code: "25006", Message: "cannot do s3cr3t", Detail: "s3cr3t", Hint: "s3cr3t", Where: "s3cr3t", InternalQuery: "s3cr3t",
			Routine: "PreventCommandIfReadOnly",
		}
		var args []driver.Value
		if strings.Contains(query, "$1") {
			args = append(args, "s3cr3t")
		}
		h.r1.ExpectQuery(query).WithArgs(args...).WillReturnError(err)
		h.primary.ExpectQuery(query).WithArgs(args...).WillReturnRows(one())
	}
	h.primary.ExpectQuery("select n from v where s = 'another' and n = 1").WillReturnRows(one())
	h.mustRead(t, t.Context(), "select n from v where s = 's3cr3t' and n = $1", "s3cr3t")
	h.mustRead(t, t.Context(), "select n from w")
	h.mustRead(t, t.Context(), "select n from v where s = 'another' and n = 1")
	const want = `level=WARN msg="pgherd: a replica refused a statement, which is the primary's from now on" server=r1 sqlstate=25006 routine=PreventCommandIfReadOnly fingerprint=ed8d8802a94c0186 statement="select n from v where s = ? and n = ?"
level=WARN msg="pgherd: a replica refused a statement, which is the primary's from now on" server=r1 sqlstate=25006 routine=PreventCommandIfReadOnly fingerprint=f5d338af04a2ff64 statement="select n from w"
`
	if got := log.String(); got != want {
		t.Errorf("logged\n%swant\n%s", got, want)
	}
}

// TestLogIsBounded: texts that a program makes up do not flood the log, and those
// that are left out are counted.
func TestLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logger := logTo()
		h := newMockHerd(t, logger)
		read := func(i int) {
			query := fmt.Sprintf("select n%d from v", i)
			h.r1.ExpectQuery(query).WillReturnError(refusal())
			h.primary.ExpectQuery(query).WillReturnRows(one())
			h.mustRead(t, t.Context(), query)
		}
		for i := range 100 {
			read(i)
		}
		if n := strings.Count(log.String(), "\n"); n != 60 {
			t.Errorf("%d lines in a minute, want 60", n)
		}
		time.Sleep(time.Minute)
		log.Reset()
		read(100)
		read(101)
		if got := log.String(); strings.Count(got, "missed=40\n") != 1 || strings.Count(got, "missed") != 1 {
			t.Errorf("after a minute: %s", got)
		}
		log.Reset()
		read2 := "select '" + strings.Repeat("x", 10000) + "' from " + strings.Repeat("long.", 1000) + "v"
		h.r1.ExpectQuery(read2).WillReturnError(refusal())
		h.primary.ExpectQuery(read2).WillReturnRows(one())
		h.mustRead(t, t.Context(), read2)
		if n := log.Len(); n == 0 || n > 3000 {
			t.Errorf("a long text is logged with %d bytes", n)
		}
	})
}

// A refusal that comes after the first row is learned from as well, whatever the
// driver.
func TestMockMisrouteAmongRows(t *testing.T) {
	h := newMockHerd(t)
	late := refusal()
	h.r1.ExpectQuery("select n from v").WillReturnRows(one().CloseError(late))
	h.primary.ExpectQuery("select n from v").WillReturnRows(one())
	rows, err := h.db.QueryContext(t.Context(), "select n from v")
	if err != nil {
		t.Fatal(err)
	}
	if err := rows.Close(); err != late {
		t.Errorf("err = %v, want the standby's", err)
	}
	h.mustRead(t, t.Context(), "select n from v")
	if n := h.c.Stats().Misroutes; n != 1 {
		t.Errorf("%d misroutes, want 1", n)
	}
	wantNothingInUse(t, h)
}

// TestUnresolvedRunsOnce: while nobody knows what a view does, a read of it that
// broke on the primary may have written. It is sent there again only once the
// catalogue has told that it did not.
func TestUnresolvedRunsOnce(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	admin := openPrimary(t, h, d)
	mustExec(t, admin, `
		create sequence s;
		create table t (n int);
		create view v_read as select n, pg_sleep(60)::text as slept from t;
		create view v_write as select n, nextval('s') as next, pg_sleep(60)::text as slept from t`)
	for _, tt := range []struct {
		query string
		again bool
	}{
		{"select count(v) from v_read v", true},
		{"select count(v) from v_write v", false},
	} {
		mustExec(t, admin, "insert into t values (1)")
		if err := h.WaitSync(t.Context()); err != nil {
			t.Fatal(err)
		}
		db := openDB(t, d.DSN())
		done := make(chan error, 1)
		go func() {
			var n int
			done <- db.QueryRow(tt.query).Scan(&n)
		}()
		eventually(t, "the primary runs it", func() bool {
			return get[int](t, admin, "select count(*) from pg_stat_activity where query = $1 and wait_event = 'PgSleep'", tt.query) == 1
		})
		mustExec(t, admin, "delete from t") // nothing to wait for the next time
		mustExec(t, admin, "select pg_terminate_backend(pid) from pg_stat_activity where query = $1", tt.query)
		err := <-done
		var terminated *pgconn.PgError
		switch {
		case tt.again && err != nil:
			t.Errorf("%s: %v", tt.query, err)
		case !tt.again && (!errors.As(err, &terminated) || terminated.Code != "57P01"):
			t.Errorf("%s: %v, want that its connection was terminated", tt.query, err)
		}
	}
}

// TestSerializableIsThePrimarys: a standby refuses serializable transactions, so
// that it could answer nothing where that is the default.
func TestSerializableIsThePrimarys(t *testing.T) {
	d := sharedHerd(t).CreateDatabase(t)
	db := openDB(t, d.DSN(), "default_transaction_isolation=serializable")
	for range 3 {
		if onReplica(t, db) {
			t.Fatal("a read ran on a replica")
		}
		tx, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if onReplica(t, tx) {
			t.Error("a transaction ran on a replica")
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if n := herdOf(t, db).Stats().Misroutes; n != 0 {
		t.Errorf("%d misroutes", n)
	}
}

// TestOpenLogsToTheDefault: who opens a herd by its DSN is told of a misroute, too.
func TestOpenLogsToTheDefault(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	db, c := healingDB(t, "consistency=eventual")
	get[int](t, db, "select n from v_next")
	if n := c.Stats().Misroutes; n != 1 {
		t.Fatalf("%d misroutes", n)
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `statement="select n from v_next"`) {
		t.Errorf("logged %q", got)
	}
}
