package pgherd

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgherd/pgherd/routing"
)

// A QueryExecer runs queries and other statements: a handle, connection or
// transaction of database/sql, sqlx or GORM (its ConnPool).
type QueryExecer interface {
	Queryer
	Execer
}

// Cursor runs a query through a cursor of the server's and returns its rows,
// which it fetches size at a time; 0 means 1000. It is for loops in a transaction
// that use the transaction or are left early, where [Stream] would have to read
// the rest, and for loops whose body takes long.
//
//	for job, err := range pgherd.Cursor[Job](ctx, tx, 100, "select * from jobs for update skip locked") {
//		if err != nil {
//			return err
//		}
//		…
//	}
//
// A db that is no transaction has one begun, which ends with the loop: read-only,
// and so on a replica where reads go there, if the query is known for a read. The
// effects of any other query are committed at its end, and rolled back if the loop
// is left before. Such a transaction is begun again like that of [InTx], but not
// once there are rows. The next rows are fetched while the loop is at the last
// ones: memory holds no more than twice size rows.
//
// In a transaction of the caller's, rows are fetched when they are needed, so
// that the loop can run other statements between them. The cursor does not see
// what they change. Whatever ends the loop, but for an error, closes the cursor.
//
// Rows become values of T, and errors come, as in [Stream].
func Cursor[T any](ctx context.Context, db QueryExecer, size int, query string, args ...any) iter.Seq2[T, error] {
	if size <= 0 {
		size = defaultFetch
	}
	return func(yield func(T, error) bool) {
		left := false // the loop was
		each := func(batch []T) bool {
			for _, v := range batch {
				if !yield(v, nil) {
					left = true
					return false
				}
			}
			return true
		}
		c := cursor[T]{size: size}
		var err error
		if b, ok := db.(TxBeginner); ok {
			err = c.runAlone(ctx, b, each, query, args)
		} else {
			err = c.runIn(ctx, db, each, query, args)
		}
		if err != nil && !left {
			yield(*new(T), err)
		}
	}
}

// defaultFetch is how many rows a cursor fetches at a time, if it is not told.
const defaultFetch = 1000

// A cursor is one on the server.
type cursor[T any] struct {
	tx   QueryExecer
	name string
	size int
	done bool // the last row was fetched
}

// cursors counts the cursors of this process. Each has a name of its own: the
// text that fetches from it is prepared, and stands for the same columns as long
// as pgx remembers it.
var cursors atomic.Uint64

// open opens the cursor in tx.
func (c *cursor[T]) open(ctx context.Context, tx QueryExecer, query string, args []any) error {
	c.tx, c.name = tx, fmt.Sprintf("pgherd_%d", cursors.Add(1))
	_, err := tx.ExecContext(ctx, "DECLARE "+c.name+" NO SCROLL CURSOR FOR "+query, args...)
	return err
}

// fetch returns the next rows.
func (c *cursor[T]) fetch(ctx context.Context) ([]T, error) {
	batch := make([]T, 0, c.size)
	for v, err := range Stream[T](ctx, c.tx, fmt.Sprintf("FETCH %d FROM %s", c.size, c.name)) {
		if err != nil {
			return nil, err
		}
		batch = append(batch, v)
	}
	c.done = len(batch) < c.size
	return batch, nil
}

// runIn uses the cursor in a transaction of the caller's.
func (c *cursor[T]) runIn(ctx context.Context, tx QueryExecer, each func([]T) bool, query string, args []any) error {
	if err := c.open(ctx, tx, query, args); err != nil {
		return err
	}
	for goOn := true; goOn && !c.done; {
		batch, err := c.fetch(ctx)
		if err != nil {
			return err // there is no cursor any more, nor a transaction
		}
		goOn = each(batch)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	_, err := c.tx.ExecContext(ctx, "CLOSE "+c.name)
	return err
}

// runAlone uses the cursor in a transaction of its own.
func (c *cursor[T]) runAlone(ctx context.Context, db TxBeginner, each func([]T) bool, query string, args []any) error {
	st := routing.Classify(query)
	opts := TxOptions{ReadOnly: st.Class == routing.Read && st.Reason != routing.ReasonUnresolved}
	tx, batch, err := c.begin(ctx, db, opts, query, args)
	if err != nil {
		return err
	}
	defer tx.Rollback()

	type fetched struct {
		batch []T
		err   error
	}
	next := make(chan fetched)
	fetching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		defer close(next)
		for !c.done {
			batch, err := c.fetch(fetching)
			select {
			case next <- fetched{batch, err}:
			case <-fetching.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	for each(batch) {
		f, ok := <-next
		switch {
		case !ok:
			return endOf(ctx, tx.Commit())
		case f.err != nil:
			return f.err
		}
		batch = f.batch
	}
	return nil
}

// begin opens the cursor in a new transaction, and fetches the first rows. Until
// they are there, it can begin again.
func (c *cursor[T]) begin(ctx context.Context, db TxBeginner, opts TxOptions, query string, args []any) (*sql.Tx, []T, error) {
	r := txRetry{TxOptions: opts, start: time.Now()}
	for {
		a := r.next()
		tx, err := db.BeginTx(a.context(ctx), &sql.TxOptions{ReadOnly: opts.ReadOnly})
		if err == nil {
			a.stage = running
			if err = c.open(ctx, tx, query, args); err == nil {
				var batch []T
				if batch, err = c.fetch(ctx); err == nil {
					return tx, batch, nil
				}
			}
			tx.Rollback()
		}
		if err, again := r.judge(ctx, a, err); !again {
			return nil, nil, err
		}
	}
}

// endOf returns the error of Commit as its caller should see it: package
// database/sql may have rolled back when ctx ended.
func endOf(ctx context.Context, err error) error {
	if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
