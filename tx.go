package pgherd

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"github.com/pgherd/pgherd/routing"
)

// A tx is a transaction. It has one physical connection from BeginTx to its
// end.
type tx struct {
	cn    *Conn
	inner driver.Tx
}

var beginStatement = routing.Statement{Class: routing.Txn, Reason: routing.ReasonTransactionControl}

// BeginTx begins a transaction on the primary or, if it is read-only, on a
// server that reads may use. SERIALIZABLE is always the primary's: a standby
// refuses it, even read-only.
// https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-CAVEATS
func (cn *Conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	k := call{
		op:       opBegin,
		st:       &beginStatement,
		opts:     opts,
		readOnly: opts.ReadOnly && sql.IsolationLevel(opts.Isolation) != sql.LevelSerializable,
	}
	if err := cn.run(ctx, &k); err != nil {
		return nil, err
	}
	cn.inTx = true
	cn.settle(&k.l)
	return &tx{cn: cn, inner: k.tx}, nil
}

// Commit ends the transaction. An error other than the server's may leave it
// unknown whether the transaction was committed; it is never tried again.
func (t *tx) Commit() error { return t.end(t.inner.Commit()) }

// Rollback ends the transaction.
func (t *tx) Rollback() error {
	t.cn.pending = false
	return t.end(t.inner.Rollback())
}

func (t *tx) end(err error) error {
	cn := t.cn
	cn.inTx = false
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
