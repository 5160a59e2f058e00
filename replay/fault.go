package replay

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/routing"
)

// A Fault is something that goes wrong when a recorded call is replayed, though it did
// not when it was recorded. The recorded call is still to come after it, and with it all
// that was said before in its transaction: code that tries again gets what is recorded,
// and code that does not leaves it unused.
//
//	db := replay.Open(t, replay.WithFaults(replay.Fault{
//		On:    replay.Statement("UPDATE accounts SET balance = balance - $1 WHERE id = $2"),
//		Error: replay.SQLState("40001"),
//	}))
//
// After an error of the server's the transaction has failed, as with PostgreSQL: what
// is not a rollback, of it or to a savepoint, gets 25P02. After one that cuts the
// connection, all that follows on it gets [driver.ErrBadConn], and all that was said on
// it since it left the pool is still to come. With AnyOrder, which knows no
// transactions, only the call itself is still to come.
type Fault struct {
	// On tells which calls are hit; nil means every one. It is called with the
	// recorded call that would be the answer, so that it can go by its text (see
	// [Statement]), its arguments, or its Served. It is called under a lock, and must
	// not change the call.
	On func(*Call) bool
	// Nth is the first of those calls that is hit: 0 and 1 mean the first one. Calls
	// that come again after a fault count again.
	Nth int
	// Times is how many of them are hit: 0 and 1 mean one, Always all that come.
	Times int
	// Error is what the call fails with. nil means driver.ErrBadConn, which is a
	// connection that is gone before anything is sent, and has database/sql take
	// another one. A connection is also cut by an error of the network, such as
	// io.ErrUnexpectedEOF, by pgconn.ErrConnClosed, and by an error of the server's
	// whose severity is FATAL. context.DeadlineExceeded and context.Canceled wait for
	// the context to end, if it can.
	Error error
	// After has the server do what it was told, and lose the answer: the recorded call
	// has been made, and to make it again is a [Mismatch]. It makes a difference to
	// COMMIT, and to what runs on its own; any other open transaction is rolled back.
	After bool
}

// WithFaults has faults happen when the fixture is replayed. The first one that
// applies to a call, and has not happened as often as it should, is the one that does,
// so that several may be for one call, one after the other. One that never happens is
// an error at the end, as a recorded call that was not made.
func WithFaults(faults ...Fault) Option {
	return func(c *config) { c.faults = append(c.faults, faults...) }
}

// Statement returns a function that reports whether a call is of the statement sql, for
// the On of a [Fault] and others like it. Texts are compared as they are for a replay.
func Statement(sql string) func(*Call) bool {
	key := routing.Canonical(sql)
	return func(c *Call) bool { return c.SQL != "" && routing.Canonical(c.SQL) == key }
}

// SQLState returns an error of the server's, for a [Fault], with the severity that goes
// with its code: those that end the connection, as 57P01 and 53300 do, are FATAL.
func SQLState(code string) *pgconn.PgError {
	e := &pgconn.PgError{Code: code, Severity: "ERROR", Message: stateMessages[code]}
	if e.Message == "" {
		e.Message = "a fault of the replay"
	}
	switch {
	case code == "57P01", code == "57P02", code == "57P03", code == "57P04", code == "57P05", code == "53300",
		code == "25P03", code == "25P04", strings.HasPrefix(code, "28"), code == "3D000":
		e.Severity = "FATAL"
	}
	e.SeverityUnlocalized = e.Severity
	return e
}

// stateMessages are what PostgreSQL says with the codes that are used most.
var stateMessages = map[string]string{
	"25006": "cannot execute in a read-only transaction",
	"40001": "could not serialize access due to concurrent update",
	"40P01": "deadlock detected",
	"53300": "sorry, too many clients already",
	"55P03": "could not obtain lock on row",
	"57014": "canceling statement due to user request",
	"57P01": "terminating connection due to administrator command",
	"57P02": "terminating connection because of crash of another server process",
	"57P03": "the database system is starting up",
	"57P05": "terminating connection due to idle-session timeout",
}

// A fault is a Fault, and how often it has come to it.
type fault struct {
	Fault
	met int // calls that it is for; guarded by the matcher's mu
	hit int // those that it hit
}

// faultFor returns the fault that c meets, or nil.
func (m *matcher) faultFor(c *Call) *fault {
	for _, f := range m.faults {
		if f.Times != Always && f.hit >= max(f.Times, 1) || f.On != nil && !f.On(c) {
			continue
		}
		f.met++
		if f.met >= f.Nth {
			f.hit++
			return f
		}
	}
	return nil
}

