package replay

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/internal/sqlconn"
)

// A recorder makes a fixture of what is said to the connections of a connector. It
// changes nothing of what either side sees, with two exceptions: sql.Conn.Raw gives
// the recording connection instead of the driver's, and rows that are closed are read
// one row further, to know whether there would have been one. It is safe for
// concurrent use.
type recorder struct {
	live   driver.Connector
	served func(*Call) // is told of each call, or nil

	mu     sync.Mutex // guards all below, and what the units hold
	units  []*Unit    // in the order of their first calls
	faults []error    // what could not be recorded
	engine string     // see Fixture.Engine
	clock  int
	spans  map[*Unit]span
}

func (rec *recorder) Driver() driver.Driver { return rec.live.Driver() }

func (rec *recorder) Connect(ctx context.Context) (driver.Conn, error) {
	inner, err := rec.live.Connect(ctx)
	if err != nil {
		return nil, err
	}
	c := &recConn{rec: rec, inner: inner, Conn: sqlconn.Full(inner)}
	// What a connection has of these two decides what database/sql does with it
	// when a transaction is rolled back because its context has ended.
	resetter, resets := inner.(driver.SessionResetter)
	validator, validates := inner.(driver.Validator)
	switch {
	case resets && validates:
		return &recPooled{recReset{c, resetter}, validator}, nil
	case validates:
		return &recValid{c, validator}, nil
	}
	return &recReset{c, resetter}, nil
}

// fixture returns what was recorded.
func (rec *recorder) fixture() (*Fixture, error) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	f := &Fixture{Engine: rec.engine}
	for _, u := range rec.units {
		if len(u.Calls) > 0 {
			u.Kind = kindOfUnit(u.Calls)
			f.Units = append(f.Units, u)
		}
	}
	return f, errors.Join(rec.faults...)
}

func kindOfUnit(calls []*Call) UnitKind {
	last := len(calls) - 1
	ends := 0
	for _, c := range calls {
		switch c.Op {
		case OpCommit, OpRollback:
			ends++
		case OpListen, OpUnlisten, OpWait:
			return Session
		}
	}
	switch {
	case last > 0 && calls[0].Op == OpBegin && ends == 1 && (calls[last].Op == OpCommit || calls[last].Op == OpRollback):
		return Transaction
	case last == 0 && calls[0].Op != OpBegin:
		return Single
	}
	return Session
}

// A recConn is a connection that records. It is used by one goroutine at a time, as
// every connection of a driver.
type recConn struct {
	sqlconn.Conn
	rec   *recorder
	inner driver.Conn
	unit  *Unit // nil before the first call of a checkout
	names names // of unit
}

var _ interface {
	sqlconn.Router
	sqlconn.Wrapper
} = (*recConn)(nil)

// Unwrap implements [sqlconn.Wrapper].
func (c *recConn) Unwrap() driver.Conn { return c.inner }

// A recReset is one whose checkouts begin with ResetSession. That is how they are told
// from each other with connections that have neither interface, too.
type recReset struct {
	*recConn
	resetter driver.SessionResetter // nil if inner is none
}

func (c *recReset) ResetSession(ctx context.Context) error {
	c.begin()
	if c.resetter == nil {
		return nil
	}
	return c.resetter.ResetSession(ctx)
}

// A recValid is one whose checkouts end with IsValid.
type recValid struct {
	*recConn
	validator driver.Validator
}

func (c *recValid) IsValid() bool {
	c.begin()
	return c.validator.IsValid()
}

// A recPooled has both.
type recPooled struct {
	recReset
	validator driver.Validator
}

func (c *recPooled) IsValid() bool { return c.validator.IsValid() }

// begin begins a checkout, or ends one.
func (c *recConn) begin() {
	c.unit = nil
	c.names = names{}
}

// LastRoute implements [sqlconn.Router].
func (c *recConn) LastRoute() (sqlconn.Route, bool) {
	if r, ok := c.inner.(sqlconn.Router); ok {
		return r.LastRoute()
	}
	return sqlconn.Route{}, false
}

// A recCall is a call that is being recorded.
type recCall struct {
	*Call
	c     *recConn
	ctx   context.Context
	dead  bool  // the context had ended before
	fault error // what is wrong with the arguments
}

