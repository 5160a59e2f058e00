package expect

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgherd/pgherd/replay"
	"github.com/pgherd/pgherd/routing"
)

// A Mock is what a handle answers from. State what is expected before it happens.
// It is safe for concurrent use.
type Mock struct {
	mu       sync.Mutex // guards what follows
	anyOrder bool
	matcher  QueryMatcher
	report   func(*replay.Mismatch)
	expected []*expectation // all of them
	begun    int            // so many are served
	served   []*replay.Connector
	closing  *ExpectedClose // nil if Close is not expected
	closed   bool

	unexpected struct {
		sync.Mutex // may be locked while mu is; guards what follows
		calls      []error
	}
}

// An Option is for [New] and [NewT].
type Option func(*Mock)

// QueryMatcherOption has m compare the texts of statements.
func QueryMatcherOption(m QueryMatcher) Option { return func(k *Mock) { k.matcher = m } }

// A QueryMatcher compares the text of a statement with the one that is expected; an
// error says that it is not that.
type QueryMatcher interface {
	Match(expected, actual string) error
}

// A QueryMatcherFunc is a function as a [QueryMatcher].
type QueryMatcherFunc func(expected, actual string) error

// Match implements [QueryMatcher].
func (f QueryMatcherFunc) Match(expected, actual string) error { return f(expected, actual) }

// QueryMatcherEqual takes texts for the same whose tokens are. It is the default:
// white space, comments and the case of keywords do not count, and every byte of a
// literal does.
var QueryMatcherEqual QueryMatcher = equalTokens{}

type equalTokens struct{}

func (equalTokens) Match(expected, actual string) error {
	if routing.Canonical(expected) != routing.Canonical(actual) {
		return fmt.Errorf("expect: %q is not %q", actual, expected)
	}
	return nil
}

// QueryMatcherRegexp finds the expected text, a regular expression, in the other one.
// White space in both counts as one space.
var QueryMatcherRegexp QueryMatcher = QueryMatcherFunc(func(expected, actual string) error {
	re, err := regexp.Compile(strings.Join(strings.Fields(expected), " "))
	if err != nil {
		return err
	}
	if !re.MatchString(strings.Join(strings.Fields(actual), " ")) {
		return fmt.Errorf("expect: %q does not match %q", actual, expected)
	}
	return nil
})

// New returns a handle and what it answers from.
func New(opts ...Option) (*sql.DB, *Mock, error) {
	m := &Mock{matcher: QueryMatcherEqual}
	for _, o := range opts {
		o(m)
	}
	return sql.OpenDB(&connector{m}), m, nil
}

// NewT is [New] for a test, which fails at once when something happens that is not
// expected, and in the end if something expected has not happened. The handle is
// closed when the test ends.
func NewT(t replay.TB, opts ...Option) (*sql.DB, *Mock) {
	t.Helper()
	db, m, err := New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	m.report = func(mm *replay.Mismatch) { t.Errorf("%v", mm) }
	t.Cleanup(func() {
		closed := db.Close()
		if t.Failed() {
			return
		}
		if err := m.ExpectationsWereMet(); err != nil {
			t.Errorf("%v", err)
		} else if closed != nil && m.closing == nil {
			t.Errorf("expect: Close: %v", closed)
		}
	})
	return db, m
}

// MatchExpectationsInOrder says whether what is expected must happen in the order in
// which it is stated, which is the default.
func (m *Mock) MatchExpectationsInOrder(inOrder bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.anyOrder = !inOrder
}

// ExpectationsWereMet returns an error that names what is expected and has not
// happened, and what has happened and was not expected, whatever the program made of
// its error.
func (m *Mock) ExpectationsWereMet() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unexpected.Lock()
	errs := slices.Clone(m.unexpected.calls)
	m.unexpected.Unlock()
	for _, c := range m.served {
		errs = append(errs, c.Unused())
	}
	for _, e := range m.expected[m.begun:] {
		if !e.call.Optional && e.needed() {
			errs = append(errs, fmt.Errorf("expect: %s was expected, and did not happen", e))
		}
	}
	if m.closing != nil && !m.closed {
		errs = append(errs, errors.New("expect: Close was expected, and did not happen"))
	}
	return errors.Join(errs...)
}

