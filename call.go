package pgherd

import (
	"context"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/internal/sqlconn"
	"github.com/pgherd/pgherd/routing"
)

// An op is something that a virtual connection asks of a physical one.
type op uint8

const (
	opQuery op = iota
	opExec
	opPrepare
	opBegin
	opPing
)

var opNames = [...]string{"query", "exec", "prepare", "begin", "ping"}

func (o op) String() string { return opNames[o] }

// A call is one op on its way to a server: what to do, and what came of it.
type call struct {
	op       op
	prepared bool // execute through a prepared statement, as sql.Stmt does
	sql      string
	st       *routing.Statement
	args     []driver.NamedValue
	argBuf   []driver.NamedValue // for what other drivers than pgx make of args
	opts     driver.TxOptions    // opBegin
	readOnly bool                // opBegin of a transaction that may run on a standby

	// onlyStandby is set where the primary may have run k: once more would be
	// twice, but for a standby, which has no effect to repeat.
	onlyStandby bool

	l      lease // the connection it ran on; zero if there was none, or nothing was sent on it
	rows   driver.Rows
	result driver.Result
	stmt   driver.Stmt // opPrepare; also the statement that rows of a prepared query need
	tx     driver.Tx
}

// do does the op on the leased connection.
func (k *call) do(ctx context.Context) (err error) {
	l := &k.l
	switch k.op {
	case opQuery, opExec:
		if err = k.execute(ctx); err != nil && k.prepared {
			err = asPrepared(err)
		}
	case opPrepare:
		k.stmt, err = l.dc.PrepareContext(ctx, k.sql)
	case opBegin:
		k.tx, err = l.dc.BeginTx(ctx, k.opts)
	case opPing:
		err = l.dc.Ping(ctx)
	}
	return err
}

// asPrepared returns the error of a statement that was prepared on its way as
// that of one that was prepared before.
func asPrepared(err error) error {
	var e *pgconn.PrepareError
	if errors.As(err, &e) {
		return e.Unwrap()
	}
	return err
}

// execute runs a statement.
func (k *call) execute(ctx context.Context) (err error) {
	l := &k.l
	if k.prepared && !l.cachesStatements() {
		return k.doPrepared(ctx)
	}
	args := k.args
	if l.pg == nil { // pgx takes what it is given
		if args, err = sqlconn.Args(k.argBuf, l.dc, nil, args); err != nil {
			return err
		}
	}
	if k.op == opQuery {
		k.rows, err = l.dc.QueryContext(ctx, k.sql, args)
	} else {
		k.result, err = l.dc.ExecContext(ctx, k.sql, args)
	}
	return err
}