// start begins to record a call. Units and the calls in them come in the order in
// which they begin.
func (c *recConn) start(ctx context.Context, call *Call) *recCall {
	if call.SQL != "" {
		_, call.SQL = c.names.read(call.SQL)
	}
	rec := c.rec
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if c.unit == nil {
		c.unit = new(Unit)
		rec.units = append(rec.units, c.unit)
	}
	c.unit.Calls = append(c.unit.Calls, call)
	rec.tick(c.unit)
	return &recCall{Call: call, c: c, ctx: ctx, dead: ctx.Err() != nil}
}

func (c *recConn) startStatement(ctx context.Context, op Op, query string, args []driver.NamedValue) *recCall {
	recorded, err := canonicalArgs(args)
	k := c.start(ctx, &Call{Op: op, SQL: query, Args: recorded})
	k.fault = err
	return k
}

// tick notes that u is going on. The lock must be held.
func (rec *recorder) tick(u *Unit) {
	rec.clock++
	s, ok := rec.spans[u]
	if !ok {
		if rec.spans == nil {
			rec.spans = make(map[*Unit]span)
		}
		s.from = rec.clock
	}
	s.to = rec.clock
	rec.spans[u] = s
}

// fault notes that something cannot be recorded.
func (rec *recorder) fault(err error) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.faults = append(rec.faults, err)
}

// end ends it. Nothing was said if the driver cannot do it that way, or did not begin
// because it was too late.
func (k *recCall) end(err error, results ...Result) {
	if err == driver.ErrSkip || k.dead && (errors.Is(err, k.ctx.Err()) || errors.Is(err, driver.ErrBadConn)) {
		k.drop()
		return
	}
	if k.fault != nil && err == nil {
		k.c.rec.fault(fmt.Errorf("%w, of %s", k.fault, oneLine(k.SQL)))
	}
	route, routed := k.c.LastRoute()
	rec := k.c.rec
	rec.mu.Lock()
	if rec.engine == "" {
		rec.engine = engineOf(sqlconn.ServerVersion(k.c.inner))
	}
	rec.tick(k.c.unit)
	k.Results = results
	k.Error = recordError(err)
	if routed {
		k.Served = servedOf(route)
	}
	rec.mu.Unlock()
	if rec.served != nil {
		rec.served(k.Call)
	}
}

// engineOf returns what a fixture says of a server of the version that it reports: the
// major one, as recordings of those that differ in the minor one are the same.
func engineOf(version string) string {
	major := version
	if i := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		major = version[:i]
	}
	if major == "" {
		return ""
	}
	return "postgres/" + major
}

func servedOf(r sqlconn.Route) Served {
	s := Served{Role: r.Role, Reason: r.Reason}
	if r.Role == "replica" {
		s.Lag = max(r.Lag, 0).Truncate(time.Second)
	}
	return s
}

// drop makes the call one that was not made.
func (k *recCall) drop() {
	rec := k.c.rec
	rec.mu.Lock()
	defer rec.mu.Unlock()
	u := k.c.unit
	u.Calls = slices.DeleteFunc(u.Calls, func(c *Call) bool { return c == k.Call })
}

func (c *recConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if r := rawCaller(args); r != nil {
		return c.Conn.ExecContext(ctx, query, c.recordRaw(args, r))
	}
	k := c.startStatement(ctx, OpExec, query, args)
	res, err := c.Conn.ExecContext(ctx, query, args)
	k.end(err, resultOf(res, err)...)
	return res, err
}

// resultOf returns what is recorded of a statement without rows: nothing if how many
// it affected is not known.
func resultOf(res driver.Result, err error) []Result {
	if err != nil || res == nil {
		return nil
	}
	n, err := res.RowsAffected()
	if err != nil {
		return nil
	}
	return []Result{{Affected: n}}
}

func (c *recConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	k := c.startStatement(ctx, OpQuery, query, args)
	rows, err := c.Conn.QueryContext(ctx, query, args)
	return k.rows(rows, err)
}

// rows ends a query.
func (k *recCall) rows(rows driver.Rows, err error) (driver.Rows, error) {
	if err != nil {
		k.end(err)
		return nil, err
	}
	r := &recRows{Rows: sqlconn.FullRows(rows), k: k}
	k.end(nil, Result{Columns: r.describe()})
	return r, nil
}

