//go:build unix

package bench

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/bxcodec/dbresolver/v2"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// poolSize is how many connections every handle keeps.
const poolSize = 32

// budgetAllocs is what pgherd may add to a statement, whatever it returns.
const budgetAllocs = 2

// A querier is what an operation needs: a peer, or a transaction of one.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// memoryPeers are the peers over in-memory servers.
type memoryPeers struct {
	plain, herd *sql.DB
	spare       *sql.DB
	resolver    dbresolver.DB
}

func newMemoryPeers(tb testing.TB) *memoryPeers {
	tb.Helper()
	open := func() *sql.DB {
		db := openMemory()
		tb.Cleanup(func() { db.Close() })
		return db
	}
	primary, r1, r2 := open(), open(), open()
	c, err := pgherd.NewConnector(nil,
		pgherd.Member{Name: "primary", DB: primary, Role: routing.Primary},
		pgherd.Member{Name: "r1", DB: r1, Role: routing.Replica},
		pgherd.Member{Name: "r2", DB: r2, Role: routing.Replica},
	)
	if err != nil {
		tb.Fatal(err)
	}
	p := &memoryPeers{
		plain:    open(),
		spare:    open(),
		herd:     sql.OpenDB(c),
		resolver: newResolver(primary, r1, r2),
	}
	p.herd.SetMaxIdleConns(poolSize)
	tb.Cleanup(func() { p.herd.Close() })
	return p
}

func newResolver(primary *sql.DB, replicas ...*sql.DB) dbresolver.DB {
	return dbresolver.New(
		dbresolver.WithPrimaryDBs(primary),
		dbresolver.WithReplicaDBs(replicas...),
		dbresolver.WithLoadBalancer(dbresolver.RoundRobinLB),
	)
}

const pointQuery = "SELECT balance FROM accounts WHERE id = $1"

func point(ctx context.Context, h querier) error {
	var n int64
	return h.QueryRowContext(ctx, pointQuery, 1).Scan(&n)
}

func thousandRows(ctx context.Context, h querier) error {
	rows, err := h.QueryContext(ctx, "SELECT balance FROM accounts LIMIT $1", 1000)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return err
		}
	}
	return rows.Err()
}

// lease takes a connection out of its pool and gives it back.
func lease(ctx context.Context, db *sql.DB) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(any) error { return nil })
}

func exec(ctx context.Context, h querier) error {
	_, err := h.ExecContext(ctx, "UPDATE accounts SET balance = 7 WHERE id = $1", 1)
	return err
}

// operations returns what BenchmarkOverhead compares: for each name the peers
// that can do it, plain first.
func (p *memoryPeers) operations(tb testing.TB) []operation {
	tb.Helper()
	on := func(f func(context.Context, querier) error) []peer {
		return []peer{
			{"plain", func(ctx context.Context) error { return f(ctx, p.plain) }},
			{"pgherd", func(ctx context.Context) error { return f(ctx, p.herd) }},
			{"dbresolver", func(ctx context.Context) error { return f(ctx, p.resolver) }},
			{"lease", func(ctx context.Context) error {
				if err := lease(ctx, p.spare); err != nil {
					return err
				}
				return f(ctx, p.plain)
			}},
		}
	}
	return []operation{
		{"point", on(point)},
		{"rows1000", on(thousandRows)},
		{"exec", on(exec)},
		{"prepared", []peer{
			{"plain", prepared(tb, p.plain.PrepareContext)},
			{"pgherd", prepared(tb, p.herd.PrepareContext)},
			{"dbresolver", prepared(tb, p.resolver.PrepareContext)},
		}},
		{"tx", []peer{
			{"plain", begin(p.plain.BeginTx, pointAndExec[*sql.Tx])},
			{"pgherd", begin(p.herd.BeginTx, pointAndExec[*sql.Tx])},
			{"dbresolver", begin(p.resolver.BeginTx, pointAndExec[dbresolver.Tx])},
		}},
	}
}

type operation struct {
	name  string
	peers []peer
}

func prepared[T interface {
	QueryRowContext(ctx context.Context, args ...any) *sql.Row
	Close() error
}](tb testing.TB, prepare func(context.Context, string) (T, error)) func(context.Context) error {
	tb.Helper()
	st, err := prepare(tb.Context(), pointQuery)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { st.Close() })
	return func(ctx context.Context) error {
		var n int64
		return st.QueryRowContext(ctx, 1).Scan(&n)
	}
}

// begin is a transaction around f. The two types of transaction have the same
// methods.
func begin[T interface {
	querier
	Commit() error
	Rollback() error
}](beginTx func(context.Context, *sql.TxOptions) (T, error), f func(context.Context, T) error) func(context.Context) error {
	return func(ctx context.Context) error {
		tx, err := beginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if err := f(ctx, tx); err != nil {
			return err
		}
		return tx.Commit()
	}
}

func pointAndExec[T querier](ctx context.Context, tx T) error {
	if err := point(ctx, tx); err != nil {
		return err
	}
	return exec(ctx, tx)
}

// BenchmarkOverhead reports what each peer adds to what plain database/sql takes
// for the same operation over the same in-memory driver, in processor time.
func BenchmarkOverhead(b *testing.B) {
	for _, op := range newMemoryPeers(b).operations(b) {
		b.Run(op.name, func(b *testing.B) {
			c := contest{peers: op.peers, goroutines: 1, length: 2 * time.Millisecond, rounds: max(b.N, 100)}
			s := c.run(b)
			b.ReportMetric(0, "ns/op") // b.N counts rounds
			b.ReportMetric(s.ns(cpu, "plain"), "plain-ns")
			for _, p := range op.peers[1:] {
				b.ReportMetric(s.added(cpu, p.name, "plain"), p.name+"+ns")
				b.ReportMetric(allocs(b, p)-allocs(b, op.peers[0]), p.name+"+allocs")
			}
		})
	}
}

func allocs(tb testing.TB, p peer) float64 {
	tb.Helper()
	ctx := context.Background()
	return testing.AllocsPerRun(200, func() {
		if err := p.do(ctx); err != nil {
			tb.Fatalf("%s: %v", p.name, err)
		}
	})
}

// TestOverheadAllocations holds the part of the budget that does not depend on
// the machine. A thousand rows may add no more than one.
func TestOverheadAllocations(t *testing.T) {
	for _, op := range newMemoryPeers(t).operations(t) {
		if op.name == "tx" {
			continue // several statements
		}
		checkAllocs(t, op.name, op.peers[0], op.peers[1])
	}
}

func checkAllocs(t *testing.T, name string, plain, herd peer) {
	t.Helper()
	base := allocs(t, plain)
	added := allocs(t, herd) - base
	t.Logf("%s: plain %.0f, pgherd %+.0f", name, base, added)
	if added > budgetAllocs {
		t.Errorf("%s: pgherd adds %.0f allocations, want at most %d", name, added, budgetAllocs)
	}
}
