package pgherd

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/internal/durations"
	"github.com/pgherd/pgherd/internal/sqlconn"
	"github.com/pgherd/pgherd/lagprobe"
	"github.com/pgherd/pgherd/routing"
)

// A server is one member of the herd: its pool of physical connections and
// what we count about it. Safe for concurrent use.
type server struct {
	name        string
	zone        string
	weight      int
	order       int              // of its host in the DSN; after all of them for one that was added
	believed    routing.Role     // Unknown: the server is asked
	config      *serverConfig    // nil for a ready-made handle
	credentials *credentialCache // nil for one, and for a password that does not change

	// For a host of a DSN, all three are nil before open.
	db    *sql.DB // the pool; its connections are *physical if config is set
	asked *sql.DB // what the probe asks through; nil where the role is believed

	// catalog is what the catalogue is read through; nil where the role is
	// believed. It is not the probe's: a long reading would look like a server
	// that does not answer.
	catalog *sql.DB

	limit          int // most connections that db opens; 0 means no limit
	acquireTimeout time.Duration

	warming   atomic.Pointer[context.CancelFunc] // ends keepWarm; nil while that does not run
	draining  atomic.Bool                        // see Connector.Drain
	returned  atomic.Int64                       // Instant at which it came back, or joined a running herd; 0 for never
	up, wasUp bool                               // in the current picture; ever before. Guarded by Connector.mu
	status    lagprobe.Status                    // the probe's latest word; guarded by Connector.mu
	ejection  ejection                           // guarded by Connector.mu
	trial     atomic.Int64                       // Instant from which a statement may try it out while it is ejected

	inFlight atomic.Int64 // leases taken and not yet given back, those waiting included
	latency  atomic.Int64 // moving average of the time to a read's answer, in ns; kept only for Balance Latency
	times    times        // to the answers of some of the reads, as a replica
	p99      atomic.Int64 // of times, in ns; zero where nothing is known
	progress progress     // of its answers; belongs to Connector.watch
	failed   atomic.Int64 // Instant of the last connection failure that a statement met; 0 for none

	asynchronous atomic.Int64 // Instant at which it last said that it has no synchronous standby; 0 for never

	decisions [routing.NumReasons]atomic.Uint64
	shadow    [routing.NumReasons]atomic.Uint64 // decisions of the rehearsal
	failures  atomic.Uint64                     // connection failures that statements met
	ejections atomic.Uint64

	role          routing.Role // in the last picture that knew it; guarded by Connector.mu
	roleChanges   atomic.Uint64
	checks        durations.Histogram // answers to the probe
	checkFailures atomic.Uint64
	connects      connects

	sockets sockets
}

// connects counts the connections of a server's pool that were opened, or could
// not be. It is safe for concurrent use.
type connects struct {
	version  atomic.Pointer[string] // what the server last called it; nil before it was connected to
	took     durations.Histogram
	failures atomic.Uint64
}

// newServer returns the member for one host of a DSN. It has no pool before
// open.
func newServer(h Host, sc *serverConfig, cfg *Config) *server {
	return &server{
		name:           h.Name,
		zone:           h.Zone,
		weight:         h.Weight,
		config:         sc,
		credentials:    newCredentialCache(h.Name, sc.ConnConfig, cfg.provider(), cfg.Logger),
		limit:          cfg.PoolMaxConns,
		acquireTimeout: cfg.AcquireTimeout,
	}
}