func (c *recConn) Ping(ctx context.Context) error {
	err := c.Conn.Ping(ctx)
	if err != nil {
		c.start(ctx, &Call{Op: OpPing}).end(err)
	}
	return err
}

func (c *recConn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

func (c *recConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	st, err := c.Conn.PrepareContext(ctx, query)
	if err != nil {
		c.start(ctx, &Call{Op: OpPrepare, SQL: query}).end(err)
		return nil, err
	}
	return &recStmt{sqlconn.FullStmt(c.inner, st), c, query}, nil
}

func (c *recConn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *recConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	k := c.start(ctx, &Call{Op: OpBegin, Isolation: sql.IsolationLevel(opts.Isolation), ReadOnly: opts.ReadOnly})
	tx, err := c.Conn.BeginTx(ctx, opts)
	k.end(err)
	if err != nil {
		return nil, err
	}
	return &recTx{tx, c}, nil
}

// A recTx is a transaction of a recConn.
type recTx struct {
	driver.Tx
	c *recConn
}

func (tx *recTx) Commit() error   { return tx.end(OpCommit, tx.Tx.Commit) }
func (tx *recTx) Rollback() error { return tx.end(OpRollback, tx.Tx.Rollback) }

func (tx *recTx) end(op Op, end func() error) error {
	k := tx.c.start(context.Background(), &Call{Op: op})
	err := end()
	k.end(err)
	return err
}

// A recStmt is a statement of a recConn.
type recStmt struct {
	sqlconn.Stmt
	c     *recConn
	query string
}

func (s *recStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if r := rawCaller(args); r != nil {
		return s.Stmt.ExecContext(ctx, s.c.recordRaw(args, r))
	}
	k := s.c.startStatement(ctx, OpExec, s.query, args)
	res, err := s.Stmt.ExecContext(ctx, args)
	k.end(err, resultOf(res, err)...)
	return res, err
}

func (s *recStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	k := s.c.startStatement(ctx, OpQuery, s.query, args)
	rows, err := s.Stmt.QueryContext(ctx, args)
	return k.rows(rows, err)
}

// recRows are rows that record what is read of them.
type recRows struct {
	*sqlconn.Rows
	k   *recCall
	end bool // of the result set; nothing follows in it
}

// result is the result set that is being read. The lock must be held.
func (r *recRows) result() *Result { return &r.k.Results[len(r.k.Results)-1] }

func (r *recRows) describe() []Column {
	names := r.Rows.Columns()
	columns := make([]Column, len(names))
	for i, name := range names {
		c := &columns[i]
		c.Name = name
		c.Type = r.ColumnTypeDatabaseTypeName(i)
		c.ScanType = r.ColumnTypeScanType(i)
		c.Length, c.HasLength = r.ColumnTypeLength(i)
		c.Precision, c.Scale, c.HasPrecision = r.ColumnTypePrecisionScale(i)
		c.Nullable, c.HasNullable = r.ColumnTypeNullable(i)
	}
	return columns
}

func (r *recRows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	r.record(dest, err)
	return err
}

func (r *recRows) record(row []driver.Value, err error) {
	r.end = r.end || err != nil
	rec := r.k.c.rec
	if err != nil {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		if res := r.result(); err != io.EOF && res.Error == nil {
			res.Error = recordError(r.told(err))
		}
		return
	}
	row = slices.Clone(row)
	for i, v := range row {
		if b, ok := v.([]byte); ok {
			row[i] = bytes.Clone(b) // the driver's
		} else if !driver.IsValue(v) {
			rec.fault(fmt.Errorf("replay: column %d of %s: the driver's %T is no driver.Value", i+1, oneLine(r.k.SQL), v))
			row[i] = nil
		}
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	res := r.result()
	res.Rows = append(res.Rows, row)
}

// told is what database/sql tells whoever reads on: the end of the context, whatever
// became of the rows by it.
func (r *recRows) told(err error) error {
	if over := r.k.ctx.Err(); over != nil && !errors.Is(err, over) {
		return over
	}
	return err
}

func (r *recRows) NextResultSet() error {
	err := r.Rows.NextResultSet()
	rec := r.k.c.rec
	if err != nil {
		r.record(nil, err)
		return err
	}
	columns := r.describe()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if !r.end {
		r.result().Left = true
	}
	r.end = false
	r.k.Results = append(r.k.Results, Result{Columns: columns})
	return nil
}

// Close tells rows that were read to the end, as QueryRow does not know it, from those
// that were left.
func (r *recRows) Close() error {
	var next error
	if !r.end && r.k.ctx.Err() == nil {
		next = r.Rows.Next(make([]driver.Value, len(r.Rows.Columns())))
	}
	err := r.Rows.Close()
	if err == nil && next != nil && next != io.EOF {
		err = next
	}
	if r.end {
		return err
	}
	r.end = true
	rec := r.k.c.rec
	rec.mu.Lock()
	defer rec.mu.Unlock()
	switch res := r.result(); {
	case err != nil || r.k.ctx.Err() != nil:
		res.Error = recordError(r.told(err))
	case next == nil:
		res.Left = true
	}
	return err
}

// recordRaw returns args with r replaced by one that records.
func (c *recConn) recordRaw(args []driver.NamedValue, r sqlconn.RawCaller) []driver.NamedValue {
	args = slices.Clone(args)
	args[0].Value = recCaller{r, c}
	return args
}

// A recCaller hands on a connection that records.
type recCaller struct {
	sqlconn.RawCaller
	c *recConn
}

func (r recCaller) CallRaw(raw sqlconn.Raw) error {
	return r.RawCaller.CallRaw(&recRaw{raw, r.c})
}

// A recRaw records what database/sql has no call for.
type recRaw struct {
	sqlconn.Raw
	c *recConn
}

func (r *recRaw) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return r.c.ExecContext(ctx, query, args)
}

func (r *recRaw) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return r.c.QueryContext(ctx, query, args)
}

