package pgherd_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jmoiron/sqlx"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// raise fails with an SQLSTATE.
func raise(ctx context.Context, tx pgherd.Execer, code string) error {
	_, err := tx.ExecContext(ctx, fmt.Sprintf("do $$ begin raise exception using errcode = '%s'; end $$", code))
	return err
}

// sqlState returns the SQLSTATE of err, or "".
func sqlState(err error) string {
	var pgErr *pgconn.PgError
	errors.As(err, &pgErr)
	if pgErr == nil {
		return ""
	}
	return pgErr.Code
}

// A bank's total stays right under any number of conflicts, and everybody comes
// to an end.
func TestInTxBank(t *testing.T) {
	t.Parallel()
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "pool_max_conns=32")
	mustExec(t, db, "create table accounts (id int primary key, balance int not null)")
	mustExec(t, db, "insert into accounts select i, 1000 from generate_series(1, 8) i")
	opts := &pgherd.TxOptions{Isolation: sql.LevelSerializable, MaxTries: 10_000}
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 3 {
				from, to, amount := rand.IntN(8)+1, rand.IntN(8)+1, rand.IntN(100)
				err := pgherd.InTx(t.Context(), db, opts, func(tx *sql.Tx) error {
					var balance int
					if err := tx.QueryRowContext(t.Context(), "select balance from accounts where id = $1", from).Scan(&balance); err != nil {
						return err
					}
					if _, err := tx.ExecContext(t.Context(), "update accounts set balance = $1 where id = $2", balance-amount, from); err != nil {
						return err
					}
					_, err := tx.ExecContext(t.Context(), "update accounts set balance = balance + $1 where id = $2", amount, to)
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if total := get[int](t, db, "select sum(balance) from accounts"); total != 8000 {
		t.Errorf("the total is %d", total)
	}
}

// What is tried again, what is not, and what the caller sees.
func TestInTxRetries(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	mustExec(t, db, "create table t (n int)")
	mustExec(t, db, `create function fail_late() returns trigger language plpgsql as $$
		begin raise exception using errcode = '40001'; end $$`)
	mustExec(t, db, "create table late (n int)")
	mustExec(t, db, `create constraint trigger late after insert on late deferrable initially deferred
		for each row execute function fail_late()`)
	ctx := t.Context()
	errBusiness := errors.New("no hay")

	for _, tt := range []struct {
		name  string
		opts  *pgherd.TxOptions
		fn    func(tx *sql.Tx, try int) error
		tries int
		want  func(error) bool // nil: no error
	}{
		{"no error", nil, func(*sql.Tx, int) error { return nil }, 1, nil},
		{"serialization failure", nil, func(tx *sql.Tx, try int) error {
			if try < 3 {
				return fmt.Errorf("wrapped: %w", raise(ctx, tx, "40001"))
			}
			return nil
		}, 3, nil},
		{"deadlock", nil, func(tx *sql.Tx, try int) error {
			if try < 2 {
				return raise(ctx, tx, "40P01")
			}
			return nil
		}, 2, nil},
		{"at commit", nil, func(tx *sql.Tx, try int) error {
			if try > 1 {
				return nil
			}
			_, err := tx.ExecContext(ctx, "insert into late values (1)")
			return err
		}, 2, nil},
		{"hidden by an ORM", nil, func(tx *sql.Tx, try int) error {
			if try == 1 && raise(ctx, tx, "40001") != nil {
				return errors.New("orm: something failed")
			}
			return nil
		}, 2, nil},
		{"swallowed", nil, func(tx *sql.Tx, try int) error {
			if try == 1 {
				raise(ctx, tx, "40001")
			}
			return nil
		}, 2, nil},
		{"swallowed, then met again", nil, func(tx *sql.Tx, try int) error {
			if try == 1 {
				raise(ctx, tx, "40001")
				_, err := tx.ExecContext(ctx, "select 1")
				return err
			}
			return nil
		}, 2, nil},
		{"swallowed, of another kind", nil, func(tx *sql.Tx, try int) error {
			raise(ctx, tx, "23505")
			return nil
		}, 1, func(err error) bool { return errors.Is(err, pgx.ErrTxCommitRollback) }},
		{"another server error", nil, func(tx *sql.Tx, try int) error {
			return raise(ctx, tx, "23505")
		}, 1, func(err error) bool { _, plain := err.(*pgconn.PgError); return plain && sqlState(err) == "23505" }},
		{"the caller's error", nil, func(tx *sql.Tx, try int) error {
			return errBusiness
		}, 1, func(err error) bool { return err == errBusiness }},
		{"the caller's error after a conflict that was overcome", nil, func(tx *sql.Tx, try int) error {
			if err := pgherd.Savepoint(ctx, tx, func() error { return raise(ctx, tx, "40001") }); sqlState(err) != "40001" {
				t.Errorf("savepoint: %v", err)
			}
			return errBusiness
		}, 1, func(err error) bool { return err == errBusiness }},
		{"as often as allowed", &pgherd.TxOptions{MaxTries: 3}, func(tx *sql.Tx, try int) error {
			return raise(ctx, tx, "40001")
		}, 3, func(err error) bool { return sqlState(err) == "40001" && strings.Contains(err.Error(), "3 tries") }},
		{"once", &pgherd.TxOptions{MaxTries: 1}, func(tx *sql.Tx, try int) error {
			return raise(ctx, tx, "40001")
		}, 1, func(err error) bool { return sqlState(err) == "40001" }},
		{"as long as allowed", &pgherd.TxOptions{MaxElapsed: time.Nanosecond}, func(tx *sql.Tx, try int) error {
			return raise(ctx, tx, "40001")
		}, 1, func(err error) bool { return sqlState(err) == "40001" }},
		{"an inner one has tried enough", nil, func(tx *sql.Tx, try int) error {
			return pgherd.InTx(ctx, db, &pgherd.TxOptions{MaxTries: 2}, func(tx *sql.Tx) error { return raise(ctx, tx, "40001") })
		}, 1, func(err error) bool { return sqlState(err) == "40001" }},
		{"the connection is lost", nil, func(tx *sql.Tx, try int) error {
			if try == 1 {
				_, err := tx.ExecContext(ctx, "select pg_terminate_backend(pg_backend_pid())")
				return err
			}
			return nil
		}, 2, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mustExec(t, db, "truncate t")
			tries := 0
			err := pgherd.InTx(ctx, db, tt.opts, func(tx *sql.Tx) error {
				tries++
				mustExec(t, tx, "insert into t values (1)")
				return tt.fn(tx, tries)
			})
			if tries != tt.tries {
				t.Errorf("%d tries, want %d", tries, tt.tries)
			}
			rows := get[int](t, db, "select count(*) from t")
			switch {
			case tt.want == nil && (err != nil || rows != 1):
				t.Errorf("%d rows, err = %v", rows, err)
			case tt.want != nil && (err == nil || !tt.want(err) || rows != 0):
				t.Errorf("%d rows, err = %v", rows, err)
			}
		})
	}
}

// A panic, or the end of a goroutine, rolls back and goes on its way.
func TestInTxPanic(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	mustExec(t, db, "create table t (n int)")
	func() {
		defer func() {
			if r := recover(); r != "wolf" {
				t.Errorf("recovered %v", r)
			}
		}()
		pgherd.InTx(t.Context(), db, nil, func(tx *sql.Tx) error {
			mustExec(t, tx, "insert into t values (1)")
			panic("wolf")
		})
	}()
	if n := get[int](t, db, "select count(*) from t"); n != 0 {
		t.Errorf("%d rows", n)
	}
	if n := db.Stats().InUse; n != 0 {
		t.Errorf("%d connections in use", n)
	}
}

// A caller that gives up has its transaction rolled back, once, and costs no
// connection.
func TestInTxCancelled(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "pool_max_conns=1")
	mustExec(t, db, "create table t (n int)")
	pid := get[int](t, db, "/* pgherd: primary */ select pg_backend_pid()")
	for _, wait := range []string{"in a statement", "between statements"} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		tries := 0
		err := pgherd.InTx(ctx, db, nil, func(tx *sql.Tx) error {
			tries++
			mustExec(t, tx, "insert into t values (1)")
			if wait == "in a statement" {
				_, err := tx.ExecContext(ctx, "select pg_sleep(60)")
				return err
			}
			<-ctx.Done()
			return nil
		})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || tries != 1 {
			t.Errorf("%s: %d tries, err = %v", wait, tries, err)
		}
		if n := get[int](t, db, "/* pgherd: primary */ select count(*) from t"); n != 0 {
			t.Errorf("%s: %d rows", wait, n)
		}
		if got := get[int](t, db, "/* pgherd: primary */ select pg_backend_pid()"); got != pid {
			t.Errorf("%s: backend %d, then %d", wait, pid, got)
		}
	}
}

