package pgherd

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/routing"
)

// An Observer is told of the operations of a herd, each at its beginning and at
// its end. Packages metrics, tracing and audit are made of it. Its methods are
// called by the goroutine that runs the operation, by many at a time, and keep it
// waiting: they must not block, and must not use the herd. They must not change
// the Operation, and keep no pointer to it after End; a copy may be kept.
type Observer interface {
	// Begin is called before op is routed. Of op are known Kind, Class and what its
	// methods tell of its text. It returns the context that op is to run under: ctx,
	// or one derived from it.
	Begin(ctx context.Context, op *Operation) context.Context

	// End is called when op is over, for a query when its rows are closed. ctx is
	// what the Begin of all observers have made of the caller's.
	End(ctx context.Context, op *Operation)
}

// Observe has o told of all operations that begin from now on, until stop is
// called; those that are under way then are told to their end. It may be called
// at any time, from any goroutine. Observers are called in the order in which
// they came. Without one, nothing is measured.
func (c *Connector) Observe(o Observer) (stop func()) {
	one := &observer{o}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setObserversLocked(append(slices.Clip(c.observersLocked()), one))
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		all := slices.Clone(c.observersLocked())
		c.setObserversLocked(slices.DeleteFunc(all, func(p *observer) bool { return p == one }))
	}
}

// An observer is one call of Observe: an Observer that was given twice is told
// twice.
type observer struct{ Observer }

func (c *Connector) observersLocked() []*observer {
	if p := c.observers.Load(); p != nil {
		return *p
	}
	return nil
}

func (c *Connector) setObserversLocked(all []*observer) {
	if len(all) == 0 {
		c.observers.Store(nil)
		return
	}
	c.observers.Store(&all)
}

// An OperationKind says what was asked of the herd. The set is closed, so that
// kinds can be metric labels.
type OperationKind uint8

// Kinds of operations.
const (
	KindQuery    OperationKind = iota // a statement run by Query
	KindExec                          // a statement run by Exec, LISTEN and BatchInsert included
	KindPrepare                       // Prepare, where a server was asked
	KindBegin                         // the beginning of a transaction
	KindCommit                        // its end
	KindRollback                      // its end
	KindPing                          // Ping
	KindCopy                          // COPY
	KindPgx                           // a connection lent by [Conn.PgxConn]

	NumOperationKinds int = iota // how many there are
)

var kindNames = [...]string{"query", "exec", "prepare", "begin", "commit", "rollback", "ping", "copy", "pgx"}

// String returns the name of the kind as it appears in metrics, traces and logs.
func (k OperationKind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "invalid"
}

// An Outcome says how an operation ended. The set is closed.
type Outcome uint8

// Outcomes.
const (
	OutcomeOK       Outcome = iota
	OutcomeError            // of the server, of the connection, or there was no server
	OutcomeCanceled         // the caller's context was cancelled
	OutcomeTimeout          // the caller's deadline, query_timeout or acquire_timeout passed

	NumOutcomes int = iota // how many there are
)

var outcomeNames = [...]string{"ok", "error", "canceled", "timeout"}

// String returns the name of the outcome as it appears in metrics, traces and logs.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return "invalid"
}

// An Operation is something that was asked of a herd: a statement, the beginning
// or the end of a transaction. It holds no argument, and shows no literal of its
// text; only Err may, as what a server says may quote values.
type Operation struct {
	Kind  OperationKind
	Class routing.Class // of the statement; Txn for Begin, Commit and Rollback

	// Server is where it ran, or was tried last, and Role what that was; empty
	// and Unknown where there was no server. Reason says why it was chosen, or why
	// none was.
	Server string
	Role   routing.Role
	Reason routing.Reason

	// Lag is how stale a read there can have been at most; LagKnown is false on
	// the primary, and where nothing is known.
	Lag      time.Duration
	LagKnown bool

	// Acquire is the part of Duration that passed until it had a physical
	// connection: routing, the waiting for a server or a connection, and a dial. It is
	// zero where it had one already, in a transaction for instance.
	Acquire time.Duration
	// Answered is the time from the beginning until the server had answered, for a query
	// with its first row, and Duration the time until it was over. They are the
	// same but for a query, whose reader takes its own time.
	Answered, Duration time.Duration

	// Rows is how many rows the query has returned, or its reader has taken, or
	// how many the statement has changed; -1 where that is not known.
	Rows int64

	// Failed are the attempts before the last one, which the caller does not see.
	Failed []Attempt

	// Err is what the caller was told; nil for success. The error of a server may
	// quote values in its message and detail: see [Operation.ErrorClass] and
	// [Operation.SQLState] for what is safe to tell.
	Err error

	sql string // as it was given
	st  *routing.Statement
}