// LastRoute implements [sqlconn.Router].
func (r *recRaw) LastRoute() (sqlconn.Route, bool) { return r.c.LastRoute() }

// CopyIn records what was read of src.
func (r *recRaw) CopyIn(ctx context.Context, sql string, src io.Reader) (rows int64, err error) {
	k := r.c.start(ctx, &Call{Op: OpCopyIn, SQL: sql})
	var sent lockedBuffer
	rows, err = r.Raw.CopyIn(ctx, sql, io.TeeReader(src, &sent))
	k.copied(&sent, rows, err)
	return rows, err
}

// CopyOut records what dst took.
func (r *recRaw) CopyOut(ctx context.Context, sql string, dst io.Writer) (rows int64, err error) {
	k := r.c.start(ctx, &Call{Op: OpCopyOut, SQL: sql})
	var received lockedBuffer
	rows, err = r.Raw.CopyOut(ctx, sql, io.MultiWriter(dst, &received))
	k.copied(&received, rows, err)
	return rows, err
}

func (k *recCall) copied(b *lockedBuffer, rows int64, err error) {
	k.Copied = b.bytes()
	if err != nil {
		k.end(err)
		return
	}
	k.end(nil, Result{Affected: rows})
}

// A lockedBuffer may be written to when whoever gave it away has gone on: a Read that
// was under way when a COPY was cancelled may end later.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// bytes returns a copy; nil if there is nothing.
func (b *lockedBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.b.Bytes())
}

func (r *recRaw) Listen(ctx context.Context, channel string) error {
	k := r.c.start(ctx, &Call{Op: OpListen, Channel: channel})
	err := r.Raw.Listen(ctx, channel)
	k.end(err)
	return err
}

func (r *recRaw) Unlisten(ctx context.Context, channel string) error {
	k := r.c.start(ctx, &Call{Op: OpUnlisten, Channel: channel})
	err := r.Raw.Unlisten(ctx, channel)
	k.end(err)
	return err
}

func (r *recRaw) WaitForNotification(ctx context.Context) (*pgconn.Notification, error) {
	k := r.c.start(ctx, &Call{Op: OpWait})
	n, err := r.Raw.WaitForNotification(ctx)
	if n != nil {
		k.Notification = &Notification{Channel: n.Channel, Payload: n.Payload}
	}
	k.end(err)
	return n, err
}
