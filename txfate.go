package pgherd

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/routing"
)

// A txAttempt is one transaction of InTx: what InTx tells the driver about it,
// through the context of BeginTx, and the driver InTx.
type txAttempt struct {
	avoid     []*server // not to begin it on
	onPrimary bool      // where to begin it
	stage     txStage   // of InTx alone

	// The end of a context rolls back in a goroutine of its own.
	mu      sync.Mutex // guards what follows
	c       *Connector // nil if the driver is not ours
	on      *server
	standby bool
	cause   error // the last error of a statement, but for what follows from one before
	broken  bool  // it was refused as a whole when it came to its end
	lost    bool  // its connection was
	wrote   bool  // it may have written
	sent    bool  // COMMIT was, or may have been
	id      xact  // zero where it could not be asked for
}

type txStage uint8

const (
	beginning txStage = iota
	running
	committing
)

// context returns the context to begin a under.
func (a *txAttempt) context(ctx context.Context) context.Context {
	return withHints(ctx, func(h *hints) {
		h.try = a
		if a.onPrimary {
			h.role = routing.Primary
		}
	})
}

// begin notes where a has begun. Like all that the driver calls it does nothing
// without an a.
func (a *txAttempt) begin(c *Connector, l *lease) {
	if a == nil || l.pg == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.c, a.on, a.standby = c, l.owner, l.onStandby()
}

// noteError notes the error of a statement.
func (a *txAttempt) noteError(err error) {
	if a == nil {
		return
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "25P02" { // in_failed_sql_transaction
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cause = err
}

// noteWrite notes a statement that may write.
func (a *txAttempt) noteWrite() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wrote = true
}

// noteEnd notes how a's connection looks: before COMMIT or ROLLBACK whether it
// is broken, after it whether the connection is lost.
func (a *txAttempt) noteEnd(l *lease) {
	if a == nil || l.pg == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lost = a.lost || l.closed()
	a.broken = a.broken || !a.lost && l.pg.Conn.Conn().PgConn().TxStatus() == 'E'
}

func (a *txAttempt) isLost() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lost
}

// beforeCommit prepares for the loss of the answer to COMMIT, which is sent next.
// An error means that it must not be.
func (a *txAttempt) beforeCommit(ctx context.Context, l *lease) error {
	if a == nil {
		return nil
	}
	a.noteEnd(l)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.wrote && !a.broken && a.c.knowsPosition(l.owner) {
		if err := a.id.ask(ctx, l.pg); err != nil {
			a.lost = l.closed()
			a.cause = err
			return err
		}
	}
	a.sent = true
	return nil
}

// knowsPosition reports whether the server tells its position in the log. What
// looks like PostgreSQL but has no such thing would fail the transaction over the
// question.
func (c *Connector) knowsPosition(s *server) bool {
	p := c.view.Load()
	i := p.index(s)
	return i >= 0 && p.Servers[i].LSN != 0
}

// An xact identifies a transaction on the primary that runs it.
//
// Its xid alone does not. The server hands out the next free one, and forgets, in
// a crash, those that had not reached the log on disk; a promoted replica never
// heard of those that had not reached it. Either gives them to other transactions,
// whose fate pg_xact_status would tell as if it were this one's. So it takes the
// place in the log from which on the xid is known to whoever has the log, and
// what tells one run of the server from the next.
type xact struct {
	xid      uint64 // 0: nothing was written that would have given it one
	position uint64 // in the log; the xid was there before
	incarnation
}

// An incarnation is a server between two starts, crashes of single processes,
// which have the others start anew, included.
type incarnation struct {
	timeline int64
	start    int64  // time of the postmaster's, in microseconds since 1970
	recovery uint64 // position at which its recovery ended; 0 if it did not need one
}

// The end of recovery remains what pg_last_wal_replay_lsn tells after it.
// https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-RECOVERY-CONTROL
const incarnationColumns = `
	('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint,
	(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
	coalesce(pg_last_wal_replay_lsn() - '0/0'::pg_lsn, 0)::bigint`

const xactQuestion = `SELECT
	coalesce(pg_current_xact_id_if_assigned()::text, '0'),
	(pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint,` + incarnationColumns

