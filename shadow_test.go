package pgherd_test

import (
	"database/sql"
	"database/sql/driver"
	"maps"
	"testing"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

func shadow(c *pgherd.Config) { c.ReadPreference = routing.Shadow }

// wantShadow checks what would have run on the servers of a mockHerd.
func wantShadow(t *testing.T, h *mockHerd, primary, r1 map[routing.Reason]uint64) {
	t.Helper()
	for i, want := range []map[routing.Reason]uint64{primary, r1} {
		if s := h.c.Stats().Servers[i]; !maps.Equal(s.Shadow, want) {
			t.Errorf("%s would have run %v, want %v", s.Name, s.Shadow, want)
		}
	}
}

// TestMockShadow: everything runs on the primary, and what would have run on a
// replica is counted, and logged once for each text.
func TestMockShadow(t *testing.T) {
	log, logger := logTo()
	h := newMockHerd(t, shadow, logger)
	ctx := t.Context()
	h.primary.ExpectQuery("select n from t where s = 's3cr3t'").WillReturnRows(one())
	h.primary.ExpectQuery("SELECT n FROM t WHERE s = $1").WithArgs("s3cr3t").WillReturnRows(one())
	h.primary.ExpectQuery("select 2").WillReturnRows(one())
	h.primary.ExpectQuery("select 3").WillReturnRows(one())
	h.primary.ExpectQuery("/* pgherd: replica */ select 4").WillReturnRows(one())
	h.primary.ExpectExec("insert into t values (1)").WillReturnResult(driver.RowsAffected(1))
	h.primary.ExpectBegin()
	h.primary.ExpectQuery("select n from u").WillReturnRows(one())
	h.primary.ExpectCommit()
	h.primary.ExpectBegin()
	h.primary.ExpectQuery("select n from w").WillReturnRows(one())
	h.primary.ExpectCommit()

	h.mustRead(t, ctx, "select n from t where s = 's3cr3t'")
	h.mustRead(t, ctx, "SELECT n FROM t WHERE s = $1", "s3cr3t")
	h.mustRead(t, pgherd.WithReplica(ctx), "select 2")
	h.mustRead(t, pgherd.WithPrimary(ctx), "select 3")
	h.mustRead(t, ctx, "/* pgherd: replica */ select 4")
	mustExec(t, h.db, "insert into t values (1)")
	for _, tt := range []struct {
		query string
		opts  sql.TxOptions
	}{
		{"select n from u", sql.TxOptions{ReadOnly: true}},
		{"select n from w", sql.TxOptions{}},
	} {
		tx, err := h.db.BeginTx(ctx, &tt.opts)
		if err != nil {
			t.Fatal(err)
		}
		get[int](t, tx, tt.query)
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}

	wantShadow(t, h,
		map[routing.Reason]uint64{
			routing.ReasonHint: 1, routing.ReasonWrite: 1, routing.ReasonTransactionControl: 1, routing.ReasonTransaction: 1,
		},
		map[routing.Reason]uint64{
			routing.ReasonRead: 2, routing.ReasonHint: 2, routing.ReasonReadOnlyTx: 1, routing.ReasonTransaction: 1,
		})
	if n := onReplicas(h.c); n != 0 {
		t.Errorf("%d statements ran on replicas", n)
	}
	const want = `level=INFO msg="pgherd: a replica would have run a statement" server=r1 reason=read fingerprint=56bcb531c2480d79 statement="select n from t where s = ?"
level=INFO msg="pgherd: a replica would have run a statement" server=r1 reason=hint fingerprint=02fb7a5a1a5a9a58 statement="select ?"
level=INFO msg="pgherd: a replica would have run a statement" server=r1 reason=transaction fingerprint=f5d33aaf04a302ca statement="select n from u"
`
	if got := log.String(); got != want {
		t.Errorf("logged\n%swant\n%s", got, want)
	}
	wantNothingInUse(t, h)
}

// A primary that is gone fails what a replica could have served: it was asked
// for.
func TestMockShadowStaysOnThePrimary(t *testing.T) {
	h := newMockHerd(t, shadow)
	h.primary.ExpectClose()
	h.primaryHandle.Close()
	if _, err := h.db.QueryContext(t.Context(), "select 1"); err == nil {
		t.Error("no error")
	}
	wantShadow(t, h, map[routing.Reason]uint64{}, map[routing.Reason]uint64{})
}

func TestMockShadowExplains(t *testing.T) {
	h := newMockHerd(t, shadow)
	for query, want := range map[string]pgherd.Explanation{
		"select n from t":     {Server: "primary", RouteReason: "read-preference", Shadow: "r1", ShadowReason: "read"},
		"delete from t":       {Server: "primary", RouteReason: "write", Shadow: "primary", ShadowReason: "write"},
		"select nextval('s')": {Server: "primary", RouteReason: "function", Shadow: "primary", ShadowReason: "function"},
	} {
		got := h.c.Explain(t.Context(), query)
		if got.Server != want.Server || got.RouteReason != want.RouteReason || got.Shadow != want.Shadow || got.ShadowReason != want.ShadowReason {
			t.Errorf("%s: %+v, want %+v", query, got, want)
		}
	}
	plain := newMockHerd(t)
	if got := plain.c.Explain(t.Context(), "select 1"); got.Shadow != "" || got.ShadowReason != "" {
		t.Errorf("without shadow: %+v", got)
	}
	if s := plain.c.Stats().Servers[0]; s.Shadow != nil {
		t.Errorf("without shadow: %v", s.Shadow)
	}
}

// What is configured beside it counts in the rehearsal.
func TestMockShadowConfig(t *testing.T) {
	t.Run("consistency=primary", func(t *testing.T) {
		h := newMockHerd(t, shadow, func(c *pgherd.Config) { c.Consistency = pgherd.ConsistencyPrimary })
		h.primary.ExpectQuery("select 1").WillReturnRows(one())
		h.primary.ExpectQuery("select 2").WillReturnRows(one())
		h.mustRead(t, t.Context(), "select 1")
		h.mustRead(t, pgherd.WithReplica(t.Context()), "select 2")
		wantShadow(t, h, map[routing.Reason]uint64{routing.ReasonPreference: 1}, map[routing.Reason]uint64{routing.ReasonHint: 1})
	})
	t.Run("replica_fallback=error", func(t *testing.T) {
		h := newMockHerd(t)
		h.primary.ExpectQuery("select 1").WillReturnRows(one())
		cfg := pgherd.NewConfig()
		shadow(cfg)
		cfg.ReplicaFallback = pgherd.FallbackError
		c, err := pgherd.NewConnector(cfg, pgherd.Member{Name: "primary", DB: h.primaryHandle, Role: routing.Primary})
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(c)
		defer db.Close()
		get[int](t, db, "select 1")
		if n := c.Stats().ShadowFailed; n != 1 {
			t.Errorf("%d statements would have failed, want 1", n)
		}
	})
}

// TestShadow: the rehearsal knows how fresh replicas are, and whose turn it is.
func TestShadow(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "read_preference=shadow", "load_balance_hosts=round_robin", "catalog=off")
	c := herdOf(t, db)
	rehearsed := func(role routing.Role, why routing.Reason) (each []uint64) {
		for _, s := range c.Stats().Servers {
			if s.Role == role {
				each = append(each, s.Shadow[why])
			}
		}
		return each
	}
	mustExec(t, db, "create table t (n int)")
	get[int](t, db, "select count(*) from t")
	if n := rehearsed(routing.Primary, routing.ReasonReadYourWrites)[0]; n != 1 {
		t.Errorf("%d reads would have waited for a replica that has the table, want 1", n)
	}
	eventually(t, "both replicas would serve", func() bool {
		get[int](t, db, "select count(*) from t")
		each := rehearsed(routing.Replica, routing.ReasonRead)
		return each[0] > 0 && each[1] > 0
	})
	before := rehearsed(routing.Replica, routing.ReasonRead)
	for range 20 {
		if onReplica(t, db) {
			t.Fatal("a replica ran something")
		}
	}
	after := rehearsed(routing.Replica, routing.ReasonRead)
	if a, b := after[0]-before[0], after[1]-before[1]; a != 10 || b != 10 {
		t.Errorf("of 20 reads in turns the replicas would have run %d and %d", a, b)
	}
	if n := onReplicas(c); n != 0 {
		t.Errorf("%d statements ran on replicas", n)
	}
}
