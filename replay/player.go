package replay

import (
	"bytes"
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/internal/sqlconn"
	"github.com/pgherd/pgherd/routing"
)

// A player answers from a fixture what connections ask. It is safe for concurrent use.
type player struct {
	m      *matcher
	redact func(*Call) // makes of what comes what is recorded of it
	served func(*Call) // is told of each call, or nil

	repeats *repeatGuard // nil for none

	mu   sync.Mutex      // guards open
	open map[any]opening // rows and transactions that are open
}

func newPlayer(f *Fixture, order Order) *player {
	var none *Redactor
	return &player{m: newMatcher(f, order), redact: none.live(f), open: make(map[any]opening)}
}

// An opening is of rows or a transaction.
type opening struct {
	text    string
	callers [48]uintptr
	n       int // of callers
}

// opened notes that what, rows or a transaction, is to be closed.
func (p *player) opened(what any, text string) {
	o := opening{text: text}
	o.n = runtime.Callers(2, o.callers[:])
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[what] = o
}

func (p *player) closed(what any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, what)
}

// leftOpen tells what was not closed.
func (p *player) leftOpen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var texts []string
	for _, o := range p.open {
		text := oneLine(o.text)
		if c := describeFrames(runtime.CallersFrames(o.callers[:o.n])); c != "" {
			text += "   " + c
		}
		texts = append(texts, text)
	}
	slices.Sort(texts)
	return texts
}

// A playConn is a connection to a player. As every connection of a driver it is used
// by one goroutine at a time.
type playConn struct {
	p     *player
	live  *live // what this checkout has said; nil if nothing
	route sqlconn.Route
	known bool // route is
}

var _ interface {
	sqlconn.Conn
	sqlconn.Router
	driver.SessionResetter
	driver.Validator
} = (*playConn)(nil)

// ResetSession begins a checkout.
func (c *playConn) ResetSession(context.Context) error { c.end(); return nil }

// IsValid ends a checkout. A connection that a fault has cut is of no more use.
func (c *playConn) IsValid() bool {
	cut := c.live != nil && c.live.cut
	c.end()
	return !cut
}

func (c *playConn) Close() error { c.end(); return nil }

func (c *playConn) end() {
	if c.live != nil {
		c.p.m.end(c.live)
		c.live = nil
	}
}

// LastRoute implements [sqlconn.Router].
func (c *playConn) LastRoute() (sqlconn.Route, bool) { return c.route, c.known }

// CheckNamedValue takes everything, as pgx does: what is compared is the canonical
// value.
func (c *playConn) CheckNamedValue(*driver.NamedValue) error { return nil }

// ask returns the recorded call that answers a, or nil if none need be.
func (c *playConn) ask(ctx context.Context, a *ask) (*Call, error) {
	if c.live == nil {
		c.live = new(live)
	}
	l := c.live
	if c.p.m.order == AnyOrder {
		l = &live{names: l.names, inTx: l.inTx, aborted: l.aborted, struck: l.struck, cut: l.cut, pending: l.pending, failed: l.failed} // each call is a unit
		c.live = l
	}
	if a.text != "" {
		call := &Call{Op: a.op, SQL: a.text, Args: a.args, Copied: a.sent}
		c.p.redact(call)
		a.text, a.args, a.sent = call.SQL, call.Args, call.Copied
		a.sql, _ = l.names.read(a.text)
	}
	a.ended = ctx.Err() != nil
	c.known = false
	call, mm := c.p.m.answer(l, a)
	if c.p.m.order == AnyOrder {
		c.p.m.end(l)
	}
	switch {
	case mm != nil:
		return nil, mm
	case call == nil:
		return nil, ctx.Err()
	}
	if s := call.Served; s != (Served{}) {
		c.route, c.known = sqlconn.Route{Role: s.Role, Reason: s.Reason, Lag: s.Lag}, true
	}
	c.p.repeats.made(call, a)
	if c.p.served != nil {
		c.p.served(call)
	}
	if err := call.wait(ctx); err != nil {
		return nil, err
	}
	return call, c.p.m.fault(ctx, call.Error)
}

// patience is how long a call that was cancelled when it was recorded waits for its
// context to end. It is much: that no test waits for ever is all it is for.
const patience = 10 * time.Second

