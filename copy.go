package pgherd

import (
	"bufio"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgherd/pgherd/routing"
)

// CopyIn sends what src has to the server, which stores it as sql says, a
// COPY … FROM STDIN in any format, and returns the number of rows stored. The
// target is that of [Raw]: in a transaction the rows are part of it.
//
//	n, err := pgherd.CopyIn(ctx, db, "COPY sheep (name, wool) FROM STDIN (FORMAT csv, HEADER)", file)
//
// Either all rows are stored or none. Nothing is read from src before the server
// is ready for it: an error that is no [*CopyError] has consumed nothing. What
// src fails with is the cause of the CopyError; a panic of src goes on in the
// caller. The end of ctx ends the COPY even while src blocks. The Read that is
// under way then may still be when CopyIn has returned: whoever wants it to end
// closes src. The connection is of use afterwards, whatever happens.
func CopyIn(ctx context.Context, target any, sql string, src io.Reader) (rows int64, err error) {
	err = Raw(ctx, target, func(cn *Conn) error {
		rows, err = cn.CopyIn(ctx, sql, src)
		return err
	})
	return rows, err
}

// CopyOut writes to dst what the server sends for sql, a COPY … TO STDOUT in any
// format, and returns the number of rows. The target is that of [Raw].
//
//	n, err := pgherd.CopyOut(ctx, db, "COPY (SELECT * FROM sheep WHERE wool > 2) TO STDOUT (FORMAT csv)", w)
//
// It is routed as the query within it is: a read may go to a replica, and to
// another server if the first one fails before anything was written to dst. If
// dst fails, the server is asked to stop, and CopyOut returns its error as the
// cause. In a transaction that fails the transaction, as any error of a statement.
func CopyOut(ctx context.Context, target any, sql string, dst io.Writer) (rows int64, err error) {
	err = Raw(ctx, target, func(cn *Conn) error {
		rows, err = cn.CopyOut(ctx, sql, dst)
		return err
	})
	return rows, err
}

// CopyIn is [CopyIn] on the connection.
func (cn *Conn) CopyIn(ctx context.Context, sql string, src io.Reader) (rows int64, err error) {
	k := call{op: opExec, sql: sql, st: cn.classify(sql)}
	if k.st.Copy != routing.CopyStdin {
		return 0, errors.New("pgherd: CopyIn: the text is not one COPY … FROM STDIN")
	}
	if cn.via != nil {
		return cn.viaCopyIn(ctx, sql, src)
	}
	k.work = func(ctx context.Context, c *pgx.Conn) error {
		tag, err := copyIn(ctx, c.PgConn(), sql, k.deliver, func(f *copyFeed) error { return f.readFrom(src) })
		rows = tag.RowsAffected()
		k.affected = rows
		return err
	}
	return rows, cn.lendFor(ctx, &k)
}

// CopyOut is [CopyOut] on the connection.
func (cn *Conn) CopyOut(ctx context.Context, sql string, dst io.Writer) (rows int64, err error) {
	k := call{op: opExec, sql: sql, st: cn.classify(sql)}
	if k.st.Copy != routing.CopyStdout {
		return 0, errors.New("pgherd: CopyOut: the text is not one COPY … TO STDOUT")
	}
	if cn.via != nil {
		return cn.viaCopyOut(ctx, sql, dst)
	}
	k.work = func(ctx context.Context, c *pgx.Conn) error {
		tag, err := copyOut(ctx, c.PgConn(), sql, k.deliver, dst)
		rows = tag.RowsAffected()
		k.affected = rows
		return err
	}
	return rows, cn.lendFor(ctx, &k)
}

// lendFor is lend for a single statement, which query_timeout bounds.
func (cn *Conn) lendFor(ctx context.Context, k *call) error {
	ctx, cancel := cn.c.queryContext(ctx)
	if cancel != nil {
		defer cancel()
	}
	return cn.lend(ctx, k)
}

