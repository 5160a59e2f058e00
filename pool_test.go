package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/internal/racedetector"
)

func TestPoolLimits(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	t.Run("exhausted", func(t *testing.T) {
		db := openDB(t, d.DSN(), "pool_max_conns=2", "acquire_timeout=200ms")
		var txs []*sql.Tx
		for range 2 {
			tx, err := db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			txs = append(txs, tx)
		}
		_, err := db.BeginTx(t.Context(), nil)
		var ae *pgherd.AcquireError
		if !errors.As(err, &ae) || ae.InUse != 2 || ae.Max != 2 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want an AcquireError that tells 2 of 2 in use", err)
		}
		for _, tx := range txs {
			tx.Rollback()
		}
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		tx.Rollback()
	})
	t.Run("goroutines", func(t *testing.T) {
		if testing.Short() {
			t.Skip("a load of some seconds")
		}
		n := 10_000
		if racedetector.Enabled {
			n = 1000 // still a hundred for each connection
		}
		db := openDB(t, d.DSN(), "pool_max_conns=10", "acquire_timeout=5m")
		mustExec(t, db, "create table g (n int)")
		var wg sync.WaitGroup
		var failed atomic.Int64
		for i := range n {
			wg.Go(func() {
				if _, err := db.Exec("insert into g values ($1)", i); err != nil {
					failed.Add(1)
					t.Log(err)
				}
				if err := db.QueryRow("select count(*) from g").Scan(new(int)); err != nil {
					failed.Add(1)
					t.Log(err)
				}
			})
		}
		wg.Wait()
		if n := failed.Load(); n > 0 {
			t.Errorf("%d statements failed", n)
		}
		if got := get[int](t, db, "select count(*) from g"); got != n {
			t.Errorf("%d rows, want %d", got, n)
		}
		for _, s := range herdOf(t, db).Stats().Servers {
			if s.Pool.OpenConnections > 10 {
				t.Errorf("%s has %d connections", s.Name, s.Pool.OpenConnections)
			}
		}
	})
	t.Run("kept warm", func(t *testing.T) {
		db := openDB(t, d.DSN(), "pool_min_conns=3")
		c := herdOf(t, db)
		eventually(t, "3 connections to each server", func() bool {
			for _, s := range c.Stats().Servers {
				if s.Pool.OpenConnections != 3 {
					return false
				}
			}
			return true
		})
	})
}

func TestCancellationIsTheCallers(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN())
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := db.ExecContext(ctx, "select pg_sleep(10)")
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want the deadline", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.ExecContext(ctx, "select 1"); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want Canceled", err)
	}
	c := herdOf(t, db)
	if n := c.Stats().Retries; n != 0 {
		t.Errorf("%d statements were tried again after their callers had gone", n)
	}
	for _, s := range c.Stats().Servers {
		if s.Failures != 0 {
			t.Errorf("%s: %d failures counted for the caller's cancellations", s.Name, s.Failures)
		}
	}
	for _, s := range c.Health().Servers {
		if !s.Up {
			t.Errorf("%s is down: %v", s.Name, s.Err)
		}
	}
}

func TestQueryTimeout(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, h.CreateDatabase(t).DSN(), "query_timeout=500ms")
	if _, err := db.Exec("select pg_sleep(10)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v, want the deadline", err)
	}
	rows, err := db.Query("select n from generate_series(1, 3) n")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		n++
	}
	if err := rows.Err(); n != 3 || err != nil {
		t.Errorf("%d rows, err %v", n, err)
	}
}

func TestNothingStartsBeforeConnect(t *testing.T) {
	before := goleak.IgnoreCurrent()
	c, err := (&pgherd.Driver{}).OpenConnector("postgres://127.0.0.1:1/db")
	if err != nil {
		t.Fatal(err)
	}
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
	if err := c.(*pgherd.Connector).Close(); err != nil {
		t.Error(err)
	}
}