// unmet returns an error for each fault that never happened.
func (m *matcher) unmet() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for i, f := range m.faults {
		if f.hit == 0 {
			errs = append(errs, fmt.Errorf("replay: fault %d of %d (%v) has not happened: it was for %d calls that were made", i+1, len(m.faults), f.err(), f.met))
		}
	}
	return errors.Join(errs...)
}

func (f *Fault) err() error {
	switch e := f.Error.(type) {
	case nil:
		return driver.ErrBadConn
	case *pgconn.PgError:
		own := *e // which the program may change
		return &own
	}
	return f.Error
}

// sayOr makes a the next call of l, at p in its home, unless a fault is in its way, or
// a replica is late.
func (m *matcher) sayOr(l *live, p place, a *ask) *Call {
	c := l.home.steps[p.step].call
	f := m.faultFor(c)
	if f == nil {
		if late := m.sayLate(l, p, a); late != nil {
			return late
		}
		return m.say(l, p, a)
	}
	err := f.err()
	cut := cuts(err)
	// A transaction is rolled back however its rollback ends.
	made := f.After && c.Op != OpBegin || c.Op == OpRollback
	if made {
		m.say(l, p, a)
	}
	switch {
	case cut:
		l.cut = true
		if l.inTx || !made {
			m.unsay(l, 0)
		}
	case l.inTx:
		// What was said in it is taken back when its end comes, as there may be
		// a savepoint to go back to.
		l.struck, l.aborted = true, true
	}
	if len(l.said) == 0 {
		m.leave(l)
	}
	if c.Op == OpCommit && !made && !cut {
		m.unsayTx(l) // there is nothing to roll back
	}
	return &Call{Op: a.op, SQL: a.text, Args: a.args, Served: c.Served, Error: NewError(err), Line: c.Line}
}

// afterFault answers what follows a fault in l and does not reach a server that could
// do it; nil if a is not that.
func (m *matcher) afterFault(l *live, a *ask) *Call {
	c := &Call{Op: a.op, SQL: a.text, Args: a.args}
	switch {
	case l.cut:
		c.Error = &Error{Bad: true}
		return c
	case !l.struck:
		return nil
	case a.op == OpRollback:
		m.unsayTx(l)
		return c
	case a.op == OpCommit:
		m.unsayTx(l)
		c.Error = &Error{Is: []error{pgx.ErrTxCommitRollback}}
		return c
	case strings.HasPrefix(a.sql, "rollback") && strings.Contains(a.sql, " to "):
		to := "savepoint " + a.sql[strings.LastIndexByte(a.sql, ' ')+1:]
		for i, s := range slices.Backward(l.said) {
			if s.ask.op == OpBegin {
				break
			}
			if s.ask.sql == to {
				m.unsay(l, i+1)
				l.struck, l.aborted = false, false
				return c
			}
		}
	}
	if a.op == OpPing {
		return c
	}
	c.Error = &Error{PG: abortedError()}
	return c
}

// unsayTx takes back what l has said in its open transaction, which is over.
func (m *matcher) unsayTx(l *live) {
	for i, s := range slices.Backward(l.said) {
		if s.ask.op == OpBegin {
			l.names = s.names
			m.unsay(l, i)
			break
		}
	}
	l.inTx, l.struck, l.aborted = false, false, false
}

// unsay takes back all that l has said but its first n calls.
func (m *matcher) unsay(l *live, n int) {
	for _, s := range l.said[n:] {
		for _, name := range s.bound {
			delete(m.vars, name)
			m.subst = slices.DeleteFunc(m.subst, func(s substitution) bool { return s.name == name })
		}
	}
	l.said = l.said[:n]
	l.forgetWrites()
	switch {
	case l.home == nil:
	case n == 0:
		m.leave(l)
	default:
		l.place, _ = m.fits(l.home, l, nil)
	}
}

// clone returns a copy of n.
func (n names) clone() names { return names{maps.Clone(n.given), maps.Clone(n.count)} }

// cuts reports whether nothing more comes through a connection that has failed with err.
func cuts(err error) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Severity == "FATAL" || pgErr.Severity == "PANIC" || strings.HasPrefix(pgErr.Code, "08")
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	for _, e := range []error{driver.ErrBadConn, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, pgconn.ErrConnClosed,
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	var netErr net.Error
	return errors.As(err, &netErr)
}
