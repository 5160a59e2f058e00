package pgherd

import (
	"context"
	"database/sql"
	"errors"
	"iter"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/pgherd/pgherd/routing"
)

// A Queryer runs queries: a handle, connection or transaction of database/sql,
// sqlx, bun or GORM (its ConnPool).
type Queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Stream runs a query and returns its rows as they arrive. Whoever ranges over
// the sequence runs the query; memory holds one row.
//
//	for order, err := range pgherd.Stream[Order](ctx, db, "select * from orders where day = $1", day) {
//		if err != nil {
//			return err
//		}
//		…
//	}
//
// An error comes last, once. Rows are made values of T by the library sqlx: a
// struct's fields take the columns of their names in lower case, or of their db
// tags, and a column without a field is an error; so with a pointer to a struct. A
// map[string]any takes all columns by their names. Any other T, sql.Scanner
// included, takes the only column.
//
// A loop that is left early does not read the rest: the server is asked to cancel
// the query, and its connection is kept, which takes some milliseconds however
// many rows there are. Inside a transaction that would cost the transaction, and
// for what may write, its effects, so there the rest is read and dropped: use
// [Cursor] to stop early in a transaction. So it is with other drivers than that
// of this package.
//
// The connection is the query's until the loop ends: what runs in the loop takes
// another one, and inside the same transaction, cannot run at all.
func Stream[T any](ctx context.Context, db Queryer, query string, args ...any) iter.Seq2[T, error] {
	return stream(ctx, db, scanRow[T], query, args)
}

func stream[T any](ctx context.Context, db Queryer, scanner func(*sql.Rows) (scan[T], error), query string, args []any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		rows, err := db.QueryContext(stopping(ctx), query, args...)
		if err != nil {
			yield(none, err)
			return
		}
		defer rows.Close()
		scan, err := scanner(rows)
		for err == nil && rows.Next() {
			var v T
			if v, err = scan(); err == nil && !yield(v, nil) {
				return
			}
		}
		if err == nil {
			err = rows.Err()
		}
		if err != nil {
			yield(none, err)
		}
	}
}

// stopping returns a context whose queries end soon after their rows are closed,
// rather than when all rows are read.
func stopping(ctx context.Context) context.Context {
	return withHints(ctx, func(h *hints) { h.stops = true })
}

// stopPatience is how long rows that nobody wants are read before the server is
// asked to stop: the end may be near, and a request costs it a new process.
const stopPatience = time.Millisecond

// stopTimeout is how long a server that was asked to stop may go on. Nobody's
// context has ended, so there is no hurry to give its connection up.
const stopTimeout = 10 * time.Second

// mayStop reports whether the query of the rows can be cancelled without a trace.
// Nothing else is: the transaction that it is in would be lost, or some of its
// effects. If that is not known of its names, which are new then, it is found out:
// the rest may be long.
func (e *rowsEnd) mayStop() bool {
	if e.cn == nil || e.l.inTransaction() {
		return false
	}
	k := call{sql: e.sql, st: e.cn.c.classify(e.sql)}
	return k.st.Class == routing.Read &&
		(k.st.Reason != routing.ReasonUnresolved || e.l.onStandby() || e.cn.c.resolve(e.ctx, &k) && k.st.Class == routing.Read)
}

// stop closes rows that may not be at their end, as [canceller] does it for a
// context that ends.
func (r *pgxRows) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
	defer cancel()
	w := ctxwatch.NewContextWatcher(&canceller{conn: r.end.l.pg.Conn.Conn().PgConn(), patience: stopTimeout})
	w.Watch(ctx)
	defer w.Unwatch()
	err := r.Rows.Close()
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "57014" { // query_canceled
		return nil
	}
	return err
}
