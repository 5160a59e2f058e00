//go:build unix

package bench

import (
	"context"
	"database/sql"
	"slices"
	"testing"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// BenchmarkSession tells what a session costs. A write with and without one
// takes as long as it does with plain pgx, as it needs no further round trip. How
// long after a write the session's reads are on a replica again is compared with
// how long the replica takes to have it at all.
func BenchmarkSession(b *testing.B) {
	h := pgherdtest.Start(b, pgherdtest.Replicas(2))
	fill(b, h)
	herd, err := sql.Open("pgherd", directDSN(b, h, "consistency=eventual"))
	if err != nil {
		b.Fatal(err)
	}
	defer herd.Close()
	plain, err := sql.Open("pgx", h.Primary().DirectDSN())
	if err != nil {
		b.Fatal(err)
	}
	defer plain.Close()
	replica, err := sql.Open("pgx", h.Replica(1).DirectDSN())
	if err != nil {
		b.Fatal(err)
	}
	defer replica.Close()
	if _, err := plain.Exec("create table written (n int)"); err != nil {
		b.Fatal(err)
	}
	const write = "insert into written values ($1)"

	b.Run("write", func(b *testing.B) {
		var took [3]time.Duration
		for i := range b.N {
			for j, peer := range []struct {
				db  *sql.DB
				ctx context.Context
			}{{plain, b.Context()}, {herd, b.Context()}, {herd, pgherd.NewSession(b.Context())}} {
				begun := time.Now()
				if _, err := peer.db.ExecContext(peer.ctx, write, i); err != nil {
					b.Fatal(err)
				}
				took[j] += time.Since(begun)
			}
		}
		b.ReportMetric(float64(took[1])/float64(took[0]), "pgherd:pgx")
		b.ReportMetric(float64(took[2])/float64(took[0]), "session:pgx")
		b.ReportMetric(0, "ns/op")
	})
	b.Run("return", func(b *testing.B) {
		var back, replayed []time.Duration
		for i := range b.N {
			ctx := pgherd.NewSession(b.Context())
			if _, err := herd.ExecContext(ctx, write, -i); err != nil {
				b.Fatal(err)
			}
			begun := time.Now()
			for standby := false; !standby; {
				if err := herd.QueryRowContext(ctx, "select pg_is_in_recovery()").Scan(&standby); err != nil {
					b.Fatal(err)
				}
			}
			back = append(back, time.Since(begun))

			if _, err := plain.Exec(write, -i); err != nil {
				b.Fatal(err)
			}
			begun = time.Now()
			for n := 0; n < 2; {
				if err := replica.QueryRow("select count(*) from written where n = $1", -i).Scan(&n); err != nil {
					b.Fatal(err)
				}
			}
			replayed = append(replayed, time.Since(begun))
		}
		b.ReportMetric(median(back).Seconds()*1e3, "ms/return")
		b.ReportMetric(median(replayed).Seconds()*1e3, "ms/replication")
		b.ReportMetric(0, "ns/op")
	})
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