// fault returns what e stands for. An error of a context is one when the context has
// ended: what goes on elsewhere when it does counts on that.
func (m *matcher) fault(ctx context.Context, e *Error) error {
	if e == nil {
		return nil
	}
	if e.Context == nil || ctx.Done() == nil {
		return e.err()
	}
	if _, ok := ctx.Deadline(); !ok && e.Context == context.DeadlineExceeded {
		return e.err() // the driver's own limit
	}
	var late <-chan time.Time
	if e.Context == context.Canceled {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-ctx.Done():
		if ctx.Err() != e.Context {
			return ctx.Err()
		}
	case <-late:
	}
	return e.err()
}

// statement returns the call that answers a statement.
func (c *playConn) statement(ctx context.Context, op Op, query string, args []driver.NamedValue) (*Call, error) {
	recorded, _ := canonicalArgs(args)
	return c.ask(ctx, &ask{op: op, text: query, args: recorded})
}

// canonicalArgs returns args as they are recorded and compared. Of those that cannot
// be, it is the type, and there is an error: a program may want to see the driver
// refuse them.
func canonicalArgs(args []driver.NamedValue) ([]Arg, error) {
	if len(args) == 0 {
		return nil, nil
	}
	all := make([]Arg, len(args))
	var fault error
	for i, arg := range args {
		v, err := canonical(arg.Value)
		if err != nil {
			v = fmt.Sprintf("<%T>", arg.Value)
			fault = cmp.Or(fault, fmt.Errorf("argument $%d: %w", i+1, err))
		}
		all[i] = Arg{Name: arg.Name, Value: v}
	}
	return all, fault
}

func (c *playConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if r := rawCaller(args); r != nil {
		r.CallRaw(playRaw{c})
		return driver.ResultNoRows, nil
	}
	call, err := c.statement(ctx, OpExec, query, args)
	if err != nil {
		return nil, err
	}
	if len(call.Results) == 0 {
		return driver.ResultNoRows, nil
	}
	return driver.RowsAffected(call.Results[len(call.Results)-1].Affected), nil
}

// rawCaller returns the one argument that is no value, but wants to get at the
// connection; nil if args are ordinary ones.
func rawCaller(args []driver.NamedValue) sqlconn.RawCaller {
	if len(args) != 1 {
		return nil
	}
	r, _ := args[0].Value.(sqlconn.RawCaller)
	return r
}

func (c *playConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	call, err := c.statement(ctx, OpQuery, query, args)
	if err != nil {
		return nil, err
	}
	r := &playRows{c: c, live: c.live, ctx: ctx, call: call, results: call.Results}
	if len(r.results) == 0 {
		r.results = make([]Result, 1)
	}
	c.p.opened(r, "rows of "+query)
	return r, nil
}

// oneLine is as much of a text as fits on a line.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 80 {
		text = text[:79] + "…"
	}
	return text
}

// Ping succeeds, unless a ping that failed is what comes next.
func (c *playConn) Ping(ctx context.Context) error {
	_, err := c.ask(ctx, &ask{op: OpPing})
	return err
}