// open makes the pool, and the probe's handle, of a host of a DSN. A sql.DB has
// a goroutine of its own, which is why it is not made earlier.
func (s *server) open(cfg *Config, types *typeLoader) {
	if s.config == nil {
		return
	}
	if isRemote(s.config.Host) && protectionOf(s.config.ConnConfig) != verified && cfg.Logger != nil {
		cfg.Logger.LogAttrs(context.Background(), slog.LevelWarn, "pgherd: who answers for a server is not verified; sslmode=verify-full does that", slog.String("server", s.name))
	}
	// The probe's connections are not among s.sockets: it must find out by
	// itself when a server that was given up answers again.
	s.asked = sql.OpenDB(s.connector(s.config.ConnConfig))
	s.asked.SetMaxOpenConns(1)
	s.catalog = sql.OpenDB(s.connector(s.config.ConnConfig))
	s.catalog.SetMaxOpenConns(1)
	s.catalog.SetConnMaxLifetime(catalogLifetime)

	pooled := s.config.Copy()
	dial := pooled.DialFunc
	pooled.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return s.sockets.dial(ctx, func(ctx context.Context) (net.Conn, error) { return dial(ctx, network, addr) })
	}
	pooled.BuildContextWatcherHandler = newCanceller
	pooled.OnNotice = noteNotice
	pooled.Tracer = cfg.Tracer
	var options []stdlib.OptionOpenDB
	if cfg.AfterConnect != nil {
		options = append(options, stdlib.OptionAfterConnect(cfg.AfterConnect))
	}
	s.db = sql.OpenDB(&physicalConnector{
		Connector: s.connector(pooled, options...),
		name:      s.name,
		types:     types,
		lifetime:  cfg.PoolMaxConnLifetime,
		jitter:    cfg.PoolMaxConnLifetimeJitter,
		connects:  &s.connects,
	})
	s.db.SetMaxOpenConns(cfg.PoolMaxConns)
	// database/sql keeps 2 idle connections if it is not told otherwise: every
	// lease beyond them would dial.
	s.db.SetMaxIdleConns(maxIdle)
	s.db.SetConnMaxIdleTime(cfg.PoolMaxConnIdleTime)
}

// catalogLifetime bounds how long the catalogue is read under settings, such as
// a role's search_path, that new connections do not have any more.
const catalogLifetime = time.Minute

// maxIdle is more than anybody's pool_max_conns, which bounds it.
const maxIdle = 1 << 20

// count counts a decision for s that was carried out, by its reason.
func (s *server) count(why routing.Reason) { s.decisions[why].Add(1) }

// cut closes all connections, in use or not: what waits on them moves on, or
// fails and is told why.
func (s *server) cut(why error) {
	s.sockets.cut(why)
	s.dropIdle()
}

// dropIdle closes the connections that nobody uses, so that the next lease
// dials.
func (s *server) dropIdle() {
	if s.config != nil && s.db != nil {
		s.db.SetMaxIdleConns(-1)
		s.db.SetMaxIdleConns(maxIdle)
	}
}