// An Attempt is one that failed, and was followed by another one.
type Attempt struct {
	Server string
	Role   routing.Role
	End    time.Time
	Err    error
}

// String returns what is safe to log of the operation: no text, no value, and of the
// error its class.
func (op Operation) String() string {
	s := fmt.Sprintf("%s %s on %s %q (%s): %s after %v", op.Kind, op.Class, op.Role, op.Server, op.Reason, op.Outcome(), op.Duration)
	if class := op.ErrorClass(); class != "" {
		s += ", error " + class
	}
	return s
}

// Format writes String for every verb: the fields hold the text.
func (op Operation) Format(f fmt.State, _ rune) { fmt.Fprint(f, op.String()) }

// MarshalText returns String.
func (op Operation) MarshalText() ([]byte, error) { return []byte(op.String()), nil }

// LogValue returns String.
func (op Operation) LogValue() slog.Value { return slog.StringValue(op.String()) }

// Attempts returns how many servers, or connections, it was tried on.
func (op *Operation) Attempts() int {
	if op.Server == "" {
		return len(op.Failed)
	}
	return len(op.Failed) + 1
}

// Statement returns the text as [routing.Normalize] makes it: without values. It
// is empty where there is no text. It takes some microseconds, more for a long text.
func (op *Operation) Statement() string {
	if op.sql == "" {
		return ""
	}
	return routing.Normalize(op.sql)
}

// Fingerprint returns 16 hexadecimal digits that are the same for texts that
// differ only in values, in every process, and that log messages of the herd have,
// too. It is empty where there is no text. It takes as long as Statement.
func (op *Operation) Fingerprint() string {
	if op.sql == "" {
		return ""
	}
	return fingerprint(op.Statement())
}

func fingerprint(normal string) string {
	h := fnv.New64a()
	h.Write([]byte(normal))
	return fmt.Sprintf("%016x", h.Sum64())
}

// Summary returns what the operation does, in few words that do not change with
// values: the first word of its text and the tables that it names, such as "SELECT orders",
// at most 255 bytes; or its kind where there is no text.
func (op *Operation) Summary() string {
	verb := firstWord(op.sql)
	if verb == "" {
		return op.Kind.String()
	}
	s := verb
	for _, r := range op.st.Relations {
		if len(s)+1+len(r) > maxSummary {
			break
		}
		s += " " + r
	}
	return s
}

const maxSummary = 255

// firstWord returns the first word of a text in capitals; empty if there is none.
func firstWord(sql string) string {
	const others = " \t\r\n\f("
	sql = strings.TrimLeft(sql, others)
	if strings.HasPrefix(sql, "--") || strings.HasPrefix(sql, "/*") {
		sql = strings.TrimLeft(routing.Normalize(sql), others)
	}
	n := 0
	for n < len(sql) && n < maxVerb && ('a' <= sql[n]|0x20 && sql[n]|0x20 <= 'z') {
		n++
	}
	return strings.ToUpper(sql[:n])
}

const maxVerb = 32

// Outcome returns how the operation ended.
func (op *Operation) Outcome() Outcome {
	switch {
	case op.Err == nil:
		return OutcomeOK
	case errors.Is(op.Err, context.Canceled):
		return OutcomeCanceled
	case errors.Is(op.Err, context.DeadlineExceeded):
		return OutcomeTimeout
	}
	return OutcomeError
}

// SQLState returns the code of the server's error, if it is one: five capital
// letters and digits.
func (op *Operation) SQLState() string {
	var e *pgconn.PgError
	if errors.As(op.Err, &e) {
		return e.Code
	}
	return ""
}