func (c *playConn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// PrepareContext succeeds, unless to prepare the statement is recorded to fail.
func (c *playConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if _, err := c.ask(ctx, &ask{op: OpPrepare, text: query}); err != nil {
		return nil, err
	}
	return &playStmt{c, query}, nil
}

func (c *playConn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *playConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	call, err := c.ask(ctx, &ask{op: OpBegin, isolated: opts})
	if err != nil {
		return nil, err
	}
	if call == nil {
		return nil, ctx.Err()
	}
	tx := &playTx{c, c.live}
	c.p.opened(tx, "a transaction")
	return tx, nil
}

// A playTx is a transaction of a playConn.
type playTx struct {
	c    *playConn
	live *live
}

func (tx *playTx) Commit() error { return tx.end(OpCommit) }

// Rollback of a unit that failed does what a rollback is for.
func (tx *playTx) Rollback() error {
	err := tx.end(OpRollback)
	if mm := (*Mismatch)(nil); errors.As(err, &mm) && mm.Op != OpRollback {
		return nil
	}
	return err
}

func (tx *playTx) end(op Op) error {
	tx.c.p.closed(tx)
	_, err := tx.c.ask(context.Background(), &ask{op: op})
	return err
}

// A playStmt is a statement of a playConn.
type playStmt struct {
	c     *playConn
	query string
}

var _ interface {
	driver.StmtExecContext
	driver.StmtQueryContext
	driver.NamedValueChecker
} = (*playStmt)(nil)

func (s *playStmt) Close() error { return nil }

// NumInput is how many parameters the text has.
func (s *playStmt) NumInput() int {
	if s.query == sqlconn.RawText {
		return 1
	}
	n := 0
	for _, t := range routing.Tokens(s.query) {
		if digits, ok := strings.CutPrefix(t, "$"); ok {
			if i, err := strconv.Atoi(digits); err == nil {
				n = max(n, i)
			}
		}
	}
	return n
}

func (s *playStmt) CheckNamedValue(*driver.NamedValue) error { return nil }

func (s *playStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.c.ExecContext(ctx, s.query, args)
}

func (s *playStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.c.QueryContext(ctx, s.query, args)
}

var errStmtContext = errors.New("replay: a statement is executed with a context, which database/sql does")

func (s *playStmt) Exec([]driver.Value) (driver.Result, error) { return nil, errStmtContext }
func (s *playStmt) Query([]driver.Value) (driver.Rows, error)  { return nil, errStmtContext }

// playRows are the rows of a recorded query.
type playRows struct {
	c       *playConn
	live    *live
	ctx     context.Context // of the query
	call    *Call
	results []Result
	set     int // which of results
	row     int // how many of its rows were read
	failed  bool
}

var _ interface {
	driver.RowsNextResultSet
	driver.RowsColumnTypeScanType
	driver.RowsColumnTypeDatabaseTypeName
	driver.RowsColumnTypeLength
	driver.RowsColumnTypeNullable
	driver.RowsColumnTypePrecisionScale
} = (*playRows)(nil)

func (r *playRows) Columns() []string {
	columns := r.results[r.set].Columns
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	return names
}

func (r *playRows) Next(dest []driver.Value) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	res := &r.results[r.set]
	if r.row < len(res.Rows) {
		copy(dest, res.Rows[r.row])
		r.c.p.m.substitute(dest)
		for i, v := range dest {
			if b, ok := v.([]byte); ok {
				dest[i] = bytes.Clone(b) // which may be changed
			}
		}
		r.row++
		return nil
	}
	switch {
	case res.Error != nil:
		r.failed = true
		return r.c.p.m.fault(r.ctx, res.Error)
	case res.Left:
		return r.c.p.m.readOn(r.live, r.call, r.set)
	}
	return io.EOF
}

// Close returns the error that comes after the rows if nobody has read as far, as a
// driver does that must read on to the end. One of a context does not come then.
func (r *playRows) Close() error {
	r.c.p.closed(r)
	res := &r.results[r.set]
	if r.failed || res.Error == nil || res.Error.Context != nil {
		return nil
	}
	return res.Error.err()
}

func (r *playRows) HasNextResultSet() bool { return r.set+1 < len(r.results) }

func (r *playRows) NextResultSet() error {
	if !r.HasNextResultSet() {
		return io.EOF
	}
	r.set++
	r.row, r.failed = 0, false
	return nil
}

func (r *playRows) column(i int) *Column { return &r.results[r.set].Columns[i] }

func (r *playRows) ColumnTypeScanType(i int) reflect.Type {
	if t := r.column(i).ScanType; t != nil {
		return t
	}
	return reflect.TypeFor[any]()
}

func (r *playRows) ColumnTypeDatabaseTypeName(i int) string { return r.column(i).Type }

func (r *playRows) ColumnTypeLength(i int) (length int64, ok bool) {
	c := r.column(i)
	return c.Length, c.HasLength
}

func (r *playRows) ColumnTypeNullable(i int) (nullable, ok bool) {
	c := r.column(i)
	return c.Nullable, c.HasNullable
}

func (r *playRows) ColumnTypePrecisionScale(i int) (precision, scale int64, ok bool) {
	c := r.column(i)
	return c.Precision, c.Scale, c.HasPrecision
}

