package pgherd

import (
	"context"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
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

	// work, if not nil, is what a statement does in place of being sent: what
	// database/sql has no call for.
	work      func(context.Context, *pgx.Conn) error
	delivered bool // some of what came of k is with its caller, who would see it twice
	movable   bool // the socket that k waits on may be closed, for k runs elsewhere then

	// onlyStandby is set where the primary may have run k: once more would be
	// twice, but for a standby, which has no effect to repeat.
	onlyStandby bool

	l      lease // the connection it ran on; zero if there was none, or nothing was sent on it
	rows   driver.Rows
	result driver.Result
	stmt   driver.Stmt // opPrepare; also the statement that rows of a prepared query need
	tx     driver.Tx
	over   context.CancelFunc // of a hedged read: ends the context that it ran under, when rows are closed

	ob       *observation  // nil where nobody wants to know
	acquired time.Duration // see Operation.Acquire; only with ob
	affected int64         // rows that work has copied, sent or stored
}

// do does the op on the leased connection.
func (k *call) do(ctx context.Context) (err error) {
	l := &k.l
	if l.pg != nil {
		l.pg.waitCancelled = nil
	}
	switch k.op {
	case opQuery, opExec:
		open := l.pg != nil && !l.closed()
		if err = k.execute(ctx); err != nil && k.prepared {
			err = asPrepared(err)
		}
		if open && errors.Is(err, driver.ErrBadConn) && l.closed() {
			err = errBroke
		}
	case opPrepare:
		k.stmt, err = l.dc.PrepareContext(ctx, k.sql)
	case opBegin:
		k.tx, err = l.dc.BeginTx(ctx, k.opts)
	case opPing:
		err = l.dc.Ping(ctx)
	}
	if err == nil && k.op == opExec {
		err = l.pg.notReplicated(ctx)
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
	if k.work != nil {
		return k.doWork(ctx)
	}
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
	cn.route = route{}
	if cn.holds() {
		return cn.runHeld(ctx, k)
	}
	c := cn.c
	t := cn.trip(ctx, k)
	var (
		firstErr error // what the caller sees if no server can do better
		retries  int   // on the same server
		refused  bool  // by a standby
	)
	for {
		p, d, err := cn.place(ctx, k, &t)
		if err != nil {
			if k.ob != nil {
				k.ob.place(k, p, -1, d.Reason, t.Now)
			}
			if firstErr != nil {
				err = firstErr
			}
			return callerError(ctx, err)
		}
		first := p.servers[d.Server]
		if c.hedges && k.mayHedge(p.Servers[d.Server].Role) {
			p, d, err = cn.hedge(ctx, k, &t, p, d)
		} else {
			err = c.attempt(ctx, k, &t, p, d)
		}
		if k.ob != nil {
			k.ob.place(k, p, d.Server, d.Reason, t.Now)
		}
		srv, role := p.servers[d.Server], p.Servers[d.Server].Role
		if k.l.pg != nil && k.l.pg == cn.left {
			cn.pinned, cn.alters = true, cn.alters || cn.leftAlters
		}
		if k.l.conn != nil {
			cn.route = route{server: srv, why: d.Reason, p: p, at: t.Now}
			if refused {
				cn.route.why = routing.ReasonMisroute
			}
		}
		if t.trial != nil {
			c.tried(ctx, k, &t, first, srv, err)
		}
		if err == nil {
			cn.note(k)
			srv.count(d.Reason)
			cn.noteRead(k, p, d.Server, t.version)
			if p.rehearsal != nil {
				cn.rehearse(ctx, k, p, t)
			}
			return nil
		}
		next := judge(ctx, k, role, err)
		if ended(ctx) == nil && k.isEvidence(role, err) {
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
			if role != routing.Primary || k.onlyStandby || len(p.servers) == 1 || cn.plan(k, &t, p).Server >= 0 {
				break
			}
			// Nobody else may run it: a hint says so, or what its session knows.
			// It waits for this server, or the one that is promoted.
			t.avoid = t.avoid[:len(t.avoid)-1]
			fallthrough
		case misplaced:
			// It is under suspicion now, so that place waits for what the
			// servers say.
			if t.lost++; t.lost >= maxRetries {
				return callerError(ctx, err)
			}
		case onPrimary:
			c.heal(ctx, k, srv, err)
			refused = true
			t.Hint = routing.Primary
			firstErr = nil // the primary's answer is the one that counts
		}
		c.retries.Add(1)
		k.ob.retry(err)
	}
}

// maxRetries bounds the attempts on one server. The pool hands out idle
// connections first, so a few may turn out to be dead before one is dialled.
const maxRetries = 3

// A trip is one call on its way: what the decisions about it must know, and
// what has come of it so far.
type trip struct {
	routing.Session
	avoid   []*server // have failed it
	trial   *server   // which it tries out; nil for none
	past    *past     // of the context's session; nil if there is none
	version uint64    // of past when the trip began
	seen    [2]sight  // what earlier reads have shown: those of past, those of the checkout

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
			Others:     cn.c.ownWrites(),
			MaxLag:     h.maxLag,
			Hint:       h.role,
			ReadOnlyTx: k.readOnly,
		},
		past: cn.past,
	}
	if h.try != nil && k.op == opBegin {
		t.avoid = slices.Clone(h.try.avoid)
	}
	if cn.left != nil {
		switch {
		case cn.left.gone.Load():
			cn.left = nil
		case cn.leftAlters:
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
	return t
}

// look puts what t knows of servers into the terms of p.
func (t *trip) look(p *picture, now routing.Instant) {
	t.Now = now
	t.Trial = 0
	if t.trial != nil {
		t.Trial = 1 + p.index(t.trial)
	}
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

// confirm returns nil if what pg leads to is a standby and has all that server i of
// p was chosen for. A connection that is newer than the last answer of that server
// may be to one that has crashed since and has its way still to go, or that was
// promoted unseen. On a connection that is older there is no such doubt: a crash
// would have ended it.
func (t *trip) confirm(ctx context.Context, c *Connector, pg *physical, p *picture, i int) error {
	if pg.isNew {
		err := pg.confirm(ctx, p.Servers[i].LSN)
		if errors.Is(err, errPromoted) {
			// Others may have replaced it since. The probe tells.
			s := p.servers[i]
			c.await(ctx, 0, func(p *picture) bool { return p.role(s) != routing.Replica })
		}
		if err != nil {
			return err
		}
	}
	if p.servers[i].believed != routing.Unknown {
		return nil // nobody asks it
	}
	// What was read there since then is beyond that position. The next answer
	// tells whether the server is still the one that has shown it.
	made := c.instant(pg.made)
	for j, seen := range t.Seen {
		if seen.At == 0 || seen.Server != i+1 || seen.LSN != 0 || made < p.answered[i] {
			continue
		}
		s := t.seen[j]
		heard := func(p *picture) bool {
			i := p.index(s.on)
			return i < 0 || p.answered[i] > made || p.since[i] != s.life
		}
		if !c.await(ctx, 0, heard) {
			return errBehind
		}
		if p := c.view.Load(); p.index(s.on) < 0 || p.since[p.index(s.on)] != s.life {
			return errBehind
		}
	}
	return nil
}

// place decides where k runs, and waits where that is of use: for a replica
// that holds what k must see, for a primary while the herd has none.
func (cn *Conn) place(ctx context.Context, k *call, t *trip) (*picture, routing.Decision, error) {
	c := cn.c
	for {
		p := c.view.Load()
		if p.ejected && t.trial == nil {
			t.trial = c.tryOut(k, p)
		}
		d := cn.plan(k, t, p)
		waits := d.Reason == routing.ReasonReadYourWrites || d.Reason == routing.ReasonMonotonic
		switch {
		case waits && !t.ready && (d.Server < 0 || c.cfg.ConsistencyTimeout > 0 && cn.isOwn(k, t, p)):
			t.ready = true
			c.waits.Add(1)
			if !c.await(ctx, c.cfg.ConsistencyTimeout, func(p *picture) bool {
				d := cn.plan(k, t, p)
				return d.Server >= 0 && (d.Server != p.Primary || !cn.isOwn(k, t, p))
			}) {
				c.waitsFailed.Add(1)
			}
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
		// Servers are soon asked. Their next primary may take longer, and so may
		// servers that are too busy to answer, or on their way up.
		able := func(p *picture) bool { return p.serves(cn.plan(k, t, p)) }
		if t.since.IsZero() {
			t.since = time.Now()
			c.primaryWaits.Add(1)
			c.await(ctx, 0, able)
			continue
		}
		left := c.cfg.FailoverTimeout - time.Since(t.since)
		if left > 0 && k.op != opPing && p.worthAWait() && ctx.Err() == nil {
			c.await(ctx, left, func(p *picture) bool { return able(p) || !p.worthAWait() })
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
	s.Wrote, s.WroteLSN, s.Seen = 0, 0, [2]routing.Sight{}
	d := routing.Decide(k.st, s, &p.View, p, 0)
	return d.Server >= 0 && d.Server != p.Primary
}

// worthAWait reports whether a server that may run what none may now is likely to
// be there soon: a replica that may be promoted, or a server that is late with its
// answer, or starts. When all of them are late at once it is often this process
// that has no time to hear them. A sole server is tried in place of that, and one
// that refuses connections is not waited for.
func (p *picture) worthAWait() bool {
	return p.promotable() || p.late && len(p.servers) > 1
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
	cn.ranHeld(why)
	if cn.c.cfg.ReadPreference == routing.Shadow {
		cn.rehearseHeld(ctx, k, why)
	}
	if cn.past != nil && k.l.pg != nil && !k.l.onStandby() && !k.l.inTransaction() && k.readsEarly(cn.past.seen(), cn.saw) {
		cn.c.awaitShown(ctx, &k.l) // what becomes of the connection, k meets too
	}
	err := k.do(ctx)
	if err != nil && !k.l.inTransaction() && isStalePlan(err) && k.isOneCommand() {
		err = k.do(ctx)
	}
	if k.ob != nil {
		p := cn.c.view.Load()
		k.ob.place(k, p, p.index(k.l.owner), why, cn.c.now())
	}
	if err != nil {
		cn.try.noteError(err)
		cn.c.learnLate(ctx, k.sql, k.st, &k.l, err)
		cn.noteWrite(k.st, &k.l)
		cn.settle(&k.l)
		return callerError(ctx, err)
	}
	cn.note(k)
	p := cn.c.view.Load()
	cn.noteRead(k, p, p.index(k.l.owner), unordered)
	return nil
}

// attempt leases a connection of the server that was decided for and runs k on
// it.
func (c *Connector) attempt(ctx context.Context, k *call, t *trip, p *picture, d routing.Decision) error {
	srv, role := p.servers[d.Server], p.Servers[d.Server].Role
	k.l = lease{} // that of the attempt before is given back
	slot, err := c.takeOver(ctx, p, d)
	if err != nil {
		return err
	}
	err = srv.lease(ctx, &k.l)
	if k.ob != nil {
		k.acquired = k.ob.elapsed()
	}
	if err != nil {
		slot.free()
		if c.closed.Load() {
			return ErrClosed
		}
		return err
	}
	k.l.slot = slot
	if now := c.view.Load(); role == routing.Primary && now != p && now.role(srv) != role {
		// It was replaced while k waited for a connection. Only those that were
		// there when that was learned are cut.
		k.l.release()
		k.l = lease{}
		return errDemoted
	}
	if (role == routing.Primary || k.needsPrimary()) && k.l.onStandby() {
		// An old connection may not have heard of a promotion; a new one
		// tells the truth. What a read was sent to the primary for, a
		// standby may not have.
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
	if k.l.pg != nil {
		if role == routing.Replica {
			err = t.confirm(ctx, c, k.l.pg, p, d.Server)
		} else if k.readsEarly(t.seen[0], t.seen[1]) {
			err = c.awaitShown(ctx, &k.l)
		}
		if err != nil {
			if isCallers(err) && !k.l.closed() {
				k.l.release()
			} else {
				k.l.discard()
			}
			k.l = lease{}
			return err
		}
	}
	var start routing.Instant
	balanced := c.cfg.LoadBalanceHosts == routing.Latency
	timed := k.st.Class == routing.Read && k.work == nil &&
		(balanced || role == routing.Replica && (c.cfg.HedgeAfter.Percentile != 0 || srv.decisions[d.Reason].Load()%sampleEvery == 0))
	if timed {
		start = c.now()
	}
	k.movable = role == routing.Primary && k.isHarmless() && !k.mayHaveEffect(role) && k.l.pg != nil
	if k.movable {
		k.l.pg.socket.beginRead()
	}
	err = k.do(ctx)
	k.settleDown()
	if err != nil {
		return err
	}
	if timed {
		took := c.now().Sub(start)
		if balanced {
			srv.observe(took)
		}
		if role == routing.Replica {
			srv.times.add(took)
		}
	}
	if k.l.pg != nil && k.l.onStandby() != (role == routing.Replica) {
		c.refresh() // it was promoted, or demoted
	}
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
		cn.alters = cn.alters || !k.st.PinsLocks
	}
	if mayWrite(k.st) {
		cn.stays = true
	}
	if k.st.Class == routing.Unclassified {
		cn.c.unclassified.Add(1)
	}
}

// noteWrite remembers that st may have written, or changed definitions, as of
// now. Inside a transaction that counts when the transaction ends; a lock counts
// at once.
func (cn *Conn) noteWrite(st *routing.Statement, l *lease) {
	open := cn.inTx || l.inTransaction()
	if open && (mayWrite(st) || st.Reason == routing.ReasonUnresolved) {
		cn.try.noteWrite()
	}
	cn.redefines = cn.redefines || st.DDL
	if !open {
		cn.forgetRedefined()
	}
	switch {
	case st.Reason == routing.ReasonLock:
		// Whoever had the lock before has written what it protects. Reads on other
		// connections must see that as soon as the lock is taken.
		cn.wroteNow()
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
	gone := p.Primary < 0 || p.lost
	if t.Others != 0 && !p.serves(d) && (gone || d.Reason == routing.ReasonNoServer || d.Reason == routing.ReasonReadYourWrites) {
		// The primary is gone, and with it the only server known to hold what
		// others wrote through this herd. That we show it to everybody is more
		// than was asked for; an outage of all reads would be too high a price.
		s := t.Session
		s.Others = 0
		d = routing.Decide(st, s, &p.View, p, tie)
	}
	if d.Reason == routing.ReasonReadYourWrites || d.Reason == routing.ReasonMonotonic {
		c.refresh() // the sooner a replica is known to be as far, the sooner it serves
	}
	return d
}