// sqlx has transactions of its own, sql.Conn the same in another place, and pgx's
// driver knows less of them.
func TestInTxOthers(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	db := openDB(t, d.DSN())
	mustExec(t, db, "create table t (n int)")
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	plain, err := sql.Open("pgx", d.ServerDSN(h.Primary()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	xdb := sqlx.NewDb(db, "pgherd")
	ctx := t.Context()
	work := func(try *int, tx pgherd.Execer) error {
		if *try++; *try == 1 {
			return raise(ctx, tx, "40001")
		}
		_, err := tx.ExecContext(ctx, "insert into t values ($1)", *try)
		return err
	}
	for name, run := range map[string]func(try *int) error{
		"sql.Conn": func(try *int) error {
			return pgherd.InTx(ctx, conn, nil, func(tx *sql.Tx) error { return work(try, tx) })
		},
		"sqlx.DB": func(try *int) error {
			return pgherd.InTx(ctx, xdb, nil, func(tx *sql.Tx) error { return work(try, tx) })
		},
		"sqlx.Tx": func(try *int) error {
			return pgherd.InTxOf(ctx, xdb.BeginTxx, nil, func(tx *sqlx.Tx) error { return work(try, tx) })
		},
		"pgx": func(try *int) error {
			return pgherd.InTx(ctx, plain, nil, func(tx *sql.Tx) error { return work(try, tx) })
		},
		"pgx, swallowed": func(try *int) error {
			err := pgherd.InTx(ctx, plain, nil, func(tx *sql.Tx) error {
				raise(ctx, tx, "23505")
				return nil
			})
			if !errors.Is(err, pgx.ErrTxCommitRollback) || errors.Is(err, pgherd.ErrUnknownOutcome) {
				t.Errorf("pgx: err = %v", err)
			}
			return pgherd.InTx(ctx, plain, nil, func(tx *sql.Tx) error { return work(try, tx) })
		},
	} {
		mustExec(t, db, "truncate t")
		try := 0
		if err := run(&try); err != nil || try != 2 {
			t.Errorf("%s: %d tries, err = %v", name, try, err)
		}
		if n := get[int](t, db, "/* pgherd: primary */ select count(*) from t"); n != 1 {
			t.Errorf("%s: %d rows", name, n)
		}
	}
}

// A read-only transaction that the recovery of its replica ends goes on
// elsewhere, and one that a replica refuses goes to the primary.
func TestInTxRecoveryConflict(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(1), pgherdtest.Settings(map[string]string{"max_standby_streaming_delay": "0"}))
	db := openDB(t, h.DSN(), "consistency=eventual")
	mustExec(t, db, "create table t (n int)")
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replica serves", func() bool { return onReplica(t, db) })
	ctx := t.Context()
	var where []bool
	err := pgherd.InTx(ctx, db, &pgherd.TxOptions{ReadOnly: true}, func(tx *sql.Tx) error {
		get[int](t, tx, "select count(*) from t")
		standby := onReplica(t, tx)
		where = append(where, standby)
		if standby {
			mustExec(t, db, "truncate t")
			// The replica ends the transaction to replay that.
			if err := h.WaitSync(ctx); err != nil {
				t.Error(err)
			}
		}
		var n int
		err := tx.QueryRowContext(ctx, "select count(*) from t").Scan(&n)
		if standby {
			t.Logf("on the replica: %v", err)
		}
		return err
	})
	if err != nil || !slices.Equal(where, []bool{true, false}) {
		t.Errorf("on replicas: %v, err = %v", where, err)
	}

	where = nil
	err = pgherd.InTx(ctx, db, &pgherd.TxOptions{ReadOnly: true}, func(tx *sql.Tx) error {
		where = append(where, onReplica(t, tx))
		_, err := tx.ExecContext(ctx, "select pg_advisory_xact_lock(1)")
		return err
	})
	if err != nil || !slices.Equal(where, []bool{true, false}) {
		t.Errorf("a lock, on replicas: %v, err = %v", where, err)
	}
}

// A transaction whose primary dies before COMMIT runs on the next one.
func TestInTxFailover(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	db := openDB(t, h.DSN(), "failover_timeout=60s", "lag_check_interval=50ms")
	mustExec(t, db, "create table t (n int)")
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	tries := 0
	err := pgherd.InTx(t.Context(), db, nil, func(tx *sql.Tx) error {
		if tries++; tries == 1 {
			mustExec(t, tx, "insert into t values (1)")
			if err := h.Primary().Kill(); err != nil {
				t.Error(err)
			}
			if err := h.Replica(1).Promote(t.Context()); err != nil {
				t.Error(err)
			}
		}
		_, err := tx.ExecContext(t.Context(), "insert into t values (2)")
		return err
	})
	if err != nil || tries < 2 {
		t.Errorf("%d tries, err = %v", tries, err)
	}
	if got := get[string](t, db, "/* pgherd: primary */ select string_agg(n::text, ',') from t"); got != "2" {
		t.Errorf("rows: %s", got)
	}
}

// A commitCutter is a proxy that cuts a connection at its COMMIT.
type commitCutter struct {
	addr   string
	target string
	ln     net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	cut   cutting // guarded by mu; the next COMMIT
	after func()  // guarded by mu; called between the cut and its becoming visible to the client
	links []net.Conn
}

type cutting int

const (
	cutNothing cutting = iota
	cutBefore          // the server does not hear of COMMIT
	cutAfter           // the client does not hear of its answer
)

func startCutter(t *testing.T, target string) *commitCutter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &commitCutter{addr: ln.Addr().String(), target: target, ln: ln}
	c.wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				continue
			}
			c.mu.Lock()
			c.links = append(c.links, client, server)
			c.mu.Unlock()
			c.serve(client, server)
		}
	})
	t.Cleanup(func() {
		ln.Close()
		c.mu.Lock()
		for _, l := range c.links {
			l.Close()
		}
		c.mu.Unlock()
		c.wg.Wait()
	})
	return c
}

