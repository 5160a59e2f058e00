package integration

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// patience is what callers give a statement, and failover_timeout. It is longer
// than any fault, so what takes as long was forgotten.
const patience = 5 * time.Minute

// probeInterval is lag_check_interval, and probeTimeout lag_check_timeout: so
// long that servers are not taken for silent because the machine is busy.
const (
	probeInterval = 200 * time.Millisecond
	probeTimeout  = 3 * time.Second
)

// A register is a row that holds a value and counts its versions. The journal
// has a row for each write, with who wrote it as the server itself sees it. There
// is no unique index on it: a write that is applied twice is to be seen, not
// refused.
const chaosSchema = `
	create table registers (key text primary key, value text not null, version int not null);
	create table journal (value text not null, key text not null, version int not null, server text not null, timeline int not null)`

// setRegister is the one statement that writes.
const setRegister = `
	with r as (
		insert into registers as r values ($1::text, $2::text, 1)
		on conflict (key) do update set value = excluded.value, version = r.version + 1
		returning version)
	insert into journal select $2::text, $1::text, version, ` + currentServer + `, ` + currentTimeline + ` from r
	returning version, server, timeline`

// currentServer is the name that a server has. Under Patroni, cluster_name is that
// of all of them.
const currentServer = `coalesce(current_setting('application.server', true), current_setting('cluster_name'))`

// currentTimeline is the timeline that a primary writes. The one of
// pg_control_checkpoint() is the old one until the first checkpoint after a
// promotion.
const currentTimeline = `('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int`

// An application is the workload, with what it has seen. Times are since it was
// started. What is not guarded by mu is read when the clients have stopped.
type application struct {
	// The clients of registers use db; sessions use a handle where nothing but
	// the session lets a read see a write; the readers that accept some
	// staleness use one that has a bound.
	db, eventual, bounded *sql.DB
	herd                  *pgherd.Connector // behind bounded

	begun   time.Time
	epoch   atomic.Int64    // registers are for a time, that of one fault
	ctx     context.Context // ends when the clients are to stop
	calls   context.Context // ends when statements are to stop
	end     context.CancelFunc
	clients sync.WaitGroup
	done    []*atomic.Int64 // how often each client has done what it does

	refused  atomic.Int64 // reads of the primary that failed
	answered atomic.Int64 // when the primary last answered the probe of bounded, in ns, as of the last look

	mu       sync.Mutex
	writes   []*write            // guarded by mu, as are the writes themselves; in the order of their calls
	underway map[*write]struct{} // guarded by mu
	reads    []read              // guarded by mu; of registers, by the primary
	stale    []boundedRead       // guarded by mu
	sessions [2]int              // guarded by mu; reads of sessions, and those of them on replicas
	others   int                 // guarded by mu; reads that nothing is known of but that they do not fail
	spans    []span              // guarded by mu; of all reads but those that insist on the primary
	wrong    map[string][]error  // guarded by mu; by what is wrong

	replaced []replaced // belongs to the breaker until the end
}

// A write is a call of setRegister.
type write struct {
	on               *sql.DB
	client           int
	key, value       string // no other write has this value
	called, returned time.Duration
	err              error // if not nil, it may have been applied, or be later, or never

	// Of an acknowledged write, as the server has it.
	version  int
	server   string
	timeline int
}

// A read is one of a register.
type read struct {
	client           int
	key, value       string // empty for a register that is not there
	called, returned time.Duration
}

// A span is how long a read took.
type span struct {
	on           *sql.DB
	called, took time.Duration
}

// A boundedRead is one of the heartbeat register.
type boundedRead struct {
	called    time.Duration
	bound     time.Duration // what it accepts, by the DSN's max_lag or WithMaxLag
	version   int           // what it saw
	onReplica bool
	answered  time.Duration // when the primary had last answered the probe, as of called
}

// A replaced primary.
type replaced struct {
	server string
	moved  time.Duration // when the application was known to use its successor
	values []string      // what it had written, as a primary, in the end
}

// heartbeat is a register that one client sets all the time.
const heartbeat = "heartbeat"