// A playRaw is what a playConn can do that database/sql has no call for.
type playRaw struct{ c *playConn }

var _ sqlconn.Raw = playRaw{}

func (r playRaw) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return r.c.ExecContext(ctx, query, args)
}

func (r playRaw) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return r.c.QueryContext(ctx, query, args)
}

// CopyIn compares what src has with what was sent when the COPY was recorded.
func (r playRaw) CopyIn(ctx context.Context, sql string, src io.Reader) (rows int64, err error) {
	a := &ask{op: OpCopyIn, text: sql}
	var failed error // src
	if !r.refused(a) {
		a.sent, failed = readAll(ctx, src)
	}
	call, err := r.c.ask(ctx, a)
	switch {
	case failed != nil && failed != ctx.Err() && !isMismatch(err):
		return 0, fmt.Errorf("replay: COPY: %w", failed)
	case err != nil:
		return 0, err
	}
	return affected(call), nil
}

// readAll returns what src has, which is never nil, or has until ctx ends. A Read may
// be under way when it returns.
func readAll(ctx context.Context, src io.Reader) ([]byte, error) {
	if ctx.Done() == nil {
		b, err := io.ReadAll(src)
		return append([]byte{}, b...), err
	}
	var b lockedBuffer
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(&b, src)
		done <- err
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return append([]byte{}, b.bytes()...), err
}

// refused reports whether a COPY is recorded that the server refused before anything
// was sent, and is what comes next: then nothing is read.
func (r playRaw) refused(a *ask) bool {
	m := r.c.p.m
	if r.c.live == nil {
		r.c.live = new(live)
	}
	l := r.c.live
	n := l.names
	b := *a
	b.sql, _ = n.read(a.text)
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.home != nil {
		p, ok := m.next(l.home, l.place, &b)
		return ok && l.home.steps[p.step].call.refusesCopy()
	}
	for u := range m.candidates(l, &b) {
		if u.free() && m.suits(u, l, want{ask: &b}) {
			return true
		}
	}
	return false
}

// refusesCopy reports whether c is a COPY that failed before anything was sent.
func (c *Call) refusesCopy() bool {
	return c.Error != nil && c.Error.Context == nil && len(c.Copied) == 0
}

func affected(c *Call) int64 {
	if len(c.Results) == 0 {
		return 0
	}
	return c.Results[0].Affected
}

func isMismatch(err error) bool {
	var mm *Mismatch
	return errors.As(err, &mm)
}

// CopyOut writes what was received when the COPY was recorded.
func (r playRaw) CopyOut(ctx context.Context, sql string, dst io.Writer) (rows int64, err error) {
	a := &ask{op: OpCopyOut, text: sql}
	call, err := r.c.ask(ctx, a)
	if call == nil {
		return 0, err
	}
	if len(call.Copied) > 0 {
		if _, failed := dst.Write(call.Copied); failed != nil {
			return 0, fmt.Errorf("replay: COPY: %w", failed)
		}
	}
	if err != nil {
		return 0, err
	}
	return affected(call), nil
}

func (r playRaw) Listen(ctx context.Context, channel string) error {
	_, err := r.c.ask(ctx, &ask{op: OpListen, channel: channel})
	return err
}

func (r playRaw) Unlisten(ctx context.Context, channel string) error {
	_, err := r.c.ask(ctx, &ask{op: OpUnlisten, channel: channel})
	return err
}

// WaitForNotification returns the next notification, or waits for the end of ctx if
// that is not what comes next: nobody sends one.
func (r playRaw) WaitForNotification(ctx context.Context) (*pgconn.Notification, error) {
	call, err := r.c.ask(ctx, &ask{op: OpWait})
	switch {
	case err != nil:
		return nil, err
	case call == nil && ctx.Done() == nil:
		return nil, r.c.p.m.waitsForEver(r.c.live)
	case call == nil:
		<-ctx.Done()
		return nil, ctx.Err()
	case call.Notification == nil:
		return nil, errors.New("replay: the recording has no notification" + r.c.p.m.at(call.Line))
	}
	return &pgconn.Notification{Channel: call.Notification.Channel, Payload: call.Notification.Payload}, nil
}
