package pgherd

import (
	"context"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
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
	if err == nil && l.pg != nil && k.op == opExec && !k.isHarmless() {
		// A server that was asked to cancel while it waits for a synchronous
		// standby says that it has committed; the standby may not have it.
		err = ctx.Err()
	}
	return asCancelled(ctx, err)
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
	cn.enter(ctx)
	if cn.holds() {
		return cn.runHeld(ctx, k)
	}
	c := cn.c
	t := cn.trip(ctx, k)
	var (
		firstErr error // what the caller sees if no server can do better
		retries  int   // on the same server
	)
	for {
		p, d, err := cn.place(ctx, k, &t)
		if err != nil {
			if firstErr != nil {
				err = firstErr
			}
			return callerError(ctx, err)
		}
		srv, role := p.servers[d.Server], p.Servers[d.Server].Role
		err = cn.attempt(ctx, k, p, d)
		if err == nil {
			srv.count(d.Reason)
			cn.noteRead(k, srv, role, t.version)
			if p.rehearsal != nil {
				cn.rehearse(ctx, k, p, t)
			}
			return nil
		}
		next := judge(ctx, k, role, err)
		if ended(ctx) == nil && isEvidence(&k.l, err) {
			c.suspect(srv)
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
				if retries > 1 {
					srv.dropIdle()
				}
				break
			}
			if k.needsPrimary() {
				return callerError(ctx, err)
			}
			fallthrough
		case elsewhere:
			t.avoid = append(t.avoid, srv)
			retries = 0
		case onPrimary:
			c.heal(ctx, k, srv, err)
			t.Hint = routing.Primary
			firstErr = nil // the primary's answer is the one that counts
		case stalePrimary:
			// It is under suspicion now, so that place waits for what the
			// servers say.
			if t.lost++; t.lost >= maxRetries {
				return callerError(ctx, err)
			}
		}
		c.retries.Add(1)
	}
}

// maxRetries bounds the attempts on one server. The pool hands out idle
// connections first, so a few may turn out to be dead before one is dialled.
const maxRetries = 3

// A trip is one call on its way: what the decisions about it must know, and
// what has come of it so far.
type trip struct {
	routing.Session
	own     routing.Instant // the part of Wrote that is its own checkout's and session's
	avoid   []*server       // have failed it
	past    *past           // of the context's session; nil if there is none
	version uint64          // of past when the trip began
	seen    [2]sight        // what earlier reads have shown: those of past, those of the checkout

	ready bool      // it has waited for a replica to hold what it must see
	since time.Time // when it began to wait for a primary; zero if it has not
	lost  int       // how often the primary turned out to be none, or gone
}

// trip begins the way of k.
func (cn *Conn) trip(ctx context.Context, k *call) trip {
	h := hintsOf(ctx)
	t := trip{
		Session: routing.Session{
			Wrote:      cn.wrote,
			MaxLag:     h.maxLag,
			Hint:       h.role,
			ReadOnlyTx: k.readOnly,
		},
		past: cn.past,
	}
	if cn.left != nil {
		if cn.left.gone.Load() {
			cn.left = nil
		} else {
			t.Hint = routing.Primary
		}
	}
	if cn.saw.on != nil && cn.saw.at == 0 {
		cn.saw.at = cn.c.now()
	}
	t.seen[1] = cn.saw
	if t.past != nil {
		t.past.recall(&t, cn.c.view.Load())
	}
	t.own = t.Wrote
	if all := cn.c.ownWrites(); all > t.Wrote {
		t.Wrote, t.WroteLSN = all, 0
	}
	return t
}

// look puts what t knows of servers into the terms of p.
func (t *trip) look(p *picture, now routing.Instant) {
	t.Now = now
	t.Avoid = nil
	for _, s := range t.avoid {
		if i := p.index(s); i >= 0 {
			t.Avoid = append(t.Avoid, i)
		}
	}
	for i, s := range t.seen {
		if s.at != 0 {
			t.Seen[i] = p.sight(s)
		}
	}
}

// place decides where k runs, and waits where that is of use: for a replica
// that holds what k must see, for a primary while the herd has none.
func (cn *Conn) place(ctx context.Context, k *call, t *trip) (*picture, routing.Decision, error) {
	c := cn.c
	for {
		p := c.view.Load()
		d := cn.plan(k, t, p)
		waits := d.Reason == routing.ReasonReadYourWrites || d.Reason == routing.ReasonMonotonic
		switch {
		case waits && !t.ready && (d.Server < 0 || c.cfg.ConsistencyTimeout > 0 && cn.isOwn(k, t, p)):
			t.ready = true
			c.await(ctx, c.cfg.ConsistencyTimeout, func(p *picture) bool {
				d := cn.plan(k, t, p)
				return d.Server >= 0 && (d.Server != p.Primary || !cn.isOwn(k, t, p))
			})
			continue
		case p.serves(d):
			return p, d, nil
		case d.Server < 0 && len(p.servers) == 1 && p.Servers[0].Role == routing.Unknown && !p.Servers[0].Draining && t.lost == 0 && len(t.avoid) == 0:
			d.Server = 0 // what keeps the only server from answering is best told by itself
			return p, d, nil
		case d.Server < 0 && waits && p.Primary >= 0 && !p.lost,
			d.Server < 0 && !waits && d.Reason != routing.ReasonNoPrimary && d.Reason != routing.ReasonNoServer:
			return nil, d, c.routeError(ctx, k.op, d.Reason)
		}

		// The herd has no primary that answers, and no other server may run k.
		// Servers are soon asked. Their next primary may take longer, and there
		// may be one as long as a replica answers.
		able := func(p *picture) bool { return p.serves(cn.plan(k, t, p)) }
		if t.since.IsZero() {
			t.since = time.Now()
			c.await(ctx, 0, able)
			continue
		}
		left := c.cfg.FailoverTimeout - time.Since(t.since)
		if left > 0 && k.op != opPing && p.promotable() && ctx.Err() == nil {
			c.await(ctx, left, func(p *picture) bool { return able(p) || !p.promotable() })
			continue
		}
		if d.Server >= 0 && !p.promotable() && t.lost == 0 && ctx.Err() == nil {
			return p, d, nil // the attempt tells the truth
		}
		if d.Server >= 0 {
			d.Reason = routing.ReasonNoPrimary
		}
		return nil, d, c.routeError(ctx, k.op, d.Reason)
	}
}