// ErrorClass returns what kind of error the operation met, out of a closed set: the
// first two characters of the SQLSTATE if it is one of PostgreSQL's own, or "canceled",
// "timeout", "acquire" (acquire_timeout), "no-server", "closed", "connection", or
// "other"; and nothing for success.
func (op *Operation) ErrorClass() string {
	var (
		server *pgconn.PgError
		route  *RouteError
		err    = op.Err
	)
	switch {
	case err == nil:
		return ""
	case isAcquire(err):
		return "acquire"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &route):
		return "no-server"
	case errors.As(err, &server):
		if len(server.Code) == 5 && strings.Contains(sqlStateClasses, " "+server.Code[:2]+" ") {
			return server.Code[:2]
		}
		return "other" // made up by a function
	case errors.Is(err, ErrClosed):
		return "closed"
	case errors.Is(err, driver.ErrBadConn) || brokeConnection(&lease{}, err):
		return "connection"
	}
	return "other"
}

// sqlStateClasses are the classes of PostgreSQL's error codes. Functions may raise
// errors with any code.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
const sqlStateClasses = " 00 01 02 03 08 09 0A 0B 0F 0L 0P 0Z 10 20 21 22 23 24 25 26 27 28 2B 2D 2F 34 38 39 3B 3D 3F 40 42 44 53 54 55 57 58 72 F0 HV P0 XX "

// An observation is an operation that is under way, with those who are told.
type observation struct {
	Operation
	c         *Connector
	observers []*observer
	ctx       context.Context // what they have made of the caller's
	begun     routing.Instant
}

// observe begins the operation k, and returns the context that it is to run under.
// Nothing is done where nobody wants to know.
func (c *Connector) observe(ctx context.Context, k *call) context.Context {
	if all := c.observers.Load(); all != nil {
		k.ob = c.beginObservation(ctx, *all, Operation{Kind: k.kind(), sql: k.sql, st: k.st})
		return k.ob.ctx
	}
	return ctx
}

func (c *Connector) beginObservation(ctx context.Context, observers []*observer, op Operation) *observation {
	o := &observation{Operation: op, c: c, observers: observers, ctx: ctx, begun: c.now()}
	o.Rows, o.Class = -1, op.st.Class
	for _, one := range observers {
		o.ctx = one.Begin(o.ctx, &o.Operation)
	}
	return o
}

func (k *call) kind() OperationKind {
	switch {
	case k.work != nil && k.sql == "":
		return KindPgx
	case k.work != nil && k.st.Copy != routing.NoCopy:
		return KindCopy
	}
	return [...]OperationKind{opQuery: KindQuery, opExec: KindExec, opPrepare: KindPrepare, opBegin: KindBegin, opPing: KindPing}[k.op]
}

// place notes where k has run, or was tried.
func (o *observation) place(k *call, p *picture, server int, why routing.Reason, now routing.Instant) {
	o.Reason, o.Class = why, k.st.Class
	o.Server, o.Role, o.Lag, o.LagKnown = "", routing.Unknown, 0, false
	if server >= 0 {
		s := &p.Servers[server]
		o.Server, o.Role = s.Name, s.Role
		if s.Role == routing.Replica && s.Fresh > 0 && p.servers[server].believed == routing.Unknown {
			o.Lag, o.LagKnown = max(now.Sub(s.Fresh), 0), true
		}
	}
	o.Acquire = k.acquired
	o.Answered = o.elapsed()
}

// elapsed returns the time since the operation began.
func (o *observation) elapsed() time.Duration { return o.c.now().Sub(o.begun) }

// retry notes that the last attempt has failed with err, and is followed by another one.
func (o *observation) retry(err error) {
	if o != nil {
		o.Failed = append(o.Failed, Attempt{Server: o.Server, Role: o.Role, End: time.Now(), Err: err})
	}
}

// end tells that the operation is over. rows is -1 if it is not known. o may be
// nil.
func (o *observation) end(err error, rows int64) {
	if o == nil || o.observers == nil {
		return
	}
	o.Err, o.Rows = err, rows
	if o.Kind == KindQuery || o.Answered == 0 {
		o.Duration = o.elapsed()
		if o.Answered == 0 {
			o.Answered = o.Duration
		}
	} else {
		o.Duration = o.Answered
	}
	for _, one := range o.observers {
		one.End(o.ctx, &o.Operation)
	}
	o.observers = nil // once
}

// changed returns how many rows k has changed, or -1.
func (k *call) changed() int64 {
	switch {
	case k.op != opExec || k.ob == nil:
		return -1
	case k.work != nil:
		return k.affected
	case k.result == nil:
		return -1
	}
	n, err := k.result.RowsAffected()
	if err != nil {
		return -1
	}
	return n
}
