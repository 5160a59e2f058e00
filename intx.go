package pgherd

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A TxBeginner begins transactions: *sql.DB, *sql.Conn, and what embeds one of
// them, such as *sqlx.DB.
type TxBeginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// A Tx is a transaction as far as [InTxOf] must know it: that of database/sql,
// sqlx, bun or ent.
type Tx interface {
	Commit() error
	Rollback() error
}

// TxOptions are the options of [InTx]. The zero value is a read-write transaction
// of the server's default isolation.
type TxOptions struct {
	Isolation sql.IsolationLevel

	// ReadOnly transactions below SERIALIZABLE may run on a replica.
	ReadOnly bool

	// MaxTries is how often fn is called at most; 0 means 50, 1 means once.
	// Transactions that all change one row need more than seems natural: of
	// sixteen such at a time, the unluckiest takes twenty tries.
	MaxTries int

	// MaxElapsed is how long after the start fn may be called once more; 0
	// means as long as the context lives.
	MaxElapsed time.Duration
}

// InTx runs fn in a transaction and commits it, or rolls it back if fn returns an
// error or panics. fn must not end the transaction itself, and must use nothing
// but tx for what belongs to it.
//
//	err := pgherd.InTx(ctx, db, &pgherd.TxOptions{Isolation: sql.LevelSerializable}, func(tx *sql.Tx) error {
//		_, err := tx.ExecContext(ctx, "update accounts set balance = balance - $1 where id = $2", amount, id)
//		return err
//	})
//
// fn is called again, with a new transaction, when nothing of the old one was
// committed and another try is of use: after a serialization failure (SQLSTATE
// 40001) or a deadlock (40P01), at once or at COMMIT and even if fn swallowed it,
// and when the server was lost, or replaced by another primary. So fn must not
// leave anything behind, outside of the database, that a second call would
// double. Between tries no connection is held, for a random time that grows; see
// [TxOptions] for the bounds. A read-only transaction that was in the way of a
// replica's recovery, which has SQLSTATE 40001 too, is tried again on another
// server, and one that a replica refused, on the primary.
//
// A nil error means that the transaction was committed, or, where fn
// wrote nothing, that it ended well. An error means that it was not, with one
// exception: COMMIT was sent, and its answer was lost. InTx then asks the primary
// for the transaction's fate, even if that is another server by then, and returns
// nil or calls fn again accordingly. Where that cannot be found out, the error is
// a [*CommitError], which is [ErrUnknownOutcome] to errors.Is. To be able to ask,
// a transaction that wrote costs one round trip more than with [sql.DB.BeginTx].
//
// The error of fn is returned as it is where its transaction was rolled back, so
// that errors.As finds the server's. An error that stands for more than one try
// wraps that of the last one.
//
// What makes use of the herd needs db to be one of this package. Over any other
// driver of PostgreSQL, InTx knows only what errors say.
func InTx(ctx context.Context, db TxBeginner, opts *TxOptions, fn func(tx *sql.Tx) error) error {
	return InTxOf(ctx, db.BeginTx, opts, fn)
}

// InTxOf is [InTx] for transactions of another type, as sqlx and its like have
// them:
//
//	err := pgherd.InTxOf(ctx, db.BeginTxx, nil, func(tx *sqlx.Tx) error { … })
//
// begin must begin its transactions with the context and the options it is given.
func InTxOf[T Tx](ctx context.Context, begin func(context.Context, *sql.TxOptions) (T, error), opts *TxOptions, fn func(tx T) error) error {
	var r txRetry
	if opts != nil {
		r.TxOptions = *opts
	}
	r.start = time.Now()
	for {
		a := r.next()
		err := tryTx(a.context(ctx), begin, &sql.TxOptions{Isolation: r.Isolation, ReadOnly: r.ReadOnly}, a, fn)
		if err == nil {
			return nil
		}
		if err, again := r.judge(ctx, a, err); !again {
			return err
		}
	}
}

// tryTx runs fn in one transaction.
func tryTx[T Tx](ctx context.Context, begin func(context.Context, *sql.TxOptions) (T, error), opts *sql.TxOptions, a *txAttempt, fn func(tx T) error) error {
	a.stage = beginning
	tx, err := begin(ctx, opts)
	if err != nil {
		return err
	}
	a.stage = running
	returned := false
	defer func() {
		if !returned { // fn panics, or has ended its goroutine
			tx.Rollback()
		}
	}()
	err = fn(tx)
	returned = true
	if err != nil {
		if over := tx.Rollback(); over != nil && !errors.Is(over, sql.ErrTxDone) && !a.isLost() {
			err = errors.Join(err, over)
		}
		return err
	}
	a.stage = committing
	return tx.Commit()
}

// A txRetry is one call of InTx.
type txRetry struct {
	TxOptions
	start time.Time
	tries int       // begun
	avoid []*server // on which the recovery, or their end, got in the way
	hint  bool      // a replica has refused: the primary is to run it
}

