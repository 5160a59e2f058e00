package pgherd

import (
	"context"
	"database/sql/driver"

	"github.com/pgherd/pgherd/internal/sqlconn"
	"github.com/pgherd/pgherd/routing"
)

// A Conn is a virtual connection: what database/sql pools, and what
// [database/sql.Conn.Raw] gives. It holds no physical connection while it is
// idle. It leases one for each statement, until the statement's rows are
// closed, or holds one for as long as a transaction or session state lives on
// it.
//
// Like every [driver.Conn] it is used by one goroutine at a time;
// database/sql sees to that.
//
// database/sql tells a driver when a connection leaves its pool (ResetSession)
// and when it comes back (IsValid), and calls neither inside a sql.Conn or a
// transaction. The time between is a checkout: session state, and the
// visibility of own writes, live at least as long.
type Conn struct {
	c        *Connector
	ownsHerd bool // opened by Driver.Open, without a pool that would close the herd

	held    lease // the connection that following statements must use; zero for none
	inTx    bool  // between BeginTx and the end of its transaction
	pinned  bool  // session state lives on held
	alters  bool  // some of it may change what other statements mean, as locks do not
	stays   bool  // a statement of this checkout may have written
	pending bool  // the open transaction may have written

	redefines bool // the open transaction may have changed definitions

	try *txAttempt // of InTx that the open transaction is; nil for most

	shadow *server // where BeginTx's transaction would be in a rehearsal; nil if it is none

	wrote routing.Instant // when this checkout's last write was acknowledged
	saw   sight           // what its last read has shown; a replica's has no time until that is asked for
	past  *past           // of the session that its last statement belongs to; nil for none

	// left is the physical connection on which an earlier checkout left
	// session state. A pool of one must find it again, as it does with one
	// server: until it is gone, statements go where it is, reads if leftAlters
	// says that it may change what they mean.
	left       *physical
	leftAlters bool

	route route // of the last call

	// via, if not nil, is what this connection is made of: one of another driver
	// that stands above this one, or in its place. Nothing else is used then.
	via sqlconn.Raw

	// One of these serves the first query of a checkout without an allocation.
	// Later ones allocate, so that a second Close of old rows never meets new
	// ones.
	pgxRows   pgxRows
	otherRows otherRows
	rowsUsed  bool

	// The arguments of a statement, as the driver of a ready-made handle wants
	// them. Until the checkout's first rows are opened, nothing that an earlier
	// statement left can still use it.
	argBuf [4]driver.NamedValue
}

var _ interface {
	sqlconn.Conn
	driver.SessionResetter
	driver.Validator
	sqlconn.Raw
	sqlconn.Router
} = (*Conn)(nil)

// CheckNamedValue passes every value through, as pgx does: slices, pgtype
// values and Valuers are converted by the driver that executes the statement.
func (cn *Conn) CheckNamedValue(*driver.NamedValue) error { return nil }

// QueryContext runs a query on the server that routing chooses.
func (cn *Conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if cn.via != nil {
		return cn.via.QueryContext(ctx, query, args)
	}
	k := call{op: opQuery, sql: query, st: cn.c.classify(query), args: args}
	return cn.query(ctx, &k)
}

func (cn *Conn) query(ctx context.Context, k *call) (driver.Rows, error) {
	if !cn.rowsUsed {
		k.argBuf = cn.argBuf[:0]
	}
	ctx, cancel := cn.c.queryContext(cn.c.observe(ctx, k))
	if err := cn.run(ctx, k); err != nil {
		k.ob.end(err, -1)
		if cancel != nil {
			cancel()
		}
		return nil, err
	}
	if over := k.over; over != nil {
		outer := cancel
		cancel = func() {
			over()
			if outer != nil {
				outer()
			}
		}
	}
	return cn.wrapRows(ctx, k, cancel), nil
}

// ExecContext runs a statement on the server that routing chooses.
func (cn *Conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if query == sqlconn.RawText {
		return cn.enterRaw(args)
	}
	if cn.via != nil {
		return cn.via.ExecContext(ctx, query, args)
	}
	k := call{op: opExec, sql: query, st: cn.c.classify(query), args: args}
	return cn.exec(ctx, &k)
}

