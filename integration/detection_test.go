package integration

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/integration/herds"
	"github.com/pgherd/pgherd/internal/racedetector"
)

// TestDetection loses each replica in each way, under the default settings, and
// holds reads to no error and to the time that finding out may take. It logs
// the table in the README, and loses one replica only with the race detector.
func TestDetection(t *testing.T) {
	h := startHerd(t, herds.Options{Replicas: 2})
	db, err := sql.Open("pgherd", h.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := pgherd.FromDB(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ReadCatalog(t.Context(), "select pg_is_in_recovery()"); err != nil {
		t.Fatal(err)
	}
	cfg := pgherd.NewConfig()
	// A question may just have been answered when the server is lost, and one more
	// connection may have to be given up. The rest is for the noise of machines.
	limit := 2*(cfg.LagCheckInterval+cfg.LagCheckTimeout) + time.Second

	var table strings.Builder
	fmt.Fprintf(&table, "\n| replica | reads | failed | slowest read | noticed after | served again after |\n|---|---|---|---|---|---|\n")
	replicas := 2
	if racedetector.Enabled {
		replicas = 1
	}
	for i := 1; i <= replicas; i++ {
		s := h.Replica(i)
		for _, loss := range []struct {
			name         string
			lose, regain func() error
		}{{"killed", s.Kill, s.Start}, {"frozen", s.Freeze, s.Thaw}, {"cut off", s.Partition, s.Heal}} {
			r := readLoad(db, 4)
			time.Sleep(300 * time.Millisecond)
			up := func() bool { return c.Health().Servers[i].Up }
			begun := time.Now()
			if err := loss.lose(); err != nil {
				t.Fatal(err)
			}
			until(t, "the loss is noticed", func() bool { return !up() })
			noticed := time.Since(begun)
			time.Sleep(time.Until(begun.Add(limit))) // every read that met the loss has ended
			begun = time.Now()
			if err := loss.regain(); err != nil {
				t.Fatal(err)
			}
			n := c.Stats().Servers[i].Total()
			until(t, "the replica serves again", func() bool { return c.Stats().Servers[i].Total() > n })
			again := time.Since(begun)
			r.end()
			fmt.Fprintf(&table, "| %s | %d | %d | %v | %v | %v |\n", loss.name, r.reads.Load(), r.failed.Load(),
				time.Duration(r.slowest.Load()).Round(time.Millisecond), noticed.Round(time.Millisecond), again.Round(time.Millisecond))
			if n := r.failed.Load(); n > 0 {
				t.Errorf("replica %d %s: %d reads failed, the last with %v", i, loss.name, n, r.last.Load())
			}
			if d := time.Duration(r.slowest.Load()); d > limit {
				t.Errorf("replica %d %s: the slowest read took %v, want at most %v", i, loss.name, d, limit)
			}
			if r.reads.Load() < 500 {
				t.Errorf("replica %d %s: %d reads show nothing", i, loss.name, r.reads.Load())
			}
		}
	}
	t.Log(table.String())
}

type load struct {
	reads, failed, slowest atomic.Int64
	last                   atomic.Value // error
	stop                   context.CancelFunc
	wg                     sync.WaitGroup
}

// readLoad begins to read with n goroutines.
func readLoad(db *sql.DB, n int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	r := &load{stop: cancel}
	for range n {
		r.wg.Go(func() {
			for ctx.Err() == nil {
				begun := time.Now()
				err := db.QueryRowContext(context.Background(), "select pg_is_in_recovery()").Scan(new(bool))
				took := int64(time.Since(begun))
				r.reads.Add(1)
				if err != nil {
					r.failed.Add(1)
					r.last.Store(err.Error())
				}
				for {
					old := r.slowest.Load()
					if took <= old || r.slowest.CompareAndSwap(old, took) {
						break
					}
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return r
}

func (r *load) end() {
	r.stop()
	r.wg.Wait()
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for: %s", what)
		}
	}
}