// plan decides where k would run in p.
func (cn *Conn) plan(k *call, t *trip, p *picture) routing.Decision {
	t.look(p, cn.c.now())
	return cn.decide(k.st, t, p)
}

// serves reports whether the server of d is there to be tried. A primary that
// does not answer is not: what is sent to it may hang.
func (p *picture) serves(d routing.Decision) bool {
	return d.Server >= 0 && !(d.Server == p.Primary && p.lost)
}

// isOwn reports whether nothing but what its own session, or its own checkout,
// has done keeps k from a replica. That is worth waiting for: it is over as soon
// as a replica is as far. What all who share the handle write may never be.
func (cn *Conn) isOwn(k *call, t *trip, p *picture) bool {
	if t.Wrote == routing.Unreachable {
		return false
	}
	s := t.Session
	s.Wrote, s.WroteLSN, s.Seen = cn.c.ownWrites(), 0, [2]routing.Sight{}
	d := routing.Decide(k.st, s, &p.View, p, 0)
	return d.Server >= 0 && d.Server != p.Primary
}

// promotable reports whether a server answers that may be the next primary.
func (p *picture) promotable() bool {
	for i := range p.Servers {
		if s := &p.Servers[i]; i != p.Primary && s.Up && s.Role == routing.Replica {
			return true
		}
	}
	return false
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
	why := cn.heldFor()
	k.l.owner.count(why)
	if cn.c.cfg.ReadPreference == routing.Shadow {
		cn.rehearseHeld(ctx, k, why)
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
	cn.noteRead(k, k.l.owner, cn.c.view.Load().role(k.l.owner), unordered)
	return nil
}

// attempt leases a connection of the server that was decided for and runs k on
// it.
func (cn *Conn) attempt(ctx context.Context, k *call, p *picture, d routing.Decision) error {
	srv, role := p.servers[d.Server], p.Servers[d.Server].Role
	slot, err := cn.c.takeOver(ctx, p, d)
	if err != nil {
		return err
	}
	if err := srv.lease(ctx, &k.l); err != nil {
		slot.free()
		if cn.c.closed.Load() {
			return ErrClosed
		}
		return err
	}
	k.l.slot = slot
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
	if role == routing.Replica && k.l.pg != nil && k.l.pg.isNew {
		if err := k.l.pg.confirm(ctx, p.Servers[d.Server].LSN); err != nil {
			k.l.discard()
			k.l = lease{}
			return err
		}
	}
	if k.l.pg != nil && k.l.pg == cn.left {
		cn.pinned = true
	}
	var start time.Time
	timed := cn.c.cfg.LoadBalanceHosts == routing.Latency && k.st.Class == routing.Read
	if timed {
		start = time.Now()
	}
	movable := role == routing.Primary && k.isHarmless() && !k.mayHaveEffect(role) && k.l.pg != nil
	if movable {
		k.l.pg.socket.beginRead()
	}
	err = k.do(ctx)
	if movable {
		k.l.pg.socket.endRead()
	}
	if err != nil {
		return err
	}
	if timed {
		srv.observe(time.Since(start))
	}
	if k.l.pg != nil && k.l.onStandby() != (role == routing.Replica) {
		cn.c.refresh() // it was promoted, or demoted
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
	if cn.past != nil {
		cn.past.noteWrite(cn.wrote, cn.c.view.Load())
	}
}

// mayWrite reports whether st may change what later reads see.
func mayWrite(st *routing.Statement) bool {
	switch st.Class {
	case routing.Write, routing.Unclassified:
		return st.Reason != routing.ReasonLockingRead && st.Reason != routing.ReasonLock && st.Reason != routing.ReasonServerState
	}
	return false
}

// decide chooses a server, and a number to break ties with.
func (cn *Conn) decide(st *routing.Statement, t *trip, p *picture) routing.Decision {
	c := cn.c
	var tie uint64
	if p.Balance == routing.RoundRobin {
		tie = c.turn.Add(1)
	} else {
		tie = rand.Uint64()
	}
	d := routing.Decide(st, t.Session, &p.View, p, tie)
	if t.Wrote > t.own && !p.serves(d) && (d.Reason == routing.ReasonNoServer || d.Reason == routing.ReasonReadYourWrites) {
		// The primary is gone, and with it the only server known to hold what
		// others wrote through this herd. That we show it to everybody is more
		// than was asked for; an outage of all reads would be too high a price.
		s := t.Session
		s.Wrote = t.own
		d = routing.Decide(st, s, &p.View, p, tie)
	}
	if d.Reason == routing.ReasonReadYourWrites || d.Reason == routing.ReasonMonotonic {
		c.refresh() // the sooner a replica is known to be as far, the sooner it serves
	}
	return d
}