// startApplication creates the tables and starts the clients. They have stopped
// when the test ends. openHerd opens the herd, with params at the end of its DSN.
func startApplication(t *testing.T, openHerd func(params string) (*sql.DB, error)) *application {
	open := func(params string) *sql.DB {
		db, err := openHerd(fmt.Sprintf("&lag_check_interval=%v&lag_check_timeout=%v&failover_timeout=%v", probeInterval, probeTimeout, patience) + params)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	a := &application{
		db:       open(""),
		eventual: open("&consistency=eventual"),
		bounded:  open("&consistency=eventual&max_lag=1s"),
		begun:    time.Now(),
		underway: make(map[*write]struct{}),
		wrong:    make(map[string][]error),
	}
	if _, err := a.db.Exec(chaosSchema); err != nil {
		t.Fatal(err)
	}
	var err error
	if a.herd, err = pgherd.FromDB(t.Context(), a.bounded); err != nil {
		t.Fatal(err)
	}
	var abort context.CancelFunc
	a.ctx, a.end = context.WithCancel(context.Background())
	a.calls, abort = context.WithCancel(context.Background())
	t.Cleanup(func() { abort(); a.stop() })

	start := func(n int, statement func(client int)) {
		for range n {
			id, done := len(a.done), new(atomic.Int64)
			a.done = append(a.done, done)
			a.clients.Go(func() {
				for a.ctx.Err() == nil {
					statement(id)
					done.Add(1)
					time.Sleep(*chaosPause)
				}
			})
		}
	}
	start(2, a.register)
	start(1, func(client int) { a.set(a.calls, a.bounded, client, heartbeat) })
	start(1, func(int) { a.readHeartbeat(a.calls, time.Second) })
	start(1, func(int) {
		const bound = 300 * time.Millisecond
		a.readHeartbeat(pgherd.WithMaxLag(a.calls, bound), bound)
	})
	start(2, a.session)
	start(1, func(int) {
		a.read(a.calls, a.db, false, "select count(*) from generate_series(1, 10)", nil, new(int))
		a.mu.Lock()
		a.others++
		a.mu.Unlock()
	})
	return a
}

// now returns the time since the application was started.
func (a *application) now() time.Duration { return time.Since(a.begun) }

// stop returns when the clients have stopped.
func (a *application) stop() {
	a.end()
	a.clients.Wait()
}

// set writes a value of its own, and reports what became of that.
func (a *application) set(ctx context.Context, on *sql.DB, client int, key string) (version int, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w := &write{on: on, client: client, key: key}
	a.mu.Lock()
	w.value = fmt.Sprintf("%s=%d", key, len(a.writes))
	w.called = a.now()
	a.writes = append(a.writes, w)
	a.underway[w] = struct{}{}
	a.mu.Unlock()

	var server string
	var timeline int
	err := on.QueryRowContext(ctx, setRegister, w.key, w.value).Scan(&version, &server, &timeline)

	if err != nil {
		a.mustEnd(ctx, "write "+w.value, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	w.returned, w.err = a.now(), err
	if err == nil { // an error may come after the row: that of the commit
		w.version, w.server, w.timeline = version, server, timeline
	}
	delete(a.underway, w)
	return version, err == nil
}

// read reads one row. That it fails is wrong, unless it insists on the primary:
// that may be gone.
func (a *application) read(ctx context.Context, on *sql.DB, insists bool, query string, args []any, dest ...any) (called time.Duration, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	called = a.now()
	err := on.QueryRowContext(ctx, query, args...).Scan(dest...)
	switch {
	case err != nil && insists:
		a.refused.Add(1)
		a.mustEnd(ctx, "a read of the primary", err)
		return called, false
	case err != nil:
		a.fault("failed reads", "called at %v: %w", called, err)
		return called, false
	}
	if !insists {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.spans = append(a.spans, span{on, called, a.now() - called})
	}
	return called, true
}

// slowest returns the slowest of the reads that did not insist on the primary and
// were called at that time or later: of those of a handle, or of all without one.
func (a *application) slowest(on *sql.DB, since time.Duration) (slowest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.spans {
		if s.called >= since && (on == nil || on == s.on) {
			slowest = max(slowest, s.took)
		}
	}
	return slowest
}

// mustEnd finds fault with a statement that ended because its caller lost
// patience.
func (a *application) mustEnd(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		a.fault("hung statements", "%s, for %v: %w", what, patience, err)
	}
}

func (a *application) fault(kind, format string, args ...any) {
	if a.calls.Err() != nil {
		return // the test has failed already, and is ending
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wrong[kind] = append(a.wrong[kind], fmt.Errorf("%v: "+format, append([]any{a.now()}, args...)...))
}

// registersPerEpoch is small, so that the clients meet.
const registersPerEpoch = 2

func registerName(epoch, i int) string { return fmt.Sprintf("register %d.%d", epoch, i) }

func isRegister(key string) bool { return strings.HasPrefix(key, "register ") }

// register writes to a register, or reads one on the primary. Most are those of
// the time. Some are older: what a failover has lost is still to be missed later.
func (a *application) register(client int) {
	epoch, i := int(a.epoch.Load()), rand.IntN(registersPerEpoch)
	switch rand.IntN(8) {
	case 0, 1, 2, 3:
		a.set(a.calls, a.db, client, registerName(epoch, i))
	case 4, 5, 6:
		a.readRegister(client, registerName(epoch, i))
	case 7:
		a.readRegister(client, registerName(rand.IntN(epoch+1), i))
	}
}

func (a *application) readRegister(client int, key string) {
	r := read{client: client, key: key}
	var ok bool
	r.called, ok = a.read(pgherd.WithPrimary(a.calls), a.db, true,
		"select coalesce((select value from registers where key = $1), '')", []any{key}, &r.value)
	if !ok {
		return
	}
	r.returned = a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reads = append(a.reads, r)
}

// readAll reads every register once more.
func (a *application) readAll() {
	for epoch := range int(a.epoch.Load()) + 1 {
		for i := range registersPerEpoch {
			a.readRegister(0, registerName(epoch, i))
		}
	}
}

// readHeartbeat reads what may be as stale as bound, and a probe interval.
func (a *application) readHeartbeat(ctx context.Context, bound time.Duration) {
	for _, s := range a.herd.Health().Servers {
		if s.Role == routing.Primary && s.Up {
			a.answered.Store(int64(s.Asked.Sub(a.begun)))
		}
	}
	r := boundedRead{bound: bound, answered: time.Duration(a.answered.Load())}
	var ok bool
	r.called, ok = a.read(ctx, a.bounded, false,
		"select coalesce((select version from registers where key = $1), 0), pg_is_in_recovery()", []any{heartbeat}, &r.version, &r.onReplica)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stale = append(a.stale, r)
}

// session is one session, half of them resumed by a token. All sessions share
// two registers, so each of them reads what others write, too.
func (a *application) session(client int) {
	ctx := pgherd.NewSession(a.calls)
	resume := rand.IntN(10)
	floor := make(map[string]int)
	for n := 0; n < 10 && a.ctx.Err() == nil; n++ {
		if n == resume && n%2 == 0 {
			var err error
			if ctx, err = pgherd.ResumeSession(a.calls, pgherd.SessionFromContext(ctx).Token()); err != nil {
				a.fault("sessions", "%w", err)
			}
		}
		key := fmt.Sprintf("session %d", rand.IntN(2))
		if n%3 == 0 {
			if version, ok := a.set(ctx, a.eventual, client, key); ok {
				floor[key] = max(floor[key], version)
			}
		}
		var version int
		var onReplica bool
		if _, ok := a.read(ctx, a.eventual, false,
			"select coalesce((select version from registers where key = $1), 0), pg_is_in_recovery()", []any{key}, &version, &onReplica); !ok {
			continue
		}
		if version < floor[key] {
			a.fault("sessions", "one reads version %d of %s after %d (on a replica: %t)", version, key, floor[key], onReplica)
		}
		floor[key] = max(floor[key], version)
		a.mu.Lock()
		a.sessions[0]++
		if onReplica {
			a.sessions[1]++
		}
		a.mu.Unlock()
		time.Sleep(*chaosPause)
	}
}

// awaitWork returns when every client has done twice more what it does.
func (a *application) awaitWork(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for client, done := range a.done {
		for enough := done.Load() + 2; done.Load() < enough; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("client %d does nothing any more", client)
			}
		}
	}
}

// awaitMove returns when every handle has had a write acknowledged by a server
// that was promoted at some time, and no write is under way that may have been
// sent to its predecessor. It returns the time since when that one should get
// nothing.
func (a *application) awaitMove(t *testing.T, to string, promoted time.Duration) (moved time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		a.mu.Lock()
		if moved == 0 && a.usesLocked(to, promoted) {
			moved = a.now()
		}
		waits := moved == 0
		for w := range a.underway {
			waits = waits || w.called < moved
		}
		a.mu.Unlock()
		if !waits {
			return moved
		}
	}
	if moved == 0 {
		t.Fatalf("%v after %s was promoted, not all handles write there", patience, to)
	}
	t.Fatalf("%v after %s was promoted, writes from before hang", patience, to)
	return 0
}

// usesLocked reports whether every handle has had a write acknowledged by a
// server that was called since then.
func (a *application) usesLocked(server string, since time.Duration) bool {
	used := make(map[*sql.DB]bool)
	for _, w := range slices.Backward(a.writes) {
		if w.called < since {
			break
		}
		used[w.on] = used[w.on] || w.server == server
	}
	return used[a.db] && used[a.eventual] && used[a.bounded]
}