// A CopyError is why a COPY failed once the server was ready for data, or why a
// row could not be written. Its cause is the source's error, the server's
// *[pgconn.PgError], or both, and is found by errors.Is and errors.As.
type CopyError struct {
	// Row is the row of the source that could not be stored, from 1; 0 where
	// that is not known, or where the source is not one of rows.
	Row int64
	// Line is what the server calls the line of text, or the row, that it could
	// not store; 0 where it does not say.
	Line int64
	// Column is the name of the column; "" where it is not known.
	Column string

	Err error
}

func (e *CopyError) Error() string {
	var b strings.Builder
	b.WriteString("pgherd: ")
	switch {
	case e.Row > 0:
		fmt.Fprintf(&b, "row %d", e.Row)
	case e.Line > 0:
		fmt.Fprintf(&b, "COPY: line %d", e.Line)
	default:
		b.WriteString("COPY")
	}
	if e.Column != "" {
		fmt.Fprintf(&b, ", column %s", e.Column)
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	return b.String()
}

func (e *CopyError) Unwrap() error { return e.Err }

// copyContext finds the line and the column in the context of a server's error,
// "COPY sheep, line 3, column wool: …", in any language. The table's name may
// have anything in it. See CopyFromErrorCallback in copyfrom.c.
var copyContext = regexp.MustCompile(`(?m)^COPY .*?, \S+ (\d+)(?:, \S+ ([^:\n]+?))?(?::|$)`)

// copyErrorOf is what a server's error says of a COPY.
func copyErrorOf(e *pgconn.PgError) *CopyError {
	ce := &CopyError{Err: e}
	if m := copyContext.FindStringSubmatch(e.Where); m != nil {
		ce.Line, _ = strconv.ParseInt(m[1], 10, 64)
		ce.Column = m[2]
	}
	if ce.Column == "" {
		ce.Column = e.ColumnName
	}
	return ce
}

// copyChunk is how much is sent in one message.
const copyChunk = 64 << 10

// readFrom sends all of src.
func (f *copyFeed) readFrom(src io.Reader) error {
	// It is the feed's own: src may still read into it when COPY is over.
	buf := newCopyBuffer()
	for empty := 0; ; {
		n, err := src.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if n > 0 {
			empty = 0
		} else if empty++; err == nil && empty == 100 {
			err = io.ErrNoProgress
		}
		if len(buf) > copyHeader && (err != nil || len(buf) >= cap(buf)/2) {
			if sendErr := f.send(buf); sendErr != nil {
				return sendErr
			}
			buf = buf[:copyHeader]
		}
		switch err {
		case nil:
		case io.EOF:
			return nil
		default:
			return err
		}
	}
}

// copyHeader is the length of what comes before the data of a message.
const copyHeader = 5

// newCopyBuffer returns a buffer for one message, with room for its header.
func newCopyBuffer() []byte { return make([]byte, copyHeader, copyHeader+copyChunk) }

// A copyFeed is the client's half of a COPY FROM STDIN. What it sends comes from
// a goroutine of its own, so that neither a source nor a server that blocks keeps
// the other one's end from being noticed.
//
// It writes to the connection beneath pgx, which meanwhile is used for nothing
// but to receive: pgx, too, may have something to send when it finds the
// connection lost.
type copyFeed struct {
	conn net.Conn

	mu   sync.Mutex  // held while something is sent, and for stores to over
	over atomic.Bool // nothing is to be sent, no more or not yet

	done chan struct{} // closed when the source has returned; then what follows is known
	err  error         // of the source
	died *sourcePanic  // of the source; nil for none
}

// A sourcePanic carries a panic from the goroutine of a source to its caller.
type sourcePanic struct{ value any }

func (p *sourcePanic) Error() string { return "pgherd: the source panicked" }

var (
	errCopyOver = errors.New("pgherd: the COPY is over")
	errGoexit   = errors.New("the source ended its goroutine")
)

// run has the source feed f to its end.
func (f *copyFeed) run(source func(*copyFeed) error) {
	f.err = errGoexit
	defer func() {
		if v := recover(); v != nil {
			f.died = &sourcePanic{v}
		}
		if f.err == nil {
			f.end(&pgproto3.CopyDone{})
		} else {
			f.fail()
		}
		close(f.done)
	}()
	f.err = source(f)
}

// send sends a message of data, whose header it fills in.
func (f *copyFeed) send(msg []byte) error {
	n := len(msg) - 1
	msg[0], msg[1], msg[2], msg[3], msg[4] = 'd', byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over.Load() {
		return errCopyOver
	}
	_, err := f.conn.Write(msg)
	return err
}

// end sends the last message, if there was none yet and the server waits for
// one.
func (f *copyFeed) end(msg pgproto3.FrontendMessage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over.Load() {
		return
	}
	f.over.Store(true)
	if b, err := msg.Encode(nil); err == nil {
		f.conn.Write(b) // an error is that of receiving, too
	}
}

// fail has the server undo the COPY. Why is not for its log.
func (f *copyFeed) fail() { f.end(&pgproto3.CopyFail{Message: "the client gave up"}) }

// start lets data be sent.
func (f *copyFeed) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over.Store(false)
}