// Dump writes what is expected to a file, as a fixture that package replay serves
// without this package. What matchers decide is written as it came; what matchers are
// still to decide is an error. Delays are left out.
func (m *Mock) Dump(path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := &replay.Fixture{}
	for _, u := range units(m.expected) {
		out := &replay.Unit{Kind: u.Kind}
		for _, c := range u.Calls {
			i := slices.IndexFunc(m.expected, func(e *expectation) bool { return e.call == c })
			d, err := m.expected[i].stored()
			if err != nil {
				return err
			}
			out.Calls = append(out.Calls, d)
		}
		f.Units = append(f.Units, out)
	}
	return f.Write(path)
}

// An expectation is one call that is to happen.
type expectation struct {
	m    *Mock
	call *replay.Call
	args []replay.Arg
	own  []Argument // of args that are one; nil for the others
	set  bool       // args are those expected; else any are

	came struct { // what was accepted last
		sync.Mutex
		ok   bool
		sql  string
		args []any
	}
}

func (e *expectation) String() string {
	names := map[replay.Op]string{
		replay.OpQuery: "query", replay.OpExec: "exec", replay.OpPrepare: "prepare", replay.OpBegin: "Begin",
		replay.OpCommit: "Commit", replay.OpRollback: "Rollback", replay.OpPing: "Ping",
	}
	if e.call.SQL == "" {
		return names[e.call.Op]
	}
	return names[e.call.Op] + " " + e.call.SQL
}

// needed reports whether the call is one that package replay knows of: a ping or a
// preparation that succeeds may happen at any time.
func (e *expectation) needed() bool {
	return e.call.Error != nil || e.call.Op != replay.OpPing && e.call.Op != replay.OpPrepare
}

// finish makes the call of what was stated.
func (e *expectation) finish() {
	c := e.call
	switch c.Op {
	case replay.OpBegin:
		if !e.set {
			c.Accept = func(string, []any) bool { return true }
		}
		return
	case replay.OpQuery, replay.OpExec:
	default:
		return
	}
	if e.isPlain() {
		c.Args = e.args // with which package replay shows what differs
		return
	}
	matcher := e.m.matcher
	c.Accept = func(sql string, args []any) bool {
		if matcher.Match(c.SQL, sql) != nil || e.set && len(args) != len(e.args) {
			return false
		}
		for i := range args {
			switch {
			case !e.set:
			case e.own[i] != nil && !e.own[i].Match(args[i]):
				return false
			case e.own[i] == nil && !e.args[i].Accepts(args[i]):
				return false
			}
		}
		e.came.Lock()
		defer e.came.Unlock()
		e.came.ok, e.came.sql, e.came.args = true, sql, slices.Clone(args)
		return true
	}
}

// isPlain reports whether package replay compares as is asked for.
func (e *expectation) isPlain() bool {
	_, byTokens := e.m.matcher.(equalTokens)
	return byTokens && e.set && !slices.ContainsFunc(e.own, func(a Argument) bool { return a != nil })
}

// stored returns the call as a file holds it.
func (e *expectation) stored() (*replay.Call, error) {
	d := *e.call
	d.ByHand = true
	if d.Op == replay.OpQuery || d.Op == replay.OpExec {
		e.came.Lock()
		defer e.came.Unlock()
		switch {
		case e.came.ok:
			d.SQL, d.Args = e.came.sql, nil
			for _, v := range e.came.args {
				d.Args = append(d.Args, replay.Arg{Value: v})
			}
		case !e.isPlain():
			return nil, fmt.Errorf("expect: Dump: what %s has as its text and arguments is not known before it happens", e)
		default:
			d.Args = e.args
		}
	}
	d.Accept, d.Delay = nil, 0
	return &d, nil
}

// units are what expectations are in a fixture.
func units(expected []*expectation) []*replay.Unit {
	var all []*replay.Unit
	var tx *replay.Unit
	for _, e := range expected {
		c := e.call
		if !e.needed() {
			continue
		}
		switch {
		case c.Op == replay.OpBegin:
			tx = &replay.Unit{Kind: replay.Transaction, Calls: []*replay.Call{c}}
			all = append(all, tx)
			if c.Error != nil {
				tx = nil
			}
		case tx != nil:
			tx.Calls = append(tx.Calls, c)
			if c.Op == replay.OpCommit || c.Op == replay.OpRollback {
				tx = nil
			}
		default:
			all = append(all, &replay.Unit{Kind: replay.Single, Calls: []*replay.Call{c}})
		}
	}
	return all
}