// run takes k to a server, and to other servers where that is safe and of
// use. It is the only place where a routing decision becomes I/O. On success
// the caller owes k.l to settle; on failure nothing is owed.
func (cn *Conn) run(ctx context.Context, k *call) error {
	if cn.holds() {
		return cn.runHeld(ctx, k)
	}
	c := cn.c
	s := cn.session(ctx, k)
	var (
		firstErr error // what the caller sees if no server can do better
		retries  int   // on the same server
		waited   bool  // for a server that may run k
	)
	for {
		s.Now = c.now()
		v := c.view.Load()
		d := cn.decide(k.st, &s, v)
		if d.Server < 0 && len(c.servers) == 1 && v.Servers[0].Role == routing.Unknown && firstErr == nil {
			d.Server = 0 // what keeps the only server from answering is best told by itself
		}
		if d.Server < 0 {
			if firstErr != nil {
				return callerError(ctx, firstErr)
			}
			if waited || !canAppear(d.Reason) {
				return c.routeError(ctx, k.op, d.Reason)
			}
			waited = true
			c.await(ctx, func(v *routing.View) bool { return cn.decide(k.st, &s, v).Server >= 0 })
			continue
		}
		err := cn.attempt(ctx, k, d.Server)
		if err == nil {
			c.count(d)
			if v.Preference == routing.Shadow {
				cn.rehearse(ctx, k, s)
			}
			return nil
		}
		role := v.Servers[d.Server].Role
		next := judge(ctx, k, role, err)
		if ended(ctx) == nil && isEvidence(&k.l, err) {
			c.suspect(d.Server)
		}
		if k.l.conn != nil {
			if k.op == opExec || k.op == opQuery {
				cn.noteWrite(k.st, &k.l)
			}
			cn.settle(&k.l)
			if cn.holds() {
				return err // the text left a transaction open before it failed
			}
			if next == elsewhere && k.mayHaveEffect(role) {
				if c.resolve(ctx, k) {
					next = judge(ctx, k, role, err)
				} else {
					k.onlyStandby = true
				}
			}
		}
		if firstErr == nil || errors.Is(firstErr, driver.ErrBadConn) {
			firstErr = err
		}
		switch next {
		case giveUp:
			if k.onlyStandby {
				err = firstErr // what became of k on the primary is what matters
			}
			return callerError(ctx, err)
		case again:
			if retries++; retries < maxRetries {
				continue
			}
			if k.needsPrimary() {
				return callerError(ctx, err)
			}
			fallthrough
		case elsewhere:
			s.Avoid = append(slices.Clip(s.Avoid), d.Server)
			retries = 0
		case onPrimary:
			c.heal(ctx, k, d.Server, err)
			s.Hint = routing.Primary
			firstErr = nil // the primary's answer is the one that counts
		case stalePrimary:
			other := func(v *routing.View) bool {
				return v.Primary >= 0 && v.Primary != d.Server && v.Servers[v.Primary].Up
			}
			if !c.await(ctx, other) {
				return callerError(ctx, err)
			}
		}
		c.retries.Add(1)
	}
}

// maxRetries bounds the attempts on one server. The pool hands out idle
// connections first, so a few may turn out to be dead before one is dialled.
const maxRetries = 3

// canAppear reports whether waiting for the next answers of the servers may
// help against the want of a server.
func canAppear(why routing.Reason) bool {
	return why == routing.ReasonNoPrimary || why == routing.ReasonNoServer || why == routing.ReasonReadYourWrites
}

// callerError returns err as the caller of the statement should see it.
func callerError(ctx context.Context, err error) error {
	if over := ended(ctx); over != nil && errors.Is(err, driver.ErrBadConn) {
		return over // nothing was sent because there was no time left for it
	}
	return err
}

// runHeld runs k on the connection that a transaction or session state lives
// on. There is nowhere else to go.
func (cn *Conn) runHeld(ctx context.Context, k *call) error {
	k.l = cn.held
	if k.st.Reason == routing.ReasonLock && k.l.onStandby() {
		return ErrLockOnReplica
	}
	held := routing.Decision{Server: k.l.srv, Reason: cn.heldFor()}
	cn.c.count(held)
	if cn.c.cfg.ReadPreference == routing.Shadow {
		cn.rehearseHeld(ctx, k, held)
	}
	err := k.do(ctx)
	if err != nil && !k.l.inTransaction() && isStalePlan(err) && k.isOneCommand() {
		err = k.do(ctx)
	}
	if err != nil {
		cn.c.learnLate(ctx, k.sql, k.st, &k.l, err)
		cn.noteWrite(k.st, &k.l)
		cn.settle(&k.l)
		return callerError(ctx, err)
	}
	cn.note(k)
	return nil
}

// attempt leases a connection of a server and runs k on it.
func (cn *Conn) attempt(ctx context.Context, k *call, server int) error {
	srv := cn.c.servers[server]
	if err := srv.lease(ctx, server, &k.l); err != nil {
		if cn.c.closed.Load() {
			return ErrClosed
		}
		return err
	}
	if k.needsPrimary() && k.l.onStandby() {
		// An old connection may not have heard of a promotion; a new one
		// tells the truth.
		var err error = driver.ErrBadConn
		if k.l.pg.isNew {
			err = errDemoted
		}
		k.l.discard()
		k.l = lease{}
		return err
	}
	if k.onlyStandby && k.l.pg != nil && !k.l.onStandby() {
		k.l.release() // it was promoted meanwhile
		k.l = lease{}
		return errPromoted
	}
	if k.l.pg != nil && k.l.pg == cn.left {
		cn.pinned = true
	}
	var start time.Time
	timed := cn.c.cfg.LoadBalanceHosts == routing.Latency && k.st.Class == routing.Read
	if timed {
		start = time.Now()
	}
	if err := k.do(ctx); err != nil {
		return err
	}
	if timed {
		srv.observe(time.Since(start))
	}
	cn.note(k)
	return nil
}

