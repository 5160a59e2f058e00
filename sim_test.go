package pgherd

import (
	"cmp"
	"context"
	"database/sql"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgherd/pgherd/internal/racedetector"
	"github.com/pgherd/pgherd/routing"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "run the simulation with this seed only, and print what happens; with -sim.seeds, begin with it")
	simDay   = flag.Bool("sim.day", false, "run the simulation of 200 servers for a day, too")
	simSeeds = flag.Uint64("sim.seeds", 0, "run the simulation with so many seeds")
)

// simConnectTimeout is connect_timeout.
const simConnectTimeout = 2 * time.Second

// A simPlan is what kind of world a simulation is of.
type simPlan struct {
	servers   int
	clients   int
	lifetime  time.Duration
	nap       time.Duration // longest time between two events
	think     time.Duration // longest time between two statements of a client
	lag       time.Duration // of the laziest standby
	pace      int           // how many times as long as in a small world things last
	conflicts float64       // how often a standby cancels a read
	tails     float64       // how often the primary has logged what no commit has flushed
	lossless  bool          // no failover costs what was committed
	members   bool          // servers come and go
	verbose   bool
}

// TestSimulation lets herds live, on virtual time, through crashes, freezes,
// partitions, lag, promotions, primaries that return from the dead and members
// that come and go, under clients that write and read, and holds every
// statement to the promises in the documentation of the package. Everything
// from database/sql to the bytes that pgx sends is the real thing; see
// sim_net_test.go for what is not.
func TestSimulation(t *testing.T) {
	first, number := uint64(1), uint64(1500)
	if racedetector.Enabled || testing.Short() {
		number = 15
	}
	if *simSeed != 0 {
		first, number = *simSeed, 1
	}
	if *simSeeds != 0 {
		number = *simSeeds
	}
	var (
		next, failed atomic.Uint64
		mu           sync.Mutex
		totals       simTotals // guarded by mu
	)
	t.Run("worlds", func(t *testing.T) {
		for i := range 2 { // a world keeps one processor busy
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for failed.Load() < 5 {
					n := next.Add(1) - 1
					if n >= number {
						break
					}
					w := simulate(t, first+n, smallWorld, number == 1)
					if w.violated {
						failed.Add(1)
					}
					mu.Lock()
					totals.add(&w.totals)
					totals.Worlds++
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("%+v", totals)
	if number >= 1500 && !t.Failed() {
		totals.check(t)
	}
}

// TestSimulationOfManyServers has 200 servers live for a day.
func TestSimulationOfManyServers(t *testing.T) {
	if !*simDay {
		t.Skip("it takes minutes: run it with -sim.day")
	}
	t.Parallel()
	w := simulate(t, max(1, *simSeed), largeWorld, false)
	t.Logf("%+v", w.totals)
}

// smallWorld is dense: something happens all the time.
func smallWorld(r *rand.Rand) (simPlan, *Config) {
	plan := simPlan{
		servers:   3 + r.IntN(4),
		clients:   4,
		lifetime:  12 * time.Second,
		nap:       choose(r, 200*time.Millisecond, time.Second, 3*time.Second),
		think:     choose(r, 30*time.Millisecond, 300*time.Millisecond, time.Second),
		lag:       choose(r, 10*time.Millisecond, time.Second, 10*time.Second),
		pace:      1,
		conflicts: choose(r, 0, 0.02),
		tails:     choose(r, 0, 0.3),
		lossless:  r.IntN(2) == 0,
		members:   r.IntN(2) == 0,
	}
	cfg := NewConfig()
	cfg.MaxLag = choose(r, 0, 500*time.Millisecond, 2*time.Second, 10*time.Second)
	cfg.LagCheckInterval = choose(r, 200*time.Millisecond, time.Second)
	cfg.LagCheckTimeout = choose(r, 200*time.Millisecond, time.Second)
	cfg.PoolMaxConns = choose(r, 2, 4, 20)
	cfg.ReplicaFallbackMaxConns = choose(r, 0, 1, 10)
	cfg.Consistency = choose(r, ConsistencySession, ConsistencyEventual)
	cfg.ConsistencyTimeout = choose(r, 0, 200*time.Millisecond)
	cfg.FailoverTimeout = choose(r, 0, 3*time.Second, 10*time.Second)
	cfg.LoadBalanceHosts = choose(r, routing.Random, routing.RoundRobin, routing.LeastConns, routing.Latency)
	cfg.ReplicaFallback = choose(r, FallbackPrimary, FallbackPrimary, FallbackPrimary, FallbackError)
	cfg.AcquireTimeout = choose(r, time.Second, 30*time.Second)
	cfg.SlowStart = choose(r, 0, 10*time.Second)
	cfg.HedgeAfter.Fixed = choose(r, 0, 0, 20*time.Millisecond)
	return plan, cfg
}

// largeWorld has all the time in the world.
func largeWorld(r *rand.Rand) (simPlan, *Config) {
	plan := simPlan{
		servers:   200,
		clients:   10,
		lifetime:  24 * time.Hour,
		nap:       3 * time.Minute,
		think:     5 * time.Minute,
		lag:       20 * time.Minute,
		pace:      60,
		conflicts: 0.01,
		tails:     0.3,
		members:   true,
	}
	cfg := NewConfig()
	cfg.MaxLag = 10 * time.Minute
	cfg.LagCheckInterval = 2 * time.Minute
	cfg.ConsistencyTimeout = 200 * time.Millisecond
	cfg.FailoverTimeout = 3 * time.Second
	return plan, cfg
}

// simulate lets one world live.
func simulate(t *testing.T, seed uint64, create func(*rand.Rand) (simPlan, *Config), verbose bool) *simWorld {
	var w *simWorld
	synctest.Test(t, func(t *testing.T) {
		plan, cfg := create(rand.New(rand.NewPCG(seed, 0)))
		plan.verbose = verbose
		w = newSimWorld(t, seed, plan, cfg)
		w.run()
	})
	if w.violated {
		if !verbose {
			t.Logf("the last events:\n%s", strings.Join(w.events, "\n"))
		}
		t.Logf("repeat it with: go test -run '%s$' -sim.seed=%d . (more than once: goroutines do not run in an order that a seed fixes)",
			strings.Split(t.Name(), "/")[0], seed)
	}
	return w
}

func choose[T any](r *rand.Rand, values ...T) T { return values[r.IntN(len(values))] }

// open opens the herd of all servers of the world.
func (w *simWorld) open() (*Connector, *sql.DB) {
	w.note("%+v %v", w.plan, w.cfg)
	w.cfg.User, w.cfg.Database = "app", "shop"
	w.cfg.CatalogOff = true // the servers have none
	w.cfg.Params = map[string]string{"sslmode": "disable", "connect_timeout": fmt.Sprint(simConnectTimeout.Seconds())}
	w.cfg.DialFunc = w.dial
	for _, n := range w.nodes {
		w.cfg.Hosts = append(w.cfg.Hosts, n.host)
	}
	herd, err := NewConnector(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	db := sql.OpenDB(herd)
	if err := db.Ping(); err != nil {
		w.t.Fatal(err)
	}
	return herd, db
}

// close closes the herd, and sees that nothing is left of it.
func (w *simWorld) close(db *sql.DB) {
	if err := db.Close(); err != nil {
		w.t.Error(err)
	}
	time.Sleep(20 * time.Second) // pgx takes up to 15 to close a broken connection
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		if len(n.conns) > 0 {
			w.violate("%d connections to %s are left open", len(n.conns), n)
		}
	}
}

// run lets the world live, repairs it, and sees that the herd notices.
func (w *simWorld) run() {
	herd, db := w.open()
	ctx, cancel := context.WithTimeout(context.Background(), w.plan.lifetime)
	var clients sync.WaitGroup
	shared := w.newSession()
	for i := range w.plan.clients {
		cl := &simClient{w: w, herd: herd, db: db, rng: rand.New(rand.NewPCG(w.seed, uint64(10+i))), session: w.newSession()}
		if i < 2 {
			cl.session = shared
		}
		clients.Go(func() { cl.live(ctx) })
	}
	w.live(ctx, herd)
	cancel()
	clients.Wait()
	w.settle(herd, db)
	stats := herd.Stats()
	w.totals.Retries, w.totals.Hedges = int(stats.Retries), int(stats.Hedges)
	for _, s := range stats.Servers {
		w.totals.Ejections += int(s.Ejections)
	}
	if n := len(herd.takeovers); n > 0 {
		w.violate("%d reads have not given back their right to the primary", n)
	}
	w.close(db)
}

// settle repairs all servers, and sees that the herd uses them.
func (w *simWorld) settle(herd *Connector, db *sql.DB) {
	w.mu.Lock()
	w.over = true
	w.note("all is repaired")
	for _, n := range w.nodes {
		if n != w.newest && (!n.standby || n.upstream != w.newest || !w.on(w.newest.timeline, n.timeline, n.lsn)) {
			w.change(n, "is rebuilt", func() {
				w.stop(n, true)
				n.standby, n.upstream = true, w.newest
				n.timeline, n.lsn, n.control = w.newest.timeline, w.newest.lsn, w.newest.timeline
			})
		}
		w.change(n, "is well", func() {
			n.life, n.frozen, n.isolated, n.failing, n.cut, n.paused, n.lag, n.slow = simUp, false, false, false, false, false, 0, 0
		})
	}
	w.mu.Unlock()
	w.leavers.Wait()
	w.mu.Lock()
	w.flush(w.newest)
	var drained, gone []*simNode
	for _, n := range w.nodes {
		switch {
		case n.draining:
			drained = append(drained, n)
		case !n.member:
			gone = append(gone, n)
		}
		n.member, n.draining, n.empty, n.leaving, n.left = true, false, false, time.Time{}, time.Time{}
	}
	w.mu.Unlock()
	// Without the lock: the probe may have to close connections first.
	for _, n := range drained {
		if err := herd.Undrain(n.name); err != nil {
			w.t.Error(err)
		}
	}
	for _, n := range gone {
		if err := herd.AddReplica(n.host); err != nil {
			w.t.Error(err)
		}
	}
	time.Sleep(w.patience())

	cl := &simClient{w: w, herd: herd, db: db, rng: rand.New(rand.NewPCG(w.seed, 3)), session: w.newSession(), patient: true}
	cl.write(context.Background(), db, simInsertText, false, nil)
	time.Sleep(w.patience())
	for _, s := range herd.Health().Servers {
		n := w.byName(s.Name)
		role := routing.Replica
		if n == w.newest {
			role = routing.Primary
		}
		if !s.Up || s.Role != role || !s.LagKnown || s.LagBytes != 0 {
			w.violate("%s is well, and the herd takes it for %+v", n, s)
		}
	}
	before := w.totals.OnReplicas
	cl.read(context.Background(), db, readOptions{})
	if w.totals.OnReplicas == before {
		w.violate("no replica is read although all are well")
	}
	for _, s := range herd.Stats().Servers {
		if s.InFlight != 0 || s.Pool.InUse != 0 {
			w.violate("%s: %d leases and %d connections are in use at the end", s.Name, s.InFlight, s.Pool.InUse)
		}
	}
}

func (w *simWorld) byName(name string) *simNode {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	panic("no server " + name)
}

// A simSession is a session that clients share, under a context.
type simSession struct {
	ctx  context.Context
	past simPast // guarded by simWorld.mu
}

func (w *simWorld) newSession() *simSession {
	return &simSession{ctx: NewSession(context.Background())}
}

// A simClient is a goroutine of an application.
type simClient struct {
	w       *simWorld
	herd    *Connector
	db      *sql.DB
	rng     *rand.Rand
	session *simSession
	patient bool // no statement's time is limited
}

// A querier is a sql.DB, sql.Conn, sql.Tx.
type querier interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

func (cl *simClient) live(ctx context.Context) {
	for ctx.Err() == nil {
		time.Sleep(rand2(cl.rng, cl.w.plan.think))
		cl.act(context.Background())
	}
}

// impatient returns a context for a statement, most of which wait as long as it
// takes. Those that do not are executed, not queried: database/sql watches over
// the context of rows and of transactions under a mutex, and for a goroutine that
// waits for a mutex synctest lets no time pass, which the end of the statement
// may take.
func (cl *simClient) impatient(ctx context.Context) (context.Context, context.CancelFunc) {
	if cl.patient || cl.rng.IntN(10) > 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, rand2(cl.rng, time.Second))
}

// act does one thing that applications do.
func (cl *simClient) act(ctx context.Context) {
	session := cl.session
	inSession := withHints(ctx, func(h *hints) { h.session = SessionFromContext(session.ctx) })
	switch x := cl.rng.IntN(100); {
	case x < 25:
		cl.read(ctx, cl.db, readOptions{})
	case x < 30:
		cl.read(WithReplica(ctx), cl.db, readOptions{})
	case x < 37:
		d := choose(cl.rng, 100*time.Millisecond, time.Second, 5*time.Second)
		cl.read(WithMaxLag(ctx, d), cl.db, readOptions{kind: "read at most " + d.String() + " stale", maxLag: d})
	case x < 60:
		cl.read(inSession, cl.db, readOptions{kind: "read in a session", past: &session.past})
	case x < 68:
		cl.write(inSession, cl.db, simInsertText, false, &session.past)
	case x < 76:
		cl.write(ctx, cl.db, choose(cl.rng, simInsertText, simInsertReturningText), false, nil)
	case x < 80:
		cl.hand(session)
	case x < 88:
		cl.checkout(ctx)
	case x < 95:
		cl.transact(inSession, &session.past)
	default:
		cl.look(ctx)
	}
}

type readOptions struct {
	kind   string
	past   *simPast // of the session; nil for none
	own    *simPast // of the checkout; nil for none
	maxLag time.Duration
	held   bool
	acked  []*simOp // what it must see of others, if not what was acknowledged by now
}

// read reads, and reports whether that went well.
func (cl *simClient) read(ctx context.Context, q querier, o readOptions) bool {
	w := cl.w
	ctx, cancel := cl.impatient(ctx)
	defer cancel()
	w.mu.Lock()
	op := w.begin(ctx, cmp.Or(o.kind, "read"))
	op.held = o.held
	var past simPast
	for _, p := range []*simPast{o.past, o.own} {
		if p != nil {
			c := p.clone()
			past.writes = append(past.writes, c.writes...)
			past.seen = append(past.seen, c.seen...)
		}
	}
	if o.acked == nil {
		o.acked = slices.Clone(w.acked)
	}
	w.mu.Unlock()

	var s simState
	var err error
	if ctx.Done() != nil {
		_, err = q.ExecContext(ctx, simReadText, op.id)
	} else {
		err = q.QueryRowContext(ctx, simReadText, op.id).Scan(&s.node, &s.timeline, &s.lsn)
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	defer delete(w.ops, op.id)
	op.end = time.Now()
	if err != nil {
		w.failed(op, err, o.past == nil && o.own == nil && o.maxLag == 0)
		return false
	}
	if ctx.Done() != nil {
		s = op.shown
	}
	w.read(op, s, past, o.acked, o.maxLag)
	for _, p := range []*simPast{o.past, o.own} {
		if p != nil {
			p.see(s)
		}
	}
	return true
}

// write writes, and reports whether that was acknowledged.
func (cl *simClient) write(ctx context.Context, q querier, text string, held bool, past *simPast) *simOp {
	w := cl.w
	ctx, cancel := cl.impatient(ctx)
	defer cancel()
	w.mu.Lock()
	op := w.begin(ctx, "write")
	op.write, op.held = true, held
	w.mu.Unlock()

	var err error
	if ctx.Done() != nil || text == simInsertText {
		_, err = q.ExecContext(ctx, text, op.id)
	} else {
		var rows *sql.Rows
		if rows, err = q.QueryContext(ctx, text, op.id); err == nil {
			for rows.Next() {
			}
			err = rows.Err()
		}
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	op.end = time.Now()
	if err != nil {
		w.failed(op, err, true)
		return nil
	}
	if _, inTx := q.(*sql.Tx); inTx {
		return op
	}
	w.wrote(op)
	if past != nil {
		past.write(op)
	}
	return op
}

// checkout does several things on one sql.Conn, which sees what it has done.
func (cl *simClient) checkout(ctx context.Context) {
	conn, err := cl.db.Conn(ctx)
	if err != nil {
		return
	}
	defer conn.Close()
	var own simPast
	held := false
	for range 1 + cl.rng.IntN(5) {
		if cl.rng.IntN(4) == 0 {
			if cl.write(ctx, conn, simInsertText, held, &own) == nil {
				return
			}
			held = true
		} else if !cl.read(ctx, conn, readOptions{kind: "read on a checkout", own: &own, held: held}) {
			return
		}
		time.Sleep(rand2(cl.rng, 100*time.Millisecond))
	}
}

// transact writes in a transaction, and commits it or not.
func (cl *simClient) transact(ctx context.Context, past *simPast) {
	w := cl.w
	w.mu.Lock()
	begin := w.begin(ctx, "begin")
	begin.write = true
	w.mu.Unlock()
	tx, err := cl.db.BeginTx(ctx, nil)
	if err != nil {
		w.mu.Lock()
		begin.end = time.Now()
		w.failed(begin, err, true)
		w.mu.Unlock()
		return
	}
	defer tx.Rollback()
	var ops []*simOp
	for range 1 + cl.rng.IntN(3) {
		op := cl.write(ctx, tx, simInsertText, true, nil)
		if op == nil {
			return
		}
		ops = append(ops, op)
		time.Sleep(rand2(cl.rng, 300*time.Millisecond))
	}
	if cl.rng.IntN(5) == 0 {
		return
	}
	err = tx.Commit()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, op := range ops {
		op.end = time.Now()
		if err != nil {
			w.failed(op, err, true)
			continue
		}
		w.wrote(op)
		past.write(op)
	}
}

// look reads in a read-only transaction, which may be on a replica.
func (cl *simClient) look(ctx context.Context) {
	cl.w.mu.Lock()
	acked := append([]*simOp{}, cl.w.acked...)
	cl.w.mu.Unlock()
	tx, err := cl.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return
	}
	defer tx.Rollback()
	var own simPast
	for range 1 + cl.rng.IntN(3) {
		if !cl.read(ctx, tx, readOptions{kind: "read in a transaction", own: &own, held: true, acked: acked}) {
			return
		}
		time.Sleep(rand2(cl.rng, 300*time.Millisecond))
	}
}

// hand goes on with the session as another process would.
func (cl *simClient) hand(s *simSession) {
	token := SessionFromContext(s.ctx).Token()
	ctx, err := ResumeSession(context.Background(), token)
	if err != nil {
		cl.w.t.Error(err)
	}
	cl.w.mu.Lock()
	defer cl.w.mu.Unlock()
	cl.session = &simSession{ctx: ctx, past: s.past.clone()}
}
