package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

// records are what names stand for in a test. They are safe for concurrent use.
type records struct {
	mu     sync.Mutex          // guards what follows
	of     map[string][]string // addresses
	outage bool

	lookups atomic.Int64
}

func newRecords() *records { return &records{of: make(map[string][]string)} }

func (r *records) set(name string, servers ...*pgherdtest.Server) {
	var addresses []string
	for _, s := range servers {
		addresses = append(addresses, s.Addr())
	}
	r.setAddresses(name, addresses...)
}

func (r *records) setAddresses(name string, addresses ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of[name] = addresses
}

func (r *records) fail(outage bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outage = outage
}

func (r *records) LookupHost(_ context.Context, host string) ([]string, error) {
	defer r.lookups.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.outage {
		return nil, errors.New("the resolver is out of order")
	}
	return r.of[host], nil
}

// openFound opens the herd that r knows under the names in dsn.
func openFound(t *testing.T, dsn string, r *records) (*sql.DB, *pgherd.Connector) {
	t.Helper()
	return openLookedUp(t, dsn+"&discovery=dns&discovery_interval=100ms&slow_start=0", r)
}

// openLookedUp opens a herd whose names r looks up.
func openLookedUp(t *testing.T, dsn string, r *records) (*sql.DB, *pgherd.Connector) {
	t.Helper()
	cfg, err := pgherd.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.LookupHost = r.LookupHost
	c, err := pgherd.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	t.Cleanup(func() { db.Close() })
	return db, c
}

// members returns the addresses of c's members and, for those that are up,
// "up".
func members(c *pgherd.Connector) (list []string) {
	for _, s := range c.Health().Servers {
		_, address, _ := strings.Cut(s.Name, "-")
		if s.Up {
			address += " up"
		}
		list = append(list, address)
	}
	slices.Sort(list)
	return list
}

// allUp are the members of a herd of these servers that all answer.
func allUp(servers ...*pgherdtest.Server) (list []string) {
	for _, s := range servers {
		list = append(list, s.Addr()+" up")
	}
	slices.Sort(list)
	return list
}

// The herd is what a name stands for at any time, and no read notices how it
// changes.
func TestDiscoveryFollowsTheName(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(3))
	primary, one, two, three := h.Primary(), h.Replica(1), h.Replica(2), h.Replica(3)
	r := newRecords()
	r.set("herd.test", primary, one, two)
	db, c := openFound(t, "postgres://postgres@herd.test/postgres?sslmode=disable", r)
	mustExec(t, db, "create table t (n int)")
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	becomes := func(servers ...*pgherdtest.Server) {
		t.Helper()
		eventually(t, "the herd is as the name has it", func() bool { return slices.Equal(members(c), allUp(servers...)) })
	}
	becomes(primary, one, two)
	served := func(s *pgherdtest.Server) uint64 {
		for _, st := range c.Stats().Servers {
			if strings.HasSuffix(st.Name, "-"+s.Addr()) {
				return st.Decisions[routing.ReasonRead]
			}
		}
		return 0
	}
	serves := func(s *pgherdtest.Server) {
		t.Helper()
		n := served(s)
		eventually(t, s.Name()+" serves reads", func() bool { return served(s) > n })
	}
	reads := startReaders(db, 4)
	serves(one)
	serves(two)

	// A new replica comes.
	r.set("herd.test", primary, one, two, three)
	becomes(primary, one, two, three)
	serves(three)

	// Who is in a transaction on a replica that leaves may end it there.
	tx, err := db.BeginTx(pgherd.WithReplica(t.Context()), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	const whoami = "select current_setting('cluster_name')"
	gone := get[string](t, tx, whoami)
	left := slices.DeleteFunc(h.Servers(), func(s *pgherdtest.Server) bool { return s.Name() == gone })
	r.set("herd.test", left...)
	n := r.lookups.Load()
	eventually(t, "the name was looked up often enough", func() bool { return r.lookups.Load() > n+5 })
	if got := get[string](t, tx, whoami); got != gone {
		t.Errorf("the transaction goes on at %s, want %s", got, gone)
	}
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
	becomes(left...)

	// Without a resolver all stays as it is.
	r.fail(true)
	n = r.lookups.Load()
	eventually(t, "lookups fail", func() bool { return r.lookups.Load() > n+5 })
	if c.Health().DiscoveryErr == nil {
		t.Error("Health does not tell")
	}
	becomes(left...)
	db.SetMaxIdleConns(0)
	mustExec(t, db, "insert into t values (1)")
	r.fail(false)

	reads.end(t)
}