// ask asks for the id of the transaction that is open on p.
func (x *xact) ask(ctx context.Context, p *physical) error {
	var xid string
	err := p.Conn.Conn().QueryRow(ctx, xactQuestion).Scan(&xid, &x.position, &x.timeline, &x.start, &x.recovery)
	if err != nil {
		return asCancelled(ctx, err)
	}
	x.xid, err = strconv.ParseUint(xid, 10, 64)
	return err
}

// A fate is what became of a transaction.
type fate uint8

const (
	fateUnknown fate = iota
	committed
	aborted
	inProgress
)

// fate says what became of x, where a primary says status of x.xid, in what now
// is its incarnation.
//
//   - The incarnation is the same: the status is that of x.
//   - It is another one, and its recovery ended before x.position: of what x
//     did last, COMMIT, nothing was recovered. The xid may be somebody else's.
//   - Its recovery ended after that: it knows the xid, and COMMIT if it had
//     come so far.
//   - There was no recovery. Then the server was shut down in good order, with
//     all of its log written, unless it is another server, which a later timeline
//     tells.
//   - In any case, an xid that was aborted, or is not known, was not x's COMMIT:
//     if it is somebody else's by now, x is lost.
//
// A replica that was promoted without x has its primary's word that x does not
// count. Whoever brings the old primary back as a primary makes the herd forget
// what the new one has done, and what is said here.
//
// One recovery between the two questions is reckoned with, not two: after a
// second one, the end of the first is not known any more.
func (x *xact) fate(status string, now incarnation) fate {
	switch {
	case status == "aborted":
		return aborted
	case now == x.incarnation:
	case now.timeline < x.timeline || now.timeline > x.timeline+1:
		return fateUnknown
	case now.recovery == 0 && now.timeline != x.timeline:
		return fateUnknown
	case now.recovery != 0 && now.recovery < x.position:
		return aborted
	}
	switch status {
	case "committed":
		return committed
	case "in progress":
		return inProgress
	}
	return fateUnknown
}

const statusQuestion = `SELECT coalesce(pg_xact_status($1::text::xid8), ''),` + incarnationColumns

// resolve finds out what became of a, whose COMMIT was sent and not answered.
// Where it fails, the error tells why.
func (a *txAttempt) resolve(ctx context.Context) (fate, error) {
	a.mu.Lock()
	c, id := a.c, a.id
	a.mu.Unlock()
	if c == nil || id.xid == 0 {
		return fateUnknown, nil
	}
	ctx, cancel := outlive(ctx, endTimeout, fateTimeout)
	defer cancel()
	// A handle of its own: the one that was used may have one connection, and
	// its user hold it.
	db := sql.OpenDB(struct{ driver.Connector }{c})
	defer db.Close()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		f, err := id.askFate(ctx, db)
		if f != inProgress {
			return f, err
		}
		if err == nil {
			err = errInProgress
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fateUnknown, err
		}
	}
}

// fateTimeout is how long the fate of a transaction is asked for: as long as a
// failover may take, or a synchronous standby may keep COMMIT waiting.
const fateTimeout = 30 * time.Second

// outlive returns a context that ends grace after ctx, and after limit at the
// latest.
func outlive(ctx context.Context, grace, limit time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	stop := context.AfterFunc(ctx, func() {
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-longer.Done():
		}
	})
	return longer, func() { stop(); cancel() }
}

// unknown returns the error for a, whose COMMIT ended with err. cause is why its
// fate is not known.
func (a *txAttempt) unknown(err, cause error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := &CommitError{XID: a.id.xid, Err: err, Cause: cause}
	if a.on != nil {
		e.Server = a.on.name
	}
	return e
}

var errInProgress = errors.New("pgherd: the transaction is still in progress")

// askFate asks the primary for the fate of x.
func (x *xact) askFate(ctx context.Context, db *sql.DB) (fate, error) {
	var status string
	var now incarnation
	err := db.QueryRowContext(WithPrimary(ctx), statusQuestion, strconv.FormatUint(x.xid, 10)).
		Scan(&status, &now.timeline, &now.start, &now.recovery)
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr) && pgErr.Code == "22023": // transaction ID is in the future
		return aborted, nil
	case errors.As(err, &pgErr) && !isShutdown(pgErr) && !isOverloaded(pgErr) && !refusedByStandby(pgErr):
		return fateUnknown, err
	case errors.Is(err, ErrClosed):
		return fateUnknown, err
	case err != nil:
		return inProgress, err
	}
	return x.fate(status, now), nil
}