const (
	maxTries = 50

	// A try after a conflict waits a random time, at most as long as the
	// transaction of the other may take; one after a loss, as long as servers
	// take to come back. Both grow from retryPause.
	retryPause       = time.Millisecond
	maxConflictPause = 100 * time.Millisecond
	maxLossPause     = time.Second
)

func (r *txRetry) next() *txAttempt {
	r.tries++
	return &txAttempt{avoid: r.avoid, onPrimary: r.hint}
}

// judge says whether to try again after a try that failed with err, and waits
// before. Otherwise it returns what InTx returns.
func (r *txRetry) judge(ctx context.Context, a *txAttempt, err error) (error, bool) {
	if a.stage == committing && !a.isDefinite(ctx, err) {
		fate, failed := a.resolve(ctx)
		switch fate {
		case committed:
			return nil, false
		case fateUnknown:
			return a.unknown(err, failed), false
		}
	}
	if over := ended(ctx); over != nil {
		if errors.Is(err, sql.ErrTxDone) {
			err = over // database/sql has rolled back on its own
		}
		return err, false
	}
	var pause time.Duration
	switch a.failure(err, r.tries > 1) {
	case conflict:
		pause = maxConflictPause
	case loss:
		pause = maxLossPause
		if a.standby {
			r.avoid = append(r.avoid, a.on)
		}
	case replicaConflict:
		r.avoid = append(r.avoid, a.on)
	case replicaRefusal:
		r.hint = true
	default:
		return err, false
	}
	if a.stage == beginning {
		r.avoid = nil // nobody else is left
	}
	if pause > 0 {
		pause = rand.N(min(pause, retryPause<<min(r.tries, 16)))
	}
	limit := r.MaxTries
	if limit == 0 {
		limit = maxTries
	}
	elapsed := time.Since(r.start)
	if r.tries >= limit || r.MaxElapsed > 0 && elapsed+pause > r.MaxElapsed {
		if r.tries > 1 {
			err = &triesError{r.tries, elapsed, err}
		}
		return err, false
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil, true
	case <-ctx.Done():
		return &cancelledError{ctx.Err(), err}, false
	}
}

// A triesError is what InTx returns when it gives up.
type triesError struct {
	tries   int
	elapsed time.Duration
	err     error // of the last try
}

func (e *triesError) Error() string {
	return fmt.Sprintf("pgherd: transaction: gave up after %d tries in %v: %v", e.tries, e.elapsed.Round(time.Millisecond), e.err)
}

func (e *triesError) Unwrap() error { return e.err }

// A txFailure says why a try failed, as far as that matters to the next one.
type txFailure uint8

const (
	final           txFailure = iota // there is none
	conflict                         // with another transaction
	loss                             // of the connection, or there is no server
	replicaConflict                  // with the recovery of the replica
	replicaRefusal                   // the replica cannot run it
)

// failure says why a failed with err. That nothing of it was committed is known.
// later tells that it was not the first try: a primary that is missing then was
// there.
func (a *txAttempt) failure(err error, later bool) txFailure {
	a.mu.Lock()
	defer a.mu.Unlock()
	var gaveUp *triesError
	if errors.As(err, &gaveUp) {
		return final // of an InTx in fn, which has tried enough
	}
	if a.broken && a.cause != nil {
		err = a.cause // whatever fn made of it
	}
	var pgErr *pgconn.PgError
	errors.As(err, &pgErr)
	isConflict := pgErr != nil && (pgErr.Code == "40001" || pgErr.Code == "40P01")
	switch {
	case a.standby && isConflict:
		return replicaConflict
	case isConflict:
		return conflict
	case a.standby && !a.onPrimary && (pgErr != nil && (refusedByStandby(pgErr) || isUnknownToReplica(err)) || errors.Is(err, ErrLockOnReplica)):
		return replicaRefusal
	case isCallers(err):
		return final // of a time limit within fn
	case a.lost:
		return loss
	case a.stage == beginning && !later:
		return final // the driver has tried already
	case pgErr != nil:
		if isShutdown(pgErr) {
			return loss
		}
	case a.stage == beginning:
		var route *RouteError
		if errors.As(err, &route) || errors.Is(err, driver.ErrBadConn) || brokeConnection(&lease{}, err) {
			return loss
		}
	}
	return final
}

// isDefinite reports whether err, of Commit, says that nothing was committed.
func (a *txAttempt) isDefinite(ctx context.Context, err error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	var pgErr *pgconn.PgError
	switch {
	case a.c != nil && (!a.sent || !a.wrote),
		errors.Is(err, pgx.ErrTxCommitRollback),
		errors.Is(err, sql.ErrTxDone),
		err == ctx.Err(): // of database/sql, which then does not begin to
		return true
	case errors.As(err, &pgErr):
		// What ends the session, the crash of another one for instance, may come
		// after the transaction's end.
		return pgErr.SeverityUnlocalized == "ERROR"
	}
	return false
}
