//go:build unix

package bench

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bxcodec/dbresolver/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

var (
	rounds = flag.Int("rounds", 60, "rounds of each contest of BenchmarkHerd")
	length = flag.Duration("round", 50*time.Millisecond, "length of one round of one peer of BenchmarkHerd")
)

// accounts is how many rows the table of the real servers has.
const accounts = 10000

// An ideal is what a caller could write by hand.
type ideal struct {
	primary  *sql.DB
	replicas []*sql.DB
	turn     atomic.Uint64
}

func (i *ideal) replica() *sql.DB {
	return i.replicas[i.turn.Add(1)%uint64(len(i.replicas))]
}

// herdPeers are the peers over the same real servers.
type herdPeers struct {
	ideal, control *ideal
	resolver       dbresolver.DB
	herd           *sql.DB
}

func newHerdPeers(tb testing.TB, params ...string) *herdPeers {
	tb.Helper()
	h := pgherdtest.Start(tb, pgherdtest.Replicas(2), pgherdtest.Settings(map[string]string{
		"max_connections": fmt.Sprint(4*poolSize + 50), // of four peers, and of replication and probes
	}))
	fill(tb, h)

	defaults := pgherd.NewConfig()
	open := func(s *pgherdtest.Server) *sql.DB {
		cfg, err := pgx.ParseConfig(s.DirectDSN())
		if err != nil {
			tb.Fatal(err)
		}
		db := stdlib.OpenDB(*cfg)
		db.SetMaxOpenConns(poolSize)
		db.SetMaxIdleConns(poolSize)
		db.SetConnMaxLifetime(defaults.PoolMaxConnLifetime)
		db.SetConnMaxIdleTime(defaults.PoolMaxConnIdleTime)
		tb.Cleanup(func() { db.Close() })
		return db
	}
	byHand := func() *ideal {
		return &ideal{primary: open(h.Primary()), replicas: []*sql.DB{open(h.Replica(1)), open(h.Replica(2))}}
	}
	herd, err := sql.Open("pgherd", directDSN(tb, h, append(params, fmt.Sprint("pool_max_conns=", poolSize))...))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { herd.Close() })
	herd.SetMaxIdleConns(poolSize)
	return &herdPeers{
		ideal:    byHand(),
		control:  byHand(),
		resolver: newResolver(open(h.Primary()), open(h.Replica(1)), open(h.Replica(2))),
		herd:     herd,
	}
}

// directDSN is the DSN of h without the proxies through which tests cut off its
// servers.
func directDSN(tb testing.TB, h *pgherdtest.Herd, params ...string) string {
	tb.Helper()
	var hosts []string
	for _, s := range h.Servers() {
		u, err := url.Parse(s.DirectDSN())
		if err != nil {
			tb.Fatal(err)
		}
		hosts = append(hosts, u.Host)
	}
	u, err := url.Parse(h.Primary().DirectDSN())
	if err != nil {
		tb.Fatal(err)
	}
	u.Host = strings.Join(hosts, ",")
	u.RawQuery += "&" + strings.Join(params, "&")
	return u.String()
}

