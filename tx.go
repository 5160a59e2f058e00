package pgherd

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgherd/pgherd/routing"
)

// A tx is a transaction. It has one physical connection from BeginTx to its
// end.
type tx struct {
	cn    *Conn
	inner driver.Tx
	ctx   context.Context // of BeginTx
}

var beginStatement = routing.Statement{Class: routing.Txn, Reason: routing.ReasonTransactionControl}

// BeginTx begins a transaction on the primary or, if it is read-only, on a
// server that reads may use. SERIALIZABLE is always the primary's: a standby
// refuses it, even read-only.
// https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-CAVEATS
func (cn *Conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if cn.via != nil {
		return cn.viaBegin(ctx, opts)
	}
	k := call{
		op:       opBegin,
		st:       &beginStatement,
		opts:     opts,
		readOnly: opts.ReadOnly && sql.IsolationLevel(opts.Isolation) != sql.LevelSerializable,
	}
	under := cn.c.observe(ctx, &k)
	err := cn.run(under, &k)
	k.ob.end(err, -1)
	if err != nil {
		return nil, err
	}
	cn.inTx = true
	cn.try = hintsOf(ctx).try
	cn.try.begin(cn.c, &k.l)
	cn.settle(&k.l)
	return &tx{cn: cn, inner: k.tx, ctx: ctx}, nil
}

// Commit ends the transaction. An error other than the server's may leave it
// unknown whether the transaction was committed; it is never tried again.
//
// The end of BeginTx's context does not cancel a COMMIT that is under way: asked
// for that, a server that waits for a synchronous standby calls it done. It has
// endTimeout to answer.
func (t *tx) Commit() error {
	ctx, ob := t.observe(KindCommit)
	err := t.commit(ctx)
	ob.end(err, -1)
	return err
}

func (t *tx) commit(ctx context.Context) error {
	p := t.cn.held.pg
	if p == nil {
		return t.end(t.inner.Commit())
	}
	if err := ctx.Err(); err != nil {
		t.rollback(ctx) // as database/sql does where it sees the end first
		return err
	}
	if err := t.cn.try.beforeCommit(ctx, &t.cn.held); err != nil {
		t.rollback(ctx)
		return err
	}
	tag, err := p.endTx(withPatience(ctx, endTimeout), "commit")
	switch tag.String() { // whatever became of the connection after it
	case "COMMIT":
		err = nil
	case "ROLLBACK":
		err = pgx.ErrTxCommitRollback
	}
	return t.end(err)
}

// Rollback ends the transaction. It has a time of its own to do so: what rolls
// back is often the end of BeginTx's context, and that would cost the connection.
func (t *tx) Rollback() error {
	ctx, ob := t.observe(KindRollback)
	err := t.rollback(ctx)
	ob.end(err, -1)
	return err
}

func (t *tx) rollback(ctx context.Context) error {
	t.cn.pending = false
	t.cn.try.noteEnd(&t.cn.held)
	p := t.cn.held.pg
	if p == nil {
		return t.end(t.inner.Rollback())
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	_, err := p.endTx(ctx, "rollback")
	return t.end(err)
}

// observe begins the operation that ends the transaction.
func (t *tx) observe(kind OperationKind) (context.Context, *observation) {
	c := t.cn.c
	all := c.observers.Load()
	if all == nil {
		return t.ctx, nil
	}
	ob := c.beginObservation(t.ctx, *all, Operation{Kind: kind, st: &beginStatement})
	p, k := c.view.Load(), call{st: &beginStatement}
	ob.place(&k, p, p.index(t.cn.held.owner), t.cn.heldFor(), c.now())
	ob.Answered = 0
	return ob.ctx, ob
}

// endTimeout is how long a server has to end a transaction whose context has
// ended, before its connection is closed. Then nobody knows of a COMMIT what became
// of it; that is worth some patience.
const endTimeout = 5 * time.Second

func (t *tx) end(err error) error {
	cn := t.cn
	cn.ranHeld(routing.ReasonTransaction)
	cn.inTx = false
	cn.try.noteEnd(&cn.held)
	cn.try = nil
	cn.forgetRedefined()
	if cn.pending {
		cn.pending = false
		cn.wroteNow()
	}
	if l := cn.held; cn.holds() {
		cn.held = lease{} // a connection that broke is held no longer than its transaction
		cn.settle(&l)
	}
	return err
}