// arm has the next COMMIT cut.
func (c *commitCutter) arm(how cutting, after func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut, c.after = how, after
}

func (c *commitCutter) take() (cutting, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	how, after := c.cut, c.after
	c.cut, c.after = cutNothing, nil
	return how, after
}

func (c *commitCutter) serve(client, server net.Conn) {
	answer := make(chan func(), 1) // called instead of passing the next answer on
	c.wg.Go(func() {
		defer server.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			if err != nil {
				return
			}
			if bytes.Contains(buf[:n], []byte("commit\x00")) {
				switch how, after := c.take(); how {
				case cutBefore:
					after()
					server.Close()
					client.Close()
					return
				case cutAfter:
					answer <- after
				}
			}
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	c.wg.Go(func() {
		defer client.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			select {
			case after := <-answer:
				after()
				return
			default:
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	})
}

func (c *commitCutter) dsn(d *pgherdtest.Database) string {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Host: c.addr, Path: "/" + d.Name, RawQuery: "sslmode=disable"}
	return u.String()
}

// The answer to COMMIT may be lost in the worst moment: what was committed is
// not done again, what was not is, and nobody is told a lie.
func TestInTxLostCommit(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	cutter := startCutter(t, h.Primary().Addr())
	db := openDB(t, cutter.dsn(d))
	direct := openDB(t, d.DSN())
	mustExec(t, direct, "create table t (n int)")
	ctx := t.Context()

	run := func(how cutting, statement string) (tries, rows int, err error) {
		mustExec(t, direct, "truncate t")
		err = pgherd.InTx(ctx, db, nil, func(tx *sql.Tx) error {
			if tries++; tries == 1 {
				cutter.arm(how, func() {})
			}
			_, err := tx.ExecContext(ctx, statement)
			return err
		})
		return tries, get[int](t, direct, "/* pgherd: primary */ select count(*) from t"), err
	}
	const insert = "insert into t values (1)"
	if tries, rows, err := run(cutAfter, insert); err != nil || tries != 1 || rows != 1 {
		t.Errorf("committed: %d tries, %d rows, err = %v", tries, rows, err)
	}
	if tries, rows, err := run(cutBefore, insert); err != nil || tries != 2 || rows != 1 {
		t.Errorf("not committed: %d tries, %d rows, err = %v", tries, rows, err)
	}
	// Nothing says whether a statement such as this has done something.
	tries, _, err := run(cutAfter, "notify flock")
	var lost *pgherd.CommitError
	if tries != 1 || !errors.Is(err, pgherd.ErrUnknownOutcome) || !errors.As(err, &lost) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("unknown: %d tries, err = %v", tries, err)
	}
	// What only reads has nothing to repeat.
	if tries, _, err := run(cutAfter, "select count(*) from t"); err != nil || tries != 2 {
		t.Errorf("read: %d tries, err = %v", tries, err)
	}

	// Over another driver nobody can be asked.
	plain, err := sql.Open("pgx", cutter.dsn(d))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	tries = 0
	err = pgherd.InTx(ctx, plain, nil, func(tx *sql.Tx) error {
		tries++
		cutter.arm(cutAfter, func() {})
		_, err := tx.ExecContext(ctx, insert)
		return err
	})
	if tries != 1 || !errors.Is(err, pgherd.ErrUnknownOutcome) {
		t.Errorf("pgx: %d tries, err = %v", tries, err)
	}
}

// The primary may die with the answer. The next one has the transaction, or has
// not, and perhaps another one with its number.
func TestInTxLostCommitAndPrimary(t *testing.T) {
	t.Parallel()
	for name, replicated := range map[string]bool{"replicated": true, "not replicated": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := pgherdtest.Start(t, pgherdtest.Replicas(1))
			cutter := startCutter(t, h.Primary().Addr())
			dsn := fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable&replica_hosts=%s", cutter.addr, h.Replica(1).Addr())
			db := openDB(t, dsn, "failover_timeout=60s", "lag_check_interval=50ms")
			mustExec(t, db, "create table t (n int)")
			if err := h.WaitSync(t.Context()); err != nil {
				t.Fatal(err)
			}
			failover := func() {
				if replicated {
					if err := h.WaitSync(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if err := h.Primary().Kill(); err != nil {
					t.Error(err)
				}
				if err := h.Replica(1).Promote(t.Context()); err != nil {
					t.Error(err)
				}
				next, err := sql.Open("pgx", h.Replica(1).DSN())
				if err != nil {
					t.Error(err)
					return
				}
				defer next.Close()
				for range 10 { // takes the xids that the old primary has given away
					mustExec(t, next, "insert into t values (0)")
				}
			}
			tries := 0
			err := pgherd.InTx(t.Context(), db, nil, func(tx *sql.Tx) error {
				if tries++; tries == 1 {
					if !replicated {
						if err := h.Replica(1).PartitionReplication(); err != nil {
							t.Error(err)
						}
					}
					cutter.arm(cutAfter, failover)
				}
				_, err := tx.ExecContext(t.Context(), "insert into t values (1)")
				return err
			})
			want := 2
			if replicated {
				want = 1
			}
			if err != nil || tries != want {
				t.Errorf("%d tries, want %d; err = %v", tries, want, err)
			}
			if n := get[int](t, db, "/* pgherd: primary */ select count(*) from t where n = 1"); n != 1 {
				t.Errorf("%d rows", n)
			}
		})
	}
}

// A statement without arguments travels in one message, of which pgx says that it
// was not sent when the connection breaks under it. It is not run again.
func TestSimpleWriteIsNeverRepeated(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	cutter := startCutter(t, h.Primary().Addr())
	direct := openDB(t, d.DSN())
	for _, mode := range []string{"cache_statement", "simple_protocol"} {
		db := openDB(t, cutter.dsn(d), "default_query_exec_mode="+mode)
		mustExec(t, direct, "drop table if exists t; create table t (n int)")
		for name, run := range map[string]func(query string) error{
			"exec":  func(query string) error { _, err := db.ExecContext(t.Context(), query); return err },
			"query": func(query string) error { return db.QueryRowContext(t.Context(), query).Scan(new(int)) },
		} {
			mustExec(t, direct, "truncate t")
			eventually(t, "the primary is there", func() bool { return db.PingContext(t.Context()) == nil })
			cutter.arm(cutAfter, func() {})
			err := run("insert into t values (1) returning n -- commit")
			if n := get[int](t, direct, "/* pgherd: primary */ select count(*) from t"); !errors.Is(err, io.ErrUnexpectedEOF) || n > 1 {
				t.Errorf("%s, %s: %d rows, err = %v", mode, name, n, err)
			}
		}
	}
}