// fill makes the table and waits until the replicas have it.
func fill(tb testing.TB, h *pgherdtest.Herd) {
	tb.Helper()
	db, err := sql.Open("pgx", h.Primary().DirectDSN())
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	for _, stmt := range []string{
		"CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50)",
		fmt.Sprintf("INSERT INTO accounts SELECT n, 7 FROM generate_series(1, %d) n", accounts),
		"VACUUM ANALYZE accounts",
	} {
		if _, err := db.ExecContext(tb.Context(), stmt); err != nil {
			tb.Fatal(err)
		}
	}
	if err := h.WaitSync(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

func (p *herdPeers) operations() []operation {
	return []operation{
		{"select", []peer{
			{"ideal", func(ctx context.Context) error { return selectOne(ctx, p.ideal.replica()) }},
			{"control", func(ctx context.Context) error { return selectOne(ctx, p.control.replica()) }},
			{"dbresolver", func(ctx context.Context) error { return selectOne(ctx, p.resolver) }},
			{"pgherd", func(ctx context.Context) error { return selectOne(ctx, p.herd) }},
		}},
		{"tx", []peer{
			{"ideal", begin(p.ideal.primary.BeginTx, updateOne[*sql.Tx])},
			{"control", begin(p.control.primary.BeginTx, updateOne[*sql.Tx])},
			{"dbresolver", begin(p.resolver.BeginTx, updateOne[dbresolver.Tx])},
			{"pgherd", begin(p.herd.BeginTx, updateOne[*sql.Tx])},
		}},
	}
}

func selectOne(ctx context.Context, h querier) error {
	var n int64
	return h.QueryRowContext(ctx, pointQuery, 1+rand.IntN(accounts)).Scan(&n)
}

// updateOne reads and changes a row that nobody else is likely to use.
func updateOne[T querier](ctx context.Context, tx T) error {
	id := 1 + rand.IntN(accounts)
	var n int64
	if err := tx.QueryRowContext(ctx, pointQuery, id).Scan(&n); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, "UPDATE accounts SET balance = balance + 1 WHERE id = $1", id)
	return err
}

// updateNone is a write that leaves nothing to replicate: replication goes
// through this process, where it would be counted.
func updateNone(ctx context.Context, h querier) error {
	_, err := h.ExecContext(ctx, "UPDATE accounts SET balance = 7 WHERE id = $1", 0)
	return err
}

// BenchmarkHerd reports throughput on real servers as a multiple of ideal's, and
// pgherd's as one of dbresolver's.
func BenchmarkHerd(b *testing.B) {
	for _, op := range newHerdPeers(b).operations() {
		for _, n := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%s/goroutines=%d", op.name, n), func(b *testing.B) {
				c := contest{peers: op.peers, goroutines: n, length: *length, rounds: *rounds}
				s := c.run(b)
				b.ReportMetric(0, "ns/op") // there is no b.N
				b.ReportMetric(1e9/s.ns(wall, "ideal"), "ideal/s")
				// Throughput is the inverse of wall.
				control, spread := s.ratio(wall, "ideal", "control")
				b.ReportMetric(control, "control:ideal")
				b.ReportMetric(spread, "±")
				for _, pair := range [][2]string{{"dbresolver", "ideal"}, {"pgherd", "ideal"}, {"pgherd", "dbresolver"}} {
					v, _ := s.ratio(wall, pair[1], pair[0])
					b.ReportMetric(v, pair[0]+":"+pair[1])
				}
				v, _ := s.ratio(cpu, "pgherd", "ideal")
				b.ReportMetric(v, "cpu-pgherd:ideal")
				v, _ = s.ratio(cpu, "control", "ideal")
				b.ReportMetric(v, "cpu-control:ideal")
			})
		}
	}
}

// TestHerdAllocations holds the budget for the connections of pgx, which a DSN
// gives. No question of the probe falls into the time that it takes.
func TestHerdAllocations(t *testing.T) {
	p := newHerdPeers(t, "lag_check_interval=1h", "max_lag=0")
	for _, op := range []struct {
		name        string
		plain, herd peer
	}{
		{"select", peer{"ideal", func(ctx context.Context) error { return selectOne(ctx, p.ideal.replicas[0]) }},
			peer{"pgherd", func(ctx context.Context) error { return selectOne(ctx, p.herd) }}},
		{"exec", peer{"ideal", func(ctx context.Context) error { return updateNone(ctx, p.ideal.primary) }},
			peer{"pgherd", func(ctx context.Context) error { return updateNone(ctx, p.herd) }}},
	} {
		for range 10 { // both replicas know the statement
			allocs(t, op.herd)
		}
		checkAllocs(t, op.name, op.plain, op.herd)
	}
}