// stop lets nothing more be sent.
func (f *copyFeed) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over.Store(true)
}

// sourcePatience is how long the end of a COPY waits for a source to return from
// what it does: one that does not block can be used by the caller at once.
const sourcePatience = 100 * time.Millisecond

// outcome returns what the source has returned. It is errCopyOver for one that
// has not, and blocks.
func (f *copyFeed) outcome(patience time.Duration) error {
	select {
	case <-f.done:
	default:
		t := time.NewTimer(patience)
		defer t.Stop()
		select {
		case <-f.done:
		case <-t.C:
			return errCopyOver
		}
	}
	if f.died != nil {
		return f.died
	}
	return f.err
}

// A copyCanceller is a canceller for COPY FROM STDIN. A server that waits for
// data does not hear a request to cancel; it does hear that there will be no data.
type copyCanceller struct {
	canceller
	feed *copyFeed
}

func (c *copyCanceller) HandleCancel(ended context.Context) {
	c.canceller.HandleCancel(ended) // sets the deadline that bounds the rest
	c.feed.fail()
}

// copyIn runs a COPY FROM STDIN. When the server is ready it calls ready, and
// then source in another goroutine.
//
// The protocol is https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY
func copyIn(ctx context.Context, c *pgconn.PgConn, sql string, ready func(), source func(*copyFeed) error) (pgconn.CommandTag, error) {
	f := &copyFeed{conn: c.Conn(), done: make(chan struct{})}
	f.stop() // until the server asks for data
	watcher := ctxwatch.NewContextWatcher(&copyCanceller{canceller{conn: c, patience: cancelPatience}, f})
	watcher.Watch(ctx)
	var (
		begun     bool
		serverErr *pgconn.PgError
	)
	tag, err := converse(c, sql, func(msg pgproto3.BackendMessage) {
		switch msg := msg.(type) {
		case *pgproto3.CopyInResponse:
			begun = true
			f.start()
			if ctx.Err() != nil { // the canceller may have been here before
				f.fail()
				f.err = errCopyOver
				close(f.done)
				return
			}
			ready()
			go f.run(source)
		case *pgproto3.ErrorResponse:
			f.stop()
			serverErr = pgconn.ErrorResponseToPgError(msg)
		}
	})
	if err != nil {
		f.stop()
	}
	watcher.Unwatch()
	if !begun {
		switch {
		case serverErr != nil:
			return tag, serverErr
		case err != nil && ended(ctx) == nil:
			return tag, driver.ErrBadConn // nothing has been stored
		case err != nil:
			return tag, &cancelledError{ended(ctx), err}
		}
		return tag, errors.New("pgherd: COPY: the server asked for no data")
	}
	sourceErr := f.outcome(sourcePatience)
	var died *sourcePanic
	switch {
	case errors.As(sourceErr, &died):
		return tag, died
	case err == nil && serverErr == nil:
		return tag, nil
	case sourceErr == nil || sourceErr == errCopyOver || err != nil:
		sourceErr = nil
	case serverErr.Code == "57014": // it was told of sourceErr
		return tag, asCopyError(sourceErr)
	}
	if err == nil {
		ce := copyErrorOf(serverErr)
		ce.Err = errors.Join(sourceErr, serverErr)
		if sourceErr == nil {
			ce.Err = serverErr
		}
		return tag, ce
	}
	if over := ended(ctx); over != nil {
		err = &cancelledError{over, err}
	} else if serverErr != nil {
		err = serverErr // why the connection ended
	}
	return tag, &CopyError{Err: err}
}