// current returns the connector that serves what is expected next.
func (m *Mock) current() *replay.Connector {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := len(m.served) - 1
	if last >= 0 && (m.begun == len(m.expected) || m.served[last].Unused() != nil) {
		return m.served[last]
	}
	fresh := m.expected[m.begun:]
	for _, e := range fresh {
		e.finish()
	}
	m.begun = len(m.expected)
	order := replay.Strict
	if m.anyOrder {
		order = replay.AnyOrder
	}
	c := replay.Serve(&replay.Fixture{Units: units(fresh)}, replay.WithOrder(order), replay.OnMismatch(func(mm *replay.Mismatch) {
		m.unexpected.Lock()
		m.unexpected.calls = append(m.unexpected.calls, mm)
		m.unexpected.Unlock()
		if m.report != nil {
			m.report(mm)
		}
	}))
	m.served = append(m.served, c)
	return c
}

func (m *Mock) expect(op replay.Op, sql string) *expectation {
	e := &expectation{m: m, call: &replay.Call{Op: op, SQL: sql}}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expected = append(m.expected, e)
	return e
}

// common is what can be said of all calls. E is what it returns, to say more.
type common[E any] struct {
	*expectation
	self E
}

// WillReturnError has the call fail with err.
func (c *common[E]) WillReturnError(err error) E {
	c.call.Error = replay.NewError(err)
	return c.self
}

// WillDelayFor has the answer take d, or until the end of the call's context, whose
// error is then returned.
func (c *common[E]) WillDelayFor(d time.Duration) E {
	c.call.Delay = d
	return c.self
}

// Times has the call happen n times.
func (c *common[E]) Times(n int) E {
	c.call.Times = n
	return c.self
}

// Maybe lets the call happen or not.
func (c *common[E]) Maybe() E {
	c.call.Optional = true
	return c.self
}

// The expectations that [Mock] returns, to say more of them.
type (
	// ExpectedBegin is of Begin and BeginTx.
	ExpectedBegin struct{ common[*ExpectedBegin] }
	// ExpectedCommit is of Commit.
	ExpectedCommit struct{ common[*ExpectedCommit] }
	// ExpectedRollback is of Rollback.
	ExpectedRollback struct{ common[*ExpectedRollback] }
	// ExpectedPing is of Ping.
	ExpectedPing struct{ common[*ExpectedPing] }
	// ExpectedQuery is of a statement run for its rows.
	ExpectedQuery struct{ common[*ExpectedQuery] }
	// ExpectedExec is of a statement run for its result.
	ExpectedExec struct{ common[*ExpectedExec] }
	// ExpectedPrepare is of the preparation of a statement.
	ExpectedPrepare struct{ common[*ExpectedPrepare] }
	// ExpectedClose is of the handle's Close.
	ExpectedClose struct{ err error }
)

// ExpectBegin expects a transaction to begin, with any options.
func (m *Mock) ExpectBegin() *ExpectedBegin {
	e := new(ExpectedBegin)
	e.common = common[*ExpectedBegin]{m.expect(replay.OpBegin, ""), e}
	return e
}

// WithOptions has the transaction begin with these options.
func (e *ExpectedBegin) WithOptions(opts sql.TxOptions) *ExpectedBegin {
	e.call.Isolation, e.call.ReadOnly, e.set = opts.Isolation, opts.ReadOnly, true
	return e
}

// ExpectCommit expects the transaction to be committed.
func (m *Mock) ExpectCommit() *ExpectedCommit {
	e := new(ExpectedCommit)
	e.common = common[*ExpectedCommit]{m.expect(replay.OpCommit, ""), e}
	return e
}

// ExpectRollback expects the transaction to be rolled back.
func (m *Mock) ExpectRollback() *ExpectedRollback {
	e := new(ExpectedRollback)
	e.common = common[*ExpectedRollback]{m.expect(replay.OpRollback, ""), e}
	return e
}

// ExpectPing says what becomes of a ping. One that succeeds needs no expectation, and
// is not missed.
func (m *Mock) ExpectPing() *ExpectedPing {
	e := new(ExpectedPing)
	e.common = common[*ExpectedPing]{m.expect(replay.OpPing, ""), e}
	return e
}

