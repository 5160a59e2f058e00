//go:build unix

package bench

import (
	"context"
	"database/sql"
	"flag"
	"iter"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

var streamed = flag.Int("rows", 1_000_000, "rows of each stream of BenchmarkStream")

// A streamRow is what all peers make of a row.
type streamRow struct {
	ID   int64
	Name string
	Wool float64
	Born time.Time
}

const streamQuery = `select i::bigint as id, 'ewe' as name, i / 7.0::float8 as wool, '2026-01-02 03:04:05Z'::timestamptz as born from generate_series(1, $1::int) i`

// handScanned is what a caller writes by hand over any handle.
func handScanned(ctx context.Context, db pgherd.Queryer, n int) iter.Seq2[streamRow, error] {
	return func(yield func(streamRow, error) bool) {
		var r streamRow
		rows, err := db.QueryContext(ctx, streamQuery, n)
		if err != nil {
			yield(r, err)
			return
		}
		defer rows.Close()
		for rows.Next() {
			if err := rows.Scan(&r.ID, &r.Name, &r.Wool, &r.Born); err != nil {
				yield(r, err)
				return
			}
			if !yield(r, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(r, err)
		}
	}
}

// BenchmarkStream reads a result of -rows rows in each round: by hand over pgx's
// driver, which is the base, and by Stream and Cursor over the herd. It reports
// ratios of throughput and of the process's own time, and the most that the heap
// grew by. BenchmarkStop leaves the loop after a hundred rows.
func BenchmarkStream(b *testing.B) {
	plain, herd := openStreams(b)
	peers := []struct {
		name string
		rows func() iter.Seq2[streamRow, error]
	}{
		{"pgx", func() iter.Seq2[streamRow, error] { return handScanned(b.Context(), plain, *streamed) }},
		{"hand", func() iter.Seq2[streamRow, error] { return handScanned(b.Context(), herd, *streamed) }},
		{"stream", func() iter.Seq2[streamRow, error] {
			return pgherd.Stream[streamRow](b.Context(), herd, streamQuery, *streamed)
		}},
		{"cursor", func() iter.Seq2[streamRow, error] {
			return pgherd.Cursor[streamRow](b.Context(), herd, 0, streamQuery, *streamed)
		}},
	}
	s := make(scores)
	grown := make(map[string]uint64)
	for b.Loop() {
		for _, p := range peers {
			runtime.GC()
			var before, now runtime.MemStats
			runtime.ReadMemStats(&before)
			start, startCPU := time.Now(), cpuTime(b)
			n := 0
			for _, err := range p.rows() {
				if err != nil {
					b.Fatal(err)
				}
				if n++; n%(*streamed/10+1) == 0 {
					runtime.ReadMemStats(&now)
					grown[p.name] = max(grown[p.name], now.HeapInuse-min(before.HeapInuse, now.HeapInuse))
				}
			}
			s[p.name] = append(s[p.name], score{float64(time.Since(start)), float64(cpuTime(b) - startCPU)})
			if n != *streamed {
				b.Fatalf("%s: %d rows", p.name, n)
			}
		}
	}
	for _, p := range peers {
		if p.name != "pgx" {
			r, _ := s.ratio(wall, p.name, "pgx")
			b.ReportMetric(1/r, p.name+"/pgx")
			r, _ = s.ratio(cpu, p.name, "pgx")
			b.ReportMetric(1/r, p.name+"-cpu/pgx")
		}
		b.ReportMetric(float64(grown[p.name])/(1<<20), p.name+"-MB")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkStop reports how long it takes to leave a loop over a million rows
// after a hundred of them.
func BenchmarkStop(b *testing.B) {
	plain, herd := openStreams(b)
	for _, p := range []struct {
		name string
		rows iter.Seq2[streamRow, error]
	}{
		{"pgx", handScanned(b.Context(), plain, 1_000_000)},
		{"stream", pgherd.Stream[streamRow](b.Context(), herd, streamQuery, 1_000_000)},
		{"cursor", pgherd.Cursor[streamRow](b.Context(), herd, 100, streamQuery, 1_000_000)},
	} {
		b.Run(p.name, func(b *testing.B) {
			var took []float64
			for b.Loop() {
				n := 0
				var stopped time.Time
				for _, err := range p.rows {
					if err != nil {
						b.Fatal(err)
					}
					if n++; n == 100 {
						stopped = time.Now()
						break
					}
				}
				took = append(took, float64(time.Since(stopped)))
			}
			b.ReportMetric(quantile(took, 0.5)/1e6, "median-ms")
			b.ReportMetric(slices.Max(took)/1e6, "max-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func openStreams(b *testing.B) (plain, herd *sql.DB) {
	b.Helper()
	h := pgherdtest.Start(b, pgherdtest.Replicas(0))
	plain, err := sql.Open("pgx", h.Primary().DirectDSN())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { plain.Close() })
	herd, err = sql.Open("pgherd", h.Primary().DirectDSN())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { herd.Close() })
	return plain, herd
}