// A name that moves to the server that takes over, as the writer endpoints of
// clouds do, takes the writes with it.
func TestDiscoveryFollowsThePrimary(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(2))
	old, next, other := h.Primary(), h.Replica(1), h.Replica(2)
	r := newRecords()
	r.set("rw.test", old)
	r.set("ro.test", other)
	db, c := openFound(t, "postgres://postgres@rw.test/postgres?sslmode=disable&replica_hosts=ro.test", r)
	mustExec(t, db, "create table t (n int)")
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := members(c); len(got) != 2 {
		t.Errorf("members: %q", got)
	}
	reads := startReaders(db, 4)
	if err := old.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := next.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := other.Follow(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	r.set("rw.test", next)
	mustExec(t, db, "insert into t values (1)") // waits for the primary, within failover_timeout
	eventually(t, "the old primary has left", func() bool { return slices.Equal(members(c), allUp(next, other)) })
	if n := get[int](t, db, "select count(*) from t"); n != 1 {
		t.Errorf("%d rows", n)
	}
	reads.end(t)
}

// A primary that comes back under another address, as a pod does, is the primary
// still. A herd that begins while the resolver is out of order works as soon as
// it is not.
func TestDiscoveryFollowsTheAddress(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(0))
	direct, err := pgconn.ParseConfig(h.Primary().DirectDSN())
	if err != nil {
		t.Fatal(err)
	}
	r := newRecords()
	r.fail(true)
	db, c := openFound(t, "postgres://postgres@herd.test/postgres?sslmode=disable", r)
	if err := db.Ping(); err == nil || !strings.Contains(err.Error(), "out of order") {
		t.Errorf("without a resolver: %v", err)
	}
	r.fail(false)
	r.set("herd.test", h.Primary())
	eventually(t, "the herd is there", func() bool { return slices.Equal(members(c), allUp(h.Primary())) })
	mustExec(t, db, "create table t (n int)")

	if err := h.Primary().Partition(); err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort(direct.Host, strconv.Itoa(int(direct.Port)))
	r.setAddresses("herd.test", address)
	eventually(t, "the new address is the herd", func() bool { return slices.Equal(members(c), []string{address + " up"}) })
	mustExec(t, db, "insert into t values (1)")
}

// With discovery off a name is one server, wherever it leads to; that it is
// looked up is pgx's.
func TestDiscoveryOff(t *testing.T) {
	h := sharedHerd(t)
	r := newRecords()
	r.set("herd.test", h.Primary())
	db, c := openLookedUp(t, "postgres://postgres@herd.test/postgres?sslmode=disable", r)
	get[int](t, db, "select 1")
	if s := c.Health().Servers; len(s) != 1 || s[0].Name != "herd.test" || !s[0].Up {
		t.Errorf("servers: %+v", s)
	}
}

// A resolver that hangs holds up neither the caller for longer than its context
// nor Close.
func TestDiscoveryHangs(t *testing.T) {
	cfg, err := pgherd.ParseDSN("postgres://u@herd.test/?discovery=dns")
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	cfg.LookupHost = func(ctx context.Context, _ string) ([]string, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c, err := pgherd.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if err := db.PingContext(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want the caller's", err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Connect(t.Context()); !errors.Is(err, pgherd.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