// ExpectQuery expects a query.
func (m *Mock) ExpectQuery(query string) *ExpectedQuery {
	e := new(ExpectedQuery)
	e.common = common[*ExpectedQuery]{m.expect(replay.OpQuery, query), e}
	return e
}

// WithArgs has the arguments be these: values, or what [Argument] decides.
func (e *ExpectedQuery) WithArgs(args ...any) *ExpectedQuery { e.withArgs(args); return e }

// WithoutArgs has there be none.
func (e *ExpectedQuery) WithoutArgs() *ExpectedQuery { e.withArgs(nil); return e }

// WillReturnRows has the query return these rows; of several, as result sets.
func (e *ExpectedQuery) WillReturnRows(rows ...*Rows) *ExpectedQuery {
	for _, r := range rows {
		e.call.Results = append(e.call.Results, r.result())
	}
	return e
}

// ExpectExec expects a statement that returns no rows.
func (m *Mock) ExpectExec(query string) *ExpectedExec {
	e := new(ExpectedExec)
	e.common = common[*ExpectedExec]{m.expect(replay.OpExec, query), e}
	return e
}

// WithArgs has the arguments be these: values, or what [Argument] decides.
func (e *ExpectedExec) WithArgs(args ...any) *ExpectedExec { e.withArgs(args); return e }

// WithoutArgs has there be none.
func (e *ExpectedExec) WithoutArgs() *ExpectedExec { e.withArgs(nil); return e }

// WillReturnResult has the statement return r.
func (e *ExpectedExec) WillReturnResult(r driver.Result) *ExpectedExec {
	n, err := r.RowsAffected()
	if err != nil {
		e.WillReturnError(err)
	}
	e.call.Results = []replay.Result{{Affected: n}}
	return e
}

// ExpectPrepare says what becomes of the preparation of a statement. One that succeeds
// needs no expectation, and is not missed.
func (m *Mock) ExpectPrepare(query string) *ExpectedPrepare {
	e := new(ExpectedPrepare)
	e.common = common[*ExpectedPrepare]{m.expect(replay.OpPrepare, query), e}
	return e
}

// ExpectQuery expects the statement to be run for its rows.
func (e *ExpectedPrepare) ExpectQuery() *ExpectedQuery { return e.m.ExpectQuery(e.call.SQL) }

// ExpectExec expects the statement to be run for its result.
func (e *ExpectedPrepare) ExpectExec() *ExpectedExec { return e.m.ExpectExec(e.call.SQL) }

// ExpectClose expects the handle to be closed.
func (m *Mock) ExpectClose() *ExpectedClose {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closing = new(ExpectedClose)
	return m.closing
}

// WillReturnError has Close return err.
func (e *ExpectedClose) WillReturnError(err error) *ExpectedClose { e.err = err; return e }

// An Argument decides about an argument. A value comes as package replay compares it:
// integers as int64, times in UTC, what implements driver.Valuer as its value.
type Argument interface {
	Match(driver.Value) bool
}

// AnyArg returns an [Argument] that takes every value.
func AnyArg() Argument { return anyArgument{} }

type anyArgument struct{}

func (anyArgument) Match(driver.Value) bool { return true }

func (e *expectation) withArgs(args []any) {
	e.set = true
	e.args, e.own = make([]replay.Arg, len(args)), make([]Argument, len(args))
	for i, v := range args {
		if own, ok := v.(Argument); ok {
			e.own[i] = own
			continue
		}
		name := ""
		if n, ok := v.(sql.NamedArg); ok {
			name, v = n.Name, n.Value
		}
		arg, err := replay.NewArg(v)
		if err != nil {
			panic(fmt.Sprintf("expect: argument %d of %s: %v", i+1, e, err))
		}
		arg.Name = name
		e.args[i] = arg
	}
}

// NewResult returns the result of a statement. PostgreSQL has no last id: it is left
// out.
func NewResult(_, rowsAffected int64) driver.Result { return driver.RowsAffected(rowsAffected) }

// NewErrorResult returns a result that makes the statement fail with err: PostgreSQL
// knows the number of rows with the result, or there is none.
func NewErrorResult(err error) driver.Result { return errorResult{err} }

type errorResult struct{ err error }

func (r errorResult) LastInsertId() (int64, error) { return 0, r.err }
func (r errorResult) RowsAffected() (int64, error) { return 0, r.err }
