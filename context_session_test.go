package pgherd_test

import (
	"context"
	"database/sql"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// whichServer asks a server for the address at which it was reached.
const whichServer = "select host(inet_server_addr()), inet_server_port()"

// serverOf returns the name of the server that a read runs on.
func serverOf(t *testing.T, h *pgherdtest.Herd, db interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, ctx context.Context) string {
	t.Helper()
	var host, port string
	if err := db.QueryRowContext(ctx, whichServer).Scan(&host, &port); err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort(host, port)
	for _, s := range h.Servers() {
		// A proxy comes by the direct way.
		if addr == s.Addr() || strings.Contains(s.DirectDSN(), "@"+addr+"/") {
			return s.Name()
		}
	}
	t.Fatalf("no server has the address %s", addr)
	return ""
}

func count(t *testing.T, db *sql.DB, ctx context.Context, table string) int {
	t.Helper()
	var n int
	if err := db.QueryRowContext(ctx, "select count(*) from "+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A session sees its writes through any connection, also where the handle
// promises nothing of the kind, and so does another process that resumes it.
func TestContextSession(t *testing.T) {
	h := sharedHerd(t)
	delayReplicas(t, 50*time.Millisecond)
	d := h.CreateDatabase(t)
	here := openDB(t, d.DSN(), "consistency=eventual")
	there := openDB(t, d.DSN(), "consistency=eventual")
	mustExec(t, here, "create table s (n int)")
	count(t, there, pgherd.WithPrimary(t.Context()), "s")

	t.Run("reads see its writes", func(t *testing.T) {
		ctx := pgherd.NewSession(t.Context())
		before := count(t, here, ctx, "s")
		for i := 1; i <= 10; i++ {
			if _, err := here.ExecContext(ctx, "insert into s values ($1)", i); err != nil {
				t.Fatal(err)
			}
			if n := count(t, here, ctx, "s"); n != before+i {
				t.Fatalf("after %d inserts the session sees %d rows of its own", i, n-before)
			}
		}
		if !pgherd.SessionFromContext(ctx).Wrote() {
			t.Error("the session does not know that it wrote")
		}
		eventually(t, "the session's reads return to a replica", func() bool { return serverOf(t, h, here, ctx) != "primary" })
	})
	t.Run("another process sees them", func(t *testing.T) {
		for range 10 {
			ctx := pgherd.NewSession(t.Context())
			if _, err := here.ExecContext(ctx, "insert into s values (0)"); err != nil {
				t.Fatal(err)
			}
			want := count(t, here, pgherd.WithPrimary(t.Context()), "s")
			ctx, err := pgherd.ResumeSession(t.Context(), pgherd.SessionFromContext(ctx).Token())
			if err != nil {
				t.Fatal(err)
			}
			if n := count(t, there, ctx, "s"); n != want {
				t.Fatalf("the resumed session sees %d rows of %d", n, want)
			}
		}
	})
	t.Run("a position keeps replicas out that have not reached it", func(t *testing.T) {
		for i := 1; i <= 2; i++ {
			if err := h.Replica(i).PauseReplay(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer h.Replica(i).ResumeReplay(context.Background())
		}
		ctx := pgherd.NewSession(t.Context())
		session := pgherd.SessionFromContext(ctx)
		if _, err := here.ExecContext(ctx, "insert into s values (0)"); err != nil {
			t.Fatal(err)
		}
		want := count(t, here, pgherd.WithPrimary(t.Context()), "s")
		first := session.Token()
		eventually(t, "the token has the position", func() bool { return session.Token() != first })
		resume := func() context.Context {
			ctx, err := pgherd.ResumeSession(t.Context(), session.Token())
			if err != nil {
				t.Fatal(err)
			}
			return ctx
		}
		for range 10 {
			if n := count(t, there, resume(), "s"); n != want {
				t.Fatalf("the resumed session sees %d rows of %d", n, want)
			}
		}
		for i := 1; i <= 2; i++ {
			if err := h.Replica(i).ResumeReplay(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "a replica has reached it", func() bool { return serverOf(t, h, there, resume()) != "primary" })
	})
	t.Run("reads never go back", func(t *testing.T) {
		if err := h.Replica(1).PauseReplay(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer h.Replica(1).ResumeReplay(context.Background())
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
					here.Exec("insert into s values (0)")
				}
			}
		}()
		for range 30 {
			ctx := pgherd.NewSession(t.Context())
			last := 0
			for range 10 {
				n := count(t, there, ctx, "s")
				if n < last {
					t.Errorf("a read shows %d rows after one that showed %d", n, last)
				}
				last = n
			}
		}
		close(stop)
		<-done
	})
}

// What a transaction has read on the primary, no later read of its sql.Conn or
// its session may lack.
func TestReadsAfterTransactionDoNotGoBack(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	db := openDB(t, d.DSN(), "consistency=eventual")
	admin, err := sql.Open("pgx", d.ServerDSN(h.Primary()))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	mustExec(t, admin, "create table r (n int)")
	if err := herdOf(t, db).ReadCatalog(t.Context(), "select count(*) from r"); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "reads on replicas", func() bool { return onReplica(t, db) })
	for i := 1; i <= 2; i++ {
		if err := h.Replica(i).PauseReplay(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer h.Replica(i).ResumeReplay(context.Background())
	}
	mustExec(t, admin, "insert into r values (1)")

	read := func(db interface {
		QueryRowContext(context.Context, string, ...any) *sql.Row
	}, ctx context.Context) (n int) {
		t.Helper()
		if err := db.QueryRowContext(ctx, "select count(*) from r").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := read(db, t.Context()); n != 0 {
		t.Fatalf("a paused replica shows %d rows, so that nothing can be seen here", n)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	session := pgherd.NewSession(t.Context())
	for name, begin := range map[string]func() (*sql.Tx, error){
		"sql.Conn": func() (*sql.Tx, error) { return conn.BeginTx(t.Context(), nil) },
		"session":  func() (*sql.Tx, error) { return db.BeginTx(session, nil) },
	} {
		tx, err := begin()
		if err != nil {
			t.Fatal(err)
		}
		if n := read(tx, t.Context()); n != 1 {
			t.Errorf("%s: the transaction sees %d rows", name, n)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if n := read(conn, t.Context()); n != 1 {
		t.Errorf("after the transaction its sql.Conn sees %d rows", n)
	}
	if n := read(db, session); n != 1 {
		t.Errorf("after the transaction its session sees %d rows", n)
	}
}

// A token that nothing can be told of makes the primary serve.
func TestRefusedToken(t *testing.T) {
	t.Parallel()
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	eventually(t, "reads on replicas", func() bool { return onReplica(t, db) })

	foreign := pgherdtest.Start(t)
	other := openDB(t, foreign.DSN())
	ctx := pgherd.NewSession(t.Context())
	if _, err := other.ExecContext(ctx, "create table t (n int)"); err != nil {
		t.Fatal(err)
	}
	token := pgherd.SessionFromContext(ctx).Token()
	if token == "" {
		t.Fatal("a session that wrote has no token")
	}
	ctx, err := pgherd.ResumeSession(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	if s := serverOf(t, h, db, ctx); s != "primary" {
		t.Errorf("the token of another cluster: %s serves", s)
	}
	ctx, err = pgherd.ResumeSession(t.Context(), token+"!")
	if err == nil {
		t.Error("no error for what is no token")
	}
	if s := serverOf(t, h, db, ctx); s != "primary" {
		t.Errorf("what is no token: %s serves", s)
	}
	eventually(t, "a replica serves under an empty token", func() bool {
		ctx, err = pgherd.ResumeSession(t.Context(), "")
		return err == nil && serverOf(t, h, db, ctx) != "primary"
	})
	if token := pgherd.SessionFromContext(t.Context()).Token(); token != "" {
		t.Errorf("no session has the token %q", token)
	}
}

// The write of a session may be lost with its primary: only the next one tells.
func TestTokenOfLostTimeline(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(2))
	db := openDB(t, h.DSN())
	ctx := pgherd.NewSession(t.Context())
	if _, err := db.ExecContext(ctx, "create table t (n int)"); err != nil {
		t.Fatal(err)
	}
	token := pgherd.SessionFromContext(ctx).Token()
	if err := h.Primary().Kill(); err != nil {
		t.Fatal(err)
	}
	if err := h.Replica(1).Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.Replica(2).Follow(t.Context(), h.Replica(1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other replica serves", func() bool { return serverOf(t, h, db, t.Context()) == "replica2" })
	ctx, err := pgherd.ResumeSession(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if s := serverOf(t, h, db, ctx); s != "replica1" {
			t.Fatalf("%s serves the session of a lost timeline", s)
		}
	}
}

// A statement that needs a primary waits for the next one.
func TestWriterWaitsForPromotion(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	db := openDB(t, h.DSN())
	mustExec(t, db, "create table t (n int)")
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.Primary().Kill(); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error)
	for i := range 4 {
		go func() {
			_, err := db.Exec("insert into t values ($1)", i)
			wrote <- err
		}()
	}
	eventually(t, "the herd knows", func() bool { return herdOf(t, db).Health().Ready() != nil })
	begun := time.Now()
	if err := h.Replica(1).Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := <-wrote; err != nil {
			t.Error(err)
		}
	}
	t.Logf("the writes were there %v after the promotion had begun", time.Since(begun))
	if n := count(t, db, t.Context(), "t"); n != 4 {
		t.Errorf("%d rows of 4", n)
	}
	// Without a candidate there is nothing to wait for.
	if err := h.Replica(1).Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("insert into t values (9)"); err == nil {
		t.Error("a write without a server succeeded")
	}
}

// Reads that wait on a frozen primary move, as those on a replica do.
func TestReadsLeaveFrozenPrimary(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	db := openDB(t, h.DSN(), "read_preference=prefer-primary", "lag_check_interval=200ms", "lag_check_timeout=300ms")
	// On a busy machine it may have missed a question. What is not known to be a
	// read stays where it is.
	eventually(t, "the primary serves, and it is known what", func() bool {
		return herdOf(t, db).ReadCatalog(t.Context(), whichServer) == nil && serverOf(t, h, db, t.Context()) == "primary"
	})
	if err := h.Primary().Freeze(); err != nil {
		t.Fatal(err)
	}
	defer h.Primary().Thaw()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if s := serverOf(t, h, db, ctx); s != "replica1" {
		t.Errorf("%s served", s)
	}
}

func TestMembersAtRunTime(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	db := openDB(t, strings.Replace(d.DSN(), ","+h.Replica(2).Addr(), "", 1), "slow_start=0s")
	c := herdOf(t, db)
	host := pgherd.Host{Name: "late", Host: h.Replica(2).Host(), Port: uint16(h.Replica(2).Port())}
	if err := c.AddReplica(host); err != nil {
		t.Fatal(err)
	}
	if err := c.AddReplica(host); err == nil {
		t.Error("a name was given twice")
	}
	eventually(t, "the new replica serves", func() bool { return serverOf(t, h, db, t.Context()) == "replica2" })

	if err := c.Drain(t.Context(), "late"); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if serverOf(t, h, db, t.Context()) == "replica2" {
			t.Fatal("a drained replica served")
		}
	}
	if err := c.Undrain("late"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replica serves again", func() bool { return serverOf(t, h, db, t.Context()) == "replica2" })

	tx, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	for serverOf(t, h, tx, t.Context()) != "replica2" {
		tx.Rollback()
		if tx, err = db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Remove(ctx, "late"); err == nil {
		t.Error("Remove did not wait for a transaction")
	}
	if get[int](t, tx, "select 1") != 1 || tx.Rollback() != nil {
		t.Error("the transaction did not end as if nothing were")
	}
	for range 50 {
		if serverOf(t, h, db, t.Context()) == "replica2" {
			t.Fatal("a removed replica served")
		}
	}
	if err := c.Remove(t.Context(), "late"); err == nil {
		t.Error("a server was removed twice")
	}
	if n := len(c.Health().Servers); n != 2 {
		t.Errorf("%d servers, want 2", n)
	}
}

// A standby shows a commit before the primary does if that waits for another standby.
// A session that has seen it does not go back on the primary.
func TestSessionSeesWhatPrimaryHides(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(2))
	admin := openPlain(t, h.Primary().DSN())
	mustExec(t, admin, "create table t (n int)")
	mustExec(t, admin, "alter system set synchronous_standby_names = 'replica2'")
	mustExec(t, admin, "select pg_reload_conf()")
	eventually(t, "a standby is synchronous", func() bool {
		return get[int](t, admin, "select count(*) from pg_stat_replication where sync_state = 'sync'") == 1
	})
	// The herd does not know of that one, so that all reads are on the other.
	db := openDB(t, strings.Replace(h.DSN(), ","+h.Replica(2).Addr(), "", 1), "consistency=eventual", "max_lag=0", "lag_check_interval=100ms", "consistency_timeout=1m")
	c := herdOf(t, db)
	if err := c.ReadCatalog(t.Context(), "select count(*) from t"); err != nil {
		t.Fatal(err)
	}
	count := func(ctx context.Context, db queryer) (n int, err error) {
		err = db.QueryRowContext(ctx, "select count(*) from t").Scan(&n)
		return n, err
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	onPrimary := func(ctx context.Context, db queryer) (int, error) { return count(pgherd.WithPrimary(ctx), db) }
	for i, tt := range []struct {
		name string
		ctx  context.Context
		db   queryer
		read func(context.Context, queryer) (int, error)
	}{
		{"statement", pgherd.NewSession(t.Context()), db, onPrimary},
		{"conn", t.Context(), conn, onPrimary},
		{"transaction", pgherd.NewSession(t.Context()), db, func(ctx context.Context, _ queryer) (int, error) {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return 0, err
			}
			defer tx.Rollback()
			return count(ctx, tx)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rows := i + 1
			if err := h.Replica(2).PartitionReplication(); err != nil {
				t.Fatal(err)
			}
			wrote := make(chan error, 1)
			go func() {
				_, err := admin.Exec("insert into t values (1)")
				wrote <- err
			}()
			eventually(t, "a replica shows the row", func() bool {
				n, err := count(tt.ctx, tt.db)
				return err == nil && n == rows
			})
			if n := get[int](t, db, "/* pgherd: primary */ select count(*) from t"); n != rows-1 {
				t.Fatalf("the primary shows %d rows", n)
			}
			waits := c.Stats().ConsistencyWaits
			type result struct {
				n   int
				err error
			}
			got := make(chan result, 1)
			go func() {
				n, err := tt.read(tt.ctx, tt.db)
				got <- result{n, err}
			}()
			eventually(t, "the session waits", func() bool { return c.Stats().ConsistencyWaits > waits })
			if err := h.Replica(2).Heal(); err != nil {
				t.Fatal(err)
			}
			if r := <-got; r.err != nil || r.n != rows {
				t.Errorf("a session saw %d rows, and then %d: %v", rows, r.n, r.err)
			}
			if err := <-wrote; err != nil {
				t.Error(err)
			}
		})
	}
}
