package pgherd

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

const (
	// cancelPatience is how long a server that was asked to cancel a statement
	// has to answer. Then its connection is given up, as pgx does at once: that
	// is how much later than its context's end a call may return. A healthy
	// server takes a few milliseconds, and two or three round trips.
	cancelPatience = 500 * time.Millisecond

	// cancelPause is the time between the first two requests; it doubles.
	cancelPause = 50 * time.Millisecond
)

// A canceller ends what runs on a connection when the context of the caller
// ends: it asks the server to cancel the statement, and gives the connection up
// only if there is no answer for cancelPatience.
//
// A request travels on a connection of its own. What must not happen is that it
// comes late and meets the next statement. There is an order to rely on: the
// process that takes the request signals the backend before it closes the
// request's connection, and CancelRequest waits for that. The signal is thus
// there before anything that is sent afterwards, and a backend that finds it on
// reading its next message forgets it, because no query is in progress
// (DoingCommandRead in PostgresMain and ProcessInterrupts,
// https://github.com/postgres/postgres/blob/master/src/backend/tcop/postgres.c).
// So the connection is free for the next statement as soon as no request is
// under way, and is closed if one is that was not seen to arrive.
// [pgconn.CancelRequestContextWatcherHandler] waits 100 ms after each request
// instead, which every caller pays for, and which a busy machine may exceed.
//
// By the same rule a request goes unheard that comes early, before the backend
// has begun with the statement, or between two of its messages. Therefore it is
// repeated.
//
// Methods are called by one goroutine at a time; [ctxwatch.ContextWatcher] sees
// to that.
type canceller struct {
	conn     *pgconn.PgConn
	patience time.Duration // see cancelPatience

	over   chan struct{} // closed when the statement is over
	quiet  chan struct{} // closed when no request is under way any more
	astray bool          // one may be, all the same; to be read when quiet is closed
}

func newCanceller(conn *pgconn.PgConn) ctxwatch.Handler {
	return &canceller{conn: conn, patience: cancelPatience}
}

// HandleCancel is called when the context of what runs has ended.
func (c *canceller) HandleCancel(ended context.Context) {
	c.over, c.quiet, c.astray = make(chan struct{}), make(chan struct{}), false
	if patience, ok := ended.Value(patienceKey{}).(time.Duration); ok {
		c.conn.Conn().SetDeadline(time.Now().Add(patience))
		close(c.quiet)
		return
	}
	deadline := time.Now().Add(c.patience)
	c.conn.Conn().SetDeadline(deadline)
	go func() {
		defer close(c.quiet)
		c.request(deadline)
	}()
}

// request asks the server to cancel, until the statement is over.
func (c *canceller) request(deadline time.Time) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	for pause := cancelPause; ; pause *= 2 {
		select {
		case <-c.over:
			return
		default:
		}
		// An error says that the request was not sent. Whether its arrival was
		// seen is told only by the time that was left.
		if err := c.conn.CancelRequest(ctx); err == nil && ctx.Err() != nil {
			c.astray = true
		}
		select {
		case <-c.over:
			return
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// HandleUnwatchAfterCancel is called when what ran is over, one way or the
// other.
func (c *canceller) HandleUnwatchAfterCancel() {
	close(c.over)
	<-c.quiet
	if c.astray {
		c.conn.Close(context.Background()) // does not block: the deadline has passed
	}
	if !c.conn.IsClosed() { // else pgx has set a deadline to what it does about that
		c.conn.Conn().SetDeadline(time.Time{})
	}
}

// notReplicated returns an error where the last call on p has committed, and its
// caller has by the end of ctx cancelled the wait for the synchronous standbys to
// have it. The server calls that a success, with a warning. Any other success is
// one, however late it comes: the caller knows then what became of the call.
// https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION-HA
func (p *physical) notReplicated(ctx context.Context) error {
	if p == nil || p.waitCancelled == nil {
		return nil
	}
	if over := ended(ctx); over != nil {
		return &cancelledError{over, p.waitCancelled}
	}
	return nil // somebody else has cancelled the wait, who will know why
}

// physicalKey is where the custom data of a pgconn.PgConn has its *physical.
const physicalKey = "github.com/pgherd/pgherd.physical"

// noteNotice is the [pgconn.NoticeHandler] of the pools' connections.
func noteNotice(conn *pgconn.PgConn, n *pgconn.Notice) {
	if p, ok := conn.CustomData()[physicalKey].(*physical); ok && n.Routine == "SyncRepWaitForLSN" {
		p.waitCancelled = (*pgconn.PgError)(n)
	}
}

type patienceKey struct{}

// withPatience returns a context under which nothing is cancelled when it ends:
// the server has d more to answer by itself.
func withPatience(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, patienceKey{}, d)
}

// A cancelledError is what becomes of a statement that a server cancelled, or
// whose synchronous replication it did not wait for, because the context of its
// caller had ended. It is both to errors.Is and errors.As: the end of the context,
// and the server's *[pgconn.PgError].
type cancelledError struct {
	over   error // of the context
	answer error
}

func (e *cancelledError) Error() string { return e.over.Error() + ": " + e.answer.Error() }

func (e *cancelledError) Unwrap() []error { return []error{e.over, e.answer} }

// asCancelled returns what the caller of a statement that ran under ctx should
// see of err. A statement that was cancelled while its context lives was so by
// somebody else, statement_timeout for one, which is an error like any other.
func asCancelled(ctx context.Context, err error) error {
	if err == nil {
		return nil // before e, which is on the heap
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) || e.Code != "57014" { // query_canceled
		return err
	}
	if over := ended(ctx); over != nil {
		return &cancelledError{over, err}
	}
	return err
}
