package pgherd_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

func TestExplainPlan(t *testing.T) {
	dsn := sharedHerd(t).CreateDatabase(t).DSN()
	db := openDB(t, dsn)
	ctx := t.Context()
	c := herdOf(t, db)
	mustExec(t, db, "create table orders (id int primary key, item text)")
	mustExec(t, db, "create function order_hay() returns int language plpgsql as $$ begin insert into orders values (3, 'hay'); return 3; end $$")
	eventually(t, "a replica has the table", func() bool {
		p, err := c.ExplainPlan(ctx, "select item from orders where id = $1", 7)
		return err == nil && p.Role == routing.Replica && p.Server != ""
	})
	p, err := c.ExplainPlan(ctx, "select item from orders where id = $1", 7)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.String(), " on orders") || p.Root.TotalCost == 0 || p.Planning == 0 || p.Root.Loops != 0 {
		t.Errorf("the plan is %s, %+v", p, p)
	}
	if p, err = c.ExplainPlan(ctx, "insert into orders values ($1, $2)", 1, "hay"); err != nil || p.Root.Type != "ModifyTable" {
		t.Errorf("of an INSERT: %v, %v", p, err)
	}
	if p, err = c.ExplainAnalyze(ctx, "select count(*) from orders"); err != nil || p.Root.Loops != 1 || p.Execution == 0 {
		t.Errorf("analysed: %+v, %v", p, err)
	}
	for _, sql := range []string{"insert into orders values (2, 'hay')", "select setval('s', 1)", "select order_hay()", "set work_mem = '1MB'"} {
		if p, err := c.ExplainAnalyze(ctx, sql); err == nil {
			t.Errorf("%s was analysed: %s", sql, p)
		}
	}
	simple := herdOf(t, openDB(t, dsn, "default_query_exec_mode=simple_protocol"))
	for _, c := range []*pgherd.Connector{c, simple} {
		var pgErr *pgconn.PgError
		if _, err := c.ExplainPlan(pgherd.WithPrimary(ctx), "select 1; insert into orders values (4, 'hay')"); !errors.As(err, &pgErr) || pgErr.Code != "42601" {
			t.Errorf("of two statements: %v, want a syntax error", err)
		}
	}
	var n int
	if err := db.QueryRowContext(pgherd.WithPrimary(ctx), "select count(*) from orders").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d orders were stored by explaining, %v", n, err)
	}
}

// A slow statement is told of with its plan, which has no values, and nobody waits
// for that.
func TestWatchSlow(t *testing.T) {
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN())
	ctx := t.Context()
	c := herdOf(t, db)
	mustExec(t, db, "create table orders (id int primary key, item text)")
	slow := make(chan pgherd.SlowQuery, 100)
	defer c.WatchSlow(pgherd.SlowOptions{
		Threshold: 50 * time.Millisecond,
		Func:      func(q pgherd.SlowQuery) { slow <- q },
		Plan:      true,
	})()
	if _, err := db.ExecContext(ctx, "select 1"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(ctx, "select pg_sleep(0.1), count(*) from orders where item = $1 and id > 4711", "planted"); err != nil {
		t.Fatal(err)
	}
	next := func() pgherd.SlowQuery {
		t.Helper()
		select {
		case q := <-slow:
			return q
		case <-time.After(time.Minute):
			t.Fatal("a slow statement was not told of")
		}
		panic("not reached")
	}
	q := next()
	if q.Err != nil || q.Plan == nil {
		t.Fatalf("no plan of %s: %v", q.Statement(), q.Err)
	}
	if !strings.Contains(q.Plan.String(), "on orders") || q.Plan.JSON != nil || strings.Contains(q.Plan.String(), "4711") {
		t.Errorf("the plan is %s, %s", q.Plan, q.Plan.JSON)
	}
	if q.Kind != pgherd.KindExec || q.Answered < 100*time.Millisecond || !strings.Contains(q.Statement(), "id > ?") {
		t.Errorf("told of %s, %v, %s", q.Kind, q.Answered, q.Statement())
	}

	// Those that fail, or are given up, are as slow.
	var n int
	if err := db.QueryRowContext(ctx, "select 1 / (count(*)::int * 0) from orders, pg_sleep(0.1)").Scan(&n); err == nil {
		t.Fatal("no error")
	}
	if q := next(); q.Kind != pgherd.KindQuery || q.ErrorClass() != "22" {
		t.Errorf("told of %s", q)
	}
	over, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := db.ExecContext(over, "select pg_sleep(10)"); err == nil {
		t.Fatal("no error")
	}
	if q := next(); q.Outcome() != pgherd.OutcomeTimeout {
		t.Errorf("told of %s", q)
	}
	select {
	case q := <-slow:
		t.Errorf("told of %s, too", q)
	default:
	}
}

// What Func takes its time for is dropped, and counted.
func TestWatchSlowMisses(t *testing.T) {
	h := newMockHerd(t)
	release := make(chan struct{})
	var told, missed atomic.Int64
	stop := h.c.WatchSlow(pgherd.SlowOptions{
		Threshold: 1,
		Func: func(q pgherd.SlowQuery) {
			<-release
			told.Add(1)
			missed.Add(int64(q.Missed))
		},
	})
	run := func() {
		h.r1.ExpectQuery("select 1").WillDelayFor(time.Millisecond).WillReturnRows(one())
		h.mustRead(t, t.Context(), "select 1")
	}
	for range 100 { // one that Func has, 64 in the queue
		run()
	}
	close(release)
	eventually(t, "the queue is empty", func() bool { return told.Load() >= 64 })
	run()
	eventually(t, "all are told of or missed", func() bool { return told.Load()+missed.Load() == 101 })
	if n := missed.Load(); n < 35 || n > 36 {
		t.Errorf("%d missed of 100 while 64 can wait", n)
	}
	stop()
	run()
	if told.Load()+missed.Load() != 101 {
		t.Error("told after stop")
	}
}