// asCopyError returns the error of a source.
func asCopyError(err error) error {
	if e, ok := err.(*CopyError); ok {
		return e
	}
	return &CopyError{Err: err}
}

// converse sends a query and calls receive with each message of the answer. An
// error is that of the connection, which is closed then. It is
// [driver.ErrBadConn] where nothing was sent.
func converse(c *pgconn.PgConn, sql string, receive func(pgproto3.BackendMessage)) (tag pgconn.CommandTag, err error) {
	c.Frontend().SendQuery(&pgproto3.Query{String: sql})
	if err := c.Frontend().Flush(); err != nil {
		hangUp(c)
		if pgconn.SafeToRetry(err) {
			return tag, driver.ErrBadConn
		}
		return tag, err
	}
	for {
		// The context is watched by the caller: here it would be for each
		// message anew.
		msg, err := c.ReceiveMessage(context.Background())
		if err != nil {
			hangUp(c) // after a deadline it is open
			return tag, err
		}
		receive(msg)
		switch msg := msg.(type) {
		case *pgproto3.CommandComplete:
			tag = pgconn.NewCommandTag(string(msg.CommandTag))
		case *pgproto3.ReadyForQuery:
			return tag, nil
		}
	}
}

// copyOut runs a COPY TO STDOUT. It calls ready before it writes to dst.
func copyOut(ctx context.Context, c *pgconn.PgConn, sql string, ready func(), dst io.Writer) (pgconn.CommandTag, error) {
	watcher := ctxwatch.NewContextWatcher(&canceller{conn: c, patience: cancelPatience})
	watcher.Watch(ctx)
	intact := false
	defer func() {
		if !intact { // dst has panicked, or ended its goroutine
			hangUp(c)
			watcher.Unwatch()
		}
	}()
	var (
		// A server sends each line in a message of its own.
		w         = bufio.NewWriterSize(&copySink{dst: dst, ready: ready}, copyChunk)
		refusal   error      // of dst
		stopper   *canceller // what asks the server to stop after that
		serverErr *pgconn.PgError
	)
	tag, err := converse(c, sql, func(msg pgproto3.BackendMessage) {
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			if refusal != nil {
				return
			}
			if _, refusal = w.Write(msg.Data); refusal != nil {
				stopper = &canceller{conn: c, patience: refusalPatience}
				stopper.HandleCancel(context.Background())
			}
		case *pgproto3.ErrorResponse:
			serverErr = pgconn.ErrorResponseToPgError(msg)
		}
	})
	intact = true
	watcher.Unwatch()
	if stopper != nil {
		stopper.HandleUnwatchAfterCancel()
	}
	switch {
	case refusal != nil:
	case serverErr != nil:
		return tag, serverErr
	case err != nil:
		if over := ended(ctx); over != nil {
			err = &cancelledError{over, err}
		}
		return tag, err
	default:
		refusal = w.Flush()
	}
	if refusal != nil {
		return tag, &CopyError{Err: refusal}
	}
	return tag, nil
}

// refusalPatience is how long a server has to stop a COPY whose receiver refuses
// it, before the connection is given up. Nobody's context has ended.
const refusalPatience = 5 * time.Second

// A copySink writes to dst once it has called ready.
type copySink struct {
	dst   io.Writer
	ready func() // nil when it was called
}

func (s *copySink) Write(p []byte) (int, error) {
	if s.ready != nil {
		s.ready()
		s.ready = nil
	}
	return s.dst.Write(p)
}