// needsPrimary reports whether k would be wrong on a standby.
func (k *call) needsPrimary() bool {
	return k.st.Class != routing.Read && !k.readOnly
}

// note remembers what k, which has run, means for the statements after it.
func (cn *Conn) note(k *call) {
	if k.op != opQuery && k.op != opExec {
		return
	}
	cn.noteWrite(k.st, &k.l)
	// The end of a text transaction is told by the server; drivers that do not
	// tell stay pinned until check-in.
	if k.st.Pins && (k.st.Class != routing.Txn || k.l.pg == nil) {
		cn.pinned = true
	}
	if mayWrite(k.st) {
		cn.stays = true
	}
	if k.st.Class == routing.Unclassified {
		cn.c.unclassified.Add(1)
	}
}

// noteWrite remembers that st may have written, or changed definitions, as of
// now. Inside a transaction that counts when the transaction ends.
func (cn *Conn) noteWrite(st *routing.Statement, l *lease) {
	open := cn.inTx || l.inTransaction()
	cn.redefines = cn.redefines || st.DDL
	if !open {
		cn.forgetRedefined()
	}
	switch {
	case mayWrite(st) && open:
		cn.pending = true
	case st.Reason == routing.ReasonUnresolved && !l.onStandby():
		// It may read a view that writes. That it hardly does is why only the
		// herd waits for replicas to hold it, which is given up where the
		// primary is gone.
		cn.c.noteWrite(cn.c.now())
	case mayWrite(st), st.Class == routing.Txn && !open: // COMMIT, COMMIT PREPARED
		cn.pending = false
		cn.wroteNow()
	}
}

func (cn *Conn) wroteNow() {
	cn.wrote = cn.c.now()
	cn.c.noteWrite(cn.wrote)
}

// mayWrite reports whether st may change what later reads see.
func mayWrite(st *routing.Statement) bool {
	switch st.Class {
	case routing.Write, routing.Unclassified:
		return st.Reason != routing.ReasonLockingRead && st.Reason != routing.ReasonLock && st.Reason != routing.ReasonServerState
	}
	return false
}

// session gathers what the decision must know about the surroundings of k.
func (cn *Conn) session(ctx context.Context, k *call) routing.Session {
	h := hintsOf(ctx)
	s := routing.Session{
		Wrote:      max(cn.wrote, cn.c.ownWrites()),
		MaxLag:     h.maxLag,
		Hint:       h.role,
		ReadOnlyTx: k.readOnly,
	}
	if cn.left != nil {
		if cn.left.gone.Load() {
			cn.left = nil
		} else {
			s.Hint = routing.Primary
		}
	}
	return s
}

// decide chooses a server, and a number to break ties with.
func (cn *Conn) decide(st *routing.Statement, s *routing.Session, v *routing.View) routing.Decision {
	c := cn.c
	var tie uint64
	if v.Balance == routing.RoundRobin {
		tie = c.turn.Add(1)
	} else {
		tie = rand.Uint64()
	}
	d := routing.Decide(st, *s, v, c, tie)
	switch {
	case d.Reason == routing.ReasonReadYourWrites:
		c.refresh() // the sooner a replica is known to hold the write, the sooner it serves
	case d.Reason == routing.ReasonNoServer && s.Wrote > cn.wrote:
		// The primary is gone, and with it the only server known to hold what
		// others wrote through this herd. That we show it to everybody is more
		// than was asked for; an outage of all reads would be too high a price.
		own := *s
		own.Wrote = cn.wrote
		d = routing.Decide(st, own, v, c, tie)
	}
	return d
}