func (cn *Conn) exec(ctx context.Context, k *call) (driver.Result, error) {
	if !cn.rowsUsed {
		k.argBuf = cn.argBuf[:0]
	}
	ctx, cancel := cn.c.queryContext(cn.c.observe(ctx, k))
	if cancel != nil {
		defer cancel()
	}
	if err := cn.run(ctx, k); err != nil {
		k.ob.end(err, -1)
		return nil, err
	}
	cn.settle(&k.l)
	if k.over != nil {
		k.over()
	}
	k.ob.end(nil, k.changed())
	return k.result, nil
}

// Ping reports whether the primary answers.
func (cn *Conn) Ping(ctx context.Context) error {
	if cn.via != nil {
		return cn.viaPing(ctx)
	}
	k := call{op: opPing, st: &pingStatement}
	ctx = cn.c.observe(ctx, &k)
	err := cn.run(ctx, &k)
	k.ob.end(err, -1)
	if err != nil {
		return err
	}
	cn.settle(&k.l)
	return nil
}

var pingStatement = routing.Statement{Class: routing.SessionState, Reason: routing.ReasonServerState}

// Prepare is PrepareContext without a context; database/sql does not call it.
func (cn *Conn) Prepare(query string) (driver.Stmt, error) {
	return cn.PrepareContext(context.Background(), query)
}

// Begin is BeginTx without a context; database/sql does not call it.
func (cn *Conn) Begin() (driver.Tx, error) {
	return cn.BeginTx(context.Background(), driver.TxOptions{})
}

// ResetSession begins a checkout.
func (cn *Conn) ResetSession(context.Context) error {
	if cn.via != nil {
		return nil // it belongs to a pool of its own
	}
	if cn.c.closed.Load() {
		return driver.ErrBadConn
	}
	cn.wrote, cn.saw, cn.past = 0, sight{}, nil
	cn.rowsUsed = false
	return nil
}

// IsValid ends a checkout: what is held goes back to its pool. A virtual
// connection itself never goes bad.
func (cn *Conn) IsValid() bool {
	cn.letGo()
	clear(cn.argBuf[:]) // an idle connection keeps no argument alive
	cn.route = route{}
	return true
}

// Close gives back whatever is held.
func (cn *Conn) Close() error {
	cn.letGo()
	if cn.ownsHerd {
		return cn.c.Close()
	}
	return nil
}

// classify returns what is known of sql.
func (cn *Conn) classify(sql string) *routing.Statement {
	if cn.via != nil {
		return routing.Classify(sql)
	}
	return cn.c.classify(sql)
}

func (cn *Conn) holds() bool { return cn.held.conn != nil }

// keeps reports whether what this checkout has done so far keeps it on its
// physical connection.
func (cn *Conn) keeps() bool { return cn.inTx || cn.pinned || cn.stays }

// heldFor says why a connection is held.
func (cn *Conn) heldFor() routing.Reason {
	if cn.inTx || cn.held.inTransaction() {
		return routing.ReasonTransaction
	}
	return routing.ReasonPinned
}

// settle decides what becomes of l after a statement: it is held while a
// transaction or session state lives on it, and after a write to the end of the
// checkout; otherwise it is given back. What a write leaves in its session is
// more than texts tell: lastval(), and whatever a function did. It costs little:
// a statement run through a pool is a checkout of its own.
//
// A held connection that broke stays held until the end of the checkout or the
// transaction, so that what follows fails on it, as it does with one server,
// instead of running elsewhere without the state it relies on.
func (cn *Conn) settle(l *lease) {
	switch {
	case cn.holds() && cn.held.conn != l.conn:
		l.release() // of rows that were opened before the hold began
	case cn.keeps() || l.inTransaction() || cn.holds() && l.closed():
		cn.held = *l
	default:
		if cn.holds() {
			cn.held = lease{}
		}
		l.release()
	}
}

// letGo gives back what is held, with the session state that plain pgx would
// leave on it, or none where session_reset asks for that.
func (cn *Conn) letGo() {
	if !cn.holds() {
		return
	}
	l, pinned, alters := cn.held, cn.pinned, cn.alters
	cn.held, cn.inTx, cn.pinned, cn.alters, cn.stays, cn.pending, cn.redefines = lease{}, false, false, false, false, false, false
	if !pinned || l.pg == nil || l.closed() || l.inTransaction() {
		l.release()
		return
	}
	if cn.c.cfg.SessionReset == SessionResetDiscard {
		ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
		defer cancel()
		if l.pg.discardState(ctx) != nil {
			l.discard()
			return
		}
	} else if !l.pg.touched {
		cn.left, cn.leftAlters = l.pg, alters
	}
	l.release()
}
