//go:build unix

package bench

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/metrics"
	"github.com/pgherd/pgherd/routing"
)

// observedPeers are herds over in-memory servers: one that nobody observes, and
// one with a Collector of package metrics.
func observedPeers(tb testing.TB) []operation {
	tb.Helper()
	open := func(observe func(*pgherd.Connector)) *sql.DB {
		primary, r1, r2 := openMemory(), openMemory(), openMemory()
		c, err := pgherd.NewConnector(nil,
			pgherd.Member{Name: "primary", DB: primary, Role: routing.Primary},
			pgherd.Member{Name: "r1", DB: r1, Role: routing.Replica},
			pgherd.Member{Name: "r2", DB: r2, Role: routing.Replica},
		)
		if err != nil {
			tb.Fatal(err)
		}
		observe(c)
		db := sql.OpenDB(c)
		db.SetMaxIdleConns(poolSize)
		tb.Cleanup(func() {
			db.Close()
			primary.Close()
			r1.Close()
			r2.Close()
		})
		return db
	}
	off := open(func(*pgherd.Connector) {})
	on := open(func(c *pgherd.Connector) { metrics.New(c, "bench") })
	peers := func(f func(context.Context, querier) error) []peer {
		return []peer{
			{"plain", func(ctx context.Context) error { return f(ctx, off) }},
			{"metrics", func(ctx context.Context) error { return f(ctx, on) }},
		}
	}
	return []operation{{"point", peers(point)}, {"exec", peers(exec)}, {"rows1000", peers(thousandRows)}}
}

// BenchmarkMetrics reports what a Collector adds to an operation of a herd, in
// processor time. The aim is 300 ns.
func BenchmarkMetrics(b *testing.B) {
	for _, op := range observedPeers(b) {
		b.Run(op.name, func(b *testing.B) {
			c := contest{peers: op.peers, goroutines: 1, length: 2 * time.Millisecond, rounds: max(b.N, 100)}
			s := c.run(b)
			b.ReportMetric(0, "ns/op") // b.N counts rounds
			b.ReportMetric(s.ns(cpu, "plain"), "off-ns")
			b.ReportMetric(s.added(cpu, "metrics", "plain"), "metrics+ns")
			b.ReportMetric(allocs(b, op.peers[1])-allocs(b, op.peers[0]), "metrics+allocs")
		})
	}
}

// TestMetricsAllocations holds what a Collector may add to the allocations of an
// operation.
func TestMetricsAllocations(t *testing.T) {
	for _, op := range observedPeers(t) {
		base := allocs(t, op.peers[0])
		if added := allocs(t, op.peers[1]) - base; added > 2 {
			t.Errorf("%s: metrics add %.0f allocations, want at most 2", op.name, added)
		} else {
			t.Logf("%s: off %.0f, metrics %+.0f", op.name, base, added)
		}
	}
}