// close closes what open made.
func (s *server) close() error {
	if s.config == nil || s.db == nil {
		return nil
	}
	if s.credentials != nil {
		s.credentials.stop()
	}
	var errs []error
	for _, db := range []*sql.DB{s.db, s.asked, s.catalog} {
		// A connection that was cut meanwhile is as closed as it is to be.
		if err := db.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// keepWarm opens connections until at least n are open, as far as others leave room
// for them: a lease that has to wait ends it.
func (s *server) keepWarm(ctx context.Context, n int) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.warming.Store(&cancel)
	defer s.warming.Store(nil)
	st := s.db.Stats()
	missing := n - st.OpenConnections
	if missing <= 0 {
		return
	}
	// The pool hands out idle connections first: hold those too while the
	// missing ones are opened. They count like leases. Without that, a lease
	// could find none left within the limit, and wait without a time-out; and
	// this could wait, with connections in hand, for one whose user waits for those.
	var held []*sql.Conn
	for range min(missing+st.Idle, n) {
		if flight := s.inFlight.Add(1); s.limit > 0 && flight > int64(s.limit) {
			s.inFlight.Add(-1)
			break
		}
		c, err := s.db.Conn(ctx)
		if err != nil {
			s.inFlight.Add(-1)
			break
		}
		held = append(held, c)
	}
	for _, c := range held {
		c.Close()
		s.inFlight.Add(-1)
	}
}

// observe takes the time of one answer into the moving average. It rises to a
// peak at once, and forgets half of that after about five answers: who begins to
// stall is avoided soon. Concurrent updates may be lost; the average stands that.
func (s *server) observe(d time.Duration) {
	old := s.latency.Load()
	if int64(d) > old {
		s.latency.Store(int64(d))
		return
	}
	s.latency.Store(old + (int64(d)-old)/8)
}

// A lease is a physical connection taken out of its server's pool, for one
// statement or for as long as a transaction or session state lives on it.
//
// The driver's connection is taken out of the [sql.Conn] with Raw and used
// after Raw has returned, which the documentation of Raw advises against. It is
// safe because a sql.Conn keeps its connection from everybody else until
// Close, and because a lease belongs to one virtual connection, whose calls
// database/sql serialises: at any time at most one goroutine uses dc.
type lease struct {
	owner *server
	conn  *sql.Conn
	dc    sqlconn.Conn
	pg    *physical // dc, where it is ours; nil for the driver of a ready-made handle
	slot  slot      // of a read that the primary has taken over; it lasts as long as the lease
}

// lease takes a connection out of the pool of s into l. It waits for one no
// longer than acquire_timeout. On failure l is zero.
func (s *server) lease(ctx context.Context, l *lease) error {
	*l = lease{}
	n := s.inFlight.Add(1)
	conn, err := s.conn(ctx, n)
	if err != nil {
		s.inFlight.Add(-1)
		return err
	}
	var dc any
	err = conn.Raw(func(c any) error { dc = c; return nil })
	if err != nil {
		conn.Close()
		s.inFlight.Add(-1)
		return err
	}
	l.owner, l.conn = s, conn
	if p, ok := dc.(*physical); ok {
		l.pg, l.dc = p, p
	} else {
		l.dc = sqlconn.Full(dc.(driver.Conn))
	}
	return nil
}

// conn takes a connection out of the pool for the n-th lease in flight. Only a
// lease beyond the pool's limit can have to wait for another one, so only that
// pays for a timer, and ends the warming, which may hold what it waits for; a dial is
// bounded by connect_timeout.
func (s *server) conn(ctx context.Context, n int64) (*sql.Conn, error) {
	if s.limit > 0 && n > int64(s.limit) {
		if end := s.warming.Load(); end != nil {
			(*end)()
		}
	}
	if s.limit == 0 || n <= int64(s.limit) || s.acquireTimeout <= 0 {
		return s.db.Conn(ctx)
	}
	wait, cancel := context.WithTimeout(ctx, s.acquireTimeout)
	defer cancel()
	conn, err := s.db.Conn(wait)
	if err != nil && wait.Err() != nil && ctx.Err() == nil {
		st := s.db.Stats()
		return nil, &AcquireError{
			Server:  s.name,
			Timeout: s.acquireTimeout,
			InUse:   st.InUse,
			Max:     st.MaxOpenConnections,
			Waiting: max(0, int(s.inFlight.Load())-st.InUse),
		}
	}
	return conn, err
}

// release gives the connection back to its pool, which drops it if it is
// closed or in a transaction.
func (l *lease) release() {
	if l.pg != nil && l.pg.touched && !l.closed() && !l.inTransaction() {
		l.pg.clean()
	}
	l.conn.Close()
	l.slot.free()
	l.owner.inFlight.Add(-1)
}

// discard closes the connection instead of giving it back.
func (l *lease) discard() {
	l.conn.Raw(func(any) error { return driver.ErrBadConn })
	l.release()
}

// inTransaction reports whether the server said, with its last answer, that a
// transaction is open. It costs no round trip. It is false for a connection
// that is lost, and for drivers other than pgx, which do not tell.
func (l *lease) inTransaction() bool {
	return l.pg != nil && !l.closed() && l.pg.Conn.Conn().PgConn().TxStatus() != 'I'
}

// closed reports whether the connection is known to be lost.
func (l *lease) closed() bool {
	return l.pg != nil && l.pg.Conn.Conn().IsClosed()
}

// onStandby reports whether the server last said that it is a hot standby.
// PostgreSQL 14 and newer report it without being asked.
func (l *lease) onStandby() bool {
	return l.pg != nil && l.pg.Conn.Conn().PgConn().ParameterStatus("in_hot_standby") == "on"
}
